"""Yandex's own completion: messages of one text each, options apart, numbers as text."""

from __future__ import annotations

from bursar.wire.shapes import Tree
from bursar.wire.shapes.parts import (
    Fields,
    arguments_of,
    called_before,
    cannot,
    chosen_name,
    name_of,
    refuse_role,
    text_of,
)


def write(chat: Tree) -> Tree:
    """The body of a request."""
    fields = Fields(chat)
    options: Tree = {"stream": fields.stream}
    fields.move(options, temperature="temperature")
    if (most := fields.take("max_completion_tokens", "max_tokens")) is not None:
        options["maxTokens"] = str(most)
    effort = fields.take("reasoning_effort")
    if effort is not None:
        options["reasoningOptions"] = {"mode": "DISABLED" if effort == "none" else "ENABLED_HIDDEN"}
    out: Tree = {"modelUri": fields.model, "completionOptions": options}
    messages = fields.messages
    out["messages"] = [said for n, m in enumerate(messages) for said in _said(m, n, called_before(messages, n))]
    if tools := fields.functions():
        out["tools"] = [{"function": f} for f in tools]
    fields.move(out, parallelToolCalls="parallel_tool_calls")
    choice = fields.take("tool_choice")
    if isinstance(choice, dict):
        out["toolChoice"] = {"functionName": chosen_name(choice)}
    elif choice is not None:
        out["toolChoice"] = {"mode": str(choice).upper()}
    kind, schema = fields.schema()
    if schema is not None:
        out["jsonSchema"] = {"schema": schema["schema"]}
    elif kind != "text":
        out["jsonObject"] = True
    return fields.finish(out)


def _said(message: Tree, n: int, name: str | None) -> list[Tree]:
    """A message as messages of one thing each."""
    role = message.get("role")
    if role == "tool":
        if name is None:
            cannot(f"messages[{n}].tool_call_id", "no call before it has this id")
        result = {"functionResult": {"name": name, "content": text_of(message, n)}}
        return [{"role": "user", "toolResultList": {"toolResults": [result]}}]
    if made := message.get("tool_calls"):
        calls = [{"functionCall": {"name": name_of(c), "arguments": arguments_of(c, n)}} for c in made]
        text = text_of(message, n)
        before = [{"role": "assistant", "text": text}] if text else []
        return [*before, {"role": "assistant", "toolCallList": {"toolCalls": calls}}]
    if role not in ("system", "developer", "user", "assistant"):
        refuse_role(message, n)
    return [{"role": "system" if role == "developer" else role, "text": text_of(message, n)}]

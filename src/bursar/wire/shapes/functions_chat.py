"""GigaChat's chat, version 1: one system message, functions instead of tools, arguments as objects."""

from __future__ import annotations

import json

from bursar.wire.shapes import Tree
from bursar.wire.shapes.parts import (
    Fields,
    arguments_of,
    called_before,
    cannot,
    chosen_name,
    name_of,
    refuse_role,
    system_and_rest,
    text_of,
)


def write(chat: Tree) -> Tree:
    """The body of a request."""
    fields = Fields(chat)
    system, others = system_and_rest(fields.messages)
    messages = [_message(m, n, called_before(fields.messages, n)) for n, m in others]
    if instructions := "\n\n".join(text_of(m, n) for n, m in system):
        messages.insert(0, {"role": "system", "content": instructions})
    out: Tree = {"model": fields.model, "messages": messages}
    if fields.stream:
        out["stream"] = True
    fields.move(out, temperature="temperature", top_p="top_p", reasoning_effort="reasoning_effort")
    if (most := fields.take("max_completion_tokens", "max_tokens")) is not None:
        out["max_tokens"] = most
    functions = fields.functions()
    if functions:
        out["functions"] = functions
    choice = fields.take("tool_choice")
    if isinstance(choice, dict):
        out["function_call"] = {"name": chosen_name(choice)}
    elif choice == "required":
        cannot("tool_choice", "a function cannot be demanded without its name here")
    elif choice is not None and functions:
        out["function_call"] = choice
    if (schema := fields.only_schema()) is not None:
        strict = schema.get("strict", False)
        out["response_format"] = {"type": "json_schema", "schema": schema["schema"], "strict": strict}
    return fields.finish(out)


def _message(message: Tree, n: int, name: str | None) -> Tree:
    role = message.get("role")
    if role == "tool":
        if name is None:
            cannot(f"messages[{n}].tool_call_id", "no call before it has this id")
        return {"role": "function", "name": name, "content": _as_json(text_of(message, n))}
    if role not in ("user", "assistant"):
        refuse_role(message, n)
    out: Tree = {"role": role, "content": text_of(message, n)}
    calls = message.get("tool_calls") or []
    if len(calls) > 1:
        cannot(f"messages[{n}].tool_calls", "this provider calls one function at a time")
    for call in calls:
        out["function_call"] = {"name": name_of(call), "arguments": arguments_of(call, n)}
    if attachments := message.get("attachments"):
        out["attachments"] = attachments
    return out


def _as_json(text: str) -> str:
    """A function's result, which must be JSON."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return json.dumps({"result": text}, ensure_ascii=False)
    return text

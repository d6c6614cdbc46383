"""GigaChat's chat, version 2: every message is a list of parts, and a round of calls has one id, its state's."""

from __future__ import annotations

import json
import re

from bursar.types.events import Event, ReasoningDelta, TextDelta, ToolCallDelta
from bursar.wire.shapes import Calls, Tree, made_id
from bursar.wire.shapes.parts import (
    Fields,
    arguments_of,
    called_before,
    cannot,
    chosen_name,
    dumped,
    name_of,
    refuse_role,
    system_and_rest,
    text_of,
)

# Calls of one round share its state; clients want an id each.
_OF_ROUND = re.compile(r"#\d+$")
_MADE = "call_"


def write(chat: Tree) -> Tree:
    """The body of a request."""
    fields = Fields(chat)
    system, others = system_and_rest(fields.messages)
    messages = [_message(m, n, called_before(fields.messages, n)) for n, m in others]
    if instructions := "\n\n".join(text_of(m, n) for n, m in system):
        messages.insert(0, {"role": "system", "content": [{"text": instructions}]})
    out: Tree = {"model": fields.model, "messages": messages}
    if fields.stream:
        out["stream"] = True
    if options := _options(fields):
        out["model_options"] = options
    if functions := fields.functions():
        out["tools"] = [{"functions": {"specifications": functions}}]
    choice = fields.take("tool_choice")
    if isinstance(choice, dict):
        out["tool_config"] = {"mode": "forced", "function_name": chosen_name(choice)}
    elif choice is not None and functions:
        out["tool_config"] = {"mode": "any" if choice == "required" else choice}
    return fields.finish(out)


def _options(fields: Fields) -> Tree:
    options: Tree = {}
    fields.move(
        options, temperature="temperature", top_p="top_p", top_logprobs="top_logprobs",
        repetition_penalty="repetition_penalty", update_interval="update_interval",
    )  # fmt: skip
    fields.take("logprobs")
    if (most := fields.take("max_completion_tokens", "max_tokens")) is not None:
        options["max_tokens"] = most
    if (effort := fields.take("reasoning_effort")) is not None:
        options["reasoning"] = {"effort": effort}
    if (schema := fields.only_schema()) is not None:
        strict = schema.get("strict", False)
        options["response_format"] = {"type": "json_schema", "schema": schema["schema"], "strict": strict}
    return options


def _message(message: Tree, n: int, name: str | None) -> Tree:
    role = message.get("role")
    if role == "tool":
        if name is None:
            cannot(f"messages[{n}].tool_call_id", "no call before it has this id")
        result = {"name": name, "result": _read(text_of(message, n))}
        return {"role": "tool", "content": [{"function_result": result}], **_state(message.get("tool_call_id"))}
    if role not in ("user", "assistant"):
        refuse_role(message, n)
    text, calls = text_of(message, n), message.get("tool_calls") or []
    content: list[Tree] = [{"text": text}] if text or not calls else []
    content += [{"function_call": {"name": name_of(c), "arguments": arguments_of(c, n)}} for c in calls]
    if files := message.get("attachments"):
        content.append({"files": [{"id": file} for file in files]})
    return {"role": role, "content": content, **(_state(calls[0].get("id")) if calls else {})}


def _state(id: object) -> Tree:
    """The state that a call's id names; ids that were made here name none."""
    known = isinstance(id, str) and id and not id.startswith(_MADE)
    return {"tools_state_id": _OF_ROUND.sub("", str(id))} if known else {}


def _read(text: str) -> object:
    """A function's result, as JSON where it is some."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"result": text}


def said(value: Tree, event: str | None, calls: Calls) -> list[Event]:
    """The events of an answer, or of one frame of a stream."""
    messages = value.get("messages")
    events: list[Event] = []
    for message in messages if isinstance(messages, list) else []:
        if not isinstance(message, dict):
            continue
        state = message.get("tools_state_id") or message.get("tool_state_id") or value.get("tools_state_id")
        thought, content = message.get("reasoning_content"), message.get("content")
        if isinstance(thought, str) and thought:
            events.append(ReasoningDelta(thought))
        thinks = message.get("role") == "reasoning"
        parts = content if isinstance(content, list) else [content]
        for part in [*parts, {"function_call": message.get("function_call")}]:
            events += _part({"text": part} if isinstance(part, str) else part, state, calls, thinks=thinks)
    return events


def _part(part: object, state: object, calls: Calls, *, thinks: bool) -> list[Event]:
    if not isinstance(part, dict):
        return []
    text, call = part.get("text"), part.get("function_call")
    events: list[Event] = []
    if isinstance(text, str) and text:
        events.append(ReasoningDelta(text) if thinks else TextDelta(text))
    if isinstance(call, dict):
        at, name, arguments = calls.next(), str(call.get("name") or ""), dumped(call.get("arguments"))
        id = made_id(name, arguments, at) if not isinstance(state, str) else f"{state}#{at}" if at else state
        events.append(ToolCallDelta(at, id, name, arguments))
    return events

"""Cohere's chat, version 2: OpenAI's messages with names of its own, and an answer's content as events."""

from __future__ import annotations

from typing import Any

from bursar.types.events import Event, ReasoningDelta, TextDelta, ToolCallDelta
from bursar.wire.shapes import Calls, Tree
from bursar.wire.shapes.parts import Fields, cannot, dumped, parts_of, refuse_role

_CHOICE = {"required": "REQUIRED", "none": "NONE"}


def write(chat: Tree) -> Tree:
    """The body of a request."""
    fields = Fields(chat)
    out: Tree = {"model": fields.model, "messages": [_message(m, n) for n, m in enumerate(fields.messages)]}
    out["stream"] = fields.stream
    fields.move(
        out, temperature="temperature", p="top_p", k="top_k", seed="seed", presence_penalty="presence_penalty",
        frequency_penalty="frequency_penalty",
    )  # fmt: skip
    if (most := fields.take("max_completion_tokens", "max_tokens")) is not None:
        out["max_tokens"] = most
    if stop := fields.stop():
        out["stop_sequences"] = stop
    if tools := fields.functions():
        out["tools"] = [{"type": "function", "function": f} for f in tools]
    choice = fields.take("tool_choice")
    if isinstance(choice, str) and choice in _CHOICE:
        out["tool_choice"] = _CHOICE[choice]
    elif choice not in (None, "auto"):
        cannot("tool_choice", "it is none of auto, none, required")
    kind, schema = fields.schema()
    if schema is not None:
        out["response_format"] = {"type": "json_object", "json_schema": schema["schema"]}
    elif kind != "text":
        out["response_format"] = {"type": kind}
    effort = fields.take("reasoning_effort")
    if effort is not None:
        out["thinking"] = {"type": "disabled" if effort == "none" else "enabled"}
    return fields.finish(out)


def _message(message: Tree, n: int) -> Tree:
    role = message.get("role")
    if role not in ("system", "developer", "user", "assistant", "tool"):
        refuse_role(message, n)
    out: Tree = {"role": "system" if role == "developer" else role}
    content: list[Any] = []
    for part in parts_of(message, n):
        kind = part.get("type")
        if kind in ("text", "refusal"):
            content.append({"type": "text", "text": part.get("text", part.get("refusal"))})
        elif kind == "image_url":
            content.append({"type": "image_url", "image_url": part.get("image_url")})
        else:
            cannot(f"messages[{n}].content", f"a part of type '{kind}' cannot be said to this provider")
    plain = isinstance(message.get("content"), str)
    if content or role != "assistant":
        out["content"] = message["content"] if plain else content
    if calls := message.get("tool_calls"):
        out["tool_calls"] = calls
    if role == "tool":
        out["tool_call_id"] = message.get("tool_call_id")
    return out


def said(value: Tree, event: str | None, calls: Calls) -> list[Event]:
    """The events of an answer, or of one frame of a stream."""
    kind = value.get("type") or event
    delta = value.get("delta")
    message = delta.get("message") if isinstance(delta, dict) else value.get("message")
    if not isinstance(message, dict):
        return []
    content, made = message.get("content"), message.get("tool_calls")
    blocks = content if isinstance(content, list) else [content]
    plan = message.get("tool_plan")
    events: list[Event] = [ReasoningDelta(plan)] if isinstance(plan, str) and plan else []
    events += [e for block in blocks if isinstance(block, dict) for e in _block(block)]
    if isinstance(content, str) and content:
        events.append(TextDelta(content))
    if isinstance(made, dict):
        events.append(_call(made, calls.at(value.get("index")), whole=kind != "tool-call-delta"))
    elif isinstance(made, list):
        events += [_call(call, calls.next(), whole=True) for call in made if isinstance(call, dict)]
    return events


def _block(block: Tree) -> list[Event]:
    text, thought = block.get("text"), block.get("thinking")
    if isinstance(thought, str) and thought:
        return [ReasoningDelta(thought)]
    return [TextDelta(text)] if isinstance(text, str) and text else []


def _call(call: Tree, at: int, *, whole: bool) -> ToolCallDelta:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    id, name = call.get("id") if whole else None, function.get("name") if whole else None
    given = function.get("arguments")
    return ToolCallDelta(at, id and str(id), name and str(name), dumped(given) if given else "")

"""Anthropic's Messages: a chat's messages as blocks, and an answer's blocks as events."""

from __future__ import annotations

from typing import Any

from bursar.types.events import Event, ReasoningDelta, TextDelta, ToolCallDelta
from bursar.wire.shapes import Calls, Tree
from bursar.wire.shapes.parts import (
    Fields,
    arguments_of,
    cannot,
    chosen_name,
    data_url,
    dumped,
    file_of,
    image_of,
    name_of,
    parts_of,
    system_and_rest,
    turns_of,
)

_EFFORT = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}


def write(chat: Tree) -> Tree:
    """The body of a request."""
    fields = Fields(chat)
    system, others = system_and_rest(fields.messages)
    turns = turns_of(others, _blocks, _use, _result)
    out: Tree = {"model": fields.model, "messages": [{"role": role, "content": blocks} for role, blocks in turns]}
    if instructions := [block for n, m in system for block in _blocks(m, n)]:
        out["system"] = instructions
    if fields.stream:
        out["stream"] = True
    out["max_tokens"] = fields.take("max_completion_tokens", "max_tokens")
    fields.move(out, temperature="temperature", top_p="top_p")
    if stop := fields.stop():
        out["stop_sequences"] = stop
    if (user := fields.take("user")) is not None:
        out["metadata"] = {"user_id": user}
    _tools(fields, out)
    _thinking(fields, out)
    return fields.finish(out)


def _use(call: Tree, n: int) -> Tree:
    return {"type": "tool_use", "id": call.get("id"), "name": name_of(call), "input": arguments_of(call, n)}


def _result(message: Tree, n: int) -> Tree:
    return {"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": _blocks(message, n)}


def _blocks(message: Tree, n: int) -> list[Any]:
    blocks = []
    for part in parts_of(message, n):
        kind, place = part.get("type"), f"messages[{n}].content"
        if kind in ("text", "refusal"):
            text = part.get("text", part.get("refusal"))
            if not text:
                continue  # an empty block is refused
            block: Tree = {"type": "text", "text": text}
        elif kind == "image_url":
            found = data_url(image_of(part))
            source = _base64(*found) if found else {"type": "url", "url": image_of(part)}
            block = {"type": "image", "source": source}
        elif kind == "file":
            media, data, name = file_of(part, place)
            block = {"type": "document", "source": _base64(media, data)}
            if name:
                block["title"] = name
        else:
            cannot(place, f"a part of type '{kind}' cannot be said to this provider")
        if "cache_control" in part:
            block["cache_control"] = part["cache_control"]
        blocks.append(block)
    return blocks


def _base64(media: str, data: str) -> Tree:
    return {"type": "base64", "media_type": media, "data": data}


def _tools(fields: Fields, out: Tree) -> None:
    if tools := fields.functions():
        out["tools"] = [
            {
                "name": f.get("name"),
                **({"description": f["description"]} if f.get("description") else {}),
                "input_schema": f.get("parameters") or {"type": "object", "properties": {}},
                **({"strict": True} if f.get("strict") is True else {}),
            }
            for f in tools
        ]
    choice = fields.take("tool_choice")
    parallel = fields.take("parallel_tool_calls")
    if not tools:
        return
    chosen: Tree = {"type": "auto"}
    if choice in ("none", "auto"):
        chosen = {"type": choice}
    elif choice == "required":
        chosen = {"type": "any"}
    elif isinstance(choice, dict):
        chosen = {"type": "tool", "name": chosen_name(choice)}
    elif choice is not None:
        cannot("tool_choice", f"'{choice}' is none of none, auto, required")
    if parallel is False and chosen["type"] != "none":
        chosen["disable_parallel_tool_use"] = True
    if choice is not None or parallel is False:
        out["tool_choice"] = chosen


def _thinking(fields: Fields, out: Tree) -> None:
    """How hard to think, and the form of what is said: both stand in `output_config`."""
    config: Tree = {}
    effort = fields.take("reasoning_effort")
    if effort == "none":
        out["thinking"] = {"type": "disabled"}
    elif effort is not None:
        if effort not in _EFFORT:
            cannot("reasoning_effort", f"'{effort}' is none of none, {', '.join(_EFFORT)}")
        out["thinking"] = {"type": "adaptive"}
        config["effort"] = _EFFORT[effort]
    if (schema := fields.only_schema()) is not None:
        config["format"] = {"type": "json_schema", "schema": schema["schema"]}
    if config:
        out["output_config"] = config


def said(value: Tree, _event: str | None, calls: Calls) -> list[Event]:
    """The events of an answer, or of one frame of a stream."""
    kind = value.get("type")
    block = value.get("content_block" if kind == "content_block_start" else "delta")
    if kind == "content_block_stop" and calls.is_bare(value.get("index")):
        return [ToolCallDelta(calls.piece(value.get("index"), "{}"), None, None, "{}")]
    if kind == "content_block_start" and isinstance(block, dict):
        return _begun(block, value.get("index"), calls)
    if kind == "content_block_delta" and isinstance(block, dict):
        return _piece(block, value.get("index"), calls)
    content = value.get("content")
    if kind in ("message", None) and isinstance(content, list):
        return [e for n, block in enumerate(content) if isinstance(block, dict) for e in _whole(block, n, calls)]
    return []


def _begun(block: Tree, index: object, calls: Calls) -> list[Event]:
    if block.get("type") != "tool_use":
        return _whole(block, index, calls)
    given = block.get("input")
    arguments = dumped(given) if given else ""
    at = calls.piece(index, arguments)
    return [ToolCallDelta(at, _text(block.get("id")), _text(block.get("name")), arguments)]


def _piece(delta: Tree, index: object, calls: Calls) -> list[Event]:
    match delta.get("type"):
        case "text_delta":
            return _some(TextDelta, delta.get("text"))
        case "thinking_delta":
            return _some(ReasoningDelta, delta.get("thinking"))
        case "input_json_delta" if calls.knows(index):
            arguments = str(delta.get("partial_json") or "")
            return [ToolCallDelta(calls.piece(index, arguments), None, None, arguments)]
    return []


def _whole(block: Tree, index: object, calls: Calls) -> list[Event]:
    match block.get("type"):
        case "text":
            return _some(TextDelta, block.get("text"))
        case "thinking":
            return _some(ReasoningDelta, block.get("thinking"))
        case "tool_use":
            arguments = dumped(block.get("input"))
            return [ToolCallDelta(calls.at(index), _text(block.get("id")), _text(block.get("name")), arguments)]
    return []


def _some(kind: type[TextDelta] | type[ReasoningDelta], text: object) -> list[Event]:
    return [kind(text)] if isinstance(text, str) and text else []


def _text(value: object) -> str | None:
    return None if value is None else str(value)

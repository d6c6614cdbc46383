"""OpenAI's Responses: the items of an answer, and the events of a stream, as events."""

from __future__ import annotations

from bursar.types.events import Event, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta
from bursar.wire.shapes import Calls, Tree

_PIECES: dict[str, type[TextDelta] | type[ReasoningDelta] | type[RefusalDelta]] = {
    "response.output_text.delta": TextDelta,
    "response.refusal.delta": RefusalDelta,
    "response.reasoning_summary_text.delta": ReasoningDelta,
    "response.reasoning_text.delta": ReasoningDelta,
}


def said(value: Tree, event: str | None, calls: Calls) -> list[Event]:
    """The events of an answer, or of one frame of a stream."""
    kind = value.get("type") or event
    if not isinstance(kind, str) or value.get("object") == "response":
        return _whole(value, calls)
    delta = value.get("delta")
    if kind in _PIECES:
        return [_PIECES[kind](delta)] if isinstance(delta, str) and delta else []
    at = value.get("output_index")
    if kind == "response.output_item.added":
        return _call(value.get("item"), calls, at, begun=True)
    if kind == "response.function_call_arguments.delta" and isinstance(delta, str) and calls.knows(at):
        return [ToolCallDelta(calls.at(at), None, None, delta)]
    return []


def _whole(response: Tree, calls: Calls) -> list[Event]:
    events: list[Event] = []
    output = response.get("output")
    for n, item in enumerate(output if isinstance(output, list) else []):
        if not isinstance(item, dict):
            continue
        events += _call(item, calls, n, begun=False)
        for name in ("content", "summary"):
            parts = item.get(name)
            for part in parts if isinstance(parts, list) else []:
                if isinstance(part, dict):
                    events += _part(part)
    return events


def _part(part: Tree) -> list[Event]:
    text, refusal = part.get("text"), part.get("refusal")
    match part.get("type"):
        case "output_text" if isinstance(text, str) and text:
            return [TextDelta(text)]
        case "summary_text" | "reasoning_text" if isinstance(text, str) and text:
            return [ReasoningDelta(text)]
        case "refusal" if isinstance(refusal, str) and refusal:
            return [RefusalDelta(refusal)]
    return []


def _call(item: object, calls: Calls, at: object, *, begun: bool) -> list[Event]:
    if not isinstance(item, dict) or item.get("type") != "function_call":
        return []
    id, name = item.get("call_id"), item.get("name")
    arguments = "" if begun else str(item.get("arguments") or "")
    return [ToolCallDelta(calls.at(at), id and str(id), name and str(name), arguments)]

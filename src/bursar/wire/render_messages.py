"""Events into what a client of Anthropic's Messages reads, for answers whose own bytes have another shape."""

from __future__ import annotations

import json
from collections.abc import Mapping

from bursar.types.events import Event, Finish, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta
from bursar.types.usage import Usage
from bursar.wire.assemble import Assembly, encode_json, finish_meant

Tree = dict[str, object]

# Why an answer stopped, from OpenAI's words.
_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal",
          "function_call": "tool_use"}  # fmt: skip
# Its schema demands these of a whole answer, if only to be null.
_NO_COUNTS: Tree = {"cache_creation": None, "inference_geo": None, "server_tool_use": None, "service_tier": None}
_CALL: Tree = {"type": "tool_use", "caller": {"type": "direct"}}
# The types of errors by their HTTP status: https://docs.anthropic.com/en/api/errors
_ERRORS = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 405: "invalid_request_error", 413: "request_too_large", 422: "invalid_request_error",
    429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip


def usage_of(usage: Usage | None) -> Tree:
    """Usage in Messages' names, where cached tokens stand beside the input. What nobody said is null."""
    if usage is None:
        return {"input_tokens": None, "output_tokens": None}
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    given, thought = usage.input_tokens, usage.reasoning_tokens
    return {
        "input_tokens": max(0, given - (cached or 0) - (written or 0)) if given is not None else None,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": None if thought is None else {"thinking_tokens": thought},
    }


def stop_of(finish: str | None, words: Mapping[str, str], *, calls: bool) -> str:
    """The stop reason of a finish in its provider's word; `words` tells what that means."""
    return _STOPS.get(finish_meant(finish, words, calls=calls) or "stop", "end_turn")


def message_of(answer: Assembly, *, id: str, model: str, words: Mapping[str, str]) -> bytes:
    """A whole answer as one message."""
    blocks: list[Tree] = []
    if answer.reasoning:
        blocks.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
    if text := (answer.text or answer.refusal):
        blocks.append({"type": "text", "text": text, "citations": []})
    blocks.extend(
        {**_CALL, "id": call.id, "name": call.name, "input": _read(call.arguments)} for call in answer.tool_calls
    )
    return encode_json(
        {
            "id": answer.id or id,
            "type": "message",
            "role": "assistant",
            "model": answer.model or model,
            "content": blocks,
            "stop_reason": stop_of(answer.finish_reason, words, calls=bool(answer.tool_calls)),
            "stop_sequence": None,
            "stop_details": None,
            "container": None,
            "usage": {**_NO_COUNTS, **usage_of(answer.usage)},
        }
    )


def _read(arguments: str) -> object:
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return {"arguments": arguments}  # the model wrote no JSON: what it wrote is not lost


class MessageRenderer:
    """The events of one streamed message."""

    def __init__(self, *, id: str, model: str, words: Mapping[str, str]) -> None:
        self._head: Tree = {
            "id": id, "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": None,
            "stop_sequence": None, "usage": {"input_tokens": 0, "output_tokens": 0},
        }  # fmt: skip
        self._words = words
        self._block: object = None
        self._index = -1
        self._held: dict[int, ToolCallDelta] = {}
        self._calls = False
        self._finish: str | None = None

    def begin(self) -> bytes:
        """The event that begins the message; its counts are said at the end."""
        return _event("message_start", {"message": self._head})

    def render(self, events: list[Event]) -> bytes:
        """What says the same as these events."""
        return b"".join(self._render(event) for event in events)

    def end(self, usage: Usage | None) -> bytes:
        """What ends the message."""
        stop = stop_of(self._finish, self._words, calls=self._calls)
        counts = {name: count for name, count in usage_of(usage).items() if count is not None}
        delta = {"delta": {"stop_reason": stop, "stop_sequence": None}, "usage": {"output_tokens": None, **counts}}
        return self._let_go() + _event("message_delta", delta) + _event("message_stop", {})

    def _render(self, event: Event) -> bytes:
        match event:
            case TextDelta(text, 0) | RefusalDelta(text, 0):
                begun = self._open("text", {"type": "text", "text": ""})
                return begun + self._delta({"type": "text_delta", "text": text})
            case ReasoningDelta(text, 0):
                begun = self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                return begun + self._delta({"type": "thinking_delta", "thinking": text})
            case ToolCallDelta(choice=0):
                return self._call(event)
            case Finish(reason, 0):
                self._finish = reason
        return b""

    def _call(self, event: ToolCallDelta) -> bytes:
        """A piece of a call. A block that is closed cannot be opened again, and calls may take turns: while one is
        open, the others are held back."""
        self._calls = True
        if isinstance(self._block, int) and self._block != event.index:
            held = self._held.setdefault(event.index, ToolCallDelta(event.index, None, None, ""))
            arguments = held.arguments + event.arguments
            id, name = event.id or held.id, event.name or held.name
            self._held[event.index] = ToolCallDelta(event.index, id, name, arguments)
            return b""
        block: Tree = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
        piece: Tree = {"type": "input_json_delta", "partial_json": event.arguments}
        return self._open(event.index, block) + (self._delta(piece) if event.arguments else b"")

    def _let_go(self) -> bytes:
        """The open block ended, and the calls that were held back, one after the other."""
        out = [self._close()]
        waiting, self._held = self._held, {}
        for _, held in sorted(waiting.items()):
            out += [self._call(held), self._close()]
        return b"".join(out)

    def _open(self, key: object, block: Tree) -> bytes:
        """Begins a block, unless it is the one that is open."""
        if key == self._block:
            return b""
        closed = self._let_go()
        self._block = key
        self._index += 1
        return closed + _event("content_block_start", {"index": self._index, "content_block": block})

    def _close(self) -> bytes:
        if self._block is None:
            return b""
        self._block = None
        return _event("content_block_stop", {"index": self._index})

    def _delta(self, delta: Tree) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": delta})


def _event(name: str, value: Tree) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode_json({"type": name, **value}))


def error_object(message: str, status: int, request_id: str | None = None) -> Tree:
    """An error as the SDK of Messages raises it."""
    kind = _ERRORS.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def error_frame(message: str, status: int) -> bytes:
    """An error inside a stream."""
    return b"event: error\ndata: %b\n\n" % encode_json(error_object(message, status))

"""Events into the frames an OpenAI client reads, for answers whose own bytes have another shape."""

from __future__ import annotations

from collections.abc import Mapping

from bursar.types.events import (
    Event,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
)
from bursar.types.usage import Usage
from bursar.wire.assemble import encode_json, finish_meant, usage_object

DONE = b"data: [DONE]\n\n"


class _Renderer:
    """Frames for one answer; `words` tells what its finish reasons mean in OpenAI's."""

    kind = ""

    def __init__(self, *, id: str, model: str, created: int, words: Mapping[str, str]) -> None:
        self._words = words
        self._head: dict[str, object] = {"id": id, "object": self.kind, "created": created, "model": model}

    def render(self, events: list[Event]) -> bytes:
        """The frames that say the same as these events; usage is not among them (see `usage`)."""
        return b"".join(self._frame(event) for event in events)

    def usage(self, usage: Usage) -> bytes:
        """The frame with no choices that carries usage, for a client that asked for it."""
        return _data({**self._head, "choices": [], "usage": usage_object(usage)})

    def _frame(self, event: Event) -> bytes:
        raise NotImplementedError

    def _with(self, choice: dict[str, object]) -> bytes:
        return _data({**self._head, "choices": [choice]})


class ChunkRenderer(_Renderer):
    """Chat completion chunks."""

    kind = "chat.completion.chunk"

    def __init__(self, *, id: str, model: str, created: int, words: Mapping[str, str]) -> None:
        super().__init__(id=id, model=model, created=created, words=words)
        self._calling: set[int] = set()
        self._opened: set[int] = set()

    def _frame(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                return self._chunk(event.choice, {"content": event.text})
            case ReasoningDelta():
                return self._chunk(event.choice, {"reasoning_content": event.text})
            case RefusalDelta():
                return self._chunk(event.choice, {"refusal": event.text})
            case ToolCallDelta():
                self._calling.add(event.choice)
                return self._chunk(event.choice, {"tool_calls": [_call(event)]})
            case Finish():
                meant = finish_meant(event.reason, self._words, calls=event.choice in self._calling)
                return self._chunk(event.choice, {}, meant)
        return b""

    def _chunk(self, choice: int, delta: dict[str, object], finish: str | None = None) -> bytes:
        if choice not in self._opened:
            self._opened.add(choice)
            delta = {"role": "assistant", **delta}
        return self._with({"index": choice, "delta": delta, "finish_reason": finish})


class TextRenderer(_Renderer):
    """Chunks of a text completion: what is no text is left out."""

    kind = "text_completion"

    def _frame(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                return self._with(text_choice(event.choice, event.text, None))
            case Finish():
                meant = finish_meant(event.reason, self._words, calls=False)
                return self._with(text_choice(event.choice, "", meant))
        return b""


def text_choice(index: int, text: str, finish: str | None) -> dict[str, object]:
    """One choice of a text completion."""
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def error_frame(message: str, *, type: str | None = None, code: str | None = None) -> bytes:
    """An error inside a stream, as an OpenAI client raises it."""
    return _data({"error": {"message": message, "type": type or "upstream_error", "param": None, "code": code}})


def _call(event: ToolCallDelta) -> dict[str, object]:
    function: dict[str, object] = {"arguments": event.arguments}
    call: dict[str, object] = {"index": event.index}
    if event.id is not None:
        call["id"] = event.id
        call["type"] = "function"
    if event.name is not None:
        function["name"] = event.name
    call["function"] = function
    return call


def _data(value: object) -> bytes:
    return b"data: " + encode_json(value) + b"\n\n"

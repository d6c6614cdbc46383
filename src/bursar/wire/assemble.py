"""The events of one answer folded into one: text, tool calls, finish, usage, and the assembled object.

Pieces are kept as pieces until the end, so that a long stream costs no more a piece than a short one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec.structs import astuple

from bursar.types.call import ToolCall
from bursar.types.events import (
    Answered,
    Embedded,
    ErrorReport,
    Event,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from bursar.types.usage import Usage


class _Call:
    """A tool call that comes in pieces."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.name: str | None = None
        self.arguments: list[str] = []


class _Choice(msgspec.Struct, eq=False, gc=False):
    """One answer of possibly several."""

    text: list[str] = msgspec.field(default_factory=list)
    finish: str | None = None
    reasoning: list[str] | tuple[()] = ()
    refusal: list[str] | tuple[()] = ()
    calls: dict[int, _Call] | None = None

    def add_call(self, event: ToolCallDelta) -> None:
        self.calls = self.calls or {}
        call = self.calls.setdefault(event.index, _Call())
        call.id = event.id or call.id
        call.name = event.name or call.name
        call.arguments.append(event.arguments)

    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall(id=call.id, name=call.name, arguments="".join(call.arguments))
            for _, call in sorted((self.calls or {}).items())
        )


class Assembly(msgspec.Struct, eq=False, gc=False):
    """What an answer has said so far; `finish_reason` is why its first choice stopped."""

    id: str | None = None
    model: str | None = None
    usage: Usage | None = None
    error: ErrorReport | None = None
    vectors: list[object] | None = None
    has_content: bool = False
    usage_is_early: bool = False
    """Whether the last report of usage came before all content."""
    finish_reason: str | None = None
    _size: int = 0
    _choices: dict[int, _Choice] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, answered: Answered) -> Assembly:
        """An answer that was read at once."""
        id, model, text, finish, usage = astuple(answered)
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        choices = {0: _Choice([text], finish)}
        return cls(id, model, usage, has_content=True, finish_reason=finish, _size=size, _choices=choices)

    def take(self, events: list[Event]) -> bool:
        """Folds the events in; true where they hold content (text, reasoning, refusal, tool calls, vectors)."""
        content = False
        for event in events:
            if isinstance(event, TextDelta):
                choice = self._choices.get(event.choice) or self._choice(event.choice)
                choice.text.append(event.text)
                content = True
            else:
                content = _TAKE[type(event)](self, event) or content
        self.has_content = self.has_content or content
        return content

    def _reasoning(self, event: ReasoningDelta) -> bool:
        choice = self._choice(event.choice)
        if not choice.reasoning:
            choice.reasoning = []
        choice.reasoning.append(event.text)
        return True

    def _refusal(self, event: RefusalDelta) -> bool:
        choice = self._choice(event.choice)
        if not choice.refusal:
            choice.refusal = []
        choice.refusal.append(event.text)
        return True

    def _tool_call(self, event: ToolCallDelta) -> bool:
        self._choice(event.choice).add_call(event)
        return True

    def _vectors(self, event: Embedded) -> bool:
        self.vectors = event.vectors
        return True

    def _started(self, event: Started) -> bool:
        self.id, self.model = event.id or self.id, event.model or self.model
        return False

    def _finish(self, event: Finish) -> bool:
        self._choice(event.choice).finish = event.reason
        if event.choice == 0:
            self.finish_reason = event.reason
        return False

    def _usage(self, event: UsageReport) -> bool:
        self.usage = event.usage.over(self.usage)
        self.usage_is_early = not self._choices
        return False

    def _error(self, event: ErrorReport) -> bool:
        self.error = event
        return False

    def _choice(self, index: int) -> _Choice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice()
        return choice

    @property
    def text(self) -> str | None:
        """The text of the first answer, None where it has none."""
        first = self._choices.get(0)
        return "".join(first.text) if first and first.text else None

    def texts(self) -> list[tuple[int, str, str | None]]:
        """Number, text and finish of each of the answers."""
        return [(index, "".join(choice.text), choice.finish) for index, choice in sorted(self._choices.items())]

    @property
    def reasoning(self) -> str | None:
        first = self._choices.get(0)
        return "".join(first.reasoning) if first and first.reasoning else None

    @property
    def refusal(self) -> str | None:
        first = self._choices.get(0)
        return "".join(first.refusal) if first and first.refusal else None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        first = self._choices.get(0)
        return first.tool_calls() if first else ()

    def output_bytes(self) -> int:
        """UTF-8 bytes of everything the model wrote: what estimates of a cut-off answer go by."""
        size = self._size
        if size:
            return size  # it was read at once
        for choice in self._choices.values():
            pieces = choice.text
            if choice.reasoning or choice.refusal or choice.calls:
                pieces = [*pieces, *choice.reasoning, *choice.refusal]
                for call in (choice.calls or {}).values():
                    pieces += call.arguments
            written = pieces[0] if len(pieces) == 1 else "".join(pieces)
            size += len(written) if written.isascii() else len(written.encode("utf-8", "replace"))
        return size

    def as_completion(
        self,
        *,
        id: str,
        model: str,
        created: int,
        own_usage: bool = False,
        extras: dict[str, object] | None = None,
        words: Mapping[str, str] | None = None,
    ) -> dict[str, object]:
        """The answer as one OpenAI chat completion, whoever gave it. With `own_usage` the provider's usage
        object stands in it as it was sent: for those that use OpenAI's names; so do `extras`, what its
        frames said beside the answer. With `words`, which tell what the provider's finish reasons mean in OpenAI's, it
        is for a client: fields that its schema demands are there, and null."""
        demanded: dict[str, object] = {} if words is None else {"logprobs": None}
        said: dict[str, object] = {} if words is None else {"refusal": None}
        choices = [
            {
                "index": index,
                **demanded,
                "message": {**said, **_message(choice)},
                "finish_reason": finish_meant(choice.finish, words or {}, calls=bool(choice.calls)),
            }
            for index, choice in sorted(self._choices.items())
        ]
        out: dict[str, object] = {
            "id": self.id or id,
            "object": "chat.completion",
            "created": created,
            "model": self.model or model,
            **(extras or {}),
            "choices": choices,
        }
        if self.usage is not None:
            raw = self.usage.raw_json if own_usage else None
            out["usage"] = msgspec.Raw(raw) if raw is not None else usage_object(self.usage)
        return out


# What is done with an event of each kind; it tells whether the event holds content.
_TAKE: dict[type, Callable[[Assembly, Any], bool]] = {
    ReasoningDelta: Assembly._reasoning,
    RefusalDelta: Assembly._refusal,
    ToolCallDelta: Assembly._tool_call,
    Embedded: Assembly._vectors,
    Started: Assembly._started,
    Finish: Assembly._finish,
    UsageReport: Assembly._usage,
    ErrorReport: Assembly._error,
}


def finish_meant(finish: str | None, words: Mapping[str, str], *, calls: bool) -> str | None:
    """A provider's finish reason in OpenAI's words: a stop with tool calls is for their sake."""
    meant = words.get(finish, finish) if finish is not None else None
    return "tool_calls" if words and calls and meant == "stop" else meant


def _message(choice: _Choice) -> dict[str, object]:
    message: dict[str, object] = {"role": "assistant", "content": "".join(choice.text) if choice.text else None}
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    if choice.refusal:
        message["refusal"] = "".join(choice.refusal)
    if choice.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.tool_calls()
        ]
    return message


def usage_object(usage: Usage) -> dict[str, object]:
    """Usage in OpenAI's names; what the provider did not say is null."""
    out: dict[str, object] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
    details = {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens}
    if known := {name: count for name, count in details.items() if count is not None}:
        out["prompt_tokens_details"] = known
    if usage.reasoning_tokens is not None:
        out["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return out


_JSON = msgspec.json.Encoder()


def encode_json(value: object) -> bytes:
    """JSON bytes; a lone surrogate, which no UTF-8 can hold, becomes the replacement character, and an
    integer beyond 64 bits a float."""
    try:
        return _JSON.encode(value)
    except (UnicodeEncodeError, OverflowError):
        return _JSON.encode(_clean(value))


def _clean(value: object) -> object:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(k) if isinstance(k, str) else k: _clean(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_clean(v) for v in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value) if abs(value) < 10**300 else None
    return value


def clean_text(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced, so that UTF-8 can hold it."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

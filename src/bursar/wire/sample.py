"""A pasted answer, read as a provider's description reads it: to see what it makes of one before it is called."""

from __future__ import annotations

import msgspec

from bursar.wire.assemble import Assembly
from bursar.wire.engine import Decoder
from bursar.wire.framing import FramingError
from bursar.wire.readers import Readers
from bursar.wire.spec import OperationSpec
from bursar.wire.values import read_error, read_json

_SHOWN = (
    "input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "total_tokens",
    "provider_total_tokens", "audio_ms", "images", "search_units", "cost_nanos", "cost_currency", "raw",
)  # fmt: skip


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What was read of an answer; None stands where nothing was found. `complete` tells whether it said that it ended.

    `usage` has the normalised counts and the provider's own object as `raw`.
    """

    stream: bool
    complete: bool
    id: str | None
    model: str | None
    text: str | None
    reasoning: str | None
    tool_calls: list[dict[str, object]]
    vectors: int | None
    finish_reason: str | None
    usage: dict[str, object] | None
    error: dict[str, object] | None


def read_sample(spec: OperationSpec, body: bytes) -> Sample:
    """What a description reads of an answer's body, plain or streamed, or of an error's."""
    readers = Readers(spec)
    value, _ = read_json(body.strip())
    stream = not isinstance(value, dict | list)
    decoder, answer = Decoder(readers, stream=stream), Assembly()
    try:
        frames = decoder.feed(body) + decoder.close()
    except FramingError as e:
        return _failed(str(e), stream=stream)
    for frame in frames:
        answer.take(frame.events)
    error = answer.error
    if error is None and not answer.has_content and answer.finish_reason is None and answer.vectors is None:
        known = not isinstance(value, dict | list) or readers.is_answer(value)
        error = None if known else read_error(readers, body)
    usage = answer.usage
    return Sample(
        stream=stream,
        complete=decoder.finished and error is None,
        id=answer.id,
        model=answer.model,
        text=answer.text,
        reasoning=answer.reasoning,
        tool_calls=[msgspec.structs.asdict(call) for call in answer.tool_calls],
        vectors=len(answer.vectors) if answer.vectors is not None else None,
        finish_reason=answer.finish_reason,
        usage={name: getattr(usage, name) for name in _SHOWN} if usage is not None else None,
        error=msgspec.structs.asdict(error) if error is not None else None,
    )


def _failed(message: str, *, stream: bool) -> Sample:
    return Sample(
        stream=stream, complete=False, id=None, model=None, text=None, reasoning=None, tool_calls=[], vectors=None,
        finish_reason=None, usage=None, error={"message": message, "type": None, "code": None},
    )  # fmt: skip

"""How clients of each kind of call are answered: as the provider wrote it, where it wrote for them, else anew.

An answer that speaks the client's own format passes through byte for byte, except the usage frame that only bursar
asked for.
"""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from bursar.gateway.attempt import Attempt
from bursar.gateway.running import Running
from bursar.http.answers import error_answer
from bursar.http.heads import Headers
from bursar.types.call import CHAT, COMPLETIONS, COUNT_TOKENS, EMBEDDINGS, MESSAGES, OPERATIONS, RESPONSES, Call
from bursar.types.errors import BursarError, ProviderError
from bursar.wire import render_messages as messages
from bursar.wire.assemble import encode_json, finish_meant, usage_object
from bursar.wire.engine import Frame
from bursar.wire.render import DONE, ChunkRenderer, TextRenderer, error_frame, text_choice


class Writer(Protocol):
    """A streamed answer as its client reads it."""

    def begin(self) -> bytes:
        """What stands before the first frame."""

    def write(self, frames: Sequence[Frame]) -> bytes:
        """These frames."""

    def end(self) -> bytes:
        """What stands behind the last one, where all went well."""

    def failed(self, error: ProviderError) -> bytes | None:
        """What stands there where it did not; None where nothing can be told but by an end that is none."""


class Dialect(msgspec.Struct, frozen=True):
    """What clients of one kind of call read: `whole` a plain answer, `writer` a stream, `error` an error with the id of
    its call."""

    whole: Callable[[Running], bytes]
    writer: Callable[[Running], Writer]
    error: Callable[[BursarError, str], tuple[int, bytes, Headers]]
    keeps_type: bool = False


def _attempt(running: Running) -> Attempt:
    """The attempt that answered: there is one, or nobody would ask for its answer."""
    assert running.attempt is not None
    return running.attempt


def _passes(running: Running) -> bool:
    """Whether the provider's answer is written for this client."""
    return _attempt(running).endpoint.spec.speaks == running.call.operation


def _model(running: Running) -> str:
    attempt = _attempt(running)
    return attempt.assembly.model or attempt.target.model


def _words(running: Running) -> dict[str, str]:
    return _attempt(running).endpoint.spec.finish


def _or_as_it_came(written: Callable[[Running], bytes]) -> Callable[[Running], bytes]:
    """A plain answer as it came where it passes, else written anew."""

    def whole(running: Running) -> bytes:
        attempt: Any = running.attempt
        passes = attempt.endpoint.spec.speaks == running.call.operation
        return attempt.whole if passes and attempt.decoder.is_whole else written(running)

    return whole


def _completion(running: Running) -> bytes:
    attempt = _attempt(running)
    return encode_json(
        attempt.assembly.as_completion(
            id=running.call.call_id, model=_model(running), created=int(time.time()), words=_words(running)
        )
    )


def _text_completion(running: Running) -> bytes:
    attempt = _attempt(running)
    answer, words = attempt.assembly, _words(running)
    body: dict[str, object] = {
        "id": answer.id or running.call.call_id,
        "object": "text_completion",
        "created": int(time.time()),
        "model": _model(running),
        "choices": [
            text_choice(index, text, finish_meant(finish, words, calls=False)) for index, text, finish in answer.texts()
        ],
    }
    if answer.usage is not None:
        body["usage"] = usage_object(answer.usage)
    return encode_json(body)


def _message(running: Running) -> bytes:
    attempt = _attempt(running)
    return messages.message_of(attempt.assembly, id=running.call.call_id, model=_model(running), words=_words(running))


def _embeddings(running: Running) -> bytes:
    result = running.result
    assert result is not None
    usage = result.usage
    as_text = _asked(running.call, _Vectors).encoding_format == "base64"
    vectors = [_packed(v) if as_text else v for v in result.vectors or []]
    data = [{"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(vectors)]
    body: dict[str, object] = {"object": "list", "data": data, "model": result.model}
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage.input_tokens, "total_tokens": usage.total_tokens}
    return encode_json(body)


def _packed(vector: object) -> object:
    """Numbers as the base64 of their 32-bit floats, as OpenAI's SDK asks for them; what is text already stays."""
    if not isinstance(vector, list):
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _as_it_came(running: Running) -> bytes:
    return _attempt(running).whole


def _media(running: Running) -> bytes:
    """An answer about sound or images as it came, whole or in frames."""
    attempt = _attempt(running)
    return attempt.whole if attempt.decoder.is_whole else b"".join(frame.raw for frame in running.frames)


class _Passing:
    """Frames as they came."""

    def __init__(self, running: Running, failed: Callable[[ProviderError], bytes]) -> None:
        attempt = _attempt(running)
        self._attempt = attempt
        self._added_usage = attempt.request.added_usage
        self._failed = failed

    def begin(self) -> bytes:
        return b""

    def write(self, frames: Sequence[Frame]) -> bytes:
        if len(frames) == 1:
            return b"" if self._added_usage and frames[0].usage_only else frames[0].raw
        if self._added_usage:
            return b"".join([f.raw for f in frames if not f.usage_only])
        return b"".join([f.raw for f in frames])

    def end(self) -> bytes:
        return b""

    def failed(self, error: ProviderError) -> bytes | None:
        # The provider's own error frame has passed already; a failure we saw needs one of ours.
        return b"" if self._attempt.assembly.error is not None else self._failed(error)


class _PassingMedia(_Passing):
    """Sound as it came, or events that carry it: only among events can a failure be told."""

    def failed(self, error: ProviderError) -> bytes | None:
        return super().failed(error) if self._attempt.decoder.is_events else None


class _Rendering:
    """Frames written anew as chunks, of chats or of texts."""

    def __init__(self, running: Running, kind: type[ChunkRenderer | TextRenderer]) -> None:
        attempt = _attempt(running)
        self._running = running
        self._asked_usage = not attempt.request.added_usage and _asked_for_usage(running.call)
        self._renderer = kind(
            id=attempt.assembly.id or running.call.call_id,
            model=_model(running),
            created=int(time.time()),
            words=_words(running),
        )

    def begin(self) -> bytes:
        return b""

    def write(self, frames: Sequence[Frame]) -> bytes:
        return b"".join(self._renderer.render(f.events) for f in frames)

    def end(self) -> bytes:
        result = self._running.result
        usage = result.usage if result is not None else None
        return (self._renderer.usage(usage) if usage is not None and self._asked_usage else b"") + DONE

    def failed(self, error: ProviderError) -> bytes:
        return _chat_failed(error)


class _MessageWriting:
    """Frames written anew as the events of a message."""

    def __init__(self, running: Running) -> None:
        attempt = _attempt(running)
        self._running = running
        self._renderer = messages.MessageRenderer(
            id=attempt.assembly.id or running.call.call_id, model=_model(running), words=_words(running)
        )

    def begin(self) -> bytes:
        return self._renderer.begin()

    def write(self, frames: Sequence[Frame]) -> bytes:
        return b"".join(self._renderer.render(f.events) for f in frames)

    def end(self) -> bytes:
        result = self._running.result
        return self._renderer.end(result.usage if result is not None else None)

    def failed(self, error: ProviderError) -> bytes:
        return _message_failed(error)


def _chat_failed(error: ProviderError) -> bytes:
    return error_frame(error.message, type=error.type, code=error.code or error.kind)


def _message_failed(error: ProviderError) -> bytes:
    return messages.error_frame(error.message, error_answer(error)[0])


def _chunks(kind: type[ChunkRenderer | TextRenderer]) -> Callable[[Running], Writer]:
    def writer(running: Running) -> Writer:
        attempt = _attempt(running)
        if _passes(running) and not attempt.decoder.is_whole:
            return _Passing(running, _chat_failed)
        return _Rendering(running, kind)

    return writer


def _message_writer(running: Running) -> Writer:
    attempt = _attempt(running)
    if _passes(running) and not attempt.decoder.is_whole:
        return _Passing(running, _message_failed)
    return _MessageWriting(running)


def _passing_writer(running: Running) -> Writer:
    return _Passing(running, _chat_failed)


def _media_writer(running: Running) -> Writer:
    return _PassingMedia(running, _chat_failed)


def _chat_error(error: BursarError, _call_id: str) -> tuple[int, bytes, Headers]:
    return error_answer(error)


class _MessageError(msgspec.Struct, tag_field="type", tag="error"):
    error: dict[str, msgspec.Raw]


def _message_error(error: BursarError, call_id: str) -> tuple[int, bytes, Headers]:
    """An error in the shape of Messages; a provider's own is kept where it has that shape."""
    status, body, headers = error_answer(error)
    try:
        msgspec.json.decode(body, type=_MessageError)
    except msgspec.MsgspecError:
        message = error.message if status != 500 or isinstance(error, ProviderError) else "internal error"
        body = encode_json(messages.error_object(message, status, call_id))
    return status, body, headers


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Streamed(msgspec.Struct):
    stream_options: _StreamOptions | None = None


class _Vectors(msgspec.Struct):
    encoding_format: str | None = None


T = TypeVar("T", bound=msgspec.Struct)


def _asked(call: Call, kind: type[T]) -> T:
    """What a call asked beside its inputs; nothing where it is of another type."""
    try:
        return msgspec.json.decode(call.params, type=kind)
    except msgspec.MsgspecError:
        return kind()


def _asked_for_usage(call: Call) -> bool:
    options = _asked(call, _Streamed).stream_options
    return options is not None and options.include_usage is True


DIALECTS: dict[str, Dialect] = {
    CHAT: Dialect(_or_as_it_came(_completion), _chunks(ChunkRenderer), _chat_error),
    COMPLETIONS: Dialect(_or_as_it_came(_text_completion), _chunks(TextRenderer), _chat_error),
    EMBEDDINGS: Dialect(_or_as_it_came(_embeddings), _passing_writer, _chat_error),
    RESPONSES: Dialect(_as_it_came, _passing_writer, _chat_error),
    MESSAGES: Dialect(_or_as_it_came(_message), _message_writer, _message_error),
    COUNT_TOKENS: Dialect(_as_it_came, _passing_writer, _message_error),
}
# All others pass as they are: what they bring need not be JSON.
DIALECTS |= {
    operation: Dialect(_media, _media_writer, _chat_error, keeps_type=True)
    for operation in OPERATIONS
    if operation not in DIALECTS
}

"""AWS's binary event stream into frames.

A message is: its length and its headers' length (4 bytes each, big-endian), a CRC-32 of these eight, headers,
payload, and a CRC-32 of all before it. Source: "Event stream encoding" in the Amazon Transcribe developer guide,
https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html.
"""

from __future__ import annotations

import json
import struct
import zlib

from bursar.wire.framing import MAX_FRAME_BYTES, FrameTooLongError, FramingError, RawFrame

_PRELUDE = struct.Struct(">III")
_LENGTH = struct.Struct(">H")
_CRC = struct.Struct(">I")
_OVERHEAD = _PRELUDE.size + _CRC.size
# The size of a header's value by its type; None for bytes and text, which say their length.
_SIZES: dict[int, int | None] = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 6: None, 7: None, 8: 8, 9: 16}
_TEXT = 7


class BrokenMessageError(FramingError):
    """A message of the stream is not what its checksums say."""


class EventStreamFramer:
    """Frames of an event stream: `event` is the message's kind, `data` its JSON. An exception in the stream becomes
    an event named `error`, whose data has its kind as `type` beside its message."""

    is_between = False

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[RawFrame]:
        """Frames that are whole. Raises FramingError; what came before a fault is told first, the fault with the next
        bytes or the end."""
        buffer = self._buffer + data
        frames: list[RawFrame] = []
        at = 0
        try:
            while (frame := _next(buffer, at)) is not None:
                frames.append(frame)
                at += len(frame.raw)
        except FramingError:
            if not frames:
                raise
        self._buffer = buffer[at:]
        return frames

    def close(self) -> list[RawFrame]:
        _next(self._buffer, 0)  # told once more, if it was put off
        left, self._buffer = self._buffer, b""
        return [RawFrame(left, None)] if left else []


def _next(buffer: bytes, at: int) -> RawFrame | None:
    """The message at `at`, None where it is not whole yet. Raises FramingError."""
    if len(buffer) - at < _PRELUDE.size:
        return None
    size, headers_size, crc = _PRELUDE.unpack_from(buffer, at)
    if zlib.crc32(buffer[at : at + 8]) != crc or size < _OVERHEAD + headers_size:
        raise BrokenMessageError("the event stream is broken: a message's beginning is not as its checksum says")
    if size > MAX_FRAME_BYTES:
        raise FrameTooLongError(f"a frame of the answer is longer than {MAX_FRAME_BYTES} bytes")
    return _frame(buffer[at : at + size], headers_size) if len(buffer) - at >= size else None


def _frame(raw: bytes, headers_size: int) -> RawFrame:
    if zlib.crc32(raw[: -_CRC.size]) != _CRC.unpack_from(raw, len(raw) - _CRC.size)[0]:
        raise BrokenMessageError("the event stream is broken: a message is not as its checksum says")
    begins = _PRELUDE.size + headers_size
    headers = _headers(raw[_PRELUDE.size : begins])
    payload = raw[begins : -_CRC.size]
    kind = headers.get(":message-type", "event")
    if kind == "event":
        return RawFrame(raw, payload, headers.get(":event-type"))
    type = headers.get(":exception-type") or headers.get(":error-code")
    return RawFrame(raw, _error(type, headers.get(":error-message"), payload), "error")


def _headers(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        name_size = data[at]
        name = data[at + 1 : at + 1 + name_size].decode("utf-8", "replace")
        at += 1 + name_size
        kind = data[at] if at < len(data) else 0
        at += 1
        size = _SIZES.get(kind, 0)
        if size is None:
            if at + _LENGTH.size > len(data):
                break
            (size,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
        if kind == _TEXT:
            found[name] = data[at : at + size].decode("utf-8", "replace")
        at += size
    return found


def _error(type: str | None, message: str | None, payload: bytes) -> bytes:
    try:
        said = json.loads(payload)
    except ValueError:
        said = {}
    said = said if isinstance(said, dict) else {}
    text = said.get("message") or said.get("Message") or message or type or "an error without a message"
    return json.dumps({**said, "message": text, "type": type}).encode()

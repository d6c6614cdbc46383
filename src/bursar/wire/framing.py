"""Bytes into frames, with no I/O: `feed(bytes)` gives the frames that are whole, `close()` what is left.

A frame keeps its exact bytes, so that frames put together again are the answer byte for byte. Lines end at
LF, CRLF or CR only: U+2028 and its like are text. Cutting the bytes anywhere gives the same frames' data.
"""

from __future__ import annotations

import re
from typing import Protocol

import msgspec

MAX_FRAME_BYTES = 32 * 1024 * 1024

_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class FramingError(ValueError):
    """The bytes are not cut into frames the way they say; its text tells what is wrong."""


class FrameTooLongError(FramingError):
    """A frame of the answer is longer than any answer's frame may be."""


class RawFrame(msgspec.Struct, gc=False):
    """One frame: its exact bytes, and its data (None for a comment, a heartbeat, an empty line)."""

    raw: bytes
    data: bytes | None
    event: str | None = None


class Framer(Protocol):
    """Bytes into frames."""

    @property
    def is_between(self) -> bool:
        """Whether the next byte begins a frame, of a kind that is cut by blank lines."""

    def feed(self, data: bytes) -> list[RawFrame]: ...

    def close(self) -> list[RawFrame]: ...


class _Buffered:
    def __init__(self) -> None:
        self._buffer = b""
        self._searched = 0

    def _extend(self, data: bytes) -> bytes:
        buffer = self._buffer + data if self._buffer else data
        if len(buffer) > MAX_FRAME_BYTES:
            raise FrameTooLongError(f"a frame of the answer is longer than {MAX_FRAME_BYTES} bytes")
        return buffer


class SseFramer(_Buffered):
    """Server-sent events, as the HTML standard's event stream is read."""

    @property
    def is_between(self) -> bool:
        return not (self._buffer or self._after_cr)

    def __init__(self) -> None:
        super().__init__()
        self._after_cr = False
        self._at_start = True

    def feed(self, data: bytes) -> list[RawFrame]:
        frames: list[RawFrame] = []
        if not data:
            return frames
        if self._after_cr:
            # The blank line ended with CR at the end of a packet; an LF that follows belongs to it.
            self._after_cr = False
            if data.startswith(b"\n"):
                frames.append(RawFrame(b"\n", None))
                data = data[1:]
        buffer = self._extend(data)
        if self._at_start and not buffer.startswith(_BOM[:1]):
            self._at_start = False
        if buffer.find(b"\r") < 0 and not self._at_start:
            return frames + self._plain_lines(buffer)
        start = 0
        search = max(0, self._searched - 3)
        while True:
            end = self._next_end(buffer, search)
            if end < 0:
                break
            frames.append(self._frame(buffer[start:end]))
            start = search = end
        if start == len(buffer) and frames and buffer.endswith(b"\r"):
            self._after_cr = True
        self._buffer = buffer[start:]
        self._searched = len(self._buffer)
        return frames

    def _plain_lines(self, buffer: bytes) -> list[RawFrame]:
        """Frames of lines that all end in LF, as nearly everybody writes them."""
        *whole, self._buffer = buffer.split(b"\n\n")
        self._searched = len(self._buffer)
        frames = []
        for text in whole:
            raw = text + b"\n\n"
            if text.startswith(b"data: ") and text.find(b"\n") < 0:
                frames.append(RawFrame(raw, text[6:]))
            else:
                frames.append(self._frame_of_lines(raw, raw))
        return frames

    def close(self) -> list[RawFrame]:
        left, self._buffer = self._buffer, b""
        return [self._frame(left)] if left else []

    @staticmethod
    def _next_end(buffer: bytes, search: int) -> int:
        found = _BLANK_LINE.search(buffer, search)
        return found.end() if found else -1

    def _frame(self, raw: bytes) -> RawFrame:
        text = raw
        if self._at_start:
            self._at_start = False
            text = text.removeprefix(_BOM)
        if (
            text.startswith(b"data: {")
            and text.endswith(b"}\n\n")
            and text.find(b"\n", 0, -2) < 0
            and text.find(b"\r") < 0
        ):
            return RawFrame(raw, text[6:-2])
        return self._frame_of_lines(raw, text)

    @staticmethod
    def _frame_of_lines(raw: bytes, text: bytes) -> RawFrame:
        data: list[bytes] = []
        event: str | None = None
        for line in _LINE_END.split(text):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                event = value.decode("utf-8", "replace")
        return RawFrame(raw, b"\n".join(data) if data else None, event)


class LineFramer(_Buffered):
    """One JSON value a line (NDJSON)."""

    is_between = False

    def feed(self, data: bytes) -> list[RawFrame]:
        buffer = self._extend(data)
        frames = []
        start = 0
        while (end := buffer.find(b"\n", max(start, self._searched))) >= 0:
            self._searched = 0
            raw = buffer[start : end + 1]
            frames.append(RawFrame(raw, raw.strip() or None))
            start = end + 1
        self._buffer = buffer[start:]
        self._searched = len(self._buffer)
        return frames

    def close(self) -> list[RawFrame]:
        left, self._buffer = self._buffer, b""
        return [RawFrame(left, left.strip() or None)] if left else []


class BytesFramer:
    """Bytes as they come: what they are is not read. `seen` tells whether any came."""

    is_between = False

    def __init__(self) -> None:
        self.seen = False

    def feed(self, data: bytes) -> list[RawFrame]:
        self.seen = True
        return [RawFrame(data, None)]

    def close(self) -> list[RawFrame]:
        return []


class WholeFramer:
    """One frame: the whole body."""

    is_between = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[RawFrame]:
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_FRAME_BYTES * 4:
            raise FrameTooLongError(f"the answer is longer than {MAX_FRAME_BYTES * 4} bytes")
        return []

    def close(self) -> list[RawFrame]:
        raw = b"".join(self._parts)
        self._parts = []
        return [RawFrame(raw, raw.strip() or None)] if raw else []

"""Answers that come compressed though they were asked for plainly."""

from __future__ import annotations

import zlib
from typing import Protocol

from bursar.net.transport import HungUpError

_MOST_BYTES = 256 * 1024 * 1024
# What one step takes and gives at most: a thousandth of the bytes can be the whole of an answer.
_TAKEN_BYTES, _GIVEN_BYTES = 16 * 1024, 256 * 1024
_MOST_MEMBERS = 4096


class Inflater(Protocol):
    """Compressed bytes into plain ones."""

    @property
    def has_more(self) -> bool:
        """Whether `feed(b"")` goes on with what it was given."""

    def feed(self, data: bytes) -> bytes:
        """Takes `data` and gives as much as one step gives. Raises HungUpError."""

    def close(self) -> bytes:
        """The end has come. Raises HungUpError in the middle of something."""


class _Zlib:
    """gzip, or deflate with or without its header."""

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._inflate = zlib.decompressobj(wbits)
        self._size = 0
        self._members = 1
        self._begun = False
        self._first = b""
        self._given: list[memoryview] = []  # not taken yet, the last first
        self._rest = b""  # of what was taken, where one step was not enough
        self._is_full = False  # there may be more to come of what was taken

    @property
    def has_more(self) -> bool:
        return bool(self._rest or self._is_full or self._given)

    def feed(self, data: bytes) -> bytes:
        if not self._begun and self._wbits == zlib.MAX_WBITS:
            # Its first two bytes tell whether it is wrapped: they are read together.
            data, self._first = self._first + data, b""
            if len(data) < 2:
                self._first = data
                return b""
        if data:
            self._given.insert(0, memoryview(data))
        plain = self._step(self._rest or self._next())
        self._size += len(plain)
        if self._size > _MOST_BYTES:
            raise HungUpError(f"its compressed answer is longer than {_MOST_BYTES} bytes")
        return plain

    def close(self) -> bytes:
        if self._first or (self._begun and not self._inflate.eof):
            raise HungUpError("its compressed answer ends in the middle")
        return self._inflate.flush()

    def _next(self) -> bytes:
        if self._is_full or not self._given:
            return b""
        view = self._given.pop()
        if len(view) > _TAKEN_BYTES:
            self._given.append(view[_TAKEN_BYTES:])
        return bytes(view[:_TAKEN_BYTES])

    def _step(self, data: bytes) -> bytes:
        """Reads some of one member, and what stands behind it next time."""
        if self._inflate.eof:
            if not data.strip(b"\0"):
                self._rest = b""
                return b""
            self._another()
        try:
            plain = self._read(data)
        except zlib.error as e:
            raise HungUpError(f"its compressed answer cannot be read: {e}") from e
        self._begun = self._begun or bool(data)
        self._rest = self._inflate.unconsumed_tail or self._inflate.unused_data
        self._is_full = len(plain) == _GIVEN_BYTES and not self._inflate.eof
        return plain

    def _read(self, data: bytes) -> bytes:
        try:
            return self._inflate.decompress(data, _GIVEN_BYTES)
        except zlib.error:
            if self._begun or self._wbits != zlib.MAX_WBITS:
                raise
            # Some servers call a bare deflate stream by the name of the wrapped one.
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            return self._inflate.decompress(data, _GIVEN_BYTES)

    def _another(self) -> None:
        """Another member behind the first: they are one text."""
        self._members += 1
        if self._members > _MOST_MEMBERS:
            raise HungUpError(f"its compressed answer is of more than {_MOST_MEMBERS} parts")
        self._inflate = zlib.decompressobj(self._wbits)


def inflater(coding: str) -> Inflater:
    """A reader of a content coding. Raises HungUpError where it is none that was asked for or is known."""
    name = coding.strip().lower()
    if name in ("gzip", "x-gzip"):
        return _Zlib(16 + zlib.MAX_WBITS)
    if name == "deflate":
        return _Zlib(zlib.MAX_WBITS)
    raise HungUpError(f"it answered in the coding '{coding[:40]}', though plain bytes were asked for")

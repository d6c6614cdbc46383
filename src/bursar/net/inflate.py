"""Answers that come compressed though they were asked for plainly."""

from __future__ import annotations

import zlib
from typing import Protocol

from bursar.net.transport import HungUpError

_MOST_BYTES = 256 * 1024 * 1024


class Inflater(Protocol):
    """Compressed bytes into plain ones."""

    def feed(self, data: bytes) -> bytes: ...

    def close(self) -> bytes: ...


class _Zlib:
    """gzip, or deflate with or without its header."""

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._inflate = zlib.decompressobj(wbits)
        self._size = 0
        self._begun = False

    def feed(self, data: bytes) -> bytes:
        try:
            try:
                plain = self._inflate.decompress(data, _MOST_BYTES)
            except zlib.error:
                if self._begun or self._wbits != zlib.MAX_WBITS:
                    raise
                # Some servers call a bare deflate stream by the name of the wrapped one.
                self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
                plain = self._inflate.decompress(data, _MOST_BYTES)
        except zlib.error as e:
            raise HungUpError(f"its compressed answer cannot be read: {e}") from e
        while self._inflate.eof and self._inflate.unused_data.strip(b"\0"):
            # Another member behind the first: they are one text.
            rest, self._inflate = self._inflate.unused_data, zlib.decompressobj(self._wbits)
            try:
                plain += self._inflate.decompress(rest, _MOST_BYTES)
            except zlib.error as e:
                raise HungUpError(f"its compressed answer cannot be read: {e}") from e
        self._begun = True
        self._size += len(plain)
        if self._inflate.unconsumed_tail or self._size > _MOST_BYTES:
            raise HungUpError(f"its compressed answer is longer than {_MOST_BYTES} bytes")
        return plain

    def close(self) -> bytes:
        if self._begun and not self._inflate.eof:
            raise HungUpError("its compressed answer ends in the middle")
        return self._inflate.flush()


def inflater(coding: str) -> Inflater:
    """A reader of a content coding. Raises HungUpError where it is none that was asked for or is known."""
    name = coding.strip().lower()
    if name in ("gzip", "x-gzip"):
        return _Zlib(16 + zlib.MAX_WBITS)
    if name == "deflate":
        return _Zlib(zlib.MAX_WBITS)
    raise HungUpError(f"it answered in the coding '{coding[:40]}', though plain bytes were asked for")

"""Heads of HTTP messages as lines: what is told of one, that a parser has read, by another that was read before."""

from __future__ import annotations

from collections.abc import Sequence

LENGTH = b"content-length"
MOST_BYTES = 4096
"""Of longer heads nothing is kept."""
MOST_DIGITS = 12
"""Of a length that is read without a parser."""
# A line is some two hundred bytes of objects, so that a head of short ones would be kept at many times its size.
_MOST_LINES = 64
# What many say of a connection, though it is so without it.
_KEEPS = b"keep-alive"
# Headers that make more of a head than its first line and the length of its body.
_SPECIAL = frozenset({b"connection", b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade"})
# A parser looks at the value of these, and none of them is a length.
_PARSED = _SPECIAL | {b"proxy-connection"}
_PLAIN = bytes(range(0x20, 0x7F))


def is_common(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether these headers, by lower-case name, say nothing of their message but how long it is."""
    return not any(
        name in _SPECIAL and not (name == b"connection" and value.lower() == _KEEPS) for name, value in headers
    )


def lines_of(head: bytes, headers: Sequence[tuple[bytes, bytes]]) -> list[bytes] | None:
    """The lines of a head, given with its end, that is nothing but one of these headers in each, all by different
    names, and not too many to keep; None of any other."""
    lines = head[:-4].split(b"\r\n")
    if len(lines) > _MOST_LINES:
        return None
    seen = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines[1:])]
    return lines if seen == list(headers) and len(dict(headers)) == len(headers) else None


class Form:
    """A head as it comes again and again: what always stands in it, and the values between, which it learns of the
    heads that it reads. They are plain text of headers that a parser only hands on, and a length of digits: where a
    head differs in more, only a parser can tell what it says."""

    __slots__ = ("_behind", "_gaps", "_lines", "_varies")

    def __init__(self, lines: list[bytes], varies: frozenset[int] = frozenset()) -> None:
        """`lines` are what `lines_of` gave; those at `varies` have other values in other heads."""
        self._lines = lines
        self._varies = varies
        self._gaps: list[tuple[bytes, int, bytes]] = []
        before = b""
        for n, line in enumerate(lines):
            if n in varies:
                name = line.partition(b": ")[0]
                before += name + b": "
                self._gaps.append((before, len(before), name.lower()))
                before = b"\r\n"
            else:
                before += line + b"\r\n"
        self._behind = before + b"\r\n"

    def read(self, data: bytes) -> tuple[dict[bytes, bytes], int] | None:
        """The values of the head that these bytes begin with, by lower-case name, and its size with its end; None where
        it is another."""
        found = self._read(data)
        if found is None:
            wider = self._wider(data)
            found = wider._read(data) if wider is not None else None
            if wider is not None and found is not None:
                self._varies, self._gaps, self._behind = wider._varies, wider._gaps, wider._behind
        return found

    def _read(self, data: bytes) -> tuple[dict[bytes, bytes], int] | None:
        at, values = 0, {}
        for before, size, name in self._gaps:
            if not data.startswith(before, at):
                return None
            at += size
            end = data.find(b"\r", at)
            value = data[at:end]
            if name == LENGTH:
                if not value.isdigit() or len(value) > MOST_DIGITS:
                    return None
            elif not value or value.translate(None, _PLAIN) or value.strip() != value:
                return None
            values[name] = value
            at = end
        behind = self._behind
        return (values, at + len(behind)) if data.startswith(behind, at) else None

    def _wider(self, data: bytes) -> Form | None:
        """One that may read the head that these bytes begin with, too; None where none of the same lines can."""
        end = data.find(b"\r\n\r\n", 0, MOST_BYTES)
        if end < 0:
            return None
        lines, varies = data[:end].split(b"\r\n"), set(self._varies)
        if len(lines) != len(self._lines) or lines[0] != self._lines[0]:
            return None
        for n, (line, its) in enumerate(zip(lines, self._lines, strict=True)):
            if line == its:
                continue
            name = line.partition(b": ")[0]
            if not its.startswith(name + b": ") or name.lower() in _PARSED:
                return None
            varies.add(n)
        return Form(self._lines, frozenset(varies)) if len(varies) > len(self._varies) else None

"""Heads of requests, and those that need not be parsed: such as were read before, to the byte but for the length of
their body, and such as differ from their connection's last one in nothing but values, as heads with ids do.

The parser has seen every head that is known here, or one that says the same of its body and its connection.
"""

from __future__ import annotations

from itertools import compress
from operator import ne
from typing import Any
from urllib.parse import unquote

import httptools

Headers = list[tuple[bytes, bytes]]

_MOST_HEADS = 1024
_MOST_BYTES = 4096
_LENGTH = b"content-length"
# What nearly all clients say of their connection, though it is so without it.
_KEEPS = b"keep-alive"
# What makes more of a head than its method, its target and the length of its body.
_SPECIAL = frozenset({b"connection", b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade"})
# The parser looks at the value of these.
_PARSED = _SPECIAL | {_LENGTH, b"proxy-connection"}
_PLAIN = bytes(range(0x20, 0x7F))


def _path_of(url: bytes) -> str:
    """The decoded path of a request's target. Raises HttpParserInvalidURLError."""
    if b"?" in url or b"%" in url or not url.startswith(b"/"):
        url = httptools.parse_url(url).path or b"/"
        return unquote(url.decode("ascii"))
    return url.decode("ascii")


class Head:
    """The head of a request, but for its length. `named` has its headers by lower-case name, the last of each; `path`
    is decoded. `said` is for who answers: the caller, the type of a form, and what else a call with this head is, once
    he has read it for one."""

    __slots__ = ("_headers", "keep_alive", "method", "named", "path", "said", "url")

    def __init__(self, method: bytes, url: bytes, headers: Headers, keep_alive: bool) -> None:
        """Raises HttpParserInvalidURLError."""
        self.method = method
        self.url = url
        self.keep_alive = keep_alive
        self._headers: Headers | None = [header for header in headers if header[0] != _LENGTH]
        self.named = dict(self._headers)
        self.path = _path_of(url)
        self.said: tuple[object, str | None, tuple[Any, ...]] | None = None

    @property
    def headers(self) -> Headers:
        """All of them, in the order they came."""
        return list(self.named.items()) if self._headers is None else self._headers

    @property
    def is_common(self) -> bool:
        """Whether a request with just this head may come again, with nothing in it but its length to go by."""
        # To the parser no request to connect has a body, whatever it says.
        return (
            self.keep_alive
            and self.method != b"CONNECT"
            and not any(
                name in _SPECIAL and not (name == b"connection" and value.lower() == _KEEPS)
                for name, value in self.headers
            )
        )

    def with_values(self, values: dict[bytes, bytes]) -> Head:
        """The same with other values of headers that stand in it once."""
        head = Head.__new__(Head)
        head.method, head.url, head.path, head.keep_alive = self.method, self.url, self.path, self.keep_alive
        head._headers, head.said = None, None
        head.named = self.named | values
        return head


class Known:
    """A head that was read before: what stands before and behind the digits of its length, the latter up to its end.
    `lines` are its lines, where it is nothing but one header in each, all by different names; the one at `length_at`
    says the length."""

    __slots__ = ("before", "behind", "head", "length_at", "lines")

    def __init__(
        self, before: bytes, behind: bytes, head: Head, lines: list[bytes] | None = None, length_at: int = 0
    ) -> None:
        self.before = before
        self.behind = behind
        self.head = head
        self.lines = lines
        self.length_at = length_at


NONE = Known(b"\0", b"", Head(b"", b"/", [], False))
Heads = dict[bytes, Known]
"""Heads that were read before, on any connection, by their bytes without what says the length."""


def first_of(data: bytes) -> bytes | None:
    """A head with its end, if these bytes begin with one that may be remembered."""
    size = data.find(b"\r\n\r\n") + 4
    return data[:size] if _MOST_BYTES > size > 4 else None


def remembered(heads: Heads, first: bytes, headers: Headers, head: Head) -> Known:
    """Keeps a head, which the parser found these headers in, by what it is without its length, where that can be told
    from its bytes; NONE where it cannot."""
    said = [value for name, value in headers if name == _LENGTH]
    # It is what the parser saw only if it begins with the request, and every line ends as lines of heads do.
    if not (
        head.is_common
        and len(said) == 1
        and first.startswith(b"%b %b HTTP/1.1\r\n" % (head.method, head.url))
        and first.count(b"\n") == first.count(b"\r") == first.count(b"\r\n")
    ):
        return NONE
    at, end = _length_in(first, len(first))
    if first[at:end] != said[0] or not first[:at].lower().endswith(b"\r\ncontent-length: "):
        return NONE
    if len(heads) >= _MOST_HEADS:
        heads.clear()
    before, behind = first[:at], first[end:]
    lines = _lines_of(first, headers)
    known = heads[before + behind] = Known(before, behind, head, lines, before.count(b"\r\n"))
    return known


def known_head(heads: Heads, last: Known, data: bytes) -> Known:
    """The head this begins with, if it was read before, or is like the `last` one of its connection; NONE otherwise."""
    size = data.find(b"\r\n\r\n") + 4
    at, end = _length_in(data, size)
    return heads.get(data[:at] + data[end:size]) or _alike(last, data, size) or NONE


def _alike(last: Known, data: bytes, size: int) -> Known | None:
    """A head of this size that has the lines of the last one, but for some values, which are plain text of headers that
    the parser only hands on."""
    old = last.lines
    if old is None or not 4 < size < _MOST_BYTES:
        return None
    lines = data[: size - 4].split(b"\r\n")
    if len(lines) != len(old) or lines[0] != old[0]:
        return None
    values: dict[bytes, bytes] = {}
    for line, its in compress(zip(lines, old, strict=True), map(ne, lines, old)):
        name, _, value = line.partition(b": ")
        if not its.startswith(b"%b: " % name):
            return None
        lower = name.lower()
        if lower == _LENGTH:
            if not value.isdigit():
                return None
        elif lower in _PARSED or not value or value.translate(None, _PLAIN) or value.strip() != value:
            return None
        else:
            values[lower] = value
    at = data.index(b"\r\n%b\r\n" % lines[last.length_at]) + len(b"\r\ncontent-length: ")
    end = data.index(b"\r", at)
    return Known(data[:at], data[end:size], last.head.with_values(values), lines, last.length_at)


def _lines_of(first: bytes, headers: Headers) -> list[bytes] | None:
    """The lines of a head that is nothing but these headers, each with a name of its own."""
    lines = first[:-4].split(b"\r\n")
    seen = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines[1:])]
    return lines if seen == headers and len(dict(headers)) == len(headers) else None


def _length_in(data: bytes, size: int) -> tuple[int, int]:
    """Between which bytes of a head of this size its length stands, if it is written as clients write it."""
    at = data.find(b"ength: ", 0, size) + 7
    return at, data.find(b"\r", at, size)

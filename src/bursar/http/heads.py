"""Heads of requests, and those that need not be parsed: such as were read before, to the byte but for the length of
their body, and such as differ from their connection's last one in nothing but values, as heads with ids do.

The parser has seen every head that is known here, or one that says the same of its body and its connection.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import httptools

from bursar.wire.lines import LENGTH, MOST_BYTES, MOST_DIGITS, Form, is_common, lines_of

Headers = list[tuple[bytes, bytes]]

_MOST_HEADS = 1024


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
        self._headers: Headers | None = [header for header in headers if header[0] != LENGTH]
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
        return self.keep_alive and is_common(self.headers)

    def with_values(self, values: dict[bytes, bytes]) -> Head:
        """The same with other values of headers that stand in it once."""
        head = Head.__new__(Head)
        head.method, head.url, head.path, head.keep_alive = self.method, self.url, self.path, self.keep_alive
        head._headers, head.said = None, None
        head.named = self.named | values
        return head


class Known:
    """A head that was read before: what stands before and behind the digits of its length, the latter up to its end.
    `form` is how others like it are read, where it can be told from its lines."""

    __slots__ = ("before", "behind", "form", "head")

    def __init__(self, before: bytes, behind: bytes, head: Head, form: Form | None = None) -> None:
        self.before = before
        self.behind = behind
        self.head = head
        self.form = form


# Behind digits stands a line's end, or the last byte of all where there is none: never two of these.
NONE = Known(b"\0", b"\0\0", Head(b"", b"/", [], False))
Heads = dict[bytes, Known]
"""Heads that were read before, on any connection, by their bytes without what says the length."""


def first_of(data: bytes) -> bytes | None:
    """A head with its end, if these bytes begin with one that may be remembered."""
    size = data.find(b"\r\n\r\n") + 4
    return data[:size] if MOST_BYTES > size > 4 else None


def remembered(heads: Heads, first: bytes, headers: Headers, head: Head) -> Known:
    """Keeps a head, which the parser found these headers in, by what it is without its length, where that can be told
    from its bytes; NONE where it cannot."""
    said = [value for name, value in headers if name == LENGTH]
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
    lines = lines_of(first, headers)
    form = Form(lines, frozenset({before.count(b"\r\n")})) if lines is not None else None
    known = heads[before + behind] = Known(before, behind, head, form)
    return known


def told(heads: Heads, last: Known, data: bytes) -> tuple[Known, Head, int, int] | None:
    """What of the known ones tells the head that these bytes begin with, that head, its size with its end, and the
    length it says: one that was read before, or one like the `last` of its connection. None where only the parser can
    tell it."""
    size = data.find(b"\r\n\r\n") + 4
    if not 4 < size < MOST_BYTES:
        return None
    at, end = _length_in(data, size)
    known, said = heads.get(data[:at] + data[end:size]), data[at:end]
    if known is not None:
        return (known, known.head, size, int(said)) if said.isdigit() and len(said) <= MOST_DIGITS else None
    read = last.form.read(data) if last.form is not None else None
    if read is None:
        return None
    values, size = read
    said = values.pop(LENGTH)
    return last, last.head.with_values(values), size, int(said)


def _length_in(data: bytes, size: int) -> tuple[int, int]:
    """Between which bytes of a head of this size its length stands, if it is written as clients write it."""
    at = data.find(b"ength: ", 0, size) + 7
    return at, data.find(b"\r", at, size)

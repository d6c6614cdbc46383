"""Heads that are not parsed say what the parser would say of them, or are left to it."""

from __future__ import annotations

from typing import Any

import httptools
import pytest
from hypothesis import event, example, given, settings

from bursar.http.heads import NONE, Head, Headers, Heads, Known, first_of, remembered, told
from support.edits import Edits, edited, edits_of

_USUAL = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: h:1\r\nConnection: keep-alive\r\nauthorization: Bearer k\r\n"
    b"x-bursar-session: s-1\r\ntraceparent: 00-1-2-01\r\nProxy-Connection: keep-alive\r\nContent-Length: 12\r\n"
    b"user-agent: A: b\r\n\r\n"
)


class _Parsed:
    """What the parser says of a head; `refused` where it is none."""

    def __init__(self, data: bytes) -> None:
        self.url, self.headers, self.refused, self.whole = b"", [], False, False
        self.headers: Headers
        parser: Any = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.refused = True
        self.method, self.keeps, self.version = (
            parser.get_method(), parser.should_keep_alive(), parser.get_http_version(),
        )  # fmt: skip

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.whole = True

    @property
    def length(self) -> list[bytes]:
        return [value for name, value in self.headers if name == b"content-length"]


def _read(heads: Heads, head: bytes) -> Known:
    """As the protocol has a head remembered that the parser has read."""
    first, seen = first_of(head), _Parsed(head)
    assert first is not None
    assert seen.whole
    known = Head(seen.method, seen.url, seen.headers, seen.keeps and seen.version != "1.0")
    return remembered(heads, first, seen.headers, known)


def _agrees(found: tuple[Known, Head, int, int], data: bytes) -> None:
    """Whether a head that was told without the parser is what the parser says of it."""
    _, head, size, length = found
    assert data[:size].endswith(b"\r\n\r\n")
    seen = _Parsed(data[:size])
    assert seen.whole
    assert not seen.refused
    assert (head.method, head.url, head.keep_alive) == (seen.method, seen.url, seen.keeps)
    assert [int(said) for said in seen.length] == [length]
    others = [header for header in seen.headers if header[0] != b"content-length"]
    assert head.headers == others
    assert head.named == dict(others)


@settings(max_examples=1500, deadline=None)
@given(edits_of(_USUAL, b"Content-Length: 3", b"\r\nte: x", b"close", b"\r\ntransfer-encoding: chunked"))
@example([(_USUAL.index(b"s-1"), 3, b"s-another one")])
@example([(_USUAL.index(b"s-1") + 3, 0, b" ")])
@example([(_USUAL.index(b"12"), 2, b"7"), (_USUAL.index(b"s-1"), 0, b"y")])
@example([(_USUAL.index(b"12") + 2, 0, b"\r")])
@example([(_USUAL.index(b"keep-alive\r\nC"), 10, b"close")])
@example([(_USUAL.index(b"HTTP"), 0, b"x: y ")])
@example([(_USUAL.index(b"Host"), 4, b"Content-Length")])
def test_a_head_like_the_last_one_is_what_the_parser_says(edits: Edits) -> None:
    heads: Heads = {}
    last = _read(heads, _USUAL)
    assert last is not NONE
    data = edited(_USUAL, edits)
    for asked in (data, _USUAL, data):  # what was learned of the first is asked of the others
        found = told(heads, last, asked)
        event("told" if found is not None else "left to the parser")
        if found is not None:
            _agrees(found, asked)


@pytest.mark.parametrize(
    ("old", "new", "is_known"),
    [
        (b"s-1", b"s-22", True),
        (b"00-1-2-01", b"{}~ !", True),
        (b"Bearer k", b"Bearer of another key", True),
        (b": 12", b": 7", True),
        (b"h:1", b"", False),
        (b"s-1", b"s-1 ", False),
        (b"s-1", b" s-1", False),
        (b"s-1", b"s\t1", False),
        (b"s-1", b"s-\xc3\xbc", False),
        (b"s-1", b"s\n1", False),
        (b"x-bursar-session", b"x-bursar-sessioN", False),
        (b"x-bursar-session: ", b"x-bursar-session:", False),
        (b"Connection: keep-alive", b"Connection: close", False),
        (b"Proxy-Connection: keep-alive", b"Proxy-Connection: close", False),
        (b"POST", b"PUT", False),
        (b"/v1/chat", b"/v2/chat", False),
        (b"HTTP/1.1", b"HTTP/1.0", False),
        (b"user-agent: A: b\r\n", b"", False),
        (b"user-agent: A: b\r\n", b"user-agent: A: b\r\nte: x\r\n", False),
    ],
)
def test_which_values_may_differ(old: bytes, new: bytes, is_known: bool) -> None:
    heads: Heads = {}
    last = _read(heads, _USUAL)
    assert old in _USUAL
    data = _USUAL.replace(old, new, 1)
    found = told(heads, last, data)
    assert (found is not None) == is_known
    if found is not None:
        _agrees(found, data)
        assert found[0] is last


@pytest.mark.parametrize(
    "head",
    [
        b"POST /a HTTP/1.1\r\nx-s: 1\r\nX-S: 2\r\ncontent-length: 1\r\n\r\n",
        b"POST /a HTTP/1.1\r\nx-s:1\r\ncontent-length: 1\r\n\r\n",
        b"POST /a HTTP/1.1\r\nx-s:  1\r\ncontent-length: 1\r\n\r\n",
        b"POST /a HTTP/1.1\r\nx-s: 1\r\nx-e:\r\ncontent-length: 1\r\n\r\n",
    ],
)
def test_an_unusual_head_is_known_to_the_byte_alone(head: bytes) -> None:
    heads: Heads = {}
    last = _read(heads, head)
    for same in (head, head.replace(b"length: 1", b"length: 23")):
        found = told(heads, NONE, same)
        assert found is not None
        assert found[0] is last
        _agrees(found, same)
    other = head.replace(b"1\r\n", b"3\r\n", 2).replace(b"TP/1.3", b"TP/1.1")
    assert other != head
    assert told(heads, last, other) is None

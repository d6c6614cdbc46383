"""Answers that are told by one that was read before are what the parser says of them, or are left to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from bursar.net.connection import Connection
from bursar.net.head import Origin
from bursar.net.known import Known
from bursar.net.turns import Turns
from support.edits import Edits, edited, edits_of

_BODY = b'{"id":"one","choices":[]}'
_USUAL = (
    b"HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 04:05:06 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: keep-alive\r\nx-request-id: req_1\r\nSet-Cookie: a=b; c: d\r\n"
    b"x-ratelimit-remaining: 7\r\n\r\n%b" % (len(_BODY), _BODY)
)


class _Owner:
    def __init__(self) -> None:
        self.turns = Turns()
        self.back = 0

    def take_back(self, connection: Connection) -> None:
        self.back += 1

    def lost(self, connection: Connection) -> None: ...


class _Wire(asyncio.Transport):
    aborted = False

    def write(self, data: Any) -> None: ...

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...


class _Line:
    """A connection whose answers are read one by one, each given as so many pieces."""

    def __init__(self, *, tells: bool) -> None:
        self._tells = tells
        self._owner = _Owner()
        self.wire = _Wire()
        self.connection = Connection(self._owner, Origin(False, "h", 80))
        self.connection.connection_made(self.wire)

    @property
    def known(self) -> Known | None:
        return self.connection._answers.known

    async def read(self, *pieces: bytes) -> dict[str, object]:
        """All that is to be seen of an exchange."""
        if not self._tells:
            self.connection._answers.known = None
        exchange = self.connection.begin(b"request")
        while self.connection._request is not None:  # noqa: ASYNC110  it leaves at the turn's end
            await asyncio.sleep(0)
        for piece in pieces:
            self.connection.data_received(piece)
        seen = {
            "status": exchange.status, "headed": exchange.headed, "complete": exchange.is_complete,
            "headers": dict(exchange.headers), "body": b"".join(exchange._parts), "keeps": exchange.keeps,
            "failure": repr(exchange._failure), "aborted": self.wire.aborted,
        }  # fmt: skip
        if not self.wire.aborted:
            exchange.abort()  # of a complete one that is its end
        return seen | {"kept": self._owner.back, "aborted behind it": self.wire.aborted}


_EDITS = edits_of(_USUAL, b"\r\nContent-Length: 3", b"close", b"\r\ntransfer-encoding: chunked", b"HTTP/1.1 200 OK")


@settings(max_examples=800, deadline=None)
@given(st.lists(_EDITS, min_size=1, max_size=3))
@example([[(_USUAL.index(b"req_1"), 5, b"req_of another")], [], [(_USUAL.index(b"04:05"), 5, b"04:06")]])
@example([[(_USUAL.index(b"req_1") + 5, 0, b"\r\nx-more: 1")]])
@example([[(_USUAL.index(b"req_1") + 5, 0, b" ")]])
@example([[(len(_USUAL), 0, b"x")], []])
@example([[(len(_USUAL) - 1, 1, b"")], []])
@example([[(_USUAL.index(b"keep-alive"), 10, b"close")], []])
@example([[(_USUAL.index(b"25\r\n"), 2, b"0")], []])
@example([[(_USUAL.index(b"200 OK"), 3, b"204")], []])
@example([[(_USUAL.index(b"200 OK"), 3, b"100")], []])
@example([[(_USUAL.index(b"25\r\n"), 2, b"025")], []])
def test_an_answer_like_one_before_is_what_the_parser_says(several: list[Edits]) -> None:
    async def work() -> None:
        tells, parses = _Line(tells=True), _Line(tells=False)
        assert await tells.read(_USUAL) == await parses.read(_USUAL)
        assert tells.known is not None
        for edits in several:
            data = edited(_USUAL, edits)
            if tells.wire.aborted:
                break
            known = tells.known
            told = known.like(data) is not None if known is not None else False
            event("told" if told else "left to the parser")
            assert await tells.read(data) == await parses.read(data)

    asyncio.run(work())


async def test_which_answers_are_told_by_another() -> None:
    line = _Line(tells=True)
    for n in range(3):
        data = _USUAL.replace(b"req_1", b"req_%d" % 10**n).replace(b": 7", b": %d" % n)
        before = line.known
        assert before is None or before.like(data) is not None
        seen = await line.read(data)
        assert (seen["complete"], seen["keeps"], seen["body"], seen["kept"]) == (True, True, _BODY, n + 1)
        assert seen["headers"] == {
            b"date": b"Tue, 24 Nov 2026 04:05:06 GMT", b"content-type": b"application/json", b"content-length": b"25",
            b"connection": b"keep-alive", b"x-request-id": b"req_%d" % 10**n, b"set-cookie": b"a=b; c: d",
            b"x-ratelimit-remaining": b"%d" % n,
        }  # fmt: skip
    assert before is line.known
    longer = _USUAL.replace(b"25\r\n", b"26\r\n") + b" "
    assert line.known is not None
    assert line.known.like(longer) is not None
    assert (await line.read(longer))["body"] == _BODY + b" "


@pytest.mark.parametrize("length", [b"0" * 5000 + b"25", b"9" * 5000, b"0" * 11 + b"25", b""])
async def test_a_length_of_many_digits_is_left_to_the_parser(length: bytes) -> None:
    """More of them than Python makes a number of, where a length is known to vary."""
    tells, parses = _Line(tells=True), _Line(tells=False)
    for n in (b"25", b"26", length):
        data = _USUAL.replace(b": 25\r\n", b": %b\r\n" % n) + b" " * (n == b"26")
        assert await tells.read(data) == await parses.read(data)


@pytest.mark.parametrize("cut", [1, 20, _USUAL.index(b"\r\n\r\n") + 2, _USUAL.index(b"{"), len(_USUAL) - 1])
async def test_an_answer_in_two_pieces_is_left_to_the_parser(cut: int) -> None:
    """Before one that is told by another, and behind it."""
    line = _Line(tells=True)
    await line.read(_USUAL)
    for _ in range(2):
        for pieces in ((_USUAL[:cut], _USUAL[cut:]), (_USUAL,), (b"HTTP/1.1 100 Continue\r\n\r\n", _USUAL)):
            seen = await line.read(*pieces)
            assert (seen["status"], seen["complete"], seen["keeps"], seen["body"]) == (200, True, True, _BODY)
    assert not line.wire.aborted


@pytest.mark.parametrize(
    "answer",
    [
        _USUAL.replace(b"Connection: keep-alive", b"Connection: close"),
        _USUAL.replace(b"Content-Length: 25\r\n", b"Transfer-Encoding: chunked\r\n").replace(
            _BODY, b"19\r\n" + _BODY + b"\r\n0\r\n\r\n"
        ),
        _USUAL.replace(b"x-request-id: req_1", b"x-request-id:req_1"),
        _USUAL.replace(b"x-ratelimit-remaining", b"set-cookie"),
        b"HTTP/1.1 204 No Content\r\nx-request-id: 1\r\n\r\n",
        # Of these the parser reads no body, whatever length they say.
        b"HTTP/1.1 204 No Content\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: 1\r\n" % n for n in range(100)) + b"content-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 5000 + b"\r\ncontent-length: 1\r\n\r\nx",
    ],
)
async def test_nothing_is_told_by_an_unusual_answer(answer: bytes) -> None:
    line = _Line(tells=True)
    assert (await line.read(answer))["complete"] is True
    assert line.known is None

"""One request and its answer, on one connection of a client.

The data plane reads the request and writes its answer here as it is, without the messages of ASGI. An answer's
head leaves with the first of its body in one write, for each write wakes the client's side.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from bursar.http.heads import Head
from bursar.types.errors import RequestError
from bursar.wire.openings import Opening

if TYPE_CHECKING:
    from bursar.http.protocol import Protocol


def _status_line(status: int) -> bytes:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}
_breaks = re.compile(rb"[\r\n\0]").search
_CLOSE = b"connection: close\r\n\r\n"
_FAULT = b'{"error": {"message": "internal error", "type": "server_error", "param": null, "code": "internal_error"}}'
_FAULT_LINES = b"content-type: application/json\r\n"


class TooLargeError(RequestError):
    """The body is larger than this server takes."""

    http_status = 413
    code = "request_too_large"


def lines_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they stand in a head. Raises RuntimeError where one has a line end in it."""
    lines = []
    for name, value in headers:
        if _breaks(value) or _breaks(name):
            raise RuntimeError("a header of the answer has a line end in it")
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


class Cycle(msgspec.Struct, eq=False):
    """One request and its answer. Its answer is `answer`, or `begin` and any number of `write` up to the last.

    `length` is the number of bytes its body is said to have, None where it is not said; `complete` is true when the
    request has come to its end; `opening` is what its body begins with, where others did and it came in one piece, by
    itself or with the head; `own_lines` are headers of every answer to it, each with its line end.
    """

    protocol: Protocol
    head: Head
    keep_alive: bool
    length: int | None = None
    disconnected: bool = False
    response_complete: bool = False
    complete: bool = False
    opening: Opening | None = None
    own_lines: bytes = b""
    _size: int = 0
    _started: bool = False
    _permitted: bool = False
    _is_told: bool = False
    _reads_on: bool = False
    _waiter: asyncio.Future[None] | None = None
    _answer_head: bytes | None = None
    _left: int | None = None  # bytes of body still to come; None is chunked
    _parts: list[bytes] = []

    def ended(self, error: BaseException | None = None) -> None:
        """What answers has come to its end, or to this fault, which never goes without an answer or an end."""
        if error is None:
            if self.response_complete or self.disconnected:
                return
            self.protocol.logger.error("a request was left without an answer")
        elif not isinstance(error, asyncio.CancelledError):  # its client has left then, or the server goes
            self.protocol.logger.error("a request failed inside", exc_info=error)
        self.fail()

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for the whole body."""
        return self._reads_on

    @property
    def is_answering(self) -> bool:
        """Whether its answer has begun and not ended."""
        return self._started and not self.response_complete

    @property
    def message_event(self) -> Cycle:
        """The name uvicorn's protocol wakes a waiting reader by: its `set()` is ours."""
        return self

    def set(self) -> None:
        """Wakes who waits for the body."""
        if self._waiter is not None:
            self.protocol.turns.wake(self._waiter)

    def take(self, part: bytes, opening: Opening | None = None) -> None:
        """A part of the request's body; with `opening` all of it, but for that."""
        self._parts.append(part)
        self._size += len(part)
        if opening is not None:
            self.opening = opening
            self._size += len(opening.both)
        if self._size > HIGH_WATER_LIMIT and not self._reads_on:
            self.protocol.flow.pause_reading()
        if self._waiter is not None:
            self.set()

    def at_hand(self, most: int) -> bytes | None:
        """The body where all of it has come, is no longer than this, and fits in one read, without its `opening`; else
        None: `body` tells."""
        if not self.complete or self.disconnected or self._size > most or self._size > HIGH_WATER_LIMIT:
            return None
        return self._parts.pop() if len(self._parts) == 1 else self._taken()

    async def body(self, most: int) -> bytes | None:
        """The whole body, None where the client left before it was sent. Raises TooLargeError beyond `most` bytes."""
        if not self.complete:
            if self.length is not None and self.length > most:
                raise TooLargeError(f"the body of {self.length} bytes is larger than the {most} this server takes")
            self._reads_on = True
            while not (self.complete or self.disconnected or self._size > most):
                await self._news()
        if self.disconnected:
            return None
        if self._size > most:
            raise TooLargeError(f"the body is larger than the {most} bytes this server takes")
        if self._size > HIGH_WATER_LIMIT and not self.protocol.pipeline:
            self.protocol.flow.resume_reading()  # or nobody would notice that the client leaves
        return self._taken()

    async def part(self) -> tuple[bytes, bool] | None:
        """What has come of the body since, and whether more is to come. After its end this waits, and is None when
        the client has left or the answer has ended."""
        while not (self.disconnected or self.response_complete):
            if self._parts or (self.complete and not self._is_told):
                self._is_told = self.complete
                return self._taken(), not self.complete
            await self._news()
        return None

    @property
    def is_choked(self) -> bool:
        """Whether the client takes no more just now: `drained` is to be awaited before more is written."""
        return self.protocol.flow.write_paused and not self.disconnected

    async def drained(self) -> None:
        await self.protocol.flow.drain()

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """A whole answer; `lines` are its headers but for its length, each with its line end."""
        if self._started:
            raise RuntimeError("the answer has begun, or ended, already")
        self._started = True
        if self.disconnected:
            return
        end = b"\r\n" if self.keep_alive else _CLOSE
        data = b"%b%b%bcontent-length: %d\r\n%b" % (_STATUS_LINES[status], lines, self.own_lines, len(body), end)
        self.protocol.write(data if self.head.method == b"HEAD" else data + body)
        self._end()

    def begin(self, status: int, lines: bytes, length: int | None = None) -> None:
        """The head, to leave with the first of the body; without a length the body is sent in chunks."""
        if self._started:
            # An answer that cannot begin anew must not look as if it had ended well.
            raise RuntimeError("the answer has begun, or ended, already")
        self._started = True
        self._left = length
        chunked = b"transfer-encoding: chunked\r\n" if length is None else b""
        end = b"\r\n" if self.keep_alive else _CLOSE
        self._answer_head = b"%b%b%b%b%b" % (_STATUS_LINES[status], lines, self.own_lines, chunked, end)

    def write(self, body: bytes, *, more: bool = True) -> None:
        """Some of the body, without `more` its last."""
        if self.disconnected:
            return
        if self.response_complete or not self._started:
            raise RuntimeError("the answer has not begun, or has ended already")
        head, self._answer_head = self._answer_head or b"", None
        if self.head.method == b"HEAD":
            body, self._left = b"", 0
        if self._left is None:
            data = b"%b%x\r\n%b\r\n" % (head, len(body), body) if body else head
            if not more:
                data += b"0\r\n\r\n"
        else:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body of the answer is not as long as its head says")
            data = head + body
        if data:
            self.protocol.write(data)
        if not more:
            self._end()

    def fail(self) -> None:
        """Says that it failed where nothing was said yet; elsewhere only closing can say so."""
        if self.response_complete or self.disconnected or self.protocol.transport.is_closing():
            return
        if self._started and self._answer_head is None:
            self.protocol.close()
            return
        self._started = False
        self.answer(500, _FAULT_LINES, _FAULT)

    def _end(self) -> None:
        self.response_complete = True
        self.set()
        if not self.keep_alive:
            self.protocol.close()
        self.protocol.on_response_complete()

    def _taken(self) -> bytes:
        parts, self._parts = self._parts, []
        if self.opening is not None:
            parts, self.opening = [self.opening.both, *parts], None
        if not self._reads_on:
            self._size = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _news(self) -> None:
        """Waits for more of the body; a client that asked whether it may send it is told so."""
        if not self._permitted:
            self._permitted = True
            expects = self.head.named.get(b"expect", b"").lower() == b"100-continue"
            if expects and not (self._started or self._parts or self.protocol.transport.is_closing()):
                self.protocol.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.protocol.flow.resume_reading()
        self._waiter = self.protocol.loop.create_future()
        await self._waiter
        self._waiter = None
        if self.protocol.turns.is_over():
            await self.protocol.turns.next()


Answering = Callable[[Cycle], Coroutine[object, object, None]]
"""What answers requests."""

"""One request's answer as it comes in over a connection, read by httptools.

It keeps a connection from being used again before the clean end of an answer: said by the answer itself, with nothing
behind it.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Protocol

import httptools
import msgspec

from bursar.net.inflate import Inflater, inflater
from bursar.net.known import Known, known_by
from bursar.net.transport import HungUpError, NotSentError
from bursar.net.turns import Turns

_LINGER_S = 1.0
_BUFFERED_BYTES = 1024 * 1024
# What an answer may send without any of it being body: its headers, trailers, chunk extensions.
_QUIET_BYTES = 256 * 1024
# One header of many lines: each is put behind the others, which are copied.
_FIELD_BYTES = 16 * 1024


class Connection(Protocol):
    """What an exchange asks of its connection."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def release(self) -> None:
        """The exchange has ended cleanly."""

    def abort(self) -> None: ...


class Answers:
    """What the parser of a connection says, of one exchange at a time: it is made once, for it and what it calls are
    seven objects. `parts` is what has come of a body; whoever has an exchange end takes it along. `known` is an answer
    that the parser read here, by which others can be told."""

    __slots__ = ("exchange", "known", "on_body", "parser", "parts")

    def __init__(self) -> None:
        self.exchange: Exchange | None = None
        self.parts: list[bytes] = []
        self.on_body = self.parts.append
        self.parser: Any = httptools.HttpResponseParser(self)
        self.known: Known | None = None

    def close(self) -> None:
        """Undoes the knot of parser and this, which would wait for the garbage collector."""
        self.parser = None

    def on_message_begin(self) -> None:
        exchange = self.exchange
        if exchange is None or exchange.is_complete:
            # Bytes behind the end are nobody's answer; raising makes the parser stop.
            raise ValueError("more than one answer")
        exchange.headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange, name = self.exchange, name.lower()
        assert exchange is not None
        if exchange.headed:
            return  # trailers come behind the body, when the headers are somebody's already
        headers = exchange.headers
        if name in headers:
            value = b"%b, %b" % (headers[name], value)
            if len(value) > _FIELD_BYTES:
                raise ValueError("one of its headers comes again and again")
        headers[name] = value

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status < 200:
            return  # what comes before the answer; a switch of protocols ends in feed()
        exchange = self.exchange
        assert exchange is not None
        exchange.status = status
        exchange.headed = True

    def on_message_complete(self) -> None:
        exchange = self.exchange
        if exchange is not None and exchange.headed:
            exchange.is_complete = True
            exchange.keeps = self.parser.should_keep_alive()


class Exchange(msgspec.Struct, eq=False):
    """One request's answer under way (an `Answer`). It lets go of its connection at its end, so that nothing
    that is still held of it can touch the next one's."""

    _connection: Connection | None
    _answers: Answers | None
    _parts: list[bytes]
    _loop: asyncio.AbstractEventLoop
    _turns: Turns
    headers: dict[bytes, bytes] = {}
    status: int = 0
    headed: bool = False
    is_complete: bool = False
    keeps: bool = False
    _waiter: asyncio.Future[None] | None = None
    _deadline: float = 0.0
    _buffered: int = 0
    _quiet: int = 0
    _paused: bool = False
    _lingers: bool = False
    _failure: Exception | None = None
    _inflater: Inflater | None = None

    def inflate(self, coding: str) -> None:
        """The body is in this coding. Raises HungUpError where nobody asked for it."""
        if coding.lower() != "identity":
            self._inflater = inflater(coding)

    @property
    def is_over(self) -> bool:
        return self.is_complete and not self._parts and self._inflater is None

    def at_hand(self) -> bytes:
        return self._taken() if self._parts and self._inflater is None else b""

    async def read(self, deadline: float) -> bytes:
        while True:
            if self._inflater is not None and self._inflater.has_more:
                # A few bytes may become many: what they become is as long as a turn of the loop allows.
                if self._turns.is_over():
                    await self._turns.next()
                if data := self._inflater.feed(b""):
                    return data
            elif self._parts:
                data = self._taken()
                if self._inflater is not None:
                    data = self._inflater.feed(data)
                if data:
                    return data
            elif self.is_complete:
                return self._inflater.close() if self._inflater is not None else b""
            else:
                await self.news(deadline)
                if self._turns.is_over():
                    await self._turns.next()

    def done(self) -> None:
        connection = self._connection
        if connection is None:
            return
        if self.is_complete:
            self._part()
            if self.keeps:
                connection.release()
            else:
                connection.abort()
            return
        # The end mark was read but not the end of the body: it gets a moment to come, off the call's way.
        self._lingers = True
        self._taken()
        self._deadline = monotonic() + _LINGER_S

    def abort(self) -> None:
        connection = self._connection
        if connection is None:
            return
        if self.is_complete:
            self.done()
        else:
            self._part()
            self._failure = self._failure or HungUpError("it was given up")
            connection.abort()
            self._wake()

    def feed(self, data: bytes) -> None:
        """Bytes of the connection."""
        answers = self._answers
        assert answers is not None
        # Nothing of it came yet: the parser is where an answer begins.
        is_first = not (self.headed or self._buffered or self._quiet or self._lingers)
        if is_first and answers.known is not None:
            self._by(answers.known, data)
            if self.is_complete:
                self._wake()
                return
        try:
            answers.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._broke("it switched to another protocol")
        except httptools.HttpParserError as e:
            self._broke(f"it is not HTTP: {e.__context__ or e}")
        else:
            if not self.is_complete or self._lingers:
                self._account(len(data))
            elif is_first and self.keeps:
                answers.known = known_by(data, self.status, self.headers)
        self._wake()

    def _by(self, known: Known, data: bytes) -> None:
        """Takes a whole answer that is as one before, but for values and its body."""
        found = known.like(data)
        if found is not None:
            self.headers, body = found
            self.status = known.status
            self.headed = self.is_complete = self.keeps = True
            if body:
                self._parts.append(body)

    def connection_ended(self, error: Exception | None) -> None:
        """The connection has; a NotSentError says that the request had not left."""
        self._part()
        if not self.is_complete:
            if error is None and self.headed and self._ends_with_connection():
                self.is_complete = True
            else:
                if not isinstance(error, NotSentError):
                    error = HungUpError(str(error or "the connection was closed before the answer's end"))
                self._failure = self._failure or error
        self._wake()

    def check(self, now: float) -> None:
        """Ends a wait whose time is up."""
        if now < self._deadline:
            return
        if self._lingers:
            self.abort()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())
            self._waiter = None

    def _account(self, size: int) -> None:
        connection = self._connection
        if self._lingers:
            self._parts.clear()
            if self.is_complete:
                self.done()
            return
        self._buffered += size
        if self._buffered > _BUFFERED_BYTES and not self._paused and connection is not None and not self.is_complete:
            self._paused = True
            connection.pause()
        if self._parts or self.is_complete:
            self._quiet = 0
            return
        self._quiet += size
        if self._quiet > _QUIET_BYTES:
            self._broke(f"it sent {self._quiet} bytes of headers")

    def _taken(self) -> bytes:
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        if self._buffered:
            self._buffered = 0
        if self._paused:
            self._paused = False
            if self._connection is not None:
                self._connection.resume()
        return data

    def news(self, deadline: float) -> asyncio.Future[None]:
        """Done when something has come, or will not: to be awaited at once, by one at a time."""
        if self._failure is not None:
            raise self._failure
        self._deadline = deadline
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._turns.wake(waiter)

    def _broke(self, why: str) -> None:
        if self.is_complete:
            # The answer itself ended well; only the connection is not to be used again.
            self.keeps = False
            return
        self._failure = HungUpError(why)
        connection = self._connection
        self._part()
        if connection is not None:
            connection.abort()

    def _part(self) -> None:
        """Lets go of the connection and its parser; what was not read of the answer is this exchange's alone."""
        answers = self._answers
        if answers is not None:
            self._connection = self._answers = answers.exchange = None
            self._parts = answers.parts[:]
            answers.parts.clear()

    def _ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of this answer: it said no other (RFC 9112, 6.3)."""
        coded = self.headers.get(b"transfer-encoding", b"").lower().rpartition(b",")[2].strip()
        return coded != b"chunked" and b"content-length" not in self.headers

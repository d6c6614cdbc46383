"""One connection to a provider: it carries one exchange at a time.

It is used again only after the clean end of an answer, with the request fully sent and nothing heard since: what waits
in the socket when a request is about to leave cannot be its answer.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Sequence
from typing import Protocol

from bursar.net.exchange import Answers, Exchange
from bursar.net.head import Origin
from bursar.net.transport import NotSentError
from bursar.net.turns import Turns


class Owner(Protocol):
    """What a connection asks of who made it."""

    turns: Turns

    def take_back(self, connection: Connection) -> None:
        """Its exchange ended cleanly."""

    def lost(self, connection: Connection) -> None:
        """It is closed."""


class Connection(asyncio.Protocol):
    """One connection. `exchange` is the one under way, None while it is idle; `used` says that there was one before."""

    _transport: asyncio.Transport

    def __init__(self, owner: Owner, origin: Origin) -> None:
        self._owner = owner
        self._turns = owner.turns
        self.origin = origin
        self.idle_since = 0.0
        self.exchange: Exchange | None = None
        self.used = False
        self._request: bytes | None = None  # what has not left yet
        self._more: Sequence[bytes] = ()  # what leaves right behind it
        self._below: asyncio.Transport | None = None  # what carries TLS, which does not count what waits there
        self._ears: select.poll | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._loop = asyncio.get_running_loop()
        self._answers = Answers()
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self._ears = select.poll()
            self._ears.register(sock.fileno(), select.POLLIN)

    def secured(self, transport: asyncio.Transport) -> None:
        """From now on it speaks TLS, by this transport."""
        self._below, self._transport = self._transport, transport

    def begin(self, request: bytes, more: Sequence[bytes] = ()) -> Exchange:
        """The exchange of a request and what leaves right behind it."""
        answers = self._answers
        self.exchange = answers.exchange = exchange = Exchange(self, answers, answers.parts, self._loop, self._turns)
        self._request, self._more = request, more
        self._turns.leave(self._loop, self._leave)
        return exchange

    def _leave(self) -> None:
        if self._request is None or self._transport.is_closing():
            return  # it has been given up, or its end is about to be told
        if self.used and self._ears is not None and self._ears.poll(0):
            # The loop has not looked at it since: it is closed, or this belongs to the answer before.
            self.abort()
            return
        request, self._request = self._request, None
        if self._more:
            more, self._more = self._more, ()
            self._transport.writelines((request, *more))
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self.exchange is None or self._request is not None:
            # Nobody asked: whatever this is, it must not be taken for the next caller's answer.
            self.abort()
        else:
            self.exchange.feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.lost(self)
        self._end_exchange(error)
        self._answers.close()

    def check(self, now: float) -> None:
        if self.exchange is not None:
            self.exchange.check(now)

    def release(self) -> None:
        """The exchange has ended cleanly. What is still to be written would be the last request's."""
        self.exchange = None
        below = self._below
        if (
            self._transport.is_closing()
            or self._transport.get_write_buffer_size()
            or (below is not None and below.get_write_buffer_size())
        ):
            self.abort()
        else:
            self.used = True
            self._owner.take_back(self)

    def abort(self) -> None:
        self._owner.lost(self)
        self._transport.abort()
        self._end_exchange(ConnectionAbortedError("the connection was closed on this side"))

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

    def _end_exchange(self, error: Exception | None) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            if self._request is not None:
                self._request = None
                error = NotSentError("the connection was closed before the request left")
            exchange.connection_ended(error)

"""The transport for real providers: HTTP/1.1 on httptools, as lean as the way of a call asks for.

A connection carries one exchange at a time, and is used again only after the clean end of an answer: said by
the answer itself, with nothing behind it, with the request fully sent. Everything else closes it. One that turns out
to be closed, or has something to say, before the next request has left is not used for it: another one is.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from bursar.net.connection import Connection
from bursar.net.exchange import Exchange
from bursar.net.guard import Guard
from bursar.net.head import Head, Origin, head_of
from bursar.net.tls import context_of
from bursar.net.transport import NotSentError
from bursar.net.turns import Turns
from bursar.wire.encode import POST, Request

_IDLE_S = 15.0
_SWEEP_S, _IDLE_SWEEP_S = 0.05, 1.0
_CACHED_HEADS = 1024
_CACHED_HEAD_BYTES = 4096


class Http1Transport:
    """Connections to any number of origins, made as they are needed and kept for a while."""

    def __init__(
        self, tls: Callable[[], ssl.SSLContext] | None = None, guard: Guard | None = None, turns: Turns | None = None
    ) -> None:
        """`tls` makes the trust, which is the machine's own where none is given; `guard` says where connections may
        not lead; `turns` says when callers hear of what has come."""
        self.turns = turns or Turns()
        self.leaves_by_turns = True
        self._idle: dict[Origin, deque[Connection]] = {}
        self.busy: set[Connection] = set()
        self._heads: dict[tuple[str, tuple[tuple[str, str], ...]], Head] = {}
        self._make_tls = tls or context_of
        self._tls: ssl.SSLContext | None = None
        self._guard = guard
        self._connecting = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._rests = True
        self._closed = False

    async def send(self, request: Request, *, connect_timeout_s: float, deadline: float) -> Exchange:
        head = self._heads.get((request.url, request.headers)) if request.method == POST else None
        head = head or self._head(request)
        parts = request.parts
        first = parts[0]
        data = b"%b%d\r\n\r\n%b" % (head.data, len(first) if len(parts) == 1 else request.size, first)
        while True:
            connection = self._idle_one(head.origin)
            if connection is None:
                connection = await self._connect(head.origin, connect_timeout_s, deadline)
                if self._closed:
                    # Its call has been ended meanwhile: nothing may leave for it any more.
                    connection.abort()
                    raise NotSentError("the client was closed")
            exchange = connection.begin(data, parts[1:])
            self.busy.add(connection)
            if self._rests:
                self._sweep()
            try:
                while not exchange.headed:
                    await exchange.news(deadline)
                    if self.turns.is_over():
                        await self.turns.next()
                coding = exchange.headers.get(b"content-encoding")
                if coding is not None:
                    exchange.inflate(coding.decode("latin-1"))
            except NotSentError:
                if self._closed or not connection.used:
                    raise
            except BaseException:
                exchange.abort()
                raise
            else:
                return exchange

    @property
    def is_idle(self) -> bool:
        return not self.busy and not self._connecting

    async def close(self) -> None:
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in [*self.busy, *(c for idle in self._idle.values() for c in idle)]:
            connection.abort()

    def take_back(self, connection: Connection) -> None:
        """Keeps a connection whose exchange ended cleanly."""
        self.busy.discard(connection)
        if self._closed:
            connection.abort()
            return
        connection.idle_since = monotonic()
        idle = self._idle.get(connection.origin)
        if idle is None:
            idle = self._idle[connection.origin] = deque()
        idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """Forgets a connection that is closed."""
        self.busy.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle and connection in idle:
            idle.remove(connection)

    def _head(self, request: Request) -> Head:
        head = head_of(request.url, request.headers, request.method)
        if len(head.data) > _CACHED_HEAD_BYTES or request.method != POST:
            return head
        if len(self._heads) >= _CACHED_HEADS:
            self._heads.clear()
        self._heads[request.url, request.headers] = head
        return head

    def _idle_one(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            # The one used last is the one least likely to be closed by now.
            connection = idle.pop()
            if monotonic() - connection.idle_since < _IDLE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin, timeout_s: float, deadline: float) -> Connection:
        self._connecting += 1
        try:
            if origin.tls and self._tls is None:
                self._tls = await asyncio.to_thread(self._make_tls)
            async with asyncio.timeout(min(timeout_s, deadline - monotonic())):
                if self._guard is None:
                    connection = await self._reached(origin, origin.host)
                else:
                    addresses = await self._guard.addresses(origin.host, origin.port)
                    connection = await self._reached_one(origin, addresses, timeout_s / len(addresses))
        except TimeoutError:
            raise NotSentError(f"no connection within {timeout_s:g} s") from None
        except (OSError, ssl.SSLError, UnicodeError, ValueError) as e:
            raise NotSentError(f"cannot connect to {origin.host}:{origin.port}: {e}") from e
        finally:
            self._connecting -= 1
        return connection

    async def _reached_one(self, origin: Origin, addresses: list[str], each_s: float) -> Connection:
        """A connection to the first of these addresses that takes one, each but the last within `each_s`."""
        for address in addresses[:-1]:
            with suppress(OSError):  # a TimeoutError is one
                async with asyncio.timeout(each_s):
                    return await self._reached(origin, address)
        return await self._reached(origin, addresses[-1])

    async def _reached(self, origin: Origin, address: str) -> Connection:
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(lambda: Connection(self, origin), address, origin.port)
        if self._tls is not None and origin.tls:
            try:
                secured = await loop.start_tls(transport, connection, self._tls, server_hostname=origin.host)
            except BaseException:
                transport.abort()
                raise
            if secured is None:  # it was closed meanwhile
                raise ConnectionResetError("it was closed while TLS began")
            connection.secured(secured)
        return connection

    def _sweep(self) -> None:
        """Ends waits whose time is up, and closes what has been idle for long. One timer serves all
        connections, so that a time limit costs a call nothing but a comparison now and then."""
        now = monotonic()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self.busy):
            connection.check(now)
        for origin, idle in list(self._idle.items()):
            while idle and now - idle[0].idle_since >= _IDLE_S:
                idle.popleft().abort()
            if not idle:
                del self._idle[origin]
        self._rests = not self.busy
        if self.busy or self._idle:
            wait_s = _IDLE_SWEEP_S if self._rests else _SWEEP_S
            self._sweeper = asyncio.get_running_loop().call_later(wait_s, self._sweep)
        else:
            self._sweeper = None

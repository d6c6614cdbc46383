"""The ways out, one for each way providers are reached; made when they are first needed, closed when nobody is reached
like that any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from ssl import SSLContext

from bursar.net.demo import DemoTransport
from bursar.net.guard import Guard
from bursar.net.http1 import Http1Transport
from bursar.net.library import LibraryTransport
from bursar.net.tls import context_of
from bursar.net.transport import Reach, Transport
from bursar.net.turns import Turns
from bursar.runtime.backends import BACKEND, LITELLM, Backends


class Transports:
    """The transports of one gateway."""

    def __init__(self, guard: Guard, backends: Backends, turns: Turns) -> None:
        self._guard = guard
        self._backends = backends
        self._turns = turns
        self._made: dict[Reach, Transport] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def of(self, reach: Reach) -> Transport:
        """The one for providers that are reached like this."""
        found = self._made.get(reach)
        if found is None:
            found = self._made[reach] = self._make(reach)
        return found

    def keep(self, reaches: Iterable[Reach]) -> None:
        """Closes those that are none of these, when nothing is under way in them."""
        kept = set(reaches)
        for reach, transport in list(self._made.items()):
            if reach not in kept and transport.is_idle:
                del self._made[reach]
                task = asyncio.get_running_loop().create_task(transport.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        for transport in self._made.values():
            await transport.close()
        if self._closing:
            await asyncio.wait(self._closing)

    def _make(self, reach: Reach) -> Transport:
        if reach.kind == "demo":
            return DemoTransport()
        if reach.kind in (BACKEND, LITELLM):
            return self._backends.transport(reach)
        tls: Callable[[], SSLContext] | None = None
        if reach.ca is not None or reach.any_certificate:
            tls = lambda: context_of(reach.ca, reach.any_certificate)  # noqa: E731
        if reach.proxy is not None or reach.http2:
            return LibraryTransport(proxy=reach.proxy, http2=reach.http2, tls=tls)
        return Http1Transport(tls=tls, guard=self._guard if reach.guarded else None, turns=self._turns)

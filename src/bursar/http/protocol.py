"""uvicorn's HTTP/1.1 protocol with cycles of our own.

What is heard and when connections end stays uvicorn's. Different are the cycles (`http/cycle.py`); that a connection
has one task for all its requests, which ends with it, so that a client that leaves ends the work for it at once; and
that a keep-alive limit costs one timer a connection instead of one a request.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bursar.http.cycle import Answering, Cycle


class Protocol(HttpToolsProtocol):
    """One connection of a client. `config.app` is an `Answering`, not an ASGI application."""

    _quiet_since: float | None = None
    _worker: asyncio.Task[None] | None = None
    _rests: asyncio.Future[None] | None = None
    _next: Cycle | None = None

    def on_message_begin(self) -> None:
        self._quiet_since = None
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._quiet_since = None
        parser = self.parser
        keeps = parser.should_keep_alive() and parser.get_http_version() != "1.0"
        before = self.cycle
        cycle = Cycle(self, parser.get_method(), self.url, self.headers, keeps)
        self.cycle = cycle  # type: ignore[assignment]
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))  # type: ignore[arg-type]

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._next = cycle
        if self._worker is None:
            self._worker = self.loop.create_task(self._work(app))
        elif self._rests is not None:
            rests, self._rests = self._rests, None
            rests.set_result(None)
        self.tasks.add(self._worker)

    async def _work(self, answer: Answering) -> None:
        """Answers one request after another: a task of its own for each would cost more than many a request."""
        worker: Any = self._worker
        try:
            while not self.transport.is_closing():
                cycle, self._next = self._next, None
                if cycle is not None:
                    await cycle.run(answer)
                if self._next is None:
                    self.tasks.discard(worker)
                    self._rests = self.loop.create_future()
                    await self._rests
        finally:
            self.tasks.discard(worker)
            self._worker = None

    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if not cycle.response_complete:
            cycle.take(body)

    def on_message_complete(self) -> None:
        cycle: Any = self.cycle
        cycle.complete = True
        cycle.set()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._quiet_since = time.monotonic()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self._close_if_quiet)

    def _unset_keepalive_if_required(self) -> None:
        """uvicorn cancels its keep-alive timer with every byte, and makes another after each answer; ours goes
        on, and looks whether the connection was quiet when it is due."""

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._worker is not None:
            self._worker.cancel()

    def _close_if_quiet(self) -> None:
        self.timeout_keep_alive_task = None
        if self.transport.is_closing() or self._quiet_since is None:
            return
        left = self._quiet_since + self.timeout_keep_alive - time.monotonic()
        if left <= 0:
            self.transport.close()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(left, self._close_if_quiet)

"""uvicorn's HTTP/1.1 protocol with cycles of our own.

What is heard and when connections end stays uvicorn's. Different are the cycles (`http/cycle.py`), and that a
keep-alive limit costs one timer a connection instead of one a request.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bursar.http.cycle import Cycle


class Protocol(HttpToolsProtocol):
    """One connection of a client. `config.app` is an `Answering`, not an ASGI application."""

    _quiet_since: float | None = None

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
        # A name of its own would be made for each.
        self.tasks.add(asyncio.Task(cycle.run(app, self.tasks), loop=self.loop, name="call"))

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
        answering: Any = [cycle for cycle, _ in self.pipeline]
        for cycle in (*answering, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.left()
        self.pipeline.clear()

    def _close_if_quiet(self) -> None:
        self.timeout_keep_alive_task = None
        if self.transport.is_closing() or self._quiet_since is None:
            return
        left = self._quiet_since + self.timeout_keep_alive - time.monotonic()
        if left <= 0:
            self.transport.close()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(left, self._close_if_quiet)

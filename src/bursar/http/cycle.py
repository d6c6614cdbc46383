"""uvicorn's HTTP/1.1 protocol with a leaner cycle of request and answer.

What is heard and when connections end stays uvicorn's. Different are: an answer's head leaves with the first
of its body in one write, for each write wakes the client's side; a keep-alive limit costs one timer a
connection instead of one a request; nothing is copied that need not be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Message = MutableMapping[str, Any]


def _status_line(status: int) -> bytes:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}
_BODILESS = (204, 304)
_FAULT = b'{"error": {"message": "internal error", "type": "server_error", "param": null, "code": "internal_error"}}'


class Protocol(HttpToolsProtocol):
    """One connection of a client."""

    _quiet_since: float | None = None

    def on_message_begin(self) -> None:
        self._quiet_since = None
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._quiet_since = None
        parser = self.parser
        version = parser.get_http_version()
        raw_path, query = self.url, b""
        if b"?" in raw_path or not raw_path.startswith(b"/"):
            parsed = httptools.parse_url(raw_path)
            raw_path, query = parsed.path or b"/", parsed.query or b""
        path = raw_path.decode("ascii")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": self.scheme,
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self.headers,
            "server": self.server,
            "client": self.client,
            "state": {},
        }
        self.scope = scope  # type: ignore[assignment]
        before = self.cycle
        keeps = version != "1.0" and parser.should_keep_alive()
        self.cycle = cycle = Cycle(self, scope, keeps, self.expect_100_continue)  # type: ignore[assignment]
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))  # type: ignore[arg-type]

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        task = self.loop.create_task(cycle.run(app, self.tasks))
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if not cycle.response_complete:
            cycle.take(body, more=True)

    def on_message_complete(self) -> None:
        cycle: Any = self.cycle
        if not cycle.response_complete:
            cycle.take(b"", more=False)

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

    def _close_if_quiet(self) -> None:
        self.timeout_keep_alive_task = None
        if self.transport.is_closing() or self._quiet_since is None:
            return
        left = self._quiet_since + self.timeout_keep_alive - time.monotonic()
        if left <= 0:
            self.transport.close()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(left, self._close_if_quiet)


class Cycle:
    """One request and its answer: the `receive` and `send` of an ASGI application."""

    disconnected = False
    response_complete = False
    _more = True
    _news = False
    _started = False
    _size = 0
    _waiter: asyncio.Future[None] | None = None
    _head: bytes | None = None
    _left: int | None = None  # bytes of body still to come; None is chunked

    def __init__(self, protocol: Protocol, scope: dict[str, Any], keep_alive: bool, expects_continue: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self._protocol = protocol
        self._transport = protocol.transport
        self._flow = protocol.flow
        self._expects_continue = expects_continue
        self._parts: list[bytes] = []

    async def run(self, app: Callable[..., Any], tasks: set[Any]) -> None:
        """Answers the request with the application; a fault of it never goes without an answer or an end."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                self._protocol.logger.error("a request failed inside", exc_info=error)
            self._fail()
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            if not self.response_complete and not self.disconnected:
                self._protocol.logger.error("a request was left without an answer")
                self._fail()
        finally:
            tasks.discard(asyncio.current_task())

    @property
    def message_event(self) -> Cycle:
        """The name uvicorn's protocol wakes a waiting `receive` by: its `set()` is ours."""
        return self

    def set(self) -> None:
        """Wakes a waiting `receive`."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self, body: bytes, *, more: bool) -> None:
        """A part of the request's body."""
        if body:
            self._parts.append(body)
            self._size += len(body)
            if self._size > HIGH_WATER_LIMIT:
                self._flow.pause_reading()
        self._more = more
        self._news = True
        self.set()

    async def receive(self) -> Message:
        if self._expects_continue and not self._transport.is_closing():
            self._expects_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._news or self.disconnected or self.response_complete):
            self._flow.resume_reading()
            self._waiter = self._protocol.loop.create_future()
            await self._waiter
            self._waiter = None
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        self._news = False
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self._size = 0
        return {"type": "http.request", "body": body, "more_body": self._more}

    async def send(self, message: Message) -> None:
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if not self._started:
            self._begin(message["status"], message.get("headers") or [])
        elif self.response_complete or message["type"] != "http.response.body":
            # An answer that cannot begin anew must not look as if it had ended well.
            raise RuntimeError("the answer has begun, or ended, already")
        else:
            self._continue(message.get("body", b""), message.get("more_body", False))

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Keeps the head, to leave with the first of the body."""
        lines = [_STATUS_LINES[status]]
        chunked = True
        for name, value in headers:
            if name == b"content-length":
                chunked = False
                self._left = int(value)
            elif name == b"connection" and b"close" in value.lower():
                self.keep_alive = False
            lines.append(b"%b: %b\r\n" % (name, value))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        if chunked and (status in _BODILESS or self.scope["method"] == "HEAD"):
            self._left = 0
        elif chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            raise RuntimeError("a header of the answer has a line end in it")
        self._started = True
        self._expects_continue = False
        self._head = head + b"\r\n"

    def _continue(self, body: bytes, more: bool) -> None:
        head, self._head = self._head or b"", None
        if self.scope["method"] == "HEAD":
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
            self._transport.write(data)
        if not more:
            self._end()

    def _end(self) -> None:
        self.response_complete = True
        self.set()
        if not self.keep_alive:
            self._transport.close()
        self._protocol.on_response_complete()

    def _fail(self) -> None:
        """Says that it failed where nothing was said yet; elsewhere only closing can say so."""
        if self.response_complete or self.disconnected:
            return
        if self._started and self._head is None:
            self._transport.close()
            return
        self._left = None
        self._begin(500, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_FAULT))])
        self._continue(_FAULT, more=False)

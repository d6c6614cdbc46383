"""uvicorn's HTTP/1.1 protocol with cycles of our own.

What is heard and when connections end stays uvicorn's. Different are the cycles (`http/cycle.py`); that a head which
was read before is known, and not parsed again, nor the body behind it; that a connection has one task for all its
requests, which ends with it, so that a client that leaves ends the work for it at once; that a keep-alive limit
costs one timer a connection instead of one a request; that heads have a bound; that another protocol, which a client
would rather speak, is no reason not to answer in this one; and that what cannot be read is said behind the answers to
what could.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bursar.http.cycle import Answering, Cycle
from bursar.http.heads import NONE, Head, Heads, Known, first_of, remembered, told
from bursar.net.turns import Turns
from bursar.wire.lines import MOST_DIGITS
from bursar.wire.openings import LONG_BYTES, Openings

_MOST_AT_ONCE = 64 * 1024
_LATE_S = 0.1  # what is on its way is heard
_MOST_HEAD_BYTES, _MOST_HEADERS = 64 * 1024, 256
_STATUS_LINES = {400: b"HTTP/1.1 400 Bad Request\r\n", 431: b"HTTP/1.1 431 Request Header Fields Too Large\r\n"}
_REFUSAL_LINES = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"


class _UnreadableError(Exception):
    """A head that is not read any further."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _too_large() -> _UnreadableError:
    return _UnreadableError(
        431, f"the head of a request may have {_MOST_HEAD_BYTES // 1024} KiB and {_MOST_HEADERS} headers"
    )


class Protocol(HttpToolsProtocol):
    """One connection of a client. `config.app` is an `Answering`, not an ASGI application."""

    # Of an object with more than thirty attributes the interpreter looks each up: uvicorn has near as many.
    __slots__ = (
        "_awaits", "_first", "_heads", "_is_stopping", "_known", "_next", "_openings", "_out", "_parses",
        "_quiet_since", "_refusal", "_rests", "_room", "_worker", "turns",
    )  # fmt: skip

    def __init__(
        self,
        *given: Any,
        is_stopping: Callable[[], bool],
        turns: Turns | None = None,
        heads: Heads | None = None,
        openings: Openings | None = None,
        **named: Any,
    ) -> None:
        """`is_stopping` is whether the server has its connections end; `turns` says when requests begin; `heads` are
        those that were read before, on any connection; `openings` are what chats began with."""
        super().__init__(*given, **named)
        self.turns = turns or Turns()
        self._heads = heads if heads is not None else {}
        self._openings = openings or Openings()
        self._is_stopping = is_stopping
        self._known = NONE  # the head of the last request, where it was known
        self._parses = False  # whether the parser is inside a request
        self._awaits = 0  # how much of a body is to come that the parser does not see, for its head was known
        self._room = _MOST_HEAD_BYTES  # how much more the parser may see of a head
        self._refusal: bytes | None = None  # the last that is said here, as soon as the answers before it are
        self._out = b""  # what has not left yet
        self._first: bytes | None = None  # what a request in the parser begins with, up to the end of its head
        self._next: Cycle | None = None
        self._worker: asyncio.Task[None] | None = None
        self._rests: asyncio.Future[None] | None = None
        self._quiet_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._is_stopping():
            # It was accepted as the last thing before, and was not there when the others were told to end.
            self.loop.call_later(_LATE_S, self.shutdown)

    def write(self, data: bytes) -> None:
        """Writes to the client, with what is written to others in this turn of the loop, or before its end where it is
        much."""
        if not self._out:
            self._out = data
            self.turns.leave(self.loop, self.flush)
        else:
            self._out += data
            if len(self._out) >= _MOST_AT_ONCE:
                self.leave_now()

    def leave_now(self) -> None:
        """Writes what was put off before the turn's end."""
        if self._out:
            self.turns.before_leaving()
            self.flush()

    def flush(self) -> None:
        """Writes what was put off."""
        data, self._out = self._out, b""
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Ends the connection, once everything has left that was written."""
        self.leave_now()
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._awaits:
            self._body_received(data)
            return
        # Most requests have a head that was read before, to the byte but for its length, or for some values: what the
        # parser would say of it is known. It may come with its body, with a part of it, or before it.
        if not self._parses:
            known = self._known
            at = len(known.before)
            end = data.find(b"\r", at, at + MOST_DIGITS + 1)
            said = data[at:end]
            found: tuple[Known, Head, int, int] | None
            if said.isdigit() and data.startswith(known.behind, end) and data.startswith(known.before):
                found = known, known.head, end + len(known.behind), int(said)
            else:
                found = told(self._heads, known, data)
            if found is not None:
                self._known, head, size, length = found
                came = len(data) - size
                if came == length:
                    # What it begins with is looked for while it is still in the processor's cache.
                    opening = self._openings.of(data, size) if came > LONG_BYTES else None
                    rest = data[size:] if opening is None else data[size + len(opening.both) :]
                    self._begin(
                        Cycle(self, head, True, length, complete=True, opening=opening, _parts=[rest], _size=came)
                    )
                    return
                if came < length:
                    self._awaits = length - came
                    cycle = Cycle(self, head, True, length)
                    if came:
                        cycle.take(data[size:])
                    self._begin(cycle)
                    return
            self._first = first_of(data)
            self._parses = True
        else:
            self._first = None
        if self._refusal is None:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        self._room -= len(data)
        try:
            self.parser.feed_data(data)
            if self._room < 0:
                raise _too_large()
        except httptools.HttpParserUpgrade as end:
            # To the parser what follows is of the protocol that was offered; here it is a body, or the next request.
            behind = data[end.args[0] :]
            cycle: Any = self.cycle
            if behind and cycle.head.method != b"CONNECT":
                self.data_received(behind)
        except (httptools.HttpParserError, _UnreadableError) as error:
            why = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
            if isinstance(why, _UnreadableError):
                self._refuse(why.status, str(why))
            else:
                self._refuse(400, "Invalid HTTP request received.")

    def _body_received(self, data: bytes) -> None:
        """What comes behind a head that was known: of its body, and of what follows that."""
        behind = data[self._awaits :]
        if behind:
            data = data[: self._awaits]
        self._awaits -= len(data)
        cycle: Any = self.cycle
        if not cycle.response_complete:
            # Who waits for the body looks himself, once he has it.
            looks = LONG_BYTES < len(data) == cycle.length and not cycle.is_awaited
            opening = self._openings.of(data) if looks else None
            cycle.take(data if opening is None else data[len(opening.both) :], opening)
        if not self._awaits:
            cycle.complete = True
            cycle.set()
        if behind:
            self.data_received(behind)

    def on_message_begin(self) -> None:
        self._quiet_since = None
        self._parses = True
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))
        if len(self.headers) > _MOST_HEADERS:
            raise _too_large()

    def on_headers_complete(self) -> None:
        parser = self.parser
        method = parser.get_method()
        # Behind a request to connect comes what is meant for somebody else.
        keeps = parser.should_keep_alive() and parser.get_http_version() != "1.0" and method != b"CONNECT"
        head = Head(method, self.url, self.headers, keeps)
        first, self._first = self._first, None
        if first is not None:
            self._known = remembered(self._heads, first, self.headers, head)
        said = [value for name, value in self.headers if name == b"content-length"]
        length = int(said[0]) if said else None
        if self._room < 0 and len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers) > _MOST_HEAD_BYTES:
            raise _too_large()
        if parser.should_upgrade() and method != b"CONNECT":
            if b"transfer-encoding" in head.named:
                raise _UnreadableError(400, "a request that offers another protocol needs the length of its body")
            self._awaits = length or 0
        self._room = _MOST_HEAD_BYTES
        self._begin(Cycle(self, head, keeps, length))

    def _begin(self, cycle: Cycle) -> None:
        self._quiet_since = None
        before = self.cycle
        self.cycle = cycle  # type: ignore[assignment]
        if before is None or before.response_complete:
            self._start(cycle)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft(cycle)  # type: ignore[arg-type]

    def _start(self, cycle: Any) -> None:
        self._next = cycle
        if self._rests is not None:
            rests, self._rests = self._rests, None
            self.turns.wake(rests)
        elif self._worker is None:
            self.turns.begin(self.loop)
            self._worker = self.loop.create_task(self._work(self.app))
            self.tasks.add(self._worker)

    async def _work(self, answer: Answering) -> None:
        """Answers one request after another: a task of its own for each would cost more than many a request."""
        worker: Any = self._worker
        try:
            while not self.transport.is_closing():
                if self._next is None:
                    self._rests = rests = self.loop.create_future()
                    await rests
                if self.turns.is_over():
                    await self.turns.next()
                cycle, self._next = self._next, None
                if cycle is None or self.transport.is_closing():
                    continue
                try:
                    await answer(cycle)
                except asyncio.CancelledError as error:
                    cycle.ended(error)
                    raise
                except BaseException as error:
                    cycle.ended(error)
                else:
                    cycle.ended()
        finally:
            self.tasks.discard(worker)
            self._worker = self._rests = None

    def on_body(self, body: bytes) -> None:
        self._room = _MOST_HEAD_BYTES
        cycle: Any = self.cycle
        if not cycle.response_complete:
            cycle.take(body)

    def on_message_complete(self) -> None:
        cycle: Any = self.cycle
        if not self._awaits:  # as it does where the parser leaves the body to others
            cycle.complete = True
            cycle.set()
        self._room = _MOST_HEAD_BYTES
        # Behind the last request of a connection nothing is one, which the parser knows.
        self._parses = not cycle.keep_alive

    def on_response_complete(self) -> None:
        if self.transport.is_closing():
            return
        if self.flow.read_paused and self._refusal is None:
            self.flow.resume_reading()
        if self.pipeline:
            self._start(self.pipeline.pop())
            return
        if self._refusal is not None:
            self._say_refusal()
            return
        self._quiet_since = time.monotonic()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self._close_if_quiet)

    def _unset_keepalive_if_required(self) -> None:
        """uvicorn cancels its keep-alive timer with every byte, and makes another after each answer; ours goes
        on, and looks whether the connection was quiet when it is due."""

    def eof_received(self) -> None:
        self.leave_now()

    def _refuse(self, status: int, message: str) -> None:
        """Says what cannot be read, behind the answers to all that could, and ends the connection."""
        self.logger.warning(message)
        text = message.encode("ascii")
        self._refusal = _STATUS_LINES[status] + _REFUSAL_LINES % len(text) + text
        self._parses = True
        self.flow.pause_reading()
        cycle: Any = self.cycle
        if cycle is not None and not cycle.complete and self.pipeline and self.pipeline[0] is cycle:
            self.pipeline.popleft()  # of this request something came that could be read, and it has not been begun
        elif cycle is None or cycle.response_complete or not cycle.complete:
            self._say_refusal()

    def _say_refusal(self) -> None:
        cycle: Any = self.cycle
        if self._refusal is not None and (cycle is None or not cycle.is_answering):
            self.write(self._refusal)
        self.close()

    def shutdown(self) -> None:
        self.leave_now()
        super().shutdown()

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

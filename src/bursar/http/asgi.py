"""A cycle handed to an ASGI application: the control plane is one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import httptools

from bursar.http.cycle import Answering, Cycle, lines_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_BODILESS = (204, 304)


def answering(app: Asgi) -> Answering:
    """What answers requests with an ASGI application."""

    async def answer(cycle: Cycle) -> None:
        handed = _Handed(cycle)
        await app(_scope(cycle), handed.receive, handed.send)

    return answer


class Later:
    """An application that is loaded when it is first asked, in a thread, for calls go on meanwhile. It is loaded once,
    whoever of those that ask leaves; where that failed, anew when it is asked again."""

    def __init__(self, load: Callable[[], Asgi]) -> None:
        self._load = load
        self._loading: asyncio.Task[Asgi] | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        loading = self._loading
        if loading is None or (loading.done() and (loading.cancelled() or loading.exception() is not None)):
            self._loading = loading = asyncio.create_task(asyncio.to_thread(self._load))
        app = await asyncio.shield(loading)
        await app(scope, receive, send)


def _scope(cycle: Cycle) -> dict[str, Any]:
    protocol = cycle.protocol
    parsed = httptools.parse_url(cycle.head.url)
    headers = cycle.head.headers
    if cycle.length is not None:
        headers = [*headers, (b"content-length", b"%d" % cycle.length)]
    return {
        "type": "http",
        "asgi": {"version": protocol.asgi_version, "spec_version": "2.3"},
        "http_version": "1.1",
        "method": cycle.head.method.decode("ascii"),
        "scheme": protocol.scheme,
        "path": cycle.head.path,
        "raw_path": parsed.path or b"/",
        "query_string": parsed.query or b"",
        "root_path": "",
        "headers": headers,
        "server": protocol.server,
        "client": protocol.client,
        "state": {},
    }


class _Handed:
    """The `receive` and `send` of one cycle."""

    def __init__(self, cycle: Cycle) -> None:
        self._cycle = cycle

    async def receive(self) -> Message:
        part = await self._cycle.part()
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part[0], "more_body": part[1]}

    async def send(self, message: Message) -> None:
        cycle = self._cycle
        if cycle.is_choked:
            await cycle.drained()
        if message["type"] == "http.response.start":
            self._begin(message["status"], message.get("headers") or [])
        else:
            cycle.write(message.get("body", b""), more=message.get("more_body", False))

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        cycle = self._cycle
        given = dict(headers)
        if b"close" in given.get(b"connection", b"").lower():
            cycle.keep_alive = False
        length = int(given[b"content-length"]) if b"content-length" in given else None
        if length is None and (status in _BODILESS or cycle.head.method == b"HEAD"):
            length = 0
        cycle.begin(status, lines_of(h for h in headers if h[0] != b"connection"), length)

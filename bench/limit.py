"""The limit: the least a gateway in Python can do — read a request's JSON, write it on, hand the answer back.

No keys, no errors, no ledger: `python -m bench.limit PORT UPSTREAM_PORT`. What others cost is told against it.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import ClassVar

import httptools
import orjson
import uvloop

_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_REQUEST = b"POST %b HTTP/1.1\r\nhost: upstream\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class _Upstream(asyncio.Protocol):
    idle: ClassVar[deque[_Upstream]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._parser = httptools.HttpResponseParser(self)

    def ask(self, request: bytes, client: _Client) -> None:
        self._client = client
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        self._client.begin()

    def on_body(self, body: bytes) -> None:
        self._client.take(body)

    def on_message_complete(self) -> None:
        self.idle.append(self)
        self._client.end()

    def connection_lost(self, _error: Exception | None) -> None:
        if self in self.idle:
            self.idle.remove(self)


class _Client(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._streams = False

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        asked = orjson.loads(b"".join(self._parts))
        self._parts = []
        self._streams = bool(asked.get("stream"))
        body = orjson.dumps(asked)
        request = _REQUEST % (self._url, len(body), body)
        if _Upstream.idle:
            _Upstream.idle.popleft().ask(request, self)
        else:
            asyncio.ensure_future(self._connect(request))  # noqa: RUF006

    async def _connect(self, request: bytes) -> None:
        _, upstream = await asyncio.get_running_loop().create_connection(_Upstream, "127.0.0.1", int(sys.argv[2]))
        upstream.ask(request, self)

    def begin(self) -> None:
        if self._streams:
            self._transport.write(_STREAM)

    def take(self, body: bytes) -> None:
        if self._streams:
            self._transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        else:
            self._parts.append(body)

    def end(self) -> None:
        if self._streams:
            self._transport.write(b"0\r\n\r\n")
            return
        body = b"".join(self._parts)
        self._parts = []
        orjson.loads(body)
        self._transport.write(_PLAIN % (len(body), body))


async def _main() -> None:
    server = await asyncio.get_running_loop().create_server(_Client, "127.0.0.1", int(sys.argv[1]), backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main())

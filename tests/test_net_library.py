"""Providers behind a proxy, and providers spoken to over HTTP/2: a call through the library's client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset

import bursar
from bursar.types.errors import ConfigError, ProviderConnectionError, ProviderTimeoutError
from support.upstream import Upstream
from test_client import HELLO, entries


def settings(tmp_path: Path, base_url: str, **provider: Any) -> dict[str, Any]:
    return {
        "store": {"url": f"sqlite:///{tmp_path}/l.db"},
        "ledger": {"spool": str(tmp_path / "spool")},
        "providers": [{"name": "up", "base_url": base_url, "api_key": "sk-upstream-secret", **provider}],
    }


class Proxy:
    """A forward proxy for http addresses: what it was asked for, and how it was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.asked.append(head)
                method, url, version = head.split(b"\r\n", 1)[0].split(b" ")
                host, _, path = url.removeprefix(b"http://").partition(b"/")
                name, _, port = host.partition(b":")
                there = await asyncio.open_connection(name.decode(), int(port))
                there[1].write(b"%b /%b %b\r\n" % (method, path, version) + head.split(b"\r\n", 1)[1])
                ways = [asyncio.ensure_future(_pipe(*way)) for way in ((reader, there[1]), (there[0], writer))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
                there[1].close()
                return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)


@asynccontextmanager
async def listening(serve: Any) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_call_goes_through_the_proxy_with_its_password(tmp_path: Path, upstream: Upstream) -> None:
    proxy = Proxy()
    async with listening(proxy) as port:
        given = settings(tmp_path, upstream.base_url, proxy=f"http://user:word@127.0.0.1:{port}")
        async with bursar.open(given) as client:
            result = await client.complete(model="up/gpt-4o-mini", messages=HELLO)
            assert result.text
            async with client.stream(model="up/gpt-4o-mini", messages=HELLO) as stream:
                events = [event async for event in stream]
            assert len(events) > 4
    assert len(upstream.seen) == 2
    assert upstream.seen[0].headers["authorization"] == "Bearer sk-upstream-secret"
    assert all(head.startswith(b"POST http://127.0.0.1:") for head in proxy.asked)
    assert all(b"proxy-authorization: basic" in head.lower() for head in proxy.asked)
    assert [e["status"] for e in entries(given)] == ["completed", "completed"]


async def test_a_proxy_that_is_away_is_a_connection_that_failed(tmp_path: Path, upstream: Upstream) -> None:
    async with listening(Proxy()) as port:
        pass
    given = settings(tmp_path, upstream.base_url, proxy=f"http://127.0.0.1:{port}", retries=0)
    async with bursar.open(given) as client:
        with pytest.raises(ProviderConnectionError):
            await client.complete(model="up/gpt-4o-mini", messages=HELLO)
    assert not upstream.seen
    assert [e["status"] for e in entries(given)] == ["failed"]


async def test_time_limits_hold_and_leaving_closes_the_connection(tmp_path: Path, upstream: Upstream) -> None:
    async with listening(Proxy()) as port:
        given = settings(
            tmp_path, upstream.base_url, proxy=f"http://127.0.0.1:{port}", retries=0, timeout_first_byte_s=0.3
        )
        async with bursar.open(given) as client:
            with pytest.raises(ProviderTimeoutError):
                await client.complete(model="up/gpt-4o-mini", messages=HELLO, script={"delay_s": 5})
            async with client.stream(model="up/gpt-4o-mini", messages=HELLO, script={"pace_s": 0.2}) as stream:
                async for _ in stream:
                    break
            await asyncio.to_thread(upstream.wait, lambda: all(s.closed_at is not None for s in upstream.seen))
    assert sorted(e["status"] for e in entries(given)) == ["cancelled", "failed"]


def test_a_proxy_of_an_unknown_kind_is_refused_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="socks5://") as caught:
        asyncio.run(bursar.open(settings(tmp_path, "http://h", proxy="ftp://user:word@h")).__aenter__())
    assert "word" not in str(caught.value)


class Http2Provider(asyncio.Protocol):
    """A provider that speaks HTTP/2 at once, as its clients know: it streams three chunks."""

    asked: list[dict[bytes, bytes]]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.h2 = H2Connection(H2Configuration(client_side=False))
        self.h2.initiate_connection()
        self.bodies: dict[int, bytes] = {}
        transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, RequestReceived):
                self.asked.append(dict(event.headers))
                self.bodies[event.stream_id] = b""
            elif isinstance(event, DataReceived):
                self.bodies[event.stream_id] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                self._answer(event.stream_id, json.loads(self.bodies[event.stream_id]))
            elif isinstance(event, StreamReset):
                continue
        self.transport.write(self.h2.data_to_send())

    def _answer(self, stream: int, asked: dict[str, Any]) -> None:
        self.h2.send_headers(stream, [(":status", "200"), ("content-type", "text/event-stream")])
        said = asked["messages"][-1]["content"]
        for text, finish in ((said, None), (" too", None), (None, "stop")):
            delta = {"content": text} if text else {}
            chunk = {"id": "h2", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            self.h2.send_data(stream, b"data: " + json.dumps(chunk).encode() + b"\n\n")
        usage = {"id": "h2", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}
        self.h2.send_data(stream, b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n", end_stream=True)


async def test_calls_share_one_connection_over_http2(tmp_path: Path) -> None:
    Http2Provider.asked = []
    made: list[Http2Provider] = []

    def accept() -> Http2Provider:
        made.append(Http2Provider())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    async with server:
        given = settings(tmp_path, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", http2=True)
        async with bursar.open(given) as client:

            async def call(n: int) -> str:
                async with client.stream(model="up/m", messages=[{"role": "user", "content": f"{n}"}]) as stream:
                    async for _ in stream:
                        pass
                assert stream.result is not None
                return str(stream.result.text)

            first = await call(100)
            assert [first, *await asyncio.gather(*(call(n) for n in range(10)))] == [
                "100 too",
                *(f"{n} too" for n in range(10)),
            ]
        for connection in made:
            connection.transport.close()
    assert len(made) == 1
    assert Http2Provider.asked[0][b":path"] == b"/v1/chat/completions"
    assert Http2Provider.asked[0][b"authorization"] == b"Bearer sk-upstream-secret"
    assert {e["total_tokens"] for e in entries(given)} == {5}

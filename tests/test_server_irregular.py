"""Requests that offer another protocol, heads without end, and what cannot be read behind what can."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from bursar.http.cycle import Cycle
from bursar.http.protocol import Protocol
from support.protocol import connected
from support.server import ADMIN, Server, wait_for

_OFFERS = {
    "h2c": b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n",
    "websocket": b"connection: upgrade\r\nupgrade: websocket\r\n",
    "and ends": b"connection: close, upgrade\r\nupgrade: h2c\r\n",
}


async def _echo(cycle: Cycle) -> None:
    body = await cycle.body(1_000_000)
    if body is not None:
        cycle.answer(200, b"", b"<%b %b>" % (cycle.head.url, body))


def _post(url: bytes, body: bytes, more: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (url, more, len(body), body)


async def _bodies(reader: asyncio.StreamReader, count: int) -> list[tuple[int, bytes]]:
    said = []
    for _ in range(count):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        said.append((int(head.split()[1]), await reader.readexactly(length)))
    return said


@pytest.mark.parametrize("offer", _OFFERS)
@pytest.mark.parametrize("inner", [b"hello", b"", b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"])
async def test_a_request_that_offers_another_protocol_keeps_its_body(offer: str, inner: bytes) -> None:
    ends = offer == "and ends"
    sent = _post(b"/one", inner, _OFFERS[offer]) + (b"" if ends else _post(b"/two", b"next"))
    answers = [(200, b"</one " + inner + b">")] + ([] if ends else [(200, b"</two next>")])
    for cut in range(1, len(sent)):
        server, _, reader, writer = await connected(_echo)
        async with server, asyncio.timeout(20):
            writer.write(sent[:cut])
            await writer.drain()
            for _ in range(4):
                await asyncio.sleep(0)
            writer.write(sent[cut:])
            assert await _bodies(reader, len(answers)) == answers
            if ends:
                assert await reader.read() == b""
            writer.close()


async def test_a_body_in_chunks_beside_another_protocol_is_refused_and_never_a_request() -> None:
    server, _, reader, writer = await connected(_echo)
    async with server, asyncio.timeout(20):
        head = b"POST / HTTP/1.1\r\nhost: x\r\n%btransfer-encoding: chunked\r\n\r\n" % _OFFERS["h2c"]
        writer.write(head + b"5\r\nhello\r\n0\r\n\r\n" + _post(b"/two", b"next"))
        (said,) = await _bodies(reader, 1)
        assert said == (400, b"a request that offers another protocol needs the length of its body")
        assert await reader.read() == b""
        writer.close()


async def test_behind_a_request_to_connect_nothing_is_read() -> None:
    server, _, reader, writer = await connected(_echo)
    async with server, asyncio.timeout(20):
        writer.write(b"CONNECT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n" + _post(b"/two", b"next"))
        assert await _bodies(reader, 1) == [(200, b"</a >")]
        assert await reader.read() == b""
        writer.close()


def test_a_client_that_offers_http2_is_answered(server: Server) -> None:
    body = json.dumps({"model": "up/gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}).encode()
    more = b"authorization: Bearer %b\r\ncontent-type: application/json\r\n%b" % (ADMIN.encode(), _OFFERS["h2c"])

    async def call() -> list[tuple[int, bytes]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.timeout(20):
            writer.write(_post(b"/v1/chat/completions", body, more))
            said = await _bodies(reader, 1)
        writer.close()
        return said

    ((status, answer),) = asyncio.run(call())
    assert (status, json.loads(answer)["object"]) == (200, "chat.completion")


def _lines(size: int) -> bytes:
    return b"".join(b"a%d: %b\r\n" % (n, b"x" * 990) for n in range(size // 1000))


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n" + _lines(400_000),
        b"GET / HTTP/1.1\r\nhost: x\r\n" + _lines(100_000) + b"\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: \r\n" * 300,
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 400_000,
        b"GET /" + b"x" * 400_000,
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: " + b"x" * 400_000,
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: \r\n" * 300,
    ],
    ids=["many bytes", "many bytes and an end", "many headers", "one value", "its url", "a trailer", "many trailers"],
)
async def test_a_head_has_a_bound(head: bytes) -> None:
    server, made, reader, writer = await connected(_echo)
    async with server, asyncio.timeout(20):
        writer.write(head)
        ((status, said),) = await _bodies(reader, 1)
        assert (status, said) == (431, b"the head of a request may have 64 KiB and 256 headers")
        made[0].data_received(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")  # what is on its way is not looked at
        writer.close()


async def test_a_head_within_its_bound_is_read_however_long_its_body_and_what_follows() -> None:
    server, _, reader, writer = await connected(_echo)
    async with server, asyncio.timeout(20):
        for more in (_lines(60_000), b"", _lines(60_000)):
            writer.write(_post(b"/a", b"y" * 400_000, more))
            assert await _bodies(reader, 1) == [(200, b"</a " + b"y" * 400_000 + b">")]
        chunk = b"4000\r\n%b\r\n" % (b"z" * 0x4000)
        writer.write(b"POST /b HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + chunk * 20 + b"0\r\n\r\n")
        assert await _bodies(reader, 1) == [(200, b"</b " + b"z" * 0x4000 * 20 + b">")]
        writer.close()


@pytest.mark.parametrize(
    ("behind", "before"),
    [
        (b"\0 is no request\r\n\r\n", 1),
        (_post(b"/two", b"2") + b"\0 is no request\r\n\r\n", 2),
        (b"POST /two HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nno length\r\n", 1),
        (b"GET / HTTP/1.1\r\n" + b"a: \r\n" * 300, 1),
    ],
    ids=["garbage", "garbage behind two", "a body that cannot be read", "a head without end"],
)
async def test_what_cannot_be_read_waits_for_the_answers_before_it(behind: bytes, before: int) -> None:
    goes_on = asyncio.Event()

    async def answer(cycle: Cycle) -> None:
        await goes_on.wait()
        await _echo(cycle)

    server, made, reader, writer = await connected(answer)
    async with server, asyncio.timeout(20):
        writer.write(_post(b"/one", b"1"))
        while not (made and made[0].cycle):  # noqa: ASYNC110
            await asyncio.sleep(0)
        made[0].data_received(behind)
        assert made[0]._refusal is not None
        goes_on.set()
        said: list[Any] = await _bodies(reader, before + 1)
        assert said[:-1] == [(200, b"</one 1>"), (200, b"</two 2>")][:before]
        assert said[-1][0] in (400, 431)
        assert await reader.read() == b""
        writer.close()


async def test_nothing_is_said_in_the_middle_of_an_answer() -> None:
    async def answer(cycle: Cycle) -> None:
        cycle.begin(200, b"")
        cycle.write(b"early")
        await cycle.body(1_000)
        cycle.write(b"late", more=False)

    server, made, reader, writer = await connected(answer)
    async with server, asyncio.timeout(20):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        await reader.readuntil(b"early")
        made[0].data_received(b"no length\r\n")
        assert b"HTTP/1.1" not in await reader.read()
        writer.close()


async def test_a_connection_that_is_made_while_the_server_stops_ends_too() -> None:
    server, made, reader, writer = await connected(_echo, is_stopping=True)
    async with server, asyncio.timeout(20):
        assert await reader.read() == b""  # it said nothing
        assert made[0].transport.is_closing()
        writer.close()


async def test_what_such_a_connection_has_sent_is_answered() -> None:
    server, _, reader, writer = await connected(_echo, is_stopping=True)
    async with server, asyncio.timeout(20):
        writer.write(_post(b"/late", b"hello"))
        assert await _bodies(reader, 1) == [(200, b"</late hello>")]
        assert await reader.read() == b""
        writer.close()


async def test_an_answer_that_lasts_longer_is_waited_for_there(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, told = asyncio.Event(), asyncio.Event()
    shutdown = Protocol.shutdown
    monkeypatch.setattr(Protocol, "shutdown", lambda self: (shutdown(self), told.set()))

    async def answer(cycle: Cycle) -> None:
        await goes_on.wait()
        await _echo(cycle)

    server, made, reader, writer = await connected(answer, is_stopping=True)
    async with server, asyncio.timeout(20):
        writer.write(_post(b"/late", b"hello"))
        await told.wait()
        assert not made[0].transport.is_closing()
        goes_on.set()
        assert await _bodies(reader, 1) == [(200, b"</late hello>")]
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_connections_that_are_opened_as_the_server_stops_do_not_keep_it(
    make_server: Callable[..., Server], workers: int
) -> None:
    server = make_server(workers=workers)
    with ExitStack() as kept, ThreadPoolExecutor(4) as clients:
        opened: list[socket.socket] = []

        def come() -> None:
            with suppress(OSError):  # nobody listens any more
                while len(opened) < 800:
                    opened.append(kept.enter_context(socket.create_connection(("127.0.0.1", server.port))))

        coming = [clients.submit(come) for _ in range(4)]
        wait_for(lambda: len(opened) >= 50, 20, "no connections can be opened")
        assert server.stop() == 0
        wait(coming)
    assert "graceful shutdown exceeded" not in server.log.read_text()

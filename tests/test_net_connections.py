"""Which connection a request goes by, on real sockets: never one of another origin, never one that was closed or has
something to say already."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import trustme
import uvloop

from bursar.net import http1, inflate
from bursar.net.connection import Connection
from bursar.net.guard import Guard
from bursar.net.http1 import Http1Transport
from bursar.net.transport import HungUpError
from bursar.wire.encode import Request

RUNS = [pytest.param(asyncio.run, id="asyncio"), pytest.param(uvloop.run, id="uvloop")]


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class Provider:
    """A server in a thread of its own, so that it goes on while the client's loop stands still. `script` is called with
    each connection and its number; `heard` is what each was asked, by number."""

    def __init__(self, script: Callable[[Provider, socket.socket, int], None], tls: ssl.SSLContext | None) -> None:
        self._script = script
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heard: list[list[bytes]] = []
        self.told = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *given: object) -> None:
        thread = threading.Thread(target=work, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._open.append(sock)
                self.heard.append([])
                self._start(self._serve, sock, len(self.heard) - 1)

    def _serve(self, sock: socket.socket, n: int) -> None:
        with suppress(OSError, ssl.SSLError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._open.append(sock)
            self._script(self, sock, n)

    def asked(self, sock: socket.socket, n: int) -> bytes:
        """The next request's body."""
        data = b""
        while not data.endswith(b"}"):
            more = sock.recv(65536)
            if not more:
                raise OSError
            data += more
        body = data.rpartition(b"\r\n\r\n")[2]
        self.heard[n].append(body)
        return body

    def close(self) -> None:
        # To close a listener does not wake who waits at it.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(10)


@contextmanager
def provider(
    script: Callable[[Provider, socket.socket, int], None], tls: ssl.SSLContext | None = None
) -> Iterator[Provider]:
    made = Provider(script, tls)
    try:
        yield made
    finally:
        made.close()


def echoes(one: Provider, sock: socket.socket, n: int) -> None:
    while True:
        sock.sendall(answer(one.asked(sock, n)))


async def call(client: Http1Transport, url: str, *parts: bytes, limit_s: float = 20.0) -> bytes:
    deadline = time.monotonic() + limit_s
    request = Request(url=url, headers=(), parts=parts or (b"{}",), params=b"{}", stream=False, added_usage=False)
    exchange = await client.send(request, connect_timeout_s=5, deadline=deadline)
    got = b""
    while data := await exchange.read(deadline):
        got += data
    exchange.done()
    return got


class At(Guard):
    """Finds every host at these addresses."""

    def __init__(self, *found: str) -> None:
        super().__init__()
        self._found = list(found)

    async def addresses(self, host: str, port: int) -> list[str]:
        return self._found


def idle(client: Http1Transport) -> list[Connection]:
    return [connection for kept in client._idle.values() for connection in kept]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("joins", [False, True], ids=["alone", "behind others that leave"])
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("ends", [False, True], ids=["more bytes", "its end"])
def test_what_waits_in_a_connection_when_a_request_leaves_is_not_its_answer(
    run: Callable[..., None], joins: bool, is_tls: bool, ends: bool
) -> None:
    server_side, client_side = _contexts("127.0.0.1")

    def script(one: Provider, sock: socket.socket, n: int) -> None:
        sock.sendall(answer(b"for " + one.asked(sock, n)))
        if n == 0:
            one.go.acquire()
            if ends:
                sock.shutdown(socket.SHUT_RDWR)
            else:
                sock.sendall(answer(b"STRAY"))
            one.told.release()
            one.asked(sock, n)

    async def work(one: Provider) -> None:
        client = Http1Transport(lambda: client_side)
        url = f"http{'s' if is_tls else ''}://127.0.0.1:{one.port}/x"
        assert await call(client, url, b"{1}") == b"for {1}"

        async def second() -> bytes:
            await asyncio.sleep(0)
            one.go.release()
            one.told.acquire()  # the loop stands still: what comes waits in the socket
            return await call(client, url, b"{2}")

        tasks = [asyncio.ensure_future(second())]
        if joins:
            client.turns.leave(asyncio.get_running_loop(), lambda: None)
        assert await tasks[0] == b"for {2}"
        await client.close()

    with provider(script, server_side if is_tls else None) as one:
        run(work(one))
        assert one.heard == [[b"{1}"], [b"{2}"]]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_parts_of_a_request_arrive_one_behind_the_other_however_slowly_they_are_taken(
    run: Callable[..., None], is_tls: bool
) -> None:
    server_side, client_side = _contexts("127.0.0.1")
    many = [b"{", b"a" * 3_000_000, b"b", b"c" * 500_000, b"d" * 5, b"e", b"f" * 10_000, b"}"]
    wanted = [many, [b"{", b"g" * 9000, b"}"], [b"{}"]]

    async def work(one: Provider) -> None:
        client = Http1Transport(lambda: client_side)
        url = f"http{'s' if is_tls else ''}://127.0.0.1:{one.port}/x"
        for parts in wanted:
            assert await call(client, url, *parts) == b"".join(parts)
        await client.close()

    with provider(echoes, server_side if is_tls else None) as one:
        run(work(one))
        assert one.heard == [[b"".join(parts) for parts in wanted]]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_an_answer_that_comes_before_its_request_has_left_ends_the_connection(
    run: Callable[..., None], is_tls: bool
) -> None:
    server_side, client_side = _contexts("127.0.0.1")

    def script(one: Provider, sock: socket.socket, n: int) -> None:
        if n == 0:
            sock.recv(1000)
            sock.sendall(answer(b"too long"))
            one.go.acquire()
        else:
            sock.sendall(answer(one.asked(sock, n)))

    async def work(one: Provider) -> None:
        client = Http1Transport(lambda: client_side)
        url = f"http{'s' if is_tls else ''}://127.0.0.1:{one.port}/x"
        assert await call(client, url, b"x" * 20_000_000) == b"too long"
        assert idle(client) == []
        assert await call(client, url, b"{2}") == b"{2}"
        await client.close()

    with provider(script, server_side if is_tls else None) as one:
        run(work(one))
        one.go.release()


async def test_a_request_goes_where_it_is_meant_to_and_nowhere_else() -> None:
    server_side, client_side = _contexts("127.0.0.1", "localhost")
    with provider(echoes) as first, provider(echoes) as second, provider(echoes, server_side) as third:
        client = Http1Transport(lambda: client_side)
        urls = [
            f"http://127.0.0.1:{first.port}/x",
            f"http://127.0.0.1:{second.port}/x",
            f"http://localhost:{first.port}/x",
            f"https://127.0.0.1:{third.port}/x",
            f"https://localhost:{third.port}/x",
        ]
        for turn in range(3):
            for n, url in enumerate(urls):
                body = b"{%d of %d}" % (turn, n)
                assert await call(client, url, body) == body
        assert len(idle(client)) == 5
        of = [[b"{%d of %d}" % (turn, n) for turn in range(3)] for n in range(5)]
        assert first.heard == [of[0], of[2]]
        assert second.heard == [of[1]]
        assert third.heard == [of[3], of[4]]
        await client.close()


async def test_a_connection_that_has_been_idle_for_long_is_not_used_and_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(http1, "monotonic", lambda: now)
    with provider(echoes) as one:
        client, url = Http1Transport(), f"http://127.0.0.1:{one.port}/x"
        far = now + 1000
        await call(client, url, limit_s=1000)
        (kept,) = idle(client)
        now += 14.9
        await call(client, url, limit_s=1000)
        assert idle(client) == [kept]
        now += 15.0
        await call(client, url, limit_s=1000)
        (other,) = idle(client)
        assert other is not kept
        assert kept._transport.is_closing()
        now += 15.0
        assert now < far
        client._sweep()  # what its timer does
        assert idle(client) == []
        assert client._idle == {}
        assert other._transport.is_closing()
        await client.close()
        assert len(one.heard) == 2


async def test_a_connection_that_ends_while_it_is_idle_is_forgotten() -> None:
    def script(one: Provider, sock: socket.socket, n: int) -> None:
        sock.sendall(answer(one.asked(sock, n)))
        one.go.acquire()
        sock.shutdown(socket.SHUT_RDWR)

    with provider(script) as one:
        client, url = Http1Transport(), f"http://127.0.0.1:{one.port}/x"
        await call(client, url)
        (kept,) = idle(client)
        one.go.release()
        while not kept._transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        assert idle(client) == []
        assert await call(client, url) == b"{}"
        one.go.release()
        await client.close()


async def test_a_connection_that_is_closed_on_this_side_is_neither_taken_back_nor_used() -> None:
    with provider(echoes) as one:
        client, url = Http1Transport(), f"http://127.0.0.1:{one.port}/x"
        deadline = time.monotonic() + 20
        request = Request(url=url, headers=(), parts=(b"{}",), params=b"{}", stream=False, added_usage=False)
        exchange = await client.send(request, connect_timeout_s=5, deadline=deadline)
        assert await exchange.read(deadline) == b"{}"
        (busy,) = client.busy
        busy._transport.close()
        exchange.done()
        assert idle(client) == []
        await call(client, url)
        (kept,) = idle(client)
        kept._transport.close()  # its end has not been told yet
        assert await call(client, url) == b"{}"
        assert len(one.heard) == 3
        # What ends cleanly when the client has been closed is not kept for anybody.
        exchange = await client.send(request, connect_timeout_s=5, deadline=deadline)
        assert await exchange.read(deadline) == b"{}"
        (busy,) = client.busy
        client._closed = True
        exchange.done()
        assert busy._transport.is_closing()
        assert busy not in idle(client)
        await client.close()


async def test_a_guarded_host_is_reached_at_the_first_of_its_addresses_that_answers() -> None:
    """And TLS is held against its name, not against the address."""
    server_side, client_side = _contexts("provider.test")

    with provider(echoes, server_side) as one:
        for given in (["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.1"]):
            client = Http1Transport(lambda: client_side, guard=At(*given))
            assert await call(client, f"https://provider.test:{one.port}/x", b"{it}") == b"{it}"
            await client.close()
        client = Http1Transport(lambda: client_side)
        with pytest.raises(http1.NotSentError, match=r"(?i)certificate"):
            await call(client, f"https://127.0.0.1:{one.port}/x")
        await client.close()


async def test_an_address_that_does_not_answer_leaves_time_for_the_next() -> None:
    class Slow(Http1Transport):
        async def _reached(self, origin: http1.Origin, address: str) -> Connection:
            if address == "127.0.0.2":
                await asyncio.get_running_loop().create_future()
            return await super()._reached(origin, address)

    with provider(echoes) as one:
        client = Slow(guard=At("127.0.0.2", "127.0.0.1"))
        deadline = time.monotonic() + 20
        request = Request(
            url=f"http://127.0.0.1:{one.port}/x",
            headers=(),
            parts=(b"{}",),
            params=b"{}",
            stream=False,
            added_usage=False,
        )
        exchange = await client.send(request, connect_timeout_s=2, deadline=deadline)
        assert await exchange.read(deadline) == b"{}"
        exchange.done()
        await client.close()


def test_many_small_or_one_large_compressed_part_neither_stop_the_loop_nor_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = gzip.compress(b"\0" * 8_000_000)
    reader = inflate.inflater("gzip")
    got = [reader.feed(large)]
    while reader.has_more:
        got.append(reader.feed(b""))
    got.append(reader.close())
    assert b"".join(got) == b"\0" * 8_000_000
    assert max(map(len, got)) <= 256 * 1024

    few = b"".join(gzip.compress(b"%d" % n) for n in range(4096))
    reader = inflate.inflater("gzip")
    got = [reader.feed(few)]
    while reader.has_more:
        got.append(reader.feed(b""))
    assert b"".join(got) == b"".join(b"%d" % n for n in range(4096))
    with pytest.raises(HungUpError, match="4096 parts"):
        reader.feed(gzip.compress(b""))

    monkeypatch.setattr(inflate, "_MOST_BYTES", 1_000_000)
    reader = inflate.inflater("gzip")
    reader.feed(large)
    with pytest.raises(HungUpError, match="longer than 1000000 bytes"):
        while reader.has_more:
            reader.feed(b"")


@pytest.mark.parametrize("wbits", [zlib.MAX_WBITS, -zlib.MAX_WBITS], ids=["wrapped", "bare"])
def test_deflate_is_the_same_however_it_is_cut(wbits: int) -> None:
    compressor = zlib.compressobj(wbits=wbits)
    data = compressor.compress(b"one, two, three") + compressor.flush()
    for cut in range(len(data) + 1):
        reader = inflate.inflater("deflate")
        got = b""
        for part in (data[:cut], data[cut:]):
            got += reader.feed(part) if part else b""
            while reader.has_more:
                got += reader.feed(b"")
        assert got + reader.close() == b"one, two, three"
    for cut in range(1, len(data)):
        reader = inflate.inflater("deflate")
        reader.feed(data[:cut])
        with pytest.raises(HungUpError, match="in the middle"):
            reader.close()


def _contexts(*names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server with a certificate of these names, and a client that trusts it, go by."""
    authority = trustme.CA()
    server_side, client_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert(*names).configure_cert(server_side)
    authority.configure_trust(client_side)
    return server_side, client_side

"""The HTTP/1.1 client: every answer the same however its bytes are cut, every wrong one told, and no byte of one
caller's answer ever another's."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.net.connection import Connection
from bursar.net.exchange import Exchange
from bursar.net.head import _address_of, _line_of, head_of
from bursar.net.http1 import Http1Transport
from bursar.net.transport import HungUpError, NotSentError
from bursar.wire.encode import Request
from support.turns import Reluctant

BODY = b'{"id":"one","text":"\xc3\xa9"}'
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\n" + BODY[:5] + b"\r\n%x\r\n" % (len(BODY) - 5) + BODY[5:] + b"\r\n0\r\n\r\n"
)
EXTENDED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b'5;name=value;quoted="a b"\r\n' + BODY[:5] + b"\r\n%x;x\r\n" % (len(BODY) - 5) + BODY[5:] + b"\r\n"
    b"0;last\r\nx-trailer: late\r\nstatus: 500\r\n\r\n"
)
EARLY = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\nx-early: 1\r\n\r\n" + PLAIN
EMPTY = b"HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n"
ZERO = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
OLD = b"HTTP/1.0 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
UNTIL_EOF = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + BODY
ZIPPED = gzip.compress(BODY)
GZIP = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(ZIPPED), ZIPPED)

# (answer, its body, whether its connection may be used again)
KEPT = [(PLAIN, BODY), (CHUNKED, BODY), (EXTENDED, BODY), (EARLY, BODY), (EMPTY, b""), (ZERO, b""), (GZIP, BODY)]
NOT_KEPT = [(CLOSING, BODY), (OLD, BODY)]


def request(url: str = "http://127.0.0.1:1/v1", body: bytes = b"{}", **headers: str) -> Request:
    named = tuple((k.replace("_", "-"), v) for k, v in headers.items())
    return Request(url=url, headers=named, parts=(body,), params=b"{}", stream=False, added_usage=False)


class Wire(asyncio.Transport):
    """The socket of a connection, in memory: what is written to it, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = False
        self.paused = False
        self.unsent = 0

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Client(Http1Transport):
    """The transport with connections in memory; `made` are those that were made."""

    def __init__(self) -> None:
        super().__init__(turns=Reluctant())  # every wait is put off once before it goes on
        self.made: list[tuple[Connection, Wire]] = []

    async def _connect(self, origin: Any, timeout_s: float, deadline: float) -> Connection:
        connection, wire = Connection(self, origin), Wire()
        connection.connection_made(wire)
        self.made.append((connection, wire))
        return connection

    @property
    def last(self) -> tuple[Connection, Wire]:
        return self.made[-1]


async def left(client: Client) -> None:
    """Waits until every request has left: that is when a turn of the loop ends."""
    while not client.busy or any(connection._request is not None for connection in client.busy):  # noqa: ASYNC110
        await asyncio.sleep(0)


async def about_to_leave(client: Client) -> asyncio.Task[Exchange]:
    """Sends, and returns when the request has its connection and has not left yet."""
    sending = asyncio.ensure_future(client.send(request(), connect_timeout_s=5, deadline=time.monotonic() + 30))
    while not client.busy:  # noqa: ASYNC110
        await asyncio.sleep(0)
    return sending


async def used_once(client: Client) -> None:
    """Makes a connection, and lets it become idle behind an answer."""
    exchange, _ = await answered(client, lambda connection: connection.data_received(PLAIN))
    exchange.done()


async def answered(client: Client, feed: Callable[[Connection], None]) -> tuple[Exchange, bytes]:
    """Sends, lets `feed` give the connection its bytes, and reads the answer to its end."""
    deadline = time.monotonic() + 30
    sending = asyncio.ensure_future(client.send(request(), connect_timeout_s=5, deadline=deadline))
    await left(client)
    busy = next(iter(client.busy))
    feed(busy)
    exchange = await sending
    body = b""
    while data := await exchange.read(deadline):
        body += data
    return exchange, body


def run(work: Any) -> Any:
    return asyncio.run(work)


@pytest.mark.parametrize(("answer", "body"), [*KEPT, *NOT_KEPT])
def test_an_answer_cut_at_every_byte_is_the_same_and_keeps_its_connection_where_it_may(
    answer: bytes, body: bytes
) -> None:
    async def work() -> None:
        keeps = (answer, body) in KEPT
        for cut in range(len(answer) + 1):
            client = Client()

            def feed(connection: Connection, cut: int = cut) -> None:
                connection.data_received(answer[:cut])
                if connection.exchange is not None:
                    connection.data_received(answer[cut:])

            exchange, got = await answered(client, feed)
            assert got == body
            assert exchange.status == (204 if answer is EMPTY else 200)
            assert not {b"x-trailer", b"status", b"x-early"} & exchange.headers.keys()
            exchange.done()
            assert client.last[1].aborted is not keeps
            await client.close()

    run(work())


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED, EXTENDED, EARLY, GZIP, UNTIL_EOF])
def test_a_connection_closed_at_every_byte_is_told_unless_the_answer_was_whole(answer: bytes) -> None:
    async def work() -> None:
        for cut in range(len(answer)):
            client = Client()

            def feed(connection: Connection, cut: int = cut) -> None:
                connection.data_received(answer[:cut])
                connection.connection_lost(None)

            head = answer.index(b"\r\n\r\n", answer.rindex(b"HTTP/1.1")) + 4
            if answer is UNTIL_EOF and cut >= head:
                assert (await answered(client, feed))[1] == BODY[: cut - head]
            else:
                with pytest.raises(HungUpError):
                    await answered(client, feed)
            await client.close()

    run(work())


def test_bytes_byte_by_byte_and_an_answer_that_ends_with_its_connection() -> None:
    async def work() -> None:
        client = Client()

        def feed(connection: Connection) -> None:
            for n in range(len(UNTIL_EOF)):
                connection.data_received(UNTIL_EOF[n : n + 1])
            connection.connection_lost(None)

        exchange, body = await answered(client, feed)
        assert body == BODY
        exchange.done()
        assert not client.busy

    run(work())


@given(
    answers=st.lists(
        st.tuples(
            st.sampled_from([*KEPT, *NOT_KEPT]),
            st.sampled_from([b"", b"\r\n", b"x", PLAIN, CHUNKED[:30], b"HTTP/1.1 200 OK\r\n"]),
            st.lists(st.integers(0, 400), max_size=4),
            st.booleans(),
        ),
        min_size=2,
        max_size=6,
    )
)
@settings(max_examples=300, deadline=None)
def test_a_connection_is_used_again_only_after_a_clean_end_and_no_caller_reads_another_s_bytes(
    answers: list[tuple[tuple[bytes, bytes], bytes, list[int], bool]],
) -> None:
    async def work() -> None:
        client = Client()
        stale: list[Exchange] = []
        clean_before = True
        for n, ((answer, body), garbage, cuts, late) in enumerate(answers):
            own = body.replace(b"one", b"%03d" % (n % 1000))
            marked = answer.replace(b"one", b"%03d" % (n % 1000)) if answer is not GZIP else answer
            made = len(client.made)
            data = marked + (b"" if late else garbage)
            places = sorted({min(c, len(data)) for c in cuts} | {0, len(data)})

            def feed(connection: Connection, data: bytes = data, places: list[int] = places) -> None:
                for a, b in itertools.pairwise(places):
                    if connection.exchange is None:
                        return
                    connection.data_received(data[a:b])
                    assert not any(old.at_hand() for old in stale)

            exchange, got = await answered(client, feed)
            assert got == (BODY if answer is GZIP else own)
            connection, wire = client.last
            exchange.done()
            if late and garbage and connection.exchange is None and not wire.aborted:
                connection.data_received(garbage)  # nobody asked
                assert wire.aborted
            # An empty line behind an answer, come with it, is read over: it can begin nothing.
            clean = (answer, body) in KEPT and (not garbage or (garbage == b"\r\n" and not late))
            assert wire.aborted is not clean
            for old in stale:
                old.abort()  # what is still held of an earlier exchange touches nothing
                old.done()
            stale.append(exchange)
            if n and len(client.made) == made:
                assert clean_before
        await client.close()

    run(work())


def test_what_a_caller_did_not_read_stays_his_and_nobody_else_reads_it() -> None:
    async def work() -> None:
        client, deadline = Client(), time.monotonic() + 30
        sending = asyncio.ensure_future(client.send(request(), connect_timeout_s=5, deadline=deadline))
        await left(client)
        connection, wire = client.last
        connection.data_received(PLAIN)
        first = await sending
        first.done()
        assert connection.exchange is None
        second, body = await answered(client, lambda used: used.data_received(PLAIN.replace(b"one", b"two")))
        assert client.made == [(connection, wire)]
        assert body == BODY.replace(b"one", b"two")
        assert not first.is_over
        assert await first.read(deadline) == BODY
        assert first.is_over
        second.done()
        await client.close()

    run(work())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 300_000, "headers"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 60_000, "headers"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, "headers"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;" + b"e" * 300_000, "headers"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"t: r\r\n" * 60_000, "headers"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloX", "not HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not HTTP"),
    ],
)
def test_what_is_no_answer_is_told_and_its_connection_closed(answer: bytes, said: str) -> None:
    async def work() -> None:
        client = Client()

        def feed(connection: Connection) -> None:
            for at in range(0, len(answer), 16_384):
                if connection.exchange is not None:
                    connection.data_received(answer[at : at + 16_384])

        with pytest.raises(HungUpError, match=said):
            await answered(client, feed)
        assert client.last[1].aborted
        assert not client.busy

    run(work())


def test_a_body_longer_than_said_is_cut_where_it_was_said_to_end() -> None:
    async def work() -> None:
        client = Client()
        exchange, body = await answered(client, lambda c: c.data_received(PLAIN + b"and more"))
        assert body == BODY
        exchange.done()
        assert client.last[1].aborted

    run(work())


def test_a_request_that_was_not_sent_whole_closes_its_connection() -> None:
    async def work() -> None:
        client = Client()

        def feed(connection: Connection) -> None:
            client.last[1].unsent = 1
            connection.data_received(PLAIN)

        exchange, body = await answered(client, feed)
        assert body == BODY
        exchange.done()
        assert client.last[1].aborted

    run(work())


def test_an_end_mark_before_the_end_waits_a_moment_for_it() -> None:
    async def work() -> None:
        client = Client()
        deadline = time.monotonic() + 30
        sending = asyncio.ensure_future(client.send(request(), connect_timeout_s=5, deadline=deadline))
        await left(client)
        connection, wire = client.last
        connection.data_received(CHUNKED[:-5])
        exchange = await sending
        assert await exchange.read(deadline) == BODY
        exchange.done()
        assert not wire.aborted
        connection.data_received(CHUNKED[-5:])
        assert not wire.aborted
        assert not client.busy
        # The next one on the same connection says its end and then nothing: after a moment it is closed.
        again = asyncio.ensure_future(client.send(request(), connect_timeout_s=5, deadline=deadline))
        await left(client)
        assert len(client.made) == 1
        connection.data_received(CHUNKED[:-5])
        (await again).done()
        connection.check(time.monotonic() + 0.5)
        assert not wire.aborted
        connection.check(time.monotonic() + 2)
        assert wire.aborted
        await client.close()

    run(work())


async def test_bytes_that_come_before_a_request_has_left_are_nobody_s_answer() -> None:
    client = Client()
    await used_once(client)
    sending = await about_to_leave(client)
    connection, wire = client.last
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nSTRAY")
    assert wire.aborted
    # It goes by another connection, and its own answer is the one it gets.
    await left(client)
    other, wire_of_other = client.last
    assert other is not connection
    assert len(wire.written) == len(wire_of_other.written) == 1
    other.data_received(PLAIN)
    exchange = await sending
    assert await exchange.read(time.monotonic() + 30) == BODY
    exchange.done()
    await client.close()


async def test_a_connection_that_ends_before_a_request_has_left_is_not_used_for_it() -> None:
    client = Client()
    await used_once(client)
    sending = await about_to_leave(client)
    client.last[1].abort()
    client.last[0].connection_lost(None)
    await left(client)
    assert len(client.made) == 2
    # A new one that ends so is told: another would end so too.
    client.last[0].data_received(PLAIN)
    assert (await sending).status == 200
    client.last[0].abort()
    again = await about_to_leave(client)
    client.last[1].abort()
    client.last[0].connection_lost(None)
    with pytest.raises(NotSentError, match="before the request left"):
        await again
    assert len(client.made) == 3
    await client.close()


async def test_a_request_that_is_given_up_before_it_has_left_is_not_sent() -> None:
    client = Client()
    sending = await about_to_leave(client)
    connection, wire = client.last
    assert connection.exchange is not None
    connection.exchange.abort()
    with pytest.raises(HungUpError):
        await sending
    assert wire.aborted
    assert wire.written == []


def test_a_slow_reader_holds_the_connection_back() -> None:
    async def work() -> None:
        client = Client()
        deadline = time.monotonic() + 30
        sending = asyncio.ensure_future(client.send(request(), connect_timeout_s=5, deadline=deadline))
        await left(client)
        connection, wire = client.last
        connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 5000000\r\n\r\n")
        for _ in range(30):
            connection.data_received(b"x" * 50_000)
        assert wire.paused
        exchange = await sending
        assert len(await exchange.read(deadline)) == 1_500_000
        assert not wire.paused
        exchange.abort()
        assert wire.aborted
        with pytest.raises(HungUpError):
            await exchange.read(deadline)
        await client.close()

    run(work())


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "bare deflate"])
def test_a_compressed_answer_is_read_and_a_broken_one_told(coding: str) -> None:
    packer = {"deflate": zlib.compressobj(), "bare deflate": zlib.compressobj(wbits=-15)}.get(coding)
    packed = packer.compress(BODY * 50) + packer.flush() if packer is not None else gzip.compress(BODY * 50)
    name = coding.removeprefix("bare ").encode()

    async def work(data: bytes) -> bytes:
        client = Client()
        answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: %b\r\ncontent-length: %d\r\n\r\n" % (name, len(data)) + data
        try:
            return (await answered(client, lambda c: c.data_received(answer)))[1]
        finally:
            await client.close()

    assert run(work(packed)) == BODY * 50
    with pytest.raises(HungUpError, match="compressed"):
        run(work(packed[:-9]))
    with pytest.raises(HungUpError, match="compressed"):
        run(work(b"\xff" + packed[1:]))


def test_a_coding_nobody_asked_for_is_told() -> None:
    async def work() -> None:
        client = Client()
        answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\nxx"
        with pytest.raises(HungUpError, match="'br'"):
            await answered(client, lambda c: c.data_received(answer))
        assert not client.busy

    run(work())


@pytest.mark.parametrize(
    ("url", "headers", "said"),
    [
        ("ftp://h/x", {}, "http"),
        ("http:///x", {}, "host"),
        ("http://h:99999/x", {}, "not valid"),
        ("http://h/a b", {}, "percent"),
        ("http://h/x\r\nevil: 1", {}, "percent"),
        ("http://h/x", {"a": "secret\r\nevil: 1"}, "'a'"),
        ("http://h/x", {"a b": "secret"}, "'a b'"),
        ("http://h/x", {"a": "secret\u4e00"}, "'a'"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name_and_without_its_value(
    url: str, headers: dict[str, str], said: str
) -> None:
    with pytest.raises(NotSentError, match=said) as caught:
        head_of(url, tuple(headers.items()))
    assert "secret" not in str(caught.value)


def test_the_head_of_a_request() -> None:
    made = head_of("https://user:p%40ss@h.example:8443/v1/x?a=b", (("accept", "*/*"),))
    assert made.origin.tls
    assert (made.origin.host, made.origin.port) == ("h.example", 8443)
    assert made.data == (
        b"POST /v1/x?a=b HTTP/1.1\r\nhost: h.example:8443\r\nauthorization: Basic dXNlcjpwQHNz\r\n"
        b"accept: */*\r\ncontent-length: "
    )
    assert b"host: [::1]:81\r\n" in head_of("http://[::1]:81", ()).data
    assert b"host: h\r\n" in head_of("http://h:80/", ()).data
    assert b"host: xn--bcher-kva.example\r\n" in head_of("http://b\u00fccher.example/", ()).data


def test_what_callers_say_at_length_is_not_remembered() -> None:
    def asked(model: str, session: str) -> int:
        """How often what is remembered was asked for something."""
        before = _address_of.cache_info(), _line_of.cache_info()
        data = head_of(f"https://h.example/{model}", (("accept", "*/*"), ("x-session", session))).data
        assert data.startswith(b"POST /%b HTTP/1.1\r\n" % model.encode())
        assert data.endswith(b"\r\nx-session: %b\r\ncontent-length: " % session.encode())
        after = _address_of.cache_info(), _line_of.cache_info()
        return sum(now.hits + now.misses - was.hits - was.misses for was, now in zip(before, after, strict=True))

    assert asked("m", "s") == 3
    assert asked("m" * 5000, "s") == 2
    assert asked("m", "s" * 5000) == 1
    with pytest.raises(NotSentError, match="x-session"):
        asked("m", "s" * 5000 + "\n")


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each request with its own body, in two writes."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length)
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(body)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def test_many_callers_at_once_each_get_their_own_and_share_connections() -> None:
    seen = 0

    async def counting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        await _echo(reader, writer)

    async with listening(counting) as port:
        client = Http1Transport()

        async def caller(n: int) -> None:
            for turn in range(20):
                body = b'{"caller": %d, "turn": %d}' % (n, turn)
                deadline = time.monotonic() + 20
                exchange = await client.send(
                    request(f"http://127.0.0.1:{port}/x", body), connect_timeout_s=5, deadline=deadline
                )
                got = b""
                while data := await exchange.read(deadline):
                    got += data
                assert got == body
                exchange.done()

        await asyncio.gather(*(caller(n) for n in range(40)))
        assert seen <= 40
        await client.close()


async def test_time_limits_and_addresses_nobody_listens_at() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    client = Http1Transport()
    async with listening(silent) as port:
        with pytest.raises(TimeoutError):
            await client.send(
                request(f"http://127.0.0.1:{port}/x"), connect_timeout_s=5, deadline=time.monotonic() + 0.1
            )
        assert not client.busy
    with pytest.raises(NotSentError, match=str(port)):
        await client.send(request(f"http://127.0.0.1:{port}/x"), connect_timeout_s=5, deadline=time.monotonic() + 5)
    await client.close()


async def test_a_transport_that_rested_keeps_time_limits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar.net.http1._IDLE_SWEEP_S", 3600.0)

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(PLAIN)
        await reader.read()
        writer.close()

    client = Http1Transport()
    async with listening(once) as port:
        asked = request(f"http://127.0.0.1:{port}/x")
        deadline = time.monotonic() + 20
        answer = await client.send(asked, connect_timeout_s=5, deadline=deadline)
        assert await answer.read(deadline) == BODY
        answer.done()
        client._sweep()  # what a timer does: nothing is under way, and the next look is an hour away
        with pytest.raises(TimeoutError):
            await client.send(asked, connect_timeout_s=5, deadline=time.monotonic() + 0.1)
        assert not client.busy
    await client.close()


async def test_tls_by_the_machine_s_trust_or_a_given_one() -> None:
    authority = trustme.CA()
    server_side, client_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server_side)
    authority.configure_trust(client_side)
    async with listening(_echo, server_side) as port:
        url, deadline = f"https://127.0.0.1:{port}/x", time.monotonic() + 20
        trusting = Http1Transport(lambda: client_side)
        exchange = await trusting.send(request(url, b"over tls"), connect_timeout_s=5, deadline=deadline)
        assert await exchange.read(deadline) == b"over tls"
        exchange.done()
        await trusting.close()
        wary = Http1Transport()
        with pytest.raises(NotSentError, match=r"(?i)certificate"):
            await wary.send(request(url), connect_timeout_s=5, deadline=deadline)
        await wary.close()


async def test_a_call_that_connects_while_the_client_closes_sends_nothing() -> None:
    class Slow(Client):
        async def _connect(self, origin: Any, timeout_s: float, deadline: float) -> Connection:
            await asyncio.sleep(0)
            return await super()._connect(origin, timeout_s, deadline)

    client = Slow()
    deadline = time.monotonic() + 30
    sending = asyncio.ensure_future(client.send(request(), connect_timeout_s=5, deadline=deadline))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(NotSentError, match="closed"):
        await sending
    _, wire = client.last
    assert wire.written == []
    assert wire.aborted


def test_headers_that_cut_messages_are_the_client_s_own_and_a_given_host_stands_alone() -> None:
    for name in ("Content-Length", "transfer-encoding", "Connection"):
        with pytest.raises(NotSentError, match=name):
            head_of("http://h/", ((name, "1"),))
    assert head_of("http://h/", (("Host", "other"),)).data.lower().count(b"host:") == 1


def test_gzip_of_several_members_is_one_text() -> None:
    async def work() -> None:
        data = gzip.compress(BODY[:9]) + gzip.compress(BODY[9:15]) + gzip.compress(BODY[15:])
        answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(data) + data
        for cut in range(60, len(answer)):
            client = Client()

            def feed(connection: Connection, cut: int = cut) -> None:
                connection.data_received(answer[:cut])
                connection.data_received(answer[cut:])

            assert (await answered(client, feed))[1] == BODY
            await client.close()

    run(work())


@pytest.mark.parametrize("is_ours", [True, False])
async def test_an_exchange_that_ends_while_its_reader_is_put_off_is_told_and_one_given_up_is_gone(
    is_ours: bool,
) -> None:
    client = Client()
    deadline = time.monotonic() + 30
    for cancelled in (False, True):
        sending = asyncio.ensure_future(client.send(request(), connect_timeout_s=5, deadline=deadline))
        await left(client)
        (busy,) = client.busy
        busy.data_received(CHUNKED[:50])
        exchange = await sending
        reading = asyncio.ensure_future(exchange.read(deadline))
        put_off = client.turns.put_off  # type: ignore[attr-defined]
        if exchange._parts:
            assert await reading
            reading = asyncio.ensure_future(exchange.read(deadline))
        await asyncio.sleep(0)
        busy.data_received(CHUNKED[50:-5])
        while client.turns.put_off == put_off:  # type: ignore[attr-defined]  # noqa: ASYNC110
            await asyncio.sleep(0)
        if cancelled:
            reading.cancel()
        exchange.abort() if is_ours else busy.connection_lost(None)
        with pytest.raises(asyncio.CancelledError if cancelled else HungUpError):
            while True:
                assert await reading
                reading = asyncio.ensure_future(exchange.read(deadline))
        exchange.abort()
        assert not client.busy


def test_heads_of_odd_sizes_are_not_kept() -> None:
    async def work() -> None:
        client = Client()
        for n in range(5):
            sending = asyncio.ensure_future(
                client.send(request(x=f"{n}" + "y" * 5000), connect_timeout_s=5, deadline=time.monotonic() + 30)
            )
            await left(client)
            client.last[0].data_received(ZERO)
            (await sending).done()
        assert client._heads == {}
        await client.close()

    run(work())

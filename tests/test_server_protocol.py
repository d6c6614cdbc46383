"""The server's side of HTTP/1.1 on a plain socket: what uvicorn's protocol promises holds with the leaner cycle."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bursar.http.answers import answer_error, passed_headers, passed_lines
from bursar.http.asgi import Later, answering
from bursar.http.auth import Principal
from bursar.http.calls import _call, serve
from bursar.http.cycle import Answering, Cycle, lines_of
from bursar.http.heads import Head, Known
from bursar.http.protocol import Protocol
from bursar.net.turns import Turns
from bursar.types.call import CHAT
from bursar.types.errors import BursarError, ForbiddenError
from bursar.wire.ingress import read
from bursar.wire.openings import Openings
from support.protocol import connected, protocol_of
from support.server import ADMIN, Server, wait_for
from support.turns import Reluctant
from support.upstream import Upstream


def chat(text: str = "hello", *headers: str, body: bytes | None = None, **more: Any) -> bytes:
    data = body if body is not None else json.dumps(
        {"model": "up/gpt-4o-mini", "messages": [{"role": "user", "content": text}], **more}
    ).encode()  # fmt: skip
    lines = [
        "POST /v1/chat/completions HTTP/1.1", "host: x", f"authorization: Bearer {ADMIN}",
        "content-type: application/json", f"content-length: {len(data)}", *headers,
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


class Peer:
    """A client of one connection that reads answers one by one, as they stand on the wire."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        self._left = b""

    def send(self, *pieces: bytes) -> Peer:
        for piece in pieces:
            self.socket.sendall(piece)
        return self

    def head(self) -> tuple[str, dict[str, str]]:
        while b"\r\n\r\n" not in self._left:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError(self._left)
            self._left += more
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        return first, dict(line.split(": ", 1) for line in lines)

    def body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return self._exactly(int(headers["content-length"]))
        assert headers["transfer-encoding"] == "chunked"
        parts = []
        while size := int(self._line(), 16):
            parts.append(self._exactly(size))
            assert self._line() == b""
        assert self._line() == b""
        return b"".join(parts)

    def answer(self) -> tuple[str, dict[str, str], bytes]:
        first, headers = self.head()
        return first, headers, self.body(headers)

    def is_closed(self) -> bool:
        try:
            return self._left == b"" and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _exactly(self, size: int) -> bytes:
        while len(self._left) < size:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError(self._left)
            self._left += more
        data, self._left = self._left[:size], self._left[size:]
        return data

    def _line(self) -> bytes:
        data = b""
        while not data.endswith(b"\r\n"):
            data += self._exactly(1)
        return data[:-2]


def content(body: bytes) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"])


def test_a_connection_serves_one_request_after_another_however_it_is_cut(server: Server) -> None:
    peer = Peer(server)
    request = chat("one")
    for n in range(0, len(request), 7):
        peer.send(request[n : n + 7])
    assert peer.answer()[0] == "HTTP/1.1 200 OK"
    for _ in range(3):
        first, headers, body = peer.send(chat("again")).answer()
        assert first == "HTTP/1.1 200 OK"
        assert headers["content-type"] == "application/json"
        assert content(body)


def test_a_head_that_was_read_before_says_what_the_parser_says(server: Server, upstream: Upstream) -> None:
    """Requests with one head in all: in one piece, in two, with another's key, behind one another, and cut short."""
    peer, asked = Peer(server), [f"text {n}" for n in range(6)]
    assert len({len(chat(text)) for text in asked}) == 1
    for text in asked[:2]:
        assert peer.send(chat(text)).answer()[0] == "HTTP/1.1 200 OK"
    whole = chat(asked[2])
    end = whole.index(b"\r\n\r\n") + 4
    assert peer.send(whole[:end], whole[end : end + 5], whole[end + 5 :]).answer()[0] == "HTTP/1.1 200 OK"
    assert Peer(server).send(whole.replace(ADMIN.encode(), b"x" * len(ADMIN))).answer()[0].startswith("HTTP/1.1 401")
    other = Peer(server).send(chat(asked[3]) + chat(asked[4]))
    assert [other.answer()[0] for _ in range(2)] == ["HTTP/1.1 200 OK"] * 2
    assert peer.send(chat(asked[5])).answer()[0] == "HTTP/1.1 200 OK"
    assert [seen.json["messages"][0]["content"] for seen in upstream.seen] == asked


def test_a_long_beginning_that_came_before_reaches_the_provider_whole(server: Server, upstream: Upstream) -> None:
    """In one piece, in two, behind another, for another kind of call, and for what is no call."""
    system = {"role": "system", "content": "Answer in one sentence. " * 500}

    def body(text: str, **more: Any) -> bytes:
        messages = [system, {"role": "user", "content": text}]
        return json.dumps({"model": "up/gpt-4o-mini", "messages": messages, **more}).encode()

    peer = Peer(server)
    texts = [f"question {n}" for n in range(6)]
    for text in texts[:4]:
        assert peer.send(chat(body=body(text))).answer()[0] == "HTTP/1.1 200 OK"
    whole = chat(body=body(texts[4]))
    assert peer.send(whole[:9000], whole[9000:]).answer()[0] == "HTTP/1.1 200 OK"
    assert peer.send(chat(body=body(texts[5], unheard_of=1))).answer()[0] == "HTTP/1.1 200 OK"
    assert [seen.json["messages"] for seen in upstream.seen] == [
        [system, {"role": "user", "content": text}] for text in texts
    ]
    assert upstream.seen[5].json["unheard_of"] == 1
    for path, said in ((b"/v1/messages", b"question"), (b"/v1/embeddings", b"'input'"), (b"/api/providers", b"name")):
        for n in range(3):
            other = chat(body=body(f"question {n}", max_tokens=9)).replace(b"/v1/chat/completions", path, 1)
            first, _headers, answered = peer.send(other).answer()
            if path == b"/v1/messages":
                assert first == "HTTP/1.1 200 OK"
                assert upstream.seen[-1].json["messages"][-2:] == [system, {"role": "user", "content": f"question {n}"}]
            else:
                assert first.startswith("HTTP/1.1 4")
                assert said in answered


@pytest.mark.parametrize(
    ("by", "comes"),
    [(by, comes) for by in ("body", "part", "at_hand") for comes in ("whole", "apart")] + [("body", "later")],
)
async def test_a_beginning_that_is_known_stands_in_the_body_for_whoever_does_not_know_it(by: str, comes: str) -> None:
    """Where the head comes before the body too, and where by then the body is waited for: who waits looks himself."""
    openings = Openings()
    begins = b'{"model":"m","messages":[{"role":"system","content":"%b"}' % (b"x" * 4000)
    bodies = [begins + b',{"role":"user","content":"%d"}]}' % n for n in range(4)]
    for body in bodies[:2]:
        read(CHAT, body, openings=openings)
    asked: list[bytes] = []
    known: list[bool] = []
    begun = asyncio.Event()

    async def answer(cycle: Cycle) -> None:
        begun.set()
        known.append(cycle.opening is not None)
        if by == "part":
            part, more = await cycle.part() or (b"", True)
            assert not more
        elif by == "body":
            part = await cycle.body(10_000) or b""
        else:
            assert cycle.at_hand(100) is None
            part = cycle.at_hand(10_000) or b""
            if cycle.opening is not None:
                part = cycle.opening.both + part
        asked.append(part)
        cycle.answer(200, b"", b"")

    config = uvicorn.Config(answer, interface="asgi3", proxy_headers=False, ws="none", lifespan="off", log_config=None)
    heads: dict[bytes, Known] = {}
    made: asyncio.Queue[Protocol] = asyncio.Queue()

    def accept() -> Protocol:
        protocol = protocol_of(config, heads=heads, openings=openings)
        made.put_nowait(protocol)
        return protocol

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        protocol = await made.get()
        for body in bodies:
            head = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
            for piece in (head + body,) if comes == "whole" else (head, body):
                protocol.data_received(piece)
                if comes == "later":
                    await begun.wait()
                    opening = protocol.cycle.opening  # type: ignore[union-attr]
                    assert opening is None
            begun.clear()
            await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert asked == bodies
    assert known == [False] + [comes != "later"] * 3


async def test_only_heads_whose_end_is_certain_are_remembered() -> None:
    asked: list[tuple[bytes, bytes]] = []

    async def answer(cycle: Cycle) -> None:
        asked.append((cycle.head.url, await cycle.body(1000) or b""))
        cycle.answer(200, b"", b"")

    heads: dict[bytes, Known] = {}
    config = uvicorn.Config(answer, interface="asgi3", proxy_headers=False, ws="none", lifespan="off", log_config=None)
    server = await asyncio.get_running_loop().create_server(lambda: protocol_of(config, heads=heads), "127.0.0.1", 0)

    async def exchange(*pieces: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        answered = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return answered

    async with server:
        for head in (
            b"CONNECT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n",
            b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
            b"POST /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            b"POST /a HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, te\r\ncontent-length: 0\r\n\r\n",
            b"POST /a HTTP/1.1\r\nconnection: te\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n",
            b"POST /a HTTP/1.0\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
            b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n",
        ):
            body = b"0\r\n\r\n" if b"chunked" in head else b""
            assert (await exchange(head + body)).startswith(b"HTTP/1.1 200")
        # Line ends before a request are passed over by the parser, and are no head.
        for lead in (b"\r\r\n\r\n", b"\r\n\r\r\n\r\n", b"\r\n\r\n", b"\r\n"):
            with contextlib.suppress(asyncio.IncompleteReadError):
                await exchange(lead + b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx")
        assert heads == {}
        # Nor is a length whose place cannot be told for certain.
        for head in (
            b"POST /a?strength:+1 HTTP/1.1\r\nx-length: 1\r\ncontent-length: 0\r\n\r\n",
            b"POST /a HTTP/1.1\r\ncontent-length:0\r\n\r\n",
            b"POST /a HTTP/1.1\r\ncontent-length:  0\r\n\r\n",
        ):
            assert (await exchange(head)).startswith(b"HTTP/1.1 200")
        assert heads == {}
        usual = b"POST /b HTTP/1.1\r\nhost: x\r\nConnection: Keep-Alive\r\nContent-Length: 3\r\naccept: */*\r\n\r\n"
        for _ in range(2):
            assert (await exchange(usual + b"abc")).startswith(b"HTTP/1.1 200")
        assert list(heads) == [usual.replace(b"3", b"")]
        for said, body in ((b"03", b"abc"), (b"0", b""), (b"11", b"abcdefghijk")):
            assert (await exchange(usual.replace(b"3", said) + body)).startswith(b"HTTP/1.1 200")
            assert asked[-1] == (b"/b", body)
        for said in (b"x", b"-3", b"3 3", b"", b"1" * 30):
            assert (await exchange(usual.replace(b"3", said) + b"abc")).startswith(b"HTTP/1.1 400")
        assert (await exchange(usual + b"abc" + usual + b"abc")).startswith(b"HTTP/1.1 200")
        assert (await exchange(usual + b"a", b"bc")).startswith(b"HTTP/1.1 200")
        assert len(heads) == 1
    assert {body for url, body in asked if url == b"/b"} == {b"abc", b"", b"abcdefghijk"}


def test_what_a_head_says_is_read_once_for_a_caller_and_anew_for_another(server: Server) -> None:
    """Heads that are alike to the byte but for their length, and such as differ in a session too."""
    says = b"x-bursar-session: s1\r\nx-bursar-tag-team: red\r\nx-bursar-user: ann\r\nidempotency-key: k\r\n"
    says += b"x-stainless-retry-count: 2\r\nx-request-id: r\r\nconnection: keep-alive\r\n"
    peer = Peer(server)
    for text, session in (("one", b"s1"), ("three", b"s1"), ("two", b"s22"), ("four", b"s3")):
        request = chat(text).replace(b"content-length: ", says.replace(b"s1", session) + b"content-length: ", 1)
        assert peer.send(request).answer()[0] == "HTTP/1.1 200 OK"
    entries = server.settled()
    assert sorted(entry["session_id"] for entry in entries) == ["s1", "s1", "s22", "s3"]
    for entry in entries:
        assert (entry["user_id"], entry["request_id"]) == ("ann", "r")
        assert (entry["idempotency_key"], entry["client_retries"]) == ("k", 2)
        assert entry["tags"] == {"team": "red"}
    head = Head(b"POST", b"/v1/chat/completions", [(b"x-bursar-user", b"ann")], True)
    may = Principal(key_id="k", role="member", workspace="w", user=None, acts_for_users=True)
    gateway: Any = SimpleNamespace(openings=Openings())
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
    for principal in (may, may):
        cycle = Cycle(None, head, True, len(body))  # type: ignore[arg-type]
        call = _call(gateway, "id", CHAT, principal, cycle, body)
        assert (call.context.workspace, call.context.user) == ("w", "ann")
    may_not = Principal(key_id="k", role="member", workspace="w", user=None, acts_for_users=False)
    for _ in range(2):
        with pytest.raises(ForbiddenError):
            _call(gateway, "id", CHAT, may_not, cycle, body)
    assert _call(gateway, "id", CHAT, may, cycle, body).context.user == "ann"


async def test_behind_the_last_request_of_a_connection_nothing_is_one() -> None:
    asked: list[bytes] = []
    goes_on = asyncio.Event()

    async def answer(cycle: Cycle) -> None:
        asked.append(cycle.head.url)
        if cycle.head.url == b"/last":
            await goes_on.wait()
        cycle.answer(200, b"", b"")

    config = uvicorn.Config(answer, interface="asgi3", proxy_headers=False, ws="none", lifespan="off", log_config=None)
    heads: dict[bytes, Known] = {}
    made: list[Protocol] = []

    def accept() -> Protocol:
        made.append(protocol_of(config, heads=heads))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        known = b"POST /known HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx"
        writer.write(known)
        await reader.readuntil(b"\r\n\r\n")
        assert len(heads) == 1
        (protocol,) = made
        protocol.data_received(b"POST /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        protocol.data_received(known)
        goes_on.set()
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
    assert asked == [b"/known", b"/last"]
    assert protocol.cycle is not None
    assert protocol.cycle.head.url == b"/last"  # type: ignore[attr-defined]


_HEADS = [
    b"POST /one HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n",
    b"POST /two HTTP/1.1\r\nContent-Length: %d\r\nhost: x\r\n\r\n",
    b"POST /three HTTP/1.1\r\nx-length: 7\r\ncontent-length: %d\r\nhost: x\r\n\r\n",
]


@given(
    st.lists(st.tuples(st.sampled_from(range(3)), st.sampled_from([0, 1, 2, 9, 40, 3000, 70_000])), min_size=1),
    st.lists(st.integers(1, 4000)),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
@example([(0, 9), (0, 9), (0, 3000), (0, 70_000), (0, 1)], [], True)
@example([(1, 1), (1, 40), (1, 9), (1, 2)], [1], False)
def test_requests_are_read_alike_wherever_they_are_cut(
    asked: list[tuple[int, int]], cuts: list[int], known: bool
) -> None:
    """By a server that knows their heads and by one that does not; each piece as one read of the socket."""
    bodies = [b"%d:" % n + b"b" * size for n, (_head, size) in enumerate(asked)]
    requests = [_HEADS[head] % len(body) + body for (head, _size), body in zip(asked, bodies, strict=True)]
    data, at, pieces = b"".join(requests), 0, []
    for size in itertools.cycle(cuts) if cuts else (len(data),):
        if at >= len(data):
            break
        pieces.append(data[at : at + size])
        at += size
    seen: list[bytes] = []

    async def answer(cycle: Cycle) -> None:
        seen.append(await cycle.body(10**6) or b"")
        cycle.answer(200, b"", b"")

    async def served() -> None:
        config = uvicorn.Config(
            answer, interface="asgi3", proxy_headers=False, ws="none", lifespan="off", log_config=None
        )
        heads: dict[bytes, Known] = {}
        made: asyncio.Queue[Protocol] = asyncio.Queue()

        def accept() -> Protocol:
            protocol = protocol_of(config, heads=heads)
            made.put_nowait(protocol)
            return protocol

        server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            if known:
                for head in _HEADS:
                    writer.write(head % 0)
                    await reader.readuntil(b"\r\n\r\n")
                assert len(heads) == 2
                seen.clear()
            protocol = await made.get()
            for piece in pieces:
                protocol.data_received(piece)
                await asyncio.sleep(0)
            for _ in asked:
                assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 200")
            writer.close()

    asyncio.run(served())
    assert seen == bodies


def test_pipelined_requests_are_answered_in_their_order(server: Server) -> None:
    peer = Peer(server)
    peer.send(
        chat("slow", script={"text": "first", "delay_s": 0.3})
        + chat("fast", script={"text": "second"})
        + chat("stream", stream=True, script={"text": "third"})
        + chat("last", script={"text": "fourth"})
    )
    assert content(peer.answer()[2]) == "first"
    assert content(peer.answer()[2]) == "second"
    assert b"data: [DONE]" in peer.answer()[2]
    assert content(peer.answer()[2]) == "fourth"


def test_a_client_that_waits_for_permission_to_send_its_body_gets_it(server: Server) -> None:
    request = chat("hello", "expect: 100-continue")
    head, body = request.split(b"\r\n\r\n", 1)
    peer = Peer(server).send(head + b"\r\n\r\n")
    assert peer.head() == ("HTTP/1.1 100 Continue", {})
    assert peer.send(body).answer()[0] == "HTTP/1.1 200 OK"


def test_closing_is_said_and_done_where_it_was_asked_for(server: Server) -> None:
    first, headers, _ = (peer := Peer(server)).send(chat("x", "connection: close")).answer()
    assert first == "HTTP/1.1 200 OK"
    assert headers["connection"] == "close"
    assert peer.is_closed()
    old = Peer(server).send(chat("x").replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert old.answer()[1]["connection"] == "close"
    assert old.is_closed()


def test_head_has_no_body_and_get_has_one(server: Server) -> None:
    peer = Peer(server)
    authorization = f"authorization: Bearer {ADMIN}\r\n".encode()
    peer.send(b"HEAD /health HTTP/1.1\r\nhost: x\r\n\r\n")
    first, headers = peer.head()
    assert first == "HTTP/1.1 200 OK"
    assert int(headers["content-length"]) > 100
    peer.send(b"GET /v1/models?limit=3 HTTP/1.1\r\nhost: x\r\n" + authorization + b"\r\n")
    first, headers, body = peer.answer()
    assert first == "HTTP/1.1 200 OK"
    assert json.loads(body)["object"] == "list"
    peer.send(b"GET http://x/health?x=y HTTP/1.1\r\nhost: x\r\n\r\n")
    assert json.loads(peer.answer()[2])["status"] == "ok"


def test_a_body_in_chunks_is_read_and_one_too_large_is_refused_before_it_is_whole(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(more="[server]\nmax_body_mb = 0.1")
    data = chat("hello").split(b"\r\n\r\n", 1)[1]
    head = chat("hello").split(b"\r\n\r\n", 1)[0]
    head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"content-length"))
    peer = Peer(server).send(head + b"\r\ntransfer-encoding: chunked\r\n\r\n")
    for n in range(0, len(data), 10):
        peer.send(b"%x\r\n%b\r\n" % (len(data[n : n + 10]), data[n : n + 10]))
    assert peer.send(b"0\r\n\r\n").answer()[0] == "HTTP/1.1 200 OK"
    peer = Peer(server).send(head + b"\r\ntransfer-encoding: chunked\r\n\r\n")
    try:
        for _ in range(40):
            peer.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass
    first, _, body = peer.answer()
    assert first.startswith("HTTP/1.1 413 ")
    assert json.loads(body)["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(
    "nonsense",
    [
        b"NOT HTTP AT ALL\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\x001\r",
        b"\x0012\x00",
        b"\x00999999999999\r",
    ],
)
def test_what_is_not_http_is_refused_and_the_server_goes_on(server: Server, nonsense: bytes) -> None:
    for lead in ((), (chat("before"),), (b"GET /health HTTP/1.1\r\n\r\n",)):
        peer = Peer(server).send(*lead)
        for _ in lead:
            assert peer.answer()[0].startswith("HTTP/1.1 200 ")
        peer.send(nonsense)
        with contextlib.suppress(EOFError):
            assert peer.head()[0].startswith("HTTP/1.1 4")
        with contextlib.suppress(ConnectionResetError):
            while peer.socket.recv(65536):
                pass
    assert server.chat()[0] == 200


def test_an_answer_and_its_head_leave_together(server: Server) -> None:
    peer = Peer(server)
    peer.send(chat("warm")).answer()
    peer.send(chat("hello", script={"text": "together"}))
    first = peer.socket.recv(65536)
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"together" in first


def test_a_quiet_connection_stays_and_a_client_that_left_is_noticed(server: Server, upstream: Upstream) -> None:
    peer = Peer(server)
    peer.send(chat("one")).answer()
    seen = len(upstream.seen)
    peer.send(chat("two", stream=True, script={"hang_after": 1})).head()
    upstream.wait(lambda: len(upstream.seen) == seen + 1)
    left = time.monotonic()
    peer.socket.close()
    upstream.wait(lambda: upstream.seen[-1].closed_at is not None)
    assert upstream.seen[-1].closed_at is not None
    assert upstream.seen[-1].closed_at - left < 1
    wait_for(lambda: server.health()[1]["spool"]["open_entries"] == 0, 10, "the entry stays open")


class _Connection:
    """What a cycle needs of its protocol, in memory."""

    class _Flow:
        write_paused = False

        def resume_reading(self) -> None:
            return None

        def pause_reading(self) -> None:
            return None

    class _Transport:
        def __init__(self) -> None:
            self.written = b""
            self.closed = False

        def write(self, data: bytes) -> None:
            self.written += data

        def close(self) -> None:
            self.closed = True

        def is_closing(self) -> bool:
            return self.closed

    class _Logger:
        def error(self, *_: object, **__: object) -> None:
            return None

    def __init__(self) -> None:
        self.flow, self.transport, self.logger = self._Flow(), self._Transport(), self._Logger()
        self.ended = 0
        self.pipeline: list[Any] = []
        self.loop = asyncio.get_running_loop()
        self.turns = Turns()
        self.asgi_version, self.scheme, self.server, self.client = "3.0", "http", None, None

    def on_response_complete(self) -> None:
        self.ended += 1

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def close(self) -> None:
        self.transport.close()


async def _answered(cycle: Cycle, answer: Answering) -> None:
    """What a connection does with a request."""
    try:
        await answer(cycle)
    except Exception as error:
        cycle.ended(error)
    else:
        cycle.ended()


async def _cycle(app: Callable[..., Any]) -> _Connection:
    connection = _Connection()
    cycle = Cycle(connection, Head(b"POST", b"/", [], True), True)  # type: ignore[arg-type]
    await _answered(cycle, answering(app))
    return connection


async def test_a_long_prompt_that_is_read_lets_the_client_be_heard_again() -> None:
    class Flow(_Connection._Flow):
        paused = False

        def pause_reading(self) -> None:
            self.paused = True

        def resume_reading(self) -> None:
            self.paused = False

    connection = _Connection()
    connection.flow = Flow()
    cycle = Cycle(connection, Head(b"POST", b"/", [], True), True)  # type: ignore[arg-type]
    cycle.take(b"x" * 100_000)
    cycle.complete = True
    assert connection.flow.paused  # type: ignore[attr-defined]
    assert await cycle.body(10**6) == b"x" * 100_000
    assert not connection.flow.paused  # type: ignore[attr-defined]


async def test_permission_to_send_is_not_given_inside_an_answer() -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        cycle.protocol.loop.call_soon(cycle.take, b"x")
        assert (await receive())["body"] == b"x"
        await send({"type": "http.response.body", "body": b""})

    connection = _Connection()
    cycle = Cycle(connection, Head(b"POST", b"/", [(b"expect", b"100-continue")], True), True)  # type: ignore[arg-type]
    await _answered(cycle, answering(app))
    assert b"100 Continue" not in connection.transport.written


async def test_a_request_that_began_before_the_last_answer_ended_is_not_closed_as_quiet() -> None:
    goes_on = {"/first": asyncio.Event(), "/second": asyncio.Event()}
    asked = {"/first": asyncio.Event(), "/second": asyncio.Event()}
    made: list[Protocol] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        asked[scope["path"]].set()
        await goes_on[scope["path"]].wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(
        answering(app),
        interface="asgi3",
        proxy_headers=False,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
    )

    def accept() -> Protocol:
        made.append(protocol_of(config))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        second = b"GET /second HTTP/1.1\r\nhost: x\r\n\r\n"
        writer.write(b"GET /first HTTP/1.1\r\nhost: x\r\n\r\n" + second[:9])
        await asked["/first"].wait()
        goes_on["/first"].set()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        writer.write(second[9:])
        await asked["/second"].wait()
        (protocol,) = made
        protocol.timeout_keep_alive = 0
        protocol._close_if_quiet()  # as its timer would: the connection is busy, not quiet
        goes_on["/second"].set()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        writer.close()


async def test_requests_and_bodies_wait_for_their_turn_and_leaving_meanwhile_calls_nothing() -> None:
    begun: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["path"])
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(
        answering(app), interface="asgi3", proxy_headers=False, ws="none", lifespan="off", log_config=None
    )
    turns = Reluctant()
    made: list[Protocol] = []

    def accept() -> Protocol:
        made.append(protocol_of(config, turns=turns))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    async with server, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        waits = 0
        for n, pieces in enumerate([(b"", b"one"), (b"two",), (b"t", b"hree")]):
            head = b"POST /%d HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (n, len(b"".join(pieces)))
            writer.write(head + pieces[0])
            for piece in pieces[1:]:
                while len(begun) <= n:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                writer.write(piece)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(b"".join(pieces))) == b"".join(pieces)
            waits += len(pieces)  # the request itself, and what came of its body behind its head
            assert turns.put_off == waits
        writer.close()

        (protocol,) = made
        protocol.data_received(b"POST /left HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        protocol.transport.abort()
        while protocol.tasks:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert begun == ["/0", "/1", "/2"]


async def test_an_answer_leaves_whole_though_its_connection_is_closed_in_the_same_turn() -> None:
    ended: list[bool] = []

    async def answer(cycle: Cycle) -> None:
        cycle.begin(200, b"", 10)
        cycle.write(b"hello")
        cycle.write(b"world", more=False)
        ended.append(cycle.protocol._out.endswith(b"helloworld"))
        cycle.protocol.shutdown()  # as uvicorn does it with connections whose answer has ended

    server, _, reader, writer = await connected(answer)
    async with server, asyncio.timeout(20):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.read()).endswith(b"\r\n\r\nhelloworld")
        writer.close()
    assert ended == [True]


@pytest.mark.parametrize(
    "leaves", ["at the turn's end", "much", "closed", "shut down", "ended by its client", "followed by what is wrong"]
)
async def test_what_is_to_be_done_before_anything_leaves_is_done_before_it(leaves: str) -> None:
    done: list[str] = []
    at_once: list[str] = []

    class Wire:
        """What the connection writes to."""

        def __init__(self, transport: Any) -> None:
            self._transport = transport

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transport, name)

        def write(self, data: bytes) -> None:
            done.append("left")
            self._transport.write(data)

    async def answer(cycle: Cycle) -> None:
        protocol = cycle.protocol
        protocol.transport = Wire(protocol.transport)
        protocol.turns.before_leaving = lambda: done.append("before")
        much = 100_000 if leaves == "much" else 5
        cycle.begin(200, b"", 5 + much)
        cycle.write(b"hello")
        cycle.write(b"x" * much, more=False)
        if leaves == "closed":
            protocol.close()
        elif leaves == "shut down":
            protocol.shutdown()
        elif leaves == "ended by its client":
            protocol.eof_received()
        elif leaves == "followed by what is wrong":
            protocol.data_received(b"\0")
        at_once.extend(done)

    server, _, reader, writer = await connected(answer)
    async with server, asyncio.timeout(20):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()
    assert at_once[:2] == ([] if leaves == "at the turn's end" else ["before", "left"])
    assert done[:2] == ["before", "left"]
    assert done.count("left") == 1


async def test_an_answer_leaves_though_its_client_says_in_the_same_turn_that_it_sends_no_more() -> None:
    async def answer(cycle: Cycle) -> None:
        cycle.answer(200, b"", b"hello")

    server, made, reader, writer = await connected(answer)
    async with server, asyncio.timeout(20):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        while not (made and made[0]._out):  # noqa: ASYNC110
            await asyncio.sleep(0)
        if not made[0].eof_received():  # as the transport does it
            made[0].transport.close()
        assert (await reader.read()).endswith(b"\r\n\r\nhello")
        writer.close()


async def test_what_is_wrong_behind_a_request_is_said_behind_its_answer() -> None:
    async def answer(cycle: Cycle) -> None:
        cycle.answer(200, b"", b"first")

    server, made, reader, writer = await connected(answer)
    async with server, asyncio.timeout(20):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        while not (made and made[0]._out):  # noqa: ASYNC110
            await asyncio.sleep(0)
        made[0].data_received(b"\0 is no request\r\n\r\n")
        said = await reader.read()
        writer.close()
    assert said.startswith(b"HTTP/1.1 200 ")
    assert said.index(b"first") < said.index(b"HTTP/1.1 400 ")


async def test_a_long_answer_is_not_kept_though_it_never_waits() -> None:
    most = 0

    async def answer(cycle: Cycle) -> None:
        nonlocal most
        cycle.begin(200, b"")
        for _ in range(300):
            cycle.write(b"x" * 10_000)
            most = max(most, len(cycle.protocol._out))
            if cycle.is_choked:
                await cycle.drained()
        cycle.write(b"", more=False)

    server, _, reader, writer = await connected(answer)
    async with server, asyncio.timeout(20):
        writer.write(b"GET / HTTP/1.0\r\nhost: x\r\n\r\n")
        body = await reader.read()
        writer.close()
    assert body.count(b"x" * 10_000) == 300
    assert 10_000 < most < 100_000


async def test_what_cannot_leave_holds_nobody_else_s_back() -> None:
    loop = asyncio.get_running_loop()
    told: list[str] = []
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))
    turns, left = Turns(), []

    def fault() -> None:
        raise RuntimeError

    for flush in (lambda: left.append(1), fault, lambda: left.append(2)):
        turns.leave(loop, flush)
    assert left == []
    await asyncio.sleep(0)
    assert (left, told) == ([1, 2], ["what was written could not leave"])


def test_a_fault_in_the_middle_of_a_stream_never_looks_like_its_end() -> None:
    async def answer(cycle: Cycle) -> None:
        cycle.begin(200, b"")
        cycle.write(b"begun")
        try:
            raise ValueError("a fault of ours")
        except ValueError:
            # What the data plane does: tell it as an error, which is too late here.
            answer_error(cycle, BursarError())

    async def run() -> _Connection:
        connection = _Connection()
        await _answered(Cycle(connection, Head(b"POST", b"/", [], True), True), answer)  # type: ignore[arg-type]
        return connection

    connection = asyncio.run(run())
    assert connection.transport.closed
    assert connection.transport.written.endswith(b"begun\r\n")


async def test_a_fault_inside_a_call_is_a_500_that_names_the_call() -> None:
    class Broken:
        def authenticate(self, _shown: bytes | None) -> Any:
            raise ValueError("secret")

    connection = _Connection()
    cycle = Cycle(connection, Head(b"POST", b"/v1/chat/completions", [], True), True)  # type: ignore[arg-type]
    await _answered(cycle, lambda c: serve(None, Broken(), 1, c))  # type: ignore[arg-type]
    assert connection.transport.written.startswith(b"HTTP/1.1 500 ")
    assert b"x-bursar-call-id: " in connection.transport.written
    assert b"secret" not in connection.transport.written
    assert connection.ended == 1


async def test_headers_with_line_ends_never_reach_the_wire() -> None:
    for name, value in ((b"x", b"a\r\nevil: 1"), (b"x\r\nevil", b"1"), (b"x", b"a\nb"), (b"x", b"\0")):

        async def app(_scope: Any, _receive: Any, send: Any, header: tuple[bytes, bytes] = (name, value)) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [header]})
            await send({"type": "http.response.body", "body": b"x"})

        connection = await _cycle(app)
        assert connection.transport.written.startswith(b"HTTP/1.1 500 ")
        assert b"evil" not in connection.transport.written


async def test_a_fault_before_the_answer_is_a_500_and_behind_its_beginning_a_closed_connection() -> None:
    async def nothing(_scope: Any, _receive: Any, _send: Any) -> None:
        return None

    async def fault(_scope: Any, _receive: Any, _send: Any) -> None:
        raise ValueError("secret")

    async def late(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        raise ValueError("secret")

    for app in (nothing, fault):
        connection = await _cycle(app)
        assert connection.transport.written.startswith(b"HTTP/1.1 500 ")
        assert b"secret" not in connection.transport.written
        assert connection.ended == 1
    connection = await _cycle(late)
    assert connection.transport.closed
    assert not connection.transport.written.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("said", [3, 9])
async def test_a_body_not_as_long_as_its_head_says_closes_the_connection(said: int) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"%d" % said)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})

    connection = await _cycle(app)
    assert connection.transport.closed
    assert b"hello" not in connection.transport.written


async def test_an_application_is_loaded_once_when_it_is_first_asked_and_calls_go_on_meanwhile() -> None:
    loading, goes_on, loaded, asked = threading.Event(), threading.Event(), [], []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        asked.append(scope["path"])

    def load() -> Any:
        loaded.append(threading.current_thread())
        loading.set()
        assert goes_on.wait(10)
        return app

    later = Later(load)
    asking = [asyncio.create_task(later({"path": f"/{n}"}, None, None)) for n in range(3)]  # type: ignore[arg-type]
    assert await asyncio.to_thread(loading.wait, 10)
    assert asked == []  # and this line is reached: the loop goes on
    goes_on.set()
    await asyncio.gather(*asking)
    await later({"path": "/3"}, None, None)  # type: ignore[arg-type]
    assert sorted(asked) == ["/0", "/1", "/2", "/3"]
    assert len(loaded) == 1
    assert loaded[0] is not threading.main_thread()


async def test_an_application_is_loaded_though_who_asked_for_it_has_left() -> None:
    goes_on, loaded = threading.Event(), 0

    async def app(_scope: Any, _receive: Any, _send: Any) -> None: ...

    def load() -> Any:
        nonlocal loaded
        loaded += 1
        assert goes_on.wait(10)
        return app

    later = Later(load)
    for _ in range(3):
        asking = asyncio.create_task(later({}, None, None))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    goes_on.set()
    await later({}, None, None)  # type: ignore[arg-type]
    assert loaded == 1


async def test_an_application_that_could_not_be_loaded_is_loaded_when_it_is_asked_again() -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None: ...

    answers = iter([OSError("no room"), None])

    def load() -> Any:
        fault = next(answers)
        if fault is not None:
            raise fault
        return app

    later = Later(load)
    with pytest.raises(OSError, match="no room"):
        await later({}, None, None)  # type: ignore[arg-type]
    await later({}, None, None)  # type: ignore[arg-type]


@given(
    st.dictionaries(
        st.sampled_from([b"x-request-id", b"a%b-request-id", b"x-ratelimit-x", b"date", b"other"]),
        st.lists(st.sampled_from([b"a", b"%d", b"\r", b"\n", b"\r\n", b"\0", b"\x85", b" "])).map(b"".join),
    )
)
def test_headers_that_pass_stand_in_a_head_as_each_by_itself_would(headers: dict[bytes, bytes]) -> None:
    try:
        lines = lines_of(passed_headers(headers))
    except RuntimeError:
        with pytest.raises(RuntimeError, match="line end"):
            passed_lines(headers)
    else:
        assert passed_lines(headers) == lines

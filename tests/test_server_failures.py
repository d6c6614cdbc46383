"""How providers and clients fail, over real sockets: each ends as one honest entry and one honest answer."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from support.server import ADMIN, Server, wait_for
from support.upstream import Upstream

MODEL = "up/gpt-4o-mini"
HELLO = [{"role": "user", "content": "hello"}]


def _frames(data: bytes) -> list[Any]:
    """The JSON frames of a stream, the end mark as it stands."""
    out = []
    for line in data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        if line.startswith(b"data:"):
            value = line[5:].strip()
            out.append("[DONE]" if value == b"[DONE]" else json.loads(value))
    return out


def _text(data: bytes) -> str:
    return "".join(
        (f["choices"][0]["delta"].get("content") or "")
        for f in _frames(data)
        if isinstance(f, dict) and f.get("choices")
    )


def _stream(server: Server, script: dict[str, Any], **more: Any) -> tuple[int, bytes]:
    body = {"model": MODEL, "messages": HELLO, "stream": True, "script": script, **more}
    status, data, _ = server.exchange("POST", "/v1/chat/completions", body)
    return status, data


# --- streams as vendors really send them ---


@pytest.mark.parametrize(
    "script",
    [
        {"done": False},
        {"eol": "\r\n"},
        {"eol": "\r"},
        {"comments": 3},
        {"text": "line\u2028separated \x85 and \u2029 too"},
        {"text": "💶 émojis ünd more", "chunks": 18},
        {"usage_on_finish": True},
        {"usage_every_chunk": True},
        {"finish": False},
    ],
    ids=lambda s: next(iter(s.items()))[0] + repr(next(iter(s.values()))),
)
def test_odd_but_whole_streams_complete_with_their_usage(
    server: Server, upstream: Upstream, script: dict[str, Any]
) -> None:
    status, data = _stream(server, script)
    assert status == 200
    expected = script.get("text", "answer 1")
    assert _text(data).startswith(expected)
    (entry,) = server.settled()
    assert entry["status"] == "completed"
    assert entry["total_tokens"] == 112


def test_a_stream_answered_with_plain_json_still_streams(server: Server) -> None:
    status, data = _stream(server, {"plain": True})
    frames = _frames(data)
    assert status == 200
    assert frames[-1] == "[DONE]"
    assert all(f["object"] == "chat.completion.chunk" and f["choices"] for f in frames[:-1])
    assert _text(data).startswith("answer 1")
    status, data = _stream(server, {"plain": True}, stream_options={"include_usage": True})
    assert _frames(data)[-2]["usage"]["total_tokens"] == 114
    assert [e["total_tokens"] for e in server.settled()] == [114, 112]


def test_a_server_that_keeps_its_socket_open_after_the_end_does_not_keep_the_client(server: Server) -> None:
    began = time.monotonic()
    status, data = _stream(server, {"linger": True})
    assert _frames(data)[-1] == "[DONE]"
    assert time.monotonic() - began < 20  # it lingers without end; the client was not made to
    (entry,) = server.settled()
    assert (status, entry["status"]) == (200, "completed")


def test_an_end_of_file_without_an_end_signal_is_truncated_not_complete(server: Server) -> None:
    script = {"done": False, "finish": False, "usage": False}
    _, data = _stream(server, script)
    frames = _frames(data)
    assert frames[-1]["error"]["code"] == "truncated"
    assert "[DONE]" not in frames
    (entry,) = server.settled()
    assert (entry["status"], entry["error_kind"]) == ("failed", "truncated")
    assert entry["usage_source"] == "none"


def test_an_error_object_inside_http_200_is_an_error(server: Server) -> None:
    early = {"early_error": {"message": "slow down", "type": "rate", "code": 429}}
    status, data = _stream(server, early)
    assert (status, json.loads(data)["error"]["message"].endswith("slow down")) == (429, True)
    assert server.chat(script=early)[0] == 429
    late = {"late_error": {"message": "gone", "type": "t", "code": None}}
    status, data = _stream(server, late)
    assert status == 200
    assert _frames(data)[-1] == {"error": late["late_error"]}
    assert "gone" not in _text(data)
    found = server.settled()
    assert {e["status"] for e in found} == {"failed"}
    assert {e["http_status_code"] for e in found} == {200}


def test_a_string_for_an_error_and_a_list_for_an_answer_crash_nothing(server: Server) -> None:
    for raw in ('{"error": "just text"}', "[]", "null", "12", "", "<html>", '{"choices": []}', '{"choices": "x"}'):
        server.chat(script={"raw": raw, "content_type": "application/json"})
        _stream(server, {"raw": raw})
    assert server.health()[0] == 200
    assert len(server.settled()) >= 16
    assert server.verify()[0]


# --- retries and fallback ---


def test_each_retry_is_an_attempt_of_its_own_and_the_calls_totals_are_their_sum(
    server: Server, upstream: Upstream
) -> None:
    status, answer = server.chat(script={"fail_first": 1, "status": 500, "key": "a"})
    assert status == 200
    entries = server.settled()
    assert [(e["attempt"], e["status"], e["is_final"]) for e in entries] == [
        (2, "completed", True),
        (1, "failed", False),
    ]
    assert len({e["call_id"] for e in entries}) == 1
    with server.database() as c:
        (call,) = [dict(r) for r in c.execute("select * from llm_calls")]
    assert (call["attempts"], call["status"], call["total_tokens"]) == (2, "completed", answer["usage"]["total_tokens"])
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_retried_as_often_as_its_provider_says_and_no_more(
    make_server: Callable[..., Server], upstream: Upstream, status: int
) -> None:
    server = make_server(provider="retries = 2")
    script = {"status": status, "headers": {"retry-after-ms": "10"}}
    assert server.chat(script=script)[0] == status
    assert len(upstream.seen) == 3
    assert _stream(server, script)[0] == status
    assert len(upstream.seen) == 6
    assert {e["status"] for e in server.settled()} == {"failed"}


def test_retry_after_is_honoured_and_a_long_one_is_the_clients(server: Server, upstream: Upstream) -> None:
    assert server.chat(script={"fail_first": 1, "status": 429, "key": "b", "headers": {"retry-after": "1"}})[0] == 200
    assert upstream.seen[1].at - upstream.seen[0].at >= 0.99  # the loop's timers are of whole milliseconds
    body = {"model": MODEL, "messages": HELLO, "script": {"status": 429, "headers": {"retry-after": "3600"}}}
    status, _, headers = server.exchange("POST", "/v1/chat/completions", body)
    assert (status, headers["retry-after"], headers["x-should-retry"]) == (429, "3600", "false")
    assert len(upstream.seen) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_would_fail_again_is_not_retried(server: Server, upstream: Upstream, status: int) -> None:
    assert server.chat(script={"status": status})[0] == status
    assert len(upstream.seen) == 1


def test_a_route_falls_back_in_order_and_every_attempt_is_on_the_ledger(
    make_server: Callable[..., Server], upstream: Upstream
) -> None:
    with Upstream() as second:
        more = f"""
[[providers]]
name = "dead"
base_url = "http://127.0.0.1:1/v1"
retries = 0
[[providers]]
name = "second"
base_url = "{second.base_url}"
[[routes]]
name = "fast"
targets = ["dead/a", "up/b", "second/c"]
"""
        server = make_server(provider="retries = 0", more=more)
        upstream.on_request = lambda seen: _failing(503)
        body = {"model": "fast", "messages": HELLO, "stream": True}
        status, data, headers = server.exchange("POST", "/v1/chat/completions", body)
        assert (status, headers["x-bursar-provider"], headers["x-bursar-attempts"]) == (200, "second", "3")
        assert _text(data).startswith("answer 1")
        found = [
            (e["attempt"], e["provider"], e["model"], e["status"], e["reason"]) for e in reversed(server.settled())
        ]
        assert found == [
            (1, "dead", "a", "failed", "route fast"),
            (2, "up", "b", "failed", "route fast; after connection of dead/a"),
            (3, "second", "c", "completed", "route fast; after overloaded of up/b"),
        ]
        assert {e["requested_model"] for e in server.entries()} == {"fast"}
        # A request that is itself at fault is not tried elsewhere.
        upstream.on_request = lambda seen: _failing(400)
        assert server.request("POST", "/v1/chat/completions", {**body, "stream": False})[0] == 400
        assert len(second.seen) == 1


def _failing(status: int) -> Any:
    from support.upstream import Script

    return Script(status=status)


@pytest.mark.parametrize("script", [{"cut_after": 3}, {"late_error": {"message": "x", "code": 503}}])
def test_nothing_is_retried_once_a_byte_has_been_sent(
    make_server: Callable[..., Server], upstream: Upstream, script: dict[str, Any]
) -> None:
    more = f'[[providers]]\nname = "b"\nbase_url = "{upstream.base_url}"\n[[routes]]\nname = "r"\ntargets = ["up/a", "b/a"]'
    server = make_server(provider="retries = 3", more=more)
    status, data = _stream(server, script, model="r")
    assert status == 200
    assert "error" in _frames(data)[-1]
    assert len(upstream.seen) == 1
    assert _text(data).count("answer") == 1
    assert len(server.settled()) == 1


def test_equal_provider_ids_and_request_ids_are_entries_of_their_own(server: Server) -> None:
    for script in ({"repeat_id": True}, {"repeat_id": True}, {"extra": {"id": None}}, {"extra": {"id": None}}):
        assert server.chat(script=script, headers={"x-bursar-request-id": "same", "idempotency-key": "same"})[0] == 200
    entries = server.settled()
    assert len(entries) == 4
    assert len({e["call_id"] for e in entries}) == 4
    assert server.verify()[0]


# --- clients that leave ---


class Leaving:
    """A client on a raw socket, that reads so many bytes of its answer and is gone."""

    def __init__(self, server: Server, script: dict[str, Any], *, stream: bool = True) -> None:
        body = json.dumps({"model": MODEL, "messages": HELLO, "stream": stream, "script": script}).encode()
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._socket.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + ADMIN.encode()
            + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )  # fmt: skip

    def read_until(self, text: bytes) -> None:
        data = b""
        while text not in data:
            piece = self._socket.recv(65536)
            assert piece, "the answer ended before"
            data += piece

    def leave(self) -> float:
        self._socket.close()
        return time.monotonic()


SLOW = {"chunks": 40, "pace_s": 0.05, "text": "word " * 40}


@pytest.mark.parametrize("moment", ["before the first byte", "at the first token", "in the middle", "at the end"])
@pytest.mark.parametrize("policy", ["cancel", "finish"])
def test_a_client_that_leaves_ends_its_call_as_the_provider_says(
    make_server: Callable[..., Server], upstream: Upstream, moment: str, policy: str
) -> None:
    server = make_server(provider=f'on_disconnect = "{policy}"')
    script: dict[str, Any] = dict(SLOW) if policy == "cancel" else {**SLOW, "pace_s": 0.02}
    until = {"at the first token": b"word", "in the middle": b"word word word word", "at the end": b'"stop"'}
    if moment == "before the first byte":
        script["delay_s"] = 1.0
    if moment == "in the middle":
        until[moment] = b"content"
    if moment == "at the end":
        script.update(chunks=2, pace_s=0.3)
    client = Leaving(server, script)
    if moment == "before the first byte":
        upstream.wait(lambda: len(upstream.seen) == 1)
    else:
        client.read_until(until[moment])
    left_at = client.leave()
    (seen,) = upstream.seen
    if policy == "cancel":
        upstream.wait(lambda: seen.closed_at is not None or seen.completed)
        (entry,) = server.settled()
        if seen.closed_at is not None:
            assert seen.closed_at - left_at < 1.0
            assert entry["status"] == "cancelled"
            assert entry["usage_source"] in ("none", "provider")
            if moment == "before the first byte":
                assert (entry["usage_source"], entry["total_tokens"]) == ("none", None)
    else:
        upstream.wait(lambda: seen.completed)
        (entry,) = server.settled()
        assert (entry["status"], entry["usage_source"]) == ("completed", "provider")
        assert entry["total_tokens"] == seen.usage["total_tokens"]  # type: ignore[index]
    assert server.verify()[0]


@pytest.mark.parametrize("policy", ["cancel", "finish"])
def test_a_client_that_leaves_a_plain_call_ends_it_the_same_way(
    make_server: Callable[..., Server], upstream: Upstream, policy: str
) -> None:
    server = make_server(provider=f'on_disconnect = "{policy}"')
    client = Leaving(server, {"delay_s": 1.0}, stream=False)
    upstream.wait(lambda: len(upstream.seen) == 1)
    left_at = client.leave()
    (seen,) = upstream.seen
    upstream.wait(lambda: seen.closed_at is not None or seen.completed)
    (entry,) = server.settled()
    if policy == "cancel":
        assert seen.closed_at is not None
        assert seen.closed_at - left_at < 1.0
        assert entry["status"] == "cancelled"
    else:
        assert (entry["status"], entry["total_tokens"]) == ("completed", seen.usage["total_tokens"])  # type: ignore[index]


# --- bad input ---

BAD_BODIES: list[tuple[bytes, int, str | None]] = [
    (b"", 400, None),
    (b"{", 400, None),
    (b"[]", 400, None),
    (b"null", 400, None),
    (b'{"model": "up/m", "messages": [{"role": "user", "content": "\xff"}]}', 400, None),
    (b'{"messages": []}', 400, "model"),
    (b'{"model": 7, "messages": []}', 400, "model"),
    (b'{"model": "", "messages": []}', 400, "model"),
    (b'{"model": "up/m"}', 400, "messages"),
    (b'{"model": "up/m", "messages": "hello"}', 400, "messages"),
    (b'{"model": "up/m", "messages": []}', 400, "messages"),
    (b'{"model": "up/m", "messages": [7]}', 400, "messages"),
    (b'{"model": "up/m", "messages": [{"role": 7}]}', 400, "messages"),
    (b'{"model": "up/m", "messages": [{"role": "user"}], "stream": "yes"}', 400, "stream"),
    (b'{"model": "up/m", "messages": [{"role": "user"}], "stream": true, "stream_options": 3}', 400, "stream_options"),
    (b'{"model": "up/m", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, None),
    (
        b'{"model": "up/m", "x": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b', "messages": [{"role": "user"}]}',
        400,
        None,
    ),
]


def test_bad_input_is_a_clear_error_that_names_the_field(
    make_server: Callable[..., Server], upstream: Upstream
) -> None:
    server = make_server(more="[server]\nmax_body_mb = 12")
    for body, expected, field in BAD_BODIES:
        status, answer = server.request("POST", "/v1/chat/completions", body)
        assert (status, answer["error"]["param"]) == (expected, field), (body[:80], answer)
        assert answer["error"]["message"]
    assert server.request("POST", "/v1/embeddings", {"model": "up/m"})[1]["error"]["param"] == "input"
    assert server.request("GET", "/v1/chat/completions")[0] == 405
    assert server.request("POST", "/v1/nothing", {})[0] == 404
    assert server.request("GET", "/nothing")[0] == 404
    too_large = b'{"model": "up/m", "messages": [{"role": "user", "content": "' + b"x" * 13_000_000 + b'"}]}'
    assert server.request("POST", "/v1/chat/completions", too_large)[0] in (413, 0)
    large = {"model": "up/m", "messages": [{"role": "user", "content": "x" * 10_000_000}]}
    assert server.request("POST", "/v1/chat/completions", large)[0] == 200
    assert len(upstream.seen) == 1
    assert len(server.settled()) == 1
    assert server.verify()[0]


def test_an_unknown_model_is_not_found(make_server: Callable[..., Server]) -> None:
    server = make_server(provider='models = ["a"]')
    for model in ("b", "up/b", "nobody/a"):
        status, answer = server.request("POST", "/v1/chat/completions", {"model": model, "messages": HELLO})
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (404, "model_not_found", "model")
    assert server.entries() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[providers]]\nname = "a"\ntype = "gpt"', "the provider type 'gpt' is not supported"),
        ('[[providers]]\nname = "a"\nbase_ulr = "x"', "unknown key `base_ulr`"),
        ("[ledgr]", "unknown key `ledgr`"),
        ('[[providers]]\nname = "a"\nbase_url = "http://x"\nretries = "two"', "retries"),
        ('[ledger]\nspool_full = "stop"', "spool_full is 'stop'"),
        ("[store", "is not TOML"),
        ('[store]\nurl = "mysql://x"', "mysql://x"),
        (
            '[[providers]]\nname = "a"\nbase_url = "http://x"\napi_key = "file:/none/such"',
            "the file /none/such cannot be read",
        ),
    ],
)
def test_a_wrong_configuration_stops_the_start_with_its_name_and_place(
    make_server: Callable[..., Server], text: str, message: str
) -> None:
    server = make_server(start=False)
    (server.folder / "bad.toml").write_text(text)
    out = server.bursar("serve", "--config", "bad.toml", "--port", "0")
    assert out.returncode == 2
    assert message in out.stderr
    assert "Traceback" not in out.stderr


# --- stopping ---


def test_sigterm_lets_streams_finish_and_leaves_nothing_open(server: Server, upstream: Upstream) -> None:
    answers: list[bytes] = []
    script = {"chunks": 10, "pace_s": 0.1}
    threads = [threading.Thread(target=lambda: answers.append(_stream(server, script)[1])) for _ in range(5)]
    for thread in threads:
        thread.start()
    upstream.wait(lambda: len(upstream.seen) == 5)
    assert server.stop() == 0
    for thread in threads:
        thread.join(20)
    assert all(_frames(a)[-1] == "[DONE]" for a in answers)
    assert [e["status"] for e in server.entries()] == ["completed"] * 5
    assert list((server.folder / "data" / "spool").iterdir()) == []
    assert server.verify()[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_streams_longer_than_the_bound_are_cancelled_and_settled(
    make_server: Callable[..., Server], upstream: Upstream, workers: int
) -> None:
    server = make_server(more="[server]\nstop_within_s = 1", workers=workers)
    client = Leaving(server, {"chunks": 1000, "pace_s": 0.1})
    client.read_until(b"content")
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 15
    (entry,) = server.entries()
    assert entry["status"] == "cancelled"
    assert server.verify()[0]


def test_a_stopping_server_says_that_it_is_not_ready(make_server: Callable[..., Server], upstream: Upstream) -> None:
    server = make_server()
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/health")
    assert connection.getresponse().read()
    holding = Leaving(server, {"chunks": 20, "pace_s": 0.1})
    holding.read_until(b"content")
    assert server.process is not None
    server.process.terminate()
    wait_for(lambda: server.health()[0] in (0, 503), 5, "a stopping server still says that it is ready")
    assert server.process.wait(30) == 0


# --- what does not leak ---


def test_no_secret_is_on_disk_in_logs_in_answers_or_in_metrics(
    make_server: Callable[..., Server], upstream: Upstream
) -> None:
    server = make_server(
        provider='headers = { "x-own-secret" = "env:OWN" }',
        OWN="planted-header-secret",
        OPENAI_API_KEY="sk-planted-openai",
    )
    server.chat()
    server.chat(script={"status": 401})
    server.chat(script={"hang_up": True})
    _stream(server, {"late_error": {"message": "x"}})
    assert upstream.seen[0].headers["x-own-secret"] == "planted-header-secret"
    entry = server.settled()[0]
    key = json.loads(server.bursar("keys", "create", "k", "--format", "json").stdout)["key"]
    shown = [
        json.dumps(server.get(p)[1])
        for p in ("/health", "/metrics", "/api/calls", f"/api/calls/{entry['call_id']}", "/api/keys")
    ]
    shown.append(server.bursar("providers", "--format", "json").stdout)
    assert server.stop() == 0
    shown.append(server.log.read_text())
    files = [p for p in server.folder.rglob("*") if p.is_file() and p.name != "bursar.toml"]
    shown += [p.read_bytes().decode("latin-1") for p in files]
    for secret in ("sk-upstream-secret", "planted-header-secret", "sk-planted-openai", ADMIN, key):
        assert not any(secret in text for text in shown), secret


def test_nothing_is_fetched_at_start(make_server: Callable[..., Server]) -> None:
    """The guard in every process of the tests refuses anything but loopback, so a start that reached out would fail."""
    server = make_server(OPENAI_API_KEY="sk-x")
    assert server.health()[0] == 200
    assert "BeyondLoopbackError" not in server.log.read_text()


# --- weight ---


def _rss_mb(pid: int) -> float:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def test_an_idle_server_is_under_120_mb(server: Server) -> None:
    assert server.process is not None
    assert _rss_mb(server.process.pid) < 120


async def test_ten_thousand_calls_are_ten_thousand_rows(make_server: Callable[..., Server], upstream: Upstream) -> None:
    await _many(make_server(), upstream, 1000)


@pytest.mark.proof
@pytest.mark.timeout(600)
async def test_ten_thousand_calls_are_ten_thousand_rows_at_full_length(
    make_server: Callable[..., Server], upstream: Upstream
) -> None:
    await _many(make_server(), upstream, 10_000)


async def _many(server: Server, upstream: Upstream, count: int) -> None:
    import aiohttp

    gate = asyncio.Semaphore(64)

    async def one(session: aiohttp.ClientSession, n: int) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"call {n}"}], "stream": n % 2 == 0}
        async with gate, session.post(f"{server.url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            await answer.read()

    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {ADMIN}"}) as session:
        await asyncio.gather(*(one(session, n) for n in range(count)))
    entries = await asyncio.to_thread(server.settled, 120)
    assert len(entries) == count
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert sum(e[name] for e in entries) == sum(s.usage[name] for s in upstream.seen)  # type: ignore[index]
    usage = server.get("/api/usage")[1]["usage"][0]
    assert (usage["calls"], usage["total_tokens"]) == (count, sum(e["total_tokens"] for e in entries))
    green, report = await asyncio.to_thread(server.verify)
    assert green, report

"""The library: one way of a call, asynchronous and not, each call on the ledger when it ends, however it ends."""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import bursar
from bursar import Context, Usage
from bursar.gateway.estimate import Estimator
from bursar.types.errors import (
    ConfigError,
    ProviderConnectionError,
    ProviderError,
    ProviderTimeoutError,
    RateLimitedError,
    RequestError,
    TruncatedError,
    UnknownModelError,
)
from bursar.types.events import Completed, Finish, TextDelta, ToolCallDelta, UsageReport
from bursar.wire.assemble import Assembly
from support.server import environment, wait_for
from support.upstream import Upstream

MODEL = "up/gpt-4o-mini"
HELLO = [{"role": "user", "content": "hello"}]


def entries(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The ledger, oldest first, after the client is closed."""
    with sqlite3.connect(settings["store"]["url"].removeprefix("sqlite:///")) as c:
        c.row_factory = sqlite3.Row
        return [dict(r) for r in c.execute("select * from llm_call_logs order by created_at, attempt")]


async def test_a_completion_carries_everything_known_about_it(settings: dict[str, Any], upstream: Upstream) -> None:
    context = Context(
        workspace="w",
        user="u",
        session="s",
        turn="3",
        request_id="r",
        function="f",
        purpose="chat.answer",
        tags={"a": "b"},
    )
    async with bursar.open(settings) as client:
        result = await client.complete(
            model=MODEL, messages=HELLO, context=context, temperature=0.5, nobody_knows={"x": [1]}
        )
    (seen,) = upstream.seen
    assert result.text is not None
    assert result.text.startswith("answer 1")
    assert (result.finish_reason, result.provider, result.model) == ("stop", "up", "gpt-4o-mini-2024-07-18")
    assert result.usage is not None
    assert (result.usage.input_tokens, result.usage.output_tokens, result.usage.total_tokens) == (101, 11, 112)
    assert (result.usage.cached_tokens, result.usage.reasoning_tokens) == (3, 2)
    assert result.cost is not None
    # 98 plain × $0.15 + 3 cached × $0.075 + 11 × $0.60 a million
    assert (result.cost.nanos, result.cost.currency) == (98 * 150 + 3 * 75 + 11 * 600, "USD")
    assert result.raw is not None
    assert json.loads(bytes(result.raw))["id"] == "up-1"
    assert seen.json["nobody_knows"] == {"x": [1]}
    assert seen.json["model"] == "gpt-4o-mini"
    assert seen.headers["authorization"] == "Bearer sk-planted-secret"
    assert result.request is not None
    assert result.request.headers["authorization"] == "***"
    assert "planted" not in repr(result)
    (entry,) = entries(settings)
    expected = {
        "call_id": result.call_id, "attempt": 1, "is_final": 1, "workspace": "w", "user_id": "u", "session_id": "s",
        "turn": "3", "request_id": "r", "edge_function": "f", "purpose": "chat.answer", "tags": '{"a":"b"}',
        "status": "completed", "method_type": "chat_completion", "provider": "up", "provider_type": "openai",
        "provider_url": f"{upstream.base_url}/chat/completions", "requested_model": MODEL, "model": "gpt-4o-mini",
        "served_model": "gpt-4o-mini-2024-07-18", "http_status_code": 200, "prompt_tokens": 101,
        "completion_tokens": 11, "total_tokens": 112, "usage_source": "provider", "cost_nanos": result.cost.nanos,
        "price_id": "openai/gpt-4o-mini#0.2.3", "completion_text": result.text, "provider_response_id": "up-1",
    }  # fmt: skip
    assert {k: entry[k] for k in expected} == expected
    assert json.loads(entry["input_messages"]) == HELLO
    assert json.loads(entry["input_params"]) == {"model": "gpt-4o-mini", "temperature": 0.5, "nobody_knows": {"x": [1]}}
    assert json.loads(entry["output_response"]) == json.loads(bytes(result.raw))


async def test_a_stream_gives_events_and_ends_with_the_settled_result(
    settings: dict[str, Any], upstream: Upstream
) -> None:
    async with bursar.open(settings) as client:
        async with client.stream(model=MODEL, messages=HELLO) as stream:
            events = [event async for event in stream]
        async with client.stream(model=MODEL, messages=HELLO, script={"tool_call": True}) as tools:
            calls = [event async for event in tools if isinstance(event, ToolCallDelta)]
    last = events[-1]
    assert isinstance(last, Completed)
    assert last.result is stream.result
    text = "".join(e.text for e in events if isinstance(e, TextDelta))
    assert last.result.text == text != ""
    assert last.result.time_to_first_token_ms is not None
    assert [type(e) for e in events if isinstance(e, Finish | UsageReport)] == [Finish, UsageReport]
    assert last.result.usage is not None
    assert last.result.usage.total_tokens == upstream.seen[0].usage["total_tokens"]  # type: ignore[index]
    assert "".join(c.arguments for c in calls) == '{"city": "Oslo"}'
    assert tools.result is not None
    assert [(c.name, c.arguments) for c in tools.result.tool_calls] == [("weather", '{"city": "Oslo"}')]
    first, second = entries(settings)
    assert first["method_type"] == "stream_completion"
    assert first["completion_text"] == text
    assembled = json.loads(first["output_response"])
    assert assembled["choices"][0]["message"]["content"] == text
    assert assembled["usage"] == upstream.seen[0].usage
    assert (
        json.loads(second["output_response"])["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"
    )
    assert second["completion_text"] is None


async def test_embeddings_are_metered_like_any_call(settings: dict[str, Any]) -> None:
    async with bursar.open(settings) as client:
        result = await client.embed(model="up/text-embedding-3-small", input=["a", "b"])
    assert result.vectors == [[0.5, -1.25], [1.5, -1.25]]
    (entry,) = entries(settings)
    assert (entry["method_type"], entry["prompt_tokens"], entry["completion_tokens"], entry["total_tokens"]) == (
        "embedding",
        8,
        0,
        8,
    )
    assert entry["cost_nanos"] == 8 * 20
    assert json.loads(entry["input_messages"]) == ["a", "b"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_usage_a_provider_does_not_send_is_null(settings: dict[str, Any], streamed: bool) -> None:
    async with bursar.open(settings) as client:
        if streamed:
            async with client.stream(model=MODEL, messages=HELLO, script={"usage": False}) as stream:
                _ = [e async for e in stream]
            result = stream.result
        else:
            result = await client.complete(model=MODEL, messages=HELLO, script={"usage": False})
    assert result is not None
    assert (result.usage, result.cost, result.usage_source) == (None, None, "none")
    (entry,) = entries(settings)
    assert (entry["total_tokens"], entry["cost"], entry["cost_usd"], entry["usage_source"]) == (
        None,
        None,
        None,
        "none",
    )


async def test_errors_are_raised_with_what_the_provider_said(settings: dict[str, Any]) -> None:
    settings["providers"][0]["retries"] = 0
    async with bursar.open(settings) as client:
        with pytest.raises(ProviderError, match="'up' answered 400: too long") as bad:
            await client.complete(
                model=MODEL, messages=HELLO,
                script={"status": 400, "early_error": {"message": "too long", "type": "t", "code": "context_length_exceeded"}},
            )  # fmt: skip
        with pytest.raises(RateLimitedError) as limited:
            await client.complete(model=MODEL, messages=HELLO, script={"status": 429, "headers": {"retry-after": "40"}})
        with pytest.raises(ProviderError, match="reported an error in its answer: overloaded"):
            await client.complete(
                model=MODEL, messages=HELLO, script={"early_error": {"message": "overloaded", "code": 503}}
            )
        with pytest.raises(ProviderConnectionError, match="hung up before it answered"):
            await client.complete(model=MODEL, messages=HELLO, script={"hang_up": True})
        with pytest.raises(TruncatedError, match="hung up in the middle"):
            await client.complete(model=MODEL, messages=HELLO, script={"cut_after": 1})
        with pytest.raises(ProviderError, match="something that is no answer: <html>"):
            await client.complete(model=MODEL, messages=HELLO, script={"raw": "<html>busy</html>"})
    assert (bad.value.kind, bad.value.http_status, bad.value.code) == (
        "invalid_request",
        400,
        "context_length_exceeded",
    )
    assert (limited.value.kind, limited.value.retry_after_s) == ("rate_limit", 40)
    found = entries(settings)
    assert [e["status"] for e in found] == ["failed"] * 6
    assert [e["error_kind"] for e in found] == [
        "invalid_request",
        "rate_limit",
        "overloaded",
        "connection",
        "truncated",
        "upstream_error",
    ]
    assert [e["http_status_code"] for e in found] == [400, 429, 200, None, 200, 200]
    assert bad.value.call_id == found[0]["call_id"]


async def test_a_provider_that_cannot_be_reached_is_an_entry_too(settings: dict[str, Any]) -> None:
    settings["providers"][0].update(base_url="http://127.0.0.1:1/v1", retries=0)
    async with bursar.open(settings) as client:
        with pytest.raises(ProviderConnectionError, match="'up' was not reached"):
            await client.complete(model=MODEL, messages=HELLO)
    (entry,) = entries(settings)
    assert (entry["status"], entry["http_status_code"], entry["usage_source"]) == ("failed", None, "none")


async def test_what_cannot_be_said_is_refused_before_any_entry_exists(
    settings: dict[str, Any], upstream: Upstream
) -> None:
    async with bursar.open(settings) as client:
        for model, messages, field in (
            ("", HELLO, "model"),
            (MODEL, [], "messages"),
            (MODEL, ["x"], "messages"),
            (MODEL, [{"content": "x"}], "messages"),
        ):
            with pytest.raises(RequestError) as refused:
                await client.complete(model=model, messages=messages)  # type: ignore[arg-type]
            assert refused.value.field == field
        with pytest.raises(RequestError, match="'tools' cannot be written as JSON"):
            await client.complete(model=MODEL, messages=HELLO, tools=object())
        with pytest.raises(UnknownModelError, match="no active provider and no route offers 'elsewhere/x'"):
            settings["providers"][0]["models"] = ["gpt-4o-mini"]
            async with bursar.open(settings) as strict:
                await strict.complete(model="elsewhere/x", messages=HELLO)
    assert upstream.seen == []
    assert entries(settings) == []


@pytest.mark.parametrize(
    ("limits", "script", "message"),
    [
        ({"timeout_first_byte_s": 0.2}, {"delay_s": 5}, "first byte within 0.2 s"),
        ({"timeout_chunk_s": 0.2}, {"hang_after": 2}, "next chunk within 0.2 s"),
        ({"timeout_total_s": 0.5}, {"chunks": 100, "pace_s": 0.05}, "end within 0.5 s"),
    ],
)
async def test_a_provider_that_is_silent_is_not_waited_for(
    settings: dict[str, Any], upstream: Upstream, limits: dict[str, Any], script: dict[str, Any], message: str
) -> None:
    settings["providers"][0].update(limits)
    async with bursar.open(settings) as client:
        with pytest.raises(ProviderTimeoutError, match=message):
            async with client.stream(model=MODEL, messages=HELLO, script=script) as stream:
                _ = [e async for e in stream]
    assert len(upstream.seen) == 1, "a time-out after the request was sent may have been billed and is not repeated"
    (entry,) = entries(settings)
    assert (entry["status"], entry["error_kind"]) == ("failed", "timeout")


@pytest.mark.parametrize("leaving", ["break", "cancel", "error"])
async def test_leaving_a_stream_early_settles_its_entry(
    settings: dict[str, Any], upstream: Upstream, leaving: str
) -> None:
    async def use(client: Any) -> None:
        async with client.stream(model=MODEL, messages=HELLO, script={"chunks": 50, "pace_s": 0.02}) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    if leaving == "cancel":
                        asyncio.current_task().cancel()  # type: ignore[union-attr]
                        await asyncio.sleep(0)
                    elif leaving == "error":
                        raise KeyError("the application's own")
                    break

    async with bursar.open(settings) as client:
        if leaving == "break":
            await use(client)
        else:
            with pytest.raises((asyncio.CancelledError, KeyError)):
                await asyncio.ensure_future(use(client))
        await asyncio.to_thread(upstream.wait, lambda: upstream.seen[0].closed_at is not None, 2)
    (entry,) = entries(settings)
    assert entry["status"] == "cancelled"
    assert entry["completion_text"]


async def test_a_stream_that_is_left_is_read_on_where_its_provider_says_finish(
    settings: dict[str, Any], upstream: Upstream
) -> None:
    settings["providers"][0]["on_disconnect"] = "finish"
    async with bursar.open(settings) as client:
        async with client.stream(model=MODEL, messages=HELLO, script={"chunks": 10, "pace_s": 0.02}) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
        task = asyncio.ensure_future(client.complete(model=MODEL, messages=HELLO, script={"delay_s": 0.3}))
        await asyncio.to_thread(upstream.wait, lambda: len(upstream.seen) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    first, second = entries(settings)
    for entry, seen in ((first, upstream.seen[0]), (second, upstream.seen[1])):
        assert (entry["status"], entry["usage_source"]) == ("completed", "provider")
        assert entry["total_tokens"] == seen.usage["total_tokens"]  # type: ignore[index]


async def test_reading_on_is_bounded(settings: dict[str, Any], upstream: Upstream) -> None:
    settings["providers"][0].update(on_disconnect="finish", finish_max_s=0.3)
    async with bursar.open(settings) as client:
        async with client.stream(model=MODEL, messages=HELLO, script={"chunks": 500, "pace_s": 0.02}) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
        await asyncio.to_thread(upstream.wait, lambda: upstream.seen[0].closed_at is not None, 5)
    (entry,) = entries(settings)
    assert entry["status"] == "cancelled"


async def test_a_cut_off_answer_is_estimated_from_twenty_others_and_says_so(settings: dict[str, Any]) -> None:
    left = {"text": "x" * 200, "chunks": 20, "pace_s": 0.01, "prompt_tokens": 50, "completion_tokens": 40}

    async def leave(client: Any) -> None:
        async with client.stream(model=MODEL, messages=HELLO, script=left) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    break

    async with bursar.open(settings) as client:
        await leave(client)  # nothing is known yet
        for _ in range(20):
            await client.complete(model=MODEL, messages=HELLO, script={**left, "pace_s": 0})
    async with bursar.open(settings) as client:  # what was learnt is still known after a restart
        await leave(client)
    found = [e for e in entries(settings) if e["status"] == "cancelled"]
    assert (found[0]["usage_source"], found[0]["total_tokens"], found[0]["cost"]) == ("none", None, None)
    assert found[1]["usage_source"] == "estimated"
    # 200 bytes were 40 tokens: 10 bytes are 2. The request is a little longer than the ones learnt from.
    assert found[1]["completion_tokens"] == 2
    assert 50 <= found[1]["prompt_tokens"] <= 70
    assert found[1]["cost_nanos"] > 0


async def test_what_the_provider_reported_before_the_cut_is_kept(settings: dict[str, Any]) -> None:
    async with bursar.open(settings) as client:
        script = {"chunks": 50, "pace_s": 0.02, "usage_every_chunk": True}
        async with client.stream(model=MODEL, messages=HELLO, script=script) as stream:
            async for event in stream:
                if isinstance(event, UsageReport) and event.usage.output_tokens == 3:
                    break
    (entry,) = entries(settings)
    assert (entry["status"], entry["usage_source"]) == ("cancelled", "provider_partial")
    assert (entry["prompt_tokens"], entry["completion_tokens"]) == (101, 3)


async def test_a_call_still_under_way_when_its_client_closes_is_settled_and_writes_nowhere_else(
    settings: dict[str, Any], upstream: Upstream, tmp_path: Path
) -> None:
    async with bursar.open(settings) as client:
        task = asyncio.ensure_future(client.complete(model=MODEL, messages=HELLO, script={"delay_s": 0.5}))
        await asyncio.to_thread(upstream.wait, lambda: len(upstream.seen) == 1)
    files = [(tmp_path / f"other{n}").open("w+b") for n in range(20)]  # take over the numbers of closed files
    with pytest.raises(ProviderError):
        await task
    assert all(f.seek(0, 2) == 0 for f in files)
    for file in files:
        file.close()
    assert [e["status"] for e in entries(settings)] == ["cancelled"]


def test_closing_a_sync_client_ends_the_calls_of_other_threads(settings: dict[str, Any], upstream: Upstream) -> None:
    client = bursar.open_sync(settings)
    ends: list[BaseException] = []

    def work() -> None:
        try:
            client.complete(model=MODEL, messages=HELLO, script={"delay_s": 5})
        except bursar.BursarError as error:
            ends.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    upstream.wait(lambda: len(upstream.seen) == 1)
    client.close()
    thread.join(3)
    assert not thread.is_alive()
    assert len(ends) == 1
    assert [e["status"] for e in entries(settings)] == ["cancelled"]


def test_an_orderly_end_drains_everything_every_time(settings: dict[str, Any]) -> None:
    async def some() -> None:
        async with bursar.open({**settings, "providers": []}) as client:
            await asyncio.gather(*(client.complete(model="demo", messages=HELLO) for _ in range(60)))

    for _ in range(8):
        asyncio.run(some())
    assert list(Path(settings["ledger"]["spool"]).iterdir()) == []
    assert [e["status"] for e in entries(settings)] == ["completed"] * 480


@pytest.mark.parametrize(
    ("content", "kept"),
    [('"a\\u0000b"', "a\0b"), ('"a\\ud800b"', "a\N{REPLACEMENT CHARACTER}b"), ('"ab", "x": NaN', "ab")],
)
async def test_no_answer_makes_the_ledger_unreadable(settings: dict[str, Any], content: str, kept: str) -> None:
    raw = f'{{"id": "1", "choices": [{{"message": {{"content": {content}}}, "finish_reason": "stop"}}], "usage": {{}}}}'
    async with bursar.open(settings) as client:
        await client.complete(model=MODEL, messages=HELLO, script={"raw": raw})
    (entry,) = entries(settings)
    assert entry["completion_text"] == kept
    assert json.loads(entry["output_response"])


async def test_a_context_that_is_no_text_is_refused(settings: dict[str, Any]) -> None:
    async with bursar.open(settings) as client:
        for context in (Context(user=42), Context(tags={"a": 1}), Context(workspace=None)):  # type: ignore[arg-type,dict-item]
            with pytest.raises(RequestError, match="must be"):
                await client.complete(model=MODEL, messages=HELLO, context=context)


async def test_a_credential_a_provider_repeats_is_masked(settings: dict[str, Any]) -> None:
    told = {"message": "bad key sk-planted-secret given", "type": "t", "code": "c"}
    async with bursar.open(settings) as client:
        for script in ({"status": 401, "early_error": told}, {"early_error": told}):
            with pytest.raises(ProviderError) as raised:
                await client.complete(model=MODEL, messages=HELLO, script=script)
            assert "planted" not in repr(raised.value) + str(raised.value.body)
    assert all("bad key *** given" in e["error_message"] for e in entries(settings))


async def test_an_answer_whose_end_mark_never_comes_is_still_whole(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursar.gateway.attempt._AFTER_FINISH_S", 0.2)
    async with bursar.open(settings) as client:
        async with client.stream(model=MODEL, messages=HELLO, script={"done": False, "linger": True}) as stream:
            _ = [e async for e in stream]
        assert stream.result is not None
        assert stream.result.usage is not None


def test_the_sync_client_is_the_same_way_of_a_call(settings: dict[str, Any]) -> None:
    with bursar.open_sync(settings) as client:
        result = client.complete(model=MODEL, messages=HELLO, context=Context(user="u"))
        assert result.text
        with client.stream(model=MODEL, messages=HELLO) as stream:
            assert any(isinstance(e, TextDelta) for e in list(stream))
        assert stream.result is not None
        assert client.embed(model="up/e", input="x").vectors
        with pytest.raises(RequestError):
            client.complete(model=MODEL, messages=[])
    found = entries(settings)
    assert [e["status"] for e in found] == ["completed"] * 3
    assert found[0]["user_id"] == "u"


async def test_the_sync_client_works_inside_a_running_loop(settings: dict[str, Any]) -> None:
    with bursar.open_sync(settings) as client:  # as in a notebook
        assert client.complete(model=MODEL, messages=HELLO).text


def test_contexts_survive_threads(settings: dict[str, Any]) -> None:
    with bursar.open_sync(settings) as client:

        def work(n: int) -> None:
            mine = client.with_context(Context(user=f"u{n}", session=f"s{n}"))
            for _ in range(3):
                mine.complete(model=MODEL, messages=HELLO)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = sorted((e["user_id"], e["session_id"]) for e in entries(settings))
    assert found == sorted((f"u{n}", f"s{n}") for n in range(8) for _ in range(3))


def test_a_forked_child_of_a_sync_client_goes_on(settings: dict[str, Any]) -> None:
    script = f"""
import os, bursar
client = bursar.open_sync({settings!r})
client.complete(model="up/m", messages=[{{"role": "user", "content": "parent"}}])
pid = os.fork()
if pid == 0:
    client.complete(model="up/m", messages=[{{"role": "user", "content": "child"}}])
    client.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
client.complete(model="up/m", messages=[{{"role": "user", "content": "parent again"}}])
client.close()
"""
    subprocess.run([sys.executable, "-c", script], env=environment(), check=True, timeout=60)
    assert [e["status"] for e in entries(settings)] == ["completed"] * 3


def test_two_processes_with_the_library_share_one_ledger(settings: dict[str, Any]) -> None:
    script = f"""
import bursar
with bursar.open_sync({settings!r}) as client:
    for n in range(20):
        client.complete(model="up/m", messages=[{{"role": "user", "content": str(n)}}])
"""
    running = [subprocess.Popen([sys.executable, "-c", script], env=environment()) for _ in range(3)]
    assert [p.wait(60) for p in running] == [0, 0, 0]
    assert len(entries(settings)) == 60


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=[pytest.mark.proof, pytest.mark.timeout(600)])])
def test_a_killed_process_that_uses_the_library_leaves_one_entry_an_attempt(
    settings: dict[str, Any], upstream: Upstream, tmp_path: Path, rounds: int
) -> None:
    script = f"""
import asyncio, bursar, itertools, sys
from bursar import Context
async def caller(client, n):
    for i in itertools.count():
        id = f"{{sys.argv[1]}}-{{n}}-{{i}}"
        asked = dict(model="up/m", messages=[{{"role": "user", "content": id}}], metadata={{"id": id}},
                     context=Context(request_id=id), script={{"chunks": 4, "pace_s": 0.003}})
        if (n + i) % 3:
            async with client.stream(**asked) as stream:
                async for event in stream: pass
        else:
            await client.complete(**asked)
async def main():
    async with bursar.open({settings!r}) as client:
        await asyncio.gather(*(caller(client, n) for n in range(64)))
asyncio.run(main())
"""
    from support.matching import mismatches

    for n in range(rounds):
        process = subprocess.Popen([sys.executable, "-c", script, str(n)], env=environment(), stderr=subprocess.PIPE)
        before = len(upstream.seen)
        wait_for(lambda b=before, n=n: len(upstream.seen) > b + 150 + n, 30, "the calls did not get through")
        process.kill()
        process.communicate()
    with bursar.open_sync(settings) as client:
        client.complete(model=MODEL, messages=HELLO, metadata={"id": "last"}, context=Context(request_id="last"))
        spools = Path(settings["ledger"]["spool"])
        wait_for(lambda: len(list(spools.glob("*.spool"))) == 1, 30, "the spools of the dead were not adopted")
    found = entries(settings)
    assert mismatches(upstream.seen, found) == []
    assert any(e["status"] == "interrupted" for e in found)
    (tmp_path / "b.toml").write_text(
        f'[store]\nurl = "{settings["store"]["url"]}"\n[ledger]\nspool = "{settings["ledger"]["spool"]}"\n'
    )
    verified = subprocess.run(
        [sys.executable, "-m", "bursar", "verify", "--config", str(tmp_path / "b.toml")],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert verified.returncode == 0, verified.stdout


def test_importing_bursar_loads_nothing_heavy() -> None:
    script = "import bursar, sys; print([m for m in ('msgspec', 'httptools', 'httpx2', 'uvloop', 'fastapi', 'sqlalchemy', 'pydantic', 'asyncio', 'click') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_is_there_when_it_is_named_and_no_other() -> None:
    script = (
        "import bursar\nassert set(bursar.__all__) <= set(dir(bursar))\n"
        "from bursar import *\nassert events is bursar.events and Usage is bursar.Usage\n"
        "print(Context.__name__, events.__name__)\nbursar.nothing"
    )
    out = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=False)
    assert out.stdout.split() == ["Context", "bursar.types.events"]
    assert out.stderr.strip().endswith("AttributeError: module 'bursar' has no attribute 'nothing'")


def test_a_command_that_does_not_serve_loads_no_web_framework() -> None:
    script = "import bursar.cli.app, bursar.cli.reading, sys; print([m for m in ('fastapi', 'uvicorn', 'httpx2', 'botocore', 'google.auth', 'alembic', 'pydantic') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_to_make_a_store_and_serve_calls_loads_nothing_of_the_control_plane(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "import bursar.runtime.worker\n"
        "from bursar.runtime import serve\n"
        "async def at_once(*_, **__): print([m for m in ('fastapi', 'pydantic', 'starlette', 'alembic', 'sqlalchemy', 'rich') if m in sys.modules], 'sqlite3' in sys.modules)\n"
        "serve._serve_until_told = at_once\n"
        "from bursar.cli import main\n"
        "sys.argv = ['bursar', 'serve', '--port', '0']\n"
        "main()\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, env=environment()
    )
    assert out.stdout.splitlines()[-1] == "[] True"
    assert (tmp_path / "data" / "bursar.db").exists()


def test_an_open_client_loads_no_web_framework() -> None:
    script = (
        "import asyncio, bursar, sys, tempfile, os\nos.chdir(tempfile.mkdtemp())\n"
        "async def main():\n  async with bursar.open() as c: await c.complete(model='demo', messages=[dict(role='user', content='x')])\n"
        "asyncio.run(main())\nprint([m for m in ('fastapi', 'pydantic', 'uvicorn', 'starlette', 'sqlalchemy', 'click', 'rich', 'alembic') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment())
    assert out.stdout.strip() == "[]"


def test_a_configuration_that_is_wrong_is_refused_by_name_and_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key `basurl` at `\$.providers\[...\]`|unknown key `basurl`"):
        bursar.open_sync({"providers": [{"name": "a", "basurl": "x"}]})
    with pytest.raises(ConfigError, match="the environment variable NOBODY_SET is not set"):
        bursar.open_sync({"providers": [{"name": "a", "base_url": "http://x", "api_key": "env:NOBODY_SET"}]})
    with pytest.raises(ConfigError, match="the target 'r' is a route"):
        bursar.open_sync(
            {"providers": [{"name": "a", "base_url": "http://x"}], "routes": [{"name": "r", "targets": ["r"]}]}
        )
    with pytest.raises(ConfigError, match="does not exist"):
        bursar.open_sync(str(tmp_path / "none.toml"))


async def test_without_configuration_there_is_a_model_that_needs_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with bursar.open() as client:
        result = await client.complete(model="demo", messages=HELLO)
        assert result.usage is not None
        with pytest.raises(RateLimitedError):
            await client.complete(model="demo", messages=HELLO, demo={"error": 429})
        with pytest.raises(TruncatedError):
            async with client.stream(model="demo", messages=HELLO, demo={"cut": True}) as stream:
                _ = [e async for e in stream]
        silent = await client.complete(model="demo", messages=HELLO, demo={"usage": False})
        assert silent.usage is None
    assert (tmp_path / "data" / "bursar.db").exists()


async def test_a_call_leaves_nothing_behind_that_waits_for_the_garbage_collector(
    settings: dict[str, Any], upstream: Upstream
) -> None:
    async def call(n: int) -> None:
        if n % 2:
            await client.complete(model=MODEL, messages=HELLO)
        else:
            async with client.stream(model=MODEL, messages=HELLO) as stream:
                async for _ in stream:
                    pass

    async with bursar.open(settings) as client:
        for n in range(10):
            await call(n)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for n in range(60):
                await call(n)
            gc.collect()
            # The drain's own waiting makes some of the standard library's; what a call is made of is ours.
            left = {type(o).__qualname__ for o in gc.garbage if type(o).__module__.startswith("bursar.")}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert left == set()


@pytest.mark.parametrize(
    "header", [("Content-Length", "1"), ("x-a", "b\r\nevil: 1"), ("a b", "secret"), ("x", "\u4e00")]
)
async def test_a_header_that_cannot_be_sent_is_refused_before_any_entry_exists(
    settings: dict[str, Any], upstream: Upstream, header: tuple[str, str]
) -> None:
    async with bursar.open(settings) as client:
        with pytest.raises(RequestError, match="header") as caught:
            await client.complete(model=MODEL, messages=HELLO, extra_headers=dict([header]))
    assert "secret" not in str(caught.value)
    assert entries(settings) == []
    assert upstream.seen == []


def test_what_was_said_before_the_answer_began_is_no_count_of_it() -> None:
    """Some begin a stream with their usage so far: all of the input, and a token or two of output."""
    before, after = Assembly(), Assembly()
    early = Usage(input_tokens=10, output_tokens=1)
    before.take([UsageReport(early), TextDelta("a" * 400)])
    after.take([TextDelta("a" * 400), UsageReport(Usage(input_tokens=10, output_tokens=90))])
    assert (before.usage_is_early, after.usage_is_early) == (True, False)

    def cut_off(estimator: Estimator, assembly: Assembly) -> tuple[int | None, int | None, str]:
        usage, source = estimator.of_cut_off(
            "p", "m", reported=assembly.usage, is_final=False, is_early=assembly.usage_is_early, request_bytes=40,
            output_bytes=assembly.output_bytes(),
        )  # fmt: skip
        assert usage is not None
        return usage.input_tokens, usage.output_tokens, source

    taught = Estimator({("p", "m"): (25, 25_000, 6_250, 10_000, 2_500)})
    assert cut_off(taught, before) == (10, 100, "estimated")
    assert cut_off(taught, after) == (10, 90, "provider_partial")
    assert cut_off(Estimator(), before) == (10, None, "provider_partial")

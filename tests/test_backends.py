"""Functions of this process as providers: of each kind, failing in each way, metered like all others; and the bundle."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import bursar
from bursar import BackendError
from bursar.types.errors import ConfigError, ProviderError, ProviderTimeoutError, RateLimitedError
from bursar.types.events import TextDelta
from support.server import Server, wait_for
from test_client import HELLO, entries

Tree = dict[str, Any]
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def completion(text: str, **more: Any) -> Tree:
    return {"id": "b1", "object": "chat.completion", "model": "mine", "usage": USAGE,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}], **more}  # fmt: skip


def chunks(*texts: str) -> list[Tree]:
    head = {"id": "b1", "object": "chat.completion.chunk", "model": "mine"}
    made = [{**head, "choices": [{"index": 0, "delta": {"content": t}, "finish_reason": None}]} for t in texts]
    return [
        *made,
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**head, "choices": [], "usage": USAGE},
    ]


def own(settings: Tree, **more: Any) -> Tree:
    """Settings with one provider that is a function of the name `mine`."""
    provider = {"name": "own", "type": "backend", "backend": "mine", "model": "m", "timeout_total_s": 20, **more}
    return {**settings, "providers": [provider, *settings.get("providers", [])]}


said = contextvars.ContextVar("said", default="nothing")


def plain(operation: str, request: Tree) -> object:
    """A synchronous backend."""
    assert threading.current_thread() is not threading.main_thread()
    if operation == "embeddings":
        return {
            "object": "list",
            "model": "mine",
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
            "data": [
                {"object": "embedding", "index": n, "embedding": [0.5, n]} for n, _ in enumerate(request["input"])
            ],
        }
    if request.get("stream"):
        return iter(chunks("you ", "said ", said.get()))
    return completion(f"you said {said.get()}, at {request.get('temperature')}")


async def awaited(operation: str, request: Tree) -> object:
    """An asynchronous one."""
    assert threading.current_thread() is threading.main_thread()
    await asyncio.sleep(0)
    if operation == "embeddings":
        data = [{"index": n, "embedding": [0.5, n]} for n, _ in enumerate(request["input"])]
        return {"object": "list", "data": data, "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    if request.get("stream"):

        async def pieces() -> AsyncIterator[Tree]:
            for chunk in chunks("you ", "said ", said.get()):
                await asyncio.sleep(0)
                yield chunk

        return pieces()
    return completion(f"you said {said.get()}, at {request.get('temperature')}")


@pytest.mark.parametrize("backend", [plain, awaited])
async def test_either_kind_is_metered_like_all_others(settings: Tree, backend: Any) -> None:
    said.set("hello")
    given = own(settings)
    given["prices"] = [{"model": "m", "provider": "own", "input": 1, "output": 2}]
    async with bursar.open(given, backends={"mine": backend}) as client:
        result = await client.complete(model="own/m", messages=HELLO, temperature=0.5)
        assert (result.text, result.usage and result.usage.total_tokens) == ("you said hello, at 0.5", 10)
        assert result.cost is not None
        assert result.cost.nanos == 13_000
        assert str(result.cost.price).startswith("file:own/m#")
        async with client.stream(model="own/m", messages=HELLO) as stream:
            texts = [event.text async for event in stream if isinstance(event, TextDelta)]
        assert texts == ["you ", "said ", "hello"]
        assert stream.result is not None
        assert stream.result.usage is not None
        vectors = await client.embed(model="own/m", input=["a", "b"])
        assert vectors.vectors == [[0.5, 0], [0.5, 1]]
    rows = entries(given)
    assert [(r["status"], r["provider_type"], r["provider_url"], r["total_tokens"]) for r in rows] == [
        ("completed", "backend", "backend://in-process/chat/completions", 10), ("completed", "backend", "backend://in-process/chat/completions", 10),
        ("completed", "backend", "backend://in-process/chat/completions", 4)]  # fmt: skip
    assert [r["completion_text"] for r in rows] == ["you said hello, at 0.5", "you said hello", None]


async def test_its_entry_is_on_disk_when_it_is_asked_though_records_are_staged(settings: Tree) -> None:
    found: list[bool] = []

    def looks(_operation: str, request: Tree) -> object:
        written = b"".join(path.read_bytes() for path in Path(settings["ledger"]["spool"]).glob("*.spool"))
        found.append(request["messages"][0]["content"].encode() in written)
        return completion("seen")

    async with bursar.open(own(settings), backends={"mine": looks}) as client:
        client._gateway.ledger.stage(lambda: None)  # no turn ever ends
        for text in ("first asked", "asked again"):
            await client.complete(model="own/m", messages=[{"role": "user", "content": text}])
    assert found == [True, True]


async def test_many_slow_ones_hold_nobody_up(settings: Tree) -> None:
    """Fifty calls wait in threads; the loop goes on."""
    release, inside = threading.Event(), threading.Semaphore(0)

    def slow(_operation: str, _request: Tree) -> Tree:
        inside.release()
        assert release.wait(20)
        return completion("at last")

    async with bursar.open(own(settings), backends={"mine": slow}) as client:
        calls = [asyncio.create_task(client.complete(model="own/m", messages=HELLO)) for _ in range(50)]
        for _ in range(50):
            assert await asyncio.to_thread(inside.acquire, True, 20)
        other = await client.complete(model="up/gpt-4o-mini", messages=HELLO)
        assert other.text is not None
        release.set()
        assert {r.text for r in await asyncio.gather(*calls)} == {"at last"}


@pytest.mark.parametrize("as_stream", [False, True])
@pytest.mark.parametrize(
    ("raised", "error", "kind"),
    [
        (BackendError("slow down", 429), RateLimitedError, "rate_limit"),
        (BackendError("who are you", 401, code="bad_key"), ProviderError, "auth"),
        (ValueError("two and two"), ProviderError, "server"),
    ],
)
async def test_a_failure_is_the_attempt_s(
    settings: Tree, raised: Exception, error: type[ProviderError], kind: str, *, as_stream: bool
) -> None:
    def failing(_operation: str, request: Tree) -> object:
        if request.get("stream"):
            return _raising(raised)
        raise raised

    given = own(settings, retries=0)
    async with bursar.open(given, backends={"mine": failing}) as client:
        with pytest.raises(error) as caught:
            if as_stream:
                async with client.stream(model="own/m", messages=HELLO) as stream:
                    _ = [event async for event in stream]
            else:
                await client.complete(model="own/m", messages=HELLO)
    assert caught.value.kind == kind
    assert (str(raised) or "x") in caught.value.message
    (row,) = entries(given)
    assert (row["status"], row["error_kind"]) == ("failed", kind)


def _raising(error: Exception, *first: Tree) -> Iterator[Tree]:
    yield from first
    raise error


@pytest.mark.parametrize(
    "raised", [SystemExit(3), StopIteration("odd"), KeyboardInterrupt(), TimeoutError("its own"), GeneratorExit()]
)
@pytest.mark.parametrize("as_stream", [False, True])
async def test_what_ends_programs_ends_one_call(settings: Tree, raised: BaseException, *, as_stream: bool) -> None:
    def ending(_operation: str, request: Tree) -> object:
        if not request.get("stream"):
            raise raised

        class Chunks:
            def __iter__(self) -> Any:
                return self

            def __next__(self) -> Tree:
                raise raised

        return Chunks()

    given = own(settings, retries=0)
    async with bursar.open(given, backends={"mine": ending}) as client:
        stream = client.stream(model="own/m", messages=HELLO)
        if as_stream and isinstance(raised, StopIteration):
            async with stream:  # it is how iterators end
                assert [event async for event in stream][-1].__class__.__name__ == "Completed"
        else:
            with pytest.raises(ProviderError) as caught:
                if as_stream:
                    async with stream:
                        _ = [event async for event in stream]
                else:
                    await client.complete(model="own/m", messages=HELLO)
            assert type(raised).__name__ in caught.value.message
        assert (await client.complete(model="up/gpt-4o-mini", messages=HELLO)).text


async def test_a_stream_that_nobody_reads_is_closed(settings: Tree) -> None:
    closed = threading.Event()

    def begun(_operation: str, _request: Tree) -> Iterator[Tree]:
        try:
            yield from chunks("a", "b")
        finally:
            closed.set()

    async with bursar.open(own(settings), backends={"mine": begun}) as client:
        async with client.stream(model="own/m", messages=HELLO):
            pass
        assert await asyncio.to_thread(closed.wait, 20)


async def test_one_that_fails_gives_way_to_the_next_target(settings: Tree) -> None:
    given = own(settings, retries=0)
    given["routes"] = [{"name": "any", "targets": ["own/m", "up/gpt-4o-mini"]}]

    def failing(_operation: str, _request: Tree) -> Iterator[Tree]:
        return _raising(ValueError("no"))

    async with bursar.open(given, backends={"mine": failing}) as client:
        async with client.stream(model="any", messages=HELLO) as stream:
            _ = [event async for event in stream]
        assert stream.result is not None
        assert stream.result.provider == "up"
    assert [r["status"] for r in entries(given)] == ["failed", "completed"]


async def test_an_error_in_the_middle_is_the_end_of_the_stream(settings: Tree) -> None:
    given = own(settings)
    async with bursar.open(
        given, backends={"mine": lambda _o, _r: _raising(ValueError("torn"), *chunks("half ")[:1])}
    ) as client:
        stream = client.stream(model="own/m", messages=HELLO)
        with pytest.raises(ProviderError, match="torn"):
            async with stream:
                _ = [event async for event in stream]
    (row,) = entries(given)
    assert (row["status"], row["completion_text"]) == ("failed", "half ")


@pytest.mark.parametrize("given_back", [object(), {"choices": [object()]}, None, "text", {"nothing": 1}])
async def test_what_is_no_answer_is_told(settings: Tree, given_back: object) -> None:
    given = own(settings, retries=0)
    async with bursar.open(given, backends={"mine": lambda _o, _r: given_back}) as client:
        with pytest.raises(ProviderError):
            await client.complete(model="own/m", messages=HELLO)
        with pytest.raises(ProviderError):
            async with client.stream(model="own/m", messages=HELLO) as stream:
                _ = [event async for event in stream]
    assert {r["status"] for r in entries(given)} == {"failed"}


async def test_one_that_hangs_is_left_in_its_thread(settings: Tree) -> None:
    release = threading.Event()
    given = own(settings, timeout_first_byte_s=0.2, retries=0)

    def hanging(_operation: str, request: Tree) -> object:
        def pieces() -> Iterator[Tree]:
            release.wait(20)
            yield from chunks("late")

        return pieces() if request.get("stream") else release.wait(20)

    async with bursar.open(given, backends={"mine": hanging}) as client:
        with pytest.raises(ProviderTimeoutError):
            await client.complete(model="own/m", messages=HELLO)
        with pytest.raises(ProviderTimeoutError):
            async with client.stream(model="own/m", messages=HELLO) as stream:
                _ = [event async for event in stream]
        assert (await client.complete(model="up/gpt-4o-mini", messages=HELLO)).text
        release.set()
    assert [r["status"] for r in entries(given)] == ["failed", "failed", "completed"]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_stream_that_is_left_is_closed_and_settled(settings: Tree, kind: str) -> None:
    closed = threading.Event()

    def endless(_operation: str, _request: Tree) -> Iterator[Tree]:
        try:
            while True:
                time.sleep(0.001)
                yield chunks("more ")[0]
        finally:
            closed.set()

    async def endless_too(_operation: str, _request: Tree) -> AsyncIterator[Tree]:
        try:
            while True:
                await asyncio.sleep(0.001)
                yield chunks("more ")[0]
        finally:
            closed.set()

    given = own(settings)
    async with bursar.open(given, backends={"mine": endless if kind == "sync" else endless_too}) as client:
        async with client.stream(model="own/m", messages=HELLO) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
        assert await asyncio.to_thread(closed.wait, 20)
        # … and where the one who reads is cancelled while the backend is at its next piece
        closed.clear()

        async def read() -> None:
            async with client.stream(model="own/m", messages=HELLO) as stream:
                async for _ in stream:
                    pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(closed.wait, 20)
    assert [r["status"] for r in entries(given)] == ["cancelled", "cancelled"]


async def test_a_plain_answer_to_a_stream_is_one(settings: Tree) -> None:
    given = own(settings)
    async with (
        bursar.open(given, backends={"mine": lambda _o, _r: completion("all at once")}) as client,
        client.stream(model="own/m", messages=HELLO) as stream,
    ):
        texts = [event.text async for event in stream if isinstance(event, TextDelta)]
    assert texts == ["all at once"]


@pytest.mark.parametrize(
    ("provider", "says"),
    [
        ({"backend": "nobody"}, "no backend 'nobody' is registered"),
        ({"backend": "json:nothing"}, "cannot be loaded"),
        ({"backend": "json:__name__"}, "is no function"),
        ({"backend": None}, "backend is missing"),
        ({"type": "openai", "base_url": "http://127.0.0.1:1/v1", "backend": "mine"}, "leave backend out"),
        ({"type": "litellm", "backend": None}, "pip install 'bursar[litellm]'"),
    ],
)  # fmt: skip
async def test_one_that_cannot_be_is_refused_at_the_start(settings: Tree, provider: Tree, says: str) -> None:
    merged = {
        k: v for k, v in {"name": "own", "type": "backend", "backend": "mine", **provider}.items() if v is not None
    }
    with pytest.raises(ConfigError) as refused:
        async with bursar.open({**settings, "providers": [merged]}, backends={"mine": plain}):
            pass
    assert says in refused.value.message


MODULE = """
def answer(operation, request):
    text = "from a module: " + request["messages"][-1]["content"]
    if request.get("stream"):
        head = {"id": "b", "object": "chat.completion.chunk", "model": "mine"}
        return iter([{**head, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}])
    return {"id": "b", "object": "chat.completion", "model": "mine", "usage": {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7},
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
"""


def test_a_server_runs_a_function_its_file_names_and_no_row_can(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    text = '[[providers]]\nname = "own"\ntype = "backend"\nbackend = "mine:answer"\nmodel = "m"\n'
    from support.server import environment

    path = f"{environment()['PYTHONPATH']}:{tmp_path}"
    with Server(tmp_path, text, env={"PYTHONPATH": path}) as server:
        status, answer = server.request("POST", "/v1/chat/completions", {"model": "own/m", "messages": HELLO})
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "from a module: hello")
        status, data, _ = server.exchange(
            "POST", "/v1/chat/completions", {"model": "own/m", "messages": HELLO, "stream": True}
        )
        assert status == 200
        assert b"from a module: hello" in data
        for given, field in (
            ({"backend": "mine:answer"}, "backend"),
            ({}, "providerType"),
            ({"providerType": "litellm"}, "providerType"),
        ):
            status, body = server.request("POST", "/api/providers", {"name": "row", "providerType": "backend", **given})
            assert (status, body["error"]["param"]) == (400, field), body
        wait_for(lambda: len(server.entries()) == 2, 20, "the entries did not come")
        assert {e["total_tokens"] for e in server.entries()} == {7, None}
        assert server.verify()[0]


context_of_a_span: contextvars.ContextVar[str] = contextvars.ContextVar("span", default="none")


@pytest.mark.parametrize("kind", ["sync", "async", "group"])
@pytest.mark.parametrize("leave", [False, True])
async def test_what_a_stream_opens_it_closes_in_its_own_context_and_task(
    settings: Tree, kind: str, caplog: Any, *, leave: bool
) -> None:
    seen: list[str] = []

    def spanned(_operation: str, _request: Tree) -> Iterator[Tree]:
        token = context_of_a_span.set("inside")
        try:
            for chunk in chunks("a", "b", "c"):
                seen.append(context_of_a_span.get())
                yield chunk
        finally:
            context_of_a_span.reset(token)
            seen.append("closed")

    async def spanned_later(_operation: str, _request: Tree) -> AsyncIterator[Tree]:
        token = context_of_a_span.set("inside")
        try:
            for chunk in chunks("a", "b", "c"):
                seen.append(context_of_a_span.get())
                yield chunk
        finally:
            context_of_a_span.reset(token)
            seen.append("closed")

    async def grouped(_operation: str, _request: Tree) -> AsyncIterator[Tree]:
        try:
            async with asyncio.TaskGroup() as group, asyncio.timeout(20):
                group.create_task(asyncio.sleep(0))
                for chunk in chunks("a", "b", "c"):
                    seen.append("inside")
                    yield chunk
        finally:
            seen.append("closed")

    backend = {"sync": spanned, "async": spanned_later, "group": grouped}[kind]
    given = own(settings)
    async with bursar.open(given, backends={"mine": backend}) as client:
        async with client.stream(model="own/m", messages=HELLO) as stream:
            async for event in stream:
                if leave and isinstance(event, TextDelta):
                    break
        await asyncio.to_thread(wait_for, lambda: "closed" in seen, 10, "it was not closed")
    assert seen[-1] == "closed"
    assert set(seen[:-1]) == {"inside"}
    assert [r["status"] for r in entries(given)] == ["cancelled" if leave else "completed"]
    assert not caplog.records


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_what_goes_wrong_at_the_end_of_a_stream_that_is_left_is_nobody_s(
    settings: Tree, kind: str, caplog: Any
) -> None:
    ended = threading.Event()

    def bad(_operation: str, _request: Tree) -> Iterator[Tree]:
        try:
            yield from chunks("a", "b")
        finally:
            ended.set()
            raise ValueError("at the end")

    async def bad_too(_operation: str, _request: Tree) -> AsyncIterator[Tree]:
        try:
            for chunk in chunks("a", "b"):
                yield chunk
        finally:
            ended.set()
            raise ValueError("at the end")

    async with bursar.open(own(settings), backends={"mine": bad if kind == "sync" else bad_too}) as client:
        async with client.stream(model="own/m", messages=HELLO) as stream:
            async for _ in stream:
                break
        assert await asyncio.to_thread(ended.wait, 20)
    assert not caplog.records


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_client_that_closes_ends_the_calls_that_wait(settings: Tree, kind: str) -> None:
    release, inside = threading.Event(), threading.Event()

    def hanging(_operation: str, _request: Tree) -> object:
        inside.set()
        return release.wait(20)

    async def hanging_too(_operation: str, _request: Tree) -> object:
        inside.set()
        return await asyncio.sleep(20)

    given = own(settings)
    async with bursar.open(given, backends={"mine": hanging if kind == "sync" else hanging_too}) as client:
        call = asyncio.create_task(client.complete(model="own/m", messages=HELLO))
        assert await asyncio.to_thread(inside.wait, 20)
    with pytest.raises(ProviderError):
        await asyncio.wait_for(call, 5)
    release.set()
    assert [r["status"] for r in entries(given)] == ["cancelled"]


async def test_a_cancellation_of_the_backend_s_own_is_a_failure(settings: Tree) -> None:
    async def cancelled(_operation: str, _request: Tree) -> object:
        raise asyncio.CancelledError

    given = own(settings, retries=0)
    given["routes"] = [{"name": "any", "targets": ["own/m", "up/gpt-4o-mini"]}]
    async with bursar.open(given, backends={"mine": cancelled}) as client:
        assert (await client.complete(model="any", messages=HELLO)).provider == "up"
    assert [r["status"] for r in entries(given)] == ["failed", "completed"]


def test_a_server_stops_though_a_function_hangs(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text("import time\ndef answer(operation, request):\n    time.sleep(100)\n")
    text = '[server]\nstop_within_s = 1\n[[providers]]\nname = "own"\ntype = "backend"\nbackend = "stuck:answer"\nmodel = "m"\n'
    text += "retries = 0\ntimeout_first_byte_s = 0.3\n"
    from support.server import environment

    path = f"{environment()['PYTHONPATH']}:{tmp_path}"
    with Server(tmp_path, text, env={"PYTHONPATH": path}) as server:
        assert server.request("POST", "/v1/chat/completions", {"model": "own/m", "messages": HELLO})[0] == 504
        assert server.stop() == 0


class TestBundle:
    """The bundle, asynchronous and not."""

    async def test_it_chats_streams_and_encodes(self, settings: Tree) -> None:
        seen: list[Tree] = []

        def backend(operation: str, request: Tree) -> object:
            seen.append(request)
            return plain(operation, request)

        said.set("hi")
        context = bursar.Context(workspace="lab", purpose="chat.answer")
        async with bursar.open(own(settings), backends={"mine": backend}) as client:
            bundle = client.bundle("own/m", temperature=0.1, context=context)
            result = await bundle.chat(HELLO, system="be short", gen_conf={"temperature": 0.7})
            assert result.text == "you said hi, at 0.7"
            assert seen[0]["messages"] == [{"role": "system", "content": "be short"}, *HELLO]
            texts = bundle.chat_streamly(HELLO)
            assert texts.result is None
            assert [text async for text in texts] == ["you ", "said ", "hi"]
            assert texts.result is not None
            assert texts.result.usage is not None
            assert seen[1]["temperature"] == 0.1
            assert (await bundle.encode(["a", "b"])).vectors == [[0.5, 0], [0.5, 1]]
            left = bundle.chat_streamly(HELLO)
            async for _ in left:
                break
            await left.aclose()
        rows = entries(settings)
        assert {(r["workspace"], r["purpose"]) for r in rows} == {("lab", "chat.answer")}
        assert sorted(r["status"] for r in rows) == ["cancelled", "completed", "completed", "completed"]

    def test_it_does_so_without_await(self, settings: Tree) -> None:
        with bursar.open_sync(own(settings), backends={"mine": plain}) as client:
            bundle = client.bundle("own/m", temperature=0.1)
            assert bundle.chat(HELLO).text == "you said nothing, at 0.1"
            texts = bundle.chat_streamly(HELLO, system="be short")
            assert list(texts) == ["you ", "said ", "nothing"]
            assert texts.result is not None
            assert bundle.encode("a").vectors is not None
            left = bundle.chat_streamly(HELLO)
            next(iter(left))
            left.close()
        assert sorted(r["status"] for r in entries(settings)) == ["cancelled", "completed", "completed", "completed"]

    async def test_it_can_leave_the_model_to_the_bindings(self, settings: Tree) -> None:
        given = own(settings)
        given["bindings"] = [
            {"scope": "action", "reference": "summarise", "provider": "own", "model": "small", "temperature": 0.2},
            {"scope": "skill", "reference": "algebra", "provider": "own", "model": "large"},
            {"scope": "default", "provider": "up", "model": "gpt-4o-mini"},
        ]
        async with bursar.open(
            given, backends={"mine": lambda _o, r: completion(f"{r['model']} {r.get('temperature')}")}
        ) as client:
            assert (await client.bundle(action="summarise").chat(HELLO)).text == "small 0.2"
            assert (await client.bundle(skill="algebra").chat(HELLO)).text == "large None"
            assert (await client.complete(messages=HELLO)).provider == "up"
            async with client.stream(messages=HELLO, action="summarise") as stream:
                _ = [event async for event in stream]
            assert stream.result is not None
            assert stream.result.text == "small 0.2"
        assert [r["reason"] for r in entries(given)] == [
            "action 'summarise'",
            "skill 'algebra'",
            "default",
            "action 'summarise'",
        ]

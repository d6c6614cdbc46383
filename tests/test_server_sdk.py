"""The unchanged `openai` SDK against the server: what it gets is what the upstream sent, and the ledger has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from support.server import ADMIN, Server
from support.upstream import Upstream

MODEL = "up/gpt-4o-mini"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=ADMIN)


def _tokens(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        k: entry[k] for k in ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")
    }


def _sent(usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
        "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "reasoning_tokens": usage["completion_tokens_details"]["reasoning_tokens"],
    }


def test_a_completion_is_what_the_upstream_sent(client: OpenAI, server: Server, upstream: Upstream) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, temperature=0.2, seed=7, response_format={"type": "json_object"},
        extra_body={"nobody_knows": {"deep": [1, {"x": None}]}, "script": {"extra": {"also_unknown": {"y": 1.50}}}},
        extra_headers={"x-custom": "kept", "openai-beta": "b=v1"},
    )  # fmt: skip
    answer = raw.parse()
    (seen,) = upstream.seen
    assert answer.choices[0].message.content.startswith("answer 1")  # type: ignore[union-attr]
    assert answer.usage.model_dump(exclude_none=True) == seen.usage  # type: ignore[union-attr]
    assert answer.model_extra["also_unknown"] == {"y": 1.5}  # type: ignore[index]
    assert seen.json["nobody_knows"] == {"deep": [1, {"x": None}]}
    assert (seen.json["seed"], seen.json["response_format"], seen.json["model"]) == (
        7,
        {"type": "json_object"},
        "gpt-4o-mini",
    )
    assert "stream_options" not in seen.json
    assert (seen.headers["x-custom"], seen.headers["openai-beta"]) == ("kept", "b=v1")
    assert seen.headers["authorization"] == "Bearer sk-upstream-secret"
    assert not any(h.startswith(("x-stainless", "x-bursar")) for h in seen.headers)
    (entry,) = server.settled()
    assert entry["call_id"] == raw.headers["x-bursar-call-id"]
    assert _tokens(entry) == _sent(seen.usage)  # type: ignore[arg-type]
    assert entry["client_retries"] == 0


@pytest.mark.parametrize("asked", [None, False, True])
def test_a_stream_is_what_the_upstream_sent_and_usage_comes_only_where_asked_for(
    client: OpenAI, server: Server, upstream: Upstream, asked: bool | None
) -> None:
    options: dict[str, Any] = {} if asked is None else {"stream_options": {"include_usage": asked}}
    chunks = list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, **options))
    (seen,) = upstream.seen
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.startswith("answer 1")
    with_usage = [c for c in chunks if c.usage is not None]
    if asked:
        assert [c.usage.model_dump(exclude_none=True) for c in with_usage] == [seen.usage]  # type: ignore[union-attr]
    else:
        assert with_usage == []
        assert all(c.choices for c in chunks), "a client that did not ask for usage gets no frame without choices"
    assert seen.json["stream_options"]["include_usage"] is True
    (entry,) = server.settled()
    assert (entry["status"], entry["method_type"], entry["usage_source"]) == (
        "completed",
        "stream_completion",
        "provider",
    )
    assert _tokens(entry) == _sent(seen.usage)  # type: ignore[arg-type]
    assert entry["time_to_first_token_ms"] is not None


def test_the_frames_of_a_stream_pass_byte_for_byte(server: Server, upstream: Upstream) -> None:
    body = (
        ': keep-alive\r\n\r\ndata: {"id":"1", "choices":[{"index":0,"delta":{"content":"\\u2028 ü"},'
        '"finish_reason":null}],"x":1.10}\r\n\r\ndata:{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\r\n\r\n'
        "data: [DONE]\r\n\r\n"
    )
    asked = {"model": MODEL, "messages": HELLO, "stream": True, "script": {"raw": body}}
    status, data, headers = server.exchange("POST", "/v1/chat/completions", asked)
    assert (status, data) == (200, body.encode("latin-1"))
    assert headers["content-type"].startswith("text/event-stream")


async def test_the_async_client_streams_and_completes(server: Server, upstream: Upstream) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=ADMIN) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=HELLO)
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        pieces = [c.choices[0].delta.content async for c in stream]
    assert answer.usage is not None
    assert answer.usage.total_tokens == upstream.seen[0].usage["total_tokens"]  # type: ignore[index]
    assert "".join(p or "" for p in pieces).startswith("answer 2")


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_calls_are_what_the_upstream_sent(
    client: OpenAI, server: Server, upstream: Upstream, streamed: bool
) -> None:
    tools: list[Any] = [
        {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    ]
    extra = {"script": {"tool_call": True}}
    if streamed:
        with client.chat.completions.stream(model=MODEL, messages=HELLO, tools=tools, extra_body=extra) as stream:
            answer: Any = stream.get_final_completion()
    else:
        answer = client.chat.completions.create(model=MODEL, messages=HELLO, tools=tools, extra_body=extra)
    (call,) = answer.choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("call_1", "weather", '{"city": "Oslo"}')
    assert answer.choices[0].finish_reason == "tool_calls"
    assert upstream.seen[0].json["tools"] == tools
    (entry,) = server.settled()
    assert entry["finish_reason"] == "tool_calls"


def test_embeddings_are_what_the_upstream_sent(client: OpenAI, server: Server, upstream: Upstream) -> None:
    answer = client.embeddings.create(
        model="up/text-embedding-3-small", input=["a", "b"], encoding_format="float", dimensions=2
    )
    assert [d.embedding for d in answer.data] == [[0.5, -1.25], [1.5, -1.25]]
    (seen,) = upstream.seen
    assert answer.usage.model_dump() == seen.usage
    assert seen.json["dimensions"] == 2
    (entry,) = server.settled()
    assert (entry["method_type"], entry["prompt_tokens"], entry["total_tokens"]) == ("embedding", 8, 8)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_errors_raise_the_sdks_own_classes_once(
    make_server: Callable[..., Server],
    upstream: Upstream,
    status: int,
    error: type[openai.APIStatusError],
    streamed: bool,
) -> None:
    server = make_server(provider="retries = 0")
    client = OpenAI(base_url=f"{server.url}/v1", api_key=ADMIN)  # with its own two retries
    told = {"message": "as the vendor says", "type": "t", "param": "messages", "code": "c"}
    script = {
        "status": status,
        "early_error": told,
        "headers": {
            "x-request-id": "req-9",
            "x-ratelimit-remaining-requests": "0",
            "anthropic-ratelimit-tokens-reset": "t",
            "request-id": "req-8",
            "set-cookie": "a=b",
        },
    }
    with pytest.raises(error) as raised:
        client.chat.completions.create(model=MODEL, messages=HELLO, stream=streamed, extra_body={"script": script})
    assert raised.value.body == told
    assert raised.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert raised.value.response.headers["anthropic-ratelimit-tokens-reset"] == "t"
    assert raised.value.response.headers["request-id"] == "req-8"
    assert "set-cookie" not in raised.value.response.headers
    assert raised.value.request_id == "req-9"
    assert raised.value.response.headers["x-bursar-call-id"]
    assert len(upstream.seen) == 1, "the SDK retried on top"
    (entry,) = server.settled()
    assert (entry["status"], entry["http_status_code"]) == ("failed", status)


def test_an_error_in_the_middle_of_a_stream_is_raised_and_never_text(client: OpenAI, server: Server) -> None:
    extra = {"script": {"late_error": {"message": "overloaded", "type": "server_error", "code": "x"}}}
    pieces = []
    with pytest.raises(openai.APIError, match="overloaded"):
        for chunk in client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, extra_body=extra):
            pieces.append(chunk.choices[0].delta.content)
    assert "overloaded" not in "".join(p or "" for p in pieces)
    (entry,) = server.settled()
    assert (entry["status"], entry["http_status_code"]) == ("failed", 200)
    assert "overloaded" in entry["error_message"]


def test_a_stream_that_is_cut_off_is_raised(client: OpenAI, server: Server) -> None:
    with pytest.raises(openai.APIError, match=r"hung up in the middle|ended without saying"):
        list(
            client.chat.completions.create(
                model=MODEL, messages=HELLO, stream=True, extra_body={"script": {"cut_after": 3}}
            )
        )
    (entry,) = server.settled()
    assert (entry["status"], entry["error_kind"]) == ("failed", "truncated")


def test_a_wrong_key_and_a_wrong_model_raise_the_sdks_own_classes(server: Server) -> None:
    with pytest.raises(openai.AuthenticationError, match="not known"):
        OpenAI(base_url=f"{server.url}/v1", api_key="bk-wrong").chat.completions.create(model=MODEL, messages=HELLO)
    client = OpenAI(base_url=f"{server.url}/v1", api_key=ADMIN)
    with pytest.raises(openai.BadRequestError, match="'messages' is empty") as bad:
        client.chat.completions.create(model=MODEL, messages=[])
    assert bad.value.param == "messages"
    assert server.entries() == []


def test_models_are_listed_and_found(make_server: Callable[..., Server], upstream: Upstream) -> None:
    more = f"""
[[providers]]
name = "other"
base_url = "{upstream.base_url}"
models = ["gpt-4o-mini", "big"]
[[routes]]
name = "fast"
targets = ["up/gpt-4o-mini", "other/big"]
"""
    server = make_server(provider='models = ["gpt-4o-mini"]', more=more)
    client = OpenAI(base_url=f"{server.url}/v1", api_key=ADMIN)
    assert [m.id for m in client.models.list()] == ["fast", "big", "up/gpt-4o-mini", "other/gpt-4o-mini", "other/big"]
    assert client.models.retrieve("up/gpt-4o-mini").owned_by == "up"
    assert client.models.retrieve("big").owned_by == "other"
    with pytest.raises(openai.NotFoundError, match="no active provider"):
        client.models.retrieve("nobody")
    with pytest.raises(openai.NotFoundError, match="several providers may offer 'gpt-4o-mini'"):
        client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    client.chat.completions.create(model="big", messages=HELLO)
    assert upstream.seen[-1].json["model"] == "big"


def test_context_headers_stand_on_the_entry(client: OpenAI, server: Server) -> None:
    headers = {
        "x-bursar-user": "ann", "x-bursar-session": "s1", "x-bursar-turn": "4", "x-bursar-request-id": "r1",
        "x-bursar-function": "title", "x-bursar-purpose": "chat.title", "x-bursar-tag-team": "blue",
        "x-bursar-tag-cost-centre": "7", "idempotency-key": "k1",
    }  # fmt: skip
    client.chat.completions.create(model=MODEL, messages=HELLO, extra_headers=headers)
    (entry,) = server.settled()
    expected = {"user_id": "ann", "session_id": "s1", "turn": "4", "request_id": "r1", "edge_function": "title",
                "purpose": "chat.title", "idempotency_key": "k1", "workspace": "default"}  # fmt: skip
    assert {k: entry[k] for k in expected} == expected
    assert entry["tags"] == {"team": "blue", "cost-centre": "7"}


def test_a_custom_provider_answers_the_same_sdk(make_server: Callable[..., Server], upstream: Upstream) -> None:
    """A format that is not OpenAI's: invented names going out, paths coming back, rendered for the client."""
    more = f"""
[[providers]]
name = "odd"
type = "custom"
completion_url = "{upstream.base_url}/generate"
api_key = "sk-odd"
[providers.request]
modelField = "engine"
messagesField = "turns"
systemPrompt = "be brief"
additionalBodyFields = {{ flavour = "plain" }}
[providers.response]
messagePath = "out.said"
finishPath = "out.why"
streamMessagePath = "piece"
streamFinishPath = "why"
streamFraming = "ndjson"
usagePath = "spent"
usageTokensPath = "spent.all"
promptTokensPath = "spent.in"
completionTokensPath = "spent.out"
"""
    from support.upstream import Script

    whole = json.dumps({"out": {"said": "hi", "why": "stop"}, "spent": {"in": "5", "out": 2, "all": 7}})
    lines = '{"piece": "h"}\n{"piece": "i"}\n{"why": "length", "spent": {"in": 5, "out": 2, "all": 7}}\n'
    upstream.on_request = lambda seen: Script(
        raw=lines if seen.json.get("stream") else whole, content_type="application/json"
    )
    server = make_server(more=more)
    client = OpenAI(base_url=f"{server.url}/v1", api_key=ADMIN)
    answer = client.chat.completions.create(model="odd/x", messages=HELLO)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("hi", "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 7
    sent = upstream.seen[0].json
    assert sent == {"engine": "x", "flavour": "plain", "turns": [{"role": "system", "content": "be brief"}, *HELLO]}
    chunks = list(
        client.chat.completions.create(
            model="odd/x", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "hi"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 7
    entries = server.settled()
    assert [(e["status"], e["prompt_tokens"], e["completion_tokens"]) for e in entries] == [("completed", 5, 2)] * 2
    call = server.get(f"/api/calls/{entries[0]['call_id']}")[1]["attempts"][0]
    assert (call["completion_text"], call["input_messages"]) == ("hi", HELLO)

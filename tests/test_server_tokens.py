"""Providers whose token must be fetched: once for all who wait, again when it is not taken, never shown."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import OpenAI

from bursar.wire.oauth import Flow
from support.server import ADMIN, Server
from support.upstream import Script, Seen, Upstream

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
KEY = "c2VjcmV0LWF1dGhvcml6YXRpb24ta2V5"
ANSWER = {
    "choices": [{"message": {"role": "assistant", "content": "Good day."}, "index": 0, "finish_reason": "stop"}],
    "created": 1, "model": "GigaChat-2:2.0.28.2", "object": "chat.completion",
    "usage": {"prompt_tokens": 14, "completion_tokens": 8, "total_tokens": 22, "precached_prompt_tokens": 37},
}  # fmt: skip


class Giga:
    """The provider and its token server: tokens are `token-N`, and all but the last are refused."""

    def __init__(self, upstream: Upstream) -> None:
        self.fetched: list[Seen] = []
        self.asked: list[Seen] = []
        self.lives_s = 1800.0
        self.milliseconds = True
        self.down = False
        self.answer: Script = Script(raw=json.dumps(ANSWER), content_type="application/json")
        upstream.on_request = self._on_request

    def _on_request(self, seen: Seen) -> Script:
        if seen.path.endswith("/oauth"):
            self.fetched.append(seen)
            if self.down:
                return Script(status=503, raw="busy", content_type="text/plain")
            until = time.time() + self.lives_s
            expires = round(until * 1000) if self.milliseconds else round(until)
            token = {"access_token": f"token-{len(self.fetched)}-of-the-provider", "expires_at": expires}
            return Script(raw=json.dumps(token), content_type="application/json", delay_s=0.05)
        self.asked.append(seen)
        if seen.headers.get("authorization") != f"Bearer token-{len(self.fetched)}-of-the-provider":
            shown = {"status": 401, "message": f"Token has expired: {seen.headers.get('authorization')}"}
            return Script(status=401, raw=json.dumps(shown), content_type="application/json")
        return self.answer


@pytest.fixture
def giga(upstream: Upstream) -> Giga:
    return Giga(upstream)


@pytest.fixture
def server(make_server: Callable[..., Server], upstream: Upstream) -> Server:
    root = upstream.base_url.removesuffix("/v1")
    return make_server(
        more=f'[[providers]]\nname = "giga"\ntype = "gigachat"\nbase_url = "{root}/api/v1"\napi_key = "{KEY}"\n'
        f'token_url = "{root}/oauth"\nretries = 0\n'
    )


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=ADMIN, max_retries=0) as made:
        yield made


def _ask(client: OpenAI) -> Any:
    return client.chat.completions.create(model="giga/GigaChat-2", messages=HELLO)


def test_one_token_serves_all_who_wait_for_it(client: OpenAI, server: Server, giga: Giga) -> None:
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: _ask(client), range(40)))
    assert {a.choices[0].message.content for a in answers} == {"Good day."}
    (fetched,) = giga.fetched
    assert fetched.body == b"scope=GIGACHAT_API_PERS"
    assert fetched.headers["authorization"] == f"Basic {KEY}"
    assert len(fetched.headers["rquid"]) == 36
    entries = server.settled()
    assert len(entries) == 40
    first = entries[0]
    assert (first["prompt_tokens"], first["cached_tokens"], first["completion_tokens"]) == (14 + 37, 37, 8)
    assert (answers[0].usage.prompt_tokens, answers[0].usage.completion_tokens) == (51, 8)


@pytest.mark.parametrize("milliseconds", [True, False])
def test_a_token_is_fetched_anew_when_its_time_is_up(client: OpenAI, giga: Giga, *, milliseconds: bool) -> None:
    giga.lives_s, giga.milliseconds = 1.0, milliseconds
    _ask(client)
    deadline = time.monotonic() + 10
    while len(giga.fetched) < 2 and time.monotonic() < deadline:
        _ask(client)
    assert len(giga.fetched) == 2
    giga.lives_s = 1800.0


def test_a_token_that_is_refused_is_fetched_anew_once_and_both_attempts_are_on_the_ledger(
    client: OpenAI, server: Server, giga: Giga
) -> None:
    _ask(client)
    giga.fetched.append(giga.fetched[0])  # another one was given to somebody: the first is not taken any more
    assert _ask(client).choices[0].message.content == "Good day."
    entries = [e for e in server.settled() if e["attempt"] > 1 or e["status"] == "failed"]
    assert sorted((e["attempt"], e["status"], e["error_kind"]) for e in entries) == [
        (1, "failed", "auth"), (2, "completed", None),
    ]  # fmt: skip
    assert len({e["call_id"] for e in entries}) == 1


def test_a_provider_that_takes_no_token_is_asked_twice_and_no_more(client: OpenAI, server: Server, giga: Giga) -> None:
    giga.answer = Script(status=401, raw='{"status":401,"message":"no"}', content_type="application/json")
    with pytest.raises(openai.AuthenticationError, match="no"):
        _ask(client)
    assert len(giga.asked) == 2
    assert [e["status"] for e in server.settled()] == ["failed", "failed"]


def test_a_token_server_that_is_down_is_named_and_the_attempt_is_on_the_ledger(
    client: OpenAI, server: Server, giga: Giga
) -> None:
    giga.down = True
    with pytest.raises(
        openai.InternalServerError, match="the token server of 'giga' answered 503 without a token: busy"
    ):
        _ask(client)
    (entry,) = server.settled()
    assert (entry["status"], entry["error_kind"]) == ("failed", "server")
    giga.down = False
    assert _ask(client).choices[0].message.content == "Good day."


def test_neither_key_nor_token_is_shown_anywhere(client: OpenAI, server: Server, giga: Giga) -> None:
    _ask(client)
    giga.fetched.append(giga.fetched[0])
    giga.answer = Script(
        status=401, raw='{"status":401,"message":"token-3-of-the-provider is bad"}', content_type="application/json"
    )
    with pytest.raises(openai.AuthenticationError) as refused:
        _ask(client)
    server.drained()
    status, shown = server.get("/api/calls")
    assert status == 200
    told = str(refused.value) + json.dumps(shown) + server.log.read_text()
    told += (server.folder / "data" / "bursar.db").read_bytes().decode("latin-1")
    for spool in (server.folder / "data" / "spool").iterdir():
        told += spool.read_bytes().decode("latin-1")
    assert "of-the-provider" not in told.replace("***", "")
    assert KEY not in told


def test_functions_and_vectors_of_gigachat(client: OpenAI, server: Server, giga: Giga) -> None:
    message = {"role": "assistant", "content": "", "function_call": {"name": "weather", "arguments": {"city": "Rome"}}}
    called = {**ANSWER, "choices": [{"message": message, "index": 0, "finish_reason": "function_call"}]}
    giga.answer = Script(raw=json.dumps(called), content_type="application/json")
    tool: Any = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
    }
    whole = client.chat.completions.create(model="giga/GigaChat-2", messages=HELLO, tools=[tool], tool_choice="auto")
    (call,) = whole.choices[0].message.tool_calls or []
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Rome"})  # type: ignore[union-attr]
    assert whole.choices[0].finish_reason == "tool_calls"
    asked = giga.asked[-1].json
    assert (asked["functions"][0]["name"], asked["function_call"]) == ("weather", "auto")
    data = [
        {"object": "embedding", "embedding": [0.5], "index": n, "usage": {"prompt_tokens": 3 + n}} for n in range(2)
    ]
    giga.answer = Script(
        raw=json.dumps({"object": "list", "data": data, "model": "Embeddings"}), content_type="application/json"
    )
    vectors = client.embeddings.create(model="giga/Embeddings", input=["a", "b"], encoding_format="float")
    assert [d.embedding for d in vectors.data] == [[0.5], [0.5]]
    assert vectors.usage.prompt_tokens == 7
    assert [e["prompt_tokens"] for e in server.settled() if e["method_type"] == "embedding"] == [7]


def test_a_stream_of_gigachat_is_metered_by_its_last_frame_but_one(client: OpenAI, server: Server, giga: Giga) -> None:
    def chunk(delta: dict[str, Any], **more: Any) -> str:
        finish = more.pop("finish", None)
        value = {
            "choices": [{"delta": delta, "index": 0, **({"finish_reason": finish} if finish else {})}],
            "model": "GigaChat-2:1",
            **more,
        }
        return f"data: {json.dumps(value)}\n\n"

    frames = chunk({"content": "Good ", "role": "assistant"}) + chunk({"content": "day."})
    giga.answer = Script(raw=frames + chunk({"content": ""}, finish="stop", usage=ANSWER["usage"]) + "data: [DONE]\n\n")
    stream = client.chat.completions.create(
        model="giga/GigaChat-2", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Good day."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 51
    assert "stream_options" not in giga.asked[-1].json
    (entry,) = server.settled()
    assert (entry["prompt_tokens"], entry["completion_tokens"], entry["usage_source"]) == (51, 8, "provider")


@pytest.mark.parametrize(
    ("answer", "left_s"),
    [
        ({"access_token": "t", "expires_at": 1_000_000_900_000}, 840),
        ({"access_token": "t", "expires_at": 1_000_000_900}, 840),
        ({"access_token": "t", "expires_at": "1000000900"}, 840),
        ({"tok": "t", "exp": 1_000_000_900}, 840),
        ({"access_token": "t", "expires_in": 900}, 840),
        ({"access_token": "t", "expires_in": 30}, 15),
        ({"access_token": "t"}, 540),
    ],
)  # fmt: skip
def test_a_token_s_end_is_read_in_whatever_unit_it_is_said(answer: dict[str, Any], left_s: float) -> None:
    flow = Flow(url="http://x", key="k")
    token = flow.token(json.dumps(answer).encode(), 1_000_000_000.0)
    assert token is not None
    assert token.until - 1_000_000_000.0 == pytest.approx(left_s)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"access_token": null}', b'{"access_token": 7}', b"<html>"])
def test_what_is_no_token_is_none(body: bytes) -> None:
    assert Flow(url="http://x", key="k").token(body, 0.0) is None

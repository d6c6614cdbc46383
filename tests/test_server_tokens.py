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
from openai.types.chat import ChatCompletionMessageFunctionToolCall

from bursar.wire.oauth import Flow
from support.giga import KEY, MODEL, STATE, Giga
from support.server import ADMIN, Server
from support.upstream import Script, Upstream

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def giga(upstream: Upstream) -> Giga:
    return Giga(upstream)


@pytest.fixture
def server(make_server: Callable[..., Server], upstream: Upstream) -> Server:
    root = upstream.base_url.removesuffix("/v1")
    return make_server(
        more="".join(
            f'[[providers]]\nname = "{name}"\ntype = "gigachat"\nbase_url = "{root}/api/{version}"\n'
            f'api_key = "{KEY}"\ntoken_url = "{root}/oauth"\nretries = 0\n'
            for name, version in (("giga", "v1"), ("v1", "v1"), ("v2", "v2"))
        )
    )


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=ADMIN, max_retries=0) as made:
        yield made


def _ask(client: OpenAI) -> Any:
    return client.chat.completions.create(model="giga/GigaChat-2", messages=HELLO)


def test_a_full_address_says_the_version_too(
    make_server: Callable[..., Server], upstream: Upstream, giga: Giga
) -> None:
    root = upstream.base_url.removesuffix("/v1")
    server = make_server(
        more=f'[[providers]]\nname = "own"\ntype = "gigachat"\ncompletion_url = "{root}/api/v2/chat/completions"\n'
        f'api_key = "{KEY}"\ntoken_url = "{root}/oauth"\n'
    )
    status, body, _ = server.exchange(
        "POST", "/v1/chat/completions", {"model": "own/m", "messages": HELLO, "temperature": 0.5}
    )
    assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, "Good day.")
    assert giga.asked[-1].json["model_options"] == {"temperature": 0.5}


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


TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_functions_of_both_versions_there_and_back(client: OpenAI, giga: Giga, server: Server, *, version: str) -> None:
    model = f"{version}/GigaChat-2"
    whole = client.chat.completions.create(model=model, messages=HELLO, tools=[TOOL], tool_choice="auto")
    (call,) = whole.choices[0].message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Rome", "days": 2})
    assert whole.choices[0].finish_reason == "tool_calls"
    asked = giga.asked[-1].json
    functions = asked["functions"] if version == "v1" else asked["tools"][0]["functions"]["specifications"]
    assert functions[0]["name"] == "weather"
    assert asked["function_call" if version == "v1" else "tool_config"] == (
        "auto" if version == "v1" else {"mode": "auto"}
    )
    turns: list[Any] = [
        {"role": "system", "content": "Be brief."}, *HELLO, whole.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear"}'},
    ]  # fmt: skip
    client.chat.completions.create(model=model, messages=turns, max_tokens=9, temperature=0.5)
    told = giga.asked[-1].json
    if version == "v1":
        assert [m["role"] for m in told["messages"]] == ["system", "user", "assistant", "function"]
        assert (told["max_tokens"], told["temperature"]) == (9, 0.5)
    else:
        assert [m["role"] for m in told["messages"]] == ["system", "user", "assistant", "tool"]
        assert [m.get("tools_state_id") for m in told["messages"]] == [None, None, STATE, STATE]
        assert told["messages"][3]["content"] == [{"function_result": {"name": "weather", "result": {"sky": "clear"}}}]
        assert told["model_options"] == {"temperature": 0.5, "max_tokens": 9}
    assert server.verify()[0]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_vectors_have_a_usage_each_and_clients_get_the_sum(
    client: OpenAI, giga: Giga, server: Server, *, version: str
) -> None:
    vectors = client.embeddings.create(model=f"{version}/Embeddings", input=["a", "b"], encoding_format="float")
    assert [d.embedding for d in vectors.data] == [[0.5, 0.0], [0.5, 1.0]]
    assert vectors.usage.prompt_tokens == 7
    assert giga.asked[-1].path == "/api/v1/embeddings"
    assert [e["prompt_tokens"] for e in server.settled()] == [7]


@pytest.mark.parametrize(("version", "counts"), [("v1", (51, 8, 37)), ("v2", (32, 31, 3))])
def test_a_stream_is_metered_by_the_frame_that_ends_it(
    client: OpenAI, server: Server, giga: Giga, *, version: str, counts: tuple[int, int, int]
) -> None:
    stream = client.chat.completions.create(
        model=f"{version}/GigaChat-2", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Good day."
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == counts[:2]
    assert "stream_options" not in giga.asked[-1].json
    (entry,) = server.settled()
    assert (entry["prompt_tokens"], entry["completion_tokens"], entry["cached_tokens"]) == counts
    assert (entry["usage_source"], entry["finish_reason"], entry["served_model"]) == ("provider", "stop", MODEL)


def test_a_stream_that_fails_at_its_end_is_a_failure(client: OpenAI, server: Server, giga: Giga) -> None:
    zeros = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    giga.answer = Script(
        raw='event: response.message.delta\ndata: {"messages":[{"role":"assistant","content":"Good "}]}\n\n'
        f"event: response.message.done\ndata: {json.dumps({'finish_reason': 'error', 'usage': zeros})}\n\n"
    )
    with pytest.raises(openai.APIError, match="the answer failed"):
        list(client.chat.completions.create(model="v2/GigaChat-2", messages=HELLO, stream=True))
    (entry,) = server.settled()
    assert entry["status"] == "failed"


FLOW = Flow(
    url="http://x", key="k", token_path=["access_token", "tok"], expires_at_path=["expires_at", "exp"],
    expires_in_path="expires_in",
)  # fmt: skip


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
    # The server's clock goes a minute behind ours, which is another one anyway: only how long a token lives counts.
    token = FLOW.token(json.dumps(answer).encode(), now_s=5.0, server_s=1_000_000_000.0)
    assert token is not None
    assert token.renewed_from - 5.0 == pytest.approx(left_s)
    assert token.until > token.renewed_from


@pytest.mark.parametrize("body", [b"", b"[]", b'{"access_token": null}', b'{"access_token": 7}', b"<html>"])
def test_what_is_no_token_is_none(body: bytes) -> None:
    assert FLOW.token(body, now_s=0.0, server_s=0.0) is None


@pytest.mark.parametrize("key", ["cid:SECRET/L+x z", "Basic c2VjcmV0Og==", "c2VjcmV0L2E+Yg==", "cid:päss wörd&="])
@pytest.mark.parametrize("in_body", [True, False])
def test_a_token_server_that_repeats_what_it_was_sent_shows_no_secret(key: str, *, in_body: bool) -> None:
    flow = Flow(url="http://x", key=key, in_body=in_body, token_path="a", expires_at_path="b", expires_in_path="c")
    request = flow.request("id")
    shown = dict(request.headers).get("authorization", "")
    for repeated in (
        request.body.decode(),
        shown,
        key,
        json.dumps({"error": f"bad {key} {shown} {request.body.decode()}"}),
    ):
        said = flow.said(repeated.encode())
        for secret in (key.partition(":")[2] or key, "SECRET", "c2Vj", "rd%26", "w%C3%B6rd"):
            assert secret not in said, said

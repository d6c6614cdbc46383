"""Clients of one format, providers of another: unchanged SDKs, a real server, and the same numbers on the ledger."""

from __future__ import annotations

import base64
import json
import sqlite3
import struct
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic
from openai import OpenAI

from support.formats import ANSWERS, SAID, USAGE, Answer
from support.server import ADMIN, Server
from support.upstream import Script, Upstream

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather", "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}  # fmt: skip
MESSAGES_TOOL: Any = {"name": "weather", "input_schema": TOOL["function"]["parameters"]}


@pytest.fixture
def server(make_server: Callable[..., Server], upstream: Upstream) -> Server:
    """A server with a provider of every type, all at the one address."""
    root = upstream.base_url.removesuffix("/v1")
    providers = "".join(
        f'[[providers]]\nname = "{kind}"\ntype = "{kind}"\nbase_url = "{root}"\napi_key = "sk-secret-{kind}"\nretries = 0\n'
        for kind in ("anthropic", "gemini", "bedrock", "cohere", "ollama", "yandexgpt", "mistral")
    )
    return make_server(more=providers)


@pytest.fixture
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=ADMIN, max_retries=0)


@pytest.fixture
def messages(server: Server) -> Anthropic:
    return Anthropic(base_url=server.url, api_key=ADMIN, max_retries=0)


def _answers(upstream: Upstream, answer: Answer) -> None:
    upstream.on_request = lambda seen: answer.script(stream=answer.is_asked_as_stream(seen.path, seen.json))


def _logged(server: Server) -> dict[str, Any]:
    """The one row of the log, with what was asked and answered."""
    server.drained()
    with server.database() as connection:
        connection.row_factory = sqlite3.Row
        (row,) = connection.execute(
            "select l.*, e.raw_usage from llm_call_logs l join ledger_entries e using (call_id, attempt)"
        ).fetchall()
    return dict(row)


def _counts(entry: dict[str, Any]) -> tuple[Any, ...]:
    return entry["prompt_tokens"], entry["completion_tokens"], entry["cached_tokens"], entry["reasoning_tokens"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ANSWERS)
def test_a_chat_reaches_every_format_and_its_answer_the_client(
    client: OpenAI, server: Server, upstream: Upstream, kind: str, stream: bool
) -> None:
    answer = ANSWERS[kind]
    _answers(upstream, answer)
    given = {"model": f"{kind}/some-model", "messages": HELLO, "temperature": 0.5, "max_tokens": 99}
    if answer.stops:
        given["stop"] = ["END"]
    if stream:
        chunks = list(client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        finish = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
        usage = chunks[-1].usage
    else:
        whole = client.chat.completions.create(**given)  # type: ignore[call-overload]
        text, finish, usage = whole.choices[0].message.content, [whole.choices[0].finish_reason], whole.usage
    (seen,) = upstream.seen
    assert (text, finish) == (SAID, ["stop"])
    assert seen.path == answer.path(stream=stream)
    asked = seen.json
    for place in (asked, asked.get("completionOptions", {})):
        place.pop("stream", None)
    assert asked == answer.request
    assert (seen.headers.get("authorization"), seen.headers.get(answer.key_header)) == answer.shown_key
    (entry,) = server.settled()
    assert _counts(entry) == answer.counts
    assert (entry["status"], entry["finish_reason"]) == ("completed", answer.finish)
    assert (usage.prompt_tokens, usage.completion_tokens) == answer.counts[:2]
    logged = _logged(server)
    assert json.loads(logged["raw_usage"]).items() >= USAGE[kind].items()
    assert logged["completion_text"] == SAID
    assert server.verify()[0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [k for k in ANSWERS if ANSWERS[k].tool is not None])
def test_tool_calls_cross_formats_both_ways(
    client: OpenAI, server: Server, upstream: Upstream, kind: str, stream: bool
) -> None:
    answer = ANSWERS[kind]
    assert answer.tool is not None
    upstream.on_request = lambda seen: answer.tool.script(stream=answer.is_asked_as_stream(seen.path, seen.json))  # type: ignore[union-attr]
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    turns: list[Any] = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "cold"},
    ]
    given: Any = {"model": f"{kind}/m", "messages": turns, "tools": [TOOL], "tool_choice": "auto"}
    if stream:
        name, arguments, finish = "", "", None
        for chunk in client.chat.completions.create(**given, stream=True):
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                for piece in choice.delta.tool_calls or []:
                    assert piece.index == 0
                    name += piece.function.name or ""
                    arguments += piece.function.arguments or ""
    else:
        whole = client.chat.completions.create(**given)
        (made,) = whole.choices[0].message.tool_calls
        name, arguments, finish = made.function.name, made.function.arguments, whole.choices[0].finish_reason
    assert (name, json.loads(arguments), finish) == ("weather", {"city": "Rome"}, "tool_calls")
    (seen,) = upstream.seen
    sent = json.dumps(seen.json)
    assert all(part in sent for part in ("Oslo", "cold", "weather", "The weather."))
    assert server.settled()[0]["status"] == "completed"


def test_a_message_reaches_a_chat_provider_and_comes_back(
    messages: Anthropic, server: Server, upstream: Upstream
) -> None:
    answer = messages.messages.create(
        model="up/gpt-4o-mini", max_tokens=50, system="Be brief.", messages=HELLO, stop_sequences=["END"],
        tools=[MESSAGES_TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        metadata={"user_id": "u7"},
    )  # fmt: skip
    (seen,) = upstream.seen
    assert seen.path == "/v1/chat/completions"
    assert seen.json["messages"] == [{"role": "system", "content": "Be brief."}, *HELLO]
    assert (seen.json["max_completion_tokens"], seen.json["stop"], seen.json["user"]) == (50, ["END"], "u7")
    assert seen.json["parallel_tool_calls"] is False
    assert seen.json["tools"][0]["function"]["name"] == "weather"
    assert seen.usage is not None
    cached = seen.usage["prompt_tokens_details"]["cached_tokens"]
    assert answer.content[0].text.startswith("answer 1")  # type: ignore[union-attr]
    assert answer.stop_reason == "end_turn"
    assert answer.usage.input_tokens + cached == seen.usage["prompt_tokens"]
    assert (answer.usage.output_tokens, answer.usage.cache_read_input_tokens) == (
        seen.usage["completion_tokens"],
        cached,
    )
    (entry,) = server.settled()
    assert (entry["prompt_tokens"], entry["method_type"]) == (seen.usage["prompt_tokens"], "chat_completion")
    assert json.loads(_logged(server)["input_messages"]) == HELLO


@pytest.mark.parametrize("tool", [False, True])
def test_a_streamed_message_from_a_chat_provider(
    messages: Anthropic, server: Server, upstream: Upstream, tool: bool
) -> None:
    upstream.on_request = lambda _seen: Script(tool_call=tool)
    with messages.messages.stream(model="up/gpt-4o-mini", max_tokens=50, messages=HELLO) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    (seen,) = upstream.seen
    assert seen.usage is not None
    assert seen.json["stream_options"] == {"include_usage": True}
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert message.stop_reason == ("tool_use" if tool else "end_turn")
    assert any(block.type == ("tool_use" if tool else "text") for block in message.content)
    assert message.usage.output_tokens == seen.usage["completion_tokens"]
    (entry,) = server.settled()
    assert (entry["completion_tokens"], entry["status"]) == (seen.usage["completion_tokens"], "completed")


@pytest.mark.parametrize("stream", [False, True])
def test_a_message_to_a_provider_of_messages_passes_as_it_is(server: Server, upstream: Upstream, stream: bool) -> None:
    answer = ANSWERS["anthropic"]
    _answers(upstream, answer)
    asked = {
        "model": "anthropic/claude", "max_tokens": 9, "messages": HELLO, "stream": stream, "thinking": {"type": "adaptive"},
        "unheard_of": {"x": 1},
    }  # fmt: skip
    status, data, _ = server.exchange("POST", "/v1/messages", asked, None, {"x-api-key": ADMIN, "anthropic-beta": "b1"})
    (seen,) = upstream.seen
    assert (status, data.decode()) == (200, answer.script(stream=stream).raw)
    assert seen.json == {**asked, "model": "claude"}
    assert (seen.headers["x-api-key"], seen.headers["anthropic-beta"]) == ("sk-secret-anthropic", "b1")
    assert seen.headers["anthropic-version"] == "2023-06-01"
    (entry,) = server.settled()
    assert _counts(entry) == answer.counts


def test_tokens_are_counted_by_who_can_and_on_an_entry_without_usage(
    messages: Anthropic, server: Server, upstream: Upstream
) -> None:
    upstream.on_request = lambda _seen: Script(raw='{"input_tokens": 14}', content_type="application/json")
    assert messages.messages.count_tokens(model="anthropic/claude", messages=HELLO).input_tokens == 14
    (entry,) = server.settled()
    assert (entry["method_type"], entry["prompt_tokens"], entry["usage_source"]) == ("count_tokens", None, "none")
    with pytest.raises(anthropic.BadRequestError, match="'up' takes no count_tokens"):
        messages.messages.count_tokens(model="up/gpt-4o-mini", messages=HELLO)


def test_errors_are_those_of_the_client_s_own_sdk(messages: Anthropic, client: OpenAI, upstream: Upstream) -> None:
    upstream.on_request = lambda _seen: Script(
        status=429, early_error={"message": "slow down", "type": "rate_limit_error"}
    )
    with pytest.raises(anthropic.RateLimitError, match="slow down"):
        messages.messages.create(model="up/gpt-4o-mini", max_tokens=5, messages=HELLO)
    own = {"type": "error", "error": {"type": "overloaded_error", "message": "too much"}}
    upstream.on_request = lambda _seen: Script(status=529, raw=json.dumps(own), content_type="application/json")
    with pytest.raises(anthropic.InternalServerError, match="too much"):
        messages.messages.create(model="anthropic/claude", max_tokens=5, messages=HELLO)
    with pytest.raises(openai.InternalServerError, match="too much"):
        client.chat.completions.create(model="anthropic/claude", messages=HELLO)
    with pytest.raises(anthropic.AuthenticationError):
        Anthropic(base_url=str(messages.base_url), api_key="wrong", max_retries=0).messages.create(
            model="anthropic/claude", max_tokens=5, messages=HELLO
        )
    with pytest.raises(anthropic.BadRequestError, match="'messages' is empty"):
        messages.messages.create(model="anthropic/claude", max_tokens=5, messages=[])


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        ("anthropic/claude", "seed", 7),
        ("anthropic/claude", "n", 2),
        ("anthropic/claude", "logprobs", True),
        ("anthropic/claude", "response_format", {"type": "json_object"}),
        ("bedrock/m", "presence_penalty", 0.5),
        ("yandexgpt/m", "top_p", 0.5),
        ("cohere/m", "logit_bias", {"1": 2}),
    ],
)
def test_what_cannot_be_said_is_refused_by_name_before_there_is_an_entry(
    client: OpenAI, server: Server, upstream: Upstream, model: str, field: str, value: Any
) -> None:
    with pytest.raises(openai.BadRequestError, match=f"'{field}' cannot be translated") as refused:
        client.chat.completions.create(model=model, messages=HELLO, extra_body={field: value})
    assert refused.value.param == field
    assert upstream.seen == []
    assert server.settled() == []


RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-x", "status": "incomplete", "error": None,
    "incomplete_details": {"reason": "max_output_tokens"}, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    "output": [{"type": "message", "id": "m", "role": "assistant", "status": "incomplete",
                "content": [{"type": "output_text", "text": SAID, "annotations": []}]}],
    "usage": {"input_tokens": 20, "output_tokens": 8, "total_tokens": 28, "input_tokens_details": {"cached_tokens": 5},
              "output_tokens_details": {"reasoning_tokens": 3}},
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
def test_responses_pass_and_are_metered_however_they_end(
    client: OpenAI, server: Server, upstream: Upstream, stream: bool
) -> None:
    events = [
        {"type": "response.created", "sequence_number": 0, "response": {**RESPONSE, "status": "in_progress", "usage": None, "incomplete_details": None, "output": []}},
        {"type": "response.output_text.delta", "sequence_number": 1, "item_id": "m", "output_index": 0, "content_index": 0, "delta": SAID, "logprobs": []},
        {"type": "response.incomplete", "sequence_number": 2, "response": RESPONSE},
    ]  # fmt: skip
    frames = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events)
    body = Script(raw=frames) if stream else Script(raw=json.dumps(RESPONSE), content_type="application/json")
    upstream.on_request = lambda _seen: body
    if stream:
        seen_events = list(client.responses.create(model="up/gpt-x", input="hello", stream=True))
        assert [e.type for e in seen_events] == [e["type"] for e in events]
    else:
        assert client.responses.create(model="up/gpt-x", input="hello").output_text == SAID
    assert upstream.seen[0].path == "/v1/responses"
    (entry,) = server.settled()
    assert _counts(entry) == (20, 8, 5, 3)
    assert (entry["status"], entry["finish_reason"]) == ("completed", "max_output_tokens")
    logged = _logged(server)
    assert (logged["completion_text"], json.loads(logged["input_messages"])) == (SAID, ["hello"])


def test_a_stream_of_responses_that_ends_without_an_end_is_no_success(server: Server, upstream: Upstream) -> None:
    created = {
        "type": "response.created",
        "response": {**RESPONSE, "status": "in_progress", "usage": None, "incomplete_details": None},
    }
    upstream.on_request = lambda _seen: Script(raw=f"data: {json.dumps(created)}\n\n")
    server.exchange("POST", "/v1/responses", {"model": "up/gpt-x", "input": "hello", "stream": True})
    (entry,) = server.settled()
    assert (entry["status"], entry["error_kind"]) == ("failed", "truncated")


def test_responses_go_only_where_they_are_spoken(client: OpenAI, server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="'cohere' takes no responses; it takes: chat, embeddings"):
        client.responses.create(model="cohere/m", input="hello")
    assert server.settled() == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_of_one_prompt_is_a_chat_where_there_are_only_chats(
    client: OpenAI, server: Server, upstream: Upstream, stream: bool
) -> None:
    given: Any = {"model": "mistral/m", "prompt": "hello", "max_tokens": 5}
    if stream:
        text = "".join(c.choices[0].text for c in client.completions.create(**given, stream=True) if c.choices)
    else:
        text = client.completions.create(**given).choices[0].text
    assert text.startswith("answer 1")
    (seen,) = upstream.seen
    assert (seen.path, seen.json["messages"], seen.json["max_tokens"]) == ("/chat/completions", HELLO, 5)
    assert server.settled()[0]["prompt_tokens"] == (seen.usage or {}).get("prompt_tokens")


@pytest.mark.parametrize(
    ("model", "path", "sent", "answer", "tokens"),
    [
        (
            "gemini/e", "/models/e:batchEmbedContents",
            {"requests": [{"model": "models/e", "content": {"parts": [{"text": t}]}} for t in ("a", "b")]},
            {"embeddings": [{"values": [1.0, 2.0]}, {"values": [3.0, 4.0]}]}, None,
        ),
        (
            "cohere/e", "/v2/embed",
            {"model": "e", "texts": ["a", "b"], "input_type": "search_document", "embedding_types": ["float"]},
            {"id": "x", "embeddings": {"float": [[1.0, 2.0], [3.0, 4.0]]}, "meta": {"billed_units": {"input_tokens": 4}}}, 4,
        ),
    ],
)  # fmt: skip
def test_embeddings_cross_formats(
    client: OpenAI,
    server: Server,
    upstream: Upstream,
    model: str,
    path: str,
    sent: Any,
    answer: Any,
    tokens: int | None,
) -> None:
    upstream.on_request = lambda _seen: Script(raw=json.dumps(answer), content_type="application/json")
    given = client.embeddings.create(model=model, input=["a", "b"], encoding_format="float")
    assert [d.embedding for d in given.data] == [[1.0, 2.0], [3.0, 4.0]]
    assert (upstream.seen[0].path, upstream.seen[0].json) == (path, sent)
    (entry,) = server.settled()
    assert (entry["method_type"], entry["prompt_tokens"]) == ("embedding", tokens)


def test_a_sample_answer_is_tried_before_its_provider_is_called(server: Server) -> None:
    sample = '{"say": "hi", "why": "end"}\n{"say": "!", "spent": {"all": "9"}, "oops": null}\n'
    asked = {
        "providerType": "custom", "body": sample,
        "responseConfig": {
            "streamMessagePath": "say", "streamFinishPath": "why", "streamFraming": "ndjson", "usagePath": "spent",
            "usageTokensPath": "spent.all", "errorPath": "oops",
        },
    }  # fmt: skip
    status, found = server.request("POST", "/api/providers/try", asked)
    assert status == 200
    assert (found["text"], found["finish_reason"], found["usage"]["total_tokens"], found["complete"]) == (
        "hi!",
        "end",
        9,
        True,
    )
    status, refused = server.request("POST", "/api/providers/try", {**asked, "responseConfig": {"messagPath": "x"}})
    assert (status, refused["error"]["param"]) == (400, "responseConfig")
    assert "unknown key 'messagPath'" in refused["error"]["message"]
    assert server.request("POST", "/api/providers/try", {**asked, "operation": "responses"})[0] == 400
    assert server.request("POST", "/api/providers/try", asked, key="wrong")[0] == 401
    (server.folder / "sample").write_text('{"type":"error","error":{"type":"overloaded_error","message":"busy"}}')
    tried = server.bursar("providers", "try", "sample", "--type", "anthropic")
    assert (tried.returncode, "busy (overloaded_error)" in tried.stdout) == (0, True)
    tried = server.bursar("providers", "try", "sample", "--provider", "nobody")
    assert (tried.returncode, "there is no provider 'nobody'" in tried.stderr) == (2, True)


@pytest.mark.parametrize("asked", ["float", "base64", None])
def test_vectors_come_as_they_were_asked_for(client: OpenAI, upstream: Upstream, asked: Any) -> None:
    """OpenAI's SDK asks for base64 unless it is told otherwise, and unpacks it."""
    answer = {"embeddings": [{"values": [0.5, -2.0]}]}
    upstream.on_request = lambda _seen: Script(raw=json.dumps(answer), content_type="application/json")
    given = {"encoding_format": asked} if asked else {}
    vector = client.embeddings.create(model="gemini/e", input="a", **given).data[0].embedding
    packed = base64.b64encode(struct.pack("<2f", 0.5, -2.0)).decode()
    assert vector == (packed if asked == "base64" else [0.5, -2.0])


@pytest.mark.parametrize(("kind", "status"), [("overloaded_error", 503), ("rate_limit_error", 429)])
def test_an_error_inside_a_stream_has_a_kind(server: Server, upstream: Upstream, kind: str, status: int) -> None:
    frame = {"type": "error", "error": {"type": kind, "message": "busy sk-secret-anthropic"}}
    upstream.on_request = lambda _seen: Script(raw=f"event: error\ndata: {json.dumps(frame)}\n\n")
    told, data, _ = server.exchange(
        "POST", "/v1/chat/completions", {"model": "anthropic/m", "messages": HELLO, "stream": True}
    )
    assert (told, b"sk-secret" in data) == (status, False)
    (entry,) = server.settled()
    assert entry["error_kind"] == kind.removesuffix("_error")
    assert "sk-secret" not in json.dumps(entry)


def test_a_completion_has_as_many_texts_as_its_provider_gave(client: OpenAI, upstream: Upstream) -> None:
    two = [{"content": {"parts": [{"text": t}]}, "index": n, "finishReason": "STOP"} for n, t in enumerate("ab")]
    upstream.on_request = lambda _seen: Script(raw=json.dumps({"candidates": two}), content_type="application/json")
    made = client.completions.create(model="gemini/m", prompt="x", n=2)
    assert [(c.text, c.finish_reason) for c in made.choices] == [("a", "stop"), ("b", "stop")]


def test_a_provider_that_is_nowhere_in_the_code_streams_and_is_metered(
    make_server: Callable[..., Server], upstream: Upstream
) -> None:
    """Invented names, lines of JSON, usage under another path and as a total only: all of it from its settings."""
    config = f"""
[[providers]]
name = "nova"
type = "custom"
completion_url = "{upstream.base_url}/talk"
api_key = "sk-secret-nova"
[providers.request]
modelField = "engine.name"
messagesField = "turns"
maxTokensField = "limits.out"
additionalBodyFields = {{ mode = "x" }}
[providers.response]
messagePath = "reply.said"
finishPath = "reply.why"
streamFraming = "ndjson"
streamMessagePath = "piece"
streamFinishPath = "why"
usagePath = "meter"
usageTokensPath = "meter.all"
errorPath = "trouble"
"""
    server = make_server(more=config)
    client = OpenAI(base_url=f"{server.url}/v1", api_key=ADMIN, max_retries=0)
    lines = '{"piece": "Good "}\n{"piece": "day."}\n{"why": "done", "meter": {"all": "25"}}\n'
    upstream.on_request = lambda _seen: Script(raw=lines, content_type="application/x-ndjson")
    chunks = list(
        client.chat.completions.create(
            model="nova/n1", messages=HELLO, max_tokens=7, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == SAID
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.total_tokens, chunks[-1].usage.prompt_tokens) == (25, None)
    asked = upstream.seen[0].json
    assert (asked["engine"], asked["turns"], asked["limits"], asked["mode"]) == ({"name": "n1"}, HELLO, {"out": 7}, "x")
    entry = server.settled()[0]
    assert (entry["total_tokens"], entry["prompt_tokens"], entry["status"]) == (25, None, "completed")
    upstream.on_request = lambda _seen: Script(
        raw='{"trouble": "no paper left"}\n', content_type="application/x-ndjson"
    )
    with pytest.raises(openai.APIStatusError, match="no paper left"):
        client.chat.completions.create(model="nova/n1", messages=HELLO, stream=True)
    assert server.verify()[0]


def test_what_a_model_refuses_is_left_out_by_a_named_rule_and_on_the_entry(
    client: OpenAI, server: Server, upstream: Upstream
) -> None:
    _answers(upstream, ANSWERS["anthropic"])
    for model in ("claude-opus-4-6", "claude-opus-4-8-20260901", "claude-opus-4-1-20250805"):
        client.chat.completions.create(model=f"anthropic/{model}", messages=HELLO, temperature=0.1, top_p=0.9)
    older, newer, oldest = upstream.seen
    assert (oldest.json["temperature"], "top_p" in oldest.json) == (0.1, False)
    assert (older.json["temperature"], older.json["top_p"]) == (0.1, 0.9)
    assert newer.json.keys().isdisjoint({"temperature", "top_p"})
    assert {e["model"]: e["dropped"] for e in server.settled()} == {
        "claude-opus-4-6": None,
        "claude-opus-4-8-20260901": "no-sampling: temperature, top_p",
        "claude-opus-4-1-20250805": "one-sampling: top_p",
    }
    upstream.on_request = None
    client.chat.completions.create(
        model="mistral/m",
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
        max_completion_tokens=3,
        seed=4,
    ).close()
    asked = upstream.seen[-1].json
    assert (asked["max_tokens"], asked["random_seed"]) == (3, 4)
    assert asked.keys().isdisjoint({"stream_options", "max_completion_tokens", "seed"})

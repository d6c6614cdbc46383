"""Requests of every shape: what is odd is refused by its place and never breaks anything, what can be said is said."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from bursar.types.call import Call
from bursar.types.errors import RequestError
from bursar.types.events import ToolCallDelta
from bursar.wire import spec as specs
from bursar.wire.assemble import Assembly
from bursar.wire.encode import Request, Way
from bursar.wire.engine import Decoder
from bursar.wire.ingress import read
from bursar.wire.readers import Endpoint, Readers
from bursar.wire.render_messages import MessageRenderer
from support.formats import binary_stream

Tree = dict[str, Any]
KINDS = ["anthropic", "gemini", "bedrock", "cohere", "ollama", "yandexgpt", "gigachat", "openai", "mistral"]
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


def _call(name: str, id: str, arguments: str = "{}") -> Tree:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


CHAT: Tree = {
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [_call("f", "c1")]},
        {"role": "tool", "tool_call_id": "c1", "content": "r"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
    "tool_choice": "auto", "stop": ["a"], "temperature": 0.5, "max_tokens": 5, "top_p": 1, "n": 1, "seed": 1,
    "reasoning_effort": "low", "user": "u", "parallel_tool_calls": True, "options": {"a": 1}, "generationConfig": {"x": 1},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
}  # fmt: skip
MESSAGES: Tree = {
    "max_tokens": 5, "system": [{"type": "text", "text": "s"}], "stop_sequences": ["a"], "metadata": {"user_id": "u"},
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "document", "source": {"type": "text", "data": "x"}}]},
        {"role": "assistant", "content": [{"type": "text", "text": "x"}, {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "r"}]}]},
    ],
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}, "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"format": {"type": "json_schema", "schema": {}}},
}  # fmt: skip
ODD: list[Any] = [
    None, True, 0, -1, 1.5, "", "x", [], [None], [1], ["a"], [[]], {}, {"a": 1}, [{}], [{"type": None}], {"type": 5},
    {"type": ["x"]}, {"url": 5}, 10**30,
]  # fmt: skip


@cache  # to make one takes far longer than to write a request by it
def _endpoint(kind: str, written: tuple[tuple[str, str], ...]) -> Endpoint:
    spec = specs.build(kind, request=dict(written) or None).operations["chat"]
    return Endpoint(spec, Readers(spec), "http://x", "http://x", spec.request.include_usage is True)


def _request(
    kind: str, asked: Tree | bytes, *, operation: str = "chat", model: str = "m", written: dict[str, str] | None = None
) -> Request:
    body = asked if isinstance(asked, bytes) else json.dumps({"model": "p/m", **asked}).encode()
    said = read(operation, body)
    endpoint = _endpoint(kind, tuple((written or {}).items()))
    call = Call("id", operation, said.model, said.stream, said.inputs, said.params, said.usual, said.body)
    way = Way(endpoint, operation=operation, asked="p/m", model=model, stream=said.stream, headers=())
    return way.request(call, ())


def _body(kind: str, **more: Any) -> Tree:
    made: Tree = json.loads(_request(kind, {"messages": HELLO, **more}).body)
    return made


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from _places(value[key], (*place, key))


def _with(value: Tree, place: tuple[Any, ...], odd: Any) -> Tree:
    made = copy.deepcopy(value)
    at: Any = made
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = odd
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("operation", "asked"), [("chat", CHAT), ("messages", MESSAGES)])
def test_an_odd_value_anywhere_is_said_or_refused_and_nothing_else(kind: str, operation: str, asked: Tree) -> None:
    for place in _places(asked):
        for odd in ODD:
            try:
                json.loads(_request(kind, _with(asked, place, odd), operation=operation).body)
            except RequestError as error:
                refused = error
                named = refused.field or "body" in refused.message
                if not named:
                    pytest.fail(f"{place} {odd}: {refused.message}")


NEUTRAL = {
    "n": 1, "presence_penalty": 0, "frequency_penalty": 0, "logprobs": False, "top_logprobs": 0, "logit_bias": {},
    "store": False, "parallel_tool_calls": True, "service_tier": "auto", "response_format": {"type": "text"},
    "modalities": ["text"], "tools": [], "tool_choice": "auto", "metadata": {}, "stop": [], "user": "u",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_says_no_more_than_its_absence_is_no_reason_to_refuse(kind: str) -> None:
    for name, value in NEUTRAL.items():
        _request(kind, {"messages": HELLO, name: value})


def test_a_number_that_is_none_is_refused_beside_a_field_written_there() -> None:
    body = b'{"model":"p/m","messages":[{"role":"user","content":"a"}],"temperature":1,"options":{"x":1e999}}'
    with pytest.raises(RequestError, match="out of range"):
        _request("openai", body, written={"temperatureField": "options.temperature"})


@pytest.mark.parametrize("kind", ["anthropic", "gemini", "bedrock"])
def test_a_number_that_is_none_is_refused(kind: str) -> None:
    with pytest.raises(RequestError, match="out of range"):
        _request(kind, b'{"model":"p/m","messages":[{"role":"user","content":"a"}],"temperature":1e999}')


@pytest.mark.parametrize("kind", ["gemini", "gigachat", "yandexgpt", "ollama"])
def test_a_result_is_of_the_nearest_call_of_its_id(kind: str) -> None:
    turns = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [_call("get_weather", "call_0")]},
        {"role": "tool", "tool_call_id": "call_0", "content": "cold"},
        {"role": "assistant", "content": None, "tool_calls": [_call("send_mail", "call_0")]},
        {"role": "tool", "tool_call_id": "call_0", "content": "sent"},
    ]
    sent = json.dumps(_body(kind, messages=turns))
    assert sent.index("get_weather") < sent.index("cold") < sent.index("send_mail") < sent.index("sent")
    results = sent.replace(" ", "")
    assert results.count("get_weather") == results.count("send_mail") == 2


def test_calls_that_come_whole_are_told_apart_and_have_ids() -> None:
    lines = b'{"message":{"tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]},"done":false}\n'
    lines += b'{"message":{"tool_calls":[{"function":{"name":"g","arguments":{"b":2}}}]},"done":false}\n{"done":true}\n'
    decoder, answer = Decoder(Readers(specs.build("ollama").operations["chat"]), stream=True), Assembly()
    for frame in decoder.feed(lines) + decoder.close():
        answer.take(frame.events)
    assert decoder.finished
    first, second = answer.tool_calls
    assert (first.name, first.arguments, second.name, second.arguments) == ("f", '{"a": 1}', "g", '{"b": 2}')
    assert first.id
    assert second.id not in (None, first.id)


def test_a_named_tool_choice_is_said_or_refused_by_name() -> None:
    choice = {"type": "function", "function": {"name": "f"}}
    assert _body("anthropic", tools=CHAT["tools"], tool_choice=choice)["tool_choice"] == {"type": "tool", "name": "f"}
    with pytest.raises(RequestError, match="'tool_choice' cannot be translated"):
        _body("cohere", tools=CHAT["tools"], tool_choice=choice)
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}
    for kind in ("anthropic", "gemini", "bedrock"):
        with pytest.raises(RequestError, match="allowed_tools"):
            _body(kind, tools=CHAT["tools"], tool_choice=allowed)


def test_limits_that_are_null_or_said_twice() -> None:
    assert _body("anthropic", max_tokens=None)["max_tokens"] == 4096
    assert _body("anthropic", max_completion_tokens=7)["max_tokens"] == 7
    assert _body("mistral", max_completion_tokens=7)["max_tokens"] == 7
    assert "max_completion_tokens" not in _body("mistral", max_completion_tokens=7)


def test_older_names_of_a_message_are_not_lost() -> None:
    turns = [
        *HELLO,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}},
        {"role": "assistant", "content": None, "refusal": "I will not."},
    ]
    sent = json.dumps(_body("anthropic", messages=turns))
    assert all(part in sent for part in ('"tool_use"', '"f"', "I will not."))


def test_a_tool_s_picture_is_refused_where_only_text_can_stand() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    turns = [*CHAT["messages"][:3], {"role": "tool", "tool_call_id": "c1", "content": [picture]}]
    with pytest.raises(RequestError, match="image_url"):
        _body("gemini", messages=turns)
    assert '"image"' in json.dumps(_body("anthropic", messages=turns))


def test_what_messages_only_mark_does_not_reach_a_chat() -> None:
    block = {"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}
    asked = {"max_tokens": 3, "system": [block], "messages": [{"role": "user", "content": [block]}]}
    made = json.loads(_request("openai", asked, operation="messages").body)
    assert made["messages"] == [{"role": "system", "content": "long"}, {"role": "user", "content": "long"}]
    assert json.loads(_request("bedrock", asked, operation="messages").body)["system"][1] == {
        "cachePoint": {"type": "default"}
    }


def test_an_instruction_amid_messages_stays_where_it_was_or_is_put_before_them() -> None:
    asked = {
        "max_tokens": 9, "system": "first",
        "messages": [*HELLO, {"role": "assistant", "content": "hi"}, *HELLO, {"role": "system", "content": "then"}],
    }  # fmt: skip
    said = json.loads(_request("openai", asked, operation="messages").body)["messages"]
    assert [m["role"] for m in said] == ["system", "user", "assistant", "user", "system"]
    said = json.loads(_request("gemini", asked, operation="messages").body)
    assert [part["text"] for part in said["systemInstruction"]["parts"]] == ["first", "then"]


def test_an_error_of_a_tool_is_told() -> None:
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "no such city", "is_error": True}
    asked = {"max_tokens": 3, "messages": [*MESSAGES["messages"][:2], {"role": "user", "content": [result]}]}
    assert "Error: no such city" in _request("openai", asked, operation="messages").body.decode()


def test_calls_that_take_turns_are_one_block_each() -> None:
    renderer = MessageRenderer(id="i", model="m", words={})
    pieces = [(0, "c0", "f", '{"a"'), (1, "c1", "g", '{"b"'), (0, None, None, ":1}"), (1, None, None, ":2}")]
    frames = (
        renderer.begin()
        + renderer.render([ToolCallDelta(at, id, name, text) for at, id, name, text in pieces])
        + renderer.end(None)
    )
    events = [json.loads(line[6:]) for line in frames.decode().split("\n") if line.startswith("data: ")]
    begun = [e["content_block"] for e in events if e["type"] == "content_block_start"]
    assert [(b["id"], b["name"]) for b in begun] == [("c0", "f"), ("c1", "g")]
    said = {
        n: "".join(e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta" and e["index"] == n)
        for n in (0, 1)
    }
    assert said == {0: '{"a":1}', 1: '{"b":2}'}


@pytest.mark.parametrize("kind", ["anthropic", "gemini", "bedrock", "cohere", "openai", "ollama", "groq"])
@pytest.mark.parametrize("odd", [["x"], {"a": 1}, 5, True, None])
def test_an_odd_type_or_place_in_an_answer_breaks_nothing(kind: str, odd: Any) -> None:
    for operation in ("chat", "responses"):
        found = specs.build(kind).operations.get(operation)
        if found is None:
            continue
        for value in (
            {"type": odd, "index": odd, "delta": {"type": "text_delta", "text": "a"}},
            {"type": "content_block_start", "index": odd, "content_block": {"type": "tool_use", "id": 1, "name": 2}},
            {"type": "response.output_item.added", "output_index": odd, "item": {"type": "function_call", "name": "f"}},
            {"choices": odd, "candidates": odd, "message": odd, "usage": odd, "error": None},
        ):
            decoder = Decoder(Readers(found), stream=True)
            body = f"data: {json.dumps(value)}\n\n".encode()
            if found.stream.framing == "aws-event-stream":
                body = binary_stream(("contentBlockDelta", {"contentBlockIndex": odd, "delta": odd, **value}))
            for frame in decoder.feed(body) + decoder.close():
                Assembly().take(frame.events)


def test_what_bedrock_has_words_for_is_said() -> None:
    part = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
    body = _body(
        "bedrock", messages=[{"role": "user", "content": [part]}], tools=[tool], reasoning_effort="low", top_k=3
    )
    assert body["messages"][0]["content"][1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert body["toolConfig"]["tools"][0]["toolSpec"]["strict"] is True
    assert (body["outputConfig"], body["additionalModelRequestFields"]) == ({"effort": "low"}, {"top_k": 3})


@pytest.mark.parametrize(
    ("kind", "more", "place"),
    [
        ("bedrock", {"max_tokens": 9, "inferenceConfig": {"topP": 0.5}}, "inferenceConfig"),
        ("gigachat", {"max_tokens": 9, "generationConfig": {"x": 1}}, "max_tokens"),
        ("anthropic", {"reasoning_effort": "low", "output_config": {"task_budget": 1}}, "output_config"),
    ],
)
def test_a_field_of_the_provider_s_own_lies_beside_what_was_written(kind: str, more: Tree, place: str) -> None:
    body = _body(kind, **more)
    own = next((value for value in more.values() if isinstance(value, dict)), {})
    wanted = {"bedrock": {"maxTokens": 9, **own}, "gigachat": 9, "anthropic": {"effort": "low", **own}}[kind]
    assert body[place] == wanted


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"output_config": {"task_budget": 5}}, "output_config"),
        ({"tools": [{"name": "f", "input_schema": {}, "input_examples": [{}]}]}, "tools"),
    ],
)
def test_what_a_chat_has_no_word_for_is_refused_and_not_lost(more: Tree, field: str) -> None:
    with pytest.raises(RequestError, match=field):
        _request("openai", {"max_tokens": 5, "messages": HELLO, **more}, operation="messages")

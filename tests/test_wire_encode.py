"""A call into a provider's request: every field as it was sent, the model by the provider's name, and said once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.types.call import CHAT, EMBEDDINGS, Call
from bursar.types.errors import RequestError
from bursar.wire import spec
from bursar.wire.encode import Request, Way
from bursar.wire.ingress import read
from bursar.wire.readers import Endpoint, Readers

OPENAI = spec.build("openai").operations
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["model", "a", "é"]), inner, max_size=2)
    ),
    max_leaves=4,
)
_message = st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": _json})
_chat = st.fixed_dictionaries(
    {"messages": st.lists(_message, min_size=1, max_size=3)},
    optional={
        "stream": st.booleans(), "temperature": _json, "tools": _json, "user": st.text(max_size=4),
        "stream_options": st.one_of(st.none(), st.dictionaries(st.sampled_from(["include_usage", "x"]), st.booleans())),
        "input": _json, "unheard_of": _json,
    },
)  # fmt: skip


def request(body: bytes, *, operation: str = CHAT, asked: str = "up/m", model: str = "m", adds: bool = True) -> Request:
    said = read(operation, body)
    call = Call("id", operation, said.model, said.stream, said.inputs, said.params, said.usual, said.body)
    found = OPENAI[operation]
    endpoint = Endpoint(found, Readers(found), "http://x/v1", "http://x/v1", adds and operation == CHAT)
    way = Way(endpoint, operation=operation, asked=asked, model=model, stream=said.stream, headers=())
    return way.request(call, ())


def _written(asked: dict[str, Any], **given: Any) -> bytes:
    return json.dumps(asked, **given).encode("utf-8", "surrogatepass")


@given(
    _chat, st.sampled_from(["up/m", 'q"uo\\te', "модель"]), st.sampled_from(["m", "мой"]), st.booleans(), st.booleans()
)
@settings(max_examples=400, deadline=None)
def test_a_request_says_what_was_asked(fields: dict[str, Any], asked: str, model: str, adds: bool, ascii: bool) -> None:
    for order in ({"model": asked, **fields}, {**fields, "model": asked}):
        made = request(_written(order, ensure_ascii=ascii), asked=asked, model=model, adds=adds)
        wanted = {k: v for k, v in {**fields, "model": model}.items() if k != "stream" or v is not None}
        options = fields.get("stream_options") or {}
        added = adds and fields.get("stream") is True and options.get("include_usage") is not True
        if added:
            wanted["stream_options"] = {**options, "include_usage": True}
        assert json.loads(made.body) == wanted
        assert made.added_usage is added
        inputs = {"messages", "input"}
        assert json.loads(made.params) == {k: v for k, v in wanted.items() if k not in inputs}


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"up/m","messages":[{"role":"user","content":"a"}],"model":"up/dear"}',
        b'{"model":"up/m","messages":[{"role":"user","content":"a"}],"mod\\u0065l":"up/dear"}',
        b'{"model":"up/m","messages":[{"role":"user","content":"a"}],"mod\\u0065l":"up/dear","unheard_of":1}',
    ],
)
def test_a_model_named_twice_is_sent_once(body: bytes) -> None:
    made = request(body, asked="up/dear", model="dear")
    pairs: list[tuple[str, Any]] = []
    json.loads(made.body, object_pairs_hook=lambda found: pairs.extend(found) or dict(found))
    assert [v for k, v in pairs if k == "model"] == ["dear"]


_SHORT, _LONG = [b'{"role":"user","content":"%b"}' % (b"x" * size) for size in (1, 5000)]


@given(st.lists(st.sampled_from([_SHORT, _LONG]), min_size=1, max_size=6), st.booleans())
def test_long_messages_are_parts_of_their_own_and_the_body_says_the_same(messages: list[bytes], stream: bool) -> None:
    asked = b'{"model":"up/m","messages":[%b],"stream":%b}' % (b",".join(messages), b"true" if stream else b"false")
    made = request(asked, adds=False)
    assert [part for part in made.parts if len(part) == len(_LONG)] == messages.count(_LONG) * [_LONG]
    assert json.loads(made.body) == {**json.loads(asked), "model": "m"}
    assert made.size == len(made.body)


def test_inputs_of_embeddings_are_kept_apart_where_they_are_texts() -> None:
    for given_input, parts in (('["a","b"]', [b'"a"', b'"b"']), ('"a"', [b'"a"']), ("[1,2]", [b"[1,2]"])):
        body = b'{"model":"m","input":%b,"dimensions":3}' % given_input.encode()
        assert read(EMBEDDINGS, body).inputs == parts
        made = request(body, operation=EMBEDDINGS, asked="m")
        assert json.loads(made.body) == json.loads(body)
        assert json.loads(made.params) == {"model": "m", "dimensions": 3}


@pytest.mark.parametrize("messages", ["[]", "null", "{}", '["a"]', '[{"content":"a"}]', '[{"role":1}]'])
def test_messages_that_are_none_are_refused_by_name(messages: str) -> None:
    with pytest.raises(RequestError) as refused:
        read(CHAT, b'{"model":"m","messages":%b}' % messages.encode())
    assert refused.value.field == "messages"

"""Answers decoded into types say the same as answers read path by path, whatever a provider sends."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.wire import spec
from bursar.wire.assemble import Assembly
from bursar.wire.engine import Decoder, Frame, Readers
from bursar.wire.typed import NotTypedError, Typed, typed


def _by_paths(readers: Readers) -> Readers:
    for section in (readers.answer, readers.stream, readers.embeddings):
        section.typed = None
    return readers


TYPED, BY_PATHS = Readers(spec.build("openai")), _by_paths(Readers(spec.build("openai")))

_odd = st.sampled_from([None, "", "x", 0, 1, -1, True, 2.5, [], {}, ["x"], {"a": 1}])
_text = st.one_of(st.text(max_size=5), st.none(), _odd, st.just([{"type": "text", "text": "part"}]))
_call = st.fixed_dictionaries(
    {},
    optional={
        "index": st.one_of(st.integers(0, 2), _odd),
        "id": st.one_of(st.just("call"), _odd),
        "function": st.one_of(st.fixed_dictionaries({}, optional={"name": _text, "arguments": _text}), _odd),
    },
)
_said = st.fixed_dictionaries(
    {},
    optional={
        "content": _text,
        "reasoning": _text,
        "reasoning_content": _text,
        "refusal": _text,
        "tool_calls": st.one_of(st.lists(_call, max_size=2), _odd),
        "role": st.just("assistant"),
    },
)
_choice = st.fixed_dictionaries(
    {},
    optional={
        "index": st.one_of(st.integers(0, 2), _odd),
        "delta": st.one_of(_said, _said, _odd),
        "message": st.one_of(_said, _said, _odd),
        "finish_reason": st.one_of(st.none(), st.sampled_from(["stop", "length"]), _odd),
        "logprobs": _odd,
    },
)
_count = st.one_of(st.integers(0, 99), st.none(), st.sampled_from(["7", "7.5", 7.0, True, -3, 10**30, [], "x"]))
_usage = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": _count,
        "completion_tokens": _count,
        "total_tokens": _count,
        "prompt_tokens_details": st.one_of(st.fixed_dictionaries({}, optional={"cached_tokens": _count}), _odd),
        "completion_tokens_details": st.one_of(st.fixed_dictionaries({}, optional={"reasoning_tokens": _count}), _odd),
    },
)
_frame = st.fixed_dictionaries(
    {},
    optional={
        "id": st.one_of(st.just("c1"), st.just("c1"), _odd),
        "model": st.one_of(st.just("m"), st.just("m"), _odd),
        "choices": st.one_of(st.lists(_choice, max_size=2), st.lists(_choice, min_size=1, max_size=1), _odd),
        "usage": st.one_of(st.none(), _usage, _odd),
        "error": st.one_of(st.none(), st.fixed_dictionaries({"message": _text}, optional={"code": _odd}), _odd),
        "created": _odd,
        "service_tier": _odd,
    },
)
# Frames that only bring text, one after the other, are what the short way is for.
_plain = st.builds(
    lambda text, index: {"id": "c1", "model": "m", "choices": [{"index": index, "delta": {"content": text}}]},
    st.text(max_size=5),
    st.sampled_from([0, 0, 0, 1]),
)


def _read(readers: Readers, body: bytes, cuts: list[int], *, stream: bool) -> tuple[list[Frame], Decoder, Assembly]:
    decoder, assembly = Decoder(readers, stream=stream), Assembly()
    places = sorted({min(c, len(body)) for c in cuts} | {0, len(body)})
    frames = [f for a, b in pairwise(places) for f in decoder.feed(body[a:b])]
    frames += decoder.close()
    for frame in frames:
        assembly.take(frame.events)
    return frames, decoder, assembly


def _same(body: bytes, cuts: list[int], *, stream: bool) -> None:
    frames, decoder, assembly = _read(TYPED, body, cuts, stream=stream)
    others, plain, other = _read(BY_PATHS, body, cuts, stream=stream)
    assert frames == others
    for name in ("finished", "saw_finish", "ended", "is_whole", "joined_text"):
        assert getattr(decoder, name) == getattr(plain, name), name
    for name in ("text", "reasoning", "refusal", "tool_calls", "finish_reason", "usage", "error", "id", "model"):
        assert getattr(assembly, name) == getattr(other, name), name


@given(st.lists(st.one_of(_frame, _plain, _plain), max_size=8), st.lists(st.integers(0, 2000), max_size=4))
@settings(max_examples=600, deadline=None)
def test_a_stream_says_the_same_both_ways(frames: list[Any], cuts: list[int]) -> None:
    body = b"".join(b"data: " + json.dumps(f).encode() + b"\n\n" for f in frames) + b"data: [DONE]\n\n"
    _same(body, cuts, stream=True)


@given(st.one_of(_frame, _frame, _odd), st.lists(st.integers(0, 500), max_size=3))
@settings(max_examples=400, deadline=None)
def test_a_whole_answer_says_the_same_both_ways(answer: Any, cuts: list[int]) -> None:
    _same(json.dumps(answer).encode(), cuts, stream=False)


@pytest.mark.parametrize(
    "response",
    [
        {"messagePath": "output.text"},  # beside the choices
        {"messagePath": "choices[1].message.content"},  # not the first of them
        {"messagePath": "choices[0].message.parts[0].text"},  # a list on the way
        {"messagePath": "choices[0].message"},  # a value where others look into an object
        {"modelPath": "meta.model"},
        {"usageTokensPath": "[0].total"},
    ],
)
def test_what_is_not_laid_out_that_way_is_read_by_its_paths(response: dict[str, object]) -> None:
    made = spec.build("custom", response=response)
    with pytest.raises(NotTypedError):
        Typed(made.answer, made.usage)
    assert typed(made.answer, made.usage) is None
    assert Readers(made).answer.typed is None


def test_an_end_mark_that_looks_like_a_frame_is_seen() -> None:
    made = spec.build("custom", response={"streamEnd": '{"done":true}'})
    readers = Readers(made)
    assert readers.stream.typed is None
    decoder = Decoder(readers, stream=True)
    decoder.feed(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\ndata: {"done":true}\n\n')
    assert decoder.ended


def test_keys_that_are_no_names_and_usage_in_several_places_are_typed_too() -> None:
    made = spec.build(
        "custom",
        response={
            "messagePath": "choices[0].message.the-text",
            "usageTokensPath": "x-meta.total tokens",
            "promptTokensPath": "usage.in + x-meta.in",
        },
    )
    readers = Readers(made)
    assert readers.answer.typed is not None
    body = {
        "choices": [{"index": 0, "message": {"the-text": "hi"}, "finish_reason": "stop"}],
        "x-meta": {"total tokens": 9, "in": 2},
        "usage": {"in": 3},
    }
    _, _, assembly = _read(readers, json.dumps(body).encode(), [], stream=False)
    assert assembly.text == "hi"
    assert assembly.usage is not None
    assert (assembly.usage.provider_total_tokens, assembly.usage.input_tokens) == (9, 5)


@pytest.mark.parametrize("finish", [False, 0, "", {}, [], 0.0, "stop", None])
def test_an_odd_finish_is_the_same_both_ways(finish: Any) -> None:
    for text in ("hi", "", None):
        choice = {"index": 0, "delta": {"content": text}, "message": {"content": text}, "finish_reason": finish}
        answer = json.dumps({"id": "c1", "model": "m", "choices": [choice]}).encode()
        _same(answer, [], stream=False)
        _same(b"data: " + answer + b"\n\n", [], stream=True)

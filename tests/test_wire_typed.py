"""Answers decoded into types say the same as answers read path by path, whatever a provider sends."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from bursar.types.events import TextDelta
from bursar.wire import spec
from bursar.wire.assemble import Assembly
from bursar.wire.engine import Decoder, Frame
from bursar.wire.layouts import NotTypedError
from bursar.wire.readers import Readers
from bursar.wire.typed import Typed, typed


def _by_paths(readers: Readers) -> Readers:
    for section in (readers.answer, readers.stream):
        section.typed = None
    return readers


OPENAI = spec.build("openai").operations["chat"]
TYPED, BY_PATHS = Readers(OPENAI), _by_paths(Readers(OPENAI))

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


def _joined(frames: list[Frame]) -> list[Frame]:
    """Frames with those that follow each other and bring no more than text put together: they may come so."""
    joined: list[Frame] = []
    plain_before = False
    for frame in frames:
        plain = not (frame.is_silent or frame.usage_only) and all(
            isinstance(e, TextDelta) and e.choice == 0 for e in frame.events
        )
        if plain and plain_before:
            text = "".join(e.text for e in (*joined[-1].events, *frame.events) if isinstance(e, TextDelta))
            joined[-1] = Frame(joined[-1].raw + frame.raw, [TextDelta(text)] if text else [])
        else:
            joined.append(frame)
        plain_before = plain
    return joined


def _same(
    body: bytes, cuts: list[int], *, stream: bool, both: tuple[Readers, Readers] = (TYPED, BY_PATHS)
) -> tuple[Decoder, Decoder]:
    frames, decoder, assembly = _read(both[0], body, cuts, stream=stream)
    others, plain, other = _read(both[1], body, cuts, stream=stream)
    assert b"".join(f.raw for f in frames) == b"".join(f.raw for f in others)
    assert _joined(frames) == _joined(others)
    for name in ("finished", "saw_finish", "ended", "is_whole", "joined_text"):
        assert getattr(decoder, name) == getattr(plain, name), name
    for name in ("text", "reasoning", "refusal", "tool_calls", "finish_reason", "usage", "error", "id", "model"):
        assert getattr(assembly, name) == getattr(other, name), name
    return decoder, plain


@given(st.lists(st.one_of(_frame, _plain, _plain), max_size=8), st.lists(st.integers(0, 2000), max_size=4))
@settings(max_examples=600, deadline=None)
def test_a_stream_says_the_same_both_ways(frames: list[Any], cuts: list[int]) -> None:
    for ascii in (True, False):
        lines = [json.dumps(f, ensure_ascii=ascii).encode("utf-8", "replace") for f in frames]
        _same(b"".join(b"data: " + line + b"\n\n" for line in (*lines, b"[DONE]")), cuts, stream=True)


_padding = st.one_of(st.none(), st.text("aZ09", max_size=4), st.sampled_from(["-", 'a"b', "\\", "é", 7]))
_delta = st.one_of(
    st.fixed_dictionaries({"content": st.text(max_size=4)}),
    st.fixed_dictionaries({"content": st.sampled_from(["a", '"', "\\n", "é", "c0", '"}\n\ndata: {'])}),
    st.sampled_from([{}, {"role": "assistant", "content": ""}, {"reasoning_content": "so"}, {"refusal": "no"}]),
)
_regular = st.tuples(
    st.sampled_from(["c0", "c1", 'c"2', "a"]),  # ids
    st.sampled_from(["m", "n"]),
    st.integers(0, 1),  # the second in which it was made
    st.lists(st.tuples(_delta, _padding, st.sampled_from([None, None, None, "stop"])), min_size=1, max_size=6),
)


@given(st.lists(_regular, min_size=1, max_size=3), st.lists(st.integers(0, 2000), max_size=3))
@settings(max_examples=600, deadline=None)
def test_answers_alike_one_after_another_say_the_same_both_ways(answers: list[Any], cuts: list[int]) -> None:
    both = Readers(OPENAI), _by_paths(Readers(OPENAI))
    for id, model, created, said in answers:
        body = b""
        for delta, padding, finish in said:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            frame = {"id": id, "created": created, "model": model, "tier": f"t{created}", "choices": [choice]}
            if padding is not None:
                frame["obfuscation"] = padding
            body += b"data: %b\n\n" % json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode()
        decoder, plain = _same(body + b"data: [DONE]\n\n", cuts, stream=True, both=both)
        assert decoder.extras == plain.extras


@given(st.one_of(_frame, _frame, _odd), st.lists(st.integers(0, 500), max_size=3))
@settings(max_examples=400, deadline=None)
def test_a_whole_answer_says_the_same_both_ways(answer: Any, cuts: list[int]) -> None:
    _same(json.dumps(answer).encode(), cuts, stream=False)


_count = st.sampled_from([0, 1, 7, 20, 20, 7, 1, 300, None, -1, 2.0, "3", True, 10**12])
_usage = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": _count,
        "completion_tokens": _count,
        "total_tokens": _count,
        "prompt_tokens_details": st.one_of(st.none(), st.fixed_dictionaries({}, optional={"cached_tokens": _count})),
    },
)
_message = st.fixed_dictionaries(
    {
        "role": st.just("assistant"),
        "content": st.one_of(st.text(min_size=1, max_size=5), st.sampled_from(["a", "", None])),
    },
    optional={"refusal": st.sampled_from([None, None, None, "no"]), "tool_calls": st.sampled_from([None, None, []])},
)
_one = st.fixed_dictionaries(
    {
        "index": st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1]),
        "message": _message,
        "finish_reason": st.sampled_from(["stop", "stop", "length", None, ""]),
    },
    optional={"logprobs": _odd},
)
_reply = st.fixed_dictionaries(
    {"choices": st.sampled_from([1, 1, 1, 1, 0, 2]).flatmap(lambda n: st.lists(_one, min_size=n, max_size=n))},
    optional={
        "id": st.just("c1"),
        "model": st.just("m"),
        "error": st.sampled_from([None, None, None, "x"]),
        "usage": _usage,
    },
)


@given(_reply)
@settings(max_examples=1000, deadline=None)
def test_an_answer_read_at_once_says_the_same_as_one_read_in_pieces(answer: Any) -> None:
    body = json.dumps(answer, separators=(",", ":")).encode()
    decoder = Decoder(TYPED, stream=False)
    answered = decoder.read_whole(body)
    if answered is None:
        assert not decoder.is_whole
        return
    assembly = Assembly.of(answered)
    _, plain, other = _read(BY_PATHS, body, [], stream=False)
    for name in ("finished", "ended", "is_whole", "is_strict", "joined_text"):
        assert getattr(decoder, name) == getattr(plain, name), name
    for name in ("text", "reasoning", "refusal", "tool_calls", "finish_reason", "usage", "error", "id", "model"):
        assert getattr(assembly, name) == getattr(other, name), name
    assert assembly.output_bytes() == other.output_bytes()
    assert assembly.has_content == other.has_content


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
    made = spec.build("custom", response=response).operations["chat"]
    with pytest.raises(NotTypedError):
        Typed(made.answer, made.usage)
    assert typed(made.answer, made.usage) is None
    assert Readers(made).answer.typed is None


def test_an_end_mark_that_looks_like_a_frame_is_seen() -> None:
    made = spec.build("custom", response={"streamEnd": '{"done":true}'}).operations["chat"]
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
    ).operations["chat"]
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


@pytest.mark.parametrize("value", [b"1e999", b'"\xff"', b'[{"y":1e999}]', b'{"\xff":1}'])
@pytest.mark.parametrize(
    "usage", [b'{"prompt_tokens":1,"x":%b}', b'{"prompt_tokens":1,"prompt_tokens_details":{"x":%b}}']
)
def test_usage_that_is_no_strict_json_is_not_read_at_once(usage: bytes, value: bytes) -> None:
    said = b'{"id":"","model":"","choices":[{"message":{"content":"a"}}],"usage":%b}'
    bad, good = said % (usage % value), said % (usage % b"7")
    readers = Readers(OPENAI)
    # Neither before such a field was seen, nor after.
    for body, usages in ((bad, []), (good, [usage % b"7"]), (bad, []), (good, [usage % b"7"])):
        answered = Decoder(readers, stream=False).read_whole(body)
        assert [a.usage.raw_json for a in (answered,) if a is not None and a.usage is not None] == usages


@pytest.mark.parametrize(
    "names", [[f"n{n}" for n in range(200)], ["a", "b\n", "c"], ["", "é", "x" * 65, "prompt_tokens"]]
)
def test_usage_that_names_its_fields_as_it_likes_is_read_as_by_paths(names: list[str]) -> None:
    readers, at_once = Readers(OPENAI), 0
    for name in (*names, *names):
        for usage in (
            {"prompt_tokens": 3, name: 4, "prompt_tokens_details": {"cached_tokens": 2, name: [None]}},
            {"completion_tokens": 5, name: {}},
        ):
            body = json.dumps({"choices": [{"message": {"content": "a"}}], "usage": usage}).encode()
            answered = Decoder(readers, stream=False).read_whole(body)
            by_paths, decoder = Assembly(), Decoder(BY_PATHS, stream=False)
            for frame in (*decoder.feed(body), *decoder.close()):
                by_paths.take(frame.events)
            if answered is not None:
                at_once += 1
                assert answered.usage is not None
                assert by_paths.usage is not None
                assert astuple(answered.usage)[:6] == astuple(by_paths.usage)[:6]
    assert at_once >= 4 * len(names) - 2
    bad = b'{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":1,"m":1e999}}'
    assert Decoder(readers, stream=False).read_whole(bad) is None


def test_empty_names_in_an_answer_are_none() -> None:
    said = b'{"id":"","model":"","choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":1}}'
    answered = Decoder(TYPED, stream=False).read_whole(said)
    assert answered is not None
    assert (answered.id, answered.model) == (None, None)


def test_a_count_of_any_name_is_read() -> None:
    """What a spec does not name is told by no word that a field could have."""
    usage = spec.UsageSpec(raw="usage", input="usage.absent", output="usage.out")
    readers = Readers(replace(OPENAI, usage=usage))
    body = {"choices": [{"index": 0, "message": {"content": "hi"}}], "usage": {"absent": 3, "out": 4}}
    _, _, assembly = _read(readers, json.dumps(body).encode(), [], stream=False)
    assert assembly.usage is not None
    assert (assembly.usage.input_tokens, assembly.usage.output_tokens) == (3, 4)

"""Frames that differ in their text alone, read together: the same as read one by one, or not at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.wire.runs import Around, around

BEFORE, BEHIND = b'data: {"id":"c","choices":[{"delta":{"content":"', b'"},"index":0}]}'
BOTH = Around(BEFORE, BEHIND)


def frame(text: bytes) -> bytes:
    return BEFORE + text + BEHIND + b"\n\n"


def said(data: bytes) -> str | None:
    value = json.loads(data)
    try:
        return str(value["choices"][0]["delta"]["content"])
    except (KeyError, IndexError):
        return None


@given(st.lists(st.text(max_size=6), min_size=1, max_size=6), st.booleans(), st.integers(0, 30))
def test_a_run_says_what_its_frames_say_and_ends_where_they_do(texts: list[str], ascii: bool, cut: int) -> None:
    inside = [json.dumps(t, ensure_ascii=ascii)[1:-1].encode("utf-8", "replace") for t in texts]
    data = b"".join(map(frame, inside)) + b"data: [DONE]\n\n"
    taken = BOTH.take(data + frame(b"later")[:cut])
    if taken is None:
        assert not any(inside) or any(i.endswith(b"\\") for i in inside)
    else:
        text, size = taken
        assert data[size:] == b"data: [DONE]\n\n"
        assert text == "".join(json.loads(b'"' + i + b'"') for i in inside)


@pytest.mark.parametrize(
    "inside",
    [
        b'a","role":"user',  # a quote that ends the text
        b"a\\",  # the quote behind it is the text's
        b"\xd0",  # a half of a character
        b"a\nb",  # what no JSON text may hold
        b"\\x",
    ],
)
def test_what_is_more_than_text_is_not_taken_for_it(inside: bytes) -> None:
    assert BOTH.take(frame(inside)) is None
    assert BOTH.take(frame(b"good") + frame(inside) + frame(b"good")) is None


def test_halves_of_a_character_in_two_frames_are_not_joined() -> None:
    assert BOTH.take(frame(b"\xd0") + frame(b"\xb0")) is None
    assert BOTH.take(frame(b"\\ud83d") + frame(b"\\ude00")) is None
    assert BOTH.take(frame(b"\\u00") + frame(b"e9")) is None


def test_another_frame_ends_a_run_and_a_part_of_one_waits() -> None:
    other = b'data: {"id":"c","choices":[]}\n\n'
    assert BOTH.take(frame(b"a") + frame(b"b") + other + frame(b"c")) == ("ab", 2 * len(frame(b"a")))
    assert BOTH.take(frame(b"a") + frame(b"b")[:-1]) == ("a", len(frame(b"a")))
    assert BOTH.take(frame(b"a")[:-1]) is None
    assert BOTH.take(other + frame(b"a")) is None


def test_what_stands_around_a_text_is_told_only_where_it_is_certain() -> None:
    assert around(frame(b"hello"), "hello", said) == BOTH
    # The same text stands elsewhere too, or only elsewhere, or is written in escapes.
    twice = b'data: {"id":"hello","choices":[{"delta":{"content":"hello"}}]}\n\n'
    assert around(twice, "hello", said) is None
    elsewhere = b'data: {"id":"hello","choices":[{"delta":{"content":"\\u0068ello"}}]}\n\n'
    assert around(elsewhere, "hello", said) is None
    assert around(frame(b'a\\"b'), 'a"b', said) is None
    assert around(b'event: x\ndata: {"choices":[{"delta":{"content":"a"}}]}\n\n', "a", said) is None

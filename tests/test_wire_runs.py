"""Frames that differ in their text alone, read together: the same as read one by one, or not at all."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.wire.runs import Around, Known, around

BEFORE, BEHIND = b'data: {"id":"c","choices":[{"delta":{"content":"', b'"},"index":0}]}'
BOTH = Around(BEFORE, BEHIND)


PADDED = Around(BEFORE, b'"},"index":0}],"obfuscation":"', b'"}')


def frame(text: bytes) -> bytes:
    return BEFORE + text + BEHIND + b"\n\n"


def padded(text: bytes, padding: bytes) -> bytes:
    return BEFORE + text + b'"},"index":0}],"obfuscation":"' + padding + b'"}\n\n'


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


_paddings = st.text("aZ09", max_size=5).map(str.encode)


@given(st.lists(st.tuples(st.text(max_size=6), _paddings), min_size=1, max_size=6), st.booleans(), st.integers(0, 50))
def test_frames_that_are_padded_are_a_run_too(said: list[tuple[str, bytes]], ascii: bool, cut: int) -> None:
    inside = [json.dumps(text, ensure_ascii=ascii)[1:-1].encode("utf-8", "replace") for text, _ in said]
    data = b"".join([padded(text, padding) for text, (_, padding) in zip(inside, said, strict=True)])
    other = b'data: {"id":"c","choices":[],"obfuscation":"x"}\n\n'
    for behind in (b"data: [DONE]\n\n", other + padded(b"later", b"a"), padded(b"later", b"abc")[:cut]):
        taken = PADDED.take(data + behind)
        if taken is None:
            assert not any(inside) or any(i.endswith(b"\\") for i in inside)
        else:
            text, size = taken
            assert (data + behind)[size:] == behind
            assert text == "".join(json.loads(b'"' + i + b'"') for i in inside)


@pytest.mark.parametrize("padding", [b"-", b'a"', b'a","role":"user', b"a\nb", b"\xc3\xa9", b"a\\"])
def test_what_is_more_than_padding_is_not_taken_for_it(padding: bytes) -> None:
    assert PADDED.alone(padded(b"good", padding)) is None
    assert PADDED.take(padded(b"good", padding)) is None
    one = padded(b"good", b"a1")
    assert PADDED.take(one + padded(b"good", padding) + one) in (None, ("good", len(one)))


@given(st.text(max_size=6), st.text("aZ09", max_size=5).map(str.encode))
def test_a_frame_alone_says_what_a_run_of_one_says(text: str, padding: bytes) -> None:
    inside = json.dumps(text)[1:-1].encode()
    for one, data in ((BOTH, frame(inside)), (PADDED, padded(inside, padding))):
        alone = one.alone(data)
        assert alone is None or one.take(data) == (alone, len(data))
        assert alone == text or not text or '"' in text
        assert one.alone(data[:-1]) is None
        assert one.alone(data + data) is None


def test_padding_is_told_from_what_stands_around_it() -> None:
    assert around(padded(b"hello", b"Xy7"), "hello", said) == PADDED
    assert around(padded(b"hello", b""), "hello", said) == PADDED
    # What is no padding stands behind the text as it is.
    odd = padded(b"hello", b"a-b")
    assert around(odd, "hello", said) == Around(BEFORE, b'"},"index":0}],"obfuscation":"a-b"}')


def test_an_answer_is_guessed_to_be_as_the_last_one_of_its_model() -> None:
    known = Known()
    told = [("tier", msgspec.Raw(b'"t"'))]
    assert known.guess("d", "m") is None
    assert known.around(padded(b"hello", b"Xy7"), "hello", said, "c", "m", told) == PADDED
    guess = known.guess("dd", "m")
    assert guess is not None
    assert guess[0].alone(padded(b"bye", b"").replace(b'"c"', b'"dd"')) == "bye"
    assert guess[1] == told
    # Of another model nothing is known; an id that may be written in several ways stands nowhere for certain.
    assert known.guess("dd", "n") is None
    assert known.guess('d"d', "m") is None
    assert known.guess(None, "m") is None


def test_an_answer_that_is_as_one_before_is_not_asked_about_again() -> None:
    known, asked = Known(), []

    def read(data: bytes) -> str | None:
        asked.append(data)
        return said(data)

    for id in (b"c", b"dd", b"c"):
        raw = padded(b"hello", b"Xy7").replace(b'"c"', b'"%b"' % id)
        assert known.around(raw, "hello", read, id.decode(), "m", None) is not None
    assert len(asked) == 1
    for _ in range(2):  # where the id stands nowhere, each is asked about
        assert known.around(padded(b"hello", b"a"), "hello", read, "other", "m", None) is not None
    assert len(asked) == 3
    assert known.around(padded(b"c", b"a"), "c", read, "c", "m", None) is None  # which of the two is the text?

"""Bytes into frames: the same frames wherever the bytes are cut, and however their lines end."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.wire.event_stream import EventStreamFramer
from bursar.wire.framers import FRAMERS
from bursar.wire.framing import MAX_FRAME_BYTES, FrameTooLongError, FramingError, LineFramer, SseFramer, WholeFramer
from support.formats import binary_stream


def _data(pieces: list[bytes], name: str = "sse") -> tuple[list[bytes], bytes]:
    """The data of all frames, and all raw bytes put together again."""
    cutter = FRAMERS[name]()
    frames = [f for piece in pieces for f in cutter.feed(piece)] + cutter.close()
    return [f.data for f in frames if f.data is not None], b"".join(f.raw for f in frames)


STREAM = (
    b": heartbeat\n\n"
    b'data: {"a": 1}\n\n'
    b'data:{"b": 2}\n\n'
    b"event: message\nid: 7\ndata: first\ndata: second\n\n"
    b": in the middle\ndata: third\n: and behind\n\n"
    b"\n"
    b'data: {"text": "\xe2\x80\xa8 and \xc2\x85 and \xf0\x9f\x98\x80"}\n\n'
    b"data: [DONE]\n\n"
)
EXPECTED = [
    b'{"a": 1}',
    b'{"b": 2}',
    b"first\nsecond",
    b"third",
    b'{"text": "\xe2\x80\xa8 and \xc2\x85 and \xf0\x9f\x98\x80"}',
    b"[DONE]",
]


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_a_stream_cut_anywhere_gives_the_same_frames_and_its_bytes_again(eol: bytes) -> None:
    stream = STREAM.replace(b"\n", eol)
    for cut in range(len(stream) + 1):
        data, raw = _data([stream[:cut], stream[cut:]])
        assert (data, raw) == (EXPECTED, stream), cut
    data, raw = _data([bytes([b]) for b in stream])
    assert (data, raw) == (EXPECTED, stream)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_a_stream_cut_in_many_places_gives_the_same_frames(cuts: list[int], eol: bytes) -> None:
    stream = STREAM.replace(b"\n", eol)
    edges = [0, *sorted(min(c, len(stream)) for c in cuts), len(stream)]
    data, raw = _data([stream[a:b] for a, b in itertools.pairwise(edges)])
    assert (data, raw) == (EXPECTED, stream)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_no_bytes_make_a_framer_fail_or_lose_any(noise: bytes, cut: int) -> None:
    for name in ("sse", "ndjson", "json"):
        whole, split = _data([noise], name), _data([noise[:cut], noise[cut:]], name)
        assert whole == split
        assert whole[1] == noise


def test_frames_leave_as_soon_as_they_are_whole_even_where_lines_end_with_cr() -> None:
    cutter = SseFramer()
    assert [f.data for f in cutter.feed(b"data: [DONE]\r\r")] == [b"[DONE]"]
    assert [f.data for f in cutter.feed(b"\ndata: x\r\n\r\n")] == [None, b"x"]


def test_a_byte_order_mark_is_not_part_of_the_first_field() -> None:
    assert _data([b"\xef\xbb\xbfdata: x\n\n"])[0] == [b"x"]


def test_a_last_line_without_an_end_still_counts() -> None:
    assert _data([b"data: [DONE]"])[0] == [b"[DONE]"]
    assert _data([b'{"a": 1}\n{"b": 2}'], "ndjson")[0] == [b'{"a": 1}', b'{"b": 2}']


def test_lines_of_json_are_frames_and_empty_ones_are_not() -> None:
    cutter = LineFramer()
    frames = cutter.feed(b'{"a": 1}\r\n\r\n{"b"') + cutter.feed(b": 2}\n") + cutter.close()
    assert [f.data for f in frames] == [b'{"a": 1}', None, b'{"b": 2}']


def test_a_whole_body_is_one_frame() -> None:
    cutter = WholeFramer()
    assert cutter.feed(b'{"a"') == []
    assert cutter.feed(b": 1}\n") == []
    assert [f.data for f in cutter.close()] == [b'{"a": 1}']


def test_a_frame_without_an_end_is_refused_at_a_bound() -> None:
    cutter = SseFramer()
    with pytest.raises(FrameTooLongError):
        for _ in range(MAX_FRAME_BYTES // 2**20 + 1):
            cutter.feed(b"x" * 2**20)


def test_what_stands_before_a_broken_message_is_read_however_it_is_cut() -> None:
    good = binary_stream(("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Good day."}}))
    broken = bytearray(good)
    broken[-1] ^= 1
    whole = good + bytes(broken)
    for cuts in [[len(whole)], *([cut, len(whole)] for cut in range(len(whole))), list(range(len(whole) + 1))]:
        cutter, read, at = EventStreamFramer(), [], 0
        with pytest.raises(FramingError, match="broken"):
            for cut in cuts:
                read += cutter.feed(whole[at:cut])
                at = cut
            read += cutter.close()
        assert b"".join(frame.raw for frame in read) == good, cuts

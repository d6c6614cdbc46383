"""Recorded exchanges of every format: what is read of them is what the vendor's own SDK reads of the same bytes, and the
same wherever they are cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from bursar.types.events import TextDelta
from bursar.wire import spec as specs
from bursar.wire.assemble import Assembly
from bursar.wire.engine import Decoder
from bursar.wire.readers import Readers
from bursar.wire.values import read_error
from support.corpus import FILES, Read, body_of, exchanges, is_stream, reading

EVERY_SPLIT_BYTES, LAST_BYTES = 8192, 4096

pytestmark = [pytest.mark.corpus, pytest.mark.timeout(1800)]


def _readers(name: str) -> Readers:
    kind, operation = FILES[name]
    return Readers(specs.build(kind).operations[operation])


def _events(readers: Readers, body: bytes, cuts: list[int], *, stream: bool) -> tuple[list[Any], Decoder]:
    decoder = Decoder(readers, stream=stream)
    frames = [f for a, b in pairwise([0, *cuts, len(body)]) for f in decoder.feed(body[a:b])] + decoder.close()
    events: list[Any] = []
    for event in [e for f in frames for e in f.events]:
        before = events[-1] if events else None
        if isinstance(event, TextDelta) and isinstance(before, TextDelta) and event.choice == before.choice:
            events[-1] = TextDelta(before.text + event.text, event.choice)
        else:
            events.append(event)
    return events, decoder


@pytest.mark.parametrize(("name", "exchange"), exchanges(good=True))
def test_a_recorded_answer_is_read_as_its_vendors_sdk_reads_it(name: str, exchange: Read) -> None:
    stream, wanted = is_stream(exchange), reading(name, exchange)
    events, decoder = _events(_readers(name), body_of(exchange), [], stream=stream)
    read = Assembly()
    read.take(events)
    assert decoder.finished or decoder.is_whole or read.error is not None
    if "error" in wanted:
        assert read.error is not None
        assert read.error.message in wanted["error"]["message"]
        return
    if "count" in wanted:
        assert read.text is None
        return
    if "vectors" in wanted:
        assert read.vectors == wanted["vectors"]
    else:
        assert (read.text or "") == wanted["text"]
        if not stream or "responses" not in name:
            assert (read.reasoning or "") == wanted["reasoning"]
        assert read.finish_reason == wanted["finish"]
        calls = [[call.id, call.name, json.loads(call.arguments or "{}")] for call in read.tool_calls]
        assert [call[1:] for call in calls] == [call[1:] for call in wanted["calls"]]
        # Where a vendor gives no id, one is made.
        assert all(mine[0] == (theirs[0] or mine[0]) for mine, theirs in zip(calls, wanted["calls"], strict=True))
    usage = read.usage
    counts = (
        [usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.provider_total_tokens] if usage else None
    )
    if wanted["usage"] is not None:
        assert (counts or [None] * 4)[: len(wanted["usage"])] == wanted["usage"]


@pytest.mark.parametrize(
    ("name", "exchange"), [p for p in exchanges(good=True) if p.values[1] is None or is_stream(p.values[1])]
)
def test_a_recorded_stream_gives_the_same_events_wherever_it_is_cut(name: str, exchange: Read) -> None:
    readers, body = _readers(name), body_of(exchange)
    events, _ = _events(readers, body, [], stream=True)
    assert _events(readers, body, list(range(1, len(body))), stream=True)[0] == events
    first = 0 if len(body) <= EVERY_SPLIT_BYTES else len(body) - LAST_BYTES
    for cut in range(first, len(body) + 1):
        assert _events(readers, body, [cut], stream=True)[0] == events, cut
    if exchange["body_encoding"] != "base64":
        for eol in (b"\r\n", b"\r"):
            other = body.replace(b"\r\n", b"\n").replace(b"\n", eol)
            assert _events(readers, other, [], stream=True)[0] == events
            assert _events(readers, other, list(range(1, len(other))), stream=True)[0] == events
            for cut in range(max(0, len(other) - 512), len(other) + 1):
                assert _events(readers, other, [cut], stream=True)[0] == events, (eol, cut)


@pytest.mark.parametrize(("name", "exchange"), exchanges(good=False))
def test_a_recorded_error_is_read_as_its_vendors_sdk_reads_it(name: str, exchange: Read) -> None:
    report, wanted = read_error(_readers(name), body_of(exchange)), reading(name, exchange)["error"]
    assert report is not None
    assert wanted["status"] == exchange["status"]
    assert report.message in wanted["message"]

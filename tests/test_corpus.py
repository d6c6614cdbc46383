"""Recorded exchanges of real vendors, read as the same events wherever their bytes are cut."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bursar.types.events import TextDelta
from bursar.wire import spec as specs
from bursar.wire.assemble import Assembly
from bursar.wire.engine import Decoder
from bursar.wire.readers import Readers

CORPUS = Path(os.environ.get("CORPUS_DIR", "../shared/corpus"))
OPENAI_SHAPED = (
    "openai",
    "azure",
    "cerebras",
    "crusoe",
    "deepseek",
    "groq",
    "heroku",
    "huggingface",
    "openrouter",
    "mistral",
    "zai",
)
READERS = Readers(specs.build("openai").operations["chat"])
EVERY_SPLIT_BYTES = 8192
LAST_BYTES = 4096

pytestmark = [pytest.mark.corpus, pytest.mark.timeout(1800)]


def _exchanges(*, stream: bool) -> list[Any]:
    if not CORPUS.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip("no corpus: CORPUS_DIR names no folder"))]
    found = []
    for vendor in OPENAI_SHAPED:
        path = CORPUS / f"{vendor}-chat.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            exchange = json.loads(line)
            if exchange["status"] == 200 and bool((exchange["request"] or {}).get("stream")) == stream:
                found.append(pytest.param(exchange, id=exchange["id"]))
    return found


def _events(pieces: list[bytes], *, stream: bool) -> tuple[list[Any], Decoder]:
    decoder = Decoder(READERS, stream=stream)
    frames = [f for piece in pieces for f in decoder.feed(piece)] + decoder.close()
    events: list[Any] = []
    for event in [e for f in frames for e in f.events]:
        before = events[-1] if events else None
        # Pieces of a text that come in one read may be one event: only what they say together is the same.
        if isinstance(event, TextDelta) and isinstance(before, TextDelta) and event.choice == before.choice:
            events[-1] = TextDelta(before.text + event.text, event.choice)
        else:
            events.append(event)
    return events, decoder


def _assembled(events: list[Any]) -> Assembly:
    assembly = Assembly()
    assembly.take(events)
    return assembly


@pytest.mark.parametrize("exchange", _exchanges(stream=True))
def test_a_recorded_stream_gives_the_same_events_wherever_it_is_cut(exchange: dict[str, Any]) -> None:
    body = exchange["body"].encode()
    events, decoder = _events([body], stream=True)
    read = _assembled(events)
    assert decoder.finished or read.error is not None
    assert read.has_content or read.finish_reason
    assert _events([bytes([b]) for b in body], stream=True)[0] == events
    first = 0 if len(body) <= EVERY_SPLIT_BYTES else len(body) - LAST_BYTES
    for cut in range(first, len(body) + 1):
        assert _events([body[:cut], body[cut:]], stream=True)[0] == events, cut
    for eol in (b"\r\n", b"\r"):
        other = body.replace(b"\r\n", b"\n").replace(b"\n", eol)
        assert _events([other], stream=True)[0] == events
        assert _events([bytes([b]) for b in other], stream=True)[0] == events
        for cut in range(max(0, len(other) - 512), len(other) + 1):
            assert _events([other[:cut], other[cut:]], stream=True)[0] == events, (eol, cut)


@pytest.mark.parametrize("exchange", _exchanges(stream=True))
def test_a_recorded_stream_is_read_as_its_json_says(exchange: dict[str, Any]) -> None:
    """Against a second reading of the same bytes, as plain as can be."""
    text, finish, usage = "", None, None
    arguments: dict[int, str] = {}
    for line in exchange["body"].split("\n"):
        if line.startswith("data: {"):
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices", []):
                text += choice["delta"].get("content") or ""
                finish = choice.get("finish_reason") or finish
                for call in choice["delta"].get("tool_calls") or []:
                    at = call["index"]
                    arguments[at] = arguments.get(at, "") + (call["function"].get("arguments") or "")
    read = _assembled(_events([exchange["body"].encode()], stream=True)[0])
    assert (read.text or "", read.finish_reason) == (text, finish)
    assert [c.arguments for c in read.tool_calls] == [arguments[k] for k in sorted(arguments)]
    if usage is None:
        assert read.usage is None
    else:
        assert read.usage is not None
        assert (read.usage.input_tokens, read.usage.output_tokens) == (
            usage["prompt_tokens"],
            usage["completion_tokens"],
        )


@pytest.mark.parametrize("exchange", _exchanges(stream=False))
def test_a_recorded_answer_is_read_as_its_json_says(exchange: dict[str, Any]) -> None:
    body = json.loads(exchange["body"])
    read = _assembled(_events([exchange["body"].encode()], stream=False)[0])
    if "choices" not in body or not body["choices"]:
        assert read.error is not None or read.text is None
        return
    message = body["choices"][0]["message"]
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if isinstance(part.get("text"), str))
    assert (read.text or "") == (content or "")
    assert read.finish_reason == body["choices"][0]["finish_reason"]
    assert [c.arguments for c in read.tool_calls] == [
        c["function"].get("arguments", "") for c in message.get("tool_calls") or []
    ]
    usage = body.get("usage") or {}
    assert (read.usage.input_tokens if read.usage else None) == usage.get("prompt_tokens")
    assert (read.usage.output_tokens if read.usage else None) == usage.get("completion_tokens")

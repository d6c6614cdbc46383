"""Recorded exchanges of every format: what is read of them against a second reading of the same bytes, as plain as
can be, and the same wherever they are cut."""

from __future__ import annotations

import base64
import json
import os
import re
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bursar.types.events import TextDelta
from bursar.wire import spec as specs
from bursar.wire.assemble import Assembly
from bursar.wire.engine import Decoder
from bursar.wire.readers import Readers
from bursar.wire.values import read_error

CORPUS = Path(os.environ.get("CORPUS_DIR", "../shared/corpus"))
# Files of the corpus, and the type and kind of call that reads them.
FILES = {
    "anthropic-messages": ("anthropic", "chat"),
    "gemini-generate": ("gemini", "chat"),
    "gemini-generate-stream": ("gemini", "chat"),
    "vertex-generate": ("gemini", "chat"),
    "vertex-generate-stream": ("gemini", "chat"),
    "bedrock-converse": ("bedrock", "chat"),
    "bedrock-converse-stream": ("bedrock", "chat"),
    "cohere-chat-v2": ("cohere", "chat"),
    "openai-responses": ("openai", "responses"),
    "azure-responses": ("azure", "responses"),
    "deepseek-responses": ("deepseek", "responses"),
    "openrouter-responses": ("openrouter", "responses"),
    "gemini-embeddings": ("gemini", "embeddings"),
    "cohere-embed-v2": ("cohere", "embeddings"),
    "openai-embeddings": ("openai", "embeddings"),
}
pytestmark = [pytest.mark.corpus, pytest.mark.timeout(1800)]
Read = dict[str, Any]


def _exchanges(*, good: bool) -> list[Any]:
    if not CORPUS.is_dir():
        return [pytest.param(None, None, marks=pytest.mark.skip("no corpus: CORPUS_DIR names no folder"))]
    found = []
    for name in FILES:
        path = CORPUS / f"{name}.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            exchange = json.loads(line)
            if (exchange["status"] == 200) == good:
                found.append(pytest.param(name, exchange, id=f"{name}-{exchange['id']}"))
    return found


def _body(exchange: Read) -> bytes:
    return base64.b64decode(exchange["body"]) if exchange["body_encoding"] == "base64" else exchange["body"].encode()


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


def _is_stream(exchange: Read) -> bool:
    return "stream" in (exchange["content_type"] or "")


def _frames(exchange: Read) -> list[tuple[str | None, Any]]:
    """The frames of a recorded stream: (event, value)."""
    if exchange["body_encoding"] == "base64":
        return _binary_frames(_body(exchange))
    found = []
    event = None
    for line in exchange["body"].replace("\r\n", "\n").split("\n"):
        if line.startswith("event:"):
            event = line[6:].strip()
        elif line.startswith("data:") and line[5:].strip() != "[DONE]":
            found.append((event, json.loads(line[5:])))
        elif not line:
            event = None
    return found


def _binary_frames(body: bytes) -> list[tuple[str | None, Any]]:
    found: list[tuple[str | None, Any]] = []
    while body:
        size, headers = struct.unpack(">II", body[:8])
        event = re.search(rb":event-type\x07(..)(.*)", body[12 : 12 + headers], re.DOTALL)
        assert event is not None
        name = event[2][: int.from_bytes(event[1], "big")].decode()
        found.append((name, json.loads(body[12 + headers : size - 4])))
        body = body[size:]
    return found


def _sum(*counts: int | None) -> int | None:
    there = [c for c in counts if c is not None]
    return sum(there) if there else None


def _messages(exchange: Read) -> Read:
    blocks: dict[int, Read] = {}
    usage: Read = {}
    stop = None
    if not _is_stream(exchange):
        value = json.loads(exchange["body"])
        blocks, usage, stop = dict(enumerate(value["content"])), value["usage"], value["stop_reason"]
    for _, value in _frames(exchange) if _is_stream(exchange) else []:
        if value["type"] == "message_start":
            usage = dict(value["message"]["usage"])
        elif value["type"] == "content_block_start":
            blocks[value["index"]] = {**value["content_block"], "json": ""}
        elif value["type"] == "content_block_delta":
            block, delta = blocks[value["index"]], value["delta"]
            for name in ("text", "thinking"):
                block[name] = block.get(name, "") + delta.get(name, "")
            block["json"] += delta.get("partial_json", "")
        elif value["type"] == "message_delta":
            stop = value["delta"]["stop_reason"]
            usage.update({k: v for k, v in value["usage"].items() if v is not None})
    calls = [
        (b["id"], b["name"], json.loads(b["json"]) if b.get("json") else b["input"])
        for _, b in sorted(blocks.items())
        if b["type"] == "tool_use"
    ]
    cached, written = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
    return {
        "text": "".join(b["text"] for _, b in sorted(blocks.items()) if b["type"] == "text"),
        "reasoning": "".join(b["thinking"] for _, b in sorted(blocks.items()) if b["type"] == "thinking"),
        "calls": calls,
        "finish": stop,
        "usage": (_sum(usage["input_tokens"], cached, written), usage["output_tokens"], cached, None),
    }


def _generate(exchange: Read) -> Read:
    values = [v for _, v in _frames(exchange)] if _is_stream(exchange) else [json.loads(exchange["body"])]
    text = reasoning = ""
    calls = []
    finish = None
    usage: Read = {}
    for value in values:
        usage.update(value.get("usageMetadata", {}))
        finish = value.get("promptFeedback", {}).get("blockReason") or finish
        for candidate in value.get("candidates", [])[:1]:
            finish = candidate.get("finishReason") or finish
            for part in candidate.get("content", {}).get("parts", []):
                if part.get("thought"):
                    reasoning += part.get("text", "")
                else:
                    text += part.get("text", "")
                if "functionCall" in part:
                    calls.append((None, part["functionCall"]["name"], part["functionCall"].get("args", {})))
    total, thoughts = usage.get("totalTokenCount"), usage.get("thoughtsTokenCount")
    return {
        "text": text,
        "reasoning": reasoning,
        "calls": calls,
        "finish": finish,
        "usage": (
            _sum(usage.get("promptTokenCount"), usage.get("toolUsePromptTokenCount")),
            _sum(usage.get("candidatesTokenCount"), thoughts),
            usage.get("cachedContentTokenCount"),
            total,
        ),
    }


def _converse(exchange: Read) -> Read:
    blocks: dict[int, Read] = {}
    if not _is_stream(exchange):
        value = json.loads(exchange["body"])
        content = value["output"]["message"]["content"]
        for n, block in enumerate(content):
            thought = block.get("reasoningContent", {}).get("reasoningText", {}).get("text", "")
            blocks[n] = {"text": block.get("text", ""), "thought": thought, "use": block.get("toolUse"), "json": ""}
        stop, usage = value["stopReason"], value["usage"]
    else:
        stop, usage = None, {}
        for event, value in _frames(exchange):
            block = blocks.setdefault(
                value.get("contentBlockIndex", -1), {"text": "", "thought": "", "use": None, "json": ""}
            )
            if event == "contentBlockStart":
                block["use"] = value["start"].get("toolUse")
            elif event == "contentBlockDelta":
                delta = value["delta"]
                block["text"] += delta.get("text", "")
                block["thought"] += delta.get("reasoningContent", {}).get("text", "")
                block["json"] += delta.get("toolUse", {}).get("input", "")
            elif event == "messageStop":
                stop = value["stopReason"]
            elif event == "metadata":
                usage = value["usage"]
    every = [block for _, block in sorted(blocks.items())]
    return {
        "text": "".join(b["text"] for b in every),
        "reasoning": "".join(b["thought"] for b in every),
        "calls": [
            (b["use"]["toolUseId"], b["use"]["name"], json.loads(b["json"]) if b["json"] else b["use"].get("input", {}))
            for b in every
            if b["use"]
        ],
        "finish": stop,
        "usage": (
            _sum(usage.get("inputTokens"), usage.get("cacheReadInputTokens"), usage.get("cacheWriteInputTokens")),
            usage.get("outputTokens"),
            usage.get("cacheReadInputTokens"),
            usage.get("totalTokens"),
        ),
    }


def _chat_v2(exchange: Read) -> Read:
    value = json.loads(exchange["body"])
    content, usage = value["message"].get("content") or [], value["usage"]
    return {
        "text": "".join(b.get("text", "") for b in content),
        "reasoning": "".join(b.get("thinking", "") for b in content),
        "calls": [
            (c["id"], c["function"]["name"], json.loads(c["function"]["arguments"]))
            for c in value["message"].get("tool_calls") or []
        ],
        "finish": value["finish_reason"],
        "usage": (usage["tokens"]["input_tokens"], usage["tokens"]["output_tokens"], usage.get("cached_tokens"), None),
    }


def _ended(status: str) -> str | None:
    return None if status in ("queued", "in_progress") else status


def _responses(exchange: Read) -> Read:
    if _is_stream(exchange):
        ends = ("response.completed", "response.incomplete", "response.failed")
        value = [v["response"] for _, v in _frames(exchange) if v["type"] in ends][-1]
    else:
        value = json.loads(exchange["body"])
    items = value["output"]
    parts = [p for item in items if item["type"] == "message" for p in item["content"]]
    thoughts = [
        p for item in items if item["type"] == "reasoning" for n in ("summary", "content") for p in item.get(n) or []
    ]
    usage = value["usage"] or {}
    return {
        "text": "".join(p.get("text", "") for p in parts),
        "reasoning": "".join(p["text"] for p in thoughts),
        "calls": [(i["call_id"], i["name"], json.loads(i["arguments"])) for i in items if i["type"] == "function_call"],
        "finish": (value.get("incomplete_details") or {}).get("reason") or _ended(value["status"]),
        "usage": (
            usage.get("input_tokens"),
            usage.get("output_tokens"),
            (usage.get("input_tokens_details") or {}).get("cached_tokens"),
            usage.get("total_tokens"),
        ),
    }


def _second_reading(name: str) -> Callable[[Read], Read]:
    for part, read in (
        ("messages", _messages), ("generate", _generate), ("converse", _converse), ("chat-v2", _chat_v2),
        ("responses", _responses),
    ):  # fmt: skip
        if part in name:
            return read
    raise AssertionError(name)


@pytest.mark.parametrize(("name", "exchange"), _exchanges(good=True))
def test_a_recorded_answer_is_read_as_its_json_says(name: str, exchange: Read) -> None:
    stream = _is_stream(exchange)
    events, decoder = _events(_readers(name), _body(exchange), [], stream=stream)
    read = Assembly()
    read.take(events)
    if "embed" in name:
        value = json.loads(exchange["body"])
        vectors = value["embeddings"] if "embeddings" in value else [d["embedding"] for d in value["data"]]
        vectors = vectors["float"] if isinstance(vectors, dict) else vectors
        assert read.vectors == [v["values"] if isinstance(v, dict) else v for v in vectors]
        return
    wanted = _second_reading(name)(exchange)
    assert decoder.finished or decoder.is_whole
    assert (read.text or "") == wanted["text"]
    if not stream or "responses" not in name:
        assert (read.reasoning or "") == wanted["reasoning"]
    calls = [(c.id, c.name, json.loads(c.arguments or "{}")) for c in read.tool_calls]
    assert [c[1:] for c in calls] == [c[1:] for c in wanted["calls"]]
    assert all(mine[0] == theirs[0] for mine, theirs in zip(calls, wanted["calls"], strict=True) if theirs[0])
    assert read.finish_reason == wanted["finish"]
    usage = read.usage
    counts = (
        (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.provider_total_tokens)
        if usage
        else (None,) * 4
    )
    assert counts == wanted["usage"]


@pytest.mark.parametrize(
    ("name", "exchange"), [p for p in _exchanges(good=True) if p.values[1] is None or _is_stream(p.values[1])]
)
def test_a_recorded_stream_gives_the_same_events_wherever_it_is_cut(name: str, exchange: Read) -> None:
    readers, body = _readers(name), _body(exchange)
    events, _ = _events(readers, body, [], stream=True)
    assert _events(readers, body, list(range(1, len(body))), stream=True)[0] == events
    for cut in range(max(0, len(body) - 2048), len(body) + 1):
        assert _events(readers, body, [cut], stream=True)[0] == events, cut
    if exchange["body_encoding"] != "base64":
        for eol in (b"\r\n", b"\r"):
            other = body.replace(b"\r\n", b"\n").replace(b"\n", eol)
            assert _events(readers, other, list(range(1, len(other))), stream=True)[0] == events


@pytest.mark.parametrize(("name", "exchange"), _exchanges(good=False))
def test_a_recorded_error_is_read_as_its_json_says(name: str, exchange: Read) -> None:
    report = read_error(_readers(name), _body(exchange))
    assert report is not None
    value = json.loads(exchange["body"])
    value = value.get("error", value)
    assert report.message == (value.get("message") or value.get("Message"))

"""The recorded exchanges, and a second reading of each, as plain as can be."""

from __future__ import annotations

import base64
import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CORPUS = Path(os.environ.get("CORPUS_DIR", "../shared/corpus"))
# Files of the corpus, and the type and kind of call that reads them.
FILES = {
    "anthropic-messages": ("anthropic", "chat"),
    "gemini-generate": ("gemini", "chat"),
    "gemini-generate-stream": ("gemini", "chat"),
    "vertex-generate": ("vertex", "chat"),
    "vertex-generate-stream": ("vertex", "chat"),
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
# Files of OpenAI's format, by type; hosts that have no type of their own are read as it.
CHATS = {
    "azure": "azure", "cerebras": "cerebras", "crusoe": "openai", "deepseek": "deepseek", "groq": "groq",
    "heroku": "openai", "huggingface": "huggingface", "mistral": "mistral", "ollama": "openai", "openai": "openai",
    "openrouter": "openrouter", "zai": "zai",
}  # fmt: skip
FILES |= {f"{name}-chat": (kind, "chat") for name, kind in CHATS.items()}
Read = dict[str, Any]


def exchanges(*, good: bool) -> list[Any]:
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


def body_of(exchange: Read) -> bytes:
    return base64.b64decode(exchange["body"]) if exchange["body_encoding"] == "base64" else exchange["body"].encode()


def is_stream(exchange: Read) -> bool:
    return "stream" in (exchange["content_type"] or "")


def frames(exchange: Read) -> list[tuple[str | None, Any]]:
    """The frames of a recorded stream: (event, value)."""
    if exchange["body_encoding"] == "base64":
        return binary_frames(body_of(exchange))
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


def binary_frames(body: bytes) -> list[tuple[str | None, Any]]:
    found: list[tuple[str | None, Any]] = []
    while body:
        size, headers = struct.unpack(">II", body[:8])
        event = re.search(rb":event-type\x07(..)(.*)", body[12 : 12 + headers], re.DOTALL)
        assert event is not None
        name = event[2][: int.from_bytes(event[1], "big")].decode()
        found.append((name, json.loads(body[12 + headers : size - 4])))
        body = body[size:]
    return found


def sum_of(*counts: int | None) -> int | None:
    there = [c for c in counts if c is not None]
    return sum(there) if there else None


def messages(exchange: Read) -> Read:
    blocks: dict[int, Read] = {}
    usage: Read = {}
    stop = None
    if not is_stream(exchange):
        value = json.loads(exchange["body"])
        blocks, usage, stop = dict(enumerate(value["content"])), value["usage"], value["stop_reason"]
    for _, value in frames(exchange) if is_stream(exchange) else []:
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
        "usage": (sum_of(usage["input_tokens"], cached, written), usage["output_tokens"], cached, None),
    }


def generate(exchange: Read) -> Read:
    values = [v for _, v in frames(exchange)] if is_stream(exchange) else [json.loads(exchange["body"])]
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
            sum_of(usage.get("promptTokenCount"), usage.get("toolUsePromptTokenCount")),
            sum_of(usage.get("candidatesTokenCount"), thoughts),
            usage.get("cachedContentTokenCount"),
            total,
        ),
    }


def converse(exchange: Read) -> Read:
    blocks: dict[int, Read] = {}
    if not is_stream(exchange):
        value = json.loads(exchange["body"])
        content = value["output"]["message"]["content"]
        for n, block in enumerate(content):
            thought = block.get("reasoningContent", {}).get("reasoningText", {}).get("text", "")
            blocks[n] = {"text": block.get("text", ""), "thought": thought, "use": block.get("toolUse"), "json": ""}
        stop, usage = value["stopReason"], value["usage"]
    else:
        stop, usage = None, {}
        for event, value in frames(exchange):
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
            sum_of(usage.get("inputTokens"), usage.get("cacheReadInputTokens"), usage.get("cacheWriteInputTokens")),
            usage.get("outputTokens"),
            usage.get("cacheReadInputTokens"),
            usage.get("totalTokens"),
        ),
    }


def chat_v2(exchange: Read) -> Read:
    value = json.loads(exchange["body"])
    content, usage = value["message"].get("content") or [], value["usage"]
    return {
        "text": "".join(b.get("text", "") for b in content),
        "reasoning": (value["message"].get("tool_plan") or "") + "".join(b.get("thinking", "") for b in content),
        "calls": [
            (c["id"], c["function"]["name"], json.loads(c["function"]["arguments"]))
            for c in value["message"].get("tool_calls") or []
        ],
        "finish": value["finish_reason"],
        "usage": (usage["tokens"]["input_tokens"], usage["tokens"]["output_tokens"], usage.get("cached_tokens"), None),
    }


def ended(status: str) -> str | None:
    return None if status in ("queued", "in_progress") else status


def responses(exchange: Read) -> Read:
    if is_stream(exchange):
        ends = ("response.completed", "response.incomplete", "response.failed")
        value = [v["response"] for _, v in frames(exchange) if v["type"] in ends][-1]
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
        "finish": (value.get("incomplete_details") or {}).get("reason") or ended(value["status"]),
        "usage": (
            usage.get("input_tokens"),
            usage.get("output_tokens"),
            (usage.get("input_tokens_details") or {}).get("cached_tokens"),
            usage.get("total_tokens"),
        ),
    }


def chat(exchange: Read) -> Read:
    text = reasoning = ""
    finish, usage, calls = None, {}, {}
    values = [v for _, v in frames(exchange)] if is_stream(exchange) else [json.loads(exchange["body"])]
    for value in values:
        usage = value.get("usage") or (value.get("x_groq") or {}).get("usage") or usage
        for choice in (value.get("choices") or [])[:1]:
            said = choice.get("delta") or choice.get("message") or {}
            content = said.get("content") or ""
            if isinstance(content, list):
                thoughts = [t for p in content if p.get("type") == "thinking" for t in p["thinking"]]
                reasoning += "".join(t["text"] for t in thoughts)
                content = "".join(p["text"] for p in content if isinstance(p.get("text"), str))
            text += content
            reasoning += said.get("reasoning_content") or said.get("reasoning") or ""
            finish = choice.get("finish_reason") or finish
            for n, call in enumerate(said.get("tool_calls") or []):
                made = calls.setdefault(call.get("index", n), [None, None, ""])
                made[0], made[1] = call.get("id") or made[0], call["function"].get("name") or made[1]
                made[2] += call["function"].get("arguments") or ""
    details = usage.get("prompt_tokens_details") or {}
    return {
        "text": text,
        "reasoning": reasoning,
        "calls": [(id, name, json.loads(arguments or "{}")) for _, (id, name, arguments) in sorted(calls.items())],
        "finish": finish,
        "usage": (
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
            details.get("cached_tokens", usage.get("prompt_cache_hit_tokens")),
            usage.get("total_tokens"),
        ),
    }


def second_reading(name: str) -> Callable[[Read], Read]:
    for part, read in (
        ("messages", messages), ("generate", generate), ("converse", converse), ("chat-v2", chat_v2),
        ("responses", responses),
    ):  # fmt: skip
        if part in name:
            return read
    return chat

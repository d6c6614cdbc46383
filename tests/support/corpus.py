"""The recorded exchanges, and what the vendors' own SDKs read of each (`python -m clients.sdks` asks them)."""

from __future__ import annotations

import base64
import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest

CORPUS = Path(os.environ.get("CORPUS_DIR", "../shared/corpus"))
READINGS = Path(__file__).resolve().parents[2] / ".clients" / "readings.json"
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
    "vertex-embeddings": ("vertex", "embeddings"),
    "anthropic-count-tokens": ("anthropic", "count_tokens"),
}
# Files of OpenAI's format, by type; hosts that have no type of their own are read as it.
CHATS = {
    "azure": "azure", "cerebras": "cerebras", "crusoe": "openai", "deepseek": "deepseek", "groq": "groq",
    "heroku": "openai", "huggingface": "huggingface", "mistral": "mistral", "ollama": "openai", "openai": "openai",
    "openrouter": "openrouter", "zai": "zai",
}  # fmt: skip
FILES |= {f"{name}-chat": (kind, "chat") for name, kind in CHATS.items()}
Read = dict[str, Any]
NO_CORPUS = "no corpus: CORPUS_DIR names no folder"


def recorded(name: str) -> list[Read]:
    """The exchanges of a file."""
    path = CORPUS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def exchanges(*, good: bool) -> list[Any]:
    if not CORPUS.is_dir():
        return [pytest.param(None, None, marks=pytest.mark.skip(NO_CORPUS))]
    return [
        pytest.param(name, exchange, id=f"{name}-{exchange['id']}")
        for name in FILES
        for exchange in recorded(name)
        if (exchange["status"] == 200) == good
    ]


@functools.cache
def _readings() -> Read:
    found: Read = json.loads(READINGS.read_text())
    return found


def reading(name: str, exchange: Read) -> Read:
    """What the SDK of the vendor reads of it: `text`, `reasoning`, `calls`, `finish`, `usage` (input and output, both
    inclusive, cached, the vendor's total), or `vectors`, `count`, `error` (`status`, `message`)."""
    found: Read = _readings()[name][exchange["id"]]
    assert "unread" not in found, found
    return found


def body_of(exchange: Read) -> bytes:
    return base64.b64decode(exchange["body"]) if exchange["body_encoding"] == "base64" else exchange["body"].encode()


def is_stream(exchange: Read) -> bool:
    return "stream" in (exchange["content_type"] or "")


def chat_of(body: bytes, *, stream: bool) -> Read:
    """What a client reads of a chat's answer, as plain as can be."""
    text, calls, usage = "", {}, {}
    lines = body.decode().split("\n")
    values = [json.loads(line[5:]) for line in lines if line.startswith("data:") and line[5:].strip() != "[DONE]"]
    for value in values if stream else [json.loads(body)]:
        usage = value.get("usage") or usage
        for choice in (value.get("choices") or [])[:1]:
            said = choice["delta"] if stream else choice["message"]
            text += said.get("content") or ""
            for n, call in enumerate(said.get("tool_calls") or []):
                made = calls.setdefault(call.get("index", n), [None, None, ""])
                made[0], made[1] = call.get("id") or made[0], call["function"].get("name") or made[1]
                made[2] += call["function"].get("arguments") or ""
    return {
        "text": text,
        "calls": [[id, name, json.loads(arguments or "{}")] for _, (id, name, arguments) in sorted(calls.items())],
        "usage": [usage.get("prompt_tokens"), usage.get("completion_tokens")],
    }

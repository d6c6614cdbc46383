"""Every recorded request of a chat, written for providers of other formats: what is written is what the vendors' own SDKs
take, what cannot be is refused by name."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from typing import Any

import pytest

from bursar.types.call import Call
from bursar.types.errors import RequestError
from bursar.wire import spec as specs
from bursar.wire.encode import Way
from bursar.wire.ingress import PARAMETERS, read
from bursar.wire.readers import Endpoint, Readers
from support.corpus import CORPUS, NO_CORPUS, READINGS, Read, recorded

pytestmark = [pytest.mark.corpus, pytest.mark.timeout(600)]
ROOT = READINGS.parent.parent
KINDS = ("anthropic", "bedrock", "gemini", "mistral", "openai")
FILES = {
    "openai-chat": "chat", "groq-chat": "chat", "openrouter-chat": "chat", "huggingface-chat": "chat",
    "mistral-chat": "chat", "anthropic-messages": "messages",
}  # fmt: skip
# Where a request is recorded for a server of OpenAI's format, only what is OpenAI's own is for others to take.
_OWN = frozenset({*PARAMETERS, "messages", "stream"})
_VALUES = {"reasoning_effort": ("none", "default"), "service_tier": ("on_demand",)}


def _asked(exchange: Read, operation: str) -> Read | None:
    """The request as a client of OpenAI's or Anthropic's would make it."""
    request = exchange["request"]
    if exchange["status"] != 200 or not isinstance(request, dict):
        return None
    if operation == "messages":
        return {**request, "model": "p/m"}
    tools = request.get("tools") or []
    if any(tool.get("type") != "function" for tool in tools) or request.get("tool_choice") == "any":
        return None
    kept = {k: v for k, v in request.items() if k in _OWN and v is not None and v not in _VALUES.get(k, ())}
    return {**kept, "model": "p/m"}


@cache  # to make one takes far longer than to write a request by it
def _endpoint(kind: str) -> Endpoint:
    spec = specs.build(kind).operations["chat"]
    return Endpoint(spec, Readers(spec), "http://x", "http://x", spec.request.include_usage is True)


def _body(kind: str, operation: str, asked: Read) -> Read | None:
    """What is written for a provider; None where it is refused. Raises AssertionError where that names no field."""
    endpoint = _endpoint(kind)
    body = json.dumps(asked).encode()
    said = read(operation, body)
    call = Call("id", operation, said.model, said.stream, said.inputs, said.params, said.usual, said.body)
    way = Way(endpoint, operation=operation, asked="p/m", model="m", stream=said.stream, headers=())
    try:
        written: Read = json.loads(way.request(call, ()).body)
    except RequestError as refused:
        if not refused.field:
            pytest.fail(refused.message)
        return None
    return written


@pytest.mark.parametrize("name", FILES)
def test_a_recorded_request_is_written_as_the_vendors_take_it(name: str) -> None:
    if not CORPUS.is_dir():
        pytest.skip(NO_CORPUS)
    operation = FILES[name]
    bodies: list[tuple[str, str, Read]] = []
    refused = 0
    for exchange in recorded(name):
        if (asked := _asked(exchange, operation)) is None:
            continue
        for kind in KINDS:
            body = _body(kind, operation, asked)
            refused += body is None
            if body is not None:
                bodies.append((exchange["id"], kind, body))
    assert len(bodies) > refused
    lines = "".join(json.dumps({"kind": kind, "body": body}) + "\n" for _, kind, body in bodies)
    python = ROOT / ".clients" / "sdks" / "bin" / "python"
    command = [str(python), str(ROOT / "clients" / "check_with_sdks.py")]
    made = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=300, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    said: list[Any] = [json.loads(line) for line in made.stdout.splitlines()]
    wrong = [(id, kind, fault) for (id, kind, _), fault in zip(bodies, said, strict=True) if fault]
    assert not wrong, wrong[:5]

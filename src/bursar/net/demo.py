"""The simulated model: deterministic, needs no key and no network, and fails on request.

A request may carry `"demo": {"delay_ms": 20, "chunks": 8, "error": 429, "usage": false, "cut": true}`:
milliseconds before the answer and between chunks, the number of pieces, an HTTP status to fail with,
whether usage is reported, whether a stream ends without saying so.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Mapping

import msgspec

from bursar.net.transport import Answer
from bursar.wire.encode import Request

_WORD = re.compile(r"\w+|[^\w\s]")
_encode = msgspec.json.Encoder().encode


class _Wish(msgspec.Struct):
    delay_ms: float = 0.0
    chunks: int = 8
    error: int | None = None
    usage: bool = True
    cut: bool = False


class _Asked(msgspec.Struct):
    model: str = "demo"
    messages: list[dict[str, object]] = []
    input: object = None
    stream: bool = False
    stream_options: dict[str, object] | None = None
    demo: _Wish = msgspec.field(default_factory=_Wish)


class DemoTransport:
    """Answers in the format of OpenAI's chat completions and embeddings."""

    is_idle = True  # it has no connections
    leaves_by_turns = False

    async def send(self, request: Request, *, connect_timeout_s: float, deadline: float) -> Answer:
        try:
            asked = msgspec.json.decode(request.body, type=_Asked)
        except msgspec.ValidationError as e:
            return _DemoAnswer(400, _refusal(str(e), "invalid_request_error"))
        async with _until(deadline):
            await asyncio.sleep(asked.demo.delay_ms / 1000)
        if asked.demo.error is not None:
            return _DemoAnswer(asked.demo.error, _refusal("the simulated model was asked to fail", "demo_error"))
        if request.url.endswith("/embeddings"):
            return _DemoAnswer(200, _once(_embeddings(asked)))
        if asked.stream:
            return _DemoAnswer(200, _stream(asked), "text/event-stream")
        return _DemoAnswer(200, _once(_completion(asked)))

    async def close(self) -> None:
        return None


class _DemoAnswer:
    is_over = False

    def __init__(self, status: int, pieces: AsyncIterator[bytes], content_type: str = "application/json") -> None:
        self.status = status
        self.headers: Mapping[bytes, bytes] = {b"content-type": content_type.encode()}
        self._pieces = pieces

    def at_hand(self) -> bytes:
        return b""

    async def read(self, deadline: float) -> bytes:
        async with _until(deadline):
            return await anext(self._pieces, b"")

    def done(self) -> None:
        return None

    def abort(self) -> None:
        return None


def _until(deadline: float) -> asyncio.Timeout:
    return asyncio.timeout(deadline - time.monotonic())


async def _once(body: dict[str, object]) -> AsyncIterator[bytes]:
    yield _encode(body)


async def _refusal(message: str, type: str) -> AsyncIterator[bytes]:
    yield _encode({"error": {"message": message, "type": type, "param": None, "code": None}})


def _words(asked: _Asked) -> list[str]:
    return [word for m in asked.messages for word in _WORD.findall(str(m.get("content") or ""))]


def _reply(asked: _Asked) -> str:
    said = str(asked.messages[-1].get("content") or "") if asked.messages else ""
    return (
        f"This is the simulated model. You said: “{said}”. "
        "Nothing left this machine, and yet the call is on the ledger."
    )


def _usage(asked: _Asked, reply: str) -> dict[str, int]:
    prompt, completion = len(_words(asked)), len(_WORD.findall(reply))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _head(asked: _Asked, kind: str) -> dict[str, object]:
    digest = hashlib.sha256(_encode(asked.messages)).hexdigest()[:24]
    return {"id": f"demo-{digest}", "object": kind, "created": 0, "model": asked.model}


def _completion(asked: _Asked) -> dict[str, object]:
    reply = _reply(asked)
    message = {"role": "assistant", "content": reply}
    body = _head(asked, "chat.completion")
    body["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    if asked.demo.usage:
        body["usage"] = _usage(asked, reply)
    return body


async def _stream(asked: _Asked) -> AsyncIterator[bytes]:
    reply = _reply(asked)
    head = _head(asked, "chat.completion.chunk")
    step = max(1, -(-len(reply) // max(1, asked.demo.chunks)))
    deltas: list[dict[str, object]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": reply[at : at + step]} for at in range(0, len(reply), step)]
    for delta in deltas:
        await asyncio.sleep(asked.demo.delay_ms / 1000)
        yield _data({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    if asked.demo.cut:
        return
    yield _data({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if asked.demo.usage and (asked.stream_options or {}).get("include_usage"):
        yield _data({**head, "choices": [], "usage": _usage(asked, reply)})
    yield b"data: [DONE]\n\n"


def _embeddings(asked: _Asked) -> dict[str, object]:
    inputs = asked.input if isinstance(asked.input, list) else [asked.input]
    data = [
        {
            "object": "embedding",
            "index": n,
            "embedding": [b / 255 for b in hashlib.sha256(str(i).encode()).digest()[:16]],
        }
        for n, i in enumerate(inputs)
    ]
    tokens = sum(len(_WORD.findall(str(i))) for i in inputs)
    body: dict[str, object] = {"object": "list", "data": data, "model": asked.model}
    if asked.demo.usage:
        body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return body


def _data(value: object) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"

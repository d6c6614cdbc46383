"""A provider on loopback that does as each request says, and writes down what it saw.

A request's body may carry `"script"`, an object whose keys are the fields of `Script`; without it the answer
is a plain good one. Answers speak OpenAI's format. It runs on a loop in a thread of its own, on a real socket.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httptools


@dataclass
class Script:
    """What to do with one request."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    chunks: int = 4  # pieces of text in a stream
    text: str | None = None
    delay_s: float = 0.0  # before the status line
    pace_s: float = 0.0  # between chunks
    usage: bool = True
    usage_on_finish: bool = False  # on the finish chunk rather than behind it
    usage_every_chunk: bool = False  # cumulative
    total_only: bool = False
    done: bool = True
    finish: bool = True
    cut_after: int | None = None  # close the socket after so many chunks
    hang_after: int | None = None  # after so many chunks, say nothing more
    linger: bool = False  # keep the body open after [DONE]
    hang_up: bool = False  # close without an answer
    eol: str = "\n"
    comments: int = 0  # heartbeats before the first frame
    early_error: dict[str, Any] | None = None  # an error object as the first frame of a stream, or the body
    late_error: dict[str, Any] | None = None  # an error object after the chunks
    plain: bool = False  # answer a stream with plain JSON
    raw: str | None = None  # these bytes (latin-1) as the body, and nothing else
    content_type: str | None = None
    fail_first: int = 0  # fail so many times (by `key`), then be good
    key: str | None = None
    tool_call: bool = False
    id: str | None = None
    repeat_id: bool = False  # every answer the same id
    extra: dict[str, Any] = field(default_factory=dict)  # unknown fields of the answer
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass
class Seen:
    """One request as the provider saw it, and how it ended."""

    number: int
    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    id: str = ""
    usage: dict[str, Any] | None = None
    completed: bool = False
    closed_at: float | None = None  # when the other side went away before the end

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Upstream:
    """Start with `with Upstream() as up`; `up.base_url` is its address."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.seen: list[Seen] = []
        self.port = 0
        self.on_request: Callable[[Seen], Script | None] | None = None
        self._numbers = itertools.count(1)
        self._failed: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.connections = 0

    @property
    def base_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Upstream:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def wait(self, condition: Callable[[], bool], within_s: float = 10.0) -> None:
        """Waits until the provider has seen what the test waits for."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError("the provider did not see that in time")
            time.sleep(0.005)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1024, ssl=self.tls)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[Seen, Script]:
        seen = Seen(next(self._numbers), path, headers, body, time.monotonic())
        self.seen.append(seen)
        script = self.on_request(seen) if self.on_request else None
        if script is None:
            try:
                script = Script(**(json.loads(body).get("script") or {}))
            except ValueError:
                script = Script()
        seen.id = script.id or ("up-same" if script.repeat_id else f"up-{seen.number}")
        if script.fail_first:
            key = script.key or ""
            self._failed[key] = self._failed.get(key, 0) + 1
            if self._failed[key] > script.fail_first:
                script = Script(**{**script.__dict__, "status": 200, "hang_up": False, "early_error": None})
        return seen, script


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._task: asyncio.Task[None] | None = None
        self._seen: Seen | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._upstream.connections += 1
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._parser = httptools.HttpRequestParser(self)
        self._headers: dict[str, str] = {}
        self._body = b""
        self._path = ""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._seen is not None and not self._seen.completed:
            self._seen.closed_at = time.monotonic()
        if self._task is not None:
            self._task.cancel()

    def on_url(self, url: bytes) -> None:
        self._path = url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._seen, script = self._upstream.take(self._path, self._headers, self._body)
        self._headers, self._body = {}, b""
        self._task = asyncio.ensure_future(self._answer(self._seen, script))

    async def _answer(self, seen: Seen, script: Script) -> None:
        await asyncio.sleep(script.delay_s)
        if script.hang_up:
            self.transport.abort()
            return
        asked = seen.json if seen.body[:1] == b"{" else {}
        if script.raw is not None:
            self._whole(seen, script, script.raw.encode("latin-1"), script.content_type or "text/event-stream")
        elif script.status != 200:
            error = script.early_error or {
                "message": f"failed with {script.status}",
                "type": "test",
                "param": None,
                "code": None,
            }
            self._whole(seen, script, json.dumps({"error": error}).encode())
        elif seen.path.endswith("/embeddings"):
            self._whole(seen, script, json.dumps(_embeddings(seen, script, asked)).encode())
        elif asked.get("stream") and not script.plain:
            await self._stream(seen, script, asked)
        elif script.early_error is not None:
            self._whole(seen, script, json.dumps({"error": script.early_error}).encode())
        else:
            self._whole(seen, script, json.dumps(_completion(seen, script, asked)).encode())

    def _whole(self, seen: Seen, script: Script, body: bytes, content_type: str = "application/json") -> None:
        cut = script.cut_after is not None
        head = [f"HTTP/1.1 {script.status} X", f"content-type: {content_type}", f"content-length: {len(body)}"]
        head += [f"{k}: {v}" for k, v in script.headers.items()]
        # What is written is on its way before it is known to be complete: a kill in between counts as incomplete.
        self.transport.write("\r\n".join(head).encode() + b"\r\n\r\n" + (body[: len(body) // 2] if cut else body))
        if cut:
            self.transport.close()
        else:
            seen.completed = True

    async def _stream(self, seen: Seen, script: Script, asked: dict[str, Any]) -> None:
        head = [
            "HTTP/1.1 200 OK",
            f"content-type: {script.content_type or 'text/event-stream'}",
            "transfer-encoding: chunked",
        ]
        head += [f"{k}: {v}" for k, v in script.headers.items()]
        self.transport.write("\r\n".join(head).encode() + b"\r\n\r\n")
        for _ in range(script.comments):
            self._chunk(f": heartbeat{script.eol}{script.eol}".encode())
            await asyncio.sleep(script.pace_s)
        for sent, frame in enumerate(_frames(seen, script, asked)):
            if script.cut_after is not None and sent >= script.cut_after:
                self.transport.abort()
                return
            if script.hang_after is not None and sent >= script.hang_after:
                return
            if frame == "[DONE]":
                # The end is known to have been on its way before the last bytes are written.
                seen.completed = True
            data = frame if isinstance(frame, str) else json.dumps(frame)
            self._chunk(f"data: {data}{script.eol}{script.eol}".encode())
            await asyncio.sleep(script.pace_s)
        seen.completed = True
        if not script.linger:
            self.transport.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%s\r\n" % (len(data), data))


def usage_of(seen: Seen, script: Script) -> dict[str, Any]:
    """Counts that no two requests share, so that a swap would show."""
    if script.total_only:
        return {"total_tokens": 1000 + seen.number}
    prompt = script.prompt_tokens if script.prompt_tokens is not None else 100 + seen.number
    completion = script.completion_tokens if script.completion_tokens is not None else 10 + seen.number % 7
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": min(prompt, 3)},
        "completion_tokens_details": {"reasoning_tokens": min(completion, 2)},
    }


def _text(seen: Seen, script: Script) -> str:
    return script.text if script.text is not None else f"answer {seen.number} " + "word " * script.chunks


def _completion(seen: Seen, script: Script, asked: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": _text(seen, script)}
    if script.tool_call:
        message = {"role": "assistant", "content": None, "tool_calls": [_tool(seen)]}
    body = {
        "id": seen.id,
        "object": "chat.completion",
        "created": 1,
        "model": f"{asked.get('model')}-2024-07-18",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if script.tool_call else "stop"}],
        **script.extra,
    }
    if script.usage:
        seen.usage = body["usage"] = usage_of(seen, script)
    return body


def _embeddings(seen: Seen, script: Script, asked: dict[str, Any]) -> dict[str, Any]:
    given = asked.get("input")
    inputs = given if isinstance(given, list) else [given]
    data = [{"object": "embedding", "index": n, "embedding": [n + 0.5, -1.25]} for n, _ in enumerate(inputs)]
    body: dict[str, Any] = {"object": "list", "data": data, "model": asked.get("model")}
    if script.usage:
        seen.usage = body["usage"] = {"prompt_tokens": 7 + seen.number, "total_tokens": 7 + seen.number}
    return body


def _tool(seen: Seen) -> dict[str, Any]:
    return {
        "id": f"call_{seen.number}",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
    }


def _frames(seen: Seen, script: Script, asked: dict[str, Any]) -> list[Any]:
    head = {"id": seen.id, "object": "chat.completion.chunk", "created": 1, "model": f"{asked.get('model')}-2024-07-18"}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **script.extra}

    if script.early_error is not None:
        return [{"error": script.early_error}]
    frames = [chunk({"role": "assistant", "content": ""})]
    if script.tool_call:
        tool = _tool(seen)
        whole = tool["function"]["arguments"]
        frames.append(chunk({"tool_calls": [{"index": 0, **tool, "function": {"name": "weather", "arguments": ""}}]}))
        frames += [
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in (whole[:5], whole[5:])
        ]
    else:
        text = _text(seen, script)
        size = max(1, -(-len(text) // max(1, script.chunks)))
        frames += [chunk({"content": text[at : at + size]}) for at in range(0, len(text), size)]
    asked_usage = (asked.get("stream_options") or {}).get("include_usage")
    usage = usage_of(seen, script)
    if script.usage_every_chunk:
        for n, frame in enumerate(frames):
            frame["usage"] = {**usage, "completion_tokens": n, "total_tokens": usage["prompt_tokens"] + n}
    if script.late_error is not None:
        return [*frames, {"error": script.late_error}]
    if script.finish:
        frames.append(chunk({}, "tool_calls" if script.tool_call else "stop"))
    if script.usage and script.usage_on_finish:
        frames[-1]["usage"] = usage
        seen.usage = usage
    elif script.usage and asked_usage:
        frames.append({**head, "choices": [], "usage": usage})
        seen.usage = usage
    return [*frames, "[DONE]"] if script.done else frames

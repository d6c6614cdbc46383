"""The provider behind every gateway: OpenAI's format, as cheap as it can be.

Each answer to the load has the round and the number of its request as its id, so that no two are alike. A model whose
name begins with `stream` is answered by 32 chunks; one that ends with `-5ms` by chunks that far apart. As OpenAI's,
answers say in which second they were made, chunks are padded at random, and heads tell of limits and of the request.
"""

from __future__ import annotations

import asyncio
import random
import re
import string
import time

import httptools

CHUNKS = 32
_PACE_S = 0.005
# What stands in OpenAI's heads beside how an answer is framed; no cookies, which some clients would keep and send back.
_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"Date: Tue, 24 Nov 2026 04:05:06 GMT\r\n"
    b"Content-Type: %b\r\n"
    b"%b\r\n"
    b"Connection: keep-alive\r\n"
    b"access-control-expose-headers: X-Request-ID\r\n"
    b"openai-organization: an-organization\r\n"
    b"openai-processing-ms: 412\r\n"
    b"openai-project: proj_of_a_benchmark\r\n"
    b"openai-version: 2020-10-01\r\n"
    b"x-envoy-upstream-service-time: 415\r\n"
    b"x-ratelimit-limit-requests: 10000\r\n"
    b"x-ratelimit-limit-tokens: 200000\r\n"
    b"x-ratelimit-remaining-requests: 9999\r\n"
    b"x-ratelimit-remaining-tokens: 199966\r\n"
    b"x-ratelimit-reset-requests: 8ms\r\n"
    b"x-ratelimit-reset-tokens: 10ms\r\n"
    b"x-request-id: req_%b\r\n"
    b"cf-cache-status: DYNAMIC\r\n"
    b"strict-transport-security: max-age=31536000; includeSubDomains; preload\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
    b"Server: cloudflare\r\n"
    b"CF-RAY: %b-FRA\r\n"
    b'alt-svc: h3=":443"; ma=86400\r\n'
    b"\r\n"
)
_JSON, _EVENTS = b"application/json", b"text/event-stream; charset=utf-8"
_WORDS = [
    "The",
    "ledger",
    "is",
    "written",
    "before",
    "the",
    "request",
    "leaves",
    "and",
    "settled",
    "once",
    "when",
    "the",
    "answer",
    "ends",
    "so",
    "that",
    "whoever",
    "asks",
    "what",
    "was",
    "spent",
    "has",
    "an",
    "answer",
    "that",
    "adds",
    "up",
    "to",
    "the",
    "last",
    "token",
]
REPLY = " ".join(_WORDS)
_USAGE = b'{"prompt_tokens":19,"completion_tokens":32,"total_tokens":51,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'  # noqa: E501
_CHAT_TAIL = (
    b'","object":"chat.completion","created":%d,"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"'
    + REPLY.encode()
    + b'","refusal":null,"annotations":[]},"logprobs":null,'
    b'"finish_reason":"stop"}],"usage":' + _USAGE + b',"service_tier":"default","system_fingerprint":"fp_560af6e559"}'
)
VECTOR = [((n * 7919) % 2001 - 1000) / 1e4 for n in range(255)]
"""All numbers of an embedding but for its last."""
_EMBEDDING = b",".join(b"%.8f" % number for number in VECTOR)
_EMBEDDINGS = (
    b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[' + _EMBEDDING + b",%.1f]}],"
    b'"model":"text-embedding-3-small","usage":{"prompt_tokens":8,"total_tokens":8}}'
)
_CHUNK = b'","object":"chat.completion.chunk","created":%d,"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_560af6e559","choices":['  # noqa: E501
_BEHIND = b',"usage":null,"obfuscation":"'
_END = b'"}\n\n'
_RANDOM = random.Random(1)
_PADDINGS = [
    "".join(_RANDOM.choices(string.ascii_letters + string.digits, k=_RANDOM.randint(1, 16))).encode()
    for _ in range(997)
]
TEXTS = [" " + _WORDS[n % len(_WORDS)] for n in range(CHUNKS - 3)]
"""The texts of a stream, a frame each."""
_DELTAS = [
    b'{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]',
    *(
        b'{"index":0,"delta":{"content":"' + text.encode() + b'"},"logprobs":null,"finish_reason":null}]'
        for text in TEXTS
    ),
    b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]',
]
_ASKED = re.compile(rb"round (\d{1,6}) request (\d{1,6}):")


def _asked_in(body: bytes) -> tuple[int, int]:
    """The round and the number that a request of the load says in its last message; zeros where it says none."""
    found = _ASKED.match(body, max(0, body.rfind(b"round ", 0, max(0, body.rfind(b" request ")))))
    return (int(found[1]), int(found[2])) if found is not None else (0, 0)


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def frames_of(id: bytes) -> list[bytes]:
    """The frames of one streamed answer."""
    head = b'data: {"id":"' + id + _CHUNK % int(time.time())
    first = int(id[-6:]) * 37 % (len(_PADDINGS) - CHUNKS)
    *paddings, last = _PADDINGS[first : first + len(_DELTAS) + 1]
    usage = head + b'],"usage":' + _USAGE + b',"obfuscation":"' + last + _END
    frames = [head + delta + _BEHIND + padding + _END for delta, padding in zip(_DELTAS, paddings, strict=True)]
    return [*frames, usage, b"data: [DONE]\n\n"]


class _Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._body:  # somebody looks whether there is anybody
            self._url = b""
            self._plain(b'{"object":"list","data":[]}')
            return
        # The model stands in the beginning or at the end of a body, wherever its messages are.
        first, last = self._body[0][:1024], self._body[-1][-1024:]
        asked = _asked_in(b"".join(self._body))
        url, self._url, self._body = self._url, b"", []
        id = b"chatcmpl-%06d%06d" % asked
        if url.endswith(b"/embeddings"):
            self._plain(_EMBEDDINGS % float(id[9:]), id[9:])
        elif b'"stream-chat' in first or b'"stream-chat' in last:
            self._stream(id, paced=b"-5ms" in first or b"-5ms" in last)
        else:
            self._plain(b'{"id":"' + id + _CHAT_TAIL % int(time.time()), id[9:])

    def _plain(self, body: bytes, id: bytes = b"0") -> None:
        self._transport.write(_HEAD % (_JSON, b"Content-Length: %d" % len(body), id, id) + body)

    def _stream(self, id: bytes, *, paced: bool) -> None:
        frames = [_chunked(frame) for frame in frames_of(id)]
        frames[-1] += b"0\r\n\r\n"
        self._transport.write(_HEAD % (_EVENTS, b"Transfer-Encoding: chunked", id[9:], id[9:]))
        if paced:
            asyncio.get_running_loop().call_later(_PACE_S, self._next, frames, 0)
        else:
            for frame in frames:
                self._transport.write(frame)

    def _next(self, frames: list[bytes], at: int) -> None:
        if self._transport.is_closing():
            return
        if at == len(frames) - 2:
            self._transport.write(frames[at] + frames[at + 1])
            return
        self._transport.write(frames[at])
        asyncio.get_running_loop().call_later(_PACE_S, self._next, frames, at + 1)


async def listen(port: int) -> int:
    """Listens on a port of loopback, of 0 on a free one, and returns it."""
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", port, backlog=2048)
    return int(server.sockets[0].getsockname()[1])

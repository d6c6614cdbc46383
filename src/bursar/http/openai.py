"""OpenAI's endpoints: a request's bytes into a call, a call's frames back to the client.

An OpenAI-shaped answer passes through byte for byte, except the usage frame that only bursar asked for. The
status line waits for the first frame that says something, so an early error is still an HTTP error.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bursar.gateway.gateway import Gateway
from bursar.gateway.running import Running
from bursar.http.answers import Send, passed_headers, send_error, send_json
from bursar.http.auth import Principal
from bursar.ledger.ids import uuid7
from bursar.ledger.ledger import now_us
from bursar.types.call import CHAT, EMBEDDINGS, Call
from bursar.types.errors import BursarError, ProviderError, RequestError, UnknownModelError
from bursar.wire.assemble import encode_json
from bursar.wire.engine import Frame
from bursar.wire.ingress import read
from bursar.wire.render import DONE, ChunkRenderer, error_frame

OPERATIONS = {"/v1/chat/completions": CHAT, "/v1/embeddings": EMBEDDINGS}

# A client's own headers travel to the provider, except what is about this connection, this caller or bursar.
_NOT_FORWARDED = frozenset(
    {
        "accept", "accept-encoding", "api-key", "authorization", "connection", "content-length", "content-type",
        "cookie", "expect", "forwarded", "host", "idempotency-key", "keep-alive", "origin", "proxy-authorization",
        "proxy-connection", "referer", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "via",
        "x-api-key", "x-real-ip", "x-request-id",
    }
)  # fmt: skip
_NOT_FORWARDED_PREFIXES = ("x-bursar-", "x-stainless-", "x-forwarded-", "sec-", "access-control-")
_READ_HERE = ("authorization", "content-length", "idempotency-key", "x-request-id", "x-stainless-retry-count")
# What official SDKs say of themselves with every request.
_STAINLESS = (
    "arch", "async", "custom-poll-interval", "helper-method", "lang", "os", "package-version", "poll-helper",
    "raw-response", "read-timeout", "runtime", "runtime-version", "timeout",
)  # fmt: skip
_PASSED_OVER = frozenset(
    name.encode() for name in (*_NOT_FORWARDED.difference(_READ_HERE), *(f"x-stainless-{n}" for n in _STAINLESS))
)
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def headers_of(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """A request's headers by name, without those that nothing here looks at."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs if name not in _PASSED_OVER}


async def serve(
    gateway: Gateway,
    principal: Principal,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    send: Send,
) -> None:
    """Answers one request to a metered endpoint; being cancelled is being left by the client."""
    call_id = uuid7(now_us())
    ours = [(b"x-bursar-call-id", call_id.encode())]
    try:
        running = gateway.run(_call(call_id, OPERATIONS[path], principal, headers, body))
    except BursarError as error:
        await send_error(send, error, ours)
        return
    try:
        try:
            await running.start()
        except BursarError as error:
            await send_error(send, error, _with_attempts(running, ours))
            return
        if running.call.stream:
            await _stream(running, send, _answer_headers(running, ours))
        else:
            await send_json(send, 200, _whole(running), _answer_headers(running, ours))
    finally:
        running.close()


def _call(call_id: str, operation: str, principal: Principal, headers: Mapping[str, str], body: bytes) -> Call:
    asked = read(operation, body)
    context = principal.context(headers)
    if context.request_id is None and "x-request-id" in headers:
        context = msgspec.structs.replace(context, request_id=headers["x-request-id"][:256])
    retries = headers.get("x-stainless-retry-count")
    key = headers.get("idempotency-key")
    if key is not None and len(key) > 256:
        raise RequestError("the header idempotency-key is longer than 256 characters", field="idempotency-key")
    return Call(
        call_id=call_id,
        operation=operation,
        model=asked.model,
        fields=asked.fields,
        stream=asked.stream,
        context=context,
        key_id=principal.key_id,
        idempotency_key=key,
        client_retries=_small_count(retries) if retries is not None else None,
        headers=_forwarded(headers) if headers.keys() - _NOT_FORWARDED else (),
    )


def _small_count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else None


def _forwarded(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, value)
        for name, value in headers.items()
        if name not in _NOT_FORWARDED
        and not name.startswith(_NOT_FORWARDED_PREFIXES)
        and value.isascii()  # HTTP says nothing of the others' encoding
    )


def _whole(running: Running) -> bytes:
    """The body of an answer that was not asked for as a stream: as it came, or in OpenAI's shape."""
    attempt = running.attempt
    assert attempt is not None
    if attempt.decoder.is_whole and attempt.target.provider.spec.shape == "openai":
        return attempt.whole
    if running.call.operation == EMBEDDINGS:
        return _embeddings(running)
    model = attempt.assembly.model or attempt.target.model
    completion = attempt.assembly.as_completion(id=running.call.call_id, model=model, created=int(time.time()))
    return encode_json(completion)


def _embeddings(running: Running) -> bytes:
    result = running.result
    assert result is not None
    usage = result.usage
    data = [{"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(result.vectors or [])]
    body: dict[str, object] = {"object": "list", "data": data, "model": result.model}
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage.input_tokens, "total_tokens": usage.total_tokens}
    return encode_json(body)


async def _stream(running: Running, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [*_STREAM_HEADERS, *headers]})
    writer = _writer(running)
    try:
        while (frames := await running.next()) is not None:
            data = writer.write(frames)
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        tail = writer.end()
    except ProviderError as error:
        attempt = running.attempt
        # The provider's own error frame has passed already; a failure we saw needs one of ours.
        passed = attempt is not None and attempt.assembly.error is not None
        tail = b"" if passed else error_frame(error.message, code=error.kind)
    await send({"type": "http.response.body", "body": tail})


class _Passing:
    """Frames as they came."""

    def __init__(self, running: Running) -> None:
        attempt = running.attempt
        assert attempt is not None
        self._added_usage = attempt.request.added_usage

    def write(self, frames: Sequence[Frame]) -> bytes:
        if len(frames) == 1:
            return b"" if self._added_usage and frames[0].usage_only else frames[0].raw
        if self._added_usage:
            return b"".join([f.raw for f in frames if not f.usage_only])
        return b"".join([f.raw for f in frames])

    def end(self) -> bytes:
        return b""


class _Rendering:
    """Frames written anew, for an answer of another shape."""

    def __init__(self, running: Running) -> None:
        attempt = running.attempt
        assert attempt is not None
        self._running = running
        self._asked_usage = not attempt.request.added_usage and _asked_for_usage(running.call)
        self._renderer = ChunkRenderer(
            id=attempt.assembly.id or running.call.call_id,
            model=attempt.assembly.model or attempt.target.model,
            created=int(time.time()),
        )

    def write(self, frames: Sequence[Frame]) -> bytes:
        return b"".join(self._renderer.render(f.events) for f in frames)

    def end(self) -> bytes:
        result = self._running.result
        usage = result.usage if result is not None else None
        return (self._renderer.usage(usage) if usage is not None and self._asked_usage else b"") + DONE


def _writer(running: Running) -> _Passing | _Rendering:
    attempt = running.attempt
    assert attempt is not None
    passes = attempt.target.provider.spec.shape == "openai" and not attempt.decoder.is_whole
    return _Passing(running) if passes else _Rendering(running)


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


def _asked_for_usage(call: Call) -> bool:
    given = call.fields.get("stream_options")
    try:
        options = msgspec.json.decode(given, type=_StreamOptions | None) if given is not None else None
    except msgspec.MsgspecError:
        return False
    return options is not None and options.include_usage is True


def _answer_headers(running: Running, ours: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    attempt = running.attempt
    assert attempt is not None
    assert attempt.answer is not None
    return [*_with_attempts(running, ours), *passed_headers(attempt.answer.headers)]


def _with_attempts(running: Running, ours: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    attempt = running.attempt
    if attempt is None:
        return ours
    return [
        *ours,
        (b"x-bursar-provider", attempt.target.provider.name.encode()),
        (b"x-bursar-attempts", b"%d" % running.attempts),
    ]


def models(gateway: Gateway) -> bytes:
    """The list of models that can be asked for by name."""
    return encode_json({"object": "list", "data": [_model(name, owner) for name, owner in gateway.registry.models()]})


def model(gateway: Gateway, name: str) -> bytes:
    """One model. Raises UnknownModelError."""
    if not name:
        raise UnknownModelError("name a model: /v1/models/NAME", field="model")
    target = gateway.registry.resolve(name)[0]
    return encode_json(_model(name, "bursar" if name in gateway.registry.routes else target.provider.name))


def _model(name: str, owner: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}

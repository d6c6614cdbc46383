"""OpenAI's endpoints: a request's bytes into a call, a call's frames back to the client.

An OpenAI-shaped answer passes through byte for byte, except the usage frame that only bursar asked for. The
status line waits for the first frame that says something, so an early error is still an HTTP error.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec
from msgspec.structs import astuple

from bursar.gateway.gateway import Gateway
from bursar.gateway.running import Running
from bursar.http.answers import JSON_LINE, MethodError, answer_error, passed_headers
from bursar.http.auth import KeyRing, Principal
from bursar.http.cycle import Cycle, Headers, lines_of
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
_READ_HERE = ("idempotency-key", "x-request-id")
# What official SDKs say of themselves with every request.
_STAINLESS = (
    "arch", "async", "custom-poll-interval", "helper-method", "lang", "os", "package-version", "poll-helper",
    "raw-response", "read-timeout", "runtime", "runtime-version", "timeout",
)  # fmt: skip
_PASSED_OVER = frozenset(
    name.encode() for name in (*_NOT_FORWARDED.difference(_READ_HERE), *(f"x-stainless-{n}" for n in _STAINLESS))
)
_STREAM_LINES = (
    b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
)


async def serve(gateway: Gateway, ring: KeyRing, most_bytes: int, cycle: Cycle) -> None:
    """Answers one request to a metered endpoint; being cancelled is being left by the client."""
    call_id = uuid7(now_us())
    running = None
    try:
        headers = cycle.head.named
        principal = ring.authenticate(headers.get(b"authorization"))
        if cycle.head.method != b"POST":
            raise MethodError(f"{cycle.head.path} knows POST only")
        body = await cycle.body(most_bytes)
        if body is None:
            return
        running = gateway.run(_call(call_id, OPERATIONS[cycle.head.path], principal, headers, body))
        await running.start()
        if running.call.stream:
            await _stream(running, cycle, _STREAM_LINES + _lines(running))
        else:
            if cycle.is_choked:
                await cycle.drained()
            cycle.answer(200, JSON_LINE + _lines(running), _whole(running))
    except BursarError as error:
        answer_error(cycle, error, _with_attempts(running, call_id))
    except Exception:
        # A fault of ours, in the same shape as any error; where the answer had begun, the cycle ends it.
        with suppress(RuntimeError):
            answer_error(cycle, BursarError(), _with_attempts(running, call_id))
        raise
    finally:
        if running is not None:
            running.close()


def _call(call_id: str, operation: str, principal: Principal, headers: Mapping[bytes, bytes], body: bytes) -> Call:
    asked = read(operation, body)
    others = headers.keys() - _PASSED_OVER
    if not others:
        model, stream, inputs, params, usual = astuple(asked)
        return Call(call_id, operation, model, stream, body, inputs, params, usual, principal.plain, principal.key_id)
    given = {name.decode("latin-1"): headers[name].decode("latin-1") for name in others}
    context = principal.context(given)
    if context.request_id is None and "x-request-id" in given:
        context = msgspec.structs.replace(context, request_id=given["x-request-id"][:256])
    retries = given.get("x-stainless-retry-count")
    key = given.get("idempotency-key")
    if key is not None and len(key) > 256:
        raise RequestError("the header idempotency-key is longer than 256 characters", field="idempotency-key")
    return Call(
        call_id,
        operation,
        asked.model,
        asked.stream,
        body,
        asked.inputs,
        asked.params,
        asked.usual,
        context,
        principal.key_id,
        idempotency_key=key,
        client_retries=_small_count(retries) if retries is not None else None,
        headers=_forwarded(given) if given.keys() - _NOT_FORWARDED else (),
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
    if attempt.decoder.is_whole and attempt.request.endpoint.spec.speaks == running.call.operation:
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


async def _stream(running: Running, cycle: Cycle, lines: bytes) -> None:
    cycle.begin(200, lines)
    writer = _writer(running)
    try:
        while (frames := await running.next()) is not None:
            data = writer.write(frames)
            if data:
                if cycle.is_choked:
                    await cycle.drained()
                cycle.write(data)
        tail = writer.end()
    except ProviderError as error:
        attempt = running.attempt
        # The provider's own error frame has passed already; a failure we saw needs one of ours.
        passed = attempt is not None and attempt.assembly.error is not None
        tail = b"" if passed else error_frame(error.message, code=error.kind)
    cycle.write(tail, more=False)


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
    passes = attempt.request.endpoint.spec.speaks == running.call.operation and not attempt.decoder.is_whole
    return _Passing(running) if passes else _Rendering(running)


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Streamed(msgspec.Struct):
    stream_options: _StreamOptions | None = None


def _asked_for_usage(call: Call) -> bool:
    try:
        options = msgspec.json.decode(call.params, type=_Streamed).stream_options
    except msgspec.MsgspecError:
        return False
    return options is not None and options.include_usage is True


def _lines(running: Running) -> bytes:
    attempt = running.attempt
    assert attempt is not None
    assert attempt.answer is not None
    lines = b"x-bursar-call-id: %b\r\nx-bursar-provider: %b\r\nx-bursar-attempts: %d\r\n" % (
        running.call.call_id.encode(),
        attempt.target.provider.name.encode(),
        running.attempts,
    )
    passed = passed_headers(attempt.answer.headers)
    return lines + lines_of(passed) if passed else lines


def _with_attempts(running: Running | None, call_id: str) -> Headers:
    ours = [(b"x-bursar-call-id", call_id.encode())]
    if running is None or running.attempt is None:
        return ours
    return [
        *ours,
        (b"x-bursar-provider", running.attempt.target.provider.name.encode()),
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

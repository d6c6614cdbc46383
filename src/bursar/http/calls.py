"""Metered endpoints: a request's bytes into a call, a call's frames back to the client.

The status line waits for the first frame that says something, so an early error is still an HTTP error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import astuple

from bursar.gateway.gateway import Gateway
from bursar.gateway.registry import REMEMBERED_CHARS
from bursar.gateway.running import Running
from bursar.http.answers import JSON_LINE, MethodError, answer_json, passed_lines
from bursar.http.auth import KeyRing, Principal, key_of
from bursar.http.cycle import Cycle, lines_of
from bursar.http.dialects import DIALECTS, Dialect
from bursar.http.heads import Head, Headers
from bursar.ledger.ids import uuid7
from bursar.ledger.ledger import now_us
from bursar.types.call import (
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    EMBEDDINGS,
    IMAGE_EDITS,
    IMAGE_VARIATIONS,
    IMAGES,
    MESSAGES,
    MODERATIONS,
    RERANK,
    RESPONSES,
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    Call,
)
from bursar.types.errors import BursarError, ProviderError, RequestError, UnknownModelError
from bursar.wire.assemble import encode_json
from bursar.wire.forms import is_form
from bursar.wire.ingress import read

OPERATIONS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": COUNT_TOKENS,
    "/v1/responses": RESPONSES,
    "/v1/audio/speech": SPEECH,
    "/v1/audio/transcriptions": TRANSCRIPTIONS,
    "/v1/audio/translations": TRANSLATIONS,
    "/v1/images/generations": IMAGES,
    "/v1/images/edits": IMAGE_EDITS,
    "/v1/images/variations": IMAGE_VARIATIONS,
    "/v1/moderations": MODERATIONS,
    "/v1/rerank": RERANK,
    "/v2/rerank": RERANK,
}

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
_NO_HEADER = re.compile(r"[^\x20-\x7e]")
_JSON = b"application/json"
_EVENTS_LINE = b"content-type: text/event-stream; charset=utf-8\r\n"
_STREAM_LINES = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"


async def serve(gateway: Gateway, ring: KeyRing, most_bytes: int, cycle: Cycle) -> None:
    """Answers one request to a metered endpoint; being cancelled is being left by the client."""
    call_id = uuid7(now_us())
    running = None
    operation = OPERATIONS[cycle.head.path]
    dialect = DIALECTS[operation]
    try:
        headers = cycle.head.named
        principal = ring.authenticate(headers.get(b"authorization") or key_of(headers))
        if cycle.head.method != b"POST":
            raise MethodError(f"{cycle.head.path} knows POST only")
        body = cycle.at_hand(most_bytes)
        if body is None and (body := await cycle.body(most_bytes)) is None:
            return
        running = gateway.run(_call(gateway, call_id, operation, principal, cycle, body))
        del body  # it may be long, and the call has what is needed of it
        await running.start()
        if running.call.stream:
            kind = _type_line(running) if dialect.keeps_type else _EVENTS_LINE
            await _stream(running, cycle, kind + _STREAM_LINES + _lines(running), dialect)
        else:
            if cycle.is_choked:
                await cycle.drained()
            kind = _type_line(running) if dialect.keeps_type else JSON_LINE
            cycle.answer(200, kind + _lines(running), dialect.whole(running))
    except BursarError as error:
        _refuse(cycle, dialect, error, running, call_id)
    except Exception:
        # A fault of ours, in the same shape as any error; where the answer had begun, the cycle ends it.
        with suppress(RuntimeError):
            _refuse(cycle, dialect, BursarError(), running, call_id)
        raise
    finally:
        if running is not None:
            running.close()


def _refuse(cycle: Cycle, dialect: Dialect, error: BursarError, running: Running | None, call_id: str) -> None:
    status, body, own = dialect.error(error, call_id)
    answer_json(cycle, status, body, [*own, *_with_attempts(running, call_id)])


def _call(gateway: Gateway, call_id: str, operation: str, principal: Principal, cycle: Cycle, body: bytes) -> Call:
    head = cycle.head
    if head.said is None or head.said[0] is not principal:
        head.said = principal, *_said(head, principal)
    _, form, said = head.said
    asked = read(operation, body, form, gateway.openings, cycle.opening)
    model, stream, inputs, params, usual, body = astuple(asked)
    return Call(call_id, operation, model, stream, inputs, params, usual, body, *said)


def _said(head: Head, principal: Principal) -> tuple[str | None, tuple[Any, ...]]:
    """What a head says of a call: the type of a form, where its body is one, and the fields of a call from its context
    on, in their order. Raises RequestError, ForbiddenError."""
    kind = head.named.get(b"content-type", _JSON)
    form = kind.decode("latin-1") if kind != _JSON and is_form(kind) else None
    named = head.named.items()
    given = {name.decode("latin-1"): value.decode("latin-1") for name, value in named if name not in _PASSED_OVER}
    context = principal.context(given)
    if context.request_id is None and "x-request-id" in given:
        context = msgspec.structs.replace(context, request_id=given["x-request-id"][:256])
    key = given.get("idempotency-key")
    if key is not None and len(key) > 256:
        raise RequestError("the header idempotency-key is longer than 256 characters", field="idempotency-key")
    return form, (
        context,
        principal.key_id,
        key,
        _small_count(given.get("x-stainless-retry-count")),
        _forwarded(given),
        form,
        _reference(given, "x-bursar-action"),
        _reference(given, "x-bursar-skill"),
    )


def _reference(given: Mapping[str, str], name: str) -> str | None:
    """What a binding is looked for by."""
    value = given.get(name)
    if value is not None and len(value) > 256:
        raise RequestError(f"the header {name} is longer than 256 characters", field=name)
    return value or None


def _small_count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 4 else None


def _forwarded(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, value)
        for name, value in headers.items()
        if name not in _NOT_FORWARDED
        and not name.startswith(_NOT_FORWARDED_PREFIXES)
        and value.isascii()  # HTTP says nothing of the others' encoding
    )


async def _stream(running: Running, cycle: Cycle, lines: bytes, dialect: Dialect) -> None:
    cycle.begin(200, lines)
    writer = dialect.writer(running)
    begun = writer.begin()
    if begun:
        cycle.write(begun)
    last, tail = b"", None
    try:
        while (frames := await running.next()) is not None:
            data = writer.write(frames)
            if cycle.is_choked:
                await cycle.drained()
            if running.is_over:
                last = data  # it leaves with the end, in one write
                break
            if data:
                cycle.write(data)
        tail = last + writer.end()
    except ProviderError as error:
        tail = writer.failed(error)
    if tail is None:
        cycle.fail()
    else:
        cycle.write(tail, more=False)


def _type_line(running: Running) -> bytes:
    """What the provider says its answer is."""
    assert running.attempt is not None
    assert running.attempt.answer is not None
    return b"content-type: %b\r\n" % running.attempt.answer.headers.get(b"content-type", b"application/octet-stream")


def _lines(running: Running) -> bytes:
    attempt: Any = running.attempt
    opened = attempt.entry.opened
    told = _told if len(opened.model) + len(opened.reason) <= REMEMBERED_CHARS else _told.__wrapped__
    lines: bytes = b"x-bursar-call-id: %b\r\nx-bursar-attempts: %d\r\n%b" % (
        running.call.call_id.encode(), running.attempts, told(opened.provider, opened.model, opened.reason),
    )  # fmt: skip
    return lines + passed_lines(attempt.answer.headers)


def _with_attempts(running: Running | None, call_id: str) -> Headers:
    ours = [(b"x-bursar-call-id", call_id.encode())]
    if running is None or running.attempt is None:
        return ours
    opened = running.attempt.entry.opened
    return [
        *ours,
        (b"x-bursar-attempts", b"%d" % running.attempts),
        *_who(opened.provider, opened.model, opened.reason),
    ]


@lru_cache(maxsize=1024)
def _told(provider: str, model: str, reason: str) -> bytes:
    """Who served, and why they."""
    return lines_of(_who(provider, model, reason))


def _who(provider: str, model: str, reason: str) -> Headers:
    named = (b"x-bursar-provider", provider), (b"x-bursar-model", model), (b"x-bursar-reason", reason)
    # Names may be of any letters; a header is not.
    return [(name, _NO_HEADER.sub("?", value).encode("ascii")) for name, value in named]


def models(gateway: Gateway, principal: Principal) -> bytes:
    """The list of models that can be asked for by name."""
    found = gateway.registry.models(principal.plain.workspace)
    return encode_json({"object": "list", "data": [_model(name, owner) for name, owner in found]})


def model(gateway: Gateway, principal: Principal, name: str) -> bytes:
    """One model. Raises UnknownModelError."""
    if not name:
        raise UnknownModelError("name a model: /v1/models/NAME", field="model")
    plan = gateway.registry.resolve(name, principal.plain.workspace)
    return encode_json(_model(name, "bursar" if plan.is_route else plan.targets[0].provider.name))


def _model(name: str, owner: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}

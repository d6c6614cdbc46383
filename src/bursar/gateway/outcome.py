"""What is written about an attempt: its entry's beginning, its end, and the failures an answer can be."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import astuple

from bursar.gateway.costing import cost_of
from bursar.gateway.provider import Provider, Target, shown_url
from bursar.ledger.bodies import Bodies
from bursar.ledger.ledger import now_us as wall_us
from bursar.ledger.records import Opened, Settled
from bursar.types.call import CHAT, Call, Result, SentRequest
from bursar.types.errors import ProviderError, RateLimitedError
from bursar.types.events import ErrorReport
from bursar.types.usage import NONE, PROVIDER, PROVIDER_PARTIAL, Usage
from bursar.wire.assemble import clean_text, encode_json
from bursar.wire.encode import Request
from bursar.wire.failures import kind_of, retry_after_s
from bursar.wire.values import read_error, read_json

if TYPE_CHECKING:
    from bursar.gateway.attempt import Attempt
    from bursar.gateway.gateway import Gateway

_ASSEMBLED_TEXT = "$.choices[0].message.content"
_SHOWN_BODY_CHARS = 300
_MASK = "***"
_NO_TEXT = (b"application/json", b"text/html")
_NO_FAILURE = (None,) * 3
_NO_COUNTS: tuple[int | None, ...] = (None,) * 10
_NO_MONEY: tuple[int | None, str | None, int | None, str | None, str | None] = (None,) * 5

# The HTTP status an in-band error would have had.
_STATUS_OF_KIND = {"rate_limit": 429, "overloaded": 503, "quota": 429, "timeout": 504, "invalid_request": 400}


def opened(
    bodies: Bodies, call: Call, target: Target, reason: str, request: Request, attempt: int, now_us: int
) -> Opened:
    """The beginning of an entry."""
    context = astuple(call.context)
    input_refs, params_ref, new, messages, params = bodies.asked(context[0], call.inputs, request.params)
    return Opened(  # type: ignore[call-arg]  # the slices are as long as their fields
        now_us,
        call.call_id,
        attempt,
        call.method_type,
        *context[:-1],
        call.key_id,
        call.model,
        *target.shown,
        reason,
        call.idempotency_key,
        call.client_retries,
        request.dropped,
        request.size,
        input_refs,
        params_ref,
        context[-1],
        new,
        messages,
        params,
    )


def settled(gateway: Gateway, call: Call, attempt: Attempt, status: str, error: ProviderError | None) -> Settled:
    """The end of an entry."""
    assembly, entry, answer = attempt.assembly, attempt.entry, attempt.answer
    opened = entry.opened
    output_bytes = assembly.output_bytes()
    if status == "completed":
        usage = assembly.usage
        source = PROVIDER if usage is not None else NONE
    else:
        usage, source = _of_cut_off(gateway, attempt, output_bytes)
    money, usd_rate = _NO_MONEY, None
    if usage is None:
        counts, raw_usage = _NO_COUNTS, None
    else:
        counts, raw_usage = _counts(usage), usage.raw_json
        charged = cost_of(gateway, attempt, usage)
        if charged is not None:
            attempt.cost = charged
            money = (charged.nanos, charged.currency, charged.usd_nanos, charged.source, charged.price)
            usd_rate = charged.usd_rate
    output, text_at, text = _output(call, attempt)
    if output is not None and assembly.error is not None:
        # An error may repeat the credential it is about.
        for secret in _secrets_of(attempt):
            output = output.replace(secret.encode(), _MASK.encode())
    attempt.output = output
    return Settled(  # type: ignore[call-arg]
        wall_us(),
        opened.call_id,
        opened.attempt,
        opened.workspace,
        status,
        (time.monotonic_ns() - entry.started_ns) // 1_000_000,
        _first_token_ms(attempt) if call.stream else None,
        answer.status if answer is not None else None,
        *(_NO_FAILURE if error is None else (error.kind, error.code, error.message)),
        assembly.finish_reason,
        assembly.id,
        assembly.model,
        *counts,
        source,
        raw_usage.decode("utf-8", "replace") if raw_usage is not None else None,
        *money,
        output_bytes,
        text_at,
        output.decode("utf-8", "replace") if output is not None else None,
        text,
        usd_rate,
    )


def _counts(usage: Usage) -> tuple[int | None, ...]:
    """The counts in the order in which entries have them."""
    read, written, cached, cache_writes, reasoning, said, _, _, _, sound, images, searches = astuple(usage)
    total = said if read is None or written is None else read + written
    return read, written, total, cached, cache_writes, reasoning, said, sound, images, searches


def result(call: Call, attempt: Attempt, settled: Settled) -> Result:
    """What is known of a call after its last entry was settled as completed."""
    assembly, provider = attempt.assembly, attempt.target.provider
    return Result(
        call_id=call.call_id,
        attempt=settled.attempt,
        provider=provider.name,
        model=assembly.model or attempt.target.model,
        text=assembly.text,
        finish_reason=assembly.finish_reason,
        tool_calls=assembly.tool_calls,
        reasoning=assembly.reasoning,
        refusal=assembly.refusal,
        usage=assembly.usage,
        usage_source=settled.usage_source,
        cost=attempt.cost,
        vectors=assembly.vectors,
        raw=msgspec.Raw(attempt.output) if attempt.output is not None else None,
        request=as_sent(provider, attempt.request),
        response_time_ms=settled.response_time_ms or 0,
        time_to_first_token_ms=settled.time_to_first_token_ms,
    )


def as_sent(provider: Provider, request: Request) -> SentRequest:
    """The request as it left, its secrets masked."""
    return SentRequest(
        url=shown_url(request.url),
        headers={k: _MASK if k.lower() in provider.secret_headers else v for k, v in request.headers},
        body=msgspec.Raw(request.body),
    )


def http_failure(attempt: Attempt, body: bytes) -> ProviderError:
    """The failure an HTTP error answer is."""
    provider, answer = attempt.target.provider, attempt.answer
    assert answer is not None
    report = read_error(attempt.decoder.readers, body)
    # Some providers repeat the credential they refuse.
    for secret in _secrets_of(attempt):
        body = body.replace(secret.encode(), _MASK.encode())
    text = report.message if report is not None else body[:_SHOWN_BODY_CHARS].decode("utf-8", "replace").strip()
    text = _masked(attempt, text)
    code, type = (report.code, report.type) if report is not None else (None, None)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers.items()}
    type = type or headers.get(attempt.endpoint.spec.error.header or "")
    kind = kind_of(answer.status, code, type)
    error = RateLimitedError if kind == "rate_limit" else ProviderError
    return error(
        f"'{provider.name}' answered {answer.status}: {text or 'with an empty body'}",
        provider=provider.name,
        kind=kind,
        http_status=answer.status,
        code=code,
        type=type,
        retry_after_s=retry_after_s(headers, body),
        headers=tuple(headers.items()),
        body=body,
    )


def _secrets_of(attempt: Attempt) -> tuple[str, ...]:
    secrets = attempt.target.provider.secrets
    return secrets if attempt.token is None else (attempt.token, *secrets)


def _masked(attempt: Attempt, text: str) -> str:
    for secret in _secrets_of(attempt):
        text = text.replace(secret, _MASK)
    return text


def in_band_failure(attempt: Attempt, report: ErrorReport) -> ProviderError:
    """The failure that an error inside an answer of status 200 is."""
    provider = attempt.target.provider
    code = report.code or ""
    status = int(code) if code.isascii() and code.isdigit() and len(code) == 3 else None
    kind = kind_of(status, report.code, report.type)
    return ProviderError(
        f"'{provider.name}' reported an error in its answer: {_masked(attempt, report.message)}",
        provider=provider.name,
        kind=kind,
        http_status=status if status is not None and 400 <= status < 600 else _STATUS_OF_KIND.get(kind, 502),
        code=report.code,
        type=report.type,
    )


def refuse_nothing(attempt: Attempt) -> None:
    """Raises where an answer of status 200 that brought no content is none: empty, not JSON, or an error of a shape
    that has no place for answers."""
    decoder, body, provider = attempt.decoder, attempt.whole, attempt.target.provider
    readers, spec = decoder.readers, decoder.readers.spec
    if not (decoder.is_whole or decoder.is_empty):
        return
    kind = attempt.answer.headers.get(b"content-type", b"").lower() if attempt.answer is not None else b""
    if body and spec.media and spec.answer.text is not None and not kind.startswith(_NO_TEXT):
        return  # subtitles, plain text
    value, _ = read_json(body)
    if readers.is_answer(value):
        return
    shown = body[:_SHOWN_BODY_CHARS].decode("utf-8", "replace").strip() or "nothing"
    raise ProviderError(
        f"'{provider.name}' answered 200 with something that is no answer: {_masked(attempt, shown)}",
        provider=provider.name,
        kind="upstream_error",
    )


def _of_cut_off(gateway: Gateway, attempt: Attempt, output_bytes: int) -> tuple[Usage | None, str]:
    if attempt.decoder.readers.spec.media:
        reported = attempt.assembly.usage
        return reported, NONE if reported is None else PROVIDER_PARTIAL
    return gateway.estimator.of_cut_off(
        attempt.target.provider.name,
        attempt.target.model,
        reported=attempt.assembly.usage,
        is_final=attempt.decoder.saw_finish,
        is_early=attempt.assembly.usage_is_early,
        request_bytes=attempt.entry.opened.request_bytes,
        output_bytes=output_bytes,
    )


def _output(call: Call, attempt: Attempt) -> tuple[bytes | None, str | None, str | None]:
    """The complete answer as JSON; where its text stands in it; the text itself where it stands nowhere."""
    assembly, decoder = attempt.assembly, attempt.decoder
    text_at = decoder.readers.text_at
    if attempt.read_at_once and text_at is not None and attempt.whole.find(b"\\u0000") < 0:
        return attempt.whole.rstrip(), text_at, None
    text = assembly.text
    # SQL's JSON functions end a text at a NUL: such a text is kept beside the answer, not found in it.
    stands_apart = decoder.joined_text or (text is not None and "\0" in text)
    if decoder.is_whole and attempt.whole:
        body = attempt.whole.strip() if decoder.is_strict else _strict(attempt.whole)
        if body is None and decoder.readers.spec.media:
            return None, None, clean_text(attempt.whole.decode("utf-8", "replace"))  # subtitles, plain text
        if text is None:
            return body, None, None
        return (body, None, clean_text(text)) if stands_apart or text_at is None else (body, text_at, None)
    if not assembly.has_content:
        return None, None, None
    created = int(datetime.now(UTC).timestamp())
    is_openai = decoder.readers.spec.speaks == CHAT
    whole = assembly.as_completion(
        id=call.call_id,
        model=attempt.target.model,
        created=created,
        own_usage=is_openai,
        extras=decoder.extras if is_openai else None,
    )
    if text is None or stands_apart:
        return encode_json(whole), None, clean_text(text) if text is not None else None
    return encode_json(whole), _ASSEMBLED_TEXT, None


def _strict(body: bytes) -> bytes | None:
    """An answer that strict JSON refuses, written so that it does not: NaN as null, lone surrogates replaced."""
    try:
        return encode_json(json.loads(body.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        return None


def _first_token_ms(attempt: Attempt) -> int | None:
    if attempt.first_content_ns is None:
        return None
    return (attempt.first_content_ns - attempt.entry.started_ns) // 1_000_000

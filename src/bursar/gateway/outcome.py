"""What is written about an attempt: its entry's beginning, its end, and the failures an answer can be."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from bursar.gateway.registry import Provider, Target, shown_url
from bursar.ledger.ledger import now_us as wall_us
from bursar.ledger.records import Opened, Settled
from bursar.net.transport import Answer
from bursar.prices.cost import cost
from bursar.prices.table import day_of
from bursar.types.call import Call, Cost, Result, SentRequest
from bursar.types.errors import ProviderError, RateLimitedError
from bursar.types.events import ErrorReport
from bursar.types.usage import NONE, PROVIDER, Usage
from bursar.wire.assemble import clean_text, encode_json
from bursar.wire.encode import Request
from bursar.wire.engine import read_error
from bursar.wire.failures import kind_of, retry_after_s

if TYPE_CHECKING:
    from bursar.gateway.gateway import Gateway
    from bursar.gateway.running import Attempt

_ASSEMBLED_TEXT = "$.choices[0].message.content"
_SHOWN_BODY_CHARS = 300
_MASK = "***"

# The HTTP status an in-band error would have had.
_STATUS_OF_KIND = {"rate_limit": 429, "overloaded": 503, "quota": 429, "timeout": 504}


def opened(call: Call, target: Target, request: Request, *, attempt: int, now_us: int) -> Opened:
    """The beginning of an entry."""
    context, provider = call.context, target.provider
    return Opened(
        call_id=call.call_id,
        attempt=attempt,
        created_us=now_us,
        method_type=call.method_type,
        workspace=context.workspace,
        user_id=context.user,
        session_id=context.session,
        turn=context.turn,
        request_id=context.request_id,
        function=context.function,
        purpose=context.purpose,
        tags=context.tags,
        key_id=call.key_id,
        provider=provider.name,
        provider_type=provider.type,
        provider_url=provider.url_shown,
        requested_model=call.model,
        model=target.model,
        reason=target.reason,
        idempotency_key=call.idempotency_key,
        client_retries=call.client_retries,
        request_bytes=len(request.logged),
        request=request.logged,
    )


def settled(
    gateway: Gateway, call: Call, attempt: Attempt, status: str, error: ProviderError | None
) -> tuple[Settled, Result | None]:
    """The end of an entry, and where it completed, the call's result."""
    assembly, entry = attempt.assembly, attempt.entry
    provider, model = attempt.target.provider, attempt.target.model
    end_ns = time.monotonic_ns()
    output_bytes = assembly.output_bytes()
    usage, source = _usage(gateway, attempt, status, output_bytes)
    price = gateway.prices.find(provider.type, assembly.model or model, day_of(entry.opened.created_us))
    if price is None and assembly.model not in (None, model):
        price = gateway.prices.find(provider.type, model, day_of(entry.opened.created_us))
    charged = cost(usage, price)
    output, text_at, text = _output(call, attempt)
    response_ms = (end_ns - entry.started_ns) // 1_000_000
    first_ms = _first_token_ms(call, attempt)
    record = Settled(
        call_id=call.call_id,
        attempt=entry.opened.attempt,
        workspace=entry.opened.workspace,
        status=status,
        completed_us=wall_us(),
        response_time_ms=response_ms,
        time_to_first_token_ms=first_ms,
        http_status=attempt.answer.status if attempt.answer is not None else None,
        error_kind=error.kind if error is not None else None,
        error_code=error.code if error is not None else None,
        error_message=error.message if error is not None else None,
        finish_reason=assembly.finish_reason,
        provider_response_id=assembly.id,
        served_model=assembly.model,
        usage_source=source,
        output_bytes=output_bytes,
        output=output,
        text_at=text_at,
        text=text,
        **_usage_columns(usage),
        **_cost_columns(charged),
    )
    if status != "completed":
        return record, None
    if usage is not None and source == PROVIDER:
        gateway.estimator.learn(
            provider.name, model, request_bytes=len(attempt.request.logged), output_bytes=output_bytes, usage=usage
        )
    return record, Result(
        call_id=call.call_id,
        attempt=entry.opened.attempt,
        provider=provider.name,
        model=assembly.model or model,
        text=assembly.text,
        finish_reason=assembly.finish_reason,
        tool_calls=assembly.tool_calls,
        reasoning=assembly.reasoning,
        refusal=assembly.refusal,
        usage=usage,
        usage_source=source,
        cost=charged,
        vectors=assembly.vectors,
        raw=msgspec.Raw(output) if output is not None else None,
        request=as_sent(provider, attempt.request),
        response_time_ms=response_ms,
        time_to_first_token_ms=first_ms,
    )


def as_sent(provider: Provider, request: Request) -> SentRequest:
    """The request as it left, its secrets masked."""
    return SentRequest(
        url=shown_url(request.url),
        headers={k: _MASK if k.lower() in provider.secret_headers else v for k, v in request.headers},
        body=msgspec.Raw(request.body),
    )


def http_failure(provider: Provider, answer: Answer, body: bytes) -> ProviderError:
    """The failure an HTTP error answer is."""
    report = read_error(provider.readers, body)
    # Some providers repeat the credential they refuse.
    for secret in provider.secrets:
        body = body.replace(secret.encode(), _MASK.encode())
    text = report.message if report is not None else body[:_SHOWN_BODY_CHARS].decode("utf-8", "replace").strip()
    text = _masked(provider, text)
    code, type = (report.code, report.type) if report is not None else (None, None)
    kind = kind_of(answer.status, code, type)
    error = RateLimitedError if kind == "rate_limit" else ProviderError
    return error(
        f"'{provider.name}' answered {answer.status}: {text or 'with an empty body'}",
        provider=provider.name,
        kind=kind,
        http_status=answer.status,
        code=code,
        type=type,
        retry_after_s=retry_after_s(answer.headers),
        headers=tuple(answer.headers.items()),
        body=body,
    )


def _masked(provider: Provider, text: str) -> str:
    for secret in provider.secrets:
        text = text.replace(secret, _MASK)
    return text


def in_band_failure(provider: Provider, report: ErrorReport) -> ProviderError:
    """The failure that an error inside an answer of status 200 is."""
    code = report.code or ""
    status = int(code) if code.isascii() and code.isdigit() and len(code) == 3 else None
    kind = kind_of(status, report.code, report.type)
    return ProviderError(
        f"'{provider.name}' reported an error in its answer: {_masked(provider, report.message)}",
        provider=provider.name,
        kind=kind,
        http_status=_STATUS_OF_KIND.get(kind, 502),
        code=report.code,
        type=report.type,
    )


def refuse_unreadable(provider: Provider, body: bytes) -> None:
    """Raises where an answer of status 200 is not JSON, or says nothing that the spec knows."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        value = None
    if isinstance(value, dict):
        return
    shown = body[:_SHOWN_BODY_CHARS].decode("utf-8", "replace").strip() or "nothing"
    raise ProviderError(
        f"'{provider.name}' answered 200 with something that is no answer: {shown}",
        provider=provider.name,
        kind="upstream_error",
    )


def _usage(gateway: Gateway, attempt: Attempt, status: str, output_bytes: int) -> tuple[Usage | None, str]:
    reported = attempt.assembly.usage
    if status == "completed":
        return (reported, PROVIDER) if reported is not None else (None, NONE)
    return gateway.estimator.of_cut_off(
        attempt.target.provider.name,
        attempt.target.model,
        reported=reported,
        is_final=attempt.decoder.saw_finish,
        request_bytes=len(attempt.request.logged),
        output_bytes=output_bytes,
    )


def _usage_columns(usage: Usage | None) -> dict[str, Any]:
    if usage is None:
        return {}
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "provider_total_tokens": usage.provider_total_tokens,
        "raw_usage": encode_json(usage.raw) if usage.raw is not None else None,
    }


def _cost_columns(charged: Cost | None) -> dict[str, Any]:
    if charged is None:
        return {}
    return {
        "cost_nanos": charged.nanos,
        "cost_currency": charged.currency,
        "cost_usd_nanos": charged.nanos if charged.currency == "USD" else None,
        "cost_source": charged.source,
        "price_id": charged.price,
    }


def _output(call: Call, attempt: Attempt) -> tuple[bytes | None, str | None, str | None]:
    """The complete answer as JSON; where its text stands in it; the text itself where it stands nowhere."""
    assembly, decoder = attempt.assembly, attempt.decoder
    text = assembly.text
    # SQL's JSON functions end a text at a NUL: such a text is kept beside the answer, not found in it.
    stands_apart = decoder.joined_text or (text is not None and "\0" in text)
    if decoder.is_whole and attempt.whole:
        path = attempt.target.provider.spec.answer.text
        body = attempt.whole.strip() if decoder.is_strict else _strict(attempt.whole)
        if text is None or decoder.embeddings:
            return body, None, None
        if isinstance(path, str) and not stands_apart:
            return body, f"${'' if path.startswith('[') else '.'}{path}", None
        return body, None, clean_text(text)
    if not assembly.has_content:
        return None, None, None
    created = int(datetime.now(UTC).timestamp())
    is_openai = attempt.target.provider.spec.shape == "openai"
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


def _first_token_ms(call: Call, attempt: Attempt) -> int | None:
    if not call.stream or attempt.first_content_ns is None:
        return None
    return (attempt.first_content_ns - attempt.entry.started_ns) // 1_000_000

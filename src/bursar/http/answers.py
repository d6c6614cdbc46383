"""Answers of the data plane: JSON, errors in OpenAI's shape so that its SDK raises its own classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any

import msgspec

from bursar.http.cycle import Cycle, lines_of
from bursar.http.heads import Headers
from bursar.types.errors import (
    AccessError,
    AuthenticationError,
    BursarError,
    BusyError,
    LedgerFullError,
    ProviderError,
    RequestError,
    StoppingError,
    StoreError,
)
from bursar.wire.assemble import encode_json

JSON_LINE = b"content-type: application/json\r\n"
_STATUS_OF_KIND = {"timeout": 504, "connection": 502, "truncated": 502, "upstream_error": 502, "internal": 500}
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
          413: "invalid_request_error", 429: "rate_limit_error"}  # fmt: skip

# What of a provider's headers reaches the client: its limits, when to come back, and its own request id.
_PASSED_ENDS = (
    b"retry-after", b"retry-after-ms", b"request-id", b"requestid", b"-errortype", b"-processing-ms", b"-organization",
    b"-organization-id", b"-generation-id", b"should-retry",
)  # fmt: skip
_LIMITS = b"ratelimit"


class _Passed(msgspec.Struct, frozen=True):
    """Headers that pass: their names, how they stand in a head, and what takes their values."""

    names: list[bytes]
    form: bytes
    values: Callable[[Mapping[bytes, bytes]], Any]


# Most providers send the same headers with each answer: which of them pass is told once.
_passed: dict[tuple[bytes, ...], _Passed] = {}
_REMEMBERED, _REMEMBERED_BYTES = 1024, 2048
_USUAL = frozenset({b"content-type", b"content-length", b"transfer-encoding", b"connection", b"date", b"server"})


# What passes, and in how many seconds one may look again.
_COME_BACK: tuple[tuple[type[BursarError], str, bytes], ...] = (
    (StoppingError, "stopping", b"1"),
    (BusyError, "busy", b"1"),
    (LedgerFullError, "ledger_full", b"5"),
    (StoreError, "store_unavailable", b"2"),
)


class MethodError(RequestError):
    """This address does not know that method."""

    http_status = 405
    code = "method_not_allowed"


def answer_json(cycle: Cycle, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """One JSON answer."""
    cycle.answer(status, JSON_LINE + lines_of(headers), body)


def answer_error(cycle: Cycle, error: BursarError, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """An error as an HTTP answer."""
    status, body, own = error_answer(error)
    answer_json(cycle, status, body, [*own, *headers])


def error_answer(error: BursarError) -> tuple[int, bytes, Headers]:
    """Status, body and headers of an error. A provider's own error body is kept where it has OpenAI's shape."""
    match error:
        case ProviderError():
            return _provider_error(error)
        case RequestError():
            return error.http_status, _body(error.message, error.http_status, error.code, error.field), [_FINAL]
        case AuthenticationError():
            return 401, _body(error.message, 401, error.code), [_FINAL, (b"www-authenticate", b"Bearer")]
        case AccessError():
            return error.http_status, _body(error.message, error.http_status, error.code), [_FINAL]
    for kind, code, wait_s in _COME_BACK:
        if isinstance(error, kind):
            return 503, _body(error.message, 503, code), [(b"retry-after", wait_s)]
    return 500, _body("internal error", 500, "internal_error"), [_FINAL]


# Retries were bursar's to make: an SDK on top would only repeat them.
_FINAL = (b"x-should-retry", b"false")


def _provider_error(error: ProviderError) -> tuple[int, bytes, Headers]:
    status = error.http_status if error.http_status is not None and 400 <= error.http_status < 600 else None
    status = status or _STATUS_OF_KIND.get(error.kind, 502)
    given = {name.encode("latin-1"): value.encode("latin-1", "replace") for name, value in error.headers}
    headers = [_FINAL, *passed_headers(given)]
    if error.body is not None and _has_error(error.body):
        return status, error.body, headers
    return status, _body(error.message, status, error.code or error.kind, type=error.type or "upstream_error"), headers


class _OpenAiError(msgspec.Struct):
    error: dict[str, msgspec.Raw]


def _has_error(body: bytes) -> bool:
    try:
        msgspec.json.decode(body, type=_OpenAiError)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _body(message: str, status: int, code: str | None, param: str | None = None, type: str | None = None) -> bytes:
    return encode_json(
        {
            "error": {
                "message": message,
                "type": type or _TYPES.get(status, "server_error"),
                "param": param,
                "code": code,
            }
        }
    )


def passed_headers(headers: Mapping[bytes, bytes]) -> Headers:
    """The headers of a provider's answer that are the client's to see."""
    return [(name, headers[name]) for name in _passed_of(headers).names]


def passed_lines(headers: Mapping[bytes, bytes]) -> bytes:
    """The same as they stand in a head. Raises RuntimeError where one has a line end in it."""
    passed = _passed_of(headers)
    names, values = passed.names, passed.values
    if not names:
        return b""
    lines: bytes = passed.form % values(headers)
    if lines.find(b"\0") >= 0 or len(lines.splitlines()) != len(names):
        raise RuntimeError("a header of the answer has a line end in it")
    return lines


def _passed_of(headers: Iterable[bytes]) -> _Passed:
    """Which of these headers pass."""
    names = tuple(headers)
    found = _passed.get(names)
    if found is None:
        passed = [name for name in names if name not in _USUAL and (name.endswith(_PASSED_ENDS) or _LIMITS in name)]
        form = b"".join(name.replace(b"%", b"%%") + b": %b\r\n" for name in passed)
        found = _Passed(passed, form, itemgetter(*passed) if passed else tuple)
        if sum(map(len, names)) < _REMEMBERED_BYTES and len(_passed) < _REMEMBERED:
            _passed[names] = found
    return found

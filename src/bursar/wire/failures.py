"""What kind of failure an error answer is, and how long it asks to wait: pure decisions.

The kinds and their order follow OpenAI's error guide (https://platform.openai.com/docs/guides/error-codes)
and the status codes compatible servers use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_BY_STATUS = {
    400: "invalid_request",
    401: "auth",
    402: "quota",
    403: "auth",
    404: "not_found",
    408: "timeout",
    409: "overloaded",
    413: "invalid_request",
    422: "invalid_request",
    424: "server",
    429: "rate_limit",
    498: "overloaded",
    503: "overloaded",
    504: "timeout",
    524: "timeout",
    529: "overloaded",
}
# What errors inside answers call themselves, in lower case: they have no status to go by.
_BY_NAME = {
    "overloaded_error": "overloaded", "serviceunavailableexception": "overloaded", "unavailable": "overloaded",
    "provider_overloaded": "overloaded", "rate_limit_error": "rate_limit", "rate_limit_exceeded": "rate_limit",
    "throttlingexception": "rate_limit", "resource_exhausted": "rate_limit", "authentication_error": "auth",
    "permission_error": "auth", "billing_error": "quota", "payment_required": "quota",
    "invalid_request_error": "invalid_request", "validationexception": "invalid_request",
    "invalid_argument": "invalid_request", "timeout_error": "timeout", "api_error": "server",
    "internalserverexception": "server", "modelstreamerrorexception": "server", "server_error": "server",
}  # fmt: skip
_QUOTA_CODES = {
    "insufficient_quota", "billing_hard_limit_reached", "credit_limit_reached", "enforced_spend_limit_reached",
}  # fmt: skip
# A wait that stands in the body: google.rpc.RetryInfo.
_DELAY = re.compile(rb'"retryDelay"\s*:\s*"(\d{1,6}(?:\.\d{1,9})?)s"')


def kind_of(status: int | None, code: str | None, type: str | None) -> str:
    """The kind of a failure from its HTTP status and the error's own code and type."""
    if code in _QUOTA_CODES or type in _QUOTA_CODES:
        return "quota"
    if code == "content_filter":
        return "content_filter"
    if status is None or status < 400:
        return _BY_NAME.get((code or "").lower()) or _BY_NAME.get((type or "").lower(), "upstream_error")
    return _BY_STATUS.get(status) or ("server" if status >= 500 else "invalid_request")


def retry_after_s(headers: Mapping[str, str], body: bytes = b"", now: datetime | None = None) -> float | None:
    """The wait an answer asks for, in seconds: `retry-after-ms`, else `retry-after` (seconds or a date), else what its
    body says.

    Header names are lower case. A date in the past is no wait.
    """
    try:
        if (ms := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(ms) / 1000)
    except ValueError:
        pass
    given = headers.get("retry-after")
    if given is None:
        delay = _DELAY.search(body)
        return float(delay[1]) if delay is not None else None
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(given)
    except (ValueError, TypeError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())

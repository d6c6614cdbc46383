"""What kind of failure an error is, and how long it asks to wait."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from bursar.wire.failures import kind_of, retry_after_s

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
INFO = json.dumps({"error": {"code": 429, "details": [{"@type": "t/google.rpc.RetryInfo", "retryDelay": "34.5s"}]}})


@pytest.mark.parametrize(
    ("headers", "body", "wait"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, INFO, 1.5),
        ({"retry-after": "9"}, INFO, 9.0),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30 GMT"}, "", 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 11:00:00 GMT"}, "", 0.0),
        ({"retry-after": "soon"}, "", None),
        ({}, INFO, 34.5),
        ({}, '{"retryDelay": "34"}', None),
        ({}, "", None),
    ],
)
def test_the_wait_is_the_nearest_word_for_it(headers: dict[str, str], body: str, wait: float | None) -> None:
    assert retry_after_s(headers, body.encode(), NOW) == wait


@pytest.mark.parametrize(
    ("status", "code", "type", "kind"),
    [
        (429, None, "rate_limit_error", "rate_limit"),
        (429, "insufficient_quota", None, "quota"),
        (429, "enforced_spend_limit_reached", "rate_limit_error", "quota"),
        (402, None, None, "quota"),
        (529, None, None, "overloaded"),
        (500, None, None, "server"),
        (599, None, None, "server"),
        (418, None, None, "invalid_request"),
        (None, "402", None, "upstream_error"),
        (None, None, "ThrottlingException", "rate_limit"),
        (200, None, "overloaded_error", "overloaded"),
        (400, "content_filter", None, "content_filter"),
    ],
)
def test_a_failure_is_of_one_kind(status: int | None, code: str | None, type: str | None, kind: str) -> None:
    assert kind_of(status, code, type) == kind

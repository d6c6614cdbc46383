"""What kind of failure an error is, and how long it asks to wait."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from bursar.wire import spec as specs
from bursar.wire.failures import kind_of, retry_after_s
from bursar.wire.readers import Readers
from bursar.wire.values import read_error

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


def test_a_limit_of_spending_is_no_limit_of_rate() -> None:
    details = {"error_code": "enforced_spend_limit_reached"}
    body = {"type": "error", "error": {"type": "rate_limit_error", "message": "limit", "details": details}}
    report = read_error(Readers(specs.build("anthropic").operations["chat"]), json.dumps(body).encode())
    assert report is not None
    assert kind_of(429, report.code, report.type) == "quota"

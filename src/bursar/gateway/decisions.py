"""What follows a failed attempt: a pure decision, carried out by the caller.

Nothing is retried once a byte has reached the caller; that is the caller's to know. A time-out after the
request was sent is not repeated at the same provider, for it may have been billed.
"""

from __future__ import annotations

import msgspec

from bursar.types.errors import ProviderError

MAX_WAIT_S = 20.0
_FIRST_WAIT_S = 0.25

# What the same target may do better a moment later.
_RETRIED = frozenset({"rate_limit", "overloaded", "server", "connection"})
# What no other target would do better: the request itself is at fault.
_FINAL = frozenset({"invalid_request", "content_filter"})


class Retry(msgspec.Struct, frozen=True):
    """Try the same target again, after a wait in seconds."""

    after_s: float


class NextTarget(msgspec.Struct, frozen=True):
    """Go on to the next target."""


class GiveUp(msgspec.Struct, frozen=True):
    """The failure is the call's."""


Decision = Retry | NextTarget | GiveUp


def decide(error: ProviderError, *, tries: int, retries: int, targets_left: int, jitter: float) -> Decision:
    """What to do after `tries` tries of one target failed, the last with `error`; `jitter` is in [0, 1)."""
    told = dict(error.headers).get("x-should-retry")
    retried = error.kind in _RETRIED if told is None else told == "true"
    if retried and tries <= retries:
        wait = error.retry_after_s
        if wait is None:
            wait = _FIRST_WAIT_S * 2 ** (tries - 1) * (0.75 + 0.5 * jitter)
        if wait <= MAX_WAIT_S:
            return Retry(wait)
    if targets_left > 0 and error.kind not in _FINAL:
        return NextTarget()
    return GiveUp()

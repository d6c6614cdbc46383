"""In what order a call tries its targets: by weight where they share the calls, and without those that rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from bursar.gateway.provider import Target
from bursar.types.errors import ProviderError

# What says that a target is not well, rather than that it was asked for the wrong thing.
_UNWELL = frozenset(
    {"rate_limit", "overloaded", "server", "connection", "timeout", "truncated", "upstream_error", "quota", "auth"}
)
# What says until when.
_ASKS_TO_WAIT = frozenset({"rate_limit", "overloaded"})
_LONGEST_S = 600.0
_KEPT = 10_000


def drawn(weights: Sequence[float | None], draw: Callable[[], float]) -> list[int]:
    """The order of targets with these weights, where those that stand together share the calls: each comes first as
    often as its weight says, and the others behind it likewise (Efraimidis and Spirakis, 2006). `draw` gives numbers
    in [0, 1)."""
    keyed: list[tuple[int, float, int]] = []
    group = 0
    for n, weight in enumerate(weights):
        if n and (weight is None or weights[n - 1] is None):
            group += 1
        keyed.append((group, 0.0 if weight is None else -((1.0 - draw()) ** (1.0 / weight)), n))
    return [n for _, _, n in sorted(keyed)]


class _Health(msgspec.Struct):
    failures: int = 0
    until: float = 0.0
    why: str = ""


class Resting:
    """Which targets rest after their failures, as this process saw them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._health: dict[tuple[str, str], _Health] = {}

    @property
    def is_empty(self) -> bool:
        """Whether every target is well."""
        return not self._health

    def failed(self, target: Target, error: ProviderError) -> None:
        """Counts a failure; where there were enough of them in a row, or the target said how long to leave it alone,
        it rests."""
        limits = target.provider.cool_down
        if error.kind not in _UNWELL or not limits.after:
            return
        if len(self._health) >= _KEPT:
            self._health.clear()
        health = self._health.setdefault((target.provider.key, target.model), _Health())
        health.failures += 1
        health.why = error.kind
        rest_s = limits.for_s if health.failures >= limits.after else 0.0
        if error.retry_after_s is not None and error.kind in _ASKS_TO_WAIT:
            rest_s = max(rest_s, error.retry_after_s)
        if rest_s:
            health.until = max(health.until, self._clock() + min(rest_s, _LONGEST_S))

    def served(self, target: Target) -> None:
        """It is well again."""
        self._health.pop((target.provider.key, target.model), None)

    def left_s(self, target: Target) -> tuple[float, str]:
        """For how long it still rests, and why; 0 where it does not."""
        health = self._health.get((target.provider.key, target.model))
        return (max(0.0, health.until - self._clock()), health.why) if health is not None else (0.0, "")

    def sorted(self, targets: Sequence[Target], order: Sequence[int]) -> tuple[list[int], str | None]:
        """The order without those that rest, and what there is to say of them. Where all of them do, the one that has
        rested longest is asked all the same: better than nobody."""
        left = {n: self.left_s(targets[n]) for n in order}
        awake = [n for n in order if not left[n][0]]
        resting = [n for n in order if left[n][0]]
        if not resting:
            return list(order), None
        said = ", ".join(f"{targets[n].name} rests {left[n][0]:.0f} s more ({left[n][1]})" for n in resting)
        return (awake, said) if awake else (sorted(order, key=lambda n: left[n][0]), said)

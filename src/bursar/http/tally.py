"""What is counted of settled entries: plain numbers, added up where a call ends, written out when asked for.

Several workers show each other their numbers as files in one folder; any of them answers for all.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

import msgspec

from bursar.ledger.ledger import Ended
from bursar.ledger.records import Opened, Settled

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
GAP_SECONDS = (0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_bound_of = partial(bisect_left, tuple(int(s * 1000) for s in SECONDS))
# A client names models as it likes: beyond so many, they are counted together.
_MOST = 2000
_OTHER = "(other)"

Key = tuple[str, str, str, str]
_Number = int | None
_End = tuple[_Number, _Number, _Number, _Number, _Number, str | None, _Number, str, _Number, _Number]
_Kind = tuple[tuple[str, str, str], str]
_who: Callable[[Opened], tuple[str, str, str]] = attrgetter("provider", "model", "method_type")
_status: Callable[[Settled], str] = attrgetter("status")
_end: Callable[[Settled], _End] = attrgetter(
    "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cost_nanos", "cost_currency",
    "cost_usd_nanos", "usage_source", "response_time_ms", "time_to_first_token_ms",
)  # fmt: skip
_AT_ONCE = 500
_NEWS_S = 0.005


class _Histogram(msgspec.Struct):
    """How many durations up to each bound and beyond the last, and their sum in milliseconds."""

    counts: list[int]
    sum_ms: float = 0

    def join(self, other: Self) -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum_ms += other.sum_ms


class Times(_Histogram):
    """How long attempts took, by the bounds of `SECONDS`."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(SECONDS) + 1))

    def add(self, all_ms: Sequence[int | None]) -> None:
        unknown = all_ms.count(None)
        if unknown == len(all_ms):
            return
        known: Sequence[Any] = [ms for ms in all_ms if ms is not None] if unknown else all_ms
        for bound, count in Counter(map(_bound_of, known)).items():
            self.counts[bound] += count
        self.sum_ms += sum(known)


class Tally(msgspec.Struct):
    """The numbers of one (provider, model, method, status). `cost_nanos` is by currency."""

    attempts: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    without_usage: int = 0
    without_price: int = 0
    without_rate: int = 0
    cost_nanos: dict[str, int] = msgspec.field(default_factory=dict)
    whole: Times = msgspec.field(default_factory=Times)
    first: Times = msgspec.field(default_factory=Times)

    def add(self, ends: list[_End], *, completed: bool) -> None:
        """Counts ends, column by column: there are many, and adding up a column is one step."""
        read, written, cached, reasoning, nanos, currencies, dollars, sources, whole, first = zip(*ends, strict=True)
        self.attempts += len(ends)
        self.input += sum(filter(None, read))
        self.output += sum(filter(None, written))
        self.cached += sum(filter(None, cached))
        self.reasoning += sum(filter(None, reasoning))
        for currency in set(currencies):
            if currency is not None:
                paid = [n for n, c in zip(nanos, currencies, strict=True) if c == currency]
                self.cost_nanos[currency] = self.cost_nanos.get(currency, 0) + sum(filter(None, paid))
        # Without usage there is no cost, and without a cost none in dollars.
        no_usage, no_cost = sources.count("none"), nanos.count(None)
        self.without_price += no_cost - no_usage
        self.without_rate += dollars.count(None) - no_cost
        if completed:
            self.without_usage += no_usage
        self.whole.add(whole)
        self.first.add(first)

    def join(self, other: Tally) -> None:
        for name in (
            "attempts",
            "input",
            "output",
            "cached",
            "reasoning",
            "without_usage",
            "without_price",
            "without_rate",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for currency, nanos in other.cost_nanos.items():
            self.cost_nanos[currency] = self.cost_nanos.get(currency, 0) + nanos
        self.whole.join(other.whole)
        self.first.join(other.first)


class Gaps(_Histogram):
    """How long the loop was busy with one thing, by the bounds of `GAP_SECONDS`."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(GAP_SECONDS) + 1))

    def add(self, gap_s: float) -> None:
        self.counts[bisect_left(GAP_SECONDS, gap_s)] += 1
        self.sum_ms += gap_s * 1000


class _Shown(msgspec.Struct, array_like=True):
    """What a worker shows the others."""

    numbers: list[tuple[Key, Tally]]
    gaps: Gaps


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Shown).decode


class Tallies:
    """The numbers of this process, and with `folder` those of the workers beside it."""

    def __init__(self, folder: str | None = None) -> None:
        self._own: dict[Key, Tally] = {}
        self._waiting: dict[_Kind, list[_End]] = {}
        self._gaps = Gaps()
        self._changed = False
        self._count = 0
        self._file = Path(folder) / f"{os.getpid()}.tally" if folder is not None else None

    def observe(self, ended: Sequence[Ended]) -> None:
        """Counts settled entries, one or more."""
        begun, ends = zip(*ended, strict=True)
        for who, status, end in zip(map(_who, begun), map(_status, ends), map(_end, ends), strict=True):
            waiting = self._waiting.get((who, status))
            if waiting is None:
                waiting = self._waiting[who, status] = []
            waiting.append(end)
        self._changed = True
        self._count += len(ended)
        if self._count >= _AT_ONCE:
            self._add_up()

    def gap(self, gap_s: float) -> None:
        """Counts for how long the loop was busy with one thing. A short time alone is no news for the others."""
        self._gaps.add(gap_s)
        if gap_s > _NEWS_S:
            self._changed = True

    def publish(self) -> None:
        """Shows the numbers to the other workers, where there are any."""
        if self._file is None or not self._changed:
            return
        self._add_up()
        made = self._file.with_suffix(".new")
        with suppress(OSError):  # the next time they are all shown again
            made.write_bytes(_encode(_Shown(list(self._own.items()), self._gaps)))
            made.replace(self._file)
            self._changed = False

    def all(self) -> tuple[dict[Key, Tally], Gaps]:
        """The numbers and the gaps of all workers, of those that have ended too."""
        if self._file is None:
            self._add_up()
            return self._own, self._gaps
        self.publish()
        total: dict[Key, Tally] = {}
        gaps = Gaps()
        for file in sorted(self._file.parent.glob("*.tally")):
            try:
                shown = _decode(file.read_bytes())
            except (OSError, msgspec.MsgspecError):
                continue
            gaps.join(shown.gaps)
            for key, tally in shown.numbers:
                if key in total:
                    total[key].join(tally)
                else:
                    total[key] = tally
        return total, gaps

    def _add_up(self) -> None:
        waiting, self._waiting, self._count = self._waiting, {}, 0
        for ((provider, model, method), status), ends in waiting.items():
            key = (provider, model, method, status)
            if len(self._own) >= _MOST and key not in self._own:
                key = (provider, _OTHER, method, status)
            self._own.setdefault(key, Tally()).add(ends, completed=status == "completed")

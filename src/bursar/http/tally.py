"""What is counted of settled entries: plain numbers, added up where a call ends, written out when asked for.

Several workers show each other their numbers as files in one folder; any of them answers for all.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from contextlib import suppress
from pathlib import Path

import msgspec

from bursar.ledger.records import Opened, Settled

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
_BOUNDS_MS = tuple(int(s * 1000) for s in SECONDS)
# A client names models as it likes: beyond so many, they are counted together.
_MOST = 2000
_OTHER = "(other)"

Key = tuple[str, str, str, str]


class Times(msgspec.Struct):
    """Durations: how many up to each bound of `SECONDS` and beyond it, and their sum in milliseconds."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    sum_ms: int = 0

    def add(self, ms: int) -> None:
        self.counts[bisect_left(_BOUNDS_MS, ms)] += 1
        self.sum_ms += ms

    def join(self, other: Times) -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum_ms += other.sum_ms


class Tally(msgspec.Struct):
    """The numbers of one (provider, model, method, status). `cost_nanos` is by currency."""

    attempts: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    without_usage: int = 0
    without_price: int = 0
    cost_nanos: dict[str, int] = msgspec.field(default_factory=dict)
    whole: Times = msgspec.field(default_factory=Times)
    first: Times = msgspec.field(default_factory=Times)

    def add(self, settled: Settled) -> None:
        self.attempts += 1
        self.input += settled.prompt_tokens or 0
        self.output += settled.completion_tokens or 0
        self.cached += settled.cached_tokens or 0
        self.reasoning += settled.reasoning_tokens or 0
        if settled.cost_nanos is not None and settled.cost_currency is not None:
            currency = settled.cost_currency
            self.cost_nanos[currency] = self.cost_nanos.get(currency, 0) + settled.cost_nanos
        elif settled.usage_source != "none":
            self.without_price += 1
        if settled.usage_source == "none" and settled.status == "completed":
            self.without_usage += 1
        if settled.response_time_ms is not None:
            self.whole.add(settled.response_time_ms)
        if settled.time_to_first_token_ms is not None:
            self.first.add(settled.time_to_first_token_ms)

    def join(self, other: Tally) -> None:
        for name in ("attempts", "input", "output", "cached", "reasoning", "without_usage", "without_price"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for currency, nanos in other.cost_nanos.items():
            self.cost_nanos[currency] = self.cost_nanos.get(currency, 0) + nanos
        self.whole.join(other.whole)
        self.first.join(other.first)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[Key, Tally]]).decode


class Tallies:
    """The numbers of this process, and with `folder` those of the workers beside it."""

    def __init__(self, folder: str | None = None) -> None:
        self._own: dict[Key, Tally] = {}
        self._file = Path(folder) / f"{os.getpid()}.tally" if folder is not None else None
        self._changed = False

    def observe(self, opened: Opened, settled: Settled) -> None:
        """Counts a settled entry."""
        key = (opened.provider, opened.model, opened.method_type, settled.status)
        tally = self._own.get(key) or self._new(key)
        tally.add(settled)
        self._changed = True

    def publish(self) -> None:
        """Shows the numbers to the other workers, where there are any."""
        if self._file is None or not self._changed:
            return
        self._changed = False
        made = self._file.with_suffix(".new")
        with suppress(OSError):  # the next time they are all shown again
            made.write_bytes(_encode(list(self._own.items())))
            made.replace(self._file)

    def all(self) -> dict[Key, Tally]:
        """The numbers of all workers, of those that have ended too."""
        if self._file is None:
            return self._own
        self.publish()
        total: dict[Key, Tally] = {}
        for file in sorted(self._file.parent.glob("*.tally")):
            try:
                shown = _decode(file.read_bytes())
            except (OSError, msgspec.MsgspecError):
                continue
            for key, tally in shown:
                if key in total:
                    total[key].join(tally)
                else:
                    total[key] = tally
        return total

    def _new(self, key: Key) -> Tally:
        if len(self._own) >= _MOST:
            provider, _, method, status = key
            key = (provider, _OTHER, method, status)
        return self._own.setdefault(key, Tally())

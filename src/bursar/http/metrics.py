"""Prometheus metrics: what was tallied of settled entries, and the ledger's state, when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from bursar.http.tally import GAP_SECONDS, SECONDS, Key, Tallies, Tally
from bursar.ledger.status import Overview

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_WHO = ("provider", "model")


class Metrics:
    """Answers `/metrics`. `overview` tells the ledger's state over all processes."""

    def __init__(self, tallies: Tallies, overview: Callable[[], Overview]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Attempts(tallies))
        self._registry.register(_LedgerGauges(overview))

    def render(self) -> bytes:
        """The text a Prometheus server reads."""
        return generate_latest(self._registry)


class _Attempts:
    def __init__(self, tallies: Tallies) -> None:
        self._tallies = tallies

    def collect(self) -> Iterator[Metric]:
        every, gaps = self._tallies.all()
        attempts = CounterMetricFamily("bursar_attempts", "Attempts settled.", labels=(*_WHO, "method", "status"))
        for key, tally in every.items():
            attempts.add_metric(key, tally.attempts)
        yield attempts
        by_model = _by_model(every)
        tokens = CounterMetricFamily("bursar_tokens", "Tokens on settled entries.", labels=(*_WHO, "kind"))
        cost = CounterMetricFamily("bursar_cost", "Cost of settled entries.", labels=(*_WHO, "currency"))
        no_usage = CounterMetricFamily(
            "bursar_attempts_without_usage", "Completed attempts whose provider reported no usage.", labels=_WHO
        )
        no_price = CounterMetricFamily(
            "bursar_attempts_without_price", "Attempts with usage for which no price is known.", labels=_WHO
        )
        no_rate = CounterMetricFamily(
            "bursar_attempts_without_rate",
            "Attempts whose cost is in a currency without a rate into dollars.",
            labels=_WHO,
        )
        whole = HistogramMetricFamily("bursar_attempt_seconds", "From an attempt's entry to its end.", labels=_WHO)
        first = HistogramMetricFamily(
            "bursar_first_token_seconds", "From a streamed attempt's entry to its first content.", labels=_WHO
        )
        for who, tally in by_model.items():
            for kind in ("input", "output", "cached", "reasoning"):
                if count := getattr(tally, kind):
                    tokens.add_metric((*who, kind), count)
            for currency, nanos in tally.cost_nanos.items():
                cost.add_metric((*who, currency), nanos / 1e9)
            lacks = ((no_usage, tally.without_usage), (no_price, tally.without_price), (no_rate, tally.without_rate))
            for family, number in lacks:
                if number:
                    family.add_metric(who, number)
            for histogram, times in ((whole, tally.whole), (first, tally.first)):
                if any(times.counts):
                    histogram.add_metric(who, _buckets(SECONDS, times.counts), times.sum_ms / 1000)
        stood = HistogramMetricFamily("bursar_event_loop_gap_seconds", "How late the loop came to what was due.")
        stood.add_metric((), _buckets(GAP_SECONDS, gaps.counts), gaps.sum_ms / 1000)
        yield from (tokens, cost, no_usage, no_price, no_rate, whole, first, stood)


def _by_model(every: Mapping[Key, Tally]) -> dict[tuple[str, str], Tally]:
    out: dict[tuple[str, str], Tally] = {}
    for (provider, model, _, _), tally in every.items():
        out.setdefault((provider, model), Tally()).join(tally)
    return out


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, int]]:
    buckets, total = [], 0
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets


class _LedgerGauges:
    def __init__(self, overview: Callable[[], Overview]) -> None:
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        state = self._overview()
        for name, text, value in (
            ("bursar_spool_records", "Records that wait for the store.", state.records),
            ("bursar_spool_bytes", "Bytes that wait for the store.", state.bytes),
            ("bursar_spool_lag_seconds", "For how long the store has been behind.", state.lag_s),
            ("bursar_open_entries", "Entries that are open.", state.open_entries),
            ("bursar_gap_attempts", "Attempts that left without an entry since start.", state.gap),
            ("bursar_orphan_spools", "Spools that wait to be adopted.", state.orphans),
            ("bursar_store_up", "1 where the store takes writes.", int(state.error is None)),
        ):
            yield GaugeMetricFamily(name, text, value=value)

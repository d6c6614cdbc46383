"""Prometheus metrics: an observer of settled entries, and gauges read when they are asked for.

With several workers each keeps its counters in files of a directory named by `PROMETHEUS_MULTIPROC_DIR`,
which the supervisor sets and empties, and any worker answers for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from bursar.ledger.records import Opened, Settled
from bursar.ledger.status import Overview

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_WHO = ("provider", "model")
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


class Metrics:
    """What of this process's calls is counted. `overview` tells the ledger's state over all processes."""

    def __init__(self, overview: Callable[[], Overview | None], multiprocess_dir: str | None = None) -> None:
        registry = CollectorRegistry()
        self._answering = registry
        self.attempts = Counter("bursar_attempts", "Attempts settled.", (*_WHO, "method", "status"), registry=registry)
        self.tokens = Counter("bursar_tokens", "Tokens on settled entries.", (*_WHO, "kind"), registry=registry)
        self.cost = Counter("bursar_cost", "Cost of settled entries.", (*_WHO, "currency"), registry=registry)
        self.without_usage = Counter(
            "bursar_attempts_without_usage", "Completed attempts whose provider reported no usage.", _WHO,
            registry=registry,
        )  # fmt: skip
        self.without_price = Counter(
            "bursar_attempts_without_price", "Attempts with usage for which no price is known.", _WHO, registry=registry
        )
        self.seconds = Histogram(
            "bursar_attempt_seconds", "From an attempt's entry to its end.", _WHO, buckets=_SECONDS, registry=registry
        )
        self.first_token = Histogram(
            "bursar_first_token_seconds", "From a streamed attempt's entry to its first content.", _WHO,
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        if multiprocess_dir is not None:
            self._answering = CollectorRegistry()
            MultiProcessCollector(self._answering, multiprocess_dir)  # type: ignore[no-untyped-call]
        self._answering.register(_LedgerGauges(overview))

    def observe(self, opened: Opened, settled: Settled) -> None:
        """Counts a settled entry."""
        who = (opened.provider, opened.model)
        self.attempts.labels(*who, opened.method_type, settled.status).inc()
        for kind, count in (
            ("input", settled.prompt_tokens),
            ("output", settled.completion_tokens),
            ("cached", settled.cached_tokens),
            ("reasoning", settled.reasoning_tokens),
        ):
            if count:
                self.tokens.labels(*who, kind).inc(count)
        if settled.cost_nanos is not None and settled.cost_currency is not None:
            self.cost.labels(*who, settled.cost_currency).inc(settled.cost_nanos / 1e9)
        elif settled.usage_source != "none":
            self.without_price.labels(*who).inc()
        if settled.usage_source == "none" and settled.status == "completed":
            self.without_usage.labels(*who).inc()
        if settled.response_time_ms is not None:
            self.seconds.labels(*who).observe(settled.response_time_ms / 1000)
        if settled.time_to_first_token_ms is not None:
            self.first_token.labels(*who).observe(settled.time_to_first_token_ms / 1000)

    def render(self) -> bytes:
        """The text a Prometheus server reads."""
        return generate_latest(self._answering)


class _LedgerGauges:
    def __init__(self, overview: Callable[[], Overview | None]) -> None:
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        state = self._overview()
        if state is None:
            return
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

"""What is tallied of settled entries, by one worker and by several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.http.metrics import Metrics
from bursar.http.tally import SECONDS, Tallies, Times
from bursar.ledger.status import Overview
from test_ledger_spool import opened, settled


def overview() -> Overview:
    return Overview(
        processes=1, records=0, bytes=0, lag_s=0.0, open_entries=0, gap=0, orphans=0, full=False, error=None,
        loop_gap_s=0.25,
    )  # fmt: skip


def values(tallies: Tallies) -> dict[str, float]:
    lines = Metrics(tallies, overview).render().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}


def test_every_number_is_in_the_text() -> None:
    tallies = Tallies()
    entry = opened("a", provider="up", model="m", method_type="stream_completion")
    for n in range(3):
        end = settled(
            f"c{n}", prompt_tokens=10, completion_tokens=4, cached_tokens=2, reasoning_tokens=1,
            cost_nanos=1_500_000_000, cost_currency="EUR", response_time_ms=70, time_to_first_token_ms=30,
        )  # fmt: skip
        tallies.observe([(entry, end)])
    failed = settled("d", status="failed", prompt_tokens=1, cost_nanos=None, response_time_ms=400_000)
    without = settled("e", usage_source="none", prompt_tokens=None, cost_nanos=None)
    tallies.observe([(entry, failed), (entry, without)])
    found = values(tallies)
    who = 'model="m",provider="up"'
    assert found['bursar_attempts_total{method="stream_completion",model="m",provider="up",status="completed"}'] == 4
    assert found['bursar_attempts_total{method="stream_completion",model="m",provider="up",status="failed"}'] == 1
    assert found[f'bursar_tokens_total{{kind="input",{who}}}'] == 31
    assert found['bursar_tokens_total{kind="reasoning",model="m",provider="up"}'] == 3
    assert found['bursar_cost_total{currency="EUR",model="m",provider="up"}'] == 4.5
    assert found[f"bursar_attempts_without_usage_total{{{who}}}"] == 1
    assert found[f"bursar_attempts_without_price_total{{{who}}}"] == 1
    assert found[f'bursar_attempt_seconds_bucket{{le="0.1",{who}}}'] == 4
    assert found[f'bursar_attempt_seconds_bucket{{le="320.0",{who}}}'] == 4
    assert found[f'bursar_attempt_seconds_bucket{{le="+Inf",{who}}}'] == 5
    assert found[f'bursar_first_token_seconds_bucket{{le="0.05",{who}}}'] == 3


def test_workers_answer_for_each_other_and_for_those_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = []
    for pid in (1, 2, 3):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        workers.append(Tallies(str(tmp_path)))
    for n, worker in enumerate(workers, 1):
        for _ in range(n):
            worker.observe([(opened("a"), settled("a", prompt_tokens=n))])
        worker.publish()
    (tmp_path / "9.tally").write_bytes(b"half a fi")
    for worker in workers:
        found = values(worker)
        assert sum(v for k, v in found.items() if k.startswith("bursar_attempts_total")) == 6
        assert sum(v for k, v in found.items() if "bursar_tokens_total" in k and 'kind="input"' in k) == 1 + 4 + 9
    del workers[1]
    assert sum(v for k, v in values(workers[0]).items() if k.startswith("bursar_attempts_total")) == 6


def test_models_without_end_are_counted_together_and_none_is_lost() -> None:
    tallies = Tallies()
    for n in range(2500):
        tallies.observe([(opened("a", model=f"m{n}"), settled("a"))])
    found = {k: v for k, v in values(tallies).items() if k.startswith("bursar_attempts_total")}
    assert len(found) == 2001
    assert sum(found.values()) == 2500


@given(st.lists(st.integers(0, 400_000), max_size=50))
def test_a_duration_falls_into_the_first_bound_it_does_not_exceed(durations: list[int]) -> None:
    times: Any = Times()
    for ms in durations:
        times.add([ms])
    total = 0
    for bound, count in zip(SECONDS, times.counts, strict=False):
        total += count
        assert total == sum(ms <= bound * 1000 for ms in durations)
    assert sum(times.counts) == len(durations)
    assert times.sum_ms == sum(durations)


def test_ends_that_were_added_up_are_shown_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tallies = Tallies(str(tmp_path))
    for n in range(500):
        tallies.observe([(opened("a"), settled(f"c{n}"))])
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError("full")))
        tallies.publish()
    tallies.publish()
    assert sum(t.attempts for t in tallies.all()[0].values()) == 500


def test_gaps_of_the_loop_are_counted_by_how_long_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Tallies()
    workers = []
    for pid in (1, 2):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        workers.append(Tallies(str(tmp_path)))
    for gap_s in (0.0, 0.001, 0.0011, 0.03, 7.0):
        alone.gap(gap_s)
    workers[0].gap(0.03)
    workers[0].publish()
    workers[1].gap(0.0)
    workers[1].gap(7.0)
    del workers[0]  # what it has counted stays
    for tallies, expected in ((alone, (2, 3, 3, 4, 4, 5)), (workers[0], (1, 1, 1, 2, 2, 3))):
        found = values(tallies)
        bounds = ("0.001", "0.002", "0.025", "0.05", "2.5", "+Inf")
        shown = tuple(found[f'bursar_event_loop_gap_seconds_bucket{{le="{bound}"}}'] for bound in bounds)
        assert shown == expected
        assert found["bursar_event_loop_gap_seconds_count"] == expected[-1]
        assert 7.0 < found["bursar_event_loop_gap_seconds_sum"] < 7.1

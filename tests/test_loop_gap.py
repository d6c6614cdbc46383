"""How long the loop was busy with one thing, as `/health` tells it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from bursar.runtime import core
from bursar.runtime.core import LoopGap


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The time, as it is set."""
    now = {"s": 100.0}
    monkeypatch.setattr(core, "time", SimpleNamespace(monotonic=lambda: now["s"]))
    return now


async def test_a_stop_is_told_for_all_but_the_time_between_two_looks(clock: dict[str, float]) -> None:
    gap, told = LoopGap(lambda: True), list[float]()
    gap.start(told.append)
    assert gap.longest_s == 0.0
    clock["s"] += 0.040
    gap._tick()  # as its timer would
    assert 0.037 < gap.longest_s <= 0.040
    clock["s"] += 0.005
    gap._tick()  # as its timer would
    assert 0.037 < gap.longest_s <= 0.040
    clock["s"] += 0.001
    gap._tick()  # sooner than was due, which a loop's clock of whole milliseconds may be
    assert told == pytest.approx([0.038, 0.003, 0.0])
    gap.stop()


async def test_a_stop_is_forgotten_after_ten_seconds(clock: dict[str, float]) -> None:
    gap = LoopGap(lambda: True)
    gap.start()
    clock["s"] += 0.5
    gap._tick()  # as its timer would
    longest = []
    for _ in range(12):
        gap.start()  # what the clock of this test leaps over is no stop
        clock["s"] += 1.01
        gap._due = clock["s"]
        gap._tick()  # as its timer would
        longest.append(gap.longest_s)
    assert longest[5] > 0.4
    assert longest[-1] < 0.1
    gap.stop()


async def test_a_loop_without_calls_is_looked_at_seldom() -> None:
    busy = False
    gap = LoopGap(lambda: busy)
    gap.start()
    loop = asyncio.get_running_loop()
    assert gap._timer is not None
    assert gap._timer.when() - loop.time() > 0.05
    busy = True
    gap.start()
    assert gap._timer.when() - loop.time() < 0.05
    gap.stop()

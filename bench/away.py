"""What the machine leaves of the gateways' core, told by a process that goes before all others on it.

It wakes every 4 ms. What it is late by is no gateway's doing, for none can keep it waiting: the host of a virtual
machine gave the core to somebody else, or the system kept it. At every fourth wake it does a fixed piece of work, which
takes nearly twice as long where two threads share one core of the processor: what else runs there, on this machine or
on others of its host, is no gateway's doing either, but what a gateway takes of the processor depends on it.

A core that has nothing to do is often found slow, for the host lends it to others: only what was looked at while there
was something to do says how others' work was in the way.

`python -m bench.away` answers each line on its standard input, which is two times of the monotonic clock, with the
longest it was late since the first, and the share of slow pieces of work between the two; where it may not go before
others it ends at once.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections import deque
from select import select
from typing import NamedTuple

from bench.processes import GATEWAY_CORE, pinned

EVERY_S = 0.004
WINDOW_S = 120.0
SLOW = 1.3
"""A piece of work is slow that takes so many times what the fastest took."""
_WORK_EVERY = 4
_WORK = range(1500)  # some 15 µs, twice in 16 ms: two thousandths of the core


class Late:
    """How late each wake was, of the last two minutes."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def add(self, now_s: float, late_s: float) -> None:
        # One that was less late than a later one is never the longest again.
        while self._seen and self._seen[-1][1] <= late_s:
            self._seen.pop()
        self._seen.append((now_s, late_s))
        while self._seen[0][0] < now_s - WINDOW_S:
            self._seen.popleft()

    def longest_s(self, since_s: float) -> float:
        return next((late_s for at_s, late_s in self._seen if at_s >= since_s), 0.0)


class Speed:
    """How long each piece of work took, of the last two minutes."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()
        self._best_s = math.inf

    def add(self, now_s: float, took_s: float) -> None:
        self._best_s = min(self._best_s, took_s)
        self._seen.append((now_s, took_s))
        while self._seen[0][0] < now_s - WINDOW_S:
            self._seen.popleft()

    def slow(self, since_s: float, until_s: float) -> float:
        """The share of slow ones between these times, 0 where there were none."""
        took = [took_s for at_s, took_s in self._seen if since_s <= at_s <= until_s]
        return sum(took_s > SLOW * self._best_s for took_s in took) / len(took) if took else 0.0


class Left(NamedTuple):
    """What was left of the core: for how long it was away at a time, and which share of the looks found it slow."""

    away_ms: float
    slow: float


class Watch:
    """The process, where it can be had."""

    def __init__(self) -> None:
        command = pinned([sys.executable, "-m", "bench.away"], GATEWAY_CORE)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    def left(self, since_s: float, busy_until_s: float) -> Left | None:
        """What was left of the core since then; whether it was slow is asked of the time it was busy, up to the second
        time. Both are of `time.monotonic`. None where nobody can tell."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(b"%r %r\n" % (since_s, busy_until_s))
            self._process.stdin.flush()
            late_s, slow = self._process.stdout.readline().split()
            return Left(float(late_s) * 1000, float(slow))
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)


def main() -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except (AttributeError, OSError):
        return  # the machine has no such order, or this user may not go before others
    late, speed, asked = Late(), Speed(), sys.stdin.buffer
    due, wakes = time.monotonic() + EVERY_S, 0
    while True:
        ready, _, _ = select([asked], [], [], max(0.0, due - time.monotonic()))
        now = time.monotonic()
        if ready:
            line = asked.readline()
            if not line:
                return
        if now >= due:
            late.add(now, now - due)
            wakes += 1
            if wakes % _WORK_EVERY == 0:
                speed.add(now, _work_s())
            due = now + EVERY_S
        if ready:
            since_s, until_s = map(float, line.split())
            print(late.longest_s(since_s), speed.slow(since_s, until_s), flush=True)


def _work_s() -> float:
    """How long a piece of work takes that is in the core's cache: the first time brings it there."""
    for _ in _WORK:
        pass
    began = time.perf_counter()
    for _ in _WORK:
        pass
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

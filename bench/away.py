"""How long the machine takes the gateways' core away, told by a process that goes before all others on it.

It wakes every 4 ms. What it is late by is no gateway's doing, for none can keep it waiting: the host of a virtual
machine gave the core to somebody else, or the system kept it. `python -m bench.away` answers each line on its standard
input, which is a time of the monotonic clock, with the longest since then; where it may not go before others it ends at
once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from select import select

from bench.processes import GATEWAY_CORE, pinned

EVERY_S = 0.004
WINDOW_S = 120.0


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


class Watch:
    """The process, where it can be had."""

    def __init__(self) -> None:
        command = pinned([sys.executable, "-m", "bench.away"], GATEWAY_CORE)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def longest_ms(self, since_s: float) -> float | None:
        """For how long the core was away at a time since then, which is of `time.monotonic`; None where nobody can
        tell."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(b"%r\n" % since_s)
            self._process.stdin.flush()
            return float(self._process.stdout.readline()) * 1000
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
    late, asked = Late(), sys.stdin.buffer
    due = time.monotonic() + EVERY_S
    while True:
        ready, _, _ = select([asked], [], [], max(0.0, due - time.monotonic()))
        now = time.monotonic()
        if ready:
            line = asked.readline()
            if not line:
                return
        if now >= due:
            late.add(now, now - due)
            due = now + EVERY_S
        if ready:
            print(late.longest_s(float(line)), flush=True)


if __name__ == "__main__":
    main()

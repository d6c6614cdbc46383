"""How much goes on in one turn of the loop.

A loop runs everything that is ready before it looks at its timers and connections again. Where hundreds of calls are
ready at once, that is as long as all of them take together, and everybody else waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

_TURN_S = 0.003
_FIRST, _LEAST, _MOST = 32, 8, 1024
# A turn with fewer tells what a turn costs, not what one wait does.
_TELLING = 8
_SMOOTHED, _RISES = 8, 4


class Turns:
    """Ends waits, as many in one turn of the loop as take some 3 ms; what is ready beyond that goes on in the next
    ones, in order. Smaller turns would cost more, for what is done many times in a row is done from the cache."""

    def __init__(self) -> None:
        self._most = self._left = _FIRST
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._counts = False
        self._cost_s = _TURN_S / _FIRST
        self._ran_s: float | None = None

    def wake(self, waiter: asyncio.Future[None]) -> None:
        """Ends this wait, in this turn or in one of the next; one that has ended stays as it is."""
        if waiter.done():
            return
        if not self._left:
            self._waiting.append(waiter)
            return
        self._left -= 1
        if not self._counts:
            waiter.get_loop().call_soon(self._turned)
            self._counts = True
        waiter.set_result(None)

    def _turned(self) -> None:
        ran_s = time.thread_time()
        woken = self._most - self._left
        if woken >= _TELLING and self._ran_s is not None:
            # What ran while nothing was woken, for a minute perhaps, is in it too.
            cost_s = min((ran_s - self._ran_s) / woken, self._cost_s * _RISES)
            cost_s = self._cost_s + (cost_s - self._cost_s) / _SMOOTHED
            self._cost_s = max(_TURN_S / _MOST, min(cost_s, _TURN_S / _LEAST))  # a coarse clock says nothing at all
            self._most = round(_TURN_S / self._cost_s)
        self._ran_s = ran_s
        self._counts = False
        self._left = self._most
        waiting = self._waiting
        while waiting and self._left:
            self.wake(waiting.popleft())

"""How much goes on in one turn of the loop.

A loop runs everything that is ready before it looks at its timers and connections again. Where hundreds of calls are
ready at once, that is as long as all of them take together, and everybody else waits for it.
"""

from __future__ import annotations

import asyncio
from time import monotonic

_TURN_S = 0.003
# So many go on whatever the clock says.
_LEAST = 8


class Turns:
    """Lets those whose wait has ended go on for some 3 ms of one turn of the loop; who comes later goes on in the next
    ones, in order. Smaller turns would cost more, for what is done many times in a row is done from the cache."""

    def __init__(self) -> None:
        self._ends = 0.0
        self._went_on = 0
        self._begins = False

    def wake(self, waiter: asyncio.Future[None]) -> None:
        """Ends this wait: who waited asks next whether the turn is over. One that has ended stays as it is."""
        if not waiter.done():
            self.begin(waiter.get_loop())
            waiter.set_result(None)

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Says that somebody will go on in the loop's next turn."""
        if not self._begins:
            self._begins = True
            loop.call_soon(self._begun)

    def _begun(self) -> None:
        self._begins = False
        self._went_on = 0
        self._ends = monotonic() + _TURN_S

    def is_over(self) -> bool:
        """Asked by each who goes on: whether this turn has taken its time, so that `next` is to be awaited first."""
        self._went_on += 1
        return self._went_on > _LEAST and monotonic() > self._ends

    async def next(self) -> None:
        """Returns in a turn that is not over."""
        loop = asyncio.get_running_loop()
        while True:
            self.begin(loop)
            await asyncio.sleep(0)
            if not self.is_over():
                return

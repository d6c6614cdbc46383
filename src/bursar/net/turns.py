"""How much goes on in one turn of the loop, and when what it writes leaves.

A loop runs everything that is ready before it looks at its timers and connections again. Where hundreds of calls are
ready at once, that is as long as all of them take together, and everybody else waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic

_TURN_S = 0.003
# So many are woken in a turn at first, and so many go on whatever the clock says; behind a turn that was over so many
# more are woken than went on in it, for each of them may be put off.
_FIRST, _LEAST, _MORE = 32, 8, 2


class Turns:
    """Lets those whose wait has ended go on for some 3 ms of one turn of the loop; who comes later goes on in the next
    ones, in order. Smaller turns would cost more, for what is done many times in a row is done from the cache.

    The clock decides, asked by each who goes on. No more are woken for a turn than went on in one lately, for to be put
    off is work as well.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._late: list[asyncio.Future[None]] = []
        self._most = _FIRST
        self._bound = self._most  # as many as may be woken at once; nobody while others wait
        self._woken = self._asked = 0
        self._ends = 0.0
        self._begins = False
        self._leaving: list[Callable[[], None]] = []
        self._is_ending = False
        self.before_leaving: Callable[[], None] = lambda: None
        """What is to be done before anything leaves; who does not wait for a turn's end calls it."""
        self._loop: asyncio.AbstractEventLoop | None = None

    def wake(self, waiter: asyncio.Future[None]) -> None:
        """Ends this wait, now or in one of the next turns: who waited asks `is_over` before going on. One that has
        ended stays as it is."""
        if waiter.done():
            return
        loop = waiter.get_loop()
        if not self._begins or loop is not self._loop:
            self.begin(loop)
        if self._woken >= self._bound:
            self._waiting.append(waiter)
            self._bound = 0
        else:
            self._woken += 1
            waiter.set_result(None)

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Says that somebody will go on in the loop's next turn."""
        if loop is not self._loop:
            self._belong_to(loop)
        if not self._begins:
            self._begins = True
            loop.call_soon(self._begun)

    def leave(self, loop: asyncio.AbstractEventLoop, flush: Callable[[], None]) -> None:
        """Calls `flush` when this turn has ended: what is written in a turn leaves in a row, for to write is much code,
        and what is done many times in a row is done from the cache."""
        if not self._is_ending or loop is not self._loop:
            self.end(loop)
        self._leaving.append(flush)

    def end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Says that there is something to do before anything leaves."""
        if loop is not self._loop:
            self._belong_to(loop)
        if not self._is_ending:
            self._is_ending = True
            loop.call_soon(self._leave)

    def is_over(self) -> bool:
        """Asked by each who goes on: whether this turn has taken its time, so that `next` is to be awaited first."""
        self._asked = asked = self._asked + 1
        return asked > _LEAST and monotonic() > self._ends

    async def next(self) -> None:
        """Returns in a turn that is not over."""
        loop = asyncio.get_running_loop()
        while True:
            self.begin(loop)
            waiter = loop.create_future()
            self._late.append(waiter)
            self._bound = 0
            await waiter
            if not self.is_over():
                return

    def _belong_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins anew: whoever waited in another loop has ended with it."""
        self._loop, self._begins, self._is_ending, self._woken = loop, False, False, 0
        self._waiting.clear()
        self._late.clear()
        self._leaving.clear()
        self._bound = self._most

    def _leave(self) -> None:
        self._is_ending = False
        leaving, self._leaving = self._leaving, []
        self.before_leaving()
        for flush in leaving:
            try:
                flush()
            except Exception as error:  # the others' must leave all the same
                context = {"message": "what was written could not leave", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    def _begun(self) -> None:
        """The first thing in a turn: those who were woken since the last go on behind it."""
        self._begins = False
        self._ends = monotonic() + _TURN_S
        asked, self._asked = self._asked, 0
        woken, self._woken = self._woken, 0
        if self._late:
            self._most = asked - len(self._late) + _MORE
            self._waiting.extendleft(reversed(self._late))
            self._late.clear()
        elif self._waiting and asked >= self._most:
            self._most *= 2
        if self._waiting:
            self.begin(self._waiting[0].get_loop())
            if not woken:  # otherwise one of them may be put off yet, and comes before those
                self._release()
        self._bound = 0 if self._waiting else self._most

    def _release(self) -> None:
        while self._waiting and self._woken < self._most:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._woken += 1
                waiter.set_result(None)

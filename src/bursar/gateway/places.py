"""How many attempts a provider gets at once from this process; who finds none free waits in line."""

from __future__ import annotations

import asyncio
from collections import deque


class Places:
    """The places of one provider. Their number may change while they are taken."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._line: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Takes a place where one is free and nobody waits for it."""
        if self.taken >= self.limit or self._line:
            return False
        self.taken += 1
        return True

    async def wait(self, within_s: float) -> bool:
        """Takes a place as soon as one is free, in the order of arrival; False where none was in time."""
        if self.take():
            return True
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            async with asyncio.timeout(within_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave()  # it came in the same moment, and is nobody's now
            elif turn in self._line:
                self._line.remove(turn)
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

    def leave(self) -> None:
        """Gives a place back: the first in line gets it."""
        self.taken -= 1
        self._next()

    def resize(self, limit: int) -> None:
        """Sets another number of places."""
        self.limit = limit
        self._next()

    def _next(self) -> None:
        while self._line and self.taken < self.limit:
            turn = self._line.popleft()
            if not turn.done():
                self.taken += 1
                turn.set_result(None)

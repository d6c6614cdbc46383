"""Turns of the loop that are over when asked, so that what puts off is seen at work."""

from __future__ import annotations

from bursar.net.turns import Turns


class Reluctant(Turns):
    """Puts off everybody once; `put_off` counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.put_off = 0
        self._again = False

    def is_over(self) -> bool:
        super().is_over()
        self._again = not self._again
        self.put_off += self._again
        return self._again

    async def next(self) -> None:
        await super().next()
        self._again = False

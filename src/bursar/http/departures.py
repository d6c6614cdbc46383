"""Clients that leave while they wait for an answer.

Servers tell a lost client in different ways, and some not at all in `send`; only `receive` is sure to. To wait
for it beside every call would cost each a task; so calls get one when they have lasted a moment, which all do
whose answer is worth cancelling.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from bursar.http.answers import Receive

_LOOK_EVERY_S = 0.05


class _Waiting:
    """A client that waits, and the task that works for it."""

    lasts = False
    left = False
    _listener: asyncio.Task[None] | None = None

    def __init__(self, task: asyncio.Task[object], receive: Receive) -> None:
        self.task = task
        self._receive = receive

    def listen(self) -> None:
        if self._listener is None:
            self._listener = asyncio.ensure_future(self._listen())

    def stop(self) -> None:
        # The two know each other: one of them has to let go, or both wait for the garbage collector.
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        self.task.cancel()


class Departures:
    """Cancels the work for clients that have left."""

    def __init__(self) -> None:
        self._waiting: set[_Waiting] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def work(self, receive: Receive, work: Coroutine[object, object, None]) -> None:
        """Does the work, and cancels it when the client leaves."""
        task = asyncio.current_task()
        assert task is not None
        waiting = _Waiting(task, receive)
        self._waiting.add(waiting)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)
        try:
            await work
        except asyncio.CancelledError:
            if not waiting.left or task.uncancel() > 0:
                raise
        finally:
            self._waiting.discard(waiting)
            if waiting.lasts:
                waiting.stop()

    def _look(self) -> None:
        for waiting in self._waiting:
            if waiting.lasts:
                waiting.listen()
            waiting.lasts = True
        again = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look) if self._waiting else None
        self._timer = again

"""How many waits end in one turn of the loop."""

from __future__ import annotations

import asyncio
import time
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.net import turns as module
from bursar.net.turns import Turns


class _Loop:
    """Counts turns of the running loop, and which wait ended in which."""

    def __init__(self) -> None:
        self.turn = 0
        self.ended: list[tuple[int, int]] = []
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        self.turn += 1
        self._loop.call_soon(self._next)

    async def wait(self, name: int, waiter: asyncio.Future[None]) -> None:
        await waiter
        self.ended.append((name, self.turn))

    @property
    def most(self) -> int:
        """How many ended in one turn, at most."""
        turns = [turn for _, turn in self.ended]
        return max(turns.count(turn) for turn in set(turns))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The processor time of this thread, as it is set."""
    now = {"s": 5.0}
    monkeypatch.setattr(time, "thread_time", lambda: now["s"])
    return now


async def test_what_is_ready_beyond_a_turn_goes_on_in_the_next_in_order() -> None:
    loop, turns = _Loop(), Turns()
    waiters = [asyncio.get_running_loop().create_future() for _ in range(200)]
    tasks = [asyncio.create_task(loop.wait(n, waiter)) for n, waiter in enumerate(waiters)]
    await asyncio.sleep(0)
    for waiter in waiters:
        turns.wake(waiter)
    await asyncio.gather(*tasks)

    assert [name for name, _ in loop.ended] == list(range(200))
    assert loop.most < 200
    assert len({turn for _, turn in loop.ended}) > 1


async def test_what_comes_later_does_not_overtake_what_waits() -> None:
    loop, turns = _Loop(), Turns()
    numbers, tasks = count(), []

    def come(some: int) -> None:
        for _ in range(some):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            tasks.append(asyncio.create_task(loop.wait(next(numbers), waiter)))
            turns.wake(waiter)

    for some in (100, 40, 0, 1, 60):
        come(some)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert [name for name, _ in loop.ended] == list(range(201))


async def test_a_wait_that_was_given_up_meanwhile_is_passed_over() -> None:
    turns = Turns()
    waiters = [asyncio.get_running_loop().create_future() for _ in range(100)]
    for waiter in waiters:
        turns.wake(waiter)
    for waiter in waiters[50:60]:
        waiter.cancel()
    waiters[60].set_exception(TimeoutError())
    async with asyncio.timeout(5):
        await asyncio.gather(*waiters, return_exceptions=True)
    assert sum(w.cancelled() for w in waiters) == 10
    assert all(w.result() is None for w in (*waiters[:50], *waiters[61:]))


@pytest.mark.parametrize(("cost_s", "least", "most"), [(0.001, 8, 8), (0.0001, 25, 31), (0.000001, 900, 1024)])
async def test_a_turn_takes_as_many_as_its_time_allows(
    clock: dict[str, float], cost_s: float, least: int, most: int
) -> None:
    loop, turns = _Loop(), Turns()

    async def work(name: int, waiter: asyncio.Future[None]) -> None:
        await loop.wait(name, waiter)
        clock["s"] += cost_s

    for _ in range(8):
        loop.ended.clear()
        waiters = [asyncio.get_running_loop().create_future() for _ in range(1200)]
        tasks = [asyncio.create_task(work(n, waiter)) for n, waiter in enumerate(waiters)]
        await asyncio.sleep(0)
        for waiter in waiters:
            turns.wake(waiter)
        await asyncio.gather(*tasks)
    assert least <= loop.most <= most


async def test_what_ran_while_nothing_was_woken_is_not_what_a_wait_takes(clock: dict[str, float]) -> None:
    loop, turns = _Loop(), Turns()

    async def all_of(some: int) -> None:
        waiters = [asyncio.get_running_loop().create_future() for _ in range(some)]
        tasks = [asyncio.create_task(loop.wait(n, waiter)) for n, waiter in enumerate(waiters)]
        await asyncio.sleep(0)
        for waiter in waiters:
            turns.wake(waiter)
        await asyncio.gather(*tasks)

    await all_of(300)
    before = loop.most
    clock["s"] += 10.0  # of timers
    await all_of(300)
    loop.ended.clear()
    await all_of(300)
    assert loop.most > before / 3


async def test_a_wait_that_has_ended_is_no_fault_and_takes_no_place() -> None:
    turns = Turns()
    for _ in range(100):
        over = asyncio.get_running_loop().create_future()
        over.cancel()
        turns.wake(over)
    waiter = asyncio.get_running_loop().create_future()
    turns.wake(waiter)
    assert waiter.done()


@given(st.lists(st.tuples(st.integers(0, 90), st.floats(0, 0.01)), max_size=30))
def test_every_wait_ends_however_many_come_and_however_long_they_take(turns_of: list[tuple[int, float]]) -> None:
    spent = 0.0

    async def all_of_them() -> None:
        nonlocal spent
        turns, waiters = Turns(), []
        for some, cost_s in turns_of:
            for _ in range(some):
                waiters.append(asyncio.get_running_loop().create_future())
                turns.wake(waiters[-1])
            spent += cost_s
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await asyncio.gather(*waiters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "thread_time", lambda: spent)
        asyncio.run(all_of_them())

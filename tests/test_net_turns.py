"""How much goes on in one turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.net import turns as module
from bursar.net.turns import Turns


class _Loop:
    """Waits that end through `turns`: each takes so long of a clock that only they move. Who went on in which turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.turns = Turns()
        self.turn = 0
        self.now = 5.0
        self.went_on: list[tuple[int, int]] = []
        self.spent_s: dict[int, float] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._next)
        self._names = count()
        self.tasks: list[asyncio.Task[None]] = []
        monkeypatch.setattr(module, "monotonic", lambda: self.now)

    def _next(self) -> None:
        self.turn += 1
        self._loop.call_soon(self._next)

    async def wait(self, name: int, waiter: asyncio.Future[None], took_s: float) -> None:
        await waiter
        if self.turns.is_over():
            await self.turns.next()
        self.now += took_s
        self.spent_s[self.turn] = self.spent_s.get(self.turn, 0.0) + took_s
        self.went_on.append((name, self.turn))

    def begins(self, took_s: float) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self.tasks.append(asyncio.create_task(self.wait(next(self._names), waiter, took_s)))
        return waiter

    async def come(self, some: int, took_s: float) -> None:
        """So many begin to wait, and their waits end at once."""
        waiters = [self.begins(took_s) for _ in range(some)]
        await asyncio.sleep(0)
        for waiter in waiters:
            self.turns.wake(waiter)

    async def all(self) -> None:
        async with asyncio.timeout(5):
            await asyncio.gather(*self.tasks)

    def of_turns(self) -> list[int]:
        """How many went on in each turn in which any did."""
        turns = [turn for _, turn in self.went_on]
        return [turns.count(turn) for turn in sorted(set(turns))]


@pytest.fixture
async def loop(monkeypatch: pytest.MonkeyPatch) -> _Loop:
    return _Loop(monkeypatch)


async def test_what_comes_after_the_turns_time_goes_on_in_the_next_in_order(loop: _Loop) -> None:
    await loop.come(200, 0.0001)
    await loop.all()
    assert [name for name, _ in loop.went_on] == list(range(200))
    assert max(loop.of_turns()) <= 32
    assert len(loop.of_turns()) <= 8


@pytest.mark.parametrize(("took_s", "most"), [(1.0, 9), (0.001, 9), (0.0001, 32), (0.00001, 302), (0.0, 512)])
async def test_a_turn_is_as_long_as_its_time_allows(loop: _Loop, took_s: float, most: int) -> None:
    await loop.come(1000, took_s)
    await loop.all()
    assert most - 2 <= max(loop.of_turns()) <= most


async def test_long_ones_behind_short_ones_make_no_longer_turn(loop: _Loop) -> None:
    await loop.come(400, 0.00001)
    await loop.come(100, 0.0005)
    await loop.all()
    assert max(loop.spent_s.values()) < 0.003 + 8 * 0.0005


@pytest.mark.parametrize("took_s", [0.00003, 0.001])
async def test_to_wait_long_is_not_to_ask_often(loop: _Loop, monkeypatch: pytest.MonkeyPatch, took_s: float) -> None:
    asked, is_over = count(1), loop.turns.is_over
    monkeypatch.setattr(loop.turns, "is_over", lambda: (next(asked), is_over())[1])
    await loop.come(5000, took_s)
    await loop.all()
    assert next(asked) < 3 * 5000


async def test_a_loop_that_ended_in_the_middle_leaves_nothing_to_the_next() -> None:
    turns = Turns()

    async def left() -> None:
        turns.begin(asyncio.get_running_loop())

    async def begun() -> int:
        waiters = [asyncio.get_running_loop().create_future() for _ in range(30)]
        for waiter in waiters:
            turns.wake(waiter)
        async with asyncio.timeout(5):
            for waiter in waiters:
                await waiter
                if turns.is_over():
                    await turns.next()
        return len(waiters)

    def in_a_loop(work: Callable[[], Coroutine[None, None, object]]) -> object:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(work())
        finally:
            loop.close()

    await asyncio.to_thread(in_a_loop, left)
    assert await asyncio.to_thread(in_a_loop, begun) == 30


async def test_what_comes_later_does_not_overtake_what_waits(loop: _Loop) -> None:
    for some in (100, 40, 0, 1, 60):
        await loop.come(some, 0.0002)
    await loop.all()
    assert [name for name, _ in loop.went_on] == list(range(201))


async def test_a_turn_begins_anew_after_a_rest(loop: _Loop) -> None:
    await loop.come(5, 0.0)
    await loop.all()
    loop.now += 60.0
    loop.went_on.clear()
    await loop.come(20, 0.0)
    await loop.all()
    assert loop.of_turns() == [20]


async def test_a_wait_that_was_given_up_meanwhile_is_passed_over(loop: _Loop) -> None:
    waiters = [loop.begins(0.001) for _ in range(100)]
    await asyncio.sleep(0)
    waiters[60].set_exception(TimeoutError())
    for waiter in waiters:
        loop.turns.wake(waiter)
    await asyncio.sleep(0)
    for task in loop.tasks[70:80]:
        task.cancel()  # they were woken for a later turn
    await asyncio.gather(*loop.tasks, return_exceptions=True)
    assert sum(task.cancelled() for task in loop.tasks) == 10
    assert isinstance(loop.tasks[60].exception(), TimeoutError)
    assert [n for n, _ in loop.went_on] == [n for n in range(100) if n != 60 and not 70 <= n < 80]


async def test_while_many_go_on_timers_and_others_come_to_their_turn(loop: _Loop) -> None:
    others = 0

    def other() -> None:
        nonlocal others
        others += 1
        if not all(task.done() for task in loop.tasks):
            asyncio.get_running_loop().call_later(0, other)

    await loop.come(300, 0.001)
    other()
    await loop.all()
    assert others >= 300 // 9


@given(st.lists(st.tuples(st.integers(0, 90), st.floats(0, 0.01)), max_size=30))
def test_everyone_goes_on_however_many_come_and_however_long_they_take(coming: list[tuple[int, float]]) -> None:
    async def all_of_them() -> None:
        with pytest.MonkeyPatch.context() as patched:
            loop = _Loop(patched)
            for some, took_s in coming:
                await loop.come(some, took_s)
            await loop.all()
            assert [name for name, _ in loop.went_on] == list(range(sum(some for some, _ in coming)))

    asyncio.run(all_of_them())


def test_what_could_not_leave_in_a_loop_that_ended_holds_nothing_back_in_the_next() -> None:
    turns, left = Turns(), []

    async def work(name: str, *, ends: bool) -> None:
        turns.leave(asyncio.get_running_loop(), lambda: left.append(name))
        if not ends:
            await asyncio.sleep(0)

    for name, ends in (("first", True), ("second", False)):
        loop = asyncio.new_event_loop()
        task = loop.create_task(work(name, ends=ends))
        task.add_done_callback(lambda _, loop=loop: loop.stop())
        loop.call_soon(loop.stop) if ends else None
        loop.run_forever()
        loop.close()
    assert left == ["second"]


async def test_what_comes_before_leaving_is_done_once_a_turn_whoever_asks_for_it() -> None:
    turns, done = Turns(), list[str]()
    turns.before_leaving = lambda: done.append("before")
    loop = asyncio.get_running_loop()
    for asks in ([turns.end, turns.end], [turns.end, "a", "b"], ["a", turns.end, "b"], ["a", "b"]):
        done.clear()
        for ask in asks:
            if isinstance(ask, str):
                turns.leave(loop, lambda name=ask: done.append(name))
            else:
                ask(loop)
        assert done == []
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert done == ["before", *(ask for ask in asks if isinstance(ask, str))]

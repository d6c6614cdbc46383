"""Everything a call needs on its way, put together once; `run` is the only door to a provider."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping

import msgspec

from bursar.gateway.estimate import Estimator
from bursar.gateway.registry import FINISH, REMEMBERED, REMEMBERED_CHARS, Registry, Target
from bursar.gateway.running import Running
from bursar.ledger.ledger import Ledger
from bursar.net.transport import Transport
from bursar.prices.table import PriceTable
from bursar.types.call import Call
from bursar.types.errors import RequestError
from bursar.wire.encode import Way
from bursar.wire.headers import fault_of


class _Ways(msgspec.Struct, frozen=True):
    """The targets of a model as they were resolved, each with its way; `shields` is true where an answer of one may
    have to be read on when nobody waits for it."""

    targets: list[Target]
    pairs: list[tuple[Target, Way]]
    shields: bool


class Gateway:
    """The way of a call: resolve and encode here, before any entry exists; the rest in `Running`."""

    def __init__(
        self,
        *,
        registry: Registry,
        ledger: Ledger,
        prices: PriceTable,
        transports: Mapping[str, Transport],
        estimator: Estimator,
        user_agent: str,
    ) -> None:
        self.registry = registry
        self.ledger = ledger
        self.prices = prices
        self.transports = transports
        self.estimator = estimator
        self._user_agent = user_agent
        self._ways: dict[tuple[str, str, bool], _Ways] = {}
        self._finishing: set[asyncio.Task[None]] = set()
        self._running: set[Running] = set()

    def run(self, call: Call) -> Running:
        """A call ready to start. Raises RequestError where it cannot be said, UnknownModelError."""
        targets = self.registry.resolve(call.model)
        ways = self._ways.get((call.model, call.operation, call.stream))
        if ways is None or ways.targets is not targets:
            ways = self._ways_of(call, targets)
        own = call.headers
        plan = []
        for target, way in ways.pairs:
            plan.append((target, way.request(call, self._with_own(target, way, own) if own else way.headers)))
        running = Running(self, call, plan, ways.shields)
        self._running.add(running)
        return running

    @property
    def is_busy(self) -> bool:
        """Whether calls are under way."""
        return bool(self._running)

    def forget(self, running: Running) -> None:
        """A call has been closed."""
        self._running.discard(running)

    def finish_later(self, work: Coroutine[object, object, None]) -> None:
        """Reads on for a client that has left; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def close(self, *, within_s: float) -> None:
        """Ends the calls that are still under way, waits for answers that are read on, then cancels those,
        then closes the transports. No entry stays open."""
        for running in list(self._running):
            running.abandon()
        if self._finishing:
            await asyncio.wait(set(self._finishing), timeout=within_s)
        for task in self._finishing:
            task.cancel()
        if self._finishing:
            await asyncio.wait(set(self._finishing))
        for provider in self.registry.providers.values():
            if provider.credential is not None:
                await provider.credential.close()
        for transport in self.transports.values():
            await transport.close()

    @staticmethod
    def _with_own(target: Target, way: Way, given: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """The headers with the call's own behind them."""
        for name, value in given:
            if fault := fault_of(name, value):
                raise RequestError(fault, field=name)
        own = {name.lower() for name, _ in target.provider.headers}
        return (*way.headers, *((name, value) for name, value in given if name.lower() not in own))

    def _ways_of(self, call: Call, targets: list[Target]) -> _Ways:
        pairs = [(target, self._way(call, target)) for target in targets]
        ways = _Ways(targets, pairs, any(target.provider.on_disconnect == FINISH for target in targets))
        if len(self._ways) >= REMEMBERED:
            self._ways.clear()
        if len(call.model) <= REMEMBERED_CHARS:
            self._ways[call.model, call.operation, call.stream] = ways
        return ways

    def _way(self, call: Call, target: Target) -> Way:
        provider = target.provider
        endpoint = provider.endpoint(call.operation)
        headers = (
            ("content-type", "application/json"),
            ("accept", "*/*" if endpoint.spec.media else "text/event-stream" if call.stream else "application/json"),
            ("accept-encoding", "identity"),
            ("user-agent", self._user_agent),
            *provider.headers,
        )
        return Way(
            endpoint,
            operation=call.operation,
            asked=call.model,
            model=target.model,
            stream=call.stream,
            headers=headers,
        )

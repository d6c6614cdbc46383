"""Everything a call needs on its way, put together once; `run` is the only door to a provider."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping

from bursar.gateway.estimate import Estimator
from bursar.gateway.registry import FINISH, Provider, Registry, Target
from bursar.gateway.running import Running
from bursar.ledger.ledger import Ledger
from bursar.net.transport import Transport
from bursar.prices.table import PriceTable
from bursar.types.call import EMBEDDINGS, Call
from bursar.types.errors import RequestError
from bursar.wire.encode import Request, encode
from bursar.wire.headers import fault_of


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
        self._headers_of: dict[tuple[str, bool], tuple[Provider, tuple[tuple[str, str], ...]]] = {}
        self._finishing: set[asyncio.Task[None]] = set()
        self._running: set[Running] = set()

    def run(self, call: Call) -> Running:
        """A call ready to start. Raises RequestError where it cannot be said, UnknownModelError."""
        plan, shields = [], False
        for target in self.registry.resolve(call.model):
            plan.append((target, self._request(target, call)))
            shields = shields or target.provider.on_disconnect == FINISH
        running = Running(self, call, plan, shields=shields)
        self._running.add(running)
        return running

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
        for transport in self.transports.values():
            await transport.close()

    def _request(self, target: Target, call: Call) -> Request:
        provider = target.provider
        headers = self._headers(provider, call.stream)
        if call.headers:
            for name, value in call.headers:
                if fault := fault_of(name, value):
                    raise RequestError(fault, field=name)
            own = {name.lower() for name, _ in provider.headers}
            headers = (*headers, *((name, value) for name, value in call.headers if name.lower() not in own))
        return encode(
            provider.spec,
            call,
            model=target.model,
            url=provider.embeddings_url if call.operation == EMBEDDINGS else provider.chat_url,
            headers=headers,
            include_usage=provider.include_usage,
        )

    def _headers(self, provider: Provider, stream: bool) -> tuple[tuple[str, str], ...]:
        key = (provider.name, stream)
        known = self._headers_of.get(key)
        if known is None or known[0] is not provider:
            headers = (
                ("content-type", "application/json"),
                ("accept", "text/event-stream" if stream else "application/json"),
                ("accept-encoding", "identity"),
                ("user-agent", self._user_agent),
                *provider.headers,
            )
            known = self._headers_of[key] = (provider, headers)
        return known[1]

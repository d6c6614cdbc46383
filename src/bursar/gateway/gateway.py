"""Everything a call needs on its way, put together once; `run` is the only door to a provider."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Protocol

import msgspec

from bursar.gateway.estimate import Estimator
from bursar.gateway.places import Places
from bursar.gateway.provider import FINISH, Parameters, Provider, Target
from bursar.gateway.registry import Plan, Registry, Ways
from bursar.gateway.routing import Resting, drawn
from bursar.gateway.running import Course, Running
from bursar.ledger.ledger import Ledger
from bursar.net.transport import Reach, Transport
from bursar.prices.table import Prices
from bursar.types.call import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Call
from bursar.types.errors import RequestError
from bursar.wire.encode import Way
from bursar.wire.headers import fault_of
from bursar.wire.openings import Openings
from bursar.wire.readers import Endpoint

_TEXT = frozenset({CHAT, MESSAGES, COMPLETIONS, RESPONSES})
# Where the values of a binding stand in a request that is not OpenAI's chat.
_OF_RESPONSES = {"max_tokens": "max_output_tokens", "system_prompt": "instructions"}


class Transports(Protocol):
    """The ways out, made as they are needed."""

    def of(self, reach: Reach) -> Transport:
        """The one for providers that are reached like this."""

    async def close(self) -> None: ...


class Gateway:
    """The way of a call: resolve and encode here, before any entry exists; the rest in `Running`."""

    def __init__(
        self,
        *,
        registry: Registry,
        ledger: Ledger,
        prices: Prices,
        transports: Transports,
        estimator: Estimator,
        user_agent: str,
    ) -> None:
        self.registry = registry
        self.ledger = ledger
        self.prices = prices
        self.transports = transports
        self.estimator = estimator
        self.resting = Resting()
        self.openings = Openings()
        self._user_agent = user_agent
        self._places: dict[str, Places] = {}
        self._finishing: set[asyncio.Task[None]] = set()
        self._running: set[Running] = set()

    def run(self, call: Call) -> Running:
        """A call ready to start. Raises RequestError where it cannot be said, UnknownModelError."""
        return self._run(call, self.registry.resolve(call.model, call.context.workspace, call.action, call.skill))

    def run_at(self, provider: Provider, call: Call, reason: str) -> Running:
        """A call ready to start to this provider, whether it is one of the registry's or not. Raises RequestError."""
        return self._run(call, Plan([Target(provider=provider, model=call.model, reason=reason)], (None,), False, {}))

    def _run(self, call: Call, plan: Plan) -> Running:
        ways = plan.ways.get((call.operation, call.stream)) or self._ways_of(call, plan)
        own = call.headers
        courses: list[Course] = []
        for target, way in ways.pairs:
            courses.append((target, way.request(call, self._with_own(target, way, own) if own else way.headers)))
        said = None
        if plan.is_route:
            courses, said = self._routed(plan, courses)
        running = Running(self, call, courses, ways.shields, said)
        self._running.add(running)
        return running

    def _routed(self, plan: Plan, courses: list[Course]) -> tuple[list[Course], str | None]:
        """The courses in the order they are tried by this call, and what there is to say of it."""
        order = drawn(plan.weights, random.random)
        said = None
        if not self.resting.is_empty:
            order, said = self.resting.sorted(plan.targets, order)
        return [courses[n] for n in order], said

    def places(self, provider: Provider) -> Places | None:
        """The places of a provider that has so many and no more."""
        limit = provider.max_concurrent
        if limit is None:
            return None
        places = self._places.get(provider.key)
        if places is None:
            places = self._places[provider.key] = Places(limit)
        elif places.limit != limit:
            places.resize(limit)
        return places

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
        for provider in self.registry.made():
            if provider.credential is not None:
                await provider.credential.close()
        await self.transports.close()

    @staticmethod
    def _with_own(target: Target, way: Way, given: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """The headers with the call's own behind them."""
        for name, value in given:
            if fault := fault_of(name, value):
                raise RequestError(fault, field=name)
        own = {name.lower() for name, _ in target.provider.headers}
        return (*way.headers, *((name, value) for name, value in given if name.lower() not in own))

    def _ways_of(self, call: Call, plan: Plan) -> Ways:
        pairs = [(target, self._way(call, target)) for target in plan.targets]
        ways = Ways(pairs, any(target.provider.on_disconnect == FINISH for target in plan.targets))
        plan.ways[call.operation, call.stream] = ways
        return ways

    def _way(self, call: Call, target: Target) -> Way:
        provider = target.provider
        endpoint = provider.endpoint(call.operation)
        if call.operation in _TEXT:
            endpoint = _bound(endpoint, call.operation, target.parameters)
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


def _bound(endpoint: Endpoint, operation: str, given: Parameters) -> Endpoint:
    """The endpoint with what a binding says of its calls, over what the provider's own settings do."""
    values: dict[str, object] = {k: v for k, v in msgspec.structs.asdict(given).items() if v is not None}
    if not values:
        return endpoint
    request = endpoint.spec.request
    passes = endpoint.spec.speaks == operation
    if operation == RESPONSES and passes:
        values = {_OF_RESPONSES.get(name, name): value for name, value in values.items()}
    prompt = values.pop("system_prompt", request.system_prompt)
    request = msgspec.structs.replace(
        request, defaults={**request.defaults, **values}, system_prompt=str(prompt) if prompt is not None else None
    )
    return msgspec.structs.replace(endpoint, spec=msgspec.structs.replace(endpoint.spec, request=request))

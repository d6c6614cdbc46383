"""The composition root: settings become a gateway with its ledger, store and drain; used by the library,
the server and the command line alike, so that there is one way of a call and not two.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import bursar
from bursar.gateway.estimate import Estimator
from bursar.gateway.gateway import Gateway
from bursar.gateway.registry import Registry
from bursar.ledger import status
from bursar.ledger.adopt import Adopter
from bursar.ledger.drain import Drain
from bursar.ledger.ledger import Ledger, Limits, Observer
from bursar.net.backends import Backend
from bursar.net.guard import Guard
from bursar.net.turns import Turns
from bursar.prices.table import Prices
from bursar.runtime.backends import Backends
from bursar.runtime.follow import Told, follow
from bursar.runtime.registry import Assembly, Followed, vault_of
from bursar.runtime.settings import Settings, bytes_of
from bursar.runtime.transports import Transports
from bursar.store.engine import Database
from bursar.store.ledger_sql import SqlLedgerStore
from bursar.store.ratios import token_ratios
from bursar.store.registry import RegistryStore
from bursar.store.schema import prepare
from bursar.store.vault import Vault
from bursar.types.errors import ConfigError, StoreError

_PUBLISH_EVERY_S = 0.5
_ADOPT_EVERY_S = 2.0
_LAST_ROUND_S = 10.0
_STORE_AT_START_S = 20.0
_EVERYWHERE_S, _EVERYWHERE_TICK_S = 3.0, 0.02
_GAP_TICK_S = 0.002
_GAP_IDLE_TICK_S = 0.1
_GAP_SLOTS = 10


def _silent(_event: str, _values: dict[str, object]) -> None:
    return None


def _uncounted(_gap_s: float) -> None:
    return None


REGISTRY = "registry"
"""What every process follows."""


class LoopGap:
    """How long the loop was busy with one thing: how late a timer came, at most, in the last seconds."""

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self._is_busy = is_busy
        self._count: Callable[[float], None] = _uncounted
        self._recent: deque[float] = deque([0.0], maxlen=_GAP_SLOTS)
        self._slot_ends = 0.0
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def longest_s(self) -> float:
        return max(self._recent)

    def start(self, count: Callable[[float], None] = _uncounted) -> None:
        """Begins to watch; what was before is not counted. `count` is told each time, in seconds."""
        self.stop()
        self._count = count
        self._due = None
        self._tick()

    def _tick(self) -> None:
        now = time.monotonic()  # uvloop's own clock stands still while a turn lasts, and counts in whole ms
        if self._due is not None:
            gap_s = max(0.0, now - self._due)
            self._recent[-1] = max(self._recent[-1], gap_s)
            self._count(gap_s)
        if now >= self._slot_ends:
            self._recent.append(0.0)
            self._slot_ends = now + 1.0
        # A loop without calls is not woken hundreds of times a second to see that nothing holds it up.
        wait_s = _GAP_TICK_S if self._is_busy() else _GAP_IDLE_TICK_S
        self._due = now + wait_s
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Core:
    """Everything put together, running."""

    def __init__(
        self,
        *,
        database: Database,
        store_id: str,
        ledger: Ledger,
        drain: Drain,
        adopter: Adopter,
        gateway: Gateway,
        registry: Followed,
        vault: Vault,
        turns: Turns,
        chores: Sequence[Callable[[], None]],
        told: Told,
    ) -> None:
        self.database = database
        self.store_id = store_id
        self.ledger = ledger
        self.drain = drain
        self.gateway = gateway
        self.registry = registry
        self.vault = vault
        self.turns = turns
        self._adopter = adopter
        self._told = told
        self._chores = chores
        self.gap = LoopGap(lambda: gateway.is_busy)
        self._published_at = self._adopted_at = 0.0
        self._versions: dict[str, int] = {}
        self._others: list[status.Status] = []
        self._orphans = 0
        self._told_error: str | None = None
        self._told_gap = 0

    def overview(self) -> status.Overview:
        """The ledger over all processes: this one as it is, the others as they last said."""
        return status.overview(self._status(), self._others, self._orphans)

    def follows(self, what: str, version: int) -> None:
        """Tells the other processes which version of something in the store holds here."""
        self._versions[what] = version
        status.publish(self.ledger, self._status())

    async def held_everywhere(self, what: str) -> None:
        """Waits until the version that holds here does in all processes that follow it: what was changed here is then
        true wherever the next call arrives. One that does not come along in time is not waited for any longer."""
        version = self._versions.get(what, 0)
        deadline = time.monotonic() + _EVERYWHERE_S
        while time.monotonic() < deadline:
            if all(s.versions.get(what, version) >= version for s in status.others(self.ledger)[0]):
                return
            await asyncio.sleep(_EVERYWHERE_TICK_S)

    def _status(self) -> status.Status:
        return status.own(self.ledger, self.drain, os.getpid(), self.gap.longest_s, self._versions)

    async def housekeeping(self) -> None:
        """What is done now and then beside draining: tell the others, hear them, adopt the dead."""
        for chore in self._chores:
            chore()
        now = time.monotonic()
        if now - self._published_at >= _PUBLISH_EVERY_S:
            self._published_at = now
            self._exchange()
        if now - self._adopted_at >= _ADOPT_EVERY_S:
            self._adopted_at = now
            for spool_id, interrupted in await self._adopter.look():
                self._told("adopted the spool of a process that ended", {"spool": spool_id, "interrupted": interrupted})

    def _alarm(self, mine: status.Status) -> None:
        """Says it when the store goes away or comes back, and when attempts leave without an entry."""
        if (mine.error is None) != (self._told_error is None):
            away = mine.error is not None
            event = "the store is away; calls go on and the spool grows" if away else "the store is back"
            self._told(event, {"error": mine.error} if away else {})
        self._told_error = mine.error
        if mine.gap != self._told_gap:
            self._told(
                "the spool has no room: attempts leave without an entry", {"attempts": mine.gap - self._told_gap}
            )
            self._told_gap = mine.gap

    def _exchange(self) -> None:
        mine = self._status()
        status.publish(self.ledger, mine)
        self._alarm(mine)
        self._others, self._orphans, orphan_bytes = status.others(self.ledger)
        self.ledger.others_bytes = orphan_bytes + sum(s.bytes for s in self._others)


@asynccontextmanager
async def running(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    observers: Sequence[Observer] = (),
    chores: Sequence[Callable[[], None]] = (),
    told: Told = _silent,
    backends: Mapping[str, Backend] | None = None,
) -> AsyncIterator[Core]:
    """Opens the store and the ledger, drains beside the calls, and at the end settles and drains the rest.

    `chores` are short functions to be called now and then; `backends` are functions that providers of that type name.
    What cannot be drained at the end waits on disk for the next process. Raises ConfigError, StoreError.
    """
    vault = vault_of(settings)
    assembly = Assembly(settings, environ, vault)
    known = Backends(backends)
    known.load(settings.providers)
    turns = Turns()
    transports = Transports(_guard(settings), known, turns)
    database = Database(settings.store.url)
    try:
        core = await _composed(settings, assembly, vault, transports, turns, database, observers, chores, told)
        task = asyncio.create_task(core.drain.run(core.housekeeping))
        following = asyncio.create_task(follow(core.registry.look, "the registry", told))
        try:
            yield core
        finally:
            core.gap.stop()
            following.cancel()
            await core.gateway.close(within_s=settings.server.stop_within_s)
            core.drain.stop()
            await asyncio.wait([task], timeout=_LAST_ROUND_S)
            task.cancel()
            await asyncio.wait([task])
            await _drained(core, told)
    finally:
        await database.close()


async def _composed(
    settings: Settings,
    assembly: Assembly,
    vault: Vault,
    transports: Transports,
    turns: Turns,
    database: Database,
    observers: Sequence[Observer],
    chores: Sequence[Callable[[], None]],
    told: Told,
) -> Core:
    store_id = await _prepared(database)
    estimator = Estimator(await token_ratios(database))
    ledger = Ledger(
        Path(settings.ledger.spool),
        store_id,
        limits=Limits(
            max_bytes=bytes_of(settings.ledger.spool_max_mb),
            hard_bytes=bytes_of(settings.ledger.spool_hard_mb),
            full=settings.ledger.spool_full,
        ),
        observers=(*observers, estimator.observe),
    )
    store = SqlLedgerStore(database)
    drain = Drain(ledger, store)
    gateway = Gateway(
        registry=assembly.registry(),
        ledger=ledger,
        prices=assembly.prices(),
        transports=transports,
        estimator=estimator,
        user_agent=f"bursar/{bursar.__version__}",
    )

    cores: list[Core] = []

    def use(registry: Registry, prices: Prices, version: int) -> None:
        gateway.registry, gateway.prices = registry, prices
        if prices.faults:
            told("prices of the store cannot be used, and are passed over", {"faults": "; ".join(prices.faults)})
        if cores:
            cores[0].follows(REGISTRY, version)

    followed = Followed(assembly, RegistryStore(database), use)
    adopter = Adopter(ledger.directory, store_id, store, drain)
    core = Core(
        database=database,
        store_id=store_id,
        ledger=ledger,
        drain=drain,
        adopter=adopter,
        gateway=gateway,
        registry=followed,
        vault=vault,
        turns=turns,
        chores=[*chores, lambda: transports.keep(assembly.reaches())],
        told=told,
    )
    cores.append(core)
    await followed.reload()
    return core


def _guard(settings: Settings) -> Guard:
    try:
        return Guard(settings.server.private_hosts)
    except ValueError as e:
        raise ConfigError(f"server.private_hosts: {e}") from None


async def _prepared(database: Database) -> str:
    """The store's id; one that is locked for a moment is waited for, so that a restart does not depend on it."""
    deadline = time.monotonic() + _STORE_AT_START_S
    while True:
        try:
            return await prepare(database)
        except StoreError:
            if time.monotonic() > deadline or not database.path.exists():
                raise
            await asyncio.sleep(0.5)


async def _drained(core: Core, told: Told) -> None:
    try:
        await core.drain.close()
    except StoreError as e:
        told("the store could not take the rest of the spool; the next process will", {"error": e.message})
    finally:
        core.ledger.close()

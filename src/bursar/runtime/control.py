"""The control plane put together. It is loaded when it is first asked: calls do without it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import bursar
from bursar.http.asgi import Asgi
from bursar.http.auth import KeyRing
from bursar.http.control import State, control_plane
from bursar.http.price_rows import shown_of_file
from bursar.http.prices_api import PricesState
from bursar.http.registry_api import RegistryState
from bursar.http.registry_rows import Rows
from bursar.ledger.ledger import now_us
from bursar.ledger.rows import timestamp
from bursar.runtime.core import REGISTRY, Core
from bursar.runtime.settings import Settings
from bursar.store.keys import KeyStore
from bursar.store.queries import Queries

Reload = Callable[[], Awaitable[None]]


def control_of(settings: Settings, core: Core, ring: KeyRing, keys: KeyStore, reload_keys: Reload) -> Asgi:
    """The control plane over what is running; a change of keys is answered after `reload_keys`."""

    async def reload() -> None:
        # What a change is answered after: it is read here, and holds everywhere.
        await core.registry.reload()
        await core.held_everywhere(REGISTRY)

    queries = Queries(core.database)
    prices = PricesState(
        gateway=core.gateway,
        store=core.registry.store,
        queries=queries,
        reload=reload,
        in_file=([shown_of_file(p) for p in settings.prices], [shown_of_file(r) for r in settings.currency_rates]),
    )
    registry = _registry_state(core, reload)
    return control_plane(State(ring, keys, queries, registry, prices, reload_keys, bursar.__version__))


def _registry_state(core: Core, reload: Reload) -> RegistryState:
    assembly = core.registry.assembly
    return RegistryState(
        gateway=core.gateway,
        store=core.registry.store,
        rows=Rows(core.vault, assembly.check, lambda: timestamp(now_us())),
        make=assembly.make,
        reload=reload,
        in_file=assembly.shown,
        taken=lambda: assembly.names,
    )

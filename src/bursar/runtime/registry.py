"""The one registry, from the configuration file and the store's tables; followed, so that a change made anywhere holds
in every process within a second or so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bursar.gateway.provider import Parameters, Provider, shown_url
from bursar.gateway.registry import Binding, Offer, Registry, Route, Step
from bursar.net.transport import Reach
from bursar.prices.table import Prices
from bursar.runtime import secrets
from bursar.runtime.prices import OwnPrices
from bursar.runtime.providers import literally, provider
from bursar.runtime.settings import (
    BindingSettings,
    ProviderSettings,
    Settings,
    WeightedTarget,
    secret,
)
from bursar.store.engine import Database, sqlite_path
from bursar.store.registry import BindingRow, CurrencyRateRow, PriceRow, ProviderRow, RegistryStore, RouteRow
from bursar.store.schema import prepare
from bursar.store.vault import Vault
from bursar.types.errors import ConfigError
from bursar.wire.documents import MASK, camel, documents_name, masked, unmasked

_COLUMNS = frozenset(camel(name) for name in ProviderRow.__struct_fields__)
_ADDRESSES = ("baseUrl", "completionUrl", "embeddingUrl", "tokenUrl")
FILE_KEY = "file:"
"""What the keys of the file's providers begin with."""


def master_key_path(settings: Settings) -> Path:
    """The file of this installation's master keys."""
    given = settings.server.master_key_file
    return Path(given) if given is not None else sqlite_path(settings.store.url).parent / "master_key"


def vault_of(settings: Settings) -> Vault:
    """The vault of this installation."""
    path = master_key_path(settings)
    return Vault(lambda: secrets.master_keys(path))


def settings_of(row: ProviderRow, vault: Vault) -> ProviderSettings:
    """A row as the file would have it. Raises ConfigError with the field's name, StoreError where its secrets do not
    open."""
    hidden = vault.open(row.id, row.secret_values)
    document: dict[str, Any] = {
        "name": row.name,
        "providerType": row.provider_type,
        "baseUrl": row.base_url,
        "completionUrl": row.completion_url,
        "embeddingUrl": row.embedding_url,
        "tokenUrl": row.token_url,
        "authorizationKey": vault.open(row.id, row.authorization_key).get("authorizationKey"),
        "scope": row.scope,
        "model": row.model,
        "availableModels": row.available_models,
        "requestHeaders": row.request_headers,
        "requestConfig": row.request_config,
        "responseConfig": row.response_config,
        "authConfig": row.auth_config,
        "isActive": row.is_active,
        "allowSelfSignedCertificate": row.allow_self_signed_certificate,
        "caBundle": row.ca_bundle,
        "settings": row.settings,
    }
    document = unmasked(document, hidden)
    document |= document.pop("settings") or {}
    names = {documents_name(name): name for name in ProviderSettings.__struct_fields__}
    given = {names[name]: value for name, value in document.items() if value is not None}
    for section in ("request", "response", "auth"):
        # In JSON a field that says nothing may stand as null.
        if section in given:
            given[section] = {k: v for k, v in given[section].items() if v is not None}
    try:
        return msgspec.convert(given, ProviderSettings)
    except msgspec.ValidationError as e:
        field = str(e).rpartition("`$.")[2].partition("`")[0].partition(".")[0].partition("[")[0]
        raise ConfigError(f"provider '{row.name}': {e}", field=field or None) from None


def _binding(given: BindingSettings | BindingRow) -> Binding:
    parameters = Parameters(system_prompt=given.system_prompt, temperature=given.temperature, top_p=given.top_p,
                            max_tokens=given.max_tokens)  # fmt: skip
    return Binding(scope=given.scope, reference=given.reference, workspace=given.workspace, provider=given.provider,
                   model=given.model, parameters=parameters)  # fmt: skip


class Assembly:
    """Makes snapshots of the registry, and what is in them; providers that did not change stay what they are."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], vault: Vault) -> None:
        """Raises ConfigError, UnsupportedLlmProviderError for what is wrong with the file."""
        given = settings.providers or _without_configuration(environ)
        self._vault = vault
        self._prices = OwnPrices(settings)
        self._file = [_of_file(p, environ) for p in given]
        self._routes = settings.routes
        self._bindings = [_binding(b) for b in settings.bindings]
        self._made: dict[str, tuple[ProviderRow, Provider]] = {}
        self._check_routes()

    def reaches(self) -> set[Reach]:
        """How the providers are reached that were made."""
        made = [offer.make() for given, offer in self._file if given.active]
        return {p.reach for p in (*made, *(p for _, p in self._made.values()))}

    def shown(self) -> list[tuple[dict[str, Any], Offer]]:
        """The file's providers, as they are shown: by the documents' names, their secrets masked."""
        return [(_shown(given), offer) for given, offer in self._file]

    @property
    def names(self) -> set[str]:
        """The names the file has taken: of its providers and its routes."""
        return {p.name for p, _ in self._file} | {r.name for r in self._routes}

    def registry(
        self,
        rows: Sequence[ProviderRow] = (),
        routes: Sequence[RouteRow] = (),
        bindings: Sequence[BindingRow] = (),
    ) -> Registry:
        """A snapshot. What the file names everyone's stays the file's."""
        live = {row.id for row in rows}
        self._made = {key: made for key, made in self._made.items() if key in live}
        taken = self.names
        offers = [offer for _, offer in self._file]
        offers += [self._offer(row) for row in rows if not (row.is_global and row.name in taken)]
        known = [Route(name=r.name, workspace=None, steps=_steps(r.targets)) for r in self._routes]
        known += [
            Route(name=r.name, workspace=None if r.is_global else r.workspace,
                  steps=_steps(msgspec.convert(r.targets, list[str | WeightedTarget])))
            for r in routes if not (r.is_global and r.name in taken)
        ]  # fmt: skip
        return Registry(offers, known, [*self._bindings, *map(_binding, bindings)])

    def prices(self, rows: Sequence[PriceRow] = (), rates: Sequence[CurrencyRateRow] = ()) -> Prices:
        """A snapshot of the prices."""
        return self._prices.snapshot(rows, rates)

    def make(self, row: ProviderRow) -> Provider:
        """The provider of a row; as it was, where the row is. Raises ConfigError, UnsupportedLlmProviderError,
        StoreError."""
        before = self._made.get(row.id)
        if before is not None and before[0] == row:
            return before[1]
        found = provider(
            settings_of(row, self._vault), literally, key=row.id, is_row=True, guarded=row.is_guarded,
            before=before[1] if before is not None else None,
        )  # fmt: skip
        self._made[row.id] = (row, found)
        return found

    def check(self, row: ProviderRow) -> None:
        """Raises what `make` would, and remembers nothing."""
        provider(settings_of(row, self._vault), literally, key=row.id, is_row=True, guarded=row.is_guarded)

    def _offer(self, row: ProviderRow) -> Offer:
        return Offer(
            key=row.id,
            name=row.name,
            workspace=None if row.is_global else row.workspace,
            models=tuple(row.available_models) if row.available_models else None,
            model=row.model,
            active=row.is_active,
            make=partial(self.make, row),
        )

    def _check_routes(self) -> None:
        names = {p.name for p, _ in self._file}
        routes = {r.name for r in self._routes}
        for route in self._routes:
            if route.name in names:
                raise ConfigError(f"route '{route.name}': a provider has this name already")
            for target in route.targets:
                name = target if isinstance(target, str) else target.target
                if name in routes:
                    raise ConfigError(f"route '{route.name}': the target '{name}' is a route; name models")


def _of_file(given: ProviderSettings, environ: Mapping[str, str]) -> tuple[ProviderSettings, Offer]:
    """A provider of the file, made at once: what is wrong with it is said at the start."""
    key = f"{FILE_KEY}{given.name}"
    if given.active:
        made = provider(given, lambda value, place: secret(value, environ, place), key=key)
        make: Callable[[], Provider] = lambda: made  # noqa: E731
    else:
        make = partial(_inactive, given.name)
    return given, Offer(
        key=key, name=given.name, workspace=None, models=tuple(given.models) if given.models is not None else None,
        model=given.model, active=given.active, make=make,
    )  # fmt: skip


def _shown(given: ProviderSettings) -> dict[str, Any]:
    whole = {documents_name(name): getattr(given, name) for name in given.__struct_fields__}
    for name in _ADDRESSES:
        # The file may have a password in one.
        whole[name] = shown_url(whole[name]) if whole[name] else None
    own = {name: whole.pop(name) for name in list(whole) if name not in _COLUMNS}
    shown, _ = masked({**whole, "settings": own})
    key = MASK if given.api_key is not None else None
    return {"id": f"{FILE_KEY}{given.name}", "source": "file", **{k: v for k, v in shown.items() if k != "settings"},
            **shown["settings"], "authorizationKey": key, "isGlobal": True}  # fmt: skip


def _inactive(name: str) -> Provider:
    raise ConfigError(f"the provider '{name}' is not active")


def _steps(targets: Sequence[str | WeightedTarget]) -> tuple[Step, ...]:
    return tuple(Step(t) if isinstance(t, str) else Step(t.target, t.weight) for t in targets)


def _without_configuration(environ: Mapping[str, str]) -> list[ProviderSettings]:
    """Where nothing is configured there is `demo`, and `openai` where `OPENAI_API_KEY` is set."""
    given = [ProviderSettings(name="demo", type="demo", models=["demo", "demo-embedding"])]
    if environ.get("OPENAI_API_KEY"):
        given.append(ProviderSettings(name="openai", type="openai", api_key="env:OPENAI_API_KEY"))
    return given


class Followed:
    """The registry as the store has it: looked at each second, and at once in the process that changed it."""

    def __init__(self, assembly: Assembly, store: RegistryStore, use: Callable[[Registry, Prices, int], None]) -> None:
        self.assembly = assembly
        self.store = store
        self._use = use
        self._version: str | None = None
        self._reloading = asyncio.Lock()

    async def reload(self) -> None:
        """Reads all of it, and uses it from now on."""
        async with self._reloading:
            found = await self.store.snapshot()
            registry = self.assembly.registry(found.providers, found.routes, found.bindings)
            self._use(registry, self.assembly.prices(found.prices, found.rates), int(found.version))
            self._version = found.version

    async def look(self) -> None:
        """Reads it where it changed. Raises StoreError where it cannot be read now."""
        if await self.store.version() != self._version:
            await self.reload()


@asynccontextmanager
async def opened(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator[tuple[Assembly, RegistryStore]]:
    """The registry's parts without a gateway, for commands. Raises ConfigError, StoreError."""
    assembly = Assembly(settings, environ, vault_of(settings))
    database = Database(settings.store.url)
    try:
        await prepare(database)
        yield assembly, RegistryStore(database)
    finally:
        await database.close()


async def known(settings: Settings, environ: Mapping[str, str]) -> Registry:
    """The registry as it is now."""
    async with opened(settings, environ) as (assembly, store):
        found = await store.snapshot()
        return assembly.registry(found.providers, found.routes, found.bindings)


async def rotate(settings: Settings) -> int:
    """Puts a new master key before the old ones, stores every secret under it, and then forgets the old ones. Returns
    how many rows had secrets. Running processes find the new key as soon as they meet what it sealed.

    Raises ConfigError, StoreError: then all keys there are stay.
    """
    path = master_key_path(settings)
    keys = [secrets.new_master_key(), *secrets.master_keys(path)]
    secrets.put_master_keys(path, keys)
    vault = vault_of(settings)
    database = Database(settings.store.url)
    done = 0
    try:
        await prepare(database)
        store = RegistryStore(database)
        for row in await store.all(ProviderRow):
            sealed = (row.authorization_key, row.secret_values)
            if not any(sealed):
                continue
            key, values = (vault.seal(row.id, vault.open(row.id, one)) for one in sealed)
            done += await store.put(msgspec.structs.replace(row, authorization_key=key, secret_values=values))
    finally:
        await database.close()
    secrets.put_master_keys(path, keys[:1])
    return done

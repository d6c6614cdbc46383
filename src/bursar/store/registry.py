"""Providers, routes, bindings, prices and currency rates at rest. A version, moved by the database itself, tells every
process when to read them again."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple, TypeVar

import msgspec

from bursar.store.engine import Database
from bursar.types.errors import RequestError

R = TypeVar("R", "ProviderRow", "RouteRow", "BindingRow", "PriceRow", "CurrencyRateRow")


class ProviderRow(msgspec.Struct, frozen=True, kw_only=True):
    """A provider as it is stored. Secrets are masked where they stand, and sealed in `authorization_key` (the key
    itself) and `secret_values` (the others, by the place they belong to); `settings` are those that have no column of
    their own. One that is `is_guarded` was set by somebody who may not reach this machine's networks with it."""

    id: str
    workspace: str
    name: str
    provider_type: str
    base_url: str | None = None
    completion_url: str | None = None
    embedding_url: str | None = None
    token_url: str | None = None
    authorization_key: str | None = None
    scope: str | None = None
    model: str | None = None
    available_models: list[str] | None = None
    request_headers: dict[str, str] | None = None
    request_config: dict[str, Any] | None = None
    response_config: dict[str, Any] | None = None
    auth_config: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    is_active: bool = True
    is_global: bool = False
    allow_self_signed_certificate: bool = False
    ca_bundle: str | None = None
    secret_values: str | None = None
    is_guarded: bool = False
    created_at: str = ""
    updated_at: str = ""


class RouteRow(msgspec.Struct, frozen=True, kw_only=True):
    """A route as it is stored: `targets` are names, or objects with a `target` and its `weight`."""

    id: str
    workspace: str
    name: str
    targets: list[Any]
    is_global: bool = False
    created_at: str = ""
    updated_at: str = ""


class BindingRow(msgspec.Struct, frozen=True, kw_only=True):
    """A binding as it is stored. `workspace` None holds for all; `reference` is empty for the default."""

    id: str
    workspace: str | None
    scope: str
    reference: str
    provider: str
    model: str | None = None
    system_prompt: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    created_at: str = ""
    updated_at: str = ""


class PriceRow(msgspec.Struct, frozen=True, kw_only=True):
    """A price as it is stored: `rates` has its amounts, thresholds, tiers and hours, as the configuration file would
    have them. A price is never changed, for entries name it: one that does not hold any more is not active."""

    id: str
    workspace: str | None
    provider: str | None
    provider_type: str | None
    model: str
    currency: str
    valid_from: str | None
    rates: dict[str, Any]
    note: str | None = None
    is_active: bool = True
    created_at: str = ""
    updated_at: str = ""


class CurrencyRateRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a unit of a currency is in US dollars, as decimal text, from a day on; likewise never changed."""

    id: str
    currency: str
    usd: str
    valid_from: str | None
    note: str | None = None
    is_active: bool = True
    created_at: str = ""
    updated_at: str = ""


Row = ProviderRow | RouteRow | BindingRow | PriceRow | CurrencyRateRow

_TABLES: dict[type, str] = {
    ProviderRow: "llm_providers", RouteRow: "llm_routes", BindingRow: "llm_bindings", PriceRow: "llm_prices",
    CurrencyRateRow: "currency_rates",
}  # fmt: skip
_WHAT: dict[type, tuple[str, str]] = {
    ProviderRow: ("provider", "name"), RouteRow: ("route", "name"), BindingRow: ("binding", "reference"),
    PriceRow: ("price", "id"), CurrencyRateRow: ("rate", "id"),
}  # fmt: skip
_JSON = frozenset(
    {
        "available_models",
        "request_headers",
        "request_config",
        "response_config",
        "auth_config",
        "settings",
        "targets",
        "rates",
    }
)
_FLAGS = frozenset({"is_active", "is_global", "allow_self_signed_certificate", "is_guarded"})


class ConflictError(RequestError):
    """There is one of that name already."""

    http_status = 409
    code = "conflict"


class Snapshot(NamedTuple):
    """All rows as they were at one version."""

    version: str
    providers: list[ProviderRow]
    routes: list[RouteRow]
    bindings: list[BindingRow]
    prices: list[PriceRow]
    rates: list[CurrencyRateRow]


class RegistryStore:
    """The tables of the registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def version(self) -> str:
        """Changes whenever a provider, a route or a binding does."""
        sql = "select value from ledger_meta where name = 'registry_version'"
        return await self._database.look(lambda c: str(c.execute(sql).fetchone()[0]))

    async def all(self, kind: type[R]) -> list[R]:
        """Every row of a kind, the newest last; read in the store's thread."""
        return await self._database.look(lambda c: [_row(kind, row) for row in c.execute(_select(kind))])

    async def one(self, kind: type[R], row_id: str) -> R | None:
        """The row of that id."""
        found = await self._database.look(lambda c: c.execute(_select(kind, "where id = ?"), (row_id,)).fetchone())
        return _row(kind, found) if found is not None else None

    async def snapshot(self) -> Snapshot:
        """Everything, of one version, read in the store's thread: there may be thousands."""

        def work(connection: sqlite3.Connection) -> Snapshot:
            version = connection.execute("select value from ledger_meta where name = 'registry_version'").fetchone()

            def rows(kind: type[R]) -> list[R]:
                return [_row(kind, row) for row in connection.execute(_select(kind))]

            return Snapshot(
                str(version[0]), rows(ProviderRow), rows(RouteRow), rows(BindingRow), rows(PriceRow),
                rows(CurrencyRateRow),
            )  # fmt: skip

        return await self._database.look(work)

    async def add(self, row: Row) -> None:
        """Stores a new row. Raises ConflictError."""
        names = row.__struct_fields__
        insert = f"insert into {_TABLES[type(row)]} ({', '.join(names)}) values ({', '.join(':' + n for n in names)})"
        try:
            await self._database.change(lambda c: c.execute(insert, _stored(row)).close())
        except sqlite3.IntegrityError:
            raise _conflict(row) from None

    async def put(self, row: Row) -> bool:
        """Writes a row in place of the one of its id; False where there is none any more. Raises ConflictError."""
        names = [n for n in row.__struct_fields__ if n not in ("id", "created_at")]
        update = f"update {_TABLES[type(row)]} set {', '.join(f'{n} = :{n}' for n in names)} where id = :id"
        values = _stored(row)
        values.pop("created_at")
        try:
            return await self._database.change(lambda c: c.execute(update, values).rowcount == 1)
        except sqlite3.IntegrityError:
            raise _conflict(row) from None

    async def remove(self, kind: type[R], row_id: str) -> bool:
        """Deletes a row; what it held is overwritten in the file. False where there was none."""
        delete = f"delete from {_TABLES[kind]} where id = ?"
        return await self._database.change(lambda c: c.execute(delete, (row_id,)).rowcount == 1)


def _select(kind: type[R], where: str = "") -> str:
    return f"select {', '.join(kind.__struct_fields__)} from {_TABLES[kind]} {where} order by created_at, id"


def _row(kind: type[R], row: Any) -> R:
    values = dict(zip(kind.__struct_fields__, row, strict=True))
    for name, value in values.items():
        if name in _FLAGS:
            values[name] = bool(value)
        elif name in _JSON and value is not None:
            values[name] = msgspec.json.decode(value)
    return kind(**values)


def _stored(row: Row) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in row.__struct_fields__}
    for name, value in values.items():
        if name in _FLAGS:
            values[name] = int(value)
        elif name in _JSON and value is not None:
            values[name] = msgspec.json.encode(value).decode()
    return values


def _conflict(row: Row) -> ConflictError:
    what, field = _WHAT[type(row)]
    return ConflictError(f"there is a {what} '{getattr(row, field)}' already", field=field)

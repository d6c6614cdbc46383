"""`bursar prices`: the prices given here, which one counts for a model, what has none; and the rates of currencies."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from bursar.cli import options, output
from bursar.cli.given import object_in, validated
from bursar.cli.options import Format
from bursar.http.auth import ADMIN_OF_ALL, DEFAULT_WORKSPACE
from bursar.http.price_rows import (
    NewCurrencyRate,
    NewPrice,
    new_currency_rate,
    new_price,
    shown_currency_rate,
    shown_found,
    shown_of_file,
    shown_price,
)
from bursar.ledger.ledger import now_us
from bursar.ledger.rows import timestamp
from bursar.prices.rates import UNITS
from bursar.prices.table import Place, Prices
from bursar.runtime import registry
from bursar.runtime import settings as config
from bursar.runtime.registry import Assembly
from bursar.store.engine import Database
from bursar.store.queries import Queries
from bursar.store.registry import CurrencyRateRow, PriceRow, RegistryStore
from bursar.store.scope import Scope
from bursar.types.errors import RequestError
from bursar.wire.documents import camel

_AMOUNTS = ("input", "cached", "output")


@click.group(cls=options.Group, invoke_without_command=True)
@options.config
@options.shown_as
@click.pass_context
def prices(context: click.Context, config_file: str | None, format: Format) -> None:
    """Show prices, give them, and look up which one counts. Those that come with bursar are looked up with `find`."""
    if context.invoked_subcommand is not None:
        return

    async def work(store: RegistryStore, _assembly: Assembly) -> list[PriceRow]:
        return await store.all(PriceRow)

    of_file = [shown_of_file(given) for given in config.load(config_file, os.environ).prices]
    rows = of_file + [shown_price(row) for row in _with_store(config_file, work)]
    if format is Format.json:
        output.json_lines(rows)
        return
    output.table(
        ("model", "of", "workspace", "since", "currency", *_AMOUNTS, "more", "in use", "id"),
        [
            (
                r["model"], r.get("provider") or (f"type {r['providerType']}" if r.get("providerType") else "all"),
                r.get("workspace") or "all", r.get("validFrom"), r.get("currency", "USD"),
                *(r.get(name) for name in _AMOUNTS), _more(r), "yes" if r["isActive"] else "no", r["id"],
            )
            for r in rows
        ],
        numbers=_AMOUNTS,
        empty="No prices are given here. Those that come with bursar: bursar prices find PROVIDER MODEL.",
    )  # fmt: skip


def _more(row: dict[str, Any]) -> str | None:
    """What else a price says, in short."""
    shown = {*_AMOUNTS, "model", "provider", "providerType", "workspace", "currency", "validFrom", "note", "isActive",
             "id", "source", "createdAt", "updatedAt"}  # fmt: skip
    told = [
        f"above {', '.join(str(a['tokens']) for a in value)}" if name == "above"
        else f"tiers {', '.join(t['tier'] for t in value)}" if name == "tiers"
        else f"{name} {value}"
        for name, value in row.items() if name not in shown and value
    ]  # fmt: skip
    return ", ".join(told) or None


@prices.command()
@click.argument("file", type=options.PATH, help="A file with one JSON object; '-' reads standard input.")
@options.config
@options.shown_as
def add(file: Path, config_file: str | None, format: Format) -> None:
    """Give a price. It is an object of "model", "provider" or "providerType", "currency", "validFrom", "input", …"""
    row = new_price(object_in(NewPrice, file), ADMIN_OF_ALL, timestamp(now_us()))
    _add(config_file, row)
    if format is Format.json:
        output.json_lines([shown_price(row)])
    else:
        print(f"given: {row.model} ({row.id})")


@prices.command()
@click.argument("price_id", help="The price's id.")
@options.config
def delete(price_id: str, config_file: str | None) -> None:
    """Put a price out of use. Entries that name it still do."""
    print(f"out of use: {_put_out_of_use(config_file, PriceRow, price_id).model}")


@prices.command()
@click.argument("provider", help="The provider's name.")
@click.argument("model", help="The model, as it is called there.")
@click.option("--at", type=click.DateTime(), help="When (UTC); now, where it is left out.")
@click.option("--workspace", default=DEFAULT_WORKSPACE, help="Whose calls.")
@options.config
@options.shown_as
def find(
    provider: str, model: str, at: datetime | None, workspace: str, config_file: str | None, format: Format
) -> None:
    """Show the price that counts for a model of a provider. Exits with 1 where there is none."""

    async def work(store: RegistryStore, assembly: Assembly) -> dict[str, Any] | None:
        found = await store.snapshot()
        known = assembly.registry(found.providers, found.routes, found.bindings)
        offers = [offer for offer in known.offers() if provider in (offer.name, offer.key)]
        if not offers:
            raise RequestError(
                f"there is no provider '{provider}'; there are {', '.join(o.name for o in known.offers())}"
            )
        made = known.provider(offers[0])
        table: Prices = assembly.prices(found.prices, found.rates)
        place = Place(offers[0].workspace or workspace, made.name, made.type, made.url_shown, made.vendor)
        us = now_us() if at is None else int(at.replace(tzinfo=UTC).timestamp() * 1_000_000)
        row = table.find(place, model, model, us)
        return shown_found(row) if row is not None else None

    found = _with_store(config_file, work)
    if format is Format.json:
        output.json_lines([] if found is None else [found])
    elif found is None:
        print(
            f"{provider} has no price for {model}: give one with bursar prices add, or say with the provider's vendor "
            "whose prices hold there"
        )
    else:
        _show(found)
    if found is None:
        sys.exit(1)


_PER = {"webSearch": "webSearch /1,000", "searchUnit": "searchUnit /1,000", "request": "request /1,000",
        "image": "image /1", "audioHour": "audioHour /1"}  # fmt: skip


def _show(found: dict[str, Any]) -> None:
    """A line for each tier and length of request, a column for each thing that is charged."""
    rows: list[tuple[str, str | None, dict[str, Any]]] = []
    for tariff in (found, *found["tiers"]):
        name, since = tariff.get("tier", "standard"), tariff["validFrom"]
        rows.append((name, since, tariff))
        rows += [(f"{name}, above {above['tokens']:,} tokens", since, above) for above in tariff["above"]]
    units = [camel(unit) for unit in UNITS if any(camel(unit) in amounts for _, _, amounts in rows)]
    heads = [_PER.get(unit, unit) for unit in units]
    hours = f", from {found['hours'].replace('-', ' to ')} UTC" if found["hours"] else ""
    print(f"{found['id']}: {found['currency']} for a million{hours}")
    shown = [(name, since, *(amounts.get(unit) for unit in units)) for name, since, amounts in rows]
    output.table(("", "since", *heads), shown, numbers=heads, empty="Nothing.")


@prices.command()
@click.option("--since", type=click.DateTime(), help="Only what was used since then (UTC), by the hour.")
@options.config
@options.shown_as
def missing(since: datetime | None, config_file: str | None, format: Format) -> None:
    """Show what was used and has no price, or no rate into dollars. Exits with 1 where there is something."""
    read = config.load(config_file, os.environ)
    hour = int(since.replace(tzinfo=UTC).timestamp()) // 3600 if since is not None else 0

    async def work() -> tuple[list[dict[str, object]], list[dict[str, object]]]:
        async with registry.opened(read, os.environ):  # makes the store, where there is none yet
            pass
        database = Database(read.store.url)
        try:
            return await Queries(database).without_price(Scope(), hour)
        finally:
            await database.close()

    models, currencies = asyncio.run(work())
    if format is Format.json:
        output.json_lines([*models, *currencies])
    else:
        numbers = ("attempts", "prompt_tokens", "completion_tokens", "total_tokens", "cost", "without_rate")
        for what, rows in (("model", models), ("currency", currencies)):
            about = ("provider", "model") if what == "model" else ("currency", "cost", "without_rate")
            columns = (
                *about,
                "attempts",
                "prompt_tokens",
                "completion_tokens",
                "total_tokens",
                "first_hour",
                "last_hour",
            )
            empty = "Everything that was used has a price." if what == "model" else "All of it is told in US dollars."
            output.table(columns, [[row[c] for c in columns] for row in rows], numbers=numbers, empty=empty)
    if models or currencies:
        sys.exit(1)


@prices.group(cls=options.Group, invoke_without_command=True)
@options.config
@options.shown_as
@click.pass_context
def rates(context: click.Context, config_file: str | None, format: Format) -> None:
    """Show what currencies are in US dollars, and give it."""
    if context.invoked_subcommand is not None:
        return

    async def work(store: RegistryStore, _assembly: Assembly) -> list[CurrencyRateRow]:
        return await store.all(CurrencyRateRow)

    of_file = [shown_of_file(given) for given in config.load(config_file, os.environ).currency_rates]
    rows = of_file + [shown_currency_rate(row) for row in _with_store(config_file, work)]
    if format is Format.json:
        output.json_lines(rows)
        return
    output.table(
        ("currency", "in dollars", "since", "in use", "id"),
        [(r["currency"], r["usd"], r.get("validFrom"), "yes" if r["isActive"] else "no", r["id"]) for r in rows],
        numbers=("in dollars",),
        empty="No rates: what is charged in other currencies is not told in dollars.",
    )


@rates.command("add")
@click.argument("currency", help="Three capitals, like RUB.")
@click.argument("usd", help="What one of it is in US dollars, like 0.0125.")
@click.option("--valid-from", metavar="DAY", help="The first day it holds, like 2026-11-01.")
@options.config
@options.shown_as
def add_rate(currency: str, usd: str, valid_from: str | None, config_file: str | None, format: Format) -> None:
    """Give a rate. Entries made before keep theirs."""
    given = validated(NewCurrencyRate, {"currency": currency, "usd": usd, "validFrom": valid_from})
    row = new_currency_rate(given, ADMIN_OF_ALL, timestamp(now_us()))
    _add(config_file, row)
    if format is Format.json:
        output.json_lines([shown_currency_rate(row)])
    else:
        print(f"given: 1 {row.currency} is {row.usd} USD ({row.id})")


@rates.command("delete")
@click.argument("rate_id", help="The rate's id.")
@options.config
def delete_rate(rate_id: str, config_file: str | None) -> None:
    """Put a rate out of use. Entries that name it still do."""
    print(f"out of use: {_put_out_of_use(config_file, CurrencyRateRow, rate_id).currency}")


T = TypeVar("T")
R = TypeVar("R", PriceRow, CurrencyRateRow)


def _with_store(config_file: str | None, work: Callable[[RegistryStore, Assembly], Awaitable[T]]) -> T:
    read = config.load(config_file, os.environ)

    async def run() -> T:
        async with registry.opened(read, os.environ) as (assembly, store):
            return await work(store, assembly)

    return asyncio.run(run())


def _add(config_file: str | None, row: PriceRow | CurrencyRateRow) -> None:
    async def work(store: RegistryStore, _assembly: Assembly) -> None:
        await store.add(row)

    _with_store(config_file, work)


def _put_out_of_use(config_file: str | None, kind: type[R], row_id: str) -> R:
    async def work(store: RegistryStore, _assembly: Assembly) -> R:
        row = await store.one(kind, row_id)
        if row is None or not row.is_active:
            where = ": it stands in the configuration file, and is changed there" if row_id.startswith("file:") else ""
            raise RequestError(f"there is no '{row_id}' in use in the store{where}")
        await store.put(msgspec.structs.replace(row, is_active=False, updated_at=timestamp(now_us())))
        return row

    return _with_store(config_file, work)

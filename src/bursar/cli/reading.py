"""`bursar calls`, `usage`, `verify`: what the ledger says, and the proof of it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from bursar.cli import options, output
from bursar.cli.options import Format
from bursar.ledger.verify import Verifier
from bursar.runtime import settings as config
from bursar.store.engine import Database
from bursar.store.proof import Proof
from bursar.store.queries import GROUPS, Queries
from bursar.store.schema import read_meta
from bursar.store.scope import Scope
from bursar.types.errors import RequestError, StoreError

_FOLLOW_EVERY_S = 0.3
_COMMON = ("function", "purpose", "session", "user", "provider", "model")
Command = TypeVar("Command", bound=Callable[..., None])


def _filtered(command: Command) -> Command:
    """The filters that entries and sums have in common."""
    for name in _COMMON:  # the last one stands first in the help
        command = click.option(f"--{name}")(command)
    return command


@click.command()
@click.argument("call_id", required=False, help="One call, with its attempts and bodies.")
@options.config
@click.option("--limit", type=click.IntRange(min=1), default=20, help="How many entries at most.")
@click.option("--follow", "-f", is_flag=True, help="Go on showing entries as they settle.")
@click.option("--status")
@_filtered
@click.option("--since", metavar="TIME", help="From this time on (UTC).")
@click.option("--until", metavar="TIME", help="Before this time (UTC).")
@options.shown_as
def calls(
    call_id: str | None,
    config_file: str | None,
    limit: int,
    follow: bool,
    since: str | None,
    until: str | None,
    format: Format,
    **named: str | None,
) -> None:
    """Show entries, newest first; or one call whole."""
    if call_id is not None:
        asyncio.run(_one_call(config_file, call_id, format))
        return
    filters = {**named, "since": _when(since), "until": _when(until)}
    asyncio.run(_calls(config_file, filters, limit, follow, format))


async def _one_call(config_file: str | None, call_id: str, format: Format) -> None:
    async with _opened(config_file) as (database, _):
        attempts = await Queries(database).call(Scope(), call_id)
    if not attempts:
        raise RequestError(f"there is no call '{call_id}' on this ledger")
    if format is Format.json:
        output.json_lines(attempts)
        return
    for attempt in attempts:
        rows = [(k, output.compact(v) if isinstance(v, dict | list) else v) for k, v in attempt.items()]
        output.table(("", ""), rows, empty="")
        print()


async def _calls(config_file: str | None, filters: dict[str, Any], limit: int, follow: bool, format: Format) -> None:
    async with _opened(config_file) as (database, _):
        queries = Queries(database)
        after = await queries.last_seq()
        shown: list[dict[str, object]] = []
        cursor: str | None = None
        while len(shown) < limit:
            rows, cursor = await queries.calls(Scope(), filters, limit=min(500, limit - len(shown)), cursor=cursor)
            if format is Format.json and not follow:
                output.json_lines(rows)
            shown += rows if format is Format.table or follow else [{}] * len(rows)
            if cursor is None:
                break
        if follow:
            await _follow(queries, filters, after, [r for r in reversed(shown) if r["status"] != "started"], format)
        elif format is Format.table:
            output.table(output.ENTRY_COLUMNS, map(output.entry_row, shown), numbers=output.ENTRY_NUMBERS,
                         empty="No entries yet.")  # fmt: skip


async def _follow(
    queries: Queries, filters: dict[str, Any], after: int, rows: list[dict[str, object]], format: Format
) -> None:
    """Oldest first, as they settle, until interrupted."""
    while True:
        if format is Format.json:
            output.json_lines(rows)
        elif rows:
            output.table(output.ENTRY_COLUMNS, map(output.entry_row, rows), numbers=output.ENTRY_NUMBERS, empty="")
        await asyncio.sleep(_FOLLOW_EVERY_S)
        rows = await queries.after(Scope(), filters, seq=after, limit=500)
        after = int(str(rows[-1]["seq"])) if rows else after


@click.command()
@options.config
@click.option("--by", default="model", help=f"Groups, with commas: {', '.join(GROUPS)}.")
@_filtered
@click.option("--since", metavar="TIME", help="From this hour on (UTC).")
@click.option("--until", metavar="TIME", help="Before this hour (UTC).")
@options.shown_as
def usage(
    config_file: str | None, by: str, since: str | None, until: str | None, format: Format, **named: str | None
) -> None:
    """Show sums of calls, tokens and cost. Each has the numbers of calls it misses something of."""
    filters = {**named, "since": _when(since), "until": _when(until)}
    asyncio.run(_usage(config_file, filters, [g for g in by.split(",") if g], format))


async def _usage(config_file: str | None, filters: dict[str, Any], groups: list[str], format: Format) -> None:
    async with _opened(config_file) as (database, _):
        rows = await Queries(database).usage(Scope(), filters, groups)
    if format is Format.json:
        output.json_lines(rows)
        return
    numbers = ("calls", "attempts", "in", "out", "cached", "no usage", "estimated", "no price")
    output.table(
        (*groups, *numbers, "cost"),
        [
            (
                *(r[g] for g in groups), r["calls"], r["attempts"], r["prompt_tokens"], r["completion_tokens"],
                r["cached_tokens"], r["without_usage"], r["estimated"], r["without_price"],
                " + ".join(f"{output.amount(v)} {k}" for k, v in r["costs"].items()) or None,  # type: ignore[attr-defined]
            )
            for r in rows
        ],
        numbers=(*numbers, "cost"),
        empty="Nothing was used yet.",
    )  # fmt: skip


@click.command()
@options.config
@options.shown_as
def verify(config_file: str | None, format: Format) -> None:
    """Prove the ledger: green, or every finding by name. Exits with 0 or 1, and writes nothing."""
    if not asyncio.run(_verify(config_file, format)):
        sys.exit(1)


async def _verify(config_file: str | None, format: Format) -> bool:
    async with _opened(config_file) as (database, settings):
        store_id = await read_meta(database, "store_id")
        report = await Verifier(Proof(database), Path(settings.ledger.spool), str(store_id)).verify()
    if format is Format.json:
        output.json_lines(
            [{"green": report.is_green, "entries": report.entries, "spools": report.spools, "hours": report.hours,
              "findings": report.findings, "notes": report.notes}]
        )  # fmt: skip
        return report.is_green
    for finding in report.findings:
        print(f"{finding.name}: {finding.where}: {finding.detail}")
    for note in report.notes:
        print(f"note: {note}")
    looked = f"{report.entries} entries in {report.hours} hours, {report.spools} spools"
    print(f"green: {looked}" if report.is_green else f"RED: {len(report.findings)} findings in {looked}")
    return report.is_green


@asynccontextmanager
async def _opened(config_file: str | None) -> AsyncIterator[tuple[Database, config.Settings]]:
    """The store for reading. Raises StoreError where there is none yet."""
    settings = config.load(config_file, os.environ)
    database = Database(settings.store.url)
    if not database.path.exists():
        raise StoreError(f"there is no ledger at {database.path} yet: make a call first, or name another --config")
    try:
        await database.look(lambda _connection: None)  # one that cannot be opened is told in one line
        yield database, settings
    finally:
        await database.close()


def _when(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(f"'{text}' is no time; write it as 2026-01-31 or 2026-01-31T12:00") from None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return when.strftime("%Y-%m-%d %H:%M:%S.%f")

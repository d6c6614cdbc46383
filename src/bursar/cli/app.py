"""The commands: serve · call · calls · usage · providers · prices · keys · verify."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

import bursar
from bursar.cli import output
from bursar.cli.output import Format
from bursar.ledger.verify import Verifier
from bursar.runtime import settings as config
from bursar.store.engine import Database
from bursar.store.proof import Proof
from bursar.store.queries import GROUPS, Queries, Scope
from bursar.store.schema import read_meta
from bursar.types.call import Context
from bursar.types.errors import RequestError, StoreError
from bursar.types.events import ReasoningDelta, TextDelta


class _Commands(TyperGroup):
    """Groups of commands are loaded when they are asked for: what they stand on would make every start longer."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands.update((name, TyperCommand(name)) for name in _GROUPS)  # for lists and suggestions of names

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _GROUPS:
            return super().get_command(ctx, cmd_name)
        group = get_command(import_module(f"bursar.cli.{cmd_name}").app)
        group.name = cmd_name
        return group


app = typer.Typer(
    cls=_Commands,
    help="One path to every LLM provider, where each call ends in a ledger.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_GROUPS = ("keys", "providers", "prices")

Config = Annotated[str | None, typer.Option("--config", help="The configuration file [env: BURSAR_CONFIG].")]
As = Annotated[Format, typer.Option("--format", help="table for people, json for programs: one object a line.")]
_FOLLOW_EVERY_S = 0.3


def _version(show: bool) -> None:
    if show:
        print(f"bursar {bursar.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """One path to every LLM provider, where each call ends in a ledger."""


@app.command()
def serve(
    config_file: Config = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.", min=0, max=65535)] = 8080,
    workers: Annotated[int, typer.Option(help="How many processes serve.", min=1, max=256)] = 1,
) -> None:
    """Start the gateway server."""
    # What is loaded until it serves stays: the collector would look at it again and again, a tenth of the start.
    gc.disable()
    from bursar.cli import serving  # the server is loaded by the one command that serves

    sys.exit(serving.start(config_file, os.environ, host=host, port=port, workers=workers))


@app.command()
def call(
    model: Annotated[str, typer.Argument(help="provider/model, a model, or a route.")],
    prompt: Annotated[str, typer.Argument(help="What to ask; '-' reads it from standard input.")],
    config_file: Config = None,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    stream: Annotated[bool, typer.Option(help="Show the answer as it comes.")] = True,
    user: Annotated[str | None, typer.Option(help="Whom the call is for.")] = None,
    session: Annotated[str | None, typer.Option(help="The session it belongs to.")] = None,
    purpose: Annotated[str, typer.Option(help="Why it is made.")] = "cli.call",
    format: As = Format.table,
) -> None:
    """Make one call from here, without a server; it stands on the ledger like any other."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": sys.stdin.read() if prompt == "-" else prompt})
    context = Context(user=user, session=session, purpose=purpose)
    _run(_call(config_file, model, messages, context, stream=stream and format is Format.table, format=format))


async def _call(
    config_file: str | None,
    model: str,
    messages: list[dict[str, str]],
    context: Context,
    *,
    stream: bool,
    format: Format,
) -> None:
    async with bursar.open(config_file) as client:
        if stream:
            async with client.stream(model=model, messages=messages, context=context) as answer:
                async for event in answer:
                    if isinstance(event, TextDelta):
                        print(event.text, end="", flush=True)
                    elif isinstance(event, ReasoningDelta):
                        print(event.text, end="", flush=True, file=sys.stderr)
            result = answer.result
            print()
        else:
            result = await client.complete(model=model, messages=messages, context=context)
            if format is Format.table:
                print(result.text or "")
    assert result is not None
    usage, cost = result.usage, result.cost
    charged = None if cost is None else Decimal(cost.nanos).scaleb(-9)
    if format is Format.json:
        output.json_lines(
            [
                {
                    "call_id": result.call_id,
                    "provider": result.provider,
                    "model": result.model,
                    "text": result.text,
                    "finish_reason": result.finish_reason,
                    "tool_calls": result.tool_calls,
                    "prompt_tokens": usage.input_tokens if usage else None,
                    "completion_tokens": usage.output_tokens if usage else None,
                    "total_tokens": usage.total_tokens if usage else None,
                    "usage_source": result.usage_source,
                    "cost": charged,
                    "cost_currency": cost.currency if cost else None,
                    "response_time_ms": result.response_time_ms,
                }
            ]
        )
        return
    spent = f"{output.amount(charged)} {cost.currency}" if cost and charged is not None else "price unknown"
    counted = f"{usage.input_tokens} tokens in, {usage.output_tokens} out" if usage else "usage not reported"
    print(f"— {counted} · {spent} · {result.response_time_ms} ms · call {result.call_id}", file=sys.stderr)


@app.command()
def calls(
    call_id: Annotated[str | None, typer.Argument(help="One call, with its attempts and bodies.")] = None,
    config_file: Config = None,
    limit: Annotated[int, typer.Option(help="How many entries at most.", min=1)] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing entries as they settle.")] = False,
    model: str | None = None,
    provider: str | None = None,
    status: str | None = None,
    user: str | None = None,
    session: str | None = None,
    purpose: str | None = None,
    function: str | None = None,
    since: Annotated[str | None, typer.Option(help="From this time on (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Before this time (UTC).")] = None,
    format: As = Format.table,
) -> None:
    """Show entries, newest first; or one call whole."""
    if call_id is not None:
        _run(_one_call(config_file, call_id, format))
        return
    filters = {"model": model, "provider": provider, "status": status, "user": user, "session": session,
               "purpose": purpose, "function": function, "since": _when(since), "until": _when(until)}  # fmt: skip
    _run(_calls(config_file, filters, limit, follow, format))


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


@app.command()
def usage(
    config_file: Config = None,
    by: Annotated[str, typer.Option(help=f"Groups, with commas: {', '.join(GROUPS)}.")] = "model",
    model: str | None = None,
    provider: str | None = None,
    user: str | None = None,
    session: str | None = None,
    purpose: str | None = None,
    function: str | None = None,
    since: Annotated[str | None, typer.Option(help="From this hour on (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Before this hour (UTC).")] = None,
    format: As = Format.table,
) -> None:
    """Show sums, each with the numbers of calls it misses something of."""
    filters = {"model": model, "provider": provider, "user": user, "session": session, "purpose": purpose,
               "function": function, "since": _when(since), "until": _when(until)}  # fmt: skip
    _run(_usage(config_file, filters, [g for g in by.split(",") if g], format))


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


@app.command()
def verify(config_file: Config = None, format: As = Format.table) -> None:
    """Prove the ledger: green (exit 0), or every finding by name (exit 1). Writes nothing."""
    if not _run(_verify(config_file, format)):
        raise typer.Exit(1)


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
        yield database, settings
    finally:
        await database.close()


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        sys.exit(130)


def _when(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(f"'{text}' is no time; write it as 2026-01-31 or 2026-01-31T12:00") from None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return when.strftime("%Y-%m-%d %H:%M:%S.%f")

"""`bursar providers`: what there is, made and changed in the store; and what a description reads of an answer."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from bursar.cli import options, output
from bursar.cli.given import object_in, read_file
from bursar.cli.options import Format
from bursar.gateway.registry import Offer, Registry
from bursar.http.auth import ADMIN_OF_ALL
from bursar.http.checks import checked
from bursar.http.registry_rows import NewProvider, ProviderChange, Rows, shown_provider
from bursar.ledger.ledger import now_us
from bursar.ledger.rows import timestamp
from bursar.runtime import registry
from bursar.runtime import settings as config
from bursar.runtime.core import running
from bursar.runtime.registry import Assembly
from bursar.runtime.settings import Settings
from bursar.store.registry import ProviderRow, RegistryStore
from bursar.store.vault import Vault
from bursar.types.call import OPERATIONS, Context
from bursar.types.errors import ConfigError, RequestError, StoreError
from bursar.wire import spec as specs
from bursar.wire.sample import Sample, read_sample
from bursar.wire.spec import OperationSpec

_OBJECT = "A file with one JSON object in the documents' names; '-' reads standard input."
_named = click.argument("name", help="The provider's name, or its id.")
_in_workspace = click.option("--workspace", help="The workspace it is in, where several have one of this name.")


@click.group(cls=options.Group, invoke_without_command=True)
@options.config
@options.shown_as
@click.pass_context
def providers(context: click.Context, config_file: str | None, format: Format) -> None:
    """Show providers and routes; make, change and check providers. Those of the file are changed there."""
    if context.invoked_subcommand is not None:
        return
    found = _known(config_file)
    rows = [_shown(found, offer) for offer in found.offers()]
    rows += [
        {"name": route.name, "type": "route", "workspace": route.workspace, "targets": [s.target for s in route.steps],
         "weights": [s.weight for s in route.steps]}
        for route in found.routes()
    ]  # fmt: skip
    if format is Format.json:
        output.json_lines(rows)
        return
    output.table(
        ("name", "type", "workspace", "active", "goes to", "takes", "models"),
        [
            (
                r["name"], r["type"], r["workspace"] or "all",
                None if "active" not in r else "yes" if r["active"] else "no",
                r["url"] if "url" in r else " → ".join(r["targets"]),
                ", ".join(r["takes"]) if "takes" in r else None,
                ", ".join(r["models"]) if r.get("models") is not None else "any" if "models" in r else None,
            )
            for r in rows
        ],
        empty="No providers.",
    )  # fmt: skip


def _known(config_file: str | None) -> Registry:
    return asyncio.run(registry.known(config.load(config_file, os.environ), os.environ))


def _shown(found: Registry, offer: Offer) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": offer.key,
        "name": offer.name,
        "type": None,
        "workspace": offer.workspace,
        "active": offer.active,
        "url": None,
        "takes": [],
        "models": list(offer.models) if offer.models is not None else [offer.model] if offer.model else None,
    }
    try:
        made = found.provider(offer)
    except (ConfigError, StoreError) as e:
        return {**row, "url": e.message if offer.active else None}
    more = {"on_disconnect": made.on_disconnect, "retries": made.retries}
    return {**row, "type": made.type, "url": made.url_shown, "takes": list(made.endpoints), **more}


@providers.command()
@click.argument("file", type=options.PATH, help=_OBJECT)
@options.config
@options.shown_as
def add(file: Path, config_file: str | None, format: Format) -> None:
    """Make a provider. Running servers serve it within a second."""
    given = object_in(NewProvider, file)

    async def work(known: _Known) -> ProviderRow:
        row = known.rows.new(given, ADMIN_OF_ALL)
        known.refuse_taken(row)
        await known.store.add(row)
        return row

    _tell(_with_store(config_file, work), format, "made")


@providers.command()
@_named
@click.argument("file", type=options.PATH, help=_OBJECT)
@_in_workspace
@options.config
@options.shown_as
def change(name: str, file: Path, workspace: str | None, config_file: str | None, format: Format) -> None:
    """Change what the file gives, and leave the rest."""
    _change(config_file, name, workspace, object_in(ProviderChange, file), format, "changed")


@providers.command()
@_named
@_in_workspace
@options.config
@options.shown_as
def activate(name: str, workspace: str | None, config_file: str | None, format: Format) -> None:
    """Let calls go to a provider."""
    _change(config_file, name, workspace, ProviderChange.model_validate({"isActive": True}), format, "activated")


@providers.command()
@_named
@_in_workspace
@options.config
@options.shown_as
def deactivate(name: str, workspace: str | None, config_file: str | None, format: Format) -> None:
    """Let no call go to a provider any more."""
    _change(config_file, name, workspace, ProviderChange.model_validate({"isActive": False}), format, "deactivated")


@providers.command()
@_named
@_in_workspace
@options.config
def delete(name: str, workspace: str | None, config_file: str | None) -> None:
    """Delete a provider, and its secrets with it."""

    async def work(known: _Known) -> ProviderRow:
        row = await known.row(name, workspace)
        await known.store.remove(ProviderRow, row.id)
        return row

    print(f"deleted {_with_store(config_file, work).name}")


@providers.command()
@_named
@click.option("--model", help="The model to ask, where it has none of its own.")
@click.option("--timeout", type=click.FloatRange(0.1, 60), default=10.0, help="Seconds it may take.")
@options.config
@options.shown_as
def check(name: str, model: str | None, timeout: float, config_file: str | None, format: Format) -> None:
    """Make a tiny call to a provider, active or not. Exits with 0 where it answers, 1 where it does not."""
    if math.isnan(timeout):
        raise RequestError("--timeout is no number of seconds")
    read = config.load(config_file, os.environ)
    found = asyncio.run(_checked(read, name, model, timeout))
    if format is Format.json:
        output.json_lines([found])
    elif found["available"]:
        print(f"{name} answers: {found['model']} in {found['ms']} ms")
    else:
        print(f"{name} does not answer, after {found['ms']} ms: {found['error']}")
    if not found["available"]:
        sys.exit(1)


async def _checked(read: Settings, name: str, model: str | None, timeout_s: float) -> dict[str, object]:
    async with running(read, os.environ) as core:
        offers = [o for o in core.gateway.registry.offers() if name in (o.name, o.key)]
        if not offers:
            known = ", ".join(o.name for o in core.gateway.registry.offers()) or "none"
            raise RequestError(f"there is no provider '{name}'; there are {known}")
        offer = offers[0]
        made = core.gateway.registry.provider(offer)
        asked = model or offer.model or next(iter(offer.models or ()), None)
        return await checked(core.gateway, made, asked, timeout_s, Context(), None)


@providers.command("rotate-key")
@options.config
def rotate_key(config_file: str | None) -> None:
    """Seal the secrets of all providers under a new master key. Old ones then open nothing more."""
    read = config.load(config_file, os.environ)
    print(f"{asyncio.run(registry.rotate(read))} providers' secrets are stored under a new master key")


class _Known:
    """The registry's parts, for a command."""

    def __init__(self, assembly: Assembly, store: RegistryStore, vault: Vault) -> None:
        self.store = store
        self.rows = Rows(vault, assembly.check, lambda: timestamp(now_us()))
        self._taken = assembly.names

    def refuse_taken(self, row: ProviderRow) -> None:
        if row.is_global and row.name in self._taken:
            raise RequestError(f"the configuration file has '{row.name}' for everyone already", field="name")

    async def row(self, name: str, workspace: str | None) -> ProviderRow:
        """The one row of that name or id. Raises RequestError."""
        rows = [r for r in await self.store.all(ProviderRow) if name in (r.name, r.id)]
        rows = [r for r in rows if workspace in (None, r.workspace)]
        if len(rows) == 1:
            return rows[0]
        if rows:
            raise RequestError(f"'{name}' is in {', '.join(r.workspace for r in rows)}: say which with --workspace")
        where = "; it stands in the configuration file, and is changed there" if name in self._taken else ""
        raise RequestError(f"there is no provider '{name}' in the store{where}")


def _with_store(config_file: str | None, work: Callable[[_Known], Awaitable[ProviderRow]]) -> ProviderRow:
    read = config.load(config_file, os.environ)

    async def run() -> ProviderRow:
        async with registry.opened(read, os.environ) as (assembly, store):
            return await work(_Known(assembly, store, registry.vault_of(read)))

    return asyncio.run(run())


def _change(
    config_file: str | None, name: str, workspace: str | None, given: ProviderChange, format: Format, done: str
) -> None:
    async def work(known: _Known) -> ProviderRow:
        row = known.rows.changed(await known.row(name, workspace), given, ADMIN_OF_ALL)
        known.refuse_taken(row)
        await known.store.put(row)
        return row

    _tell(_with_store(config_file, work), format, done)


def _tell(row: ProviderRow, format: Format, done: str) -> None:
    if format is Format.json:
        output.json_lines([shown_provider(row)])
    else:
        print(f"{done} {row.name} ({row.id})")


@providers.command("try")
@click.argument(
    "file", type=options.PATH, help="A file with an answer's body, plain or streamed; '-' reads standard input."
)
@click.option("--type", help="The provider type whose description reads it.")
@click.option("--provider", help="Or a configured provider, with its own settings.")
@click.option("--operation", default="chat", help=f"The kind of call: {', '.join(OPERATIONS)}.")
@options.config
@options.shown_as
def try_(
    file: Path, type: str | None, provider: str | None, operation: str, config_file: str | None, format: Format
) -> None:
    """Show what is read of a sample answer: text, usage, error."""
    found = read_sample(_description(type, provider, operation, config_file), read_file(file))
    if format is Format.json:
        output.json_lines([msgspec.structs.asdict(found)])
    else:
        _show(found)


def _description(type: str | None, provider: str | None, operation: str, config_file: str | None) -> OperationSpec:
    if (type is None) == (provider is None):
        raise RequestError("say what shall read it: either --type or --provider")
    if type is not None:
        operations = specs.build(type).operations
    else:
        found = _known(config_file)
        offers = {offer.name: offer for offer in found.offers()}
        if provider is None or provider not in offers:
            raise RequestError(f"there is no provider '{provider}'; there are {', '.join(offers) or 'none'}")
        operations = {name: point.spec for name, point in found.provider(offers[provider]).endpoints.items()}
    if operation not in operations:
        raise RequestError(f"it takes no {operation}; it takes: {', '.join(operations)}")
    return operations[operation]


def _show(found: Sample) -> None:
    rows: list[tuple[str, object]] = [("read as", "a stream" if found.stream else "a plain answer")]
    rows.append(("complete", "yes" if found.complete else "no"))
    said = ("id", "model", "text", "reasoning", "vectors", "finish_reason")
    rows += [(name.replace("_", " "), getattr(found, name)) for name in said]
    rows += [(f"tool call {n}", f"{call['name']}({call['arguments']})") for n, call in enumerate(found.tool_calls, 1)]
    usage = found.usage or {}
    rows += [(name.replace("_", " "), value) for name, value in usage.items() if name != "raw"]
    if not usage:
        rows.append(("usage", None))
    elif usage.get("raw"):
        rows.append(("usage as sent", json.dumps(usage["raw"], ensure_ascii=False)))
    error = found.error
    rows.append(
        ("error", None if error is None else f"{error['message']} ({error['code'] or error['type'] or 'no code'})")
    )
    output.table(("", "found"), rows, empty="Nothing.")

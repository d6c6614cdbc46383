"""`bursar providers`: what is configured, and what a description reads of an answer."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bursar.cli import output
from bursar.cli.output import Format
from bursar.runtime import settings as config
from bursar.runtime.providers import registry
from bursar.types.errors import RequestError
from bursar.wire import spec as specs
from bursar.wire.sample import Sample, read_sample
from bursar.wire.spec import OperationSpec

app = typer.Typer(help="Show providers, and try how answers are read.", invoke_without_command=True)

Config = Annotated[str | None, typer.Option("--config", help="The configuration file [env: BURSAR_CONFIG].")]
As = Annotated[Format, typer.Option("--format", help="table for people, json for programs: one object a line.")]


@app.callback()
def listed(context: typer.Context, config_file: Config = None, format: As = Format.table) -> None:
    """Show the providers and routes of the configuration."""
    if context.invoked_subcommand is not None:
        return
    known = registry(config.load(config_file, os.environ), os.environ)
    rows: list[dict[str, object]] = [
        {
            "name": p.name,
            "type": p.type,
            "url": p.url_shown,
            "takes": list(p.endpoints),
            "models": list(p.models) if p.models is not None else None,
            "on_disconnect": p.on_disconnect,
            "retries": p.retries,
        }
        for p in known.providers.values()
    ]
    rows += [{"name": name, "type": "route", "targets": list(targets)} for name, targets in known.routes.items()]
    if format is Format.json:
        output.json_lines(rows)
        return
    output.table(
        ("name", "type", "goes to", "takes", "models"),
        [
            (
                r["name"], r["type"],
                r.get("url") or " → ".join(r["targets"]),  # type: ignore[arg-type]
                ", ".join(r["takes"]) if "takes" in r else None,  # type: ignore[arg-type]
                ", ".join(r["models"]) if r.get("models") is not None else "any" if "models" in r else None,  # type: ignore[arg-type]
            )
            for r in rows
        ],
        empty="No providers.",
    )  # fmt: skip


@app.command("try")
def try_(
    file: Annotated[
        Path, typer.Argument(help="A file with an answer's body, plain or streamed; '-' reads standard input.")
    ],
    type: Annotated[str | None, typer.Option(help="The provider type whose description reads it.")] = None,
    provider: Annotated[str | None, typer.Option(help="Or a configured provider, with its own settings.")] = None,
    operation: Annotated[str, typer.Option(help=f"The kind of call: {', '.join(specs.OPERATIONS)}.")] = "chat",
    config_file: Config = None,
    format: As = Format.table,
) -> None:
    """Read a sample answer and show what is found: text, finish, usage, error."""
    found = read_sample(_description(type, provider, operation, config_file), _bytes(file))
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
        known = registry(config.load(config_file, os.environ), os.environ).providers
        if provider is None or provider not in known:
            raise RequestError(f"there is no provider '{provider}'; there are {', '.join(known) or 'none'}")
        operations = {name: endpoint.spec for name, endpoint in known[provider].endpoints.items()}
    if operation not in operations:
        raise RequestError(f"it takes no {operation}; it takes: {', '.join(operations)}")
    return operations[operation]


def _bytes(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as e:
        raise RequestError(f"{file} cannot be read: {os.strerror(e.errno or 0)}") from None


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

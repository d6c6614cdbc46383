"""The commands: serve · call · calls · usage · verify · providers · prices · keys."""

from __future__ import annotations

import gc
from importlib import import_module
from typing import Any

import click

import bursar

_COMMANDS = {
    "serve": "bursar.cli.serving",
    "call": "bursar.cli.calling",
    "calls": "bursar.cli.reading",
    "usage": "bursar.cli.reading",
    "verify": "bursar.cli.reading",
    "providers": "bursar.cli.providers",
    "prices": "bursar.cli.prices",
    "keys": "bursar.cli.keys",
}


class _Commands(click.Group):
    """Commands are loaded when they are asked for or listed: what the others stand on would make every start longer."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands.update((name, click.Command(name)) for name in _COMMANDS)  # for suggestions of names

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        gc.disable()  # what is loaded now stays: the collector would look at it again and again
        command: click.Command = getattr(import_module(module), cmd_name)
        gc.enable()
        return command


@click.group(cls=_Commands, context_settings={"show_default": True})
@click.version_option(bursar.__version__, message="bursar %(version)s", help="Say which.")
def app() -> None:
    """One path to every LLM provider, where each call ends in a ledger."""

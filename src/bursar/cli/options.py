"""Options that many commands take, and what they have in common."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import click


class Format(StrEnum):
    """How to print."""

    table = "table"
    json = "json"


config = click.option("--config", "config_file", metavar="FILE", help="The configuration file [env: BURSAR_CONFIG].")
shown_as = click.option(
    "--format",
    type=click.Choice(Format),
    default=Format.table,
    help="table for people, json for programs: one object a line.",
)
PATH = click.Path(path_type=Path)


class Group(click.Group):
    """Commands in the order in which they are written."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

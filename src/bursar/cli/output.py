"""How the command line shows things: a table for people, one JSON object a line for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

_encode = msgspec.json.Encoder(decimal_format="number").encode
_STATUS_STYLE = {"completed": "green", "failed": "red", "cancelled": "yellow", "interrupted": "magenta"}


def compact(value: object) -> str:
    """A value as one line of JSON."""
    return _encode(value).decode()


def json_lines(rows: Iterable[object]) -> None:
    """One object a line."""
    for row in rows:
        sys.stdout.buffer.write(_encode(row) + b"\n")
    sys.stdout.buffer.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Iterable[str] = (), empty: str) -> None:
    """A table; `numbers` are columns that stand to the right; `empty` is said where there are no rows."""
    rows = list(rows)
    console = Console(highlight=False)
    if not rows:
        console.print(empty)
        return
    right = set(numbers)
    # Where nobody watches the width, nothing is cut.
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*(_cell(value) for value in row))
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)
    console.print(shown)


def _cell(value: object) -> Text:
    if value is None:
        return Text("–", style="dim")
    if isinstance(value, Decimal):
        return Text(amount(value))
    if isinstance(value, int):
        return Text(f"{value:,}".replace(",", " "))
    text = str(value)
    return Text(text, style=_STATUS_STYLE.get(text, ""))


def amount(value: Decimal) -> str:
    """Money with all its digits, and no fewer than two behind the point."""
    text = format(value.normalize(), "f")
    whole, _, part = text.partition(".")
    return f"{whole}.{part.ljust(2, '0')}"


def entry_row(row: Mapping[str, object]) -> Sequence[object]:
    """An entry as a line of the table of calls."""
    return (
        str(row["created_at"])[:19],
        row["call_id"],
        row["attempt"],
        row["status"],
        f"{row['provider']}/{row['model']}",
        row["user_id"],
        row["session_id"],
        row["purpose"],
        row["prompt_tokens"],
        row["completion_tokens"],
        row["usage_source"] if row["usage_source"] != "provider" else "",
        row["cost"],
        row["cost_currency"],
        row["response_time_ms"],
    )


ENTRY_COLUMNS = (
    "created (UTC)", "call", "try", "status", "model", "user", "session", "purpose", "in", "out", "source",
    "cost", "", "ms",
)  # fmt: skip
ENTRY_NUMBERS = ("try", "in", "out", "cost", "ms")

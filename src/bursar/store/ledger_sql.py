"""The drain's side of the store: a batch's rows, sums and offset in one transaction.

The whole transaction is one visit to the writer's thread, in statements of many rows: each statement is one
moment in which that thread lets go of the interpreter, and so has to wait for it again. Between them it gives way to
the loop now and then, with the write lock held.

What fails ends the transaction (`or rollback`), as it would anyhow: SQLite need not keep, in a file beside, what each
page was before a statement of many rows that might have to be taken back alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache

from bursar.store.engine import Database, Pace, refuses
from bursar.store.port import (
    BODY_COLUMNS,
    Batch,
    OffsetMovedError,
    RecordRefusedError,
    Rows,
    SpoolState,
)
from bursar.store.sums import (
    CORRECTED,
    GATHER,
    GATHER_ALIKE,
    GATHERED,
    GATHERED_BY,
    SCOPES,
    add_up,
    corrections_summed,
    gathered_summed,
)

# Rows of one statement: a batch is cut into the largest first. Few sizes, so that each is prepared once.
_CUTS = (128, 16, 1)
# The driver copies what it binds with the interpreter held: long bodies go a few at a time.
_LONG_BODY, _LONG_CUTS = 4096, (16, 1)
_GATHERED_ROWS = 512
_OTHERS = {
    "rejects": ("spool_id", "start", "reason", "detail", "raw", "created_at"),
    "gaps": ("spool_id", "start", "count", "first_at", "last_at"),
    "corrections": ("spool_id", "start", "seq", "call_id", "attempt", "reason", "created_at", *CORRECTED),
}


Statement = Callable[[tuple[str, ...], int, tuple[str, ...]], str]
"""Makes the SQL for rows: of which columns, how many, and the names of those that are the same in all of them."""


def _places(rows: int, columns: int, same: int = 0) -> str:
    """Places of values, row by row; the first ones of each row are the `same` ones, given once."""
    one = ",".join([*(f"?{n}" for n in range(1, same + 1)), *("?" * columns)])
    return ",".join([f"({one})"] * rows)


def _insert(table: str, columns: Sequence[str], rows: int = 1, beyond: str = "", same: Sequence[str] = ()) -> str:
    places = _places(rows, len(columns), len(same))
    return f"insert or rollback into {table} ({', '.join((*same, *columns))}) values {places}{beyond}"


@lru_cache(maxsize=256)
def _settle(columns: tuple[str, ...], rows: int, _same: tuple[str, ...] = ()) -> str:
    """Ends entries that were opened in an earlier batch: only such as are open, and of this spool."""
    given = ", ".join(f"column{n} as {name}" for n, name in enumerate(columns, 1))
    new = ", ".join(f"{name} = n.{name}" for name in columns if name not in ("call_id", "attempt"))
    rows_given = f"(select {given} from (values {_places(rows, len(columns))})) n"
    return (
        f"update or rollback ledger_entries set {new} from {rows_given} "
        "where ledger_entries.call_id = n.call_id and ledger_entries.attempt = n.attempt "
        "and ledger_entries.spool_id = ? and ledger_entries.status = 'started'"
    )


@lru_cache(maxsize=256)
def _begin(columns: tuple[str, ...], rows: int, same: tuple[str, ...] = ()) -> str:
    return _insert("ledger_entries", columns, rows, same=same)


@lru_cache(maxsize=8)
def _bodies(columns: tuple[str, ...], rows: int, _same: tuple[str, ...] = ()) -> str:
    return _insert("ledger_bodies", columns, rows, " on conflict do nothing")


class SqlLedgerStore:
    """`LedgerStore` over a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def spool_state(self, spool_id: str) -> SpoolState | None:
        def read(c: sqlite3.Connection) -> SpoolState | None:
            row = c.execute(
                "select offset, records, entries, state, size from ledger_spools where spool_id = ?", (spool_id,)
            ).fetchone()
            return SpoolState(*row) if row else None

        return await self._database.look(read)

    async def open_entries(self, spool_id: str) -> list[tuple[str, int]]:
        def read(c: sqlite3.Connection) -> list[tuple[str, int]]:
            sql = "select call_id, attempt from ledger_entries where spool_id = ? and status = 'started'"
            return [(call_id, attempt) for call_id, attempt in c.execute(sql, (spool_id,))]

        return await self._database.look(read)

    async def probe(self) -> None:
        await self._database.apply(lambda _connection: None)

    async def apply(self, batch: Batch) -> None:
        try:
            await self._database.apply(lambda connection: _write(connection, batch))
        except (OffsetMovedError, RecordRefusedError):
            raise
        except Exception as e:
            if refuses(e):
                raise RecordRefusedError(str(e)) from e
            raise


def _write(c: sqlite3.Connection, batch: Batch) -> None:
    pace = Pace(hurries=batch.hurries)
    _move_offset(c, batch)
    entries, ends = batch.entry_count, sum(rows.count for rows in batch.settlements)
    stretches = _stretches(batch)
    count = entries + ends + len(batch.corrections)
    seq = _take_seq(c, count) if count else 0
    bodies = Rows(BODY_COLUMNS, batch.bodies, len(batch.bodies) // len(BODY_COLUMNS))
    _many(c, pace, _bodies, bodies, cuts=_cuts_of(batch.bodies))
    _numbered(c, pace, _begin, batch.entries, seq)
    if _numbered(c, pace, _settle, batch.settlements, seq + entries, batch.spool_id) != ends:
        raise RecordRefusedError("an attempt that is settled here is not open")
    for n, row in enumerate(batch.corrections, seq + entries + ends):
        row["seq"] = n
    for name, columns in _OTHERS.items():
        rows = getattr(batch, name)
        # What is kept aside already, by an offset that somebody moved back, is not in the way of the rest.
        beyond = " on conflict do nothing" if name == "rejects" else ""
        c.executemany(_insert(f"ledger_{name}", columns, 1, beyond), [tuple(map(row.get, columns)) for row in rows])
    if count:
        _add_up(c, pace, seq, stretches)
    if batch.corrections:
        for scope in SCOPES:
            c.execute(
                add_up(corrections_summed(scope, "c.seq >= ? and c.seq < ?")), (seq + entries + ends, seq + count)
            )


def _stretches(batch: Batch) -> list[tuple[int, bool]]:
    """The rows of a batch in the order in which they get their numbers: how many, and whether all of them are settled
    entries that count in the same sums, as far as that is plain to see."""
    found: list[tuple[int, bool]] = []
    before: object = None
    for rows in (*batch.entries, *batch.settlements):
        key = _sums_of(rows)
        if found and key == before:
            found[-1] = (found[-1][0] + rows.count, found[-1][1])
        else:
            found.append((rows.count, key is not None))
        before = key
    return found


def _sums_of(rows: Rows) -> dict[str, object] | None:
    """What says in which sums these rows count, None where they differ, or do not say so themselves."""
    columns, values = rows.columns, rows.values
    if "completed_at" not in columns or ("workspace" not in columns and "workspace" not in rows.same):
        return None  # entries that are not settled, or were opened earlier
    by = {name: values[n] for n, name in enumerate(columns) if name in GATHERED_BY}
    if any(values[columns.index(name) :: len(columns)].count(value) < rows.count for name, value in by.items()):
        return None
    return by | {name: value for name, value in rows.same.items() if name in GATHERED_BY}


def _move_offset(c: sqlite3.Connection, batch: Batch) -> None:
    if batch.old_offset == 0:
        c.execute(
            "insert into ledger_spools (spool_id, offset, records, entries, state, created_at) "
            "values (?, 0, 0, 0, 'open', ?) on conflict do nothing",
            (batch.spool_id, batch.now),
        )
    moved = c.execute(
        "update ledger_spools set offset = ?, records = records + ?, entries = entries + ?, state = ?, size = ? "
        "where spool_id = ? and offset = ? and state = 'open'",
        (
            batch.new_offset,
            batch.records,
            batch.entry_count,
            "closed" if batch.close else "open",
            batch.new_offset if batch.close else None,
            batch.spool_id,
            batch.old_offset,
        ),
    )
    if moved.rowcount != 1:
        raise OffsetMovedError


def _take_seq(c: sqlite3.Connection, count: int) -> int:
    """The first of `count` numbers nobody else has, in the order of commits."""
    row = c.execute(
        "update ledger_meta set value = cast(cast(value as integer) + ? as text) where name = 'seq' returning value",
        (count,),
    ).fetchone()
    return int(row[0]) - count + 1


def _numbered(
    c: sqlite3.Connection,
    pace: Pace,
    statement: Statement,
    several: list[Rows],
    first: int,
    *beyond: str,
) -> int:
    """Runs a statement over rows of entries, the first of which gets the number `first`; returns how many it changed.
    The rows are used up: they are let go of here rather than where the loop would wait for it."""
    changed = 0
    several.reverse()
    while several:
        rows = several.pop()
        rows.values[:: len(rows.columns)] = range(first, first + rows.count)
        first += rows.count
        changed += _many(c, pace, statement, rows, *beyond)
    return changed


def _many(
    c: sqlite3.Connection,
    pace: Pace,
    statement: Statement,
    rows: Rows,
    *beyond: str,
    cuts: tuple[int, ...] = _CUTS,
) -> int:
    """Runs a statement over all rows, many at a time, with what is the same in them before their values, and `beyond`
    behind; returns how many rows it changed."""
    columns, values, names, same = rows.columns, rows.values, tuple(rows.same), rows.same.values()
    changed, at, left, width = 0, 0, rows.count, len(columns)
    for size in cuts:
        while left >= size:
            end = at + size * width
            given = values if size == rows.count and not (same or beyond) else [*same, *values[at:end], *beyond]
            changed += c.execute(statement(columns, size, names), given).rowcount
            pace.step()
            at, left = end, left - size
    return changed


def _cuts_of(bodies: list[object]) -> tuple[int, ...]:
    texts = bodies[BODY_COLUMNS.index("body") :: len(BODY_COLUMNS)]
    return _LONG_CUTS if sum(map(len, texts)) > _LONG_BODY * len(texts) else _CUTS  # type: ignore[arg-type]


def _add_up(c: sqlite3.Connection, pace: Pace, first: int, stretches: list[tuple[int, bool]]) -> None:
    """Adds these rows, the first of which has the number `first`, to the sums: they are looked at once, and what that
    gives is added to each scope. Thousands of rows in one statement would be milliseconds in which nothing else gets
    the core."""
    c.execute(f"create temp table if not exists {GATHERED}")
    gathered = 0
    for count, alike in stretches:
        beyond = first + count
        for at in range(first, beyond, _GATHERED_ROWS):
            gathered += c.execute(GATHER_ALIKE if alike else GATHER, (at, min(at + _GATHERED_ROWS, beyond))).rowcount
            pace.step()
            if gathered >= _GATHERED_ROWS:
                _sum_gathered(c, pace)
                gathered = 0
        first = beyond
    if gathered:
        _sum_gathered(c, pace)


def _sum_gathered(c: sqlite3.Connection, pace: Pace) -> None:
    for statement in gathered_summed():
        c.execute(statement)
        pace.step()
    c.execute("delete from temp.ledger_gathered")

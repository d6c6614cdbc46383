"""The drain's side of the store: a batch's rows, sums and offset in one transaction."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bursar.store.engine import Database, is_refusal
from bursar.store.port import Batch, OffsetMovedError, RecordRefusedError, Row, SpoolState
from bursar.store.sums import SCOPES, add_up, corrections_summed, rows_summed
from bursar.store.tables import ledger_corrections, ledger_entries, ledger_gaps, ledger_rejects
from bursar.types.errors import StoreError

_SETTLED_COLUMNS = (
    "seq", "completed_at", "served_model", "status", "http_status", "error_kind", "error_code", "error_message",
    "finish_reason", "provider_response_id", "prompt_tokens", "completion_tokens", "total_tokens",
    "cached_tokens", "cache_write_tokens", "reasoning_tokens", "provider_total_tokens", "usage_source",
    "raw_usage", "cost_nanos", "cost_currency", "cost_usd_nanos", "cost_source", "price_id",
    "response_time_ms", "time_to_first_token_ms", "output_bytes", "output_ref", "text_ref", "text_at",
)  # fmt: skip

_ENTRY_COLUMNS = tuple(c.name for c in ledger_entries.columns)


def _insert(table: str, columns: tuple[str, ...]) -> str:
    return f"insert into {table} ({', '.join(columns)}) values ({', '.join('?' * len(columns))})"


_INSERT_ENTRY = _insert("ledger_entries", _ENTRY_COLUMNS)
_INSERT_BODY = _insert("ledger_bodies", ("workspace", "hash", "body", "created_at")) + " on conflict do nothing"
_SETTLE = (
    f"update ledger_entries set {', '.join(f'{c} = ?' for c in _SETTLED_COLUMNS)} "
    "where call_id = ? and attempt = ? and spool_id = ? and status = 'started'"
)
_OTHERS = {
    # What is kept aside already, by an offset that somebody moved back, is not in the way of the rest.
    "rejects": _insert("ledger_rejects", tuple(c.name for c in ledger_rejects.columns)) + " on conflict do nothing",
    "gaps": _insert("ledger_gaps", tuple(c.name for c in ledger_gaps.columns)),
    "corrections": _insert("ledger_corrections", tuple(c.name for c in ledger_corrections.columns)),
}
_OTHER_COLUMNS = {
    "rejects": tuple(c.name for c in ledger_rejects.columns),
    "gaps": tuple(c.name for c in ledger_gaps.columns),
    "corrections": tuple(c.name for c in ledger_corrections.columns),
}


class SqlLedgerStore:
    """`LedgerStore` over a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def spool_state(self, spool_id: str) -> SpoolState | None:
        async with self._database.read() as c:
            row = (
                await c.execute(
                    text("select offset, records, entries, state, size from ledger_spools where spool_id = :id"),
                    {"id": spool_id},
                )
            ).first()
        return SpoolState(*row) if row else None

    async def open_entries(self, spool_id: str) -> list[tuple[str, int]]:
        async with self._database.read() as c:
            rows = await c.execute(
                text("select call_id, attempt from ledger_entries where spool_id = :id and status = 'started'"),
                {"id": spool_id},
            )
            return [(call_id, attempt) for call_id, attempt in rows]

    async def probe(self) -> None:
        async with self._database.write():
            pass

    async def apply(self, batch: Batch) -> None:
        try:
            async with self._database.write() as c:
                await self._move_offset(c, batch)
                await self._write(c, batch)
        except (StoreError, OffsetMovedError, RecordRefusedError):
            raise
        except Exception as e:
            if is_refusal(e):
                raise RecordRefusedError(str(getattr(e, "orig", e))) from e
            raise

    async def _move_offset(self, c: AsyncConnection, batch: Batch) -> None:
        if batch.old_offset == 0:
            await c.execute(
                text(
                    "insert into ledger_spools (spool_id, offset, records, entries, state, created_at) "
                    "values (:id, 0, 0, 0, 'open', :now) on conflict do nothing"
                ),
                {"id": batch.spool_id, "now": batch.now},
            )
        moved = await c.execute(
            text(
                "update ledger_spools set offset = :new, records = records + :records, entries = entries + :entries, "
                "state = :state, size = :size where spool_id = :id and offset = :old and state = 'open'"
            ),
            {
                "id": batch.spool_id,
                "old": batch.old_offset,
                "new": batch.new_offset,
                "records": batch.records,
                "entries": len(batch.entries),
                "state": "closed" if batch.close else "open",
                "size": batch.new_offset if batch.close else None,
            },
        )
        if moved.rowcount != 1:
            raise OffsetMovedError

    async def _write(self, c: AsyncConnection, batch: Batch) -> None:
        numbered = [*batch.entries, *batch.settlements, *batch.corrections]
        first = await self._take_seq(c, len(numbered)) if numbered else 0
        for seq, row in enumerate(numbered, first):
            row["seq"] = seq
        if batch.bodies:
            await c.exec_driver_sql(
                _INSERT_BODY, [(ws, hash, body, batch.now) for (ws, hash), body in batch.bodies.items()]
            )
        if batch.entries:
            await c.exec_driver_sql(_INSERT_ENTRY, [_values(row, _ENTRY_COLUMNS) for row in batch.entries])
        for row in batch.settlements:
            await self._settle(c, batch.spool_id, row)
        for name, statement in _OTHERS.items():
            rows: list[Row] = getattr(batch, name)
            if rows:
                await c.exec_driver_sql(statement, [_values(row, _OTHER_COLUMNS[name]) for row in rows])
        if numbered:
            await self._add_up(c, first, first + len(numbered), corrections=bool(batch.corrections))

    @staticmethod
    async def _settle(c: AsyncConnection, spool_id: str, row: Row) -> None:
        values = (*_values(row, _SETTLED_COLUMNS), row["call_id"], row["attempt"], spool_id)
        settled = await c.exec_driver_sql(_SETTLE, values)
        if settled.rowcount != 1:
            raise RecordRefusedError(f"attempt {row['attempt']} of call {row['call_id']} is not open")

    @staticmethod
    async def _take_seq(c: AsyncConnection, count: int) -> int:
        """The first of `count` numbers nobody else has, in the order of commits."""
        row = await c.execute(
            text(
                "update ledger_meta set value = cast(cast(value as integer) + :n as text) "
                "where name = 'seq' returning value"
            ),
            {"n": count},
        )
        return int(row.scalar_one()) - count + 1

    @staticmethod
    async def _add_up(c: AsyncConnection, first: int, beyond: int, *, corrections: bool) -> None:
        for scope in SCOPES:
            await c.exec_driver_sql(add_up(rows_summed(scope, "e.seq >= ? and e.seq < ?")), (first, beyond))
            if corrections:
                await c.exec_driver_sql(add_up(corrections_summed(scope, "c.seq >= ? and c.seq < ?")), (first, beyond))


def _values(row: Row, columns: tuple[str, ...]) -> tuple[object, ...]:
    return tuple(row.get(c) for c in columns)

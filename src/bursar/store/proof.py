"""What `verify` reads of the store: short read-only transactions, a page each."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import text

from bursar.store.engine import Database
from bursar.store.port import BODY_NAME_BYTES
from bursar.store.sums import ROLLUP_KEYS, SCOPES, SUMS, corrections_summed, rows_summed

_SHOWN = 20


class SpoolRow(NamedTuple):
    """A spool's row, with the entries really found for it, and how many of them are open."""

    offset: int
    records: int
    entries: int
    state: str
    size: int | None
    found: int
    open: int


class EntryTexts(NamedTuple):
    """The texts an entry has, and the CRC-32 of what was asked and of what was answered."""

    seq: int
    entry: str
    messages: str | None
    params: str | None
    asked_crc: int | None
    output: str | None
    text: str | None
    answered_crc: int | None


class Page(NamedTuple):
    """One hour: its entries, and where the sums differ: (key, measure, sum kept, sum that is true)."""

    entries: int
    differences: list[tuple[str, str, int, int]]


class Proof:
    """Read-only questions to the store."""

    def __init__(self, database: Database) -> None:
        self._reader = database.reader

    async def doubled(self) -> list[tuple[str, int]]:
        rows = await self._all(
            "select call_id, attempt from ledger_entries group by call_id, attempt having count(*) > 1 limit :n",
            n=_SHOWN,
        )
        return [(r[0], r[1]) for r in rows]

    async def hours(self) -> list[int]:
        rows = await self._all("select hour from ledger_entries union select hour from ledger_rollups order by 1")
        return [r[0] for r in rows]

    async def compare(self, hour: int) -> Page:
        """The sums kept for an hour against those of its entries and corrections, in one state of the store."""
        async with self._reader.read() as c:
            true: dict[tuple[object, ...], list[int]] = {}
            for scope in SCOPES:
                for select in (rows_summed(scope, "e.hour = ?"), corrections_summed(scope, "e.hour = ?")):
                    for row in await c.exec_driver_sql(select, (hour,)):
                        _add(true, tuple(row[: len(ROLLUP_KEYS)]), row[len(ROLLUP_KEYS) :])
            columns = ", ".join((*ROLLUP_KEYS, *SUMS))
            kept: dict[tuple[object, ...], list[int]] = {}
            for row in await c.exec_driver_sql(f"select {columns} from ledger_rollups where hour = ?", (hour,)):
                _add(kept, tuple(row[: len(ROLLUP_KEYS)]), row[len(ROLLUP_KEYS) :])
            entries = await c.exec_driver_sql("select count(*) from ledger_entries where hour = ?", (hour,))
            count = entries.scalar_one()
        return Page(count, _differences(kept, true))

    async def missing_bodies(self) -> list[str]:
        found = await self._all(
            "select call_id || ':' || attempt || ' params_ref' from ledger_entries e where e.params_ref is not null "
            "and not exists (select 1 from ledger_bodies b where b.name = e.params_ref) limit :n",
            n=_SHOWN,
        )
        found += await self._all(
            f"""with recursive i (id, refs, n) as (
              select call_id || ':' || attempt, input_refs, 0 from ledger_entries where length(input_refs) > 0
              union all select id, refs, n + 1 from i where (n + 1) * {BODY_NAME_BYTES} < length(refs))
            select id || ' input_refs' from i where not exists (
              select 1 from ledger_bodies b where b.name = substr(refs, n * {BODY_NAME_BYTES} + 1, {BODY_NAME_BYTES}))
            limit :n""",
            n=_SHOWN,
        )
        return [r[0] for r in found]

    async def bodies(self, after: bytes, limit: int) -> list[tuple[bytes, str, str]]:
        """A page of bodies, (name, workspace, text), in the order of their names."""
        sql = "select name, workspace, body from ledger_bodies where name > :after order by name limit :n"
        return [(r[0], r[1], r[2]) for r in await self._all(sql, after=after, n=limit)]

    async def texts(self, after: int, limit: int) -> list[EntryTexts]:
        """A page of the entries that have texts of their own, in the order of their `seq`."""
        sql = (
            "select seq, call_id || ':' || attempt, messages, params, asked_crc, output, text, answered_crc "
            "from ledger_entries where seq > :after and "
            "(asked_crc is not null or answered_crc is not null) order by seq limit :n"
        )
        return [EntryTexts(*row) for row in await self._all(sql, after=after, n=limit)]

    async def rejects(self) -> list[tuple[str, str, str | None]]:
        rows = await self._all("select spool_id || '@' || start, reason, detail from ledger_rejects order by 1")
        return [(r[0], r[1], r[2]) for r in rows]

    async def gaps(self) -> list[tuple[str, int, str, str]]:
        rows = await self._all("select spool_id || '@' || start, count, first_at, last_at from ledger_gaps order by 1")
        return [(r[0], r[1], r[2], r[3]) for r in rows]

    async def spool_ids(self) -> set[str]:
        rows = await self._all("select spool_id from ledger_spools union select spool_id from ledger_entries")
        return {r[0] for r in rows}

    async def names_spool(self, spool_id: str) -> bool:
        """Whether any entry came from this spool."""
        return bool(await self._all("select 1 from ledger_entries where spool_id = :id limit 1", id=spool_id))

    async def spool(self, spool_id: str) -> SpoolRow | None:
        rows = await self._all(
            "select offset, records, entries, state, size, "
            "(select count(*) from ledger_entries where spool_id = :id), "
            "(select count(*) from ledger_entries where spool_id = :id and status = 'started') "
            "from ledger_spools where spool_id = :id",
            id=spool_id,
        )
        return SpoolRow(*rows[0]) if rows else None

    async def _all(self, sql: str, **values: object) -> list[tuple[Any, ...]]:
        async with self._reader.read() as c:
            return [tuple(r) for r in await c.execute(text(sql), values)]


def _add(sums: dict[tuple[object, ...], list[int]], key: tuple[object, ...], values: object) -> None:
    have = sums.setdefault(key, [0] * len(SUMS))
    for n, value in enumerate(values):  # type: ignore[arg-type,var-annotated]
        have[n] += value


def _differences(
    kept: dict[tuple[object, ...], list[int]], true: dict[tuple[object, ...], list[int]]
) -> list[tuple[str, str, int, int]]:
    nothing = [0] * len(SUMS)
    out = []
    for key in sorted(kept.keys() | true.keys(), key=str):
        for name, have, should in zip(SUMS, kept.get(key, nothing), true.get(key, nothing), strict=True):
            if have != should:
                shown = " ".join(f"{k}={v}" for k, v in zip(ROLLUP_KEYS, key, strict=True) if v != "")
                out.append((shown, name, have, should))
    return out

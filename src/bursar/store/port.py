"""What the ledger asks of a store: batches applied in one transaction, and the state to go on from."""

from __future__ import annotations

import sys
from typing import Protocol

import msgspec

Row = dict[str, object]

BODY_NAME_BYTES = 16
"""How long the name of a body is: it stands in entries, and is the key bodies are found by."""


class Rows(msgspec.Struct):
    """Rows for one table, laid out: `values` has those of the first row, then those of the second, and so on. The
    first value of each row of entries is its `seq`, which the store gives it. Columns that none of them has are left
    out; of entries that are opened, what is the same in all of them may stand in `same` instead."""

    columns: tuple[str, ...]
    values: list[object]
    count: int
    same: dict[str, object] = {}


TAKES_SAME = not (3, 12) <= sys.version_info[:3] < (3, 12, 4)
"""Whether the store is to be given `Rows.same`: some versions of the driver take `?1` for a name, and warn of it each
time (https://github.com/python/cpython/issues/117995)."""

BODY_COLUMNS = ("name", "workspace", "body", "created_at")


class RecordRefusedError(Exception):
    """The store refuses a record of the batch; nothing of the batch was written."""


class OffsetMovedError(Exception):
    """The spool's offset in the store is not the one the batch begins at; nothing was written."""


class Batch(msgspec.Struct, kw_only=True):
    """A stretch of one spool, ready for the store.

    `entries` were opened in it (settled in it or not); `settlements` are (call_id, attempt) and the settled columns of
    entries opened earlier. `bodies` has the values of `BODY_COLUMNS` of each body, one behind the other; `brought` are
    the names of those that entries brought along when they were opened. `close` ends the spool for good. It `hurries`
    where more waits than one batch takes.
    """

    spool_id: str
    old_offset: int
    new_offset: int
    records: int
    now: str
    entries: list[Rows] = []
    settlements: list[Rows] = []
    bodies: list[object] = []
    brought: set[bytes] = set()
    rejects: list[Row] = []
    gaps: list[Row] = []
    corrections: list[Row] = []
    close: bool = False
    hurries: bool = False

    @property
    def entry_count(self) -> int:
        """How many entries were opened in it."""
        return sum(rows.count for rows in self.entries)


class SpoolState(msgspec.Struct, frozen=True):
    """How far a spool is in the store."""

    offset: int
    records: int
    entries: int
    state: str
    size: int | None


class LedgerStore(Protocol):
    """The store as the drain sees it. Methods raise StoreError where it cannot be reached or written."""

    async def spool_state(self, spool_id: str) -> SpoolState | None: ...

    async def apply(self, batch: Batch) -> None:
        """Writes the whole batch in one transaction, and uses its rows up, whether it succeeds or not. Raises
        RecordRefusedError, OffsetMovedError."""

    async def probe(self) -> None:
        """Returns where the store takes writes."""

    async def open_entries(self, spool_id: str) -> list[tuple[str, int]]:
        """The (call_id, attempt) of a spool's entries that are not settled."""

"""Spools whose process is gone: any living process on the same store adopts them.

Adopting drains what is there, marks what was opened and never settled `interrupted`, closes the spool's row
and removes the files. It can be cut off anywhere and begun again: each step is one transaction.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from bursar.ledger import records
from bursar.ledger.drain import Drain
from bursar.ledger.ledger import now_us
from bursar.ledger.locks import SpoolLock, is_held
from bursar.ledger.records import Settled, SpoolHeader, walk
from bursar.ledger.rows import BatchBuilder
from bursar.ledger.spool import LOCK_SUFFIX, SUFFIX
from bursar.store.port import LedgerStore

_LEFTOVER_S = 60.0
_HEADER_BYTES = 4096
_LOST = "the process that made this attempt ended before it was settled"


class FileSource:
    """A spool read from its file. `end` is the file's size: what is behind the last record is looked at too."""

    recent = None

    def __init__(self, path: Path) -> None:
        self.id = path.name.removesuffix(SUFFIX)
        self._path = path
        self.end = path.stat().st_size

    def read(self, offset: int, size: int) -> bytes:
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), min(size, self.end - offset), offset)


def read_header(path: Path) -> SpoolHeader | None:
    """The header of a spool's file, None where it has none that can be read."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    for span in walk(head, last=False):
        if span.payload is not None:
            try:
                record = records.decode(span.payload)
            except msgspec.MsgspecError:
                return None
            return record if isinstance(record, SpoolHeader) else None
        return None
    return None


class Adopter:
    """Looks for spools nobody owns in one directory, for one store."""

    def __init__(self, directory: Path, store_id: str, store: LedgerStore, drain: Drain) -> None:
        self._directory = directory
        self._store_id = store_id
        self._store = store
        self._drain = drain

    async def look(self) -> list[tuple[str, int]]:
        """Adopts what there is; returns (spool id, entries marked interrupted). Raises StoreError, and OSError when all
        others are adopted, where a file cannot be read or removed."""
        adopted, stuck = [], None
        for lock_path in sorted(self._directory.glob(f"*{LOCK_SUFFIX}")):
            if lock_path.name.startswith("."):
                _clear_leftover(lock_path)
                continue
            lock = SpoolLock.take(lock_path)
            if lock is None:
                continue
            path = lock_path.with_name(lock_path.name.removesuffix(LOCK_SUFFIX) + SUFFIX)
            try:
                interrupted = await self._adopt(path)
                if interrupted is not None:
                    path.unlink(missing_ok=True)
                    lock.path.unlink(missing_ok=True)
                    if interrupted >= 0:
                        adopted.append((path.name.removesuffix(SUFFIX), interrupted))
            except OSError as e:
                stuck = e  # those behind it do not wait for it
            finally:
                lock.release()
        if stuck is not None:
            raise stuck
        return adopted

    async def _adopt(self, path: Path) -> int | None:
        """How many entries were interrupted; −1 where nothing was in it; None where it is not ours."""
        if not path.exists():
            return -1
        header = read_header(path)
        if header is None:
            return -1 if _is_blank(path) else None
        if header.store_id != self._store_id:
            return None
        state = await self._store.spool_state(header.spool_id)
        if state is not None and state.state == "closed":
            return -1
        source = FileSource(path)
        offset = await self._drain.drain(source, state.offset if state else 0, lambda _offset, _records: None)
        return await self._close(header.spool_id, offset)

    async def _close(self, spool_id: str, offset: int) -> int:
        builder = BatchBuilder(spool_id, offset, now_us())
        lost = await self._store.open_entries(spool_id)
        for call_id, attempt in lost:
            builder.add_settled(
                Settled(
                    call_id=call_id,
                    attempt=attempt,
                    workspace="",
                    status="interrupted",
                    completed_us=None,
                    response_time_ms=None,
                    error_kind="interrupted",
                    error_message=_LOST,
                )
            )
        await self._drain.close_spool(spool_id, offset, builder.batch)
        return len(lost)


def _is_blank(path: Path) -> bool:
    return not path.read_bytes().strip(b"\0")


def _clear_leftover(path: Path) -> None:
    """A lock file that was never given its name: its maker died in the middle."""
    try:
        if time.time() - path.stat().st_mtime > _LEFTOVER_S and not is_held(path):
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass

"""Connections to SQLite, each in a thread of its own: the drain's, that of what is changed, and some that only read.

The journal is WAL only from SQLite 3.51.3 on: below it a WAL reset can corrupt the file
(https://sqlite.org/wal.html, "the WAL-reset bug"). The rollback journal is slower, which the spool hides.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bursar.types.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from bursar.store.reader import Reader

WAL_FROM = (3, 51, 3)
BUSY_MS = 1500
_STATEMENTS = 64
_PAGE_BYTES = 8192
OVERWRITES = "pragma secure_delete = on"
# The drain deletes nothing that was written; some builds overwrite whatever a page has no use for all the same.
_LEAVES_AS_IT_IS = "pragma secure_delete = off"
# A quarter of a core when calls want all of it: their rows take a seventh (docs/why/performance.md).
_STANDS_BACK = 5
_KEEPS_CORE_S = 0.002

T = TypeVar("T")


def sqlite_path(url: str) -> Path:
    """The file of a `sqlite:///…` URL (three slashes: relative to the working directory)."""
    if not url.startswith("sqlite:///") or len(url) == len("sqlite:///"):
        raise ConfigError(f"store.url: '{url}' is not supported; write sqlite:///PATH")
    return Path(url.removeprefix("sqlite:///"))


class Database:
    """One SQLite file. Work is a plain function of the driver's own connection, run in one transaction: one visit to a
    thread, however many statements it has. Errors of the database come out as StoreError."""

    def __init__(self, url: str) -> None:
        self.path = sqlite_path(url)
        self._drain = _Thread(self.path, _stand_back)
        self._changes = _Thread(self.path, overwrites=True)
        self._reader: Reader | None = None

    async def apply(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What the drain writes: holds the write lock from its beginning."""
        return await self._drain.run("begin immediate", work)

    async def look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The same for work that only reads."""
        return await self._drain.run("begin", work)

    async def change(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What an administrator writes: the same beside the drain, and what is deleted is overwritten in the file, for
        it may have been secret."""
        return await self._changes.run("begin immediate", work)

    @property
    def reader(self) -> Reader:
        """What questions about the ledger are asked through. Its library is loaded by who first needs it, for it takes
        a third of a start, and calls do without."""
        if self._reader is None:
            from bursar.store.reader import Reader

            self._reader = Reader(self.path)
        return self._reader

    async def close(self) -> None:
        if self._reader is not None:
            await self._reader.close()
        await self._changes.close()
        await self._drain.close()


class _Thread:
    """One connection in a thread of its own, both there once they are needed."""

    def __init__(self, path: Path, begin: Callable[[], None] | None = None, *, overwrites: bool = False) -> None:
        self._path = path
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="bursar-store", initializer=begin)
        self._overwrites = overwrites
        self._is_used = False
        self._connection: sqlite3.Connection | None = None

    async def run(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        self._is_used = True
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._work, begin, work)

    async def close(self) -> None:
        if self._is_used:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._drop)
        self._executor.shutdown(wait=False)

    def _work(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            connection = self._connection or self._open()
            try:
                connection.execute(begin)
                result = work(connection)
                connection.execute("commit")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("rollback")
                raise
        except sqlite3.Error as e:
            if refuses(e):
                raise
            # It may be another file by the next time, or the same with other rights.
            self._drop()
            raise StoreError(f"the store {self._path} cannot be used now: {e}") from e
        return result

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=BUSY_MS / 1000, isolation_level=None, cached_statements=_STATEMENTS
        )
        set_journal(connection)
        connection.execute(OVERWRITES if self._overwrites else _LEAVES_AS_IT_IS).close()
        self._connection = connection
        return connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _stand_back() -> None:
    """Calls go before their rows, where this thread and the loop's share a core."""
    if sys.platform == "linux":  # elsewhere it would be the whole process that stands back
        with suppress(OSError):
            os.nice(_STANDS_BACK)


class Pace:
    """When the writer's thread lets a loop that waits for the core have it before it goes on: `step` is called between
    statements.

    The system itself looks who waits only at its tick, and 4 ms are more than a loop does in one turn. To give way
    after each statement would cost more, for each finds the core's cache as the other left it. With `hurries` it keeps
    the core: it would fall ever further behind otherwise.
    """

    def __init__(self, *, hurries: bool) -> None:
        self._gives_way = sys.platform == "linux" and not hurries
        self._since_s = time.thread_time()

    def step(self) -> None:
        if self._gives_way:
            now_s = time.thread_time()
            if now_s - self._since_s > _KEEPS_CORE_S:
                self._since_s = now_s
                os.sched_yield()


def set_journal(connection: sqlite3.Connection) -> None:
    """Sees to it that a new connection writes as this SQLite does it safely."""
    journal = "wal" if sqlite3.sqlite_version_info >= WAL_FROM else "delete"
    cursor = connection.cursor()
    try:
        cursor.execute(f"pragma page_size = {_PAGE_BYTES}")  # of a new file; another keeps what it has
        cursor.execute("pragma journal_mode")
        if cursor.fetchone()[0] != journal:
            cursor.execute(f"pragma journal_mode = {journal}")
    except sqlite3.OperationalError:
        pass  # a read-only or locked file keeps the journal it has
    cursor.close()


def refuses(error: Exception) -> bool:
    """Whether the store refuses what it was given, rather than being unable to take anything now."""
    if isinstance(error, sqlite3.OperationalError):
        # A number too large for its sum, or a value too large for a row: the values' fault, not the file's.
        return "overflow" in str(error) or "too big" in str(error)
    if type(error) is sqlite3.DatabaseError:
        return False  # the file is damaged, or no database at all
    return isinstance(error, OverflowError | UnicodeError | sqlite3.Error)

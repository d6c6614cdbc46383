"""Connections to SQLite: one that writes, immediately, and some that only read, briefly.

The journal is WAL only from SQLite 3.51.3 on: below it a WAL reset can corrupt the file
(https://sqlite.org/wal.html, "the WAL-reset bug"). The rollback journal is slower, which the spool hides.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from bursar.types.errors import ConfigError, StoreError

WAL_FROM = (3, 51, 3)
_BUSY_MS = 1500
_STATEMENTS = 64
_PAGE_BYTES = 8192
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
    """The two engines of one SQLite file. Errors of the database come out as StoreError."""

    def __init__(self, url: str) -> None:
        self.path = sqlite_path(url)
        self.writer = _engine(self.path, "BEGIN IMMEDIATE", pool_size=1)
        self.reader = _engine(self.path, "BEGIN", pool_size=3)
        self._drain = _Thread(self.path)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that holds the write lock from its beginning."""
        async with _told(self.path), self.writer.begin() as connection:
            yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one state; keep it to a page, for it holds the drain up."""
        async with _told(self.path), self.reader.begin() as connection:
            yield connection

    async def apply(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs plain work on the driver's own connection, in a transaction that holds the write lock from its
        beginning: one visit to a thread, however many statements it has."""
        return await self._drain.run("begin immediate", work)

    async def look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The same for work that only reads."""
        return await self._drain.run("begin", work)

    async def close(self) -> None:
        await self.writer.dispose()
        await self.reader.dispose()
        await self._drain.close()


class _Thread:
    """One connection in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="bursar-store", initializer=_stand_back)
        self._connection: sqlite3.Connection | None = None

    async def run(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._work, begin, work)

    async def close(self) -> None:
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
            self._path, timeout=_BUSY_MS / 1000, isolation_level=None, cached_statements=_STATEMENTS
        )
        _set_journal(connection)
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


def _engine(path: Path, begin: str, *, pool_size: int) -> AsyncEngine:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{path}",
        pool_size=pool_size,
        max_overflow=0,
        connect_args={"isolation_level": None, "timeout": _BUSY_MS / 1000},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
        _set_journal(connection)
        # What is deleted here is overwritten in the file, for it may have been secret.
        connection.execute("pragma secure_delete = on").close()

    @event.listens_for(engine.sync_engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _set_journal(connection: sqlite3.Connection) -> None:
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


@asynccontextmanager
async def _told(path: Path) -> AsyncIterator[None]:
    """Says which file an operational error of the database is about."""
    try:
        yield
    except OperationalError as e:
        if is_refusal(e):
            raise
        raise StoreError(f"the store {path} cannot be used now: {e.orig}") from e
    except sqlite3.OperationalError as e:
        raise StoreError(f"the store {path} cannot be used now: {e}") from e


def is_refusal(error: DBAPIError) -> bool:
    """`refuses`, for an error as SQLAlchemy tells it."""
    return refuses(error.orig) if isinstance(error.orig, Exception) else False


def refuses(error: Exception) -> bool:
    """Whether the store refuses what it was given, rather than being unable to take anything now."""
    if isinstance(error, sqlite3.OperationalError):
        # A number too large for its sum, or a value too large for a row: the values' fault, not the file's.
        return "overflow" in str(error) or "too big" in str(error)
    if type(error) is sqlite3.DatabaseError:
        return False  # the file is damaged, or no database at all
    return isinstance(error, OverflowError | UnicodeError | sqlite3.Error)

"""How questions about the ledger are asked: SQLAlchemy's engine over connections that only read, briefly."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from bursar.store.engine import BUSY_MS, refuses, set_journal
from bursar.types.errors import StoreError


class Reader:
    """Some connections that only read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = create_async_engine(
            URL.create("sqlite+aiosqlite", database=str(path)),
            pool_size=3,
            max_overflow=0,
            connect_args={"isolation_level": None, "timeout": BUSY_MS / 1000},
        )

        @event.listens_for(self._engine.sync_engine, "connect")
        def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
            set_journal(connection)

        @event.listens_for(self._engine.sync_engine, "begin")
        def _on_begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN")

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one state; keep it to a page, for it holds the drain up. Raises StoreError."""
        try:
            async with self._engine.begin() as connection:
                yield connection
        except DatabaseError as e:
            if isinstance(e.orig, Exception) and refuses(e.orig):
                raise
            raise StoreError(f"the store {self._path} cannot be used now: {e.orig}") from e
        except sqlite3.DatabaseError as e:
            if refuses(e):
                raise
            raise StoreError(f"the store {self._path} cannot be used now: {e}") from e

    async def close(self) -> None:
        await self._engine.dispose()

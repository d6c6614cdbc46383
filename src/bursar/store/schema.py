"""Brings a database to the newest schema, and tells which store it is."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from importlib import resources
from pathlib import Path

from bursar.store.engine import BUSY_MS, OVERWRITES, Database, set_journal
from bursar.types.errors import StoreError

HEAD = "0005"
STATEMENT_END = ";\n\n"
"""What ends a statement in `schema.sql`: it has no empty lines elsewhere."""


async def prepare(database: Database) -> str:
    """Creates or upgrades the schema where needed; returns the store's id.

    Raises StoreError where the database cannot be used, or was made by a newer bursar.
    """
    try:
        database.path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StoreError(f"the folder of the store {database.path} cannot be made: {e.strerror}") from e
    store_id = await database.look(_store_id)
    if store_id is None and not await database.change(_make):
        await asyncio.to_thread(upgrade, database.path)
    store_id = store_id or await database.change(_named)
    if store_id is None:
        raise StoreError(f"the store {database.path} could not be brought to schema {HEAD}")
    return store_id


def _store_id(c: sqlite3.Connection) -> str | None:
    """The id of a store at the newest schema, else None."""
    if _version(c) != HEAD:
        return None
    row = c.execute("select value from ledger_meta where name = 'store_id'").fetchone()
    return str(row[0]) if row is not None else None


def _version(c: sqlite3.Connection) -> str | None:
    """Which schema a store has; None where it has none."""
    if c.execute("select 1 from sqlite_master where type = 'table' and name = 'alembic_version'").fetchone() is None:
        return None
    row = c.execute("select version_num from alembic_version").fetchone()
    return str(row[0]) if row is not None else None


def _make(c: sqlite3.Connection) -> bool:
    """Makes a store where there is nothing yet; whether it is at the newest schema now."""
    if c.execute("select 1 from sqlite_master limit 1").fetchone() is not None:
        return _version(c) == HEAD  # made before, or by another process while this one waited for the lock
    written = (resources.files("bursar.store") / "schema.sql").read_text(encoding="utf-8")
    for statement in written.split(STATEMENT_END)[:-1]:
        c.execute(statement)
    return True


def _named(c: sqlite3.Connection) -> str | None:
    """Gives a store its id, where it has none; returns the one it has, None where its schema is another."""
    if _version(c) != HEAD:
        return None
    c.execute(
        "insert into ledger_meta (name, value) values ('store_id', ?) on conflict do nothing", (str(uuid.uuid4()),)
    )
    return _store_id(c)


def upgrade(path: Path, revision: str = "head") -> None:
    """Carries out the migrations there are to a revision, in one transaction. Raises StoreError."""
    # Both are heavy, and needed only for a store that is there and older: they are loaded here and not before.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError
    from sqlalchemy import URL, create_engine, event
    from sqlalchemy.exc import DatabaseError

    config = Config()
    config.set_main_option("script_location", str(resources.files("bursar.store") / "migrations"))
    config.set_main_option("path_separator", "os")
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, connect_args={"isolation_level": None, "timeout": BUSY_MS / 1000})

    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
        set_journal(connection)
        connection.execute(OVERWRITES).close()

    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("begin immediate"))
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    except CommandError as e:
        raise StoreError(f"the store was made by another version of bursar: {e}") from e
    except DatabaseError as e:
        raise StoreError(f"the store {path} cannot be used now: {e.orig}") from e
    finally:
        engine.dispose()


async def read_meta(database: Database, name: str) -> str | None:
    """One value of the store's own notes; None where there is none."""
    sql = "select value from ledger_meta where name = ?"
    row = await database.look(lambda c: c.execute(sql, (name,)).fetchone())
    return str(row[0]) if row is not None else None

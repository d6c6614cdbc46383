"""Brings a database to the newest schema, and tells which store it is."""

from __future__ import annotations

import uuid
from importlib import resources

from sqlalchemy import Connection, inspect, text

from bursar.store.engine import Database
from bursar.types.errors import StoreError

HEAD = "0004"
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
    store_id = await _store_id(database)
    if store_id is not None:
        return store_id
    async with database.write() as c:
        await c.run_sync(_make)
        await c.execute(
            text("insert into ledger_meta (name, value) values ('store_id', :id) on conflict do nothing"),
            {"id": str(uuid.uuid4())},
        )
    store_id = await _store_id(database)
    if store_id is None:
        raise StoreError(f"the store {database.path} could not be brought to schema {HEAD}")
    return store_id


async def _store_id(database: Database) -> str | None:
    """The id of a store at the newest schema, else None."""
    async with database.read() as c:
        if await c.run_sync(_version) != HEAD:
            return None
        return (await c.execute(text("select value from ledger_meta where name = 'store_id'"))).scalar()


def _version(connection: Connection) -> str | None:
    """Which schema a store has; None where it has none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.exec_driver_sql("select version_num from alembic_version").scalar()


def _make(connection: Connection) -> None:
    """A store where there is none, or one that was made before brought to the newest schema."""
    if _version(connection) == HEAD:  # by another process, while this one waited for the lock
        return
    if connection.exec_driver_sql("select count(*) from sqlite_master").scalar():
        upgrade(connection)
        return
    written = (resources.files("bursar.store") / "schema.sql").read_text(encoding="utf-8")
    for statement in written.split(STATEMENT_END)[:-1]:
        connection.exec_driver_sql(statement)


def upgrade(connection: Connection) -> None:
    """Carries out the migrations there are to the newest one. Raises StoreError."""
    # Alembic is heavy, and needed only for a store that is there and older: it is loaded here and not before.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(resources.files("bursar.store") / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as e:
        raise StoreError(f"the store was made by another version of bursar: {e}") from e


async def read_meta(database: Database, name: str) -> str | None:
    """One value of the store's own notes; None where there is none."""
    async with database.read() as c:
        return (await c.execute(text("select value from ledger_meta where name = :n"), {"n": name})).scalar()

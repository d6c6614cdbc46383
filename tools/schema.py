"""Writes what all migrations together make of a new store as plain SQL: `make schema`.

A new store is made of that, for Alembic alone takes a tenth of a start. The migrations are the truth: a test makes a
store both ways and compares.
"""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from bursar.store import schema

TARGET = Path(schema.__file__).with_name("schema.sql")
HEADER = "-- Written by `make schema`; do not edit.\n"


def dumped(path: Path) -> str:
    """A store's schema, and the rows it began with, statement by statement."""
    connection = sqlite3.connect(path)
    statements = [sql for (sql,) in connection.execute("select sql from sqlite_master where sql is not null")]
    for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
        columns = [column[1] for column in connection.execute(f"pragma table_info({table})")]
        quoted = " || ', ' || ".join(f'quote("{column}")' for column in columns)
        for (values,) in connection.execute(f"select {quoted} from {table}"):
            statements.append(f"insert into {table} values ({values})")
    connection.close()
    return "".join(f"{statement.strip()}{schema.STATEMENT_END}" for statement in statements)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new.db"
        schema.upgrade(path)
        TARGET.write_text(HEADER + dumped(path), encoding="utf-8")


if __name__ == "__main__":
    main()

"""API keys at rest: a key is stored as its HMAC, and a version tells every process when to read them again."""

from __future__ import annotations

import sqlite3

import msgspec

from bursar.store.engine import Database


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is stored. `digest` is the HMAC-SHA256 of the key, `hint` its last characters.

    `workspace` None (admins only) is every workspace; `user_id` is the user a key stands for.
    """

    id: str
    name: str
    digest: str
    hint: str
    role: str
    workspace: str | None
    user_id: str | None
    acts_for_users: bool
    created_at: str
    revoked_at: str | None = None


_COLUMNS = KeyRow.__struct_fields__


class KeyStore:
    """The table of keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def version(self) -> str:
        """Changes whenever a key does."""
        sql = "select value from ledger_meta where name = 'keys_version'"
        return await self._database.look(lambda c: str(c.execute(sql).fetchone()[0]))

    async def all(self) -> list[KeyRow]:
        """Every key, the newest last, revoked ones too; read in the store's thread, for there may be thousands."""
        query = f"select {', '.join(_COLUMNS)} from api_keys order by created_at, id"
        return await self._database.look(lambda connection: [_row(row) for row in connection.execute(query)])

    async def add(self, row: KeyRow) -> None:
        """Stores a new key."""

        def work(c: sqlite3.Connection) -> None:
            _insert(c, row)
            _changed(c)

        await self._database.change(work)

    async def revoke(self, key_id: str, now: str) -> bool:
        """Ends a key; False where there is no such key, or it had ended before."""

        def work(c: sqlite3.Connection) -> bool:
            done = c.execute("update api_keys set revoked_at = ? where id = ? and revoked_at is null", (now, key_id))
            _changed(c)
            return done.rowcount == 1

        return await self._database.change(work)

    async def put_named(self, row: KeyRow) -> bool:
        """Makes `row` the one live key of its id; False where it already is, and nothing was written."""

        def work(c: sqlite3.Connection) -> bool:
            who = (row.id, row.digest)
            if c.execute("select 1 from api_keys where id = ? and digest = ? and revoked_at is null", who).fetchone():
                return False
            c.execute("delete from api_keys where id = ? or digest = ?", who)
            _insert(c, row)
            _changed(c)
            return True

        return await self._database.change(work)

    async def has_admin(self) -> bool:
        """Whether anyone could administer this store."""
        sql = "select 1 from api_keys where role = 'admin' and revoked_at is null limit 1"
        return await self._database.look(lambda c: c.execute(sql).fetchone() is not None)


def _insert(c: sqlite3.Connection, row: KeyRow) -> None:
    c.execute(
        f"insert into api_keys ({', '.join(_COLUMNS)}) values ({', '.join(':' + n for n in _COLUMNS)})",
        {**msgspec.structs.asdict(row), "acts_for_users": int(row.acts_for_users)},
    )


def _changed(c: sqlite3.Connection) -> None:
    c.execute("update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'keys_version'")


def _row(row: object) -> KeyRow:
    values = dict(zip(_COLUMNS, row, strict=True))  # type: ignore[call-overload]
    values["acts_for_users"] = bool(values["acts_for_users"])
    return KeyRow(**values)

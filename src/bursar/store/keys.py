"""API keys at rest: a key is stored as its HMAC, and a version tells every process when to read them again."""

from __future__ import annotations

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

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
        async with self._database.write() as c:
            await _insert(c, row)
            await _changed(c)

    async def revoke(self, key_id: str, now: str) -> bool:
        """Ends a key; False where there is no such key, or it had ended before."""
        async with self._database.write() as c:
            done = await c.execute(
                text("update api_keys set revoked_at = :now where id = :id and revoked_at is null"),
                {"now": now, "id": key_id},
            )
            await _changed(c)
            return done.rowcount == 1

    async def put_named(self, row: KeyRow) -> bool:
        """Makes `row` the one live key of its id; False where it already is, and nothing was written."""
        async with self._database.write() as c:
            same = await c.execute(
                text("select 1 from api_keys where id = :id and digest = :digest and revoked_at is null"),
                {"id": row.id, "digest": row.digest},
            )
            if same.first() is not None:
                return False
            await c.execute(
                text("delete from api_keys where id = :id or digest = :digest"), {"id": row.id, "digest": row.digest}
            )
            await _insert(c, row)
            await _changed(c)
            return True

    async def has_admin(self) -> bool:
        """Whether anyone could administer this store."""
        async with self._database.read() as c:
            found = await c.execute(text("select 1 from api_keys where role = 'admin' and revoked_at is null limit 1"))
            return found.first() is not None


async def _insert(c: AsyncConnection, row: KeyRow) -> None:
    await c.execute(
        text(f"insert into api_keys ({', '.join(_COLUMNS)}) values ({', '.join(':' + n for n in _COLUMNS)})"),
        {**msgspec.structs.asdict(row), "acts_for_users": int(row.acts_for_users)},
    )


async def _changed(c: AsyncConnection) -> None:
    await c.execute(
        text("update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'keys_version'")
    )


def _row(row: object) -> KeyRow:
    values = dict(zip(_COLUMNS, row, strict=True))  # type: ignore[call-overload]
    values["acts_for_users"] = bool(values["acts_for_users"])
    return KeyRow(**values)

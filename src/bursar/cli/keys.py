"""`bursar keys`: create, list and revoke API keys in the store; running servers follow within a second."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
import msgspec

from bursar.cli import options, output
from bursar.cli.options import Format
from bursar.http.auth import ADMIN, KeyRing, key_row, new_key
from bursar.ledger.ledger import now_us
from bursar.ledger.rows import timestamp
from bursar.runtime import settings as config
from bursar.runtime.secrets import key_ring
from bursar.store.engine import Database
from bursar.store.keys import KeyStore
from bursar.store.schema import prepare
from bursar.types.errors import RequestError


@click.group(cls=options.Group)
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command()
@click.argument("name", help="What to call the key.")
@options.config
@click.option("--role", default="member", help="admin or member.")
@click.option("--workspace", help="Its workspace; an admin without one sees all.")
@click.option("--user", help="The user it stands for.")
@click.option("--acts-for-users/--no-acts-for-users", default=False, help="May name other users with x-bursar-user.")
@options.shown_as
def create(
    name: str,
    config_file: str | None,
    role: str,
    workspace: str | None,
    user: str | None,
    acts_for_users: bool,
    format: Format,
) -> None:
    """Make a key and show it, once."""
    row, key = asyncio.run(_create(config_file, name, role, workspace, user, acts_for_users))
    if format is Format.json:
        output.json_lines([{**row, "key": key}])
        return
    print(key)


async def _create(
    config_file: str | None, name: str, role: str, workspace: str | None, user: str | None, acts_for_users: bool
) -> tuple[dict[str, object], str]:
    async with _store(config_file) as (store, ring):
        key = new_key()
        row = key_row(
            ring,
            key,
            id=str(uuid.uuid4()),
            name=name,
            role=role,
            workspace=workspace,
            user=user,
            acts_for_users=acts_for_users,
            now=timestamp(now_us()),
        )
        await store.add(row)
        return _shown(msgspec.structs.asdict(row)), key


@keys.command("list")
@options.config
@options.shown_as
def list_keys(config_file: str | None, format: Format) -> None:
    """Show the keys, without the keys themselves."""
    rows = asyncio.run(_list(config_file))
    if format is Format.json:
        output.json_lines(rows)
        return
    columns = ("id", "name", "key", "role", "workspace", "user", "acts for users", "created (UTC)", "revoked (UTC)")
    output.table(
        columns,
        [
            (
                r["id"], r["name"], r["hint"], r["role"],
                r["workspace"] or ("all" if r["role"] == ADMIN else None), r["user_id"],
                "yes" if r["acts_for_users"] else "no", str(r["created_at"])[:19],
                str(r["revoked_at"])[:19] if r["revoked_at"] else None,
            )
            for r in rows
        ],
        empty="No keys yet: bursar keys create NAME.",
    )  # fmt: skip


async def _list(config_file: str | None) -> list[dict[str, object]]:
    async with _store(config_file) as (store, _):
        return [_shown(msgspec.structs.asdict(row)) for row in await store.all()]


@keys.command()
@click.argument("key_id", help="The key's id, as `bursar keys list` shows it.")
@options.config
def revoke(key_id: str, config_file: str | None) -> None:
    """End a key."""
    if not asyncio.run(_revoke(config_file, key_id)):
        raise RequestError(f"there is no live key '{key_id}'")
    print(f"revoked {key_id}")


async def _revoke(config_file: str | None, key_id: str) -> bool:
    async with _store(config_file) as (store, _):
        return await store.revoke(key_id, timestamp(now_us()))


@asynccontextmanager
async def _store(config_file: str | None) -> AsyncIterator[tuple[KeyStore, KeyRing]]:
    read = config.load(config_file, os.environ)
    database = Database(read.store.url)
    try:
        await prepare(database)
        yield KeyStore(database), key_ring(read)
    finally:
        await database.close()


def _shown(row: dict[str, object]) -> dict[str, object]:
    row.pop("digest")
    row["hint"] = f"…{row['hint']}"
    return row

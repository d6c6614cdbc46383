"""A registry as large as a large installation's: providers, API keys and prices, in the store."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from pathlib import Path
from typing import Any

import msgspec

from bursar.store.engine import Database
from bursar.store.keys import KeyRow
from bursar.store.registry import PriceRow, ProviderRow
from bursar.store.schema import prepare

PROVIDERS, KEYS, PRICES = 1_000, 10_000, 1_000
ONE = "p500"
"""The name of one of the providers."""
_WORKSPACES = 50
_NOW = "2026-01-01 00:00:00.000000"


def fill(database: Path, url: str) -> None:
    """Makes the store and fills it; all its providers are at this address."""
    asyncio.run(_made(f"sqlite:///{database}"))
    providers = [_provider(n, url) for n in range(PROVIDERS)]
    keys = [_key(n) for n in range(KEYS)]
    prices = [_price(n) for n in range(PRICES)]
    with sqlite3.connect(database) as connection:
        for table, rows in (("llm_providers", providers), ("api_keys", keys), ("llm_prices", prices)):
            names = list(rows[0])
            places = ", ".join("?" * len(names))
            insert = f"insert into {table} ({', '.join(names)}) values ({places})"
            connection.executemany(insert, [tuple(row.values()) for row in rows])


async def _made(url: str) -> None:
    database = Database(url)
    try:
        await prepare(database)
    finally:
        await database.close()


def _provider(n: int, url: str) -> dict[str, Any]:
    return _plain(
        ProviderRow(
            id=str(uuid.uuid4()), workspace=f"w{n % _WORKSPACES}", name=f"p{n}", provider_type="openai", base_url=url,
            available_models=["chat", "embed"], request_headers={"x-number": str(n)}, is_global=True, created_at=_NOW,
            updated_at=_NOW,
        )
    )  # fmt: skip


def _key(n: int) -> dict[str, Any]:
    return _plain(
        KeyRow(
            id=str(uuid.uuid4()), name=f"k{n}", digest=uuid.uuid4().hex * 2, hint="abcd", role="member",
            workspace=f"w{n % _WORKSPACES}", user_id=f"u{n}", acts_for_users=False, created_at=_NOW, revoked_at=None,
        )
    )  # fmt: skip


def _price(n: int) -> dict[str, Any]:
    return _plain(
        PriceRow(
            id=str(uuid.uuid4()), workspace=None, provider=f"p{n}", provider_type=None, model="chat", currency="USD",
            valid_from=None, rates={"input": "1", "output": "2"}, created_at=_NOW, updated_at=_NOW,
        )
    )  # fmt: skip


def _plain(row: msgspec.Struct) -> dict[str, Any]:
    """A row as the tables have it: objects as JSON, flags as numbers."""

    def stored(value: object) -> object:
        if isinstance(value, dict | list):
            return msgspec.json.encode(value).decode()
        return int(value) if isinstance(value, bool) else value

    return {name: stored(value) for name, value in msgspec.structs.asdict(row).items()}

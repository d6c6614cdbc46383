"""What the ledger's sums say of how many bytes a token has."""

from __future__ import annotations

from typing import NamedTuple

from bursar.store.engine import Database


class TokenRatios(NamedTuple):
    """What completed attempts of one model taught: how many, and their bytes and tokens."""

    observations: int
    request_bytes: int
    input_tokens: int
    output_bytes: int
    output_tokens: int


async def token_ratios(database: Database) -> dict[tuple[str, str], TokenRatios]:
    """For each (provider, model), the bytes and tokens of entries whose usage the provider reported."""
    sql = (
        "select provider, model, sum(completed), sum(request_bytes), sum(prompt_tokens), sum(output_bytes), "
        "sum(completion_tokens) from ledger_rollups where scope = 'all' and usage_source = 'provider' "
        "group by provider, model"
    )
    return await database.look(lambda c: {(row[0], row[1]): TokenRatios(*row[2:]) for row in c.execute(sql)})

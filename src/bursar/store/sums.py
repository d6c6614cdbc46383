"""The sums, written once: the drain adds them up from a batch, `verify` and a rebuild from all rows.

Every settled entry counts in three scopes: `all`, its `user`, its `session`; entries without one under the
empty name, so that a list by user adds up to the whole.
"""

from __future__ import annotations

SUMS = (
    "calls",
    "attempts",
    "completed",
    "failed",
    "cancelled",
    "interrupted",
    "without_usage",
    "estimated",
    "without_price",
    "without_rate",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_nanos",
    "cost_usd_nanos",
    "response_time_ms",
    "request_bytes",
    "output_bytes",
)
ROLLUP_KEYS = (
    "workspace",
    "hour",
    "scope",
    "scope_id",
    "provider",
    "model",
    "purpose",
    "function",
    "currency",
    "usage_source",
)
CORRECTED = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_nanos",
    "cost_usd_nanos",
)


def _count(condition: str) -> str:
    return f"sum(case when {condition} then 1 else 0 end)"


_SUM_SQL = {
    "calls": _count("e.attempt = 1"),
    "attempts": "count(*)",
    "completed": _count("e.status = 'completed'"),
    "failed": _count("e.status = 'failed'"),
    "cancelled": _count("e.status = 'cancelled'"),
    "interrupted": _count("e.status = 'interrupted'"),
    "without_usage": _count("e.usage_source = 'none'"),
    "estimated": _count("e.usage_source = 'estimated'"),
    "without_price": _count("e.usage_source <> 'none' and e.cost_nanos is null"),
    "without_rate": _count("e.cost_nanos is not null and e.cost_usd_nanos is null"),
}

_SCOPES = {
    "all": ("''", ""),
    "user": ("coalesce(e.user_id, '')", ""),
    "session": ("coalesce(e.session_id, '')", ""),
}

_KEYS = """e.workspace, e.hour, '{scope}', {scope_id}, e.provider, e.model,
    coalesce(e.purpose, ''), coalesce(e.function, ''), coalesce(e.cost_currency, ''), e.usage_source"""


def sum_of(name: str) -> str:
    """The SQL that sums one measure over rows of `ledger_entries e`."""
    return _SUM_SQL.get(name, f"coalesce(sum(e.{name}), 0)")


def rows_summed(scope: str, where: str) -> str:
    """A select of (rollup keys, sums) over the settled entries that `where` names."""
    scope_id, present = _SCOPES[scope]
    keys = _KEYS.format(scope=scope, scope_id=scope_id)
    sums = ", ".join(sum_of(name) for name in SUMS)
    groups = ", ".join(str(n + 1) for n in range(len(ROLLUP_KEYS)))
    settled = f"e.status <> 'started'{present}"
    return f"select {keys}, {sums} from ledger_entries e where {settled} and {where} group by {groups}"


def corrections_summed(scope: str, where: str) -> str:
    """The same for the corrections that `where` names, by the keys of the entries they correct."""
    scope_id, present = _SCOPES[scope]
    keys = _KEYS.format(scope=scope, scope_id=scope_id)
    sums = ", ".join(f"sum(c.{name})" if name in CORRECTED else "0" for name in SUMS)
    groups = ", ".join(str(n + 1) for n in range(len(ROLLUP_KEYS)))
    return (
        f"select {keys}, {sums} from ledger_corrections c join ledger_entries e "
        f"on e.call_id = c.call_id and e.attempt = c.attempt where {where}{present} group by {groups}"
    )


GATHERED_BY = (
    "workspace", "hour", "user_id", "session_id", "provider", "model", "purpose", "function", "cost_currency",
    "usage_source",
)  # fmt: skip
"""The columns of entries that say which sums they count in."""
_MAY_BE_NULL = {"user_id", "session_id", "purpose", "function", "cost_currency"}
_GATHER_KEYS = {
    "currency" if name == "cost_currency" else name: f"coalesce(e.{name}, '')" if name in _MAY_BE_NULL else f"e.{name}"
    for name in GATHERED_BY
}
_GATHER_GROUPS = ", ".join(str(n + 1) for n in range(len(_GATHER_KEYS)))

GATHERED = f"temp.ledger_gathered ({', '.join((*_GATHER_KEYS, *SUMS))})"
"""A table of a connection's own, for the sums of one batch before they are told apart by scope."""
GATHER_ALIKE = (
    f"insert into temp.ledger_gathered select {', '.join(_GATHER_KEYS.values())}, "
    f"{', '.join(sum_of(name) for name in SUMS)} from ledger_entries e "
    "where e.status <> 'started' and e.seq >= ? and e.seq < ?"
)
"""Fills it from the rows whose `seq` is in a range, of which one at least is settled, and which all count in the same
sums: each row is looked at once, whatever the scopes are."""
GATHER = f"{GATHER_ALIKE} group by {_GATHER_GROUPS}"
"""The same for any rows: SQLite sorts them first, which takes as long again."""


def gathered_summed() -> list[str]:
    """The statements that add what was gathered to each scope."""
    sums = ", ".join(f"sum(g.{name})" for name in SUMS)
    statements = []
    for scope, scope_id in (("all", "''"), ("user", "g.user_id"), ("session", "g.session_id")):
        keys = f"g.workspace, g.hour, '{scope}', {scope_id}, g.provider, g.model, g.purpose, g.function, g.currency"
        groups = ", ".join(str(n + 1) for n in range(len(ROLLUP_KEYS)))
        select = f"select {keys}, g.usage_source, {sums} from temp.ledger_gathered g where true group by {groups}"
        statements.append(add_up(select))
    return statements


def add_up(select: str) -> str:
    """The statement that adds a select of sums to the rollups."""
    columns = ", ".join((*ROLLUP_KEYS, *SUMS))
    added = ", ".join(f"{name} = ledger_rollups.{name} + excluded.{name}" for name in SUMS)
    beyond = f"on conflict ({', '.join(ROLLUP_KEYS)}) do update set {added}"
    return f"insert or rollback into ledger_rollups ({columns}) {select} {beyond}"


SCOPES = tuple(_SCOPES)

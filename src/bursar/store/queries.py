"""Reading the ledger: lists page by page, one call whole, sums by group. Every question is asked in a scope."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from decimal import Decimal

from sqlalchemy import text

from bursar.store.engine import Database
from bursar.store.scope import Scope
from bursar.store.sums import ROLLUP_KEYS, SUMS, rows_summed
from bursar.types.errors import RequestError
from bursar.wire.usage import details_of

LIST_COLUMNS = (
    "call_id", "attempt", "is_final", "seq", "created_at", "started_at", "completed_at", "workspace", "user_id",
    "session_id", "turn", "request_id", "edge_function", "purpose", "tags", "key_id", "provider", "provider_type",
    "provider_url", "requested_model", "model", "served_model", "reason", "method_type", "status",
    "http_status_code", "error_kind", "error_code", "error_message", "finish_reason", "provider_response_id",
    "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cache_write_tokens",
    "reasoning_tokens", "provider_total_tokens", "audio_ms", "images", "search_units", "usage_source",
    "usage_mismatch",
    "cost_nanos", "cost_currency", "cost_usd_nanos",
    "usd_rate", "cost_source", "price_id", "response_time_ms", "time_to_first_token_ms", "idempotency_key",
    "client_retries", "dropped",
)  # fmt: skip
BODY_COLUMNS = ("input_messages", "input_params", "output_response", "completion_text", "raw_usage")

FILTERS = {
    "model": "(l.model = :model or l.requested_model = :model or l.served_model = :model)",
    "provider": "l.provider = :provider",
    "status": "l.status = :status",
    "method": "l.method_type = :method",
    "function": "l.edge_function = :function",
    "user": "l.user_id = :user",
    "session": "l.session_id = :session",
    "purpose": "l.purpose = :purpose",
    "request_id": "l.request_id = :request_id",
    "call_id": "l.call_id = :call_id",
    "since": "l.created_at >= :since",
    "until": "l.created_at < :until",
    "final": "l.is_final = :final",
}

_HOUR = "strftime('%Y-%m-%d %H:00', {} * 3600, 'unixepoch')"

GROUPS = {
    "model": "r.model",
    "provider": "r.provider",
    "purpose": "r.purpose",
    "function": "r.function",
    "user": "r.scope_id",
    "session": "r.scope_id",
    "hour": _HOUR.format("r.hour"),
    "day": "strftime('%Y-%m-%d', r.hour * 3600, 'unixepoch')",
    "month": "strftime('%Y-%m', r.hour * 3600, 'unixepoch')",
}
_SHOWN_SUMS = tuple(s for s in SUMS if s not in ("cost_nanos", "cost_usd_nanos", "request_bytes", "output_bytes"))


class Queries:
    """Questions to the ledger; each is one short transaction."""

    def __init__(self, database: Database) -> None:
        self._reader = database.reader

    async def calls(
        self, scope: Scope, filters: Mapping[str, object], *, limit: int, cursor: str | None = None
    ) -> tuple[list[dict[str, object]], str | None]:
        """A page of entries, newest first, and the cursor of the next (None at the end).

        Raises RequestError that names a filter that does not exist, or a cursor that is none.
        """
        conditions, values = self._conditions(scope, filters)
        if cursor is not None:
            values.update(zip(("c_at", "c_id", "c_n"), _read_cursor(cursor), strict=True))
            conditions.append("(l.created_at, l.call_id, l.attempt) < (:c_at, :c_id, :c_n)")
        rows = await self._entries(
            conditions, values, "order by l.created_at desc, l.call_id desc, l.attempt desc", limit + 1
        )
        more = len(rows) > limit
        rows = rows[:limit]
        last = rows[-1] if rows else None
        following = _cursor(last["created_at"], last["call_id"], last["attempt"]) if more and last else None
        return rows, following

    async def after(
        self, scope: Scope, filters: Mapping[str, object], *, seq: int, limit: int
    ) -> list[dict[str, object]]:
        """Entries settled after `seq`, in the order they came into the store."""
        conditions, values = self._conditions(scope, filters)
        conditions += ["l.seq > :after", "l.status <> 'started'"]
        return await self._entries(conditions, {**values, "after": seq}, "order by l.seq", limit)

    async def without_price(
        self, scope: Scope, since_hour: int = 0
    ) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
        """What was used since an hour (since 1970) and has no cost, by provider and model, and what has one in a
        currency without a rate into dollars (`without_rate` of its attempts have none); each with its attempts, tokens
        and when: the most used first. Looked up in the sums."""
        where, values = (
            "r.hour >= :since and (:ws is null or r.workspace = :ws)",
            {"since": since_hour, "ws": scope.workspace},
        )
        sums = (
            "sum(r.attempts) as attempts, sum(r.without_rate) as without_rate, sum(r.prompt_tokens) as prompt_tokens, "
            "sum(r.completion_tokens) as completion_tokens, sum(r.total_tokens) as total_tokens, "
            f"{_HOUR.format('min(r.hour)')} as first_hour, {_HOUR.format('max(r.hour)')} as last_hour "
            f"from ledger_rollups r where r.scope = 'all' and {where}"
        )
        models = (
            f"select r.provider, r.model, {sums} and r.without_price > 0 group by r.provider, r.model "
            "order by attempts desc, r.provider, r.model"
        )
        currencies = (
            f"select r.currency, sum(r.cost_nanos) as cost, {sums} and r.without_rate > 0 "
            "group by r.currency order by without_rate desc"
        )
        async with self._reader.read() as c:
            priceless = [dict(row._mapping) for row in await c.execute(text(models), values)]
            for row in priceless:
                del row["without_rate"]
            rateless = [dict(row._mapping) for row in await c.execute(text(currencies), values)]
        return priceless, [{**row, "cost": money(row["cost"])} for row in rateless]

    async def last_seq(self) -> int:
        async with self._reader.read() as c:
            return int((await c.execute(text("select value from ledger_meta where name = 'seq'"))).scalar_one())

    async def call(self, scope: Scope, call_id: str) -> list[dict[str, object]]:
        """All attempts of a call with their bodies, first to last; empty where there is none in this scope."""
        conditions, values = self._conditions(scope, {"call_id": call_id})
        rows = await self._entries(conditions, values, "order by l.attempt", 1000, bodies=True)
        for row in rows:
            for name in ("input_messages", "input_params", "output_response", "raw_usage"):
                row[name] = _json_or_text(row[name])
            row["usage_details"] = details_of(str(row["provider_type"]), row["raw_usage"]) or None
        return rows

    async def usage(self, scope: Scope, filters: Mapping[str, object], groups: list[str]) -> list[dict[str, object]]:
        """Sums by the named groups and currency. Raises RequestError that names a group that does not exist.

        Read from the sums, not from the entries, so a year answers as fast as a day.
        """
        for group in groups:
            if group not in GROUPS:
                raise RequestError(f"'{group}' is no group; groups are {', '.join(GROUPS)}", field="group_by")
        if "user" in groups and "session" in groups:
            raise RequestError("group by user or by session, not by both", field="group_by")
        source, conditions, values = _sums_source(scope, filters, groups)
        columns = [f'{GROUPS[g]} as "{g}"' for g in groups]
        keys = ", ".join([*(str(n + 1) for n in range(len(groups))), "r.currency"])
        sql = (
            f"{source}select {', '.join([*columns, 'r.currency', *(f'sum(r.{s}) as {s}' for s in SUMS)])} "
            f"from {'r' if source else 'ledger_rollups r'} where {' and '.join(conditions)} "
            f"group by {keys} order by {keys}"
        )
        async with self._reader.read() as c:
            rows = (await c.execute(text(sql), values)).mappings().all()
        return _merged([dict(row) for row in rows], groups)

    def _conditions(self, scope: Scope, filters: Mapping[str, object]) -> tuple[list[str], dict[str, object]]:
        conditions, values = scope.where()
        for name, value in filters.items():
            if name not in FILTERS:
                raise RequestError(f"'{name}' is no filter; filters are {', '.join(FILTERS)}", field=name)
            if value is not None:
                conditions.append(FILTERS[name])
                values[name] = value
        return conditions, values

    async def _entries(
        self, conditions: list[str], values: dict[str, object], order: str, limit: int, *, bodies: bool = False
    ) -> list[dict[str, object]]:
        columns = (*LIST_COLUMNS, *BODY_COLUMNS) if bodies else LIST_COLUMNS
        where = f"where {' and '.join(conditions)} " if conditions else ""
        sql = f"select {', '.join('l.' + c for c in columns)} from llm_call_logs l {where}{order} limit :limit"
        async with self._reader.read() as c:
            rows = (await c.execute(text(sql), {**values, "limit": limit})).mappings().all()
        return [_entry_shown(dict(row)) for row in rows]


def _sums_source(
    scope: Scope, filters: Mapping[str, object], groups: list[str]
) -> tuple[str, list[str], dict[str, object]]:
    """Which sums to add: everyone's, those of users or of sessions; for the sessions of one user, which are
    not kept apart, those of that user's entries (a `with` clause that names them `r`)."""
    user = scope.user if scope.user is not None else filters.get("user")
    if filters.get("session") is not None and "user" in groups:
        raise RequestError("sums of a session are not kept by user: group by something else", field="group_by")
    by_session = "session" in groups or filters.get("session") is not None
    values: dict[str, object] = {}
    source = ""
    if by_session:
        kept = "session"
        if user is not None:
            columns = ", ".join((*ROLLUP_KEYS, *SUMS))
            source = f"with r({columns}) as ({rows_summed('session', 'e.user_id = :of_user')}) "
            values["of_user"] = user
    else:
        kept = "user" if user is not None or "user" in groups else "all"
    if scope.key is not None:
        columns = ", ".join((*ROLLUP_KEYS, *SUMS))
        source = f"with r({columns}) as ({rows_summed(kept, 'e.key_id = :of_key')}) "
        values["of_key"] = scope.key
    conditions = ["r.scope = :kept"]
    values["kept"] = kept
    equal = {
        "workspace": scope.workspace,
        "model": filters.get("model"),
        "provider": filters.get("provider"),
        "purpose": filters.get("purpose"),
        "function": filters.get("function"),
        "scope_id": filters.get("session") if by_session else user,
    }
    for column, value in equal.items():
        if value is not None:
            conditions.append(f"r.{column} = :{column}")
            values[column] = value
    for name, comparison in (("since", ">="), ("until", "<")):
        if filters.get(name) is not None:
            conditions.append(f"r.hour {comparison} cast(strftime('%s', :{name}) as integer) / 3600")
            values[name] = filters[name]
    return source, conditions, values


def _merged(rows: list[dict[str, object]], groups: list[str]) -> list[dict[str, object]]:
    """One line a group: counts added over its currencies, money kept apart by currency."""
    lines: dict[tuple[object, ...], dict[str, object]] = {}
    for row in rows:
        line = lines.setdefault(
            tuple(row[g] for g in groups),
            {
                **{g: row[g] if row[g] != "" else None for g in groups},
                **dict.fromkeys(_SHOWN_SUMS, 0),
                "cost_usd": None,
                "costs": {},
            },
        )
        for name in _SHOWN_SUMS:
            line[name] += row[name]  # type: ignore[operator]
        if row["currency"]:
            line["costs"][row["currency"]] = money(row["cost_nanos"])  # type: ignore[index]
        if row["currency"] == "USD" or row["cost_usd_nanos"]:
            line["cost_usd"] = (line["cost_usd"] or Decimal(0)) + (money(row["cost_usd_nanos"]) or 0)  # type: ignore[operator]
    return list(lines.values())


def _entry_shown(row: dict[str, object]) -> dict[str, object]:
    row["is_final"] = bool(row["is_final"])
    if row["usage_mismatch"] is not None:
        row["usage_mismatch"] = bool(row["usage_mismatch"])
    row["tags"] = json.loads(str(row["tags"])) if row["tags"] else {}
    row["cost"] = money(row.pop("cost_nanos"))
    row["cost_usd"] = money(row.pop("cost_usd_nanos"))
    return row


def money(nanos: object) -> Decimal | None:
    """An amount in 10⁻⁹ as an exact decimal."""
    return None if nanos is None else Decimal(str(nanos)).scaleb(-9)


def _json_or_text(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _cursor(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[str, str, int]:
    try:
        at, call_id, attempt = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return str(at), str(call_id), min(max(int(attempt), 0), 2**31)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise RequestError("'cursor' is not one that a page of calls gave", field="cursor") from None

"""The tables. The migrations make the same; a test compares the two.

Times are UTC text, `YYYY-MM-DD HH:MM:SS.ffffff`, which sorts as time does; `hour` is hours since 1970.
Money is an integer in 10⁻⁹ of its currency. In the keys of sums an empty text stands for "none".
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

from bursar.store.sums import CORRECTED, ROLLUP_KEYS, SUMS

metadata = MetaData()

ledger_meta = Table(
    "ledger_meta",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
)


def _one_of(column: str, *values: str) -> str:
    """A check without a list: SQLite makes a table of one for each row it checks."""
    return " or ".join(f"{column} = '{value}'" for value in values)


# Far beyond any answer, and far enough from 64 bits that no hour of them can overflow a sum. Null passes a check.
_PLAUSIBLE = " and ".join(
    [
        *(
            f"{name} between 0 and 1000000000000"
            for name in ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cache_write_tokens",
                         "reasoning_tokens", "response_time_ms")
        ),
        *(f"{name} between 0 and 10000000000000000" for name in ("cost_nanos", "cost_usd_nanos")),
    ]
)  # fmt: skip

ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("call_id", String, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("spool_id", String, nullable=False),
    Column("created_at", String, nullable=False),
    Column("completed_at", String),
    Column("hour", Integer, nullable=False),
    Column("workspace", String, nullable=False),
    Column("user_id", String),
    Column("session_id", String),
    Column("turn", String),
    Column("request_id", String),
    Column("function", String),
    Column("purpose", String),
    Column("tags", Text),
    Column("key_id", String),
    Column("provider", String, nullable=False),
    Column("provider_type", String, nullable=False),
    Column("provider_url", String, nullable=False),
    Column("requested_model", String, nullable=False),
    Column("model", String, nullable=False),
    Column("served_model", String),
    Column("reason", String, nullable=False),
    Column("method_type", String, nullable=False),
    Column("status", String, nullable=False),
    Column("http_status", Integer),
    Column("error_kind", String),
    Column("error_code", String),
    Column("error_message", Text),
    Column("finish_reason", String),
    Column("provider_response_id", String),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("total_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("cache_write_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("provider_total_tokens", BigInteger),
    Column("audio_ms", BigInteger),
    Column("images", BigInteger),
    Column("search_units", BigInteger),
    Column("usage_source", String, nullable=False),
    Column("raw_usage", Text),
    Column("cost_nanos", BigInteger),
    Column("cost_currency", String),
    Column("cost_usd_nanos", BigInteger),
    Column("cost_source", String),
    Column("price_id", String),
    Column("response_time_ms", BigInteger),
    Column("time_to_first_token_ms", BigInteger),
    Column("idempotency_key", String),
    Column("client_retries", Integer),
    Column("dropped", Text),
    Column("request_bytes", BigInteger, nullable=False),
    Column("output_bytes", BigInteger, nullable=False),
    Column("input_refs", LargeBinary),
    Column("params_ref", LargeBinary),
    Column("text_at", String),
    Column("usd_rate", String),
    # Texts stand last: what looks at the columns before them reads none of a long one's pages.
    Column("asked_crc", BigInteger),
    Column("answered_crc", BigInteger),
    Column("messages", Text),
    Column("params", Text),
    Column("output", Text),
    Column("text", Text),
    CheckConstraint(
        _one_of("status", "started", "completed", "failed", "cancelled", "interrupted"), name="ledger_entries_status"
    ),
    CheckConstraint(
        _one_of("usage_source", "provider", "provider_partial", "estimated", "none"), name="ledger_entries_usage_source"
    ),
    CheckConstraint(_PLAUSIBLE, name="ledger_entries_plausible"),
    Index("ledger_entries_seq", "seq", unique=True),
    Index("ledger_entries_created", "workspace", "created_at", "call_id"),
    Index("ledger_entries_user", "workspace", "user_id", "created_at", sqlite_where=text("user_id is not null")),
    Index(
        "ledger_entries_session", "workspace", "session_id", "created_at", sqlite_where=text("session_id is not null")
    ),
    Index("ledger_entries_hour", "hour"),
    Index("ledger_entries_spool", "spool_id", "status"),
)

ledger_bodies = Table(
    "ledger_bodies",
    metadata,
    Column("name", LargeBinary, primary_key=True),
    Column("workspace", String, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", String, nullable=False),
)

ledger_spools = Table(
    "ledger_spools",
    metadata,
    Column("spool_id", String, primary_key=True),
    Column("offset", BigInteger, nullable=False),
    Column("records", BigInteger, nullable=False),
    Column("entries", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("size", BigInteger),
    Column("created_at", String, nullable=False),
    CheckConstraint("state in ('open', 'closed')", name="ledger_spools_state"),
)

ledger_rejects = Table(
    "ledger_rejects",
    metadata,
    Column("spool_id", String, primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("reason", String, nullable=False),
    Column("detail", Text),
    Column("raw", LargeBinary, nullable=False),
    Column("created_at", String, nullable=False),
)

ledger_gaps = Table(
    "ledger_gaps",
    metadata,
    Column("spool_id", String, primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("first_at", String, nullable=False),
    Column("last_at", String, nullable=False),
)

_LATER = {"without_rate": text("0")}

ledger_rollups = Table(
    "ledger_rollups",
    metadata,
    *(Column(name, Integer if name == "hour" else String, primary_key=True) for name in ROLLUP_KEYS),
    # A column that came later has a default, for rows that were there.
    *(Column(name, BigInteger, nullable=False, server_default=_LATER.get(name)) for name in SUMS),
    Index("ledger_rollups_hour", "hour"),
    Index("ledger_rollups_scope", "workspace", "scope", "scope_id", "hour"),
)

ledger_corrections = Table(
    "ledger_corrections",
    metadata,
    Column("spool_id", String, primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("call_id", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", String, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in CORRECTED),
    Index("ledger_corrections_call", "call_id", "attempt"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("digest", String, nullable=False, unique=True),
    Column("hint", String, nullable=False),
    Column("role", String, nullable=False),
    Column("workspace", String),
    Column("user_id", String),
    Column("acts_for_users", Integer, nullable=False),
    Column("created_at", String, nullable=False),
    Column("revoked_at", String),
    CheckConstraint("role in ('admin', 'member')", name="api_keys_role"),
)

_DATED = ("created_at", "updated_at")

llm_providers = Table(
    "llm_providers",
    metadata,
    Column("id", String, primary_key=True),
    Column("workspace", String, nullable=False),
    Column("name", String, nullable=False),
    Column("provider_type", String, nullable=False),
    Column("base_url", String),
    Column("completion_url", String),
    Column("embedding_url", String),
    Column("token_url", String),
    Column("authorization_key", Text),
    Column("scope", String),
    Column("model", String),
    Column("available_models", Text),
    Column("request_headers", Text),
    Column("request_config", Text),
    Column("response_config", Text),
    Column("auth_config", Text),
    Column("settings", Text),
    Column("is_active", Integer, nullable=False),
    Column("is_global", Integer, nullable=False),
    Column("allow_self_signed_certificate", Integer, nullable=False),
    Column("ca_bundle", Text),
    Column("secret_values", Text),
    Column("is_guarded", Integer, nullable=False),
    *(Column(name, String, nullable=False) for name in _DATED),
    Index("llm_providers_name", "workspace", "name", unique=True),
    Index("llm_providers_global", "name", unique=True, sqlite_where=text("is_global = 1")),
)

llm_routes = Table(
    "llm_routes",
    metadata,
    Column("id", String, primary_key=True),
    Column("workspace", String, nullable=False),
    Column("name", String, nullable=False),
    Column("targets", Text, nullable=False),
    Column("is_global", Integer, nullable=False),
    *(Column(name, String, nullable=False) for name in _DATED),
    Index("llm_routes_name", "workspace", "name", unique=True),
    Index("llm_routes_global", "name", unique=True, sqlite_where=text("is_global = 1")),
)

llm_bindings = Table(
    "llm_bindings",
    metadata,
    Column("id", String, primary_key=True),
    Column("workspace", String),
    Column("scope", String, nullable=False),
    Column("reference", String, nullable=False),
    Column("provider", String, nullable=False),
    Column("model", String),
    Column("system_prompt", Text),
    Column("temperature", Float),
    Column("top_p", Float),
    Column("max_tokens", Integer),
    *(Column(name, String, nullable=False) for name in _DATED),
    CheckConstraint("scope in ('action', 'skill', 'workspace', 'default')", name="llm_bindings_scope"),
    Index("llm_bindings_of", "scope", "reference", text("coalesce(workspace, '')"), unique=True),
)

llm_prices = Table(
    "llm_prices",
    metadata,
    Column("id", String, primary_key=True),
    Column("workspace", String),
    Column("provider", String),
    Column("provider_type", String),
    Column("model", String, nullable=False),
    Column("currency", String, nullable=False),
    Column("valid_from", String),
    Column("rates", Text, nullable=False),
    Column("note", Text),
    Column("is_active", Integer, nullable=False),
    *(Column(name, String, nullable=False) for name in _DATED),
)

currency_rates = Table(
    "currency_rates",
    metadata,
    Column("id", String, primary_key=True),
    Column("currency", String, nullable=False),
    Column("usd", String, nullable=False),
    Column("valid_from", String),
    Column("note", Text),
    Column("is_active", Integer, nullable=False),
    *(Column(name, String, nullable=False) for name in _DATED),
)

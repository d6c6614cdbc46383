"""The ledger, its sums, the API keys, and the views over them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from bursar.store.views import LLM_CALL_LOGS, LLM_CALLS

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("hint", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("workspace", sa.String(), nullable=True),
        sa.Column("user_id", sa.String(), nullable=True),
        sa.Column("acts_for_users", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("revoked_at", sa.String(), nullable=True),
        sa.CheckConstraint("role in ('admin', 'member')", name="api_keys_role"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_table(
        "ledger_bodies",
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("workspace", sa.String(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "ledger_corrections",
        sa.Column("spool_id", sa.String(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd_nanos", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("spool_id", "start"),
    )
    op.create_index("ledger_corrections_call", "ledger_corrections", ["call_id", "attempt"], unique=False)
    op.create_table(
        "ledger_entries",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("spool_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("completed_at", sa.String(), nullable=True),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("workspace", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=True),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.Column("turn", sa.String(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("function", sa.String(), nullable=True),
        sa.Column("purpose", sa.String(), nullable=True),
        sa.Column("tags", sa.Text(), nullable=True),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("provider_type", sa.String(), nullable=False),
        sa.Column("provider_url", sa.String(), nullable=False),
        sa.Column("requested_model", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("served_model", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("method_type", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("error_kind", sa.String(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("finish_reason", sa.String(), nullable=True),
        sa.Column("provider_response_id", sa.String(), nullable=True),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=True),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=True),
        sa.Column("total_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("provider_total_tokens", sa.BigInteger(), nullable=True),
        sa.Column("audio_ms", sa.BigInteger(), nullable=True),
        sa.Column("images", sa.BigInteger(), nullable=True),
        sa.Column("search_units", sa.BigInteger(), nullable=True),
        sa.Column("usage_source", sa.String(), nullable=False),
        sa.Column("raw_usage", sa.Text(), nullable=True),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=True),
        sa.Column("cost_currency", sa.String(), nullable=True),
        sa.Column("cost_usd_nanos", sa.BigInteger(), nullable=True),
        sa.Column("cost_source", sa.String(), nullable=True),
        sa.Column("price_id", sa.String(), nullable=True),
        sa.Column("response_time_ms", sa.BigInteger(), nullable=True),
        sa.Column("time_to_first_token_ms", sa.BigInteger(), nullable=True),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("client_retries", sa.Integer(), nullable=True),
        sa.Column("dropped", sa.Text(), nullable=True),
        sa.Column("request_bytes", sa.BigInteger(), nullable=False),
        sa.Column("output_bytes", sa.BigInteger(), nullable=False),
        sa.Column("input_refs", sa.LargeBinary(), nullable=True),
        sa.Column("params_ref", sa.LargeBinary(), nullable=True),
        sa.Column("output_ref", sa.LargeBinary(), nullable=True),
        sa.Column("text_ref", sa.LargeBinary(), nullable=True),
        sa.Column("text_at", sa.String(), nullable=True),
        sa.CheckConstraint(
            "status in ('started', 'completed', 'failed', 'cancelled', 'interrupted')", name="ledger_entries_status"
        ),
        sa.CheckConstraint(
            "usage_source in ('provider', 'provider_partial', 'estimated', 'none')", name="ledger_entries_usage_source"
        ),
        sa.CheckConstraint(
            "coalesce(prompt_tokens, 0) between 0 and 1000000000000 and "
            "coalesce(completion_tokens, 0) between 0 and 1000000000000 and "
            "coalesce(total_tokens, 0) between 0 and 1000000000000 and "
            "coalesce(cached_tokens, 0) between 0 and 1000000000000 and "
            "coalesce(cache_write_tokens, 0) between 0 and 1000000000000 and "
            "coalesce(reasoning_tokens, 0) between 0 and 1000000000000 and "
            "coalesce(response_time_ms, 0) between 0 and 1000000000000 and "
            "coalesce(cost_nanos, 0) between 0 and 10000000000000000 and "
            "coalesce(cost_usd_nanos, 0) between 0 and 10000000000000000",
            name="ledger_entries_plausible",
        ),
        sa.PrimaryKeyConstraint("call_id", "attempt"),
    )
    op.create_index("ledger_entries_created", "ledger_entries", ["workspace", "created_at", "call_id"], unique=False)
    op.create_index("ledger_entries_hour", "ledger_entries", ["hour"], unique=False)
    op.create_index("ledger_entries_seq", "ledger_entries", ["seq"], unique=True)
    op.create_index(
        "ledger_entries_session",
        "ledger_entries",
        ["workspace", "session_id", "created_at"],
        unique=False,
        sqlite_where=sa.text("session_id is not null"),
    )
    op.create_index("ledger_entries_spool", "ledger_entries", ["spool_id", "status"], unique=False)
    op.create_index(
        "ledger_entries_user",
        "ledger_entries",
        ["workspace", "user_id", "created_at"],
        unique=False,
        sqlite_where=sa.text("user_id is not null"),
    )
    op.create_table(
        "ledger_gaps",
        sa.Column("spool_id", sa.String(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("first_at", sa.String(), nullable=False),
        sa.Column("last_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("spool_id", "start"),
    )
    op.create_table(
        "ledger_meta",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "ledger_rejects",
        sa.Column("spool_id", sa.String(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("spool_id", "start"),
    )
    op.create_table(
        "ledger_rollups",
        sa.Column("workspace", sa.String(), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("scope_id", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("function", sa.String(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("usage_source", sa.String(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("completed", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("cancelled", sa.BigInteger(), nullable=False),
        sa.Column("interrupted", sa.BigInteger(), nullable=False),
        sa.Column("without_usage", sa.BigInteger(), nullable=False),
        sa.Column("estimated", sa.BigInteger(), nullable=False),
        sa.Column("without_price", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd_nanos", sa.BigInteger(), nullable=False),
        sa.Column("response_time_ms", sa.BigInteger(), nullable=False),
        sa.Column("request_bytes", sa.BigInteger(), nullable=False),
        sa.Column("output_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
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
        ),
    )
    op.create_index("ledger_rollups_hour", "ledger_rollups", ["hour"], unique=False)
    op.create_index("ledger_rollups_scope", "ledger_rollups", ["workspace", "scope", "scope_id", "hour"], unique=False)
    op.create_table(
        "ledger_spools",
        sa.Column("spool_id", sa.String(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("entries", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.CheckConstraint("state in ('open', 'closed')", name="ledger_spools_state"),
        sa.PrimaryKeyConstraint("spool_id"),
    )
    op.execute(LLM_CALL_LOGS)
    op.execute(LLM_CALLS)
    op.execute("insert into ledger_meta (name, value) values ('seq', '0'), ('keys_version', '0')")

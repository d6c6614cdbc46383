"""Prices and currency rates of this installation's own, and the rate an entry's cost in dollars was told by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from bursar.store.views import LLM_CALL_LOGS, moves_version

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "llm_prices",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("workspace", sa.String(), nullable=True),
        sa.Column("provider", sa.String(), nullable=True),
        sa.Column("provider_type", sa.String(), nullable=True),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("valid_from", sa.String(), nullable=True),
        sa.Column("rates", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("is_active", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("updated_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "currency_rates",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("usd", sa.String(), nullable=False),
        sa.Column("valid_from", sa.String(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("is_active", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("updated_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    for table in ("llm_prices", "currency_rates"):
        for statement in moves_version(table):
            op.execute(sa.text(statement.replace(":", "\\:")))
    op.add_column("ledger_entries", sa.Column("usd_rate", sa.String(), nullable=True))
    added = sa.Column("without_rate", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
    op.add_column("ledger_rollups", added)
    # There were no rates before: whatever was charged in another currency had none.
    op.execute("update ledger_rollups set without_rate = attempts where currency not in ('', 'USD')")
    op.execute("drop view llm_call_logs")
    op.execute(sa.text(LLM_CALL_LOGS.replace(":", "\\:")))

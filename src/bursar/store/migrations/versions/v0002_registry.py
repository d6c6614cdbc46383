"""Providers, routes and bindings, and what tells that they changed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from bursar.store.views import UNICA_CHAT_CONFIG, moves_version

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "llm_providers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("workspace", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("provider_type", sa.String(), nullable=False),
        sa.Column("base_url", sa.String(), nullable=True),
        sa.Column("completion_url", sa.String(), nullable=True),
        sa.Column("embedding_url", sa.String(), nullable=True),
        sa.Column("token_url", sa.String(), nullable=True),
        sa.Column("authorization_key", sa.Text(), nullable=True),
        sa.Column("scope", sa.String(), nullable=True),
        sa.Column("model", sa.String(), nullable=True),
        sa.Column("available_models", sa.Text(), nullable=True),
        sa.Column("request_headers", sa.Text(), nullable=True),
        sa.Column("request_config", sa.Text(), nullable=True),
        sa.Column("response_config", sa.Text(), nullable=True),
        sa.Column("auth_config", sa.Text(), nullable=True),
        sa.Column("settings", sa.Text(), nullable=True),
        sa.Column("is_active", sa.Integer(), nullable=False),
        sa.Column("is_global", sa.Integer(), nullable=False),
        sa.Column("allow_self_signed_certificate", sa.Integer(), nullable=False),
        sa.Column("ca_bundle", sa.Text(), nullable=True),
        sa.Column("secret_values", sa.Text(), nullable=True),
        sa.Column("is_guarded", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("updated_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("llm_providers_name", "llm_providers", ["workspace", "name"], unique=True)
    op.create_index(
        "llm_providers_global", "llm_providers", ["name"], unique=True, sqlite_where=sa.text("is_global = 1")
    )
    op.create_table(
        "llm_routes",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("workspace", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("targets", sa.Text(), nullable=False),
        sa.Column("is_global", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("updated_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("llm_routes_name", "llm_routes", ["workspace", "name"], unique=True)
    op.create_index("llm_routes_global", "llm_routes", ["name"], unique=True, sqlite_where=sa.text("is_global = 1"))
    op.create_table(
        "llm_bindings",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("workspace", sa.String(), nullable=True),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=True),
        sa.Column("system_prompt", sa.Text(), nullable=True),
        sa.Column("temperature", sa.Float(), nullable=True),
        sa.Column("top_p", sa.Float(), nullable=True),
        sa.Column("max_tokens", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("updated_at", sa.String(), nullable=False),
        sa.CheckConstraint("scope in ('action', 'skill', 'workspace', 'default')", name="llm_bindings_scope"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "llm_bindings_of",
        "llm_bindings",
        ["scope", "reference", sa.text("coalesce(workspace, '')")],
        unique=True,
    )
    op.execute("insert into ledger_meta (name, value) values ('registry_version', '0')")
    for table in ("llm_providers", "llm_routes", "llm_bindings"):
        for statement in moves_version(table):
            op.execute(sa.text(statement.replace(":", "\\:")))
    for statement in UNICA_CHAT_CONFIG:
        op.execute(sa.text(statement.replace(":", "\\:")))

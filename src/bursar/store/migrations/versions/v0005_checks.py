"""The checks of entries say the same in less: SQLite makes a table of a list's values for each row it checks, and a
check that comes out as null is passed."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_LISTS = {
    "status": ("started", "completed", "failed", "cancelled", "interrupted"),
    "usage_source": ("provider", "provider_partial", "estimated", "none"),
}
_NUMBERS = (
    "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens",
    "response_time_ms", "cost_nanos", "cost_usd_nanos",
)  # fmt: skip


def upgrade() -> None:
    """Only the words change, nothing that is stored: as https://sqlite.org/lang_altertable.html has it for that."""
    connection = op.get_bind()
    sql: str = connection.exec_driver_sql(
        "select sql from sqlite_master where type = 'table' and name = 'ledger_entries'"
    ).scalar_one()
    for name, values in _LISTS.items():
        listed = ", ".join(f"'{value}'" for value in values)
        sql = sql.replace(f"{name} in ({listed})", " or ".join(f"{name} = '{value}'" for value in values))
    for name in _NUMBERS:
        sql = sql.replace(f"coalesce({name}, 0) between", f"{name} between")
    version = connection.exec_driver_sql("pragma schema_version").scalar_one()
    connection.exec_driver_sql("pragma writable_schema = on")
    connection.exec_driver_sql(
        "update sqlite_master set sql = ? where type = 'table' and name = 'ledger_entries'", (sql,)
    )
    connection.exec_driver_sql(f"pragma schema_version = {version + 1}")
    connection.exec_driver_sql("pragma writable_schema = reset")

"""Answers stand in their entries, and so do short requests: only what may come again is a body of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from bursar.store.port import BODY_NAME_BYTES
from bursar.store.views import LLM_CALL_LOGS

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TEXTS = ("messages", "params", "output", "text")


def upgrade() -> None:
    op.execute("drop view llm_call_logs")
    for name in ("asked_crc", "answered_crc"):
        op.add_column("ledger_entries", sa.Column(name, sa.BigInteger(), nullable=True))
    for name in _TEXTS:
        op.add_column("ledger_entries", sa.Column(name, sa.Text(), nullable=True))
    op.execute(
        "update ledger_entries set output = (select body from ledger_bodies where name = output_ref), "
        "text = (select body from ledger_bodies where name = text_ref) "
        "where output_ref is not null or text_ref is not null"
    )
    # An answer that was also asked, word for word, is still named by who asked it.
    op.execute(
        f"""delete from ledger_bodies where name in (
          select output_ref from ledger_entries union select text_ref from ledger_entries)
        and name not in (
          with recursive i (refs, n) as (
            select input_refs, 0 from ledger_entries where length(input_refs) > 0
            union all select refs, n + 1 from i where (n + 1) * {BODY_NAME_BYTES} < length(refs))
          select substr(refs, n * {BODY_NAME_BYTES} + 1, {BODY_NAME_BYTES}) from i
          union select params_ref from ledger_entries where params_ref is not null)"""
    )
    for name in ("output_ref", "text_ref"):
        op.drop_column("ledger_entries", name)
    op.execute(sa.text(LLM_CALL_LOGS.replace(":", "\\:")))

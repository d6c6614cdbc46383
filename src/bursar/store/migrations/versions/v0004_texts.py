"""Answers stand in their entries, and so do short requests: only what may come again is a body of its own."""

from __future__ import annotations

from hashlib import sha256
from zlib import crc32

import sqlalchemy as sa
from alembic import op

from bursar.store.port import BODY_NAME_BYTES
from bursar.store.views import LLM_CALL_LOGS

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TEXTS = ("messages", "params", "output", "text")
# No text has this checksum: of an answer that was gone, or altered, before it was moved.
_LOST = -1


def upgrade() -> None:
    op.execute("drop view llm_call_logs")
    for name in ("asked_crc", "answered_crc"):
        op.add_column("ledger_entries", sa.Column(name, sa.BigInteger(), nullable=True))
    for name in _TEXTS:
        op.add_column("ledger_entries", sa.Column(name, sa.Text(), nullable=True))
    given = op.get_bind().connection.dbapi_connection
    assert given is not None
    given.create_function("answered_crc_of", 7, _answered_crc)
    op.execute(
        "update ledger_entries set output = (select body from ledger_bodies where name = output_ref), "
        "text = (select body from ledger_bodies where name = text_ref) "
        "where output_ref is not null or text_ref is not null"
    )
    op.execute(
        "update ledger_entries set answered_crc = answered_crc_of(workspace, output_ref, output, text_ref, text, "
        "(select workspace from ledger_bodies where name = output_ref), "
        "(select workspace from ledger_bodies where name = text_ref)) "
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


def _answered_crc(
    workspace: str, output_ref: bytes | None, output: str | None, text_ref: bytes | None, text: str | None,
    output_of: str | None, text_of: str | None,
) -> int:  # fmt: skip
    """The checksum of an entry's answer, where its bodies are of the content their names say."""
    for name, body, owner in ((output_ref, output, output_of), (text_ref, text, text_of)):
        if name is not None and (body is None or _name(owner or workspace, body) != name):
            return _LOST
    crc = crc32(output.encode("utf-8", "replace")) if output is not None else 0
    return crc if text is None else crc32(b"\xff" + text.encode("utf-8", "replace"), crc)


def _name(workspace: str, body: str) -> bytes:
    return sha256(b"%b\0%b" % (workspace.encode("utf-8", "replace"), body.encode("utf-8", "replace"))).digest()[:16]

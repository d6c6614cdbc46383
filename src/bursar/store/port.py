"""What the ledger asks of a store: batches applied in one transaction, and the state to go on from."""

from __future__ import annotations

from typing import Protocol

import msgspec

Row = dict[str, object]
Values = tuple[object, ...]

BODY_NAME_BYTES = 16
"""How long the name of a body is: it stands in entries, and is the key bodies are found by."""

OPENED_COLUMNS = (
    "spool_id", "created_at", "hour", "tags", "call_id", "attempt", "method_type", "workspace", "user_id", "session_id",
    "turn", "request_id", "function", "purpose", "key_id", "requested_model", "provider", "provider_type",
    "provider_url", "model", "reason", "idempotency_key", "client_retries", "dropped", "request_bytes",
    "input_refs", "params_ref",
)  # fmt: skip
"""The columns of an entry that are known when it is opened."""
SETTLED_COLUMNS = (
    "completed_at", "status", "response_time_ms", "time_to_first_token_ms", "http_status", "error_kind",
    "error_code", "error_message", "finish_reason", "provider_response_id", "served_model", "prompt_tokens",
    "completion_tokens", "total_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens",
    "provider_total_tokens", "audio_ms", "images", "search_units", "usage_source", "raw_usage",
    "cost_nanos", "cost_currency", "cost_usd_nanos",
    "cost_source", "price_id", "output_bytes", "text_at", "output_ref", "text_ref", "usd_rate",
)  # fmt: skip
"""The columns that are known when it is settled."""


class RecordRefusedError(Exception):
    """The store refuses a record of the batch; nothing of the batch was written."""


class OffsetMovedError(Exception):
    """The spool's offset in the store is not the one the batch begins at; nothing was written."""


class Batch(msgspec.Struct, kw_only=True):
    """A stretch of one spool, ready for the store.

    `entries` are rows of entries opened in it (settled in it or not), in the order of `OPENED_COLUMNS` and
    `SETTLED_COLUMNS`; `settlements` are (call_id, attempt) and the settled columns of entries opened earlier.
    `bodies` maps a body's name to its workspace and text. `close` ends the spool for good.
    """

    spool_id: str
    old_offset: int
    new_offset: int
    records: int
    now: str
    entries: list[Values] = []
    settlements: list[Values] = []
    bodies: dict[bytes, tuple[str, str]] = {}
    rejects: list[Row] = []
    gaps: list[Row] = []
    corrections: list[Row] = []
    close: bool = False


class SpoolState(msgspec.Struct, frozen=True):
    """How far a spool is in the store."""

    offset: int
    records: int
    entries: int
    state: str
    size: int | None


class LedgerStore(Protocol):
    """The store as the drain sees it. Methods raise StoreError where it cannot be reached or written."""

    async def spool_state(self, spool_id: str) -> SpoolState | None: ...

    async def apply(self, batch: Batch) -> None:
        """Writes the whole batch in one transaction, and uses its rows up, whether it succeeds or not. Raises
        RecordRefusedError, OffsetMovedError."""

    async def probe(self) -> None:
        """Returns where the store takes writes."""

    async def open_entries(self, spool_id: str) -> list[tuple[str, int]]:
        """The (call_id, attempt) of a spool's entries that are not settled."""

"""Records into a batch of rows: pure. An entry opened and settled in one batch becomes one whole row.

Messages are stored one by one under the hash of their content, so a conversation that grows by a turn adds
one message to the store, not all of them again.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import msgspec

from bursar.ledger import records
from bursar.ledger.records import Correction, Gap, Opened, Settled, Span, SpoolHeader
from bursar.store.port import Batch, Row

_HOUR_US = 3_600_000_000
_MESSAGE_FIELDS = ("messages", "input")

_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def timestamp(us: int) -> str:
    """A time in microseconds since 1970 as the store's UTC text."""
    return datetime.fromtimestamp(us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S") + f".{us % 1_000_000:06d}"


def body_hash(text: str) -> str:
    """The name a body is stored under: the first 160 bits of its SHA-256, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class BatchBuilder:
    """Collects the spans of one stretch of a spool into a batch."""

    def __init__(self, spool_id: str, offset: int, now_us: int) -> None:
        self._batch = Batch(spool_id=spool_id, old_offset=offset, new_offset=offset, records=0, now=timestamp(now_us))
        self._open: dict[tuple[str, int], Row] = {}

    @property
    def batch(self) -> Batch:
        return self._batch

    def add(self, span: Span, raw: bytes, *, refused: str | None = None) -> None:
        """Adds a span; `raw` are its bytes on disk. With `refused`, the store's reason, it is kept aside."""
        batch = self._batch
        batch.new_offset = span.end
        if span.payload is None:
            self._reject(span, raw, span.fault or "damaged", None)
            return
        batch.records += 1
        if refused is not None:
            self._reject(span, raw, "refused", refused)
            return
        try:
            self._add_record(records.decode(span.payload), span)
        except (msgspec.MsgspecError, ValueError, OverflowError) as e:
            self._reject(span, raw, "unreadable", str(e))

    def add_settled(self, settled: Settled) -> None:
        """Adds an end that stands in no spool: that of an entry whose process is gone."""
        self._settle(settled)

    def _add_record(self, record: records.Record, span: Span) -> None:
        match record:
            case Opened():
                self._open_entry(record)
            case Settled():
                self._settle(record)
            case Gap():
                self._batch.gaps.append(
                    {
                        "spool_id": self._batch.spool_id,
                        "start": span.start,
                        "count": record.count,
                        "first_at": timestamp(record.first_us),
                        "last_at": timestamp(record.last_us),
                    }
                )
            case Correction():
                self._correct(record, span)
            case SpoolHeader():
                pass

    def _reject(self, span: Span, raw: bytes, reason: str, detail: str | None) -> None:
        self._batch.rejects.append(
            {
                "spool_id": self._batch.spool_id,
                "start": span.start,
                "reason": reason,
                "detail": detail,
                "raw": raw,
                "created_at": self._batch.now,
            }
        )

    def _open_entry(self, record: Opened) -> None:
        row: Row = {
            name: getattr(record, name)
            for name in Opened.__struct_fields__
            if name not in ("created_us", "tags", "request")
        }
        row["spool_id"] = self._batch.spool_id
        row["created_at"] = timestamp(record.created_us)
        row["hour"] = record.created_us // _HOUR_US
        row["tags"] = _encode(record.tags).decode() if record.tags else None
        row["status"] = "started"
        row["usage_source"] = "none"
        row["output_bytes"] = 0
        if record.request is not None:
            row["input_refs"], row["params_ref"] = self._request_bodies(record.workspace, record.request)
        self._batch.entries.append(row)
        self._open[record.call_id, record.attempt] = row

    def _settle(self, record: Settled) -> None:
        row: Row = {
            name: getattr(record, name)
            for name in Settled.__struct_fields__
            if name not in ("workspace", "completed_us", "output", "text", "raw_usage")
        }
        row["completed_at"] = timestamp(record.completed_us) if record.completed_us is not None else None
        row["raw_usage"] = record.raw_usage.decode("utf-8", "replace") if record.raw_usage is not None else None
        opened = self._open.pop((record.call_id, record.attempt), None)
        row["output_ref"] = self._body(record.workspace, record.output) if record.output is not None else None
        row["text_ref"] = self._body(record.workspace, record.text.encode("utf-8", "replace")) if record.text else None
        if opened is not None:
            opened.update(row)
        else:
            self._batch.settlements.append(row)

    def _correct(self, record: Correction, span: Span) -> None:
        row: Row = {n: getattr(record, n) for n in Correction.__struct_fields__ if n != "created_us"}
        row.update(spool_id=self._batch.spool_id, start=span.start, created_at=timestamp(record.created_us))
        self._batch.corrections.append(row)

    def _request_bodies(self, workspace: str, request: bytes) -> tuple[str | None, str | None]:
        """The hashes of a request's messages (a JSON list) and of its parameters."""
        try:
            fields = _raw_object.decode(request)
        except (msgspec.MsgspecError, RecursionError):
            return None, self._body(workspace, request)
        refs: list[str] = []
        for name in _MESSAGE_FIELDS:
            given = fields.pop(name, None)
            if given is not None:
                refs.extend(self._body(workspace, item) for item in _items(bytes(given)))
        return _encode(refs).decode(), self._body(workspace, _encode(fields))

    def _body(self, workspace: str, body: bytes) -> str:
        text = body.decode("utf-8", "replace")
        digest = body_hash(text)
        self._batch.bodies.setdefault((workspace, digest), text)
        return digest


def _items(value: bytes) -> list[bytes]:
    """The elements of a list of messages or texts; anything else is one item."""
    if value[:1] == b"[":
        items = [bytes(item) for item in _raw_list.decode(value)]
        # A list of token numbers is one input, not a thousand.
        if items and items[0][:1] in (b"{", b'"'):
            return items
    return [value]

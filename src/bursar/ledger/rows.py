"""Records into a batch of rows: pure. An entry opened and settled in one batch becomes one whole row."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from bursar.ledger import records
from bursar.ledger.bodies import body_name
from bursar.ledger.records import Correction, Gap, Opened, Settled, Span
from bursar.store.port import SETTLED_COLUMNS, Batch, Row, Values

_HOUR_US = 3_600_000_000

_encode = msgspec.json.Encoder().encode
_astuple = msgspec.structs.astuple


def _between(fields: tuple[str, ...], first: str, last: str) -> slice:
    return slice(fields.index(first), fields.index(last) + 1)


# Rows are put together from slices of the records: in one piece, for there are many of them and many columns.
_O, _S = Opened.__struct_fields__, Settled.__struct_fields__
_BEGUN, _ENDED = _between(_O, "call_id", "params_ref"), _between(_S, "status", "text_at")

LAYOUT = ("spool_id", "created_at", "hour", "tags", *_O[_BEGUN], "completed_at", *_S[_ENDED], "output_ref", "text_ref",
          "usd_rate")  # fmt: skip
"""The order in which rows are put together below: the store's own."""
_STARTED: Values = tuple(
    {"status": "started", "usage_source": "none", "output_bytes": 0}.get(name) for name in SETTLED_COLUMNS
)


_UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError)


class _Clock:
    """Times as text. Most of a batch's are of one second, which is written once."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self, us: int) -> str:
        second, rest = divmod(us, 1_000_000)
        if second != self._second:
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S")
            self._second = second
        return f"{self._text}.{rest:06d}"


def timestamp(us: int) -> str:
    """A time in microseconds since 1970 as the store's UTC text."""
    return _Clock()(us)


class BatchBuilder:
    """Collects the spans of one stretch of a spool into a batch."""

    def __init__(self, spool_id: str, offset: int, now_us: int) -> None:
        self._clock = _Clock()
        self._batch = Batch(spool_id=spool_id, old_offset=offset, new_offset=offset, records=0, now=timestamp(now_us))
        self._open: dict[tuple[str, int], Values] = {}

    @property
    def batch(self) -> Batch:
        """What was collected; the builder is not used after it."""
        self._batch.entries.extend(opened + _STARTED for opened in self._open.values())
        self._open.clear()
        return self._batch

    def add_good(self, payloads: list[bytes], ends: list[int], base: int) -> None:
        """Adds the payloads of records that follow each other and end at `ends`, in bytes that stand at `base`."""
        decode = records.decode
        batch = self._batch
        for payload, end in zip(payloads, ends, strict=True):
            try:
                record = decode(payload)
                kind = type(record)
                if kind is Opened:
                    self._open_entry(record)  # type: ignore[arg-type]
                elif kind is Settled:
                    self._settle(record)  # type: ignore[arg-type]
                else:
                    self._add_framed(payload, base + end)
                    continue
            except _UNREADABLE:
                self._add_framed(payload, base + end)
                continue
            batch.records += 1
        batch.new_offset = base + ends[-1]

    def add(self, span: Span, data: bytes, base: int, *, refused: str | None = None) -> None:
        """Adds a span of `data`, which stands at `base` in its file. With `refused`, the store's reason, it is
        kept aside."""
        batch = self._batch
        batch.new_offset = span.end
        payload = span.payload
        if payload is None:
            self._reject(span, data, base, span.fault or "damaged", None)
            return
        batch.records += 1
        if refused is not None:
            self._reject(span, data, base, "refused", refused)
            return
        try:
            record = records.decode(payload)
            if isinstance(record, Opened):
                self._open_entry(record)
            elif isinstance(record, Settled):
                self._settle(record)
            else:
                self._add_other(record, span)
        except _UNREADABLE as e:
            self._reject(span, data, base, "unreadable", str(e))

    def _add_framed(self, payload: bytes, end: int) -> None:
        """Adds a record by its payload, the long way: one of a kind that is rare, or unreadable."""
        start = end - len(payload) - records.OVERHEAD
        self.add(Span(start, end, payload), records.framed(payload), start)

    def add_settled(self, settled: Settled) -> None:
        """Adds an end that stands in no spool: that of an entry whose process is gone."""
        self._settle(settled)

    def _add_other(self, record: records.Record, span: Span) -> None:
        match record:
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

    def _reject(self, span: Span, data: bytes, base: int, reason: str, detail: str | None) -> None:
        self._batch.rejects.append(
            {
                "spool_id": self._batch.spool_id,
                "start": span.start,
                "reason": reason,
                "detail": detail,
                "raw": data[span.start - base : span.end - base],
                "created_at": self._batch.now,
            }
        )

    def _open_entry(self, record: Opened) -> None:
        key, at = (record.call_id, record.attempt), record.created_us
        tags = _encode(record.tags).decode() if record.tags else None
        row = (self._batch.spool_id, self._clock(at), at // _HOUR_US, tags, *_astuple(record)[_BEGUN])
        before = self._open.get(key)
        if before is not None:
            self._batch.entries.append(before + _STARTED)  # the store will refuse the second of them
        if record.bodies:
            self._bring(record.workspace, record.bodies)
        self._open[key] = row

    def _settle(self, record: Settled) -> None:
        at, output, text = record.completed_us, record.output, record.text
        settled = (
            self._clock(at) if at is not None else None,
            *_astuple(record)[_ENDED],
            self._name(record.workspace, output) if output is not None else None,
            self._name(record.workspace, text) if text else None,
            record.usd_rate,
        )
        opened = self._open.pop((record.call_id, record.attempt), None)
        if opened is not None:
            self._batch.entries.append(opened + settled)
        else:
            self._batch.settlements.append((record.call_id, record.attempt, *settled))

    def _name(self, workspace: str, text: str) -> bytearray:
        name = body_name(workspace, text.encode("utf-8", "replace"))
        self._batch.bodies[name] = (workspace, text)
        return bytearray(name)

    def _bring(self, workspace: str, bodies: dict[bytes, str]) -> None:
        brought = self._batch.bodies
        for name, text in bodies.items():
            brought[name] = (workspace, text)

    def _correct(self, record: Correction, span: Span) -> None:
        row: Row = {n: getattr(record, n) for n in Correction.__struct_fields__ if n != "created_us"}
        row.update(spool_id=self._batch.spool_id, start=span.start, created_at=timestamp(record.created_us))
        self._batch.corrections.append(row)

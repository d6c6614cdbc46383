"""Records into a batch of rows: pure. An entry opened and settled in one batch becomes one whole row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain, islice, repeat
from typing import Any

import msgspec

from bursar.ledger import records
from bursar.ledger.bodies import texts_crc
from bursar.ledger.records import Correction, Gap, Opened, Record, Settled, Span
from bursar.store.port import Batch, Row, Rows

_HOUR_US = 3_600_000_000
_END_US = 253_402_300_800_000_000  # the year 10000

_encode = msgspec.json.Encoder().encode
_astuple = msgspec.structs.astuple


def _between(fields: tuple[str, ...], first: str, last: str) -> slice:
    return slice(fields.index(first), fields.index(last) + 1)


# Rows are laid out column by column, in slices of the records' fields: there are many of them, and many columns.
_O, _S = Opened.__struct_fields__, Settled.__struct_fields__
_BEGUN, _ENDED = _between(_O, "call_id", "params_ref"), _between(_S, "status", "text_at")
_TAGS, _USD_RATE = _O.index("tags"), _S.index("usd_rate")
_MESSAGES, _PARAMS = _O.index("messages"), _O.index("params")
_OUTPUT, _TEXT = _S.index("output"), _S.index("text")

OPENED_COLUMNS = ("spool_id", "created_at", "hour", "tags", *_O[_BEGUN], "asked_crc", "messages", "params")
"""The columns of an entry that are known when it is opened."""
SETTLED_COLUMNS = ("completed_at", *_S[_ENDED], "usd_rate", "answered_crc", "output", "text")
"""The columns that are known when it is settled."""
_STARTED: dict[str, object] = {"status": "started", "usage_source": "none", "output_bytes": 0}
_AT_ONCE = 128


UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError)
"""What is raised of a record that is none, or one the store cannot hold."""


class _Clock:
    """Times as text. Most of a batch's are of one second, which is written once."""

    def __init__(self) -> None:
        self._begun_us = -1_000_000
        self._text = ""

    def texts(self, times_us: Iterable[int | None]) -> list[str | None]:
        """Times in microseconds since 1970 as the store's UTC text."""
        texts: list[str | None] = []
        begun_us, text = self._begun_us, self._text
        for us in times_us:
            if us is None:
                texts.append(None)
                continue
            if not 0 <= us - begun_us < 1_000_000:
                second = us // 1_000_000
                text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S.")
                begun_us = second * 1_000_000
            texts.append(f"{text}{us - begun_us:06d}")
        self._begun_us, self._text = begun_us, text
        return texts


def timestamp(us: int) -> str:
    """A time in microseconds since 1970 as the store's UTC text."""
    (text,) = _Clock().texts((us,))
    assert text is not None
    return text


def _check_time(us: int | None) -> None:
    """Raises ValueError where this is no time the store can hold."""
    if us is not None and not 0 <= us < _END_US:
        raise ValueError(f"{us} is no time in microseconds since 1970")


Columns = list[Sequence[object]]


def _laid_out(names: Sequence[str], columns: Columns, count: int) -> Rows:
    """Rows of these columns, row by row, without the columns in which none of them has anything: the driver looks in
    vain for another form of each null it is given, and that is most of what a row would cost."""
    used = [n for n, column in enumerate(columns) if any(column) or column.count(None) < count]
    values = list(chain.from_iterable(zip(repeat(0), *(columns[n] for n in used), strict=False)))
    return Rows(("seq", *(names[n] for n in used)), values, count)


def _crcs(firsts: Any, seconds: Any) -> list[int | None]:
    return list(map(texts_crc, firsts, seconds))


class BatchBuilder:
    """Collects the spans of one stretch of a spool into a batch."""

    def __init__(self, spool_id: str, offset: int, now_us: int) -> None:
        self._clock = _Clock()
        self._batch = Batch(spool_id=spool_id, old_offset=offset, new_offset=offset, records=0, now=timestamp(now_us))
        self._open: dict[tuple[str, int], Opened] = {}
        self._begun: list[Opened] = []
        self._ended: list[Settled] = []
        self._ends: list[Settled] = []

    @property
    def batch(self) -> Batch:
        """What was collected; the builder is not used after it."""
        while self.lays_out():
            pass
        return self._batch

    def lays_out(self) -> bool:
        """Lays out some of what is left when everything was added; whether there was any."""
        if self._begun:
            self._lay_out_whole()
        elif self._ends:
            self._lay_out_ends()
        elif self._open:
            some = list(islice(self._open, _AT_ONCE))
            self._lay_out_begun([self._open.pop(key) for key in some])
        else:
            return False
        return True

    def add_records(self, records: Sequence[Record], ends: Sequence[int]) -> None:
        """Adds good records that follow each other and end at these offsets."""
        start = self._batch.new_offset
        for record, end in zip(records, ends, strict=True):
            kind = type(record)
            if kind is Settled:
                self._settle(record)  # type: ignore[arg-type]
            elif kind is Opened:
                self._open_entry(record)  # type: ignore[arg-type]
            else:
                self._add_other(record, start)
            start = end
        self._batch.records += len(records)
        self._batch.new_offset = start

    def add_good(self, payloads: list[bytes], ends: list[int], base: int) -> None:
        """Adds the payloads of records that follow each other and end at `ends`, in bytes that stand at `base`."""
        decode = records.decode
        batch = self._batch
        for payload, end in zip(payloads, ends, strict=True):
            try:
                record = decode(payload)
                kind = type(record)
                if kind is Opened:
                    _check_time(record.created_us)  # type: ignore[union-attr]
                    self._open_entry(record)  # type: ignore[arg-type]
                elif kind is Settled:
                    _check_time(record.completed_us)  # type: ignore[union-attr]
                    self._settle(record)  # type: ignore[arg-type]
                else:
                    self._add_framed(payload, base + end)
                    continue
            except UNREADABLE:
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
                _check_time(record.created_us)
                self._open_entry(record)
            elif isinstance(record, Settled):
                _check_time(record.completed_us)
                self._settle(record)
            else:
                self._add_other(record, span.start)
        except UNREADABLE as e:
            self._reject(span, data, base, "unreadable", str(e))

    def _add_framed(self, payload: bytes, end: int) -> None:
        """Adds a record by its payload, the long way: one of a kind that is rare, or unreadable."""
        start = end - len(payload) - records.OVERHEAD
        self.add(Span(start, end, payload), records.framed(payload), start)

    def add_settled(self, settled: Settled) -> None:
        """Adds an end that stands in no spool: that of an entry whose process is gone."""
        self._settle(settled)

    def _add_other(self, record: Record, start: int) -> None:
        match record:
            case Gap():
                self._batch.gaps.append(
                    {
                        "spool_id": self._batch.spool_id,
                        "start": start,
                        "count": record.count,
                        "first_at": timestamp(record.first_us),
                        "last_at": timestamp(record.last_us),
                    }
                )
            case Correction():
                self._correct(record, start)

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
        key = (record.call_id, record.attempt)
        before = self._open.get(key)
        if before is not None:
            self._lay_out_begun([before])  # the store will refuse the second of them
        if record.bodies:
            self._bring(record.workspace, record.bodies)
        self._open[key] = record

    def _settle(self, record: Settled) -> None:
        opened = self._open.pop((record.call_id, record.attempt), None)
        if opened is None:
            self._ends.append(record)
            if len(self._ends) >= _AT_ONCE:
                self._lay_out_ends()
            return
        self._begun.append(opened)
        self._ended.append(record)
        if len(self._begun) >= _AT_ONCE:
            self._lay_out_whole()

    def _lay_out_whole(self) -> None:
        """Entries that were opened and settled."""
        begun, self._begun = self._begun, []
        ended, self._ended = self._ended, []
        columns = [*self._of_begun(begun), *self._of_ended(list(zip(*map(_astuple, ended), strict=True)))]
        self._batch.entries.append(_laid_out((*OPENED_COLUMNS, *SETTLED_COLUMNS), columns, len(begun)))

    def _lay_out_begun(self, begun: list[Opened]) -> None:
        """Entries that were opened and not settled yet."""
        count = len(begun)
        columns = [*self._of_begun(begun), *([value] * count for value in _STARTED.values())]
        self._batch.entries.append(_laid_out((*OPENED_COLUMNS, *_STARTED), columns, count))

    def _lay_out_ends(self) -> None:
        """Ends of entries that were opened in an earlier batch."""
        ended, self._ends = self._ends, []
        fields: Columns = list(zip(*map(_astuple, ended), strict=True))
        columns = [fields[_S.index("call_id")], fields[_S.index("attempt")], *self._of_ended(fields)]
        names = ("call_id", "attempt", *SETTLED_COLUMNS)
        self._batch.settlements.append(_laid_out(names, columns, len(ended)))

    def _of_begun(self, begun: list[Opened]) -> Columns:
        fields: Columns = list(zip(*map(_astuple, begun), strict=True))
        created: Sequence[int] = fields[0]  # type: ignore[assignment]
        return [
            [self._batch.spool_id] * len(begun),
            self._clock.texts(created),
            [at // _HOUR_US for at in created],
            [_encode(tags).decode() if tags else None for tags in fields[_TAGS]],
            *fields[_BEGUN],
            _crcs(fields[_MESSAGES], fields[_PARAMS]),
            fields[_MESSAGES],
            fields[_PARAMS],
        ]

    def _of_ended(self, fields: Columns) -> Columns:
        return [
            self._clock.texts(fields[0]),  # type: ignore[arg-type]
            *fields[_ENDED],
            fields[_USD_RATE],
            _crcs(fields[_OUTPUT], fields[_TEXT]),
            fields[_OUTPUT],
            fields[_TEXT],
        ]

    def _bring(self, workspace: str, bodies: dict[bytes, str]) -> None:
        batch = self._batch
        for name, text in bodies.items():
            if name not in batch.brought:
                batch.brought.add(name)
                batch.bodies += (bytearray(name), workspace, text, batch.now)

    def _correct(self, record: Correction, start: int) -> None:
        row: Row = {n: getattr(record, n) for n in Correction.__struct_fields__ if n != "created_us"}
        row.update(spool_id=self._batch.spool_id, start=start, created_at=timestamp(record.created_us))
        self._batch.corrections.append(row)

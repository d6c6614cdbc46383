"""Records into a batch of rows: pure. An entry opened and settled in one batch becomes one whole row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import chain, islice, repeat
from operator import attrgetter
from typing import Any

import msgspec

from bursar.ledger import records
from bursar.ledger.bodies import texts_crcs
from bursar.ledger.records import Correction, Gap, Opened, Record, Settled, Span, SpoolHeader
from bursar.store.port import TAKES_SAME, Batch, Row, Rows

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
# What entries that follow each other mostly have in common is said once for all of them. It is all columns of a group
# or none, for each mix of columns is a statement of its own.
_ALIKE = (
    frozenset(("spool_id", "hour", "method_type", "workspace", "key_id", "requested_model", "provider", "provider_type",
               "provider_url", "model", "reason")),
    frozenset(("attempt", "status", "http_status", "finish_reason", "served_model", "usage_source", "text_at")),
)  # fmt: skip
_AT_ONCE = 128
_OF_ENTRIES = frozenset({Opened, Settled})
_entry: Callable[[Any], tuple[str, int]] = attrgetter("call_id", "attempt")
_TIMES: dict[type[Record], tuple[str, ...]] = {
    SpoolHeader: (), Opened: ("created_us",), Settled: ("completed_us",), Gap: ("first_us", "last_us"),
    Correction: ("created_us",),
}  # fmt: skip

UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError)
"""What is raised of a record that is none, or one the store cannot hold."""


class _Clock:
    """Times as text. Most of a batch's are of one second, which is written once."""

    def __init__(self) -> None:
        self._begun_us = -1_000_000
        self._text = ""

    def texts(self, times_us: Sequence[int | None]) -> list[str | None]:
        """Times in microseconds since 1970 as the store's UTC text."""
        begun_us, text = self._begun_us, self._text
        if None not in times_us and begun_us <= min(times_us) and max(times_us) - begun_us < 1_000_000:  # type: ignore[type-var, operator]
            # Six digits are those behind a one: to ask for them with zeros in front takes longer.
            before = begun_us - 1_000_000
            return [text + str(us - before)[1:] for us in times_us]  # type: ignore[operator]
        texts: list[str | None] = []
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


def _readable(payload: bytes) -> Record:
    """The record of a payload. Raises what is in `UNREADABLE` where it is none, or its time is none the store can
    hold."""
    record = records.decode(payload)
    for name in _TIMES[type(record)]:
        us = getattr(record, name)
        if us is not None and not 0 <= us < _END_US:
            raise ValueError(f"{us} is no time in microseconds since 1970")
    return record


Columns = list[Sequence[object]]


def _laid_out(names: Sequence[str], columns: Columns, count: int, alike: tuple[frozenset[str], ...] = _ALIKE) -> Rows:
    """Rows of these columns, row by row, without the columns in which none of them has anything: the driver looks in
    vain for another form of each null it is given, and that is most of what a row would cost. A group of `alike` of
    which each column is the same in all rows stands in `same`."""
    used = [n for n, column in enumerate(columns) if column[0] is not None or column.count(None) < count]
    same: dict[str, object] = {}
    for group in alike if TAKES_SAME else ():
        found = [n for n in used if names[n] in group]
        if all(columns[n].count(columns[n][0]) == count for n in found):
            same.update((names[n], columns[n][0]) for n in found)
    left = [n for n in used if names[n] not in same]
    values = list(chain.from_iterable(zip(repeat(0), *(columns[n] for n in left), strict=False)))
    return Rows(("seq", *(names[n] for n in left)), values, count, same)


def _hours(times_us: Sequence[int]) -> list[int]:
    """The hours since 1970 of times; most of a batch's are of one."""
    hour = min(times_us) // _HOUR_US
    if max(times_us) // _HOUR_US == hour:
        return [hour] * len(times_us)
    return [us // _HOUR_US for us in times_us]


def _tags(tags: Sequence[Any]) -> Sequence[str | None]:
    return [_encode(one).decode() if one else None for one in tags] if any(tags) else [None] * len(tags)


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
        batch = self._batch
        starts = (batch.new_offset, *ends)
        for n in self._take(records):
            self._add_other(records[n], starts[n])
        batch.records += len(records)
        batch.new_offset = starts[-1]

    def add_good(self, payloads: list[bytes], ends: list[int], base: int) -> None:
        """Adds the payloads of records that follow each other and end at `ends`, in bytes that stand at `base`."""
        try:
            good = [_readable(payload) for payload in payloads]
        except UNREADABLE:
            for payload, end in zip(payloads, ends, strict=True):
                self._add_framed(payload, base + end)
        else:
            self.add_records(good, [base + end for end in ends])

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
            record = _readable(payload)
            if self._take((record,)):
                self._add_other(record, span.start)
        except UNREADABLE as e:
            self._reject(span, data, base, "unreadable", str(e))

    def _add_framed(self, payload: bytes, end: int) -> None:
        """Adds a record by its payload, the long way: one that may be unreadable."""
        start = end - len(payload) - records.OVERHEAD
        self.add(Span(start, end, payload), records.framed(payload), start)

    def add_settled(self, settled: Settled) -> None:
        """Adds an end that stands in no spool: that of an entry whose process is gone."""
        self._take((settled,))

    def _take(self, records: Sequence[Any]) -> list[int]:
        """Takes the beginnings and the ends of entries among them; which of them are something else."""
        begins, ends = self._open.setdefault, self._open.pop
        others: list[int] = []
        if not _OF_ENTRIES.issuperset(map(type, records)):
            others = [n for n, record in enumerate(records) if type(record) not in _OF_ENTRIES]
            records = [record for record in records if type(record) in _OF_ENTRIES]
        for key, record in zip(map(_entry, records), records, strict=True):
            if type(record) is Settled:
                opened = ends(key, None)
                if opened is None:
                    self._ends.append(record)
                else:
                    self._begun.append(opened)
                    self._ended.append(record)
            else:
                if begins(key, record) is not record:
                    self._lay_out_begun([record])  # the store will refuse the second of them
                if record.bodies:
                    self._bring(record.workspace, record.bodies)
        while len(self._begun) >= _AT_ONCE:
            self._lay_out_whole()
        while len(self._ends) >= _AT_ONCE:
            self._lay_out_ends()
        return others

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

    def _lay_out_whole(self) -> None:
        """Entries that were opened and settled."""
        begun, self._begun = self._begun[:_AT_ONCE], self._begun[_AT_ONCE:]
        ended, self._ended = self._ended[:_AT_ONCE], self._ended[_AT_ONCE:]
        columns = [*self._of_begun(begun), *self._of_ended(list(zip(*map(_astuple, ended), strict=True)))]
        self._batch.entries.append(_laid_out((*OPENED_COLUMNS, *SETTLED_COLUMNS), columns, len(begun)))

    def _lay_out_begun(self, begun: list[Opened]) -> None:
        """Entries that were opened and not settled yet."""
        count = len(begun)
        columns = [*self._of_begun(begun), *([value] * count for value in _STARTED.values())]
        self._batch.entries.append(_laid_out((*OPENED_COLUMNS, *_STARTED), columns, count))

    def _lay_out_ends(self) -> None:
        """Ends of entries that were opened in an earlier batch."""
        ended, self._ends = self._ends[:_AT_ONCE], self._ends[_AT_ONCE:]
        fields: Columns = list(zip(*map(_astuple, ended), strict=True))
        columns = [fields[_S.index("call_id")], fields[_S.index("attempt")], *self._of_ended(fields)]
        names = ("call_id", "attempt", *SETTLED_COLUMNS)
        self._batch.settlements.append(_laid_out(names, columns, len(ended), alike=()))

    def _of_begun(self, begun: list[Opened]) -> Columns:
        fields: Columns = list(zip(*map(_astuple, begun), strict=True))
        created: Sequence[int] = fields[0]  # type: ignore[assignment]
        return [
            [self._batch.spool_id] * len(begun),
            self._clock.texts(created),
            _hours(created),
            _tags(fields[_TAGS]),
            *fields[_BEGUN],
            texts_crcs(fields[_MESSAGES], fields[_PARAMS]),  # type: ignore[arg-type]
            fields[_MESSAGES],
            fields[_PARAMS],
        ]

    def _of_ended(self, fields: Columns) -> Columns:
        return [
            self._clock.texts(fields[0]),  # type: ignore[arg-type]
            *fields[_ENDED],
            fields[_USD_RATE],
            texts_crcs(fields[_OUTPUT], fields[_TEXT]),  # type: ignore[arg-type]
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

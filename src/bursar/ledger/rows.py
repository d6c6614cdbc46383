"""Records into a batch of rows: pure. An entry opened and settled in one batch becomes one whole row.

Messages are stored one by one under a name made of their content, so a conversation that grows by a turn adds
one message to the store, not all of them again.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import msgspec

from bursar.ledger import records
from bursar.ledger.records import Correction, Gap, Opened, Settled, Span
from bursar.store.port import BODY_NAME_BYTES, SETTLED_COLUMNS, Batch, Row, Values

_HOUR_US = 3_600_000_000
_KNOWN_BYTES = 8 * 1024 * 1024
_KNOWN_NAMES = 20_000
_MESSAGE_FIELDS = ("messages", "input")

_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode
_astuple = msgspec.structs.astuple


def _between(fields: tuple[str, ...], first: str, last: str) -> slice:
    return slice(fields.index(first), fields.index(last) + 1)


# Rows are put together from slices of the records: in one piece, for there are many of them and many columns.
_O, _S = Opened.__struct_fields__, Settled.__struct_fields__
_KEYS, _WHO, _WHAT = (
    _between(_O, "call_id", "attempt"),
    _between(_O, "method_type", "purpose"),
    _between(_O, "key_id", "request_bytes"),
)
_END, _TOKENS, _MONEY = (
    _between(_S, "response_time_ms", "served_model"),
    _between(_S, "prompt_tokens", "usage_source"),
    _between(_S, "cost_nanos", "output_bytes"),
)

LAYOUT = (
    *_O[_KEYS], "spool_id", "created_at", "hour", "tags", "input_refs", "params_ref", *_O[_WHO], *_O[_WHAT],
    "status", "completed_at", *_S[_END], *_S[_TOKENS], "raw_usage", *_S[_MONEY], "output_ref", "text_ref", "text_at",
)  # fmt: skip
"""The order in which rows are put together below: the store's own."""
_STARTED: Values = tuple(
    {"status": "started", "usage_source": "none", "output_bytes": 0}.get(name) for name in SETTLED_COLUMNS
)


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


def body_name(workspace: str, body: bytes) -> bytes:
    """The name a body is stored under: the first 128 bits of the SHA-256 of its workspace, a NUL, and itself.

    It is bytes, and short, because names are random and every one is a place in an index.
    """
    return hashlib.sha256(b"%b\0%b" % (workspace.encode("utf-8", "replace"), body)).digest()[:BODY_NAME_BYTES]


class KnownBodies:
    """Bodies that are in the store and need not be offered to it again. Of those that come again and again, as
    system prompts and parameters do, the name need not even be worked out anew. All of it is bounded: two
    generations, of which the older is forgotten."""

    def __init__(self) -> None:
        self.names: set[bytes] = set()
        self.names_before: set[bytes] = set()
        self.repeated: dict[tuple[str, bytes], bytes] = {}
        self._repeated_bytes = 0

    def learn(self, batch: Batch) -> None:
        """Takes the bodies of a batch; it has been written."""
        self.names.update(batch.bodies)
        if len(self.names) > _KNOWN_NAMES:
            self.names_before, self.names = self.names, set()
        if batch.repeated:
            if self._repeated_bytes > _KNOWN_BYTES:
                self.repeated, self._repeated_bytes = {}, 0
            self.repeated.update(batch.repeated)
            self._repeated_bytes += sum(len(body) for _, body in batch.repeated)


class BatchBuilder:
    """Collects the spans of one stretch of a spool into a batch."""

    def __init__(self, spool_id: str, offset: int, now_us: int, known: KnownBodies | None = None) -> None:
        self._clock = _Clock()
        self._batch = Batch(spool_id=spool_id, old_offset=offset, new_offset=offset, records=0, now=timestamp(now_us))
        self._open: dict[tuple[str, int], Values] = {}
        self._known = known or KnownBodies()

    @property
    def batch(self) -> Batch:
        """What was collected; the builder is not used after it."""
        self._batch.entries.extend(opened + _STARTED for opened in self._open.values())
        self._open.clear()
        return self._batch

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
        except (msgspec.MsgspecError, ValueError, OverflowError) as e:
            self._reject(span, data, base, "unreadable", str(e))

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
        values = _astuple(record)
        refs, params = None, None
        if record.request is not None:
            refs, params = self._request_bodies(record.workspace, record.request)
        key = values[_KEYS]
        before = self._open.get(key)
        if before is not None:
            self._batch.entries.append(before + _STARTED)  # the store will refuse the second of them
        self._open[key] = (
            *key,
            self._batch.spool_id,
            self._clock(record.created_us),
            record.created_us // _HOUR_US,
            _encode(record.tags).decode() if record.tags else None,
            refs,
            params,
            *values[_WHO],
            *values[_WHAT],
        )

    def _settle(self, record: Settled) -> None:
        values = _astuple(record)
        workspace = record.workspace
        settled = (
            record.status,
            self._clock(record.completed_us) if record.completed_us is not None else None,
            *values[_END],
            *values[_TOKENS],
            record.raw_usage.decode("utf-8", "replace") if record.raw_usage is not None else None,
            *values[_MONEY],
            self._body(workspace, record.output) if record.output is not None else None,
            self._body(workspace, record.text.encode("utf-8", "replace")) if record.text else None,
            record.text_at,
        )
        opened = self._open.pop((record.call_id, record.attempt), None)
        if opened is not None:
            self._batch.entries.append(opened + settled)
        else:
            self._batch.settlements.append((record.call_id, record.attempt, *settled))

    def _correct(self, record: Correction, span: Span) -> None:
        row: Row = {n: getattr(record, n) for n in Correction.__struct_fields__ if n != "created_us"}
        row.update(spool_id=self._batch.spool_id, start=span.start, created_at=timestamp(record.created_us))
        self._batch.corrections.append(row)

    def _request_bodies(self, workspace: str, request: bytes) -> tuple[bytes | None, bytes | None]:
        """The names of a request's messages, one behind the other, and of its parameters."""
        try:
            fields = _raw_object.decode(request)
        except (msgspec.MsgspecError, RecursionError):
            return None, self._body(workspace, request)
        names: list[bytes] = []
        for field in _MESSAGE_FIELDS:
            given = fields.pop(field, None)
            if given is not None:
                names += [self._body(workspace, item) for item in _items(given)]
        return b"".join(names), self._body(workspace, _encode(fields))

    def _body(self, workspace: str, body: bytes) -> bytes:
        known = self._known
        name = known.repeated.get((workspace, body))
        if name is not None:
            return name
        try:
            text = body.decode()
            name = body_name(workspace, body)
        except UnicodeDecodeError:
            text = body.decode("utf-8", "replace")
            name = body_name(workspace, text.encode())
        if name in known.names or name in known.names_before or name in self._batch.bodies:
            self._batch.repeated[workspace, body] = name
        else:
            self._batch.bodies[name] = (workspace, text)
        return name


def _items(value: msgspec.Raw) -> list[bytes]:
    """The elements of a list of messages or texts; anything else is one item."""
    if bytes(memoryview(value)[:1]) == b"[":
        items = _raw_list.decode(value)
        # A list of token numbers is one input, not a thousand.
        if items and bytes(memoryview(items[0])[:1]) in (b"{", b'"'):
            return [bytes(item) for item in items]
    return [bytes(value)]

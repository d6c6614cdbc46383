"""What stands in a spool, and how a record is framed on disk. Pure: bytes in, bytes out.

A frame is: magic (4 bytes), payload length (u32), CRC-32 of the payload (u32), payload, trailer (1 byte).
The trailer is never zero, so a record that was cut off, in a file whose rest is zeros, is told from one that
was damaged later. The payload is a MessagePack array, first its kind; new fields are only ever added at the end.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, repeat
from typing import TypeVar
from zlib import crc32

import msgspec

from bursar.wire.assemble import clean_text

MAGIC = b"\xb5RS1"
TRAILER = b"\xb5"
_HEAD = struct.Struct("<4sII")
_HEAD_SIZE = _HEAD.size
_pack = _HEAD.pack
OVERHEAD = _HEAD_SIZE + len(TRAILER)
MAX_PAYLOAD = 256 * 1024 * 1024
_AT_ONCE = 64

# The room every open entry keeps for its own end; a settled record without bodies always fits.
SETTLE_RESERVE = 12288


class SpoolHeader(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The first record: whose spool this is, and the only store it may be drained into."""

    spool_id: str
    store_id: str
    pid: int
    created_us: int


Name = bytearray
"""The name of a body, or several: bytes where they are written. They are read as what SQLite's driver takes as it is;
for bytes it looks for another form first."""


class Opened(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """An attempt is about to leave. Times are microseconds since 1970 (UTC).

    Short messages stand in it, as a JSON array, and so do the parameters (what else it asks) where they are short:
    `messages`, `params`. Otherwise `input_refs` are the messages' names, one behind the other, and `params_ref` that of
    the parameters; `bodies` has those that are not known to be in the store, by name. All of these are empty where
    bodies are left out because the spool is at its first bound. From `call_id` to `params_ref` the fields stand as the
    store's columns do, so that they are taken over in one piece.
    """

    created_us: int
    call_id: str
    attempt: int
    method_type: str
    workspace: str
    user_id: str | None
    session_id: str | None
    turn: str | None
    request_id: str | None
    function: str | None
    purpose: str | None
    key_id: str | None
    requested_model: str
    provider: str
    provider_type: str
    provider_url: str
    model: str
    reason: str
    idempotency_key: str | None
    client_retries: int | None
    dropped: str | None
    request_bytes: int
    input_refs: Name | None
    params_ref: Name | None
    tags: dict[str, str]
    bodies: dict[bytes, str]
    messages: str | None = None
    params: str | None = None

    @property
    def has_bodies(self) -> bool:
        """Whether it says what was asked."""
        return self.params_ref is not None or self.params is not None


class Settled(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """How an attempt ended. `output` is the complete answer as JSON, `text_at` is the place of its text in it
    (`$.choices[0].message.content`); where it has no such place the text stands in `text`. From `status` to
    `output_bytes` the fields stand as the store's columns do.
    """

    completed_us: int | None
    call_id: str
    attempt: int
    workspace: str
    status: str
    response_time_ms: int | None = None
    time_to_first_token_ms: int | None = None
    http_status: int | None = None
    error_kind: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    finish_reason: str | None = None
    provider_response_id: str | None = None
    served_model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    provider_total_tokens: int | None = None
    audio_ms: int | None = None
    images: int | None = None
    search_units: int | None = None
    usage_source: str = "none"
    raw_usage: str | None = None
    cost_nanos: int | None = None
    cost_currency: str | None = None
    cost_usd_nanos: int | None = None
    cost_source: str | None = None
    price_id: str | None = None
    output_bytes: int = 0
    text_at: str | None = None
    output: str | None = None
    text: str | None = None
    usd_rate: str | None = None


class Gap(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Attempts that left while the ledger had no room for their entries: how many, from when to when."""

    count: int
    first_us: int
    last_us: int


class Correction(msgspec.Struct, frozen=True, array_like=True, tag=4, kw_only=True):
    """A difference to a settled entry, found out later. Numbers are differences, never new values."""

    call_id: str
    attempt: int
    created_us: int
    reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nanos: int = 0
    cost_usd_nanos: int = 0


Record = SpoolHeader | Opened | Settled | Gap | Correction

payload_of: Callable[[Record], bytes] = msgspec.msgpack.Encoder().encode
"""What stands in the frame of a record that needs no mending. Raises UnicodeEncodeError."""
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    """The framed bytes of a record. Text that UTF-8 cannot hold (lone surrogates) is mended, not refused."""
    try:
        return framed(payload_of(record))
    except UnicodeEncodeError:
        return framed(payload_of(mended(record)))


def frames_of(payloads: Sequence[bytes], at: int) -> tuple[bytes, list[int]]:
    """The frames of these payloads, the first of which is to stand at `at`, and where each of them ends."""
    sizes = list(map(len, payloads))
    heads = map(_pack, repeat(MAGIC), sizes, map(crc32, payloads))
    data = b"".join(chain.from_iterable(zip(heads, payloads, repeat(TRAILER), strict=False)))
    ends = list(accumulate(map(OVERHEAD.__add__, sizes), initial=at))
    return data, ends[1:]


def framed(payload: bytes) -> bytes:
    """A payload as it stands in a spool."""
    return _pack(MAGIC, len(payload), crc32(payload)) + payload + TRAILER


def decode(payload: bytes | memoryview) -> Record:
    """The record of a payload. Raises msgspec.DecodeError or ValidationError where it is none."""
    return _decoder.decode(payload)


R = TypeVar("R", bound=Record)


def mended(record: R) -> R:
    """The record with texts that UTF-8 can hold."""

    def mend(value: object) -> object:
        if isinstance(value, str):
            return clean_text(value)
        if isinstance(value, dict):
            return {mend(k): mend(v) for k, v in value.items()}
        return value

    return msgspec.structs.replace(record, **{f: mend(getattr(record, f)) for f in record.__struct_fields__})


class Span(msgspec.Struct, frozen=True):
    """A stretch of a spool, from `start` to `end`.

    `payload` is the record's; where it is None the stretch is no record: `fault` is
    `damaged`, for bytes that were a record or have good ones behind them, or `torn`, for one that was never
    written to its end.
    """

    start: int
    end: int
    payload: bytes | None
    fault: str | None = None


def good_records(data: bytes, at: int, most: int, most_bytes: int) -> tuple[list[bytes], list[int]]:
    """The payloads of good records that follow each other from `at` on, and where each record ends: up to `most`
    of them, and no more behind `most_bytes`."""
    size = min(len(data) - OVERHEAD, at + most_bytes)
    unpack = _HEAD.unpack_from
    payloads: list[bytes] = []
    ends: list[int] = []
    for _ in range(most):
        if at > size:
            break
        magic, length, crc = unpack(data, at)
        start = at + _HEAD_SIZE
        at = start + length
        payload = data[start:at]
        if crc32(payload) != crc or magic != MAGIC or not data.startswith(TRAILER, at):
            break
        at += 1
        payloads.append(payload)
        ends.append(at)
    return payloads, ends


def walk(data: bytes, base: int = 0, *, last: bool = True) -> Iterator[Span]:
    """The spans of a spool's bytes, of which the first stands at `base` in the file.

    With `last` the bytes reach the file's end; otherwise what may be continued behind them is left out.
    Zeros up to the end are room kept, not a record.
    """
    at, size = 0, len(data)
    while at < size:
        payloads, ends = good_records(data, at, _AT_ONCE, size)
        for payload, end in zip(payloads, ends, strict=True):
            yield Span(base + at, base + end, payload)
            at = end
        if payloads:
            continue
        if not data.count(0, at) < len(data) - at:
            return
        if not last and _may_continue(data, at):
            return
        behind = _next_record(data, at + 1, last=last)
        if behind is not None:
            yield Span(base + at, base + behind, None, "damaged")
            at = behind
            continue
        if not last:
            return
        yield _tail(data, at, base)
        return


def _record_at(data: bytes, at: int) -> int | None:
    """Where the record that starts at `at` ends, or None where no good one does."""
    if data[at : at + 4] != MAGIC or len(data) - at < OVERHEAD:
        return None
    _, length, crc = _HEAD.unpack_from(data, at)
    end = at + OVERHEAD + length
    if length > MAX_PAYLOAD or end > len(data) or data[end - 1 : end] != TRAILER:
        return None
    return end if crc32(memoryview(data)[at + _HEAD.size : end - 1]) == crc else None


def _may_continue(data: bytes, at: int) -> bool:
    """Whether the bytes at `at` may be the beginning of a record that goes on behind these bytes."""
    head = data[at : at + _HEAD.size]
    if len(head) < _HEAD.size:
        return MAGIC.startswith(head[:4])
    magic, length, _ = _HEAD.unpack(head)
    return bool(magic == MAGIC) and length <= MAX_PAYLOAD and at + OVERHEAD + length > len(data)


def _next_record(data: bytes, at: int, *, last: bool) -> int | None:
    while (at := data.find(MAGIC, at)) >= 0:
        if _record_at(data, at) is not None:
            return at
        if not last and _may_continue(data, at):
            return None  # or a text in it that looks like a record would be taken for one
        at += 1
    return None


def _tail(data: bytes, at: int, base: int) -> Span:
    written = len(data.rstrip(b"\0"))
    complete = data[written - 1 : written] == TRAILER and written - at >= OVERHEAD
    return Span(base + at, base + written, None, "damaged" if complete else "torn")

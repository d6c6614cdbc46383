"""What is left out of a record that has no room, or is too long for the room kept for it. Pure."""

from __future__ import annotations

import msgspec

from bursar.ledger.records import Opened, Settled, encode

# An end is cut only where it is longer than this without its bodies.
SHORT_BYTES = 4096
_RAW_USAGE_BYTES = 2048
_MESSAGE_CHARS = 1000
_ID_CHARS = 200


def without_bodies(opened: Opened) -> Opened:
    return msgspec.structs.replace(opened, input_refs=None, params_ref=None, bodies={}, messages=None, params=None)


def without_answer(settled: Settled) -> Settled:
    return msgspec.structs.replace(settled, output=None, text=None, text_at=None)


def bare(settled: Settled) -> bytes:
    """The record without bodies; where even that cannot be written, its end alone."""
    try:
        return encode(cut(without_answer(settled)))
    except (OverflowError, TypeError):
        return encode(
            Settled(
                call_id=settled.call_id,
                attempt=settled.attempt,
                workspace=settled.workspace,
                status=settled.status,
                completed_us=settled.completed_us,
                response_time_ms=settled.response_time_ms,
                error_message="what was known of this attempt's end could not be written down",
            )
        )


def shortened(record: Opened | Settled) -> bytes:
    """A record without its bodies, framed."""
    return bare(record) if isinstance(record, Settled) else encode(without_bodies(record))


def is_long(settled: Settled, payload: bytes) -> bool:
    """Whether it is not its bodies that make a record of more than `SHORT_BYTES` long. What else a provider may make as
    long as it likes is cut then, so that the record without bodies fits the room kept for it."""
    bodies = [text.encode("utf-8", "replace") for text in (settled.output, settled.text) if text is not None]
    return len(payload) - sum(map(len, bodies)) > SHORT_BYTES


def cut(settled: Settled) -> Settled:
    cuts: dict[str, object] = {}
    for name in ("error_message", "error_code", "finish_reason", "provider_response_id", "served_model"):
        value, most = getattr(settled, name), _MESSAGE_CHARS if name == "error_message" else _ID_CHARS
        if value is not None and len(value) > most:
            cuts[name] = value[: most - 1] + "…"
    if settled.raw_usage is not None and len(settled.raw_usage.encode("utf-8", "replace")) > _RAW_USAGE_BYTES:
        cuts["raw_usage"] = None
    return msgspec.structs.replace(settled, **cuts) if cuts else settled

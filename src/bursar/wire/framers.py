"""Which framer cuts an answer: by what its spec says, and by how it begins."""

from __future__ import annotations

from collections.abc import Callable

from bursar.wire.event_stream import EventStreamFramer
from bursar.wire.framing import BytesFramer, Framer, LineFramer, SseFramer, WholeFramer
from bursar.wire.spec import OperationSpec

FRAMERS: dict[str, Callable[[], Framer]] = {
    "sse": SseFramer, "ndjson": LineFramer, "json": WholeFramer, "aws-event-stream": EventStreamFramer,
    "bytes": BytesFramer,
}  # fmt: skip


# What may be an error where sound is to come.
WRITTEN = (b"application/json", b"application/problem+json", b"text/html", b"text/plain")


def chosen(spec: OperationSpec, head: bytes, *, stream: bool) -> Framer:
    """The framer of an answer that begins with `head`. A stream may be answered with plain JSON, and a plain call with
    a stream."""
    framing = spec.stream.framing
    if spec.media:
        return SseFramer() if stream else WholeFramer()
    looks_json = head[:1] in (b"{", b"[")
    if looks_json and (not stream or framing in ("sse", "aws-event-stream")):
        return WholeFramer()
    if not (stream or head.startswith((b"data:", b":", b"event:"))):
        return WholeFramer()
    return FRAMERS[framing]()

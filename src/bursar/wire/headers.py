"""Headers that may travel to a provider: pure, and asked before anything is written down or sent."""

from __future__ import annotations

import re

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*\Z")
# What says how a message is cut out of its connection is the client's own to write.
_FRAMING = frozenset({"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})


def fault_of(name: str, value: str) -> str | None:
    """Why a header cannot be sent, None where it can; never with its value, which may be a secret."""
    if name.lower() in _FRAMING:
        return f"the header '{name}' belongs to the connection and cannot be given"
    if not _NAME.match(name) or not _VALUE.match(value):
        return f"the header '{name[:80]!a}' has characters that no header may have"
    return None

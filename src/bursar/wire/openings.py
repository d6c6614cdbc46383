"""Beginnings of chats that come again and again: a long system prompt need not be read anew each time.

A request that begins with the same bytes as others did, up to the end of its first message, is read with a short
message in its place. Where that one comes out as the first message, and stands nowhere else in what was read, the
request says what it would have said with the long one: a reader of JSON is in the same state behind either.
"""

from __future__ import annotations

_LONG_BYTES = 2048
_LOOK_BYTES = 256
_MOST_OPENINGS = 256
_MOST_BYTES = 8 * 1024 * 1024
_STAND_IN = b'{"role":"","":"what was read before"}'
_NAMES = (b'"messages":[', b'"messages": [')


class Openings:
    """What requests began with, of a bounded number and size. Of those that look alike in their first bytes, it knows
    one: the last that came twice in a row."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, bytes, bytes]] = {}
        self._seen: dict[bytes, bytes] = {}
        self._bytes = 0

    def shortened(self, body: bytes) -> tuple[bytes, bytes] | None:
        """A body that says the same with a message that stands in for its first, and its first; None where nothing is
        known of it."""
        known = self._known.get(body[:_LOOK_BYTES])
        if known is None:
            return None
        opening, before, message = known
        # Where what follows is longer than what was read before, to put it together anew would cost more than it saves.
        if len(body) > 2 * len(opening) or not body.startswith(opening):
            return None
        rest = body[len(opening) :]
        return None if _STAND_IN in rest else (before + _STAND_IN + rest, message)

    def learn(self, body: bytes, message: bytes) -> None:
        """Its first message is this. What is long is kept when it comes the second time."""
        if len(message) < _LONG_BYTES:
            return
        look = body[:_LOOK_BYTES]
        if self._seen.get(look) != message[-_LOOK_BYTES:]:
            if len(self._seen) >= _MOST_OPENINGS:
                self._seen.clear()
            self._seen[look] = message[-_LOOK_BYTES:]
            return
        before = _before(body, message)
        if before is None:
            return
        if len(self._known) >= _MOST_OPENINGS or self._bytes > _MOST_BYTES:
            self._known, self._bytes = {}, 0
        self._known[look] = (before + message, before, message)
        self._bytes += 2 * len(message)


def _before(body: bytes, message: bytes) -> bytes | None:
    """What stands before the first message."""
    for name in _NAMES:
        at = body.find(name, 0, _LOOK_BYTES)
        if at >= 0 and body.startswith(message, at + len(name)):
            before = body[: at + len(name)]
            return None if _STAND_IN in before else before
    return None


def first_stands_in(messages: list[bytes]) -> bool:
    """Whether the first message is what stands in for another."""
    return bool(messages) and messages[0] == _STAND_IN

"""What chats begin with again and again: a long system prompt need not be looked through anew each time.

A request that begins with the same bytes as others did, up to the end of its first message, is read with a short
message in its place. Where that one comes out as the first message, and stands nowhere else in what was read, the
request says what it would have said with the long one: a reader of JSON is in the same state behind either.
"""

from __future__ import annotations

from typing import NamedTuple

_LONG_BYTES = 2048
_TOO_LONG_BYTES = 256 * 1024
_LOOK_BYTES = 256
_MOST = 256
_MOST_BYTES = 8 * 1024 * 1024
_STAND_IN = b'{"role":"","":"what was read before"}'
_NAMES = (b'"messages":[', b'"messages": [')


class _Opening(NamedTuple):
    """What a request began with: what stands before its first message, that message, and both together."""

    before: bytes
    message: bytes
    both: bytes


class Openings:
    """What a gateway's chats began with, of a bounded number and size. Of those that look alike in their first bytes
    it knows one: the last that came twice in a row."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Opening] = {}
        self._seen: dict[bytes, tuple[int, bytes]] = {}
        self._bytes = 0

    def shortened(self, body: bytes) -> tuple[bytes, bytes] | None:
        """A body that says the same with a message that stands in for its first, and its first; None where nothing is
        known of it."""
        known = self._known.get(body[:_LOOK_BYTES])
        # Where what follows is longer than what was read before, to put it together anew would cost more than it saves.
        if known is None or len(body) > 2 * len(known.both) or not body.startswith(known.both):
            return None
        rest = body[len(known.both) :]
        return None if _STAND_IN in rest else (known.before + _STAND_IN + rest, known.message)

    def learn(self, body: bytes, message: bytes) -> None:
        """This chat's first message had to be looked through: where it is long, it is kept when it comes again."""
        if not _LONG_BYTES <= len(message) <= _TOO_LONG_BYTES:
            return
        look, mark = body[:_LOOK_BYTES], (len(message), message[-_LOOK_BYTES:])
        known = self._known.get(look)
        if known is not None and known.message == message:
            return
        if self._seen.get(look) != mark:
            if len(self._seen) >= _MOST:
                self._seen.clear()
            self._seen[look] = mark
        elif (before := _before(body, message)) is not None:
            self._keep(look, _Opening(before, message, before + message))

    def _keep(self, look: bytes, opening: _Opening) -> None:
        old = self._known.pop(look, None)
        self._bytes += 2 * (len(opening.message) - (len(old.message) if old is not None else 0))
        if len(self._known) >= _MOST or self._bytes > _MOST_BYTES:
            self._known, self._bytes = {}, 2 * len(opening.message)
        self._known[look] = opening


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

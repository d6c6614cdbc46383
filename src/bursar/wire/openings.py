"""What chats begin with again and again: a long system prompt need not be looked through anew each time.

A request that begins with the same bytes as others did, up to the end of its first message, is read with a short
message in its place. Where that one comes out as the first message, and stands nowhere else in what was read, the
request says what it would have said with the long one: a reader of JSON is in the same state behind either.
"""

from __future__ import annotations

from typing import NamedTuple

LONG_BYTES = 2048
"""What is shorter is looked through in less time than what others began with is found and put in its place."""
_TOO_LONG_BYTES = 256 * 1024
_LOOK_BYTES = 256
_MOST = 256
_MOST_BYTES = 8 * 1024 * 1024
_STAND_IN = b'{"role":"","":"what was read before"}'
_NAMES = (b'"messages":[', b'"messages": [')


class Opening(NamedTuple):
    """What a request began with: what stands before its first message, that message, and both together."""

    before: bytes
    message: bytes
    both: bytes

    def shortened(self, rest: bytes) -> bytes | None:
        """A body that says the same as one with `rest` behind this, with a message that stands in for the first; None
        where it says more than that."""
        return None if rest.find(_STAND_IN) >= 0 else self.before + _STAND_IN + rest


class Openings:
    """What a gateway's chats began with, of a bounded number and size. Of those that look alike in their first bytes
    it knows one: the last that came twice in a row."""

    def __init__(self) -> None:
        self._known: dict[bytes, Opening] = {}
        self._seen: dict[bytes, tuple[int, bytes]] = {}
        self._bytes = 0

    def of(self, data: bytes, at: int = 0) -> Opening | None:
        """What the body that stands in `data` from `at` to its end begins with; None where nothing is known of it."""
        known = self._known.get(data[at : at + _LOOK_BYTES])
        # Where what follows is longer than what was read before, to put it together anew would cost more than it saves.
        if known is None or len(data) - at > 2 * len(known.both) or not data.startswith(known.both, at):
            return None
        return known

    def learn(self, body: bytes, message: bytes) -> None:
        """This chat's first message had to be looked through: where it is long, it is kept when it comes again."""
        if not LONG_BYTES <= len(message) <= _TOO_LONG_BYTES:
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
            self._keep(look, Opening(before, message, before + message))

    def _keep(self, look: bytes, opening: Opening) -> None:
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

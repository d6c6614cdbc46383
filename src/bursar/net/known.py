"""Answers that need not be parsed: whole ones, of a length that is said, whose head differs from one that was read
before on their connection in nothing but values.

The parser has read the one before from its first byte to its last, in one piece, and knows nothing of what is read
here: it is at the beginning of an answer before and behind it.
"""

from __future__ import annotations

from bursar.wire.lines import LENGTH, MOST_BYTES, MOST_DIGITS, Form, is_common, lines_of

# To the parser they have no body, whatever length they say.
_BODILESS = frozenset({204, 304})


class Known:
    """An answer that was read: its status, its headers by lower-case name, and what of its head comes again."""

    __slots__ = ("_form", "_headers", "status")

    def __init__(self, status: int, headers: dict[bytes, bytes], form: Form) -> None:
        self.status = status
        self._headers = headers
        self._form = form

    def like(self, data: bytes) -> tuple[dict[bytes, bytes], bytes] | None:
        """Headers and body of an answer that is like this one, and comes as these bytes, no more and no less."""
        read = self._form.read(data)
        if read is None:
            return None
        values, size = read
        headers = self._headers | values
        body = data[size:]
        return (headers, body) if int(headers[LENGTH]) == len(body) else None


def known_by(data: bytes, status: int, headers: dict[bytes, bytes]) -> Known | None:
    """What is known by a whole answer, that came as these bytes, in which the parser found this status and these
    headers, and behind which the connection is kept. None where another one like it might be read otherwise."""
    end = data.find(b"\r\n\r\n") + 4
    length = headers.get(LENGTH, b"")
    if status in _BODILESS or not 4 < end <= MOST_BYTES:
        return None
    if not length.isdigit() or len(length) > MOST_DIGITS or int(length) != len(data) - end:
        return None
    given = list(headers.items())
    lines = lines_of(data[:end], given) if is_common(given) else None
    return Known(status, headers.copy(), Form(lines)) if lines is not None else None

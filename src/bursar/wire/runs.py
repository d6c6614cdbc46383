"""Frames that differ from each other in their text alone, read many at a time.

Most frames of a streamed answer are the same bytes around another piece of text. Where one of them has been read,
and what stands around its text is known, those that follow need not be decoded again: they are cut out by these
bytes, and only the text between is read. Whatever is otherwise is not a run, and is read as any frame is.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

import msgspec

_text = msgspec.json.Decoder(str).decode
_PROBE = b"bursar 1"
_DATA = b"data: {"
_MOST_KNOWN, _KNOWN_BYTES = 256, 4096


class Around(msgspec.Struct, frozen=True):
    """The bytes before and behind the text of a frame, without the blank line that ends it."""

    before: bytes
    behind: bytes

    def take(self, data: bytes, at: int = 0) -> tuple[str, int] | None:
        """The text of the frames that stand in `data` from `at` on, and where they end; None where the first one is
        not whole, or another one."""
        before, behind = self.before, self.behind
        if not data.startswith(before, at):
            return None
        pieces = self._pieces(data, at)
        joined = b"".join(pieces)
        if not joined:
            return None
        try:
            # A quote that ends a text early leaves something behind it, which is refused; so is an escape, or a
            # character, of which the rest stands in the next frame.
            if joined.isascii() and b"\\" not in joined:
                text = _text(b'"%b"' % joined)
            else:
                text = "".join([_text(b'"%b"' % piece) for piece in pieces])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return text, at + len(joined) + len(pieces) * (len(before) + len(behind) + 2)

    def _pieces(self, data: bytes, at: int) -> list[bytes]:
        """The texts of the frames that stand in `data` from `at` on, as they stand in them."""
        before, behind = self.before, self.behind
        # Cut at some of what stands between two texts: to look for all of it takes long to begin, for the blank line
        # alone long to end.
        cut = len(_DATA)
        begins, ends = before[cut:], behind[:-1]
        start, stop = len(begins), -len(ends) or None
        frames = data[at + cut :].split(b"%b\n\n%b" % (behind[-1:], _DATA))
        last = frames[-1]
        frames[-1] = last[: max(0, last.find(b"\n\n") - 1)]
        while frames and not (frames[-1].startswith(begins) and frames[-1].endswith(ends)):
            frames.pop()
        pieces = list(map(itemgetter(slice(start, stop)), frames))
        if data.startswith(b"%b%b%b\n\n" % (before, (b"%b\n\n%b" % (behind, before)).join(pieces), behind), at):
            return pieces
        for n, frame in enumerate(frames):  # another one stands between them
            if not (frame.startswith(begins) and frame.endswith(ends) and len(frame) >= len(begins) + len(ends)):
                return pieces[:n]
        return pieces


Known = set[tuple[bytes, ...]]
"""What is known to stand around a text: before it, but for the answer's id, and behind it."""


def around(
    raw: bytes, text: str, read: Callable[[bytes], str | None], *, id: object = None, known: Known | None = None
) -> Around | None:
    """What stands around the text of a frame, whose exact bytes are `raw`; None where that cannot be told.

    `read` gives the text of a frame's data where the frame says that and nothing else. It is asked about a frame with
    another text between the same bytes: what it says then is the proof. It holds for answers of another `id` too, and
    is kept in `known`.
    """
    quoted = b'"%b"' % text.encode("utf-8", "replace")
    start = raw.find(quoted) + 1
    before, behind = raw[:start], raw[start + len(quoted) - 2 : -2]
    key: tuple[bytes, ...] = ()
    if known is not None and isinstance(id, str) and len(raw) < _KNOWN_BYTES:
        key = (*before.split(_quoted(id)), behind)
        if key in known and raw.endswith(b"\n\n"):
            return Around(before, behind)
    if not start or not raw.startswith(_DATA) or not raw.endswith(b"}\n\n") or raw.count(quoted) != 1:
        return None
    if b"\n" in before or b"\n" in behind or b"\r" in raw:
        return None
    if read(b"%b%b%b" % (before[6:], _PROBE, behind)) != _PROBE.decode():
        return None
    if known is not None and len(key) == 3:
        if len(known) >= _MOST_KNOWN:
            known.clear()
        known.add(key)
    return Around(before, behind)


def _quoted(id: str) -> bytes:
    """An id as it stands in JSON, or what stands in none."""
    return f'"{id}"'.encode() if id.isascii() and id.isprintable() and '"' not in id and "\\" not in id else b"\n"

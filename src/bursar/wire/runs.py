"""Frames that differ from each other in their text alone, read many at a time.

Most frames of a streamed answer are the same bytes around another piece of text. Where one of them has been read,
and what stands around its text is known, those that follow need not be decoded again: they are cut out by these
bytes, and only the text between is read. Whatever is otherwise is not a run, and is read as any frame is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import zip_longest
from operator import itemgetter

import msgspec

_text = msgspec.json.Decoder(str).decode
_PROBE, _PROBED_PADDING = b"bursar 1", b"b1"
_DATA = b"data: {"
_MOST_KNOWN, _KNOWN_BYTES = 256, 4096
# OpenAI puts letters and digits at random into each frame, so that its length does not tell its text's.
_PADDED = b'"obfuscation"'
_PADDING = re.compile(rb'"obfuscation": ?"([A-Za-z0-9]*)"')
_MARK = 15  # of what stands before the padding so much is looked for
_head, _padding = itemgetter(0), itemgetter(2)

_Key = tuple[bytes, bytes, bytes, bytes | None]
Told = Sequence[tuple[str, msgspec.Raw]]
"""What frames say beside the answer itself."""


class Around(msgspec.Struct, frozen=True):
    """The bytes before and behind the text of a frame, without the blank line that ends it; where they are padded, up
    to the padding, which is between `behind` and `tail`."""

    before: bytes
    behind: bytes
    tail: bytes | None = None

    def alone(self, data: bytes) -> str | None:
        """The text of one frame that is all of `data`; None where it is not, or is for `take` to tell."""
        ends = self.behind if self.tail is None else self.tail
        if not (data.startswith(self.before) and data.endswith(b"%b\n\n" % ends)):
            return None
        piece = data[len(self.before) : -len(ends) - 2]
        if self.tail is not None:
            piece, _, padding = piece.rpartition(self.behind)
            if padding and not padding.isalnum():
                return None
        if not piece or piece.find(b'"') >= 0:
            return None
        try:
            return _text(b'"%b"' % piece)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def take(self, data: bytes, at: int = 0) -> tuple[str, int] | None:
        """The text of the frames that stand in `data` from `at` on, and where they end; None where the first one is
        not whole, or another one."""
        if not data.startswith(self.before, at):
            return None
        size = len(self.before) + len(self.behind) + len(self.tail or b"") + 2
        pieces, padding = self._pieces(data, at)
        joined = b"".join(pieces)
        if not joined:
            return None
        try:
            # A quote that ends a text early leaves something behind it, which is refused; so is an escape, or a
            # character, of which the rest stands in the next frame.
            if joined.isascii() and joined.find(b"\\") < 0:
                text = _text(b'"%b"' % joined)
            else:
                text = "".join([_text(b'"%b"' % piece) for piece in pieces])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return text, at + len(joined) + len(pieces) * size + padding

    def _pieces(self, data: bytes, at: int) -> tuple[list[bytes], int]:
        """The texts of the frames that stand in `data` from `at` on, as they stand in them, and how many bytes of
        padding there are."""
        cut = len(_DATA)
        begins, ends = self.before[cut:], self.behind[:-1]
        last, mark = self.behind[-1:], b""
        if self.tail is not None:
            ends, mark, last = self.behind[:-_MARK], self.behind[-_MARK:], self.tail
        # Cut at some of what stands between two texts: to look for all of it takes long to begin, for the blank line
        # alone long to end.
        frames = data[at + cut :].split(b"%b\n\n%b" % (last, _DATA))
        frames[-1] = frames[-1][: max(0, frames[-1].find(b"%b\n\n" % last))]
        while frames and not frames[-1].startswith(begins):
            frames.pop()
        paddings: list[bytes] = []
        if mark:
            parts = [frame.rpartition(mark) for frame in frames]
            frames, paddings = list(map(_head, parts)), list(map(_padding, parts))
        pieces = list(map(itemgetter(slice(len(begins), -len(ends) or None)), frames))
        padding = b"".join(paddings)
        alike = b"%b%b%b" % (begins, (b"%b%b" % (ends, begins)).join(pieces), ends) == b"".join(frames)
        if alike and (padding.isalnum() or not padding):
            return pieces, len(padding)
        many = 0
        for frame, some in zip_longest(frames, paddings, fillvalue=b""):  # another one stands between them
            if not (frame.startswith(begins) and frame.endswith(ends) and len(frame) >= len(begins) + len(ends)):
                break
            if some and not some.isalnum():
                break
            many += 1
        return pieces[:many], sum(map(len, paddings[:many]))


class Known:
    """What is known to stand around texts, whatever the answer's id."""

    def __init__(self) -> None:
        self._proved: set[_Key] = set()
        self._latest: dict[str, tuple[_Key, Told]] = {}

    def guess(self, id: object, model: object) -> tuple[Around, Told] | None:
        """What stands around the texts of an answer that begins, and what its frames say beside them, if it is as in
        the last one of its model."""
        latest = self._latest.get(model) if isinstance(model, str) else None
        quoted = _quoted(id)
        if latest is None or quoted is None:
            return None
        (before, rest, behind, tail), told = latest
        return Around(b"%b%b%b" % (before, quoted, rest), behind, tail), told

    def around(
        self, raw: bytes, text: str, read: Callable[[bytes], str | None], id: object, model: object, told: Told | None
    ) -> Around | None:
        """The same as `around`, which need not be asked again of an answer that is as one before. `told` is what the
        frame says beside its text, None where that is not known."""
        found = _cut(raw, text)
        quoted = _quoted(id)
        parts = found.before.split(quoted) if quoted is not None and len(raw) < _KNOWN_BYTES else []
        if len(parts) != 2:
            return found if _is_proved(found, raw, text, read) else None
        key = (parts[0], parts[1], found.behind, found.tail)
        if not (key in self._proved and raw.endswith(b"\n\n")):
            if not _is_proved(found, raw, text, read):
                return None
            for known in (self._proved, self._latest):
                if len(known) >= _MOST_KNOWN:
                    known.clear()
            self._proved.add(key)
        if told is not None and isinstance(model, str):
            self._latest[model] = key, told
        return found


def around(raw: bytes, text: str, read: Callable[[bytes], str | None]) -> Around | None:
    """What stands around the text of a frame, whose exact bytes are `raw`; None where that cannot be told.

    `read` gives the text of a frame's data where the frame says that and nothing else. It is asked about a frame with
    another text, and another padding, between the same bytes: what it says then is the proof.
    """
    found = _cut(raw, text)
    return found if _is_proved(found, raw, text, read) else None


def _cut(raw: bytes, text: str) -> Around:
    quoted = b'"%b"' % text.encode("utf-8", "replace")
    start = raw.find(quoted) + 1
    before, behind = raw[:start], raw[start + len(quoted) - 2 : -2]
    padded = _PADDING.search(behind) if behind.find(_PADDED) >= 0 else None
    if padded is None:
        return Around(before, behind)
    return Around(before, behind[: padded.start(1)], behind[padded.end(1) :])


def _is_proved(found: Around, raw: bytes, text: str, read: Callable[[bytes], str | None]) -> bool:
    before, behind, tail = found.before, found.behind, found.tail
    quoted = b'"%b"' % text.encode("utf-8", "replace")
    if not before or not raw.startswith(_DATA) or not raw.endswith(b"}\n\n") or raw.count(quoted) != 1:
        return False
    if b"\n" in before or b"\n" in behind or b"\n" in (tail or b"") or b"\r" in raw:
        return False
    ends = behind if tail is None else b"%b%b%b" % (behind, _PROBED_PADDING, tail)
    return read(b"%b%b%b" % (before[6:], _PROBE, ends)) == _PROBE.decode()


def _quoted(id: object) -> bytes | None:
    """An id as it stands in JSON, None where it may stand there in several ways."""
    if isinstance(id, str) and id.isascii() and id.isprintable() and '"' not in id and "\\" not in id:
        return f'"{id}"'.encode()
    return None

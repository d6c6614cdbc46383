"""Bodies: what was asked, each stored once within a workspace, under a name made of its content.

Messages are bodies of their own, so a conversation that grows by a turn adds one message to the ledger, not all of
them again: neither to the spool, where an entry only names what is in the store already, nor to the store. What is
shorter than a name and its row would be worth stands in the entry itself; so do answers, which do not come again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import repeat
from typing import Any
from zlib import crc32

from bursar.store.port import BODY_NAME_BYTES

_SHORT_BYTES = 512
"""Up to this a text stands in the entry. A body of its own costs some hundred bytes beside itself, in two trees of the
store, of which one is written at a random place."""

_KNOWN_BYTES = 8 * 1024 * 1024
_KNOWN_NAMES = 20_000
_LOOK_BYTES = 48

# A byte that no text has.
_BETWEEN = b"\xff"


def body_name(workspace: str, body: bytes) -> bytes:
    """The name a body is stored under: the first 128 bits of the SHA-256 of its workspace, a NUL, and itself.

    It is bytes, and short, because names are random and every one is a place in an index.
    """
    return sha256(b"%b\0%b" % (workspace.encode("utf-8", "replace"), body)).digest()[:BODY_NAME_BYTES]


def texts_crc(first: str | None, second: str | None) -> int | None:
    """The CRC-32 of two texts of an entry, a byte that no text has between them: by it `verify` finds one that was
    altered."""
    (crc,) = texts_crcs((first,), (second,))
    return crc


def texts_crcs(firsts: Sequence[str | None], seconds: Sequence[str | None]) -> list[int | None]:
    """The same of many entries."""
    no_first, no_second = firsts.count(None), seconds.count(None)
    crcs: list[Any]
    if no_first:
        crcs = [None if text is None else crc32(text.encode()) for text in firsts]
    else:
        crcs = list(map(crc32, map(str.encode, firsts)))  # type: ignore[arg-type]
    if no_second == len(seconds):
        return crcs
    if not (no_first or no_second):
        return list(map(crc32, map(str.encode, seconds), map(crc32, repeat(_BETWEEN), crcs)))  # type: ignore[arg-type]
    return [
        crc if text is None else crc32(text.encode(), crc32(_BETWEEN, crc or 0))
        for crc, text in zip(crcs, seconds, strict=True)
    ]


_NONE: dict[bytes, str] = {}
"""No new bodies: of most requests, and never added to."""
Asked = tuple[bytearray | None, bytearray | None, dict[bytes, str], str | None, str | None]
"""What was asked, as an entry has it: the names of the messages, that of the parameters, the new bodies by name; in
place of names the messages as a JSON array, and the parameters."""


class Bodies:
    """Names bodies, and knows which of them are in the store: they need not be brought there again.

    It learns from batches that were committed, and from nothing else. Of bodies that come again and again, as system
    prompts and parameters do, the name need not even be worked out anew. All of it is bounded: names in two
    generations, of which the older is forgotten, and a few megabytes of bodies.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """What is in the store is not known any more."""
        self._names: set[bytes] = set()
        self._names_before: set[bytes] = set()
        self._repeated: dict[tuple[str, int, bytes], tuple[bytes, bytes]] = {}
        self._repeated_bytes = 0

    def learn(self, names: Iterable[bytes]) -> None:
        """These are in the store now."""
        self._names.update(names)
        if len(self._names) > _KNOWN_NAMES:
            self._names_before, self._names = self._names, set()

    def name(self, workspace: str, body: bytes, new: dict[bytes, str]) -> bytes:
        """The name of a body, which is put among the new ones where it is not known to be in the store."""
        # Two bodies that end alike are told apart by comparing them, which is cheaper than a digest of either.
        # The one that came last is kept of those that are the same, for who holds it brings it again.
        key = workspace, len(body), body[-_LOOK_BYTES:]
        repeated = self._repeated.get(key)
        if repeated is not None and repeated[0] == body:
            if repeated[0] is not body:
                self._repeated[key] = (body, repeated[1])
            return repeated[1]
        try:
            text = body.decode()
        except UnicodeDecodeError:
            text = body.decode("utf-8", "replace")
            body = text.encode()
        name = body_name(workspace, body)
        if name not in self._names and name not in self._names_before:
            new[name] = text
            return name
        if self._repeated_bytes > _KNOWN_BYTES:
            self._repeated, self._repeated_bytes = {}, 0
        self._repeated[key] = (body, name)
        self._repeated_bytes += len(body)
        return name

    def asked(self, workspace: str, inputs: Sequence[bytes], params: bytes) -> Asked:
        """The messages and the parameters of a request, as its entry has them."""
        messages = short = None
        if sum(map(len, inputs)) <= _SHORT_BYTES:
            messages = f"[{b','.join(inputs).decode('utf-8', 'replace')}]"
        if len(params) <= _SHORT_BYTES:
            short = params.decode("utf-8", "replace")
        if messages is not None and short is not None:
            return None, None, _NONE, messages, short
        new: dict[bytes, str] = {}
        refs = self.names(workspace, inputs, new) if messages is None else None
        params_ref = bytearray(self.name(workspace, params, new)) if short is None else None
        return refs, params_ref, new, messages, short

    def names(self, workspace: str, bodies: Iterable[bytes], new: dict[bytes, str]) -> bytearray:
        """The names of several bodies, one behind the other."""
        return bytearray().join([self.name(workspace, body, new) for body in bodies])

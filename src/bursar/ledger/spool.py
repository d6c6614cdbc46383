"""A spool: one process's append-only file of records, with room kept for the end of every open entry.

Appending is a plain function of a few microseconds. What was appended is in the operating system's hands
before it returns, and what was staged when `write` returns nothing: killing the process loses none of it. A full disk
is met when an entry is opened, never when it is settled.
"""

from __future__ import annotations

import _thread
import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bursar.ledger.locks import SpoolLock
from bursar.ledger.records import (
    OVERHEAD,
    SETTLE_RESERVE,
    Opened,
    Record,
    Settled,
    SpoolHeader,
    encode,
    framed,
    frames_of,
)
from bursar.types.errors import LedgerError

SUFFIX = ".spool"
LOCK_SUFFIX = ".lock"
_CHUNK = 64 * 1024
_LARGE_CHUNK = 1024 * 1024
_LARGE_FILE = 4 * 1024 * 1024
# How much of what was appended is remembered as it was, for the drain: what is beyond it is read from the file.
_RECENT_BYTES, _RECENT_RECORDS = 16 * 1024 * 1024, 12_288
_RECENT_ITEMS = 2 * _RECENT_RECORDS
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SpoolFullError(LedgerError):
    """There is no room on the spool's disk."""


class Recent:
    """Records of a spool that need not be read again: those from the byte `start` on, one behind the other, and where
    each of them ends, up to the byte `until`. That is 0 once one was not taken: it waits to be emptied then, and to
    begin anew."""

    __slots__ = ("both", "start", "until")

    def __init__(self) -> None:
        self.begin_at(0)

    def begin_at(self, start: int) -> None:
        """Begins anew at the spool's end."""
        self.start = start
        self.until = start + _RECENT_BYTES
        self.both: list[Any] = []
        """Record and end by turns."""

    def add(self, more: Sequence[Any] | None) -> None:
        """Adds records and their ends by turns, or says with None that one is not at hand."""
        if more is not None and more[-1] < self.until and len(self.both) < _RECENT_ITEMS:
            self.both += more
        else:
            self.until = 0

    def take(self, most: int) -> tuple[list[Record], list[int]]:
        """Up to so many of the records, the first first, and where they end; they are not remembered any longer."""
        taken, self.both = self.both[: 2 * most], self.both[2 * most :]
        if taken:
            self.start = taken[-1]
            if self.until:
                self.until = self.start + _RECENT_BYTES
        return taken[::2], taken[1::2]


class Spool:
    """A spool this process writes. `end` is the byte behind the last record, staged or written; `records` is the number
    of those that are written, `recent` those of them at hand. Where records are staged, `soon` hears that some wait."""

    _fd: int = -1
    soon: Callable[[Spool], None] | None = None

    def __init__(self, directory: Path, spool_id: str, store_id: str, now_us: int) -> None:
        self.id = spool_id
        self.path = directory / f"{spool_id}{SUFFIX}"
        self.lock = SpoolLock.create(directory / f"{spool_id}{LOCK_SUFFIX}")
        self.end = 0
        self.records = 0
        self.open_entries = 0
        self._allocated = 0
        self._waiting: list[Any] = []  # payload and record by turns
        self._written = 0
        self.recent = Recent()
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            header = SpoolHeader(spool_id, store_id, os.getpid(), now_us)
            self.append(encode(header), 0, header)
        except BaseException:
            self.path.unlink(missing_ok=True)
            self.lock.remove()
            raise

    def append(self, frame: bytes, entries: int = 0, record: Record | None = None) -> None:
        """Appends a record; `entries` is 1 for an entry's beginning, which keeps room for its end, and -1 for that end.
        `record` is what the frame says, where it is at hand: the drain then need not read it again.

        Raises SpoolFullError where there is no room. An end without bodies has its room kept, and fails only where the
        disk breaks its word.
        """
        assert not self._waiting
        entries += self.open_entries
        end = self.end + len(frame)
        needed = end + entries * SETTLE_RESERVE
        if needed > self._allocated:
            self._make_room(needed)
        self._put(frame)
        self.end = self._written = end
        self.records += 1
        self.open_entries = entries
        self.recent.add([record, end] if record is not None else None)

    def put(self, payload: bytes, entries: int, record: Opened | Settled) -> None:
        """Appends the record of this payload; where records are staged, it is not on disk before `write` has returned.
        Raises SpoolFullError where there is no room."""
        if self.soon is None:
            self.append(framed(payload), entries, record)
            return
        entries += self.open_entries
        end = self.end + len(payload) + OVERHEAD
        needed = end + entries * SETTLE_RESERVE
        if needed > self._allocated:
            self._make_room(needed)
        waiting = self._waiting
        is_first = not waiting
        waiting += (payload, record)
        self.end = end
        self.open_entries = entries
        if is_first:
            self.soon(self)

    def write(self) -> Sequence[Opened | Settled]:
        """Writes what was staged, in one piece. Returns the records where they could not be written: none of them
        counts any more."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return ()
        records = waiting[1::2]
        try:
            data, ends = frames_of(waiting[::2], self._written)
            self._put(data)
        except Exception:  # whatever it is, nothing of it may leave
            self.end = self._written
            self.open_entries -= sum(1 if type(record) is Opened else -1 for record in records)
            return records
        self._written = ends[-1]
        self.records += len(records)
        waiting[::2], waiting[1::2] = records, ends
        self.recent.add(waiting)
        return ()

    def make_room(self) -> None:
        """Takes room for another entry ahead of it. Raises SpoolFullError."""
        self._make_room(self.end + (self.open_entries + 2) * SETTLE_RESERVE)

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`, not beyond the last record; what is only staged is zeros yet."""
        return os.pread(self._fd, min(size, self.end - offset), offset)

    def close(self, *, remove: bool) -> None:
        """Closes the file; with `remove`, because all of it is in the store, it is deleted too. One that cannot be
        deleted is let go of all the same: another process finds it."""
        try:
            if remove:
                self.path.unlink(missing_ok=True)
                self.lock.remove()
            else:
                os.ftruncate(self._fd, self.end)
        finally:
            # The number may be another file's from now on, whatever comes of it.
            fd, self._fd = self._fd, -1
            taken, self._allocated = self._allocated, 0
            _close(fd, taken if remove else 0)
            self.lock.release()

    def forget(self) -> None:
        """In a forked child: lets go of the parent's files without touching them."""
        os.close(self._fd)
        self._fd, self._allocated, self._waiting = -1, 0, []
        self.lock.forget()

    def _make_room(self, needed: int) -> None:
        if self._fd < 0:
            raise SpoolFullError("the spool is closed")
        if needed <= self._allocated:
            return
        # A spool that has grown goes on in larger steps: each is a visit to the file system.
        chunk = _CHUNK if needed < _LARGE_CHUNK else _LARGE_CHUNK
        for size in (needed + chunk - needed % chunk, needed):
            try:
                os.posix_fallocate(self._fd, self._allocated, size - self._allocated)
            except OSError as e:
                if e.errno not in _NO_ROOM:
                    raise SpoolFullError(f"the spool cannot grow: {os.strerror(e.errno or 0)}") from e
            else:
                self._allocated = size
                return
        # What a failed attempt may have taken is given back, or the kept room of others would hide it.
        os.ftruncate(self._fd, max(self._allocated, self._written))
        raise SpoolFullError

    def _put(self, data: bytes) -> None:
        try:
            if os.pwrite(self._fd, data, self._written) != len(data):
                raise OSError(0, "only a part of a record was taken")
        except OSError as e:
            self._cut_back()
            raise SpoolFullError(f"the spool cannot be written: {e.strerror}") from e

    def _cut_back(self) -> None:
        """After a short write: nothing behind the last good record, and the kept room taken anew."""
        os.ftruncate(self._fd, self._written)
        kept, self._allocated = self._allocated, self._written
        with suppress(SpoolFullError):
            self._make_room(kept)


def _close(fd: int, given_back: int) -> None:
    """Closes a file, which gives so many bytes back to the file system. Where they are many that takes milliseconds,
    and longer while the file system is busy for others: in a thread, which nobody waits for. Where the process ends
    before it, the system does the same."""
    if given_back > _LARGE_FILE:
        with suppress(RuntimeError):  # no more threads: the process has as many as it may, or ends
            # Not a `Thread`: whoever starts one waits until it has begun, behind those who compute.
            _thread.start_new_thread(os.close, (fd,))
            return
    os.close(fd)

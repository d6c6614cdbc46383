"""The ledger of one process: entries are opened before a request leaves and settled once, by plain functions.

It owns this process's spools: the active one, and those that still wait for entries opened in them. When
the spool is at its bounds or its disk is full, the stated policy applies here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic_ns, time_ns

import msgspec

from bursar.ledger.bodies import Bodies
from bursar.ledger.cuts import SHORT_BYTES, bare, cut, is_long, shortened, without_answer, without_bodies
from bursar.ledger.ids import uuid7
from bursar.ledger.records import Correction, Gap, Opened, Settled, encode, mended, payload_of
from bursar.ledger.spool import Spool, SpoolFullError
from bursar.types.errors import AlreadySettledError, LedgerFullError

CONTINUE = "continue"
REFUSE = "refuse"
_SEGMENT_BYTES = 32 * 1024 * 1024
# Other processes' spools grow meanwhile: how much of them there is, is measured anew now and then.
_LOOK_AGAIN_BYTES = 256 * 1024
_MOST_TOLD = 4096


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the spool directory, all processes together, in bytes: at `max_bytes` bodies are left out,
    at `hard_bytes` the policy `full` applies: `continue` or `refuse`."""

    max_bytes: int = 1024 * 1024 * 1024
    hard_bytes: int = 2048 * 1024 * 1024
    full: str = CONTINUE


class Entry(msgspec.Struct, eq=False, gc=False):
    """An open entry. `spool` is None for one that could not be taken when it was opened: a gap is counted instead."""

    opened: Opened
    spool: Spool | None
    started_ns: int
    settled: bool = False


Ended = tuple[Opened, Settled]
"""An entry's beginning and its end."""
Observer = Callable[[Sequence[Ended]], None]
"""What is told of entries that have ended, a turn of the loop's together."""


def now_us() -> int:
    """The wall clock, in microseconds since 1970."""
    return time_ns() // 1000


class Ledger:
    """Open, settle, correct. One a process; a forked child goes on with a spool of its own."""

    def __init__(
        self,
        directory: Path,
        store_id: str,
        *,
        limits: Limits,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.directory = directory
        self.store_id = store_id
        self.limits = limits
        self.bodies = Bodies()
        self._observers = tuple(observers)
        self._ended: list[Ended] = []
        self._active: Spool | None = None
        self._retiring: list[Spool] = []
        self._gap: Gap | None = None
        self._free_until = 0
        self._held: list[tuple[Spool, bytes]] = []
        self._waits: Callable[[Spool], None] | None = None
        self._unwritten: list[Spool] = []
        self._lost: set[tuple[str, int]] = set()
        self.drained: dict[str, int] = {}
        """Of each own spool, the offset up to which it is in the store; the drain keeps it."""
        self.drained_records: dict[str, int] = {}
        self.others_bytes = 0
        """What the other processes' spools hold; the drain measures it."""
        self.gap_count = 0
        self._no_room = False
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        _forget_after_fork(self)

    def begin(self) -> None:
        """Opens a spool before the first entry asks for one, so that the other processes see this one."""
        with suppress(SpoolFullError, OSError):
            self._spool()

    def stage(self, soon: Callable[[], None]) -> None:
        """From now on records are written many at a time: an entry's request, and the end of its answer, may leave when
        `write` has returned. `soon` is called where something waits for it, and sees to it that it is called.

        It is not so where the policy is to refuse: whoever asks is told by `open` that there is no room.
        """
        if self.limits.full == REFUSE:
            return

        def waits(spool: Spool) -> None:
            self._unwritten.append(spool)
            if len(self._unwritten) == 1:
                soon()

        self._waits = waits
        for spool in self.spools:
            spool.soon = waits

    def write(self) -> None:
        """Puts on disk what is staged. What the disk does not take in one piece is written record by record."""
        if self._unwritten:
            spools, self._unwritten = self._unwritten, []
            for spool in spools:
                for record in spool.write():
                    self._write_alone(spool, record)

    def open(self, opened: Opened) -> Entry:
        """Puts an entry on disk; its request may leave when this returns, or `write` where records are staged.

        Raises LedgerFullError where there is no room and the policy is to refuse; under `continue` the
        attempt is counted as part of a gap.
        """
        spool = self._active
        try:
            if spool is None or spool.end >= self._free_until:
                if self._held_bytes() >= self.limits.hard_bytes:
                    return self._without_room(opened)
                spool = self._spool()
                if not self._has_room():
                    opened = without_bodies(opened)
            try:
                payload = payload_of(opened)
            except UnicodeEncodeError:
                opened = mended(opened)
                payload = payload_of(opened)
            try:
                spool.put(payload, 1, opened)
            except SpoolFullError:
                if not opened.has_bodies:
                    raise
                opened = without_bodies(opened)
                spool.put(payload_of(opened), 1, opened)
        except (SpoolFullError, OSError):
            return self._without_room(opened)
        self._no_room = False
        if self._gap is not None:
            with suppress(SpoolFullError, OSError):
                self._write_gap()
        return Entry(opened, spool, monotonic_ns())

    def settle(self, entry: Entry, settled: Settled) -> None:
        """Settles an entry. Raises AlreadySettledError at a second time; a full disk is no reason to fail."""
        if entry.settled:
            raise AlreadySettledError(
                f"attempt {entry.opened.attempt} of call {entry.opened.call_id} is settled already"
            )
        entry.settled = True
        if entry.spool is not None and not (self._lost and self._was_lost(settled)):
            self._append_settled(entry.spool, settled)
        ended = self._ended
        ended.append((entry.opened, settled))
        count = len(ended)
        if count == 1:
            try:
                asyncio.get_running_loop().call_soon(self._tell)
            except RuntimeError:
                self._tell()
        elif count >= _MOST_TOLD:
            self._tell()  # the turn is long, or its loop is gone

    def _tell(self) -> None:
        """Tells the observers of the entries that have ended since."""
        ended, self._ended = self._ended, []
        if not ended:
            return
        for observe in self._observers:
            with suppress(
                Exception
            ):  # who watches must not change what happens: a log that cannot be written ends no call
                observe(ended)

    def correct(self, correction: Correction) -> None:
        """Records a difference to a settled entry. Raises SpoolFullError where there is no room."""
        correction = mended(correction)
        self.write()
        self._spool().append(encode(correction), 0, correction)

    @property
    def undrained_bytes(self) -> int:
        """Bytes of the own spools that are not in the store yet."""
        active = self._active
        own = active.end - self.drained.get(active.id, 0) if active is not None else 0
        if not self._retiring:
            return own
        return own + sum(s.end - self.drained.get(s.id, 0) for s in self._retiring)

    @property
    def undrained_records(self) -> int:
        return sum(s.records - self.drained_records.get(s.id, 0) for s in self.spools)

    @property
    def open_entries(self) -> int:
        return sum(s.open_entries for s in self.spools)

    @property
    def spools(self) -> list[Spool]:
        """The own spools, oldest first."""
        return [*self._retiring, self._active] if self._active is not None else self._retiring

    def _held_bytes(self) -> int:
        return self.undrained_bytes + self.others_bytes

    def _has_room(self) -> bool:
        """Whether bodies may be written; what is found is kept as an offset of the active spool, so that most
        entries have only to look at that."""
        left = min(self.limits.max_bytes, self.limits.hard_bytes) - self._held_bytes()
        spool = self._active
        self._free_until = min(spool.end + left, _SEGMENT_BYTES, spool.end + _LOOK_AGAIN_BYTES) if spool else 0
        return left > 0

    def is_full(self) -> bool:
        """Whether a new call would meet the policy now."""
        return self._no_room or self._gap is not None or self._held_bytes() >= self.limits.hard_bytes

    def tidy(self) -> None:
        """Writes what waits for room: held settlements, then the gap. The drain calls it now and then."""
        self.write()
        still: list[tuple[Spool, bytes]] = []
        for spool, frame in self._held:
            try:
                spool.append(frame, -1)
            except (SpoolFullError, OSError):
                still.append((spool, frame))
        self._held = still
        if self._no_room and self._active is not None:
            with suppress(SpoolFullError, OSError):
                self._active.make_room()
                self._no_room = False
        if self._gap is not None and self._held_bytes() < self.limits.hard_bytes:
            with suppress(SpoolFullError, OSError):
                self._write_gap()

    def retire(self) -> None:
        """Makes the active spool wait for its open entries; the next entry opens a new one."""
        if self._active is not None:
            self._retiring.append(self._active)
            self._active = None
            self._free_until = 0

    def drop(self, spool: Spool) -> None:
        """Forgets a retired spool of which everything is in the store, and removes its files."""
        self._retiring.remove(spool)
        self.drained.pop(spool.id, None)
        self.drained_records.pop(spool.id, None)
        spool.close(remove=True)

    def close(self) -> None:
        """Leaves what is not drained for the next process to adopt."""
        self._tell()
        self.tidy()
        self.retire()
        for spool in self._retiring:
            spool.close(remove=False)
        self._retiring = []

    @property
    def can_be_retired(self) -> bool:
        """Whether there is an active spool large enough to begin another."""
        return self._active is not None and self._active.end >= _SEGMENT_BYTES

    def is_active(self, spool: Spool) -> bool:
        """Whether new entries go to this spool."""
        return spool is self._active

    def forget(self) -> None:
        """In a forked child: the parent's spools stay the parent's; the child's first entry opens its own."""
        for spool in self.spools:
            spool.forget()
        self._active, self._retiring, self._held, self._gap = None, [], [], None
        self._ended, self._unwritten, self._waits = [], [], None
        self.drained.clear()
        self.drained_records.clear()

    def _spool(self) -> Spool:
        if self.can_be_retired:
            self.retire()
        if self._active is None:
            now = now_us()
            self._active = Spool(self.directory, uuid7(now), self.store_id, now)
            self._active.soon = self._waits
        return self._active

    def _append_settled(self, spool: Spool, settled: Settled) -> None:
        if spool.end >= self._free_until and not self._has_room():
            settled = without_answer(settled)
        try:
            try:
                try:
                    payload = payload_of(settled)
                except UnicodeEncodeError:
                    settled = mended(settled)
                    payload = payload_of(settled)
                if len(payload) > SHORT_BYTES and is_long(settled, payload):
                    settled = cut(settled)
                    payload = payload_of(settled)
                spool.put(payload, -1, settled)
            except (SpoolFullError, OverflowError, TypeError):
                self.write()
                if not self._was_lost(settled):
                    spool.append(bare(settled), -1)
        except (SpoolFullError, OSError):
            # Until it is written the entry stays open there, so that nobody takes the spool for finished.
            self._held.append((spool, bare(settled)))

    def _without_room(self, opened: Opened) -> Entry:
        self._no_room = True
        if self.limits.full == REFUSE:
            raise LedgerFullError
        at = opened.created_us
        gap = self._gap or Gap(0, at, at)
        self._gap = Gap(gap.count + 1, min(gap.first_us, at), max(gap.last_us, at))
        self.gap_count += 1
        return Entry(opened, None, monotonic_ns())

    def _write_alone(self, spool: Spool, record: Opened | Settled) -> None:
        """Writes a record that could not be written with others, if need be without its bodies. A beginning that the
        disk does not take is counted in the gap, an end is held."""
        is_end = isinstance(record, Settled)
        if is_end and self._was_lost(record):
            return
        for form in (encode, shortened):
            # Whatever goes wrong with one record, those behind it are to be written.
            with suppress(Exception):
                spool.append(form(record), -1 if is_end else 1)
                return
        if isinstance(record, Settled):
            self._held.append((spool, bare(record)))
        else:
            self._lost.add((record.call_id, record.attempt))
            self._without_room(record)

    def _was_lost(self, record: Opened | Settled) -> bool:
        """Whether this ends an entry that could not be written, and is counted in the gap; asked once of each."""
        key = (record.call_id, record.attempt)
        if key not in self._lost:
            return False
        self._lost.remove(key)
        return True

    def _write_gap(self) -> None:
        self.write()
        if self._gap is not None:
            self._spool().append(encode(self._gap), 0, self._gap)
            self._gap = None


def _forget_after_fork(ledger: Ledger) -> None:
    reference = weakref.ref(ledger)

    def in_child() -> None:
        inherited = reference()
        if inherited is not None:
            inherited.forget()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=in_child)

"""Moves spools into the store: batches of rows, their sums and the spool's offset in one transaction.

It runs as one task beside the calls. While the store cannot be written it waits and tries again, the spool
grows, and its state says so; when the store is back everything arrives, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import msgspec

from bursar.ledger.ledger import Ledger, now_us
from bursar.ledger.records import Span, good_records, walk
from bursar.ledger.rows import UNREADABLE, BatchBuilder
from bursar.ledger.spool import Recent, Spool
from bursar.store.port import Batch, LedgerStore, OffsetMovedError, RecordRefusedError
from bursar.types.errors import StoreError

_BATCH_RECORDS, _BATCH_BYTES = 8192, 4 * 1024 * 1024
# What is read of a spool at once: for as many bytes as a batch may be, a busy machine found the room in 28 ms.
_PIECE_BYTES, _ALONE_BYTES = 512 * 1024, 16 * 1024
# A round that moved so many records is followed by a longer wait, for many calls' rows share the pages they touch; by
# none where a good batch waits already.
_BUSY_RECORDS, _GOOD_BATCH_RECORDS = 256, 4096
_BUSY_WAIT_S = 0.2
# After so many rounds with nothing to do the drain looks more seldom.
_QUIET_ROUNDS, _QUIET_FACTOR = 20, 4
_HOUSEKEEPING_S = 0.5
# The loop is given back after so many records, or so many of their bytes: half a millisecond. A turn of a busy loop
# brings some hundred records, so that fewer would leave the drain ever further behind.
_YIELD_RECORDS = 256
_YIELD_BYTES = 256 * 1024
_LAST_ROUNDS = 3


class Source(Protocol):
    """A spool's bytes as the drain reads them, up to `end`."""

    @property
    def id(self) -> str: ...

    @property
    def end(self) -> int: ...

    def read(self, offset: int, size: int) -> bytes: ...

    @property
    def recent(self) -> Recent | None:
        """The last records, which need not be read; None where there never are any."""


class DrainState(msgspec.Struct):
    """What the drain is doing, for `/health` and metrics. `error` is why the store cannot be written now."""

    error: str | None = None
    behind_since_us: int | None = None


class Drain:
    """Drains the ledger's own spools, and any spool it is handed by `drain`."""

    def __init__(self, ledger: Ledger, store: LedgerStore, *, interval_s: float = 0.05) -> None:
        self._ledger = ledger
        self._store = store
        self._interval_s = interval_s
        self.state = DrainState()
        self._lock = asyncio.Lock()
        self._stopped = asyncio.Event()

    async def run(self, housekeeping: Callable[[], Awaitable[None]]) -> None:
        """Drains until `stop`; `housekeeping` is awaited after each round, whether the store took it or not.

        A round under way is finished first, so that no commit is cut off with its answer lost.
        """
        wait_s = self._interval_s
        quiet, away_s = 0, 0.0
        while not self._stopped.is_set():
            # Others are told how it stands also while a store that is away is waited for.
            while wait_s > _HOUSEKEEPING_S and not self._stopped.is_set():
                await self._pause(_HOUSEKEEPING_S)
                wait_s -= _HOUSEKEEPING_S
                await self._succeeds(housekeeping)
            await self._pause(wait_s)
            before = sum(self._ledger.drained_records.values())
            if await self._succeeds(self.flush):
                moved = sum(self._ledger.drained_records.values()) - before
                quiet, away_s = 0 if moved else quiet + 1, 0.0
                wait_s = self._interval_s * (1 if quiet < _QUIET_ROUNDS else _QUIET_FACTOR)
                if moved and self._ledger.undrained_records >= _GOOD_BATCH_RECORDS:
                    wait_s = 0.0
                elif moved >= _BUSY_RECORDS:
                    wait_s = max(wait_s, _BUSY_WAIT_S)
            else:
                away_s = wait_s = min(2.0, max(0.2, away_s * 2))
            await self._succeeds(housekeeping)

    async def _pause(self, wait_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), wait_s)

    def stop(self) -> None:
        """Ends `run` after its round."""
        self._stopped.set()

    async def _succeeds(self, work: Callable[[], Awaitable[None]]) -> bool:
        try:
            await work()
        except StoreError as e:
            self._failed(e.message)
            return False
        except Exception as e:
            # A fault of ours must not end the draining of everybody's entries: it is shown, and tried again.
            self._failed(f"internal error in the drain: {e!r}")
            return False
        return True

    async def flush(self) -> None:
        """Brings everything that is on the own spools now into the store. Raises StoreError."""
        async with self._lock:
            ledger = self._ledger
            ledger.tidy()
            behind, began_us = ledger.undrained_bytes > 0, now_us()
            if behind and self.state.behind_since_us is None:
                self.state.behind_since_us = began_us
            for spool in list(ledger.spools):
                await self._drain_own(spool)
            if self.state.error is not None and not behind:
                # Nothing was written that would have told: ask, or an idle server would call it away for ever.
                await self._store.probe()
            self.state.error = None
            # What waits now was appended since.
            self.state.behind_since_us = began_us if ledger.undrained_bytes else None

    async def close(self) -> None:
        """The last round of an orderly end: drains all, and closes what needs nobody any more.

        Raises StoreError where the store cannot take it: the spools then wait for the next process.
        """
        for _ in range(_LAST_ROUNDS):
            self._ledger.retire()
            await self.flush()
            if not self._ledger.spools:
                return

    async def drain(self, source: Source, offset: int, on_progress: Callable[[int, int], None]) -> int:
        """Brings a spool from `offset` to its end into the store; returns where it came to: what is appended meanwhile
        may be left. `on_progress` is told each new offset, and how many records that was. Raises StoreError."""
        until = source.end
        while offset < until:
            self._ledger.write()  # what is remembered from now on is to begin where the disk ends
            recent = source.recent
            if recent is not None and recent.start == offset and recent.both:
                try:
                    batch = await _of_recent(source.id, offset, recent)
                except UNREADABLE:
                    continue  # which of them it is, is found where each is read from the file
            else:
                if recent is not None and (not recent.both or recent.start < offset):
                    recent.begin_at(source.end)  # what follows from now on is remembered; what is before it is read
                end = recent.start if recent is not None and recent.start > offset else source.end
                batch = await _of_file(source, offset, end)
                if batch.new_offset == offset:
                    break
            # The store uses the rows up.
            new_offset, records, brought = batch.new_offset, batch.records, batch.brought
            batch.hurries = self._ledger.undrained_records >= _BATCH_RECORDS
            try:
                await self._store.apply(batch)
            except RecordRefusedError:
                offset = await self._one_by_one(source, offset, new_offset, on_progress)
            else:
                self._ledger.bodies.learn(brought)
                on_progress(new_offset, records)
                offset = new_offset
        return offset

    async def close_spool(self, spool_id: str, offset: int, batch: Batch) -> None:
        """Ends a spool whose every record is in the store, with what `batch` still settles."""
        batch.spool_id, batch.old_offset, batch.new_offset, batch.close = spool_id, offset, offset, True
        await self._store.apply(batch)

    async def _drain_own(self, spool: Spool) -> None:
        ledger = self._ledger
        offset = ledger.drained.get(spool.id, 0)
        if offset < spool.end:

            def progressed(offset: int, records: int) -> None:
                ledger.drained[spool.id] = offset
                ledger.drained_records[spool.id] = ledger.drained_records.get(spool.id, 0) + records

            try:
                offset = await self.drain(spool, offset, progressed)
            except OffsetMovedError:
                await self._read_offset_again(spool)
                return
        if not ledger.is_active(spool) and spool.open_entries == 0 and offset == spool.end:
            try:
                await self.close_spool(spool.id, offset, _empty_batch(spool.id, offset))
            except OffsetMovedError:
                state = await self._store.spool_state(spool.id)
                if state is None or state.state != "closed" or state.offset != offset:
                    await self._read_offset_again(spool)
                    return
                # It was closed by a commit whose answer was lost.
            ledger.drop(spool)

    async def _read_offset_again(self, spool: Spool) -> None:
        """Somebody, or a commit whose answer was lost, moved the offset: the store knows how far it is."""
        self._ledger.bodies.forget()
        state = await self._store.spool_state(spool.id)
        if state is not None:
            self._ledger.drained[spool.id] = state.offset
            self._ledger.drained_records[spool.id] = state.records

    async def _one_by_one(
        self, source: Source, offset: int, until: int, on_progress: Callable[[int, int], None]
    ) -> int:
        """One of the records is not to be stored: each goes alone, and the refused one is kept aside, raw. Returns
        where it came to."""
        while offset < until:
            batch = await _of_file(source, offset, source.end, 1)
            new_offset, records = batch.new_offset, batch.records
            if new_offset == offset:
                break
            try:
                await self._store.apply(batch)
            except RecordRefusedError as e:
                await self._store.apply(_set_aside(source, offset, new_offset, str(e), is_record=records > 0))
            offset = new_offset
            on_progress(offset, records)
        return offset

    def _failed(self, error: str) -> None:
        # It may be another store by the next time, one that was restored: what it holds is not known any more.
        self._ledger.bodies.forget()
        self.state.error = error
        if self.state.behind_since_us is None and self._ledger.undrained_bytes:
            self.state.behind_since_us = now_us()


def _empty_batch(spool_id: str, offset: int) -> Batch:
    return BatchBuilder(spool_id, offset, now_us()).batch


async def _of_recent(spool_id: str, offset: int, recent: Recent) -> Batch:
    """The batch of the records at hand; the loop goes on in between. They are let go of as they are laid out, not
    all at once in the end; where the store does not take them, they are read from the file."""
    builder = BatchBuilder(spool_id, offset, now_us())
    records, ends = recent.take(_BATCH_RECORDS)
    records.reverse()
    for at in range(0, len(ends), _YIELD_RECORDS):
        some = records[-_YIELD_RECORDS:]
        del records[-_YIELD_RECORDS:]
        some.reverse()
        builder.add_records(some, ends[at : at + _YIELD_RECORDS])
        await asyncio.sleep(0)
    return await _laid_out(builder)


async def _of_file(source: Source, offset: int, end: int, most: int = _BATCH_RECORDS) -> Batch:
    """The batch of up to so many records from `offset` on, read piece by piece; the loop goes on in between. It is
    empty where no record is left before `end`."""
    builder = BatchBuilder(source.id, offset, now_us())
    piece = _PIECE_BYTES if most > 1 else _ALONE_BYTES
    data, base, at, size, last = b"", offset, 0, piece, False
    while most > 0:
        payloads, ends = good_records(data, at, min(most, _YIELD_RECORDS), _YIELD_BYTES)
        if payloads:
            builder.add_good(payloads, ends, base)
            most, at = most - len(ends), ends[-1]
        elif (span := next(walk(data[at:], base + at, last=last), None)) is not None:
            builder.add(span, data, base)
            most, at = most - 1, span.end - base
        elif last or base + at - offset >= _BATCH_BYTES:
            break
        else:
            size = piece if at or not data else size * 4  # one that is longer than what was read
            base, at = base + at, 0
            asked = min(size, end - base)
            data = source.read(base, asked)
            last = base + len(data) >= end or len(data) < asked  # the latter where somebody cut the file
        await asyncio.sleep(0)
    return await _laid_out(builder)


async def _laid_out(builder: BatchBuilder) -> Batch:
    while builder.lays_out():  # noqa: ASYNC110  # nothing is waited for: the loop is given back
        await asyncio.sleep(0)
    return builder.batch


def _set_aside(source: Source, offset: int, end: int, refused: str, *, is_record: bool) -> Batch:
    builder = BatchBuilder(source.id, offset, now_us())
    data = source.read(offset, end - offset)
    builder.add(Span(offset, end, data if is_record else None, "damaged"), data, offset, refused=refused)
    return builder.batch

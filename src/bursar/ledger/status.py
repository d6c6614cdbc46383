"""What the ledger's processes tell each other: each shows its status in its spool's lock file.

`/health` and the bounds of the spool directory are about all processes together; this is how.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from bursar.ledger.drain import Drain
from bursar.ledger.ledger import Ledger, now_us
from bursar.ledger.locks import is_held, read_status
from bursar.ledger.spool import LOCK_SUFFIX, SUFFIX


class Status(msgspec.Struct, kw_only=True):
    """One process's ledger: what waits in its spools, and for how long; `error` is the store's. `loop_gap_s` is
    the longest time of late in which its event loop was busy with one thing; `versions` are those of what it follows
    in the store, by name."""

    pid: int
    records: int
    bytes: int
    lag_s: float
    open_entries: int
    gap: int
    full: bool
    error: str | None = None
    loop_gap_s: float = 0.0
    versions: dict[str, int] = {}


class Overview(msgspec.Struct, kw_only=True):
    """All processes together; `orphans` are spools that wait to be adopted."""

    processes: int
    records: int
    bytes: int
    lag_s: float
    open_entries: int
    gap: int
    orphans: int
    full: bool
    error: str | None
    loop_gap_s: float


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Status).decode


def own(ledger: Ledger, drain: Drain, pid: int, loop_gap_s: float, versions: dict[str, int]) -> Status:
    """This process's status now."""
    since = drain.state.behind_since_us
    return Status(
        pid=pid,
        records=ledger.undrained_records,
        bytes=ledger.undrained_bytes,
        lag_s=round((now_us() - since) / 1e6, 3) if since is not None else 0.0,
        open_entries=ledger.open_entries,
        gap=ledger.gap_count,
        full=ledger.is_full(),
        error=drain.state.error,
        loop_gap_s=loop_gap_s,
        versions=versions,
    )


def publish(ledger: Ledger, status: Status) -> None:
    """Shows the status to the other processes."""
    text = _encode(status)
    if len(text) > 4000:
        text = _encode(msgspec.structs.replace(status, error=(status.error or "")[:500]))
    # In every own lock file: an old status in one of them would stand against the new one.
    for spool in ledger.spools:
        spool.lock.write_status(text)


def others(ledger: Ledger) -> tuple[list[Status], int, int]:
    """The statuses of the other processes, and how many spools, of how many bytes, nobody owns."""
    mine = {spool.id for spool in ledger.spools}
    statuses: dict[int, Status] = {}
    orphans = orphan_bytes = 0
    for path in ledger.directory.glob(f"*{LOCK_SUFFIX}"):
        spool_id = path.name.removesuffix(LOCK_SUFFIX)
        if path.name.startswith(".") or spool_id in mine:
            continue
        if not is_held(path):
            orphans += 1
            orphan_bytes += _size(path.with_name(spool_id + SUFFIX))
            continue
        try:
            status = _decode(read_status(path))
        except msgspec.MsgspecError:
            continue
        statuses[status.pid] = status
    return list(statuses.values()), orphans, orphan_bytes


def overview(mine: Status, rest: list[Status], orphans: int) -> Overview:
    """All statuses in one."""
    every = [mine, *rest]
    return Overview(
        processes=len(every),
        records=sum(s.records for s in every),
        bytes=sum(s.bytes for s in every),
        lag_s=max(s.lag_s for s in every),
        open_entries=sum(s.open_entries for s in every),
        gap=sum(s.gap for s in every),
        orphans=orphans,
        full=any(s.full for s in every),
        error=next((s.error for s in every if s.error is not None), None),
        loop_gap_s=max(s.loop_gap_s for s in every),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

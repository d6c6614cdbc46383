"""The spool on disk: what a killed process, a full disk and a flipped byte leave, and what is read of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.ledger import records
from bursar.ledger.bodies import Bodies
from bursar.ledger.ids import uuid7
from bursar.ledger.ledger import Entry, Ledger, Limits
from bursar.ledger.locks import SpoolLock, is_held
from bursar.ledger.records import SETTLE_RESERVE, Correction, Gap, Opened, Settled, SpoolHeader, encode, walk
from bursar.ledger.spool import Spool, SpoolFullError
from bursar.types.errors import AlreadySettledError, LedgerFullError
from bursar.wire.assemble import encode_json

_ASKED = b'{"messages":[{"role":"user"}]}'


def opened(
    call_id: str = "c",
    attempt: int = 1,
    *,
    request: bytes | None = _ASKED,
    bodies: Bodies | None = None,
    workspace: str = "default",
    **more: object,
) -> Opened:
    """An entry's beginning, for a request's bytes; `bodies` is the ledger's that it is opened in."""
    new: dict[bytes, str] = {}
    refs, params = None, None
    if request is not None:
        names = bodies or Bodies()
        fields = json.loads(request) if request.startswith(b"{") else {}
        inputs = [encode_json(message) for message in fields.pop("messages", [])]
        refs = names.names(workspace, inputs, new)
        params = names.name(workspace, encode_json(fields) if request.startswith(b"{") else request, new)
    values: dict[str, object] = {
        "call_id": call_id, "attempt": attempt, "created_us": 1_000_000, "method_type": "chat_completion",
        "workspace": workspace, "user_id": None, "session_id": None, "turn": None, "request_id": None,
        "function": None, "purpose": None, "tags": {}, "key_id": None, "provider": "up", "provider_type": "openai",
        "provider_url": "http://x", "requested_model": "m", "model": "m", "reason": "named",
        "idempotency_key": None, "client_retries": None, "dropped": None, "request_bytes": 2, "input_refs": refs, "params_ref": params,
        "bodies": new,
    }  # fmt: skip
    return Opened(**{**values, **more})  # type: ignore[arg-type]


def settled(
    call_id: str = "c",
    attempt: int = 1,
    *,
    output: bytes | None = b'{"a": 1}',
    workspace: str = "default",
    **more: object,
) -> Settled:
    """An entry's end, with the bytes of an answer."""
    values: dict[str, object] = {
        "call_id": call_id, "attempt": attempt, "workspace": workspace, "status": "completed",
        "completed_us": 2_000_000, "response_time_ms": 5, "prompt_tokens": 3, "completion_tokens": 4,
        "total_tokens": 7, "usage_source": "provider", "output": output.decode() if output is not None else None,
    }  # fmt: skip
    return Settled(**{**values, **more})  # type: ignore[arg-type]


FRAMES = [
    encode(SpoolHeader("s", "store", 1, 1)),
    encode(opened()),
    encode(settled()),
    encode(Gap(3, 1, 2)),
    encode(opened("d")),
]
WHOLE = b"".join(FRAMES)
ENDS = [sum(map(len, FRAMES[: n + 1])) for n in range(len(FRAMES))]


def test_records_come_back_as_they_were() -> None:
    for record in (SpoolHeader("s", "store", 1, 1), opened(tags={"a": "b"}), settled(), Gap(3, 1, 2)):
        (span,) = walk(encode(record))
        assert span.payload is not None
        assert records.decode(span.payload) == record


def test_text_that_utf8_cannot_hold_is_mended_not_refused() -> None:
    (span,) = walk(encode(opened(user_id="a\ud83d", tags={"k\ud83d": "\ude00"})))
    assert span.payload is not None
    assert records.decode(span.payload).user_id == "a�"  # type: ignore[union-attr]


@given(st.integers(0, len(WHOLE)), st.integers(0, 64))
def test_a_torn_tail_ends_a_spool_and_costs_no_record_before_it(cut: int, zeros: int) -> None:
    spans = list(walk(WHOLE[:cut] + b"\0" * zeros))
    good = [s for s in spans if s.payload is not None]
    assert [s.end for s in good] == [e for e in ENDS if e <= cut]
    left = WHOLE[good[-1].end if good else 0 : cut].rstrip(b"\0")
    assert [s.fault for s in spans if s.payload is None] == (["torn"] if left else [])


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_costs_its_own_record_only_and_is_named(at: int, flip: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[at] ^= flip
    spans = list(walk(bytes(damaged)))
    hit = next(n for n, end in enumerate(ENDS) if at < end)
    assert [s.end for s in spans if s.payload is not None] == [e for n, e in enumerate(ENDS) if n != hit]
    faults = [s for s in spans if s.payload is None]
    assert len(faults) == 1
    # Only the very last byte of the file can look as though it had never been written.
    assert faults[0].fault == "damaged" or at == len(WHOLE) - 1
    assert (spans[0].start, spans[-1].end) == (0, len(bytes(damaged).rstrip(b"\0")))


@given(st.integers(0, len(WHOLE)), st.integers(0, 40))
def test_a_part_of_a_spool_gives_its_whole_records_and_waits_for_the_rest(cut: int, zeros: int) -> None:
    spans = list(walk(WHOLE[:cut], last=False))
    assert all(s.payload is not None for s in spans)
    assert [s.end for s in spans] == [e for e in ENDS if e <= cut]
    assert not list(walk(b"\0" * zeros))


@given(st.integers(1, 200))
def test_what_looks_like_a_record_inside_another_that_goes_on_is_not_taken_for_one(cut: int) -> None:
    damaged = bytearray(FRAMES[1])
    damaged[len(damaged) // 2] ^= 0x5A
    outer = records.framed(b"before" + FRAMES[3] + b"x" * 200)
    data = bytes(damaged) + outer
    assert list(walk(data[:-cut], last=False)) == []  # more is to be read before anything is said of it
    spans = list(walk(data))
    assert [(s.start, s.end, s.fault) for s in spans] == [
        (0, len(damaged), "damaged"),
        (len(damaged), len(data), None),
    ]


def test_ids_sort_by_time_and_are_version_7() -> None:
    ids = [uuid7(1_700_000_000_000_000 + us) for us in range(0, 100_000, 333)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert all(i[14] == "7" and i[19] in "89ab" and len(i) == 36 for i in ids)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "spool", "store", limits=Limits())


def _spans(ledger: Ledger) -> list[object]:
    (spool,) = ledger.spools
    return [records.decode(s.payload) if s.payload is not None else s for s in walk(spool.path.read_bytes())]


def test_an_entry_is_on_disk_when_open_returns_and_settled_when_settle_does(ledger: Ledger) -> None:
    entry = ledger.open(opened())
    assert _spans(ledger)[1:] == [opened()]
    ledger.settle(entry, settled())
    assert _spans(ledger)[1:] == [opened(), settled()]


def test_an_entry_is_settled_once(ledger: Ledger) -> None:
    entry = ledger.open(opened())
    ledger.settle(entry, settled())
    with pytest.raises(AlreadySettledError, match="attempt 1 of call c"):
        ledger.settle(entry, settled())
    assert len(_spans(ledger)) == 3


def test_the_spool_directory_is_its_owners_alone(ledger: Ledger) -> None:
    ledger.begin()
    assert ledger.directory.stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in ledger.directory.iterdir())


def test_every_open_entry_keeps_room_for_its_end(ledger: Ledger) -> None:
    entries = [ledger.open(opened(str(n), request=None)) for n in range(50)]
    (spool,) = ledger.spools
    assert spool.path.stat().st_size >= spool.end + 50 * SETTLE_RESERVE
    for n, entry in enumerate(entries):
        ledger.settle(entry, settled(str(n)))
    assert len(_spans(ledger)) == 101


def test_the_longest_end_fits_the_room_kept_for_it(ledger: Ledger) -> None:
    entry = ledger.open(opened())
    before = ledger.spools[0].end
    long = "\N{GRINNING FACE}" * 100_000
    ledger.settle(
        entry,
        settled(error_message=long, error_code=long, finish_reason=long, provider_response_id=long, served_model=long,
                raw_usage="x" * 2048, output=None, prompt_tokens=2**53, total_tokens=2**53),
    )  # fmt: skip
    assert ledger.spools[0].end - before <= SETTLE_RESERVE


def test_a_forked_child_writes_its_own_spool_and_leaves_its_parents_lock(ledger: Ledger) -> None:
    entry = ledger.open(opened("parent"))
    (parents,) = ledger.spools

    def child() -> None:
        assert ledger.spools == []
        ledger.settle(ledger.open(opened("child")), settled("child"))
        os._exit(0 if ledger.spools[0].id != parents.id else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert is_held(parents.lock.path)
    ledger.settle(entry, settled("parent"))
    assert [r.call_id for r in _spans(ledger)[1:]] == ["parent", "parent"]  # type: ignore[attr-defined]
    others = [p for p in ledger.directory.glob("*.lock") if p != parents.lock.path]
    assert len(others) == 1
    assert not is_held(others[0])


def test_a_lock_is_held_by_one_and_given_back_when_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    lock = SpoolLock.create(path)
    assert is_held(path)
    assert SpoolLock.take(path) is None
    lock.release()
    assert not is_held(path)
    taken = SpoolLock.take(path)
    assert taken is not None
    taken.remove()
    assert SpoolLock.take(path) is None


def test_bodies_are_left_out_at_the_first_bound_and_entries_stay(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "s", "store", limits=Limits(max_bytes=4000, hard_bytes=10**9))
    for n in range(20):
        ledger.settle(ledger.open(opened(str(n), request=b'"' + b"x" * 1000 + b'"')), settled(str(n)))
    found = _spans(ledger)[1:]
    assert len(found) == 40
    with_body = [r.params_ref is not None for r in found[::2]]  # type: ignore[attr-defined]
    assert with_body == sorted(with_body, reverse=True)
    assert 0 < sum(with_body) < 10
    assert all(r.output is None for r in found[-10::2] + found[-9::2] if isinstance(r, Settled))


def test_at_the_hard_bound_refuse_refuses_and_running_entries_settle(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "s", "store", limits=Limits(max_bytes=2000, hard_bytes=3000, full="refuse"))
    entries = []
    with pytest.raises(LedgerFullError, match="no room"):
        for n in range(100):
            entries.append(ledger.open(opened(str(n))))
    for n, entry in enumerate(entries):
        ledger.settle(entry, settled(str(n)))
    assert len(_spans(ledger)) == 1 + 2 * len(entries)
    assert ledger.is_full()


def test_at_the_hard_bound_continue_counts_a_gap_and_writes_it_when_there_is_room(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "s", "store", limits=Limits(max_bytes=2000, hard_bytes=3000, full="continue"))
    entries = [ledger.open(opened(str(n), created_us=1000 + n)) for n in range(30)]
    lost = [n for n, e in enumerate(entries) if e.spool is None]
    assert 0 < len(lost) < 30
    assert ledger.is_full()
    for n, entry in enumerate(entries):
        ledger.settle(entry, settled(str(n)))
    (spool,) = ledger.spools
    ledger.drained[spool.id] = spool.end  # the store has taken all
    ledger.tidy()
    assert not ledger.is_full()
    assert _spans(ledger)[-1] == Gap(len(lost), 1000 + lost[0], 1000 + lost[-1])
    assert ledger.gap_count == len(lost)


def test_a_short_write_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, "s", "store", 1)
    spool.append(encode(Gap(1, 1, 1)))
    end, write = spool.end, os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, data[: len(data) // 2], at))
    with pytest.raises(SpoolFullError, match="only a part"):
        spool.append(encode(Gap(2, 1, 1)))
    monkeypatch.undo()
    assert spool.end == end
    spool.append(encode(Gap(3, 1, 1)))
    found = [records.decode(s.payload) for s in walk(spool.path.read_bytes()) if s.payload is not None]
    assert found[1:] == [Gap(1, 1, 1), Gap(3, 1, 1)]


def _cannot(*_given: object) -> None:
    raise OSError(5, "the disk is broken")


class _Staged:
    """A ledger that writes what was staged when the test says that a turn of the loop has ended."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.ledger = Ledger(folder, "store", limits=Limits(**limits))
        self.asked = 0
        self.ledger.stage(self._soon)

    def _soon(self) -> None:
        self.asked += 1

    def found(self) -> list[object]:
        return _spans(self.ledger)[1:]


def test_what_is_staged_is_on_disk_when_write_returns_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = _Staged(tmp_path)
    books.ledger.begin()
    writes, write = [], os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: writes.append(len(data)) or write(fd, data, at))
    for turn in (1, 2):
        kept = [(opened(f"{turn}-{n}"), settled(f"{turn}-{n}")) for n in range(3)]
        before = books.found()
        for begun, ended in kept:
            books.ledger.settle(books.ledger.open(begun), ended)
        assert books.found() == before
        assert (books.asked, len(writes)) == (turn, turn - 1)
        books.ledger.write()
        assert books.found() == [*before, *(record for pair in kept for record in pair)]
        assert len(writes) == turn
    (spool,) = books.ledger.spools
    assert (spool.records, spool.open_entries) == (13, 0)
    assert spool.recent.take(100)[0][1:] == books.found()
    books.ledger.write()
    assert len(writes) == 2


@given(st.lists(st.sampled_from(["open", "settle", "long", "write", "correct", "drain", "retire"]), max_size=40))
def test_what_is_staged_becomes_the_same_spools(steps: list[str]) -> None:
    with TemporaryDirectory() as folder:
        at_once = Ledger(Path(folder, "a"), "store", limits=Limits())
        stages = _Staged(Path(folder, "b")).ledger
        spools: dict[Ledger, list[Spool]] = {at_once: [], stages: []}
        for ledger in (at_once, stages):
            entries: list[Entry] = []
            for n, step in enumerate(steps):
                if step in ("open", "long"):
                    asked = b'"' + b"x" * (20_000 if step == "long" else 10) + b'"'
                    entries.append(ledger.open(opened(str(n), request=asked)))
                elif step == "settle" and entries:
                    entry = entries.pop(0)
                    ledger.settle(entry, settled(entry.opened.call_id))
                elif step == "write":
                    ledger.write()
                elif step == "correct":
                    ledger.correct(Correction(call_id="c", attempt=1, created_us=n, reason="r"))
                elif step == "drain":
                    ledger.tidy()
                elif step == "retire":
                    ledger.retire()
            spools[ledger] = list(ledger.spools)
            ledger.write()
        both = []
        for ledger in (at_once, stages):
            both.append([])
            for spool in spools[ledger]:
                data = spool.read(0, 10**9)
                assert spool.path.read_bytes().rstrip(b"\0") == data
                found = [records.decode(s.payload) for s in walk(data) if s.payload is not None]
                assert len(found) == spool.records
                both[-1].append((found[1:], len(data), spool.open_entries, spool.recent.take(10**6)[0][1:]))
            ledger.close()
        assert both[0] == both[1]


@pytest.mark.parametrize("can_be_cut", [True, False])
def test_a_disk_that_does_not_take_what_it_had_room_for_makes_a_gap_and_ends_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, can_be_cut: bool
) -> None:
    books = _Staged(tmp_path)
    ledger = books.ledger
    before = ledger.open(opened("before"))
    ledger.write()
    lost = [ledger.open(opened(f"lost-{n}", created_us=n)) for n in range(4)]
    ledger.settle(lost[0], settled("lost-0"))
    ledger.settle(before, settled("before"))
    (spool,) = ledger.spools
    write, size = os.pwrite, len(spool.path.read_bytes())
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, data[: len(data) // 2], at))
    if not can_be_cut:
        monkeypatch.setattr(os, "ftruncate", _cannot)
    ledger.write()
    assert (ledger.gap_count, ledger.is_full(), spool.open_entries) == (4, True, 1)
    assert len(spool.path.read_bytes()) >= size  # the kept room is there again
    assert [r for r in books.found() if isinstance(r, Opened)][:1] == [before.opened]
    ledger.settle(lost[1], settled("lost-1"))
    ledger.write()
    monkeypatch.undo()
    ledger.settle(lost[2], settled("lost-2"))
    after = ledger.open(opened("after"))
    ledger.settle(after, settled("after"))
    ledger.settle(lost[3], settled("lost-3"))
    ledger.tidy()
    ledger.write()
    assert (ledger.gap_count, ledger.is_full(), spool.open_entries) == (4, False, 0)
    found = books.found()
    assert found.count(Gap(4, 0, 3)) == 1
    ends = [r.call_id for r in found if isinstance(r, Settled)]
    assert sorted(ends) == ["after", "before"]
    assert [r.call_id for r in found if isinstance(r, Opened)] == ["before", "after"]
    with pytest.raises(AlreadySettledError):
        ledger.settle(lost[3], settled("lost-3"))


@pytest.mark.parametrize("fails", ["a short write", "memory"])
def test_what_cannot_be_written_together_is_written_record_by_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    books = _Staged(tmp_path)
    ledger = books.ledger
    before = ledger.open(opened("before"))
    ledger.write()
    kept = [ledger.open(opened(str(n))) for n in range(5)]
    ledger.settle(before, settled("before"))
    ledger.settle(kept[0], settled("0"))
    write, pieces = os.pwrite, []

    def pwrite(fd: int, data: bytes, at: int) -> int:
        pieces.append(len(data))
        return write(fd, data[:300] if len(pieces) == 1 and fails == "a short write" else data, at)

    def no_memory(*_given: object) -> None:
        raise MemoryError

    monkeypatch.setattr(os, "pwrite", pwrite)
    if fails == "memory":
        monkeypatch.setattr("bursar.ledger.spool.frames_of", no_memory)
    ledger.write()
    assert books.found() == [before.opened, *(e.opened for e in kept), settled("before"), settled("0")]
    assert len(pieces) == 8 - (fails == "memory")
    (spool,) = ledger.spools
    assert (ledger.gap_count, spool.open_entries, spool.records, ledger.is_full()) == (0, 4, 9, False)


def test_an_end_that_cannot_be_staged_is_not_written_where_its_beginning_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = _Staged(tmp_path)
    ledger = books.ledger
    other = ledger.open(opened("other"))
    ledger.write()
    entry = ledger.open(opened("lost"))
    monkeypatch.setattr(os, "pwrite", _cannot)
    ledger.settle(entry, settled("lost", prompt_tokens=2**70))  # no record can say that
    monkeypatch.undo()
    ledger.tidy()
    (spool,) = ledger.spools
    assert (ledger.gap_count, spool.open_entries) == (1, 1)
    assert books.found() == [other.opened, Gap(1, 1_000_000, 1_000_000)]


def test_what_is_lost_when_the_ledger_closes_is_told_in_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = _Staged(tmp_path)
    books.ledger.begin()
    books.ledger.open(opened("lost"))
    write, asked = os.pwrite, []

    def pwrite(fd: int, data: bytes, at: int) -> int:
        asked.append(len(data))
        return write(fd, data, at) if len(asked) > 3 else 0

    monkeypatch.setattr(os, "pwrite", pwrite)
    books.ledger.close()
    (path,) = tmp_path.glob("*.spool")
    found = [records.decode(s.payload) for s in walk(path.read_bytes()) if s.payload is not None]
    assert found[1:] == [Gap(1, 1_000_000, 1_000_000)]


def test_where_the_policy_is_to_refuse_nothing_is_staged(tmp_path: Path) -> None:
    books = _Staged(tmp_path, full="refuse")
    entry = books.ledger.open(opened())
    assert books.found() == [entry.opened]
    assert books.asked == 0


def test_a_forked_child_writes_nothing_of_what_its_parent_staged(tmp_path: Path) -> None:
    books = _Staged(tmp_path)
    kept = books.ledger.open(opened("mine")).opened
    pid = os.fork()
    if pid == 0:
        books.ledger.write()
        books.ledger.open(opened("child's"))  # its parent's turns are not its own: it is written at once
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert books.found() == []
    books.ledger.close()
    both = [
        [records.decode(s.payload) for s in walk(path.read_bytes()) if s.payload is not None][1:]
        for path in tmp_path.glob("*.spool")
    ]
    assert sorted([r.call_id for r in some] for some in both) == [["child's"], ["mine"]]  # type: ignore[union-attr]
    assert [kept] in both


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a small disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("policy", ["continue", "refuse"])
def test_a_full_disk_is_met_at_open_and_every_running_entry_settles(small_disk: Path, policy: str) -> None:
    ledger = Ledger(small_disk / "s", "store", limits=Limits(full=policy))
    entries = [ledger.open(opened(str(n))) for n in range(20)]
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)
    late = []
    if policy == "refuse":
        with pytest.raises(LedgerFullError):
            for _ in range(500):
                late.append(ledger.open(opened("late")))
        assert ledger.is_full()
    else:
        late = [ledger.open(opened("late")) for _ in range(500)]
        assert any(e.spool is None for e in late)
    for n, entry in enumerate(entries):
        ledger.settle(entry, settled(str(n)))
    kept = [e for e in late if e.spool is not None]
    for entry in kept:
        ledger.settle(entry, settled("late"))
    found = _spans(ledger)[1:]
    assert sum(isinstance(r, Settled) for r in found) == 20 + len(kept)
    ballast.unlink()
    ledger.tidy()
    again = ledger.open(opened("after"))
    assert again.spool is not None
    assert not ledger.is_full()
    if policy == "continue":
        assert Gap in [type(r) for r in _spans(ledger)]


def test_records_of_an_older_version_are_still_read() -> None:
    """New fields are added at the end only: a shorter array is an older record."""
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(settled()))
    older = msgspec.msgpack.encode(fields[:8])
    record = records.decode(older)
    assert isinstance(record, Settled)
    assert (record.call_id, record.usage_source) == ("c", "none")


def test_a_record_is_staged_also_where_nobody_can_be_told_that_it_waits(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "store", limits=Limits())

    def soon() -> None:
        if is_gone:
            raise RuntimeError("Event loop is closed")

    is_gone = False
    ledger.stage(soon)
    entry = ledger.open(opened("a"))
    ledger.write()
    is_gone = True
    with pytest.raises(RuntimeError):
        ledger.settle(entry, settled("a"))
    (spool,) = ledger.spools
    ledger.tidy()
    assert (spool.open_entries, spool.records) == (0, 3)
    ledger.close()


settings.register_profile("bursar", deadline=None)
settings.load_profile("bursar")

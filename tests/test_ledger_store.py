"""Spool into store: once, in one transaction, whatever fails in between; and `verify`, which tells what does not hold."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.ledger.adopt import Adopter
from bursar.ledger.bodies import Bodies
from bursar.ledger.drain import Drain, _of_file, _of_recent
from bursar.ledger.ledger import Ledger, Limits
from bursar.ledger.records import Correction, Gap, Record, encode, walk
from bursar.ledger.rows import BatchBuilder
from bursar.ledger.spool import Spool, SpoolFullError
from bursar.ledger.verify import Report, Verifier
from bursar.store.engine import Database
from bursar.store.ledger_sql import SqlLedgerStore, _stretches
from bursar.store.port import TAKES_SAME, Batch, RecordRefusedError
from bursar.store.proof import Proof
from bursar.store.schema import prepare
from bursar.types.errors import StoreError
from test_ledger_spool import opened, settled


class Books:
    """A ledger, its store and its drain, driven by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = Database(f"sqlite:///{folder}/l.db")

    async def begin(self) -> Books:
        self.store_id = await prepare(self.database)
        self.store = SqlLedgerStore(self.database)
        self.ledger = self.new_ledger()
        self.drain = Drain(self.ledger, self.store)
        return self

    def new_ledger(self, **limits: Any) -> Ledger:
        return Ledger(self.folder / "spool", self.store_id, limits=Limits(**limits))

    def adopter(self, store_id: str | None = None) -> Adopter:
        return Adopter(self.ledger.directory, store_id or self.store_id, self.store, self.drain)

    def call(self, call_id: str, *, settle: bool = True, **more: Any) -> None:
        known = {*opened().__struct_fields__, "request"}
        asked = {k: v for k, v in more.items() if k in known}
        entry = self.ledger.open(opened(call_id, bodies=self.ledger.bodies, **asked))
        if settle:
            own = {k: v for k, v in more.items() if k in settled().__struct_fields__ and k != "bodies"}
            self.ledger.settle(entry, settled(call_id, **own))

    def rows(self, sql: str, *values: Any) -> list[Any]:
        with sqlite3.connect(self.folder / "l.db") as c:
            c.row_factory = sqlite3.Row
            return [dict(r) for r in c.execute(sql, values)]

    def change(self, sql: str, *values: Any) -> None:
        with sqlite3.connect(self.folder / "l.db") as c:
            assert c.execute(sql, values).rowcount > 0

    async def verify(self) -> Report:
        return await Verifier(Proof(self.database), self.folder / "spool", self.store_id).verify()

    async def names(self) -> set[str]:
        return {f.name for f in (await self.verify()).findings}


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    made = await Books(tmp_path).begin()
    yield made
    await made.database.close()


async def test_rows_sums_and_offset_are_written_together(books: Books) -> None:
    for n in range(700):
        books.call(f"c{n}", user_id=f"u{n % 3}", session_id="s", purpose="chat.answer")
    await books.drain.flush()
    (spool,) = books.ledger.spools
    assert books.rows("select count(*) n, sum(total_tokens) t from ledger_entries") == [{"n": 700, "t": 4900}]
    sums = books.rows(
        "select scope, sum(calls) n, sum(total_tokens) t from ledger_rollups group by scope order by scope"
    )
    assert sums == [{"scope": s, "n": 700, "t": 4900} for s in ("all", "session", "user")]
    state = await books.store.spool_state(spool.id)
    assert state is not None
    assert (state.offset, state.records, state.entries) == (spool.end, 1401, 700)
    assert (await books.verify()).is_green


async def test_an_entry_that_settles_later_becomes_one_row_in_the_hour_it_was_opened(books: Books) -> None:
    entry = books.ledger.open(opened("late", created_us=3_600_000_000 * 5))
    await books.drain.flush()
    assert [r["status"] for r in books.rows("select status from ledger_entries")] == ["started"]
    assert books.rows("select * from ledger_rollups") == []
    assert (await books.verify()).is_green
    books.ledger.settle(entry, settled("late", completed_us=3_600_000_000 * 9))
    await books.drain.flush()
    assert books.rows("select status, hour from ledger_entries") == [{"status": "completed", "hour": 5}]
    assert [r["hour"] for r in books.rows("select hour from ledger_rollups")] == [5, 5, 5]
    assert (await books.verify()).is_green


async def test_one_bad_row_does_not_take_its_batch_with_it(books: Books) -> None:
    books.call("a", user_id="with a \0 in it")
    books.call("bad", usage_source="a guess")  # the store refuses it
    books.call("b")
    books.ledger.correct(Correction(call_id="a", attempt=1, created_us=1, reason="huge", total_tokens=2**63))
    await books.drain.flush()
    found = books.rows("select call_id, status from ledger_entries order by call_id")
    assert found == [
        {"call_id": "a", "status": "completed"},
        {"call_id": "b", "status": "completed"},
        {"call_id": "bad", "status": "started"},
    ]
    rejects = books.rows("select reason, detail, length(raw) n from ledger_rejects order by start")
    assert [r["reason"] for r in rejects] == ["refused", "refused"]
    assert "usage_source" in rejects[0]["detail"]
    assert all(r["n"] > 0 for r in rejects)
    assert await books.names() == {"reject"}


async def test_a_second_entry_of_one_attempt_and_a_second_end_are_kept_aside(books: Books) -> None:
    books.call("a")
    (spool,) = books.ledger.spools
    spool.append(encode(opened("a")))
    spool.append(encode(settled("a", status="failed")))
    spool.append(encode(settled("nobody")))
    await books.drain.flush()
    assert books.rows("select status from ledger_entries") == [{"status": "completed"}]
    assert len(books.rows("select * from ledger_rejects")) == 3
    assert await books.names() == {"reject"}


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_commit_that_fails_or_whose_answer_is_lost_counts_nothing_twice(
    books: Books, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    apply, failed = books.store.apply, []

    async def unlucky(batch: Any) -> None:
        if len(failed) < 3:
            failed.append(1)
            if moment == "after":
                await apply(batch)
            raise StoreError("gone")
        await apply(batch)

    monkeypatch.setattr(books.store, "apply", unlucky)
    for n in range(10):
        books.call(f"c{n}")
        try:
            await books.drain.flush()
        except StoreError:
            continue
    await books.drain.flush()
    await books.drain.flush()
    assert len(failed) == 3
    assert books.rows("select count(*) n from ledger_entries where status = 'completed'") == [{"n": 10}]
    assert books.rows("select * from ledger_rejects") == []
    assert (await books.verify()).is_green


async def test_a_spool_whose_owner_is_gone_is_adopted_and_what_was_open_is_interrupted(books: Books) -> None:
    books.call("done")
    books.call("open", settle=False)
    await books.drain.flush()
    books.call("later", settle=False)
    books.call("done too")
    path = books.ledger.spools[0].path
    books.ledger.close()
    before = await books.verify()
    assert before.is_green
    assert "waits to be adopted" in before.notes[0]
    assert await books.adopter("another store").look() == []
    assert [n for _, n in await books.adopter().look()] == [2]
    rows = books.rows("select call_id, status, total_tokens, usage_source from ledger_entries order by call_id")
    assert [(r["call_id"], r["status"], r["total_tokens"]) for r in rows] == [
        ("done", "completed", 7),
        ("done too", "completed", 7),
        ("later", "interrupted", None),
        ("open", "interrupted", None),
    ]
    assert not path.exists()
    assert list(books.ledger.directory.iterdir()) == []
    assert (await books.verify()).is_green
    assert await books.adopter().look() == []


async def test_a_spool_that_somebody_holds_is_not_adopted(books: Books) -> None:
    books.call("open", settle=False)
    assert await books.adopter().look() == []
    assert books.ledger.spools[0].path.exists()


@pytest.mark.parametrize("step", ["apply", "open_entries", "unlink"])
async def test_an_adoption_that_is_cut_off_is_begun_again(
    books: Books, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    for n in range(3):
        books.call(f"c{n}", settle=n > 0)
    books.ledger.close()

    async def cut_off(*_: Any) -> Any:
        raise StoreError("cut off")

    if step == "unlink":
        monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError("cut off")))
    else:
        monkeypatch.setattr(books.store, step, cut_off)
    with pytest.raises((StoreError, OSError)):
        await books.adopter().look()
    monkeypatch.undo()
    await books.adopter().look()
    assert books.rows("select status, count(*) n from ledger_entries group by status order by status") == [
        {"status": "completed", "n": 2},
        {"status": "interrupted", "n": 1},
    ]
    assert (await books.verify()).is_green
    assert list(books.ledger.directory.iterdir()) == []


async def test_a_torn_tail_ends_an_adopted_spool_without_alarm(books: Books) -> None:
    books.call("a")
    path = books.ledger.spools[0].path
    books.ledger.close()
    with path.open("ab") as file:
        file.write(encode(opened("torn"))[:40] + bytes(100))
    await books.adopter().look()
    report = await books.verify()
    assert report.is_green
    assert any("never written to its end" in note for note in report.notes)
    assert books.rows("select reason from ledger_rejects") == [{"reason": "torn"}]


async def test_a_bad_record_with_good_ones_behind_it_is_kept_aside_and_the_rest_drained(books: Books) -> None:
    for n in range(4):
        books.call(f"c{n}")
    path, ends = books.ledger.spools[0].path, books.ledger.spools[0].end
    books.ledger.close()
    data = bytearray(path.read_bytes())
    data[ends // 2] ^= 0xFF
    path.write_bytes(data)
    await books.adopter().look()
    assert books.rows("select count(*) n from ledger_entries")[0]["n"] >= 3
    assert books.rows("select reason from ledger_rejects")[0] == {"reason": "damaged"}
    assert "reject" in await books.names()


async def test_an_offset_moved_back_counts_nothing_twice_and_is_named(books: Books) -> None:
    for n in range(5):
        books.call(f"c{n}", usage_source="a guess" if n == 2 else "provider")
    await books.drain.flush()
    _to_first_boundary(books)
    books.call("after")
    await books.drain.flush()
    await books.drain.flush()
    assert books.rows("select count(*) n, sum(total_tokens) t from ledger_entries") == [{"n": 6, "t": 35}]
    assert books.rows("select sum(total_tokens) t from ledger_rollups where scope = 'all'") == [{"t": 35}]
    assert "reject" in await books.names()


async def test_a_store_that_is_back_is_said_to_be_back_though_nothing_waits(books: Books) -> None:
    books.call("a")
    await books.drain.flush()
    books.drain.state.error = "it was locked"
    with sqlite3.connect(books.folder / "l.db", isolation_level=None) as c:
        c.execute("begin exclusive")
        with pytest.raises(StoreError):
            await books.drain.flush()
        c.execute("rollback")
    await books.drain.flush()
    assert books.drain.state.error is None


async def test_counts_too_large_for_their_sums_stop_no_drain(books: Books) -> None:
    for n in range(3):
        books.call(f"huge{n}", prompt_tokens=2**62, total_tokens=2**62)
    books.call("after")
    await books.drain.flush()
    done = books.rows("select call_id from ledger_entries where status = 'completed' order by call_id")
    assert {"call_id": "after"} in done
    assert books.ledger.undrained_bytes == 0
    assert await books.names() == {"reject"}


async def test_an_end_that_cannot_be_written_down_whole_is_still_an_end(books: Books) -> None:
    books.call("a", prompt_tokens=2**70)
    await books.drain.flush()
    assert books.rows("select status, prompt_tokens from ledger_entries") == [
        {"status": "completed", "prompt_tokens": None}
    ]
    assert (await books.verify()).is_green


async def test_an_observer_that_fails_ends_no_call(books: Books) -> None:
    def broken(*_: Any) -> None:
        raise BrokenPipeError

    ledger = Ledger(books.folder / "spool", books.store_id, limits=Limits(), observers=[broken])
    ledger.settle(ledger.open(opened("a")), settled("a"))
    await Drain(ledger, books.store).flush()
    assert books.rows("select status from ledger_entries") == [{"status": "completed"}]


async def test_a_correction_is_a_difference_of_its_own(books: Books) -> None:
    books.call("a", user_id="u")
    await books.drain.flush()
    books.ledger.correct(
        Correction(call_id="a", attempt=1, created_us=9, reason="invoice", total_tokens=-2, cost_nanos=5)
    )
    await books.drain.flush()
    assert books.rows("select scope, total_tokens t, cost_nanos c from ledger_rollups order by scope") == [
        {"scope": "all", "t": 5, "c": 5},
        {"scope": "session", "t": 5, "c": 5},
        {"scope": "user", "t": 5, "c": 5},
    ]
    assert books.rows("select total_tokens from ledger_entries") == [{"total_tokens": 7}]
    assert (await books.verify()).is_green


async def test_a_conversation_stores_each_message_once(books: Books) -> None:
    turns = [b'{"role":"user","content":"%s"}' % (b"a long message %d " % n * 50) for n in range(20)]
    for n in range(1, 21):
        books.call(f"c{n}", request=b'{"model":"m","messages":[' + b",".join(turns[:n]) + b"]}")
    await books.drain.flush()
    stored = books.rows("select count(*) n, sum(length(body)) size from ledger_bodies")[0]
    assert stored["n"] == 20 + 1  # each message once, the parameters once
    assert stored["size"] < 2 * sum(map(len, turns))
    (last,) = books.rows("select input_messages, input_params from llm_call_logs where call_id = 'c20'")
    assert last["input_messages"].encode() == b"[" + b",".join(turns) + b"]"
    assert last["input_params"] == '{"model":"m"}'


async def test_a_message_the_store_has_is_not_written_to_the_spool_again(books: Books) -> None:
    prompt = b'{"role":"system","content":"%s"}' % (b"a long prompt " * 400)
    request = b'{"model":"m","messages":[' + prompt + b"]}"
    books.call("first", request=request)
    (spool,) = books.ledger.spools
    first = spool.end
    await books.drain.flush()
    books.call("second", request=request)
    assert spool.end - first < 1000 < len(prompt) < first
    # In another workspace it is another body; and what is known is forgotten when the store fails.
    before = spool.end
    books.call("elsewhere", request=request, workspace="other")
    assert spool.end - before > len(prompt)
    books.drain._failed("gone")
    before = spool.end
    books.call("again", request=request)
    assert spool.end - before > len(prompt)
    await books.drain.flush()
    rows = books.rows("select input_messages m from llm_call_logs where is_final")
    assert [r["m"].encode() for r in rows] == [b"[" + prompt + b"]"] * 4
    assert (await books.verify()).is_green


async def test_a_record_of_an_impossible_time_is_kept_aside(books: Books) -> None:
    books.call("before")
    books.call("never", created_us=10**18)
    books.call("late", completed_us=10**18)
    books.call("after")
    await books.drain.flush()
    assert [r["call_id"] for r in books.rows("select call_id from ledger_entries where status = 'completed'")] == [
        "before", "after",
    ]  # fmt: skip
    assert {r["reason"] for r in books.rows("select reason from ledger_rejects")} >= {"unreadable"}


async def test_bodies_are_shared_within_a_workspace_and_not_beyond(books: Books) -> None:
    for workspace in ("a", "b", "a"):
        books.call(f"{workspace}{os.urandom(2).hex()}", workspace=workspace)
    await books.drain.flush()
    found = books.rows("select workspace, count(*) n from ledger_bodies group by workspace order by workspace")
    assert found == [{"workspace": "a", "n": 2}, {"workspace": "b", "n": 2}]


async def test_a_large_spool_is_left_for_a_new_one_and_removed(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar.ledger.ledger._SEGMENT_BYTES", 20_000)
    held = books.ledger.open(opened("held"))
    first = books.ledger.spools[0]
    for n in range(100):
        books.call(f"c{n}")
        await books.drain.flush()
    assert first in books.ledger.spools
    assert len(books.ledger.spools) == 2
    books.ledger.settle(held, settled("held"))
    await books.drain.flush()
    assert first not in books.ledger.spools
    assert not first.path.exists()
    assert (await books.verify()).is_green
    assert books.rows("select count(*) n from ledger_entries where status = 'completed'") == [{"n": 101}]


async def test_nobody_waits_while_a_large_spool_is_given_back(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar.ledger.spool._LARGE_FILE", 16 * 1024)
    for n in range(200):
        books.call(f"c{n}")
    (spool,) = books.ledger.spools
    fd, close = spool._fd, os.close
    asked, goes_on, closed = threading.Event(), threading.Event(), threading.Event()

    def slowly(given: int) -> None:
        if given == fd and not closed.is_set():
            asked.set()
            assert goes_on.wait(20)
            closed.set()
        close(given)

    monkeypatch.setattr("bursar.ledger.spool.os.close", slowly)
    books.ledger.retire()
    await books.drain.flush()
    assert await asyncio.to_thread(asked.wait, 20)
    assert (spool in books.ledger.spools, spool.path.exists(), spool.lock.path.exists()) == (False, False, False)
    books.call("meanwhile")
    await books.drain.flush()
    assert books.rows("select count(*) n from ledger_entries") == [{"n": 201}]
    assert not closed.is_set()
    goes_on.set()
    assert await asyncio.to_thread(closed.wait, 20)
    assert (await books.verify()).is_green


def test_a_large_spool_is_given_back_where_no_thread_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_more(_run: Callable[..., None], _given: tuple[int]) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("bursar.ledger.spool._LARGE_FILE", 16 * 1024)
    spool = Spool(tmp_path, "a", "store", 1)
    spool.append(encode(opened()), 1)
    fd = spool._fd
    with monkeypatch.context() as patched:
        patched.setattr("bursar.ledger.spool._thread.start_new_thread", none_more)
        spool.close(remove=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert not spool.path.exists()
    assert not spool.lock.path.exists()


def test_a_spool_whose_closing_was_interrupted_names_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, "a", "store", 1)
    close = os.close

    def interrupted(fd: int) -> None:
        close(fd)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("bursar.ledger.spool.os.close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            spool.close(remove=True)
    with pytest.raises(SpoolFullError, match="closed"):
        spool.make_room()


async def test_a_spool_that_cannot_be_removed_is_let_go_of_and_holds_nobody_up(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.call("first")
    (spool,) = books.ledger.spools
    unlink, stuck = Path.unlink, True

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        if stuck and path == spool.path:
            raise PermissionError(1, "not permitted")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlinked)
    books.ledger.retire()
    with pytest.raises(PermissionError):
        await books.drain.flush()
    books.call("second")
    await books.drain.flush()
    other = books.new_ledger()
    other.settle(other.open(opened("others")), settled("others"))
    other.close()
    with pytest.raises(PermissionError):
        await books.adopter().look()
    assert [path for path in books.ledger.directory.glob("*.spool") if path != books.ledger.spools[0].path] == [
        spool.path
    ]
    stuck = False
    await books.adopter().look()
    assert not spool.path.exists()
    assert books.rows("select count(*) n from ledger_entries where status = 'completed'") == [{"n": 3}]
    assert (await books.verify()).is_green


async def test_sums_of_many_sessions_are_added_up_in_pieces(books: Books) -> None:
    for n in range(1300):
        books.call(f"c{n}", user_id=f"u{n % 7}", session_id=f"s{n}")
    await books.drain.flush()
    counts = books.rows("select scope, count(*) n, sum(calls) c from ledger_rollups group by scope order by scope")
    assert [(r["scope"], r["n"], r["c"]) for r in counts] == [
        ("all", 1, 1300),
        ("session", 1300, 1300),
        ("user", 7, 1300),
    ]
    assert (await books.verify()).is_green


async def test_two_processes_share_a_store(books: Books) -> None:
    other = books.new_ledger()
    drain = Drain(other, SqlLedgerStore(books.database))
    for n in range(50):
        books.call(f"a{n}")
        other.settle(other.open(opened(f"b{n}")), settled(f"b{n}"))
    await asyncio.gather(books.drain.flush(), drain.flush())
    assert books.rows("select count(*) n, count(distinct seq) s from ledger_entries") == [{"n": 100, "s": 100}]
    assert (await books.verify()).is_green


# --- what verify sees ---


def _flip(at: Callable[[bytes, int], int]) -> Callable[[Books], None]:
    def change(books: Books) -> None:
        (spool,) = books.ledger.spools
        data = bytearray(spool.path.read_bytes())
        data[at(bytes(data), spool.end)] ^= 0x5A
        spool.path.write_bytes(data)

    return change


def _to_first_boundary(books: Books) -> None:
    from bursar.ledger.records import walk

    first = next(iter(walk(books.ledger.spools[0].path.read_bytes())))
    books.change("update ledger_spools set offset = ?", first.end)


DAMAGES: dict[str, tuple[str, Callable[[Books], None]]] = {
    "a row deleted": ("entry_missing", lambda b: b.change("delete from ledger_entries where call_id = 'c1'")),
    "a row doubled": (
        "entry_surplus",
        lambda b: b.change(_copied("attempt + 1", "'c1'")),
    ),
    "a row doubled under another call": ("entry_surplus", lambda b: b.change(_copied("attempt", "'c1'", "'x'"))),
    "a row changed": ("rollup_mismatch", lambda b: b.change("update ledger_entries set total_tokens = 8 where call_id = 'c1'")),
    "a sum changed": ("rollup_mismatch", lambda b: b.change("update ledger_rollups set cost_nanos = cost_nanos + 1 where scope = 'all'")),
    "a sum deleted": ("rollup_mismatch", lambda b: b.change("delete from ledger_rollups where scope = 'user'")),
    "a spool byte flipped": ("spool_damaged", _flip(lambda _, end: end // 2)),
    "the first spool byte flipped": ("spool_damaged", _flip(lambda _, end: 0)),
    "the last spool byte flipped": ("spool_damaged", _flip(lambda _, end: end - 1)),
    "a byte behind the last record flipped": ("spool_damaged", _flip(lambda data, _: len(data) - 1)),
    "an offset moved off a boundary": ("offset_moved", lambda b: b.change("update ledger_spools set offset = offset - 1")),
    "an offset moved to another boundary": ("offset_moved", _to_first_boundary),
    "an offset moved beyond the end": ("offset_moved", lambda b: b.change("update ledger_spools set offset = offset + 999999")),
    "a spool's file gone": ("spool_missing", lambda b: b.ledger.spools[0].path.unlink()),
    "a spool's row gone": ("spool_missing", lambda b: b.change("delete from ledger_spools")),
    "a body altered": ("body_altered", lambda b: b.change("update ledger_bodies set body = body || ' '")),
    "a body gone": ("body_missing", lambda b: b.change("delete from ledger_bodies")),
}  # fmt: skip


def _copied(attempt: str, of: str, call_id: str = "call_id") -> str:
    from bursar.store.tables import ledger_entries

    names = [c.name for c in ledger_entries.columns]
    values = [{"attempt": attempt, "call_id": call_id, "seq": "seq + 1000"}.get(n, n) for n in names]
    return f"insert into ledger_entries ({', '.join(names)}) select {', '.join(values)} from ledger_entries where call_id = {of}"


@pytest.mark.parametrize("damage", DAMAGES)
async def test_verify_turns_red_by_name(books: Books, damage: str) -> None:
    name, change = DAMAGES[damage]
    for n in range(5):
        books.call(f"c{n}", user_id="u")
    await books.drain.flush()
    assert (await books.verify()).is_green
    change(books)
    assert name in await books.names()


async def test_verify_finds_a_doubled_attempt_where_the_key_is_gone(books: Books) -> None:
    books.call("c1")
    await books.drain.flush()
    with sqlite3.connect(books.folder / "l.db") as c:
        c.executescript(
            "create table copy as select * from ledger_entries; drop view llm_call_logs; drop view llm_calls; "
            "drop table ledger_entries; alter table copy rename to ledger_entries; "
            "insert into ledger_entries select * from ledger_entries;"
        )
    assert "duplicate_attempt" in await books.names()


async def test_verify_names_a_moved_offset_of_a_closed_spool(books: Books) -> None:
    books.call("c1")
    await books.drain.close()
    assert books.ledger.spools == []
    assert (await books.verify()).is_green
    books.change("update ledger_spools set offset = offset - 5")
    assert await books.names() == {"offset_moved"}


async def test_verify_names_a_gap(books: Books) -> None:
    ledger = books.new_ledger(max_bytes=100, hard_bytes=700)
    drain = Drain(ledger, books.store)
    for n in range(20):
        ledger.settle(ledger.open(opened(f"c{n}", created_us=n)), settled(f"c{n}"))
    await drain.flush()
    await drain.flush()
    report = await books.verify()
    assert {f.name for f in report.findings} == {"gap"}
    (gap,) = books.rows("select * from ledger_gaps")
    assert gap["count"] == 20 - books.rows("select count(*) n from ledger_entries")[0]["n"] > 0
    assert f"{gap['count']} attempts" in report.findings[0].detail


async def test_verify_writes_nothing(books: Books) -> None:
    books.call("c1")
    books.call("open", settle=False)
    await books.drain.flush()
    before = {p: p.read_bytes() for p in books.folder.rglob("*") if p.is_file()}
    await books.verify()
    assert {p: p.read_bytes() for p in books.folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("fault", ["before", "after", "refused"])
async def test_bodies_that_repeat_are_in_the_store_whatever_became_of_the_commit_that_brought_them(
    books: Books, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def talk(n: int) -> None:
        for m in range(3):
            request = (
                b'{"model":"m","messages":[{"role":"system","content":"same"},{"role":"user","content":"%d"}]}' % n
            )
            books.call(f"c{n}.{m}", request=request)

    apply, failed = books.store.apply, []

    async def unlucky(batch: Any) -> None:
        if len(failed) < 2:
            failed.append(1)
            if fault == "after":
                await apply(batch)
            if fault == "refused":
                raise RecordRefusedError("one of them")
            raise StoreError("gone")
        await apply(batch)

    talk(0)
    monkeypatch.setattr(books.store, "apply", unlucky)
    for n in range(1, 5):
        talk(n)
        if fault == "refused":
            await books.drain.flush()
        else:
            with contextlib.suppress(StoreError):
                await books.drain.flush()
    monkeypatch.setattr(books.store, "apply", apply)
    await books.drain.flush()
    assert await books.names() <= {"reject"}
    inputs = books.rows("select input_messages m from llm_call_logs where is_final")
    assert len(inputs) >= 14
    assert all('"same"' in i["m"] for i in inputs)


async def test_a_body_is_one_workspace_s_and_its_order_in_a_request_is_kept(books: Books) -> None:
    words = [b'{"role":"user","content":"%d"}' % n for n in range(40)]
    for workspace in ("a", "b"):
        books.call(
            f"in {workspace}", workspace=workspace, request=b'{"messages":[' + b",".join(words[::-1] + words) + b"]}"
        )
    await books.drain.flush()
    assert books.rows(
        "select workspace, count(*) n from ledger_bodies where body like '%role%' group by 1 order by 1"
    ) == [
        {"workspace": "a", "n": 40},
        {"workspace": "b", "n": 40},
    ]
    for row in books.rows("select input_messages m from llm_call_logs"):
        assert row["m"].encode() == b"[" + b",".join(words[::-1] + words) + b"]"
    books.change("delete from ledger_bodies where workspace = 'a' and body like '%\"7\"%'")
    assert await books.names() == {"body_missing"}


async def test_an_end_the_disk_would_not_take_keeps_its_spool_until_it_is_written(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = books.ledger.open(opened("held"))
    write, broken = os.pwrite, True

    def pwrite(fd: int, data: bytes, at: int) -> int:
        if broken:
            raise OSError(28, "no space")
        return write(fd, data, at)

    monkeypatch.setattr("bursar.ledger.spool.os.pwrite", pwrite)
    books.ledger.settle(entry, settled("held", prompt_tokens=7))
    books.ledger.retire()
    await books.drain.flush()
    assert books.ledger.open_entries == 1
    broken = False
    await books.drain.flush()
    await books.drain.flush()
    assert books.rows("select status, prompt_tokens p from ledger_entries") == [{"status": "completed", "p": 7}]
    assert books.ledger.spools == []
    assert (await books.verify()).is_green


async def test_the_store_never_has_what_is_not_on_disk_yet(books: Books) -> None:
    books.ledger.stage(lambda: None)  # no turn ever ends
    books.ledger.begin()
    await books.drain.flush()
    (spool,) = books.ledger.spools
    for n in range(3):
        books.call(f"c{n}")
    entry = books.ledger.open(opened("open"))
    came_to: list[tuple[int, int]] = []
    await books.drain.drain(spool, books.ledger.drained[spool.id], lambda *to: came_to.append(to))
    assert came_to == [(spool.end, 7)]
    books.ledger.drained[spool.id] = spool.end
    books.ledger.drained_records[spool.id] = spool.records
    assert len([s for s in walk(spool.path.read_bytes()) if s.payload is not None]) == 8
    assert books.rows("select count(*) n from ledger_entries") == [{"n": 4}]
    assert (await books.verify()).is_green
    books.ledger.settle(entry, settled("open"))
    books.ledger.retire()
    await books.drain.flush()
    assert books.rows("select count(*) n from ledger_entries where status = 'completed'") == [{"n": 4}]
    assert books.ledger.spools == []
    assert (await books.verify()).is_green


@pytest.mark.parametrize("seed", range(4))
async def test_runs_of_calls_that_count_alike_add_up_as_all_others(books: Books, seed: int) -> None:
    chance = random.Random(seed)
    users: Counter[str] = Counter()
    late = []
    for run in range(8):
        user, hour = f"u{chance.randrange(3)}", chance.randrange(2)
        for n in range(chance.choice((1, 100, 128, 300, 600))):
            entry = books.ledger.open(opened(f"{run}-{n}", user_id=user, created_us=3_600_000_000 * hour))
            if chance.random() < 0.01:
                late.append(entry)
            else:
                books.ledger.settle(entry, settled(f"{run}-{n}"))
            users[user] += 1
        if chance.random() < 0.5:
            await books.drain.flush()
            while late and chance.random() < 0.8:
                entry = late.pop()
                books.ledger.settle(entry, settled(entry.opened.call_id))
    for entry in late:
        books.ledger.settle(entry, settled(entry.opened.call_id))
    await books.drain.flush()
    sums = books.rows(
        "select scope_id u, sum(calls) n, sum(total_tokens) t from ledger_rollups where scope = 'user' group by 1"
    )
    assert {row["u"]: (row["n"], row["t"]) for row in sums} == {user: (n, 7 * n) for user, n in users.items()}
    assert (await books.verify()).is_green


def test_which_rows_of_a_batch_count_alike_is_told_in_their_order() -> None:
    builder = BatchBuilder("s", 0, 1)
    kept: list[Record] = []
    for n, user in enumerate([*["a"] * 256, *["b"] * 100, *["a", "b"] * 14, "c"]):
        kept.append(opened(str(n), user_id=user))
        if user != "c":
            kept.append(settled(str(n)))
    kept.append(settled("earlier"))
    builder.add_records(kept, range(1, len(kept) + 1))
    assert _stretches(builder.batch) == [(256, True), (128 + 1 + 1, False)]


@pytest.mark.parametrize("differs", ["nothing", "model", "status", "model and status"])
async def test_what_rows_have_in_common_is_said_once_and_stands_in_each(books: Books, differs: str) -> None:
    said: dict[str, tuple[object, ...]] = {}
    for n in range(128 + 16 + 3):
        call_id = f"c{n:03}"
        model = f"m{n % 2}" if "model" in differs else "m"
        status = "failed" if "status" in differs and n % 5 == 0 else "completed"
        entry = books.ledger.open(opened(call_id, model=model, key_id="k", user_id=f"u{n % 3}"))
        books.ledger.settle(entry, settled(call_id, status=status, http_status=200, finish_reason="stop"))
        said[call_id] = (model, "k", f"u{n % 3}", status, 200, "stop", 7)
    await books.drain.flush()
    columns = "model, key_id, user_id, status, http_status, finish_reason, total_tokens"
    rows = books.rows(f"select call_id, {columns}, seq from ledger_entries order by seq")
    assert {row["call_id"]: tuple(row[name] for name in columns.split(", ")) for row in rows} == said
    assert [row["seq"] for row in rows] == list(range(1, 148))
    assert (await books.verify()).is_green


@pytest.mark.skipif(not TAKES_SAME, reason="this version of the driver is given each value of each row")
def test_of_what_rows_have_in_common_all_of_a_group_is_said_once_or_none() -> None:
    def same(**ends: object) -> dict[str, object]:
        builder = BatchBuilder("s", 0, 1)
        kept = [record for n in range(16) for record in (opened(str(n), key_id="k"), settled(str(n)))]
        kept[-1] = settled("15", **ends)
        builder.add_records(kept, range(1, len(kept) + 1))
        (rows,) = builder.batch.entries
        assert not set(rows.columns) & rows.same.keys()
        assert len(rows.values) == 16 * len(rows.columns)
        return rows.same

    whole = same()
    assert (whole["spool_id"], whole["key_id"], whole["status"], whole["attempt"]) == ("s", "k", "completed", 1)
    # Where one ends otherwise, its status is said of each, and so is all that most ends have in common.
    assert whole.keys() - same(status="failed").keys() == {"status", "attempt", "usage_source"}


async def test_a_store_that_was_restored_gets_its_bodies_again(books: Books, tmp_path: Path) -> None:
    def talk(n: int) -> None:
        request = b'{"model":"m","messages":[{"role":"system","content":"same"},{"role":"user","content":"%d"}]}' % n
        books.call(f"c{n}", request=request)

    books.ledger.begin()
    await books.drain.flush()
    kept = (tmp_path / "l.db").read_bytes()
    for n in range(6):
        talk(n)
        await books.drain.flush()
    (tmp_path / "l.db").write_bytes(kept)
    for n in range(6, 9):
        talk(n)
        await books.drain.flush()
    await books.drain.flush()
    assert books.rows("select count(*) n from ledger_entries") == [{"n": 9}]
    assert (await books.verify()).is_green


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
MAYBE = st.none() | TEXTS
COUNTS = st.none() | st.integers(0, 10**9)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["open", "settle", "settle", "gap", "correct"]),
        st.fixed_dictionaries({"user_id": MAYBE, "tags": st.dictionaries(TEXTS, TEXTS, max_size=2), "messages": MAYBE,
                               "params": MAYBE, "created_us": st.integers(0, 10**15)}),
        st.fixed_dictionaries({"output": MAYBE, "text": MAYBE, "prompt_tokens": COUNTS, "cost_nanos": COUNTS,
                               "completed_us": st.none() | st.integers(0, 10**15), "usd_rate": MAYBE}),
    ),
    max_size=12,
)  # fmt: skip


@given(STEPS, st.integers(0, 5))
def test_records_at_hand_become_the_rows_that_their_bytes_do(steps: list[Any], before: int) -> None:
    made: list[Any] = []
    waiting: list[str] = [f"before{n}" for n in range(before)]
    for n, (kind, asked, answered) in enumerate(steps):
        if kind == "open":
            begun = opened(f"c{n}", bodies=Bodies(), **asked)
            made.append(msgspec.structs.replace(begun, params_ref=bytearray(begun.params_ref or b"")))
            waiting.append(f"c{n}")
        elif kind == "settle" and waiting:
            record = settled(waiting.pop(), output=None)
            made.append(msgspec.structs.replace(record, **answered))
        elif kind == "gap":
            made.append(Gap(n, 1, 2))
        else:
            made.append(Correction(call_id="c", attempt=1, created_us=5, reason="late", cost_nanos=n))
    frames = [encode(record) for record in made]
    ends = list(itertools.accumulate(map(len, frames), initial=100))[1:]
    by_hand, by_bytes = BatchBuilder("s", 100, 7), BatchBuilder("s", 100, 7)
    by_hand.add_records(made, ends)
    for frame, end in zip(frames, ends, strict=True):
        (span,) = walk(frame, end - len(frame))
        by_bytes.add(span, frame, span.start)
    one, other = by_hand.batch, by_bytes.batch
    assert _values(one) == _values(other)
    assert [r.columns for r in one.entries + one.settlements] == [r.columns for r in other.entries + other.settlements]


def _values(batch: Batch) -> Any:
    """A batch as the store would be given it: the types count too, for the driver goes by them."""
    plain = msgspec.structs.asdict(batch)
    rows = [
        (r.count, [(type(v), v) for v in (*r.same.items(), *r.same.values(), *r.values)])
        for r in batch.entries + batch.settlements
    ]
    return rows, {name: value for name, value in plain.items() if name not in ("entries", "settlements")}


class _File:
    """Bytes as the drain reads them; it counts how often."""

    id, recent = "s", None

    def __init__(self, data: bytes) -> None:
        self._data, self.end, self.reads = data, len(data), 0

    def read(self, offset: int, size: int) -> bytes:
        self.reads += 1
        return self._data[offset : offset + size]


@given(st.binary(max_size=300), st.integers(1, 400), st.integers(0, 900), st.integers(0, 255), st.integers(0, 1500))
def test_a_spool_read_in_pieces_is_what_it_is_at_once(
    text: bytes, piece: int, flipped: int, flip: int, cut: int
) -> None:
    answer = text.decode("latin-1").encode()
    made = [opened("a"), settled("a", output=answer), opened("b"), Gap(1, 1, 2), settled("b")]
    data = bytearray(b"".join(map(encode, made)) + bytes(40))
    data[flipped % len(data)] ^= flip
    data = data[: max(1, cut % (2 * len(data)))]

    async def batch_of(size: int) -> tuple[Any, int]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("bursar.ledger.drain._PIECE_BYTES", size)
            patched.setattr("bursar.ledger.drain.now_us", lambda: 7)
            file = _File(bytes(data))
            return _values(await _of_file(file, 0, file.end)), file.reads

    whole, reads = asyncio.run(batch_of(len(data)))
    in_pieces, more_reads = asyncio.run(batch_of(piece))
    assert in_pieces == whole
    assert (reads, more_reads > 1) == (1, piece < len(data))


async def test_the_store_hurries_only_where_more_waits_than_a_batch_takes(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursar.ledger.drain._BATCH_RECORDS", 100)
    yielded: list[bool] = []
    hurried: list[bool] = []
    spent = itertools.count()
    apply = books.store.apply

    async def seen(batch: Any) -> None:
        before = len(yielded)
        await apply(batch)
        hurried.append(batch.hurries)
        assert (len(yielded) == before) == batch.hurries

    monkeypatch.setattr(books.store, "apply", seen)
    monkeypatch.setattr("bursar.store.engine.sys", SimpleNamespace(platform="linux"))
    monkeypatch.setattr("bursar.store.engine.time", SimpleNamespace(thread_time=lambda: float(next(spent))))
    monkeypatch.setattr(
        "bursar.store.engine.os", SimpleNamespace(sched_yield=lambda: yielded.append(True), nice=os.nice)
    )
    for n in range(120):
        books.call(f"c{n}")
    await books.drain.flush()
    assert hurried == [True, True, False]
    assert books.rows("select count(*) n from ledger_entries where status = 'completed'") == [{"n": 120}]


async def test_a_batch_ends_where_it_is_large_and_the_rest_is_the_next(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursar.ledger.drain._BATCH_BYTES", 20_000)
    monkeypatch.setattr("bursar.ledger.drain._PIECE_BYTES", 5_000)
    sizes: list[int] = []
    apply = books.store.apply

    async def counted(batch: Any) -> None:
        sizes.append(batch.new_offset - batch.old_offset)
        await apply(batch)

    monkeypatch.setattr(books.store, "apply", counted)
    for n in range(100):
        books.call(f"c{n}", output=b"x" * (50_000 if n == 50 else 1_000))
    (spool,) = books.ledger.spools
    spool.recent.begin_at(spool.end)  # nothing is at hand: it is read
    await books.drain.flush()
    assert sum(sizes) == spool.end
    assert all(20_000 <= size < 20_000 + 5_000 * 4**2 for size in sizes[:-1])
    assert books.rows("select count(*) n, sum(length(output)) t from ledger_entries") == [{"n": 100, "t": 149_000}]
    assert (await books.verify()).is_green


@pytest.mark.parametrize("remembered", [(0, 100), (3_000, 100), (10**7, 7), (10**7, 10**7)])
@pytest.mark.parametrize("fault", ["none", "gone", "after", "refused"])
async def test_what_is_not_at_hand_is_read_and_nothing_is_lost_or_doubled(
    books: Books, monkeypatch: pytest.MonkeyPatch, remembered: tuple[int, int], fault: str
) -> None:
    monkeypatch.setattr("bursar.ledger.spool._RECENT_BYTES", remembered[0])
    monkeypatch.setattr("bursar.ledger.spool._RECENT_RECORDS", remembered[1])
    apply, turns = books.store.apply, itertools.count()

    async def unlucky(batch: Any) -> None:
        turn = next(turns)
        if fault == "refused" and turn % 5 == 0 and batch.entry_count > 1:
            raise RecordRefusedError("one of them")
        if fault == "after" and turn % 3 == 0:
            await apply(batch)
        if fault in ("gone", "after") and turn % 3 == 0:
            raise StoreError("gone")
        await apply(batch)

    monkeypatch.setattr(books.store, "apply", unlucky)
    entries = []
    for n in range(60):
        entries.append(books.ledger.open(opened(f"c{n}", bodies=books.ledger.bodies)))
        if n % 3:
            books.ledger.settle(entries.pop(0), settled(f"c{n - len(entries)}"))
        if n % 7 == 0:
            with contextlib.suppress(StoreError):
                await books.drain.flush()
    for entry in entries:
        books.ledger.settle(entry, settled(entry.opened.call_id))
    monkeypatch.setattr(books.store, "apply", apply)
    await books.drain.flush()
    await books.drain.flush()
    assert books.rows("select status, count(*) n from ledger_entries group by 1") == [{"status": "completed", "n": 60}]
    assert (await books.verify()).is_green


@pytest.mark.parametrize("column", ["messages", "params", "output", "text"])
@pytest.mark.parametrize("to", ["'other'", "null"])
async def test_verify_finds_a_text_of_an_entry_that_was_altered_or_taken_away(
    books: Books, column: str, to: str
) -> None:
    for n in range(3):
        books.call(f"c{n}", request=None, messages="[1]", params="{}", output=b"1", text="said")
    books.call("without", request=None, output=None)
    books.call("open", request=None, messages="[1]", params="{}", settle=False)
    await books.drain.flush()
    assert (await books.verify()).is_green
    books.change(f"update ledger_entries set {column} = {to} where call_id = 'c1'")
    (finding,) = (await books.verify()).findings
    assert (finding.name, finding.where) == ("body_altered", "c1:1")


async def test_verify_finds_a_border_between_two_texts_that_was_moved(books: Books) -> None:
    books.call("a", request=None, messages='["one"]', params='{"t":1}', output=b"1", text="said")
    await books.drain.flush()
    books.change("update ledger_entries set messages = '[\"one\"', params = ']{\"t\":1}'")
    books.change("update ledger_entries set output = null, text = '1said'")
    assert [f.name for f in (await books.verify()).findings] == ["body_altered", "body_altered"]


async def test_a_close_whose_answer_was_lost_holds_up_nothing(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = books.store.apply

    async def lost(batch: Batch) -> None:
        await apply(batch)
        if batch.close:
            raise StoreError("its answer was lost")

    books.call("a")
    books.ledger.retire()
    with monkeypatch.context() as patched:
        patched.setattr(books.store, "apply", lost)
        with pytest.raises(StoreError):
            await books.drain.flush()
    books.call("b")
    await books.drain.flush()
    assert len(books.ledger.spools) == 1
    assert books.rows("select count(*) n from ledger_entries where status = 'completed'") == [{"n": 2}]
    assert (await books.verify()).is_green


async def test_a_forked_child_s_observers_hear_of_its_own_entries_and_of_no_others(books: Books) -> None:
    heard: list[str] = []
    observers = [lambda ended: heard.extend(begun.call_id for begun, _ in ended)]
    ledger = Ledger(books.folder / "spool", books.store_id, limits=Limits(), observers=observers)
    ledger.settle(ledger.open(opened("the parent's")), settled("the parent's"))
    ledger.forget()  # what a fork does in the child, whose loop is another one
    ledger.settle(ledger.open(opened("its own")), settled("its own"))
    await asyncio.sleep(0)
    assert heard == ["its own"]


async def test_one_observer_that_fails_is_in_nobody_s_way_and_all_hear_of_a_turn_together(books: Books) -> None:
    heard: list[int] = []

    def broken(_: Any) -> None:
        raise BrokenPipeError

    observers = [broken, lambda ended: heard.append(len(ended))]
    ledger = Ledger(books.folder / "spool", books.store_id, limits=Limits(), observers=observers)
    for turn in (3, 1):
        for n in range(turn):
            ledger.settle(ledger.open(opened(f"{turn}.{n}")), settled(f"{turn}.{n}"))
        assert len(heard) == (turn == 1)
        await asyncio.sleep(0)
    assert heard == [3, 1]
    ledger.settle(ledger.open(opened("last")), settled("last"))
    ledger.close()
    assert heard == [3, 1, 1]


class _Growing:
    """A store whose spool grows while it is written: so many calls come with each batch, as long as there are any."""

    def __init__(self, books: Books, coming: list[int]) -> None:
        self.books, self.coming, self.batches, self.made = books, coming, 0, 0
        self._apply = books.store.apply

    async def apply(self, batch: Batch) -> None:
        await self._apply(batch)
        self.batches += 1
        for _ in range(self.coming.pop(0) if self.coming else 0):
            self.made += 1
            self.books.call(f"more{self.made}")


async def test_a_round_of_the_drain_ends_although_calls_keep_coming(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing = _Growing(books, [1] * 50)
    monkeypatch.setattr(books.store, "apply", growing.apply)
    books.call("first")
    await books.drain.flush()
    assert growing.batches == 1
    assert books.ledger.undrained_records == 2
    while growing.coming or books.ledger.undrained_records:
        await books.drain.flush()
    assert books.rows("select count(*) n from ledger_entries") == [{"n": 51}]


async def test_what_was_appended_during_a_round_is_behind_since_that_round(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing = _Growing(books, [1, 1])
    monkeypatch.setattr(books.store, "apply", growing.apply)
    books.call("first")
    assert books.drain.state.behind_since_us is None
    seen = []
    for _ in range(3):
        await books.drain.flush()
        seen.append(books.drain.state.behind_since_us)
    assert seen[0] is not None
    assert seen[1] is not None
    assert seen[0] < seen[1]
    assert seen[2] is None


async def test_a_spool_that_somebody_cut_off_holds_the_loop_up_not_for_ever(books: Books) -> None:
    for n in range(100):
        books.call(f"c{n}")
    (spool,) = books.ledger.spools
    spool.recent.begin_at(spool.end)  # nothing is at hand: it is read
    os.truncate(spool.path, spool.end // 2)
    async with asyncio.timeout(20):
        await books.drain.flush()
        await books.drain.flush()
    assert 0 < books.rows("select count(*) n from ledger_entries")[0]["n"] < 100


async def test_the_drain_rests_between_busy_rounds_but_not_while_it_is_behind(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    behind: list[int] = []
    growing = _Growing(books, [3000, 2500, 400])

    async def pause(wait_s: float) -> None:
        waits.append(wait_s)
        behind.append(books.ledger.undrained_records)
        await asyncio.sleep(0)
        if len(waits) > 5:
            books.drain.stop()

    async def nothing() -> None:
        return None

    monkeypatch.setattr(books.store, "apply", growing.apply)
    monkeypatch.setattr(books.drain, "_pause", pause)
    books.call("first")
    await books.drain.run(nothing)
    assert behind[1:4] == [6000, 5000, 800]
    assert waits[1:3] == [0, 0]
    assert waits[0] < waits[3]
    assert books.rows("select count(*) n from ledger_entries") == [{"n": 5901}]


@pytest.mark.parametrize("from_bytes", [False, True])
async def test_the_drain_takes_more_in_a_turn_of_the_loop_than_calls_bring(books: Books, from_bytes: bool) -> None:
    turns, going = 0, True

    def turn() -> None:
        nonlocal turns
        turns += 1
        if going:
            asyncio.get_running_loop().call_soon(turn)

    for n in range(4000):
        books.call(f"c{n}")
    (spool,) = books.ledger.spools
    turn()
    if from_bytes:
        batch = await _of_file(spool, 0, spool.end)
    else:
        batch = await _of_recent(spool.id, 0, spool.recent)
    going = False
    assert batch.records == 8001
    # A turn of a busy loop brings some hundred records; the loop is given back in between all the same.
    assert 8 < turns < 8001 / 150

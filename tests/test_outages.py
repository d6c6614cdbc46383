"""The store away, the spool's disk full: calls go on, it is told, and everything arrives afterwards.

Short outages here, thirty seconds each in the proof.
"""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from support.load import Load
from support.matching import mismatches
from support.server import Server, wait_for
from support.upstream import Upstream

SHORT_S = 2.5
FULL_S = 30.0


@contextmanager
def _mounted(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("a small disk needs the right to mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder: Path) -> Path:
    """Takes the disk's last byte."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    connection = sqlite3.connect(database, timeout=30, isolation_level=None)
    connection.execute("begin exclusive")
    try:
        yield
    finally:
        connection.execute("rollback")
        connection.close()


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """Nothing in the folder can be made or changed, by root either."""
    which = [str(folder), str(folder / "bursar.db")]
    if subprocess.run(["chattr", "+i", *which], capture_output=True).returncode != 0:
        pytest.skip("a read-only store needs a file system with the immutable attribute, and the right to set it")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *which], check=True)


@contextmanager
def _full(folder: Path) -> Iterator[None]:
    ballast = _fill(folder)
    try:
        yield
    finally:
        ballast.unlink()


@pytest.mark.parametrize(
    "length_s", [SHORT_S, pytest.param(FULL_S, marks=[pytest.mark.proof, pytest.mark.timeout(300)])]
)
@pytest.mark.parametrize("outage", ["locked", "read-only", "full"])
def test_with_the_store_away_calls_go_on_and_everything_arrives_afterwards(
    make_server: Callable[..., Server], upstream: Upstream, outage: str, length_s: float
) -> None:
    server = make_server(start=False)
    store = server.folder / "data"
    with _mounted(store, "24m") if outage == "full" else nullcontext(store) as disk:
        # The spool stands on another disk than the store, as it should where disks fill up.
        text = (server.folder / "bursar.toml").read_text().replace("data/spool", "spool")
        (server.folder / "bursar.toml").write_text(text)
        server.start()
        away = {
            "locked": lambda: _locked(disk / "bursar.db"),
            "read-only": lambda: _read_only(disk),
            "full": lambda: _full(disk),
        }
        with Load(server.url, outage, width=16, pace_s=0.01) as load:
            wait_for(lambda: load.finished > 50, 20, "no call got through before")
            with away[outage]():
                until = time.monotonic() + length_s
                wait_for(lambda: _store_state(server) == "unavailable", 20, "health does not tell")
                wait_for(lambda: time.monotonic() > until, length_s + 5, "")
                during = load.finished
                wait_for(lambda: load.finished > during + 50, 20, "calls do not go on")
                status, state = server.health()
                assert (status, state["store"]["state"]) == (200, "unavailable")
                assert state["spool"]["records"] > 0
                assert state["spool"]["lag_s"] > 0
        entries = server.settled(60)
        assert mismatches(upstream.seen, entries) == []
        assert all(status == 200 for status in load.answered.values())
        assert len(entries) == len(upstream.seen)
        assert _store_state(server) == "ok"
        green, report = server.verify()
        assert green, report
        assert server.stop() == 0


def _store_state(server: Server) -> str:
    status, state = server.health()
    return str(state["store"]["state"]) if status else "gone"


@pytest.mark.parametrize("policy", ["continue", "refuse"])
def test_with_the_spools_disk_full_running_calls_settle_and_the_policy_holds_for_new_ones(
    make_server: Callable[..., Server], upstream: Upstream, policy: str
) -> None:
    server = make_server(start=False, ledger=f'spool_full = "{policy}"')
    with _mounted(server.folder / "spool", "1m") as disk:
        text = (server.folder / "bursar.toml").read_text().replace("data/spool", "spool/s")
        (server.folder / "bursar.toml").write_text(text)
        server.start()
        slow = [_in_background(server, f"slow {n}", {"chunks": 10, "pace_s": 0.2}) for n in range(8)]
        upstream.wait(lambda: len(upstream.seen) == 8)
        with _full(disk), _locked(server.folder / "data" / "bursar.db"):
            answers: list[int] = []
            while len(answers) < 300 and 503 not in answers:
                status, answer = server.chat("x" * 2000)
                answers.append(status)
            for thread in slow:
                thread.join(30)
            status, state = server.health()
            if policy == "refuse":
                assert (answers[-1], answer["error"]["code"]) == (503, "ledger_full")
            else:
                assert set(answers) == {200}
                assert (status, state["gap"] > 0) == (200, True)
        wait_for(lambda: server.chat("after")[0] == 200, 10, "calls are still refused")
        entries = server.settled()
        of_slow = [e for e in entries if e["provider_response_id"] in {s.id for s in upstream.seen[:8]}]
        assert [e["status"] for e in of_slow] == ["completed"] * 8
        green, report = server.verify()
        if policy == "refuse":
            assert green, report
            assert len(entries) == len(upstream.seen)
        else:
            wait_for(lambda: _gap_count(server) > 0, 10, "the gap is not written")
            gaps = _gap_count(server)
            assert gaps == len(upstream.seen) - len(entries) == server.health()[1]["gap"] > 0
            assert not green
            assert "gap: " in report
        assert server.stop() == 0


def _in_background(server: Server, text: str, script: dict[str, Any]) -> Any:
    import threading

    thread = threading.Thread(target=lambda: server.chat(text, script=script, stream=True))
    thread.start()
    return thread


def _gap_count(server: Server) -> int:
    with server.database() as c:
        return int(c.execute("select coalesce(sum(count), 0) from ledger_gaps").fetchone()[0])


@pytest.mark.parametrize("policy", ["continue", "refuse"])
@pytest.mark.parametrize("workers", [1, 2])
def test_at_the_spools_bounds_bodies_are_left_out_first_and_then_the_policy_holds(
    make_server: Callable[..., Server], upstream: Upstream, policy: str, workers: int
) -> None:
    bounds = f'spool_max_mb = 0.05\nspool_hard_mb = 0.12\nspool_full = "{policy}"'
    server = make_server(ledger=bounds, workers=workers)
    answers: list[int] = []
    with _locked(server.folder / "data" / "bursar.db"):

        def at_the_bound() -> bool:
            answers.append(server.chat("x" * 1000)[0])
            return answers[-1] == 503 or server.health()[1]["gap"] > 0

        wait_for(at_the_bound, 60, "the bound was not met")
        # A worker knows what the other holds a moment later.
        wait_for(lambda: server.health()[1]["spool"]["bytes"] > 50_000, 10, "health does not tell what the spools hold")
        status = server.health()[0]
        if policy == "refuse":
            told = {"status": "refusing"}
            wait_for(
                lambda: told.items() <= server.health()[1].items(), 5, "health does not tell that calls are refused"
            )
        else:
            assert (status, set(answers)) == (200, {200})
    wait_for(lambda: server.chat("after")[0] == 200, 10, "calls are still refused")
    entries = server.settled()
    with server.database() as c:
        bare = c.execute("select count(*) from llm_call_logs where input_messages is null").fetchone()[0]
    assert 0 < bare < len(entries)
    # The gap is written when there is room for it, and drained after that.
    wait_for(lambda: len(entries) + _gap_count(server) >= len(upstream.seen), 10, "the gap is not written")
    assert len(entries) + _gap_count(server) == len(upstream.seen)
    green, report = server.verify()
    assert green == (policy == "refuse"), report
    assert ("gap: " in report) == (policy == "continue")

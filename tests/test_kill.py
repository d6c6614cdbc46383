"""What `kill -9` leaves behind: every attempt the provider saw has one entry, and `verify` is green.

Two rounds of each here; the full length, twenty kills of each kind, in the proof below.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.load import Load
from support.matching import mismatches
from support.server import Server, wait_for
from support.upstream import Upstream

KINDS = ("one process", "the whole group", "the supervisor", "one worker")


@contextmanager
def _verified_beside(server: Server) -> Iterator[list[str]]:
    """Runs `verify` over and over beside the load; every red report is kept."""
    red: list[str] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            green, report = server.verify()
            if not green:
                red.append(report)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield red
    finally:
        stop.set()
        thread.join(120)


def _kill(server: Server, kind: str, chance: random.Random) -> None:
    if kind == "the whole group":
        server.kill_group()
    elif kind == "one worker":
        os.kill(chance.choice(server.worker_pids()), signal.SIGKILL)
    else:
        server.kill()


def _rounds(server: Server, upstream: Upstream, kind: str, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    with _verified_beside(server) as red:
        for n in range(rounds):
            with Load(server.url, f"{seed}-{n}") as load:
                wanted = chance.randint(60, 300)
                wait_for(lambda w=wanted, ld=load: ld.finished >= w, 30, "the load did not get through")
                _kill(server, kind, chance)
                if kind == "one worker":
                    before = load.finished
                    wait_for(lambda b=before, ld=load: ld.finished > b + 50, 30, "the other worker did not go on")
            if kind != "one worker":
                server.start(server.port)
        if kind == "one worker":
            wait_for(lambda: len(server.worker_pids()) == server.workers, 20, "the worker was not replaced")
        entries = server.settled(60)
    assert mismatches(upstream.seen, entries) == []
    green, report = server.verify()
    assert green, report
    assert red == []
    if kind != "the supervisor":  # its workers still end in order
        assert any(e["status"] == "interrupted" for e in entries), "no kill met a call under way"


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_process_loses_and_doubles_no_entry(
    kind: str, make_server: Callable[..., Server], upstream: Upstream
) -> None:
    server = make_server(workers=1 if kind == "one process" else 2)
    _rounds(server, upstream, kind, 2, seed=7)


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_kills_lose_and_double_no_entry(
    kind: str, make_server: Callable[..., Server], upstream: Upstream
) -> None:
    server = make_server(workers=1 if kind == "one process" else 2)
    _rounds(server, upstream, kind, 20, seed=20)


def test_workers_end_when_their_supervisor_is_gone_and_leave_nothing(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    (tmp_path / "temporary").mkdir()
    server = make_server(workers=2, TMPDIR=str(tmp_path / "temporary"))
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    workers = server.worker_pids()
    assert len(workers) == 2
    server.kill()

    def all_gone() -> bool:
        return not any(os.path.exists(f"/proc/{pid}") for pid in workers)

    wait_for(all_gone, 30, "a worker outlived its supervisor")
    assert list((tmp_path / "temporary").iterdir()) == []
    server.start(server.port)  # nobody holds the address any more

"""How many files may be open: as many as the system allows, and it is said when there are no more."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.runtime import room
from support.server import Server, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are set on Linux alone")


@pytest.fixture
def few_files() -> Iterator[tuple[int, int]]:
    """What is started here meanwhile may have few files open, but take more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = min(512, hard - 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        yield few, hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _pid(server: Server) -> int:
    assert server.process is not None
    return server.process.pid


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_takes_as_many_files_as_it_may(
    few_files: tuple[int, int], make_server: Callable[..., Server], workers: int
) -> None:
    server = make_server(workers=workers)
    _, hard = few_files
    for pid in server.worker_pids() if workers > 1 else [_pid(server)]:
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_a_limit_that_cannot_be_raised_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    room.take_all()


def test_a_server_says_when_it_has_no_room_and_when_it_has_again(make_server: Callable[..., Server]) -> None:
    server = make_server()
    pid = _pid(server)
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))  # as many as every process has
    wait_for(lambda: "new connections are closed: raise the limit of open files (ulimit -n) limit=3"
             in server.log.read_text(), 20, "it was not said")  # fmt: skip
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: "room for files and connections again" in server.log.read_text(), 20, "it was not said")
    assert server.chat()[0] == 200
    assert server.log.read_text().count("no room") == 1


def test_it_is_looked_for_once_a_second_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [100.0], []
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    looks: list[str] = []
    full = OSError(24, "too many open files")

    def opened(path: str, _flags: int) -> int:
        looks.append(path)
        raise full

    one = room.Room(lambda event, values: told.append((event, values)))
    open_file = os.open
    monkeypatch.setattr(os, "open", opened)
    for _ in range(5):
        one.look()
    assert len(looks) == 1
    assert len(told) == 1
    now[0] += 1.0
    one.look()
    assert len(looks) == 2
    assert len(told) == 1
    monkeypatch.setattr(os, "open", open_file)
    now[0] += 1.0
    one.look()
    assert [event.startswith("no room") for event, _ in told] == [True, False]
    assert told[0][1] == {"limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0]}


def test_what_else_is_wrong_is_no_lack_of_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[str] = []
    monkeypatch.setattr(os, "devnull", str(tmp_path / "gone"))
    room.Room(lambda event, _: told.append(event)).look()
    assert told == []

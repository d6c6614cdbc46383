"""Workers beyond the cores there are stand by: others' connections stay theirs, and what others leave is taken."""

from __future__ import annotations

import asyncio
import errno
import http.client
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from bursar.runtime import standby
from bursar.runtime.standby import Accepted, Standby
from support.server import Server, wait_for

_MANY = 30


@pytest.fixture
def one_core() -> Iterator[set[int]]:
    """What is started here meanwhile has one core; of these."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, cores)


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process may have as many files as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


pinned = pytest.mark.skipif(sys.platform != "linux", reason="processes are held to a core on Linux alone")


def _standing_by(server: Server) -> list[int]:
    return [pid for pid in server.worker_pids() if b"stands-by" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _connections(server: Server, pid: int) -> int:
    return sum(
        c.status == psutil.CONN_ESTABLISHED and c.laddr.port == server.port
        for c in psutil.Process(pid).net_connections("tcp")
    )


def _answered(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return False
    return answer.status == 200


def _taken(server: Server, connections: int) -> dict[int, int]:
    """How many of so many connections, each answered once and kept, are whose."""
    with ExitStack() as kept:
        for _ in range(connections):
            connection = kept.enter_context(closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)))
            assert _answered(connection)
        return {pid: _connections(server, pid) for pid in server.worker_pids()}


def _taken_together(server: Server, connections: int) -> dict[int, int]:
    """The same of connections that are opened in one go, each with its request."""
    with ExitStack() as kept:
        made = []
        for _ in range(connections):
            connection = kept.enter_context(closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)))
            connection.request("GET", "/health")
            made.append(connection)
        assert {connection.getresponse().status for connection in made} == {200}
        return {pid: _connections(server, pid) for pid in server.worker_pids()}


@pinned
def test_on_one_core_one_worker_takes_what_comes(one_core: set[int], make_server: Callable[..., Server]) -> None:
    server = make_server(workers=2)
    (second,) = _standing_by(server)
    (first,) = set(server.worker_pids()) - {second}
    wait_for(lambda: _taken(server, 1)[first] == 1, 20, "the first worker takes nothing")
    taken = _taken(server, _MANY)
    assert taken[first] + taken[second] == _MANY
    assert taken[first] >= _MANY - 5  # a busy machine may hold it up
    assert "some stand by workers=2 standing_by=1" in server.log.read_text()


@pinned
def test_many_that_come_together_are_taken_by_the_one_that_serves(
    one_core: set[int], many_files: None, make_server: Callable[..., Server]
) -> None:
    server = make_server(workers=2)
    os.sched_setaffinity(0, one_core)  # so that they come while others are served
    (second,) = _standing_by(server)
    wait_for(lambda: _taken(server, 1)[second] == 0, 20, "the first worker takes nothing")

    def all_stay() -> bool:
        return all(_taken_together(server, 900)[second] == 0 for _ in range(4))

    wait_for(all_stay, 60, "many that come together are taken from it")  # now and then a busy machine holds it up


@pinned
def test_who_stands_by_takes_over_from_one_that_is_held_up(
    one_core: set[int], make_server: Callable[..., Server]
) -> None:
    server = make_server(workers=2)
    (second,) = _standing_by(server)
    (first,) = set(server.worker_pids()) - {second}
    os.kill(first, signal.SIGSTOP)
    try:
        wait_for(lambda: server.chat()[0] == 200, 20, "nobody took over")
        assert _taken(server, _MANY)[second] == _MANY
    finally:
        os.kill(first, signal.SIGCONT)
    wait_for(lambda: _taken(server, 1)[first] == 1, 20, "the first worker does not take again what comes")
    assert server.stop() == 0
    assert {e["status"] for e in server.entries()} == {"completed"}
    assert server.verify()[0]


@pinned
def test_who_stands_by_takes_over_from_one_that_was_killed_until_there_is_another(
    one_core: set[int], make_server: Callable[..., Server]
) -> None:
    server = make_server(workers=2)
    before = set(server.worker_pids())
    (second,) = _standing_by(server)
    (first,) = before - {second}
    wait_for(lambda: _taken(server, 1)[second] == 0, 20, "the first worker takes nothing")
    os.kill(first, signal.SIGKILL)
    assert server.chat()[0] == 200
    wait_for(lambda: len(server.worker_pids()) == 2 and first not in server.worker_pids(), 20, "it was not replaced")
    assert _standing_by(server) == [second]
    (third,) = set(server.worker_pids()) - {second}
    wait_for(lambda: _taken(server, 1)[third] == 1, 20, "the new worker takes nothing")


@pinned
def test_workers_with_a_core_each_all_take_what_comes(make_server: Callable[..., Server]) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is but one core")
    server = make_server(workers=2)
    assert _standing_by(server) == []
    assert "stand by" not in server.log.read_text()
    wait_for(lambda: all(_taken(server, _MANY).values()), 20, "a worker takes nothing")


@pinned
def test_there_is_a_worker_for_each_core(one_core: set[int]) -> None:
    assert [standby.needed(workers) for workers in (1, 2, 5)] == [1, 1, 1]


def test_no_more_are_needed_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert [standby.needed(workers) for workers in (1, 2, 3, 4, 5, 256)] == [1, 2, 3, 4, 4, 4]


class _Echo(asyncio.Protocol):
    """Says what it hears."""

    made = 0
    blocking = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _Echo.made += 1
        _Echo.blocking += os.get_blocking(transport.get_extra_info("socket").fileno())
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


class _Socket:
    """A listening socket of which to accept fails so at first."""

    def __init__(self, sock: socket.socket, fails: list[OSError]) -> None:
        self._sock = sock
        self.fails = fails

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def accept(self) -> Any:
        if self.fails:
            raise self.fails.pop(0)
        return self._sock.accept()


class _Standing:
    """One that stands by for others, who have accepted `others`; and the waits it asked its loop for, in seconds."""

    def __init__(self, folder: Path, fails: list[OSError]) -> None:
        Accepted.prepare(str(folder))
        self.others = Accepted(str(folder))
        self.waits: list[float] = []
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(1024)
        self.port: int = self._listening.getsockname()[1]
        self.sock: Any = _Socket(self._listening, fails)
        self._loop: Any = asyncio.get_running_loop()
        self._later = self._loop.call_later
        self.it = Standby(self.sock, _Echo, Accepted(str(folder)))
        self._loop.call_later = self._asked

    def _asked(self, wait_s: float, call: Any, *given: Any, **more: Any) -> Any:
        if getattr(call, "__self__", None) is self.it:
            self.waits.append(wait_s)
        return self._later(wait_s, call, *given, **more)

    async def __aenter__(self) -> _Standing:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.it.close()
        self._loop.call_later = self._later
        self._listening.close()

    def comes(self) -> socket.socket:
        """A client whose connection waits."""
        client = socket.create_connection(("127.0.0.1", self.port))
        client.setblocking(False)
        return client

    async def said(self, client: socket.socket, text: bytes) -> bytes:
        """What a client hears when it has said this."""
        async with asyncio.timeout(10):
            await self._loop.sock_sendall(client, text)
            heard = b""
            while len(heard) < len(text) and (more := await self._loop.sock_recv(client, 64)):
                heard += more
        client.close()
        return heard


@contextmanager
def _no_room() -> Iterator[None]:
    """This process may have no more files than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def standing(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """Runs a test of one that stands by, on both loops; `fails` is how accepting fails at first."""

    def run(test: Callable[[_Standing], Any], *fails: OSError) -> None:
        async def stand() -> None:
            async with _Standing(tmp_path, list(fails)) as one:
                await test(one)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(stand())

    return run


def test_all_that_nobody_else_takes_are_taken_in_one_go_time_and_again(standing: Callable[..., None]) -> None:
    async def test(one: _Standing) -> None:
        for n in range(3):
            clients = [one.comes() for _ in range(300)]
            texts = [b"%d-%d" % (n, m) for m in range(300)]
            assert await asyncio.gather(*map(one.said, clients, texts)) == texts
            assert one.waits == [0.05] * (n + 1)
        assert _Echo.blocking == 0

    standing(test)


def test_who_is_taken_has_waited(standing: Callable[..., None]) -> None:
    async def test(one: _Standing) -> None:
        begun = time.monotonic()
        assert await one.said(one.comes(), b"at last") == b"at last"
        assert time.monotonic() - begun >= 0.04  # loops count in whole milliseconds, from their turn's begin

    standing(test)


def test_between_rounds_there_is_other_work(standing: Callable[..., None]) -> None:
    async def test(one: _Standing) -> None:
        clients = [one.comes() for _ in range(300)]
        one.it.close()
        made, seen = _Echo.made, []
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def look() -> None:
            seen.append(_Echo.made - made)
            if seen[-1] == 300:
                done.set()
            else:
                loop.call_soon(look)

        one.it._take()
        look()
        async with asyncio.timeout(10):
            await done.wait()
        assert max(b - a for a, b in pairwise(seen)) < 150
        for client in clients:
            client.close()

    standing(test)


def test_nobody_is_taken_while_others_take_some(standing: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(one: _Standing) -> None:
        made, looks = _Echo.made, []
        look = one.it._look

        def looked(count: int) -> None:
            looks.append(_Echo.made - made)
            if len(looks) <= 3:
                one.others.add()
            look(count)

        monkeypatch.setattr(one.it, "_look", looked)
        assert await one.said(one.comes(), b"in the end") == b"in the end"
        assert looks == [0, 0, 0, 0]

    standing(test)


def test_what_others_take_in_time_is_not_taken(standing: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(one: _Standing) -> None:
        made, looked = _Echo.made, asyncio.Event()
        look = one.it._look
        monkeypatch.setattr(one.it, "_look", lambda count: (look(count), looked.set()))
        client = one.comes()
        one.it._somebody_waits()
        one.sock.accept()[0].close()  # another worker does
        async with asyncio.timeout(10):
            await looked.wait()
        assert _Echo.made == made
        client.close()
        monkeypatch.undo()
        assert await one.said(one.comes(), b"the next") == b"the next"

    standing(test)


def test_those_that_left_while_they_waited_hold_nobody_up(standing: Callable[..., None]) -> None:
    async def test(one: _Standing) -> None:
        for client in [one.comes() for _ in range(3)]:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()  # by a reset
        assert await one.said(one.comes(), b"me too") == b"me too"
        assert one.waits == [0.05]

    standing(test, ConnectionAbortedError(errno.ECONNABORTED, "left"), PermissionError(errno.EPERM, "not this one"))


def test_what_there_is_no_room_for_is_taken_when_there_is(standing: Callable[..., None]) -> None:
    async def test(one: _Standing) -> None:
        client = one.comes()
        with _no_room():
            one.it.close()  # nothing but what this look leaves behind has it look again
            one.it._take()
        assert one.waits == [1.0]
        assert await one.said(client, b"still here") == b"still here"

    standing(test)


def test_one_that_has_no_room_leaves_others_who_take_some_alone(
    standing: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "_WITHOUT_ROOM_S", 0.01)

    async def test(one: _Standing) -> None:
        client = one.comes()
        one.it.close()
        one.it._take()
        one.others.add()
        assert await one.said(client, b"after all") == b"after all"
        assert one.waits == [0.01, 0.05]

    standing(test, OSError(errno.ENFILE, "the system has no file left"))


def test_what_cannot_be_begun_is_told(standing: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(one: _Standing) -> None:
        told: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))
        one.it._protocol = lambda: 1 / 0
        client = one.comes()
        async with asyncio.timeout(10):
            assert await loop.sock_recv(client, 64) == b""
        client.close()
        one.it._protocol = _Echo
        assert await one.said(one.comes(), b"the next") == b"the next"
        assert [type(context["exception"]) for context in told] == [ZeroDivisionError]

    standing(test)


def test_one_that_is_closed_takes_nothing_more(standing: Callable[..., None]) -> None:
    async def test(one: _Standing) -> None:
        for waits in (False, True):
            client = one.comes()
            if waits:
                one.it._somebody_waits()
            one.it.close()
            assert one.it._looks is None or one.it._looks.cancelled()
            assert not asyncio.get_running_loop().remove_reader(one.sock.fileno())
            one.sock.accept()[0].close()  # it waits there for others
            client.close()

    standing(test)


def test_all_workers_see_what_any_counts(tmp_path: Path) -> None:
    Accepted.prepare(str(tmp_path))
    one, other = Accepted(str(tmp_path)), Accepted(str(tmp_path))
    seen = []
    for n in range(600):
        (one, other)[n % 2].add()
        seen.append(int(one))
        assert int(one) == int(other)
    assert all(a != b for a, b in pairwise(seen))
    assert len(set(seen)) == 256

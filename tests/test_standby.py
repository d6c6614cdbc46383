"""Workers beyond the cores there are stand by: others' connections stay theirs, and what others leave is taken."""

from __future__ import annotations

import asyncio
import http.client
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

import psutil
import pytest
import uvloop

from bursar.runtime import standby
from bursar.runtime.standby import Standby
from support.server import Server, wait_for

_MANY = 30


@pytest.fixture
def one_core() -> Iterator[None]:
    """What is started here meanwhile has one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


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


@pinned
def test_on_one_core_one_worker_takes_what_comes(one_core: None, make_server: Callable[..., Server]) -> None:
    server = make_server(workers=2)
    (second,) = _standing_by(server)
    (first,) = set(server.worker_pids()) - {second}
    wait_for(lambda: _taken(server, 1)[first] == 1, 20, "the first worker takes nothing")
    taken = _taken(server, _MANY)
    assert taken[first] + taken[second] == _MANY
    assert taken[first] >= _MANY - 5  # a busy machine may hold it up
    assert "some stand by workers=2 standing_by=1" in server.log.read_text()


@pinned
def test_who_stands_by_takes_over_from_one_that_is_held_up(one_core: None, make_server: Callable[..., Server]) -> None:
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
    one_core: None, make_server: Callable[..., Server]
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
def test_there_is_a_worker_for_each_core(one_core: None) -> None:
    assert [standby.needed(workers) for workers in (1, 2, 5)] == [1, 1, 1]


def test_no_more_are_needed_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert [standby.needed(workers) for workers in (1, 2, 3, 4, 5, 256)] == [1, 2, 3, 4, 4, 4]


class _Echo(asyncio.Protocol):
    """Says its number, and what it hears."""

    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _Echo.made += 1
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


@asynccontextmanager
async def _listening() -> AsyncIterator[tuple[socket.socket, Standby, int]]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(128)
        standing = Standby(sock, _Echo)
        try:
            yield sock, standing, sock.getsockname()[1]
        finally:
            standing.close()


async def _said(port: int, text: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    try:
        async with asyncio.timeout(10):
            return await reader.readexactly(len(text))
    finally:
        writer.close()


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


LOOPS = pytest.mark.parametrize("loop_of", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


def _run(loop_of: Callable[[], asyncio.AbstractEventLoop], test: Callable[[], object]) -> None:
    with asyncio.Runner(loop_factory=loop_of) as runner:
        runner.run(test())  # type: ignore[arg-type]


@LOOPS
def test_what_nobody_else_takes_is_taken_time_and_again(loop_of: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test() -> None:
        async with _listening() as (_, _standing, port):
            for n in range(3):
                texts = [b"%d-%d" % (n, m) for m in range(100)]
                assert await asyncio.gather(*(_said(port, text) for text in texts)) == texts

    _run(loop_of, test)


@LOOPS
def test_what_others_take_in_time_is_not_taken(
    loop_of: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with _listening() as (sock, standing, port):
            made, looked = _Echo.made, asyncio.Event()
            take = standing._take
            monkeypatch.setattr(standing, "_take", lambda: (take(), looked.set()))
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            sock.accept()[0].close()  # another worker does
            async with asyncio.timeout(10):
                await looked.wait()
            assert _Echo.made == made
            writer.close()
            monkeypatch.undo()
            assert await _said(port, b"the next") == b"the next"

    _run(loop_of, test)


@LOOPS
def test_what_there_is_no_room_for_is_taken_when_there_is(loop_of: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test() -> None:
        async with _listening() as (_, standing, port):
            with socket.socket() as client:
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
                with _no_room():
                    standing.close()  # nothing but what this look leaves behind has it look again
                    standing._take()
                await asyncio.get_running_loop().sock_sendall(client, b"still here")
                async with asyncio.timeout(10):
                    assert await asyncio.get_running_loop().sock_recv(client, 64) == b"still here"

    _run(loop_of, test)


@LOOPS
def test_one_that_is_closed_takes_nothing_more(loop_of: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test() -> None:
        async with _listening() as (sock, standing, port):
            for waits in (False, True):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                if waits:
                    standing._somebody_waits()
                standing.close()
                assert standing._looks is None or standing._looks.cancelled()
                assert not asyncio.get_running_loop().remove_reader(sock.fileno())
                sock.accept()[0].close()  # it waits there for others
                writer.close()

    _run(loop_of, test)

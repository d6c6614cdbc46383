"""Workers that share a core take longer turns at it; those that do not are left alone."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable, Iterator

import pytest

from bursar.runtime import slices
from support.server import Server

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in slices._SCHED_SETATTR, reason="slices are asked for on Linux"
)


_UNTOLD = "this system does not tell a thread's slice (Linux before 6.12)"


def slice_ns(thread: int) -> int:
    """The slice a thread has, as the system tells it; 0 where it tells of none."""
    attributes = ctypes.create_string_buffer(56)
    get = slices._SCHED_SETATTR[os.uname().machine] + 1
    if ctypes.CDLL(None).syscall(get, thread, attributes, 56, 0) != 0:
        return 0
    return struct.unpack_from("<Q", attributes, 24)[0]


@pytest.fixture
def one_core() -> Iterator[None]:
    """What is started here meanwhile has one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def threads_of(server: Server) -> list[int]:
    return [int(thread) for pid in server.worker_pids() for thread in os.listdir(f"/proc/{pid}/task")]


def test_workers_on_one_core_have_longer_slices(one_core: None, make_server: Callable[..., Server]) -> None:
    if slice_ns(0) == 0:
        pytest.skip(_UNTOLD)
    usual = slice_ns(0)
    server = make_server(workers=2)
    threads = threads_of(server)
    assert len(threads) > 2
    assert {slice_ns(thread) for thread in threads} == {slices._SLICE_NS}
    assert slice_ns(0) == usual != slices._SLICE_NS


def test_more_than_two_workers_a_core_are_left_alone(one_core: None, make_server: Callable[..., Server]) -> None:
    if slice_ns(0) == 0:
        pytest.skip(_UNTOLD)
    server = make_server(workers=3)
    assert {slice_ns(thread) for thread in threads_of(server)} == {slice_ns(0)}


def test_workers_with_cores_of_their_own_are_left_alone(make_server: Callable[..., Server]) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is but one core")
    if slice_ns(0) == 0:
        pytest.skip(_UNTOLD)
    server = make_server(workers=2)
    assert {slice_ns(thread) for thread in threads_of(server)} == {slice_ns(0)}


@pytest.mark.parametrize("fault", [OSError(38, "Function not implemented"), ImportError("no _ctypes")])
def test_where_the_system_refuses_nothing_happens(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise fault

    monkeypatch.setattr(os, "sched_getscheduler", refuse)
    assert not slices.lengthen()


def test_where_the_system_knows_nothing_of_it_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "_SCHED_SETATTR", {})
    assert not slices.lengthen()

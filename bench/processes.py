"""Processes under measurement: started pinned to a core, asked what they used, ended by id."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil  # type: ignore[import-untyped]

_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0, 1]
GATEWAY_CORE, LOAD_CORE = _CORES[0], _CORES[-1]
_CPUCLOCK_SCHED = 2


def pinned(command: list[str], *cores: int) -> list[str]:
    """A command held to these cores, where the machine can (`taskset`) and has more than one."""
    return ["taskset", "-c", ",".join(map(str, cores)), *command] if can_pin() else command


def can_pin() -> bool:
    return shutil.which("taskset") is not None and len(_CORES) > 1


class Group:
    """A gateway's processes: the one that was started, or that was there, and all below it."""

    def __init__(self, pid: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._process = process

    @classmethod
    def start(
        cls, command: list[str], *, cores: Sequence[int] = (GATEWAY_CORE,), cwd: Path, log: Path,
        env: Mapping[str, str] | None = None,
    ) -> Group:  # fmt: skip
        """Starts a command in a session of its own; its output goes to `log`."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                pinned(command, *cores), cwd=cwd, env={**os.environ, **(env or {})}, stdout=out, stderr=out,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        return cls(process.pid, process)

    @property
    def is_ours(self) -> bool:
        """Whether it was started here."""
        return self._process is not None

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None if self._process is not None else not psutil.pid_exists(self.pid)

    def cpu_us(self) -> float:
        """User and system time of all its processes so far, in microseconds."""
        return sum(_cpu_us(p) for p in self._all())

    def memory_mb(self) -> float:
        """Resident memory of all its processes, in megabytes; pages they share count once for each."""
        return float(sum(p.memory_info().rss for p in self._all())) / 1e6

    def stop(self) -> None:
        """Ends it in order, and by force after ten seconds."""
        if self._process is None:
            return
        for how, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
            try:
                os.killpg(self._process.pid, how)
                self._process.wait(seconds)
                return
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    def _all(self) -> list[psutil.Process]:
        try:
            top = psutil.Process(self.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _cpu_us(process: psutil.Process) -> float:
    try:
        if platform.system() == "Linux":
            # The scheduler's own clock of that process, in nanoseconds; /proc counts in hundredths of a second.
            return time.clock_gettime_ns(~process.pid << 3 | _CPUCLOCK_SCHED) / 1000
        times = process.cpu_times()
    except (psutil.NoSuchProcess, OSError):
        return 0.0
    return float(times.user + times.system) * 1e6


def end_when_told() -> None:
    """Told to end, or with its terminal gone, this program ends what it has started, as it does on Ctrl-C."""
    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(name, lambda number, _frame: sys.exit(128 + number))


def alone() -> IO[bytes] | None:
    """What keeps other runs on this machine from beginning until it is closed; None where one is under way."""
    lock = (Path(tempfile.gettempdir()) / f"bursar-bench.{os.getuid()}.lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for(condition: Callable[[], bool], within_s: float, what: str, *, every_s: float = 0.02) -> None:
    """Waits for what another process does."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {within_s:g} s")
        time.sleep(every_s)

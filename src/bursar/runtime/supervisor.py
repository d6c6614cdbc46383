"""Several workers on one address: started, kept alive, and ended together.

Each worker holds the read end of a pipe whose write end only the supervisor has. When the supervisor ends,
however it ends, the pipe does too, and the workers stop: nobody holds the address without it.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from types import FrameType

from bursar.runtime import standby
from bursar.runtime.logs import Log
from bursar.runtime.settings import Settings

_LOOK_EVERY_S = 5.0
_RESPAWN_AFTER_S = 0.5
_BEYOND_BOUND_S = 10.0


class Supervisor:
    """Runs `count` workers until a signal; returns its exit status."""

    def __init__(self, settings: Settings, config: str | None, environ: Mapping[str, str], sock: socket.socket,
                 count: int, log: Log) -> None:  # fmt: skip
        self._settings = settings
        self._config = config
        self._environ = dict(environ)
        self._sock = sock
        self._count = count
        self._needed = standby.needed(count)
        self._log = log
        self._stopping = False
        self._workers: list[subprocess.Popen[bytes]] = []

    def run(self) -> int:
        self._tallies = tempfile.mkdtemp(prefix="bursar-tallies-")
        standby.Accepted.prepare(self._tallies)
        self._read_end, write_end = os.pipe()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._told)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # heard, so that the end of a worker ends the wait
        news, told = socket.socketpair()
        told.setblocking(False)
        signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        try:
            if self._needed < self._count:
                self._log.info("there are fewer cores than workers: some stand by", workers=self._count,
                               standing_by=self._count - self._needed)  # fmt: skip
            self._workers = [self._start(n) for n in range(self._count)]
            while not self._stopping:
                self._keep_alive()
                if select.select([news], [], [], _LOOK_EVERY_S)[0]:
                    news.recv(4096)
            return self._end()
        finally:
            signal.set_wakeup_fd(-1)
            news.close()
            told.close()
            os.close(write_end)
            os.close(self._read_end)
            shutil.rmtree(self._tallies, ignore_errors=True)

    def _told(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _start(self, n: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "bursar.runtime.worker", str(self._sock.fileno()), str(self._read_end)]
        command += [self._tallies, "serves" if n < self._needed else "stands-by"]
        if self._config is not None:
            command.append(self._config)
        return subprocess.Popen(
            command,
            env=self._environ,
            pass_fds=(self._sock.fileno(), self._read_end),
        )

    def _keep_alive(self) -> None:
        for n, worker in enumerate(self._workers):
            status = worker.poll()
            if status is not None:
                self._log.warning("a worker ended; starting another", pid=worker.pid, status=status)
                time.sleep(_RESPAWN_AFTER_S)
                if not self._stopping:
                    self._workers[n] = self._start(n)

    def _end(self) -> int:
        """Ends the workers in order, and by force those that do not end within the bound."""
        for worker in self._workers:
            worker.terminate()
        deadline = time.monotonic() + self._settings.server.stop_within_s * 2 + _BEYOND_BOUND_S
        status = 0
        for worker in self._workers:
            try:
                ended = worker.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._log.error("a worker did not end within its bound and was killed", pid=worker.pid)
                worker.kill()
                ended = worker.wait()
            # One that was told to end while it was still starting had nothing to end in order.
            status = status or (0 if ended in (0, -signal.SIGTERM) else 1)
        return status

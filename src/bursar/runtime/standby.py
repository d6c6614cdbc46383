"""Workers beyond the cores there are stand by: they take connections only where those that serve take none.

Two that share a core get no more done than one, and each finds the core's caches as the other left them, which costs a
fifth of a call or more. What another worker is good for there is to take over: from one that ended until it is started
anew, and from one that is held up. It does so when somebody has waited for 50 ms in which nobody was taken.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

_AFTER_S = 0.05
"""Some times what a loop that keeps up is busy with one thing at the longest."""
_AT_ONCE = 64
_WITHOUT_ROOM_S = 1.0
_NAME = "accepted"
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def needed(workers: int) -> int:
    """How many of so many workers take connections as they come: one for each core this process may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(workers, cores)


class Accepted:
    """A count of the connections that the workers which serve have accepted, in a byte of a file that all workers map.
    It begins anew after 255, and where two count at once one may be lost: that it changes is what matters."""

    def __init__(self, folder: str) -> None:
        """`folder` is the one workers share, and prepared."""
        with (Path(folder) / _NAME).open("r+b") as file:
            self._byte = mmap.mmap(file.fileno(), 1)

    @staticmethod
    def prepare(folder: str) -> None:
        (Path(folder) / _NAME).write_bytes(b"\0")

    def add(self) -> None:
        self._byte[0] = (self._byte[0] + 1) & 255

    def __int__(self) -> int:
        return self._byte[0]


class Standby:
    """Takes from a listening socket those whom others leave waiting, in the place of a loop's own server. Everything
    here is called by its loop."""

    def __init__(self, sock: socket.socket, protocol: Callable[[], asyncio.BaseProtocol], by_others: Accepted) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._protocol = protocol
        self._by_others = by_others
        self._looks: asyncio.Handle | None = None
        self._begun: set[asyncio.Task[None]] = set()
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._somebody_waits)

    def close(self) -> None:
        """Takes nothing any more. The socket stays its owner's."""
        if self._looks is not None:
            self._looks.cancel()
        self._loop.remove_reader(self._sock.fileno())

    async def wait_closed(self) -> None:
        """Those that were taken are connections by now, which the server waits for itself."""

    def _somebody_waits(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._looks = self._loop.call_later(_AFTER_S, self._look, int(self._by_others))

    def _look(self, count: int) -> None:
        """Takes who waits, where the others have taken nobody since their count was `count`."""
        self._looks = None
        if int(self._by_others) == count:
            self._take()
        else:
            self._loop.add_reader(self._sock.fileno(), self._somebody_waits)

    def _take(self) -> None:
        self._looks = None
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._sock.accept()
            except BlockingIOError:  # that is all
                self._loop.add_reader(self._sock.fileno(), self._somebody_waits)
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:  # who waited has left
                    continue
                # Others may have room; it is looked for again where they have none either.
                self._looks = self._loop.call_later(_WITHOUT_ROOM_S, self._look, int(self._by_others))
                return
            begun = self._loop.create_task(self._begin(connection))
            self._begun.add(begun)
            begun.add_done_callback(self._begun.discard)
        self._looks = self._loop.call_soon(self._take)  # behind what else there is to do

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except Exception as error:
            connection.close()
            self._loop.call_exception_handler({"message": "a connection could not be begun", "exception": error})

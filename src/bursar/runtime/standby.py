"""Workers beyond the cores there are stand by: they look 50 ms after somebody came, and take who waits then.

That may be others than who came first: where many connect at once, or again and again, some are taken from workers that
would have come to them.

Two that share a core get no more done than one, and each finds the core's caches as the other left them, which costs a
fifth of a call or more. What another worker is good for there is to take over: from one that ended until it is started
anew, and from one that is held up.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable

_AFTER_S = 0.05
"""Some times what a loop that keeps up is busy with one thing at the longest."""
_AT_ONCE = 64
_WITHOUT_ROOM_S = 1.0


def needed(workers: int) -> int:
    """How many of so many workers take connections as they come: one for each core this process may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(workers, cores)


class Standby:
    """Takes from a listening socket what has waited for others to take it, in the place of a loop's own server.
    Everything here is called by its loop."""

    def __init__(self, sock: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._protocol = protocol
        self._looks: asyncio.TimerHandle | None = None
        self._begun: set[asyncio.Task[object]] = set()
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
        self._looks = self._loop.call_later(_AFTER_S, self._take)

    def _take(self) -> None:
        self._looks = None
        try:
            for _ in range(_AT_ONCE):
                connection, _ = self._sock.accept()
                connection.setblocking(False)
                begun = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, connection))
                self._begun.add(begun)
                begun.add_done_callback(self._begun.discard)
        except BlockingIOError:  # the others came before, or that is all
            pass
        except ConnectionError:  # who waited has left
            pass
        except OSError:  # no room for another connection: others may have some
            self._looks = self._loop.call_later(_WITHOUT_ROOM_S, self._take)
            return
        self._loop.add_reader(self._sock.fileno(), self._somebody_waits)

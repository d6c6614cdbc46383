"""Everything outside the gateway, the provider and the clients, in one process on the other core.

`python -m bench.outside PORT` prints the provider's port (of 0 a free one), then takes a `Job` a line and gives a
`Seen` a line. While a job runs it never sleeps: waking a neighbour's core is dear on a virtual machine, is charged
to whoever sends, and is no part of what a gateway does; its real neighbours are behind a network.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop

from bench.load import Job, perform
from bench.upstream import listen

_decode = msgspec.json.Decoder(Job).decode


class _Awake:
    """Keeps the loop from sleeping while it is entered."""

    def __enter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._again)

    def __exit__(self, *_: object) -> None:
        self._handle.cancel()

    def _again(self) -> None:
        self._handle = self._loop.call_soon(self._again)


async def _main() -> None:
    lines = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    _say(b"%d" % await listen(int(sys.argv[1])))
    while line := await lines.readline():
        with _Awake():
            seen = await perform(_decode(line))
        _say(msgspec.json.encode(seen))


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(_main())

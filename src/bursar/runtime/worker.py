"""A worker of the supervisor: `python -m bursar.runtime.worker SOCKET_FD PIPE_FD TALLIES
serves|stands-by [CONFIG]`."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import sys


def main() -> None:
    gc.disable()  # until all that is loaded at the start is there, and stays
    from bursar.runtime import serve, settings

    sock = socket.socket(fileno=int(sys.argv[1]))
    config = sys.argv[5] if len(sys.argv) > 5 else None
    supervised = serve.Supervised(pipe=int(sys.argv[2]), tallies=sys.argv[3], stands_by=sys.argv[4] == "stands-by")
    serve.run(settings.load(config, os.environ), os.environ, sock, supervised)
    if _is_alone(supervised.pipe):
        # The supervisor was killed: nobody else would remove what the workers told each other.
        shutil.rmtree(supervised.tallies, ignore_errors=True)


def _is_alone(pipe: int) -> bool:
    """Whether the pipe has ended, which it does with the supervisor, and with nothing else."""
    os.set_blocking(pipe, False)
    try:
        return os.read(pipe, 1) == b""
    except BlockingIOError:
        return False


if __name__ == "__main__":
    main()

"""A worker of the supervisor: `python -m bursar.runtime.worker SOCKET_FD PIPE_FD TALLIES [CONFIG]`."""

from __future__ import annotations

import gc
import os
import socket
import sys


def main() -> None:
    gc.disable()  # until all that is loaded at the start is there, and stays
    from bursar.runtime import serve, settings

    sock = socket.socket(fileno=int(sys.argv[1]))
    config = sys.argv[4] if len(sys.argv) > 4 else None
    supervised = serve.Supervised(pipe=int(sys.argv[2]), tallies=sys.argv[3])
    serve.run(settings.load(config, os.environ), os.environ, sock, supervised)


if __name__ == "__main__":
    main()

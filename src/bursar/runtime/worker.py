"""A worker of the supervisor: `python -m bursar.runtime.worker SOCKET_FD PIPE_FD [CONFIG]`."""

from __future__ import annotations

import os
import socket
import sys

from bursar.runtime import serve, settings


def main() -> None:
    sock = socket.socket(fileno=int(sys.argv[1]))
    config = sys.argv[3] if len(sys.argv) > 3 else None
    serve.run(settings.load(config, os.environ), os.environ, sock, parent_pipe=int(sys.argv[2]))


if __name__ == "__main__":
    main()

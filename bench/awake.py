"""Keeps the gateways' core awake: a process that goes behind all others on it, and only counts.

The host of a virtual machine makes other use of a core that sleeps, and gives it back where there is room: often beside
somebody else's thread on one core of the processor, where everything takes nearly twice as long. How often a core
sleeps is the gateway's own way, so that some would be charged more of this than others. Where the system has no such
order `python -m bench.awake PARENT` ends at once.
"""

from __future__ import annotations

import os
import subprocess
import sys

from bench.processes import GATEWAY_CORE, pinned

_COUNTED = range(1_000_000)


class Awake:
    """The process, where it can be had."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "bench.awake", str(os.getpid())]
        self._process = subprocess.Popen(pinned(command, GATEWAY_CORE), start_new_session=True)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)


def main() -> None:
    parent = int(sys.argv[1])
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        return  # it would take the core from the gateways
    while os.getppid() == parent:  # whoever was killed can end nobody
        for _ in _COUNTED:
            pass


if __name__ == "__main__":
    main()

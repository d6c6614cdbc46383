"""How long a worker keeps a core that it shares with others.

Each finds the core's cache as the other left it, and pays for filling it anew. The system lets them take turns of 3 ms
or less; with longer ones there are fewer of those changes.
"""

from __future__ import annotations

import os
import struct
import sys

_SLICE_NS = 8_000_000
# sched_setattr(2) has no function in Python, and none in many C libraries.
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
# struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period, least and most utilisation
_ATTRIBUTES = struct.Struct("IIQiIQQQII")


def help_where(workers: int) -> bool:
    """Whether longer slices are for so many workers: where two share a core. With more, each would wait for all the
    others' slices."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return cores < workers <= 2 * cores


def lengthen() -> bool:
    """Asks for longer slices for this process and those it starts; whether the system took that. Linux goes by it from
    6.12 on; where it is unknown, nothing changes."""
    # The machine is the kernel's: a Python of 32 bits there has other numbers for its calls.
    call = _SCHED_SETATTR.get(os.uname().machine) if sys.platform == "linux" and sys.maxsize > 2**32 else None
    if call is None:
        return False
    try:
        import ctypes

        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            return False
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        asked = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, _SLICE_NS, 0, 0, 0, 0)
        return bool(ctypes.CDLL(None).syscall(call, 0, asked, 0) == 0)
    except (OSError, ImportError):  # not there with every C library, in every container, in every Python
        return False

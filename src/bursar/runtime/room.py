"""How many files this process may have open: each connection is one, and a system's default may be but 1,024."""

from __future__ import annotations

import errno
import os
import resource
import time
from contextlib import suppress

from bursar.runtime.follow import Told

_LOOK_EVERY_S = 1.0
_FULL = "no room for another file, so that new connections are closed: raise the limit of open files (ulimit -n)"


def take_all() -> None:
    """Takes as many as the system allows, for this process and those it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems say "any number", and take another only
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Room:
    """Says when there is room for no other file, which closes new connections without a word, and when there is
    again."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._next_look = 0.0
        self._is_full = False

    def look(self) -> None:
        """Looks, now and then."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_EVERY_S
        is_full = not _has_another()
        if is_full != self._is_full:
            self._is_full = is_full
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            self._told(_FULL if is_full else "there is room for files and connections again", {"limit": limit})


def _has_another() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True

"""Wire formats: a TOML file each, for where answers say what, and, where messages or content are written in a way of
their own, a module of pure functions.

`write(chat)` gives the body of a request for a chat in OpenAI's names, plain data; it raises RequestError with the
field that cannot be said. `said(value, event, calls)` gives the events of an answer's content, or of one frame's.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from bursar.types.events import Event

Tree = dict[str, Any]


class Calls:
    """Tool calls of one answer in the order they came: whatever a format calls them, clients count from zero."""

    def __init__(self) -> None:
        self._known: dict[object, int] = {}

    def at(self, key: object) -> int:
        """The place of the call of that key."""
        return self._known.setdefault(key, len(self._known))

    def knows(self, key: object) -> bool:
        """Whether a call of that key has begun."""
        return key in self._known

    def next(self) -> int:
        """The place of a call that comes whole."""
        return self.at(object())


Said = Callable[[Tree, str | None, Calls], list[Event]]
Write = Callable[[Tree], Tree]


def _of(shape: str, name: str) -> Any:
    path = f"{__name__}.{shape}"
    return getattr(import_module(path), name, None) if find_spec(path) is not None else None


def reader_of(shape: str) -> Said | None:
    """What reads content of that shape; None where paths do."""
    said: Said | None = _of(shape, "said")
    return said


def writer_of(shape: str) -> Write | None:
    """What writes requests of that shape; None where they are as OpenAI's."""
    write: Write | None = _of(shape, "write")
    return write

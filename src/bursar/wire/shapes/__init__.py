"""Wire formats: a TOML file each, for where answers say what, and, where messages or content are written in a way of
their own, a module of pure functions.

`write(chat)` gives the body of a request for a chat in OpenAI's names, plain data; it raises RequestError with the
field that cannot be said. `said(value, event, calls)` gives the events of an answer's content, or of one frame's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from bursar.types.events import Event

Tree = dict[str, Any]


def made_id(name: str, arguments: str, at: int) -> str:
    """An id for a call that came without one: made of what it says, so that it is the same however it is read."""
    return f"call_{sha256(f'{at}|{name}|{arguments}'.encode('utf-8', 'replace')).hexdigest()[:20]}"


class Calls:
    """Tool calls of one answer in the order they came: whatever a format calls them, clients count from zero."""

    def __init__(self) -> None:
        self._known: dict[object, int] = {}
        self._with_arguments: set[int] = set()

    def at(self, key: object) -> int:
        """The place of the call of that key."""
        return self._known.setdefault(_hashable(key), len(self._known))

    def knows(self, key: object) -> bool:
        """Whether a call of that key has begun."""
        return _hashable(key) in self._known

    def piece(self, key: object, arguments: str) -> int:
        """The place of a call, of which a piece of its arguments has come."""
        at = self.at(key)
        if arguments:
            self._with_arguments.add(at)
        return at

    def is_bare(self, key: object) -> bool:
        """Whether a call of that key has begun and nothing came of its arguments."""
        return self.knows(key) and self.at(key) not in self._with_arguments

    def next(self) -> int:
        """The place of a call that comes whole."""
        return self.at(object())


class Kept:
    """What an answer of a less usual format keeps of the frames before: its calls, its usage so far, and texts."""

    def __init__(self) -> None:
        self.calls = Calls()
        self._calls: dict[int, Calls] = {}
        self.usage: dict[str, Any] = {}
        self.texts: dict[str, str] = {}

    def calls_of(self, choice: int) -> Calls:
        """The calls of one of several answers."""
        return self._calls.setdefault(choice, Calls())


def _hashable(key: object) -> object:
    return key if isinstance(key, int | str | None) or type(key) is object else repr(key)


Said = Callable[[Tree, str | None, Calls], list[Event]]
Write = Callable[[Tree], Tree]


@cache
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

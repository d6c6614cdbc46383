"""The one path dialect: names and `[n]` joined by dots (`choices[0].delta.content`); `[name=value]` is the first object
of a list in which that name has that value.

A path is parsed once into steps; a look-up never raises: what is not there, or is null, is `None`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bursar.types.errors import ConfigError

Step = str | int | tuple[str, str]
Getter = Callable[[object], object]

_PART = re.compile(r"\[(-?\d+)\]|\[(\w+)=(\w+)\]|([^.\[\]]+)")
_WHOLE = re.compile(r"([^.\[\]]+|\[-?\d+\])(\[-?\d+\]|\[\w+=\w+\]|\.[^.\[\]]+)*")


def parse(path: str) -> tuple[Step, ...]:
    """The steps of a path. Raises ConfigError that shows the path where it is not one."""
    if not _WHOLE.fullmatch(path):
        raise ConfigError(f"'{path}' is not a path: write names and [n] joined by dots, like choices[0].text")
    parts = _PART.findall(path)
    return tuple(int(index) if index else (where, value) if where else name for index, where, value, name in parts)


def look_up(data: object, steps: tuple[Step, ...]) -> object:
    """The value at the end of the steps, or None where a step leads nowhere."""
    for step in steps:
        try:
            data = data[step]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            if type(step) is not tuple or type(data) is not list:
                return None
            data = next((each for each in data if type(each) is dict and each.get(step[0]) == step[1]), None)
    return data


def getter(paths: str | list[str]) -> Getter:
    """A function that returns the first value present at one of the paths, else None."""
    alternatives = [parse(p) for p in ([paths] if isinstance(paths, str) else paths)]
    if len(alternatives) == 1:
        only = alternatives[0]
        if len(only) == 1 and isinstance(only[0], str):
            name = only[0]
            return lambda data: data.get(name) if type(data) is dict else None
        return lambda data: look_up(data, only)

    def first(data: object) -> object:
        for steps in alternatives:
            value = look_up(data, steps)
            if value is not None:
                return value
        return None

    return first


def put(data: dict[str, object], path: str, value: object) -> None:
    """Writes a value at a path of names, making the objects on the way."""
    *parents, last = parse(path)
    for step in parents:
        if not isinstance(step, str):
            raise ConfigError(f"'{path}' cannot be written to: a field of a request is named without [n]")
        child = data.setdefault(step, {})
        if not isinstance(child, dict):
            raise ConfigError(f"'{path}' cannot be written to: '{step}' holds a value already")
        data = child
    if not isinstance(last, str):
        raise ConfigError(f"'{path}' cannot be written to: a field of a request is named without [n]")
    data[last] = value

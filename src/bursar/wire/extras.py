"""What the frames of an answer say beside the answer itself (created, service_tier, citations, …): the last of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from bursar.wire.layouts import UNTYPED
from bursar.wire.runs import Told
from bursar.wire.typed import READ, Typed, fields_in
from bursar.wire.values import read_json

_ASIDES = 16


class Extras(msgspec.Struct, eq=False, gc=False):
    """Frames that bring a piece of text and no more are not asked."""

    asides: list[bytes] = []
    """The data of frames that are still to be looked through."""
    _found: dict[str, object] = {}
    _told: dict[str, msgspec.Raw] = {}
    _beside: tuple[msgspec.Raw | None, ...] = ()

    def take(self, kind: Typed, frame: Any, data: bytes) -> None:
        """Takes what a decoded frame says; most say the same as the one before."""
        if not kind.tells_all:
            self.put_aside(data)
            return
        beside = kind.said_beside(frame)
        if beside == self._beside:
            return
        self._beside = beside
        self.told(kind.told_in(beside))

    def told(self, told: Told) -> None:
        """Takes what is known of a frame."""
        if self.asides:
            self.all()  # they came before
        self._told.update(told)

    def put_aside(self, data: bytes) -> None:
        """Keeps a frame's data to be asked. Most answers have few such frames, which are asked at the end, all at once;
        in one of many they are asked now and then, so that they are not all kept."""
        self.asides.append(data)
        self._beside = ()
        if len(self.asides) >= _ASIDES:
            self.all()

    def all(self) -> dict[str, object]:
        """The last value of each that is not null, so far."""
        told, self._told = self._told, {}
        for name, raw in told.items():
            self._found[name], _ = read_json(bytes(raw))
        if self.asides:
            asides, self.asides = self.asides, []
            self._found |= _last_of_each(asides)
        return self._found


def _last_of_each(asides: list[bytes]) -> dict[str, object]:
    found: dict[str, object] = {}
    known: frozenset[str] = READ
    for data in reversed(asides):
        try:
            fields: Mapping[str, object] = fields_in(data)
        except UNTYPED:
            value, _ = read_json(data)
            if isinstance(value, list) and len(value) == 1:
                value = value[0]
            fields = value if isinstance(value, dict) else {}
        if fields.keys() <= known:
            continue
        for name in fields.keys() - known:
            value = fields[name]
            if type(value) is msgspec.Raw:
                value, _ = read_json(bytes(value))
            if value is not None:
                found[name] = value
        known = READ | found.keys()
    return found

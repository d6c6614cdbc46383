"""The description of a kind of call made ready for reading its answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import msgspec

from bursar.wire import quirks
from bursar.wire.paths import Getter, Step, getter, look_up, parse
from bursar.wire.shapes import reader_of
from bursar.wire.spec import AnswerSpec, OperationSpec, Paths
from bursar.wire.typed import CONTENT, Typed, typed
from bursar.wire.usage import UsageReader, found_in
from bursar.wire.whole import Whole, whole

_ABSENT: Getter = lambda _data: None  # noqa: E731


class Reader:
    """One section of a description made ready: as types where its layout is the usual one, and path by path; `said`
    reads content that is not laid out for paths."""

    def __init__(self, section: AnswerSpec, spec: OperationSpec) -> None:
        def compiled(field: Paths | None) -> Getter:
            return getter(field) if field is not None else _ABSENT

        self.said = reader_of(spec.shape)
        self.usage = UsageReader(spec.usage, quirks.of_usage(spec.quirks))
        # An end mark that looks like a frame must be looked for in each of them; so must what a quirk is about.
        plain = not spec.media and not (
            (spec.stream.end or "").startswith("{")
            or spec.stream.end_events
            or spec.quirks
            or "" in spec.finish.values()
        )
        self.typed: Typed | None = typed(section, spec.usage) if plain and self.said is None else None
        self.id = compiled(section.id)
        self.model = compiled(section.model)
        self._content = [compiled(getattr(section, field)) for field in CONTENT]
        self.choices = compiled(section.choices)
        # Paths name the first of several answers; the others are read by putting each in its place.
        self.choices_name = (
            section.choices if isinstance(section.choices, str) and section.choices.isidentifier() else None
        )
        self.error = compiled(section.error)
        self.vectors = compiled(section.vectors)
        self.vector = section.vector
        self.error_message = compiled(spec.error.message)
        self.error_type = compiled(spec.error.type)
        self.error_code = compiled(spec.error.code)

    def content(self, value: object) -> list[object]:
        """The values of `CONTENT` in a frame."""
        return [get(value) for get in self._content]


def _holds(section: AnswerSpec) -> list[tuple[Step, ...]]:
    """Paths of which an answer has the beginning of one: where what it says stands."""
    fields = (section.holds,) if section.holds else (section.choices, section.vectors, section.text, section.tool_calls)
    given = [[field] if isinstance(field, str) else field or [] for field in fields]
    return [parse(path) for paths in given for path in paths]


class Readers:
    """A description made ready for reading: share it between the calls of a provider."""

    def __init__(self, spec: OperationSpec) -> None:
        self.spec = spec
        self.answer = Reader(spec.answer, spec)
        plain = not (self.answer.said or spec.quirks or spec.media or "" in spec.finish.values())
        self.whole: Whole | None = whole(spec.answer, spec.usage) if plain else None
        self.stream = Reader(spec.stream, spec)
        self.is_sound = spec.stream.framing == "bytes"
        self.frame_quirks = quirks.of_frames(spec.quirks)
        self.end_mark = (spec.stream.end or "").encode()
        self.end_events = frozenset(spec.stream.end_events)
        self.done = getter(spec.stream.done) if spec.stream.done is not None else _ABSENT
        told = (spec.stream.end, spec.stream.finish, spec.stream.done, self.stream.said)
        self.says_ends = bool(spec.stream.end_events) or any(one is not None for one in told)
        self._holds = _holds(spec.answer)
        self.no_ends = frozenset(word for word, means in spec.finish.items() if not means)
        """Words in the place of a finish that mean that it goes on."""
        self.failures = frozenset(word for word, means in spec.finish.items() if means == "error")
        """Words in the place of a finish that mean that it failed."""
        path = spec.answer.text
        plain_path = isinstance(path, str) and "=" not in path
        self.text_at = f"${'' if str(path).startswith('[') else '.'}{path}" if plain_path else None
        """Where the text of a whole answer stands, as SQL's JSON functions name places; None where it varies."""

    def finer(self, raw: object) -> dict[str, object]:
        """What a raw usage object tells apart, by name; what it does not tell is left out."""
        return found_in(self._details, raw)

    def tier_in(self, data: bytes) -> object:
        """The service tier that a whole answer says beside its usage. Nothing else is read of it: it may be long."""
        if self._tier is None or self._tier[0] not in data:
            return None
        _, decode, names, get = self._tier
        try:
            found = decode(data)
        except msgspec.MsgspecError:
            return None
        return get({name: getattr(found, f"f{n}") for n, name in enumerate(names)})

    @cached_property
    def _tier(self) -> tuple[bytes, Callable[[bytes], object], list[str], Getter] | None:
        paths = self.spec.usage.tier
        if paths is None:
            return None
        given = [paths] if isinstance(paths, str) else paths
        names = list(dict.fromkeys(path.partition(".")[0] for path in given))
        kind = msgspec.defstruct(
            "Tier", [(f"f{n}", Any, None) for n, _ in enumerate(names)],
            rename={f"f{n}": name for n, name in enumerate(names)},
        )  # fmt: skip
        return b'"%b"' % names[0].encode(), msgspec.json.Decoder(kind).decode, names, getter(paths)

    @cached_property
    def _details(self) -> list[tuple[str, Getter]]:
        return [(name, getter(paths)) for name, paths in self.spec.usage.details.items()]

    def is_answer(self, value: object) -> bool:
        """Whether a whole answer has a place for what answers of its kind say: an error that has none has not."""
        for first, *further in self._holds:
            found = look_up(value, (first,))
            if found is not None and (not further or isinstance(found, dict | list)):
                return True
        return False

    def is_flat_error(self, value: object) -> bool:
        """Whether a whole answer is an error without an object of its own."""
        return not self.is_answer(value) and self.answer.error_message(value) is not None


class Endpoint(msgspec.Struct, frozen=True, eq=False):
    """Where a provider takes calls of one kind, and how its answers are read; `adds_usage` where it is asked to
    report usage in a stream."""

    spec: OperationSpec
    readers: Readers
    url: str
    stream_url: str
    adds_usage: bool

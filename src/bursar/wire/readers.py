"""A provider's spec made ready for reading."""

from __future__ import annotations

from bursar.wire.paths import Getter, getter
from bursar.wire.spec import AnswerSpec, Paths, Spec, UsageSpec
from bursar.wire.typed import CONTENT, Typed, Whole, typed, whole
from bursar.wire.usage import UsageReader

_ABSENT: Getter = lambda _data: None  # noqa: E731


class Reader:
    """One section of a spec made ready: as types where its layout is the usual one, and path by path."""

    def __init__(self, section: AnswerSpec, usage: UsageSpec, spec: Spec) -> None:
        def compiled(field: Paths | None) -> Getter:
            return getter(field) if field is not None else _ABSENT

        # An end mark that looks like a frame must be looked for in each of them.
        ends_apart = not (spec.stream.end or "").startswith("{")
        self.typed: Typed | None = typed(section, usage) if ends_apart else None
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
        self.usage = UsageReader(usage)
        self.error_message = compiled(spec.error.message)
        self.error_type = compiled(spec.error.type)
        self.error_code = compiled(spec.error.code)

    def content(self, value: object) -> list[object]:
        """The values of `CONTENT` in a frame."""
        return [get(value) for get in self._content]


class Readers:
    """A spec made ready for reading: share it between the calls of a provider."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.answer = Reader(spec.answer, spec.usage, spec)
        self.whole: Whole | None = whole(spec.answer, spec.usage)
        self.stream = Reader(spec.stream, spec.usage, spec)
        self.embeddings = Reader(spec.embeddings, spec.embeddings_usage, spec)
        self.end_mark = (spec.stream.end or "").encode()
        self.says_ends = spec.stream.end is not None or spec.stream.finish is not None
        path = spec.answer.text
        self.text_at = f"${'' if path.startswith('[') else '.'}{path}" if isinstance(path, str) else None
        """Where the text of a whole answer stands, as SQL's JSON functions name places; None where it varies."""

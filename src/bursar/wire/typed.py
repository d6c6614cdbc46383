"""Answers of the usual layout, a list of choices, decoded straight into types made from the spec's paths.

It reads the same as the paths do, in a fraction of the time, and refuses whatever is not laid out as the spec
says; what it refuses is read path by path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from bursar.types.usage import Usage
from bursar.wire.assemble import encode_json
from bursar.wire.layouts import (
    ABSENT,
    MOST_BESIDE,
    NO_COUNTS,
    UNTYPED,
    USUAL_NAME,
    NotTypedError,
    Tree,
    inside_choice,
    node,
    plant,
    root_name,
    struct,
    taker,
    taking,
    usage_roots,
    usage_tree,
    usage_type,
)  # fmt: skip
from bursar.wire.runs import Around, Known, Told
from bursar.wire.spec import AnswerSpec, UsageSpec

CONTENT = ("text", "choice", "finish", "reasoning", "refusal", "tool_calls")
READ = frozenset({"choices", "usage", "id", "model", "object", "error", "obfuscation"})
"""What of a frame is read, or is nothing to keep; what stands beside it are extras."""
NOTHING = msgspec.Raw(b"null")
fields_in: Callable[[bytes], dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""The fields of an object, each as the JSON it came as."""


class Typed:
    """A section of a spec as types.

    `decode(bytes)` gives an object; `named(object)` its (choices, id, model, error, usage roots…);
    `said(choice)` the values of `CONTENT`, field by field, each with all its alternatives. It raises
    AttributeError where an object on the way is null. `nothing_else` is what `named` gives behind the model,
    and `only_text` what `said` gives behind the text, in a frame that only brings a piece of text; `no_usage` and
    `no_others` (behind text, number and finish) are what they give where there is nothing. `known` is what is known to
    stand around texts.
    """

    def __init__(self, section: AnswerSpec, usage: UsageSpec) -> None:
        if not isinstance(section.choices, str) or not section.choices.isidentifier():
            raise NotTypedError
        self.known = Known()
        self.usage_roots = usage_roots(usage)
        choice, said, self._widths = _choice_type(section)
        names = [section.choices, root_name(section.id), root_name(section.model), root_name(section.error)]
        names += self.usage_roots
        fields: dict[str, Any] = {name: Any for name in names if name is not None}
        fields[section.choices] = list[choice] | None  # type: ignore[valid-type]
        self._fields = fields
        self.beside: list[str] = []
        self.tells_all = fields.keys() <= READ
        self._type_root()
        keys = {name: f"f{n}" for n, name in enumerate(fields)}
        self.named = taking(keys[name] if name is not None else ABSENT for name in names)
        self.said: Callable[[Any], tuple[Any, ...]] = said
        self.usage: Callable[[object], Usage | None] | None = _usage_of(usage) if len(self.usage_roots) == 1 else None
        self.no_usage = [None] * len(self.usage_roots)
        self.nothing_else = (None,) * (1 + len(self.usage_roots))
        # Where the text, the choice's number or the finish has alternatives, no frame is told to be simple.
        simple = self._widths[:3] == [1, 1, 1]
        others = (None,) * (sum(self._widths) - 3)
        self.no_others = others if simple else (ABSENT,)
        self.only_text = (0, None, *others) if simple else (ABSENT,)

    def _type_root(self) -> None:
        """Makes the type of a frame. Where it `tells_all`, it has all fields that frames were seen to have, and takes
        no other; `said_beside(object)` then gives the values of those that are `told`."""
        fields: list[tuple[str, Any, Any]] = [(name, kind, None) for name, kind in self._fields.items()]
        told = [f"f{n}" for n, name in enumerate(self.beside, len(fields)) if name not in READ]
        fields += [(name, msgspec.Raw, NOTHING) for name in self.beside]
        root = struct("Root", fields, strict=self.tells_all)
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(root).decode
        self.told = [name for name in self.beside if name not in READ]
        self.said_beside: Callable[[Any], tuple[msgspec.Raw | None, ...]] = taking(told)

    def decode_other(self, data: bytes) -> Any:
        """Decodes a frame that `decode` refused, as the type is when it knows the frame's fields. Raises what is in
        `UNTYPED`."""
        if not self.tells_all:
            raise NotTypedError
        new = fields_in(data).keys() - self._fields.keys() - set(self.beside)
        if not new:
            raise NotTypedError
        self.beside += sorted(new)
        if len(self.beside) > MOST_BESIDE or not all(map(USUAL_NAME.fullmatch, new)):
            self.tells_all, self.beside = False, []  # it names fields as it likes: all are looked through instead
        self._type_root()
        return self.decode(data)

    def told_in(self, beside: tuple[msgspec.Raw | None, ...]) -> Told:
        """What of a frame's `said_beside` is something."""
        named = zip(self.told, beside, strict=True)
        return [(name, raw) for name, raw in named if raw is not None and raw != NOTHING]

    def around(
        self, raw: bytes, text: str, root: object, usual: tuple[object, ...] | None, id: object, model: object
    ) -> Around | None:
        """What stands around the text of a frame that says nothing else and was decoded as `root`; `usual` is what
        `named` gives behind the choices in such a frame."""

        def read(data: bytes) -> str | None:
            choices, *named = self.named(self.decode(data))
            said = [self.said(choice) for choice in choices]
            plain = tuple(named) == usual and len(said) == 1 and said[0][1:] == self.only_text
            return said[0][0] if plain and isinstance(said[0][0], str) else None

        try:
            told = self.told_in(self.said_beside(root)) if self.tells_all else None
            return self.known.around(raw, text, read, id, model, told)
        except UNTYPED:
            return None

    def one_each(self, values: tuple[Any, ...]) -> list[Any]:
        """One value for each field of `CONTENT`: the first that is there."""
        out, at = [], 0
        for width in self._widths:
            value = values[at]
            for other in values[at + 1 : at + width]:
                value = other if value is None else value
            out.append(value)
            at += width
        return out


def typed(section: AnswerSpec, usage: UsageSpec) -> Typed | None:
    """The section as types, None where it is not of that layout."""
    try:
        return Typed(section, usage)
    except NotTypedError:
        return None


def _choice_type(section: AnswerSpec) -> tuple[type[msgspec.Struct], Callable[[Any], tuple[Any, ...]], list[int]]:
    tree: Tree = {}
    paths: list[tuple[str, ...]] = []
    widths: list[int] = []
    for field in CONTENT:
        given = getattr(section, field)
        alternatives = [] if given is None else [given] if isinstance(given, str) else given
        widths.append(max(1, len(alternatives)))
        if not alternatives:
            paths.append(())
        for path in alternatives:
            paths.append(inside_choice(section, path))
            plant(tree, paths[-1], (Any, None))
    kind, keys = node("Choice", tree)
    return kind, taker(keys, paths), widths


def _usage_of(usage: UsageSpec) -> Callable[[object], Usage | None] | None:
    """What reads a usage object; it gives None for one that is not as its types say, or says nothing."""
    if usage.raw is None or usage.cost is not None:
        return None
    try:
        kind, counts_of = usage_type(*usage_tree(usage))
    except NotTypedError:
        return None
    convert = msgspec.convert

    def read(raw: object) -> Usage | None:
        try:
            counts = counts_of(convert(raw, kind))
        except UNTYPED:
            return None
        return None if counts == NO_COUNTS else Usage(*counts, None, None, encode_json(raw))  # type: ignore[call-arg]

    return read

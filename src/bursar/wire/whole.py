"""Whole answers that are one text, decoded straight into types that allow nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from bursar.types.events import Answered
from bursar.types.usage import Usage
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
from bursar.wire.spec import AnswerSpec, UsageSpec
from bursar.wire.typed import CONTENT

_any = msgspec.json.Decoder().decode
_BESIDE_LEAF = (Any, None)
# The type and the default of each field of a choice that is one text; all others are absent or null.
_WHOLE_LEAVES: dict[str, tuple[Any, Any]] = {
    "text": (str, msgspec.NODEFAULT),
    "choice": (Literal[0], 0),
    "finish": (str | None, None),
}


class Whole:
    """Reads an answer that is one text, with its usage, at once. All that it may be is in its types, so whatever is
    otherwise is refused by their decoder, and read as frames are.

    Of its usage every field is decoded, for it is kept and read again, and what a decoder passes over may be no UTF-8
    or no finite number. Which fields there are beside the counts is learned.
    """

    def __init__(self, section: AnswerSpec, usage: UsageSpec) -> None:
        if not isinstance(section.choices, str) or not section.choices.isidentifier():
            raise NotTypedError
        if section.vectors is not None or usage.cost is not None or not isinstance(usage.raw, str):
            raise NotTypedError
        if usage_roots(usage) != [usage.raw]:
            raise NotTypedError
        choice, said = _text_type(section)
        names = [root_name(section.id), root_name(section.model)]
        fields: dict[str, tuple[Any, Any]] = {name: (str | None, None) for name in names if name is not None}
        fields |= {section.choices: (tuple[choice], msgspec.NODEFAULT), usage.raw: (msgspec.Raw, None)}  # type: ignore[valid-type]
        if (error := root_name(section.error)) is not None:
            fields[error] = (None, None)
        root = struct("Whole", [(name, kind, default) for name, (kind, default) in fields.items()])
        keys = {name: f"f{n}" for n, name in enumerate(fields)}
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(root).decode
        named = [keys[name] if name is not None else ABSENT for name in names]
        self._named = taking([*named, keys[section.choices], keys[usage.raw]])
        self._said = said
        self._usage_tree, self._usage_paths = usage_tree(usage)
        self._beside_usage = 0
        self._passes_over = False
        self._type_usage()

    def _type_usage(self) -> None:
        kind, self._counts = usage_type(self._usage_tree, self._usage_paths, strict=not self._passes_over)
        self._decode_usage: Callable[[Any], Any] = msgspec.json.Decoder(kind).decode

    def _learned(self, raw: msgspec.Raw) -> tuple[Any, ...]:
        """The counts of a usage object that was refused, where it only has fields that were not seen before. Raises
        what is in `UNTYPED`."""
        new = _grow(self._usage_tree, _any(raw))
        if not new:
            raise NotTypedError
        self._beside_usage += len(new)
        # One that names its fields as it likes is looked through beside its type.
        self._passes_over = self._beside_usage > MOST_BESIDE or not all(map(USUAL_NAME.fullmatch, new))
        if self._passes_over:
            self._usage_tree = _known(self._usage_tree)
        self._type_usage()
        return self._counts(self._decode_usage(raw))

    def read(self, data: bytes) -> Answered | None:
        """What the answer says; None where it is not of this kind."""
        try:
            # Each a name first: what an object holds is found quicker than a method it may be.
            decode, named, said = self._decode, self._named, self._said
            id, model, choices, raw = named(decode(data))
            text, finish = said(choices[0])
            if not text or finish == "":
                return None
            usage = None
            if raw is not None:
                try:
                    decode, count = self._decode_usage, self._counts
                    counts = count(decode(raw))
                except msgspec.ValidationError:
                    counts = self._learned(raw)
                if self._passes_over:
                    _any(raw)
                if counts != NO_COUNTS:
                    usage = Usage(*counts, None, None, bytes(raw))  # type: ignore[call-arg]
        except UNTYPED:
            return None
        return Answered(id or None, model or None, text, finish, usage)


def whole(section: AnswerSpec, usage: UsageSpec) -> Whole | None:
    """The reader of whole answers of this section, None where its layout has none."""
    try:
        return Whole(section, usage)
    except NotTypedError:
        return None


def _text_type(section: AnswerSpec) -> tuple[type[msgspec.Struct], Callable[[Any], tuple[Any, ...]]]:
    """The type of a choice that says a text and why it ended, and what takes the two out of it."""
    tree: Tree = {}
    paths: dict[str, tuple[str, ...]] = {}
    for field in CONTENT:
        given = getattr(section, field)
        for path in [given] if isinstance(given, str) else given or []:
            if field in paths and field in _WHOLE_LEAVES:
                raise NotTypedError  # which of them it is would have to be asked
            paths[field] = inside_choice(section, path)
            plant(tree, paths[field], _WHOLE_LEAVES.get(field, (None, None)))
    if "text" not in paths or "finish" not in paths:
        raise NotTypedError
    kind, keys = node("Said", tree)
    return kind, taker(keys, (paths["text"], paths["finish"]))


def _grow(tree: Tree, value: object) -> list[str]:
    """Adds the fields of an object that are not there yet; their names."""
    new: list[str] = []
    for name, one in value.items() if isinstance(value, dict) else ():
        below = tree.get(name)
        if below is None:
            tree[name] = _BESIDE_LEAF
            new.append(name)
        elif isinstance(below, dict):
            new += _grow(below, one)
    return new


def _known(tree: Tree) -> Tree:
    """The fields that were there before it grew."""
    below = {name: _known(one) if isinstance(one, dict) else one for name, one in tree.items()}
    return {name: one for name, one in below.items() if one is not _BESIDE_LEAF}

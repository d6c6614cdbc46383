"""Answers of the usual layout, a list of choices, decoded straight into types made from the spec's paths.

It reads the same as the paths do, in a fraction of the time, and refuses whatever is not laid out as the spec
says; what it refuses is read path by path.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, ClassVar

import msgspec

from bursar.wire.paths import parse
from bursar.wire.spec import AnswerSpec, Paths, UsageSpec

CONTENT = ("text", "choice", "finish", "reasoning", "refusal", "tool_calls")

Tree = dict[str, Any]
_ABSENT = "absent"


class _Base(msgspec.Struct, frozen=True, gc=False):
    """What a spec does not name is absent from every answer."""

    absent: ClassVar[None] = None


class NotTypedError(Exception):
    """The spec is not of this layout."""


class Typed:
    """A section of a spec as types.

    `decode(bytes)` gives an object; `named(object)` its (choices, id, model, error, usage roots…);
    `said(choice)` the values of `CONTENT`, field by field, each with all its alternatives. It raises
    AttributeError where an object on the way is null. `nothing_else` is what `named` gives behind the model,
    and `only_text` what `said` gives behind the text, in a frame that only brings a piece of text; `no_usage` and
    `no_others` (behind text, number and finish) are what they give where there is nothing.
    """

    def __init__(self, section: AnswerSpec, usage: UsageSpec) -> None:
        if not isinstance(section.choices, str) or not section.choices.isidentifier():
            raise NotTypedError
        self.usage_roots = _usage_roots(usage)
        choice, said, self._widths = _choice_type(section)
        names = [section.choices, _root_name(section.id), _root_name(section.model), _root_name(section.error)]
        names += self.usage_roots
        fields: dict[str, Any] = {name: Any for name in names if name is not None}
        fields[section.choices] = list[choice] | None  # type: ignore[valid-type]
        root = _struct("Root", [(name, kind, None) for name, kind in fields.items()])
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(root).decode
        keys = {name: f"f{n}" for n, name in enumerate(fields)}
        self.named: Callable[[Any], tuple[Any, ...]] = attrgetter(
            *(keys[name] if name is not None else _ABSENT for name in names)
        )
        self.said: Callable[[Any], tuple[Any, ...]] = said
        self.no_usage = [None] * len(self.usage_roots)
        self.nothing_else = (None,) * (1 + len(self.usage_roots))
        # Where the text, the choice's number or the finish has alternatives, no frame is told to be simple.
        simple = self._widths[:3] == [1, 1, 1]
        others = (None,) * (sum(self._widths) - 3)
        self.no_others = others if simple else (_ABSENT,)
        self.only_text = (0, None, *others) if simple else (_ABSENT,)

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


def _struct(name: str, fields: list[tuple[str, Any, Any]]) -> type[msgspec.Struct]:
    """A type whose fields are numbered, for keys need not be names. It holds what JSON can, so no cycles."""
    return msgspec.defstruct(
        name,
        [(f"f{n}", kind, default) for n, (_, kind, default) in enumerate(fields)],
        rename={f"f{n}": key for n, (key, _, _) in enumerate(fields)},
        bases=(_Base,),
        frozen=True,
        gc=False,
    )


def _choice_type(section: AnswerSpec) -> tuple[type[msgspec.Struct], Callable[[Any], tuple[Any, ...]], list[int]]:
    tree: Tree = {}
    paths: list[tuple[str, ...]] = []
    widths: list[int] = []
    for field in CONTENT:
        given = getattr(section, field)
        alternatives = [] if given is None else [given] if isinstance(given, str) else given
        widths.append(max(1, len(alternatives)))
        if not alternatives:
            paths.append((_ABSENT,))
        for path in alternatives:
            steps = parse(path)
            names = tuple(step for step in steps[2:] if isinstance(step, str))
            if steps[:2] != (section.choices, 0) or not names or len(names) != len(steps) - 2:
                raise NotTypedError
            paths.append(names)
            _plant(tree, names)
    kind, keys = _node("Choice", tree)
    return kind, attrgetter(*(".".join(_renamed(keys, p)) for p in paths)), widths


def _plant(tree: Tree, steps: tuple[str, ...]) -> None:
    for step in steps[:-1]:
        below = tree.setdefault(step, {})
        if not isinstance(below, dict):
            raise NotTypedError  # a value here, an object there
        tree = below
    if isinstance(tree.setdefault(steps[-1], Any), dict):
        raise NotTypedError


def _node(name: str, tree: Tree) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    """The type of an object, and its keys: each with its field's name, and the keys of the object below."""
    fields: list[tuple[str, Any, Any]] = []
    keys: dict[str, Any] = {}
    for n, (key, below) in enumerate(tree.items()):
        if isinstance(below, dict):
            kind, inner = _node(key.title(), below)
            fields.append((key, kind | None, kind()))
            keys[key] = (f"f{n}", inner)
        else:
            fields.append((key, Any, None))
            keys[key] = (f"f{n}", None)
    return _struct(name, fields), keys


def _renamed(keys: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    if path == (_ABSENT,):
        return [_ABSENT]
    out = []
    for step in path:
        name, keys = keys[step]
        out.append(name)
    return out


def _root_name(paths: Paths | None) -> str | None:
    if paths is None:
        return None
    if not isinstance(paths, str) or len(parse(paths)) != 1 or not isinstance(parse(paths)[0], str):
        raise NotTypedError
    return paths


def _usage_roots(usage: UsageSpec) -> list[str]:
    """The names at the top of an answer under which usage may stand."""
    roots: dict[str, None] = {}
    for field in usage.__struct_fields__:
        given = getattr(usage, field)
        if given is None or isinstance(given, int) or field == "cost_currency":
            continue
        for path in [given] if isinstance(given, str) else given:
            for term in path.split("+"):
                root = parse(term.strip())[0]
                if not isinstance(root, str):
                    raise NotTypedError
                roots[root] = None
    return list(roots)

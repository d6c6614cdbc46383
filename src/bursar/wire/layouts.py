"""Types made from where a spec says that things stand in an answer: what `typed` and `whole` decode with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import msgspec

from bursar.wire.paths import parse
from bursar.wire.spec import AnswerSpec, Paths, UsageSpec
from bursar.wire.usage import MAX_COUNT

Tree = dict[str, Any]
"""The fields of an object by name: what is below each, or its type and its default."""
ABSENT = "absent"
"""In place of a field, what a spec does not name: null in every answer."""
MOST_BESIDE = 64
"""Of so many fields that a spec does not name a type may learn, where their names are usual ones."""
USUAL_NAME = re.compile(r"[\w. -]{1,64}")
COUNTS = ("input", "output", "cached", "cache_write", "reasoning", "total")
NO_COUNTS = (None,) * len(COUNTS)
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
_COUNT_LEAF = (_Count | None, None)


class NotTypedError(Exception):
    """The spec, or an answer, is not of this layout."""


# What makes an answer not typed: it is not JSON, not of the layout, or null where an object is looked into.
UNTYPED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, AttributeError, NotTypedError)


def struct(name: str, fields: list[tuple[str, Any, Any]], *, strict: bool = False) -> type[msgspec.Struct]:
    """A type whose fields are numbered, for keys need not be names. It holds what JSON can, so no cycles."""
    return msgspec.defstruct(
        name,
        [(f"f{n}", kind, default) for n, (_, kind, default) in enumerate(fields)],
        rename={f"f{n}": key for n, (key, _, _) in enumerate(fields)},
        frozen=True,
        gc=False,
        kw_only=True,
        forbid_unknown_fields=strict,
    )


def node(name: str, tree: Tree, *, strict: bool = False) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    """The type of an object, and its keys: each with its field's name, and the keys of the object below."""
    fields: list[tuple[str, Any, Any]] = []
    keys: dict[str, Any] = {}
    for n, (key, below) in enumerate(tree.items()):
        if isinstance(below, dict):
            kind, inner = node(key.title(), below, strict=strict)
            # Where one of its fields must be there, it must be there itself.
            needed = any(field.required for field in msgspec.structs.fields(kind))
            fields.append((key, kind | None, msgspec.NODEFAULT if needed else kind()))
            keys[key] = (f"f{n}", inner)
        else:
            fields.append((key, *below))
            keys[key] = (f"f{n}", None)
    return struct(name, fields, strict=strict), keys


def plant(tree: Tree, steps: tuple[str, ...], leaf: tuple[Any, Any]) -> None:
    """Puts a leaf, its type and its default, at the end of the steps."""
    if not steps:
        raise NotTypedError
    for step in steps[:-1]:
        below = tree.setdefault(step, {})
        if not isinstance(below, dict):
            raise NotTypedError  # a value here, an object there
        tree = below
    if tree.setdefault(steps[-1], leaf) != leaf:
        raise NotTypedError


def taker(keys: dict[str, Any], paths: Iterable[tuple[str, ...]]) -> Callable[[Any], tuple[Any, ...]]:
    """What takes the values at these paths out of an object of the type that has these keys; one without steps is
    absent."""
    return taking(".".join(_renamed(keys, path)) for path in paths)


def taking(fields: Iterable[str]) -> Callable[[Any], tuple[Any, ...]]:
    """What takes these fields, numbered as `struct` does (`f0.f1` is one below), out of an object. It is compiled, for
    the interpreter knows where a field stands in code of its own, and an `attrgetter` looks each up by its name."""
    values = ("None, " if field == ABSENT else f"said.{field}, " for field in fields)
    take: Callable[[Any], tuple[Any, ...]] = eval(f"lambda said: ({''.join(values)})")  # noqa: S307  # of nothing but numbers
    return take


def _renamed(keys: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    if not path:
        return [ABSENT]
    out = []
    for step in path:
        name, keys = keys[step]
        out.append(name)
    return out


def inside_choice(section: AnswerSpec, path: str) -> tuple[str, ...]:
    """A path inside the first choice, from there on."""
    steps = parse(path)
    names = tuple(step for step in steps[2:] if isinstance(step, str))
    if steps[:2] != (section.choices, 0) or not names or len(names) != len(steps) - 2:
        raise NotTypedError
    return names


def root_name(paths: Paths | None) -> str | None:
    if paths is None:
        return None
    if not isinstance(paths, str) or len(parse(paths)) != 1 or not isinstance(parse(paths)[0], str):
        raise NotTypedError
    return paths


def usage_roots(usage: UsageSpec) -> list[str]:
    """The names at the top of an answer under which usage may stand."""
    roots: dict[str, None] = {}
    for field in usage.__struct_fields__:
        given = getattr(usage, field)
        if given is None or isinstance(given, int) or field in ("cost_currency", "tier", "details"):
            continue
        for path in [given] if isinstance(given, str) else given:
            for term in path.split("+"):
                root = parse(term.strip())[0]
                if not isinstance(root, str):
                    raise NotTypedError
                roots[root] = None
    return list(roots)


def usage_tree(usage: UsageSpec) -> tuple[Tree, list[tuple[str, ...]]]:
    """The fields of a usage object that are counts, and where each of `COUNTS` stands."""
    tree: Tree = {}
    paths: list[tuple[str, ...]] = []
    for name in COUNTS:
        given = getattr(usage, name)
        if given is None:
            paths.append(())
            continue
        steps = parse(given) if isinstance(given, str) and "+" not in given else [0]
        if steps[0] != usage.raw or not all(isinstance(step, str) for step in steps):
            raise NotTypedError
        paths.append(tuple(str(step) for step in steps[1:]))
        plant(tree, paths[-1], _COUNT_LEAF)
    return tree, paths


def usage_type(
    tree: Tree, paths: list[tuple[str, ...]], *, strict: bool = False
) -> tuple[type[msgspec.Struct], Callable[[Any], tuple[Any, ...]]]:
    """The type of a usage object, and what takes its counts out in the order of `Usage`'s fields."""
    kind, keys = node("Usage", tree, strict=strict)
    return kind, taker(keys, paths)

"""Answers of the usual layout, a list of choices, decoded straight into types made from the spec's paths.

It reads the same as the paths do, in a fraction of the time, and refuses whatever is not laid out as the spec
says; what it refuses is read path by path.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from bursar.types.events import Answered
from bursar.types.usage import Usage
from bursar.wire.assemble import encode_json
from bursar.wire.paths import parse
from bursar.wire.runs import Known
from bursar.wire.spec import AnswerSpec, Paths, UsageSpec
from bursar.wire.usage import MAX_COUNT

CONTENT = ("text", "choice", "finish", "reasoning", "refusal", "tool_calls")

Tree = dict[str, Any]
_ABSENT = "absent"


class _Base(msgspec.Struct, frozen=True, gc=False):
    """What a spec does not name is absent from every answer."""

    absent: ClassVar[None] = None


class NotTypedError(Exception):
    """The spec, or an answer, is not of this layout."""


# What makes an answer not typed: it is not JSON, not of the layout, or null where an object is looked into.
UNTYPED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, AttributeError, NotTypedError)
READ = frozenset({"choices", "usage", "id", "model", "object", "error", "obfuscation"})
"""What of a frame is read, or is nothing to keep; what stands beside it are extras."""
NOTHING = msgspec.Raw(b"null")
_MOST_BESIDE = 64
_USUAL_NAME = re.compile(r"[\w. -]{1,64}")
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
        self.known: Known = set()
        self.usage_roots = _usage_roots(usage)
        choice, said, self._widths = _choice_type(section)
        names = [section.choices, _root_name(section.id), _root_name(section.model), _root_name(section.error)]
        names += self.usage_roots
        fields: dict[str, Any] = {name: Any for name in names if name is not None}
        fields[section.choices] = list[choice] | None  # type: ignore[valid-type]
        self._fields = fields
        self.beside: list[str] = []
        self.tells_all = fields.keys() <= READ
        self._type_root()
        keys = {name: f"f{n}" for n, name in enumerate(fields)}
        self.named: Callable[[Any], tuple[Any, ...]] = attrgetter(
            *(keys[name] if name is not None else _ABSENT for name in names)
        )
        self.said: Callable[[Any], tuple[Any, ...]] = said
        self.usage: Callable[[object], Usage | None] | None = _usage_of(usage) if len(self.usage_roots) == 1 else None
        self.no_usage = [None] * len(self.usage_roots)
        self.nothing_else = (None,) * (1 + len(self.usage_roots))
        # Where the text, the choice's number or the finish has alternatives, no frame is told to be simple.
        simple = self._widths[:3] == [1, 1, 1]
        others = (None,) * (sum(self._widths) - 3)
        self.no_others = others if simple else (_ABSENT,)
        self.only_text = (0, None, *others) if simple else (_ABSENT,)

    def _type_root(self) -> None:
        """Makes the type of a frame. Where it `tells_all`, it has all fields that frames were seen to have, and takes
        no other; `said_beside(object)` then gives, behind two nulls, the values of those that are `told`."""
        fields: list[tuple[str, Any, Any]] = [(name, kind, None) for name, kind in self._fields.items()]
        told = [f"f{n}" for n, name in enumerate(self.beside, len(fields)) if name not in READ]
        fields += [(name, msgspec.Raw, NOTHING) for name in self.beside]
        root = _struct("Root", fields, strict=self.tells_all)
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(root).decode
        self.told = [name for name in self.beside if name not in READ]
        # Two at least, for a getter of one gives no tuple.
        self.said_beside: Callable[[Any], tuple[msgspec.Raw | None, ...]] = attrgetter(_ABSENT, _ABSENT, *told)

    def decode_other(self, data: bytes) -> Any:
        """Decodes a frame that `decode` refused, as the type is when it knows the frame's fields. Raises what is in
        `UNTYPED`."""
        if not self.tells_all:
            raise NotTypedError
        new = fields_in(data).keys() - self._fields.keys() - set(self.beside)
        if not new:
            raise NotTypedError
        self.beside += sorted(new)
        if len(self.beside) > _MOST_BESIDE or not all(map(_USUAL_NAME.fullmatch, new)):
            self.tells_all, self.beside = False, []  # it names fields as it likes: all are looked through instead
        self._type_root()
        return self.decode(data)

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


_COUNTS = ("input", "output", "cached", "cache_write", "reasoning", "total")
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
_COUNT_LEAF, _BESIDE_LEAF = (_Count | None, None), (Any, None)
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
        if _usage_roots(usage) != [usage.raw]:
            raise NotTypedError
        choice, said = _text_type(section)
        names = [_root_name(section.id), _root_name(section.model)]
        fields: dict[str, tuple[Any, Any]] = {name: (str | None, None) for name in names if name is not None}
        fields |= {section.choices: (tuple[choice], msgspec.NODEFAULT), usage.raw: (msgspec.Raw, None)}  # type: ignore[valid-type]
        if (error := _root_name(section.error)) is not None:
            fields[error] = (None, None)
        root = _struct("Whole", [(name, kind, default) for name, (kind, default) in fields.items()])
        keys = {name: f"f{n}" for n, name in enumerate(fields)}
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(root).decode
        self._named: Callable[[Any], tuple[Any, ...]] = attrgetter(
            *(keys[name] if name is not None else _ABSENT for name in names), keys[section.choices], keys[usage.raw]
        )
        self._said = said
        self._usage_tree, self._usage_paths = _usage_tree(usage)
        self._beside_usage = 0
        self._passes_over = False
        self._type_usage()

    def _type_usage(self) -> None:
        kind, self._counts = _usage_type(self._usage_tree, self._usage_paths, strict=not self._passes_over)
        self._decode_usage: Callable[[Any], Any] = msgspec.json.Decoder(kind).decode

    def _learned(self, raw: msgspec.Raw) -> tuple[Any, ...]:
        """The counts of a usage object that was refused, where it only has fields that were not seen before. Raises
        what is in `UNTYPED`."""
        new = _grow(self._usage_tree, _any(raw))
        if not new:
            raise NotTypedError
        self._beside_usage += len(new)
        # One that names its fields as it likes is looked through beside its type.
        self._passes_over = self._beside_usage > _MOST_BESIDE or not all(map(_USUAL_NAME.fullmatch, new))
        if self._passes_over:
            self._usage_tree = _known(self._usage_tree)
        self._type_usage()
        return self._counts(self._decode_usage(raw))

    def read(self, data: bytes) -> Answered | None:
        """What the answer says; None where it is not of this kind."""
        try:
            id, model, choices, raw = self._named(self._decode(data))
            text, finish = self._said(choices[0])
            if not text or finish == "":
                return None
            usage = None
            if raw is not None:
                try:
                    counts = self._counts(self._decode_usage(raw))
                except msgspec.ValidationError:
                    counts = self._learned(raw)
                if self._passes_over:
                    _any(raw)
                if counts != _NO_COUNTS:
                    usage = Usage(*counts, None, None, bytes(raw))  # type: ignore[call-arg]
        except UNTYPED:
            return None
        return Answered(id or None, model or None, text, finish, usage)


_any = msgspec.json.Decoder().decode
_NO_COUNTS = (None,) * len(_COUNTS)


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
            paths[field] = _inside_choice(section, path)
            _plant(tree, paths[field], _WHOLE_LEAVES.get(field, (None, None)))
    if "text" not in paths or "finish" not in paths:
        raise NotTypedError
    kind, keys = _node("Said", tree)
    return kind, attrgetter(*(".".join(_renamed(keys, paths[field])) for field in ("text", "finish")))


def _usage_of(usage: UsageSpec) -> Callable[[object], Usage | None] | None:
    """What reads a usage object; it gives None for one that is not as its types say, or says nothing."""
    if usage.raw is None or usage.cost is not None:
        return None
    try:
        kind, counts_of = _usage_type(*_usage_tree(usage))
    except NotTypedError:
        return None
    convert = msgspec.convert

    def read(raw: object) -> Usage | None:
        try:
            counts = counts_of(convert(raw, kind))
        except UNTYPED:
            return None
        return None if counts == _NO_COUNTS else Usage(*counts, None, None, encode_json(raw))  # type: ignore[call-arg]

    return read


def _usage_tree(usage: UsageSpec) -> tuple[Tree, list[tuple[str, ...]]]:
    """The fields of a usage object that are counts, and where each of `_COUNTS` stands."""
    tree: Tree = {}
    paths: list[tuple[str, ...]] = []
    for name in _COUNTS:
        given = getattr(usage, name)
        if given is None:
            paths.append((_ABSENT,))
            continue
        steps = parse(given) if isinstance(given, str) and "+" not in given else [0]
        if steps[0] != usage.raw or not all(isinstance(step, str) for step in steps):
            raise NotTypedError
        paths.append(tuple(str(step) for step in steps[1:]))
        _plant(tree, paths[-1], _COUNT_LEAF)
    return tree, paths


def _usage_type(
    tree: Tree, paths: list[tuple[str, ...]], *, strict: bool = False
) -> tuple[type[msgspec.Struct], Callable[[Any], tuple[Any, ...]]]:
    """The type of a usage object, and what takes its counts out in the order of `Usage`'s fields."""
    kind, keys = _node("Usage", tree, strict=strict)
    return kind, attrgetter(*(".".join(_renamed(keys, path)) for path in paths))


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


def typed(section: AnswerSpec, usage: UsageSpec) -> Typed | None:
    """The section as types, None where it is not of that layout."""
    try:
        return Typed(section, usage)
    except NotTypedError:
        return None


def _struct(name: str, fields: list[tuple[str, Any, Any]], *, strict: bool = False) -> type[msgspec.Struct]:
    """A type whose fields are numbered, for keys need not be names. It holds what JSON can, so no cycles."""
    return msgspec.defstruct(
        name,
        [(f"f{n}", kind, default) for n, (_, kind, default) in enumerate(fields)],
        rename={f"f{n}": key for n, (key, _, _) in enumerate(fields)},
        bases=(_Base,),
        frozen=True,
        gc=False,
        kw_only=True,
        forbid_unknown_fields=strict,
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
            paths.append(_inside_choice(section, path))
            _plant(tree, paths[-1], (Any, None))
    kind, keys = _node("Choice", tree)
    return kind, attrgetter(*(".".join(_renamed(keys, p)) for p in paths)), widths


def _inside_choice(section: AnswerSpec, path: str) -> tuple[str, ...]:
    """A path inside the first choice, from there on."""
    steps = parse(path)
    names = tuple(step for step in steps[2:] if isinstance(step, str))
    if steps[:2] != (section.choices, 0) or not names or len(names) != len(steps) - 2:
        raise NotTypedError
    return names


def _plant(tree: Tree, steps: tuple[str, ...], leaf: tuple[Any, Any]) -> None:
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


def _node(name: str, tree: Tree, *, strict: bool = False) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    """The type of an object, and its keys: each with its field's name, and the keys of the object below."""
    fields: list[tuple[str, Any, Any]] = []
    keys: dict[str, Any] = {}
    for n, (key, below) in enumerate(tree.items()):
        if isinstance(below, dict):
            kind, inner = _node(key.title(), below, strict=strict)
            # Where one of its fields must be there, it must be there itself.
            needed = any(field.required for field in msgspec.structs.fields(kind))
            fields.append((key, kind | None, msgspec.NODEFAULT if needed else kind()))
            keys[key] = (f"f{n}", inner)
        else:
            fields.append((key, *below))
            keys[key] = (f"f{n}", None)
    return _struct(name, fields, strict=strict), keys


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
        if given is None or isinstance(given, int) or field in ("cost_currency", "tier", "details"):
            continue
        for path in [given] if isinstance(given, str) else given:
            for term in path.split("+"):
                root = parse(term.strip())[0]
                if not isinstance(root, str):
                    raise NotTypedError
                roots[root] = None
    return list(roots)

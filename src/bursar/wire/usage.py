"""Usage out of a provider's answer, by the paths of its spec.

Absent stays None and zero stays zero. Numbers may come as text or as whole floats; booleans, negatives and
what no counter can hold are not counts and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

from bursar.types.errors import UnsupportedLlmProviderError
from bursar.types.usage import Usage
from bursar.wire import spec as specs
from bursar.wire.assemble import encode_json
from bursar.wire.paths import Getter, getter
from bursar.wire.quirks import UsageQuirk
from bursar.wire.spec import Paths, UsageSpec

# More than any answer has; sums of such counts, and their prices, stay far inside 64 bits.
MAX_COUNT = 10**10
_MAX_AMOUNT = 10**6
_NANOS = 1_000_000_000


def as_count(value: object) -> int | None:
    """A count from what a provider wrote, or None where it is not one."""
    if type(value) is int:
        return value if 0 <= value <= MAX_COUNT else None
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        value = value.strip()
        if not value.isascii() or not value.isdigit() or len(value) > 16:
            return None
        value = int(value)
    if isinstance(value, float):
        if not value.is_integer():
            return None
        value = int(value)
    return value if isinstance(value, int) and 0 <= value <= MAX_COUNT else None


def as_nanos(value: object, unit: int = 1) -> int | None:
    """Money from what a provider wrote, in parts of which `unit` make one of its currency, in 10⁻⁹ of that currency;
    None where it is no amount."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        amount = Decimal(str(value).strip()) / unit
        if not amount.is_finite() or amount < 0 or amount > _MAX_AMOUNT:
            return None
        return int((amount * _NANOS).to_integral_value())
    except InvalidOperation:
        return None


def as_millis(value: object) -> int | None:
    """Thousandths of what a provider counted, rounded; None where it is no amount."""
    nanos = as_nanos(value)
    return (nanos + 500_000) // 1_000_000 if nanos is not None else None


def as_number_of(value: object) -> int | None:
    """A count, or the length of a list of what is counted."""
    return len(value) if isinstance(value, list) else as_count(value)


class UsageReader:
    """A usage section of a spec, made ready for reading."""

    def __init__(self, spec: UsageSpec, quirks: Sequence[UsageQuirk] = ()) -> None:
        self._raw: Getter | None = getter(spec.raw) if spec.raw is not None else None
        self._quirks = quirks
        self._first = (spec.raw[0] if isinstance(spec.raw, list) else spec.raw) or ""
        first = spec.raw[0] if isinstance(spec.raw, list) else spec.raw
        given = {
            "input_tokens": spec.input,
            "output_tokens": spec.output,
            "cached_tokens": spec.cached,
            "cache_write_tokens": spec.cache_write,
            "reasoning_tokens": spec.reasoning,
            "provider_total_tokens": spec.total,
        }
        # What is counted beside tokens.
        others = (
            ("audio_ms", spec.seconds, as_millis),
            ("images", spec.images, as_number_of),
            ("search_units", spec.search_units, as_count),
        )
        self._others = [(name, getter(path), counted) for name, path, counted in others if path is not None]
        # Most frames have no usage: where every path lies inside the usage object, one look is enough, and
        # the paths are followed from there.
        self._inside = (
            first is not None and not self._others and all(_is_inside(first, p) for p in (*given.values(), spec.cost))
        )
        within = f"{first}." if self._inside else ""
        counts = [(name, _count(p, within)) for name, p in given.items() if p is not None and not isinstance(p, int)]
        # One path to a number, as nearly all are, is read here; sums and alternatives by a function of their own.
        self._numbers = [(name, get) for name, get in counts if not isinstance(get, _Combined)]
        self._combined = [(name, get) for name, get in counts if isinstance(get, _Combined)]
        self._constants = {name: value for name, value in given.items() if isinstance(value, int)}
        self.adds = self._inside and bool(self._combined or quirks)
        """Whether counts are made of several, which frames may bring one by one: they are read from all there was."""
        self._cost = getter(_relative(spec.cost, within)) if spec.cost is not None else None
        self._currency = spec.cost_currency
        self._unit = spec.cost_unit
        self._paths = {name: p for name, p in given.items() if isinstance(p, str) and "+" not in p and spec.raw is None}

    def read(self, value: object, before: dict[str, Any] | None = None) -> Usage | None:
        """The usage reported in this answer or frame; None where it reports none. `before` is what earlier frames
        said of it, which this one is laid over: it is kept there."""
        raw = self._raw(value) if self._raw is not None else None
        if before is not None and isinstance(raw, dict):
            before.update({name: one for name, one in raw.items() if one is not None})
            raw = before
        if self._quirks and isinstance(value, dict):
            adjusted: dict[str, Any] = raw if isinstance(raw, dict) else {}
            for quirk in self._quirks:
                adjusted = quirk(adjusted, value)
            raw = raw or adjusted or None
            value = (adjusted or None) if self._inside else {**value, self._first: adjusted}
        elif self._inside:
            value = raw
        if self._inside and value is None:
            return None
        found = self._counts(value)
        nanos = as_nanos(self._cost(value), self._unit) if self._cost is not None else None
        if not found and nanos is None:
            return None
        return Usage(
            **self._constants,
            **found,
            cost_nanos=nanos,
            cost_currency=self._currency if nanos is not None else None,
            raw_json=encode_json(raw) if isinstance(raw, dict) else self._as_it_stood(found),
        )

    def _counts(self, value: object) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, get in self._numbers:
            number = get(value)
            if number is not None and (type(number) is not int or not 0 <= number <= MAX_COUNT):
                number = as_count(number)
            if number is not None:
                found[name] = number
        for name, get, counted in self._others:
            if (amount := counted(get(value))) is not None:
                found[name] = amount
        for name, combined in self._combined:
            if (count := combined.count(value)) is not None:
                found[name] = count
        return found

    def _as_it_stood(self, found: dict[str, int]) -> bytes | None:
        """The counts under the names they came by, where no one object holds them."""
        named = {self._paths[name]: count for name, count in found.items() if name in self._paths}
        return encode_json(named) if named else None


def _is_inside(raw: str, paths: Paths | int | None) -> bool:
    if paths is None or isinstance(paths, int):
        return True
    terms = [t.strip() for p in ([paths] if isinstance(paths, str) else paths) for t in p.split("+")]
    return all(term.startswith(raw + ".") for term in terms)


def _relative(paths: Paths, within: str) -> Paths:
    if isinstance(paths, str):
        return "+".join(term.strip().removeprefix(within) for term in paths.split("+"))
    return [str(_relative(path, within)) for path in paths]


class _Combined:
    """Alternatives of which the first that is present counts; each is a sum over what is there."""

    def __init__(self, paths: list[str]) -> None:
        self._alternatives = [[getter(term.strip()) for term in path.split("+")] for path in paths]

    def count(self, value: object) -> int | None:
        for terms in self._alternatives:
            counts = [n for term in terms if (n := as_count(term(value))) is not None]
            if counts:
                return sum(counts)
        return None


def _count(paths: Paths, within: str) -> Getter | _Combined:
    paths = _relative(paths, within)
    if isinstance(paths, str) and "+" not in paths:
        return getter(paths)
    return _Combined([paths] if isinstance(paths, str) else paths)


@cache
def _details(provider_type: str) -> list[tuple[str, Getter]]:
    try:
        operations = specs.build(provider_type).operations.values()
    except UnsupportedLlmProviderError:
        return []  # an entry may be older than what is known now
    return [(name, getter(paths)) for operation in operations for name, paths in operation.usage.details.items()]


def details_of(provider_type: str, raw: object) -> dict[str, object]:
    """The finer counts of a usage object as a provider of this type sent it, by their names here: cache writes by how
    long they hold, what is billed where that is told apart, modalities, searches. What was not reported is left out."""
    return found_in(_details(provider_type), raw)


def found_in(details: list[tuple[str, Getter]], raw: object) -> dict[str, object]:
    """What stands at the places of a raw usage object; the first that is there of one name."""
    found: dict[str, object] = {}
    for name, get in details:
        if name not in found and isinstance(value := get(raw), int | float | str):
            found[name] = value
    return found

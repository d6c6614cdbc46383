"""Usage out of a provider's answer, by the paths of its spec.

Absent stays None and zero stays zero. Numbers may come as text or as whole floats; booleans, negatives and
what no counter can hold are not counts and are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from bursar.types.usage import Usage
from bursar.wire.paths import Getter, getter
from bursar.wire.spec import Paths, UsageSpec

# More than any answer has; sums of such counts, and their prices, stay far inside 64 bits.
MAX_COUNT = 10**10
_MAX_AMOUNT = 10**6
_NANOS = 1_000_000_000

Count = Callable[[object], int | None]


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


def as_nanos(value: object) -> int | None:
    """Money from what a provider wrote, in 10⁻⁹ of its currency, or None where it is no amount."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        amount = Decimal(str(value).strip())
        if not amount.is_finite() or amount < 0 or amount > _MAX_AMOUNT:
            return None
        return int((amount * _NANOS).to_integral_value())
    except InvalidOperation:
        return None


class UsageReader:
    """A usage section of a spec, made ready for reading."""

    def __init__(self, spec: UsageSpec) -> None:
        self._raw: Getter | None = getter(spec.raw) if spec.raw is not None else None
        given = {
            "input_tokens": spec.input,
            "output_tokens": spec.output,
            "cached_tokens": spec.cached,
            "cache_write_tokens": spec.cache_write,
            "reasoning_tokens": spec.reasoning,
            "provider_total_tokens": spec.total,
        }
        # Most frames have no usage: where every path lies inside the usage object, one look is enough, and
        # the paths are followed from there.
        self._inside = isinstance(spec.raw, str) and all(_is_inside(spec.raw, p) for p in (*given.values(), spec.cost))
        within = f"{spec.raw}." if self._inside else ""
        self._counts = [(name, count) for name, p in given.items() if (count := _count(p, within)) is not None]
        self._constants = {name: value for name, value in given.items() if isinstance(value, int)}
        self._cost = getter(_relative(spec.cost, within)) if spec.cost is not None else None
        self._currency = spec.cost_currency

    def read(self, value: object) -> Usage | None:
        """The usage reported in this answer or frame; None where it reports none."""
        raw = self._raw(value) if self._raw is not None else None
        if self._inside:
            if raw is None:
                return None
            value = raw
        found = dict(self._constants)
        reported = False
        for name, count in self._counts:
            number = count(value)
            if number is not None:
                found[name] = number
                reported = True
        nanos = as_nanos(self._cost(value)) if self._cost is not None else None
        if not reported and nanos is None:
            return None
        return Usage(
            **found,
            cost_nanos=nanos,
            cost_currency=self._currency if nanos is not None else None,
            raw=raw if isinstance(raw, dict) else None,
        )


def _is_inside(raw: str, paths: Paths | int | None) -> bool:
    if paths is None or isinstance(paths, int):
        return True
    terms = [t.strip() for p in ([paths] if isinstance(paths, str) else paths) for t in p.split("+")]
    return all(term.startswith(raw + ".") for term in terms)


def _relative(paths: Paths, within: str) -> Paths:
    if isinstance(paths, str):
        return "+".join(term.strip().removeprefix(within) for term in paths.split("+"))
    return [str(_relative(path, within)) for path in paths]


def _count(paths: Paths | int | None, within: str) -> Count | None:
    if paths is None or isinstance(paths, int):
        return None
    paths = _relative(paths, within)
    alternatives = [_sum(p) for p in ([paths] if isinstance(paths, str) else paths)]
    if len(alternatives) == 1:
        return alternatives[0]

    def first(value: object) -> int | None:
        for alternative in alternatives:
            count = alternative(value)
            if count is not None:
                return count
        return None

    return first


def _sum(path: str) -> Count:
    terms = [getter(term.strip()) for term in path.split("+")]
    if len(terms) == 1:
        only = terms[0]
        return lambda value: as_count(only(value))

    def total(value: object) -> int | None:
        counts = [n for term in terms if (n := as_count(term(value))) is not None]
        return sum(counts) if counts else None

    return total

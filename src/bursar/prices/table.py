"""Price rows: dated, with their source in the file they stand in, read once.

A rate is an integer: 10⁻⁹ of the currency for a million tokens ($0.15 a million → 150_000_000).
"""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib import resources

import msgspec

_NANOS = 1_000_000_000
_DAY_US = 86_400_000_000
_REMEMBERED = 4096
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What a million tokens cost. `cached` and `cache_write` are None where they cost as input does."""

    input: int
    output: int
    cached: int | None = None
    cache_write: int | None = None


class PriceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One price of one model, from `valid_from` on.

    `id` names the row on the ledger. Above `long_above` input tokens the whole request costs `long`.
    """

    id: str
    provider_type: str
    model: str
    currency: str
    valid_from: date
    rates: Rates
    long_above: int | None = None
    long: Rates | None = None


class _FileRow(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    input: str
    output: str = "0"
    cached: str | None = None
    cache_write: str | None = None
    aliases: list[str] = []
    valid_from: date = date.min
    long_context: dict[str, str | int] | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    provider_type: str
    currency: str
    rows: list[_FileRow]


class PriceTable:
    """All price rows, found by provider type, model and day."""

    def __init__(self, rows: list[tuple[str, PriceRow]]) -> None:
        self._rows: dict[tuple[str, str], list[PriceRow]] = {}
        for name, row in rows:
            self._rows.setdefault((row.provider_type, name), []).append(row)
        for dated in self._rows.values():
            dated.sort(key=lambda r: r.valid_from, reverse=True)
        self._found: dict[tuple[str, str, int], PriceRow | None] = {}

    def find_at(self, provider_type: str, model: str, us: int) -> PriceRow | None:
        """`find` for the UTC day of a time in microseconds since 1970; what was found is remembered."""
        key = (provider_type, model, us // _DAY_US)
        try:
            return self._found[key]
        except KeyError:
            pass
        if len(self._found) >= _REMEMBERED:
            self._found.clear()
        row = self._found[key] = self.find(provider_type, model, day_of(us))
        return row

    def find(self, provider_type: str, model: str, day: date) -> PriceRow | None:
        """The row in force on that day (UTC), else None. A model's dated name falls back to its plain one."""
        rows = self._rows.get((provider_type, model))
        if rows is None and (plain := _DATED.sub("", model)) != model:
            rows = self._rows.get((provider_type, plain))
        for row in rows or ():
            if row.valid_from <= day:
                return row
        return None


def bundled() -> PriceTable:
    """The price rows that come with bursar (`prices/data/*.toml`)."""
    rows: list[tuple[str, PriceRow]] = []
    for file in sorted((resources.files("bursar.prices") / "data").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            rows.extend(_rows_of(msgspec.convert(tomllib.loads(file.read_text("utf-8")), _File)))
    return PriceTable(rows)


def _rows_of(file: _File) -> list[tuple[str, PriceRow]]:
    out: list[tuple[str, PriceRow]] = []
    for given in file.rows:
        long = given.long_context
        row = PriceRow(
            id=f"{file.provider_type}/{given.model}" + (f"@{given.valid_from}" if given.valid_from != date.min else ""),
            provider_type=file.provider_type,
            model=given.model,
            currency=file.currency,
            valid_from=given.valid_from,
            rates=_rates(given.input, given.output, given.cached, given.cache_write),
            long_above=int(long["above"]) if long else None,
            long=_rates(*(_opt(long.get(k)) for k in ("input", "output", "cached", "cache_write"))) if long else None,
        )
        out.extend((name, row) for name in (given.model, *given.aliases))
    return out


def _opt(value: str | int | None) -> str | None:
    return None if value is None else str(value)


def _rates(input: str | None, output: str | None, cached: str | None, cache_write: str | None) -> Rates:
    return Rates(
        input=_nanos(input or "0"),
        output=_nanos(output or "0"),
        cached=_nanos(cached) if cached is not None else None,
        cache_write=_nanos(cache_write) if cache_write is not None else None,
    )


def _nanos(amount: str) -> int:
    nanos = Decimal(amount) * _NANOS
    if nanos != nanos.to_integral_value():
        raise ValueError(f"the price {amount} is finer than 10⁻⁹")
    return int(nanos)


def day_of(us: int) -> date:
    """The UTC day of a time in microseconds since 1970."""
    return datetime.fromtimestamp(us / 1_000_000, tz=UTC).date()

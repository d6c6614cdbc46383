"""All prices a call may have: those given here, from the file and the store, over those that come with bursar."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import cache
from importlib import resources
from typing import NamedTuple

import msgspec

from bursar.prices.given import GivenCurrencyRate, GivenPrice, check_price
from bursar.prices.rates import PriceRow
from bursar.prices.vendors import Vendors

_DAY_US, _MINUTE_US = 86_400_000_000, 60_000_000
_REMEMBERED = 4096
_PER_UNIT = 10**12

GIVEN, OURS = 1, 0


class Place(NamedTuple):
    """Where a model is called: whose call it is, the provider's name, type and address, and the vendor whose prices
    hold there, where its settings name one."""

    workspace: str
    provider: str
    provider_type: str
    url: str
    vendor: str | None = None


class OwnPrice(msgspec.Struct, frozen=True, kw_only=True):
    """A price that somebody gave, and what it is a price of. `rank` is higher for what counts before others."""

    given: GivenPrice
    row: PriceRow
    rank: int = GIVEN

    def fit(self, place: Place, name: str) -> tuple[int, ...] | None:
        """How closely it fits, to be compared; None where it is no price of this model there."""
        given, model = self.given, self.given.model.lower()
        if not (name == model or (model.endswith("*") and name.startswith(model[:-1]))):
            return None
        if given.workspace not in (None, place.workspace) or given.provider not in (None, place.provider):
            return None
        if given.provider_type not in (None, place.provider_type):
            return None
        named = [self.rank, given.workspace is not None, given.provider is not None, given.provider_type is not None]
        return (*map(int, named), len(model) if name != model else 10**6)


class Prices:
    """Finds prices, and remembers what it found. Make another one where they changed."""

    def __init__(
        self, own: Sequence[OwnPrice] = (), rates: Sequence[GivenCurrencyRate] = (), vendors: Vendors | None = None
    ) -> None:
        """Of prices that fit alike, and of rates of one day, the last counts."""
        self.own = [*_ours(), *own]
        self.rates = sorted(rates, key=lambda r: r.valid_from or date.min)
        self.vendors = vendors
        self._workspaces = {p.given.workspace for p in own} - {None}
        self._by_model: dict[str, list[OwnPrice]] = {}
        self._prefixes: list[OwnPrice] = []
        for price in self.own:
            model = price.given.model.lower()
            if model.endswith("*"):
                self._prefixes.append(price)
            else:
                self._by_model.setdefault(model, []).append(price)
        self._found: dict[tuple[str, str, str, str, str | None, str, str, int], list[PriceRow]] = {}
        self.faults: list[str] = []
        """What is wrong with prices that were passed over."""

    def find(self, place: Place, served: str, asked: str, us: int) -> PriceRow | None:
        """The price at a time (in microseconds since 1970) of the model that served, or, where it has none, of the one
        that was asked for."""
        return self.found(*place, served, asked, us)

    def found(
        self,
        workspace: str,
        provider: str,
        provider_type: str,
        url: str,
        vendor: str | None,
        served: str,
        asked: str,
        us: int,
    ) -> PriceRow | None:
        """The same by the parts of the place: there is one such question for each attempt."""
        own = workspace if workspace in self._workspaces else ""
        key = (own, provider, provider_type, url, vendor, served, asked, us // _DAY_US)
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            place = Place(own, provider, provider_type, url, vendor)
            found = self._found[key] = self._candidates(place, served, asked, day_of(us))
        if not found:
            return None
        first = found[0]
        if first.hours is None:
            return first
        minute = us % _DAY_US // _MINUTE_US
        return next((row for row in found if row.holds_at(date.max, minute)), None)

    def _candidates(self, place: Place, served: str, asked: str, day: date) -> list[PriceRow]:
        """The rows that hold on a day, the one that counts first; behind one that holds at some hours only, what counts
        at the others."""
        names = list(dict.fromkeys((served.lower(), asked.lower())))
        rows = _until_always(self._own(place, names, day, GIVEN))
        if rows and rows[-1].hours is None:
            return rows
        rows = _until_always(rows + self._own(place, names, day, OURS))
        if self.vendors is None or (rows and rows[-1].hours is None):
            return rows
        vendor, called = self.vendors.seller(place.provider_type, place.url, asked.lower(), place.vendor)
        if vendor is None:
            return rows
        for name in dict.fromkeys((served.lower(), called)):
            every = self.vendors.rows(vendor, name)
            if holding := [row for row in reversed(every) if row.valid_from <= day]:
                return _until_always(rows + holding)
        return rows

    def _own(self, place: Place, names: list[str], day: date, rank: int) -> list[PriceRow]:
        """The rows that fit one of the names, the one that fits most closely first."""
        fitting = []
        for before, name in enumerate(names):
            for n, price in enumerate((*self._by_model.get(name, ()), *self._prefixes)):
                fit = price.fit(place, name) if price.rank == rank and price.row.valid_from <= day else None
                if fit is not None:
                    at_hours = price.row.hours is not None
                    fitting.append((*fit, -before, price.row.valid_from, at_hours, n, price.row))
        fitting.sort(reverse=True, key=lambda one: one[:-1])
        return [one[-1] for one in fitting]

    def in_usd(self, nanos: int, currency: str, us: int) -> tuple[int | None, str | None]:
        """An amount in 10⁻⁹ of a currency in 10⁻⁹ US dollars, rounded half up, and the rate that was used, as it stands
        on the ledger; both None where the currency has no rate at that time."""
        if currency == "USD":
            return nanos, None
        day = day_of(us)
        for rate in reversed(self.rates):
            if rate.currency == currency and (rate.valid_from or date.min) <= day:
                usd = int(rate.usd * _PER_UNIT)
                since = f"@{rate.valid_from}" if rate.valid_from is not None else ""
                return (nanos * usd + _PER_UNIT // 2) // _PER_UNIT, f"{rate.usd.normalize():f}{since}"
        return None, None


def _until_always(rows: list[PriceRow]) -> list[PriceRow]:
    """The rows up to the first that holds at any hour."""
    for n, row in enumerate(rows):
        if row.hours is None:
            return rows[: n + 1]
    return rows


class _Ours(msgspec.Struct, forbid_unknown_fields=True):
    prices: list[GivenPrice]


@cache
def _ours() -> tuple[OwnPrice, ...]:
    """The prices bursar itself gives."""
    text = (resources.files("bursar.prices") / "data" / "own.toml").read_text("utf-8")
    given = msgspec.convert(tomllib.loads(text), _Ours).prices
    return tuple(own_price(one, f"{one.provider_type}/{one.model}", OURS) for one in given)


def file_id(given: GivenPrice | GivenCurrencyRate) -> str:
    """What a price or a rate of the configuration file is called by: whose it is, of what, since when, and a digest of
    what it says, so that one that was changed is another."""
    digest = hashlib.sha256(msgspec.json.encode(given)).hexdigest()[:8]
    since = f"@{given.valid_from}" if given.valid_from is not None else ""
    if isinstance(given, GivenCurrencyRate):
        return f"file:{given.currency}{since}#{digest}"
    whose = given.provider or given.provider_type or "any"
    return f"file:{whose}/{given.model}{since}#{digest}"


def own_price(given: GivenPrice, id: str, rank: int = GIVEN) -> OwnPrice:
    """A price somebody gave, ready to be found. Raises ConfigError that names the field."""
    return OwnPrice(given=given, row=msgspec.structs.replace(check_price(given, id), id=id), rank=rank)


@cache
def _day(number: int) -> date:
    return datetime.fromtimestamp(number * 86_400, tz=UTC).date()


def day_of(us: int) -> date:
    """The UTC day of a time in microseconds since 1970."""
    return _day(us // _DAY_US)

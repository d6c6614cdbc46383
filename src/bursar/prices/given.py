"""Prices as people write them: amounts of a currency for a million tokens, a thousand searches, an hour of sound."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from decimal import Decimal

import msgspec

from bursar.prices.rates import STANDARD, UNITS, USUAL, PriceRow, Rates, Tariff, Tier, tier_name
from bursar.types.errors import ConfigError

_NANOS = 1_000_000_000
_MOST = 10**9
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
CURRENCY = re.compile(r"[A-Z]{3}")


class GivenRates(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """An amount for each unit; what is left out costs as what it is part of."""

    input: Decimal | None = None
    output: Decimal | None = None
    cached: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    audio_input: Decimal | None = None
    audio_cached: Decimal | None = None
    image_input: Decimal | None = None
    image_cached: Decimal | None = None
    video_input: Decimal | None = None
    reasoning: Decimal | None = None
    audio_output: Decimal | None = None
    image_output: Decimal | None = None
    video_output: Decimal | None = None
    web_search: Decimal | None = None
    request: Decimal | None = None
    search_unit: Decimal | None = None
    image: Decimal | None = None
    audio_hour: Decimal | None = None


class GivenAbove(GivenRates, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The rates of requests with more input tokens than `tokens`: what is left out is as below."""

    tokens: int


class GivenTariff(GivenRates, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Rates, and those of long requests."""

    above: list[GivenAbove] = []


class GivenTier(GivenTariff, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The tariff of a service tier, from a day on; what is left out is as in the price it belongs to."""

    tier: str
    valid_from: date | None = None


class GivenDated(GivenTariff, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A tariff from a day on, with the tariffs of service tiers; `hours` of the day, UTC, like `16:30-00:30`."""

    valid_from: date | None = None
    hours: str | None = None
    tiers: list[GivenTier] = []


class GivenPrice(GivenDated, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A price of a model, whose name may end in `*` for all that begin so: of one provider, of all of a type, or,
    where neither is said, of all; of one workspace's providers where it names a workspace."""

    model: str
    provider: str | None = None
    provider_type: str | None = None
    workspace: str | None = None
    currency: str = "USD"


class GivenCurrencyRate(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What one unit of a currency is in US dollars, from a day on."""

    currency: str
    usd: Decimal
    valid_from: date | None = None


def row_of(given: GivenDated, *, id: str, model: str, currency: str, place: str) -> PriceRow:
    """A price ready to be used. Raises ConfigError that names the field."""
    tariff = _tariff(given, None, place)
    if not any(getattr(given, name) is not None for name in UNITS):
        raise ConfigError(f"{place}: it has no rate: write at least input and output", field="input")
    tiers = []
    for tier in given.tiers:
        name = tier_name(tier.tier)
        if name in ("", STANDARD):
            raise ConfigError(f"{place}: a tier has a name other than '{tier.tier}': what is usual is the price itself",
                              field="tiers")  # fmt: skip
        tiers.append(
            Tier(name=name, valid_from=tier.valid_from or date.min,
                 tariff=_tariff(tier, given, f"{place}, tier '{tier.tier}'"))
        )  # fmt: skip
    return PriceRow(
        id=id, model=model, currency=currency, valid_from=given.valid_from or date.min, tariff=tariff,
        tiers=tuple(tiers), hours=_hours(given.hours, place),
    )  # fmt: skip


def check_price(given: GivenPrice, place: str) -> PriceRow:
    """The row of a price given by somebody. Raises ConfigError that names the field."""
    model = given.model
    if not model or not model.isprintable() or model != model.strip() or "*" in model[:-1]:
        raise ConfigError(
            f"{place}: a model is not empty, has no spaces around it, and a '*' at its end only", field="model"
        )
    if given.provider is not None and given.provider_type is not None:
        raise ConfigError(f"{place}: name a provider or a type, not both", field="provider_type")
    if not CURRENCY.fullmatch(given.currency):
        raise ConfigError(f"{place}: '{given.currency}' is no currency: write three capitals, like USD or RUB",
                          field="currency")  # fmt: skip
    return row_of(given, id=place, model=given.model, currency=given.currency, place=place)


def check_currency_rate(given: GivenCurrencyRate, place: str) -> None:
    """Raises ConfigError that names the field."""
    if not CURRENCY.fullmatch(given.currency) or given.currency == "USD":
        raise ConfigError(f"{place}: '{given.currency}' is no other currency than USD: write three capitals, like RUB",
                          field="currency")  # fmt: skip
    scaled = given.usd * 10**12 if given.usd.is_finite() else Decimal(0)
    if not 0 < given.usd <= _MOST or scaled != scaled.to_integral_value():
        raise ConfigError(f"{place}: usd is more than 0, at most {_MOST}, and has up to 12 decimal places", field="usd")


def _tariff(given: GivenTariff, under: GivenTariff | None, place: str) -> Tariff:
    """What a tier leaves out is as in the price under it, thresholds and all."""
    base = _rates(given, _rates(under, None, place) if under is not None else None, place)
    above: list[tuple[int, Rates]] = []
    thresholds: Sequence[GivenAbove] = given.above
    if under is not None and not thresholds:
        # What it gives without thresholds costs the same at any length; what it leaves out is as in the price.
        own = {name: None for name in UNITS if getattr(given, name) is not None}
        thresholds = [msgspec.structs.replace(each, **own) for each in under.above]
    for each in sorted(thresholds, key=lambda one: one.tokens):
        if each.tokens < 1 or (above and above[-1][0] == each.tokens):
            raise ConfigError(f"{place}: above says after how many tokens, 1 or more, once each", field="above")
        if not any(getattr(each, name) is not None for name in UNITS) and each in given.above:
            raise ConfigError(f"{place}: above {each.tokens} has no rate", field="above")
        above.append((each.tokens, _rates(each, above[-1][1] if above else base, place)))
    return Tariff(rates=base, above=tuple(above))


def _rates(given: GivenRates, under: Rates | None, place: str) -> Rates:
    found: dict[str, int] = {}
    if under is not None:
        usual = {name: getattr(under, name) for name in USUAL}
        found = {name: rate for name, rate in usual.items() if rate is not None} | under.finer
    for name in UNITS:
        amount = getattr(given, name)
        if amount is not None:
            found[name] = _nanos(amount, name, place)
    finer = {name: rate for name, rate in found.items() if name not in USUAL}
    return Rates(
        input=found.get("input"), output=found.get("output"), cached=found.get("cached"),
        cache_write=found.get("cache_write"), finer=finer,
    )  # fmt: skip


def _nanos(amount: Decimal, name: str, place: str) -> int:
    if not amount.is_finite() or not 0 <= amount <= _MOST:
        raise ConfigError(f"{place}: {name} is 0 or more, and at most {_MOST}", field=name)
    nanos = amount * _NANOS
    if nanos != nanos.to_integral_value():
        raise ConfigError(f"{place}: {name} is finer than 10⁻⁹: {amount}", field=name)
    return int(nanos)


def _hours(given: str | None, place: str) -> tuple[int, int] | None:
    if given is None:
        return None
    found = _HOURS.fullmatch(given)
    if found is None or found.group(1, 2) == found.group(3, 4):
        raise ConfigError(f"{place}: hours are UTC, from and to, like 16:30-00:30", field="hours")
    from_hour, from_minute, to_hour, to_minute = map(int, found.groups())
    return from_hour * 60 + from_minute, to_hour * 60 + to_minute

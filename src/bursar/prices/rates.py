"""Rates of one price, and what they are rates of.

A rate is an integer: 10⁻⁹ of the currency for as many as its unit is priced by ($0.15 a million tokens → 150_000_000).
"""

from __future__ import annotations

from datetime import date

import msgspec

_MILLION, _THOUSAND, _HOUR_MS = 1_000_000, 1_000, 3_600_000


STANDARD = "standard"
# What answers call the usual tier, and the tiers that some of them name otherwise.
_TIERS = {"default": STANDARD, "auto": STANDARD, "on_demand": STANDARD, "on_demand_priority": "priority",
          "on_demand_flex": "flex"}  # fmt: skip


def tier_name(said: str) -> str:
    """A service tier by its one name."""
    return _TIERS.get(said.strip().lower(), said.strip().lower())


class Unit(msgspec.Struct, frozen=True):
    """What is counted: `per` is how many of it a rate is for; `within` are the counts it is part of, and leaves for a
    rate of its own; `count` is the name of the count among those a provider tells apart."""

    per: int
    within: tuple[str, ...] = ()
    count: str = ""


UNITS: dict[str, Unit] = {
    "input": Unit(_MILLION),
    "output": Unit(_MILLION),
    "cached": Unit(_MILLION, ("input",)),
    "cache_write": Unit(_MILLION, ("input",)),
    "cache_write_1h": Unit(_MILLION, ("cache_write", "input"), "cache_write_1h_tokens"),
    "audio_input": Unit(_MILLION, ("input",), "audio_input_tokens"),
    "audio_cached": Unit(_MILLION, ("audio_input", "cached", "input"), "audio_cached_tokens"),
    "image_input": Unit(_MILLION, ("input",), "image_input_tokens"),
    "image_cached": Unit(_MILLION, ("image_input", "cached", "input"), "image_cached_tokens"),
    "video_input": Unit(_MILLION, ("input",), "video_input_tokens"),
    "reasoning": Unit(_MILLION, ("output",)),
    "audio_output": Unit(_MILLION, ("output",), "audio_output_tokens"),
    "image_output": Unit(_MILLION, ("output",), "image_output_tokens"),
    "video_output": Unit(_MILLION, ("output",), "video_output_tokens"),
    "web_search": Unit(_THOUSAND, (), "web_searches"),
    "request": Unit(_THOUSAND),
    "search_unit": Unit(_THOUSAND),
    "image": Unit(1),
    "audio_hour": Unit(_HOUR_MS),
}
"""Everything that can have a rate. Tokens are priced by the million, searches and requests by the thousand, sound by
the hour, images one by one."""
USUAL = frozenset({"input", "output", "cached", "cache_write"})
"""The units whose counts stand in every usage."""
FINER = tuple(sorted((name for name in UNITS if name not in USUAL), key=lambda name: -len(UNITS[name].within)))
"""The others: what is part of another comes before it."""
_WITHOUT_ASKING = frozenset({"reasoning", "request", "search_unit", "image", "audio_hour"})


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What things cost. `cached` and `cache_write` are None where they cost as input does; `input` and `output` where
    they are not what is paid for; `finer` are rates of other units, by name."""

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    cache_write: int | None = None
    finer: dict[str, int] = {}
    is_usual: bool = True
    """Whether the four are all that counts where no finer counts are known."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "is_usual", self.finer.keys().isdisjoint(_WITHOUT_ASKING))


class Tariff(msgspec.Struct, frozen=True, kw_only=True):
    """Rates by how long a request is: with more input tokens than the last number of `above` that it exceeds, the whole
    request is at the rates beside that number."""

    rates: Rates
    above: tuple[tuple[int, Rates], ...] = ()

    def of(self, input_tokens: int) -> Rates:
        """The rates of a request with so many input tokens."""
        for threshold, rates in reversed(self.above):
            if input_tokens > threshold:
                return rates
        return self.rates


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """The tariff of a service tier (`batch`, `flex`, `priority`, …), from a day on."""

    name: str
    valid_from: date
    tariff: Tariff


class PriceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One price of one model, from `valid_from` on; between two minutes of the day (UTC) where it has `hours`.

    `id` names the row on the ledger. It is not the price of a tier that it does not have.
    """

    id: str
    model: str
    currency: str
    valid_from: date
    tariff: Tariff
    tiers: tuple[Tier, ...] = ()
    hours: tuple[int, int] | None = None
    counts: frozenset[str] = frozenset()
    """The finer counts, by their names in usage, that it has rates of."""

    def __post_init__(self) -> None:
        tariffs = (self.tariff, *(tier.tariff for tier in self.tiers))
        finer = {name for t in tariffs for rates in (t.rates, *(r for _, r in t.above)) for name in rates.finer}
        msgspec.structs.force_setattr(self, "counts", frozenset(UNITS[name].count for name in finer))

    def holds_at(self, day: date, minute: int) -> bool:
        """Whether this is a price of that day, at that minute of it."""
        if self.valid_from > day:
            return False
        if self.hours is None:
            return True
        begins, ends = self.hours
        return begins <= minute < ends if begins <= ends else minute >= begins or minute < ends

    def of_tier(self, name: str, day: date) -> Tariff | None:
        """The tariff of a service tier (as `tier_name` has it) on a day, the latest that holds; None where it is not
        known."""
        if name == STANDARD:
            return self.tariff
        holding = [tier for tier in self.tiers if tier.name == name and tier.valid_from <= day]
        return max(holding, key=lambda tier: tier.valid_from).tariff if holding else None

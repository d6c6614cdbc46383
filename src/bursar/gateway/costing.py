"""What an attempt cost: what its provider says, else its price; and that in US dollars, where there is a rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from bursar.prices.cost import nanos_of, reported
from bursar.prices.rates import PriceRow, Tariff
from bursar.prices.table import day_of
from bursar.types.call import Cost
from bursar.types.usage import Usage
from bursar.wire.paths import getter
from bursar.wire.readers import Readers
from bursar.wire.usage import as_count
from bursar.wire.values import read_json

if TYPE_CHECKING:
    from bursar.gateway.attempt import Attempt
    from bursar.gateway.gateway import Gateway

# What answers call the usual tier, and the tiers that some of them name otherwise.
_STANDARD = frozenset({"standard", "default", "auto", "on_demand"})
_BILLED = frozenset({"billed_input_tokens", "billed_output_tokens"})
_TIER = frozenset({"service_tier", "traffic_type", "speed"})
_SAME = {"on_demand_priority": "priority", "on_demand_flex": "flex"}


def cost_of(gateway: Gateway, attempt: Attempt, usage: Usage) -> Cost | None:
    """The cost of an attempt; None where nobody can say."""
    opened = attempt.entry.opened
    at = opened.created_us
    found = reported(usage) or _priced(gateway, attempt, usage)
    if found is None:
        return None
    usd, rate = gateway.prices.in_usd(found.nanos, found.currency, at)
    return msgspec.structs.replace(found, usd_nanos=usd, usd_rate=rate)


def _priced(gateway: Gateway, attempt: Attempt, usage: Usage) -> Cost | None:
    """At the price of the model that served, or, where it has none, of the one that was asked for."""
    opened, served = attempt.entry.opened, attempt.assembly.model
    at = opened.created_us
    row = gateway.prices.found(
        opened.workspace, opened.provider, opened.provider_type, opened.provider_url, served or opened.model,
        opened.model, at,
    )  # fmt: skip
    if row is None:
        return None
    return priced(row, attempt.decoder.readers, usage, at, lambda: _said_tier(attempt))


def priced(row: PriceRow, readers: Readers, usage: Usage, at: int, said_tier: Callable[[], object]) -> Cost | None:
    """What usage costs at a price, with whatever else the price asks for: finer counts out of the usage as it was sent,
    and the service tier, where the answer says it beside its usage."""
    details = readers.spec.usage.details
    more: dict[str, object] | None = None
    if not (row.counts.isdisjoint(details) and _BILLED.isdisjoint(details)) or (row.tiers and _TIER & details.keys()):
        more = readers.finer(usage.raw)
    tariff, tier = _tariff(row, more or {}, said_tier, at) if row.tiers else (row.tariff, None)
    counts = None if more is None else {n: c for n, value in more.items() if (c := as_count(value)) is not None}
    nanos = nanos_of(usage, tariff, counts) if tariff is not None else None
    if nanos is None:
        return None
    return Cost(nanos, row.currency, "price", row.id if tier is None else f"{row.id} {tier}")


def _tariff(
    row: PriceRow, told: dict[str, object], said_tier: Callable[[], object], at: int
) -> tuple[Tariff | None, str | None]:
    """The tariff of the tier that served, and its name where it is not the usual one. A tier without a known price
    has none: what is asked for is not what is charged, so only the answer's word counts."""
    said = told.get("service_tier") or told.get("traffic_type") or said_tier()
    name = said.lower() if isinstance(said, str) else "standard"
    if name in _STANDARD:
        # A fast answer of the usual tier has a price of its own.
        name = "fast" if told.get("speed") == "fast" else "standard"
    if name == "standard":
        return row.tariff, None
    name = _SAME.get(name, name)
    return row.of_tier(name, day_of(at)), name


def _said_tier(attempt: Attempt) -> object:
    """The tier as the answer says it beside its usage."""
    path = attempt.decoder.readers.spec.usage.tier
    if path is None:
        return None
    if not attempt.whole:
        return getter(path)(attempt.decoder.extras)
    if b'"service_tier"' not in attempt.whole:
        return None
    value, _ = read_json(attempt.whole)
    return getter(path)(value)

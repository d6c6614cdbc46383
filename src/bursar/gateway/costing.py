"""What an attempt cost: what its provider says, else its price; and that in US dollars, where there is a rate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from bursar.prices.cost import nanos_of, reported
from bursar.prices.rates import STANDARD, PriceRow, tier_name
from bursar.prices.table import day_of
from bursar.types.call import Cost
from bursar.types.usage import Usage
from bursar.wire.paths import getter
from bursar.wire.readers import Readers
from bursar.wire.usage import as_count

if TYPE_CHECKING:
    from bursar.gateway.attempt import Attempt
    from bursar.gateway.gateway import Gateway

# More than any attempt costs: what comes out above it is a price gone wrong, and the store would refuse its entry.
MOST_NANOS = 10**16

# What a price depends on whether it has a rate of it or not: counts that are billed in place of others, searches that
# are paid for beside the tokens, and the tier.
_BILLED = frozenset({"billed_input_tokens", "billed_output_tokens"})
_ASKED = _BILLED | {"web_searches", "service_tier", "traffic_type", "speed"}


def cost_of(gateway: Gateway, attempt: Attempt, usage: Usage) -> Cost | None:
    """The cost of an attempt; None where nobody can say."""
    opened = attempt.entry.opened
    at = opened.created_us
    found = reported(usage) if usage.cost_nanos is not None else None
    if found is None:
        # At the price of the model that served, or, where it has none, of the one that was asked for.
        row = gateway.prices.found(
            opened.workspace, opened.provider, opened.provider_type, opened.provider_url,
            attempt.target.provider.vendor, attempt.assembly.model or opened.model, opened.model, at,
        )  # fmt: skip
        if row is None:
            return None
        found = priced(row, attempt.decoder.readers, usage, at, partial(_said_tier, attempt))
        if found is None:
            return None
    usd, rate = gateway.prices.in_usd(found.nanos, found.currency, at)
    if usd is not None and usd > MOST_NANOS:
        usd, rate = None, None
    return msgspec.structs.replace(found, usd_nanos=usd, usd_rate=rate)


def priced(row: PriceRow, readers: Readers, usage: Usage, at: int, said_tier: Callable[[], object]) -> Cost | None:
    """What usage costs at a price, with whatever else the price asks for: finer counts out of the usage as it was sent,
    and the service tier, where the answer says it beside its usage."""
    details = readers.spec.usage.details.keys()
    more: dict[str, object] = {}
    if not (row.counts.isdisjoint(details) and _ASKED.isdisjoint(details)):
        more = readers.finer(usage.raw)
    # What was asked for is not what is charged: only the answer's word counts.
    said = more.get("service_tier") or more.get("traffic_type") or said_tier()
    tier = tier_name(said) if isinstance(said, str) and said else STANDARD
    if tier == STANDARD and more.get("speed") == "fast":
        tier = "fast"  # a fast answer of the usual tier has a price of its own
    tariff = row.tariff if tier == STANDARD else row.of_tier(tier, day_of(at))
    # What was not used makes no difference, but for what is billed in place of what was.
    counts = {n: c for n, value in more.items() if (c := as_count(value)) or (c == 0 and n in _BILLED)}
    nanos = nanos_of(usage, tariff, counts) if tariff is not None else None
    if nanos is None or nanos > MOST_NANOS:
        return None
    return Cost(nanos, row.currency, "price", row.id if tier == STANDARD else f"{row.id} {tier}")


def _said_tier(attempt: Attempt) -> object:
    """The tier as the answer says it beside its usage."""
    readers = attempt.decoder.readers
    path = readers.spec.usage.tier
    if path is None:
        return None
    return readers.tier_in(attempt.whole) if attempt.whole else getter(path)(attempt.decoder.extras)

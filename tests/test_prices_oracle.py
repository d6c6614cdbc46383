"""Costs beside those of genai-prices, from whose data the prices that come along are compiled: its rules for finding a
model and for charging it are its own, and written by others.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import types as theirs
from genai_prices.data import providers

from bursar.prices.cost import nanos_of
from bursar.prices.rates import Tariff
from bursar.prices.table import day_of
from bursar.prices.vendors import Vendors, bundled
from bursar.types.usage import Usage
from tools.prices import UNITS

# Under and over every threshold there is, at hours with prices of their own, and before the newest of them.
LENGTHS = (0, 1, 1_000, 128_001, 199_999, 200_000, 200_001, 272_001, 600_000)
TIMES = tuple(datetime(*t, tzinfo=UTC) for t in ((2026, 11, 20, 12), (2026, 11, 20, 2, 30), (2025, 6, 9, 20)))
OURS = bundled()


def _names(clause: Any) -> list[str]:
    if isinstance(clause, theirs.ClauseEquals):
        return [clause.equals]
    if isinstance(clause, theirs.ClauseStartsWith):
        return [clause.starts_with]
    if isinstance(clause, theirs.ClauseContains):
        return [clause.contains]
    return [name for part in getattr(clause, "or_", ()) for name in _names(part)]


def _tariff(
    vendors: Vendors, provider: theirs.Provider, name: str, when: datetime, tier: str | None = None
) -> Tariff | None:
    """By the vendor's own rows, as `Prices` takes the one that counts."""
    day, minute = day_of(int(when.timestamp()) * 1_000_000), when.hour * 60 + when.minute
    vendor = vendors.by_id[provider.id]
    rows = [row for row in reversed(vendor.rows(name.lower())) if row.holds_at(day, minute)]
    if not rows:
        return None
    return rows[0].tariff if tier is None else rows[0].of_tier(tier, day)


def _usages(price: theirs.ModelPrice) -> list[tuple[Usage, TheirUsage]]:
    """Plain and cached usage, where the model has a price of what is used."""
    has = {name for name, amount in vars(price).items() if amount is not None}
    output = 700 if "output_mtok" in has else 0
    found = []
    for length in LENGTHS if "input_mtok" in has else (0,):
        cases: list[dict[str, int]] = [{}]
        if "cache_read_mtok" in has:
            cases += [{"cached": length // 3}, {"cached": length}]
        if "cache_write_mtok" in has:
            cases += [{"written": length // 4}, {"cached": length // 3, "written": length // 4}]
        for case in cases:
            cached, written = case.get("cached", 0), case.get("written", 0)
            ours = Usage(input_tokens=length, output_tokens=output, cached_tokens=cached, cache_write_tokens=written)
            found.append(
                (
                    ours,
                    TheirUsage(
                        input_tokens=length, output_tokens=output, cache_read_tokens=cached, cache_write_tokens=written
                    ),
                )
            )
    return found


def _nanos(dollars: Decimal) -> int:
    return int((dollars * 10**9 + Decimal("0.5")) // 1)


def _name_of(provider: theirs.Provider, model: theirs.ModelInfo) -> str | None:
    """A name by which the model is found there."""
    return next((name for name in (model.id, *_names(model.match)) if provider.find_model(name) is model), None)


@pytest.mark.parametrize("provider", providers, ids=lambda p: p.id)
def test_every_model_costs_what_it_does_there(provider: theirs.Provider) -> None:
    for model in provider.models:
        name = _name_of(provider, model)
        assert name is not None, model.id
        for when in TIMES:
            price = model.get_prices(when)
            tariff = _tariff(OURS, provider, name, when)
            assert (tariff is not None) == _is_priced(price), model.id
            for usage, their_usage in _usages(price) if tariff is not None else ():
                dollars = model.calc_price(their_usage, provider, genai_request_timestamp=when).total_price
                ours = nanos_of(usage, tariff)
                # A billionth of a dollar is where a rate of theirs is finer than ours can be.
                assert ours is not None, (model.id, when, usage)
                assert abs(ours - _nanos(dollars)) <= 1, (model.id, when, usage)


def _is_priced(price: theirs.ModelPrice) -> bool:
    return any(amount is not None and name in UNITS for name, amount in vars(price).items())


@pytest.mark.parametrize("provider", providers, ids=lambda p: p.id)
def test_every_name_means_the_model_it_does_there(provider: theirs.Provider) -> None:
    vendor = OURS.by_id[provider.id]
    for model in provider.models:
        for name in {model.id, *_names(model.match)}:
            found = provider.find_model(name)
            if rows := vendor.rows(name.lower()):
                assert rows[0].model == found.id, name


@pytest.mark.parametrize(
    ("provider_id", "context", "tier"),
    [("openai", {"service_tier": "priority"}, "priority"), ("openai", {"service_tier": "flex"}, "flex"), ("openai", {"processing": "batch"}, "batch"),
     ("anthropic", {"processing": "batch"}, "batch"), ("anthropic", {"speed": "fast"}, "fast"), ("google", {"processing": "batch"}, "batch"),
     ("mistral", {"processing": "batch"}, "batch"), ("groq", {"processing": "batch"}, "batch"), ("x-ai", {"processing": "batch"}, "batch")],
)  # fmt: skip
def test_tiers_cost_what_they_do_there(provider_id: str, context: dict[str, str], tier: str) -> None:
    provider = next(p for p in providers if p.id == provider_id)
    when = TIMES[0]
    compared = 0
    for model in provider.models:
        tariff = _tariff(OURS, provider, model.id, when, tier) if provider.find_model(model.id) is model else None
        if tariff is None:
            continue
        for usage, their_usage in _usages(model.get_prices(when, context)):
            dollars = model.calc_price(
                their_usage, provider, genai_request_timestamp=when, price_context=context
            ).total_price
            ours = nanos_of(usage, tariff)
            assert ours is not None
            assert abs(ours - _nanos(dollars)) <= 1, (model.id, usage)
            compared += 1
    assert compared > 0

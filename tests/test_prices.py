"""Money: exact, rounded once, and unknown where nobody can say."""

from __future__ import annotations

from datetime import date
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.prices.cost import cost
from bursar.prices.table import PriceRow, Rates, bundled
from bursar.types.usage import Usage

TABLE = bundled()
TODAY = date(2026, 11, 20)
counts = st.integers(0, 10**9)
rates = st.integers(0, 10**12)


def _nanos(model: str, usage: Usage, day: date = TODAY) -> int | None:
    charged = cost(usage, TABLE.find("openai", model, day))
    return None if charged is None else charged.nanos


def test_an_unknown_model_has_no_cost_rather_than_none_to_pay() -> None:
    assert TABLE.find("openai", "gpt-nobody-knows", TODAY) is None
    assert cost(Usage(input_tokens=1_000_000, output_tokens=1), None) is None
    assert cost(None, TABLE.find("openai", "gpt-4o", TODAY)) is None


def test_cheap_calls_keep_their_cost() -> None:
    # gpt-4o-mini: $0.15 and $0.60 a million tokens, so one token in and one out is 750 nanodollars.
    assert _nanos("gpt-4o-mini", Usage(input_tokens=1, output_tokens=1)) == 750
    # text-embedding-3-small: $0.02 a million.
    assert _nanos("text-embedding-3-small", Usage(input_tokens=1, output_tokens=0)) == 20


@pytest.mark.parametrize(
    ("model", "usage", "nanos"),
    [
        # 1000 × 2.5 + 500 × 10 dollars a million
        ("gpt-4o", Usage(input_tokens=1000, output_tokens=500), 7_500_000),
        # 200 plain × 2.5 + 800 cached × 1.25 + 100 × 10
        ("gpt-4o", Usage(input_tokens=1000, output_tokens=100, cached_tokens=800), 2_500_000),
        # a dated name has the price of its plain one
        ("gpt-4o-2024-11-20", Usage(input_tokens=1000, output_tokens=0), 2_500_000),
        # a dated name with a price of its own keeps it
        ("gpt-4o-2024-05-13", Usage(input_tokens=1000, output_tokens=0), 5_000_000),
        # no rate for cached tokens: they cost as input does
        ("o3-pro", Usage(input_tokens=100, output_tokens=0, cached_tokens=60), 2_000_000),
        # 600 plain × 4 + 300 cached × 0.4 + 100 written × 5 + 10 × 20
        ("gpt-5.6-sol", Usage(input_tokens=1000, output_tokens=10, cached_tokens=300, cache_write_tokens=100), 3_220_000),
        # at the threshold the base rates, above it the long ones for the whole request
        ("gpt-5.6-sol", Usage(input_tokens=272_000, output_tokens=0), 272_000 * 4_000),
        ("gpt-5.6-sol", Usage(input_tokens=272_001, output_tokens=1), 272_001 * 8_000 + 30_000),
    ],
)  # fmt: skip
def test_costs_worked_out_by_hand(model: str, usage: Usage, nanos: int) -> None:
    assert _nanos(model, usage) == nanos


def test_a_price_holds_from_its_day_on() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=0)
    assert _nanos("o3", usage, date(2025, 6, 9)) == 10_000_000_000
    assert _nanos("o3", usage, date(2025, 6, 10)) == 2_000_000_000


def test_a_cost_the_provider_reports_wins() -> None:
    charged = cost(
        Usage(input_tokens=5, output_tokens=5, cost_nanos=42, cost_currency="RUB"),
        TABLE.find("openai", "gpt-4o", TODAY),
    )
    assert charged is not None
    assert (charged.nanos, charged.currency, charged.source, charged.price) == (42, "RUB", "provider", None)


def test_a_total_alone_has_a_cost_only_where_input_and_output_cost_the_same() -> None:
    total = Usage(provider_total_tokens=1000)
    assert cost(total, TABLE.find("openai", "gpt-4o", TODAY)) is None
    flat = _row(Rates(input=2_000_000_000, output=2_000_000_000))
    charged = cost(total, flat)
    assert charged is not None
    assert charged.nanos == 2_000_000


def test_counts_that_contradict_each_other_have_no_cost() -> None:
    assert _nanos("gpt-4o", Usage(input_tokens=10, output_tokens=1, cached_tokens=11)) is None
    assert _nanos("gpt-4o", Usage(input_tokens=None, output_tokens=1)) is None


def _row(rates: Rates) -> PriceRow:
    return PriceRow(id="t", provider_type="t", model="m", currency="USD", valid_from=date.min, rates=rates)


@given(counts, counts, counts, counts, rates, rates, rates, rates)
def test_integer_costs_are_the_exact_ones_rounded_once(
    plain: int, cached: int, written: int, output: int, ri: int, rc: int, rw: int, ro: int
) -> None:
    usage = Usage(
        input_tokens=plain + cached + written, output_tokens=output, cached_tokens=cached, cache_write_tokens=written
    )
    charged = cost(usage, _row(Rates(input=ri, cached=rc, cache_write=rw, output=ro)))
    exact = Fraction(plain * ri + cached * rc + written * rw + output * ro, 1_000_000)
    assert charged is not None
    assert abs(charged.nanos - exact) <= Fraction(1, 2)
    assert charged.nanos >= 0


def test_every_row_of_the_table_can_be_used() -> None:
    for (provider_type, model), rows in TABLE._rows.items():
        for row in rows:
            charged = cost(Usage(input_tokens=1000, output_tokens=1000), row)
            assert charged is not None, (provider_type, model)
            assert charged.nanos > 0

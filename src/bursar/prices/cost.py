"""What usage costs: pure integer arithmetic, rounded half up once, at the end."""

from __future__ import annotations

from collections.abc import Mapping

from bursar.prices.rates import FINER, UNITS, Rates, Tariff
from bursar.types.call import Cost
from bursar.types.usage import Usage

_MILLION = 1_000_000
# What all units' numbers divide: sums are made in parts of which so many are 10⁻⁹ of the currency.
_PARTS = 18_000_000
# What is part of nothing else: where it was used and has no rate, nobody can say what it cost.
_PAID = frozenset({"input", "output", "web_search", "audio_hour"})
_WEIGHTS = {name: _PARTS // unit.per for name, unit in UNITS.items()}


def reported(usage: Usage) -> Cost | None:
    """The cost the provider itself reported: it wins over any price."""
    if usage.cost_nanos is None or usage.cost_currency is None:
        return None
    return Cost(nanos=usage.cost_nanos, currency=usage.cost_currency, source="provider")


def nanos_of(usage: Usage, tariff: Tariff, more: Mapping[str, int] | None = None) -> int | None:
    """What an attempt costs at a tariff, in 10⁻⁹ of its currency, or None where nobody can say.

    Cached and cache-write tokens are part of the input and leave it for their own rate; so do the finer counts in
    `more`, by the names of `wire.usage.details_of`, for theirs. Where a provider bills other counts than it reports,
    those are priced. Where only a total is known, it has a cost only if input and output cost the same. Counts that
    contradict each other (more cached than input) have none, nor have those of something that has no rate.
    """
    plain, output, cached = usage.input_tokens, usage.output_tokens, usage.cached_tokens
    if more and ("billed_input_tokens" in more or "billed_output_tokens" in more):
        plain, output, cached = more.get("billed_input_tokens", 0), more.get("billed_output_tokens", 0), None
    if plain is None or output is None:
        rates = tariff.rates
        if plain is None and output is None and (usage.audio_ms is not None or rates.input is rates.output is None):
            plain = output = 0  # it is not by tokens that it is paid for
        elif plain is not None and rates.output == 0:
            output = 0
        else:
            return _of_total(usage, tariff)
    rates = tariff.of(plain)
    if more or not rates.is_usual or rates.input is None or (output and rates.output is None):
        return _finely(usage, rates, plain, output, cached, more or {})
    amount = output * (rates.output or 0)
    if cached:
        plain -= cached
        amount += cached * (rates.input if rates.cached is None else rates.cached)
    if written := usage.cache_write_tokens:
        plain -= written
        amount += written * (rates.input if rates.cache_write is None else rates.cache_write)
    return None if plain < 0 else (amount + plain * rates.input + _MILLION // 2) // _MILLION


def _finely(
    usage: Usage, rates: Rates, plain: int, output: int, cached: int | None, more: Mapping[str, int]
) -> int | None:
    """The same with any rates: each count is charged what is left of it when its parts that have rates have gone."""
    given = {name: more.get(UNITS[name].count, 0) for name in FINER if UNITS[name].count}
    given |= {"reasoning": usage.reasoning_tokens or 0, "request": 1, "audio_hour": usage.audio_ms or 0}
    given |= {"search_unit": usage.search_units or 0, "image": usage.images or 0}
    given |= {"cached": cached or 0, "cache_write": usage.cache_write_tokens or 0, "input": plain, "output": output}
    charged = {**rates.finer, "cached": rates.cached, "cache_write": rates.cache_write}
    charged |= {"input": rates.input, "output": rates.output}
    gone = dict.fromkeys(given, 0)
    amount = 0
    for name in (*FINER, "cached", "cache_write", "input", "output"):
        rate = charged.get(name)
        left = given[name] - gone[name]
        if left < 0:
            return None
        if rate is None:
            if left and name in _PAID and not (name == "audio_hour" and plain):
                return None
            continue
        amount += left * rate * _WEIGHTS[name]
        for whole in UNITS[name].within:
            gone[whole] += left
    return (amount + _PARTS // 2) // _PARTS


def _of_total(usage: Usage, tariff: Tariff) -> int | None:
    total, rates = usage.total_tokens, tariff.rates
    known = usage.input_tokens is not None or usage.output_tokens is not None
    if known or total is None or tariff.above or rates.finer or rates.input is None or rates.input != rates.output:
        return None
    if rates.cached not in (None, rates.input) or rates.cache_write not in (None, rates.input):
        return None
    return (total * rates.input + _MILLION // 2) // _MILLION

"""What usage costs: pure integer arithmetic, rounded half up once, at the end."""

from __future__ import annotations

from bursar.prices.table import PriceRow, Rates
from bursar.types.call import Cost
from bursar.types.usage import Usage

_MILLION = 1_000_000


def cost(usage: Usage | None, row: PriceRow | None) -> Cost | None:
    """The cost of one attempt, or None where nobody can say.

    The provider's own cost wins over any price. Cached and cache-write tokens are part of the input and
    leave it for their own rate. Where only a total is known, it has a cost only if input and output cost
    the same. Counts that contradict each other (more cached than input) have none.
    """
    if usage is None:
        return None
    if usage.cost_nanos is not None and usage.cost_currency is not None:
        return Cost(nanos=usage.cost_nanos, currency=usage.cost_currency, source="provider")
    if row is None:
        return None
    plain, output = usage.input_tokens, usage.output_tokens
    if plain is None or output is None:
        return _of_total(usage, row)
    rates = row.rates
    if row.long is not None and row.long_above is not None and plain > row.long_above:
        rates = row.long
    amount = output * rates.output
    if cached := usage.cached_tokens:
        plain -= cached
        amount += cached * (rates.input if rates.cached is None else rates.cached)
    if written := usage.cache_write_tokens:
        plain -= written
        amount += written * (rates.input if rates.cache_write is None else rates.cache_write)
    return None if plain < 0 else _rounded(amount + plain * rates.input, row)


def _of_total(usage: Usage, row: PriceRow) -> Cost | None:
    total = usage.total_tokens
    if usage.input_tokens is not None or usage.output_tokens is not None or total is None or row.long is not None:
        return None
    return _rounded(total * row.rates.input, row) if _flat(row.rates) else None


def _flat(rates: Rates) -> bool:
    return (
        rates.input == rates.output and rates.cached in (None, rates.input) and rates.cache_write in (None, rates.input)
    )


def _rounded(amount: int, row: PriceRow) -> Cost:
    return Cost((amount + _MILLION // 2) // _MILLION, row.currency, "price", row.id)

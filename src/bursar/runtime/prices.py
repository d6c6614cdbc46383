"""The prices of the configuration file and the store's tables, as one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bursar.prices.given import GivenCurrencyRate, GivenPrice, check_currency_rate
from bursar.prices.table import OwnPrice, Prices, file_id, own_price
from bursar.prices.vendors import Vendors
from bursar.runtime.settings import Settings
from bursar.store.registry import CurrencyRateRow, PriceRow
from bursar.types.errors import ConfigError


def prices(settings: Settings, rows: Sequence[PriceRow], rates: Sequence[CurrencyRateRow], vendors: Vendors) -> Prices:
    """A snapshot, the newest last."""
    own = [own_price(given, file_id(given)) for given in settings.prices]
    given_rates = list(settings.currency_rates)
    faults: list[str] = []
    every: list[PriceRow | CurrencyRateRow] = [*rows, *rates]
    for row in every:
        try:
            if not row.is_active:
                continue
            if isinstance(row, PriceRow):
                own.append(price_of(row))
            else:
                given_rates.append(rate_of(row))
        except (ConfigError, msgspec.ValidationError) as e:
            faults.append(f"{row.id}: {e}")  # written into the table by hand
    found = Prices(own, given_rates, vendors)
    found.faults = faults
    return found


def price_of(row: PriceRow) -> OwnPrice:
    """A row ready to be used. Raises ConfigError, ValidationError where it was not written by bursar."""
    given = msgspec.convert(
        {
            **row.rates, "model": row.model, "provider": row.provider, "provider_type": row.provider_type,
            "workspace": row.workspace, "currency": row.currency, "valid_from": row.valid_from,
        },
        GivenPrice,
        str_keys=False,
    )  # fmt: skip
    return own_price(given, row.id)


def rate_of(row: CurrencyRateRow) -> GivenCurrencyRate:
    """Likewise."""
    given = msgspec.convert({"currency": row.currency, "usd": row.usd, "valid_from": row.valid_from}, GivenCurrencyRate)
    check_currency_rate(given, row.id)
    return given

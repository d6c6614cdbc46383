"""The prices of the configuration file and the store's tables, as one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bursar.prices.given import GivenCurrencyRate, GivenPrice, check_currency_rate
from bursar.prices.table import OwnPrice, Prices, file_id, own_price
from bursar.prices.vendors import bundled
from bursar.runtime.settings import Settings
from bursar.store.registry import CurrencyRateRow, PriceRow
from bursar.types.errors import ConfigError


class OwnPrices:
    """Makes snapshots; what did not change is not read again, for there may be thousands."""

    def __init__(self, settings: Settings) -> None:
        self._vendors = bundled()
        self._file = [own_price(given, file_id(given)) for given in settings.prices]
        self._rates = settings.currency_rates
        self._known: dict[str, tuple[PriceRow, OwnPrice]] = {}

    def snapshot(self, rows: Sequence[PriceRow] = (), rates: Sequence[CurrencyRateRow] = ()) -> Prices:
        """The prices of the file and the tables over those that come with bursar. Of two that fit alike the table's
        counts, being the newer, and of those the newest. Rows that cannot be used are among its faults."""
        own, given, faults = list(self._file), list(self._rates), list[str]()
        before, self._known = self._known, {}
        for row in rows:
            if not row.is_active:
                continue
            try:
                known = before.get(row.id)
                price = known[1] if known is not None and known[0] == row else price_of(row)
            except (ConfigError, msgspec.ValidationError) as e:
                faults.append(f"{row.id}: {e}")  # written into the table by hand
                continue
            self._known[row.id] = row, price
            own.append(price)
        for rate in rates:
            try:
                given += [rate_of(rate)] if rate.is_active else []
            except (ConfigError, msgspec.ValidationError) as e:
                faults.append(f"{rate.id}: {e}")
        found = Prices(own, given, self._vendors)
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
    )  # fmt: skip
    return own_price(given, row.id)


def rate_of(row: CurrencyRateRow) -> GivenCurrencyRate:
    """Likewise."""
    given = msgspec.convert({"currency": row.currency, "usd": row.usd, "valid_from": row.valid_from}, GivenCurrencyRate)
    check_currency_rate(given, row.id)
    return given

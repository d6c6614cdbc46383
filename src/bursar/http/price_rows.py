"""Prices and currency rates as they are given and shown, in camelCase, and as they are stored."""

import uuid
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, TypeVar

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bursar.http.auth import Principal
from bursar.http.registry_rows import Name, Text
from bursar.prices.given import (
    GivenCurrencyRate,
    GivenPrice,
    GivenRates,
    check_currency_rate,
    check_price,
)
from bursar.prices.rates import PriceRow as Priced
from bursar.prices.rates import Rates, Tariff
from bursar.prices.table import file_id
from bursar.store.registry import CurrencyRateRow, PriceRow
from bursar.types.errors import ConfigError, ForbiddenError, RequestError
from bursar.wire.documents import camel

_BESIDE = ("model", "provider", "provider_type", "workspace", "currency", "valid_from")
_NANOS = Decimal(10) ** 9


def _plain(amount: Decimal) -> Decimal:
    # A number in JSON has been a float; what was written is its shortest form.
    exact = Decimal(str(amount))
    return exact.quantize(Decimal(1)) if exact == exact.to_integral_value() else exact.normalize()


Amount = Annotated[Decimal, Field(ge=0, le=1_000_000_000, decimal_places=9), AfterValidator(_plain)]
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$")]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=camel, populate_by_name=False)


class RatesGiven(_Given):
    """Amounts of the currency: for a million tokens; `webSearch`, `searchUnit` and `request` for a thousand,
    `image` for one, `audioHour` for an hour.
    What is left out costs as what it is part of: cached tokens as input, audio as text."""

    input: Amount | None = None
    output: Amount | None = None
    cached: Amount | None = None
    cache_write: Amount | None = None
    cache_write_1h: Amount | None = None
    audio_input: Amount | None = None
    audio_cached: Amount | None = None
    image_input: Amount | None = None
    image_cached: Amount | None = None
    video_input: Amount | None = None
    reasoning: Amount | None = None
    audio_output: Amount | None = None
    image_output: Amount | None = None
    video_output: Amount | None = None
    web_search: Amount | None = None
    request: Amount | None = None
    search_unit: Amount | None = None
    image: Amount | None = None
    audio_hour: Amount | None = None


class AboveGiven(RatesGiven):
    """The rates of the whole request where it has more input tokens than `tokens`."""

    tokens: Annotated[int, Field(ge=1, le=10**9)]


class TariffGiven(RatesGiven):
    """Rates, and those of long requests."""

    above: Annotated[list[AboveGiven], Field(max_length=20)] = []


class TierGiven(TariffGiven):
    """The tariff of a service tier; what is left out is as in the price."""

    tier: Name
    valid_from: date | None = None


class NewPrice(TariffGiven):
    """A price of a model, whose name may end in `*` for all that begin so: of one provider (by its name), of all
    providers of a type, or of all."""

    model: Name
    provider: Name | None = None
    provider_type: Name | None = None
    workspace: Name | None = None
    currency: Currency = "USD"
    valid_from: date | None = None
    hours: Annotated[str, Field(pattern=r"^\d\d:\d\d-\d\d:\d\d$")] | None = None
    tiers: Annotated[list[TierGiven], Field(max_length=20)] = []
    note: Text | None = None


class NewCurrencyRate(_Given):
    """What one unit of a currency is in US dollars, from a day on."""

    currency: Currency
    usd: Annotated[Decimal, Field(gt=0, le=1_000_000_000, decimal_places=12), AfterValidator(_plain)]
    valid_from: date | None = None
    note: Text | None = None


G = TypeVar("G", GivenPrice, GivenCurrencyRate)


def new_price(given: NewPrice, by: Principal, now: str) -> PriceRow:
    """A price's row. Raises RequestError that names the field, ForbiddenError."""
    if by.workspace is not None and given.workspace not in (None, by.workspace):
        raise ForbiddenError(f"this key administers the workspace '{by.workspace}' only")
    found = _converted(given, GivenPrice)
    found.workspace = given.workspace or by.workspace
    try:
        check_price(found, "the price")
    except ConfigError as e:
        raise _in_camel(e) from None
    rates = msgspec.to_builtins({n: v for n, v in msgspec.structs.asdict(found).items() if n not in _BESIDE})
    return PriceRow(
        id=str(uuid.uuid4()), workspace=found.workspace, provider=found.provider, provider_type=found.provider_type,
        model=found.model, currency=found.currency, rates=_without_nothing(rates), note=given.note, created_at=now,
        updated_at=now, valid_from=found.valid_from.isoformat() if found.valid_from is not None else None,
    )  # fmt: skip


def new_currency_rate(given: NewCurrencyRate, by: Principal, now: str) -> CurrencyRateRow:
    """A currency rate's row, likewise."""
    if by.workspace is not None:
        raise ForbiddenError("currency rates are everyone's: administrators of the installation set them")
    found = _converted(given, GivenCurrencyRate)
    try:
        check_currency_rate(found, "the rate")
    except ConfigError as e:
        raise _in_camel(e) from None
    return CurrencyRateRow(
        id=str(uuid.uuid4()), currency=found.currency, usd=f"{found.usd:f}", note=given.note, created_at=now,
        updated_at=now, valid_from=found.valid_from.isoformat() if found.valid_from is not None else None,
    )  # fmt: skip


def _converted(given: BaseModel, kind: type[G]) -> G:
    return msgspec.convert(given.model_dump(exclude_unset=True, exclude_none=True, exclude={"note"}), kind)


def _without_nothing(rates: Any) -> dict[str, Any]:
    """Without what says nothing: the defaults of what was left out."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cleaned(one) for name, one in value.items() if one not in (None, [])}
        return [cleaned(one) for one in value] if isinstance(value, list) else value

    return dict(cleaned(rates))


def _in_camel(error: ConfigError) -> RequestError:
    field = camel(error.field) if error.field else None
    text = error.message.replace(str(error.field), field) if field else error.message
    return RequestError(f"'{field}': {text}" if field else text, field=field)


def shown_price(row: PriceRow) -> dict[str, Any]:
    """A stored price as it is shown: amounts as text, for they are exact."""
    return {
        "id": row.id, "source": "table", "workspace": row.workspace, "provider": row.provider,
        "providerType": row.provider_type, "model": row.model, "currency": row.currency, "validFrom": row.valid_from,
        **_camel(row.rates), "note": row.note, "isActive": row.is_active, "createdAt": row.created_at,
        "updatedAt": row.updated_at,
    }  # fmt: skip


def shown_of_file(given: GivenPrice | GivenCurrencyRate) -> dict[str, Any]:
    """A price or a rate of the configuration file, likewise."""
    document = _without_nothing(msgspec.to_builtins(msgspec.structs.asdict(given)))
    return {"id": file_id(given), "source": "file", **_camel(document), "isActive": True}


def shown_currency_rate(row: CurrencyRateRow) -> dict[str, Any]:
    """A stored currency rate as it is shown."""
    return {"id": row.id, "source": "table", "currency": row.currency, "usd": row.usd, "validFrom": row.valid_from,
            "note": row.note, "isActive": row.is_active, "createdAt": row.created_at}  # fmt: skip


def shown_found(row: Priced) -> dict[str, Any]:
    """The price that counts, wherever it comes from."""
    begins, ends = (f"{m // 60:02}:{m % 60:02}" for m in row.hours) if row.hours is not None else ("", "")
    return {
        "id": row.id,
        "model": row.model,
        "currency": row.currency,
        "validFrom": row.valid_from.isoformat() if row.valid_from > date.min else None,
        "hours": f"{begins}-{ends}" if row.hours is not None else None,
        **_tariff(row.tariff),
        "tiers": [
            {"tier": tier.name, "validFrom": tier.valid_from.isoformat() if tier.valid_from > date.min else None,
             **_tariff(tier.tariff)}
            for tier in row.tiers
        ],
    }  # fmt: skip


def _tariff(tariff: Tariff) -> dict[str, Any]:
    return {**_amounts(tariff.rates), "above": [{"tokens": n, **_amounts(rates)} for n, rates in tariff.above]}


def _amounts(rates: Rates) -> dict[str, str]:
    given = {name: getattr(rates, name) for name in GivenRates.__struct_fields__ if hasattr(rates, name)} | rates.finer
    return {camel(name): f"{(nanos / _NANOS).normalize():f}" for name, nanos in given.items() if nanos is not None}


def _camel(document: Any) -> Any:
    if isinstance(document, dict):
        return {camel(name): _camel(value) for name, value in document.items()}
    return [_camel(value) for value in document] if isinstance(document, list) else document

"""The endpoints of prices and currency rates. A change is answered when it holds in every worker; prices, which entries
name, are never changed, only put out of use."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Query, Response

from bursar.gateway.gateway import Gateway
from bursar.http.auth import Principal
from bursar.http.plain import answer, not_found
from bursar.http.price_rows import (
    NewCurrencyRate,
    NewPrice,
    new_currency_rate,
    new_price,
    shown_currency_rate,
    shown_found,
    shown_price,
)
from bursar.ledger.ledger import now_us
from bursar.ledger.rows import timestamp
from bursar.prices.table import Place, day_of
from bursar.store.queries import Queries
from bursar.store.registry import CurrencyRateRow, PriceRow, RegistryStore
from bursar.types.errors import BursarError, ForbiddenError, RequestError

Admin = Callable[..., Principal]
_FILE = "file:"
_HOUR_US = 3_600_000_000


class PricesState:
    """What the endpoints work with."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        store: RegistryStore,
        queries: Queries,
        reload: Callable[[], Awaitable[None]],
        in_file: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    ) -> None:
        """`in_file` are the file's prices and its currency rates, as they are shown."""
        self.gateway = gateway
        self.store = store
        self.queries = queries
        self.reload = reload
        self.in_file = in_file

    async def put_out_of_use(self, row: PriceRow | CurrencyRateRow) -> None:
        await self.store.put(msgspec.structs.replace(row, is_active=False, updated_at=timestamp(now_us())))
        await self.reload()


def add_prices(app: FastAPI, state: PricesState, admin: Admin) -> None:
    """Adds the endpoints to the application."""
    _add_prices(app, state, admin)
    _add_questions(app, state, admin)
    _add_currency_rates(app, state, admin)


def _add_prices(app: FastAPI, state: PricesState, admin: Admin) -> None:
    by_admin = Depends(admin)

    @app.get("/api/prices", summary="The prices given here; those that come with bursar are found by asking for them")
    async def prices(principal: Annotated[Principal, by_admin]) -> Response:
        rows = await state.store.all(PriceRow)
        seen = [
            shown_price(r) for r in rows if principal.workspace is None or r.workspace in (None, principal.workspace)
        ]
        return answer({"prices": state.in_file[0] + seen})

    @app.post("/api/prices", status_code=201, summary="Gives a price; it is the next call's")
    async def create(given: NewPrice, principal: Annotated[Principal, by_admin]) -> Response:
        row = new_price(given, principal, timestamp(now_us()))
        await state.store.add(row)
        await state.reload()
        return answer(shown_price(row), 201)

    @app.delete("/api/prices/{price_id}", status_code=204, summary="Puts a price out of use; entries still name it")
    async def delete(price_id: str, principal: Annotated[Principal, by_admin]) -> Response:
        if price_id.startswith(_FILE):
            raise ForbiddenError(f"'{price_id}' stands in the configuration file, and is changed there")
        row = await state.store.one(PriceRow, price_id)
        if row is None or not row.is_active or principal.workspace not in (None, row.workspace):
            raise not_found(f"there is no price '{price_id}' in use that this key may change", "price_id")
        await state.put_out_of_use(row)
        return Response(status_code=204)


def _add_questions(app: FastAPI, state: PricesState, admin: Admin) -> None:
    by_admin = Depends(admin)

    @app.get("/api/prices/find", summary="The price that counts for a model of a provider, now or at a time")
    async def find(
        principal: Annotated[Principal, by_admin],
        provider: Annotated[str, Query(min_length=1, max_length=200)],
        model: Annotated[str, Query(min_length=1, max_length=200)],
        at: datetime | None = None,
        workspace: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
    ) -> Response:
        if principal.workspace is not None and workspace not in (None, principal.workspace):
            raise ForbiddenError(f"this key administers the workspace '{principal.workspace}' only")
        workspace = workspace or principal.plain.workspace
        offers = [o for o in state.gateway.registry.offers() if provider in (o.name, o.key)]
        offers = [o for o in offers if o.workspace is None or principal.workspace in (None, o.workspace)]
        if not offers:
            raise not_found(f"there is no provider '{provider}' that this key may see", "provider")
        try:
            made = state.gateway.registry.provider(offers[0])
        except BursarError as e:
            raise RequestError(f"the provider '{provider}' cannot be used: {e.message}", field="provider") from None
        place = Place(offers[0].workspace or workspace, made.name, made.type, made.url_shown, made.vendor)
        row = state.gateway.prices.find(place, model, model, _us(at))
        return answer({"provider": made.name, "model": model, "price": shown_found(row) if row is not None else None})

    @app.get("/api/prices/missing", summary="What has been used and has no price, or no rate into dollars")
    async def missing(principal: Annotated[Principal, by_admin], since: datetime | None = None) -> Response:
        models, currencies = await state.queries.without_price(principal.scope, _us(since) // _HOUR_US if since else 0)
        return answer({"models": models, "currencies": currencies})


def _us(when: datetime | None) -> int:
    if when is None:
        return now_us()
    try:
        us = int((when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp() * 1_000_000)
        day_of(us)
        return us
    except (OverflowError, ValueError, OSError):
        raise RequestError(f"{when} is no time that can be", field="at") from None


def _add_currency_rates(app: FastAPI, state: PricesState, admin: Admin) -> None:
    by_admin = Depends(admin)

    @app.get("/api/currency-rates", summary="What currencies are in US dollars, and since when")
    async def currency_rates(_admin: Annotated[Principal, by_admin]) -> Response:
        rows = await state.store.all(CurrencyRateRow)
        return answer({"currencyRates": state.in_file[1] + [shown_currency_rate(r) for r in rows]})

    @app.post("/api/currency-rates", status_code=201, summary="Gives a rate; entries made before keep theirs")
    async def create(given: NewCurrencyRate, principal: Annotated[Principal, by_admin]) -> Response:
        row = new_currency_rate(given, principal, timestamp(now_us()))
        await state.store.add(row)
        await state.reload()
        return answer(shown_currency_rate(row), 201)

    @app.delete("/api/currency-rates/{rate_id}", status_code=204, summary="Puts a rate out of use")
    async def delete(rate_id: str, principal: Annotated[Principal, by_admin]) -> Response:
        if rate_id.startswith(_FILE):
            raise ForbiddenError(f"'{rate_id}' stands in the configuration file, and is changed there")
        row = await state.store.one(CurrencyRateRow, rate_id)
        if row is None or not row.is_active:
            raise not_found(f"there is no rate '{rate_id}' in use", "rate_id")
        if principal.workspace is not None:
            raise ForbiddenError("currency rates are everyone's: administrators of the installation set them")
        await state.put_out_of_use(row)
        return Response(status_code=204)

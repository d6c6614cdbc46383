"""The endpoints of the registry: providers, routes and bindings. Every change holds here before it is answered, and in
the other workers within a second or so."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field

from bursar.gateway.gateway import Gateway
from bursar.gateway.provider import Provider
from bursar.gateway.registry import Offer
from bursar.http.auth import Principal
from bursar.http.checks import checked
from bursar.http.plain import answer, not_found
from bursar.http.registry_rows import (
    GivenBinding,
    GivenRoute,
    NewProvider,
    ProviderChange,
    Rows,
    in_documents_names,
    shown_provider,
    shown_row,
)
from bursar.store.registry import BindingRow, ConflictError, ProviderRow, RegistryStore, RouteRow
from bursar.types.call import CHAT, Context
from bursar.types.errors import (
    ConfigError,
    ForbiddenError,
    RequestError,
    UnsupportedLlmProviderError,
)
from bursar.wire import spec as specs
from bursar.wire.sample import read_sample

_FILE_ONLY = "it stands in the configuration file, and is changed there"

Admin = Callable[..., Principal]


class Tried(BaseModel):
    """A sample answer, and what shall read it: the description of a type with settings laid over it."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    provider_type: str = Field(alias="providerType", max_length=100)
    operation: str = Field(default=CHAT, max_length=100)
    request_config: dict[str, Any] = Field(default_factory=dict, alias="requestConfig")
    response_config: dict[str, Any] = Field(default_factory=dict, alias="responseConfig")
    body: str = Field(max_length=4_000_000)


class Checked(BaseModel):
    """How a provider is to be checked."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    model: str | None = Field(default=None, min_length=1, max_length=200)
    timeout_s: float = Field(default=10.0, gt=0, le=60, alias="timeoutS", allow_inf_nan=False)


class RegistryState:
    """What the endpoints work with."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        store: RegistryStore,
        rows: Rows,
        make: Callable[[ProviderRow], Provider],
        reload: Callable[[], Awaitable[None]],
        in_file: Callable[[], list[tuple[dict[str, Any], Offer]]],
        taken: Callable[[], set[str]],
    ) -> None:
        """`in_file` are the file's providers as they are shown, `taken` the names it has for everyone."""
        self.gateway = gateway
        self.store = store
        self.rows = rows
        self.make = make
        self.reload = reload
        self.in_file = in_file
        self.taken = taken

    async def provider(self, provider_id: str, by: Principal) -> ProviderRow:
        """A row this caller administers. Raises RequestError, ForbiddenError."""
        for shown, _ in self.in_file():
            if shown["id"] == provider_id:
                raise ForbiddenError(f"the provider '{shown['name']}' cannot be changed here: {_FILE_ONLY}")
        found = await self.store.one(ProviderRow, provider_id)
        if found is None or by.workspace not in (None, found.workspace):
            raise not_found(f"there is no provider '{provider_id}' that this key may change", "provider_id")
        return found

    async def put(self, row: ProviderRow | RouteRow, old: ProviderRow | RouteRow | None) -> None:
        """Stores a row, new or in place of the old one. Raises ConflictError."""
        if row.is_global and row.name in self.taken():
            raise ConflictError(f"the configuration file has '{row.name}' for everyone already", field="name")
        if old is None:
            await self.store.add(row)
        elif not await self.store.put(row):
            raise not_found(f"'{row.name}' was deleted meanwhile", "id")
        await self.reload()


def add_registry(app: FastAPI, state: RegistryState, admin: Admin) -> None:
    """Adds the endpoints to the application."""
    _add_providers(app, state, admin)
    _add_checks(app, state, admin)
    _add_routes(app, state, admin)
    _add_bindings(app, state, admin)


def _add_providers(app: FastAPI, state: RegistryState, admin: Admin) -> None:
    by_admin = Depends(admin)

    @app.get("/api/providers", summary="The providers this key sees, their secrets masked")
    async def providers(principal: Annotated[Principal, by_admin]) -> Response:
        rows = await state.store.all(ProviderRow)
        seen = [r for r in rows if principal.workspace in (None, r.workspace) or r.is_global]
        return answer({"providers": [shown for shown, _ in state.in_file()] + [shown_provider(r) for r in seen]})

    @app.get("/api/providers/{provider_id}", summary="One provider")
    async def provider(provider_id: str, principal: Annotated[Principal, by_admin]) -> Response:
        for shown, _ in state.in_file():
            if shown["id"] == provider_id:
                return answer(shown)
        found = await state.store.one(ProviderRow, provider_id)
        if found is None or not (principal.workspace in (None, found.workspace) or found.is_global):
            raise not_found(f"there is no provider '{provider_id}' that this key may see", "provider_id")
        return answer(shown_provider(found))

    @app.post("/api/providers", status_code=201, summary="Makes a provider; it serves the next call")
    async def create(given: NewProvider, principal: Annotated[Principal, by_admin]) -> Response:
        row = await asyncio.to_thread(state.rows.new, given, principal)
        await state.put(row, None)
        return answer(shown_provider(row), 201)

    @app.patch("/api/providers/{provider_id}", summary="Changes what is given, and leaves the rest")
    async def change(provider_id: str, given: ProviderChange, principal: Annotated[Principal, by_admin]) -> Response:
        old = await state.provider(provider_id, principal)
        row = await asyncio.to_thread(state.rows.changed, old, given, principal)
        await state.put(row, old)
        return answer(shown_provider(row))

    @app.post("/api/providers/{provider_id}/activate", summary="Lets calls go to it")
    async def activate(provider_id: str, principal: Annotated[Principal, by_admin]) -> Response:
        return await _set_active(state, provider_id, principal, True)

    @app.post("/api/providers/{provider_id}/deactivate", summary="Lets no call go to it any more")
    async def deactivate(provider_id: str, principal: Annotated[Principal, by_admin]) -> Response:
        return await _set_active(state, provider_id, principal, False)

    @app.delete("/api/providers/{provider_id}", status_code=204, summary="Deletes it, and its secrets with it")
    async def delete(provider_id: str, principal: Annotated[Principal, by_admin]) -> Response:
        row = await state.provider(provider_id, principal)
        if row.is_global and principal.workspace is not None:
            raise ForbiddenError("what is everyone's ('isGlobal') is for administrators of the installation to delete")
        await state.store.remove(ProviderRow, row.id)
        await state.reload()
        return Response(status_code=204)


async def _set_active(state: RegistryState, provider_id: str, principal: Principal, active: bool) -> Response:
    old = await state.provider(provider_id, principal)
    given = ProviderChange.model_validate({"isActive": active})
    row = await asyncio.to_thread(state.rows.changed, old, given, principal)
    await state.put(row, old)
    return answer(shown_provider(row))


def _add_checks(app: FastAPI, state: RegistryState, admin: Admin) -> None:
    by_admin = Depends(admin)

    @app.post("/api/providers/try", summary="What a description reads of a sample answer: text, finish, usage, error")
    def try_(tried: Tried, _admin: Annotated[Principal, by_admin]) -> Response:
        try:
            operations = specs.build(
                tried.provider_type, request=tried.request_config, response=tried.response_config
            ).operations
        except UnsupportedLlmProviderError as e:
            raise RequestError(e.message, field="providerType") from None
        except ConfigError as e:
            raise in_documents_names(e) from None
        if tried.operation not in operations:
            known = ", ".join(operations)
            raise RequestError(
                f"'{tried.provider_type}' takes no {tried.operation}; it takes: {known}", field="operation"
            )
        return answer(read_sample(operations[tried.operation], tried.body.encode("utf-8", "replace")))

    @app.post("/api/providers/{provider_id}/check", summary="A tiny call to it: whether it answers, and how fast")
    async def check(
        provider_id: str, principal: Annotated[Principal, by_admin], asked: Checked | None = None
    ) -> Response:
        asked = asked or Checked()
        provider, model = await _to_check(state, provider_id, principal)
        return answer(
            await checked(
                state.gateway, provider, asked.model or model, asked.timeout_s,
                Context(workspace=principal.plain.workspace, user=principal.user), principal.key_id,
            )
        )  # fmt: skip


async def _to_check(state: RegistryState, provider_id: str, principal: Principal) -> tuple[Provider, str | None]:
    """The provider, active or not, and the model it would be asked for."""
    for shown, offer in state.in_file():
        if shown["id"] == provider_id:
            if principal.workspace is not None:
                raise ForbiddenError(f"the provider '{shown['name']}' is checked by administrators of the installation")
            return offer.make(), offer.model or next(iter(offer.models or ()), None)
    row = await state.provider(provider_id, principal)
    try:
        made = await asyncio.to_thread(state.make, row)
    except ConfigError as e:
        raise in_documents_names(e) from None
    return made, row.model or next(iter(row.available_models or ()), None)


def _add_routes(app: FastAPI, state: RegistryState, admin: Admin) -> None:
    by_admin = Depends(admin)

    async def found(route_id: str, by: Principal) -> RouteRow:
        row = await state.store.one(RouteRow, route_id)
        if row is None or by.workspace not in (None, row.workspace):
            raise not_found(f"there is no route '{route_id}' that this key may change", "route_id")
        return row

    @app.get("/api/routes", summary="The routes this key sees")
    async def routes(principal: Annotated[Principal, by_admin]) -> Response:
        rows = await state.store.all(RouteRow)
        seen = [shown_row(r) for r in rows if principal.workspace in (None, r.workspace) or r.is_global]
        of_file = [
            {"id": f"file:{r.name}", "source": "file", "name": r.name, "isGlobal": True,
             "targets": [s.target if s.weight is None else {"target": s.target, "weight": s.weight} for s in r.steps]}
            for r in state.gateway.registry.routes() if r.workspace is None and r.name in state.taken()
        ]  # fmt: skip
        return answer({"routes": of_file + seen})

    @app.post("/api/routes", status_code=201, summary="Makes a route")
    async def create(given: GivenRoute, principal: Annotated[Principal, by_admin]) -> Response:
        row = state.rows.new_route(given, principal)
        await state.put(row, None)
        return answer(shown_row(row), 201)

    @app.put("/api/routes/{route_id}", summary="Puts another route in its place")
    async def change(route_id: str, given: GivenRoute, principal: Annotated[Principal, by_admin]) -> Response:
        old = await found(route_id, principal)
        row = state.rows.new_route(given, principal, old)
        await state.put(row, old)
        return answer(shown_row(row))

    @app.delete("/api/routes/{route_id}", status_code=204, summary="Deletes a route")
    async def delete(route_id: str, principal: Annotated[Principal, by_admin]) -> Response:
        row = await found(route_id, principal)
        if row.is_global and principal.workspace is not None:
            raise ForbiddenError("what is everyone's ('isGlobal') is for administrators of the installation to delete")
        await state.store.remove(RouteRow, row.id)
        await state.reload()
        return Response(status_code=204)


def _add_bindings(app: FastAPI, state: RegistryState, admin: Admin) -> None:
    by_admin = Depends(admin)

    def concerns(row: BindingRow) -> str | None:
        return row.reference if row.scope == "workspace" else row.workspace

    async def found(binding_id: str, by: Principal) -> BindingRow:
        row = await state.store.one(BindingRow, binding_id)
        if row is None or by.workspace not in (None, concerns(row)):
            raise not_found(f"there is no binding '{binding_id}' that this key may change", "binding_id")
        return row

    @app.get("/api/bindings", summary="What actions, skills and workspaces are served by")
    async def bindings(principal: Annotated[Principal, by_admin]) -> Response:
        rows = await state.store.all(BindingRow)
        seen = [r for r in rows if principal.workspace is None or concerns(r) in (None, principal.workspace)]
        return answer({"bindings": [shown_row(r) for r in seen]})

    @app.post("/api/bindings", status_code=201, summary="Makes a binding")
    async def create(given: GivenBinding, principal: Annotated[Principal, by_admin]) -> Response:
        row = state.rows.new_binding(given, principal)
        await state.store.add(row)
        await state.reload()
        return answer(shown_row(row), 201)

    @app.put("/api/bindings/{binding_id}", summary="Puts another binding in its place")
    async def change(binding_id: str, given: GivenBinding, principal: Annotated[Principal, by_admin]) -> Response:
        row = state.rows.new_binding(given, principal, await found(binding_id, principal))
        if not await state.store.put(row):
            raise not_found("it was deleted meanwhile", "binding_id")
        await state.reload()
        return answer(shown_row(row))

    @app.delete("/api/bindings/{binding_id}", status_code=204, summary="Deletes a binding")
    async def delete(binding_id: str, principal: Annotated[Principal, by_admin]) -> Response:
        row = await found(binding_id, principal)
        await state.store.remove(BindingRow, row.id)
        await state.reload()
        return Response(status_code=204)

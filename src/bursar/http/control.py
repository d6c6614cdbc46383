"""The control plane: calls, usage and keys, as a FastAPI application with its OpenAPI description."""

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from bursar.http.answers import error_answer
from bursar.http.auth import KeyRing, Principal, key_of, key_row, new_key
from bursar.http.plain import answer, not_found
from bursar.http.prices_api import PricesState, add_prices
from bursar.http.registry_api import RegistryState, add_registry
from bursar.store.keys import KeyStore
from bursar.store.queries import GROUPS, Queries
from bursar.types.errors import BursarError, ForbiddenError, RequestError

Status = Literal["started", "completed", "failed", "cancelled", "interrupted"]


class ErrorBody(BaseModel):
    """An error in OpenAI's shape."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    error: ErrorBody


class NewKey(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=200)
    role: Literal["admin", "member"] = "member"
    workspace: str | None = Field(default=None, min_length=1, max_length=200)
    user: str | None = Field(default=None, min_length=1, max_length=200)
    acts_for_users: bool = False


class State:
    """What the control plane works with."""

    def __init__(
        self,
        ring: KeyRing,
        keys: KeyStore,
        queries: Queries,
        registry: RegistryState,
        prices: PricesState,
        reload_keys: Callable[[], Awaitable[None]],
        version: str,
    ) -> None:
        self.ring = ring
        self.keys = keys
        self.queries = queries
        self.registry = registry
        self.prices = prices
        self.reload_keys = reload_keys
        self.version = version


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in (
        (400, "The request names something that is wrong"),
        (401, "No valid key"),
        (403, "The key lacks the right"),
        (404, "There is no such thing in this key's scope"),
        (409, "There is one of that name already"),
        (503, "The store cannot be used now"),
    )
}


class Filters:
    """The filters of a list of calls, from the query."""

    def __init__(
        self,
        model: str | None = None,
        provider: str | None = None,
        status: Status | None = None,
        method: str | None = None,
        function: str | None = None,
        user: str | None = None,
        session: str | None = None,
        purpose: str | None = None,
        request_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        final: bool | None = None,
    ) -> None:
        self.values: dict[str, object] = {
            "model": model,
            "provider": provider,
            "status": status,
            "method": method,
            "function": function,
            "user": user,
            "session": session,
            "purpose": purpose,
            "request_id": request_id,
            "since": _stored(since),
            "until": _stored(until),
            "final": final,
        }


def _stored(when: datetime | None) -> str | None:
    """A time as the store writes it; without a zone it is UTC."""
    if when is None:
        return None
    try:
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except OverflowError:
        raise RequestError(f"{when} is no time that can be", field="since") from None
    return when.strftime("%Y-%m-%d %H:%M:%S.%f")


def control_plane(state: State) -> FastAPI:
    """The application."""
    app = FastAPI(title="bursar", version=state.version, docs_url=None, redoc_url=None, responses=_ERRORS)

    def caller(request: Request) -> Principal:
        headers = dict(request.headers.raw)
        return state.ring.authenticate(headers.get(b"authorization") or key_of(headers))

    def admin(principal: Annotated[Principal, Depends(caller)]) -> Principal:
        if not principal.is_admin:
            raise ForbiddenError("this needs an admin's key")
        return principal

    _answer_errors(app)
    _add_calls(app, state, caller)
    _add_keys(app, state, admin)
    add_registry(app, state.registry, admin)
    add_prices(app, state.prices, admin)
    return app


def _add_calls(app: FastAPI, state: State, caller: Callable[..., Principal]) -> None:
    @app.get("/api/calls", summary="Entries, newest first, a page at a time")
    async def calls(
        principal: Annotated[Principal, Depends(caller)],
        filters: Annotated[Filters, Depends()],
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        cursor: str | None = None,
    ) -> Response:
        rows, following = await state.queries.calls(principal.scope, filters.values, limit=limit, cursor=cursor)
        return answer({"calls": rows, "next_cursor": following})

    @app.get("/api/calls/{call_id}", summary="One call with its attempts and their bodies")
    async def call(call_id: str, principal: Annotated[Principal, Depends(caller)]) -> Response:
        attempts = await state.queries.call(principal.scope, call_id)
        if not attempts:
            raise not_found(f"there is no call '{call_id}' among those this key may see", "call_id")
        return answer({"call_id": call_id, "attempts": attempts})

    @app.get("/api/usage", summary="Sums by group, each with the numbers of calls it misses something of")
    async def usage(
        principal: Annotated[Principal, Depends(caller)],
        group_by: Annotated[list[str], Query(description=f"any of {', '.join(GROUPS)}")] = [],  # noqa: B006
        model: str | None = None,
        provider: str | None = None,
        user: str | None = None,
        session: str | None = None,
        purpose: str | None = None,
        function: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Response:
        groups = [name for given in group_by for name in given.split(",") if name]
        if not principal.is_admin and user is not None and user != principal.user:
            raise ForbiddenError("this key may see its own user's usage only")
        filters = {
            "model": model,
            "provider": provider,
            "user": user,
            "session": session,
            "purpose": purpose,
            "function": function,
            "since": _stored(since),
            "until": _stored(until),
        }
        return answer({"group_by": groups, "usage": await state.queries.usage(principal.scope, filters, groups)})


def _add_keys(app: FastAPI, state: State, admin: Callable[..., Principal]) -> None:
    @app.get("/api/keys", summary="The keys, without the keys themselves")
    async def keys(principal: Annotated[Principal, Depends(admin)]) -> Response:
        rows = [r for r in await state.keys.all() if principal.workspace in (None, r.workspace)]
        return answer({"keys": [_key_shown(r) for r in rows]})

    @app.post("/api/keys", status_code=201, summary="Makes a key and shows it, once")
    async def create(new: NewKey, principal: Annotated[Principal, Depends(admin)]) -> Response:
        if principal.workspace is not None and new.workspace not in (None, principal.workspace):
            raise ForbiddenError(f"this key administers the workspace '{principal.workspace}' only")
        key = new_key()
        row = key_row(
            state.ring,
            key,
            id=str(uuid.uuid4()),
            name=new.name,
            role=new.role,
            workspace=new.workspace or principal.workspace,
            user=new.user,
            acts_for_users=new.acts_for_users,
            now=_stored(datetime.now(UTC)) or "",
        )
        await state.keys.add(row)
        await state.reload_keys()
        return answer({**_key_shown(row), "key": key}, 201)

    @app.delete("/api/keys/{key_id}", status_code=204, summary="Revokes a key, in every worker within a second or so")
    async def revoke(key_id: str, principal: Annotated[Principal, Depends(admin)]) -> Response:
        rows = {r.id: r for r in await state.keys.all()}
        row = rows.get(key_id)
        if row is None or principal.workspace not in (None, row.workspace) or row.revoked_at is not None:
            raise not_found(f"there is no live key '{key_id}'", "key_id")
        await state.keys.revoke(key_id, _stored(datetime.now(UTC)) or "")
        await state.reload_keys()
        return Response(status_code=204)


def _key_shown(row: Any) -> dict[str, object]:
    shown = msgspec.structs.asdict(row)
    shown.pop("digest")
    shown["hint"] = f"…{row.hint}"
    return shown


def _answer_errors(app: FastAPI) -> None:
    """Every error leaves in the same shape as those of the data plane."""

    def answered(error: BursarError) -> Response:
        status, body, headers = error_answer(error)
        answer = Response(body, status_code=status, media_type="application/json")
        for name, value in headers:
            answer.headers[name.decode()] = value.decode()
        return answer

    @app.exception_handler(BursarError)
    async def ours(_request: Request, error: BursarError) -> Response:
        return answered(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return answered(RequestError(f"'{field}': {first['msg']}", field=field))

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> Response:
        wrong = RequestError(str(error.detail))
        wrong.http_status = error.status_code
        wrong.code = "not_found" if error.status_code == 404 else "invalid_request"
        return answered(wrong)

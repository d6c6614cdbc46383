"""Providers, routes and bindings as they are given and shown, in the documents' names, and as they are stored."""

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bursar.gateway.registry import AUTO
from bursar.http.auth import Principal
from bursar.store.registry import BindingRow, ProviderRow, RouteRow
from bursar.store.vault import Vault
from bursar.types.errors import ConfigError, ForbiddenError, RequestError, UnsupportedLlmProviderError
from bursar.wire.documents import MASK, camel, documents_name, is_secret_name, masked, unmasked
from bursar.wire.spec import default_type

_ADDRESSES = ("baseUrl", "completionUrl", "embeddingUrl", "tokenUrl")
# What decides who gets to see the secrets.
_LEADS = (*_ADDRESSES, "proxy", "caBundle", "allowSelfSignedCertificate", "location", "project", "providerType")
_COLUMNS = {camel(name): name for name in ProviderRow.__struct_fields__ if name not in ("settings", "secret_values")}
_NOT_OURS = frozenset({"id", "workspaceId", "createdAt", "updatedAt", "workspace"})


def _clean(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("has half a character in it (a lone surrogate)") from None
    if "\x00" in text:
        raise ValueError("has a NUL in it")
    return text


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has a line end or another control character in it")
    return text


Text = Annotated[str, Field(max_length=20_000), AfterValidator(_clean)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_clean), AfterValidator(_one_line)]
Url = Annotated[str, Field(max_length=2_000), AfterValidator(_clean), AfterValidator(_one_line)]
Seconds = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=camel, populate_by_name=False)

    def document(self) -> dict[str, Any]:
        """What was given, by the documents' names."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class ProviderChange(_Given):
    """What a provider shall be from now on; what is left out stays as it is, `***` too. The names are the documents';
    rows of theirs load as they are, so `id`, `workspaceId`, `createdAt` and `updatedAt` may be there."""

    # The file's have a ":" in theirs.
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")] | None = None
    name: Annotated[Name, Field(pattern="^[^/]+$")] = ""
    provider_type: Name | None = None
    workspace: Name | None = None
    workspace_id: Name | None = None
    base_url: Url | None = None
    completion_url: Url | None = None
    embedding_url: Url | None = None
    token_url: Url | None = None
    authorization_key: Text | None = None
    scope: Text | None = None
    model: Name | None = None
    available_models: list[Name] | None = None
    request_headers: dict[str, Text] | None = None
    request_config: dict[str, Any] | None = None
    response_config: dict[str, Any] | None = None
    auth_config: dict[str, Any] | None = None
    is_active: bool = True
    is_global: bool = False
    allow_self_signed_certificate: bool = False
    ca_bundle: Annotated[str, Field(max_length=1_000_000), AfterValidator(_clean)] | None = None
    created_at: Any = None
    updated_at: Any = None

    project: Name | None = None
    location: Name | None = None
    access_key_id: Text | None = None
    secret_access_key: Text | None = None
    session_token: Text | None = None
    service_account: Text | None = None
    profile: Name | None = None
    default_credentials: bool | None = None
    vendor: Name | None = None
    include_usage: bool | None = None
    on_disconnect: Literal["cancel", "finish"] | None = None
    timeout_connect_s: Seconds | None = None
    timeout_first_byte_s: Seconds | None = None
    timeout_chunk_s: Seconds | None = None
    timeout_total_s: Seconds | None = None
    finish_max_s: Seconds | None = None
    retries: Annotated[int, Field(ge=0, le=100)] | None = None
    max_concurrent: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_wait_s: Seconds | None = None
    cool_down_after: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    cool_down_s: Seconds | None = None
    proxy: Url | None = None
    http2: bool | None = None


class NewProvider(ProviderChange):
    """A provider to be made. A `providerType` that is left out is the documents' default."""

    name: Annotated[Name, Field(pattern="^[^/]+$")]


class WeightedTarget(_Given):
    """A target that shares calls with its neighbours, as its weight says."""

    target: Name
    weight: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]


class GivenRoute(_Given):
    """An alias for targets in order of fallback."""

    name: Name
    targets: Annotated[list[Name | WeightedTarget], Field(min_length=1, max_length=100)]
    workspace: Name | None = None
    is_global: bool = False


class GivenBinding(_Given):
    """What serves an action, a skill or a workspace of that `reference`, or whatever nothing else is said of."""

    scope: Literal["action", "skill", "workspace", "default"]
    reference: Annotated[str, Field(max_length=200), AfterValidator(_clean), AfterValidator(_one_line)] = ""
    workspace: Name | None = None
    provider: Name
    model: Name | None = None
    system_prompt: Text | None = None
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None


OWN_SETTINGS = tuple(
    camel(name) for name in ProviderChange.model_fields if camel(name) not in _COLUMNS and camel(name) not in _NOT_OURS
)
"""The settings that have no column of their own."""


class Rows:
    """What is stored of what is given."""

    def __init__(self, vault: Vault, check: Callable[[ProviderRow], None], now: Callable[[], str]) -> None:
        """`check` raises what is wrong with a row, `now` is the time as the store writes it."""
        self._vault = vault
        self._check = check
        self._now = now

    def new(self, given: NewProvider, by: Principal) -> ProviderRow:
        """A new row. Raises RequestError that names the field, ForbiddenError."""
        document = given.document()
        workspace = _workspace(document, by)
        row_id = document.get("id") or str(uuid.uuid4())
        empty = ProviderRow(
            id=row_id, workspace=workspace, name="", provider_type=default_type(), created_at=self._now()
        )
        return self._laid_over(empty, document, by, guarded=by.workspace is not None)

    def changed(self, old: ProviderRow, given: ProviderChange, by: Principal) -> ProviderRow:
        """The row with what is given laid over it. Raises as `new` does."""
        document = given.document()
        if "name" in document and not document["name"]:
            raise RequestError("'name' must not be empty", field="name")
        if document.get("workspace") not in (None, old.workspace):
            raise RequestError("'workspace' cannot be changed: make another provider there", field="workspace")
        guarded, shown = old.is_guarded, shown_provider(old)
        sets_address = any(name in document and document[name] != shown.get(name) for name in _ADDRESSES)
        if by.workspace is not None:
            guarded = guarded or sets_address
            self._refuse_to_lead_elsewhere(old, document)
        elif sets_address:
            guarded = False
        return self._laid_over(old, document, by, guarded=guarded)

    def _refuse_to_lead_elsewhere(self, old: ProviderRow, document: Mapping[str, Any]) -> None:
        """A stored secret is not sent to an address that somebody else sets: they would get to see it."""
        shown = shown_provider(old)
        leads = [name for name in _LEADS if name in document and document[name] != shown.get(name)]
        new_key = document.get("authorizationKey", MASK) != MASK or old.authorization_key is None
        if leads and not (new_key and old.secret_values is None):
            raise RequestError(
                f"'{leads[0]}' decides who gets to see the provider's secrets: an administrator of the installation "
                "may change it; or make a new provider, with its own key",
                field=leads[0],
            )

    def _laid_over(self, old: ProviderRow, document: dict[str, Any], by: Principal, *, guarded: bool) -> ProviderRow:
        if (document.get("isGlobal") or old.is_global) and by.workspace is not None:
            raise ForbiddenError("what is everyone's ('isGlobal') is for administrators of the installation to change")
        whole = _document_of(old) | {k: v for k, v in document.items() if k not in _NOT_OURS}
        whole["providerType"] = whole.get("providerType") or old.provider_type
        for name in ("isActive", "isGlobal", "allowSelfSignedCertificate"):
            whole[name] = bool(whole.get(name))
        _check_texts(whole)
        key, sealed = whole.pop("authorizationKey", None), old.authorization_key
        if key is None and "authorizationKey" in document:
            sealed = None
        elif key is not None and key != MASK:
            sealed = self._vault.seal(old.id, {"authorizationKey": key})
        elif key == MASK and sealed is None:
            raise RequestError("'authorizationKey' is masked, and none is stored: write the key itself",
                               field="authorizationKey")  # fmt: skip
        whole["settings"] = {name: whole.pop(name) for name in OWN_SETTINGS if whole.get(name) is not None}
        shown, secrets = masked(unmasked(whole, self._vault.open(old.id, old.secret_values)))
        for at, value in secrets.items():
            if value == MASK:
                field = at.removeprefix("/settings").strip("/").replace("/", ".")
                raise RequestError(f"'{field}' is masked, and none is stored: write the value itself", field=field)
        columns = {ours: shown[theirs] for theirs, ours in _COLUMNS.items() if theirs in shown}
        row = msgspec.structs.replace(
            old,
            **{**columns, "id": old.id, "workspace": old.workspace, "created_at": old.created_at},
            authorization_key=sealed,
            settings=shown["settings"] or None,
            secret_values=self._vault.seal(old.id, secrets),
            is_guarded=guarded,
            updated_at=self._now(),
        )
        try:
            self._check(row)
        except UnsupportedLlmProviderError as e:
            raise RequestError(f"'providerType': {e.message}", field="providerType") from None
        except ConfigError as e:
            raise in_documents_names(e) from None
        return row

    def new_route(self, given: GivenRoute, by: Principal, old: RouteRow | None = None) -> RouteRow:
        """A route's row, in place of another one or new. Raises RequestError, ForbiddenError."""
        document = given.document()
        workspace = old.workspace if old is not None else _workspace(document, by)
        is_global = bool(document.get("isGlobal"))
        if (is_global or (old is not None and old.is_global)) and by.workspace is not None:
            raise ForbiddenError("what is everyone's ('isGlobal') is for administrators of the installation to change")
        if given.name == AUTO:
            raise RequestError(f"'{AUTO}' leaves the choice to bindings: name the route otherwise", field="name")
        return RouteRow(
            id=old.id if old is not None else str(uuid.uuid4()),
            workspace=workspace,
            name=given.name,
            targets=document["targets"],
            is_global=is_global,
            created_at=old.created_at if old is not None else self._now(),
            updated_at=self._now(),
        )

    def new_binding(self, given: GivenBinding, by: Principal, old: BindingRow | None = None) -> BindingRow:
        """A binding's row, likewise."""
        if (given.scope == "default") != (not given.reference):
            raise RequestError(
                "'reference' names the action, the skill or the workspace; the default has none", field="reference"
            )
        if given.scope == "workspace" and given.workspace not in (None, given.reference):
            raise RequestError("'workspace' is said by the reference: leave it out", field="workspace")
        workspace = None if given.scope == "workspace" else given.workspace or by.workspace
        concerned = given.reference if given.scope == "workspace" else workspace
        if by.workspace is not None and concerned != by.workspace:
            raise ForbiddenError(f"this key administers the workspace '{by.workspace}' only")
        return BindingRow(
            id=old.id if old is not None else str(uuid.uuid4()),
            workspace=workspace,
            scope=given.scope,
            reference=given.reference,
            provider=given.provider,
            model=given.model,
            system_prompt=given.system_prompt,
            temperature=given.temperature,
            top_p=given.top_p,
            max_tokens=given.max_tokens,
            created_at=old.created_at if old is not None else self._now(),
            updated_at=self._now(),
        )


def shown_provider(row: ProviderRow) -> dict[str, Any]:
    """A row as it is shown: secrets masked, the others by the documents' names."""
    shown = _document_of(row)
    return {
        "id": row.id,
        "source": "table",
        "workspace": row.workspace,
        **shown,
        "isGuarded": row.is_guarded,
        "createdAt": row.created_at,
        "updatedAt": row.updated_at,
    }


def shown_row(row: RouteRow | BindingRow) -> dict[str, Any]:
    """A route or a binding as it is shown."""
    return {camel(name): getattr(row, name) for name in row.__struct_fields__}


def in_documents_names(error: ConfigError) -> RequestError:
    """What is wrong with a provider's settings, by the names the documents have for them."""
    field = error.field
    if field is None:
        return RequestError(error.message)
    theirs = field if field in _COLUMNS or field in OWN_SETTINGS else documents_name(field)
    # Without the place, which is this request; with their name for ours.
    text = re.sub(r"^provider '[^']*'(?:\.\w+)?(?:, \w+)?: ", "", error.message)
    text = re.sub(rf"\b{re.escape(field)}\b", theirs, text)
    return RequestError(f"'{theirs}': {text}", field=theirs)


def _document_of(row: ProviderRow) -> dict[str, Any]:
    """A row by the documents' names, masked."""
    document = {theirs: getattr(row, ours) for theirs, ours in _COLUMNS.items() if theirs not in _NOT_OURS}
    document.pop("isGuarded")
    document["authorizationKey"] = MASK if row.authorization_key is not None else None
    return {**document, **(row.settings or {})}


def _workspace(document: Mapping[str, Any], by: Principal) -> str:
    """Whose it is."""
    given = document.get("workspace") or document.get("workspaceId")
    if by.workspace is not None and given not in (None, by.workspace):
        raise ForbiddenError(f"this key administers the workspace '{by.workspace}' only")
    return given or by.plain.workspace


def _check_texts(document: Mapping[str, Any]) -> None:
    """What a file may do and a row may not: name secrets of this machine, or hold them in addresses."""
    for name in _ADDRESSES:
        url = document.get(name)
        if not isinstance(url, str):
            continue
        try:
            parts = urlsplit(url)
            has_user = parts.username is not None or parts.password is not None
            query = parse_qsl(parts.query, keep_blank_values=True)
        except ValueError:
            raise RequestError(f"'{name}' is no http:// or https:// address", field=name) from None
        if has_user or any(is_secret_name(key) for key, _ in query):
            raise RequestError(
                f"'{name}' has a secret in it, and addresses are shown: send it in requestHeaders", field=name
            )
    for name in ("authorizationKey", "requestHeaders", "proxy", "secretAccessKey", "accessKeyId", "caBundle",
                 "serviceAccount"):  # fmt: skip
        value = document.get(name)
        for text in value.values() if isinstance(value, dict) else [value]:
            if isinstance(text, str) and text.startswith(("env:", "file:")):
                raise RequestError(
                    f"'{name}': env: and file: name secrets in the configuration file only; write the value itself",
                    field=name,
                )
    for name in ("requestConfig", "responseConfig", "authConfig", "requestHeaders"):
        try:
            msgspec.json.encode(document.get(name))
        except (UnicodeEncodeError, ValueError, RecursionError):
            raise RequestError(f"'{name}' has something in it that cannot be written as JSON", field=name) from None

"""Settings into the registry a call is resolved against."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bursar.gateway.credentials import Credential
from bursar.gateway.registry import Provider, Registry, Timeouts
from bursar.gateway.signing import Signature
from bursar.runtime.settings import ProviderSettings, Settings, secret
from bursar.types.errors import ConfigError
from bursar.wire import spec as specs
from bursar.wire.headers import fault_of
from bursar.wire.oauth import Flow
from bursar.wire.readers import Endpoint, Readers
from bursar.wire.spec import AuthSpec, OperationSpec, Spec

# The version of an API, where its address ends with one; what leads from there to another.
_VERSION = re.compile(r"/(v\d+)(?:/chat/completions)?/?$")
_UP = re.compile(r"/[^/]+/\.\./")
_NAME = re.compile(r"[A-Za-z0-9._:-]*\Z")
_PROXIES = ("http://", "https://", "socks5://", "socks5h://")
_ALWAYS_SECRET = frozenset({"authorization", "proxy-authorization", "x-api-key", "api-key", "cookie"})


def registry(settings: Settings, environ: Mapping[str, str]) -> Registry:
    """The registry of these settings. Where they name no provider there is `demo`, and `openai` where
    `OPENAI_API_KEY` is set. Raises ConfigError, UnsupportedLlmProviderError."""
    given = settings.providers or _without_configuration(environ)
    providers = {p.name: _provider(p, environ) for p in given if p.active}
    for route in settings.routes:
        if route.name in providers:
            raise ConfigError(f"route '{route.name}': a provider has this name already")
    made = Registry(providers=providers, routes={r.name: tuple(r.targets) for r in settings.routes})
    for route in settings.routes:
        for target in route.targets:
            if target in made.routes:
                raise ConfigError(f"route '{route.name}': the target '{target}' is a route; name models")
            if target.partition("/")[0] not in providers:
                known = ", ".join(providers)
                raise ConfigError(
                    f"route '{route.name}': the target '{target}' begins with no provider; there are {known}"
                )
    return made


def _without_configuration(environ: Mapping[str, str]) -> list[ProviderSettings]:
    given = [ProviderSettings(name="demo", type="demo", models=["demo", "demo-embedding"])]
    if environ.get("OPENAI_API_KEY"):
        given.append(ProviderSettings(name="openai", type="openai", api_key="env:OPENAI_API_KEY"))
    return given


def _provider(given: ProviderSettings, environ: Mapping[str, str]) -> Provider:
    place = f"provider '{given.name}'"
    version = _VERSION.search(given.completion_url or given.base_url or "")
    spec = specs.build(
        given.type, version=version and version[1], request=given.request, response=given.response, place=place
    )
    operations = spec.operations
    base = (given.base_url if given.base_url is not None else _base_url(spec, given, place)).rstrip("/")
    if not base and not given.completion_url:
        raise ConfigError(f"{place}: base_url is missing")
    own_urls = {"chat": given.completion_url, "embeddings": given.embedding_url}
    endpoints = {
        name: _endpoint(found, base, own_urls.get(name), given)
        for name, found in operations.items()
        if base or own_urls.get(name)
    }
    for endpoint in endpoints.values():
        if spec.transport == "http" and not endpoint.url.startswith(("http://", "https://")):
            raise ConfigError(f"{place}: '{endpoint.url}' is no http:// or https:// address")
    headers = {**spec.headers}
    headers |= {k.lower(): secret(v, environ, f"{place}, header {k}") for k, v in given.headers.items()}
    for name, value in headers.items():
        if fault := fault_of(name, value):
            raise ConfigError(f"{place}: {fault}")
    secret_headers = {k.lower() for k, v in given.headers.items() if v.startswith(("env:", "file:"))}
    if spec.auth.scheme != "oauth" and (given.token_url is not None or given.scope is not None):
        raise ConfigError(f"{place}: the type '{given.type}' fetches no tokens: leave token_url and scope out")
    credential = None
    key = secret(given.api_key, environ, f"{place}, api_key") if given.api_key is not None else None
    if spec.auth.scheme == "oauth":
        if key is None:
            raise ConfigError(f"{place}: api_key is missing: it is the authorization key that tokens are fetched with")
        credential = Credential(given.name, _flow(spec.auth, given, key, place))
    elif key is not None:
        name = spec.auth.header.lower()
        if spec.auth.scheme != "none":
            headers[name] = f"Bearer {key}" if spec.auth.scheme == "bearer" else f"{spec.auth.prefix}{key}"
            secret_headers.add(name)
    pair = _key_pair(spec.auth, given, environ, place)
    return Provider(
        name=given.name,
        type=given.type,
        endpoints=endpoints,
        headers=tuple(headers.items()),
        secret_headers=_ALWAYS_SECRET | secret_headers,
        secrets=_secrets(headers, _ALWAYS_SECRET | secret_headers, key, *(pair[1:] if pair is not None else ())),
        credential=credential,
        signature=_signature(spec, given, pair, place) if pair is not None else None,
        models=tuple(given.models) if given.models is not None else None,
        on_disconnect=given.on_disconnect,
        timeouts=Timeouts(
            connect_s=given.timeout_connect_s,
            first_byte_s=given.timeout_first_byte_s,
            chunk_s=given.timeout_chunk_s,
            total_s=given.timeout_total_s,
            finish_max_s=given.finish_max_s,
        ),
        retries=given.retries,
        transport=f"library {given.name}" if given.proxy or given.http2 else spec.transport,
        proxy=_proxy(given.proxy, environ, place),
        http2=given.http2,
    )


def _base_url(spec: Spec, given: ProviderSettings, place: str) -> str:
    """The type's own address, for the location and the project that are given."""
    if given.location is None:
        if given.project is not None:
            raise ConfigError(f"{place}: project needs a location")
        return spec.base_url or ""
    template = spec.base_urls.get(given.location) or spec.base_urls.get("*")
    if template is None:
        raise ConfigError(f"{place}: the type '{given.type}' knows no locations")
    if "{project}" in template and not given.project:
        raise ConfigError(f"{place}: location needs a project")
    for name, value in (("location", given.location), ("project", given.project or "")):
        if not _NAME.match(value):
            raise ConfigError(f"{place}: {name} is no name: '{value}'")
    return template.replace("{location}", given.location).replace("{project}", given.project or "")


def _endpoint(spec: OperationSpec, base: str, own_url: str | None, given: ProviderSettings) -> Endpoint:
    url = own_url or _UP.sub("/", base + spec.url)
    stream_url = url if own_url or spec.stream_url is None else base + spec.stream_url
    asks = spec.request.include_usage
    if asks is not None and given.include_usage is not None:
        asks = given.include_usage
    return Endpoint(spec, Readers(spec), url, stream_url, asks is True)


def _proxy(given: str | None, environ: Mapping[str, str], place: str) -> str | None:
    """The address of a proxy; it may hold a password, and so be named as secrets are."""
    if given is None:
        return None
    address = secret(given, environ, f"{place}, proxy")
    if not address.startswith(_PROXIES):
        raise ConfigError(f"{place}: proxy must begin with {', '.join(_PROXIES)}")
    return address


def _flow(auth: AuthSpec, given: ProviderSettings, key: str, place: str) -> Flow:
    url = given.token_url or auth.token_url
    if url is None or not url.startswith(("http://", "https://")):
        raise ConfigError(f"{place}: token_url must be an http:// or https:// address")
    scope = given.scope if given.scope is not None else auth.scope
    return Flow(url=url, key=key, scope=scope, fields=auth.fields, request_id_header=auth.request_id_header)


def _key_pair(
    auth: AuthSpec, given: ProviderSettings, environ: Mapping[str, str], place: str
) -> tuple[str, str, str | None] | None:
    """The pair of keys that requests are signed with, and the token of their session."""
    names = ("access_key_id", "secret_access_key", "session_token")
    values = {name: getattr(given, name) for name in names}
    if not any(values.values()):
        return None
    if auth.signs_for is None:
        raise ConfigError(f"{place}: the type '{given.type}' signs nothing: leave {', '.join(names)} out")
    if given.api_key is not None:
        raise ConfigError(f"{place}: give an api_key or a pair of keys, not both")
    key_id, secret_key, session = (
        secret(value, environ, f"{place}, {name}") if value is not None else None for name, value in values.items()
    )
    if key_id is None or secret_key is None:
        raise ConfigError(f"{place}: access_key_id and secret_access_key go together")
    return key_id, secret_key, session


def _signature(spec: Spec, given: ProviderSettings, pair: tuple[str, str, str | None], place: str) -> Signature:
    if given.location is None:
        raise ConfigError(f"{place}: location is missing: requests are signed for a region")
    try:
        return Signature(
            key_id=pair[0], secret=pair[1], session_token=pair[2], region=given.location,
            service=spec.auth.signs_for or "",
        )  # fmt: skip
    except ConfigError as e:
        raise ConfigError(f"{place}: {e.message}") from None


def _secrets(headers: Mapping[str, str], secret_headers: frozenset[str], *keys: str | None) -> tuple[str, ...]:
    """The secret values themselves, longest first; too short ones would mask half of any text."""
    values = {value.removeprefix("Bearer ") for name, value in headers.items() if name in secret_headers}
    values |= {key for key in keys if key is not None}
    return tuple(sorted((v for v in values if len(v) >= 8), key=len, reverse=True))

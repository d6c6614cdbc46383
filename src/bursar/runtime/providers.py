"""A provider's settings, wherever they stand, into a provider ready to be called."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from bursar.gateway.credentials import ClientCredentials, Credential, Source
from bursar.gateway.google import GoogleSource
from bursar.gateway.provider import CoolDown, Provider, Timeouts, shown_url
from bursar.gateway.signing import ChainSignature, Signature, Signer
from bursar.net.tls import context_of
from bursar.net.transport import Reach
from bursar.prices.vendors import vendor_ids
from bursar.runtime.backends import fault_of as fault_in_process
from bursar.runtime.settings import ProviderSettings, check_provider
from bursar.types.errors import ConfigError
from bursar.wire import spec as specs
from bursar.wire.documents import is_secret_name, secret_texts
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


Resolver = Callable[[str, str], str]
"""What a value of the settings means: itself, or what it names; and where it stands, for what is wrong with it."""


def literally(value: str, _place: str) -> str:
    """A value that is what it says."""
    return value


def provider(
    given: ProviderSettings,
    resolved: Resolver,
    *,
    key: str,
    is_row: bool = False,
    guarded: bool = False,
    before: Provider | None = None,
) -> Provider:
    """The provider of these settings; `key` tells it from all others. A `guarded` one does not lead into private
    networks. The token of the one it was `before` is kept where it is still fetched from the same place.

    Raises ConfigError with the field's name, UnsupportedLlmProviderError.
    """
    place = f"provider '{given.name}'"
    check_provider(given, place)
    version = _VERSION.search(given.completion_url or given.base_url or "")
    spec = specs.build(
        given.type, version=version and version[1], request=given.request, response=given.response, auth=given.auth,
        place=place,
    )  # fmt: skip
    if wrong := fault_in_process(given, spec.transport, is_row=is_row, guarded=guarded):
        raise ConfigError(f"{place}: {wrong[0]}", field=wrong[1])
    if given.vendor is not None and given.vendor not in (known := vendor_ids()):
        raise ConfigError(f"{place}: vendor '{given.vendor}' is none of {', '.join(known)}", field="vendor")
    headers = {**spec.headers}
    headers |= {k.lower(): resolved(v, f"{place}, header {k}") for k, v in given.headers.items()}
    for name, value in headers.items():
        if fault := fault_of(name, value):
            raise ConfigError(f"{place}: {fault}", field="headers")
    secret_headers = {
        k.lower() for k, v in given.headers.items() if is_secret_name(k) or v.startswith(("env:", "file:"))
    }
    given, google = _of_google(spec.auth, given, resolved, guarded, place)
    fetches = spec.auth.scheme == "oauth" or (spec.auth.fetches and given.token_url is not None)
    for name in ("token_url", "scope"):
        if not fetches and getattr(given, name) is not None:
            raise ConfigError(f"{place}: the type '{given.type}' fetches no tokens: leave {name} out", field=name)
    credential = _credential(given, google, before) if google is not None else None
    key_value = resolved(given.api_key, f"{place}, api_key") if given.api_key is not None else None
    if fetches:
        if key_value is None:
            raise ConfigError(
                f"{place}: api_key is missing: it is the authorization key that tokens are fetched with",
                field="api_key",
            )
        credential = _credential(given, ClientCredentials(_flow(spec.auth, given, key_value, place)), before)
    elif key_value is not None:
        name = spec.auth.header.lower()
        if spec.auth.scheme != "none":
            shown = f"Bearer {key_value}" if spec.auth.scheme == "bearer" else f"{spec.auth.prefix}{key_value}"
            if fault := fault_of(name, shown):
                raise ConfigError(f"{place}: {fault}", field="api_key")
            headers[name] = shown
            secret_headers.add(name)
    pair = _key_pair(spec.auth, given, resolved, place)
    secrets = (
        key_value,
        resolved(given.service_account, place) if given.service_account is not None else None,
        *(pair[1:] if pair is not None else ()),
        *secret_texts(given.request.get("additionalBodyFields")),
    )
    return Provider(
        key=key,
        name=given.name,
        type=given.type,
        endpoints=_endpoints(spec, given, place),
        headers=tuple(headers.items()),
        secret_headers=_ALWAYS_SECRET | secret_headers,
        secrets=_secrets(headers, _ALWAYS_SECRET | secret_headers, *secrets),
        credential=credential,
        signature=_signature(spec, given, pair, guarded, place),
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
        cool_down=CoolDown(after=given.cool_down_after, for_s=given.cool_down_s),
        max_concurrent=given.max_concurrent,
        max_wait_s=given.max_wait_s,
        reach=_reach(spec, given, resolved, guarded, place),
        vendor=given.vendor,
    )


def _credential(given: ProviderSettings, source: Source, before: Provider | None) -> Credential:
    if before is not None and before.credential is not None and before.credential.source == source:
        return before.credential
    return Credential(given.name, source)


def _endpoints(spec: Spec, given: ProviderSettings, place: str) -> dict[str, Endpoint]:
    operations = spec.operations
    base = _base_url(spec, given, place).rstrip("/")
    if not base and not given.completion_url:
        raise ConfigError(f"{place}: base_url is missing", field="base_url")
    own_urls = {"chat": given.completion_url, "embeddings": given.embedding_url}
    for name in ("base_url", "completion_url", "embedding_url"):
        url = getattr(given, name)
        if spec.transport == "http" and url is not None and (fault := _fault_of_url(url)):
            raise ConfigError(f"{place}: {name} '{shown_url(url)}' {fault}", field=name)
    return {
        name: _endpoint(found, base, own_urls.get(name), given)
        for name, found in operations.items()
        if base or own_urls.get(name)
    }


def _fault_of_url(url: str) -> str | None:
    """What is wrong with an address; None where nothing is."""
    try:
        parts = urlsplit(url)
        named = parts.hostname and parts.port != 0
    except ValueError:
        named = False
    if not url.startswith(("http://", "https://")) or not named or not url.isascii() or not url.isprintable():
        return "is no http:// or https:// address"
    if " " in url:
        return "has a space in it"
    return None


def _base_url(spec: Spec, given: ProviderSettings, place: str) -> str:
    """The address that is given; else the one that a full address of chats begins with; else the type's own, for the
    location and the project that are given."""
    for name in ("location", "project"):
        if getattr(given, name) is not None and not spec.base_urls:
            raise ConfigError(f"{place}: the type '{given.type}' knows no locations", field=name)
    if given.base_url is not None:
        return given.base_url
    if given.completion_url is not None and spec.chat is not None:
        begin, end = given.completion_url.removesuffix(spec.chat.url), spec.chat.url
        return begin if given.completion_url.endswith(end) else ""
    if given.location is None:
        if given.project is not None:
            raise ConfigError(f"{place}: project needs a location", field="project")
        return spec.base_url or ""
    template = spec.base_urls.get(given.location) or spec.base_urls.get("*")
    if template is None:
        raise ConfigError(f"{place}: the type '{given.type}' knows no locations", field="location")
    if "{project}" in template and not given.project:
        raise ConfigError(f"{place}: location needs a project", field="project")
    for name, value in (("location", given.location), ("project", given.project or "")):
        if not _NAME.match(value):
            raise ConfigError(f"{place}: {name} is no name: '{value}'", field=name)
    return template.replace("{location}", given.location).replace("{project}", given.project or "")


def _endpoint(spec: OperationSpec, base: str, own_url: str | None, given: ProviderSettings) -> Endpoint:
    url = own_url or _UP.sub("/", base + spec.url)
    stream_url = url if own_url or spec.stream_url is None else base + spec.stream_url
    asks = spec.request.include_usage
    if asks is not None and given.include_usage is not None:
        asks = given.include_usage
    return Endpoint(spec, Readers(spec), url, stream_url, asks is True)


def _reach(spec: Spec, given: ProviderSettings, resolved: Resolver, guarded: bool, place: str) -> Reach:
    """How it is reached. A proxy's address may hold a password, and so be named as secrets are."""
    proxy = resolved(given.proxy, f"{place}, proxy") if given.proxy is not None else None
    if proxy is not None and not proxy.startswith(_PROXIES):
        raise ConfigError(f"{place}: proxy must begin with {', '.join(_PROXIES)}", field="proxy")
    if guarded and (proxy is not None or given.http2):
        field = "proxy" if proxy is not None else "http2"
        raise ConfigError(f"{place}: {field} is for administrators of the installation to set", field=field)
    ca = resolved(given.ca_bundle, f"{place}, ca_bundle") if given.ca_bundle is not None else None
    if ca is not None:
        try:
            context_of(ca)
        except (ValueError, OSError) as e:
            raise ConfigError(f"{place}: ca_bundle cannot be read: {e}", field="ca_bundle") from None
    return Reach(kind=spec.transport, backend=given.backend, proxy=proxy, http2=given.http2, ca=ca,
                 any_certificate=given.allow_self_signed_certificate, guarded=guarded)  # fmt: skip


def _flow(auth: AuthSpec, given: ProviderSettings, key: str, place: str) -> Flow:
    url = given.token_url or auth.token_url
    if url is None or _fault_of_url(url):
        raise ConfigError(f"{place}: token_url must be an http:// or https:// address", field="token_url")
    in_body = auth.client_auth == "body"
    if in_body and ":" not in key:
        raise ConfigError(f"{place}: with clientAuth = 'body' api_key is written as 'id:secret'", field="api_key")
    if not in_body and (fault := fault_of("authorization", key)):
        raise ConfigError(f"{place}: {fault}", field="api_key")
    return Flow(
        url=url, key=key, scope=given.scope if given.scope is not None else auth.scope, fields=auth.fields,
        request_id_header=auth.request_id_header, in_body=in_body, token_path=auth.token,
        expires_at_path=auth.expires_at, expires_in_path=auth.expires_in,
    )  # fmt: skip


def _key_pair(
    auth: AuthSpec, given: ProviderSettings, resolved: Resolver, place: str
) -> tuple[str, str, str | None] | None:
    """The pair of keys that requests are signed with, and the token of their session."""
    names = ("access_key_id", "secret_access_key", "session_token")
    values = {name: getattr(given, name) for name in names}
    if not any(values.values()):
        return None
    if auth.signs_for is None:
        raise ConfigError(
            f"{place}: the type '{given.type}' signs nothing: leave {', '.join(names)} out", field="access_key_id"
        )
    if given.api_key is not None:
        raise ConfigError(f"{place}: give an api_key or a pair of keys, not both", field="api_key")
    key_id, secret_key, session = (
        resolved(value, f"{place}, {name}") if value is not None else None for name, value in values.items()
    )
    if key_id is None or secret_key is None:
        raise ConfigError(f"{place}: access_key_id and secret_access_key go together", field="access_key_id")
    return key_id, secret_key, session


def _signature(
    spec: Spec, given: ProviderSettings, pair: tuple[str, str, str | None] | None, guarded: bool, place: str
) -> Signer | None:
    """What signs its requests: a pair of keys, or the chain of AWS's own library where that is asked for."""
    service = spec.auth.signs_for
    by_chain = service is not None and (given.default_credentials or given.profile is not None)
    if given.profile is not None and service is None:
        raise ConfigError(f"{place}: the type '{given.type}' signs nothing: leave profile out", field="profile")
    if service is None or not (by_chain or pair is not None):
        return None
    if by_chain:
        field = "profile" if given.profile is not None else "default_credentials"
        _only_one(given, field, place)
        _not_guarded(guarded, field, place)
    if given.location is None:
        raise ConfigError(f"{place}: location is missing: requests are signed for a region", field="location")
    try:
        if pair is None:
            return ChainSignature(given.name, profile=given.profile, region=given.location, service=service)
        return Signature(key_id=pair[0], secret=pair[1], session_token=pair[2], region=given.location, service=service)
    except ConfigError as e:
        raise ConfigError(f"{place}: {e.message}", field=e.field or "access_key_id") from None


def _of_google(
    auth: AuthSpec, given: ProviderSettings, resolved: Resolver, guarded: bool, place: str
) -> tuple[ProviderSettings, GoogleSource | None]:
    """Where its tokens come from, if it is a service account or the machine's own credentials that have them; and the
    settings, with the project of the account where they name none."""
    field = "service_account" if given.service_account is not None else "default_credentials"
    if given.service_account is None and not given.default_credentials:
        return given, None
    if auth.google_scope is None:
        if field == "default_credentials" and auth.signs_for is not None:
            return given, None
        raise ConfigError(f"{place}: the type '{given.type}' is of no cloud: leave {field} out", field=field)
    _only_one(given, field, place)
    if given.service_account is None:
        _not_guarded(guarded, field, place)
    account = resolved(given.service_account, f"{place}, {field}") if given.service_account is not None else None
    try:
        source = GoogleSource(account, auth.google_scope)
    except ConfigError as e:
        raise ConfigError(f"{place}: {e.message}", field=e.field or field) from None
    if given.project is None and given.location is not None and source.project is not None:
        given = msgspec.structs.replace(given, project=source.project)
    return given, source


def _only_one(given: ProviderSettings, field: str, place: str) -> None:
    """Raises ConfigError where more than one thing shows who calls."""
    others = ("api_key", "access_key_id", "service_account", "profile", "default_credentials", "token_url")
    for other in others:
        beside = {field, "default_credentials"} if field == "profile" else {field}
        if other not in beside and getattr(given, other):
            raise ConfigError(f"{place}: give {field} or {other}, not both", field=field)


def _not_guarded(guarded: bool, field: str, place: str) -> None:
    if guarded:
        raise ConfigError(f"{place}: {field} is for administrators of the installation to set: it lends the machine's "
                          "own credentials", field=field)  # fmt: skip


def _secrets(headers: Mapping[str, str], secret_headers: frozenset[str], *keys: str | None) -> tuple[str, ...]:
    """The secret values themselves, longest first; too short ones would mask half of any text."""
    values = {value.removeprefix("Bearer ") for name, value in headers.items() if name in secret_headers}
    values |= {key for key in keys if key is not None}
    return tuple(sorted((v for v in values if len(v) >= 8), key=len, reverse=True))

"""The configuration: one TOML file, read once. Unknown keys are refused with their name and place."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bursar.gateway.registry import AUTO, DEFAULT, SCOPES, WORKSPACE
from bursar.ledger.ledger import CONTINUE, REFUSE
from bursar.prices.given import GivenCurrencyRate, GivenPrice, check_currency_rate, check_price
from bursar.types.errors import ConfigError

DEFAULT_FILE = "bursar.toml"
_MB = 1024 * 1024
_MOST_S = 1_000_000.0


class StoreSettings(msgspec.Struct, forbid_unknown_fields=True):
    """`[store]`: where the ledger lives in the end."""

    url: str = "sqlite:///data/bursar.db"


class LedgerSettings(msgspec.Struct, forbid_unknown_fields=True):
    """`[ledger]`: the spool directory and its bounds, in megabytes over all processes together."""

    spool: str = "data/spool"
    spool_max_mb: float = 1024
    spool_hard_mb: float = 2048
    spool_full: str = CONTINUE


class ServerSettings(msgspec.Struct, forbid_unknown_fields=True):
    """`[server]`: what the gateway server needs beyond a client."""

    max_body_mb: float = 32
    cors_origins: list[str] = []
    json_logs: bool = False
    stop_within_s: float = 20
    pepper_file: str | None = None
    master_key_file: str | None = None
    private_hosts: list[str] = []


class ProviderSettings(msgspec.Struct, forbid_unknown_fields=True):
    """`[[providers]]`: a type's spec with this provider's address, credential and limits laid over it."""

    name: str
    type: str = "openai"
    base_url: str | None = None
    project: str | None = None
    location: str | None = None
    completion_url: str | None = None
    embedding_url: str | None = None
    api_key: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    service_account: str | None = None
    profile: str | None = None
    default_credentials: bool = False
    token_url: str | None = None
    scope: str | None = None
    headers: dict[str, str] = {}
    model: str | None = None
    models: list[str] | None = None
    include_usage: bool | None = None
    on_disconnect: str = "cancel"
    timeout_connect_s: float = 10
    timeout_first_byte_s: float = 300
    timeout_chunk_s: float = 120
    timeout_total_s: float = 1800
    finish_max_s: float = 120
    retries: int = 1
    max_concurrent: int | None = None
    max_wait_s: float = 30
    cool_down_after: int = 3
    cool_down_s: float = 30
    proxy: str | None = None
    http2: bool = False
    ca_bundle: str | None = None
    allow_self_signed_certificate: bool = False
    backend: str | None = None
    vendor: str | None = None
    active: bool = True
    request: dict[str, object] = {}
    response: dict[str, object] = {}
    auth: dict[str, object] = {}

    def __repr__(self) -> str:
        return f"ProviderSettings(name={self.name!r}, type={self.type!r})"  # the rest may be secret


class WeightedTarget(msgspec.Struct, forbid_unknown_fields=True):
    """A target that shares calls with its neighbours."""

    target: str
    weight: float


class RouteSettings(msgspec.Struct, forbid_unknown_fields=True):
    """`[[routes]]`: an alias, and its targets in order of fallback; those with a weight that stand together share the
    calls."""

    name: str
    targets: list[str | WeightedTarget]


class BindingSettings(msgspec.Struct, forbid_unknown_fields=True):
    """`[[bindings]]`: what serves an action, a skill or a workspace of that `reference`, or, as the `default`, whatever
    nothing else is said of; `workspace` narrows the first two to one."""

    scope: str
    provider: str
    reference: str = ""
    workspace: str | None = None
    model: str | None = None
    system_prompt: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    store: StoreSettings = msgspec.field(default_factory=StoreSettings)
    ledger: LedgerSettings = msgspec.field(default_factory=LedgerSettings)
    server: ServerSettings = msgspec.field(default_factory=ServerSettings)
    providers: list[ProviderSettings] = []
    routes: list[RouteSettings] = []
    bindings: list[BindingSettings] = []
    prices: list[GivenPrice] = []
    currency_rates: list[GivenCurrencyRate] = []


def load(path: str | Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of a file: the named one, else `BURSAR_CONFIG`, else `bursar.toml` where it exists, else
    the defaults. Raises ConfigError with the key and its place."""
    chosen = path or environ.get("BURSAR_CONFIG") or (DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else None)
    if chosen is None:
        return parse({}, "the configuration")
    try:
        with open(chosen, "rb") as file:
            data = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"the configuration file {chosen} does not exist") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"the configuration file {chosen} cannot be read: {e}") from None
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{chosen} is not TOML: {e}") from None
    return parse(data, str(chosen))


def parse(data: Mapping[str, object], place: str) -> Settings:
    """Settings from plain data. Raises ConfigError with the key and its place."""
    try:
        settings = msgspec.convert(data, Settings)
    except msgspec.ValidationError as e:
        raise ConfigError(f"{place}: {_plain(str(e))}") from None
    _check(settings, place)
    return settings


def _plain(message: str) -> str:
    """msgspec's words for an unknown key, in ours."""
    return message.replace("Object contains unknown field", "unknown key").replace(" - at `$", " at `")


def _check(settings: Settings, place: str) -> None:
    ledger = settings.ledger
    if ledger.spool_full not in (CONTINUE, REFUSE):
        raise ConfigError(f"{place}: ledger.spool_full is '{ledger.spool_full}'; write '{CONTINUE}' or '{REFUSE}'")
    if not 0 < ledger.spool_max_mb <= ledger.spool_hard_mb:
        raise ConfigError(f"{place}: ledger.spool_max_mb must be more than 0 and at most spool_hard_mb")
    names = [p.name for p in settings.providers]
    for provider in settings.providers:
        with _at(place):
            check_provider(provider, f"provider '{provider.name}'")
    for kind, every in (("provider", names), ("route", [r.name for r in settings.routes])):
        for name in every:
            if every.count(name) > 1:
                raise ConfigError(f"{place}: there are two {kind}s of the name '{name}'")
    for route in settings.routes:
        with _at(place):
            check_route(route)
    _check_prices(settings, place)
    bound = [(b.scope, b.reference, b.workspace) for b in settings.bindings]
    for binding in settings.bindings:
        with _at(place):
            check_binding(binding)
        if bound.count((binding.scope, binding.reference, binding.workspace)) > 1:
            raise ConfigError(f"{place}: there are two bindings of {binding.scope} '{binding.reference}'")


def _check_prices(settings: Settings, place: str) -> None:
    for price in settings.prices:
        with _at(place):
            check_price(price, f"price of '{price.model}'")
    said = set()
    for p in settings.prices:
        of = (p.model.lower(), p.provider, p.provider_type, p.workspace, p.valid_from, p.hours)
        if of in said:
            raise ConfigError(f"{place}: there are two prices of '{p.model}' for the same calls and days")
        said.add(of)
    for rate in settings.currency_rates:
        with _at(place):
            check_currency_rate(rate, f"currency rate of '{rate.currency}'")


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Says in which file it is."""
    try:
        yield
    except ConfigError as e:
        raise ConfigError(f"{place}: {e.message}", field=e.field) from None


def check_provider(provider: ProviderSettings, place: str) -> None:
    """Raises ConfigError where a value cannot be; what addresses and types say is looked at when it is made."""
    if not provider.name or "/" in provider.name or not provider.name.isprintable():
        raise ConfigError(f"{place}: a provider's name is not empty, and has no '/' and no line ends", field="name")
    if provider.on_disconnect not in ("cancel", "finish"):
        raise ConfigError(
            f"{place}: on_disconnect is '{provider.on_disconnect}'; write 'cancel' or 'finish'", field="on_disconnect"
        )
    for name in ("retries", "cool_down_after", "cool_down_s", "max_wait_s"):
        if not 0 <= getattr(provider, name) <= _MOST_S:
            raise ConfigError(f"{place}: {name} must be 0 or more, and at most {_MOST_S:g}", field=name)
    for name in ("timeout_connect_s", "timeout_first_byte_s", "timeout_chunk_s", "timeout_total_s", "finish_max_s"):
        if not 0 < getattr(provider, name) <= _MOST_S:
            raise ConfigError(f"{place}: {name} must be more than 0, and at most {_MOST_S:g}", field=name)
    if provider.max_concurrent is not None and provider.max_concurrent < 1:
        raise ConfigError(f"{place}: max_concurrent must be 1 or more", field="max_concurrent")


def check_route(route: RouteSettings) -> None:
    """Raises ConfigError."""
    place = f"route '{route.name}'"
    if not route.name or not route.name.isprintable():
        raise ConfigError(f"{place}: a route's name is not empty and has no line ends", field="name")
    if route.name == AUTO:
        raise ConfigError(f"{place}: '{AUTO}' leaves the choice to bindings: name it otherwise", field="name")
    if not route.targets:
        raise ConfigError(f"{place}: it has no targets", field="targets")
    for target in route.targets:
        if isinstance(target, WeightedTarget) and not 0 < target.weight <= _MOST_S:
            raise ConfigError(f"{place}: a weight must be more than 0, and at most {_MOST_S:g}", field="targets")


def check_binding(binding: BindingSettings) -> None:
    """Raises ConfigError."""
    place = f"binding of {binding.scope} '{binding.reference}'"
    if binding.scope not in SCOPES:
        raise ConfigError(f"{place}: the scope is none of {', '.join(SCOPES)}", field="scope")
    if (binding.scope == DEFAULT) != (not binding.reference):
        raise ConfigError(
            f"{place}: reference names the action, the skill or the workspace; the default has none", field="reference"
        )
    if binding.workspace is not None and binding.scope == WORKSPACE:
        raise ConfigError(f"{place}: its reference is the workspace: leave workspace out", field="workspace")
    if not binding.provider:
        raise ConfigError(f"{place}: provider is missing", field="provider")
    if binding.max_tokens is not None and binding.max_tokens < 1:
        raise ConfigError(f"{place}: max_tokens must be 1 or more", field="max_tokens")


def secret(value: str, environ: Mapping[str, str], place: str) -> str:
    """A secret as it is written in the file: `env:NAME`, `file:PATH`, or itself.

    Raises ConfigError that names the variable or the file, never the secret.
    """
    if value.startswith("env:"):
        name = value.removeprefix("env:")
        if not environ.get(name):
            raise ConfigError(f"{place}: the environment variable {name} is not set")
        return environ[name]
    if value.startswith("file:"):
        path = value.removeprefix("file:")
        try:
            return Path(path).read_text("utf-8").strip()
        except OSError as e:
            raise ConfigError(f"{place}: the file {path} cannot be read: {e.strerror}") from None
    return value


def bytes_of(megabytes: float) -> int:
    return int(megabytes * _MB)

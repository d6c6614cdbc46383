"""The configuration: one TOML file, read once. Unknown keys are refused with their name and place."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bursar.ledger.ledger import CONTINUE, REFUSE
from bursar.types.errors import ConfigError

DEFAULT_FILE = "bursar.toml"
_MB = 1024 * 1024


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
    token_url: str | None = None
    scope: str | None = None
    headers: dict[str, str] = {}
    models: list[str] | None = None
    include_usage: bool | None = None
    on_disconnect: str = "cancel"
    timeout_connect_s: float = 10
    timeout_first_byte_s: float = 300
    timeout_chunk_s: float = 120
    timeout_total_s: float = 1800
    finish_max_s: float = 120
    retries: int = 1
    proxy: str | None = None
    http2: bool = False
    active: bool = True
    request: dict[str, object] = {}
    response: dict[str, object] = {}


class RouteSettings(msgspec.Struct, forbid_unknown_fields=True):
    """`[[routes]]`: an alias, and its targets in order of fallback."""

    name: str
    targets: list[str]


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    store: StoreSettings = msgspec.field(default_factory=StoreSettings)
    ledger: LedgerSettings = msgspec.field(default_factory=LedgerSettings)
    server: ServerSettings = msgspec.field(default_factory=ServerSettings)
    providers: list[ProviderSettings] = []
    routes: list[RouteSettings] = []


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
        _check_provider(provider, f"{place}: provider '{provider.name}'")
    for kind, every in (("provider", names), ("route", [r.name for r in settings.routes])):
        for name in every:
            if every.count(name) > 1:
                raise ConfigError(f"{place}: there are two {kind}s of the name '{name}'")
    for route in settings.routes:
        if not route.targets:
            raise ConfigError(f"{place}: the route '{route.name}' has no targets")


def _check_provider(provider: ProviderSettings, place: str) -> None:
    if not provider.name or "/" in provider.name:
        raise ConfigError(f"{place}: a provider's name is not empty and has no '/'")
    if provider.on_disconnect not in ("cancel", "finish"):
        raise ConfigError(f"{place}: on_disconnect is '{provider.on_disconnect}'; write 'cancel' or 'finish'")
    if provider.retries < 0:
        raise ConfigError(f"{place}: retries must be 0 or more")
    for name in ("timeout_connect_s", "timeout_first_byte_s", "timeout_chunk_s", "timeout_total_s", "finish_max_s"):
        if getattr(provider, name) <= 0:
            raise ConfigError(f"{place}: {name} must be more than 0")


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

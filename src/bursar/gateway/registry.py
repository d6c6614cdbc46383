"""Providers and routes as a call sees them: one frozen snapshot, from which a model's targets are read."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bursar.gateway.credentials import Credential
from bursar.gateway.signing import Signature
from bursar.types.call import CHAT, OPERATIONS
from bursar.types.errors import RequestError, UnknownModelError
from bursar.wire.readers import Endpoint
from bursar.wire.translate import TO_CHAT

CANCEL = "cancel"
REMEMBERED = 1024
REMEMBERED_CHARS = 200
FINISH = "finish"


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one attempt, in seconds. `finish_max_s` bounds reading on after a client has left."""

    connect_s: float = 10.0
    first_byte_s: float = 300.0
    chunk_s: float = 120.0
    total_s: float = 1800.0
    finish_max_s: float = 120.0


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider ready to be called. `endpoints` are by the kind of call they take; `headers` carry its credential;
    `secrets` are the values that must not be shown, wherever they turn up; `models` None lets any name through."""

    name: str
    type: str
    endpoints: Mapping[str, Endpoint]
    headers: tuple[tuple[str, str], ...]
    secret_headers: frozenset[str]
    secrets: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None
    on_disconnect: str = CANCEL
    timeouts: Timeouts = Timeouts()
    retries: int = 1
    credential: Credential | None = None
    """Where a token must be fetched for it."""
    signature: Signature | None = None
    """Where its requests must be signed."""
    transport: str = "http"
    """By its name among the gateway's transports."""
    proxy: str | None = None
    http2: bool = False
    shows_key: bool = True
    """Whether its headers are all that shows who calls."""
    url_shown: str = ""
    """The address as it stands on the ledger: without query, user or password."""

    def __post_init__(self) -> None:
        first = next((self.endpoints[name].url for name in OPERATIONS if name in self.endpoints), "")
        msgspec.structs.force_setattr(self, "url_shown", shown_url(first))
        msgspec.structs.force_setattr(self, "shows_key", self.credential is None and self.signature is None)

    def endpoint(self, operation: str) -> Endpoint:
        """Where calls of this kind go: to an endpoint of their own kind, or, if they can be translated, to that for
        chats. Raises RequestError that says what the provider takes."""
        found = self.endpoints.get(operation)
        if found is None and operation in TO_CHAT:
            found = self.endpoints.get(CHAT)
        if found is None:
            raise RequestError(
                f"the provider '{self.name}' takes no {operation}; it takes: {', '.join(self.endpoints)}", field="model"
            )
        return found


def shown_url(url: str) -> str:
    """An address without its query, user and password."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.split("?", 1)[0].partition("/")
    return f"{scheme}://{host.rsplit('@', 1)[-1]}{slash}{path}"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where an attempt goes, and why there."""

    provider: Provider
    model: str
    reason: str
    shown: tuple[str, str, str, str, str] = ("", "", "", "", "")
    """As it stands on the ledger: the provider, its type and address, the model, the reason."""

    def __post_init__(self) -> None:
        provider = self.provider
        shown = (provider.name, provider.type, provider.url_shown, self.model, self.reason)
        msgspec.structs.force_setattr(self, "shown", shown)


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """All active providers by name, and routes: an alias with its targets in order of fallback."""

    providers: Mapping[str, Provider]
    routes: Mapping[str, tuple[str, ...]] = {}
    _resolved: dict[str, list[Target]] = {}

    def resolve(self, model: str) -> list[Target]:
        """The targets of a model's name, in the order they are tried.

        A name is a route, `provider/model`, or bare where only one active provider offers it. Raises
        UnknownModelError that says what was looked for and what there is.
        """
        try:
            return self._resolved[model]
        except KeyError:
            pass
        targets = self._targets(model)
        if len(model) > REMEMBERED_CHARS:
            return targets
        if len(self._resolved) >= REMEMBERED:
            self._resolved.clear()
        self._resolved[model] = targets
        return targets

    def _targets(self, model: str) -> list[Target]:
        if model in self.routes:
            return [self._target(name, f"route {model}") for name in self.routes[model]]
        return [self._target(model, None)]

    def models(self) -> list[tuple[str, str]]:
        """What can be asked for by name: (name, owner). Routes first, then bare names that only one
        provider offers, then every model under its provider's name."""
        offered = [(m, p.name) for p in self.providers.values() for m in p.models or ()]
        bare = [m for m, _ in offered]
        return [
            *((route, "bursar") for route in self.routes),
            *((m, owner) for m, owner in offered if bare.count(m) == 1 and m not in self.routes),
            *((f"{owner}/{m}", owner) for m, owner in offered),
        ]

    def _target(self, name: str, reason: str | None) -> Target:
        prefix, _, rest = name.partition("/")
        provider = self.providers.get(prefix)
        if provider is not None and rest:
            if provider.models is not None and rest not in provider.models:
                raise UnknownModelError(
                    f"the provider '{prefix}' does not offer '{rest}'; it offers: {', '.join(provider.models)}",
                    field="model",
                )
            return Target(provider=provider, model=rest, reason=reason or "named")
        return self._of_bare_name(name, reason)

    def _of_bare_name(self, name: str, reason: str | None) -> Target:
        offering = [p for p in self.providers.values() if p.models is not None and name in p.models]
        if not offering:
            offering = [p for p in self.providers.values() if p.models is None]
        if len(offering) == 1:
            return Target(provider=offering[0], model=name, reason=reason or "only provider")
        if offering:
            names = ", ".join(f"{p.name}/{name}" for p in offering)
            raise UnknownModelError(
                f"several providers may offer '{name}': say which, as one of {names}", field="model"
            )
        known = ", ".join(n for n, _ in self.models()[:20]) or "none"
        raise UnknownModelError(
            f"no active provider and no route offers '{name}'; known models: {known}", field="model"
        )

"""A provider ready to be called, and a target: one of its models, with the reason for both."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bursar.gateway.credentials import Credential
from bursar.gateway.signing import Signer
from bursar.net.transport import HTTP, Reach
from bursar.types.call import CHAT, OPERATIONS
from bursar.types.errors import RequestError
from bursar.wire.readers import Endpoint
from bursar.wire.translate import TO_CHAT

CANCEL = "cancel"
FINISH = "finish"


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one attempt, in seconds. `finish_max_s` bounds reading on after a client has left."""

    connect_s: float = 10.0
    first_byte_s: float = 300.0
    chunk_s: float = 120.0
    total_s: float = 1800.0
    finish_max_s: float = 120.0


class CoolDown(msgspec.Struct, frozen=True, kw_only=True):
    """When a target rests: after so many failures in a row, for so many seconds; `after` 0 is never."""

    after: int = 3
    for_s: float = 30.0


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider ready to be called. `key` tells it from all others, whatever their names; `endpoints` are by the kind
    of call they take; `headers` carry its credential; `secrets` are the values that must not be shown, wherever they
    turn up; `models` None lets any name through."""

    key: str
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
    cool_down: CoolDown = CoolDown()
    max_concurrent: int | None = None
    """How many attempts it gets at once; None: as many as there are."""
    max_wait_s: float = 30.0
    """How long a call waits for a place where they are all taken, and nobody else can serve it."""
    credential: Credential | None = None
    """Where a token must be fetched for it."""
    signature: Signer | None = None
    """Where its requests must be signed."""
    reach: Reach = HTTP
    vendor: str | None = None
    """Whose prices hold for its models, where neither its address nor its type tells."""
    shows_key: bool = True
    """Whether its headers are all that shows who calls."""
    url_shown: str = ""
    """The address as it stands on the ledger: without query, user or password."""

    def __post_init__(self) -> None:
        first = next((self.endpoints[name].url for name in OPERATIONS if name in self.endpoints), "")
        msgspec.structs.force_setattr(self, "url_shown", shown_url(first))
        msgspec.structs.force_setattr(self, "shows_key", self.credential is None and self.signature is None)

    def __repr__(self) -> str:
        # Its headers and secrets are nobody's to see.
        return f"Provider(name={self.name!r}, type={self.type!r}, url={self.url_shown!r})"

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


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What a binding says of the calls it binds, where they say nothing themselves."""

    system_prompt: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where an attempt goes, and why there."""

    provider: Provider
    model: str
    reason: str
    parameters: Parameters = Parameters()
    shown: tuple[str, str, str, str] = ("", "", "", "")
    """As it stands on the ledger: the provider, its type and address, the model."""

    def __post_init__(self) -> None:
        provider = self.provider
        shown = (provider.name, provider.type, provider.url_shown, self.model)
        msgspec.structs.force_setattr(self, "shown", shown)

    @property
    def name(self) -> str:
        return f"{self.provider.name}/{self.model}"

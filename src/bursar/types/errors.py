"""Every error bursar raises.

BursarError
├── ConfigError                     the configuration is refused; names the key and its place
├── RequestError                    the call cannot be made as asked; names the field
│   ├── UnknownModelError           no active provider or route offers that model
│   ├── BindingError                a binding names what cannot serve it
│   └── UnsupportedLlmProviderError the provider type is not known here
├── AccessError                     the caller may not do this
│   ├── AuthenticationError         no key, or not a good one
│   └── ForbiddenError              a good key without that right
├── LedgerError                     the ledger cannot do what was asked
│   ├── LedgerFullError             no room for the entry, and the policy is to refuse
│   └── AlreadySettledError         an entry is settled once
├── StoppingError                   the server is stopping and takes no new calls
├── BusyError                       a provider's places are all taken, and none became free in time
├── StoreError                      the database cannot be read or written now
└── ProviderError                   the provider failed, or was not reached
    ├── ProviderTimeoutError        it did not answer in time; the attempt may have been billed
    ├── ProviderConnectionError     it was not reached, or hung up before it answered
    ├── RateLimitedError            it asks to come back later
    └── TruncatedError              its answer ended without saying that it ended

Errors are raised, never returned as text. An error's docstring is its default message.
"""

from __future__ import annotations


class BursarError(Exception):
    """bursar could not do that."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())

    @property
    def message(self) -> str:
        """What was wrong and what to do, as one text."""
        return str(self.args[0])


class ConfigError(BursarError):
    """The configuration is not valid."""

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class RequestError(BursarError):
    """The request cannot be served as it stands."""

    http_status = 400
    code = "invalid_request"

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnknownModelError(RequestError):
    """No active provider and no route offers this model."""

    http_status = 404
    code = "model_not_found"


class BindingError(RequestError):
    """A binding names a provider that cannot serve it."""

    code = "binding_broken"


class UnsupportedLlmProviderError(RequestError):
    """This provider type is not supported."""

    code = "unsupported_provider"


class AccessError(BursarError):
    """This is not allowed."""

    http_status = 403
    code = "forbidden"


class AuthenticationError(AccessError):
    """No valid API key was given: send `Authorization: Bearer KEY`."""

    http_status = 401
    code = "invalid_api_key"


class ForbiddenError(AccessError):
    """This key does not have that right."""


class LedgerError(BursarError):
    """The ledger could not do that."""


class LedgerFullError(LedgerError):
    """The ledger has no room for another entry, and its policy is to refuse new calls until it has."""


class AlreadySettledError(LedgerError):
    """This entry is settled already; an entry is settled once."""


class StoppingError(BursarError):
    """This server is stopping: ask another, or again in a moment."""


class BusyError(BursarError):
    """All places of this provider are taken: come back in a moment."""


class StoreError(BursarError):
    """The store cannot be read or written at the moment."""


class ProviderError(BursarError):
    """The provider failed.

    `kind` is one of auth, quota, rate_limit, overloaded, invalid_request, not_found, content_filter,
    timeout, connection, truncated, upstream_error, server. `http_status` is the provider's own, `None`
    where it sent none. `body` is the provider's error answer as bytes, where there was one.
    `call_id` is the ledger's id of the call.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        provider: str,
        kind: str,
        http_status: int | None = None,
        code: str | None = None,
        type: str | None = None,
        retry_after_s: float | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.kind = kind
        self.http_status = http_status
        self.code = code
        self.type = type
        self.retry_after_s = retry_after_s
        self.headers = headers
        self.body = body
        self.call_id: str | None = None


class ProviderTimeoutError(ProviderError):
    """The provider did not answer in time."""


class ProviderConnectionError(ProviderError):
    """The provider could not be reached."""


class RateLimitedError(ProviderError):
    """The provider asks to come back later."""


class TruncatedError(ProviderError):
    """The provider's answer ended without saying that it ended."""


class BackendError(Exception):
    """A backend's way to say that it failed, as a provider would: with an HTTP status, and what was wrong. It is for
    functions that are registered as backends to raise; callers get the ProviderError that it means."""

    def __init__(self, message: str, status: int = 500, type: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.type = type
        self.code = code

"""Tokens for Google Cloud by Google's own library: of a service account, or of whatever credentials there are where
this runs. https://google-auth.readthedocs.io

The library thinks and signs, in a thread; what it asks of the network goes the way of everything else, by the
provider's own transport.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import msgspec

from bursar.gateway.credentials import unreached
from bursar.net.transport import HungUpError, NotSentError, Transport
from bursar.types.errors import ConfigError, ProviderConnectionError, ProviderError
from bursar.wire.encode import POST, Request
from bursar.wire.oauth import Token

_CONNECT_S, _FETCH_S = 10.0, 30.0
_BODY_BYTES = 1024 * 1024
_EARLY_S = 60.0


class GoogleSource:
    """Where the tokens of a provider on Google Cloud come from."""

    name = "Google's token server"

    def __init__(self, account: str | None, scope: str) -> None:
        """`account` is a service account's key, the JSON text that Google gives out; None is whatever credentials there
        are: those the environment names, gcloud's, those of the machine. Raises ConfigError."""
        self._said = (account, scope)
        try:
            self._auth, self._errors = import_module("google.auth"), import_module("google.auth.exceptions")
            self._accounts = import_module("google.oauth2.service_account")
        except ImportError:
            raise ConfigError("credentials of Google Cloud need google-auth: pip install 'bursar[google]'") from None
        self._credentials: Any = None
        self.project: str | None = None
        if account is not None:
            try:
                info = msgspec.json.decode(account, type=dict[str, Any])
                self._credentials = self._accounts.Credentials.from_service_account_info(info, scopes=[scope])
            except (ValueError, TypeError, msgspec.MsgspecError):
                raise ConfigError(
                    "service_account is no key of a service account: give the JSON text that Google gives out",
                    field="service_account",
                ) from None
            self.project = self._credentials.project_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GoogleSource) and other._said == self._said

    __hash__ = None  # type: ignore[assignment]

    async def fetch(self, provider: str, transport: Transport) -> Token:
        """See `Source`."""
        bridge = _Bridge(provider, self.name, transport, asyncio.get_running_loop())
        try:
            async with asyncio.timeout(_FETCH_S):
                return await asyncio.to_thread(self._refreshed, bridge)
        except TimeoutError:
            raise unreached(provider, self.name, "did not answer in time") from None
        except self._errors.DefaultCredentialsError as e:
            raise ProviderError(f"there are no credentials of Google Cloud for '{provider}': {_first_line(e)}",
                                provider=provider, kind="auth", http_status=502) from None  # fmt: skip
        except self._errors.GoogleAuthError as e:
            if bridge.failure is not None:
                raise bridge.failure from None
            raise ProviderError(f"{self.name} gave no token for '{provider}': {_first_line(e)}", provider=provider,
                                kind=bridge.kind, http_status=502) from None  # fmt: skip

    def _refreshed(self, bridge: _Bridge) -> Token:
        credentials = self._credentials
        if credentials is None:
            credentials, _ = self._auth.default(scopes=[self._said[1]], request=bridge)
            self._credentials = credentials
        credentials.refresh(bridge)
        now = time.monotonic()
        ends: datetime | None = credentials.expiry
        life_s = 3600.0 if ends is None else (ends.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()
        life_s = max(life_s, 0.0)
        return Token(str(credentials.token), now + max(life_s - _EARLY_S, life_s / 2), now + life_s)


class _Answered(msgspec.Struct, frozen=True):
    """An answer as the library has it."""

    status: int
    headers: dict[str, str]
    data: bytes


class _Bridge:
    """The library's way to the network: it calls this in its thread, and the loop sends."""

    def __init__(self, provider: str, name: str, transport: Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._provider = provider
        self._name = name
        self._transport = transport
        self._loop = loop
        self.failure: ProviderConnectionError | None = None
        self.kind = "auth"

    def __call__(
        self, url: str, method: str = "GET", body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None, timeout: float | None = None, **_others: object,
    ) -> _Answered:  # fmt: skip
        wait_s = min(timeout or _FETCH_S, _FETCH_S)
        given = tuple((name.lower(), str(value)) for name, value in (headers or {}).items())
        sent = body.encode() if isinstance(body, str) else body or b""
        request = Request(
            url, (*given, ("accept-encoding", "identity")), (sent,), b"{}", False, False, None, method or POST
        )
        future = asyncio.run_coroutine_threadsafe(self._sent(request, wait_s), self._loop)
        try:
            return future.result(wait_s + 1)
        except (NotSentError, HungUpError, TimeoutError) as e:
            future.cancel()
            why = f"was not reached: {e}" if str(e) else "did not answer in time"
            self.failure = unreached(self._provider, self._name, why)
            # The library tries again what is a TransportError, and lets everything else through.
            raise import_module("google.auth.exceptions").TransportError(why) from e

    async def _sent(self, request: Request, wait_s: float) -> _Answered:
        deadline = time.monotonic() + wait_s
        answer = await self._transport.send(request, connect_timeout_s=_CONNECT_S, deadline=deadline)
        body = b""
        try:
            while len(body) < _BODY_BYTES and (data := await answer.read(deadline)):
                body += data
        except BaseException:
            answer.abort()
            raise
        answer.done()
        self.failure = None
        self.kind = "server" if answer.status >= 500 else "rate_limit" if answer.status == 429 else "auth"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers.items()}
        return _Answered(answer.status, headers, body)


def _first_line(error: Exception) -> str:
    return str(error.args[0] if error.args else error).strip().partition("\n")[0][:200]

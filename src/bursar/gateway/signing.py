"""Requests signed for AWS (Signature Version 4), by the code of AWS's own library: with a pair of keys, or with what
its chain finds: the environment, profiles, single sign-on, roles.
https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any, Protocol

import msgspec

from bursar.types.errors import ConfigError, ProviderError
from bursar.wire.encode import Request

# What the signature itself brings: a client's own would make it a lie.
_OURS = frozenset({"authorization", "date"})
# Headers that proxies on the way may change, or that say nothing of the request.
_UNSIGNED = frozenset({"accept", "accept-encoding", "user-agent"})
_WAIT_S = 30.0


class Signer(Protocol):
    """What signs the requests of one provider: each attempt anew, for a signature holds for minutes."""

    async def signed(self, request: Request) -> Request:
        """The request with its signature, as of now. Raises ProviderError where there is nothing to sign it with."""


class _Library:
    """What is used of the library."""

    def __init__(self, region: str, service: str) -> None:
        """Raises ConfigError where it is not installed."""
        try:
            auth, requests = import_module("botocore.auth"), import_module("botocore.awsrequest")
        except ImportError:
            raise ConfigError("signing needs botocore: pip install 'bursar[aws]'") from None
        self._request: Any = requests.AWSRequest
        self._signer: Any = auth.SigV4Auth
        self._where = (service, region)

    def signed(self, request: Request, keys: Any) -> Request:
        others = tuple(
            h for h in request.headers if h[0].lower() not in _OURS and not h[0].lower().startswith("x-amz-")
        )
        given = {name.lower(): value for name, value in others if name.lower() not in _UNSIGNED}
        made = self._request(method=request.method, url=request.url, data=request.body, headers=given)
        self._signer(keys, *self._where).add_auth(made)
        added = tuple((name.lower(), str(value)) for name, value in made.headers.items() if name not in given)
        return msgspec.structs.replace(request, headers=(*others, *added))


class Signature:
    """Signs with a pair of keys."""

    def __init__(self, *, key_id: str, secret: str, session_token: str | None, region: str, service: str) -> None:
        """Raises ConfigError where the library is not installed."""
        self._library = _Library(region, service)
        self._keys: Any = import_module("botocore.credentials").Credentials(key_id, secret, session_token)

    async def signed(self, request: Request) -> Request:
        """See `Signer`."""
        return self._library.signed(request, self._keys)


class ChainSignature:
    """Signs with what the library's chain finds, of a profile where one is named. It is looked for with the first call,
    and renewed as it says, in a thread: that may ask files, other programs and services."""

    def __init__(self, provider: str, *, profile: str | None, region: str, service: str) -> None:
        """Raises ConfigError where the library is not installed, or knows no such profile."""
        self._provider = provider
        self._library = _Library(region, service)
        session, self._errors = import_module("botocore.session"), import_module("botocore.exceptions")
        self._session: Any = session.Session(profile=profile)
        if profile is not None and profile not in self._session.available_profiles:
            raise ConfigError(f"there is no profile '{profile}' in the configuration of AWS", field="profile")
        self._credentials: Any = None
        self._finding: asyncio.Task[Any] | None = None

    async def signed(self, request: Request) -> Request:
        """See `Signer`."""
        keys, refreshes = self._credentials, getattr(self._credentials, "refresh_needed", None)
        if keys is None or (refreshes is not None and refreshes()):
            # All who come meanwhile wait for the same look.
            if self._finding is None or self._finding.done():
                self._finding = asyncio.ensure_future(asyncio.to_thread(self._found))
                self._finding.add_done_callback(lambda task: task.cancelled() or task.exception())
            try:
                async with asyncio.timeout(_WAIT_S):
                    await asyncio.shield(self._finding)
            except (self._errors.BotoCoreError, TimeoutError) as e:
                raise self._none(str(e) or "nothing answered in time") from None
        return self._library.signed(request, self._credentials.get_frozen_credentials())

    def _found(self) -> None:
        if self._credentials is None:
            self._credentials = self._session.get_credentials()
        if self._credentials is None:
            raise self._none("neither the environment nor a profile nor the machine has any")
        self._credentials.get_frozen_credentials()

    def _none(self, why: str) -> ProviderError:
        return ProviderError(f"there are no credentials of AWS for '{self._provider}': {why}", provider=self._provider,
                             kind="auth", http_status=502)  # fmt: skip

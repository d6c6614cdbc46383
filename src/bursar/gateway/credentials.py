"""Credentials that are fetched: a token is asked for once for all callers who wait, and kept until its time.

Shortly before its end a new one is fetched beside the calls, which go on with the old one as long as it is good: a
token server that is down for a moment costs nobody a call.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from email.utils import parsedate_to_datetime
from typing import Protocol

from bursar.net.transport import Answer, HungUpError, NotSentError, Transport
from bursar.types.errors import ProviderConnectionError, ProviderError
from bursar.wire.oauth import Flow, Token

_BODY_BYTES = 64 * 1024
# Limits of a fetch, whoever waits for it.
_CONNECT_S, _FETCH_S = 10.0, 30.0
# How long a token server that could not give a new token is left alone, while the old one is good.
_AGAIN_S = 2.0


class Source(Protocol):
    """Where a provider's tokens come from."""

    @property
    def name(self) -> str:
        """What it is called in errors."""

    async def fetch(self, provider: str, transport: Transport) -> Token:
        """A new token, by the monotonic clock. Raises ProviderError."""


class Credential:
    """A provider's token."""

    def __init__(self, provider: str, source: Source) -> None:
        self.source = source
        self._provider = provider
        self._token: Token | None = None
        self._fetching: asyncio.Task[Token] | None = None
        self._again_at = 0.0

    async def token(self, transport: Transport, *, deadline: float) -> str:
        """The token to use now. Raises ProviderError where none can be had until the deadline, a time of the monotonic
        clock."""
        token, now = self._token, time.monotonic()
        if token is not None and now < token.renewed_from:
            return token.value
        if token is not None and now < token.until:
            if now >= self._again_at:
                self._fetch(transport)
            return token.value
        try:
            # A caller who leaves, or whose time is up, does not take the token from the others who wait.
            async with asyncio.timeout(max(0.0, deadline - now)):
                token = await asyncio.shield(self._fetch(transport))
        except TimeoutError:
            raise unreached(self._provider, self.source.name, "did not answer in time") from None
        return token.value

    def refuse(self, value: str | None) -> None:
        """The provider did not take this token: it is not used again."""
        if self._token is not None and self._token.value == value:
            self._token = None

    async def close(self) -> None:
        """Ends a fetch that is under way."""
        if self._fetching is not None and not self._fetching.done():
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _fetch(self, transport: Transport) -> asyncio.Task[Token]:
        """The fetch that is under way, begun where there is none."""
        fetching = self._fetching
        if fetching is None or fetching.done():
            fetching = self._fetching = asyncio.ensure_future(self._fetched(transport))
            # A failure is told to those who wait; where nobody does any more, to nobody.
            fetching.add_done_callback(lambda task: task.cancelled() or task.exception())
        return fetching

    async def _fetched(self, transport: Transport) -> Token:
        self._again_at = time.monotonic() + _AGAIN_S
        token = self._token = await self.source.fetch(self._provider, transport)
        return token


class ClientCredentials:
    """Tokens of a token server, by client credentials."""

    name = "the token server"

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClientCredentials) and other.flow == self.flow

    __hash__ = None  # type: ignore[assignment]

    async def fetch(self, provider: str, transport: Transport) -> Token:
        """See `Source`."""
        deadline = time.monotonic() + _FETCH_S
        body = b""
        try:
            request = self.flow.request(str(uuid.uuid4()))
            answer = await transport.send(request, connect_timeout_s=_CONNECT_S, deadline=deadline)
            try:
                while len(body) < _BODY_BYTES and (data := await answer.read(deadline)):
                    body += data
            except BaseException:
                answer.abort()
                raise
        except (NotSentError, HungUpError) as e:
            raise unreached(provider, self.name, f"was not reached: {e}") from e
        except TimeoutError:
            raise unreached(provider, self.name, "did not answer in time") from None
        answer.done()
        is_good = 200 <= answer.status < 300
        token = self.flow.token(body, now_s=time.monotonic(), server_s=_time_of(answer)) if is_good else None
        if token is None:
            kind = "server" if answer.status >= 500 else "rate_limit" if answer.status == 429 else "auth"
            said = f"the token server of '{provider}' answered {answer.status} without a token"
            shown = self.flow.said(body)
            raise ProviderError(f"{said}: {shown}" if shown else said, provider=provider, kind=kind,
                                http_status=502)  # fmt: skip
        return token


def _time_of(answer: Answer) -> float:
    """The time it was where the answer came from, in seconds since 1970: a token's end is a time of that clock. Ours,
    where it does not say."""
    try:
        return parsedate_to_datetime(answer.headers.get(b"date", b"").decode("latin-1")).timestamp()
    except ValueError:
        return time.time()


def unreached(provider: str, what: str, why: str) -> ProviderConnectionError:
    """A source of tokens that gave none."""
    return ProviderConnectionError(f"{what} of '{provider}' {why}", provider=provider, kind="connection")

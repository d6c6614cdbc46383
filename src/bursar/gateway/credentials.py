"""Credentials that are fetched: a token is asked for once for all callers who wait, and kept until its time."""

from __future__ import annotations

import asyncio
import time
import uuid

from bursar.net.transport import HungUpError, NotSentError, Transport
from bursar.types.errors import ProviderConnectionError, ProviderError
from bursar.wire.oauth import Flow, Token

_BODY_BYTES = 64 * 1024
# Limits of a fetch, whoever waits for it.
_CONNECT_S, _FETCH_S = 10.0, 30.0


class Credential:
    """A provider's token."""

    def __init__(self, provider: str, flow: Flow) -> None:
        self._provider = provider
        self._flow = flow
        self._token: Token | None = None
        self._fetching: asyncio.Task[Token] | None = None

    async def token(self, transport: Transport, *, deadline: float) -> str:
        """The token to use now. Raises ProviderError where none can be had until the deadline, a time of the monotonic
        clock."""
        token = self._token
        if token is None or token.until <= time.time():
            fetching = self._fetching
            if fetching is None or fetching.done():
                fetching = self._fetching = asyncio.ensure_future(self._fetch(transport))
                # Told to those who wait; where nobody does any more, to nobody.
                fetching.add_done_callback(lambda task: task.cancelled() or task.exception())
            try:
                # A caller who leaves, or whose time is up, does not take the token from the others who wait.
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    token = await asyncio.shield(fetching)
            except TimeoutError:
                raise self._unreached("did not answer in time") from None
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

    async def _fetch(self, transport: Transport) -> Token:
        deadline = time.monotonic() + _FETCH_S
        body = b""
        try:
            request = self._flow.request(str(uuid.uuid4()))
            answer = await transport.send(request, connect_timeout_s=_CONNECT_S, deadline=deadline)
            try:
                while len(body) < _BODY_BYTES and (data := await answer.read(deadline)):
                    body += data
            except BaseException:
                answer.abort()
                raise
        except (NotSentError, HungUpError) as e:
            raise self._unreached(f"was not reached: {e}") from e
        except TimeoutError:
            raise self._unreached("did not answer in time") from None
        answer.done()
        token = self._flow.token(body, time.time()) if 200 <= answer.status < 300 else None
        if token is None:
            kind = "server" if answer.status >= 500 else "auth"
            said = f"the token server of '{self._provider}' answered {answer.status} without a token"
            shown = self._flow.said(body)
            raise ProviderError(f"{said}: {shown}" if shown else said, provider=self._provider, kind=kind,
                                http_status=502)  # fmt: skip
        self._token = token
        return token

    def _unreached(self, why: str) -> ProviderConnectionError:
        name = self._provider
        return ProviderConnectionError(f"the token server of '{name}' {why}", provider=name, kind="connection")

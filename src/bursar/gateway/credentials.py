"""Credentials that are fetched: a token is asked for once for all callers who wait, and kept until its time."""

from __future__ import annotations

import asyncio
import time
import uuid

from bursar.net.transport import HungUpError, NotSentError, Transport
from bursar.types.errors import ProviderConnectionError, ProviderError
from bursar.wire.oauth import Flow, Token

_BODY_BYTES = 64 * 1024
_SHOWN_CHARS = 200


class Credential:
    """A provider's token. Its values are among `secrets` while they are known."""

    def __init__(self, provider: str, flow: Flow) -> None:
        self._provider = provider
        self._flow = flow
        self._token: Token | None = None
        self._fetching: asyncio.Task[Token] | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown."""
        return (self._token.value,) if self._token is not None else ()

    async def token(self, transport: Transport, *, connect_timeout_s: float, deadline: float) -> str:
        """The token to use now. Raises ProviderError where none can be had; TimeoutError at the deadline, a time of the
        monotonic clock."""
        token = self._token
        if token is None or token.until <= time.time():
            if self._fetching is None or self._fetching.done():
                self._fetching = asyncio.ensure_future(self._fetch(transport, connect_timeout_s, deadline))
            # A caller who leaves does not take the token from the others who wait.
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                token = await asyncio.shield(self._fetching)
        return token.value

    def refuse(self, value: str | None) -> None:
        """The provider did not take this token: it is not used again."""
        if self._token is not None and self._token.value == value:
            self._token = None

    async def _fetch(self, transport: Transport, connect_timeout_s: float, deadline: float) -> Token:
        name = self._provider
        try:
            answer = await transport.send(
                self._flow.request(str(uuid.uuid4())), connect_timeout_s=connect_timeout_s, deadline=deadline
            )
            body = b""
            while len(body) < _BODY_BYTES and (data := await answer.read(deadline)):
                body += data
        except (NotSentError, HungUpError) as e:
            raise ProviderConnectionError(f"the token server of '{name}' was not reached: {e}", provider=name,
                                          kind="connection") from e  # fmt: skip
        except TimeoutError:
            raise ProviderConnectionError(f"the token server of '{name}' did not answer in time", provider=name,
                                          kind="connection") from None  # fmt: skip
        answer.done()
        token = self._flow.token(body, time.time()) if 200 <= answer.status < 300 else None
        if token is None:
            shown = body[:_SHOWN_CHARS].decode("utf-8", "replace").replace(self._flow.key, "***")
            kind = "server" if answer.status >= 500 else "auth"
            raise ProviderError(f"the token server of '{name}' answered {answer.status} without a token: {shown}",
                                provider=name, kind=kind, http_status=502)  # fmt: skip
        self._token = token
        return token

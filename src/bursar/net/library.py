"""The transport for providers behind a proxy, or spoken to over HTTP/2: httpx2, which knows both.

It costs a call ten times what `net/http1` does, and is loaded only where a provider asks for it.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING

from bursar.net.transport import Answer, HungUpError, NotSentError
from bursar.wire.encode import Request

if TYPE_CHECKING:
    import httpx2

_KEEPALIVE_S = 15.0
_LINGER_S = 1.0
_CLOSE_S = 2.0


class LibraryTransport:
    """One client of the library. With `http2` an https address negotiates it, and an http one is spoken to in
    it at once, for there is nothing to negotiate with."""

    leaves_by_turns = False

    def __init__(
        self, *, proxy: str | None = None, http2: bool = False, tls: Callable[[], ssl.SSLContext] | None = None
    ) -> None:
        """`tls` makes the trust, which is the machine's own where none is given."""
        self._tls = tls
        self._under_way = 0
        self._proxy = proxy
        self._http2 = http2
        self._clients: dict[bool, httpx2.AsyncClient] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def send(self, request: Request, *, connect_timeout_s: float, deadline: float) -> Answer:
        import httpx2

        refused = (
            httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError, httpx2.UnsupportedProtocol,
            httpx2.InvalidURL, httpx2.LocalProtocolError, httpx2.PoolTimeout,
        )  # fmt: skip
        self._under_way += 1
        sent = False
        try:
            client = self._client(request.url.startswith("https://"))
            asked = client.build_request(
                request.method, request.url, content=request.body, headers=list(request.headers),
                timeout=httpx2.Timeout(None, connect=connect_timeout_s),
            )  # fmt: skip
            async with asyncio.timeout(deadline - time.monotonic()):
                response = await client.send(asked, stream=True)
            sent = True
        except refused as e:
            raise NotSentError(_said(e)) from e
        except TimeoutError:
            raise  # it is an OSError by birth
        except (httpx2.HTTPError, OSError) as e:
            raise HungUpError(_said(e)) from e
        finally:
            if not sent:
                self._under_way -= 1
        return _LibraryAnswer(response, self._later)

    @property
    def is_idle(self) -> bool:
        return not self._under_way and not self._closing

    async def close(self) -> None:
        if self._closing:
            await asyncio.wait(set(self._closing), timeout=_CLOSE_S)
        for task in self._closing:
            task.cancel()
        for client in self._clients.values():
            await client.aclose()

    def _client(self, tls: bool) -> httpx2.AsyncClient:
        import httpx2

        if tls not in self._clients:
            self._clients[tls] = httpx2.AsyncClient(
                http1=tls or not self._http2,
                http2=self._http2,
                proxy=self._proxy,
                trust_env=False,
                verify=self._tls() if self._tls is not None else True,
                follow_redirects=False,
                limits=httpx2.Limits(
                    max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEPALIVE_S
                ),
            )
            # What a caller sends is what leaves: nothing of the library's own.
            self._clients[tls].headers.clear()
        return self._clients[tls]

    def _later(self, work: Coroutine[object, object, None]) -> None:
        """Ends an answer."""
        self._under_way -= 1
        task = asyncio.get_running_loop().create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _LibraryAnswer:
    is_over = False

    def __init__(self, response: httpx2.Response, later: Callable[[Coroutine[object, object, None]], None]) -> None:
        self._response = response
        self._later = later
        self._pieces: AsyncIterator[bytes] = response.aiter_bytes()
        self._left = False
        self.status = response.status_code
        self.headers: Mapping[bytes, bytes] = {
            name.lower().encode("latin-1"): value.encode("latin-1", "replace")
            for name, value in response.headers.items()
        }

    def at_hand(self) -> bytes:
        return b""

    async def read(self, deadline: float) -> bytes:
        import httpx2

        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                async for piece in self._pieces:
                    if piece:
                        return piece
        except TimeoutError:
            raise
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as e:
            raise HungUpError(_said(e)) from e
        return b""

    def done(self) -> None:
        self._leave(self._linger())

    def abort(self) -> None:
        self._leave(self._response.aclose())

    def _leave(self, work: Coroutine[object, object, None]) -> None:
        """The library closes only where it can be awaited: at the loop's next turn."""
        if self._left:
            work.close()
            return
        self._left = True
        self._later(work)

    async def _linger(self) -> None:
        """Waits a moment for the end of the body behind an answer's end mark, so that its connection is kept."""
        import httpx2

        try:
            async with asyncio.timeout(_LINGER_S):
                async for _ in self._pieces:
                    pass
        except (TimeoutError, httpx2.HTTPError, httpx2.StreamError, OSError):
            pass
        finally:
            await self._response.aclose()


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__

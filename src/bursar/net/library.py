"""The transport for real providers: HTTP/1.1 over aiohttp, one connection pool for all of them.

Time limits are the caller's (it knows what it waits for); only the limit to connect is kept here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp

from bursar.net.transport import Answer, HungUpError, NotSentError
from bursar.wire.encode import Request

_READ_BYTES = 64 * 1024
_KEEPALIVE_S = 15.0
_LINGER_S = 1.0


class HttpTransport:
    """An aiohttp session. Answers come uncompressed unless the provider insists, for a compressed
    stream arrives in lumps."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._lingering: set[asyncio.Task[None]] = set()

    async def send(self, request: Request, *, connect_timeout_s: float) -> Answer:
        session = self._session or self._open()
        try:
            response = await session.post(
                request.url,
                data=request.body,
                headers=dict(request.headers),
                timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout_s),
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as e:
            raise NotSentError(str(e)) from e
        except aiohttp.ConnectionTimeoutError as e:
            raise NotSentError(f"no connection within {connect_timeout_s:g} s") from e
        except (aiohttp.ClientError, OSError) as e:
            raise HungUpError(str(e) or type(e).__name__) from e
        return _HttpAnswer(response, self._lingering)

    async def close(self) -> None:
        if self._session is not None:
            for task in self._lingering:
                task.cancel()
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("user-agent", "accept-encoding", "content-type"),
            read_bufsize=_READ_BYTES,
            trust_env=False,
        )
        return self._session


class _HttpAnswer:
    def __init__(self, response: aiohttp.ClientResponse, lingering: set[asyncio.Task[None]]) -> None:
        self._response = response
        self._lingering = lingering
        self.status = response.status
        self.headers: Mapping[str, str] = {k.lower(): v for k, v in response.headers.items()}

    async def read(self) -> bytes:
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as e:
            raise HungUpError(str(e) or type(e).__name__) from e

    def done(self) -> None:
        if self._response.content.at_eof():
            self._response.release()
            return
        # The end mark was read but not yet the end of the body: wait a moment for it, off the call's way,
        # so that the connection can be used again.
        task = asyncio.ensure_future(self._linger())
        self._lingering.add(task)
        task.add_done_callback(self._lingering.discard)

    def abort(self) -> None:
        self._response.close()

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(_LINGER_S):
                while await self._response.content.readany():
                    pass
            self._response.release()
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass
        finally:
            self._response.close()

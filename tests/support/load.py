"""Load on a server, bounded in number and time: calls of all kinds, each with an id of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import aiohttp

from support.server import ADMIN


class Load:
    """Keeps `width` calls under way against a server from a thread, until it is stopped."""

    def __init__(self, url: str, prefix: str, *, width: int = 64, pace_s: float = 0.004) -> None:
        self._url = url
        self._prefix = prefix
        self._width = width
        self._pace_s = pace_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.finished = 0
        self.answered: dict[str, int] = {}
        """Of each request id, the HTTP status of an answer that was read to its end."""

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(self._caller(session, n) for n in range(self._width)))

    async def _caller(self, session: aiohttp.ClientSession, n: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            # A server that is gone refuses at once; a pause keeps the number of tries bounded.
            if not await self._one(session, f"{self._prefix}-{n}-{count}", stream=(n + count) % 3 != 0):
                await asyncio.sleep(0.05)

    async def _one(self, session: aiohttp.ClientSession, request_id: str, *, stream: bool) -> bool:
        body: dict[str, Any] = {
            "model": "up/gpt-4o-mini",
            "messages": [{"role": "user", "content": f"{request_id} please"}],
            "metadata": {"id": request_id},
            "stream": stream,
            "script": {"chunks": 5, "pace_s": self._pace_s, "delay_s": self._pace_s},
        }
        headers = {"authorization": f"Bearer {ADMIN}", "x-bursar-request-id": request_id}
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with session.post(f"{self._url}/v1/chat/completions", json=body, headers=headers) as answer:
                await answer.read()
                self.answered[request_id] = answer.status
                self.finished += 1
                return answer.status == 200
        return False

"""A server of the protocol alone, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from bursar.http.cycle import Cycle
from bursar.http.protocol import Protocol


def protocol_of(config: uvicorn.Config, **named: Any) -> Protocol:
    """A connection of a server that is not stopping, but where it is said."""
    return Protocol(config, ServerState(), {}, **{"is_stopping": lambda: False, **named})


async def connected(
    answer: Callable[[Cycle], Any], *, is_stopping: bool = False
) -> tuple[asyncio.Server, list[Protocol], Any, Any]:
    """A server that answers so, which may be stopping, and a client's connection to it."""
    config = uvicorn.Config(answer, interface="asgi3", proxy_headers=False, ws="none", lifespan="off", log_config=None)
    made: list[Protocol] = []

    def accept() -> Protocol:
        made.append(protocol_of(config, is_stopping=lambda: is_stopping))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    return server, made, *await asyncio.open_connection(*server.sockets[0].getsockname())

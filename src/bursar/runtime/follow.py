"""What the store says, followed: looked at each second, so that a change made in any process holds in all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bursar.types.errors import StoreError

_EVERY_S = 1.0

Told = Callable[[str, dict[str, object]], None]
"""Where notable events go: a short text and its values. The server logs them; a library stays silent."""


async def follow(look: Callable[[], Awaitable[None]], what: str, told: Told) -> None:
    """Looks until it is cancelled. What cannot be read is told once, and looked for again: what was known goes on."""
    failed: str | None = None
    while True:
        await asyncio.sleep(_EVERY_S)
        try:
            await look()
            failed = None
        except StoreError:
            pass  # the drain tells that the store is away
        except Exception as error:
            if failed != repr(error):
                failed = repr(error)
                told(f"{what} could not be read; what was known goes on", {"error": failed})

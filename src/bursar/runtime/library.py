"""The library's door: a client over a core of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from bursar.gateway.client import Client
from bursar.net.backends import Backend
from bursar.runtime import settings
from bursar.runtime.core import running


@asynccontextmanager
async def opened(
    config: str | os.PathLike[str] | Mapping[str, object] | None, backends: Mapping[str, Backend] | None
) -> AsyncIterator[Client]:
    """See `bursar.open`."""
    if isinstance(config, Mapping):
        read = settings.parse(config, "the configuration")
    else:
        read = settings.load(None if config is None else os.fspath(config), os.environ)
    async with running(read, os.environ, backends=backends) as core:
        yield Client(core.gateway)

"""bursar: one asynchronous path to every LLM provider, where each call ends in a ledger.

    async with bursar.open() as client:
        result = await client.complete(model="demo", messages=[{"role": "user", "content": "hello"}])

Importing this loads no HTTP client, no database driver and no web framework; opening a client does. The values calls
are made of are loaded when one of them is first named.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING

from bursar.types import errors
from bursar.types.errors import BackendError, BursarError

if TYPE_CHECKING:
    from bursar.gateway.client import Client
    from bursar.gateway.sync import SyncClient
    from bursar.net.backends import Backend
    from bursar.types import events
    from bursar.types.call import Context, Cost, Result, ToolCall
    from bursar.types.usage import Usage

__version__ = "0.1.0"

_LATER = {"Context": "call", "Cost": "call", "Result": "call", "ToolCall": "call", "Usage": "usage", "events": "events"}

Config = str | PathLike[str] | Mapping[str, object]


def open(
    config: Config | None = None, *, backends: Mapping[str, Backend] | None = None
) -> AbstractAsyncContextManager[Client]:
    """An async client: `async with bursar.open() as client`.

    `config` is the path of a TOML file, or its content as a mapping; without it the file is the one
    `BURSAR_CONFIG` names, else `bursar.toml` where it exists, else the embedded default: SQLite and spool
    under `./data`. `backends` are functions of this process that providers of the type `backend` name: each gets the
    operation (`chat` or `embeddings`) and the request as OpenAI has it, and gives the answer so, or an iterator of
    chunks for a stream; it may be asynchronous, or not, and then runs in a thread. Raises ConfigError, StoreError.
    """
    from bursar.runtime.library import opened

    return opened(config, backends)


def open_sync(config: Config | None = None, *, backends: Mapping[str, Backend] | None = None) -> SyncClient:
    """The same for code that is not asynchronous: `with bursar.open_sync() as client`."""
    from bursar.gateway.sync import SyncClient

    return SyncClient(lambda: open(config, backends=backends))


if not TYPE_CHECKING:  # with it, a checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module 'bursar' has no attribute '{name}'", name=name)
        module = import_module(f"bursar.types.{_LATER[name]}")
        value = globals()[name] = module if name == _LATER[name] else getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "BackendError",
    "BursarError",
    "Context",
    "Cost",
    "Result",
    "ToolCall",
    "Usage",
    "errors",
    "events",
    "open",
    "open_sync",
]

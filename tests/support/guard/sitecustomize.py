"""Loaded by every process of the tests: a connection beyond loopback is an error, not a packet."""

import importlib.abc
import importlib.machinery
import importlib.util
import ipaddress
import socket
import sys
from types import ModuleType
from typing import Any

_connect = socket.socket.connect
_connect_ex = socket.socket.connect_ex


class BeyondLoopbackError(RuntimeError):
    """A test tried to reach the network."""


def _check(address: Any) -> None:
    if isinstance(address, tuple) and not ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
        raise BeyondLoopbackError(f"tests may not connect to {address[0]}")


def _guarded_connect(self: socket.socket, address: Any) -> None:
    _check(address)
    _connect(self, address)


def _guarded_connect_ex(self: socket.socket, address: Any) -> int:
    _check(address)
    return _connect_ex(self, address)


socket.socket.connect = _guarded_connect  # type: ignore[method-assign]
socket.socket.connect_ex = _guarded_connect_ex  # type: ignore[method-assign]


class _UvloopToo(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """uvloop connects without asking `socket`: it is guarded when, and only when, somebody loads it."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != "uvloop":
            return None
        sys.meta_path.remove(self)
        self._spec = importlib.util.find_spec(name)
        if self._spec is None or self._spec.loader is None:
            return None
        return importlib.util.spec_from_file_location(
            name, self._spec.origin, loader=self, submodule_search_locations=self._spec.submodule_search_locations
        )

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self._spec.loader.exec_module(module)  # type: ignore[union-attr]
        connect = module.Loop.create_connection

        def guarded(loop: Any, factory: Any, host: Any = None, port: Any = None, **more: Any) -> Any:
            if host not in (None, "localhost"):
                _check((host, port))
            return connect(loop, factory, host, port, **more)

        module.Loop.create_connection = guarded


sys.meta_path.insert(0, _UvloopToo())

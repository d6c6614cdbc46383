"""Functions of this process that answer calls: registered by the application, or named by the configuration file."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterable, Mapping

from bursar.net.backends import Backend, BackendTransport
from bursar.net.litellm import LitellmTransport
from bursar.net.transport import Reach
from bursar.runtime.settings import ProviderSettings
from bursar.types.errors import ConfigError

BACKEND, LITELLM = "backend", "litellm"
# Without it the library asks the network for a price list when it is loaded.
_LITELLM_OFFLINE = "LITELLM_LOCAL_MODEL_COST_MAP"


class Backends:
    """What providers of the types `backend` and `litellm` are answered by."""

    def __init__(self, registered: Mapping[str, Backend] | None = None) -> None:
        self._known: dict[str, Backend] = dict(registered or {})

    def load(self, given: Iterable[ProviderSettings]) -> None:
        """Finds the functions these providers name. Raises ConfigError that names the provider."""
        for one in given:
            if one.type == BACKEND and one.backend is not None and one.backend not in self._known:
                self._known[one.backend] = _function(one.backend, f"provider '{one.name}'")

    def transport(self, reach: Reach) -> BackendTransport:
        """What calls go through to it."""
        if reach.kind == LITELLM:
            os.environ.setdefault(_LITELLM_OFFLINE, "True")
            return LitellmTransport()
        return BackendTransport(self._known[reach.backend or ""])


def fault_of(given: ProviderSettings, kind: str, *, is_row: bool, guarded: bool) -> tuple[str, str] | None:
    """What is wrong with a provider that runs in this process, and the field; None where nothing is."""
    if kind != BACKEND and given.backend is not None:
        return f"the type '{given.type}' runs no function: leave backend out", "backend"
    if kind == BACKEND and is_row:
        return "functions of this process are named by the configuration file", "type"
    if kind == BACKEND and given.backend is None:
        return "backend is missing: name a registered function, or one as package.module:function", "backend"
    if kind == LITELLM and guarded:
        return "what runs in this process is for administrators of the installation to set", "type"
    if kind == LITELLM and importlib.util.find_spec("litellm") is None:
        return "LiteLLM is not installed: pip install 'bursar[litellm]'", "type"
    return None


def _function(name: str, place: str) -> Backend:
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigError(
            f"{place}: no backend '{name}' is registered; functions are named as package.module:function",
            field="backend",
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise ConfigError(f"{place}: backend '{name}' cannot be loaded: {e}", field="backend") from None
    if not callable(found):
        raise ConfigError(f"{place}: backend '{name}' is no function", field="backend")
    return found  # type: ignore[no-any-return]

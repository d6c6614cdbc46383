"""LiteLLM as a backend: its own functions, in this process. https://docs.litellm.ai/docs/completion/input"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bursar.net.backends import BackendTransport, Fields
from bursar.types.errors import BackendError
from bursar.wire.encode import Request

_SCHEME = "litellm://"
_PATHS = ("/chat/completions", "/embeddings")


class LitellmTransport(BackendTransport):
    """Calls `litellm.acompletion` and `litellm.aembedding`. It neither retries nor falls back: attempts are counted and
    decided here. The library is loaded with the first call, in a thread, for that takes seconds."""

    def __init__(self) -> None:
        super().__init__(self._call)
        self._library: Any = None

    async def _call(self, operation: str, fields: Fields) -> object:
        if self._library is None:
            self._library = await asyncio.wrap_future(self.in_thread(_load))
        function = self._library.aembedding if operation == "embeddings" else self._library.acompletion
        return await function(**fields)

    def fields(self, request: Request, fields: Fields, deadline: float) -> Fields:
        """With the key and the address of the provider's settings, in the names the library has for them."""
        given = {**fields, "timeout": max(deadline - time.monotonic(), 0.1), "max_retries": 0, "num_retries": 0}
        for name, value in request.headers:
            if name.lower() == "authorization":
                given["api_key"] = value.removeprefix("Bearer ")
        if not request.url.startswith(_SCHEME):
            given["api_base"] = next(
                (request.url.removesuffix(p) for p in _PATHS if request.url.endswith(p)), request.url
            )
        return given

    def failure(self, error: BaseException) -> BackendError:
        """Its exceptions are OpenAI's, with the status the provider answered."""
        status = getattr(error, "status_code", None)
        known = status if isinstance(status, int) and 400 <= status < 600 else 502
        code = getattr(error, "code", None)
        return BackendError(
            str(getattr(error, "message", None) or error), known, type(error).__name__,
            str(code) if code is not None else None,
        )  # fmt: skip

    async def close(self) -> None:
        await super().close()
        close = getattr(self._library, "close_litellm_async_clients", None)
        if close is not None:
            await close()


def _load() -> Any:
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.drop_params = False
    return litellm

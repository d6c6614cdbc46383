"""The one seam to the network: a request goes in, an answer's status, headers and bytes come out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from bursar.wire.encode import Request


class NotSentError(Exception):
    """The provider was not reached: nothing of the request was sent."""


class HungUpError(Exception):
    """The connection ended before its answer did."""


class Answer(Protocol):
    """An answer under way. `headers` are as they came, by lower-case name."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[bytes, bytes]: ...

    @property
    def is_over(self) -> bool:
        """Whether all of it has been read; where that is not known yet, only `read` can tell."""

    async def read(self, deadline: float) -> bytes:
        """The next bytes as they come, b"" at the end. Raises HungUpError; TimeoutError where none came until
        `deadline`, a time of the monotonic clock."""

    def done(self) -> None:
        """The answer is complete, as its own end mark says: the connection may be used again if it is."""

    def abort(self) -> None:
        """Closes the connection now; a plain function, for it must work when nothing can be awaited."""


class Transport(Protocol):
    """Sends requests to the providers of one kind."""

    async def send(self, request: Request, *, connect_timeout_s: float, deadline: float) -> Answer:
        """Sends, and returns when the status and headers are there, which is before `deadline`, a time of the
        monotonic clock. Raises NotSentError, HungUpError, TimeoutError."""

    async def close(self) -> None: ...

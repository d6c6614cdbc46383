"""The one seam to the network: a request goes in, an answer's status, headers and bytes come out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from bursar.wire.encode import Request


class NotSentError(Exception):
    """The provider was not reached: nothing of the request was sent."""


class HungUpError(Exception):
    """The connection ended before its answer did."""


class Reach(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """How a provider is reached. `ca` is a PEM text of authorities to trust in place of the machine's own; with
    `any_certificate` whatever is shown is taken. A `guarded` one does not reach this machine or its private networks,
    but for what the installation allows. `backend` names a function of this process, where one answers."""

    kind: str = "http"
    backend: str | None = None
    proxy: str | None = None
    http2: bool = False
    ca: str | None = None
    any_certificate: bool = False
    guarded: bool = False

    def __repr__(self) -> str:
        proxy = "" if self.proxy is None else ", by a proxy"  # which may have a password
        return f"Reach({self.kind}{proxy})"


HTTP = Reach()
"""As most are."""


class Answer(Protocol):
    """An answer under way. `headers` are as they came, by lower-case name."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[bytes, bytes]: ...

    @property
    def is_over(self) -> bool:
        """Whether all of it has been read; where that is not known yet, only `read` can tell."""

    def at_hand(self) -> bytes:
        """The next bytes where they have come, and can be had at once; otherwise b"", and `read` tells."""

    async def read(self, deadline: float) -> bytes:
        """The next bytes as they come, b"" at the end. Raises HungUpError; TimeoutError where none came until
        `deadline`, a time of the monotonic clock."""

    def done(self) -> None:
        """The answer is complete, as its own end mark says: the connection may be used again if it is."""

    def abort(self) -> None:
        """Closes the connection now; a plain function, for it must work when nothing can be awaited."""


class Transport(Protocol):
    """Sends requests to the providers that are reached alike."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""

    @property
    def leaves_by_turns(self) -> bool:
        """Whether requests leave where `Turns` say so, and never before."""

    async def send(self, request: Request, *, connect_timeout_s: float, deadline: float) -> Answer:
        """Sends, and returns when the status and headers are there, which is before `deadline`, a time of the
        monotonic clock. Raises NotSentError, HungUpError, TimeoutError."""

    async def close(self) -> None: ...

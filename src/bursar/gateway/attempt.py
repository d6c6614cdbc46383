"""One attempt of a call: its entry, and its answer as it is read, within its limits of time.

What is wrong with an answer is raised as a ProviderError; whoever runs the attempt settles its entry.
"""

from __future__ import annotations

import time

import msgspec

from bursar.gateway import outcome
from bursar.gateway.provider import Target
from bursar.ledger.ledger import Entry
from bursar.net.transport import Answer, HungUpError, Transport
from bursar.types.call import Cost
from bursar.types.errors import ProviderError, ProviderTimeoutError, TruncatedError
from bursar.wire.assemble import Assembly
from bursar.wire.encode import Request
from bursar.wire.engine import Decoder, Frame
from bursar.wire.framing import FramingError
from bursar.wire.readers import Endpoint

_ERROR_BODY_BYTES = 1024 * 1024
_COLLECTED_BYTES = 4 * 1024 * 1024
# How long usage and the end mark may come after the finish reason.
_AFTER_FINISH_S = 10.0


class Attempt(msgspec.Struct, eq=False):
    """One attempt under way: its entry, the answer, and what it has said so far; `deadline` is the end of its time, by
    the monotonic clock."""

    target: Target
    endpoint: Endpoint
    request: Request
    entry: Entry
    decoder: Decoder
    assembly: Assembly
    deadline: float
    answer: Answer | None = None
    first_content_ns: int | None = None
    whole: bytes = b""
    read_at_once: bool = False
    output: bytes | None = None
    cost: Cost | None = None
    token: str | None = None

    def __repr__(self) -> str:
        return f"Attempt(call_id={self.entry.opened.call_id!r}, attempt={self.entry.opened.attempt}, {self.target!r})"

    async def authorized(self, transport: Transport, deadline: float) -> Request:
        """The request signed, or with a token that was fetched. Raises ProviderError where there is none to be had."""
        provider, request = self.target.provider, self.request
        if provider.signature is not None:
            return await provider.signature.signed(request)
        if provider.credential is None:
            return request
        self.token = await provider.credential.token(transport, deadline=deadline)
        return msgspec.structs.replace(request, headers=(*request.headers, ("authorization", f"Bearer {self.token}")))

    def token_refused(self, error: ProviderError) -> bool:
        """Whether the provider did not take the token: then it is not used again."""
        credential = self.target.provider.credential
        if credential is None or self.token is None or self.answer is None or self.answer.status != 401:
            return False
        credential.refuse(self.token)
        return error.kind == "auth"

    async def collected(self, data: bytes) -> bytes:
        """The bytes of a plain answer, up to a bound."""
        assert self.answer is not None
        parts, size = [data], len(data)
        while not self.answer.is_over and size < _COLLECTED_BYTES:
            data = await self.more()
            if not data:
                break
            parts.append(data)
            size += len(data)
        return b"".join(parts)

    def read_whole(self, data: bytes) -> bool:
        """Reads a plain answer at once, where it is one text: as most are."""
        answered = self.decoder.read_whole(data)
        if answered is None:
            return False
        self.assembly = Assembly.of(answered)
        self.whole = data
        self.read_at_once = True
        return True

    async def rest(self, data: bytes) -> bytes:
        """The body of an error answer, up to a bound."""
        body = data
        try:
            while data and len(body) < _ERROR_BODY_BYTES:
                data = await self.more()
                body += data
        except ProviderError:
            pass
        return body

    async def more(self) -> bytes:
        """The next bytes, b"" at the end, within the limits between chunks and in all."""
        assert self.answer is not None
        deadline = self.wait_until()
        try:
            return await self.answer.read(deadline)
        except (TimeoutError, HungUpError) as error:
            return self.end_of(error, deadline)

    def wait_until(self) -> float:
        """Until when the next bytes must have come. Raises ProviderTimeoutError where the time is up already: bytes
        that keep coming are no reason to go on."""
        limit_s = self.target.provider.timeouts.chunk_s
        if self.decoder.saw_finish:
            limit_s = min(limit_s, _AFTER_FINISH_S)
        now = time.monotonic()
        if now >= self.deadline:
            raise self.timed_out("end", self.target.provider.timeouts.total_s)
        return min(now + limit_s, self.deadline)

    def end_of(self, error: TimeoutError | HungUpError, deadline: float) -> bytes:
        """What it means that no more bytes came: the end, or a failure, which is raised."""
        provider, decoder = self.target.provider, self.decoder
        if isinstance(error, TimeoutError):
            if decoder.saw_finish and not decoder.is_whole:
                return b""  # it had said why it stopped; only its end mark is missing, and the socket left open
            if deadline == self.deadline:
                raise self.timed_out("end", provider.timeouts.total_s) from None
            raise self.timed_out("next chunk", provider.timeouts.chunk_s) from None
        if (decoder.ended or decoder.saw_finish) and not decoder.is_whole:
            return b""  # it had said that it ended; how the connection ended says nothing
        raise TruncatedError(f"'{provider.name}' hung up in the middle of its answer: {error}",
                             provider=provider.name, kind="truncated") from error  # fmt: skip

    def read(self, data: bytes) -> list[Frame]:
        try:
            frames = self.decoder.feed(data) if data else self.decoder.close()
        except FramingError as e:
            raise ProviderError(f"'{self.target.provider.name}': {e}", provider=self.target.provider.name,
                                kind="upstream_error") from e  # fmt: skip
        events = frames[0].events if len(frames) == 1 else [event for frame in frames for event in frame.events]
        if events and self.assembly.take(events) and self.first_content_ns is None:
            self.first_content_ns = time.monotonic_ns()
        if self.decoder.is_whole and frames:
            self.whole = frames[0].raw
        return frames

    def refuse_early_error(self) -> None:
        """An error before any content is still the attempt's failure: the next target may do better."""
        if self.assembly.error is not None and not self.assembly.has_content:
            raise outcome.in_band_failure(self, self.assembly.error)

    def timed_out(self, what: str, limit_s: float) -> ProviderTimeoutError:
        name = self.target.provider.name
        return ProviderTimeoutError(f"'{name}' did not send its {what} within {limit_s:g} s", provider=name,
                                    kind="timeout")  # fmt: skip

    def stop(self) -> None:
        if self.answer is not None:
            self.answer.abort()

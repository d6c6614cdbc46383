"""One call on its way: attempts until one answers, its frames as they come, and its end, however it comes.

`start()` returns when the first frame is there (for a plain call: the whole answer); `next()` gives the
frames that follow; `close()` is a plain function that may be called at any moment, also when nothing can be
awaited any more, and leaves no entry open. All entries are settled in `_settle`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from bursar.gateway import outcome
from bursar.gateway.attempts import GiveUp, NextTarget, Retry, decide
from bursar.gateway.registry import FINISH, Target
from bursar.ledger.ledger import Entry, now_us
from bursar.ledger.records import Settled
from bursar.net.transport import Answer, HungUpError, NotSentError
from bursar.types.call import EMBEDDINGS, Call, Cost, Result
from bursar.types.errors import (
    BursarError,
    ProviderConnectionError,
    ProviderError,
    ProviderTimeoutError,
    TruncatedError,
)
from bursar.wire.assemble import Assembly
from bursar.wire.encode import Request
from bursar.wire.engine import Decoder, Frame
from bursar.wire.framing import FrameTooLongError

if TYPE_CHECKING:
    from bursar.gateway.gateway import Gateway

T = TypeVar("T")
_ERROR_BODY_BYTES = 1024 * 1024
_COLLECTED_BYTES = 4 * 1024 * 1024
# How long usage and the end mark may come after the finish reason.
_AFTER_FINISH_S = 10.0


class Attempt(msgspec.Struct, eq=False):
    """One attempt under way: its entry, the answer, and what it has said so far; `deadline` is the end of its time, by
    the monotonic clock."""

    target: Target
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


class Running(msgspec.Struct, eq=False):
    """One call. `attempt` is the current one, `attempts` says how many there were so far, `completed` is the last
    entry's end, where it completed. `_shields` is true where an answer of the plan may have to be read on when nobody
    waits for it."""

    _gateway: Gateway
    call: Call
    _plan: list[tuple[Target, Request]]
    _shields: bool
    attempts: int = 0
    attempt: Attempt | None = None
    completed: Settled | None = None
    _position: int = 0
    _tries: int = 0
    _pending: Sequence[Frame] = ()
    _failure: ProviderError | None = None
    _step: asyncio.Future[Any] | None = None
    _client_gone: bool = False
    _ended: bool = False
    _result: Result | None = None

    @property
    def result(self) -> Result | None:
        """The result, once the last entry is settled as completed."""
        if self._result is None and self.completed is not None and self.attempt is not None:
            self._result = outcome.result(self.call, self.attempt, self.completed)
        return self._result

    def start(self) -> Awaitable[None]:
        """Makes attempts until one answers. Raises ProviderError of the last one, LedgerFullError."""
        return self._run(self._begin()) if self._shields else self._begin()

    async def next(self) -> Sequence[Frame] | None:
        """The next frames, None at the end. Raises ProviderError where the answer fails in the middle."""
        if self._pending:
            frames, self._pending = self._pending, ()
            return frames
        if self._failure is not None:
            raise self._failure
        if self._ended:
            return None
        return await (self._run(self._advance()) if self._shields else self._advance())

    def close(self) -> None:
        """Ends the call where it is. The provider's policy says whether its answer is still read on."""
        self._gateway.forget(self)
        if self._ended:
            return
        attempt = self.attempt
        reads_on = attempt is not None and attempt.target.provider.on_disconnect == FINISH
        if not self._client_gone and reads_on and not attempt.entry.settled:  # type: ignore[union-attr]
            self._client_gone = True
            self._gateway.finish_later(self._finish())
        else:
            self.abandon()

    def abandon(self) -> None:
        """Ends the call now, whatever its provider's policy; one that is read on already goes on."""
        if self._ended or self._client_gone:
            return
        self._client_gone = True
        attempt = self.attempt
        if self._step is not None and not self._step.done():
            self._step.cancel()
        elif attempt is not None and not attempt.entry.settled:
            self._cancelled(attempt)

    async def _run(self, step: Coroutine[object, object, T]) -> T:
        """Awaits a step that outlives its awaiter, for the answer may have to be read on."""
        self._step = task = asyncio.ensure_future(step)
        return await asyncio.shield(task)

    async def _finish(self) -> None:
        """Reads on after the client has left, within the provider's bound."""
        attempt = self.attempt
        assert attempt is not None
        try:
            async with asyncio.timeout(attempt.target.provider.timeouts.finish_max_s):
                if self._step is not None:
                    await self._step
                while not self._ended:
                    await self._advance()
        except (TimeoutError, BursarError):
            pass
        finally:
            if not attempt.entry.settled:
                self._cancelled(attempt)

    async def _begin(self) -> None:
        while True:
            attempt = self._open()
            try:
                await self._reach(attempt)
                return
            except ProviderError as error:
                decision = decide(
                    error,
                    tries=self._tries,
                    retries=attempt.target.provider.retries,
                    targets_left=0 if self._client_gone else len(self._plan) - self._position - 1,
                    jitter=random.random(),
                )
                if self._client_gone:
                    decision = GiveUp()
                self._failed(attempt, error)
                await self._carry_out(decision, error)
            except asyncio.CancelledError:
                self._cancelled(attempt)
                raise
            except BaseException as error:
                self._broke(attempt, error)
                raise

    async def _carry_out(self, decision: Retry | NextTarget | GiveUp, error: ProviderError) -> None:
        match decision:
            case Retry(after_s):
                await asyncio.sleep(after_s)
                if self._client_gone:
                    raise error
            case NextTarget():
                self._position += 1
                self._tries = 0
            case GiveUp():
                self._ended = True
                raise error

    def _open(self) -> Attempt:
        """Puts the entry on disk: after this, and not before, its request may leave."""
        target, request = self._plan[self._position]
        self._tries += 1
        self.attempts += 1
        ledger = self._gateway.ledger
        entry = ledger.open(outcome.opened(ledger.bodies, self.call, target, request, self.attempts, now_us()))
        decoder = Decoder(target.provider.readers, self.call.stream, self.call.operation == EMBEDDINGS)
        deadline = entry.started_ns / 1e9 + target.provider.timeouts.total_s
        self.attempt = attempt = Attempt(target, request, entry, decoder, Assembly(), deadline)
        return attempt

    async def _reach(self, attempt: Attempt) -> None:
        """Sends, and reads to the first frame that says something; a plain answer is read whole."""
        provider = attempt.target.provider
        transport = self._gateway.transports[provider.transport]
        try:
            timeouts = provider.timeouts
            deadline = min(time.monotonic() + timeouts.first_byte_s, attempt.deadline)
            answer = attempt.answer = await transport.send(
                attempt.request, connect_timeout_s=timeouts.connect_s, deadline=deadline
            )
            data = await answer.read(deadline)
        except TimeoutError:
            raise self._timed_out(attempt, "first byte", provider.timeouts.first_byte_s) from None
        except NotSentError as e:
            raise ProviderConnectionError(f"'{provider.name}' was not reached: {e}", provider=provider.name,
                                          kind="connection") from e  # fmt: skip
        except HungUpError as e:
            raise ProviderConnectionError(f"'{provider.name}' hung up before it answered: {e}", provider=provider.name,
                                          kind="connection") from e  # fmt: skip
        if not 200 <= answer.status < 300:
            raise outcome.http_failure(provider, answer, await self._rest(attempt, data))
        if not self.call.stream and data[:1] == b"{":
            if not answer.is_over:
                data = await self._collected(attempt, data)
            if self._read_whole(attempt, data):
                self._conclude(attempt)
                return
        while True:
            frames = self._read(attempt, data)
            self._pending = [*self._pending, *frames] if self._pending else frames
            if not data or attempt.decoder.ended:
                self._conclude(attempt)
                return
            if self.call.stream and any(not f.is_silent for f in frames):
                self._refuse_early_error(attempt)
                if attempt.assembly.error is not None:
                    self._failure = outcome.in_band_failure(provider, attempt.assembly.error)
                    self._failed(attempt, self._failure)
                return
            data = await self._more(attempt)

    async def _collected(self, attempt: Attempt, data: bytes) -> bytes:
        """The bytes of a plain answer, up to a bound."""
        assert attempt.answer is not None
        parts, size = [data], len(data)
        while not attempt.answer.is_over and size < _COLLECTED_BYTES:
            data = await self._more(attempt)
            if not data:
                break
            parts.append(data)
            size += len(data)
        return b"".join(parts)

    @staticmethod
    def _read_whole(attempt: Attempt, data: bytes) -> bool:
        """Reads a plain answer at once, where it is one text: as most are."""
        answered = attempt.decoder.read_whole(data)
        if answered is None:
            return False
        attempt.assembly.take_whole(answered)
        attempt.whole = data
        attempt.read_at_once = True
        return True

    async def _rest(self, attempt: Attempt, data: bytes) -> bytes:
        """The body of an error answer, up to a bound."""
        body = data
        try:
            while data and len(body) < _ERROR_BODY_BYTES:
                data = await self._more(attempt)
                body += data
        except ProviderError:
            pass
        return body

    async def _advance(self) -> Sequence[Frame] | None:
        attempt = self.attempt
        assert attempt is not None
        assert attempt.answer is not None
        try:
            deadline = self._deadline(attempt)
            try:
                data = await attempt.answer.read(deadline)  # as `_more` does, for each of many chunks
            except (TimeoutError, HungUpError) as error:
                data = self._end_of(attempt, error, deadline)
            frames = self._read(attempt, data)
            if not data or attempt.decoder.ended or attempt.assembly.error is not None:
                try:
                    self._conclude(attempt)
                except ProviderError as error:
                    # The caller gets what there is first, and the failure after it.
                    self._failed(attempt, error)
                    self._failure = error
                    return frames
            return frames
        except ProviderError as error:
            self._failed(attempt, error)
            raise
        except asyncio.CancelledError:
            self._cancelled(attempt)
            raise
        except BaseException as error:
            self._broke(attempt, error)
            raise

    async def _more(self, attempt: Attempt) -> bytes:
        """The next bytes, b"" at the end, within the limits between chunks and in all."""
        assert attempt.answer is not None
        deadline = self._deadline(attempt)
        try:
            return await attempt.answer.read(deadline)
        except (TimeoutError, HungUpError) as error:
            return self._end_of(attempt, error, deadline)

    def _deadline(self, attempt: Attempt) -> float:
        """Until when the next bytes must have come. Raises ProviderTimeoutError where the time is up already: bytes
        that keep coming are no reason to go on."""
        limit_s = attempt.target.provider.timeouts.chunk_s
        if attempt.decoder.saw_finish:
            limit_s = min(limit_s, _AFTER_FINISH_S)
        now = time.monotonic()
        if now >= attempt.deadline:
            raise self._timed_out(attempt, "end", attempt.target.provider.timeouts.total_s)
        return min(now + limit_s, attempt.deadline)

    def _end_of(self, attempt: Attempt, error: TimeoutError | HungUpError, deadline: float) -> bytes:
        """What it means that no more bytes came: the end, or a failure, which is raised."""
        provider, decoder = attempt.target.provider, attempt.decoder
        if isinstance(error, TimeoutError):
            if decoder.saw_finish and not decoder.is_whole:
                return b""  # it had said why it stopped; only its end mark is missing, and the socket left open
            if deadline == attempt.deadline:
                raise self._timed_out(attempt, "end", provider.timeouts.total_s) from None
            raise self._timed_out(attempt, "next chunk", provider.timeouts.chunk_s) from None
        if decoder.finished and not decoder.is_whole:
            return b""  # it had said that it ended; how the connection ended says nothing
        raise TruncatedError(f"'{provider.name}' hung up in the middle of its answer: {error}",
                             provider=provider.name, kind="truncated") from error  # fmt: skip

    def _read(self, attempt: Attempt, data: bytes) -> list[Frame]:
        try:
            frames = attempt.decoder.feed(data) if data else attempt.decoder.close()
        except FrameTooLongError as e:
            raise ProviderError(f"'{attempt.target.provider.name}': {e}", provider=attempt.target.provider.name,
                                kind="upstream_error") from e  # fmt: skip
        events = frames[0].events if len(frames) == 1 else [event for frame in frames for event in frame.events]
        if events and attempt.assembly.take(events) and attempt.first_content_ns is None:
            attempt.first_content_ns = time.monotonic_ns()
        if attempt.decoder.is_whole and frames:
            attempt.whole = frames[0].raw
        return frames

    def _refuse_early_error(self, attempt: Attempt) -> None:
        """An error before any content is still the attempt's failure: the next target may do better."""
        if attempt.assembly.error is not None and not attempt.assembly.has_content:
            raise outcome.in_band_failure(attempt.target.provider, attempt.assembly.error)

    def _conclude(self, attempt: Attempt) -> None:
        """The bytes have ended, or said so. Settles as completed, or raises what was wrong."""
        provider = attempt.target.provider
        if attempt.assembly.error is not None:
            raise outcome.in_band_failure(provider, attempt.assembly.error)
        if not attempt.decoder.finished:
            raise TruncatedError(f"the answer of '{provider.name}' ended without saying that it ended",
                                 provider=provider.name, kind="truncated")  # fmt: skip
        if attempt.decoder.is_whole and not attempt.assembly.has_content and attempt.assembly.finish_reason is None:
            outcome.refuse_unreadable(provider, attempt.whole)
        assert attempt.answer is not None
        if attempt.entry.settled:
            raise ProviderConnectionError("the client was closed while this call was under way", provider=provider.name,
                                          kind="connection")  # fmt: skip
        attempt.answer.done()
        self._settle(attempt, "completed", None)

    def _timed_out(self, attempt: Attempt, what: str, limit_s: float) -> ProviderTimeoutError:
        name = attempt.target.provider.name
        return ProviderTimeoutError(f"'{name}' did not send its {what} within {limit_s:g} s", provider=name,
                                    kind="timeout")  # fmt: skip

    def _failed(self, attempt: Attempt, error: ProviderError) -> None:
        error.call_id = self.call.call_id
        self._pending = () if attempt.first_content_ns is None else self._pending
        self._stop(attempt)
        self._settle(attempt, "failed", error)

    def _cancelled(self, attempt: Attempt) -> None:
        self._stop(attempt)
        self._settle(attempt, "cancelled", None)

    def _broke(self, attempt: Attempt, error: BaseException) -> None:
        """A fault of ours is still the end of an entry."""
        if not attempt.entry.settled:
            self._stop(attempt)
            name = attempt.target.provider.name
            self._settle(attempt, "failed", ProviderError(f"internal error: {error!r}", provider=name, kind="internal"))

    @staticmethod
    def _stop(attempt: Attempt) -> None:
        if attempt.answer is not None:
            attempt.answer.abort()

    def _settle(self, attempt: Attempt, status: str, error: ProviderError | None) -> None:
        """The one place where entries are settled; an end that comes after another one changes nothing."""
        if attempt.entry.settled:
            return
        settled = outcome.settled(self._gateway, self.call, attempt, status, error)
        if status == "completed":
            self.completed = settled
        self._ended = status != "failed" or self._ended
        self._gateway.ledger.settle(attempt.entry, settled)

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
from bursar.gateway.attempt import Attempt
from bursar.gateway.decisions import GiveUp, NextTarget, Retry, decide
from bursar.gateway.places import Places
from bursar.gateway.provider import FINISH, Provider, Target
from bursar.ledger.ledger import now_us
from bursar.ledger.records import Settled
from bursar.net.transport import HungUpError, NotSentError, Transport
from bursar.types.call import Call, Result
from bursar.types.errors import (
    BursarError,
    BusyError,
    ProviderConnectionError,
    ProviderError,
    TruncatedError,
)
from bursar.wire.assemble import Assembly
from bursar.wire.encode import Request
from bursar.wire.engine import Decoder, Frame

if TYPE_CHECKING:
    from bursar.gateway.gateway import Gateway

T = TypeVar("T")
Course = tuple[Target, Request]
"""Where an attempt goes, and what it sends."""


class Running(msgspec.Struct, eq=False):
    """One call. `attempt` is the current one, `attempts` says how many there were so far, `completed` is the last
    entry's end, where it completed. `_shields` is true where an answer of the plan may have to be read on when nobody
    waits for it; `_said` is what there is to say of the next attempt, beside why its target is one."""

    _gateway: Gateway
    call: Call
    _plan: list[Course]
    _shields: bool
    _said: str | None = None
    attempts: int = 0
    attempt: Attempt | None = None
    completed: Settled | None = None
    _position: int = 0
    _tries: int = 0
    _pending: Sequence[Frame] = ()
    _failure: ProviderError | None = None
    _step: asyncio.Future[Any] | None = None
    _token_renewed: bool = False
    _client_gone: bool = False
    _ended: bool = False
    _places: Places | None = None
    _result: Result | None = None

    @property
    def frames(self) -> Sequence[Frame]:
        """The frames of a plain call that was answered with some."""
        return self._pending

    @property
    def is_over(self) -> bool:
        """Whether every frame was given out, and nothing is wrong with the answer."""
        return self._ended and not self._pending and self._failure is None

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
            provider = self._plan[self._position][0].provider
            if provider.max_concurrent is not None:
                await self._take_place()
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
                if attempt.token_refused(error) and not self._token_renewed:
                    self._token_renewed, decision = True, Retry(0.0)
                    self._said = "with a new token"
                elif not self._client_gone:
                    self._gateway.resting.failed(attempt.target, error)
                    self._said = _after(decision, attempt.target, error)
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
                self._token_renewed = False
            case GiveUp():
                self._ended = True
                raise error

    async def _take_place(self) -> None:
        """Takes a place of the provider; where all are taken, of the next one that has any, else waits in line."""
        full: list[str] = []
        for position in range(self._position, len(self._plan)):
            target = self._plan[position][0]
            places = self._gateway.places(target.provider)
            if places is None or places.take():
                if position != self._position:
                    self._position, self._tries = position, 0
                    self._said = "; ".join(filter(None, (self._said, f"all places of {', '.join(full)} are taken")))
                self._places = places
                return
            full.append(target.provider.name)
        provider = self._plan[self._position][0].provider
        places = self._gateway.places(provider)
        if places is None or await places.wait(provider.max_wait_s):
            self._places = places
            return
        self._ended = True
        raise BusyError(
            f"'{provider.name}' serves {provider.max_concurrent} calls at once from here, and none of them ended "
            f"within {provider.max_wait_s:g} s: come back in a moment"
        )

    def _open(self) -> Attempt:
        """Puts the entry on disk, by the end of this turn of the loop: after this, and not before, its request may
        leave."""
        target, request = self._plan[self._position]
        self._tries += 1
        self.attempts += 1
        ledger = self._gateway.ledger
        reason = target.reason
        if self._said is not None:
            reason, self._said = f"{reason}; {self._said}", None
        try:
            entry = ledger.open(
                outcome.opened(ledger.bodies, self.call, target, reason, request, self.attempts, now_us())
            )
        except BaseException:
            self._leave_place()
            raise
        endpoint = target.provider.endpoint(self.call.operation)
        decoder = Decoder(endpoint.readers, self.call.stream)
        deadline = entry.started_ns / 1e9 + target.provider.timeouts.total_s
        self.attempt = attempt = Attempt(target, endpoint, request, entry, decoder, Assembly(), deadline)
        return attempt

    def _transport_of(self, provider: Provider) -> Transport:
        """What its requests leave by. Where they leave at once, what is to be on disk before is there now."""
        transport = self._gateway.transports.of(provider.reach)
        if not transport.leaves_by_turns:
            self._gateway.ledger.write()
        return transport

    async def _reach(self, attempt: Attempt) -> None:
        """Sends, and reads to the first frame that says something; a plain answer is read whole."""
        provider = attempt.target.provider
        transport = self._transport_of(provider)
        try:
            timeouts = provider.timeouts
            deadline = min(time.monotonic() + timeouts.first_byte_s, attempt.deadline)
            request = attempt.request if provider.shows_key else await attempt.authorized(transport, deadline)
            answer = attempt.answer = await transport.send(
                request, connect_timeout_s=timeouts.connect_s, deadline=deadline
            )
            data = answer.at_hand() or await answer.read(deadline)
        except TimeoutError:
            raise attempt.timed_out("first byte", provider.timeouts.first_byte_s) from None
        except (NotSentError, HungUpError) as e:
            why = "was not reached" if isinstance(e, NotSentError) else "hung up before it answered"
            raise ProviderConnectionError(f"'{provider.name}' {why}: {e}", provider=provider.name,
                                          kind="connection") from e  # fmt: skip
        if not 200 <= answer.status < 300:
            raise outcome.http_failure(attempt, await attempt.rest(data))
        if attempt.endpoint.spec.media:
            attempt.decoder.comes_as(answer.headers.get(b"content-type", b"").lower())
        elif not self.call.stream and data[:1] == b"{":
            if not answer.is_over:
                data = await attempt.collected(data)
            if attempt.read_whole(data):
                self._conclude(attempt)
                return
        while True:
            frames = attempt.read(data)
            self._pending = [*self._pending, *frames] if self._pending else frames
            if not data or attempt.decoder.ended:
                self._conclude(attempt)
                return
            if self.call.stream and any(not f.is_silent for f in frames):
                attempt.refuse_early_error()
                if attempt.assembly.error is not None:
                    self._failure = outcome.in_band_failure(attempt, attempt.assembly.error)
                    self._failed(attempt, self._failure)
                return
            data = await attempt.more()

    async def _advance(self) -> Sequence[Frame] | None:
        attempt = self.attempt
        assert attempt is not None
        assert attempt.answer is not None
        try:
            deadline = attempt.wait_until()
            try:
                data = await attempt.answer.read(deadline)  # as `more` does, for each of many chunks
            except (TimeoutError, HungUpError) as error:
                data = attempt.end_of(error, deadline)
            frames = attempt.read(data)
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

    def _conclude(self, attempt: Attempt) -> None:
        """The bytes have ended, or said so. Settles as completed, or raises what was wrong."""
        provider = attempt.target.provider
        if attempt.assembly.error is not None:
            raise outcome.in_band_failure(attempt, attempt.assembly.error)
        if not attempt.decoder.finished:
            raise TruncatedError(f"the answer of '{provider.name}' ended without saying that it ended",
                                 provider=provider.name, kind="truncated")  # fmt: skip
        if not attempt.assembly.has_content and attempt.assembly.finish_reason is None:
            outcome.refuse_nothing(attempt)
        assert attempt.answer is not None
        if attempt.entry.settled:
            raise ProviderConnectionError("the client was closed while this call was under way", provider=provider.name,
                                          kind="connection")  # fmt: skip
        attempt.answer.done()
        self._settle(attempt, "completed", None)

    def _failed(self, attempt: Attempt, error: ProviderError) -> None:
        error.call_id = self.call.call_id
        self._pending = () if attempt.first_content_ns is None else self._pending
        attempt.stop()
        self._settle(attempt, "failed", error)

    def _cancelled(self, attempt: Attempt) -> None:
        attempt.stop()
        self._settle(attempt, "cancelled", None)

    def _broke(self, attempt: Attempt, error: BaseException) -> None:
        """A fault of ours is still the end of an entry."""
        if not attempt.entry.settled:
            attempt.stop()
            name = attempt.target.provider.name
            self._settle(attempt, "failed", ProviderError(f"internal error: {error!r}", provider=name, kind="internal"))

    def _settle(self, attempt: Attempt, status: str, error: ProviderError | None) -> None:
        """The one place where entries are settled; an end that comes after another one changes nothing."""
        if attempt.entry.settled:
            return
        if self._places is not None:
            self._leave_place()
        settled = outcome.settled(self._gateway, self.call, attempt, status, error)
        if status == "completed":
            self.completed = settled
            if not self._gateway.resting.is_empty:
                self._gateway.resting.served(attempt.target)
        if status != "failed":
            self._ended = True
        self._gateway.ledger.settle(attempt.entry, settled)

    def _leave_place(self) -> None:
        places, self._places = self._places, None
        if places is not None:
            places.leave()


def _after(decision: Retry | NextTarget | GiveUp, target: Target, error: ProviderError) -> str | None:
    """What the next attempt's entry says of the one before."""
    match decision:
        case Retry():
            return f"again after {error.kind}"
        case NextTarget():
            return f"after {error.kind} of {target.name}"
    return None

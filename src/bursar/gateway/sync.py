"""The client for code that is not asynchronous: the same calls, driven on a loop in a thread of its own.

It works where a loop is running already (a notebook), from any number of threads, and in a forked child,
which begins a loop and a spool of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import TypeVar

from bursar.gateway.bundle import SyncBundle
from bursar.gateway.client import Client, Stream
from bursar.gateway.registry import AUTO
from bursar.types.call import Context, Result
from bursar.types.errors import BursarError
from bursar.types.events import Event

T = TypeVar("T")
Opener = Callable[[], AbstractAsyncContextManager[Client]]


class _Loop:
    """A loop in a thread, with a client open in it."""

    def __init__(self, opener: Opener) -> None:
        self.pid = os.getpid()
        self._opener = opener
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bursar", daemon=True)
        self._thread.start()
        self._context = opener()
        try:
            self.client = self.run(self._context.__aenter__())
        except BaseException:
            self._end()
            raise

    def run(self, work: Coroutine[object, object, T]) -> T:
        if threading.current_thread() is self._thread:
            work.close()
            raise BursarError(
                "a synchronous call from inside its own loop would wait for itself: await the async client"
            )
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise BursarError("this client is closed") from None
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise BursarError("this client was closed while the call was under way") from None
        except BaseException:
            # Ctrl-C, or another interruption of the waiting thread, ends the call too.
            future.cancel()
            raise

    def close(self) -> None:
        try:
            self.run(_left(self._context))
        finally:
            with suppress(BursarError):
                self.run(_rest_cancelled())
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _rest_cancelled() -> None:
    """Ends what other threads still wait for, so that none waits for a loop that is gone."""
    tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _left(context: AbstractAsyncContextManager[Client]) -> None:
    await context.__aexit__(None, None, None)


class SyncClient:
    """`complete`, `stream`, `embed` without await. Use it as a context manager, or call `close()`."""

    def __init__(self, opener: Opener, *, context: Context | None = None, parent: SyncClient | None = None) -> None:
        self._opener = opener
        self._context = context
        self._parent = parent
        self._lock = threading.Lock()
        self._own: _Loop | None = None if parent is not None else _Loop(opener)

    def with_context(self, context: Context) -> SyncClient:
        """The same client, whose calls carry this context unless a call brings its own."""
        return SyncClient(self._opener, context=context, parent=self._parent or self)

    def bundle(self, model: str = AUTO, **asked: object) -> SyncBundle:
        """As `Client.bundle`."""
        return SyncBundle(self, model, asked)

    def complete(self, **asked: object) -> Result:
        """As `Client.complete`."""
        loop = self._loop()
        return loop.run(loop.client.complete(**self._with_context(asked)))  # type: ignore[arg-type]

    def embed(self, **asked: object) -> Result:
        """As `Client.embed`."""
        loop = self._loop()
        return loop.run(loop.client.embed(**self._with_context(asked)))  # type: ignore[arg-type]

    def stream(self, **asked: object) -> SyncStream:
        """As `Client.stream`: `with client.stream(...) as stream: for event in stream`."""
        loop = self._loop()
        return SyncStream(loop.run, loop.client.stream(**self._with_context(asked)))  # type: ignore[arg-type]

    def close(self) -> None:
        """Settles what is under way, brings the ledger into the store, and ends the thread."""
        if self._own is not None:
            own, self._own = self._own, None
            if own.pid == os.getpid():
                own.close()

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _with_context(self, asked: dict[str, object]) -> dict[str, object]:
        if self._context is not None and asked.get("context") is None:
            return {**asked, "context": self._context}
        return asked

    def _loop(self) -> _Loop:
        if self._parent is not None:
            return self._parent._loop()
        with self._lock:
            if self._own is None:
                raise BursarError("this client is closed")
            if self._own.pid != os.getpid():
                self._own = _Loop(self._opener)
            return self._own


class SyncStream:
    """A streamed answer for synchronous code."""

    def __init__(self, run: Callable[[Coroutine[object, object, object]], object], stream: Stream) -> None:
        self._run = run
        self._stream = stream

    @property
    def call_id(self) -> str:
        return self._stream.call_id

    @property
    def result(self) -> Result | None:
        """The result once the stream has ended well, else None."""
        return self._stream.result

    def __enter__(self) -> SyncStream:
        self._run(self._stream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(BursarError):  # a client that is closed has ended its streams
            self._run(self._stream.__aexit__(kind, error, trace))

    def __iter__(self) -> Iterator[Event]:
        events = self._stream.__aiter__()
        while True:
            try:
                yield self._run(events.__anext__())  # type: ignore[misc,arg-type]
            except StopAsyncIteration:
                return

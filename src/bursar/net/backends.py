"""Backends in this process behind the seam of the transports: functions that answer, awaited or in threads.

A backend gets the operation (`chat` or `embeddings`) and the request as OpenAI has it, and gives the answer so: an
object, or, for a stream, an iterator of chunks. It may be a coroutine function, an async generator, or a plain function
or generator, which runs as in `asyncio.to_thread`, in threads that hold nobody else up.

Each call is driven by a task of its own, with the caller's context variables, from the first step to the last: what a
backend opens it also closes in that task and that context.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from bursar.net.threads import Threads
from bursar.net.transport import Answer, HungUpError
from bursar.types.errors import BackendError
from bursar.wire.assemble import encode_json
from bursar.wire.encode import Request
from bursar.wire.values import read_json

T = TypeVar("T")
Fields = dict[str, Any]
Backend = Callable[[str, Fields], object]

_THREADS = 64
_AT_END_S = 5.0
_END = object()


class BackendTransport:
    """Answers with what a backend gives. Whatever it raises is an error answer, never this process's failure."""

    leaves_by_turns = False

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._threads = Threads(_THREADS, "bursar-backend")
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def is_idle(self) -> bool:
        return not self._under_way

    async def send(self, request: Request, *, connect_timeout_s: float, deadline: float) -> Answer:
        answer = _BackendAnswer()
        task = asyncio.get_running_loop().create_task(self._drive(answer, request, deadline))
        answer.task = task
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await answer.begun
        except BaseException:
            answer.abort()
            raise
        return answer

    def fields(self, _request: Request, fields: Fields, _deadline: float) -> Fields:
        """What the backend is given."""
        return fields

    def failure(self, error: BaseException) -> BackendError:
        """What an exception means."""
        if isinstance(error, BackendError):
            return error
        said = str(error)
        return BackendError(f"{type(error).__name__}: {said}" if said else type(error).__name__)

    def in_thread(self, work: Callable[[], T], context: contextvars.Context | None = None) -> Future[T]:
        """Begins it in one of the backend's own threads."""
        return self._threads.submit(lambda: (context or contextvars.copy_context()).run(work))

    async def close(self) -> None:
        """Ends what is under way. A thread cannot be ended: what one is at goes on, and nobody waits for it."""
        tasks = set(self._under_way)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_AT_END_S)
        self._threads.close()

    async def _drive(self, answer: _BackendAnswer, request: Request, deadline: float) -> None:
        """One call, from the backend's first step to its last."""
        try:
            await self._answered(answer, request, deadline)
        except BaseException as error:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                answer.fail(self.failure(error))  # what the backend raises by itself is its failure
            elif isinstance(error, asyncio.CancelledError | GeneratorExit):
                raise  # somebody ended the call; what goes wrong while it ends is nobody's answer any more
        finally:
            answer.end()

    async def _answered(self, answer: _BackendAnswer, request: Request, deadline: float) -> None:
        operation = "embeddings" if request.url.endswith("/embeddings") else "chat"
        asked, _ = read_json(request.body)
        if not isinstance(asked, dict):
            raise BackendError("the request is no object", 400)
        context = contextvars.copy_context()  # of whatever it does in threads
        given = await self._called(operation, self.fields(request, asked, deadline), context)
        if not asked.get("stream") or isinstance(given, Mapping) or _is_model(given):
            await answer.give(encode_json(_plain(given)), "application/json")
            return
        chunks = self._chunks(given, context)
        try:
            async for chunk in chunks:
                await answer.give(b"data: " + encode_json(_plain(chunk)) + b"\n\n", "text/event-stream")
        finally:
            with suppress(Exception):  # what goes wrong at the end of a stream that is over is nobody's answer any more
                await chunks.aclose()
        await answer.give(b"data: [DONE]\n\n", "text/event-stream")

    async def _called(self, operation: str, fields: Fields, context: contextvars.Context) -> object:
        backend = self._backend
        given: object = None
        if inspect.iscoroutinefunction(backend) or _gives_later(backend):
            given = backend(operation, fields)
        else:
            given = await asyncio.wrap_future(self.in_thread(lambda: backend(operation, fields), context))
        return await given if hasattr(given, "__await__") else given

    async def _chunks(self, given: object, context: contextvars.Context) -> AsyncGenerator[object, None]:
        """The chunks of either kind of iterator; closed in this task, where it was opened."""
        if hasattr(given, "__aiter__"):
            later: Any = aiter(given)
            try:
                async for chunk in later:
                    yield chunk
            finally:
                close = getattr(later, "aclose", None)
                if close is not None:
                    await close()
            return
        if not hasattr(given, "__iter__") or isinstance(given, str | bytes):
            raise BackendError(f"a stream was asked for, and the backend gave no iterator but {type(given).__name__}")
        now: Any = iter(given)
        step: Future[object] = Future()
        step.set_result(None)
        try:
            while (
                chunk := await asyncio.wrap_future(step := self.in_thread(lambda: next(now, _END), context))
            ) is not _END:
                yield chunk
        finally:
            end: Callable[[], object] = getattr(now, "close", _nothing)
            # A thread cannot be stopped: what it is at goes on to its end, and is closed then.
            if step.done():
                await asyncio.wrap_future(self.in_thread(lambda: _silently(end), context))
            else:
                step.add_done_callback(lambda _: context.run(_silently, end))


class _BackendAnswer:
    """What a driven call has said so far: `begun` is done when there is a status; pieces are given one at a time, when
    the one before was taken."""

    is_over = False

    def __init__(self) -> None:
        self.status = 200
        self.headers: Mapping[bytes, bytes] = {}
        self.task: asyncio.Task[None] | None = None
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(1)

    async def give(self, data: bytes, content_type: str) -> None:
        """The next piece."""
        await self._room.acquire()
        self._say(data, content_type)

    def fail(self, error: BackendError) -> None:
        """The error that is the answer, or its end."""
        said = {"message": error.message, "type": error.type, "param": None, "code": error.code}
        body = encode_json({"error": said})
        if self.begun.done():
            self._pieces.put_nowait(b"data: " + body + b"\n\n")
            return
        self.status = error.status if 400 <= error.status < 600 else 500
        self._say(body, "application/json")

    def end(self) -> None:
        """There is no more; where there was nothing, nobody answered."""
        self._pieces.put_nowait(None if self.task is not None and self.task.cancelling() else b"")
        if not self.begun.done():
            self.begun.set_exception(HungUpError("the client was closed"))
            self.begun.exception()  # nobody may wait for it any more

    def at_hand(self) -> bytes:
        return b""

    async def read(self, deadline: float) -> bytes:
        async with asyncio.timeout(deadline - time.monotonic()):
            data = await self._pieces.get()
        if not data:
            self._pieces.put_nowait(data)  # so it is for whoever asks again
            if data is None:
                raise HungUpError("the answer was closed")
            return b""
        self._room.release()
        return data

    def done(self) -> None:
        self.abort()

    def abort(self) -> None:
        if self.task is not None and not self.task.done():
            self.task.cancel()
        self._pieces.put_nowait(None)

    def _say(self, data: bytes, content_type: str) -> None:
        if not self.begun.done():
            self.headers = {b"content-type": content_type.encode()}
            self.begun.set_result(None)
        self._pieces.put_nowait(data)


def _gives_later(backend: Backend) -> bool:
    """Whether it is an async generator function, however it is wrapped."""
    return inspect.isasyncgenfunction(backend) or inspect.iscoroutinefunction(type(backend).__call__)


def _nothing() -> None:
    return None


def _silently(close: Callable[[], object]) -> None:
    with suppress(BaseException):
        close()


def _is_model(given: object) -> bool:
    return hasattr(given, "model_dump") and not hasattr(given, "__aiter__")


def _plain(given: object) -> object:
    """An object as JSON has it: itself, or what a library's model dumps."""
    dump = getattr(given, "model_dump", None)
    return dump(exclude_none=True, mode="json") if dump is not None else given

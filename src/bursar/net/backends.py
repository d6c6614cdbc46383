"""Backends in this process behind the seam of the transports: functions that answer, awaited or in threads.

A backend gets the operation (`chat` or `embeddings`) and the request as OpenAI has it, and gives the answer so: an
object, or, for a stream, an iterator of chunks. It may be a coroutine function, an async generator, or a plain function
or generator, which runs as in `asyncio.to_thread`, with the caller's context variables, in a pool that holds nobody
else up.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar, cast

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

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._threads: ThreadPoolExecutor | None = None
        self._under_way: set[_BackendAnswer] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def is_idle(self) -> bool:
        return not self._under_way and not self._closing

    async def send(self, request: Request, *, connect_timeout_s: float, deadline: float) -> Answer:
        operation = "embeddings" if request.url.endswith("/embeddings") else "chat"
        fields, _ = read_json(request.body)
        if not isinstance(fields, dict):
            return _BackendAnswer(self, 400, _one(_error_body(BackendError("the request is no object"))))
        stream = bool(fields.get("stream"))
        async with _until(deadline):
            try:
                given = await self._called(operation, self.fields(request, fields, deadline))
                if stream and not (isinstance(given, Mapping) or _is_model(given)):
                    return await self._stream(given)
                return _BackendAnswer(self, 200, _one(encode_json(_plain(given))))
            except (Exception, SystemExit) as error:
                failed = self.failure(error)
                return _BackendAnswer(self, failed.status, _one(_error_body(failed)))

    def fields(self, _request: Request, fields: Fields, _deadline: float) -> Fields:
        """What the backend is given."""
        return fields

    def failure(self, error: BaseException) -> BackendError:
        """What an exception means."""
        return error if isinstance(error, BackendError) else BackendError(f"{type(error).__name__}: {error}")

    async def close(self) -> None:
        for answer in list(self._under_way):
            answer.abort()
        if self._closing:
            await asyncio.wait(self._closing, timeout=_AT_END_S)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def in_thread(self, work: Callable[[], T]) -> Future[T]:
        """Begins it in one of the backend's own threads."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="bursar-backend")
        return self._threads.submit(contextvars.copy_context().run, _contained, work)

    async def _called(self, operation: str, fields: Fields) -> object:
        backend, given = self._backend, None
        if inspect.isasyncgenfunction(backend) or inspect.iscoroutinefunction(backend):
            given = cast("object", backend(operation, fields))
        else:
            given = await asyncio.wrap_future(self.in_thread(lambda: backend(operation, fields)))
        return await given if inspect.isawaitable(given) else given

    async def _stream(self, given: object) -> _BackendAnswer:
        """The chunks as a stream. The first has come when this returns: an error before it is an error answer."""
        chunks = _Chunks(self, given)
        try:
            first = await chunks.next()
        except BaseException:
            await chunks.close()
            raise

        async def framed() -> AsyncGenerator[bytes, None]:
            try:
                chunk = first
                while chunk is not _END:
                    yield b"data: " + encode_json(_plain(chunk)) + b"\n\n"
                    chunk = await chunks.next()
                yield b"data: [DONE]\n\n"
            except (Exception, SystemExit) as error:
                yield b"data: " + _error_body(self.failure(error)) + b"\n\n"
            finally:
                await chunks.close()

        return _BackendAnswer(self, 200, framed(), chunks)

    def began(self, answer: _BackendAnswer) -> None:
        self._under_way.add(answer)

    def ended(self, answer: _BackendAnswer, left: Coroutine[object, object, None] | None) -> None:
        """An answer is over; what is left of its stream is closed, which a plain function can only arrange."""
        self._under_way.discard(answer)
        if left is not None:
            task = asyncio.get_running_loop().create_task(left)
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _contained(work: Callable[[], T]) -> T:
    """What a function raises to end a program, or an iteration, ends its call and no more."""
    try:
        return work()
    except StopIteration as e:
        raise BackendError("StopIteration: the function ended an iteration that was not its own") from e
    except Exception:
        raise
    except BaseException as e:
        raise BackendError(f"{type(e).__name__}: {e}") from e


class _Chunks:
    """Chunks of either kind of iterator, one at a time."""

    def __init__(self, transport: BackendTransport, given: object) -> None:
        self._transport = transport
        self._later: Any = given if hasattr(given, "__aiter__") else None
        self._given: Any = None
        self._under_way: Future[object] | None = None
        self._closed = False
        if self._later is not None:
            self._given = aiter(self._later)
        elif hasattr(given, "__iter__") and not isinstance(given, str | bytes | Mapping):
            self._given = iter(given)
        else:
            raise BackendError(f"a stream was asked for, and the backend gave no iterator but {type(given).__name__}")

    async def next(self) -> object:
        if self._later is not None:
            return await anext(self._given, _END)
        given: Iterator[object] = self._given
        self._under_way = self._transport.in_thread(lambda: next(given, _END))
        return await asyncio.wrap_future(self._under_way)

    async def close(self) -> None:
        """Ends it where it stands; what it does wrong then is nobody's answer any more."""
        if self._closed:
            return
        self._closed = True
        if self._later is not None:
            close = getattr(self._given, "aclose", None)
            if close is not None:
                with suppress(Exception):
                    await close()
        elif (close := getattr(self._given, "close", None)) is not None:
            # A thread cannot be stopped: what it is at goes on to its end, and is closed then.
            if self._under_way is not None and not self._under_way.done():
                self._under_way.add_done_callback(lambda _: _silently(close))
            else:
                await asyncio.wrap_future(self._transport.in_thread(lambda: _silently(close)))


def _silently(close: Callable[[], object]) -> None:
    with suppress(Exception):
        close()


class _BackendAnswer:
    is_over = False

    def __init__(
        self,
        transport: BackendTransport,
        status: int,
        pieces: AsyncGenerator[bytes, None],
        chunks: _Chunks | None = None,
    ) -> None:
        self.status = status
        kind = b"text/event-stream" if chunks is not None else b"application/json"
        self.headers: Mapping[bytes, bytes] = {b"content-type": kind}
        self._transport = transport
        self._pieces: AsyncGenerator[bytes, None] | None = pieces
        self._chunks = chunks
        self._reading: asyncio.Task[bytes] | None = None
        transport.began(self)

    async def read(self, deadline: float) -> bytes:
        if self._pieces is None:
            return b""
        self._reading = asyncio.get_running_loop().create_task(_next(self._pieces))
        try:
            async with _until(deadline):
                data = await self._reading
        except asyncio.CancelledError:
            if self._pieces is None:
                raise HungUpError("the answer was closed") from None
            raise
        if not data:
            self._end()
        return data

    def done(self) -> None:
        self.abort()

    def abort(self) -> None:
        if self._pieces is not None:
            self._end()

    def _end(self) -> None:
        pieces, self._pieces = self._pieces, None
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()  # whoever is cancelled closes it
            self._transport.ended(self, None)
        else:
            self._transport.ended(self, self._closed(pieces) if self._chunks is not None else None)

    async def _closed(self, pieces: AsyncGenerator[bytes, None] | None) -> None:
        if pieces is not None:
            await pieces.aclose()
        if self._chunks is not None:
            await self._chunks.close()  # a stream that nobody began to read has not


def _plain(given: object) -> object:
    """An object as JSON has it: itself, or what a library's model dumps."""
    dump = getattr(given, "model_dump", None)
    return dump(exclude_none=True, mode="json") if dump is not None else given


def _error_body(error: BackendError) -> bytes:
    return encode_json({"error": {"message": error.message, "type": error.type, "param": None, "code": error.code}})


def _is_model(given: object) -> bool:
    return hasattr(given, "model_dump") and not hasattr(given, "__aiter__")


async def _next(pieces: AsyncIterator[bytes]) -> bytes:
    return await anext(pieces, b"")


async def _one(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _until(deadline: float) -> asyncio.Timeout:
    return asyncio.timeout(deadline - time.monotonic())

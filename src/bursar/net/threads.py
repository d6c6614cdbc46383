"""Threads that a program does not wait for at its end: what hangs in one of them ends with the process.

The standard library's pool is joined at exit, whatever its threads are at.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Work = tuple[Future[Any], Callable[[], Any]]


class Threads:
    """Up to so many threads, begun as they are needed."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._waiting: SimpleQueue[_Work | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._begun = 0

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Runs it in one of them. What ends programs or iterations, and cannot be handed to a waiting loop as it is,
        comes as a RuntimeError."""
        future: Future[T] = Future()
        self._waiting.put((future, work))
        with self._lock:
            if not self._idle.acquire(blocking=False) and self._begun < self._most:
                self._begun += 1
                threading.Thread(target=self._run, name=f"{self._name}-{self._begun}", daemon=True).start()
        return future

    def close(self) -> None:
        """Lets them end when they are done with what they are at."""
        with self._lock:
            for _ in range(self._begun):
                self._waiting.put(None)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as error:
                    future.set_exception(_told(error))
                else:
                    future.set_result(result)
            del item, future, work
            self._idle.release()


def _told(error: BaseException) -> Exception:
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    told = RuntimeError(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    told.__cause__ = error
    return told

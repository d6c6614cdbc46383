"""A model as applications hold it: `chat`, `chat_streamly`, `encode`. A thin face of the client's own calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bursar.types.call import Result
from bursar.types.events import TextDelta

if TYPE_CHECKING:
    from bursar.gateway.client import Client, Message, Stream
    from bursar.gateway.sync import SyncClient, SyncStream


class Bundle:
    """One model, a route, or `auto`, asked with the same parameters each time. `Client.bundle` makes it."""

    def __init__(self, client: Client, model: str, asked: Mapping[str, Any]) -> None:
        self._client = client
        self._asked = {"model": model, **asked}

    async def chat(
        self, history: Sequence[Message], *, system: str | None = None, gen_conf: Mapping[str, Any] | None = None
    ) -> Result:
        """The answer to a history of messages, with its text, usage and cost. `gen_conf` are parameters of this one
        call. Raises as `Client.complete` does."""
        return await self._client.complete(**chat_of(self._asked, history, system, gen_conf))

    def chat_streamly(
        self, history: Sequence[Message], *, system: str | None = None, gen_conf: Mapping[str, Any] | None = None
    ) -> Texts:
        """The same piece by piece: `async for text in bundle.chat_streamly(history)`."""
        return Texts(self._client.stream(**chat_of(self._asked, history, system, gen_conf)))

    async def encode(self, texts: str | Sequence[str]) -> Result:
        """The vectors of texts, in their order, as `result.vectors`, with the usage."""
        return await self._client.embed(**self._asked, input=texts)


class Texts:
    """The pieces of an answer's text. Leaving the loop early ends the call, as its provider's policy has it; where the
    loop is left by `break`, close it, or use it in `async with contextlib.aclosing(...)`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._pieces = self._read()

    @property
    def call_id(self) -> str:
        return self._stream.call_id

    @property
    def result(self) -> Result | None:
        """The result with usage and cost, once the answer has ended well; else None."""
        return self._stream.result

    def __aiter__(self) -> AsyncIterator[str]:
        return self._pieces

    async def aclose(self) -> None:
        await self._pieces.aclose()

    async def _read(self) -> AsyncGenerator[str, None]:
        async with self._stream as stream:
            async for event in stream:
                if isinstance(event, TextDelta) and event.choice == 0:
                    yield event.text


class SyncBundle:
    """`Bundle` without await. `SyncClient.bundle` makes it."""

    def __init__(self, client: SyncClient, model: str, asked: Mapping[str, Any]) -> None:
        self._client = client
        self._asked = {"model": model, **asked}

    def chat(
        self, history: Sequence[Message], *, system: str | None = None, gen_conf: Mapping[str, Any] | None = None
    ) -> Result:
        """As `Bundle.chat`."""
        return self._client.complete(**chat_of(self._asked, history, system, gen_conf))

    def chat_streamly(
        self, history: Sequence[Message], *, system: str | None = None, gen_conf: Mapping[str, Any] | None = None
    ) -> SyncTexts:
        """As `Bundle.chat_streamly`: `for text in bundle.chat_streamly(history)`."""
        return SyncTexts(self._client.stream(**chat_of(self._asked, history, system, gen_conf)))

    def encode(self, texts: str | Sequence[str]) -> Result:
        """As `Bundle.encode`."""
        return self._client.embed(**self._asked, input=texts)


class SyncTexts:
    """The pieces of an answer's text, for synchronous code."""

    def __init__(self, stream: SyncStream) -> None:
        self._stream = stream
        self._pieces = self._read()

    @property
    def call_id(self) -> str:
        return self._stream.call_id

    @property
    def result(self) -> Result | None:
        """The result with usage and cost, once the answer has ended well; else None."""
        return self._stream.result

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def close(self) -> None:
        self._pieces.close()

    def _read(self) -> Generator[str, None, None]:
        with self._stream as stream:
            for event in stream:
                if isinstance(event, TextDelta) and event.choice == 0:
                    yield event.text


def chat_of(
    asked: Mapping[str, Any], history: Sequence[Message], system: str | None, gen_conf: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What a client is asked for: this call's parameters over the bundle's, the system prompt before the history."""
    first = [{"role": "system", "content": system}] if system else []
    return {**asked, **(gen_conf or {}), "messages": [*first, *history]}

"""The client an application calls: complete, stream, embed. All three are the same way of a call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import msgspec

from bursar.gateway.bundle import Bundle
from bursar.gateway.gateway import Gateway
from bursar.gateway.registry import AUTO
from bursar.gateway.running import Running
from bursar.ledger.ids import uuid7
from bursar.ledger.ledger import now_us
from bursar.types.call import CHAT, EMBEDDINGS, Call, Context, Result
from bursar.types.errors import BursarError, RequestError
from bursar.types.events import Completed, Event
from bursar.wire.assemble import encode_json
from bursar.wire.ingress import read

Message = Mapping[str, object]


class Client:
    """Calls models. Share one between tasks; `with_context` gives a view that speaks for somebody."""

    def __init__(self, gateway: Gateway, context: Context | None = None) -> None:
        self._gateway = gateway
        self._context = context or Context()

    def with_context(self, context: Context) -> Client:
        """The same client, whose calls carry this context unless a call brings its own."""
        return Client(self._gateway, context)

    def bundle(self, model: str = AUTO, **asked: Any) -> Bundle:
        """A model with what is asked of it each time: parameters, an `action`, a `skill`, a `context`."""
        return Bundle(self, model, asked)

    async def complete(
        self,
        *,
        model: str = AUTO,
        messages: Sequence[Message],
        action: str | None = None,
        skill: str | None = None,
        context: Context | None = None,
        extra_headers: Mapping[str, str] | None = None,
        **parameters: object,
    ) -> Result:
        """Asks for an answer and returns it whole, with its final usage.

        `model` is `provider/model`, a bare model name, a route, or `auto`, which leaves it to the bindings of the
        `action`, the `skill` and the workspace; `parameters` are those of OpenAI's chat completions and travel as they
        are. Raises RequestError, UnknownModelError, BindingError, ProviderError, BusyError, LedgerFullError.
        """
        fields = {"messages": list(messages), **parameters, "stream": None}
        running = self._run(CHAT, model, fields, context, extra_headers, (action, skill))
        return await _collected(running)

    def stream(
        self,
        *,
        model: str = AUTO,
        messages: Sequence[Message],
        action: str | None = None,
        skill: str | None = None,
        context: Context | None = None,
        extra_headers: Mapping[str, str] | None = None,
        **parameters: object,
    ) -> Stream:
        """Asks for an answer piece by piece: `async with client.stream(...) as stream: async for event in stream`.

        The last event is `Completed`, with the result; leaving early ends the call by its provider's policy.
        """
        fields = {"messages": list(messages), **parameters, "stream": True}
        return Stream(self._run(CHAT, model, fields, context, extra_headers, (action, skill)))

    async def embed(
        self,
        *,
        model: str = AUTO,
        input: str | Sequence[object],
        action: str | None = None,
        skill: str | None = None,
        context: Context | None = None,
        extra_headers: Mapping[str, str] | None = None,
        **parameters: object,
    ) -> Result:
        """Asks for vectors: `result.vectors` in the order of `input`. Raises as `complete` does."""
        fields = {"input": input, **parameters}
        return await _collected(self._run(EMBEDDINGS, model, fields, context, extra_headers, (action, skill)))

    def _run(
        self,
        operation: str,
        model: str,
        values: Mapping[str, object],
        context: Context | None,
        headers: Mapping[str, str] | None,
        bound: tuple[str | None, str | None],
    ) -> Running:
        fields = {"model": msgspec.Raw(encode_json(model))}
        for name, value in values.items():
            if value is not None:
                try:
                    fields[name] = msgspec.Raw(encode_json(value))
                except TypeError as e:
                    raise RequestError(f"'{name}' cannot be written as JSON: {e}", field=name) from None
        asked = read(operation, encode_json(fields), openings=self._gateway.openings)
        _check_context(context or self._context)
        call = Call(
            call_id=uuid7(now_us()),
            operation=operation,
            model=asked.model,
            stream=asked.stream,
            inputs=asked.inputs,
            params=asked.params,
            usual=asked.usual,
            body=asked.body,
            context=context or self._context,
            headers=tuple((headers or {}).items()),
            action=bound[0],
            skill=bound[1],
        )
        return self._gateway.run(call)


def _check_context(context: Context) -> None:
    """The ledger keeps texts: anything else is refused here rather than when it is written down."""
    for name in context.__struct_fields__:
        value = getattr(context, name)
        if name == "tags":
            if not isinstance(value, dict) or not all(isinstance(x, str) for pair in value.items() for x in pair):
                raise RequestError("'context.tags' must be texts by text", field="context.tags")
        elif not isinstance(value, str) and (value is not None or name == "workspace"):
            raise RequestError(f"'context.{name}' must be a text, not {type(value).__name__}", field=f"context.{name}")


class Stream:
    """A streamed answer: an async context manager, and the events inside it."""

    def __init__(self, running: Running) -> None:
        self._running = running

    @property
    def call_id(self) -> str:
        return self._running.call.call_id

    @property
    def result(self) -> Result | None:
        """The result once the stream has ended well, else None."""
        return self._running.result

    async def __aenter__(self) -> Stream:
        try:
            await self._running.start()
        except BaseException:
            self._running.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    async def __aiter__(self) -> AsyncIterator[Event]:
        if self._running.attempt is None:
            raise BursarError("enter the stream first: async with client.stream(...) as stream")
        while (frames := await self._running.next()) is not None:
            for frame in frames:
                for event in frame.events:
                    yield event
        if self._running.result is not None:
            yield Completed(self._running.result)


async def _collected(running: Running) -> Result:
    try:
        await running.start()
        while await running.next() is not None:
            pass
    finally:
        running.close()
    assert running.result is not None
    return running.result

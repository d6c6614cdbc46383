"""Whether a provider answers: a tiny call, which stands on the ledger like any other."""

from __future__ import annotations

import asyncio
import time

from bursar.gateway.gateway import Gateway
from bursar.gateway.provider import Provider
from bursar.ledger.ids import uuid7
from bursar.ledger.ledger import now_us
from bursar.types.call import CHAT, EMBEDDINGS, Call, Context
from bursar.types.errors import BursarError, ProviderError, RequestError
from bursar.wire.assemble import encode_json
from bursar.wire.ingress import read

_CHECK_TOKENS = 16


async def checked(
    gateway: Gateway, provider: Provider, model: str | None, timeout_s: float, context: Context, key_id: str | None
) -> dict[str, object]:
    """Makes a tiny call, which stands on the ledger like any other: whether the provider is available, what is wrong
    where it is not, and the milliseconds it took."""
    operation = CHAT if CHAT in provider.endpoints else EMBEDDINGS
    if operation not in provider.endpoints:
        raise RequestError(f"the provider '{provider.name}' takes no chats and no embeddings: nothing can be checked")
    if model is None:
        raise RequestError("say which model: the provider has none of its own", field="model")
    fields: dict[str, object] = {"model": model, "input": "ping"}
    if operation == CHAT:
        fields = {"model": model, "messages": [{"role": "user", "content": "ping"}], "max_tokens": _CHECK_TOKENS}
    asked = read(operation, encode_json(fields))
    call = Call(
        uuid7(now_us()), operation, asked.model, False, asked.inputs, asked.params, asked.usual, asked.body,
        Context(workspace=context.workspace, user=context.user, purpose="provider.check"), key_id,
    )  # fmt: skip
    error: BursarError | None = None
    began = time.monotonic()
    try:
        running = gateway.run_at(provider, call, "check")
        try:
            async with asyncio.timeout(timeout_s):
                await running.start()
                while await running.next() is not None:
                    pass
        finally:
            running.close()
    except TimeoutError:
        error = ProviderError(f"'{provider.name}' did not answer within {timeout_s:g} s", provider=provider.name,
                              kind="timeout")  # fmt: skip
    except BursarError as e:
        error = e
    failure = error if isinstance(error, ProviderError) else None
    return {
        "available": error is None,
        "error": error.message if error is not None else None,
        "errorKind": failure.kind if failure is not None else None,
        "httpStatus": failure.http_status if failure is not None else None,
        "ms": round((time.monotonic() - began) * 1000),
        "model": model,
        "callId": call.call_id,
    }

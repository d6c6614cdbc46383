"""LiteLLM as a provider type: calls of each kind through bursar, which calls LiteLLM in this process."""

import asyncio
import json
import os

import bursar
from bursar.types.errors import ProviderError
from bursar.types.events import TextDelta

URL, MODEL = os.environ["URL"], "through/openai/gpt-4o-mini"
HELLO = [{"role": "user", "content": "hello"}]
SETTINGS = {
    "store": {"url": "sqlite:///data/bursar.db"},
    "ledger": {"spool": "data/spool"},
    "providers": [
        {"name": "through", "type": "litellm", "api_key": "env:UP_KEY", "base_url": URL, "retries": 1},
        {
            "name": "nowhere",
            "type": "litellm",
            "api_key": "env:UP_KEY",
            "base_url": "http://127.0.0.1:9/v1",
            "retries": 0,
        },
    ],
}


def told(result):
    usage = result.usage
    cost = result.cost
    print(
        json.dumps(
            {
                "text": result.text,
                "vectors": result.vectors,
                "input": usage.input_tokens,
                "output": usage.output_tokens,
                "cost": cost.nanos if cost else None,
                "price": cost.price if cost else None,
                "call": result.call_id,
                "attempt": result.attempt,
            }
        )
    )


async def main():
    async with bursar.open(SETTINGS) as client:
        told(await client.complete(model=MODEL, messages=HELLO, temperature=0.5))
        async with client.stream(model=MODEL, messages=HELLO) as stream:
            texts = [event.text async for event in stream if isinstance(event, TextDelta)]
        assert "".join(texts) == stream.result.text
        assert len(texts) > 1, texts
        told(stream.result)
        told(await client.embed(model="through/openai/text-embedding-3-small", input=["a", "b"]))
        # fails once, and is tried again by bursar alone
        told(await client.complete(model=MODEL, messages=HELLO, script={"fail_first": 1, "key": "k", "status": 503}))
        for model, script in ((MODEL, {"status": 401}), (MODEL, {"cut_after": 1}), ("nowhere/openai/gpt-4o-mini", {})):
            try:
                async with client.stream(model=model, messages=HELLO, script=script) as stream:
                    _ = [event async for event in stream]
            except ProviderError as error:
                print(json.dumps({"failed": error.kind, "message": error.message}))


asyncio.run(main())

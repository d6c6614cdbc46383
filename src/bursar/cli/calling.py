"""`bursar call`: one call from here, without a server."""

from __future__ import annotations

import asyncio
import sys
from decimal import Decimal

import click

import bursar
from bursar.cli import options, output
from bursar.cli.options import Format
from bursar.types.call import Context
from bursar.types.events import ReasoningDelta, TextDelta


@click.command()
@click.argument("model", help="provider/model, a model, or a route.")
@click.argument("prompt", help="What to ask; '-' reads it from standard input.")
@options.config
@click.option("--system", help="The system prompt.")
@click.option("--stream/--no-stream", default=True, help="Show the answer as it comes.")
@click.option("--user", help="Whom the call is for.")
@click.option("--session", help="The session it belongs to.")
@click.option("--purpose", default="cli.call", help="Why it is made.")
@options.shown_as
def call(
    model: str,
    prompt: str,
    config_file: str | None,
    system: str | None,
    stream: bool,
    user: str | None,
    session: str | None,
    purpose: str,
    format: Format,
) -> None:
    """Make one call from here, without a server. It stands on the ledger like any other."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": sys.stdin.read() if prompt == "-" else prompt})
    context = Context(user=user, session=session, purpose=purpose)
    asyncio.run(_call(config_file, model, messages, context, stream=stream and format is Format.table, format=format))


async def _call(
    config_file: str | None,
    model: str,
    messages: list[dict[str, str]],
    context: Context,
    *,
    stream: bool,
    format: Format,
) -> None:
    async with bursar.open(config_file) as client:
        if stream:
            async with client.stream(model=model, messages=messages, context=context) as answer:
                async for event in answer:
                    if isinstance(event, TextDelta):
                        print(event.text, end="", flush=True)
                    elif isinstance(event, ReasoningDelta):
                        print(event.text, end="", flush=True, file=sys.stderr)
            result = answer.result
            print()
        else:
            result = await client.complete(model=model, messages=messages, context=context)
            if format is Format.table:
                print(result.text or "")
    assert result is not None
    usage, cost = result.usage, result.cost
    charged = None if cost is None else Decimal(cost.nanos).scaleb(-9)
    if format is Format.json:
        output.json_lines(
            [
                {
                    "call_id": result.call_id,
                    "provider": result.provider,
                    "model": result.model,
                    "text": result.text,
                    "finish_reason": result.finish_reason,
                    "tool_calls": result.tool_calls,
                    "prompt_tokens": usage.input_tokens if usage else None,
                    "completion_tokens": usage.output_tokens if usage else None,
                    "total_tokens": usage.total_tokens if usage else None,
                    "usage_source": result.usage_source,
                    "cost": charged,
                    "cost_currency": cost.currency if cost else None,
                    "response_time_ms": result.response_time_ms,
                }
            ]
        )
        return
    spent = f"{output.amount(charged)} {cost.currency}" if cost and charged is not None else "price unknown"
    counted = f"{usage.input_tokens} tokens in, {usage.output_tokens} out" if usage else "usage not reported"
    print(f"— {counted} · {spent} · {result.response_time_ms} ms · call {result.call_id}", file=sys.stderr)

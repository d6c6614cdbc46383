"""The vendors' own SDKs as readers: each makes the call whose recorded answer is replayed to it, and what it reads of
the answer is printed as one JSON object a line.

Reads, one JSON object a line: `url` (a root that answers with one recorded exchange, whatever the path), `name` (of
the corpus's file), `stream`. Writes `text`, `reasoning`, `calls` ([id, name, arguments]), `finish`, `usage` (input and
output, both inclusive, cached, the vendor's total; for embeddings the input) and `vectors`, or `count`, or `error`
(status and message), each as the SDK has it.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

import anthropic
import botocore.config
import botocore.exceptions
import botocore.session
import cohere
import cohere.core
import groq
import openai
from botocore import UNSIGNED
from google import genai
from google.genai import errors as google_errors
from mistralai.client import Mistral
from mistralai.client import errors as mistral_errors

Read = dict[str, Any]
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


def added(*counts: int | None) -> int | None:
    there = [count for count in counts if count is not None]
    return sum(there) if there else None


def reading(text: str, reasoning: str, calls: list[Any], finish: str | None, usage: Iterable[int | None]) -> Read:
    return {"text": text, "reasoning": reasoning, "calls": calls, "finish": finish, "usage": list(usage)}


def openai_client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)


def chat(client: Any, *, stream: bool) -> Read:
    """OpenAI's chats, by its SDK or by one of the same make."""
    made = client.chat.completions.create(model="m", messages=HELLO, stream=stream)
    text = reasoning = ""
    finish, usage, calls = None, None, {}
    for chunk in made if stream else [made]:
        usage = chunk.usage or (getattr(chunk, "x_groq", None) and chunk.x_groq.usage) or usage
        for choice in (chunk.choices or [])[:1]:
            said = choice.delta if stream else choice.message
            text += said.content or ""
            reasoning += getattr(said, "reasoning_content", None) or getattr(said, "reasoning", None) or ""
            finish = choice.finish_reason or finish
            for n, call in enumerate(said.tool_calls or []):
                kept = calls.setdefault(call.index if stream else n, [None, None, ""])
                kept[0], kept[1] = call.id or kept[0], call.function.name or kept[1]
                kept[2] += call.function.arguments or ""
        if failed := getattr(chunk, "error", None):
            return {"error": {"status": 200, "message": failed["message"]}}
    calls_made = [[id, name, json.loads(arguments or "{}")] for _, (id, name, arguments) in sorted(calls.items())]
    if usage is None:
        return reading(text, reasoning, calls_made, finish, (None,) * 4)
    details = getattr(usage, "prompt_tokens_details", None)
    cached = details.cached_tokens if details else getattr(usage, "prompt_cache_hit_tokens", None)
    counts = usage.prompt_tokens, usage.completion_tokens, cached, usage.total_tokens
    return reading(text, reasoning, calls_made, finish, counts)


def responses(url: str, *, stream: bool) -> Read:
    made = openai_client(url).responses.create(model="m", input="hello", stream=stream)
    if stream:
        ends = ("response.completed", "response.incomplete", "response.failed")
        made = next(event.response for event in made if event.type in ends)
    thoughts = [
        part.text
        for item in made.output
        if item.type == "reasoning"
        for part in [*(item.summary or []), *(item.content or [])]
    ]
    calls = [[i.call_id, i.name, json.loads(i.arguments)] for i in made.output if i.type == "function_call"]
    ended = None if made.status in ("queued", "in_progress") else made.status
    finish = made.incomplete_details.reason if made.incomplete_details else ended
    usage = made.usage
    counts: tuple[int | None, ...] = (None,) * 4
    if usage:
        details = usage.input_tokens_details
        counts = usage.input_tokens, usage.output_tokens, details and details.cached_tokens, usage.total_tokens
    return reading(made.output_text, "".join(thoughts), calls, finish, counts)


def messages(url: str, *, stream: bool) -> Read:
    client = anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)
    if stream:
        with client.messages.stream(model="m", max_tokens=9, messages=HELLO) as events:
            made = events.get_final_message()
    else:
        made = client.messages.create(model="m", max_tokens=9, messages=HELLO)
    usage, cached = made.usage, made.usage.cache_read_input_tokens
    return reading(
        "".join(block.text for block in made.content if block.type == "text"),
        "".join(block.thinking for block in made.content if block.type == "thinking"),
        [[block.id, block.name, block.input] for block in made.content if block.type == "tool_use"],
        made.stop_reason,
        (added(usage.input_tokens, cached, usage.cache_creation_input_tokens), usage.output_tokens, cached, None),
    )


def count_tokens(url: str, **_: Any) -> Read:
    client = anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)
    return {"count": client.messages.count_tokens(model="m", messages=HELLO).input_tokens}


def google_client(url: str, *, vertex: bool) -> genai.Client:
    return genai.Client(vertexai=vertex, api_key="k", http_options={"base_url": url})


def generate(url: str, *, stream: bool, vertex: bool = False) -> Read:
    client = google_client(url, vertex=vertex)
    ask = client.models.generate_content_stream if stream else client.models.generate_content
    made = ask(model="m", contents="hello")
    text = reasoning = ""
    calls: list[Any] = []
    finish, counts = None, {}
    for part_of in made if stream else [made]:
        if part_of.usage_metadata:
            counts.update(part_of.usage_metadata.model_dump(exclude_none=True))
        if part_of.prompt_feedback and part_of.prompt_feedback.block_reason:
            finish = part_of.prompt_feedback.block_reason.value
        for candidate in (part_of.candidates or [])[:1]:
            finish = candidate.finish_reason.value if candidate.finish_reason else finish
            for part in (candidate.content and candidate.content.parts) or []:
                if part.thought:
                    reasoning += part.text or ""
                else:
                    text += part.text or ""
                if part.function_call:
                    calls.append([part.function_call.id, part.function_call.name, part.function_call.args or {}])
    usage = (
        added(counts.get("prompt_token_count"), counts.get("tool_use_prompt_token_count")),
        added(counts.get("candidates_token_count"), counts.get("thoughts_token_count")),
        counts.get("cached_content_token_count"),
        counts.get("total_token_count"),
    )
    return reading(text, reasoning, calls, finish, usage)


def converse(url: str, *, stream: bool) -> Read:
    config = botocore.config.Config(signature_version=UNSIGNED, retries={"total_max_attempts": 1})
    client = AWS.create_client("bedrock-runtime", region_name="us-east-1", endpoint_url=url, config=config)
    asked: Read = {"modelId": "m", "messages": [{"role": "user", "content": [{"text": "hello"}]}]}
    blocks: dict[int, Read] = {}
    stop, usage = None, {}
    if stream:
        for event in client.converse_stream(**asked)["stream"]:
            ((kind, value),) = event.items()
            at = value.get("contentBlockIndex", -1)
            block = blocks.setdefault(at, {"text": "", "thought": "", "use": None, "json": ""})
            delta = value.get("delta", {})
            block["use"] = value.get("start", {}).get("toolUse") or block["use"]
            block["text"] += delta.get("text", "")
            block["thought"] += delta.get("reasoningContent", {}).get("text", "")
            block["json"] += delta.get("toolUse", {}).get("input", "")
            stop = value["stopReason"] if kind == "messageStop" else stop
            usage = value["usage"] if kind == "metadata" else usage
    else:
        made = client.converse(**asked)
        stop, usage = made["stopReason"], made["usage"]
        for n, block in enumerate(made["output"]["message"]["content"]):
            thought = block.get("reasoningContent", {}).get("reasoningText", {}).get("text", "")
            blocks[n] = {"text": block.get("text", ""), "thought": thought, "use": block.get("toolUse"), "json": ""}
    every = [block for _, block in sorted(blocks.items())]
    calls = [
        [b["use"]["toolUseId"], b["use"]["name"], json.loads(b["json"]) if b["json"] else b["use"].get("input", {})]
        for b in every
        if b["use"]
    ]
    cached = usage.get("cacheReadInputTokens")
    inputs = added(usage.get("inputTokens"), cached, usage.get("cacheWriteInputTokens"))
    counts = inputs, usage.get("outputTokens"), cached, usage.get("totalTokens")
    return reading("".join(b["text"] for b in every), "".join(b["thought"] for b in every), calls, stop, counts)


def chat_v2(url: str, **_: Any) -> Read:
    made = cohere.ClientV2(api_key="k", base_url=url, max_retries=0).chat(model="m", messages=HELLO)
    content, tokens = made.message.content or [], made.usage.tokens
    thoughts = "".join(part.thinking for part in content if part.type == "thinking")
    return reading(
        "".join(part.text for part in content if part.type == "text"),
        (made.message.tool_plan or "") + thoughts,
        [[c.id, c.function.name, json.loads(c.function.arguments)] for c in made.message.tool_calls or []],
        made.finish_reason,
        (whole(tokens.input_tokens), whole(tokens.output_tokens), whole(made.usage.cached_tokens), None),
    )


def whole(count: float | None) -> int | None:
    return None if count is None else int(count)


def mistral(url: str, *, stream: bool) -> Read:
    client = Mistral(api_key="k", server_url=url)
    ask = client.chat.stream if stream else client.chat.complete
    made = ask(model="m", messages=HELLO)
    text = reasoning = ""
    finish, usage, calls = None, None, {}
    for chunk in (event.data for event in made) if stream else [made]:
        usage = chunk.usage or usage
        choice = chunk.choices[0]
        said = choice.delta if stream else choice.message
        finish = choice.finish_reason or finish
        if isinstance(said.content, str):
            text += said.content
        for part in said.content if isinstance(said.content, list) else []:
            if part.type == "thinking":
                reasoning += "".join(thought.text for thought in part.thinking)
            elif part.type == "text":
                text += part.text
        for n, call in enumerate(said.tool_calls or []):
            kept = calls.setdefault((call.index or n) if stream else n, [call.id, call.function.name, ""])
            kept[2] += call.function.arguments
    made_calls = [[id, name, json.loads(arguments or "{}")] for _, (id, name, arguments) in sorted(calls.items())]
    said = usage.model_dump()
    cached = (said.get("prompt_tokens_details") or {}).get("cached_tokens", said.get("num_cached_tokens"))
    counts = usage.prompt_tokens, usage.completion_tokens, cached, usage.total_tokens
    return reading(text, reasoning, made_calls, finish, counts)


def embeddings(url: str, name: str) -> Read:
    if name == "openai-embeddings":
        made = openai_client(url).embeddings.create(model="m", input=["hello"], encoding_format="float")
        return {"vectors": [d.embedding for d in made.data], "usage": [made.usage.prompt_tokens]}
    if name == "cohere-embed-v2":
        client = cohere.ClientV2(api_key="k", base_url=url, max_retries=0)
        read = client.embed(model="m", input_type="search_query", texts=["hello"], embedding_types=["float"])
        tokens = whole(read.meta.billed_units.input_tokens)
        return {"vectors": read.embeddings.float_, "usage": [tokens]}
    vertex = name.startswith("vertex")
    google = google_client(url, vertex=vertex)
    said = google.models.embed_content(model="gemini-embedding-2", contents="hello")
    return {"vectors": [e.values for e in said.embeddings], "usage": None}


def read(name: str, url: str, *, stream: bool) -> Read:
    """What the SDK that belongs to this file of the corpus reads."""
    if name == "groq-chat":
        return chat(groq.Groq(base_url=url, api_key="k", max_retries=0), stream=stream)
    if name == "mistral-chat":
        return mistral(url, stream=stream)
    if "embed" in name:
        return embeddings(url, name)
    for part, reader in (
        ("count-tokens", count_tokens), ("messages", messages), ("converse", converse), ("chat-v2", chat_v2),
        ("responses", responses),
    ):  # fmt: skip
        if part in name:
            return reader(url, stream=stream)
    if "generate" in name:
        return generate(url, stream=stream, vertex=name.startswith("vertex"))
    return chat(openai_client(url), stream=stream)


def failed(status: int | None, message: object) -> Read:
    return {"error": {"status": status, "message": str(message)}}


AWS = botocore.session.Session()


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            said = read(asked["name"], asked["url"], stream=asked["stream"])
        except (openai.APIError, anthropic.APIError, groq.APIError) as e:
            said = failed(getattr(e, "status_code", None), e.message)
        except google_errors.APIError as e:
            said = failed(e.code, e.message)
        except cohere.core.ApiError as e:
            said = failed(e.status_code, e.body)
        except mistral_errors.MistralError as e:
            said = failed(e.status_code, e.body)
        except botocore.exceptions.ClientError as e:
            said = failed(e.response["ResponseMetadata"]["HTTPStatusCode"], e.response["Error"]["Message"])
        except Exception as e:  # a reader that cannot read it says so: what it is compared with decides
            said = {"unread": f"{type(e).__name__}: {e}"[:500]}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()

"""`llm-comply` against a scripted provider, directly and through the server: nothing may become worse on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.server import ADMIN, Server, environment
from support.upstream import Script, Seen, Upstream

_RUN_S = 180
# What is asked, with the models' names that make `llm-comply` skip nothing.
_CHAT, _MESSAGES = "gpt-5-mini", "claude-sonnet-4-5"
_WAYS = (
    ("openai-chat", _CHAT, ("openai", "anthropic")),
    ("anthropic", _MESSAGES, ("openai", "anthropic")),
    ("open-responses", _CHAT, ("openai",)),
)
# All tests of Responses but those of compaction.
_RESPONSES = (
    "basic-response", "system-prompt", "multi-turn", "tool-calling", "streaming-response", "streaming-usage",
    "image-input", "assistant-phase", "response-output-phase-schema", "reasoning-summary", "error-handling",
)  # fmt: skip
_SAID, _THOUGHT = "Hello there, friend.", "A greeting is asked for."
_USAGE = {
    "prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21, "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 4},
}  # fmt: skip
_COUNTS = {
    "input_tokens": 12, "output_tokens": 9, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
    "cache_creation": None, "inference_geo": None, "server_tool_use": None, "service_tier": "standard",
    "output_tokens_details": {"thinking_tokens": 4},
}  # fmt: skip


def _json(value: Any, status: int = 200) -> Script:
    return Script(status=status, raw=json.dumps(value), content_type="application/json")


def _chat(asked: dict[str, Any]) -> Script:
    if "model" not in asked:
        return _json({"error": {"message": "model is missing", "type": "invalid_request_error", "param": "model"}}, 400)
    head = {"id": "chatcmpl-1", "created": 1, "model": asked["model"]}
    message: dict[str, Any] = {"role": "assistant", "content": _SAID, "refusal": None, "annotations": []}
    if asked.get("reasoning_effort"):
        message["reasoning_content"] = _THOUGHT
    finish = "stop"
    if asked.get("tools"):
        function = {"name": asked["tools"][0]["function"]["name"], "arguments": '{"location":"San Francisco"}'}
        message |= {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
        finish = "tool_calls"
    if not asked.get("stream"):
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return _json({**head, "object": "chat.completion", "choices": [choice], "usage": _USAGE})
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": word + " "}, None) for word in _SAID.split()] + [({}, "stop")]
    head["object"] = "chat.completion.chunk"
    chunks = [
        {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": ended}]}
        for delta, ended in deltas
    ]
    if (asked.get("stream_options") or {}).get("include_usage"):
        chunks.append({**head, "choices": [], "usage": _USAGE})
    return Script(raw="".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n")


def _messages(asked: dict[str, Any]) -> Script:
    if "model" not in asked or "max_tokens" not in asked:
        error = {"type": "invalid_request_error", "message": "max_tokens: Field required"}
        return _json({"type": "error", "error": error, "request_id": "req_1"}, 400)
    content: list[dict[str, Any]] = [{"type": "text", "text": _SAID, "citations": None}]
    stop = "end_turn"
    if asked.get("thinking", {}).get("type") in ("enabled", "adaptive"):
        content.insert(0, {"type": "thinking", "thinking": _THOUGHT, "signature": "c2ln"})
    if asked.get("tools"):
        name, given = asked["tools"][0]["name"], {"location": "San Francisco"}
        call = {"type": "tool_use", "caller": {"type": "direct"}, "id": "toolu_1", "name": name, "input": given}
        content, stop = [call], "tool_use"
    head: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": asked["model"]}
    head |= {"stop_sequence": None, "stop_details": None, "container": None}
    if not asked.get("stream"):
        return _json({**head, "content": content, "stop_reason": stop, "usage": _COUNTS})
    deltas = [{"type": "text_delta", "text": f"{word} "} for word in _SAID.split()]
    begun = {**head, "content": [], "stop_reason": None, "usage": {**_COUNTS, "output_tokens": 1}}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
    return Script(raw="".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events))


def _item(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """What a response consists of."""
    if asked.get("tools"):
        name, given = asked["tools"][0]["name"], '{"location":"San Francisco"}'
        head = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "status": "completed"}
        return [{**head, "name": name, "arguments": given}]
    text = {"type": "output_text", "text": _SAID, "annotations": [], "logprobs": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [text]}
    if not asked.get("reasoning"):
        return [message]
    summary = [{"type": "summary_text", "text": _THOUGHT}]
    return [{"type": "reasoning", "id": "rs_1", "summary": summary}, message]


def _responses(asked: dict[str, Any]) -> Script:
    if "model" not in asked:
        return _json({"error": {"message": "model is missing", "type": "invalid_request_error", "param": "model"}}, 400)
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 4}}
    usage = {"input_tokens": 12, "output_tokens": 9, "total_tokens": 21, **details}
    items = _item(asked)
    whole: dict[str, Any] = {
        "id": "resp_1", "object": "response", "created_at": 1, "completed_at": 2, "status": "completed", "error": None,
        "incomplete_details": None, "instructions": None, "max_output_tokens": None, "model": asked["model"],
        "output": items, "parallel_tool_calls": True, "previous_response_id": None, "store": False,
        "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "top_p": 1.0,
        "tools": [{"description": None, "strict": None, **tool} for tool in asked.get("tools") or []],
        "truncation": "disabled", "usage": usage, "user": None, "metadata": {}, "background": False,
        "frequency_penalty": 0.0, "presence_penalty": 0.0, "max_tool_calls": None, "top_logprobs": 0,
        "service_tier": "default", "safety_identifier": None, "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None, **(asked.get("reasoning") or {})},
    }  # fmt: skip
    if not asked.get("stream"):
        return _json(whole)
    begun = {**whole, "status": "in_progress", "completed_at": None, "output": [], "usage": None}
    (item,) = items
    place = {"output_index": 0, "item_id": item["id"], "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", "output_index": 0,
         "item": {**item, "status": "in_progress", "content": []}},
        {"type": "response.content_part.added", **place, "part": empty},
        *({"type": "response.output_text.delta", **place, "delta": f"{w} ", "logprobs": []} for w in _SAID.split()),
        {"type": "response.output_text.done", **place, "text": _SAID, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": {**empty, "text": _SAID}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]  # fmt: skip
    numbered = [{**event, "sequence_number": n} for n, event in enumerate(events)]
    return Script(raw="".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in numbered))


_FORMATS = {"/messages": _messages, "/responses": _responses, "/chat/completions": _chat}


def _answer(seen: Seen) -> Script:
    asked = json.loads(seen.body or b"{}")
    written = next((write for end, write in _FORMATS.items() if seen.path.endswith(end)), None)
    return written(asked) if written is not None else _json({"error": {"message": "not found"}}, 404)


def _run(command: list[str], format: str, url: str, model: str) -> dict[str, list[str]]:
    """What did not pass: the errors by test."""
    shown = ["--auth-header", "x-api-key", "--no-bearer"] if format == "anthropic" else []
    left_out = ["--filter", ",".join(_RESPONSES)] if format == "open-responses" else []
    made = subprocess.run(
        [*command, "--format", format, "-u", url, "-k", ADMIN, "-m", model, "--json", *shown, *left_out],
        capture_output=True, text=True, timeout=_RUN_S, check=False, env=environment(),
    )  # fmt: skip
    assert made.stdout.lstrip().startswith("{"), made.stderr[-2000:]
    results = json.loads(made.stdout)["results"]
    assert results, "no test was run"
    return {r["id"]: r.get("errors", []) for r in results if r["status"] != "passed"}


def compare(command: list[str], folder: Path) -> int:
    """The number of ways through the server on which nothing is worse than directly. Raises AssertionError."""
    with Upstream() as upstream:
        upstream.on_request = _answer
        root = upstream.base_url.removesuffix("/v1")
        config = "".join(
            f'[[providers]]\nname = "{kind}"\ntype = "{kind}"\nbase_url = "{url}"\napi_key = "sk-x"\nretries = 0\n'
            for kind, url in (("openai", upstream.base_url), ("anthropic", root))
        )
        server = Server(folder, config).start()
        try:
            ways = 0
            for format, model, kinds in _WAYS:
                direct = _run(command, format, upstream.base_url, model)
                assert not direct, f"{format}: the scripted provider itself does not pass: {direct}"
                for kind in kinds:
                    through = _run(command, format, f"{server.url}/v1", f"{kind}/{model}")
                    assert not through, f"{format} through the server to {kind}: {json.dumps(through, indent=1)}"
                    ways += 1
            green, report = server.verify()
            assert green, report
            return ways
        finally:
            server.kill_group()

"""What providers were seen to do beside their documents, each by its name: read the same however it is cut, and on the
ledger of a running server."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from bursar.wire import spec as specs
from bursar.wire.assemble import Assembly
from bursar.wire.engine import Decoder
from bursar.wire.readers import Readers
from support.formats import binary_stream
from support.server import Server
from support.upstream import Script, Upstream

Tree = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One answer, and what it says: usage as (input, output, cached, reasoning, total as sent)."""

    name: str
    type: str
    body: bytes
    text: str | None = "Good day."
    finish: str | None = "stop"
    usage: tuple[int | None, ...] | None = None
    error: str | None = None
    cost: tuple[int, str] | None = None
    stream: bool = True
    finished: bool = True

    def __str__(self) -> str:
        return self.name


def _chunk(text: str | None = None, finish: str | None = None, **more: Any) -> Tree:
    delta = {"content": text} if text is not None else {}
    return {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def _sse(*values: Tree | str, end: str = "data: [DONE]\n\n") -> bytes:
    frames = [v if isinstance(v, str) else f"data: {json.dumps(v)}\n\n" for v in values]
    return ("".join(frames) + end).encode()


def _events(*values: Tree) -> bytes:
    return "".join(f"event: {v['type']}\ndata: {json.dumps(v)}\n\n" for v in values).encode()


def _lines(*values: Tree) -> bytes:
    return "".join(json.dumps(v) + "\n" for v in values).encode()


def _usage(prompt: int, completion: int, **more: Any) -> Tree:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **more}


def _whole(message: Tree, finish: str | None = "stop", **more: Any) -> bytes:
    return json.dumps(
        {"id": "c1", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}
    ).encode()


def _message(start: Tree, delta: Tree) -> bytes:
    return _events(
        {"type": "message_start", "message": {"id": "m1", "model": "claude", "usage": start}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Good day."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": delta},
        {"type": "message_stop"},
    )


def _candidate(text: str, finish: str | None = None, **more: Any) -> Tree:
    parts = [{"text": text}] if text else []
    return {
        "candidates": [{"content": {"parts": parts}, "index": 0, **({"finishReason": finish} if finish else {})}],
        **more,
    }


_TWO = (_chunk("Good "), _chunk("day."), _chunk(None, "stop"))
_REASONED = _usage(10, 5, completion_tokens_details={"reasoning_tokens": 7}) | {
    "total_tokens": 22,
    "cost_in_usd_ticks": 123_456_789,
}
_BARE_ERROR = '{\n  "error": {\n    "code": 503,\n    "message": "overloaded",\n    "status": "UNAVAILABLE"\n  }\n}\n'

CASES = [
    Case("usage chunk without choices", "openai", _sse(*_TWO, {"choices": [], "usage": _usage(3, 2)}), usage=(3, 2, None, None, 5)),
    Case("usage twice, alone and on the finish", "groq",
         _sse(_chunk("Good day."), _chunk(None, "stop", x_groq={"id": "r", "usage": _usage(3, 2)}), {"choices": [], "usage": _usage(3, 2)}),
         usage=(3, 2, None, None, 5)),
    Case("usage in x_groq only", "groq", _sse(_chunk("Good day."), _chunk(None, "stop", x_groq={"usage": _usage(3, 2)})), usage=(3, 2, None, None, 5)),
    Case("a stream stopped by an error in x_groq", "groq", _sse(_chunk("Good day.", x_groq={"error": "out of memory"}), end=""),
         finish=None, error="out of memory", finished=False),
    Case("filter results before any choice", "azure",
         _sse({"id": "", "model": "", "object": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}, *_TWO)),
    Case("reasoning beside the completion, cost in ticks", "xai", _sse(*_TWO, {"choices": [], "usage": _REASONED}),
         usage=(10, 12, None, 7, 22), cost=(12_345_679, "USD")),
    Case("reasoning inside the completion", "xai",
         _sse(*_TWO, {"choices": [], "usage": _usage(10, 12, completion_tokens_details={"reasoning_tokens": 7})}), usage=(10, 12, None, 7, 22)),
    Case("comments while it is queued", "deepseek", _sse(": keep-alive\n\n", ": keep-alive\n\n", *_TWO)),
    Case("blank lines before the body", "deepseek",
         b"\n\n\n" + _whole({"content": "Good day."}, usage=_usage(9, 2, prompt_cache_hit_tokens=4, prompt_cache_miss_tokens=5)),
         usage=(9, 2, 4, None, 11), stream=False),
    Case("a comment, and the cost of the last message", "openrouter",
         _sse(": OPENROUTER PROCESSING\n\n", *_TWO, {"choices": [], "usage": _usage(3, 2, cost=0.00014)}),
         usage=(3, 2, None, None, 5), cost=(140_000, "USD")),
    Case("an error in the middle of a stream", "openrouter",
         _sse(_chunk("Good "), {"error": {"code": 502, "message": "upstream died"}, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}, end=""),
         text="Good ", finish="error", error="upstream died"),
    Case("cached and written tokens beside the input", "anthropic",
         _message({"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 1}, {"output_tokens": 8}),
         finish="end_turn", usage=(17, 8, 5, None, None)),
    Case("the input said once more at the end", "anthropic",
         _message({"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1}, {"input_tokens": 10, "cache_read_input_tokens": None, "output_tokens": 8}),
         finish="end_turn", usage=(15, 8, 5, None, None)),
    Case("the cache said at the end only", "anthropic",
         _message({"input_tokens": 8834, "output_tokens": 1}, {"input_tokens": 18, "cache_read_input_tokens": 8831, "output_tokens": 8}),
         finish="end_turn", usage=(8849, 8, 8831, None, None)),
    Case("an error as an event", "anthropic",
         _events({"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 3, "output_tokens": 1}}},
                 {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}),
         text=None, finish=None, usage=(3, 1, None, None, None), error="busy", finished=False),
    Case("thoughts beside the candidates", "gemini",
         _sse(_candidate("Good "), _candidate("day.", "STOP", usageMetadata={"promptTokenCount": 220, "candidatesTokenCount": 5, "thoughtsTokenCount": 185, "totalTokenCount": 410}), end=""),
         finish="STOP", usage=(220, 190, None, 185, 410)),
    Case("thoughts inside the candidates", "gemini",
         _sse(_candidate("Good day.", "STOP", usageMetadata={"promptTokenCount": 10, "candidatesTokenCount": 20, "thoughtsTokenCount": 15, "totalTokenCount": 30}), end=""),
         finish="STOP", usage=(10, 20, None, 15, 30)),
    Case("a smaller prompt in the last frame", "gemini",
         _sse(_candidate("Good ", usageMetadata={"promptTokenCount": 12, "totalTokenCount": 12}),
              _candidate("day.", "STOP", usageMetadata={"promptTokenCount": 10, "candidatesTokenCount": 2, "totalTokenCount": 12}), end=""),
         finish="STOP", usage=(10, 2, None, None, 12)),
    Case("a prompt that was blocked", "gemini",
         _sse({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4}}, end=""),
         text=None, finish="PROHIBITED_CONTENT", usage=(4, None, None, None, 4)),
    Case("an error over several bare lines", "gemini", _sse(_candidate("Good "), _BARE_ERROR, end=""), text="Good ", finish=None, error="overloaded",
         finished=False),
    Case("usage behind the end of the message", "bedrock",
         binary_stream(("messageStart", {"role": "assistant"}), ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Good day."}}),
                       ("messageStop", {"stopReason": "end_turn"}),
                       ("metadata", {"usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 12, "cacheReadInputTokens": 7}})),
         finish="end_turn", usage=(10, 2, 7, None, 12)),
    Case("an exception in the stream", "bedrock",
         binary_stream(("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Good "}}), ("!throttlingException", {"message": "slower"})),
         text="Good ", finish=None, error="slower", finished=False),
    Case("content as a list of parts", "mistral",
         _whole({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Good day."}]}, usage=_usage(3, 2)),
         usage=(3, 2, None, None, 5), stream=False),
    Case("floats as counts, and billed units beside them", "cohere",
         _events({"type": "message-start", "id": "x"}, {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Good day."}}}},
                 {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": {"billed_units": {"input_tokens": 2.0, "output_tokens": 2.0}, "tokens": {"input_tokens": 66.0, "output_tokens": 4.0}, "cached_tokens": 1.0}}}),
         finish="COMPLETE", usage=(66, 4, 1, None, None)),
    Case("an error in the last event", "cohere",
         _events({"type": "message-start", "id": "x"}, {"type": "message-end", "delta": {"finish_reason": "ERROR", "error": "broken"}}),
         text=None, finish="ERROR", error="broken"),
    Case("an error line under a status of 200", "ollama", _lines({"model": "l", "message": {"content": "Good "}, "done": False}, {"error": "runner died"}),
         text="Good ", finish=None, error="runner died", finished=False),
    Case("no count of a prompt that was cached", "ollama",
         _lines({"model": "l", "message": {"content": "Good day."}, "done": False}, {"model": "l", "message": {"content": ""}, "done": True, "done_reason": "stop", "eval_count": 2}),
         usage=(None, 2, None, None, None)),
    Case("usage on every chunk", "vllm",
         _sse(_chunk("Good ", usage=_usage(3, 1)), _chunk("day.", usage=_usage(3, 2)), _chunk(None, "stop", usage=_usage(3, 2)), {"choices": [], "usage": _usage(3, 2)}),
         usage=(3, 2, None, None, 5)),
    Case("an engine that crashes in the middle", "vllm", _sse(_chunk("Good "), {"error": {"message": "EngineDeadError", "code": 500}}),
         text="Good ", finish=None, error="EngineDeadError"),
    Case("an error that is a text", "vllm", _sse({"error": "no such model"}), text=None, finish=None, error="no such model"),
    Case("an error under a status of 200", "aitunnel", json.dumps({"error": {"code": 402, "message": "no balance"}}).encode(),
         text=None, finish=None, error="no balance", stream=False),
    Case("an error in a frame under a status of 200", "aitunnel", _sse({"error": {"code": 429, "message": "too many"}}, end=""),
         text=None, finish=None, error="too many", finished=False),
    Case("a cost in roubles", "aitunnel", _sse(*_TWO, {"choices": [], "usage": _usage(3, 2, cost_rub=0.05)}), usage=(3, 2, None, None, 5),
         cost=(50_000_000, "RUB")),
    Case("precached tokens beside the prompt", "gigachat",
         _sse(_chunk("Good day."), _chunk("", "stop", usage={"prompt_tokens": 14, "completion_tokens": 8, "total_tokens": 22, "precached_prompt_tokens": 2430})),
         usage=(2444, 8, 2430, None, 22)),
    Case("the whole text so far, counts as text", "yandexgpt",
         _lines(*({"result": {"alternatives": [{"message": {"role": "assistant", "text": text}, "status": f"ALTERNATIVE_STATUS_{status}"}],
                             "usage": {"inputTextTokens": "7", "completionTokens": str(n), "totalTokens": str(7 + n)}, "modelVersion": "v"}}
                  for n, (text, status) in enumerate((("Good", "PARTIAL"), ("Good day", "PARTIAL"), ("Good day.", "FINAL"))))),
         finish="ALTERNATIVE_STATUS_FINAL", usage=(7, 2, None, None, 9)),
    Case("no end mark, the connection just closes", "openai", _sse(*_TWO, end="")),
    Case("an end mark without a finish", "openai", _sse(_chunk("Good "), _chunk("day.")), finish=None),
    Case("data without a space, and a line separator inside", "openai",
         b'data:{"choices":[{"index":0,"delta":{"content":"Good\xe2\x80\xa8\xc2\x85day."}}]}\n\ndata:{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata:[DONE]\n\n',
         text="Good\u2028\u0085day."),
    Case("a stream answered with plain JSON", "openai", _whole({"content": "Good day."}, usage=_usage(3, 2)), usage=(3, 2, None, None, 5)),
    Case("a flat error under a status of 200", "yandexgpt", b'{"code":7,"message":"Permission denied","details":[]}',
         text=None, finish=None, error="Permission denied", stream=False),
    Case("a flat error with a status of its own under 200", "gigachat", b'{"status":429,"message":"Too many requests"}',
         text=None, finish=None, error="Too many requests", stream=False),
    Case("a flat error that says what it is", "mistral", b'{"object":"error","message":"bad","type":"invalid","code":3051}',
         text=None, finish=None, error="bad", stream=False),
    Case("a flat error in a frame", "vllm", _sse({"object": "error", "message": "no such model", "type": "NotFoundError", "code": 404}),
         text=None, finish=None, error="no such model"),
    Case("a failure in the place of the finish", "openrouter", _sse(_chunk("Good "), _chunk(None, "error")),
         text="Good ", finish="error", error="the answer failed, and says no more of it"),
    Case("no system resources in the place of the finish", "deepseek", _whole({"content": "Good"}, "insufficient_system_resource", usage=_usage(3, 2)),
         text="Good", finish="insufficient_system_resource", usage=(3, 2, None, None, 5), error="the answer failed, and says no more of it", stream=False),
    Case("the length of the model", "mistral", _whole({"content": "Good day."}, "model_length", usage=_usage(3, 2)), finish="model_length",
         usage=(3, 2, None, None, 5), stream=False),
    Case("a fee beside what the vendor takes", "openrouter",
         _sse(*_TWO, {"choices": [], "usage": _usage(3, 2, cost=0.0005, is_byok=True, cost_details={"upstream_inference_cost": 0.01})}),
         usage=(3, 2, None, None, 5), cost=(10_500_000, "USD")),
    Case("a compaction beside the counts", "anthropic",
         json.dumps({"id": "x", "model": "m", "content": [{"type": "text", "text": "Good day."}], "stop_reason": "end_turn", "usage": {
             "input_tokens": 10, "output_tokens": 2, "iterations": [{"type": "compaction", "input_tokens": 180, "output_tokens": 35}, {"type": "message", "input_tokens": 10, "output_tokens": 2}]}}).encode(),
         finish="end_turn", usage=(190, 37, None, None, None), stream=False),
    Case("cited text", "bedrock",
         json.dumps({"output": {"message": {"role": "assistant", "content": [{"citationsContent": {"content": [{"text": "Good day."}], "citations": []}}]}},
                     "stopReason": "end_turn", "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}}).encode(),
         finish="end_turn", usage=(3, 2, None, None, 5), stream=False),
    Case("cached tokens under a name of their own", "mistral", _whole({"content": "Good day."}, usage=_usage(3, 2, num_cached_tokens=1)),
         usage=(3, 2, 1, None, 5), stream=False),
]  # fmt: skip


def _readers(type: str) -> Readers:
    return Readers(specs.build(type).operations["chat"])


_same_readers = cache(_readers)
"""Those of a process, which learn from each answer; to make them takes far longer than to read one."""


def _read(case: Case, body: bytes, cuts: list[int]) -> tuple[Assembly, Decoder]:
    made = _same_readers if len(cuts) == 1 and cuts[0] % 10 else _readers
    decoder = Decoder(made(case.type), stream=case.stream)
    answer = Assembly()
    for a, b in pairwise([0, *cuts, len(body)]):
        for frame in decoder.feed(body[a:b]):
            answer.take(frame.events)
    for frame in decoder.close():
        answer.take(frame.events)
    return answer, decoder


def _counts(answer: Assembly) -> tuple[int | None, ...] | None:
    u = answer.usage
    return (
        (u.input_tokens, u.output_tokens, u.cached_tokens, u.reasoning_tokens, u.provider_total_tokens) if u else None
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_read_for_what_it_is_however_it_is_cut(case: Case) -> None:
    bodies = [case.body]
    if case.body.startswith((b"data", b"event", b":")):
        bodies += [case.body.replace(b"\n", b"\r\n"), case.body.replace(b"\n", b"\r")]
    for body in bodies:
        ways = [[], list(range(1, len(body))), *([cut] for cut in range(max(1, len(body) - 300), len(body)))]
        for cuts in ways:
            answer, decoder = _read(case, body, cuts)
            assert (answer.text, answer.finish_reason) == (case.text, case.finish), cuts
            assert _counts(answer) == case.usage, cuts
            assert (answer.error.message if answer.error else None) == case.error, cuts
            cost = (answer.usage.cost_nanos, answer.usage.cost_currency) if answer.usage and case.cost else None
            assert cost == case.cost, cuts
            assert decoder.finished is case.finished or decoder.is_whole, cuts


def test_the_ledger_tells_each_for_what_it_is(make_server: Callable[..., Server], upstream: Upstream) -> None:
    root = upstream.base_url.removesuffix("/v1")
    kinds = sorted({case.type for case in CASES})
    providers = "".join(
        f'[[providers]]\nname = "{kind}"\ntype = "{kind}"\nbase_url = "{root}"\napi_key = "sk-secret-{kind}"\nretries = 0\n'
        + (f'token_url = "{root}/oauth"\n' if kind == "gigachat" else "")
        for kind in kinds
    )
    server = make_server(more=providers)
    made: dict[str, Case] = {}
    for case in CASES:
        token = Script(raw='{"access_token":"token-of-the-provider","expires_in":900}', content_type="application/json")
        kind = "text/event-stream" if case.body.startswith((b"data", b"event", b":")) else "application/json"
        answer = Script(raw=case.body.decode("latin-1"), content_type=kind)
        upstream.on_request = lambda seen, answer=answer, token=token: token if seen.path == "/oauth" else answer
        asked = {"model": f"{case.type}/m", "messages": [{"role": "user", "content": "hello"}], "stream": case.stream}
        _, _, headers = server.exchange("POST", "/v1/chat/completions", asked)
        made[headers["x-bursar-call-id"]] = case
    server.drained()
    with server.database() as connection:
        connection.row_factory = sqlite3.Row
        rows = {row["call_id"]: dict(row) for row in connection.execute("select * from ledger_entries")}
        logs = connection.execute("select call_id, usage_mismatch from llm_call_logs")
        mismatches = {row["call_id"]: row["usage_mismatch"] for row in logs}
    assert rows.keys() == made.keys()
    for call_id, case in made.items():
        row = rows[call_id]
        failed = case.error is not None
        assert row["status"] == ("failed" if failed else "completed"), case
        assert case.error is None or case.error in row["error_message"], case
        if not failed and case.usage is not None:
            names = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "provider_total_tokens")
            assert tuple(row[name] for name in names) == case.usage, case
            assert row["usage_source"] == "provider", case
            entered, left, _, _, total = case.usage
            known = None not in (entered, left, total)
            assert mismatches[call_id] == (int(total != entered + left) if known else None), case  # type: ignore[operator]
        if case.cost is not None:
            assert (row["cost_nanos"], row["cost_currency"], row["cost_source"]) == (*case.cost, "provider"), case
    assert server.verify()[0]

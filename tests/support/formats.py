"""One answer in every format, whole and as a stream: the same text, the same tokens, each in its own words."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from support.upstream import Script

SAID = "Good day."
Tree = dict[str, Any]


@dataclass(frozen=True)
class Recorded:
    """The bytes of an answer, whole and streamed."""

    whole: Tree
    frames: str
    stream_type: str = "text/event-stream"

    def script(self, *, stream: bool) -> Script:
        if stream:
            return Script(raw=self.frames, content_type=self.stream_type)
        return Script(raw=json.dumps(self.whole), content_type="application/json")


@dataclass(frozen=True)
class Answer:
    """What a provider of one format answers, and what must have been asked: the body without `stream`."""

    plain_path: str
    stream_path: str
    key_header: str
    shown_key: tuple[str | None, str | None]
    request: Tree
    recorded: Recorded
    counts: tuple[int | None, ...]
    finish: str
    tool: Recorded | None = None
    stops: bool = True

    def path(self, *, stream: bool) -> str:
        return self.stream_path if stream else self.plain_path

    def is_asked_as_stream(self, path: str, body: Tree) -> bool:
        if self.plain_path.partition("?")[0] != self.stream_path.partition("?")[0]:
            return "tream" in path
        options = body.get("completionOptions", body)
        return bool(options.get("stream"))

    def script(self, *, stream: bool) -> Script:
        return self.recorded.script(stream=stream)


def _sse(*events: Tree) -> str:
    return "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events)


def _data(*values: Tree) -> str:
    return "".join(f"data: {json.dumps(v)}\n\n" for v in values)


def _lines(*values: Tree) -> str:
    return "".join(json.dumps(v) + "\n" for v in values)


def binary_stream(*messages: tuple[str, Tree]) -> bytes:
    """An AWS event stream; an event whose name begins with `!` is an exception."""
    out = b""
    for event, value in messages:
        kind = "exception" if event.startswith("!") else "event"
        names = (
            (f":{kind}-type", event.removeprefix("!")),
            (":content-type", "application/json"),
            (":message-type", kind),
        )
        headers = b"".join(
            bytes([len(name)]) + name.encode() + b"\7" + struct.pack(">H", len(text)) + text.encode()
            for name, text in names
        )
        payload = json.dumps(value).encode()
        prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
        message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
        out += message + struct.pack(">I", zlib.crc32(message))
    return out


def _binary(*messages: tuple[str, Tree]) -> str:
    return binary_stream(*messages).decode("latin-1")


USAGE: dict[str, Tree] = {
    "anthropic": {"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 8},
    "gemini": {"promptTokenCount": 15, "toolUsePromptTokenCount": 2, "candidatesTokenCount": 5, "thoughtsTokenCount": 3,
               "cachedContentTokenCount": 5, "totalTokenCount": 25},
    "bedrock": {"inputTokens": 10, "outputTokens": 8, "totalTokens": 25, "cacheReadInputTokens": 5, "cacheWriteInputTokens": 2},
    "cohere": {"billed_units": {"input_tokens": 9.0, "output_tokens": 8.0}, "tokens": {"input_tokens": 17.0, "output_tokens": 8.0},
               "cached_tokens": 5.0},
    "ollama": {"prompt_eval_count": 17, "eval_count": 8},
    "yandexgpt": {"inputTextTokens": "17", "completionTokens": "8", "totalTokens": "25",
                  "completionTokensDetails": {"reasoningTokens": "3"}},
}  # fmt: skip

_A = USAGE["anthropic"]
_START = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [], "stop_reason": None,
          "stop_sequence": None, "usage": {**_A, "output_tokens": 1}}  # fmt: skip


def _message(content: list[Tree], stop: str) -> Tree:
    return {**_START, "content": content, "stop_reason": stop, "usage": _A}


_ANTHROPIC = Answer(
    "/v1/messages", "/v1/messages", "x-api-key", (None, "sk-secret-anthropic"),
    {"model": "some-model", "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
     "temperature": 0.5, "max_tokens": 99, "stop_sequences": ["END"]},
    Recorded(
        _message([{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": SAID}], "end_turn"),
        _sse(
            {"type": "message_start", "message": _START},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Good "}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "day."}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 8}},
            {"type": "message_stop"},
        ),
    ),
    (17, 8, 5, None), "end_turn",
    Recorded(
        _message([{"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}}], "tool_use"),
        _sse(
            {"type": "message_start", "message": _START},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"city": '}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '"Rome"}'}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 8}},
            {"type": "message_stop"},
        ),
    ),
)  # fmt: skip


def _candidate(*parts: Tree, finish: str | None = None) -> Tree:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, "index": 0,
                            **({"finishReason": finish} if finish else {})}],
            "modelVersion": "gemini-x", "responseId": "r1"}  # fmt: skip


_GEMINI = Answer(
    "/models/some-model:generateContent", "/models/some-model:streamGenerateContent?alt=sse", "x-goog-api-key",
    (None, "sk-secret-gemini"),
    {"contents": [{"role": "user", "parts": [{"text": "hello"}]}],
     "generationConfig": {"temperature": 0.5, "maxOutputTokens": 99, "stopSequences": ["END"]}},
    Recorded(
        {**_candidate({"text": "hm", "thought": True}, {"text": SAID}, finish="STOP"), "usageMetadata": USAGE["gemini"]},
        _data(
            {**_candidate({"text": "Good "}), "usageMetadata": {"promptTokenCount": 15, "totalTokenCount": 15}},
            {**_candidate({"text": "day."}, finish="STOP"), "usageMetadata": USAGE["gemini"]},
        ),
    ),
    (17, 8, 5, 3), "STOP",
    Recorded(
        _candidate({"functionCall": {"name": "weather", "args": {"city": "Rome"}}}, finish="STOP"),
        _data(_candidate({"functionCall": {"name": "weather", "args": {"city": "Rome"}}}, finish="STOP")),
    ),
)  # fmt: skip


def _converse(*content: Tree, stop: str) -> Tree:
    return {"output": {"message": {"role": "assistant", "content": list(content)}}, "stopReason": stop, "usage": USAGE["bedrock"],
            "metrics": {"latencyMs": 7}}  # fmt: skip


_BEDROCK = Answer(
    "/model/some-model/converse", "/model/some-model/converse-stream", "x-none", ("Bearer sk-secret-bedrock", None),
    {"messages": [{"role": "user", "content": [{"text": "hello"}]}],
     "inferenceConfig": {"temperature": 0.5, "maxTokens": 99, "stopSequences": ["END"]}},
    Recorded(
        _converse({"text": SAID}, stop="end_turn"),
        _binary(
            ("messageStart", {"role": "assistant"}),
            ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Good "}}),
            ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "day."}}),
            ("contentBlockStop", {"contentBlockIndex": 0}),
            ("messageStop", {"stopReason": "end_turn"}),
            ("metadata", {"usage": USAGE["bedrock"], "metrics": {"latencyMs": 7}}),
        ),
        "application/vnd.amazon.eventstream",
    ),
    (17, 8, 5, None), "end_turn",
    Recorded(
        _converse({"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"city": "Rome"}}}, stop="tool_use"),
        _binary(
            ("messageStart", {"role": "assistant"}),
            ("contentBlockStart", {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t1", "name": "weather"}}}),
            ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"toolUse": {"input": '{"city":"Rome"}'}}}),
            ("contentBlockStop", {"contentBlockIndex": 0}),
            ("messageStop", {"stopReason": "tool_use"}),
            ("metadata", {"usage": USAGE["bedrock"], "metrics": {"latencyMs": 7}}),
        ),
        "application/vnd.amazon.eventstream",
    ),
)  # fmt: skip

_CALL = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
_COHERE = Answer(
    "/v2/chat", "/v2/chat", "x-none", ("Bearer sk-secret-cohere", None),
    {"model": "some-model", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.5, "max_tokens": 99,
     "stop_sequences": ["END"]},
    Recorded(
        {"id": "c1", "message": {"role": "assistant", "content": [{"type": "text", "text": SAID}]}, "finish_reason": "COMPLETE",
         "usage": USAGE["cohere"]},
        _sse(
            {"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant", "content": []}}},
            {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
            {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Good "}}}},
            {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "day."}}}},
            {"type": "content-end", "index": 0},
            {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": USAGE["cohere"]}},
        ),
    ),
    (17, 8, 5, None), "COMPLETE",
    Recorded(
        {"id": "c1", "message": {"role": "assistant", "tool_calls": [_CALL]}, "finish_reason": "TOOL_CALL", "usage": USAGE["cohere"]},
        _sse(
            {"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant"}}},
            {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I will look."}}},
            {"type": "tool-call-start", "index": 0,
             "delta": {"message": {"tool_calls": {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": ""}}}}},
            {"type": "tool-call-delta", "index": 0, "delta": {"message": {"tool_calls": {"function": {"arguments": '{"city":'}}}}},
            {"type": "tool-call-delta", "index": 0, "delta": {"message": {"tool_calls": {"function": {"arguments": '"Rome"}'}}}}},
            {"type": "tool-call-end", "index": 0},
            {"type": "message-end", "delta": {"finish_reason": "TOOL_CALL", "usage": USAGE["cohere"]}},
        ),
    ),
)  # fmt: skip


def _line(text: str, *, done: bool = False, **more: Any) -> Tree:
    ended = {"done_reason": "stop", "total_duration": 5, **USAGE["ollama"]} if done else {}
    return {
        "model": "llama",
        "created_at": "t",
        "message": {"role": "assistant", "content": text, **more},
        "done": done,
        **ended,
    }


_MADE = [{"function": {"name": "weather", "arguments": {"city": "Rome"}}}]
_CALLED = _lines(_line("", tool_calls=_MADE), _line("", done=True))
_OLLAMA = Answer(
    "/api/chat", "/api/chat", "x-none", ("Bearer sk-secret-ollama", None),
    {"model": "some-model", "messages": [{"role": "user", "content": "hello"}],
     "options": {"temperature": 0.5, "num_predict": 99, "stop": ["END"]}},
    Recorded(_line(SAID, done=True), _lines(_line("Good "), _line("day."), _line("", done=True)), "application/x-ndjson"),
    (17, 8, None, None), "stop",
    Recorded(_line("", done=True, tool_calls=_MADE), _CALLED, "application/x-ndjson"),
)  # fmt: skip


def _alternative(text: str, status: str) -> Tree:
    message = {"role": "assistant", "text": text}
    return {"result": {"alternatives": [{"message": message, "status": f"ALTERNATIVE_STATUS_{status}"}],
                       "usage": USAGE["yandexgpt"], "modelVersion": "v1"}}  # fmt: skip


_YANDEX = Answer(
    "/foundationModels/v1/completion", "/foundationModels/v1/completion", "x-none", ("Api-Key sk-secret-yandexgpt", None),
    {"modelUri": "some-model", "messages": [{"role": "user", "text": "hello"}],
     "completionOptions": {"temperature": 0.5, "maxTokens": "99"}},
    Recorded(_alternative(SAID, "FINAL"), _lines(_alternative("Good", "PARTIAL"), _alternative(SAID, "FINAL")), "application/json"),
    (17, 8, None, 3), "ALTERNATIVE_STATUS_FINAL", stops=False,
)  # fmt: skip

ANSWERS = {
    "anthropic": _ANTHROPIC,
    "gemini": _GEMINI,
    "bedrock": _BEDROCK,
    "cohere": _COHERE,
    "ollama": _OLLAMA,
    "yandexgpt": _YANDEX,
}

"""GigaChat on loopback, with its token server: what both versions of its API answer, written from its documents.

Tokens are `token-N-of-the-provider`, and all but the last are refused.
"""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

from support.upstream import Script, Seen, Upstream

KEY = "c2VjcmV0LWF1dGhvcml6YXRpb24ta2V5"
WORDS = ("Good ", "day.")
THOUGHT = "A greeting is asked for."
CALL = {"name": "weather", "arguments": {"city": "Rome", "days": 2}}
USAGE = {"prompt_tokens": 14, "completion_tokens": 8, "total_tokens": 22, "precached_prompt_tokens": 37}
USAGE_2 = {
    "input_tokens": 29, "input_tokens_details": {"prompt_tokens": 29, "cached_tokens": 3}, "output_tokens": 31,
    "total_tokens": 60,
}  # fmt: skip
MODEL, STATE = "GigaChat-2:2.0.28.2", "77d3fb14-457a-46ba-937e-8d856156d003"


def _json(value: Any, status: int = 200, **more: Any) -> Script:
    return Script(status=status, raw=json.dumps(value), content_type="application/json", **more)


def _answer(asked: Any) -> Script:
    """Version 1: the usage stands in the last frame but one, whose piece of text is empty."""
    calls = bool(asked.get("functions"))
    end = "function_call" if calls else "stop"
    head = {"created": 1, "model": MODEL, "object": "chat.completion"}
    thought = {"reasoning_content": THOUGHT} if asked.get("reasoning_effort") else {}
    if not asked.get("stream"):
        message: dict[str, Any] = {"role": "assistant", "content": "" if calls else "".join(WORDS), **thought}
        if calls:
            message |= {"function_call": CALL, "functions_state_id": STATE}
        choice = {"message": message, "index": 0, "finish_reason": end}
        return _json({**head, "choices": [choice], "usage": USAGE})
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": word, **thought} for word in WORDS]
    if calls:
        deltas = [{"role": "assistant", "content": "", "function_call": CALL, "functions_state_id": STATE}]
    frames: list[dict[str, Any]] = [{**head, "choices": [{"delta": delta, "index": 0}]} for delta in deltas]
    last = {"delta": {"content": ""}, "index": 0, "finish_reason": end}
    frames.append({**head, "choices": [last], "usage": USAGE})
    return Script(raw="".join(f"data: {json.dumps(frame)}\n\n" for frame in frames) + "data: [DONE]\n\n")


def _answer_2(asked: Any) -> Script:
    """Version 2: events with names, the last of them with the usage; nothing stands behind it."""
    calls = bool(asked.get("tools"))
    end = {"finish_reason": "function_call" if calls else "stop", "usage": USAGE_2}
    head = {"model": MODEL, "created_at": 1760434637, "message_id": "m-1"}
    parts: list[dict[str, Any]] = [{"text": word} for word in WORDS]
    if calls:
        parts = [{"function_call": CALL}]
    state = {"tools_state_id": STATE} if calls else {}
    if not asked.get("stream"):
        return _json({**head, "messages": [{"role": "assistant", "content": parts, **state}], **end})
    frames: list[tuple[str, dict[str, Any]]] = [
        ("response.message.delta", {**head, "messages": [{"role": "assistant", "content": [part], **state}]})
        for part in parts
    ]
    frames.append(("response.message.done", {**head, **end}))
    return Script(raw="".join(f"event: {event}\ndata: {json.dumps(value)}\n\n" for event, value in frames))


def _vectors(asked: Any) -> Script:
    data = [
        {"object": "embedding", "embedding": [0.5, float(n)], "index": n, "usage": {"prompt_tokens": 3 + n}}
        for n, _ in enumerate(asked["input"])
    ]
    return _json({"object": "list", "data": data, "model": "Embeddings"})


class Giga:
    """The provider and its token server. `answer`, where it is set, is what it answers to everything but tokens."""

    def __init__(self, upstream: Upstream) -> None:
        self.fetched: list[Seen] = []
        self.asked: list[Seen] = []
        self.lives_s = 1800.0
        self.milliseconds = True
        self.off_s: float | None = None  # how far its clock is ahead of ours; it then says the time, and keeps to it
        self.ends: dict[str, float] = {}
        self.down = False
        self.down_as: int | None = None  # the number of the token that is good, where it is not the last one's
        self.answer: Script | None = None
        upstream.on_request = self._on_request

    def _on_request(self, seen: Seen) -> Script:
        if seen.path.endswith("/oauth"):
            return self._token(seen)
        self.asked.append(seen)
        if self.off_s is not None:
            good = self.ends.get(seen.headers.get("authorization", ""), 0.0) > time.monotonic()
            return _answer(seen.json) if good else _json({"status": 401, "message": "Token has expired"}, 401)
        if seen.headers.get("authorization") != f"Bearer token-{self.down_as or len(self.fetched)}-of-the-provider":
            shown = {"status": 401, "message": f"Token has expired: {seen.headers.get('authorization')}"}
            return _json(shown, 401)
        if self.answer is not None:
            return self.answer
        if seen.path.endswith("/embeddings"):
            return _vectors(seen.json)
        if not seen.json.get("messages"):
            return _json({"status": 422, "message": "Invalid params: messages"}, 422)
        return _answer_2(seen.json) if "/v2/" in seen.path else _answer(seen.json)

    def _token(self, seen: Seen) -> Script:
        self.fetched.append(seen)
        if self.down:
            return Script(status=503, raw="busy", content_type="text/plain")
        until = time.time() + self.lives_s + (self.off_s or 0.0)
        expires = round(until * 1000) if self.milliseconds else round(until)
        token = {"access_token": f"token-{len(self.fetched)}-of-the-provider", "expires_at": expires}
        self.ends[f"Bearer {token['access_token']}"] = time.monotonic() + self.lives_s
        if self.off_s is not None:
            return _json(token, delay_s=0.05, headers={"date": formatdate(time.time() + self.off_s, usegmt=True)})
        return _json(token, delay_s=0.05)

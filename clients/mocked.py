"""`@copilotkit/aimock` as the provider behind several types, whole and with its faults: every call is settled, and what
the ledger says of it is what became of it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from clients.installed import Client
from support.server import Server, environment

SAID = "Good day to you, whoever you are."
# Types, and where their addresses begin.
TYPES = {
    "openai": "/v1", "mistral": "/v1", "anthropic": "", "gemini": "/v1beta", "bedrock": "", "cohere": "", "ollama": "",
}  # fmt: skip
FAULTS = ("dropRate", "malformedRate", "disconnectRate", "rateLimitRate")
_RATE, _ROUNDS = 0.4, 2
_TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


@contextmanager
def _mock(client: Client) -> Iterator[str]:
    """The address of a running mock."""
    process = subprocess.Popen(
        client.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), url
        yield url
    finally:
        process.stdin.close()
        process.wait(10)


def _set_faults(url: str, faults: dict[str, float]) -> None:
    asked = urllib.request.Request(
        f"{url}/__aimock/chaos", json.dumps(faults).encode(), {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert answer.status < 300, answer.status


def _chat(kind: str, asked: str = "hello", **more: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {"model": f"{kind}/m", "messages": [{"role": "user", "content": asked}], **more}


def _others() -> list[tuple[str, dict[str, Any]]]:
    """Calls of the other kinds."""
    hello = [{"role": "user", "content": "hello"}]
    return [
        *(("/v1/messages", {"model": f"{k}/m", "max_tokens": 9, "messages": hello}) for k in ("anthropic", "openai")),
        ("/v1/responses", {"model": "openai/m", "input": "hello"}),
        *(("/v1/embeddings", {"model": f"{kind}/m", "input": "hello"}) for kind in ("openai", "cohere")),
        ("/v1/audio/speech", {"model": "openai/m", "input": "hello", "voice": "alloy"}),
        ("/v1/images/generations", {"model": "openai/m", "prompt": "hello"}),
        ("/v1/moderations", {"model": "openai/m", "input": "hello"}),
        ("/v1/rerank", {"model": "cohere/m", "query": "hello", "documents": ["a", "b"]}),
    ]  # fmt: skip


def _chat_calls() -> list[tuple[str, dict[str, Any]]]:
    return [
        _chat(kind, asked, stream=stream, **more)
        for kind in TYPES
        for stream in (False, True)
        for asked, more in (("hello", {}), ("weather", {"tools": [_TOOL]}))
    ]


def _is_good(asked: dict[str, Any], status: int, body: bytes) -> bool:
    """Whether a chat's answer reached its client whole."""
    lines = [line[5:] for line in body.decode().splitlines() if line.startswith("data:")]
    if status != 200 or (asked["stream"] and lines[-1:] != [" [DONE]"]):
        return False
    values = [json.loads(line) for line in lines if line != " [DONE]"] if asked["stream"] else [json.loads(body)]
    if any("error" in value for value in values):
        return False
    said = [c.get("delta") or c.get("message") or {} for value in values for c in value["choices"]]
    calls = [call for one in said for call in one.get("tool_calls") or []]
    arguments = "".join(call["function"].get("arguments") or "" for call in calls)
    text = "".join(one.get("content") or "" for one in said)
    return json.loads(arguments) == {"city": "Rome"} if "tools" in asked else text == SAID


def _without_faults(server: Server) -> int:
    made = _chat_calls() + _others()
    for path, asked in made:
        status, body, headers = server.exchange("POST", path, asked)
        place = f"{path} {asked['model']} {'streamed' if asked.get('stream') else ''}"
        assert status == 200, f"{place}: {status} {body[:300]!r}"
        assert path != "/v1/chat/completions" or _is_good(asked, status, body), f"{place}: {body!r}"
        assert "x-bursar-call-id" in headers
    entries = server.settled()
    assert len(entries) == len(made), f"{len(made)} calls, {len(entries)} entries"
    assert {e["status"] for e in entries} == {"completed"}, Counter((e["provider"], e["status"]) for e in entries)
    # Of Ollama's counts the mock makes zeros; Mistral's streams it leaves without any.
    chats = [e for e in entries if e["method_type"].endswith("_completion")]
    counts = Counter((e["provider"], e["prompt_tokens"], e["completion_tokens"]) for e in chats)
    known = {key[1:] for key in counts if key[0] != "ollama" and key[1] is not None}
    assert known == {(12, 7)}, counts
    return len(made)


def _with_faults(server: Server, url: str, fault: str) -> Counter[str]:
    _set_faults(url, {fault: _RATE})
    made = _chat_calls() * _ROUNDS
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: server.exchange("POST", *one), made))
    _set_faults(url, {})
    finals = {entry["call_id"]: entry for entry in server.settled() if entry["is_final"]}
    became: Counter[str] = Counter()
    for (_, asked), (status, body, headers) in zip(made, answers, strict=True):
        entry = finals[headers["x-bursar-call-id"]]
        good = _is_good(asked, status, body)
        place = f"{fault}, {asked['model']}: the client got {status} {body[-300:]!r}, the ledger has {entry['status']}"
        assert entry["status"] == ("completed" if good else "failed"), place
        became[entry["status"] if entry["attempt"] == 1 else f"{entry['status']} after {entry['attempt']}"] += 1
    return became


def settled(client: Client, folder: Path) -> str:
    """What came of calls to the mock. Raises AssertionError where the ledger says otherwise."""
    with _mock(client) as url:
        config = "".join(
            f'[[providers]]\nname = "{kind}"\ntype = "{kind}"\nbase_url = "{url}{path}"\n'
            'api_key = "k-of-the-mock"\nretries = 1\n'
            for kind, path in TYPES.items()
        )
        server = Server(folder, config).start()
        try:
            calls = _without_faults(server)
            became = {fault: _with_faults(server, url, fault) for fault in FAULTS}
            green, report = server.verify()
            assert green, report
        finally:
            server.kill_group()
    assert all(any(name != "completed" for name in counts) for counts in became.values()), became
    told = "; ".join(f"{f}: {', '.join(f'{n} {s}' for s, n in sorted(c.items()))}" for f, c in became.items())
    return f"{calls} calls without faults, {sum(c.total() for c in became.values())} with them ({told}), all settled"

"""GigaChat's own SDK and the server, both in front of the same fake: what the ledger says is what the SDK reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from clients.installed import Client
from support.corpus import chat_of
from support.giga import KEY, Giga
from support.server import Server, environment
from support.upstream import Upstream

_SCHEMA = {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}
_TOOL = {"type": "function", "function": _SCHEMA}


def _counts(usage: dict[str, Any]) -> tuple[int, int, int]:
    """Input with what was cached, output, and what was cached: it stands beside the input in both versions."""
    if "prompt_tokens" in usage:
        cached = usage["precached_prompt_tokens"]
        return usage["prompt_tokens"] + cached, usage["completion_tokens"], cached
    cached = usage["input_tokens_details"]["cached_tokens"]
    return usage["input_tokens"] + cached, usage["output_tokens"], cached


def _through(server: Server, one: dict[str, Any]) -> None:
    """Makes the same call through the server, and compares. Raises AssertionError."""
    version, *more = one["kind"].split()
    stream = "stream" in more
    asked: dict[str, Any] = {"model": f"{version}/GigaChat-2", "messages": [{"role": "user", "content": "hello"}]}
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    if "functions" in more:
        asked["tools"] = [_TOOL]
    status, body, headers = server.exchange("POST", "/v1/chat/completions", asked)
    assert status == 200, f"{one['kind']}: {body!r}"
    (entry,) = [e for e in server.settled() if e["call_id"] == headers["x-bursar-call-id"] and e["is_final"]]
    read = chat_of(body, stream=stream)
    counts = _counts(one["usage"])
    assert (entry["prompt_tokens"], entry["completion_tokens"], entry["cached_tokens"]) == counts, (one, entry)
    assert read["usage"] == list(counts[:2]), (one, read)
    assert (read["text"], entry["finish_reason"]) == (one["text"], one["finish"]), (one, read)
    assert [call[1:] for call in read["calls"]] == one["calls"], (one, read)


def agreed(client: Client, folder: Path) -> str:
    """What came of it. Raises AssertionError where the SDK and the ledger do not agree."""
    with Upstream() as upstream:
        Giga(upstream)
        root = upstream.base_url.removesuffix("/v1")
        env = environment(URL=f"{root}/api/v1", TOKEN_URL=f"{root}/oauth", KEY=KEY)
        made = subprocess.run(
            client.command(), cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert made.returncode == 0, made.stderr[-3000:]
        said = [json.loads(line) for line in made.stdout.splitlines()]
        config = "".join(
            f'[[providers]]\nname = "{version}"\ntype = "gigachat"\nbase_url = "{root}/api/{version}"\n'
            f'api_key = "{KEY}"\ntoken_url = "{root}/oauth"\nretries = 0\n'
            for version in ("v1", "v2")
        )
        server = Server(folder, config).start()
        try:
            chats = [one for one in said if "finish" in one]
            for one in chats:
                _through(server, one)
            (vectors,) = [one for one in said if one["kind"] == "vectors"]
            for version in ("v1", "v2"):
                asked = {"model": f"{version}/Embeddings", "input": ["a", "b"]}
                status, body, _ = server.exchange("POST", "/v1/embeddings", asked)
                assert status == 200, body
                assert json.loads(body)["usage"]["prompt_tokens"] == vectors["usage"], body
            green, report = server.verify()
            assert green, report
        finally:
            server.kill_group()
    return f"{len(said)} calls of the SDK, {len(chats) + 2} through the server, read the same"

"""Every recorded exchange through a provider on a real socket and the running server: the ledger has what the exchange
says, and a client of the provider's own format gets its bytes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from bursar.wire import spec as specs
from support.corpus import CORPUS, FILES, Read, body_of, is_stream, second_reading
from support.server import Server
from support.upstream import Script, Upstream

pytestmark = [pytest.mark.corpus, pytest.mark.timeout(1800)]
_PATHS = {
    "chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses",
    "embeddings": "/v1/embeddings", "count_tokens": "/v1/messages/count_tokens",
}  # fmt: skip
_HELLO = {"messages": [{"role": "user", "content": "hello"}]}
_ASKED: dict[str, Any] = {
    "chat": _HELLO, "messages": {**_HELLO, "max_tokens": 9}, "count_tokens": _HELLO, "responses": {"input": "hello"},
    "embeddings": {"input": ["hello"]},
}  # fmt: skip
_EVERY = {
    **FILES,
    "anthropic-count-tokens": ("anthropic", "count_tokens"),
    "vertex-embeddings": ("vertex", "embeddings"),
}


def _files() -> list[Any]:
    if not CORPUS.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip("no corpus: CORPUS_DIR names no folder"))]
    return [name for name in _EVERY if (CORPUS / f"{name}.jsonl").exists()]


def test_no_file_of_the_corpus_is_left_out() -> None:
    if not CORPUS.is_dir():
        pytest.skip("no corpus: CORPUS_DIR names no folder")
    assert {path.stem for path in CORPUS.glob("*.jsonl")} == set(_EVERY)


@pytest.mark.parametrize("name", _files())
def test_a_recorded_exchange_stands_on_the_ledger_as_it_was(
    make_server: Callable[..., Server], upstream: Upstream, name: str
) -> None:
    kind, operation = _EVERY[name]
    root = upstream.base_url.removesuffix("/v1")
    server = make_server(
        more=f'[[providers]]\nname = "p"\ntype = "{kind}"\nbase_url = "{root}"\napi_key = "k-secret-k"\nretries = 0\n'
    )
    speaks = specs.build(kind).operations[operation].speaks
    ingress = speaks if operation == "chat" and speaks else operation
    recorded = [json.loads(line) for line in (CORPUS / f"{name}.jsonl").read_text().splitlines()]
    calls: dict[str, Read] = {}
    for exchange in recorded:
        body = body_of(exchange)
        answer = Script(status=exchange["status"], raw=body.decode("latin-1"), content_type=exchange["content_type"])
        upstream.on_request = lambda _seen, answer=answer: answer
        asked = {"model": "p/m", "stream": is_stream(exchange), **_ASKED[ingress]}
        if ingress in ("embeddings", "count_tokens"):
            del asked["stream"]
        elif ingress == "chat" and is_stream(exchange):
            asked["stream_options"] = {"include_usage": True}  # else the frame is taken out
        status, data, headers = server.exchange("POST", _PATHS[ingress], asked)
        calls[headers["x-bursar-call-id"]] = exchange
        if exchange["status"] == 200 and speaks == ingress and _is_good(exchange, body):
            assert (status, data) == (200, body), exchange["id"]
        elif exchange["status"] != 200:
            assert status == exchange["status"], exchange["id"]
    rows = _rows(server)
    assert rows.keys() == calls.keys()
    for call_id, exchange in calls.items():
        _compare(rows[call_id], exchange, name, operation)
    assert server.verify()[0]


def _is_good(exchange: Read, body: bytes) -> bool:
    """Whether it is an answer: an error may stand under a status of 200."""
    return is_stream(exchange) or json.loads(body).get("error") is None


def _rows(server: Server) -> dict[str, Read]:
    server.drained()
    with server.database() as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute(
            "select l.*, e.finish_reason, e.cached_tokens, e.provider_total_tokens from llm_call_logs l "
            "join ledger_entries e using (call_id, attempt)"
        ).fetchall()
    return {row["call_id"]: dict(row) for row in found}


def _compare(row: Read, exchange: Read, name: str, operation: str) -> None:
    place = f"{name} {exchange['id']}"
    if exchange["status"] != 200:
        assert (row["status"], row["http_status_code"]) == ("failed", exchange["status"]), place
        said = json.loads(exchange["body"])
        message = said.get("error", said).get("message")
        assert message in row["error_message"], place
        return
    if row["status"] == "failed":
        assert '"error"' in exchange["body"] or exchange["body"].startswith("event: error"), place
        return
    assert row["status"] == "completed", place
    if operation in ("embeddings", "count_tokens"):
        usage = json.loads(exchange["body"]).get("usage") or {}
        assert operation == "embeddings" or row["usage_source"] == "none", place
        assert usage.get("prompt_tokens") in (None, row["prompt_tokens"]), place
        return
    wanted = second_reading(name)(exchange)
    assert (row["completion_text"] or "") == wanted["text"], place
    assert row["finish_reason"] == wanted["finish"], place
    counts = (row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"], row["provider_total_tokens"])
    assert counts == wanted["usage"], place
    answer = json.loads(row["output_response"])
    if is_stream(exchange):
        made = [c for choice in answer["choices"][:1] for c in choice["message"].get("tool_calls") or []]
        calls = [(c["function"]["name"], json.loads(c["function"]["arguments"] or "{}")) for c in made]
        assert calls == [c[1:] for c in wanted["calls"]], place
    else:
        assert answer == json.loads(exchange["body"]), place

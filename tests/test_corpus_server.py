"""Every recorded exchange through a provider on a real socket and the running server: the ledger has what the vendor's own
SDK reads of it, a client of the provider's format gets its bytes, and one of another format the same in its own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from bursar.wire import spec as specs
from support.corpus import CORPUS, FILES, NO_CORPUS, Read, body_of, chat_of, is_stream, reading, recorded
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


def _files() -> list[Any]:
    if not CORPUS.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(NO_CORPUS))]
    return [name for name in FILES if (CORPUS / f"{name}.jsonl").exists()]


def test_no_file_of_the_corpus_is_left_out() -> None:
    if not CORPUS.is_dir():
        pytest.skip(NO_CORPUS)
    assert {path.stem for path in CORPUS.glob("*.jsonl")} == set(FILES)


@pytest.mark.parametrize("name", _files())
def test_a_recorded_exchange_stands_on_the_ledger_as_it_was(
    make_server: Callable[..., Server], upstream: Upstream, name: str
) -> None:
    kind, operation = FILES[name]
    root = upstream.base_url.removesuffix("/v1")
    server = make_server(
        more=f'[[providers]]\nname = "p"\ntype = "{kind}"\nbase_url = "{root}"\napi_key = "k-secret-k"\nretries = 0\n'
    )
    speaks = specs.build(kind).operations[operation].speaks
    ingress = speaks if operation == "chat" and speaks else operation
    calls: dict[str, Read] = {}
    for exchange in recorded(name):
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
        place = f"{name} {exchange['id']}"
        wanted = reading(name, exchange)
        if exchange["status"] != 200:
            assert status == exchange["status"], place
        elif "error" in wanted:
            assert is_stream(exchange) or status >= 400, place
        elif speaks == ingress:
            assert (status, data) == (200, body), place
        elif ingress == "chat":
            read = chat_of(data, stream=is_stream(exchange))
            assert (status, read["text"], read["usage"]) == (200, wanted["text"], wanted["usage"][:2]), place
            assert [call[1:] for call in read["calls"]] == [call[1:] for call in wanted["calls"]], place
            assert all(call[0] for call in read["calls"]), place
    rows = _rows(server)
    assert rows.keys() == calls.keys()
    for call_id, exchange in calls.items():
        _compare(rows[call_id], exchange, name)
    assert server.verify()[0]


def _rows(server: Server) -> dict[str, Read]:
    server.drained()
    with server.database() as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute(
            "select l.*, e.finish_reason, e.cached_tokens, e.provider_total_tokens from llm_call_logs l "
            "join ledger_entries e using (call_id, attempt)"
        ).fetchall()
    return {row["call_id"]: dict(row) for row in found}


def _compare(row: Read, exchange: Read, name: str) -> None:
    place, wanted = f"{name} {exchange['id']}", reading(name, exchange)
    if "error" in wanted:
        assert (row["status"], row["http_status_code"]) == ("failed", exchange["status"]), place
        said = row["error_message"].partition(": ")[2]
        assert said in wanted["error"]["message"], place
        return
    assert row["status"] == "completed", place
    if "count" in wanted:
        assert row["usage_source"] == "none", place
        return
    counts = [row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"], row["provider_total_tokens"]]
    if "vectors" in wanted:
        assert wanted["usage"] is None or counts[0] == wanted["usage"][0], place
        return
    assert counts == wanted["usage"], place
    assert (row["completion_text"] or "") == wanted["text"], place
    assert row["finish_reason"] == wanted["finish"], place
    answer = json.loads(row["output_response"])
    if is_stream(exchange):
        made = [c for choice in answer["choices"][:1] for c in choice["message"].get("tool_calls") or []]
        calls = [[c["function"]["name"], json.loads(c["function"]["arguments"] or "{}")] for c in made]
        assert calls == [call[1:] for call in wanted["calls"]], place
    else:
        assert answer == json.loads(exchange["body"]), place

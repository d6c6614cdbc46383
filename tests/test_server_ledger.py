"""The ledger as others see it: pages, sums, SQL, metrics, logs, the command line."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from support.server import Server, wait_for
from support.upstream import Upstream

HELLO = [{"role": "user", "content": "hello"}]


def _some_calls(server: Server) -> None:
    for n in range(6):
        headers = {"x-bursar-user": f"u{n % 2}", "x-bursar-session": f"s{n % 3}", "x-bursar-purpose": "chat.answer",
                   "x-bursar-function": "f"}  # fmt: skip
        server.chat(f"call {n}", headers=headers)
    server.chat(script={"usage": False})
    server.chat(script={"status": 400})
    server.request("POST", "/v1/chat/completions", {"model": "up/nobody-knows", "messages": HELLO})
    server.request("POST", "/v1/embeddings", {"model": "up/text-embedding-3-small", "input": "x"})
    server.settled()


def test_pages_go_through_all_entries_once(server: Server) -> None:
    _some_calls(server)
    whole = server.get("/api/calls?limit=1000")[1]
    assert (len(whole["calls"]), whole["next_cursor"]) == (10, None)
    paged: list[Any] = []
    cursor = ""
    while cursor is not None:
        page = server.get(f"/api/calls?limit=3{f'&cursor={cursor}' if cursor else ''}")[1]
        paged += page["calls"]
        cursor = page["next_cursor"]
    assert paged == whole["calls"]
    assert [c["created_at"] for c in paged] == sorted((c["created_at"] for c in paged), reverse=True)


def test_filters_narrow_the_list(server: Server) -> None:
    _some_calls(server)

    def count(query: str) -> int:
        return len(server.get(f"/api/calls?{query}")[1]["calls"])

    assert count("user=u0") == 3
    assert count("session=s1&user=u1") == 1
    assert count("status=failed") == 1
    assert count("method=embedding") == 1
    assert count("model=up/nobody-knows") == count("model=nobody-knows") == 1
    assert count("purpose=chat.answer&function=f&provider=up") == 6
    assert count("since=2999-01-01") == count("until=2000-01-01T00:00:00Z") == 0
    assert count("final=true&since=2000-01-01") == 10


def test_a_call_is_shown_whole_with_attempts_and_bodies(server: Server) -> None:
    server.chat("look at me", script={"fail_first": 1, "status": 503, "key": "w"})
    (last, _) = server.settled()
    shown = server.get(f"/api/calls/{last['call_id']}")[1]
    assert [a["status"] for a in shown["attempts"]] == ["failed", "completed"]
    final = shown["attempts"][1]
    assert final["input_messages"] == [{"role": "user", "content": "look at me"}]
    assert final["completion_text"] == final["output_response"]["choices"][0]["message"]["content"]
    assert final["raw_usage"]["total_tokens"] == final["total_tokens"]


def test_sums_tell_what_they_miss(server: Server) -> None:
    _some_calls(server)
    lines = {u["model"]: u for u in server.get("/api/usage?group_by=model")[1]["usage"]}
    mini = lines["gpt-4o-mini"]
    assert (mini["calls"], mini["attempts"], mini["completed"], mini["failed"]) == (8, 8, 7, 1)
    assert (mini["without_usage"], mini["without_price"], mini["estimated"]) == (2, 0, 0)
    entries = [e for e in server.entries() if e["model"] == "gpt-4o-mini"]
    assert mini["total_tokens"] == sum(e["total_tokens"] or 0 for e in entries)
    assert round(mini["cost_usd"], 12) == round(sum(e["cost_usd"] or 0 for e in entries), 12) > 0
    assert (lines["nobody-knows"]["without_price"], lines["nobody-knows"]["cost_usd"]) == (1, None)
    for by in ("provider", "user", "session", "purpose", "function", "hour", "day", "month", "model,day"):
        usage = server.get(f"/api/usage?group_by={by}")[1]["usage"]
        assert sum(u["calls"] for u in usage) == 10, by
    assert server.get("/api/usage?user=u0")[1]["usage"][0]["calls"] == 3
    assert server.get("/api/usage?session=s0&group_by=purpose")[1]["usage"][0]["calls"] == 2
    assert server.get("/api/usage?since=2999-01-01")[1]["usage"] == []


def test_the_three_queries_of_the_documents_run(server: Server) -> None:
    _some_calls(server)
    with server.database() as c:
        recent = c.execute(
            "select created_at, model, method_type, status, prompt_tokens, completion_tokens, total_tokens, cost_usd, "
            "response_time_ms, edge_function, user_id from llm_call_logs order by created_at desc limit 50"
        ).fetchall()
        cost = c.execute(
            "select model, count(*) as calls, sum(total_tokens) as tokens, sum(cost_usd) as cost, "
            "avg(response_time_ms) as ms from llm_call_logs "
            "where created_at > datetime('now', '-24 hours') group by model order by cost desc"
        ).fetchall()
        errors = c.execute(
            "select error_message, model, edge_function, count(*) as n from llm_call_logs where status = 'failed' "
            "and created_at > datetime('now', '-7 days') group by error_message, model, edge_function order by n desc"
        ).fetchall()
    assert len(recent) == 10
    assert {r["model"]: r["calls"] for r in cost} == {"gpt-4o-mini": 8, "nobody-knows": 1, "text-embedding-3-small": 1}
    assert cost[0]["model"] != "nobody-knows"
    assert [(r["error_message"], r["n"]) for r in errors] == [("'up' answered 400: failed with 400", 1)]


def test_every_column_of_the_call_log_is_there(server: Server) -> None:
    wanted = [
        "input_messages",
        "input_params",
        "output_response",
        "completion_text",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "cost_usd",
        "response_time_ms",
        "time_to_first_token_ms",
        "status",
        "error_message",
        "http_status_code",
        "request_id",
        "edge_function",
        "user_id",
        "started_at",
        "completed_at",
        "created_at",
        "method_type",
        "call_id",
        "attempt",
        "is_final",
        "provider",
        "session_id",
        "purpose",
        "usage_source",
        "cached_tokens",
        "reasoning_tokens",
        "cost",
        "cost_currency",
        "finish_reason",
        "provider_response_id",
        "model",
    ]
    with server.database() as c:
        columns = {d[0] for d in c.execute("select * from llm_call_logs").description}
    assert set(wanted) <= columns
    server.chat()
    bodies = {"input_messages", "input_params", "output_response", "completion_text"}
    assert set(wanted) - bodies <= set(server.settled()[0])


def test_metrics_count_what_the_ledger_has(make_server: Callable[..., Server]) -> None:
    server = make_server(workers=2)
    for _ in range(10):
        server.chat()
    server.chat(script={"usage": False})
    server.settled()

    def value(name: str, label: str = "") -> float:
        lines = [x for x in server.get("/metrics")[1].splitlines() if re.match(rf"{name}[ {{]", x) and label in x]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    tokens = sum(e["prompt_tokens"] or 0 for e in server.entries())
    # What a worker tallied is in the others' answers within half a second or so.
    wait_for(lambda: {value("bursar_attempts_total") for _ in range(6)} == {11}, 10, "attempts are not counted")
    for _ in range(6):  # whichever worker answers
        assert value("bursar_attempts_total") == 11
        assert value("bursar_attempts_without_usage_total") == 1
        assert value("bursar_tokens_total", 'kind="input"') == tokens
        assert value("bursar_attempt_seconds_count") == 11
        assert value("bursar_store_up") == 1
    wait_for(lambda: server.health()[1]["workers"] == 2, 10, "a worker does not know of the other")


def test_each_response_is_one_line_in_the_log(make_server: Callable[..., Server]) -> None:
    server = make_server()
    server.chat()
    server.chat(script={"status": 400})
    entries = server.settled()
    lines = [line for line in server.log.read_text().splitlines() if line.startswith("[llm]")]
    assert lines[0] == (
        f"[llm] provider=up response status=200 model=gpt-4o-mini duration_ms={entries[1]['response_time_ms']} "
        f"tokens=112 call_id={entries[1]['call_id']}"
    )
    assert re.fullmatch(
        r"\[llm\] provider=up response status=400 model=gpt-4o-mini duration_ms=\d+ tokens=- call_id=\S+ outcome=failed",
        lines[1],
    )
    as_json = make_server(more="[server]\njson_logs = true")
    as_json.chat()
    as_json.settled()
    (line,) = [json.loads(x) for x in as_json.log.read_text().splitlines() if x.startswith("{") and "[llm]" in x]
    assert (line["provider"], line["status"], line["model"], line["tokens"]) == ("up", 200, "gpt-4o-mini", 116)
    assert line["call_id"] == as_json.entries()[0]["call_id"]


def test_the_command_line_shows_calls_usage_and_providers(server: Server) -> None:
    _some_calls(server)
    table = server.bursar("calls", "--limit", "3").stdout.splitlines()
    assert len(table) == 4
    assert table[0].split()[:4] == ["created", "(UTC)", "call", "try"]
    assert all("…" not in line for line in table), "nothing is cut where nobody watches the width"
    rows = [json.loads(x) for x in server.bursar("calls", "--format", "json", "--limit", "4").stdout.splitlines()]
    assert [r["created_at"] for r in rows] == sorted((r["created_at"] for r in rows), reverse=True)
    assert len(rows) == 4
    assert (
        json.loads(server.bursar("calls", "--format", "json", "--user", "u0").stdout.splitlines()[0])["user_id"] == "u0"
    )
    whole = server.bursar("calls", rows[0]["call_id"], "--format", "json").stdout
    assert json.loads(whole)["input_messages"] == ["x"]
    assert rows[0]["call_id"] in server.bursar("calls", rows[0]["call_id"]).stdout
    usage = [json.loads(x) for x in server.bursar("usage", "--by", "user", "--format", "json").stdout.splitlines()]
    assert [(u["user"], u["calls"]) for u in usage] == [(None, 4), ("u0", 3), ("u1", 3)]
    assert "gpt-4o-mini" in server.bursar("usage").stdout
    assert json.loads(server.bursar("providers", "--format", "json").stdout)["name"] == "up"
    green = server.bursar("verify")
    assert (green.returncode, green.stdout.startswith("green: 10 entries")) == (0, True)
    assert json.loads(server.bursar("verify", "--format", "json").stdout)["green"] is True


def test_every_command_says_what_it_is_for_and_what_it_takes(server: Server) -> None:
    listed = server.bursar("--help").stdout
    for name in ("serve", "call", "calls", "usage", "verify", "providers", "prices", "keys"):
        helped = server.bursar(name, "--help")
        assert helped.returncode == 0, helped.stderr
        first = helped.stdout.split("\n\n")[1].split()
        assert f"  {name} " in listed
        assert " ".join(first[:3]) in listed, "the list says what the command itself says"
    assert "[env: BURSAR_CONFIG]" in server.bursar("serve", "--help").stdout
    assert server.bursar("--version").stdout.startswith("bursar ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("call",), "Missing argument 'MODEL'"),
        (("serv",), "No such command 'serv'"),
        (("serve", "--port", "65536"), "65536 is not in the range 0<=x<=65535"),
        (("calls", "--format", "yaml"), "'yaml' is not one of 'table', 'json'"),
        (("calls", "--since", "then"), "'then' is no time"),
        (("prices", "find", "up", "m", "--at", "then"), "'then' does not match"),
        (("providers", "chek"), "No such command 'chek'"),
        (("keys", "revoke", "none"), "there is no live key 'none'"),
        (("providers", "check", "up", "--timeout", "nan"), "--timeout is no number of seconds"),
    ],
)
def test_a_command_that_is_wrong_is_refused_with_what_was_wrong(
    server: Server, arguments: tuple[str, ...], said: str
) -> None:
    refused = server.bursar(*arguments)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_store_that_is_none_is_told_in_one_line(server: Server) -> None:
    database = server.folder / "data" / "bursar.db"
    server.stop()
    database.write_bytes(b"this is no database, though it is as long as one might be" * 100)
    for command in ("calls", "usage", "verify"):
        refused = server.bursar(command)
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"bursar: the store {database.relative_to(server.folder)} cannot be used")
        assert len(refused.stderr.splitlines()) == 1


def test_a_command_that_is_interrupted_exits_with_130_and_says_nothing(server: Server) -> None:
    server.chat()
    server.settled()
    command = [sys.executable, "-m", "bursar", "calls", "--follow", "--format", "json"]
    with subprocess.Popen(
        command, cwd=server.folder, env=server.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout is not None
        try:
            assert json.loads(following.stdout.readline())["status"] == "completed"
            following.send_signal(signal.SIGINT)
            _, err = following.communicate(timeout=20)
        finally:
            following.kill()
    assert (following.returncode, err.strip()) == (130, "")


def test_verify_exits_with_1_and_names_what_it_found(server: Server) -> None:
    server.chat()
    server.settled()
    with server.database() as c:
        c.execute("update ledger_rollups set total_tokens = total_tokens + 1 where scope = 'all'")
    out = server.bursar("verify")
    assert out.returncode == 1
    assert re.match(
        r"rollup_mismatch: workspace=default hour=\d+ .*: total_tokens in the sums is 113, .* 112\n", out.stdout
    )
    assert "RED: 1 findings" in out.stdout


def test_following_shows_entries_as_they_settle(server: Server) -> None:
    server.chat("before")
    server.settled()
    command = [sys.executable, "-m", "bursar", "calls", "--follow", "--format", "json", "--limit", "5"]
    process = subprocess.Popen(command, cwd=server.folder, env=server.env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["total_tokens"] == 112
        for total in (114, 116):
            server.chat("after")
            assert json.loads(process.stdout.readline())["total_tokens"] == total
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_call_from_the_command_line_stands_on_the_ledger(server: Server, upstream: Upstream) -> None:
    out = server.bursar("call", "up/gpt-4o-mini", "say it", "--user", "ann", "--system", "be brief")
    assert out.returncode == 0
    assert out.stdout.startswith("answer 1")
    assert re.search(r"101 tokens in, 11 out · 0\.0000\d+ USD · \d+ ms · call ", out.stderr)
    assert upstream.seen[0].json["messages"][0] == {"role": "system", "content": "be brief"}
    as_json = json.loads(server.bursar("call", "up/gpt-4o-mini", "-", "--format", "json").stdout)
    assert as_json["total_tokens"] == 114
    entries = server.settled()
    assert [(e["user_id"], e["purpose"], e["call_id"] == as_json["call_id"]) for e in entries] == [
        (None, "cli.call", True),
        ("ann", "cli.call", False),
    ]
    failed = server.bursar("call", "up/gpt-4o-mini")
    assert failed.returncode == 2
    refused = server.bursar("call", "", "hello")
    assert (refused.returncode, "'model' is empty" in refused.stderr, "Traceback" in refused.stderr) == (2, True, False)


def test_commands_without_a_ledger_say_so(make_server: Callable[..., Server]) -> None:
    server = make_server(start=False)
    for command in ("calls", "usage", "verify"):
        out = server.bursar(command)
        assert out.returncode == 2
        assert "there is no ledger at data/bursar.db yet" in out.stderr


def test_openapi_describes_the_control_plane(server: Server) -> None:
    described = server.get("/openapi.json")[1]
    assert {"/api/calls", "/api/calls/{call_id}", "/api/usage", "/api/keys"} <= set(described["paths"])


def test_health_tells_the_spool_and_the_store(server: Server) -> None:
    status, state = server.health()
    assert status == 200
    assert state["status"] == "ok"
    assert state["store"] == {"state": "ok", "error": None}
    assert set(state["spool"]) == {"records", "bytes", "lag_s", "open_entries", "orphans", "full"}
    wait_for(lambda: server.health()[1]["workers"] == 1, 5, "the worker does not count itself")

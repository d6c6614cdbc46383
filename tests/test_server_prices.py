"""Prices of the installation's own, over the socket: given by file, API and command while two workers run, and what
they make of entries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.server import Server, config, wait_for
from support.upstream import Script, Upstream

HELLO = [{"role": "user", "content": "hello"}]
MORE = """
[[prices]]
provider = "up"
model = "filed"
currency = "RUB"
input = 10
output = 20

[[currency_rates]]
currency = "EUR"
usd = 1.1
valid_from = 2026-01-01
"""


def _answering(upstream: Upstream, usage: dict[str, Any], model: str | None = None, **more: Any) -> None:
    def answer(seen: Any) -> Script:
        body = {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": model or seen.json["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
            "usage": usage,
            **more,
        }
        return Script(raw=json.dumps(body), content_type="application/json")

    upstream.on_request = answer


USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as fake:
        _answering(fake, USAGE)
        yield fake


def _entry(server: Server, model: str, **more: Any) -> dict[str, Any]:
    """What a call stands on the ledger with."""
    status, data, headers = server.exchange("POST", "/v1/chat/completions", {"model": model, "messages": HELLO, **more})
    assert status == 200, data
    return _stored(server, headers["x-bursar-call-id"])


def _stored(server: Server, call_id: str) -> dict[str, Any]:
    """Its one entry, when the drain has brought it to the store."""
    found: list[dict[str, Any]] = []

    def settled() -> bool:
        status, shown = server.get(f"/api/calls/{call_id}")
        found[:] = shown["attempts"] if status == 200 else []
        return bool(found) and found[0]["status"] != "started"

    wait_for(settled, 20, "the entry did not come into the store")
    (entry,) = found
    return entry


def _given(server: Server, **price: Any) -> dict[str, Any]:
    status, body = server.request("POST", "/api/prices", price)
    assert status == 201, body
    return body


def test_a_price_given_by_api_is_the_next_call_s_in_each_worker(tmp_path: Path, upstream: Upstream) -> None:
    with Server(tmp_path, config(upstream.base_url, more=MORE), workers=2) as server:
        before = _entry(server, "custom-1")
        assert (before["cost"], before["price_id"]) == (None, None)
        given = _given(
            server, model="custom-1", provider="up", currency="RUB", input="100.5", output=201, note="by mail"
        )
        assert (given["input"], given["output"], given["validFrom"], given["isActive"]) == ("100.5", "201", None, True)
        for _ in range(8):
            entry = _entry(server, "custom-1")
            assert (entry["cost"], entry["cost_currency"], entry["cost_usd"], entry["usd_rate"]) == (
                0.1206,
                "RUB",
                None,
                None,
            )
            assert (entry["price_id"], entry["cost_source"]) == (given["id"], "price")
        # a rate: what came before it keeps its null, what comes after it has dollars
        status, rate = server.request(
            "POST", "/api/currency-rates", {"currency": "RUB", "usd": 0.0125, "validFrom": "2026-01-01"}
        )
        assert status == 201
        for _ in range(8):
            entry = _entry(server, "custom-1")
            assert (entry["cost"], entry["cost_usd"], entry["usd_rate"]) == (0.1206, 0.0015075, "0.0125@2026-01-01")
        # another price from a day on, and the same usage costs something else; the entries before keep theirs
        later = _given(
            server, model="custom-1", provider="up", currency="RUB", input=1, output=1, validFrom="2026-02-01"
        )
        assert _entry(server, "custom-1")["price_id"] == later["id"]
        assert _entry(server, "custom-1")["cost"] == 0.0011
        assert server.request("DELETE", f"/api/prices/{later['id']}")[0] == 204
        assert _entry(server, "custom-1")["price_id"] == given["id"]
        assert server.request("DELETE", f"/api/prices/{later['id']}")[0] == 404
        assert server.request("DELETE", f"/api/currency-rates/{rate['id']}")[0] == 204
        assert _entry(server, "custom-1")["cost_usd"] is None
        _, shown = server.get("/api/prices")
        assert [(p["source"], p["isActive"]) for p in shown["prices"]] == [
            ("file", True),
            ("table", True),
            ("table", False),
        ]
        costs = [e["cost"] for e in server.entries() if e["model"] == "custom-1"]
        assert sorted(c for c in costs if c is not None) == [0.0011] * 2 + [0.1206] * 18
        assert server.verify()[0]


def test_what_has_no_price_or_no_rate_is_listed_and_counted(tmp_path: Path, upstream: Upstream) -> None:
    with Server(tmp_path, config(upstream.base_url, more=MORE)) as server:
        shown = server.bursar("prices", "missing")
        assert (shown.returncode, "Everything that was used has a price." in shown.stdout) == (0, True)
        assert _entry(server, "nobody-knows")["cost"] is None
        filed = _entry(server, "filed")
        assert (filed["cost"], filed["cost_currency"], filed["cost_usd"]) == (0.012, "RUB", None)
        assert filed["price_id"].startswith("file:up/filed#")
        _entry(server, "gpt-4o")
        _, missing = server.get("/api/prices/missing")
        (model,) = missing["models"]
        assert {
            n: model[n] for n in ("provider", "model", "attempts", "prompt_tokens", "completion_tokens", "total_tokens")
        } == {
            "provider": "up",
            "model": "nobody-knows",
            "attempts": 1,
            "prompt_tokens": 1000,
            "completion_tokens": 100,
            "total_tokens": 1100,
        }
        (currency,) = missing["currencies"]
        assert (currency["currency"], currency["cost"], currency["attempts"]) == ("RUB", 0.012, 1)
        shown = server.bursar("prices", "missing")
        assert shown.returncode == 1
        assert "nobody-knows" in shown.stdout
        assert "RUB" in shown.stdout
        metrics = server.exchange("GET", "/metrics")[1].decode()
        assert 'bursar_attempts_without_price_total{model="nobody-knows",provider="up"} 1' in metrics
        assert 'bursar_attempts_without_rate_total{model="filed",provider="up"} 1' in metrics


def test_commands_give_prices_too(tmp_path: Path, upstream: Upstream) -> None:
    with Server(tmp_path, config(upstream.base_url, more=MORE)) as server:
        file = tmp_path / "price.json"
        file.write_text(
            json.dumps(
                {
                    "model": "by-hand*",
                    "providerType": "openai",
                    "input": 2,
                    "output": 8,
                    "tiers": [{"tier": "batch", "input": 1}],
                    "above": [{"tokens": 999, "input": 4}],
                }
            )
        )
        made = server.bursar("prices", "add", str(file), "--format", "json")
        assert made.returncode == 0, made.stderr
        price = json.loads(made.stdout)
        listed = server.bursar("prices").stdout
        assert price["id"] in listed
        assert "above 999, tiers batch" in listed
        assert "file:up/filed" in listed
        found = server.bursar("prices", "find", "up", "by-hand-3")
        assert found.returncode == 0
        assert price["id"] in found.stdout
        nothing = server.bursar("prices", "find", "up", "other")
        assert nothing.returncode == 1
        assert nothing.stdout.startswith("up has no price for other: give one with bursar prices add, or ")
        bundled = json.loads(server.bursar("prices", "find", "up", "gpt-4o", "--format", "json").stdout)
        assert (bundled["id"], bundled["input"], bundled["cached"]) == ("openai/gpt-4o#0.2.3", "2.5", "1.25")
        added = server.bursar("prices", "rates", "add", "RUB", "0.0125", "--valid-from", "2026-01-01")
        assert added.returncode == 0, added.stderr
        assert "0.0125" in server.bursar("prices", "rates").stdout
        file.write_text(json.dumps({"model": "m", "input": -1}))
        wrong = server.bursar("prices", "add", str(file))
        assert (wrong.returncode, "'input'" in wrong.stderr) == (2, True)
        assert server.bursar("prices", "delete", "file:up/filed#1").returncode == 2
        assert server.bursar("prices", "delete", price["id"]).returncode == 0
        assert server.bursar("prices", "find", "up", "by-hand-3").returncode == 1


@pytest.mark.parametrize("stream", [False, True])
def test_the_tier_that_served_is_paid_for(tmp_path: Path, upstream: Upstream, *, stream: bool) -> None:
    with Server(tmp_path, config(upstream.base_url)) as server:
        for tier, cost, price in (
            ("default", 0.0035, "openai/gpt-4o#0.2.3"),
            ("priority", 0.00595, "openai/gpt-4o#0.2.3 priority"),
            ("scale", None, None),
        ):
            if stream:
                chunk = {
                    "id": "x",
                    "object": "chat.completion.chunk",
                    "created": 1,
                    "model": "gpt-4o-2024-08-06",
                    "service_tier": tier,
                }
                frames = [
                    {**chunk, "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]}
                    for _ in range(5)
                ]
                frames += [
                    {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                    {**chunk, "choices": [], "usage": USAGE},
                ]
                body = "".join(f"data: {json.dumps(f)}\n\n" for f in frames) + "data: [DONE]\n\n"
                upstream.on_request = lambda _seen, body=body: Script(raw=body)
            else:
                _answering(upstream, USAGE, model="gpt-4o-2024-08-06", service_tier=tier)
            entry = _entry(server, "gpt-4o", stream=stream, service_tier="flex")
            assert (entry["cost"], entry["price_id"]) == (cost, price), tier


def test_a_workspace_s_price_is_its_own(tmp_path: Path, upstream: Upstream) -> None:
    with Server(tmp_path, config(upstream.base_url)) as server:
        status, key = server.request("POST", "/api/keys", {"name": "k", "role": "admin", "workspace": "lab"})
        assert status == 201
        of_lab = key["key"]
        status, price = server.request("POST", "/api/prices", {"model": "gpt-4o", "input": 1, "output": 1}, of_lab)
        assert (status, price["workspace"]) == (201, "lab")
        assert _entry(server, "gpt-4o")["price_id"] == "openai/gpt-4o#0.2.3"
        status, _, headers = server.exchange(
            "POST", "/v1/chat/completions", {"model": "gpt-4o", "messages": HELLO}, of_lab
        )
        assert _stored(server, headers["x-bursar-call-id"])["price_id"] == price["id"]
        assert server.request("POST", "/api/prices", {"model": "m", "workspace": "other", "input": 1}, of_lab)[0] == 403
        assert server.request("POST", "/api/currency-rates", {"currency": "RUB", "usd": 1}, of_lab)[0] == 403
        everyone = _given(server, model="gpt-4o", input=3, output=3)
        assert server.request("DELETE", f"/api/prices/{everyone['id']}", None, of_lab)[0] == 404
        other = server.request("POST", "/api/keys", {"name": "o", "role": "admin", "workspace": "other"})[1]["key"]
        assert [p["id"] for p in server.get("/api/prices", other)[1]["prices"]] == [everyone["id"]]
        found = server.get("/api/prices/find?provider=up&model=gpt-4o", of_lab)[1]
        assert (found["price"]["id"], found["price"]["input"]) == (price["id"], "1")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"input": 1}, "model"), ({"model": "m"}, "input"), ({"model": "m", "input": -1}, "input"), ({"model": "m", "input": "a lot"}, "input"),
        ({"model": "m", "input": 1, "currency": "rub"}, "currency"), ({"model": "m", "input": 1, "provider": "p", "providerType": "t"}, "providerType"),
        ({"model": "m*m", "input": 1}, "model"), ({"model": "m", "input": 1, "hours": "25:00-26:00"}, "hours"), ({"model": "m", "inputs": 1}, "inputs"),
        ({"model": "m", "input": 1, "validFrom": "soon"}, "validFrom"), ({"model": "m", "input": 1, "above": [{"tokens": 0}]}, "above.0.tokens"),
        ({"model": "m", "input": "1e-10"}, "input"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_price_is_named(server_of_all: Server, given: dict[str, Any], field: str) -> None:
    status, body = server_of_all.request("POST", "/api/prices", given)
    assert (status, body["error"]["param"]) == (400, field), body


@pytest.fixture(scope="module")
def server_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("prices"), config("http://127.0.0.1:9/v1")) as server:
        yield server


def test_a_price_written_into_the_table_by_hand_is_passed_over_where_it_is_none(
    tmp_path: Path, upstream: Upstream
) -> None:
    with Server(tmp_path, config(upstream.base_url)) as server:
        database = server.database()
        columns = "id, model, currency, rates, is_active, created_at, updated_at"
        database.execute(
            f"insert into llm_prices ({columns}) values ('bad', 'a', 'USD', '{{\"input\": \"x\"}}', 1, '', '')"
        )
        database.execute(
            f"insert into llm_prices ({columns}) values ('good', 'a', 'USD', '{{\"input\": \"1\", \"output\": \"1\"}}', 1, '', '')"
        )
        database.commit()
        given = _given(server, model="b", input=1, output=1)
        assert _entry(server, "b")["price_id"] == given["id"]
        assert _entry(server, "a")["price_id"] == "good"


def test_nothing_is_an_amount_too(tmp_path: Path, upstream: Upstream) -> None:
    _answering(upstream, {**USAGE, "prompt_tokens_details": {"cached_tokens": 400}})
    with Server(tmp_path, config(upstream.base_url)) as server:
        for given, cost in (
            ({"input": 0, "output": 0}, 0),
            ({"input": 1, "output": 0}, 0.001),
            ({"input": 10, "output": 10, "cached": 0}, 0.007),
        ):
            made = _given(server, model="free", **given)
            assert {n: made[n] for n in given} == {n: str(v) for n, v in given.items()}
            assert _entry(server, "free")["cost"] == cost
        assert "cannot be used" not in server.log.read_text()


def test_sums_tell_what_they_miss_of_dollars(tmp_path: Path, upstream: Upstream) -> None:
    with Server(tmp_path, config(upstream.base_url, more=MORE)) as server:
        _entry(server, "filed")
        assert server.request("POST", "/api/currency-rates", {"currency": "RUB", "usd": 0.0125})[0] == 201
        _entry(server, "filed")
        (line,) = server.get("/api/usage?group_by=model&model=filed")[1]["usage"]
        assert (line["costs"], line["cost_usd"], line["without_rate"]) == ({"RUB": 0.024}, 0.00015, 1)
        (currency,) = server.get("/api/prices/missing")[1]["currencies"]
        assert (currency["currency"], currency["without_rate"], currency["attempts"]) == ("RUB", 1, 2)
        assert server.get("/api/prices/missing?since=2100-01-01")[1] == {"models": [], "currencies": []}
        assert server.verify()[0]


@pytest.mark.parametrize("at", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
def test_a_time_that_cannot_be_is_named(server_of_all: Server, at: str) -> None:
    status, body, _ = server_of_all.exchange(
        "GET", f"/api/prices/find?provider=up&model=gpt-4o&at={at.replace('+', '%2B')}"
    )
    assert (status, json.loads(body)["error"]["param"]) == (400, "at")


def test_a_cost_path_says_in_which_currency(server_of_all: Server) -> None:
    given = {"name": "r", "providerType": "custom", "baseUrl": "http://127.0.0.1:9/v1"}
    for response, good in (({"costPath": "usage.price"}, False), ({"costPath": "usage.price", "costCurrency": "rub"}, False),
                           ({"costPath": "usage.price", "costCurrency": "RUB"}, True)):  # fmt: skip
        status, body = server_of_all.request("POST", "/api/providers", {**given, "responseConfig": response})
        assert (status == 201) == good, body
        assert good or (body["error"]["param"], "costCurrency" in body["error"]["message"]) == ("responseConfig", True)


def test_what_speaks_a_vendor_s_format_is_not_that_vendor(tmp_path: Path, upstream: Upstream) -> None:
    """A server of one's own serves a model of a well-known name: it costs nothing that anybody knows, until somebody
    says whose prices hold."""
    with Server(tmp_path, config(upstream.base_url)) as server:
        status, row = server.request(
            "POST", "/api/providers", {"name": "own", "providerType": "openai", "baseUrl": upstream.base_url}
        )
        assert status == 201
        assert _entry(server, "own/gpt-4o")["cost"] is None
        assert server.request("PATCH", f"/api/providers/{row['id']}", {"vendor": "openai"})[0] == 200
        assert _entry(server, "own/gpt-4o")["price_id"] == "openai/gpt-4o#0.2.3"
        status, body = server.request("PATCH", f"/api/providers/{row['id']}", {"vendor": "nobody"})
        assert (status, body["error"]["param"]) == (400, "vendor")
        assert "openai" in body["error"]["message"]
        found = server.bursar("prices", "find", "own", "gpt-4o")
        assert "openai/gpt-4o#0.2.3" in found.stdout


def test_a_price_gone_wrong_loses_no_entry(tmp_path: Path, upstream: Upstream) -> None:
    _answering(upstream, {"prompt_tokens": 10**9, "completion_tokens": 0, "total_tokens": 10**9})
    with Server(tmp_path, config(upstream.base_url)) as server:
        _given(server, model="dear", input=10**9, output=0)
        assert _entry(server, "dear")["cost"] is None
        _given(server, model="dear", input=1, output=0, currency="RUB")
        assert server.request("POST", "/api/currency-rates", {"currency": "RUB", "usd": 10**9})[0] == 201
        entry = _entry(server, "dear")
        assert (entry["cost"], entry["cost_usd"], entry["usd_rate"]) == (1000, None, None)
        assert server.verify()[0]

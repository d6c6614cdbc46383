"""The registry of the store: made and changed by API and command while servers run; whose it is; what is secret."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.giga import KEY, Giga
from support.server import Server, wait_for
from support.upstream import Script, Seen, Upstream

HELLO = [{"role": "user", "content": "hello"}]
PLANTED = "sk-planted-in-a-row-0123456789"


def _root(upstream: Upstream) -> str:
    return upstream.base_url.removesuffix("/v1")


def _made(server: Server, key: str | None = None, **given: Any) -> dict[str, Any]:
    status, body = server.request("POST", "/api/providers", given, *([key] if key else []))
    assert status == 201, body
    return body


def _key(server: Server, **given: Any) -> str:
    status, body = server.request("POST", "/api/keys", {"name": "k", **given})
    assert status == 201, body
    return str(body["key"])


def _ask(server: Server, model: str, key: str | None = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    status, data, got = server.exchange(
        "POST", "/v1/chat/completions", {"model": model, "messages": HELLO}, *([key] if key else ["bk-test-admin-key"]),
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )  # fmt: skip
    return status, json.loads(data), got


class Invented:
    """A provider that speaks no known format and wants a token fetched by client credentials."""

    def __init__(self, upstream: Upstream) -> None:
        self.tokens: list[Seen] = []
        self.asked: list[Seen] = []
        upstream.on_request = self._on_request

    def _on_request(self, seen: Seen) -> Script:
        if seen.path.endswith("/grant"):
            self.tokens.append(seen)
            return _json({"grant": {"value": "invented-token", "lasts": 3600}})
        self.asked.append(seen)
        if seen.headers.get("authorization") != "Bearer invented-token":
            return _json({"oops": {"message": "who are you"}}, 401)
        return _json({"say": {"words": "it works"}, "because": "end", "spent": {"all": "17"}})


def _json(value: Any, status: int = 200) -> Script:
    return Script(status=status, raw=json.dumps(value), content_type="application/json")


def test_a_provider_made_by_one_call_serves_the_next_in_every_worker(
    make_server: Callable[..., Server], upstream: Upstream
) -> None:
    server, invented = make_server(workers=2), Invented(upstream)
    row = _made(
        server, name="invented", providerType="custom", completionUrl=f"{_root(upstream)}/ask",
        tokenUrl=f"{_root(upstream)}/grant", authorizationKey=f"client:{PLANTED}", model="inv-1", isGlobal=True,
        requestConfig={"modelField": "engine", "messagesField": "talk.turns", "additionalBodyFields": {"lang": "ru"}},
        responseConfig={"messagePath": "say.words", "usageTokensPath": "spent.all", "errorPath": "oops"},
        authConfig={"clientAuth": "body", "tokenFields": {"grant_type": "client_credentials", "realm": "r"},
                    "tokenPath": "grant.value", "expiresInPath": "grant.lasts"},
    )  # fmt: skip
    assert (row["authorizationKey"], row["source"]) == ("***", "table")

    # The answer to the change came when it held in both: the very next calls are served, wherever they arrive.
    served: set[str] = set()
    while len(served) < 2:
        # Each request comes on a connection of its own: the workers share them.
        status, body, _ = _ask(server, "invented/inv-1")
        assert (status, body["choices"][0]["message"]["content"], body["usage"]["total_tokens"]) == (
            200,
            "it works",
            17,
        )
        served.update(e["spool_id"] for e in _rows(server, "select spool_id from ledger_entries"))
    assert {e["total_tokens"] for e in server.settled()} == {17}
    asked = invented.asked[-1].json
    assert (asked["engine"], asked["talk"]["turns"], asked["lang"]) == ("inv-1", HELLO, "ru")
    form = invented.tokens[0].body.decode()
    assert "grant_type=client_credentials" in form
    assert f"client_secret={PLANTED}" in form
    assert len(invented.tokens) <= 2  # one a worker

    # What is changed holds at once here, and a second later there.
    status, changed = server.request(
        "PATCH", f"/api/providers/{row['id']}", {"model": "inv-2", "availableModels": ["inv-2"]}
    )
    assert (status, changed["model"], changed["authorizationKey"]) == (200, "inv-2", "***")
    assert {_ask(server, "invented/inv-1")[0] for _ in range(12)} == {404}
    assert {_ask(server, "invented/inv-2")[0] for _ in range(12)} == {200}

    assert server.request("POST", f"/api/providers/{row['id']}/deactivate")[0] == 200
    assert {_ask(server, "invented/inv-2")[0] for _ in range(12)} == {404}
    assert server.request("POST", f"/api/providers/{row['id']}/activate")[0] == 200
    assert {_ask(server, "invented")[0] for _ in range(12)} == {200}
    assert server.request("DELETE", f"/api/providers/{row['id']}")[0] == 204
    wait_for(
        lambda: all(_ask(server, "invented/inv-2")[2]["x-bursar-provider"] == "up" for _ in range(12)), 10, "it stayed"
    )
    assert server.request("GET", f"/api/providers/{row['id']}")[0] == 404


def _rows(server: Server, sql: str) -> list[dict[str, Any]]:
    with sqlite3.connect(server.folder / "data" / "bursar.db", timeout=10) as c:
        c.row_factory = sqlite3.Row
        return [dict(row) for row in c.execute(sql)]


def test_rows_of_the_documents_load_as_they_are(server: Server, upstream: Upstream) -> None:
    giga = Giga(upstream)
    root = _root(upstream)
    # Left out: what the documents leave out. Their ids and dates come along.
    row = _made(
        server, id="7d0c6a36-8b0e-4a52-8a86-9a0d3b9f4f11", workspaceId="default", name="GigaChat",
        tokenUrl=f"{root}/oauth", completionUrl=f"{root}/api/v1/chat/completions", embeddingUrl=None,
        authorizationKey=KEY, scope="GIGACHAT_API_CORP", model="GigaChat-2", availableModels=["GigaChat-2", "GigaChat"],
        requestHeaders={}, requestConfig=None, responseConfig=None, isActive=True, isGlobal=False,
        allowSelfSignedCertificate=True, createdAt="2025-01-01T00:00:00.000Z", updatedAt=None,
    )  # fmt: skip
    assert (row["id"], row["providerType"]) == ("7d0c6a36-8b0e-4a52-8a86-9a0d3b9f4f11", "gigachat")
    assert _ask(server, "GigaChat")[1]["choices"][0]["message"]["content"] == "Good day."
    assert giga.fetched[0].body == b"scope=GIGACHAT_API_CORP"

    upstream.on_request = lambda seen: _json({"result": {"text": "from a custom one"}, "meta": {"tokens": 42}})
    _made(
        server, name="Own", providerType="custom", completionUrl=f"{root}/generate", authorizationKey=PLANTED,
        model="own-1", requestConfig={"modelField": "model_name", "messagesField": "dialog", "temperature": 0.2,
                                      "maxTokens": 100, "systemPrompt": "Be kind."},
        responseConfig={"messagePath": "result.text", "usageTokensPath": "meta.tokens"},
    )  # fmt: skip
    _, body, _ = _ask(server, "Own/own-1")
    assert (body["choices"][0]["message"]["content"], body["usage"]["total_tokens"]) == ("from a custom one", 42)
    sent = upstream.seen[-1].json
    assert sent["dialog"][0] == {"role": "system", "content": "Be kind."}
    assert (sent["model_name"], sent["temperature"], sent["max_tokens"]) == ("own-1", 0.2, 100)
    assert upstream.seen[-1].headers["authorization"] == f"Bearer {PLANTED}"

    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "cost_rub": 0.25}
    choice = {"index": 0, "message": {"role": "assistant", "content": "tunnel"}, "finish_reason": "stop"}
    upstream.on_request = lambda seen: _json({"id": "a", "model": "gpt-4o", "choices": [choice], "usage": usage})
    _made(server, name="AITunnel", providerType="aitunnel", completionUrl=f"{root}/v1/chat/completions",
          authorizationKey=PLANTED, model="gpt-4o", isGlobal=True)  # fmt: skip
    assert _ask(server, "AITunnel/gpt-4o")[0] == 200
    entry = server.settled()[0]
    assert (entry["total_tokens"], float(entry["cost"]), entry["cost_currency"], entry["cost_usd"]) == (
        7, 0.25, "RUB", None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "field", "told"),
    [
        ({"providerType": "nobody"}, "providerType", "'nobody' is not supported; supported are: aitunnel"),
        ({"requestConfig": {"modelFeld": "m"}}, "requestConfig", "unknown key 'modelFeld'; known keys are: modelField"),
        ({"responseConfig": {"messagePath": "a[x]"}}, "responseConfig", "messagePath|a\\[x\\]|path"),
        ({"requestConfig": {"temperature": "hot", "modelField": 3}}, "requestConfig", ""),
        ({"completionUrl": "ftp://x"}, "completionUrl", "http:// or https://"),
        ({"completionUrl": "https://u:p@x/y"}, "completionUrl", "secret"),
        ({"completionUrl": "https://x/y?api_key=1"}, "completionUrl", "secret"),
        ({"baseUrl": "https://x", "completionUrl": None, "tokenUrl": "x"}, "tokenUrl", "http"),
        ({"completionUrl": None}, "baseUrl", "'baseUrl': baseUrl is missing"),
        ({"authorizationKey": "env:BURSAR_ADMIN_KEY"}, "authorizationKey", "configuration file only"),
        ({"requestHeaders": {"x": "file:/etc/passwd"}}, "requestHeaders", "configuration file only"),
        ({"requestHeaders": {"x y": "1"}}, "requestHeaders", ""),
        ({"requestHeaders": {"x-api-key": "***"}}, "requestHeaders.x-api-key", "none is stored"),
        ({"authorizationKey": "***"}, "authorizationKey", "none is stored"),
        ({"caBundle": "nothing"}, "caBundle", "no certificate"),
        ({"name": "a/b"}, "name", ""),
        ({"name": ""}, "name", ""),
        ({"name": "a\nb"}, "name", "line end"),
        ({"retries": -1}, "retries", ""),
        ({"timeoutTotalS": 0}, "timeoutTotalS", "more than 0"),
        ({"onDisconnect": "maybe"}, "onDisconnect", ""),
        ({"temprature": 1}, "temprature", ""),
        ({"project": "p"}, "project", "location"),
        ({"id": "file:up"}, "id", "pattern"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_provider_is_told_by_its_field(
    server_of_this_module: Server, given: dict[str, Any], field: str, told: str
) -> None:
    whole = {
        "name": "bad",
        "providerType": "custom",
        "completionUrl": "https://x.example/y",
        "model": "m",
        "authorizationKey": PLANTED,
        **given,
    }
    status, body = server_of_this_module.request("POST", "/api/providers", whole)
    assert (status, body["error"]["param"]) == (400, field), body
    assert __import__("re").search(told, body["error"]["message"]), body
    assert PLANTED not in json.dumps(body)


@pytest.fixture(scope="module")
def server_of_this_module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from support.server import config

    server = Server(tmp_path_factory.mktemp("shared"), config("http://127.0.0.1:1/v1"))
    with server:
        yield server


def test_a_workspace_has_its_own_and_sees_what_is_everyones(server: Server, upstream: Upstream) -> None:
    mine, others = _key(server, workspace="mine"), _key(server, workspace="others")
    boss = _key(server, workspace="mine", role="admin")
    common = {"providerType": "openai", "baseUrl": upstream.base_url, "authorizationKey": PLANTED, "model": "m"}
    _made(server, name="shared", isGlobal=True, **common)
    own = _made(server, name="ours", workspace="mine", **common)
    assert _ask(server, "shared/m", mine)[0] == _ask(server, "shared/m", others)[0] == 200
    assert _ask(server, "ours/m", mine)[0] == 200
    assert _ask(server, "ours/m", others)[0] == 404
    names = {m["id"] for m in server.get("/v1/models", others)[1]["data"]}
    assert "shared/m" in names
    assert "ours/m" not in names
    # A workspace's own hides everyone's of that name, for it alone.
    upstream.on_request = lambda seen: Script(text=seen.headers["authorization"][-4:])
    _made(server, name="shared", workspace="mine", **{**common, "authorizationKey": PLANTED + "mine"})
    assert _ask(server, "shared/m", mine)[1]["choices"][0]["message"]["content"] == "mine"
    assert _ask(server, "shared/m", others)[1]["choices"][0]["message"]["content"] == "6789"

    listed = {(p["name"], p.get("workspace")) for p in server.get("/api/providers", boss)[1]["providers"]}
    assert ("ours", "mine") in listed
    assert ("shared", "default") in listed
    assert server.request("PATCH", f"/api/providers/{own['id']}", {"isGlobal": True}, boss)[0] == 403
    assert server.request("GET", "/api/providers", key=mine)[0] == 403
    theirs = _made(server, name="theirs", workspace="others", **common)
    assert server.request("GET", f"/api/providers/{theirs['id']}", key=boss)[0] == 404
    assert server.request("DELETE", f"/api/providers/{theirs['id']}", key=boss)[0] == 404
    assert server.request("POST", "/api/providers", {"name": "x", "workspace": "others", **common}, boss)[0] == 403
    assert server.request("POST", "/api/providers", {"name": "ours", "workspace": "mine", **common})[0] == 409
    assert server.request("POST", "/api/providers", {"name": "up", "isGlobal": True, **common})[0] == 409
    assert server.request("PATCH", "/api/providers/file:up", {"model": "m"})[0] == 403
    # What the installation's administrator has set stays unguarded, whoever switches it off and on.
    assert server.request("POST", f"/api/providers/{own['id']}/activate", None, boss)[1]["isGuarded"] is False
    assert _ask(server, "ours/m", mine)[0] == 200
    # A key that somebody else has set is not sent where an administrator of a workspace would have it.
    status, refused = server.request("PATCH", f"/api/providers/{own['id']}", {"baseUrl": "https://evil.example"}, boss)
    assert (status, refused["error"]["param"]) == (400, "baseUrl")


def test_addresses_of_a_workspace_lead_to_the_public_net_only(
    make_server: Callable[..., Server], upstream: Upstream
) -> None:
    server = make_server()
    boss = _key(server, workspace="mine", role="admin")
    local = {"providerType": "custom", "authorizationKey": "client:secret-secret", "model": "m"}
    port = upstream.port
    for n, host in enumerate(["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0.0.0.0"]):
        row = _made(server, boss, name=f"p{n}", completionUrl=f"http://{host}:{port}/v1/chat/completions", **local)
        assert row["isGuarded"]
        status, body, _ = _ask(server, f"p{n}/m", _key(server, workspace="mine"))
        assert status == 502, (host, body)
        assert "public net only" in body["error"]["message"] or "cannot connect" in body["error"]["message"], body
        status, checked = server.request("POST", f"/api/providers/{row['id']}/check", {}, boss)
        assert (status, checked["available"], checked["errorKind"]) == (200, False, "connection")
    row = _made(
        server, boss, name="t", completionUrl="https://vendor.example/x", tokenUrl=f"http://127.0.0.1:{port}/t", **local
    )
    _, checked = server.request("POST", f"/api/providers/{row['id']}/check", {}, boss)
    assert "public net only" in checked["error"]
    for field, value in (("proxy", f"http://127.0.0.1:{port}"), ("http2", True)):
        bad = {"name": "x", "completionUrl": "https://vendor.example/x", field: value, **local}
        status, body = server.request("POST", "/api/providers", bad, boss)
        assert (status, body["error"]["param"]) == (400, field)
    assert upstream.seen == []

    # Where it is allowed by the installation, or set by its administrator, it is reached.
    text = (server.folder / "bursar.toml").read_text()
    (server.folder / "bursar.toml").write_text(text + '[server]\nprivate_hosts = ["127.0.0.0/8"]\n')
    server.stop()
    server.start()
    assert _ask(server, "p0/m", _key(server, workspace="mine"))[0] == 200
    # Redirects are not followed: what they say is the answer.
    upstream.on_request = lambda seen: Script(status=302, headers={"location": "http://169.254.169.254/latest"}, raw="")
    assert _ask(server, "p0/m", _key(server, workspace="mine"))[0] == 502


def test_bindings_choose_by_action_skill_workspace_and_default(server: Server, upstream: Upstream) -> None:
    upstream.on_request = lambda seen: Script(text=seen.headers["authorization"][-1])
    key = _key(server, workspace="acme")
    rows = {}
    for letter in "abcd":
        rows[letter] = _made(server, name=letter, providerType="openai", baseUrl=upstream.base_url, isGlobal=True,
                             authorizationKey=f"sk-planted-{letter}", model=f"model-{letter}")  # fmt: skip

    def bind(**given: Any) -> dict[str, Any]:
        status, body = server.request("POST", "/api/bindings", given)
        assert status == 201, body
        return body

    def answered(**headers: str) -> tuple[Any, Any]:
        status, body, got = _ask(server, "auto", key, **headers)
        assert status == 200, body
        return body["choices"][0]["message"]["content"], got["x-bursar-reason"]

    status, refused, _ = _ask(server, "auto", key)
    assert (status, refused["error"]["code"]) == (404, "model_not_found")
    default = bind(scope="default", provider="d")
    assert answered() == ("d", "default")
    # The workspace level is written as the documents have it, by SQL if need be.
    with sqlite3.connect(server.folder / "data" / "bursar.db", timeout=10) as c:
        c.execute(
            "insert into unica_chat_config (workspace_id, provider, model, system_prompt, temperature, top_p, max_tokens)"
            " values ('acme', 'c', 'model-c', 'Be brief.', 0.3, 0.9, 77)"
        )
    wait_for(lambda: answered()[0] == "c", 10, "the workspace's binding was not seen")
    assert answered() == ("c", "workspace 'acme'")
    sent = upstream.seen[-1].json
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["messages"][0]["content"]) == (
        0.3, 0.9, 77, "Be brief.",
    )  # fmt: skip
    bind(scope="skill", reference="summary", provider="b", workspace="acme")
    bind(scope="action", reference="polish", provider="a", model="model-a2")
    assert answered(x_bursar_skill="summary") == ("b", "skill 'summary'")
    assert answered(x_bursar_skill="summary", x_bursar_action="polish") == ("a", "action 'polish'")
    assert upstream.seen[-1].json["model"] == "model-a2"
    assert answered(x_bursar_skill="other", x_bursar_action="other")[0] == "c"
    shown = _rows(server, "select * from unica_chat_config")
    assert [(r["workspace_id"], r["provider"], r["max_tokens"]) for r in shown] == [("acme", "c", 77)]
    # What the caller says wins over what the binding does, and a named model over every binding.
    body = {"model": "auto", "messages": HELLO, "temperature": 1}
    server.request("POST", "/v1/chat/completions", body, key)
    assert upstream.seen[-1].json["temperature"] == 1
    assert _ask(server, "d/model-d", key, x_bursar_action="polish")[1]["choices"][0]["message"]["content"] == "d"

    # What a binding names must be there, and active: nobody else serves in its place.
    server.request("POST", f"/api/providers/{rows['a']['id']}/deactivate")
    status, refused, _ = _ask(server, "auto", key, x_bursar_action="polish")
    assert (status, refused["error"]["code"]) == (400, "binding_broken")
    assert "the binding of action 'polish' names the provider 'a', which is not active" in refused["error"]["message"]
    server.request("DELETE", f"/api/providers/{rows['a']['id']}")
    _, refused, _ = _ask(server, "auto", key, x_bursar_action="polish")
    assert "there is none of that name" in refused["error"]["message"]
    assert server.request("PUT", f"/api/bindings/{default['id']}", {"scope": "default", "provider": "b"})[0] == 200
    assert _ask(server, "auto")[2]["x-bursar-provider"] == "b"
    assert server.request("DELETE", f"/api/bindings/{default['id']}")[0] == 204
    assert _ask(server, "auto")[0] == 404
    reasons = {e["reason"] for e in server.settled()}
    assert {"default", "workspace 'acme'", "skill 'summary'", "action 'polish'", "named"} <= reasons


def test_a_check_says_whether_a_provider_answers(server: Server, upstream: Upstream) -> None:
    row = _made(server, name="c", providerType="openai", baseUrl=upstream.base_url, authorizationKey=PLANTED,
                model="m", isActive=False)  # fmt: skip
    path = f"/api/providers/{row['id']}/check"
    status, found = server.request("POST", path)
    assert (status, found["available"], found["error"], found["model"]) == (200, True, None, "m")
    assert isinstance(found["ms"], int)
    upstream.on_request = lambda seen: Script(status=401, early_error={"message": f"no such key {PLANTED}"})
    _, found = server.request("POST", path, {"timeoutS": 5})
    assert (found["available"], found["errorKind"], found["httpStatus"]) == (False, "auth", 401)
    assert PLANTED not in json.dumps(found)
    upstream.on_request = lambda seen: Script(delay_s=30)
    _, found = server.request("POST", path, {"timeoutS": 0.2})
    assert (found["available"], found["errorKind"]) == (False, "timeout")
    assert (
        server.request("POST", "/api/providers/file:up/check", {"model": "x", "timeoutS": 0.2})[1]["available"] is False
    )
    entries = server.settled()
    assert {e["purpose"] for e in entries} == {"provider.check"}
    assert [e["status"] for e in reversed(entries)] == ["completed", "failed", "cancelled", "cancelled"]


def test_a_secret_is_nowhere(make_server: Callable[..., Server], upstream: Upstream) -> None:
    server = make_server()
    secrets = {
        "key": "planted-authorization-key-77", "header": "planted-header-value-77", "field": "planted-body-field-77",
        "proxy": "planted-proxy-password-77", "second": "planted-second-key-77",
    }  # fmt: skip
    row = _made(
        server, name="s", providerType="custom", completionUrl=f"{upstream.base_url}/chat/completions", model="m",
        authorizationKey=secrets["key"], requestHeaders={"X-Secret-Token": secrets["header"], "x-team": "blue"},
        requestConfig={"additionalBodyFields": {"login": {"credentials": {"who": secrets["field"]}, "max_tokens_hint": 5}}},
    )  # fmt: skip
    assert row["requestHeaders"] == {"X-Secret-Token": "***", "x-team": "blue"}
    assert row["requestConfig"]["additionalBodyFields"] == {
        "login": {"credentials": {"who": "***"}, "max_tokens_hint": 5}
    }
    echo = json.dumps({"error": {"message": f"bad: {secrets['key']} {secrets['header']} {secrets['field']}"}})
    upstream.on_request = lambda seen: Script(status=400, raw=echo, content_type="application/json")
    answers = [json.dumps(_ask(server, "s/m")[1])]
    upstream.on_request = None
    assert _ask(server, "s/m")[0] == 200
    seen = upstream.seen[-1]
    assert (seen.headers["x-secret-token"], seen.json["login"]["credentials"]["who"]) == (
        secrets["header"],
        secrets["field"],
    )
    # Masks that come back mean what is stored.
    status, changed = server.request("PATCH", f"/api/providers/{row['id']}", {
        "requestHeaders": {"X-Secret-Token": "***", "x-team": "red"}, "authorizationKey": secrets["second"],
        "proxy": f"http://u:{secrets['proxy']}@127.0.0.1:1"})  # fmt: skip
    assert (status, changed["proxy"], changed["requestHeaders"]["x-team"]) == (200, "***", "red")
    answers += [json.dumps(changed), json.dumps(_ask(server, "s/m")[1])]
    server.request("PATCH", f"/api/providers/{row['id']}", {"proxy": None})
    assert _ask(server, "s/m")[0] == 200
    seen = upstream.seen[-1]
    assert (seen.headers["x-secret-token"], seen.headers["authorization"]) == (
        secrets["header"], f"Bearer {secrets['second']}",
    )  # fmt: skip
    answers += [json.dumps(server.get(path)[1]) for path in (
        "/api/providers", f"/api/providers/{row['id']}", "/api/calls", "/metrics", "/health", "/v1/models",
        f"/api/calls/{server.settled()[0]['call_id']}",
    )]  # fmt: skip
    (stored,) = _rows(server, "select * from llm_providers")
    sealed = [stored["authorization_key"], stored["secret_values"]]
    assert all(one.startswith("gAAAA") for one in sealed)
    answers += [server.bursar("providers", "--config", "bursar.toml", "--format", f).stdout for f in ("json", "table")]
    server.stop()
    files = [p for p in server.folder.rglob("*") if p.is_file()]
    for name, secret in secrets.items():
        assert not any(secret in answer for answer in answers), name
        assert [p.name for p in files if secret.encode() in p.read_bytes()] == [], name
    assert all(p.stat().st_mode & 0o077 == 0 for p in files if p.name in ("master_key", "pepper"))

    # A deleted row leaves nothing in the file, not even its ciphertext.
    server.start()
    assert server.request("DELETE", f"/api/providers/{row['id']}")[0] == 204
    server.stop()
    kept = (server.folder / "data" / "bursar.db").read_bytes()
    assert not any(one.encode() in kept for one in sealed)


def test_secrets_open_in_their_own_row_only_and_under_every_key(server: Server, upstream: Upstream) -> None:
    common = {"providerType": "openai", "baseUrl": upstream.base_url, "model": "m"}
    one = _made(server, name="one", authorizationKey="planted-one-0123", **common)
    _made(server, name="two", authorizationKey="planted-two-0123", **common)
    with sqlite3.connect(server.folder / "data" / "bursar.db", timeout=10) as c:
        c.execute(
            "update llm_providers set authorization_key = (select authorization_key from llm_providers where name = 'two'), "
            "updated_at = 'later' where name = 'one'"
        )
    wait_for(lambda: _ask(server, "one/m")[0] != 200, 10, "another row's secret was used")
    status, refused, _ = _ask(server, "one/m")
    assert (status, "stored for another one" in refused["error"]["message"]) == (503, True)
    server.request("PATCH", f"/api/providers/{one['id']}", {"authorizationKey": "planted-new-0123"})
    assert _ask(server, "one/m")[0] == 200

    old_key = (server.folder / "data" / "master_key").read_bytes()
    before = {r["name"]: r["authorization_key"] for r in _rows(server, "select * from llm_providers")}
    rotated = server.bursar("providers", "rotate-key", "--config", "bursar.toml")
    assert (rotated.returncode, rotated.stdout[:2]) == (0, "2 "), rotated.stderr
    assert (server.folder / "data" / "master_key").read_bytes() != old_key
    assert all(before[r["name"]] != r["authorization_key"] for r in _rows(server, "select * from llm_providers"))
    # The server that runs finds the new key, and seals with it.
    wait_for(lambda: _ask(server, "two/m")[0] == 200, 10, "the new master key was not found")
    assert upstream.seen[-1].headers["authorization"] == "Bearer planted-two-0123"
    _made(server, name="three", authorizationKey="planted-three-0123", **common)
    server.stop()
    server.start()
    assert _ask(server, "three/m")[0] == _ask(server, "one/m")[0] == 200
    # Without the key, the error says what to put back.
    (server.folder / "data" / "master_key").write_bytes(old_key)
    server.stop()
    server.start()
    status, refused, _ = _ask(server, "three/m")
    assert status == 503
    assert "put back the master key" in refused["error"]["message"]


def test_the_commands_do_what_the_api_does(server: Server, upstream: Upstream, tmp_path: Path) -> None:
    def bursar(*arguments: str) -> tuple[int, str]:
        done = server.bursar("providers", *arguments, "--config", "bursar.toml")
        return done.returncode, done.stdout + done.stderr

    file = tmp_path / "p.json"
    file.write_text(json.dumps({"name": "cli", "providerType": "openai", "baseUrl": upstream.base_url,
                                "authorizationKey": PLANTED, "model": "m"}))  # fmt: skip
    code, said = bursar("add", str(file))
    assert code == 0
    assert said.startswith("made cli (")
    wait_for(lambda: _ask(server, "cli/m")[0] == 200, 10, "a provider made by command was not seen")
    assert bursar("add", str(file)) == (2, "bursar: there is a provider 'cli' already\n")
    assert bursar("check", "cli")[1].startswith("cli answers: m in ")
    file.write_text('{"model": "m2", "responseConfig": {"mesagePath": "x"}}')
    code, said = bursar("change", "cli", str(file))
    assert code == 2
    assert "'responseConfig': unknown key 'mesagePath'" in said
    assert bursar("deactivate", "cli")[0] == 0
    wait_for(lambda: _ask(server, "cli/m")[0] == 404, 10, "it stayed active")
    assert "no" in bursar()[1]
    assert bursar("delete", "nobody")[1] == "bursar: there is no provider 'nobody' in the store\n"
    assert "is changed there" in bursar("delete", "up")[1]
    assert bursar("delete", "cli")[1] == "deleted cli\n"
    assert PLANTED not in bursar()[1]

"""Who may do what, and who sees whose calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from support.server import ADMIN, Server, wait_for


def _key(server: Server, **wanted: Any) -> str:
    status, made = server.request("POST", "/api/keys", {"name": "k", **wanted})
    assert status == 201, made
    return str(made["key"])


def _call(server: Server, key: str, **headers: str) -> tuple[int, Any]:
    return server.chat(key=key, headers={f"x-bursar-{k.replace('_', '-')}": v for k, v in headers.items()})


def _seen(server: Server, key: str, query: str = "") -> list[tuple[str, str]]:
    status, answer = server.get(f"/api/calls{query}", key)
    assert status == 200, answer
    return sorted((c["workspace"], c["user_id"]) for c in answer["calls"])


def test_a_members_key_fixes_its_user_and_another_users_name_is_forbidden(server: Server) -> None:
    ann = _key(server, user="ann")
    assert _call(server, ann)[0] == 200
    assert _call(server, ann, user="ann", session="s")[0] == 200
    status, answer = _call(server, ann, user="bob")
    assert (status, answer["error"]["code"]) == (403, "forbidden")
    assert "may not act for the user 'bob'" in answer["error"]["message"]
    nobody = _key(server)
    assert _call(server, nobody, user="bob")[0] == 403
    trusted = _key(server, user="front-end", acts_for_users=True)
    assert _call(server, trusted, user="bob")[0] == 200
    server.settled()
    assert [u for _, u in _seen(server, ADMIN)] == ["ann", "ann", "bob"]


def test_a_user_sees_own_entries_only_and_a_workspace_nothing_of_another(server: Server) -> None:
    keys = {(w, u): _key(server, workspace=w, user=u) for w in ("a", "b") for u in ("ann", "bob")}
    admin_of_a = _key(server, workspace="a", role="admin")
    for key in keys.values():
        assert _call(server, key, session="shared")[0] == 200
    server.settled()
    for (workspace, user), key in keys.items():
        assert _seen(server, key) == [(workspace, user)]
        assert _seen(server, key, "?user=bob&session=shared") == ([(workspace, user)] if user == "bob" else [])
        assert _usage(server, key, "user") == [(user, 1)]
        assert _usage(server, key, "session") == [("shared", 1)]
    assert _seen(server, admin_of_a) == [("a", "ann"), ("a", "bob")]
    assert _usage(server, admin_of_a, "user") == [("ann", 1), ("bob", 1)]
    assert len(_seen(server, ADMIN)) == 4
    other = server.get("/api/calls?user=ann", keys["b", "ann"])[1]["calls"][0]["call_id"]
    assert server.get(f"/api/calls/{other}", keys["a", "ann"])[0] == 404
    assert server.get(f"/api/calls/{other}", keys["b", "bob"])[0] == 404
    assert server.get(f"/api/calls/{other}", admin_of_a)[0] == 404
    assert server.get(f"/api/calls/{other}", keys["b", "ann"])[0] == 200
    assert server.get("/api/usage?user=bob", keys["a", "ann"])[0] == 403


def _usage(server: Server, key: str, by: str) -> list[tuple[str, int]]:
    status, answer = server.get(f"/api/usage?group_by={by}", key)
    assert status == 200, answer
    return sorted((line[by], line["calls"]) for line in answer["usage"])


def test_only_admins_manage_keys_and_only_their_workspace(server: Server) -> None:
    member = _key(server, user="ann")
    for method, path, body in (
        ("GET", "/api/keys", None),
        ("POST", "/api/keys", {"name": "x"}),
        ("DELETE", "/api/keys/x", None),
    ):
        assert server.request(method, path, body, member)[0] == 403
    admin_of_a = _key(server, workspace="a", role="admin")
    assert server.request("POST", "/api/keys", {"name": "x", "workspace": "b"}, admin_of_a)[0] == 403
    status, made = server.request("POST", "/api/keys", {"name": "x", "user": "u"}, admin_of_a)
    assert (status, made["workspace"]) == (201, "a")
    shown = server.get("/api/keys", admin_of_a)[1]["keys"]
    assert {k["workspace"] for k in shown} == {"a"}
    assert not any("digest" in k or "key" in k for k in shown)
    foreign = next(k["id"] for k in server.get("/api/keys")[1]["keys"] if k["user_id"] == "ann")
    assert server.request("DELETE", f"/api/keys/{foreign}", None, admin_of_a)[0] == 404


def test_a_revoked_key_ends_in_every_worker(make_server: Callable[..., Server]) -> None:
    server = make_server(workers=2)
    key = _key(server, user="ann")

    def all_answer(expected: int) -> bool:
        return all(server.get("/v1/models", key)[0] == expected for _ in range(12))

    wait_for(lambda: all_answer(200), 5, "a worker does not know the key")
    (row,) = [k for k in server.get("/api/keys")[1]["keys"] if k["user_id"] == "ann"]
    assert server.request("DELETE", f"/api/keys/{row['id']}")[0] == 204
    wait_for(lambda: all_answer(401), 5, "a worker still takes the key")
    assert server.request("DELETE", f"/api/keys/{row['id']}")[0] == 404


def test_keys_made_on_the_command_line_work_within_a_moment(server: Server) -> None:
    made = json.loads(server.bursar("keys", "create", "cli", "--user", "ann", "--format", "json").stdout)
    wait_for(lambda: server.get("/v1/models", made["key"])[0] == 200, 5, "the key is not known")
    assert "ann" in server.bursar("keys", "list").stdout
    assert server.bursar("keys", "revoke", made["id"]).returncode == 0
    wait_for(lambda: server.get("/v1/models", made["key"])[0] == 401, 5, "the key is still taken")
    again = server.bursar("keys", "revoke", made["id"])
    assert (again.returncode, "no live key" in again.stderr) == (2, True)


def test_without_a_good_key_nothing_is_answered(server: Server) -> None:
    for path in ("/v1/models", "/api/calls", "/api/usage", "/api/keys"):
        for key in (None, "", "bk-wrong", "ü"):
            status, answer = server.request("GET", path, None, key)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key"), path
    assert server.chat(key="bk-wrong")[0] == 401
    assert server.request("GET", "/health", None, None)[0] == 200
    assert server.request("GET", "/openapi.json", None, None)[0] == 200


def test_keys_are_stored_as_hmac_and_the_pepper_is_its_owners_alone(server: Server) -> None:
    key = _key(server, user="ann")
    pepper = server.folder / "data" / "pepper"
    assert pepper.stat().st_mode & 0o777 == 0o600
    assert key.encode() not in (server.folder / "data" / "bursar.db").read_bytes()
    assert ADMIN.encode() not in (server.folder / "data" / "bursar.db").read_bytes()


def test_the_first_admin_key_is_shown_once(make_server: Callable[..., Server]) -> None:
    server = make_server(start=False)
    server.env["BURSAR_ADMIN_KEY"] = ""  # as a compose file sets what nobody gave
    server.is_prepared = False  # as on a machine where it never ran
    server.start()
    text = server.log.read_text()
    key = text.split("shown this once: ", 1)[1].split()[0]
    assert server.get("/v1/models", key)[0] == 200
    assert server.stop() == 0
    server.start()
    assert server.log.read_text().count("shown this once") == 1
    assert server.get("/v1/models", key)[0] == 200


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("/api/calls?limit=0", "limit"),
        ("/api/calls?limit=x", "limit"),
        ("/api/calls?cursor=%21", "cursor"),
        ("/api/calls?since=yesterday", "since"),
        ("/api/calls?status=fine", "status"),
        ("/api/usage?group_by=colour", "group_by"),
        ("/api/usage?group_by=user,session", "group_by"),
    ],
)
def test_bad_queries_are_refused_by_field(server: Server, query: str, field: str) -> None:
    status, answer = server.get(query)
    assert (status, answer["error"]["param"]) == (400, field)


def test_bad_keys_are_refused_by_field(server: Server) -> None:
    for body, field in (
        ({}, "name"),
        ({"name": "x", "role": "king"}, "role"),
        ({"name": "x", "colour": 1}, "colour"),
        ({"name": ""}, "name"),
    ):
        status, answer = server.request("POST", "/api/keys", body)
        assert (status, answer["error"]["param"]) == (400, field)
    assert server.request("POST", "/api/keys", b"{")[0] == 400


def test_cors_is_a_setting(make_server: Callable[..., Server]) -> None:
    origin = {"origin": "https://app.example", "access-control-request-method": "POST"}
    closed = make_server()
    assert "access-control-allow-origin" not in closed.exchange("OPTIONS", "/v1/chat/completions", headers=origin)[2]
    opened = make_server(more='[server]\ncors_origins = ["https://app.example"]')
    status, _, headers = opened.exchange("OPTIONS", "/v1/chat/completions", None, None, origin)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://app.example")
    for path in ("/v1/models", "/v1/nothing", "/health", "/api/calls"):
        found = opened.exchange("GET", path, headers={"origin": "https://app.example"})[2]
        assert found["access-control-allow-origin"] == "https://app.example", path
        assert "x-bursar-call-id" in found["access-control-expose-headers"], path
        other = opened.exchange("GET", path, headers={"origin": "https://evil.example"})[2]
        assert "access-control-allow-origin" not in other, path
        assert "access-control-allow-origin" not in closed.exchange("GET", path, headers=origin)[2], path

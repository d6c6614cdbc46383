"""Credentials of clouds by their own libraries: a Google service account, AWS's chain; over the socket, kept and renewed."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from support.server import Server
from support.upstream import Script, Seen, Upstream
from test_server_signing import ANSWER, KEY_ID, SECRET, _signature

HELLO = [{"role": "user", "content": "hello"}]
GEMINI = {"candidates": [{"content": {"role": "model", "parts": [{"text": "Good day."}]}, "finishReason": "STOP"}],
          "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5}, "modelVersion": "gemini-2.5-flash"}  # fmt: skip
PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = PRIVATE.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


class Google:
    """A token server that looks at assertions, and a provider that looks at tokens."""

    def __init__(self, upstream: Upstream) -> None:
        self.root = upstream.base_url.removesuffix("/v1")
        self.fetched: list[Seen] = []
        self.asked: list[Seen] = []
        self.failing = 0
        self.refused: set[str] = set()
        self.lives_s = 3600
        upstream.on_request = self._on_request

    @property
    def account(self) -> dict[str, str]:
        return {"type": "service_account", "project_id": "the-project", "private_key_id": "k1", "private_key": PEM,
                "client_email": "bursar@the-project.example", "client_id": "1", "token_uri": f"{self.root}/token"}  # fmt: skip

    def _on_request(self, seen: Seen) -> Script:
        if seen.path == "/token":
            self.fetched.append(seen)
            if self.failing:
                self.failing -= 1
                return _json({"error": "internal_failure"}, 500)
            given = parse_qs(seen.body.decode())
            head, claims, signature = given["assertion"][0].split(".")
            PRIVATE.public_key().verify(
                _plain(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
            )
            told = json.loads(_plain(claims))
            assert (told["iss"], told["scope"]) == (
                "bursar@the-project.example",
                "https://www.googleapis.com/auth/cloud-platform",
            )
            return _json(
                {"access_token": f"ya29.token-{len(self.fetched)}", "expires_in": self.lives_s, "token_type": "Bearer"},
                delay_s=0.05,
            )
        self.asked.append(seen)
        shown = seen.headers.get("authorization", "")
        if shown in self.refused or not shown.startswith("Bearer ya29.token-"):
            return _json({"error": {"code": 401, "message": f"bad token {shown}", "status": "UNAUTHENTICATED"}}, 401)
        return _json(GEMINI)


def _json(value: Any, status: int = 200, **more: Any) -> Script:
    return Script(status=status, raw=json.dumps(value), content_type="application/json", **more)


def _plain(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _ask(server: Server, model: str) -> tuple[int, dict[str, Any]]:
    status, body, _ = server.exchange("POST", "/v1/chat/completions", {"model": model, "messages": HELLO})
    return status, json.loads(body)


def _vertex(google: Google, more: str) -> str:
    return f'[[providers]]\nname = "v"\ntype = "vertex"\nbase_url = "{google.root}/v1/publishers/google"\nretries = 1\n{more}\n'


def test_a_service_account_s_token_is_fetched_once_and_kept(
    make_server: Callable[..., Server], upstream: Upstream, tmp_path: Path
) -> None:
    google = Google(upstream)
    (tmp_path / "account.json").write_text(json.dumps(google.account))
    server = make_server(more=_vertex(google, f'service_account = "file:{tmp_path}/account.json"'))
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: _ask(server, "v/gemini-2.5-flash"), range(50)))
    assert {status for status, _ in answers} == {200}
    assert {body["choices"][0]["message"]["content"] for _, body in answers} == {"Good day."}
    assert len(google.fetched) == 1
    # one that is refused is fetched anew, and the call is made once more: a new attempt
    google.refused.add("Bearer ya29.token-1")
    assert _ask(server, "v/gemini-2.5-flash")[0] == 200
    assert len(google.fetched) == 2
    rows = server.settled()
    assert sorted(e["status"] for e in rows).count("failed") == 1
    assert all(e["cost"] is not None for e in rows if e["status"] == "completed")
    whole = json.dumps(rows) + server.log.read_text()
    assert "ya29" not in whole
    assert "PRIVATE KEY" not in whole
    assert server.verify()[0]


def test_a_row_holds_a_service_account_sealed(make_server: Callable[..., Server], upstream: Upstream) -> None:
    google = Google(upstream)
    server = make_server()
    given = {
        "name": "v",
        "providerType": "vertex",
        "baseUrl": f"{google.root}/v1/publishers/google",
        "serviceAccount": json.dumps(google.account),
    }
    status, made = server.request("POST", "/api/providers", given)
    assert status == 201, made
    assert made["serviceAccount"] == "***"
    assert _ask(server, "v/gemini-2.5-flash")[0] == 200
    _, shown = server.get("/api/providers")
    assert "PRIVATE" not in json.dumps(shown)
    for file in (server.folder / "data").rglob("*"):
        assert not file.is_file() or b"BEGIN PRIVATE KEY" not in file.read_bytes(), file
    # it is kept where the row is changed
    status, changed = server.request("PATCH", f"/api/providers/{made['id']}", {"retries": 0})
    assert (status, changed["serviceAccount"]) == (200, "***")
    assert _ask(server, "v/gemini-2.5-flash")[0] == 200


def test_a_workspace_s_row_does_not_lead_the_library_into_private_networks(
    make_server: Callable[..., Server], upstream: Upstream
) -> None:
    google = Google(upstream)
    server = make_server()
    key = server.request("POST", "/api/keys", {"name": "k", "role": "admin", "workspace": "lab"})[1]["key"]
    given = {"name": "v", "providerType": "vertex", "serviceAccount": json.dumps(google.account), "retries": 0}
    status, made = server.request("POST", "/api/providers", given, key)
    assert status == 201, made
    status, checked = server.request("POST", f"/api/providers/{made['id']}/check", {"model": "gemini-2.5-flash"}, key)
    assert status == 200
    assert (checked["available"], checked["errorKind"]) == (False, "connection")
    assert "127.0.0.1" in checked["error"]
    assert not google.fetched
    for wrong, field in (
        ({"defaultCredentials": True}, "defaultCredentials"),
        ({"providerType": "bedrock", "profile": "p", "location": "eu-west-1"}, "profile"),
    ):
        status, body = server.request("POST", "/api/providers", {"name": "w", "providerType": "vertex", **wrong}, key)
        assert (status, body["error"]["param"]) == (400, field), body


def test_the_environment_s_own_credentials_are_found(
    make_server: Callable[..., Server], upstream: Upstream, tmp_path: Path
) -> None:
    google = Google(upstream)
    (tmp_path / "adc.json").write_text(json.dumps(google.account))
    server = make_server(
        more=_vertex(google, "default_credentials = true"), GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "adc.json")
    )
    assert _ask(server, "v/gemini-2.5-flash")[0] == 200
    assert len(google.fetched) == 1


def test_a_token_server_that_fails_for_a_moment_is_asked_again(
    make_server: Callable[..., Server], upstream: Upstream, tmp_path: Path
) -> None:
    google = Google(upstream)
    google.failing = 1
    (tmp_path / "account.json").write_text(json.dumps(google.account))
    server = make_server(more=_vertex(google, f'service_account = "file:{tmp_path}/account.json"'))
    assert _ask(server, "v/gemini-2.5-flash")[0] == 200
    assert len(google.fetched) == 2


def test_tokens_are_renewed_before_their_end(
    make_server: Callable[..., Server], upstream: Upstream, tmp_path: Path
) -> None:
    google = Google(upstream)
    google.lives_s = 2
    (tmp_path / "account.json").write_text(json.dumps(google.account))
    server = make_server(more=_vertex(google, f'service_account = "file:{tmp_path}/account.json"'))
    ends = time.monotonic() + 3
    while time.monotonic() < ends:
        assert _ask(server, "v/gemini-2.5-flash")[0] == 200
    assert len(google.fetched) >= 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('service_account = "{}"', "is no key of a service account"),
        ('service_account = "no json"', "is no key of a service account"),
        ('default_credentials = true\napi_key = "k"', "not both"),
        ('profile = "p"', "signs nothing: leave profile out"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(
    make_server: Callable[..., Server], upstream: Upstream, more: str, says: str
) -> None:
    google = Google(upstream)
    server = make_server(more=_vertex(google, more), start=False)
    shown = server.bursar("providers")
    assert shown.returncode != 0
    assert says in shown.stderr


class Bedrock:
    """A provider that works signatures out anew."""

    def __init__(self, upstream: Upstream) -> None:
        self.root = upstream.base_url.removesuffix("/v1")
        self.asked: list[Seen] = []
        upstream.on_request = self._on_request

    def _on_request(self, seen: Seen) -> Script:
        self.asked.append(seen)
        if seen.headers["authorization"] != _signature(seen, "eu-west-1"):
            return _json({"message": "bad signature"}, 403)
        return _json(ANSWER)

    def config(self, more: str) -> str:
        return f'[[providers]]\nname = "aws"\ntype = "bedrock"\nbase_url = "{self.root}"\nlocation = "eu-west-1"\nretries = 0\n{more}\n'


def test_aws_s_chain_finds_the_environment_s_keys(make_server: Callable[..., Server], upstream: Upstream) -> None:
    bedrock = Bedrock(upstream)
    server = make_server(
        more=bedrock.config("default_credentials = true"), AWS_ACCESS_KEY_ID=KEY_ID, AWS_SECRET_ACCESS_KEY=SECRET
    )
    for _ in range(3):
        status, body = _ask(server, "aws/amazon.nova-lite-v1:0")
        assert status == 200, body
    rows = server.settled()
    assert SECRET not in json.dumps(rows) + server.log.read_text()
    assert all(e["price_id"] for e in rows)


def test_a_profile_s_keys_are_renewed_as_it_says(
    make_server: Callable[..., Server], upstream: Upstream, tmp_path: Path
) -> None:
    """A program gives keys that end soon: the library asks it again, and no call fails."""
    bedrock = Bedrock(upstream)
    told = tmp_path / "told"
    program = tmp_path / "keys.sh"
    program.write_text(
        f"#!/bin/sh\necho x >> {told}\n"
        f'printf \'{{"Version": 1, "AccessKeyId": "{KEY_ID}", "SecretAccessKey": "{SECRET}", "SessionToken": "s", "Expiration": "%s"}}\' '
        '"$(date -u -d "+60 seconds" +%Y-%m-%dT%H:%M:%SZ)"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "config").write_text(f"[profile lab]\ncredential_process = {program}\n")
    server = make_server(more=bedrock.config('profile = "lab"'), AWS_CONFIG_FILE=str(tmp_path / "config"))
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: _ask(server, "aws/m"), range(16)))
    assert {status for status, _ in answers} == {200}
    assert bedrock.asked[0].headers["x-amz-security-token"] == "s"
    assert len(told.read_text().split()) >= 2  # what ends within the library's own margin is asked for again


def test_no_credentials_of_aws_are_the_attempt_s_failure(
    make_server: Callable[..., Server], upstream: Upstream, tmp_path: Path
) -> None:
    bedrock = Bedrock(upstream)
    nothing = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    server = make_server(more=bedrock.config("default_credentials = true"), **nothing)
    status, body = _ask(server, "aws/m")
    assert status == 502
    assert "there are no credentials of AWS for 'aws'" in body["error"]["message"]
    (entry,) = server.settled()
    assert (entry["status"], entry["error_kind"]) == ("failed", "auth")
    assert not bedrock.asked
    server = make_server(more=bedrock.config('profile = "nobody"'), start=False, **nothing)
    assert "there is no profile 'nobody'" in server.bursar("providers").stderr

"""Requests to Bedrock signed with a pair of AWS keys: the provider works the signature out anew, by the book."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest

from support.server import Server
from support.upstream import Script, Seen, Upstream

KEY_ID, SECRET, SESSION = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session-token-of-the-test"
ANSWER = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Good day."}]}}, "stopReason": "end_turn",
    "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5},
}  # fmt: skip


def _signature(seen: Seen, region: str) -> str:
    """As AWS describes it: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html"""
    said = seen.headers["authorization"]
    names = said.partition("SignedHeaders=")[2].partition(",")[0]
    at = seen.headers["x-amz-date"]
    lines = "".join(f"{name}:{seen.headers[name].strip()}\n" for name in names.split(";"))
    path, _, query = seen.path.partition("?")
    whole = "\n".join(["POST", quote(path), query, lines, names, hashlib.sha256(seen.body).hexdigest()])
    scope = f"{at[:8]}/{region}/bedrock/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", at, scope, hashlib.sha256(whole.encode()).hexdigest()])
    key = f"AWS4{SECRET}".encode()
    for part in (*scope.split("/"), to_sign):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return f"AWS4-HMAC-SHA256 Credential={KEY_ID}/{scope}, SignedHeaders={names}, Signature={key.hex()}"


@pytest.mark.parametrize("session", [None, SESSION])
def test_a_provider_finds_every_signature_right(
    make_server: Callable[..., Server], upstream: Upstream, session: str | None
) -> None:
    wrong: list[str] = []

    def answer(seen: Seen) -> Script:
        if seen.headers["authorization"] != _signature(seen, "eu-west-1"):
            wrong.append(seen.headers["authorization"])
            return Script(status=403, raw=json.dumps({"message": f"bad: {SECRET}"}), content_type="application/json")
        assert seen.headers.get("x-amz-security-token") == session
        return Script(raw=json.dumps(ANSWER), content_type="application/json")

    upstream.on_request = answer
    root = upstream.base_url.removesuffix("/v1")
    server = make_server(
        more=f'[[providers]]\nname = "aws"\ntype = "bedrock"\nbase_url = "{root}"\nlocation = "eu-west-1"\n'
        f'access_key_id = "env:AWS_ID"\nsecret_access_key = "env:AWS_SECRET"\nretries = 0\n'
        + ('session_token = "env:AWS_SESSION"\n' if session else ""),
        AWS_ID=KEY_ID, AWS_SECRET=SECRET, AWS_SESSION=SESSION,
    )  # fmt: skip
    for model in (
        "amazon.nova-lite",
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "arn:aws:bedrock:eu-west-1:1:x/y z",
    ):
        asked = {"model": f"aws/{model}", "messages": [{"role": "user", "content": "hello – ∑"}]}
        own = {"x-amz-date": "20200101T000000Z", "date": "Mon", "x-amz-security-token": "evil", "x-trace": "1"}
        status, body, _ = server.exchange("POST", "/v1/chat/completions", asked, headers=own)
        assert status == 200, body
        assert json.loads(body)["choices"][0]["message"]["content"] == "Good day."
    assert not wrong
    assert server.verify()[0]


def test_a_secret_that_a_provider_repeats_is_masked(make_server: Callable[..., Server], upstream: Upstream) -> None:
    refusal = json.dumps({"message": f"not the secret {SECRET}"})
    upstream.on_request = lambda _: Script(status=403, raw=refusal, content_type="application/json")
    root = upstream.base_url.removesuffix("/v1")
    server = make_server(
        more=f'[[providers]]\nname = "aws"\ntype = "bedrock"\nbase_url = "{root}"\nlocation = "eu-west-1"\n'
        f'access_key_id = "{KEY_ID}"\nsecret_access_key = "{SECRET}"\nretries = 0\n'
    )
    asked = {"model": "aws/m", "messages": [{"role": "user", "content": "hello"}]}
    status, body, _ = server.exchange("POST", "/v1/chat/completions", asked)
    assert status == 403
    assert SECRET not in body.decode()
    (entry,) = server.settled()
    assert entry["error_message"] == "'aws' answered 403: not the secret ***"

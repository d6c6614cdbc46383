"""Where a call goes when targets share the calls, fail, rest, or have no place left: on the entry and in the headers."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from bursar.gateway.places import Places
from bursar.gateway.routing import drawn
from support.giga import KEY, Giga
from support.server import Server, wait_for
from support.upstream import Script, Upstream

HELLO = [{"role": "user", "content": "hello"}]


@given(
    st.lists(st.one_of(st.none(), st.floats(0.001, 1000)), min_size=1, max_size=8), st.randoms(use_true_random=False)
)
def test_an_order_has_everyone_once_and_only_neighbours_with_weights_change_places(
    weights: list[float | None], rng: random.Random
) -> None:
    order = drawn(weights, rng.random)
    assert sorted(order) == list(range(len(weights)))
    for place, n in enumerate(order):
        if weights[n] is None:
            assert place == n
        else:
            low, high = sorted((place, n))
            assert None not in weights[low : high + 1]


def test_targets_come_first_as_often_as_their_weights_say() -> None:
    rng = random.Random(7)
    firsts = Counter(drawn([3.0, 1.0, None], rng.random)[0] for _ in range(8000))
    assert firsts[0] / 8000 == pytest.approx(0.75, abs=0.02)
    assert firsts[2] == 0


async def test_places_are_given_in_the_order_of_arrival_and_never_twice() -> None:
    places, got = Places(2), []

    async def taker(n: int) -> None:
        assert await places.wait(5)
        got.append(n)
        assert places.taken <= places.limit
        await asyncio.sleep(0)
        places.leave()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(taker(n)) for n in range(50)]
        await asyncio.sleep(0)
        tasks[10].cancel()
    assert got == [n for n in range(50) if n != 10]
    assert places.taken == 0
    assert places.take()
    assert places.take()
    assert not await places.wait(0.01)
    places.resize(3)
    assert await places.wait(0.01)
    assert places.taken == 3


def _provider(name: str, upstream: Upstream, more: str = "") -> str:
    return f'[[providers]]\nname = "{name}"\nbase_url = "{upstream.base_url}"\nretries = 0\n{more}\n'


def _ask(server: Server, model: str = "fast") -> tuple[int, Any, dict[str, str]]:
    status, data, headers = server.exchange("POST", "/v1/chat/completions", {"model": model, "messages": HELLO})
    return status, json.loads(data), headers


def _failing(status: int, **headers: str) -> Script:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Script(status=status, headers=named, early_error={"message": "no", "code": None})


def test_a_target_that_fails_rests_and_comes_back(make_server: Callable[..., Server], upstream: Upstream) -> None:
    with Upstream() as second:
        more = (
            _provider("a", upstream, "cool_down_after = 2\ncool_down_s = 1.5") + _provider("b", second)
            + '[[routes]]\nname = "fast"\ntargets = ["a/m", "b/m"]\n'
        )  # fmt: skip
        server = make_server(more=more)
        upstream.on_request = lambda seen: _failing(500)
        told = [_ask(server) for _ in range(3)]
        assert [h["x-bursar-attempts"] for _, _, h in told] == ["2", "2", "1"]
        assert {(s, h["x-bursar-provider"], h["x-bursar-model"]) for s, _, h in told} == {(200, "b", "m")}
        assert told[0][2]["x-bursar-reason"] == "route fast; after server of a/m"
        assert told[2][2]["x-bursar-reason"].startswith("route fast; a/m rests ")
        assert told[2][2]["x-bursar-reason"].endswith("(server)")
        upstream.on_request = None
        wait_for(lambda: _ask(server)[2]["x-bursar-provider"] == "a", 10, "it did not come back")
        # One more failure, and it rests again at once; where all rest, somebody is asked all the same.
        found = [(e["provider"], e["status"], e["reason"]) for e in reversed(server.settled())]
        assert found[:4] == [
            ("a", "failed", "route fast"),
            ("b", "completed", "route fast; after server of a/m"),
            ("a", "failed", "route fast"),
            ("b", "completed", "route fast; after server of a/m"),
        ]
        upstream.on_request = lambda seen: _failing(429, retry_after="60")
        second.on_request = lambda seen: _failing(503, retry_after="30")
        assert _ask(server)[0] == 503
        second.on_request = None
        status, _, headers = _ask(server)
        assert (status, headers["x-bursar-provider"], headers["x-bursar-attempts"]) == (200, "b", "1")
        assert "a/m rests 60 s more (rate_limit)" in headers["x-bursar-reason"]
        assert "b/m rests 30 s more (overloaded)" in headers["x-bursar-reason"]


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (_failing(500), "server"),
        (_failing(503), "overloaded"),
        (_failing(429), "rate_limit"),
        (_failing(401), "auth"),
        (_failing(404), "not_found"),
        (Script(hang_up=True), "connection"),
        (Script(delay_s=30), "timeout"),
        (Script(raw="<html>", content_type="text/html"), "upstream_error"),
    ],
)  # fmt: skip
def test_every_failure_that_another_may_do_better_goes_on_to_it(
    make_server: Callable[..., Server], upstream: Upstream, script: Script, kind: str
) -> None:
    with Upstream() as second:
        more = (
            _provider("a", upstream, "timeout_first_byte_s = 0.3") + _provider("b", second)
            + '[[routes]]\nname = "fast"\ntargets = ["a/m", "b/m"]\n'
        )  # fmt: skip
        server = make_server(more=more)
        upstream.on_request = lambda seen: script
        status, _, headers = _ask(server)
        assert (status, headers["x-bursar-provider"], headers["x-bursar-attempts"]) == (200, "b", "2")
        assert headers["x-bursar-reason"] == f"route fast; after {kind} of a/m"
        found = [(e["provider"], e["error_kind"], e["reason"]) for e in reversed(server.settled())]
        assert found == [("a", kind, "route fast"), ("b", None, f"route fast; after {kind} of a/m")]
        # What the request itself is at fault for, nobody would do better.
        upstream.on_request = lambda seen: _failing(400)
        second.on_request = lambda seen: _failing(400)
        assert _ask(server)[2]["x-bursar-attempts"] == "1"


def test_a_full_provider_hands_on_and_a_lone_one_lets_wait(
    make_server: Callable[..., Server], upstream: Upstream
) -> None:
    with Upstream() as second:
        more = (
            _provider("a", upstream, "max_concurrent = 2\nmax_wait_s = 0.3") + _provider("b", second)
            + '[[routes]]\nname = "fast"\ntargets = ["a/m", "b/m"]\n'
        )  # fmt: skip
        server = make_server(more=more)
        upstream.on_request = lambda seen: Script(delay_s=1.0)
        with ThreadPoolExecutor(3) as pool:
            holding = [pool.submit(_ask, server, "a/m") for _ in range(2)]
            upstream.wait(lambda: len(upstream.seen) == 2)
            _, _, headers = _ask(server)
            assert (headers["x-bursar-provider"], headers["x-bursar-attempts"]) == ("b", "1")
            assert headers["x-bursar-reason"] == "route fast; all places of a are taken"
            status, refused, headers = _ask(server, "a/m")
            assert (status, refused["error"]["code"], headers["retry-after"]) == (503, "busy", "1")
            assert [f.result()[0] for f in holding] == [200, 200]
        upstream.on_request = None
        with ThreadPoolExecutor(20) as pool:
            upstream.seen.clear()
            assert {r[0] for r in pool.map(lambda _: _ask(server, "a/m"), range(40))} == {200}
        assert len(server.settled()) == 43


def _tls() -> tuple[ssl.SSLContext, str]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context, authority.cert_pem.bytes().decode()


def test_two_hundred_first_calls_over_a_self_signed_provider_fetch_one_token(
    make_server: Callable[..., Server],
) -> None:
    context, authority = _tls()
    with Upstream(context) as upstream:
        giga, root = Giga(upstream), upstream.base_url.removesuffix("/v1")
        server = make_server()
        common = {"tokenUrl": f"{root}/oauth", "completionUrl": f"{root}/api/v1/chat/completions",
                  "authorizationKey": KEY, "model": "GigaChat-2", "retries": 0}  # fmt: skip

        def made(**more: Any) -> dict[str, Any]:
            status, row = server.request("POST", "/api/providers", {**common, **more})
            assert status == 201, row
            return dict(row)

        # Refused where the provider does not say so itself; taken with its flag, or with its authority.
        made(name="wary")
        status, body, _ = _ask(server, "wary/GigaChat-2")
        assert (status, "certificate verify failed" in body["error"]["message"].lower()) == (502, True)
        assert giga.fetched == []
        made(name="knows", caBundle=authority)
        assert _ask(server, "knows/GigaChat-2")[0] == 200
        giga.fetched.clear()
        row = made(name="giga", allowSelfSignedCertificate=True)
        with ThreadPoolExecutor(200) as pool:
            assert Counter(r[0] for r in pool.map(lambda _: _ask(server, "giga/GigaChat-2"), range(200))) == {200: 200}
        assert len(giga.fetched) == 1

        # Its end in the middle of the load, a token that is refused, and a token server that is down meanwhile.
        giga.lives_s = 1.0
        assert server.request("PATCH", f"/api/providers/{row['id']}", {"scope": "GIGACHAT_API_B2B"})[0] == 200
        asked = 0
        until = time.monotonic() + 3.0
        with ThreadPoolExecutor(20) as pool:
            while time.monotonic() < until:
                assert {r[0] for r in pool.map(lambda _: _ask(server, "giga/GigaChat-2"), range(20))} == {200}
                asked += 20
        assert 2 <= len(giga.fetched) - 1 <= 12
        entries = [e for e in server.settled() if e["provider"] == "giga"]
        assert Counter(e["status"] for e in entries if e["is_final"]) == {"completed": 200 + asked}
        assert {e["error_kind"] for e in entries if e["status"] == "failed"} <= {"auth"}


@pytest.mark.parametrize("off_s", [-60.0, 60.0])
def test_a_clock_that_is_a_minute_off_costs_no_call(
    make_server: Callable[..., Server], upstream: Upstream, off_s: float
) -> None:
    """A token's end is a time of the provider's clock, which says what it is. Taken for one of ours, it would be over
    already, and fetched for each call; or a minute away, and refused."""
    giga, root = Giga(upstream), upstream.base_url.removesuffix("/v1")
    giga.off_s, giga.lives_s = off_s, 4.0
    server = make_server(
        more=f'[[providers]]\nname = "giga"\ntype = "gigachat"\nbase_url = "{root}/api/v1"\napi_key = "{KEY}"\n'
        f'token_url = "{root}/oauth"\nretries = 0\n'
    )
    until, asked = time.monotonic() + 6.0, 0
    with ThreadPoolExecutor(8) as pool:
        while time.monotonic() < until:
            assert {r[0] for r in pool.map(lambda _: _ask(server, "giga/GigaChat-2"), range(8))} == {200}
            asked += 8
    assert 2 <= len(giga.fetched) <= 6, f"{len(giga.fetched)} tokens for {asked} calls"
    assert {e["status"] for e in server.settled()} == {"completed"}, "a token was refused"


def test_a_token_server_that_is_down_costs_nobody_a_call_while_the_token_is_good(
    make_server: Callable[..., Server], upstream: Upstream
) -> None:
    giga, root = Giga(upstream), upstream.base_url.removesuffix("/v1")
    giga.lives_s = 4.0
    server = make_server(
        more=f'[[providers]]\nname = "giga"\ntype = "gigachat"\nbase_url = "{root}/api/v1"\napi_key = "{KEY}"\n'
        f'token_url = "{root}/oauth"\nretries = 0\n'
    )
    assert _ask(server, "giga/GigaChat-2")[0] == 200
    giga.down_as = 1  # the token of the first fetch stays the good one
    giga.down = True
    began = time.monotonic()
    while time.monotonic() < began + 3.0:
        assert _ask(server, "giga/GigaChat-2")[0] == 200
    assert len(giga.fetched) > 1, "nobody looked for a new one ahead of the end"
    wait_for(lambda: _ask(server, "giga/GigaChat-2")[0] == 502, 10, "the token outlived its end")
    giga.down, giga.down_as = False, None
    assert _ask(server, "giga/GigaChat-2")[0] == 200
    (said,) = {e["error_message"] for e in server.settled() if e["status"] == "failed"}
    assert said.startswith("the token server of 'giga' answered 503 without a token")

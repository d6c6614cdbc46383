"""Providers from settings: their addresses by location, and what is wrong with settings, by name."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.gateway.provider import Provider
from bursar.runtime.registry import Assembly
from bursar.runtime.settings import parse
from bursar.store.vault import Vault
from bursar.types.errors import ConfigError, RequestError
from bursar.wire import spec as specs


def _url(**given: Any) -> str:
    return _made(name="v", **given).endpoints["chat"].url


def _made(**given: Any) -> Provider:
    settings = parse({"providers": [{"api_key": "k", **given}]}, "x")
    registry = Assembly(settings, {}, Vault(list)).registry()
    return registry.provider(next(registry.offers()))


GOOGLE = "aiplatform.googleapis.com/v1/projects/p/locations"


@pytest.mark.parametrize(
    ("given", "begins"),
    [
        ({"type": "vertex"}, "https://aiplatform.googleapis.com/v1/publishers/google/models/"),
        (
            {"type": "vertex", "project": "p", "location": "global"},
            f"https://{GOOGLE}/global/publishers/google/models/",
        ),
        (
            {"type": "vertex", "project": "p", "location": "europe-west4"},
            f"https://europe-west4-{GOOGLE}/europe-west4/",
        ),
        (
            {"type": "vertex", "project": "p", "location": "eu"},
            "https://aiplatform.eu.rep.googleapis.com/v1/projects/p/",
        ),
        ({"type": "bedrock", "location": "eu-west-1"}, "https://bedrock-runtime.eu-west-1.amazonaws.com/model/"),
        ({"type": "bedrock", "base_url": "http://x"}, "http://x/model/{model}/converse"),
    ],
)
def test_an_address_by_location(given: dict[str, Any], begins: str) -> None:
    assert _url(**given).startswith(begins)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"type": "vertex", "location": "eu"}, "location needs a project"),
        ({"type": "vertex", "project": "p"}, "project needs a location"),
        ({"type": "vertex", "project": "a/b", "location": "eu"}, "project is no name"),
        ({"type": "openai", "location": "eu"}, "the type 'openai' knows no locations"),
        ({"type": "azure"}, "base_url is missing"),
        ({"type": "gigachat", "token_url": "ftp://x"}, "token_url must be"),
        ({"type": "anthropic", "request": {"temprature": 1}}, "unknown key 'temprature'"),
        ({"type": "anthropic", "access_key_id": "a"}, "signs nothing: leave access_key_id"),
        ({"type": "bedrock", "access_key_id": "a"}, "an api_key or a pair of keys, not both"),
        ({"type": "bedrock", "api_key": None, "access_key_id": "a"}, "go together"),
        (
            {"type": "bedrock", "api_key": None, "access_key_id": "a", "secret_access_key": "b"},
            "location is missing: requests are signed for a region",
        ),
        ({"type": "anthropic", "token_url": "https://x"}, "fetches no tokens: leave token_url out"),
    ],
)
def test_what_is_wrong_is_told_by_name(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        _url(**given)


def test_every_type_says_what_it_takes() -> None:
    for kind in specs.known_types():
        if kind == "litellm":
            continue  # it needs its library: `make clients`
        given: dict[str, Any] = {"type": kind, "base_url": "demo://x" if kind == "demo" else "http://127.0.0.1:1"}
        given |= {"backend": "own"} if kind == "backend" else {}
        provider = _made(name="p", **given)
        assert "chat" in provider.endpoints, kind
        assert provider.endpoint("messages") is not None, kind  # translated, where it is not spoken
        if "responses" not in provider.endpoints:
            with pytest.raises(
                RequestError, match=f"'p' takes no responses; it takes: {', '.join(provider.endpoints)}"
            ):
                provider.endpoint("responses")


def test_a_provider_of_the_file_is_shown_without_its_secrets() -> None:
    given = {"name": "p", "type": "custom", "base_url": "https://u:planted-1@x.example/v1?key=planted-2",
             "api_key": "planted-3", "headers": {"X-Pwd": "planted-4"}, "proxy": "http://u:planted-5@y.example:1",
             "request": {"additionalBodyFields": {"auth": ["planted-6"]}}}  # fmt: skip
    ((shown, _),) = Assembly(parse({"providers": [given]}, "x"), {}, Vault(list)).shown()
    assert "planted" not in str(shown)
    assert (shown["baseUrl"], shown["authorizationKey"]) == ("https://x.example/v1", "***")


def test_nothing_shows_a_secret_when_it_is_printed() -> None:
    from bursar.gateway.provider import Target
    from bursar.wire.oauth import Flow, Token

    planted = "planted-secret"
    given = {
        "name": "p", "type": "openai", "base_url": f"https://u:{planted}-1@x.example/v1?key={planted}-2", "api_key": f"{planted}-3",
        "headers": {"X-Api-Key": f"{planted}-4"}, "proxy": f"http://u:{planted}-5@y.example:1",
        "request": {"additionalBodyFields": {"auth": f"{planted}-6"}},
    }  # fmt: skip
    settings = parse({"providers": [given]}, "x")
    made = _made(**given)
    target = Target(provider=made, model="m", reason="r")
    flow = Flow(
        url=f"https://x.example/t?k={planted}",
        key=f"{planted}-7",
        token_path="a",
        expires_at_path="b",
        expires_in_path="c",
    )
    request = flow.request("id")
    oauth = _made(name="g", type="gigachat", api_key=f"{planted}-8")
    bedrock = _made(
        name="b",
        type="bedrock",
        location="eu-west-1",
        api_key=None,
        access_key_id="AKID",
        secret_access_key=f"{planted}-9",
    )
    signed = (bedrock.signature, oauth.credential, oauth.credential and oauth.credential.source)
    for one in (
        settings,
        settings.providers[0],
        made,
        made.reach,
        target,
        flow,
        request,
        Token(planted, 1.0, 2.0),
        oauth,
        bedrock,
        *signed,
    ):
        assert planted not in repr(one), type(one)
        assert planted not in str(one), type(one)

"""Requests that begin as others did are read as they would be without them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.types.call import CHAT
from bursar.types.errors import RequestError
from bursar.wire import ingress, openings
from bursar.wire.openings import Openings

LONG = "You are a careful assistant. " * 200
STAND_IN = openings._STAND_IN.decode()


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "_openings", Openings())


def body(messages: str, *, before: str = '"model":"m",', after: str = "") -> bytes:
    return f'{{{before}"messages":[{messages}]{after}}}'.encode()


def system(text: str = LONG) -> str:
    return json.dumps({"role": "system", "content": text}, separators=(",", ":"))


def user(text: str) -> str:
    return json.dumps({"role": "user", "content": text})


def said(of: bytes) -> Any:
    """What is read of a body, or how it is refused."""
    try:
        asked = ingress.read(CHAT, of)
    except RequestError as e:
        return str(e), e.field
    return asked.model, asked.stream, asked.inputs, asked.params, asked.usual


def said_alone(of: bytes) -> Any:
    known, ingress._openings = ingress._openings, Openings()
    try:
        return said(of)
    finally:
        ingress._openings = known


def known_after(of: bytes, times: int = 2) -> None:
    for _ in range(times):
        ingress.read(CHAT, of)


def test_a_long_first_message_is_read_from_the_third_time_on_without_being_looked_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_through: list[int] = []
    read = ingress._chat
    monkeypatch.setattr(ingress, "_chat", lambda of: looked_through.append(len(of)) or read(of))
    for n in range(4):
        asked = ingress.read(CHAT, body(f"{system()},{user(f'question {n}')}"))
        assert asked.inputs == [system().encode(), user(f"question {n}").encode()]
    assert looked_through[0] == looked_through[1] > len(LONG)
    assert looked_through[2] == looked_through[3] < 300


@pytest.mark.parametrize(
    "other",
    [
        body(f"{system()},{user('and now?')}", after=',"stream":true,"temperature":0.5'),
        body(system()),
        body(f"{system()},{system()},{user('twice')}"),
        body(f"{system()} , {user('spaced')}"),
        body(f"{system()}{user('no comma')}"),
        body(f"{system()},"),
        body(f"{system()},5"),
        body(f"{system()},{{}}"),
        body(f"{system()},{user('of more')}", after=',"unheard_of":1'),
        body(f"{system()},{user('again')}", after=f',"messages":[{user("instead")}]'),
        body(f"{system()},{user('again')}", after=f',"messages":[{STAND_IN}]'),
        body(f"{system()},{user('again')}", after=f',"mess\\u0061ges":[{STAND_IN}]'),
        body(f"{system()},{STAND_IN}"),
        body(f"{system()},{user('again')}", after=f',"metadata":{STAND_IN}'),
        body(f"{system()},{user('cut off')}")[:-1],
        body(f"{system()},{user('and more')}") + b"{}",
        body(f"{system()},{user('no text')}")[:-3] + b'\xff"}]}',
        body(f"{system(LONG + 'else')},{user('a longer one')}"),
        body(f"{system(LONG[:-9] + 'unlike it')},{user('as long, but another')}"),
        body(f"{system()},{user('x' * 20_000)}"),
        body(f"{system()},{user('another')}", before='"model":"n",'),
        body(f"{system()},{user('another')}", before='"model":"m","metadata":{},'),
    ],
)
def test_what_begins_alike_says_what_it_says_alone(other: bytes) -> None:
    known_after(body(f"{system()},{user('first')}"))
    assert said(other) == said_alone(other)


def test_a_message_within_something_else_is_not_taken_for_the_first() -> None:
    within = f'"model":"m","metadata":{{"messages":[{system()}]}},'
    known_after(body(f"{system()},{user('a')}", before=within), times=3)
    other = body(f"{user('b')},{user('c')}", before=within)
    assert said(other) == said_alone(other)


def test_a_model_that_stands_behind_and_spaces_are_read_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [
        json.dumps(
            {"messages": [{"role": "system", "content": LONG}, {"role": "user", "content": str(n)}], "model": "m"}
        )
        for n in range(3)
    ]
    for of in bodies:
        assert said(of.encode()) == said_alone(of.encode())
    assert ingress._openings.shortened(bodies[0].encode()) is not None


def test_a_prompt_that_changes_is_known_anew() -> None:
    known_after(body(f"{system()},{user('a')}"))
    newer = body(f"{system(LONG + 'Since today: be brief.')},{user('b')}")
    assert ingress._openings.shortened(newer) is None
    known_after(newer)
    assert ingress._openings.shortened(newer) is not None


def test_what_is_known_stays_bounded() -> None:
    for n in range(3000):
        text = f"{n}" + "x" * 30_000
        known_after(body(f"{system(text)},{user('a')}"))
    known = ingress._openings._known
    assert len(known) <= openings._MOST_OPENINGS
    assert len(ingress._openings._seen) <= openings._MOST_OPENINGS
    assert sum(len(opening) + len(message) for opening, _, message in known.values()) < openings._MOST_BYTES + 70_000


_parts = st.sampled_from(
    [
        system(), system(LONG + "."), user("a"), user("b"), STAND_IN, "{}", "5", ",", "]", "}", '"messages":[',
        '"model":"m",', "{", " ", '"metadata":{', '"stream":true', "\\", '"', "é",
    ]
)  # fmt: skip


@given(st.lists(st.lists(_parts, max_size=6), min_size=1, max_size=8))
def test_whatever_follows_a_beginning_that_is_known_says_what_it_says_alone(bodies: list[list[str]]) -> None:
    ingress._openings = Openings()
    known_after(body(f"{system()},{user('first')}"))
    for parts in bodies:
        of = f'{{"model":"m","messages":[{system()}{"".join(parts)}'.encode()
        assert said(of) == said_alone(of)

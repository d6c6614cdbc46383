"""Requests that begin as others did are read as they would be without them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from bursar.types.call import CHAT
from bursar.types.errors import RequestError
from bursar.wire import ingress, openings
from bursar.wire.openings import Opening, Openings

LONG = "You are a careful assistant. " * 200
STAND_IN = openings._STAND_IN.decode()


def body(messages: str, *, before: str = '"model":"m",', after: str = "") -> bytes:
    return f'{{{before}"messages":[{messages}]{after}}}'.encode()


def system(text: str = LONG) -> str:
    return json.dumps({"role": "system", "content": text}, separators=(",", ":"))


def user(text: str) -> str:
    return json.dumps({"role": "user", "content": text})


def said(of: bytes, known: Openings | None = None, opening: Opening | None = None) -> Any:
    """What is read of a body, or how it is refused. Where it begins with what is known, it is the same without that."""
    try:
        read = astuple(ingress.read(CHAT, of, openings=known, opening=opening))
    except RequestError as e:
        read = str(e), e.field
    if known is not None and opening is None and (found := known.of(b"head" + of, 4)) is not None:
        assert said(of[len(found.both) :], known, found) == read
    return read


def after(*bodies: bytes, known: Openings | None = None) -> Openings:
    """What is known after these came, each twice."""
    known = known or Openings()
    for of in bodies:
        for _ in range(2):
            said(of, known)
    return known


def test_a_long_first_message_is_read_from_the_third_time_on_without_being_looked_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_through: list[int] = []
    read = ingress._chat
    monkeypatch.setattr(ingress, "_chat", lambda of: looked_through.append(len(of)) or read(of))
    known = Openings()
    for n in range(4):
        asked = ingress.read(CHAT, body(f"{system()},{user(f'question {n}')}"), openings=known)
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
    known = after(body(f"{system()},{user('first')}"))
    assert said(other, known) == said(other)


def test_a_message_within_something_else_is_not_taken_for_the_first() -> None:
    within = f'"model":"m","metadata":{{"messages":[{system()}]}},'
    known = after(body(f"{system()},{user('a')}", before=within))
    other = body(f"{user('b')},{user('c')}", before=within)
    assert said(other, known) == said(other)


def test_what_stands_in_is_not_learned_as_something_that_came_before() -> None:
    before = f'{{"messages":[{STAND_IN}],"metadata":{{"messages": [{system()}]}},'
    first = f'{before}"messages":[{system()}],"model":"m"}}'.encode()
    known = after(first)
    other = f'{before}"model":"m"}}'.encode()
    assert said(first)[2] == [system().encode()]
    assert said(other, known) == said(other)
    assert said(other)[2] == [STAND_IN.encode()]


def test_a_model_that_stands_behind_and_spaces_are_read_as_well() -> None:
    bodies = [
        json.dumps(
            {"messages": [{"role": "system", "content": LONG}, {"role": "user", "content": str(n)}], "model": "m"}
        )
        for n in range(3)
    ]
    known = Openings()
    for of in bodies:
        assert said(of.encode(), known) == said(of.encode())
    assert known.of(bodies[0].encode()) is not None


def test_a_prompt_that_changes_is_known_anew() -> None:
    known = after(body(f"{system()},{user('a')}"))
    newer = body(f"{system(LONG + 'Since today: be brief.')},{user('b')}")
    assert known.of(newer) is None
    after(newer, known=known)
    assert known.of(newer) is not None


def size(known: Openings) -> int:
    return sum(len(opening.both) + len(opening.message) for opening in known._known.values())


def test_what_is_known_stays_bounded() -> None:
    known = after(*(body(f"{system(f'{n}' + 'x' * 30_000)},{user('a')}") for n in range(3000)))
    assert len(known._known) <= openings._MOST
    assert len(known._seen) <= openings._MOST
    assert size(known) < openings._MOST_BYTES + 70_000


def test_what_is_very_long_is_not_kept() -> None:
    assert size(after(body(f"{system('x' * 300_000)},{user('a')}"))) == 0


def test_one_conversation_is_counted_once_however_long_it_grows() -> None:
    known = after(body(f"{system()},{user('a')}"))
    counted = known._bytes
    for n in range(50):
        after(body(f"{system()},{user('x' * 1000 * n)}"), known=known)
    assert known._bytes == counted == 2 * len(system())


def test_prompts_that_take_each_others_place_are_counted_once() -> None:
    known = Openings()
    for n in range(50):
        after(body(f"{system(LONG + str(n))},{user('a')}"), known=known)
    assert len(known._known) == 1
    assert known._bytes == 2 * len(system(LONG + "49"))


_parts = st.sampled_from(
    [
        system(), system(LONG + "."), user("a"), user("b"), STAND_IN, "{}", "5", ",", "]", "}", '"messages":[',
        '"model":"m",', "{", " ", '"metadata":{', '"stream":true', "\\", '"', "é",
    ]
)  # fmt: skip
_more = st.sampled_from([system(), system(LONG + "."), user("a"), user("é"), STAND_IN, "{}", '{"role":"user"}'])
_fields = st.sampled_from(
    [
        '"stream":true', '"temperature":0.1', f'"metadata":{STAND_IN}', f'"messages":[{STAND_IN}]', '"unheard_of":1',
        f'"messages":[{user("c")}]', '"mess\\u0061ges":[]', '"model":"n"',
    ]
)  # fmt: skip
_whole = st.tuples(st.lists(_more, max_size=3), st.lists(_fields, max_size=2)).map(
    lambda drawn: "".join(f",{one}" for one in drawn[0]) + "]" + "".join(f",{one}" for one in drawn[1]) + "}"
)


@given(st.lists(_whole | st.lists(_parts, max_size=6).map("".join), min_size=1, max_size=8))
def test_whatever_follows_a_beginning_that_is_known_says_what_it_says_alone(ends: list[str]) -> None:
    known = after(body(f"{system()},{user('first')}"))
    for end in ends:
        of = f'{{"model":"m","messages":[{system()}{end}'.encode()
        assert said(of, known) == said(of)

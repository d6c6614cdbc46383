"""A chat's fields, and those of Messages, checked before anything is written of them: what is wrong is told by its
place."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from bursar.types.errors import RequestError
from bursar.wire.shapes import Tree

_PLACE = re.compile(r"`\$\.?([^`]*)`")


class _Function(msgspec.Struct):
    name: str = ""
    arguments: str | Tree | None = None


class _Call(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[str | Tree] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    function_call: _Function | None = None
    refusal: str | None = None


class _Declared(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: Tree | None = None


class _Tool(msgspec.Struct):
    function: _Declared | None = None


class _Chat(msgspec.Struct):
    messages: list[_Message]
    tools: list[_Tool] | None = None
    tool_choice: str | Tree | None = None
    stop: str | list[str] | None = None
    reasoning_effort: str | None = None
    response_format: Tree | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    seed: int | None = None
    user: str | None = None
    parallel_tool_calls: bool | None = None
    generationConfig: Tree | None = None  # noqa: N815
    options: Tree | None = None


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    source: Tree | None = None
    id: str | None = None
    name: str | None = None
    tool_use_id: str | None = None
    content: str | list[Tree] | Tree | None = None


class _Turn(msgspec.Struct):
    role: str
    content: str | list[_Block]


class _Offered(msgspec.Struct):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: Tree | None = None


class _Choice(msgspec.Struct):
    type: str
    name: str | None = None


class _Messages(msgspec.Struct):
    messages: list[_Turn]
    system: str | list[_Block] | None = None
    stop_sequences: list[str] | None = None
    tools: list[_Offered] | None = None
    tool_choice: _Choice | None = None
    max_tokens: int | None = None
    metadata: Tree | None = None
    thinking: Tree | None = None
    output_config: Tree | None = None


def _check(value: Tree, kind: Any) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as e:
        found = _PLACE.search(str(e))
        place = found[1] if found else ""
        what = str(e).partition(" - at ")[0]
        field = place.partition("[")[0].partition(".")[0]
        raise RequestError(f"'{place}' cannot be read: {what}", field=field or None) from None


def check_chat(chat: Tree) -> None:
    """Raises RequestError with the place of a field that is of a wrong type."""
    _check(chat, _Chat)


def check_messages(asked: Tree) -> None:
    """The same for a request of Anthropic's Messages."""
    _check(asked, _Messages)

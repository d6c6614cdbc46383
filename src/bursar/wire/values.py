"""What the values in an answer say, whatever their type turns out to be."""

from __future__ import annotations

import json

import msgspec

from bursar.types.events import ErrorReport, Event, Finish, ToolCallDelta
from bursar.wire.readers import Reader, Readers
from bursar.wire.shapes import made_id

_decode = msgspec.json.Decoder().decode


def read_json(data: bytes) -> tuple[object, bool]:
    """The value (None where it is none), and whether strict JSON would have it.

    The lenient reader is for what strict JSON refuses but
    providers send all the same: lone surrogates, NaN, numbers out of range."""
    try:
        return _decode(data), True
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(data.decode("utf-8", "replace")), False
    except (ValueError, RecursionError):
        return None, False


def text_of(value: object) -> str | None:
    """A text, or the texts of a list of parts, as some providers send content."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str))
    return None


def thinking_of(value: object) -> str | None:
    """What stands in a list of parts as thinking: a text, or a list of texts."""
    if not isinstance(value, list):
        return None
    found = [part.get("thinking") for part in value if isinstance(part, dict) and part.get("type") == "thinking"]
    return "".join(text for one in found if (text := text_of(one))) or None


def tool_call(call: object, index: int, choice: int) -> ToolCallDelta:
    """A tool call, or a piece of one, at its place; one that comes without an id, and whole, gets one."""
    given = call if isinstance(call, dict) else {}
    function = given.get("function", given.get("functionCall", given.get("custom")))
    function = function if isinstance(function, dict) else {}
    name, id = _optional(function.get("name")), _optional(given.get("id"))
    arguments = function.get("arguments", function.get("input"))
    if arguments is not None and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    if id is None and name is not None and type(given.get("index")) is not int:
        id = made_id(name, arguments or "", index)
    return ToolCallDelta(index=index, id=id, name=name, arguments=arguments or "", choice=choice)


def _optional(value: object) -> str | None:
    return None if value is None else str(value)


def error_of(reader: Reader, error: object) -> ErrorReport:
    if isinstance(error, str):
        return ErrorReport(error)
    message: object = reader.error_message(error)
    if message is None:
        message = json.dumps(error, ensure_ascii=False)
    return ErrorReport(str(message), _optional(reader.error_type(error)), _optional(reader.error_code(error)))


def read_error(readers: Readers, body: bytes) -> ErrorReport | None:
    """What an error answer's body says, or None where it says nothing that can be read."""
    value, _ = read_json(body)
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return None
    error = readers.answer.error(value)
    return error_of(readers.answer, error or value)


def refuse_finish(readers: Readers, events: list[Event]) -> None:
    """Adds an error where an answer says in the place of its finish that it failed, and nowhere else."""
    failed = any(type(e) is Finish and e.reason in readers.failures for e in events)
    if failed and not any(type(e) is ErrorReport for e in events):
        events.append(ErrorReport("the answer failed, and says no more of it", type="finish"))

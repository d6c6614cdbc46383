"""What a client sends in OpenAI's shape, looked at just enough: the fields a call goes by are checked and
named when they are wrong; the others are the provider's to judge and stay as they are.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bursar.types.call import EMBEDDINGS
from bursar.types.errors import RequestError

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Message(msgspec.Struct):
    role: str


_messages = msgspec.json.Decoder(list[_Message])


class Asked(msgspec.Struct, frozen=True):
    """The fields of a request, each as the JSON it came as, and the two that every call goes by."""

    fields: dict[str, msgspec.Raw]
    model: str
    stream: bool


def read(operation: str, body: bytes) -> Asked:
    """A request's body. Raises RequestError that names the field."""
    try:
        body.decode()
        fields = _object.decode(body)
    except UnicodeDecodeError:
        raise RequestError("the body is not UTF-8") from None
    except msgspec.ValidationError:
        raise RequestError("the body must be a JSON object") from None
    except msgspec.DecodeError as e:
        raise RequestError(f"the body is not JSON: {e}") from None
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None
    return check(operation, fields)


def check(operation: str, fields: dict[str, msgspec.Raw]) -> Asked:
    """The fields a call goes by. Raises RequestError that names the one that is wrong."""
    model = _value(fields, "model", str, "a text", required=True)
    if not model:
        raise RequestError("'model' is empty: name a model", field="model")
    if operation == EMBEDDINGS:
        if "input" not in fields or bytes(fields["input"]) == b"null":
            raise RequestError("'input' is missing: give a text, or a list of texts", field="input")
        return Asked(fields, model, False)
    _check_messages(fields)
    stream = _value(fields, "stream", bool | None, "true or false", required=False)
    return Asked(fields, model, bool(stream))


def _check_messages(fields: dict[str, msgspec.Raw]) -> None:
    if "messages" not in fields:
        raise RequestError("'messages' is missing: give a list of messages", field="messages")
    try:
        messages = _messages.decode(fields["messages"])
    except RecursionError:
        raise RequestError("'messages' is nested too deeply", field="messages") from None
    except msgspec.MsgspecError as e:
        raise RequestError(f"'messages' must be a list of objects with a role: {e}", field="messages") from None
    if not messages:
        raise RequestError("'messages' is empty: give at least one message", field="messages")


def _value(fields: dict[str, msgspec.Raw], name: str, type: object, wanted: str, *, required: bool) -> Any:
    if name not in fields:
        if required:
            raise RequestError(f"'{name}' is missing", field=name)
        return None
    try:
        return msgspec.json.decode(fields[name], type=type)
    except (msgspec.MsgspecError, RecursionError):
        raise RequestError(f"'{name}' must be {wanted}", field=name) from None

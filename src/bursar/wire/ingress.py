"""What a client sends, looked at just enough: the fields a call goes by are checked and
named when they are wrong; the others are the provider's to judge and stay as they are.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bursar.types.call import (
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    EMBEDDINGS,
    IMAGE_EDITS,
    IMAGE_VARIATIONS,
    IMAGES,
    MESSAGES,
    MODERATIONS,
    RERANK,
    RESPONSES,
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
)
from bursar.types.errors import RequestError
from bursar.wire import forms
from bursar.wire.openings import LONG_BYTES, Opening, Openings, first_stands_in

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_INPUT_OF = {
    CHAT: "messages", MESSAGES: "messages", COUNT_TOKENS: "messages", COMPLETIONS: "prompt", RESPONSES: "input",
    EMBEDDINGS: "input", SPEECH: "input", IMAGES: "prompt", IMAGE_EDITS: "prompt", MODERATIONS: "input",
    RERANK: "documents",
}  # fmt: skip
_INPUTS = frozenset(_INPUT_OF.values())
_WITH_MESSAGES = frozenset({CHAT, MESSAGES, COUNT_TOKENS})
_NEVER_STREAMED = frozenset({EMBEDDINGS, COUNT_TOKENS, MODERATIONS, RERANK, IMAGE_VARIATIONS})
# Kinds of call that bring a file, and the field it stands in.
_FILE_OF = {TRANSCRIPTIONS: "file", TRANSLATIONS: "file", IMAGE_VARIATIONS: "image"}
_OF_FORMS = frozenset({*_FILE_OF, IMAGE_EDITS})
_TRUE = ("true", "1", "yes", "on", "t", "y")
# How nearly all messages begin: with their role.
_BEGINNINGS = (b'{"role":"', b'{"role": "')
# A list of token numbers is one input, not a thousand.
_ITEMS = (b"{", b'"')


class _Message(msgspec.Struct):
    role: str


_messages = msgspec.json.Decoder(list[_Message]).decode
_message = msgspec.json.Decoder(_Message).decode

# The parameters of a chat in OpenAI's names, read in one go; a request with any other is read field by field.
_ABSENT = msgspec.Raw(b"")
PARAMETERS = (
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "metadata", "modalities", "n", "parallel_tool_calls", "prediction", "presence_penalty",
    "prompt_cache_key", "reasoning_effort", "response_format", "safety_identifier", "seed", "service_tier", "stop",
    "store", "stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity",
    "web_search_options",
)  # fmt: skip
_Chat = msgspec.defstruct(
    "_Chat",
    [
        ("model", str),
        ("messages", list[msgspec.Raw], msgspec.field(default_factory=list)),
        ("stream", bool | None, None),
        *((name, msgspec.Raw, _ABSENT) for name in PARAMETERS),
    ],
    forbid_unknown_fields=True,
    omit_defaults=True,
    gc=False,
)
_chat = msgspec.json.Decoder(_Chat).decode


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What a request says: the model, whether its answer is to be streamed, its messages or inputs, each as JSON,
    and all else as one JSON object. `usual` is true for a chat of which these are all there is, and in which the model
    stands first; `body` is all of any other."""

    model: str
    stream: bool
    inputs: list[bytes]
    params: bytes
    usual: bool = False
    body: bytes = b""


def read(
    operation: str,
    body: bytes,
    form: str | None = None,
    openings: Openings | None = None,
    opening: Opening | None = None,
) -> Asked:
    """A request's body; `form` is its content-type where it is a form, `openings` what others began with. Where it is
    known already that it begins with one of them, `opening`, `body` is what stands behind that. Raises RequestError
    that names the field."""
    if opening is not None:
        asked = _read_behind(opening, body) if operation == CHAT and form is None else None
        if asked is not None:
            return asked
        body = opening.both + body
    if form is not None:
        if operation not in _OF_FORMS:
            raise RequestError("a form is nothing that can be asked here: send application/json")
        return _read_form(operation, body, form)
    if operation in _FILE_OF:
        raise RequestError("a file comes in a form: send multipart/form-data", field=_FILE_OF[operation])
    if operation == CHAT:
        if openings is None or len(body) < LONG_BYTES:
            asked = _read_usual(body)
        else:
            asked = _read_shortened(body, openings) or _read_new(body, openings)
        if asked is not None:
            return asked
    return _read_fields(operation, body)


def _read_shortened(body: bytes, openings: Openings) -> Asked | None:
    """A chat that begins as others did; None where it does not, or is nothing that can be read so."""
    opening = openings.of(body)
    return None if opening is None else _read_behind(opening, body[len(opening.both) :])


def _read_behind(opening: Opening, rest: bytes) -> Asked | None:
    """A chat of which this is what stands behind its opening."""
    short = opening.shortened(rest)
    asked = _read_usual(short) if short is not None else None
    if asked is None or not first_stands_in(asked.inputs):
        return None
    asked.inputs[0] = opening.message
    return asked


def _read_new(body: bytes, openings: Openings) -> Asked | None:
    """A chat that begins as none did, as far as is known."""
    asked = _read_usual(body)
    if asked is not None:
        openings.learn(body, asked.inputs[0])
    return asked


def _read_usual(body: bytes) -> Asked | None:
    """A chat; None where it is none of the usual kind."""
    try:
        if not body.isascii():
            body.decode()
        chat: Any = _chat(body)
        inputs = list(map(bytes, chat.messages))
        for message in inputs:
            if not message.startswith(_BEGINNINGS):
                _message(message)
        chat.messages = []
        if inputs and chat.model:
            return Asked(chat.model, chat.stream is True, inputs, _encode(chat), True)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # what is wrong with it, if anything is, is found out field by field
    return None


def fields_of(body: bytes) -> dict[str, msgspec.Raw]:
    """The fields of a request, each as the JSON it came as. Raises RequestError."""
    try:
        body.decode()
        return _object(body)
    except UnicodeDecodeError:
        raise RequestError("the body is not UTF-8") from None
    except msgspec.ValidationError:
        raise RequestError("the body must be a JSON object") from None
    except msgspec.DecodeError as e:
        raise RequestError(f"the body is not JSON: {e}") from None
    except RecursionError:
        raise RequestError("the body is nested too deeply") from None


def params_of(fields: dict[str, msgspec.Raw]) -> bytes:
    """All of a request but its messages or inputs."""
    return _encode({name: value for name, value in fields.items() if name not in _INPUTS})


def _read_fields(operation: str, body: bytes) -> Asked:
    """The fields a call goes by. Raises RequestError that names the one that is wrong."""
    fields = fields_of(body)
    model = _value(fields, "model", str, "a text", required=True)
    if not model:
        raise RequestError("'model' is empty: name a model", field="model")
    name = _INPUT_OF[operation]
    if operation in _WITH_MESSAGES:
        _check_messages(fields)
    elif operation != RESPONSES and (name not in fields or bytes(fields[name]) == b"null"):
        raise RequestError(f"'{name}' is missing: give a text, or a list of texts", field=name)
    stream = operation == SPEECH  # sound is passed on as it comes
    if not stream and operation not in _NEVER_STREAMED:
        stream = bool(_value(fields, "stream", bool | None, "true or false", required=False))
    inputs = [item for name in fields if name in _INPUTS for item in _items(fields[name])]
    return Asked(model, stream, inputs, params_of(fields), body=body)


def _read_form(operation: str, body: bytes, content_type: str) -> Asked:
    """The same of a form. Its files are not kept: what is said of them stands for them."""
    parts = forms.parts_of(body, content_type)
    values, files = forms.fields_of(parts), forms.files_of(parts)
    model = values.get("model")
    if not isinstance(model, str) or not model:
        raise RequestError("'model' is missing: name one model", field="model")
    if sum(part.name == "model" for part in parts) > 1:
        raise RequestError("'model' is named more than once", field="model")
    asked = values.get("stream")
    last = asked[-1] if isinstance(asked, list) else asked
    stream = operation not in _NEVER_STREAMED and isinstance(last, str) and last.strip().lower() in _TRUE
    inputs = [_encode(file) for file in files]
    inputs += [_encode(values.pop(name)) for name in sorted(_INPUTS & values.keys())]
    return Asked(model, stream, inputs, _encode(values), body=body)


def _items(value: msgspec.Raw) -> list[bytes]:
    """The elements of a list of messages or texts; anything else is one item."""
    if bytes(memoryview(value)[:1]) == b"[":
        items = _list(value)
        if items and bytes(memoryview(items[0])[:1]) in _ITEMS:
            return [bytes(item) for item in items]
    return [bytes(value)]


def _check_messages(fields: dict[str, msgspec.Raw]) -> None:
    if "messages" not in fields:
        raise RequestError("'messages' is missing: give a list of messages", field="messages")
    try:
        messages = _messages(fields["messages"])
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

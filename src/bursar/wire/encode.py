"""A call into the request of one provider: pure, and the only place that writes request bodies.

What cannot be said to this provider is refused here, before any entry exists.
"""

from __future__ import annotations

import msgspec

from bursar.types.call import EMBEDDINGS, Call
from bursar.types.errors import RequestError
from bursar.wire import paths
from bursar.wire.spec import Spec

_JSON = msgspec.json.Encoder()


class Request(msgspec.Struct, frozen=True):
    """What leaves for a provider, without its credential.

    `logged` is what stands on the ledger: the body, or, for a provider with names of its own, the call in
    OpenAI's names. `added_usage` is true where bursar itself asked for usage in the stream, so that what comes of it
    is taken out again.
    """

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    logged: bytes
    stream: bool
    added_usage: bool


def encode(
    spec: Spec,
    call: Call,
    *,
    model: str,
    url: str,
    headers: tuple[tuple[str, str], ...],
    include_usage: bool,
) -> Request:
    """The request for `model` at `url`. Raises RequestError with the field's name."""
    body = call.body
    adds_usage = include_usage and call.stream and call.operation != EMBEDDINGS
    if body is not None and model == call.model and not adds_usage and is_plain(spec) and _is_said_once(body):
        return Request(url, headers, body, body, call.stream, False)
    fields = dict(call.fields)
    added_usage = False
    if adds_usage:
        added_usage = _ask_for_usage(fields)
    fields["model"] = msgspec.Raw(_JSON.encode(model))
    logged = _JSON.encode(fields)
    body = logged if is_plain(spec) else _JSON.encode(_written(spec, call, fields))
    return Request(url, headers, body, logged, call.stream, added_usage)


def is_plain(spec: Spec) -> bool:
    """Whether a provider takes OpenAI's fields as they are."""
    request = spec.request
    return not (request.names or request.defaults or request.extra or request.system_prompt)


def _is_said_once(body: bytes) -> bool:
    """Whether a body may pass as it came. One that names its model twice, or may do so in escapes, is written
    anew: who reads it behind us could take the other one."""
    return body.count(b'"model"') == 1 and b"\\u00" not in body


def _ask_for_usage(fields: dict[str, msgspec.Raw]) -> bool:
    """Sets `stream_options.include_usage`; false where the caller asked for it already."""
    options: dict[str, object] = {}
    if "stream_options" in fields:
        try:
            given = msgspec.json.decode(fields["stream_options"])
        except (msgspec.MsgspecError, RecursionError) as e:
            raise RequestError(f"'stream_options' cannot be read: {e}", field="stream_options") from None
        if given is not None and not isinstance(given, dict):
            raise RequestError("'stream_options' must be an object", field="stream_options")
        options = given or {}
    if options.get("include_usage") is True:
        return False
    fields["stream_options"] = msgspec.Raw(_JSON.encode({**options, "include_usage": True}))
    return True


def _written(spec: Spec, call: Call, fields: dict[str, msgspec.Raw]) -> dict[str, object]:
    """The body for a provider that names things its own way, or has values of its own."""
    request = spec.request
    out: dict[str, object] = {}
    values: dict[str, object] = {k: v for k, v in request.defaults.items() if k not in fields}
    values.update(fields)
    if request.system_prompt and call.operation != EMBEDDINGS:
        values["messages"] = _with_system_prompt(request.system_prompt, fields)
    for name, value in values.items():
        if name in request.names:
            paths.put(out, request.names[name], value)
        else:
            out[name] = value
    for name, value in request.extra.items():
        paths.put(out, name, value)
    return out


class _Role(msgspec.Struct):
    role: str | None = None


def _with_system_prompt(prompt: str, fields: dict[str, msgspec.Raw]) -> object:
    try:
        messages = msgspec.json.decode(fields.get("messages", msgspec.Raw(b"[]")), type=list[msgspec.Raw])
        first = msgspec.json.decode(messages[0], type=_Role).role if messages else None
    except msgspec.MsgspecError:
        raise RequestError("'messages' must be a list of objects with a role", field="messages") from None
    if first in ("system", "developer"):
        return messages
    return [{"role": "system", "content": prompt}, *messages]

"""A call into the request of one provider: pure, and the only place that writes request bodies.

What cannot be said to this provider is refused here, before any entry exists.
"""

from __future__ import annotations

import msgspec

from bursar.types.call import EMBEDDINGS, Call
from bursar.types.errors import RequestError
from bursar.wire import paths
from bursar.wire.ingress import fields_of, params_of
from bursar.wire.spec import Spec

_JSON = msgspec.json.Encoder()
_ASKS_FOR_USAGE = b',"stream_options":{"include_usage":true}}'


class Request(msgspec.Struct, frozen=True):
    """What leaves for a provider, without its credential.

    `params` is what stands on the ledger of it beside the call's inputs: in OpenAI's names, whatever the provider's
    are. `added_usage` is true where bursar itself asked for usage in the stream, so that what comes of it is taken
    out again.
    """

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    params: bytes
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
    if is_plain(spec) and body.count(b'"model"') == 1 and b"\\u00" not in body:
        # A body that names its model twice, or may do so in escapes, never passes as it came: who reads it behind us
        # could take the other one.
        if model == call.model and not adds_usage:
            return Request(url, headers, body, call.params, call.stream, False)
        changed = _changed(call, model, adds_usage)
        if changed is not None:
            return Request(url, headers, changed[0], changed[1], call.stream, adds_usage)
    fields = fields_of(body)
    added_usage = adds_usage and _ask_for_usage(fields)
    fields["model"] = msgspec.Raw(_JSON.encode(model))
    written = fields if is_plain(spec) else _written(spec, call, fields)
    return Request(url, headers, _JSON.encode(written), params_of(fields), call.stream, added_usage)


def _changed(call: Call, model: str, adds_usage: bool) -> tuple[bytes, bytes] | None:
    """The body, which has one `"model"` in it, and the parameters, with another model and with what asks for usage;
    None where that takes more than putting bytes in their places."""
    body, params = call.body, call.params
    if model != call.model:
        old, new = _JSON.encode(call.model), b'"model":%b' % _JSON.encode(model)
        found = b'"model":%b' % old
        params = params.replace(found, new, 1)
        if found not in body:
            found = b'"model": %b' % old
        body = body.replace(found, new, 1)
        if body is call.body or params is call.params:
            return None
    if adds_usage:
        if b'"stream_options"' in params or not body.endswith(b"}"):
            return None
        body, params = body[:-1] + _ASKS_FOR_USAGE, params[:-1] + _ASKS_FOR_USAGE
    return body, params


def is_plain(spec: Spec) -> bool:
    """Whether a provider takes OpenAI's fields as they are."""
    request = spec.request
    return not (request.names or request.defaults or request.extra or request.system_prompt)


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

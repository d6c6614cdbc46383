"""A call into the request of one provider: pure, and the only place that writes request bodies.

What cannot be said to this provider is refused here, before any entry exists.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from bursar.types.call import MESSAGES, Call
from bursar.types.errors import RequestError
from bursar.wire import paths
from bursar.wire.assemble import encode_json
from bursar.wire.ingress import fields_of, params_of
from bursar.wire.readers import Endpoint
from bursar.wire.shapes import writer_of
from bursar.wire.spec import OperationSpec
from bursar.wire.translate import TO_CHAT

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


class Way:
    """How calls for one model go to one provider: what is the same for all of them is worked out once."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        operation: str,
        asked: str,
        model: str,
        stream: bool,
        headers: tuple[tuple[str, str], ...],
    ) -> None:
        """`asked` is the model's name as calls have it, `model` as the provider does."""
        self.headers = headers
        self._endpoint = endpoint
        self._url = (endpoint.stream_url if stream else endpoint.url).replace("{model}", quote(model, safe=""))
        self._model = _JSON.encode(model)
        self._adds_usage = endpoint.adds_usage
        self._passes = endpoint.spec.speaks == operation
        self._translates = None if self._passes else TO_CHAT.get(operation)
        self._write = None if self._passes else writer_of(endpoint.spec.shape)
        self._is_plain = self._write is None and self._translates is None and _plain(endpoint.spec)
        self._renames = model != asked
        self._old, self._new = b'{"model":%b' % _JSON.encode(asked), b'{"model":%b' % self._model

    def request(self, call: Call, headers: tuple[tuple[str, str], ...]) -> Request:
        """The request of a call. Raises RequestError with the field's name."""
        if not (call.usual and self._is_plain):
            return self._written_anew(call, headers)
        params, stream, added = call.params, call.stream, False
        if self._renames:
            params = params.replace(self._old, self._new, 1)
        if stream and self._adds_usage:
            if b'"stream_options"' in params:
                return self._written_anew(call, headers)
            params, added = params[:-1] + _ASKS_FOR_USAGE, True
        # Put together anew, not passed on as it came: a body may name its model twice, and who reads it behind us could
        # take the other one.
        body = b'%b,"messages":[%b]}' % (params[:-1], b",".join(call.inputs))
        return Request(self._url, headers, body, params, stream, added)

    def _written_anew(self, call: Call, headers: tuple[tuple[str, str], ...]) -> Request:
        fields = fields_of(call.body)
        added_usage = call.stream and self._adds_usage and self._translates is None and _ask_for_usage(fields)
        fields["model"] = msgspec.Raw(self._model)
        written = fields if self._is_plain else self._written(call, fields)
        body = encode_json(written)
        return Request(self._url, headers, body, params_of(fields), call.stream, added_usage)

    def _written(self, call: Call, fields: dict[str, msgspec.Raw]) -> dict[str, object]:
        """The body for a provider that says things its own way, or has values of its own."""
        spec = self._endpoint.spec.request
        values: dict[str, object] = dict(fields)
        if self._translates is not None:
            values = self._translates(msgspec.json.decode(_JSON.encode(values)))
            if call.stream and self._adds_usage:
                values["stream_options"] = {"include_usage": True}
        values = {**{k: v for k, v in spec.defaults.items() if k not in values}, **values}
        if spec.system_prompt and self._passes and call.operation == MESSAGES:
            values.setdefault("system", spec.system_prompt)
        elif spec.system_prompt and "messages" in values:
            values["messages"] = _with_system_prompt(spec.system_prompt, values)
        if self._write is not None:
            values = self._write(msgspec.json.decode(_JSON.encode(values)))
        out: dict[str, object] = {}
        for name, value in values.items():
            if name in spec.names:
                paths.put(out, spec.names[name], value)
            else:
                out[name] = value
        for name, value in spec.extra.items():
            paths.put(out, name, value)
        return out


def _plain(spec: OperationSpec) -> bool:
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


class _Role(msgspec.Struct):
    role: str | None = None


def _with_system_prompt(prompt: str, values: dict[str, object]) -> object:
    try:
        messages = msgspec.json.decode(_JSON.encode(values.get("messages", [])), type=list[msgspec.Raw])
        first = msgspec.json.decode(messages[0], type=_Role).role if messages else None
    except msgspec.MsgspecError:
        raise RequestError("'messages' must be a list of objects with a role", field="messages") from None
    if first in ("system", "developer"):
        return messages
    return [{"role": "system", "content": prompt}, *messages]

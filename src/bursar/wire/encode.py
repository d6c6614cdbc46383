"""A call into the request of one provider: pure, and the only place that writes request bodies.

What cannot be said to this provider is refused here, before any entry exists.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from urllib.parse import quote

import msgspec

from bursar.types.call import MESSAGES, Call
from bursar.types.errors import ConfigError, RequestError
from bursar.wire import forms, paths
from bursar.wire.assemble import encode_json
from bursar.wire.ingress import fields_of, params_of
from bursar.wire.readers import Endpoint
from bursar.wire.shapes import writer_of
from bursar.wire.spec import OperationSpec, RequestSpec
from bursar.wire.translate import TO_CHAT, without_cache_marks

_JSON = msgspec.json.Encoder()
_NULL = msgspec.Raw(b"null")
_ASKS_FOR_USAGE = b',"stream_options":{"include_usage":true}}'
# What is shorter is copied in the time that it takes to write one part more.
_LONG_BYTES = 4096

POST = "POST"


class Request(msgspec.Struct, frozen=True, gc=False):
    """What leaves for a provider, without its credential.

    `parts` are its body, one behind the other: what is long is not copied to stand beside what is short. `params` is
    what stands on the ledger of it beside the call's inputs: in OpenAI's names, whatever the provider's are.
    `added_usage` is true where bursar itself asked for usage in the stream, so that what comes of it is taken out
    again. `dropped` names the fields that were left out, each behind the rule that says so. Calls are all sent by
    `POST`; sources of tokens may be asked by another `method`.
    """

    url: str
    headers: tuple[tuple[str, str], ...]
    parts: tuple[bytes, ...]
    params: bytes
    stream: bool
    added_usage: bool
    dropped: str | None = None
    method: str = POST

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    @property
    def size(self) -> int:
        """The bytes of its body."""
        parts = self.parts
        return len(parts[0]) if len(parts) == 1 else sum(map(len, parts))

    def __repr__(self) -> str:
        # Its headers may show who calls, and so may its address.
        return f"Request({self.method} {self.url.partition('?')[0].rpartition('@')[2]}, {self.size} bytes)"


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
        self._model_name, self._model = model, _JSON.encode(model)
        self._adds_usage = endpoint.adds_usage
        self._passes = endpoint.spec.speaks == operation
        self._translates = None if self._passes else TO_CHAT.get(operation)
        self._write = None if self._passes else writer_of(endpoint.spec.shape)
        self._drops = [
            drop for drop in endpoint.spec.request.drops if any(fnmatchcase(model, pattern) for pattern in drop.models)
        ]
        self._is_plain = self._write is None and self._translates is None and not self._drops and _plain(endpoint.spec)
        self._renames = model != asked
        # Parameters of a usual chat begin with the model.
        self._old_size, self._new = len(b'{"model":%b' % _JSON.encode(asked)), b'{"model":%b' % self._model

    def request(self, call: Call, headers: tuple[tuple[str, str], ...]) -> Request:
        """The request of a call. Raises RequestError with the field's name."""
        if call.content_type is not None:
            return self._of_form(call, call.content_type, headers)
        if not (call.usual and self._is_plain):
            return self._written_anew(call, headers)
        params, stream, added = call.params, call.stream, False
        if self._renames:
            params = self._new + params[self._old_size :]
        if stream and self._adds_usage:
            if params.find(b'"stream_options"') >= 0:
                return self._written_anew(call, headers)
            params, added = params[:-1] + _ASKS_FOR_USAGE, True
        # Put together anew, not passed on as it came: a body may name its model twice, and who reads it behind us could
        # take the other one.
        return Request(self._url, headers, _of_chat(params, call.inputs), params, stream, added)

    def _of_form(self, call: Call, content_type: str, headers: tuple[tuple[str, str], ...]) -> Request:
        """A form as it came, but for its model."""
        if not self._passes:
            raise RequestError("a form cannot be translated for this provider: send JSON")
        boundary = forms.boundary_of(content_type)
        body = forms.written(forms.parts_of(call.body, content_type), boundary, self._model_name.encode())
        others = tuple(header for header in headers if header[0] != "content-type")
        params = _JSON.encode({**fields_of(call.params), "model": self._model_name})
        return Request(self._url, (("content-type", content_type), *others), (body,), params, call.stream, False)

    def _written_anew(self, call: Call, headers: tuple[tuple[str, str], ...]) -> Request:
        fields = _fields_of(call)
        added_usage = call.stream and self._adds_usage and self._translates is None and _ask_for_usage(fields)
        fields["model"] = msgspec.Raw(self._model)
        dropped: list[str] = []
        written = fields if self._is_plain else self._written(call, fields, dropped)
        body, left_out = encode_json(written), "; ".join(dropped) or None
        return Request(self._url, headers, (body,), params_of(fields), call.stream, added_usage, left_out)

    def _written(self, call: Call, fields: dict[str, msgspec.Raw], dropped: list[str]) -> dict[str, object]:
        """The body for a provider that says things its own way, or has values of its own; what it does not take is
        left out, and named in `dropped`."""
        spec = self._endpoint.spec.request
        values = self._as_chat(call, dict(fields))
        for drop in self._drops:
            if drop.beside is not None and values.get(drop.beside) in (None, _NULL):
                continue
            if found := [name for name in drop.fields if values.pop(name, None) not in (None, _NULL)]:
                dropped.append(f"{drop.rule}: {', '.join(found)}")
        given = {name for name, value in values.items() if value is not None and value != _NULL}
        if "max_completion_tokens" in given:
            given.add("max_tokens")
        values.update({name: value for name, value in spec.defaults.items() if name not in given})
        if spec.system_prompt and self._passes and call.operation == MESSAGES:
            values.setdefault("system", spec.system_prompt)
        elif spec.system_prompt and "messages" in values:
            values["messages"] = _with_system_prompt(spec.system_prompt, values)
        if self._write is not None:
            values = self._write(_plain_data(values))
        return _renamed(spec, values)

    def _as_chat(self, call: Call, values: dict[str, object]) -> dict[str, object]:
        """What was asked in another shape as a chat, where that is what the provider takes."""
        if self._translates is None:
            return values
        chat: dict[str, object] = self._translates(_plain_data(values))
        if self._write is None:
            chat = without_cache_marks(chat)
        if call.stream and self._adds_usage:
            chat["stream_options"] = {"include_usage": True}
        return chat


def _renamed(spec: RequestSpec, values: dict[str, object]) -> dict[str, object]:
    """The values by the provider's names, with what it gets besides."""
    out: dict[str, object] = {name: value for name, value in values.items() if name not in spec.names}
    for name, path in spec.names.items():
        if name in values:
            _put(out, path, values[name], name)
    for path, value in spec.extra.items():
        _put(out, path, value, path.partition(".")[0])
    return out


def _plain_data(values: dict[str, object]) -> dict[str, object]:
    """The values as plain data. Raises RequestError for a number that no JSON number is."""
    try:
        data: dict[str, object] = msgspec.json.decode(_JSON.encode(values))
    except (msgspec.MsgspecError, RecursionError) as e:
        raise RequestError(f"the body cannot be read: {e}") from None
    return data


def _put(out: dict[str, object], path: str, value: object, field: str) -> None:
    """Writes a value where the provider has it; a client's own field of that place, as JSON, is opened for it."""
    first = path.partition(".")[0]
    there = out.get(first)
    if isinstance(there, msgspec.Raw):
        out |= _plain_data({first: there})
    try:
        paths.put(out, path, value)
    except ConfigError as e:
        raise RequestError(f"'{field}' cannot be said to this provider: {e.message}", field=field) from None


def _of_chat(params: bytes, messages: list[bytes]) -> tuple[bytes, ...]:
    """The body of a chat: its parameters, and its messages, of which the long ones are parts of their own."""
    if max(map(len, messages)) < _LONG_BYTES:
        return (b'%b,"messages":[%b]}' % (params[:-1], b",".join(messages)),)
    parts: list[bytes] = []
    short = [params[:-1], b',"messages":[']
    for message in messages:
        if len(message) < _LONG_BYTES:
            short += (message, b",")
        else:
            parts += (b"".join(short), message)
            short = [b","]
    short[-1] = b"]}"
    return (*parts, b"".join(short))


def _fields_of(call: Call) -> dict[str, msgspec.Raw]:
    """The fields of what was asked, each as JSON."""
    if not call.usual:
        return fields_of(call.body)
    messages = {"messages": msgspec.Raw(b"[%b]" % b",".join(call.inputs))}
    return {**fields_of(call.params), **messages}


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

"""A provider's wire format as data: a TOML file per type, and a provider's own settings laid over it.

The file's keys are the fields of `Spec` below; unknown keys are refused with their name and place. The
`request` / `response` settings of a provider use the keys of the documents bursar comes from
(`modelField`, `messagePath`, `usageTokensPath`, …); one table, `OVERLAY`, maps them onto the spec.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from bursar.types.call import OPERATIONS
from bursar.types.errors import ConfigError, UnsupportedLlmProviderError
from bursar.wire import paths

Paths = str | list[str]


class AuthSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the credential is shown: `bearer`, `header` (in the header of that name, behind the prefix), `none`, or
    `oauth`: with it a token is fetched from `token_url`, for a scope, by a form of these `fields` that carries a
    new UUID in `request_id_header` where one is named. The key that it is asked with is shown as `client_auth` says: in
    the `header`, or as the fields of the `body` (RFC 6749, 2.3.1). `token`, `expires_at` and `expires_in` are the paths
    of its answer. Where it `fetches`, a token is fetched as soon as there is an address to fetch it from. Where
    `signs_for` names a service of AWS's, requests may also be signed, with a pair of keys or by AWS's own chain; where
    there is a `google_scope`, tokens may be had of a service account, or of whatever credentials of Google Cloud there
    are."""

    scheme: str = "bearer"
    header: str = "authorization"
    prefix: str = ""
    token_url: str | None = None
    scope: str | None = None
    fields: dict[str, str] = {}
    request_id_header: str | None = None
    client_auth: str = "header"
    token: Paths = "access_token"  # noqa: S105
    expires_at: Paths = "expires_at"
    expires_in: Paths = "expires_in"
    fetches: bool = False
    signs_for: str | None = None
    google_scope: str | None = None


class DropSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule by which fields are left out of requests: models whose names match one of the patterns refuse them. What
    was left out stands on the entry, behind the rule's name. With `beside` they are left out only where that field is
    there too."""

    rule: str
    fields: list[str]
    models: list[str]
    beside: str | None = None


class RequestSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the request is written. A field named here is the path it is written at, where it differs
    from OpenAI's name; `defaults` are values sent where the caller gave none, `extra` always. `include_usage` says
    whether streams are asked for usage: None where this shape has no way to ask."""

    names: dict[str, str] = {}
    defaults: dict[str, object] = {}
    extra: dict[str, object] = {}
    system_prompt: str | None = None
    include_usage: bool | None = None
    drops: list[DropSpec] = []


class AnswerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an answer, or one frame of a stream, says what. Each is a path or a list of paths of which
    the first present counts; `vector` is the name of the numbers inside each of `vectors`. A whole answer has one of
    what it `holds` (left out: its text, calls, choices or vectors), or it is none."""

    id: Paths | None = None
    model: Paths | None = None
    text: Paths | None = None
    reasoning: Paths | None = None
    refusal: Paths | None = None
    tool_calls: Paths | None = None
    finish: Paths | None = None
    choice: Paths | None = None
    choices: Paths | None = None
    error: Paths | None = None
    vectors: Paths | None = None
    vector: str | None = None
    holds: Paths | None = None


class StreamSpec(AnswerSpec, frozen=True, forbid_unknown_fields=True):
    """Where a frame says what, how frames are cut (`sse`, `ndjson`, `json`, `aws-event-stream`; `bytes` as they
    come, unless they turn out to be events), and what ends them all: data that begins with `end`, an event of one of
    the names in `end_events` (several of them where it `goes_on`: the bytes' end is the end), or a frame in which
    `done` is true."""

    framing: str = "sse"
    end: str | None = None
    end_events: list[str] = []
    goes_on: bool = False
    done: Paths | None = None


class UsageSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where counts are. `a + b` is a sum over what is there; a list means the first that is present;
    an integer is that constant wherever any other count is reported; what is absent stays None.

    Where `raw`, the whole object, may stand in several places, counts are named as they stand in the first. A cost is
    in parts of its currency of which `cost_unit` are one: 1 unless it is said. `seconds` are of sound; `images` is
    their number, or their list. `tier` is where an answer says, beside its usage, at which service tier it was served;
    `details` are finer counts by name, at paths inside the raw object: both are read where a price asks for them, and
    where an entry is shown.
    """

    raw: Paths | None = None
    input: Paths | int | None = None
    output: Paths | int | None = None
    cached: Paths | int | None = None
    cache_write: Paths | int | None = None
    reasoning: Paths | int | None = None
    total: Paths | int | None = None
    cost: Paths | None = None
    cost_currency: str | None = None
    cost_unit: int = 1
    seconds: Paths | None = None
    images: Paths | None = None
    search_units: Paths | None = None
    tier: Paths | None = None
    details: dict[str, Paths] = {}


class ErrorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where, inside the error object, its parts are; `header` is the one that names its type, where it does not."""

    message: Paths = "message"
    type: Paths = "type"
    code: Paths = "code"
    header: str | None = None


class OperationSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How calls of one kind are made, and their answers read.

    `shape` names the file this was laid over, and the module, where there is one, that writes requests and reads
    content of that shape. `speaks` names the kind of call whose clients read these answers as they are; others get
    them rendered from their events. In an address `{model}` stands for the model; a stream has an address of its own
    where it differs. `finish` tells what the provider's words for why it stopped mean in OpenAI's (stop, length,
    tool_calls, content_filter); a word that means "" is no end, one that means "error" a failure. `quirks` are
    functions of `wire.quirks`. With `media` it is about sound or images: bytes tell nothing of tokens, prices of text
    do not hold, and an answer need not be JSON.
    """

    shape: str
    url: str
    stream_url: str | None = None
    speaks: str | None = None
    request: RequestSpec = RequestSpec()
    answer: AnswerSpec = AnswerSpec()
    stream: StreamSpec = StreamSpec()
    usage: UsageSpec = UsageSpec()
    error: ErrorSpec = ErrorSpec()
    finish: dict[str, str] = {}
    quirks: list[str] = []
    media: bool = False


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole description of a provider type: where it is, how it is shown who calls, and the kinds of call it
    answers, each None where it does not. Stored providers that name no type are of the default one.
    Where its address depends on a location, `base_urls` has them, with `{location}` and `{project}` to be filled in;
    `*` is that of all locations it does not name."""

    type: str
    is_default: bool = False
    base_url: str | None = None
    base_urls: dict[str, str] = {}
    transport: str = "http"
    auth: AuthSpec = AuthSpec()
    headers: dict[str, str] = {}
    chat: OperationSpec | None = None
    messages: OperationSpec | None = None
    completions: OperationSpec | None = None
    responses: OperationSpec | None = None
    embeddings: OperationSpec | None = None
    count_tokens: OperationSpec | None = None
    speech: OperationSpec | None = None
    transcriptions: OperationSpec | None = None
    translations: OperationSpec | None = None
    images: OperationSpec | None = None
    image_edits: OperationSpec | None = None
    image_variations: OperationSpec | None = None
    moderations: OperationSpec | None = None
    rerank: OperationSpec | None = None

    @property
    def operations(self) -> dict[str, OperationSpec]:
        """The kinds of call it answers, by name."""
        return {name: found for name in OPERATIONS if (found := getattr(self, name)) is not None}


# The documents' key, or one of ours beside them → the place in the spec of chats; `answer|stream` is in both.
# `request.names` entries rename a field of the request.
OVERLAY: dict[str, dict[str, tuple[str, ...]]] = {
    "request": {
        "modelField": ("request", "names", "model"),
        "messagesField": ("request", "names", "messages"),
        "streamField": ("request", "names", "stream"),
        "temperatureField": ("request", "names", "temperature"),
        "maxTokensField": ("request", "names", "max_tokens"),
        "topPField": ("request", "names", "top_p"),
        "systemPrompt": ("request", "system_prompt"),
        "temperature": ("request", "defaults", "temperature"),
        "maxTokens": ("request", "defaults", "max_tokens"),
        "topP": ("request", "defaults", "top_p"),
        "presencePenalty": ("request", "defaults", "presence_penalty"),
        "frequencyPenalty": ("request", "defaults", "frequency_penalty"),
        "additionalBodyFields": ("request", "extra"),
    },
    "response": {
        "messagePath": ("answer", "text"),
        "finishPath": ("answer", "finish"),
        "idPath": ("answer|stream", "id"),
        "modelPath": ("answer|stream", "model"),
        "errorPath": ("answer|stream", "error"),
        "toolCallsPath": ("answer", "tool_calls"),
        "streamMessagePath": ("stream", "text"),
        "streamFinishPath": ("stream", "finish"),
        "streamFraming": ("stream", "framing"),
        "streamEnd": ("stream", "end"),
        "usagePath": ("usage", "raw"),
        "usageTokensPath": ("usage", "total"),
        "promptTokensPath": ("usage", "input"),
        "completionTokensPath": ("usage", "output"),
        "cachedTokensPath": ("usage", "cached"),
        "reasoningTokensPath": ("usage", "reasoning"),
        "costPath": ("usage", "cost"),
        "costCurrency": ("usage", "cost_currency"),
    },
    # Of the provider, not of its chats.
    "auth": {
        "header": ("header",),
        "prefix": ("prefix",),
        "clientAuth": ("client_auth",),
        "tokenFields": ("fields",),
        "tokenPath": ("token",),
        "expiresAtPath": ("expires_at",),
        "expiresInPath": ("expires_in",),
        "requestIdHeader": ("request_id_header",),
    },
}

_FRAMINGS = ("sse", "ndjson", "json", "aws-event-stream", "bytes")
_CURRENCY = re.compile("[A-Z]{3}")
_SCHEMES = ("bearer", "header", "details", "none", "oauth")
_NO_PATHS = frozenset({"framing", "end", "end_events", "goes_on", "header", "cost_currency", "cost_unit", "vector"})


def known_types() -> list[str]:
    """The provider types there is a description of."""
    folder = resources.files("bursar.wire") / "providers"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


@cache
def default_type() -> str:
    """The type of stored providers that say none."""
    return next(name for name in known_types() if _file("providers", name).get("is_default"))


def load(provider_type: str, version: str | None = None) -> dict[str, Any]:
    """A type's description as plain data, laid over the type it extends, each of its operations over its shape.
    `version` is that of the provider's API, where it has several that are not alike.

    Raises UnsupportedLlmProviderError that names the known types.
    """
    data = _own(provider_type)
    data = _laid_over(data, data.pop("versions", {}).get(version, {}))
    for name in data.pop("passes", []):
        data[name] = {"shape": name}  # as it is, in OpenAI's own format
    for name in OPERATIONS:
        if name in data:
            shape = _file("shapes", data[name]["shape"])
            data[name] = _laid_over(shape, data[name])
    return data


def _own(provider_type: str) -> dict[str, Any]:
    if provider_type not in known_types():
        raise UnsupportedLlmProviderError(
            f"the provider type '{provider_type}' is not supported; supported are: {', '.join(known_types())}"
        )
    own = _file("providers", provider_type)
    base = own.pop("extends", None)
    return _laid_over(_own(base), own) if base else own


def _file(folder: str, name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files("bursar.wire") / folder / f"{name}.toml").read_text("utf-8"))


def _laid_over(base: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        merged[key] = _laid_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def build(
    provider_type: str,
    *,
    version: str | None = None,
    request: Mapping[str, object] | None = None,
    response: Mapping[str, object] | None = None,
    auth: Mapping[str, object] | None = None,
    place: str = "provider",
) -> Spec:
    """A type's spec with a provider's own settings laid over it.

    Raises ConfigError with the key and its place where a setting is unknown, of the wrong type, or not
    a path; UnsupportedLlmProviderError where the type is unknown.
    """
    data = load(provider_type, version)
    if (request or response) and "chat" not in data:
        raise ConfigError(
            f"{place}: the type '{provider_type}' answers no chats: `request` and `response` say how they are",
            field="request" if request else "response",
        )
    for section, given in (("request", request or {}), ("response", response or {}), ("auth", auth or {})):
        for key, value in given.items():
            target = OVERLAY[section].get(key)
            if target is None:
                known = ", ".join(OVERLAY[section])
                raise ConfigError(f"{place}.{section}: unknown key '{key}'; known keys are: {known}", field=section)
            for part in target[0].split("|"):
                _lay(data.setdefault("auth", {}) if section == "auth" else data["chat"], (part, *target[1:]), value)
    try:
        spec = msgspec.convert(data, Spec)
    except msgspec.ValidationError as e:
        raise ConfigError(f"{place}: {e}", field=_section_of(str(e))) from None
    _check(spec, place)
    return spec


def _lay(data: dict[str, Any], target: tuple[str, ...], value: object) -> None:
    *parents, last = target
    for name in parents:
        data = data.setdefault(name, {})
    data[last] = value


def _section_of(said: str) -> str:
    """The section of a provider's settings that is at fault, by where in the description its value was laid."""
    return "auth" if "$.auth" in said else "request" if ".request" in said else "response"


def _check(spec: Spec, place: str) -> None:
    if spec.auth.scheme not in _SCHEMES:
        raise ConfigError(f"{place}: the auth scheme '{spec.auth.scheme}' is none of {', '.join(_SCHEMES)}")
    if spec.auth.client_auth not in ("header", "body"):
        raise ConfigError(f"{place}: clientAuth is '{spec.auth.client_auth}'; write 'header' or 'body'", field="auth")
    for found in (spec.auth.token, spec.auth.expires_at, spec.auth.expires_in):
        _check_paths(found, f"{place}.auth", field="auth")
    for operation in spec.operations.values():
        if operation.usage.cost is not None and not _CURRENCY.fullmatch(operation.usage.cost_currency or ""):
            raise ConfigError(f"{place}: costPath needs a costCurrency of three capitals, like RUB", field="response")
        framing = operation.stream.framing
        if framing not in _FRAMINGS:
            raise ConfigError(
                f"{place}: the stream framing '{framing}' is none of {', '.join(_FRAMINGS)}", field="response"
            )
        for section in (operation.answer, operation.stream, operation.usage, operation.error):
            for field in section.__struct_fields__:
                if field not in _NO_PATHS:
                    _check_paths(getattr(section, field), f"{place}: {field}")
        for name, found in operation.usage.details.items():
            _check_paths(found, f"{place}: {name}")
        for path in operation.request.names.values():
            _check_paths(path, f"{place}: a field's name", field="request")


def _check_paths(value: Paths | int | None, place: str, field: str = "response") -> None:
    for path in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
        for term in path.split("+"):
            try:
                paths.parse(term.strip())
            except ConfigError as e:
                raise ConfigError(f"{place}: {e}", field=field) from None

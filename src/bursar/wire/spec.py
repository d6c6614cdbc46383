"""A provider's wire format as data: a TOML file per type, and a provider's own settings laid over it.

The file's keys are the fields of `Spec` below; unknown keys are refused with their name and place. The
`request` / `response` settings of a provider use the keys of the documents bursar comes from
(`modelField`, `messagePath`, `usageTokensPath`, …); one table, `OVERLAY`, maps them onto the spec.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources

import msgspec

from bursar.types.errors import ConfigError, UnsupportedLlmProviderError
from bursar.wire import paths

Paths = str | list[str]


class AuthSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the credential is shown: `bearer`, `header` (in the header of that name) or `none`."""

    scheme: str = "bearer"
    header: str = "authorization"


class RequestSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the request is written. A field named here is the path it is written at, where it differs
    from OpenAI's name; `defaults` are values sent where the caller gave none, `extra` always."""

    names: dict[str, str] = {}
    defaults: dict[str, object] = {}
    extra: dict[str, object] = {}
    system_prompt: str | None = None
    include_usage: bool = False


class AnswerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an answer, or one frame of a stream, says what. Each is a path or a list of paths of which
    the first present counts."""

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


class StreamSpec(AnswerSpec, frozen=True, forbid_unknown_fields=True):
    """Where a frame says what, how frames are cut (`sse`, `ndjson`), and the data that ends them all."""

    framing: str = "sse"
    end: str | None = None


class UsageSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where counts are. `a + b` is a sum over what is there; a list means the first that is present;
    an integer is that constant wherever any other count is reported; what is absent stays None."""

    raw: Paths | None = None
    input: Paths | int | None = None
    output: Paths | int | None = None
    cached: Paths | int | None = None
    cache_write: Paths | int | None = None
    reasoning: Paths | int | None = None
    total: Paths | int | None = None
    cost: Paths | None = None
    cost_currency: str | None = None


class ErrorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where, inside the error object, its parts are."""

    message: Paths = "message"
    type: Paths = "type"
    code: Paths = "code"


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole description of a provider type.

    `shape` names how messages are written and answers are read back by a client: answers of the shape
    `openai` reach an OpenAI client byte for byte, others are rendered from their events.
    """

    type: str
    shape: str
    base_url: str | None = None
    chat_url: str = "/chat/completions"
    embeddings_url: str = "/embeddings"
    transport: str = "http"
    auth: AuthSpec = AuthSpec()
    request: RequestSpec = RequestSpec()
    answer: AnswerSpec = AnswerSpec()
    stream: StreamSpec = StreamSpec()
    embeddings: AnswerSpec = AnswerSpec()
    usage: UsageSpec = UsageSpec()
    embeddings_usage: UsageSpec = UsageSpec()
    error: ErrorSpec = ErrorSpec()


# The documents' key → the place in the spec. `request.names` entries rename a field of the request.
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
        "idPath": ("answer", "id"),
        "modelPath": ("answer", "model"),
        "errorPath": ("answer", "error"),
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
}

_FRAMINGS = ("sse", "ndjson", "json")
_SCHEMES = ("bearer", "header", "none")
_SHAPES = ("openai", "custom")


def known_types() -> list[str]:
    """The provider types there is a description of."""
    folder = resources.files("bursar.wire") / "providers"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def load(provider_type: str) -> dict[str, object]:
    """A type's description as plain data, laid over the type it extends.

    Raises UnsupportedLlmProviderError that names the known types.
    """
    if provider_type not in known_types():
        raise UnsupportedLlmProviderError(
            f"the provider type '{provider_type}' is not supported; supported are: {', '.join(known_types())}"
        )
    file = resources.files("bursar.wire") / "providers" / f"{provider_type}.toml"
    own: dict[str, object] = tomllib.loads(file.read_text("utf-8"))
    base = own.pop("extends", None)
    return _laid_over(load(str(base)), own) if base else own


def _laid_over(base: dict[str, object], own: Mapping[str, object]) -> dict[str, object]:
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        merged[key] = _laid_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def build(
    provider_type: str,
    *,
    request: Mapping[str, object] | None = None,
    response: Mapping[str, object] | None = None,
    place: str = "provider",
) -> Spec:
    """A type's spec with a provider's own settings laid over it.

    Raises ConfigError with the key and its place where a setting is unknown, of the wrong type, or not
    a path; UnsupportedLlmProviderError where the type is unknown.
    """
    data = load(provider_type)
    for section, given in (("request", request or {}), ("response", response or {})):
        for key, value in given.items():
            target = OVERLAY[section].get(key)
            if target is None:
                known = ", ".join(OVERLAY[section])
                raise ConfigError(f"{place}.{section}: unknown key '{key}'; known keys are: {known}")
            _lay(data, target, value)
    try:
        spec = msgspec.convert(data, Spec)
    except msgspec.ValidationError as e:
        raise ConfigError(f"{place}: {e}") from None
    _check(spec, place)
    return spec


def _lay(data: dict[str, object], target: tuple[str, ...], value: object) -> None:
    *parents, last = target
    for name in parents:
        data = data.setdefault(name, {})  # type: ignore[assignment]
    data[last] = value


def _check(spec: Spec, place: str) -> None:
    if spec.stream.framing not in _FRAMINGS:
        raise ConfigError(f"{place}: the stream framing '{spec.stream.framing}' is none of {', '.join(_FRAMINGS)}")
    if spec.auth.scheme not in _SCHEMES:
        raise ConfigError(f"{place}: the auth scheme '{spec.auth.scheme}' is none of {', '.join(_SCHEMES)}")
    if spec.shape not in _SHAPES:
        raise ConfigError(f"{place}: the shape '{spec.shape}' is none of {', '.join(_SHAPES)}")
    for section in (spec.answer, spec.stream, spec.embeddings, spec.usage, spec.embeddings_usage, spec.error):
        for field in section.__struct_fields__:
            if field not in ("framing", "end", "cost_currency"):
                _check_paths(getattr(section, field), f"{place}: {field}")
    for path in spec.request.names.values():
        paths.parse(path)


def _check_paths(value: Paths | int | None, place: str) -> None:
    for path in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
        for term in path.split("+"):
            try:
                paths.parse(term.strip())
            except ConfigError as e:
                raise ConfigError(f"{place}: {e}") from None

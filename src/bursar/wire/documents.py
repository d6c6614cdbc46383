"""A provider's settings by the documents' names; and what of them is secret by its name: masked where it stands, kept
apart, and put back. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

MASK = "***"

# Our name of a setting → the documents', where it is not the same in other letters.
_THEIRS = {
    "type": "providerType",
    "api_key": "authorizationKey",
    "headers": "requestHeaders",
    "request": "requestConfig",
    "response": "responseConfig",
    "auth": "authConfig",
    "models": "availableModels",
    "active": "isActive",
}

# Whole words of a name: `max_tokens` and `author` are none of them.
_SECRET = re.compile(
    r"(?:^|_)(?:api_?keys?|key|token|secrets?|passwords?|passwd|pass|pwd|credentials?|auth|authorization|cookie|bearer|jwt|"
    r"signature)(?:_|$)"
)
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")
# What only tells which, or of what kind.
_HARMLESS = re.compile(r"(?:^|_)(?:key|token|auth)_(?:id|type|name)$")

# Where in a provider's settings values may be secret by their names.
_PLACES = (
    ("requestHeaders",), ("requestConfig", "additionalBodyFields"), ("authConfig", "tokenFields"), ("settings",),
)  # fmt: skip
# What is always secret, whatever is in it.
_ALWAYS = frozenset({"/settings/proxy", "/settings/accessKeyId", "/settings/sessionToken", "/settings/serviceAccount"})


def camel(name: str) -> str:
    """`base_url` as `baseUrl`."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def documents_name(ours: str) -> str:
    """The documents' name of a setting."""
    return _THEIRS.get(ours) or camel(ours)


def is_secret_name(name: str) -> bool:
    """Whether what stands under this name, a header's or a field's, is to be kept secret."""
    words = _WORDS.sub("_", name).lower()
    return _SECRET.search(words) is not None and not _HARMLESS.search(words)


def secret_texts(fields: object) -> Iterator[str]:
    """The secret texts among fields, however deep."""
    found: dict[str, str] = {}
    _masked(fields, "", found)
    yield from found.values()


def masked(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings by the documents' names with their secrets masked, and the secrets by where they stand (as RFC 6901
    points)."""
    found: dict[str, str] = {}
    out = {**settings}
    for place in _PLACES:
        _at(out, place, lambda value, at: _masked(value, at, found))
    return out, found


def unmasked(settings: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    """The settings with their secrets in their places; a mask that none belongs to stays."""
    out = {**settings}
    for place in _PLACES:
        _at(out, place, lambda value, at: _unmasked(value, at, secrets))
    return out


def _at(out: dict[str, Any], place: tuple[str, ...], change: Any) -> None:
    """Changes what is at a place, in copies of what it stands in."""
    holder = out
    for name in place[:-1]:
        inner = holder.get(name)
        if not isinstance(inner, dict):
            return
        holder[name] = inner = {**inner}
        holder = inner
    value = holder.get(place[-1])
    if isinstance(value, dict):
        holder[place[-1]] = change(value, "".join(f"/{name}" for name in place))


def _masked(value: Any, at: str, found: dict[str, str], secret: bool = False) -> Any:
    """`secret` is what stands under a secret name, and all that is in it."""
    if isinstance(value, dict):
        return {
            name: _masked(one, f"{at}/{_pointed(str(name))}", found, secret or is_secret_name(str(name)))
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [_masked(one, f"{at}/{n}", found, secret) for n, one in enumerate(value)]
    if isinstance(value, str) and (secret or at in _ALWAYS):
        found[at] = value
        return MASK
    return value


def _unmasked(value: Any, at: str, secrets: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _unmasked(one, f"{at}/{_pointed(str(name))}", secrets) for name, one in value.items()}
    if isinstance(value, list):
        return [_unmasked(one, f"{at}/{n}", secrets) for n, one in enumerate(value)]
    return secrets.get(at, value) if value == MASK else value


def _pointed(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")

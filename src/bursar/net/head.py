"""The head of a request as bytes, and the origin it goes to."""

from __future__ import annotations

import base64
import re
from functools import lru_cache
from itertools import starmap
from urllib.parse import unquote, urlsplit

import msgspec

from bursar.net.transport import NotSentError
from bursar.wire.encode import POST
from bursar.wire.headers import fault_of

_TARGET = re.compile(r"[\x21-\x7e]+\Z")
_PORTS = {"http": 80, "https": 443}
# What callers say may stand in an address or a header, at any length.
_REMEMBERED_CHARS = 256


class Origin(msgspec.Struct, frozen=True, cache_hash=True):
    """Whom a connection is to."""

    tls: bool
    host: str
    port: int


class Head(msgspec.Struct, frozen=True):
    """A request's head up to the number of `content-length`, which stands last."""

    origin: Origin
    data: bytes


class _Address(msgspec.Struct, frozen=True):
    """What a URL says: whom a request goes to, for what, as which host, and with which authorization."""

    origin: Origin
    target: str
    host: str
    authorization: str | None


def head_of(url: str, headers: tuple[tuple[str, str], ...], method: str = POST) -> Head:
    """The head of a request. Raises NotSentError where the address or a header cannot be written; never with a
    header's value, which may be a secret."""
    address = _address_of(url) if len(url) <= _REMEMBERED_CHARS else _address_of.__wrapped__(url)
    given = {name.lower() for name, _ in headers}
    lines = [f"{method} {address.target} HTTP/1.1"]
    if "host" not in given:
        lines.append(f"host: {address.host}")
    if address.authorization is not None and "authorization" not in given:
        lines.append(f"authorization: {address.authorization}")
    is_short = all(len(name) + len(value) <= _REMEMBERED_CHARS for name, value in headers)
    lines.extend(starmap(_line_of if is_short else _line_of.__wrapped__, headers))
    lines.append("content-length: ")
    return Head(address.origin, "\r\n".join(lines).encode("latin-1"))


# Calls of one provider differ in few of their headers, such as those of traces.
@lru_cache(maxsize=1024)
def _line_of(name: str, value: str) -> str:
    if fault := fault_of(name, value):
        raise NotSentError(fault)
    return f"{name}: {value}"


@lru_cache(maxsize=256)
def _address_of(url: str) -> _Address:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise NotSentError(f"the address is not valid: {e}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise NotSentError("the address is not http:// or https:// with a host")
    host = parts.hostname
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _TARGET.match(target):
        raise NotSentError("the address has characters that must be percent-encoded")
    try:
        shown = f"[{host}]" if ":" in host else host.encode("idna").decode()
    except UnicodeError:
        raise NotSentError(f"'{host}' is not a host's name") from None
    if port is not None and port != _PORTS[parts.scheme]:
        shown += f":{port}"
    authorization = None
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(user.encode()).decode()}"
    origin = Origin(parts.scheme == "https", host, port or _PORTS[parts.scheme])
    return _Address(origin, target, shown, authorization)

"""The head of a request as bytes, and the origin it goes to."""

from __future__ import annotations

import base64
import re
from urllib.parse import unquote, urlsplit

import msgspec

from bursar.net.transport import NotSentError
from bursar.wire.encode import POST
from bursar.wire.headers import fault_of

_TARGET = re.compile(r"[\x21-\x7e]+\Z")
_PORTS = {"http": 80, "https": 443}


class Origin(msgspec.Struct, frozen=True, cache_hash=True):
    """Whom a connection is to."""

    tls: bool
    host: str
    port: int


class Head(msgspec.Struct, frozen=True):
    """A request's head up to the number of `content-length`, which stands last."""

    origin: Origin
    data: bytes


def head_of(url: str, headers: tuple[tuple[str, str], ...], method: str = POST) -> Head:
    """The head of a request. Raises NotSentError where the address or a header cannot be written; never with a
    header's value, which may be a secret."""
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
    given = {name.lower() for name, _ in headers}
    lines = [f"{method} {target} HTTP/1.1"]
    if "host" not in given:
        lines.append(f"host: {shown}")
    if parts.username is not None and "authorization" not in given:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        lines.append(f"authorization: Basic {base64.b64encode(user.encode()).decode()}")
    for name, value in headers:
        if fault := fault_of(name, value):
            raise NotSentError(fault)
        lines.append(f"{name}: {value}")
    lines.append("content-length: ")
    origin = Origin(parts.scheme == "https", host, port or _PORTS[parts.scheme])
    return Head(origin, "\r\n".join(lines).encode("latin-1"))

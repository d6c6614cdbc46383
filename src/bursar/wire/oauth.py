"""Client credentials: what is sent for a token, and what its answer says. Pure, with no clock and no socket.

RFC 6749, section 4.4; what servers do beside it is in the provider's description.
"""

from __future__ import annotations

from urllib.parse import urlencode

import msgspec

from bursar.wire.encode import Request
from bursar.wire.headers import fault_of
from bursar.wire.paths import getter
from bursar.wire.usage import as_count
from bursar.wire.values import read_json

# A time this large is in milliseconds: as seconds it would be in the year 5138.
_MILLISECONDS_FROM = 100_000_000_000
# A token is let go of before its time, for clocks differ and calls take a while to arrive.
_EARLY_S = 60.0
_LIFE_S = 600.0

_token = getter(["access_token", "tok"])
_expires_at = getter(["expires_at", "exp"])
_expires_in = getter("expires_in")
_said = getter(["message", "error_description", "error.message", "error"])
_SHOWN_CHARS = 200


class Token(msgspec.Struct, frozen=True):
    """A token, and until when it is used, in seconds since 1970 by the clock of this machine."""

    value: str
    until: float


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """How a token is asked for: `key` is the authorization key, `request_id_header` the header that must carry a new
    UUID with every request."""

    url: str
    key: str
    scope: str | None = None
    fields: dict[str, str] = {}
    request_id_header: str | None = None

    def request(self, request_id: str) -> Request:
        """What is sent for a token."""
        key = self.key if self.key.lower().startswith(("basic ", "bearer ")) else f"Basic {self.key}"
        headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("accept", "application/json"),
            ("accept-encoding", "identity"),
            ("authorization", key),
        ]
        if self.request_id_header is not None:
            headers.append((self.request_id_header, request_id))
        fields = {**self.fields, "scope": self.scope} if self.scope is not None else self.fields
        body = urlencode(fields).encode()
        return Request(self.url, tuple(headers), body, b"{}", False, False)

    def said(self, body: bytes) -> str:
        """What an answer without a token says for itself, without the key it may repeat."""
        value, _ = read_json(body.strip())
        text = _said(value) if isinstance(value, dict) else body.decode("utf-8", "replace").strip()
        text = text if isinstance(text, str) else ""
        for secret in {self.key, self.key.split(" ")[-1]}:
            text = text.replace(secret, "***")
        return text[:_SHOWN_CHARS]

    def token(self, body: bytes, now_s: float) -> Token | None:
        """The token of an answer; None where it has none."""
        value, _ = read_json(body.strip())
        token = _token(value)
        if not isinstance(token, str) or not token or fault_of("authorization", token):
            return None
        at, left = _as_time(_expires_at(value)), as_count(_expires_in(value))
        if at is not None:
            until = at / 1000 if at >= _MILLISECONDS_FROM else float(at)
        else:
            until = now_s + (left if left is not None else _LIFE_S)
        # A token that lives shorter than the margin is used for half its life.
        return Token(token, max(until - _EARLY_S, now_s + (until - now_s) / 2))


def _as_time(value: object) -> int | None:
    """A time as a server writes it, which may be text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 10**18:
        return None
    return int(value)

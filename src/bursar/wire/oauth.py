"""Client credentials: what is sent for a token, and what its answer says. Pure, with no clock and no socket.

RFC 6749, section 4.4; what servers do beside it is in the provider's description.
"""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote, quote_plus, urlencode

import msgspec

from bursar.wire.encode import Request
from bursar.wire.headers import fault_of
from bursar.wire.paths import getter
from bursar.wire.spec import Paths
from bursar.wire.usage import as_count
from bursar.wire.values import read_json

# A time this large is in milliseconds: as seconds it would be in the year 5138.
_MILLISECONDS_FROM = 100_000_000_000
# A token is let go of before its time, for clocks differ and calls take a while to arrive.
_EARLY_S = 60.0
_LIFE_S = 600.0

_said = getter(["message", "error_description", "error.message", "error"])
_SHOWN_CHARS = 200
_SCHEMES = ("basic", "bearer")
# What is shorter would mask half of any text.
_LEAST_SECRET = 4


class Token(msgspec.Struct, frozen=True):
    """A token; from when on a new one is asked for, and until when this one is still good, by the clock it was read
    with."""

    value: str
    renewed_from: float
    until: float

    def __repr__(self) -> str:
        return f"Token(***, renewed_from={self.renewed_from}, until={self.until})"


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """How a token is asked for: `key` is the authorization key (base64, or `id:secret`), shown in a header or `in_body`
    as fields; `request_id_header` is the header that must carry a new UUID with every request; the paths say where its
    answer has what."""

    url: str
    key: str
    scope: str | None = None
    fields: dict[str, str] = {}
    request_id_header: str | None = None
    in_body: bool = False
    token_path: Paths
    expires_at_path: Paths
    expires_in_path: Paths

    def __repr__(self) -> str:
        return f"Flow(url={self.url.partition('?')[0]!r}, key=***)"

    def request(self, request_id: str) -> Request:
        """What is sent for a token."""
        headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("accept", "application/json"),
            ("accept-encoding", "identity"),
        ]
        if self.request_id_header is not None:
            headers.append((self.request_id_header, request_id))
        fields = {**self.fields, "scope": self.scope} if self.scope is not None else self.fields
        if self.in_body:
            client, _, secret = self.key.partition(":")
            fields = {**fields, "client_id": client, "client_secret": secret}
        else:
            headers.append(("authorization", _shown(self.key)))
        body = urlencode(fields).encode()
        return Request(self.url, tuple(headers), (body,), b"{}", False, False)

    def said(self, body: bytes) -> str:
        """What an answer without a token says for itself, without the key it may repeat."""
        value, _ = read_json(body.strip())
        text = _said(value) if isinstance(value, dict) else body.decode("utf-8", "replace").strip()
        text = text if isinstance(text, str) else ""
        scheme, _, rest = self.key.partition(" ")
        known = {
            self.key,
            rest if scheme.lower() in _SCHEMES else self.key,
            self.key.partition(":")[2],
            _shown(self.key)[6:],
        }
        # As it is, and as a form or an address has it.
        written = {way(secret) for secret in known for way in (str, quote_plus, quote)}
        for secret in sorted(written, key=len, reverse=True):
            if len(secret) >= _LEAST_SECRET:
                text = text.replace(secret, "***")
        return text[:_SHOWN_CHARS]

    def token(self, body: bytes, *, now_s: float, server_s: float) -> Token | None:
        """The token of an answer, None where it has none. `now_s` is a time of any clock, `server_s` the time that the
        server says it is, in seconds since 1970: clocks differ."""
        value, _ = read_json(body.strip())
        token = getter(self.token_path)(value)
        if not isinstance(token, str) or not token or fault_of("authorization", token):
            return None
        at, life = _as_time(getter(self.expires_at_path)(value)), as_count(getter(self.expires_in_path)(value))
        life_s = _LIFE_S if life is None else float(life)
        if at is not None:
            life_s = (at / 1000 if at >= _MILLISECONDS_FROM else float(at)) - server_s
        life_s = max(life_s, 0.0)
        # One that lives shorter than the margin is renewed after half its life.
        return Token(token, now_s + max(life_s - _EARLY_S, life_s / 2), now_s + life_s)


def _shown(key: str) -> str:
    """The key as the header has it: an id and a secret are put in base64 (RFC 7617), what is already is not."""
    if key.lower().startswith(("basic ", "bearer ")):
        return key
    return f"Basic {b64encode(key.encode()).decode() if ':' in key else key}"


def _as_time(value: object) -> int | None:
    """A time as a server writes it, which may be text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 10**18:
        return None
    return int(value)

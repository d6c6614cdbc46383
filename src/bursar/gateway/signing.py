"""Requests signed with a pair of keys (AWS Signature Version 4), by the code of AWS's own library."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import msgspec

from bursar.types.errors import ConfigError
from bursar.wire.encode import Request

# Headers that proxies on the way may change, or that say nothing of the request.
# What the signature itself brings: a client's own would make it a lie.
_OURS = frozenset({"authorization", "date"})
_UNSIGNED = frozenset({"accept", "accept-encoding", "user-agent"})


class Signature:
    """What signs the requests of one provider: each attempt anew, for a signature holds for minutes."""

    def __init__(self, *, key_id: str, secret: str, session_token: str | None, region: str, service: str) -> None:
        """Raises ConfigError where the library is not installed."""
        try:
            auth, requests, keys = (import_module(f"botocore.{name}") for name in ("auth", "awsrequest", "credentials"))
        except ImportError:
            raise ConfigError("signing needs botocore: pip install 'bursar[aws]'") from None
        self._request: Any = requests.AWSRequest
        self._signer: Any = auth.SigV4Auth(keys.Credentials(key_id, secret, session_token), service, region)

    def signed(self, request: Request) -> Request:
        """The request with its signature, as of now."""
        others = tuple(
            h for h in request.headers if h[0].lower() not in _OURS and not h[0].lower().startswith("x-amz-")
        )
        given = {name.lower(): value for name, value in others if name.lower() not in _UNSIGNED}
        made = self._request(method="POST", url=request.url, data=request.body, headers=given)
        self._signer.add_auth(made)
        added = tuple((name.lower(), str(value)) for name, value in made.headers.items() if name not in given)
        return msgspec.structs.replace(request, headers=(*others, *added))

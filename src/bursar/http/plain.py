"""What the endpoints of the control plane answer with."""

from __future__ import annotations

import msgspec
from fastapi import Response

from bursar.types.errors import RequestError

_encode = msgspec.json.Encoder(decimal_format="number").encode


def answer(value: object, status: int = 200) -> Response:
    """JSON."""
    return Response(_encode(value), status_code=status, media_type="application/json")


def not_found(message: str, field: str) -> RequestError:
    """The error that there is no such thing in the caller's scope."""
    error = RequestError(message, field=field)
    error.http_status = 404
    error.code = "not_found"
    return error

"""What the command line is given: files, and the objects in them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bursar.types.errors import RequestError

M = TypeVar("M", bound=BaseModel)


def read_file(file: Path) -> bytes:
    """What a file holds, or standard input for `-`. Raises RequestError."""
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as e:
        raise RequestError(f"{file} cannot be read: {os.strerror(e.errno or 0)}") from None


def object_in(kind: type[M], file: Path) -> M:
    """The one JSON object of a file. Raises RequestError that names the field."""
    try:
        return kind.model_validate_json(read_file(file))
    except ValidationError as e:
        raise _named(e) from None


def validated(kind: type[M], values: dict[str, Any]) -> M:
    """An object of these values. Raises RequestError that names the field."""
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        raise _named(e) from None


def _named(error: ValidationError) -> RequestError:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "the file"
    return RequestError(f"'{field}': {first['msg']}", field=field)

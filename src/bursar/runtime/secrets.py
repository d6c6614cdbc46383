"""Secrets made at the first start: files that only their owner can read, created once however many start at once."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from bursar.types.errors import ConfigError

_PEPPER_BYTES = 32


def pepper(path: Path) -> bytes:
    """The pepper that keys are stored under; made where there is none, mode 0600.

    Raises ConfigError where it cannot be read or is damaged: without it no stored key is any good.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make(path)
        value = path.read_bytes()
    except OSError as e:
        raise ConfigError(f"the pepper file {path} cannot be read or made: {e.strerror}") from None
    if len(value) < _PEPPER_BYTES:
        raise ConfigError(f"the pepper file {path} is damaged: put back the one the keys were made with")
    return value


def _make(path: Path) -> None:
    if path.exists():
        return
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, secrets.token_bytes(_PEPPER_BYTES))
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        os.link(hidden, path)  # unlike rename, this never replaces one that another process made first
    except FileExistsError:
        pass
    finally:
        os.unlink(hidden)

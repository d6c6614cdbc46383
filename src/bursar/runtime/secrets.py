"""Secrets made at the first start: files that only their owner can read, created once however many start at once."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

from bursar.http.auth import KeyRing
from bursar.runtime.settings import Settings
from bursar.store.engine import sqlite_path
from bursar.types.errors import ConfigError

_PEPPER_BYTES = 32
_KEY_BYTES = 32


def key_ring(settings: Settings) -> KeyRing:
    """An empty ring under this installation's pepper."""
    given = settings.server.pepper_file
    path = Path(given) if given is not None else sqlite_path(settings.store.url).parent / "pepper"
    return KeyRing(pepper(path))


def pepper(path: Path) -> bytes:
    """The pepper that keys are stored under; made where there is none, mode 0600.

    Raises ConfigError where it cannot be read or is damaged: without it no stored key is any good.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make(path, secrets.token_bytes(_PEPPER_BYTES))
        value = path.read_bytes()
    except OSError as e:
        raise ConfigError(f"the pepper file {path} cannot be read or made: {e.strerror}") from None
    if len(value) < _PEPPER_BYTES:
        raise ConfigError(f"the pepper file {path} is damaged: put back the one the keys were made with")
    return value


def master_keys(path: Path) -> list[bytes]:
    """The keys that secrets of providers are encrypted with, the newest first, one a line; one is made where there is
    none, mode 0600.

    Raises ConfigError where they cannot be read or are damaged: without them the secrets are lost.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make(path, new_master_key() + b"\n")
        keys = path.read_bytes().split()
    except OSError as e:
        raise ConfigError(f"the master key file {path} cannot be read or made: {e.strerror}") from None
    if not keys or not all(_is_key(key) for key in keys):
        raise ConfigError(f"the master key file {path} is damaged: put back the one the secrets were stored with")
    return keys


def new_master_key() -> bytes:
    """A new key: 256 random bits, as Fernet writes them."""
    return base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES))


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.urlsafe_b64decode(key)) == _KEY_BYTES
    except ValueError:
        return False


def put_master_keys(path: Path, keys: list[bytes]) -> None:
    """Writes the keys in place of those that are there, at once."""
    hidden = _hidden(path, b"\n".join(keys) + b"\n")
    os.replace(hidden, path)


def _make(path: Path, content: bytes) -> None:
    if path.exists():
        return
    hidden = _hidden(path, content)
    try:
        os.link(hidden, path)  # unlike rename, this never replaces one that another process made first
    except FileExistsError:
        pass
    finally:
        os.unlink(hidden)


def _hidden(path: Path, content: bytes) -> Path:
    """A file beside it that only its owner can read."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
    return hidden

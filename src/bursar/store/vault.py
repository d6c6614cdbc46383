"""Secrets at rest: encrypted with the installation's master keys, each bound to the row it belongs to.

Fernet (AES-128-CBC with HMAC-SHA256) of the `cryptography` library; the newest key encrypts, all of them decrypt. The
row's id stands inside of what is encrypted, so that a ciphertext copied into another row opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bursar.types.errors import StoreError

Secrets = dict[str, str]


class _Sealed(msgspec.Struct):
    row: str
    secrets: Secrets


class Vault:
    """Seals and opens the secrets of rows. The library is loaded, and the keys are read, when they are first needed."""

    def __init__(self, keys: Callable[[], list[bytes]]) -> None:
        """`keys` gives the master keys, the newest first."""
        self._keys = keys
        self._fernet: object | None = None

    def seal(self, row_id: str, secrets: Secrets) -> str | None:
        """A row's secrets as they are stored; None where it has none."""
        if not secrets:
            return None
        self._fernet = None  # the newest key counts, and another process may have made one
        plain = msgspec.json.encode(_Sealed(row_id, secrets))
        sealed: bytes = self._multi().encrypt(plain)  # type: ignore[attr-defined]
        return sealed.decode()

    def open(self, row_id: str, sealed: str | None) -> Secrets:
        """A row's secrets. Raises StoreError where no master key opens them, or they are another row's."""
        if sealed is None:
            return {}
        from cryptography.fernet import InvalidToken

        try:
            found = msgspec.json.decode(self._decrypted(sealed.encode()), type=_Sealed)
        except (InvalidToken, msgspec.MsgspecError):
            raise StoreError(
                f"the secrets of the row {row_id} do not open: put back the master key they were stored with"
            ) from None
        if found.row != row_id:
            raise StoreError(f"the secrets in the row {row_id} were stored for another one: set them again")
        return found.secrets

    def _decrypted(self, sealed: bytes) -> bytes:
        from cryptography.fernet import InvalidToken

        try:
            plain: bytes = self._multi().decrypt(sealed)  # type: ignore[attr-defined]
        except InvalidToken:
            # A key may have been added since: another process has begun to use it.
            self._fernet = None
            plain = self._multi().decrypt(sealed)  # type: ignore[attr-defined]
        return plain

    def _multi(self) -> object:
        if self._fernet is None:
            from cryptography.fernet import Fernet, MultiFernet

            self._fernet = MultiFernet([Fernet(key) for key in self._keys()])
        return self._fernet

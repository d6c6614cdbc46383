"""Who calls: keys held in memory by their HMAC, and the context a key's caller may claim.

A key fixes its workspace and, for a member, its user. Context headers refine that and never override it;
acting for other users is a right of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec

from bursar.store.keys import KeyRow
from bursar.store.scope import Scope
from bursar.types.call import Context
from bursar.types.errors import AuthenticationError, ForbiddenError, RequestError

ADMIN = "admin"
MEMBER = "member"
DEFAULT_WORKSPACE = "default"

_PREFIX = "bk-"
_HINT_CHARS = 4
_MAX_VALUE_CHARS = 256
_SEEN, _SEEN_BYTES = 10_000, 200
_TAG_PREFIX = "x-bursar-tag-"
_PREFIX_OF_CONTEXT = "x-bursar-"
_CONTEXT_HEADERS = {
    "x-bursar-session": "session",
    "x-bursar-turn": "turn",
    "x-bursar-request-id": "request_id",
    "x-bursar-function": "function",
    "x-bursar-purpose": "purpose",
}


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The caller a key stands for. `workspace` None is an admin of every workspace."""

    key_id: str
    role: str
    workspace: str | None
    user: str | None
    acts_for_users: bool
    plain: Context = Context()
    """The context of a call that names none."""

    def __post_init__(self) -> None:
        plain = Context(workspace=self.workspace or DEFAULT_WORKSPACE, user=self.user)
        msgspec.structs.force_setattr(self, "plain", plain)

    @property
    def is_admin(self) -> bool:
        return self.role == ADMIN

    @property
    def scope(self) -> Scope:
        """Whose entries this caller sees: an admin its workspace's, anyone else their own."""
        if self.is_admin:
            return Scope(workspace=self.workspace)
        own = None if self.user is not None else self.key_id
        return Scope(workspace=self.workspace or DEFAULT_WORKSPACE, user=self.user, key=own)

    def context(self, headers: Mapping[str, str]) -> Context:
        """The context of a call from its headers (lower-case names).

        Raises ForbiddenError where a user is named that this key may not act for.
        """
        if not any(name.startswith(_PREFIX_OF_CONTEXT) for name in headers):
            return self.plain
        user = _value(headers, "x-bursar-user") if "x-bursar-user" in headers else None
        if user is not None and user != self.user and not self.acts_for_users:
            raise ForbiddenError(
                f"this key may not act for the user '{_shown(user)}': leave x-bursar-user out, or use a key that may"
            )
        values = {field: _value(headers, name) for name, field in _CONTEXT_HEADERS.items() if name in headers}
        tags = {
            name.removeprefix(_TAG_PREFIX): _value(headers, name) for name in headers if name.startswith(_TAG_PREFIX)
        }
        return Context(
            workspace=self.workspace or DEFAULT_WORKSPACE,
            user=user if user is not None else self.user,
            tags=tags,
            **values,
        )


def _value(headers: Mapping[str, str], name: str) -> str:
    value = headers[name]
    if not value.isascii():
        # HTTP hands header bytes over as Latin-1; clients write UTF-8.
        with suppress(UnicodeError):
            value = value.encode("latin-1").decode()
    if len(value) > _MAX_VALUE_CHARS:
        raise RequestError(f"the header {name} is longer than {_MAX_VALUE_CHARS} characters", field=name)
    return value


def _shown(value: str) -> str:
    return value if len(value) <= 80 else value[:79] + "…"


ADMIN_OF_ALL = Principal(key_id="", role=ADMIN, workspace=None, user=None, acts_for_users=True)
"""Who works on the machine itself."""


class KeyRing:
    """All live keys, by digest. The whole is replaced at once when a key changes anywhere."""

    def __init__(self, pepper: bytes) -> None:
        self._pepper = pepper
        self._principals: dict[str, Principal] = {}
        # Keys that were shown lately and are good, in memory only: a digest for every call would be dear.
        self._seen: dict[bytes | None, Principal] = {}

    def digest(self, key: str) -> str:
        """What is stored of a key: its HMAC-SHA256 under the pepper."""
        return self._digest(key.encode("utf-8", "surrogateescape"))

    def replace(self, principals: dict[str, Principal]) -> None:
        """Takes the keys as they are stored now."""
        self._seen = {}
        self._principals = principals

    def authenticate(self, shown: bytes | None) -> Principal:
        """The caller of a request, from its `Authorization: Bearer KEY`. Raises AuthenticationError."""
        seen = self._seen.get(shown)
        if seen is not None:
            return seen
        scheme, _, key = (shown or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not key:
            raise AuthenticationError
        principal = self._principals.get(self._digest(key.strip()))
        if principal is None:
            raise AuthenticationError("this API key is not known, or was revoked")
        if len(shown or b"") <= _SEEN_BYTES:
            if len(self._seen) >= _SEEN:
                self._seen.clear()
            self._seen[shown] = principal
        return principal

    def _digest(self, key: bytes) -> str:
        return hmac.digest(self._pepper, key, hashlib.sha256).hex()


def principals_of(rows: Iterable[KeyRow]) -> dict[str, Principal]:
    """The callers that live keys stand for, by digest."""
    return {
        row.digest: Principal(
            key_id=row.id,
            role=row.role,
            workspace=row.workspace,
            user=row.user_id,
            acts_for_users=row.acts_for_users,
        )
        for row in rows
        if row.revoked_at is None
    }


def key_of(headers: Mapping[bytes, bytes]) -> bytes | None:
    """A key shown as other vendors' clients do, in a header of its own, as if it were a bearer's."""
    key = headers.get(b"x-api-key") or headers.get(b"api-key")
    return b"Bearer " + key if key else None


def new_key() -> str:
    """A new key: 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def key_row(
    ring: KeyRing,
    key: str,
    *,
    id: str,
    name: str,
    role: str,
    workspace: str | None,
    user: str | None,
    acts_for_users: bool,
    now: str,
) -> KeyRow:
    """What is stored of a new key. Raises RequestError where the rights do not go together."""
    if role not in (ADMIN, MEMBER):
        raise RequestError(f"the role is '{role}'; it is '{ADMIN}' or '{MEMBER}'", field="role")
    return KeyRow(
        id=id,
        name=name,
        digest=ring.digest(key),
        hint=key[-_HINT_CHARS:],
        role=role,
        workspace=workspace if role == ADMIN else workspace or DEFAULT_WORKSPACE,
        user_id=user,
        acts_for_users=acts_for_users or (role == ADMIN and user is None),
        created_at=now,
    )

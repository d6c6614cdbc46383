"""Who sees what of the ledger, decided in one place: an admin sees a workspace (or all), anyone else the entries of one
user in one workspace."""

from __future__ import annotations

import msgspec


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Whose entries may be seen: None is every workspace, every user. `key` narrows to one key's calls: what
    is its own to a key that stands for no user."""

    workspace: str | None = None
    user: str | None = None
    key: str | None = None

    def where(self, alias: str = "l") -> tuple[list[str], dict[str, object]]:
        conditions, values = [], {}
        if self.workspace is not None:
            conditions.append(f"{alias}.workspace = :scope_workspace")
            values["scope_workspace"] = self.workspace
        if self.user is not None:
            conditions.append(f"{alias}.user_id = :scope_user")
            values["scope_user"] = self.user
        if self.key is not None:
            conditions.append(f"{alias}.key_id = :scope_key")
            values["scope_key"] = self.key
        return conditions, values  # type: ignore[return-value]

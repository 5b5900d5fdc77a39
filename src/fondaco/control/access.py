"""Access: who may do what and how much of it: tokens and quotas, and the rule by which the control API lets a call pass.

Where tokens are required, every call but the health checks needs one that is good, with the role that the operation asks for. Where they
are not, a call without one may do everything; one that is sent all the same must be good and have the role, as in the data plane.
The catalog is asked at each call: a revoked token is refused at once. Blocks; any thread.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from fondaco.catalog import quotas, stores, tokens
from fondaco.catalog.rows import EVERY, QuotaRow, Role, TokenRow
from fondaco.core.errors import AuthenticationError, PermissionDeniedError
from fondaco.core.units import parse_duration_us
from fondaco.platform import Platform


class Access:
    """The rule of one platform."""

    def __init__(self, platform: Platform, *, required: bool) -> None:
        self._platform = platform
        self.required = required

    def authenticate(self, header: str | None) -> TokenRow | None:
        """The token of an `Authorization` header; None if there is no header.

        Raises:
            AuthenticationError: it is not `Bearer ...`, or not of a token that is good now.
        """
        if header is None:
            return None
        scheme, _, secret = header.strip().partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise AuthenticationError("the header is not of the form `Authorization: Bearer ...`")
        with self._platform.catalog.read() as connection:
            token = tokens.find_by_secret(connection, secret.strip())
        if token is None:
            raise AuthenticationError("the token is not known")
        refusal = token.refusal(self._platform.clock.now_us())
        if refusal is not None:
            raise AuthenticationError(refusal)
        return token

    def authorise(self, caller: TokenRow | None, role: Role | str, store: str) -> None:
        """Let the call pass, or raise.

        Args:
            role: "any" asks for a good token only. store: a name, or "*".
        Raises:
            AuthenticationError: a token is required and none came. PermissionDeniedError: it lacks the role.
        """
        if caller is None:
            if self.required:
                raise AuthenticationError("no token")
            return
        if role != "any" and not caller.allows(role, store):  # type: ignore[arg-type]  # what is not "any" is a role
            raise PermissionDeniedError(caller.name, role, "every store" if store == EVERY else f"store {store!r}")


class NewToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token to make. `expires` is a duration from now, as "30d"; left out: never."""

    name: str
    roles: dict[str, Literal["read", "write", "admin"]]
    expires: str | None = None


class NewQuota(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds in rows a second; "*" is every store, or every caller."""

    store: str = EVERY
    caller: str = EVERY
    reads_per_s: float | None = None
    writes_per_s: float | None = None


def create_token(platform: Platform, wanted: NewToken) -> tuple[TokenRow, str]:
    """Make a token; returns its row and its secret, which is shown once.

    Raises:
        as `catalog.tokens.create`.
    """
    now_us = platform.clock.now_us()
    expires_us = None if wanted.expires is None else now_us + parse_duration_us(wanted.expires)
    with platform.catalog.write() as connection:
        return tokens.create(connection, wanted.name, wanted.roles, expires_us, now_us)


def list_tokens(platform: Platform) -> list[dict[str, object]]:
    """Every token, without secrets; `state` says whether it is good now."""
    now_us = platform.clock.now_us()
    with platform.catalog.read() as connection:
        return [describe_token(row, now_us) for row in tokens.all_of(connection)]


def describe_token(row: TokenRow, now_us: int) -> dict[str, object]:
    """A token as JSON-like values, without its secret."""
    state = "good" if row.refusal(now_us) is None else "revoked" if row.revoked_us is not None else "expired"
    return {
        "name": row.name,
        "roles": dict(row.roles),
        "state": state,
        "created_us": row.created_us,
        "expires_us": row.expires_us,
        "revoked_us": row.revoked_us,
    }


def has_good_token(platform: Platform) -> bool:
    """Whether there is a token that is good now."""
    return any(token["state"] == "good" for token in list_tokens(platform))


def revoke_token(platform: Platform, name: str) -> None:
    """Make a token good for nothing.

    Raises:
        TokenNotFoundError.
    """
    with platform.catalog.write() as connection:
        tokens.revoke(connection, name, now_us=platform.clock.now_us())


def set_quota(platform: Platform, wanted: NewQuota) -> None:
    """Set, change or (no bound at all) remove a quota.

    Raises:
        StoreNotFoundError: no such store. InputError: a bound that is no positive number.
    """
    with platform.catalog.write() as connection:
        is_removal = wanted.reads_per_s is None and wanted.writes_per_s is None
        if wanted.store != EVERY and not is_removal:
            stores.get(connection, wanted.store)
        quotas.set_quota(connection, wanted.store, wanted.caller, wanted.reads_per_s, wanted.writes_per_s)


def list_quotas(platform: Platform) -> list[QuotaRow]:
    """Every quota."""
    with platform.catalog.read() as connection:
        return quotas.all_of(connection)

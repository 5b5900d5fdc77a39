"""Tokens in the catalog: who may do what. Functions on an open transaction.

A secret is "fdc_" and 256 random bits as base64url. It is shown once, by `create`; the catalog keeps its SHA-256, which needs no salt and
no slow hash because nobody can try 2^256 secrets. Rows are kept for ever, so that a log line that names a token can be explained.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog import tables
from fondaco.catalog.rows import EVERY, ROLES, Role, TokenRow
from fondaco.core.errors import AlreadyExistsError, InputError, TokenNotFoundError
from fondaco.core.ids import check_name

PREFIX: Final = "fdc_"  # lets a scanner of published code recognise a leaked one

_T = tables.tokens


def hash_secret(secret: str) -> str:
    """What the catalog keeps of a secret: SHA-256, hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create(connection: Connection, name: str, roles: Mapping[str, Role], expires_us: int | None, now_us: int) -> tuple[TokenRow, str]:
    """Make a token; returns its row and its secret, which cannot be had again.

    Args:
        roles: "read", "write" or "admin" by store name, or "*" for every store.
        expires_us: None: never.
    Raises:
        AlreadyExistsError: a token of this name is good; revoke it first. InputError: no roles, an unknown role, or expired already.
    """
    check_name("token", name)
    _check_roles(name, roles)
    if expires_us is not None and expires_us <= now_us:
        raise InputError(f"token {name!r} would have expired already; give a later moment")
    if connection.execute(sa.select(_T.c.id).where(_T.c.name == name, _T.c.revoked_us.is_(None))).first() is not None:
        raise AlreadyExistsError("token", name, "it has another secret, which only its holder knows; revoke it first")
    secret = PREFIX + secrets.token_urlsafe(32)
    row = TokenRow(name, hash_secret(secret), dict(roles), now_us, expires_us, None)
    connection.execute(
        _T.insert().values(
            name=name,
            secret_hash=row.secret_hash,
            roles=msgspec.json.encode(dict(roles)).decode(),
            created_us=now_us,
            expires_us=expires_us,
        )
    )
    return row, secret


def find_by_secret(connection: Connection, secret: str) -> TokenRow | None:
    """The token of this secret, or None. Whether it is good now, `TokenRow.refusal` says."""
    row = connection.execute(sa.select(_T).where(_T.c.secret_hash == hash_secret(secret))).first()
    return _token(row) if row else None


def all_of(connection: Connection) -> list[TokenRow]:
    """Every token, oldest first, revoked and expired ones included."""
    return [_token(row) for row in connection.execute(sa.select(_T).order_by(_T.c.id))]


def revoke(connection: Connection, name: str, *, now_us: int) -> None:
    """Make a token good for nothing, from now on.

    Raises:
        TokenNotFoundError: none of this name is good; suggests the nearest.
    """
    revoked = connection.execute(_T.update().where(_T.c.name == name, _T.c.revoked_us.is_(None)).values(revoked_us=now_us))
    if not revoked.rowcount:
        raise TokenNotFoundError(name, [row.name for row in all_of(connection) if row.revoked_us is None])


def _check_roles(name: str, roles: Mapping[str, Role]) -> None:
    if not roles:
        raise InputError(f"token {name!r} needs a role, as {{'members': 'read'}} or {{'*': 'admin'}}")
    for store, role in roles.items():
        if role not in ROLES:
            raise InputError(f"token {name!r}: {role!r} on {store!r} is no role; there is: {', '.join(ROLES)}")
        if store != EVERY:
            check_name("store", store)


def _token(row: sa.Row[Any]) -> TokenRow:
    roles: dict[str, Role] = msgspec.json.decode(row.roles, type=dict[str, Role])
    return TokenRow(row.name, row.secret_hash, roles, row.created_us, row.expires_us, row.revoked_us)

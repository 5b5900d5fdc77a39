"""Routes of who may do what, and how much of it: tokens and quotas. They ask for the role admin on every store.

    POST   /v1/tokens          {"name", "roles": {"members": "read", "*": "admin"}, "expires": "30d"} -> the token and, once, its "secret"
    DELETE /v1/tokens/{name}   it is revoked
    PUT    /v1/quotas          {"store", "caller", "reads_per_s", "writes_per_s"}; both bounds left out remove it
"""

from __future__ import annotations

from typing import Literal

import msgspec

from fondaco.catalog import quotas, stores, tokens
from fondaco.catalog.rows import EVERY, QuotaRow, TokenRow
from fondaco.control.api import Call, Operation
from fondaco.core.units import parse_duration_us
from fondaco.platform import Platform


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


def operations(platform: Platform) -> list[Operation]:
    """The operations on tokens and quotas."""

    def make(call: Call) -> object:
        row, secret = create_token(platform, call.body)
        return {**describe_token(row, row.created_us), "secret": secret}

    def revoke(call: Call) -> object:
        revoke_token(platform, call.name("token"))
        return {"revoked": call.name("token")}

    def put_quota(call: Call) -> object:
        set_quota(platform, call.body)
        return {"quotas": list_quotas(platform)}

    def tokens_of(call: Call) -> object:
        return {"tokens": list_tokens(platform)}

    def quotas_of(call: Call) -> object:
        return {"quotas": list_quotas(platform)}

    return [
        Operation(method="GET", path="/v1/tokens", summary="The tokens, without their secrets", run=tokens_of, tag="access"),
        Operation(
            method="POST", path="/v1/tokens", summary="Make a token; its secret is in this answer only", run=make, body=NewToken, status=201,
            tag="access",
        ),
        Operation(method="DELETE", path="/v1/tokens/{token}", summary="Revoke a token", run=revoke, tag="access"),
        Operation(method="GET", path="/v1/quotas", summary="The quotas", run=quotas_of, tag="access"),
        Operation(method="PUT", path="/v1/quotas", summary="Set or remove a quota", run=put_quota, body=NewQuota, tag="access"),
    ]  # fmt: skip

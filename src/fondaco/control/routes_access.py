"""Routes of who may do what, and how much of it: tokens and quotas. They ask for the role admin on every store.

POST   /v1/tokens          {"name", "roles": {"members": "read", "*": "admin"}, "expires": "30d"} -> the token and, once, its "secret"
DELETE /v1/tokens/{token}  it is revoked
PUT    /v1/quotas          {"store", "caller", "reads_per_s", "writes_per_s"}; both bounds left out remove it
"""

from __future__ import annotations

from fondaco.control.access import NewQuota, NewToken, create_token, describe_token, list_quotas, list_tokens, revoke_token, set_quota
from fondaco.control.api import Call, Operation
from fondaco.platform import Platform


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
            method="POST", path="/v1/tokens", summary="Make a token; only this answer has its secret", run=make, body=NewToken, status=201,
            tag="access",
        ),
        Operation(method="DELETE", path="/v1/tokens/{token}", summary="Revoke a token", run=revoke, tag="access"),
        Operation(method="GET", path="/v1/quotas", summary="The quotas", run=quotas_of, tag="access"),
        Operation(method="PUT", path="/v1/quotas", summary="Set or remove a quota", run=put_quota, body=NewQuota, tag="access"),
    ]  # fmt: skip

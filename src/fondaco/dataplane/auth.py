"""Auth: who calls, and what they may do: a snapshot of the catalog's tokens that is looked at on each request and replaced behind it.

A token is looked up by the SHA-256 of its secret, and a header that was good before by the header's hash, so how long a look-up takes says
nothing about any secret. Expiry is judged on each request; a revoked token is refused as soon as the next snapshot is there (a second).
Where tokens are not required, a request without one may do everything; one that is sent all the same must be good.

The snapshot is replaced as a whole by the event loop's thread; lookups happen on that thread only.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from typing import Final

from fondaco.catalog.rows import EVERY, Role, TokenRow
from fondaco.core.errors import AuthenticationError, PermissionDeniedError

ANONYMOUS: Final = "anonymous"  # name of callers without a token, as quotas know them
_SECRET_BYTES_MAX: Final = 256
_REMEMBERED: Final = 10_000


class Caller:
    """Who calls. `may` remembers what it found out, so it costs one look-up the second time."""

    __slots__ = ("_known", "_token", "expires_us", "name")

    def __init__(self, token: TokenRow | None) -> None:
        """
        Args:
            token: None: somebody without one, who may do everything.
        """
        self._token = token
        self.name = ANONYMOUS if token is None else token.name
        self.expires_us = _NEVER if token is None or token.expires_us is None else token.expires_us
        self._known: dict[tuple[Role, str], bool] = {}

    def may(self, role: Role, store: str) -> bool:
        """Whether the caller has `role`, or a greater one, on `store` ("*": on every store)."""
        asked = (role, store)
        known = self._known.get(asked)
        if known is None:
            known = self._token is None or self._token.allows(role, store)
            if len(self._known) < 10_000:  # names come from requests
                self._known[asked] = known
        return known

    def check(self, role: Role, store: str) -> None:
        """Let pass who has the role.

        Raises:
            PermissionDeniedError: the caller has not.
        """
        if not self.may(role, store):
            raise PermissionDeniedError(self.name, role, "every store" if store == EVERY else f"store {store!r}")


_NEVER: Final = 1 << 62


class Access:
    """The tokens, and whether one is needed."""

    def __init__(self, tokens: Iterable[TokenRow] = (), *, required: bool) -> None:
        self.required = required
        self._anonymous = Caller(None)
        self._callers: dict[bytes, Caller] = {}
        self._refused: dict[bytes, TokenRow] = {}
        self.replace(tokens)

    def replace(self, tokens: Iterable[TokenRow]) -> None:
        """Take what the catalog says now."""
        callers, refused = {}, {}
        for token in tokens:
            digest = bytes.fromhex(token.secret_hash)
            if token.revoked_us is None:
                callers[digest] = Caller(token)
            else:
                refused[digest] = token
        self._callers, self._refused = callers, refused
        self._known: dict[bytes, Caller] = {}  # good headers of this snapshot, which saves parsing and hashing them

    def caller(self, header: bytes | None) -> Caller:
        """The caller that an `Authorization` header names.

        Raises:
            AuthenticationError: none where one is needed; or not of the form `Bearer ...`, unknown, revoked, expired.
        """
        if header is None:
            if self.required:
                raise AuthenticationError("no token")
            return self._anonymous
        known = self._known.get(header)
        if known is not None and time.time_ns() // 1000 < known.expires_us:
            return known
        scheme, _, secret = header.partition(b" ")
        secret = secret.strip()
        if scheme.lower() != b"bearer" or not 0 < len(secret) <= _SECRET_BYTES_MAX:
            raise AuthenticationError("the header is not of the form `Authorization: Bearer ...`")
        digest = hashlib.sha256(secret).digest()
        caller = self._callers.get(digest)
        if caller is not None and time.time_ns() // 1000 < caller.expires_us:
            if len(self._known) < _REMEMBERED:
                self._known[header] = caller
            return caller
        if caller is not None:
            raise AuthenticationError(f"the token {caller.name!r} expired")
        revoked = self._refused.get(digest)
        raise AuthenticationError("the token is not known" if revoked is None else f"the token {revoked.name!r} was revoked")

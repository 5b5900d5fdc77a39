"""Access: who may call an operation of the control API.

Where tokens are required, every call but the health checks needs one that is good, with the role that the operation asks for. Where they
are not, everybody may do everything; a token that is sent all the same must be good, so that a mistake in it does not stay unnoticed.
The catalog is asked at each call: a revoked token is refused at once. Blocks; any thread.
"""

from __future__ import annotations

from fondaco.catalog import tokens
from fondaco.catalog.rows import EVERY, Role, TokenRow
from fondaco.core.errors import AuthenticationError, PermissionDeniedError
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
        if not self.required:
            return
        if caller is None:
            raise AuthenticationError("no token")
        if role != "any" and not caller.allows(role, store):  # type: ignore[arg-type]  # what is not "any" is a role
            raise PermissionDeniedError(caller.name, role, "every store" if store == EVERY else f"store {store!r}")

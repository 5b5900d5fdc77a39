"""Faults: errors on the wire, both ways: an error of `core.errors` becomes a status and a JSON object, and the same error again.

    {"error": "VersionNotFoundError", "args": ["members", 9, [1, 2]], "message": "store ...", "retryable": false}

`args` rebuild the error, so a client raises what an embedded reader would have raised. A class that this side does not know (a newer
server's) becomes the nearest that its status names, with the message. Nothing else of the server travels: no traceback, no cause.
Pure functions; safe from any thread.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from fondaco.core import errors
from fondaco.core.errors import FondacoError

_STATUS: Final[dict[type[FondacoError], int]] = {
    errors.InputError: 400,
    errors.AuthenticationError: 401,
    errors.PermissionDeniedError: 403,
    errors.NotFoundError: 404,
    errors.AlreadyExistsError: 409,
    errors.LimitError: 413,
    errors.OffsetOutOfRangeError: 416,
    errors.StateError: 409,
    errors.QuotaExceededError: 429,
    errors.DeadlineExceededError: 504,
    errors.UnavailableError: 503,
    errors.ProtocolError: 502,
    errors.StorageError: 500,
    errors.DiskFullError: 507,
    FondacoError: 500,
}
_CLASSES: Final[dict[str, type[FondacoError]]] = {
    name: item for name, item in vars(errors).items() if isinstance(item, type) and issubclass(item, FondacoError)
}
_ENCODER: Final = msgspec.json.Encoder()


class _Body(msgspec.Struct):
    error: str
    message: str
    args: list[Any] = []
    retryable: bool = False


_DECODER: Final = msgspec.json.Decoder(_Body)


class UnexpectedFault(FondacoError):  # noqa: N818  # it stands in the tree's root place and never leaves this package's clients as such
    """An error of a class that this side does not know; its message is the server's."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(name, message)
        self.name, self.message = name, message

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


def status_of(error: FondacoError) -> int:
    """The HTTP status of an error: its class's, or its nearest base's."""
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return 500


def error_body(error: FondacoError) -> bytes:
    """The JSON object of an error."""
    described = {
        "error": type(error).__name__,
        "args": [_plain(argument) for argument in error.args],
        "message": str(error),
        "retryable": error.retryable,
    }
    return _ENCODER.encode(described)


def retry_after(error: FondacoError) -> int | None:
    """Whole seconds for `Retry-After`; None for an error that names no time."""
    return max(1, math.ceil(error.retry_after_s)) if isinstance(error, errors.QuotaExceededError) else None


def error_of(body: bytes | bytearray | memoryview) -> FondacoError | None:
    """The error that a JSON object describes; None if it describes none (so it is no answer of ours)."""
    try:
        described = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    kind = _CLASSES.get(described.error)
    if kind is not None:
        try:
            return kind(*map(_restored, described.args))
        except TypeError:  # a newer server's class takes other arguments
            pass
    return UnexpectedFault(described.error, described.message)


def error_from(status: int, body: bytes | bytearray | memoryview, peer: str = "the server") -> FondacoError:
    """The error of an answer whose status is not 2xx; a ProtocolError if the body is none of ours."""
    error = error_of(body)
    if error is not None:
        return error
    shown = bytes(body[:120]).decode(errors="replace")
    if status in (502, 503, 504):  # of a proxy between us
        return errors.UnavailableError(peer, f"status {status}: {shown!r}")
    return errors.ProtocolError(peer, f"status {status} with {shown!r}")


def _plain(argument: Any) -> Any:
    if isinstance(argument, (str, int, float, bool)) or argument is None:
        return argument
    if isinstance(argument, (list, tuple, set, frozenset)):
        return [_plain(item) for item in argument]
    return str(argument)


def _restored(argument: Any) -> Any:
    return tuple(argument) if isinstance(argument, list) else argument

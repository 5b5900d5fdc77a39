"""Arguments: what callers give to the services of a platform, here or over the network, checked before anything is done with it. Pure."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from fondaco.core.errors import InputError
from fondaco.services.conversion import as_duration_us
from fondaco.services.spec import ServiceSpec

HOLDER_MAX: Final = 512
_LEASE_MIN_US: Final = 100_000


def default_user() -> str:
    """Whose this process is, for leases: "user@host"."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def as_holder(holder: str | None) -> str:
    """Who holds a lease; None: this process, "user@host:pid".

    Raises:
        InputError.
    """
    if holder is None:
        return f"{default_user()}:{os.getpid()}"
    if not isinstance(holder, str) or not holder or len(holder) > HOLDER_MAX or not holder.isprintable():
        raise InputError(f"holder: {holder!r} must be a text of 1 to {HOLDER_MAX} printable characters, as 'run-17'")
    return holder


def as_spec(given: ServiceSpec | Mapping[str, Any] | str | Path) -> ServiceSpec:
    """A spec, whatever it is stated by.

    Raises:
        InputError.
    """
    if isinstance(given, ServiceSpec):
        return given
    if isinstance(given, Mapping):
        return ServiceSpec.from_dict(given)
    if isinstance(given, (str, Path)):
        return ServiceSpec.from_toml(given)
    raise InputError(f"spec: a ServiceSpec, a mapping or the path of a TOML file, not {given!r}")


def as_lease_us(lease: str | timedelta | None) -> int | None:
    """How long a lease lasts, in microseconds; None: until it is released.

    Raises:
        InputError.
    """
    if lease is None:
        return None
    us = as_duration_us("lease", lease)
    if us < _LEASE_MIN_US:
        raise InputError(f"lease: {lease!r} is too short to be renewed in time; 0.1 s at least, or None: until it is released")
    return us


def as_timeout_s(timeout: str | timedelta) -> float:
    """How long to wait, in seconds.

    Raises:
        InputError.
    """
    return as_duration_us("timeout", timeout) / 1e6

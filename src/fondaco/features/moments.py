"""Moments: the `at=` and `as_of=` that callers give, as microseconds of UTC. A pure function; any thread."""

from __future__ import annotations

from datetime import datetime

from fondaco.core.clock import Clock, to_us
from fondaco.core.errors import InputError


def moment_us(option: str, moment: datetime | str | int | None, clock: Clock) -> int:
    """Microseconds since the epoch of what an option was given; None is now.

    Args:
        moment: an aware datetime, ISO 8601 text with a zone, or microseconds since the epoch.
    Raises:
        InputError: no zone, or no moment at all.
    """
    if moment is None:
        return clock.now_us()
    try:
        return to_us(moment)
    except ValueError as exc:
        raise InputError(f"{option}: {exc}") from None

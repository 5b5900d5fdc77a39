"""Moments: the `at=` and `as_of=` that callers give, as microseconds of UTC. A pure function; any thread."""

from __future__ import annotations

import operator
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
    if isinstance(moment, str):
        try:
            parsed = datetime.fromisoformat(moment)
        except ValueError:
            raise InputError(f'{option}={moment!r} is no moment; write for example "2013-01-01T00:00:00+00:00"') from None
        if parsed.tzinfo is None:
            raise InputError(f'{option}={moment!r} has no time zone; write for example "{parsed.isoformat()}+00:00"')
        return to_us(parsed)
    if isinstance(moment, datetime):
        try:
            return to_us(moment)
        except ValueError as exc:
            raise InputError(f"{option}: {exc}") from None
    try:
        us = operator.index(moment)
    except TypeError:
        us = None
    if us is None or isinstance(moment, bool) or not -(2**63) <= us < 2**63:
        raise InputError(
            f"{option}={moment!r} is no moment; give an aware datetime, ISO text with a zone, or microseconds since 1970 in UTC"
        )
    return us

"""Clock: where time comes from, injected so that tests choose it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, runtime_checkable

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST_US: Final = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
LATEST_US: Final = (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


@runtime_checkable
class _WholeNumber(Protocol):
    def __index__(self) -> int: ...


class Clock(Protocol):
    """Source of wall-clock time."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01T00:00:00Z."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1000


class ManualClock:
    """A clock that stands still until told otherwise; for tests and replays."""

    def __init__(self, now_us: int = 0) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us

    def advance(self, *, us: int) -> None:
        """Move forward (or, with a negative value, back: clocks do that too)."""
        self._now_us += us


def to_us(moment: object) -> int:
    """Microseconds since the epoch of a moment: an aware datetime (a pandas timestamp is one), ISO 8601 text with a zone, or an int (also
    NumPy's), which is taken as microseconds already.

    Raises:
        ValueError: it has no time zone, lies outside the years 1 to 9999, or is none of these.
    """
    if isinstance(moment, str):
        moment = _from_iso(moment)
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError(f"{moment!r} has no time zone; write for example {moment.isoformat()}+00:00")
        delta = moment - _EPOCH
        return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    if isinstance(moment, (int, _WholeNumber)) and not isinstance(moment, bool):
        us = moment.__index__()
        if not EARLIEST_US <= us <= LATEST_US:
            raise ValueError(f"{us} microseconds since 1970 lie outside the years 1 to 9999")
        return us
    raise ValueError(
        f"{moment!r} is no moment; give a datetime with a time zone, a text like '2026-11-21T08:00:00Z', or whole microseconds since 1970"
    )


def _from_iso(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no moment; write for example '2026-11-21T08:00:00Z'") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; write for example '{moment.isoformat()}Z'")
    return moment


def from_us(us: int) -> datetime:
    """The aware UTC datetime of `us` microseconds since the epoch."""
    return _EPOCH + timedelta(microseconds=us)

"""Settings: what a store is created with. The catalog keeps them as JSON; each version takes those of its push.

How long the log keeps writes, and how long they matter, must agree: a write applies to a version if it is not older than the version's
moment less `rewind`, so a log that forgets earlier would show an older value than before, silently. `check_retention` refuses that.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

import msgspec

from fondaco.core.errors import InputError
from fondaco.core.units import format_duration, parse_duration_us

Compression = Literal["auto", "none", "zstd"]

PARTITIONS_MAX = 1024  # a push has one file and one buffer of 1 MiB open for each
FRESHNESS_MS = 1000  # of stores that do not say
FRESHNESS_MS_MAX = 86_400_000
COMPRESSIONS: tuple[Compression, ...] = ("auto", "none", "zstd")


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a store was created with.

    Attributes:
        rewind: how far before a version's `as_of` real-time writes still apply.
        keep: versions, the current one and its backups together.
        ttl: a row is absent so long after its last write (a pushed row: after its version's `as_of`); None: rows stay.
        freshness_ms: how soon a write is to be readable, at the 99th percentile; pushes give way when it is at risk.
    """

    partitions: int
    compression: Compression
    rewind: str
    keep: int
    ttl: str | None = None
    freshness_ms: int = FRESHNESS_MS

    @property
    def rewind_ms(self) -> int:
        """`rewind` in whole milliseconds, rounded up: a write at the edge still applies."""
        return -(-parse_duration_us(self.rewind) // 1000)

    @property
    def ttl_ms(self) -> int | None:
        """`ttl` in whole milliseconds, rounded up."""
        return None if self.ttl is None else -(-parse_duration_us(self.ttl) // 1000)


def check_settings(
    partitions: int,
    compression: str,
    rewind: str | timedelta,
    keep: int,
    ttl: str | timedelta | None = None,
    freshness_ms: int = FRESHNESS_MS,
) -> StoreSettings:
    """Settings with every value in its range, durations in their shortest form.

    Raises:
        InputError: one is not; names it and the range.
    """
    if isinstance(partitions, bool) or not isinstance(partitions, int) or not 1 <= partitions <= PARTITIONS_MAX:
        raise InputError(f"partitions must be a whole number from 1 to {PARTITIONS_MAX}, not {partitions!r}")
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise InputError(f"keep counts the current version too, so it is 1 or more, not {keep!r}")
    if isinstance(freshness_ms, bool) or not isinstance(freshness_ms, int) or not 1 <= freshness_ms <= FRESHNESS_MS_MAX:
        raise InputError(f"freshness_ms is a whole number of milliseconds from 1 to {FRESHNESS_MS_MAX}, not {freshness_ms!r}")
    rewind_us = _duration("rewind", rewind)
    ttl_us = None if ttl is None else _duration("ttl", ttl)
    if ttl_us == 0:
        raise InputError("ttl is how long rows live, so 0 would leave none; leave it out for rows that stay")
    return StoreSettings(
        partitions,
        check_compression(compression),
        format_duration(rewind_us),
        keep,
        None if ttl_us is None else format_duration(ttl_us),
        freshness_ms,
    )


def _duration(name: str, given: str | timedelta) -> int:
    if not isinstance(given, (str, timedelta)):
        raise InputError(f'{name} is a duration with its unit, as "24h", or a timedelta, not {given!r}')
    return parse_duration_us(given)


def check_compression(compression: str) -> Compression:
    """`compression`, if it is one.

    Raises:
        InputError: it is none; names those there are.
    """
    for known in COMPRESSIONS:
        if compression == known:
            return known
    raise InputError(f"compression must be one of {', '.join(COMPRESSIONS)}, not {compression!r}")


def check_retention(store: str, retention: str | None, settings: StoreSettings, window_ms: int = 0) -> None:
    """Make sure that the log keeps writes for as long as a version of the store may show them.

    Args:
        retention: `[log] retention`; None keeps what is needed.
        window_ms: how far the window of the oldest retained version reaches back from now; 0: there is no version.
    Raises:
        InputError: it does not; names both durations.
    """
    if retention is None:
        return
    kept_ms = parse_duration_us(retention) // 1000
    if kept_ms < settings.rewind_ms:
        raise InputError(
            f"[log] retention is {retention}, and store {store!r} applies real-time writes from {settings.rewind} before a version: "
            "the log would forget writes that still count. Make retention longer, leave it out (the log then keeps what is needed), "
            "or give the store a shorter rewind."
        )
    if kept_ms < window_ms:
        raise InputError(
            f"[log] retention is {retention}, and the oldest version of store {store!r} applies real-time writes of the last "
            f"{format_duration(window_ms * 1000)}: the log would forget writes that still count. Make retention longer, or leave it out "
            "(the log then keeps what is needed)."
        )

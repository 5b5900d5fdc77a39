"""Settings: what a store is created with. The catalog keeps them as JSON; each version takes those of its push."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

import msgspec

from fondaco.core.errors import InputError
from fondaco.core.units import format_duration, parse_duration_us

Compression = Literal["auto", "none", "zstd"]

PARTITIONS_MAX = 1024  # a push has one file and one buffer of 1 MiB open for each
COMPRESSIONS: tuple[Compression, ...] = ("auto", "none", "zstd")


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`rewind` is how far before a version's `as_of` real-time writes still apply; `keep` counts the current version and its backups."""

    partitions: int
    compression: Compression
    rewind: str
    keep: int


def check_settings(partitions: int, compression: str, rewind: str | timedelta, keep: int) -> StoreSettings:
    """Settings with every value in its range, the duration in its shortest form.

    Raises:
        InputError: one is not; names it and the range.
    """
    if isinstance(partitions, bool) or not isinstance(partitions, int) or not 1 <= partitions <= PARTITIONS_MAX:
        raise InputError(f"partitions must be a whole number from 1 to {PARTITIONS_MAX}, not {partitions!r}")
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise InputError(f"keep counts the current version too, so it is 1 or more, not {keep!r}")
    if not isinstance(rewind, (str, timedelta)):
        raise InputError(f'rewind is a duration with its unit, as "24h", or a timedelta, not {rewind!r}')
    return StoreSettings(partitions, check_compression(compression), format_duration(parse_duration_us(rewind)), keep)


def check_compression(compression: str) -> Compression:
    """`compression`, if it is one.

    Raises:
        InputError: it is none; names those there are.
    """
    for known in COMPRESSIONS:
        if compression == known:
            return known
    raise InputError(f"compression must be one of {', '.join(COMPRESSIONS)}, not {compression!r}")

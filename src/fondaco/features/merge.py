"""Merge: the newest row for every label, in NumPy, where keys are whole numbers and rows fit in memory.

Key and time become one 64-bit code; rows are sorted by it once and labels look theirs up. That takes half of the time of an ASOF join and
gives answers in the labels' order; and rows that tie show as equal codes. Where codes do not fit, or rows tie, the caller joins in DuckDB.
Pure functions on arrays; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Whole = npt.NDArray[np.int64]

_CODES: Final = 1 << 63
_TIME_MAX: Final = 1 << 62


class TiesError(Exception):
    """Two rows have the same key and time: which one is newest, their other columns must say."""


def newest_rows(
    keys: Sequence[Whole], events: Whole, wanted: Sequence[Whole], moments: Whole, usable: npt.NDArray[np.bool_], *, strict: bool
) -> Whole | None:
    """For every label the index of the newest row of its key with event <= moment (`strict`: <), or -1.

    Args:
        keys, events: columns of the rows, all of one length.
        wanted, moments, usable: columns of the labels; whether a label has a whole key and a time.
    Returns:
        None if keys and times have too wide a range for 64 bits.
    Raises:
        TiesError: two rows have the same key and time.
    """
    if len(events) == 0 or len(moments) == 0:
        return np.full(len(moments), -1, np.int64)
    first, last = int(events.min()), int(events.max())
    if first <= -_TIME_MAX or last >= _TIME_MAX:
        return None
    radix = last - first + 3  # labels may lie before the first row, and after the last
    lows, spans = [int(key.min()) for key in keys], []
    size = radix
    for key, low in zip(keys, lows, strict=True):
        spans.append(int(key.max()) - low + 1)
        size *= spans[-1]
    if size >= _CODES:
        return None
    codes = np.zeros(len(events), np.int64)
    bases = np.zeros(len(moments), np.int64)
    for key, want, low, span in zip(keys, wanted, lows, spans, strict=True):
        codes = codes * span + (key - low)
        usable = usable & (want >= low) & (want <= low + span - 1)
        bases = bases * span + (np.clip(want, low, low + span - 1) - low)
    codes = codes * radix + (events - (first - 1))
    bases *= radix
    order = np.argsort(codes)
    codes = codes[order]
    if (codes[1:] == codes[:-1]).any():
        raise TiesError
    targets = bases + (np.clip(moments, first - 1, last + 1) - (first - 1))
    sought = np.argsort(targets)  # looking up in order stays in the cache
    places = np.empty_like(sought)
    places[sought] = np.searchsorted(codes, targets[sought], side="left" if strict else "right") - 1
    found = usable & (places >= 0)
    places[~found] = 0
    found &= codes[places] >= bases
    return np.where(found, order[places], -1)

"""Counters as the only source of chance in a loader: what is drawn depends on words (seed, epoch, number), never on what was drawn before.

The mixer is the finaliser of SplitMix64 (Steele, Lea, Flood 2014). Written out in NumPy, so that an order of seeds stays the same whatever
becomes of NumPy's generators. Pure functions; any thread or process.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

_WORD: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_FIRST: Final = 0xBF58476D1CE4E5B9
_SECOND: Final = 0x94D049BB133111EB

WHOLE_EPOCH: Final = _WORD
"""Stands in the place of a batch's number where something belongs to the epoch as a whole."""


def mixed(*words: int) -> int:
    """63 bits that depend on every one of `words` and on their order."""
    state = 0
    for word in words:
        state = _finished((state ^ _finished((word + _GOLDEN) & _WORD)) + _GOLDEN & _WORD)
    return state >> 1


def mixed_array(values: npt.NDArray[np.int64], *words: int) -> npt.NDArray[np.uint64]:
    """One word for each of `values`, keyed by `words`: uint64 [n]. Different values get different words."""
    state = values.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(mixed(*words))
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_FIRST)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_SECOND)
    return state ^ (state >> np.uint64(31))


def permutation(count: int, *words: int) -> npt.NDArray[np.int64]:
    """0..count - 1 in an order keyed by `words`: int64 [count]. O(n log n)."""
    return np.argsort(mixed_array(np.arange(count), *words), kind="stable")


def _finished(word: int) -> int:
    word = (word ^ (word >> 30)) * _FIRST & _WORD
    word = (word ^ (word >> 27)) * _SECOND & _WORD
    return word ^ (word >> 31)

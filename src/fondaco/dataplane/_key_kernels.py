"""Kernels that look whether key bytes from the network are what the store's key codec makes. Reference in tests/dataplane/test_keys.py."""

# mypy: disable-error-code="untyped-decorator, no-any-return"
# (numba's carry no types)

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

U8Array = npt.NDArray[np.uint8]
I64Array = npt.NDArray[np.int64]

GOOD = -1


@njit(nogil=True, cache=True)
def _varint(data: U8Array, start: int, end: int) -> tuple[np.uint64, int]:
    """(word, position after it) of the shortest form of a variable-length integer; position -1 if it is none."""
    word = np.uint64(0)
    shift = np.uint64(0)
    for position in range(start, min(end, start + 10)):
        byte = np.uint64(data[position])
        if position == start + 9 and byte > np.uint64(1):  # beyond 64 bits
            return word, -1
        word |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            if byte == np.uint64(0) and position > start:  # a longer form than it needs
                return word, -1
            return word, position + 1
        shift += np.uint64(7)
    return word, -1


@njit(nogil=True, cache=True)
def first_bad_integer(data: U8Array, offsets: I64Array, bits: int) -> int:
    """The first key that is not one integer of `bits` bits in its shortest form; GOOD: none."""
    limit = np.uint64(0xFFFFFFFF) if bits == 32 else np.uint64(0xFFFFFFFFFFFFFFFF)
    for i in range(offsets.size - 1):
        word, position = _varint(data, offsets[i], offsets[i + 1])
        if position != offsets[i + 1] or word > limit:
            return i
    return GOOD


@njit(nogil=True, cache=True)
def first_bad_blob(data: U8Array, offsets: I64Array) -> int:
    """The first key that is not a length and as many bytes; GOOD: none."""
    for i in range(offsets.size - 1):
        word, position = _varint(data, offsets[i], offsets[i + 1])
        if position < 0 or word & np.uint64(1) != np.uint64(0) or np.int64(word >> np.uint64(1)) != offsets[i + 1] - position:
            return i
    return GOOD

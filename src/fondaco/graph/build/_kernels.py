"""Kernels of a build: radix sort, gathers, checks of weights, and the row sums of a CSR. References: tests/graph/test_build_kernels.py.

Pure functions of memory, without the GIL; sizes are the callers' affair.
"""

# mypy: disable-error-code="no-any-return, return-value, untyped-decorator, assignment"
# (numba widens integers as its kernels need, and carries no types)

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fondaco.core.memory import copy_bytes, load_i32, load_i64, load_u8, prefetch, store_i8, store_i32, store_i64

U8Array = npt.NDArray[np.uint8]
I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
U64Array = npt.NDArray[np.uint64]
F32Array = npt.NDArray[np.float32]
F64Array = npt.NDArray[np.float64]

DIGIT_BITS_MAX = 11  # 2,048 cursors and the ends of their runs still fit the nearest caches
_AHEAD = 16


@njit(nogil=True, cache=True)
def radix_sort(keys: U64Array, order: I32Array, spare_keys: U64Array, spare_order: I32Array, bits: int) -> None:
    """Sort `keys` by their low `bits` bits, stably, and move `order` along; the spare arrays are as long and end undefined.

    Least significant digit first (Knuth, The Art of Computer Programming 3, 5.2.5); digits that all keys share cost one look.
    """
    passes = (bits + DIGIT_BITS_MAX - 1) // DIGIT_BITS_MAX
    if passes == 0 or keys.size < 2:
        return
    width = (bits + passes - 1) // passes
    mask = np.uint64((1 << width) - 1)
    counts = np.zeros((passes, 1 << width), np.int64)
    for i in range(keys.size):
        key = keys[i]
        for d in range(passes):
            counts[d, np.int64(key & mask)] += 1
            key >>= np.uint64(width)
    swapped = False
    for d in range(passes):
        shift = np.uint64(d * width)
        source, source_order = (spare_keys, spare_order) if swapped else (keys, order)
        target, target_order = (keys, order) if swapped else (spare_keys, spare_order)
        if counts[d, np.int64((source[0] >> shift) & mask)] == keys.size:
            continue
        at = 0
        for b in range(counts.shape[1]):
            count = counts[d, b]
            counts[d, b] = at
            at += count
        for i in range(source.size):
            b = np.int64((source[i] >> shift) & mask)
            place = counts[d, b]
            counts[d, b] = place + 1
            target[place] = source[i]
            target_order[place] = source_order[i]
        swapped = not swapped
    if swapped:
        keys[:] = spare_keys
        order[:] = spare_order


@njit(nogil=True, cache=True)
def gather_rows(source: int, row_bytes: int, order: I32Array, out: int) -> None:
    """Row i of `out` = row order[i] of `source`; rows are `row_bytes` long."""
    count = order.size
    if row_bytes == 4:
        for i in range(count):
            if i + _AHEAD < count:
                prefetch(source + 4 * np.int64(order[i + _AHEAD]))
            store_i32(out + 4 * i, load_i32(source + 4 * np.int64(order[i])))
    elif row_bytes == 8:
        for i in range(count):
            if i + _AHEAD < count:
                prefetch(source + 8 * np.int64(order[i + _AHEAD]))
            store_i64(out + 8 * i, load_i64(source + 8 * np.int64(order[i])))
    elif row_bytes == 1:
        for i in range(count):
            store_i8(out + i, load_u8(source + np.int64(order[i])))
    else:
        for i in range(count):
            if i + 4 < count:
                prefetch(source + row_bytes * np.int64(order[i + 4]))
            copy_bytes(out + row_bytes * i, source + row_bytes * np.int64(order[i]), row_bytes)


@njit(nogil=True, cache=True)
def gather_lengths(offsets: I64Array, order: I32Array, out: I64Array) -> None:
    """The offsets [n + 1] of ragged rows that are taken in `order`, from 0 on."""
    at = 0
    out[0] = 0
    for i in range(order.size):
        at += offsets[order[i] + 1] - offsets[order[i]]
        out[i + 1] = at


@njit(nogil=True, cache=True)
def gather_ragged(source: int, item_bytes: int, offsets: I64Array, order: I32Array, out: int) -> None:
    """The items of ragged rows that are taken in `order`, one row after the other."""
    at = out
    for i in range(order.size):
        row = order[i]
        size = (offsets[row + 1] - offsets[row]) * item_bytes
        copy_bytes(at, source + offsets[row] * item_bytes, size)
        at += size


@njit(nogil=True, cache=True)
def first_bad_weight(weights: F32Array) -> int:
    """The first position that is NaN, negative or infinite, or -1. A negative zero becomes zero, so that equal weights are equal bytes."""
    for i in range(weights.size):
        if not (weights[i] >= 0.0 and weights[i] < np.inf):
            return i
        if weights[i] == 0.0:
            weights[i] = 0.0
    return -1


@njit(nogil=True, cache=True)
def first_unknown(dense: I32Array) -> int:
    """The first position that is -1, or -1 if there is none."""
    for i in range(dense.size):
        if dense[i] < 0:
            return i
    return -1


@njit(nogil=True, cache=True)
def count_rows(rows: I32Array, first: int, counts: I64Array) -> None:
    """Add one to counts[row - first] for each row."""
    for i in range(rows.size):
        counts[rows[i] - first] += 1


@njit(nogil=True, cache=True)
def sum_rows(rows: I32Array, weights: F32Array, carried_row: int, carried: float, out: F64Array) -> float:
    """out[i] = the sum of weights of this row up to and including i; rows that are equal lie together. `carried` is that of the row
    `carried_row`, should the first entries belong to it. Returns the last sum. Always added one after the other: no other order of
    additions gives the same last bits."""
    row = carried_row
    total = carried
    for i in range(rows.size):
        if rows[i] != row:
            row = rows[i]
            total = 0.0
        total += np.float64(weights[i])
        out[i] = total
    return total


@njit(nogil=True, cache=True)
def sum_all(weights: F32Array, carried: float, out: F64Array) -> float:
    """out[i] = carried + the sum of weights up to and including i; returns the last."""
    total = carried
    for i in range(weights.size):
        total += np.float64(weights[i])
        out[i] = total
    return total


@njit(nogil=True, cache=True)
def keep_given(rows: I32Array, others: I32Array, times: I64Array, mirrored: U8Array, out: I32Array) -> int:
    """Which of the sorted edges stay, where mirrors (mirrored = 1) were added: a group (row, other, time) that has a given edge loses its
    mirrors. `times` may be empty. Returns how many positions were written."""
    kept = 0
    start = 0
    timed = times.size > 0
    while start < rows.size:
        end = start
        given = 0
        while end < rows.size and rows[end] == rows[start] and others[end] == others[start] and (not timed or times[end] == times[start]):
            given += 1 - np.int64(mirrored[end])
            end += 1
        for i in range(start, end):
            if given == 0 or mirrored[i] == 0:
                out[kept] = i
                kept += 1
        start = end
    return kept


@njit(nogil=True, cache=True)
def have_parallel(rows: I32Array, others: I32Array) -> bool:
    """Whether two neighbours in the sorted edges join the same nodes."""
    for i in range(1, rows.size):  # noqa: SIM110 - a generator does not compile
        if rows[i] == rows[i - 1] and others[i] == others[i - 1]:
            return True
    return False

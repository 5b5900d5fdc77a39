"""Kernels of node ids: hash them, find their dense ids. Each has a plain reference in tests/graph/test_ids.py.

The hash of an id is XXH64 (seed 0) of its bytes: 8 little-endian ones of an int64, UTF-8 of a text. Nodes of a type lie in the order of
(hash, id), so the hashes of a partition ascend and are spread evenly over its range: a position is guessed from the hash itself, corrected
by what lies there, and found within a few steps (interpolation search: Perl, Itai, Avni 1978). Bisection ends it should hashes be uneven.

XXH64 of exactly 8 bytes is a bijection (each of its steps can be undone), so int64 ids need no comparison beyond their hashes. Texts do.

Pure functions of memory, without the GIL. Tables are addresses per partition (0: not held here); bounds are the callers' affair.
"""

# mypy: disable-error-code="no-any-return, return-value, untyped-decorator, operator, assignment"
# (numba widens integers as its kernels need, and carries no types)

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fondaco.core.memory import load_i64, load_u8, load_u64, prefetch
from fondaco.core.xxh64 import PRIME5, avalanche, mix8, xxh64

U8Array = npt.NDArray[np.uint8]
I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
U64Array = npt.NDArray[np.uint64]

_LONG_START = PRIME5 + np.uint64(8)
_GUESSES_MAX = 6
_SCAN_MAX = 16
_BLOCK = 32  # ids looked up together, so that their cache misses overlap


@njit(nogil=True, cache=True)
def hash_long(value: int) -> np.uint64:
    """XXH64 of an int64's 8 bytes."""
    return avalanche(mix8(_LONG_START, np.uint64(value)))


@njit(nogil=True, cache=True)
def hash_longs(ids: I64Array, out: U64Array) -> None:
    """out[i] = hash of ids[i]."""
    for i in range(ids.size):
        out[i] = hash_long(ids[i])


@njit(nogil=True, cache=True)
def hash_strings(data: int, offsets: I64Array, out: U64Array) -> None:
    """out[i] = hash of the bytes from data + offsets[i] up to data + offsets[i + 1]."""
    for i in range(offsets.size - 1):
        out[i] = xxh64(data + offsets[i], offsets[i + 1] - offsets[i])


@njit(nogil=True, cache=True)
def partition_of(hash_: np.uint64, partitions: int) -> int:
    """The partition that holds ids of this hash."""
    return np.int64(((hash_ >> np.uint64(32)) * np.uint64(partitions)) >> np.uint64(32))


@njit(nogil=True, cache=True)
def partitions_of(hashes: U64Array, partitions: int, out: I32Array) -> None:
    """out[i] = the partition of hashes[i]."""
    for i in range(hashes.size):
        out[i] = partition_of(hashes[i], partitions)


@njit(nogil=True, cache=True)
def find_hash(hashes: int, count: int, partitions: int, hash_: np.uint64) -> int:
    """The first position of `hash_` among the `count` ascending hashes of its partition at address `hashes`; -1 if it is not there."""
    low = 0
    high = count
    if count == 0:
        return -1
    density = float(count) * float(partitions) / 18446744073709551616.0  # positions a unit of hash
    within = np.uint64(((hash_ >> np.uint64(32)) * np.uint64(partitions)) & np.uint64(0xFFFFFFFF))
    guess = min(np.int64(float(within) / 4294967296.0 * float(count)), count - 1)
    for _ in range(_GUESSES_MAX):
        found = load_u64(hashes + 8 * guess)
        if found < hash_:
            low = guess + 1
            step = np.int64(float(hash_ - found) * density)
            guess = guess + max(step, 1)
        else:
            high = guess
            step = np.int64(float(found - hash_) * density)
            guess = guess - max(step, 1)
        if step < _SCAN_MAX or low >= high:
            break
        guess = min(max(guess, low), high - 1)
    # a few steps from the last guess, in the direction in which it has to lie: forwards from `low`, or backwards from `high`
    scanned = 0
    if guess >= low and guess - low < high - guess:
        while low < high and scanned < _SCAN_MAX and load_u64(hashes + 8 * low) < hash_:
            low += 1
            scanned += 1
        if low < high and load_u64(hashes + 8 * low) >= hash_:
            high = low
    else:
        while low < high and scanned < _SCAN_MAX and load_u64(hashes + 8 * (high - 1)) >= hash_:
            high -= 1
            scanned += 1
        if low < high and load_u64(hashes + 8 * (high - 1)) < hash_:
            low = high
    while low < high:
        middle = (low + high) >> 1
        if load_u64(hashes + 8 * middle) < hash_:
            low = middle + 1
        else:
            high = middle
    if low < count and load_u64(hashes + 8 * low) == hash_:
        return low
    return -1


@njit(nogil=True, cache=True)
def resolve_longs(starts: I64Array, hashes: I64Array, ids: I64Array, out: I32Array) -> None:
    """out[i] = dense id of the node ids[i], -1 if there is none (or its partition is not held here).

    starts: int64 [partitions + 1], first dense id of each partition; hashes: int64 [partitions], address of its hashes or 0.
    """
    partitions = hashes.size
    for i in range(ids.size):
        hash_ = hash_long(ids[i])
        p = partition_of(hash_, partitions)
        out[i] = -1
        if hashes[p] != 0:
            position = find_hash(hashes[p], starts[p + 1] - starts[p], partitions, hash_)
            if position >= 0:
                out[i] = starts[p] + position


@njit(nogil=True, cache=True)
def equal_bytes(a: int, b: int, count: int) -> bool:
    """Whether the bytes at two addresses are the same."""
    i = 0
    while i + 8 <= count:
        if load_u64(a + i) != load_u64(b + i):
            return False
        i += 8
    while i < count:
        if load_u8(a + i) != load_u8(b + i):
            return False
        i += 1
    return True


@njit(nogil=True, cache=True)
def find_text(hashes: int, id_offsets: int, id_bytes: int, count: int, partitions: int, hash_: np.uint64, text: int, length: int) -> int:
    """The position in its partition of the text of `length` bytes at `text`, whose hash is `hash_`; -1 if it is not there."""
    position = find_hash(hashes, count, partitions, hash_)
    if position < 0:
        return -1
    while position < count and load_u64(hashes + 8 * position) == hash_:
        start = load_i64(id_offsets + 8 * position)
        if load_i64(id_offsets + 8 * position + 8) - start == length and equal_bytes(id_bytes + start, text, length):
            return position
        position += 1
    return -1


@njit(nogil=True, cache=True)
def resolve_strings(
    starts: I64Array, hashes: I64Array, id_offsets: I64Array, id_bytes: I64Array, data: int, offsets: I64Array, out: I32Array
) -> None:
    """out[i] = dense id of the node whose id is the bytes from data + offsets[i] up to data + offsets[i + 1]; -1 if there is none here.

    starts, hashes: as for `resolve_longs`; id_offsets, id_bytes: addresses of each partition's sections, or 0.
    """
    partitions = hashes.size
    for i in range(offsets.size - 1):
        text = data + offsets[i]
        length = offsets[i + 1] - offsets[i]
        hash_ = xxh64(text, length)
        p = partition_of(hash_, partitions)
        out[i] = -1
        if hashes[p] != 0:
            count = starts[p + 1] - starts[p]
            position = find_text(hashes[p], id_offsets[p], id_bytes[p], count, partitions, hash_, text, length)
            if position >= 0:
                out[i] = starts[p] + position


# -- while a graph is built: every id of a type at once, many look-ups ----------------------------------------------------------------


@njit(nogil=True, cache=True)
def fill_directory(hashes: U64Array, shift: int, directory: I32Array) -> None:
    """directory[b] = first position whose hash >> shift is at least b; its last entry is the count."""
    at = 0
    for b in range(directory.size - 1):
        while at < hashes.size and np.int64(hashes[at] >> np.uint64(shift)) < b:
            at += 1
        directory[b] = at
    directory[directory.size - 1] = hashes.size


@njit(nogil=True, cache=True)
def look_up(hashes: U64Array, shift: int, directory: I32Array, wanted: U64Array, out: I32Array) -> None:
    """out[i] = first position of wanted[i] in `hashes`, or -1, by way of `fill_directory`'s table."""
    count = wanted.size
    for block in range(0, count, _BLOCK):
        end = min(block + _BLOCK, count)
        for i in range(block, end):
            prefetch(directory.ctypes.data + 4 * np.int64(wanted[i] >> np.uint64(shift)))
        for i in range(block, end):
            prefetch(hashes.ctypes.data + 8 * directory[np.int64(wanted[i] >> np.uint64(shift))])
        for i in range(block, end):
            b = np.int64(wanted[i] >> np.uint64(shift))
            low = directory[b]
            high = directory[b + 1]
            while high - low > _SCAN_MAX:
                middle = (low + high) >> 1
                if hashes[middle] < wanted[i]:
                    low = middle + 1
                else:
                    high = middle
            while low < high and hashes[low] < wanted[i]:
                low += 1
            # `high` may have been the answer of the bisection: the first that is not smaller
            out[i] = low if low < hashes.size and hashes[low] == wanted[i] else -1


@njit(nogil=True, cache=True)
def compare_texts(hashes: U64Array, offsets: I64Array, data: int, order: I32Array, out: U8Array) -> int:
    """out[i] = how row order[i] compares with order[i - 1]: 0 another hash, 1 the same text, 2 another text of the same hash.

    Returns how many are 2. out[0] = 0.
    """
    others = 0
    for i in range(order.size):
        out[i] = 0
        if i == 0 or hashes[order[i]] != hashes[order[i - 1]]:
            continue
        a, b = order[i - 1], order[i]
        length = offsets[a + 1] - offsets[a]
        if offsets[b + 1] - offsets[b] == length and equal_bytes(data + offsets[a], data + offsets[b], length):
            out[i] = 1
        else:
            out[i] = 2
            others += 1
    return others


@njit(nogil=True, cache=True)
def keep_new(hashes: U64Array, slots: U64Array, used: int, rows: I64Array) -> int:
    """Put hashes into the open-addressed set `slots` (a power of two of them; 0: empty); write the rows of those that were not there.

    Returns how many rows were written. A hash of 0 always counts as new. `slots` has room for `used` + hashes.size entries.
    """
    mask = np.uint64(slots.size - 1)
    kept = 0
    for i in range(hashes.size):
        hash_ = hashes[i]
        if i + 16 < hashes.size:
            prefetch(slots.ctypes.data + 8 * np.int64(hashes[i + 16] & mask))
        if hash_ == 0:
            rows[kept] = i
            kept += 1
            continue
        at = hash_ & mask
        while slots[at] != 0 and slots[at] != hash_:
            at = (at + np.uint64(1)) & mask
        if slots[at] == 0:
            slots[at] = hash_
            rows[kept] = i
            kept += 1
    return kept

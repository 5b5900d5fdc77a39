"""Global kernels: draw nodes or edges out of all of a type, count in-degrees, draw by degree, draw outside a list.

Draws are words of a stream `key` (global sampling) or of `mix(mix(key, row), column)` (negatives); see each. Keys of weighted draws without
replacement are functions of (key, position) alone, so every partition finds its own smallest and the smallest of those are the answer.

Each has a plain reference in tests/graph/test_global_kernels.py. Without the GIL; any thread; bounds are the callers' affair.
Sources: Durstenfeld 1964, "Random permutation" (shuffling, here over an array that is only written where it was touched); Efraimidis and
Spirakis 2006, "Weighted random sampling with a reservoir"; Mikolov et al. 2013, "Distributed representations of words and phrases"
(negatives in proportion to degree^0.75).
"""

# mypy: disable-error-code="no-any-return, return-value, untyped-decorator"
# (numba widens integers as its kernels need, and carries no types)

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from fondaco.core.memory import load_f32, load_i32, load_i64
from fondaco.graph._draws import below, exponential, mix, unit
from fondaco.graph._kernels import load_f64

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
F64Array = npt.NDArray[np.float64]
U8Array = npt.NDArray[np.uint8]

TRIES: Final = 32  # candidates of one strict negative; then what is outside the list is drawn from directly

_ZERO = np.uint64(0)


# -- nodes and edges of a type ----------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def draw_again(key: np.uint64, total: int, out: I64Array) -> None:
    """Positions in [0, total), uniform, with replacement: entry i by word i of the stream."""
    for i in range(out.size):
        out[i] = below(mix(key, np.uint64(i)), total)


@njit(nogil=True, cache=True)
def draw_distinct(key: np.uint64, total: int, out: I64Array) -> None:
    """Different positions in [0, total), uniform over all ordered choices; out.size <= total. O(out.size), whatever `total` is.

    The first out.size steps of a shuffle of 0, 1, ... total - 1: step i swaps entry i with entry i + below(word i, total - i). Only the
    entries that a swap wrote are kept, in a hash table.
    """
    room = 16
    while room < 2 * out.size:
        room *= 2
    mask = room - 1
    places = np.full(room, -1, np.int64)
    entries = np.empty(room, np.int64)
    for i in range(out.size):
        j = i + below(mix(key, np.uint64(i)), total - i)
        # entry i, if a swap wrote it: it will not be looked at again
        slot = np.int64(mix(_ZERO, np.uint64(i)) & np.uint64(mask))
        while places[slot] >= 0 and places[slot] != i:
            slot = (slot + 1) & mask
        here = entries[slot] if places[slot] == i else i
        slot = np.int64(mix(_ZERO, np.uint64(j)) & np.uint64(mask))
        while places[slot] >= 0 and places[slot] != j:
            slot = (slot + 1) & mask
        out[i] = entries[slot] if places[slot] == j else j
        places[slot] = j
        entries[slot] = here


@njit(nogil=True, cache=True)
def draw_masses(key: np.uint64, sums: F64Array, parts: I64Array, rests: F64Array) -> None:
    """With replacement, in proportion to masses: the part of each draw, and how far into it. sums: float64 [parts], inclusive.

    The last entry of `sums` is positive; a part of mass 0 is never drawn.
    """
    total = sums[-1]
    for i in range(parts.size):
        x = unit(mix(key, np.uint64(i))) * total
        part = above(sums, x)
        parts[i] = part
        rests[i] = x - (sums[part - 1] if part > 0 else 0.0)


@njit(nogil=True, cache=True)
def above(sums: F64Array, x: float) -> int:
    """The first entry of ascending `sums` above `x`; where rounding left none, the first that equals the last."""
    low, high = 0, sums.size
    x = min(x, np.nextafter(sums[-1], -1.0))
    while low < high:
        middle = (low + high) >> 1
        if sums[middle] <= x:
            low = middle + 1
        else:
            high = middle
    return low


@njit(nogil=True, cache=True)
def sum_rows(indptr: int, cumulative: int, sums: F64Array) -> None:
    """Inclusive sums over rows of their edges' weights. indptr, cumulative: addresses; sums: float64 [rows]."""
    total = 0.0
    for row in range(sums.size):
        first, last = load_i64(indptr + 8 * row), load_i64(indptr + 8 * row + 8)
        if last > first:
            total += load_f64(cumulative + 8 * (last - 1))
        sums[row] = total


@njit(nogil=True, cache=True)
def last_sum(sums: int, count: int) -> float:
    """The last of `count` sums at an address; 0 of none."""
    return load_f64(sums + 8 * (count - 1)) if count > 0 else 0.0


@njit(nogil=True, cache=True)
def pick_edges(indptr: int, cumulative: int, sums: F64Array, rests: F64Array, out: I64Array) -> None:
    """The edge (position in the partition) up to which the weights add up to more than `rests[i]`, which is below sums[-1]."""
    for i in range(rests.size):
        row = above(sums, rests[i])
        rest = rests[i] - (sums[row - 1] if row > 0 else 0.0)
        low, last = load_i64(indptr + 8 * row), load_i64(indptr + 8 * row + 8)
        top = load_f64(cumulative + 8 * (last - 1))
        rest = min(rest, np.nextafter(top, -1.0))
        while low < last:
            middle = (low + last) >> 1
            if load_f64(cumulative + 8 * middle) <= rest:
                low = middle + 1
            else:
                last = middle
        out[i] = low


@njit(nogil=True, cache=True)
def pick_nodes(cumulative: int, count: int, rests: F64Array, out: I64Array) -> None:
    """The node (position in the partition) up to which the weights add up to more than `rests[i]`. cumulative: address of `count` sums."""
    top = load_f64(cumulative + 8 * (count - 1))
    for i in range(rests.size):
        rest = min(rests[i], np.nextafter(top, -1.0))
        low, high = 0, count
        while low < high:
            middle = (low + high) >> 1
            if load_f64(cumulative + 8 * middle) <= rest:
                low = middle + 1
            else:
                high = middle
        out[i] = low


@njit(nogil=True, cache=True)
def _sink_key(keys: F64Array, positions: I64Array, used: int, key: float, position: int) -> None:
    """Replace the top (the greatest) of a heap of (key, position)."""
    i = 0
    while 2 * i + 1 < used:
        child = 2 * i + 1
        if child + 1 < used and _after(keys[child + 1], positions[child + 1], keys[child], positions[child]):
            child += 1
        if not _after(keys[child], positions[child], key, position):
            break
        keys[i], positions[i] = keys[child], positions[child]
        i = child
    keys[i], positions[i] = key, position


@njit(nogil=True, cache=True)
def _after(key: float, position: int, other_key: float, other_position: int) -> bool:
    return key > other_key or (key == other_key and position > other_position)


@njit(nogil=True, cache=True)
def keep_smallest(weights: int, count: int, first: int, key: np.uint64, keys: F64Array, positions: I64Array, used: int) -> int:
    """Go on keeping the smallest exponential / weight over `count` weights at an address, for positions first, first + 1, ...

    keys float64, positions int64: [room], a heap of which `used` are; returns how many are then. A weight of 0 has no key. Put in order
    by `sort_keys`.
    """
    room = keys.size
    for i in range(count):
        weight = np.float64(load_f32(weights + 4 * i))
        if not weight > 0.0 or room == 0:
            continue
        position = first + i
        value = exponential(mix(key, np.uint64(position))) / weight
        if used < room:
            j = used
            used += 1
            while j > 0 and _after(value, position, keys[(j - 1) >> 1], positions[(j - 1) >> 1]):
                keys[j], positions[j] = keys[(j - 1) >> 1], positions[(j - 1) >> 1]
                j = (j - 1) >> 1
            keys[j], positions[j] = value, position
        elif value < keys[0] or (value == keys[0] and position < positions[0]):
            _sink_key(keys, positions, used, value, position)
    return used


# -- degrees, and what is not a neighbour -------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def count_targets(indices: int, edges: int, counts: I64Array) -> None:
    """Add to counts[v] how often v stands among `edges` neighbours at the address."""
    for j in range(edges):
        counts[load_i32(indices + 4 * j)] += 1


@njit(nogil=True, cache=True)
def take_lengths(indptr: int, counts: I64Array) -> None:
    """The lengths of counts.size rows. indptr: address."""
    for row in range(counts.size):
        counts[row] = load_i64(indptr + 8 * row + 8) - load_i64(indptr + 8 * row)


@njit(nogil=True, cache=True)
def sum_powers(degrees: I64Array, sums: F64Array) -> None:
    """Inclusive sums of degree^0.75. Square roots are rounded the same everywhere, a power function is not."""
    total = 0.0
    for v in range(degrees.size):
        root = np.sqrt(np.float64(degrees[v]))
        total += root * np.sqrt(root)
        sums[v] = total


@njit(nogil=True, cache=True)
def propose(key: np.uint64, columns: int, total: int, sums: F64Array, tries: I64Array, wanted: I64Array, out: I32Array) -> None:
    """Candidate number tries[i] of entry wanted[i] of a [rows, columns] answer: word `tries[i]` of the entry's stream.

    sums: float64 [total], inclusive masses of the nodes; or empty: all alike.
    """
    for i in range(wanted.size):
        row, column = wanted[i] // columns, wanted[i] % columns
        x = mix(mix(mix(key, np.uint64(row)), np.uint64(column)), np.uint64(tries[i]))
        out[i] = above(sums, unit(x) * sums[-1]) if sums.size else below(x, total)


@njit(nogil=True, cache=True)
def draw_outside(key: np.uint64, columns: int, total: int, sums: F64Array, entries: I64Array, members: I32Array, out: I32Array) -> None:
    """Of each entry a node that is not among `members` (ascending, each once), by the masses that `propose` takes; -1: there is none."""
    if sums.size:
        _draw_from_gaps(key, columns, total, sums, entries, members, out)
        return
    left = total - members.size
    for i in range(entries.size):
        if left <= 0:
            out[i] = -1
            continue
        found = below(_last_word(key, columns, entries[i]), left)
        low, high = 0, members.size  # members at or before it push it on: j of them stand before the one with members[j] - j > found
        while low < high:
            middle = (low + high) >> 1
            if members[middle] - middle > found:
                high = middle
            else:
                low = middle + 1
        out[i] = found + low


@njit(nogil=True, cache=True)
def _last_word(key: np.uint64, columns: int, entry: int) -> np.uint64:
    """The word of an entry's stream after those of all its candidates."""
    return mix(mix(mix(key, np.uint64(entry // columns)), np.uint64(entry % columns)), np.uint64(TRIES))


@njit(nogil=True, cache=True)
def _draw_from_gaps(key: np.uint64, columns: int, total: int, sums: F64Array, entries: I64Array, members: I32Array, out: I32Array) -> None:
    """`draw_outside` by mass: the gaps between members add up to what is outside; a draw falls into a gap, and on a node of it."""
    begins, ends = np.empty(members.size + 1, np.int64), np.empty(members.size + 1, np.int64)
    seen = np.empty(members.size + 1, np.float64)  # inclusive sums of the gaps' masses
    gaps, begin, mass, last = 0, 0, 0.0, -1
    for j in range(members.size + 1):
        end = int(members[j]) if j < members.size else total
        if end > begin:
            gap = sums[end - 1] - (sums[begin - 1] if begin > 0 else 0.0)
            if gap > 0.0:
                mass += gap
                begins[gaps], ends[gaps], seen[gaps] = begin, end, mass
                gaps += 1
                last = begin + above(sums[begin:end], sums[end - 1])
        begin = end + 1
    for i in range(entries.size):
        if gaps == 0:
            out[i] = -1
            continue
        rest = unit(_last_word(key, columns, entries[i])) * mass
        at = above(seen[:gaps], rest)
        if rest >= seen[at]:
            out[i] = last
            continue
        begin, end = begins[at], ends[at]
        base = sums[begin - 1] if begin > 0 else 0.0
        before = seen[at - 1] if at > 0 else 0.0
        out[i] = min(begin + above(sums[begin:end], base + (rest - before)), end - 1)

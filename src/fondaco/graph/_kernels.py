"""Kernels of neighbour sampling: find the frontier's lists, then fill counts, neighbours and edge positions from them.

All take the packed table of an adjacency (`sampling.pack_adjacency`): int64 [P + 1, 8], by partition the columns below. A *row* is the
list of one frontier node, as `locate_rows` finds it: int64 [n, 4]. Every pick is a function of (key, node, list), where the list ends at
the as-of bound: never of other rows, of partitions or of where the list lies. Each kernel has a plain reference in
tests/graph/reference.py. Orders and draws are a promise: docs/internals/determinism.md.

Bounds are the callers' affair: dense ids in [0, nodes), edge ids in [0, edges), outputs long enough. No GIL; any thread.
"""

# mypy: disable-error-code="no-any-return, return-value, untyped-decorator"
# (numba widens integers as its kernels need, and carries no types)

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from fondaco.core.memory import load_f32, load_i32, load_i64, loader, prefetch
from fondaco.graph._draws import below, exponential, mix, unit

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
F32Array = npt.NDArray[np.float32]
F64Array = npt.NDArray[np.float64]
U64Array = npt.NDArray[np.uint64]

load_f64 = loader(ir.DoubleType(), types.float64)


def _at_most(typing_context: Any, a: Any, b: Any, yes: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        chosen = builder.select(builder.fcmp_ordered("<=", args[0], args[1]), args[2], ir.Constant(ir.IntType(64), 0))
        # without this LLVM makes a branch of it after all, even of masks: three times slower, measured
        chosen.set_metadata("unpredictable", builder.module.add_metadata([]))
        return chosen

    return types.int64(types.float64, types.float64, types.int64), codegen


if_at_most: Any = intrinsic(_at_most)
"""`if_at_most(a, b, yes)`: `yes` if a <= b, else 0, without a branch; a, b float64."""

# -- columns of a packed adjacency: first dense node and edge of the partition (the last row has the ends), addresses of its sections ---
NODE: Final = 0
EDGE: Final = 1
INDPTR: Final = 2
INDICES: Final = 3
WEIGHTS: Final = 4
CUMULATIVE: Final = 5
TIMES: Final = 6
SCALE: Final = 6  # in the last row: partitions per 2^32 nodes, and in the next column edges; no division finds the owner
COLUMNS: Final = 8

# -- columns of a row: address of its first neighbour, dense id of its first edge, its length up to the as-of bound, its partition ------
ADDRESS: Final = 0
POSITION: Final = 1
LENGTH: Final = 2
PARTITION: Final = 3
ROW_COLUMNS: Final = 4

# -- the rule of weighted draws without replacement: a list this many times longer than the fan-out is first tried with replacement -----
TRIED_FROM: Final = 16
TRIES: Final = 4  # times the fan-out
TRIED_FAN_OUT_MAX: Final = 64

_SCANNED_FAN_OUT_MAX = 48  # picks up to here are kept sorted by insertion; beyond, in a set of bits
_SORTED_MAX = 64  # the best so far are kept sorted up to here, in a heap beyond
_AHEAD = 12  # rows between asking for a cache line and using it
_ONE = np.uint64(1)


@njit(nogil=True, cache=True, inline="always")
def owner(adjacency: I64Array, column: int, dense: int) -> int:
    """The partition whose range of nodes (column NODE) or edges (EDGE) holds `dense`."""
    partitions = adjacency.shape[0] - 1
    if partitions == 1:
        return 0
    p = dense * adjacency[partitions, SCALE + column] >> 32  # ranges are nearly even, as hashes are
    while adjacency[p + 1, column] <= dense:
        p += 1
    while adjacency[p, column] > dense:
        p -= 1
    return p


@njit(nogil=True, cache=True)
def visible(times: int, length: int, bound: int) -> int:
    """How many of `length` ascending times at the address are at or before `bound`."""
    low = 0
    while low < length:
        middle = (low + length) >> 1
        if load_i64(times + 8 * middle) <= bound:
            low = middle + 1
        else:
            length = middle
    return low


@njit(nogil=True, cache=True)
def locate_rows(adjacency: I64Array, frontier: I32Array, as_of: I64Array, fan_out: int, replace: bool, rows: I64Array) -> int:
    """Fill `rows` for the frontier; `as_of`: int64 [n] or empty. Returns how many picks there are at most."""
    n = frontier.size
    bounded = as_of.size > 0
    picks = 0
    for i in range(n):
        if i + _AHEAD < n:
            ahead = np.int64(frontier[i + _AHEAD])
            q = owner(adjacency, NODE, ahead)
            prefetch(adjacency[q, INDPTR] + 8 * (ahead - adjacency[q, NODE]))
        node = np.int64(frontier[i])
        p = owner(adjacency, NODE, node)
        indptr = adjacency[p, INDPTR]
        begin = 0
        length = 0
        if indptr != 0:
            at = indptr + 8 * (node - adjacency[p, NODE])
            begin = load_i64(at)
            length = load_i64(at + 8) - begin
            if bounded and adjacency[p, TIMES] != 0:
                length = visible(adjacency[p, TIMES] + 8 * begin, length, as_of[i])
        rows[i, ADDRESS] = adjacency[p, INDICES] + 4 * begin
        rows[i, POSITION] = adjacency[p, EDGE] + begin
        rows[i, LENGTH] = length
        rows[i, PARTITION] = p
        if replace:
            picks += fan_out if length > 0 else 0
        else:
            picks += min(length, fan_out)
    return picks


@njit(nogil=True, cache=True, inline="always")
def _put_run(address: int, position: int, count: int, neighbours: I32Array, positions: I64Array, used: int) -> None:
    for j in range(count):
        neighbours[used + j] = load_i32(address + 4 * j)
        positions[used + j] = position + j


@njit(nogil=True, cache=True)
def _longest(rows: I64Array) -> int:
    longest = 0
    for i in range(rows.shape[0]):
        longest = max(longest, rows[i, LENGTH])
    return longest


@njit(nogil=True, cache=True)
def fill_last(rows: I64Array, fan_out: int, counts: I32Array, neighbours: I32Array, positions: I64Array) -> int:
    """The last `fan_out` of every list, in list order. Returns how many."""
    n = rows.shape[0]
    used = 0
    for i in range(n):
        if i + _AHEAD < n:
            prefetch(rows[i + _AHEAD, ADDRESS] + 4 * max(rows[i + _AHEAD, LENGTH] - fan_out, 0))
        count = min(rows[i, LENGTH], fan_out)
        first = rows[i, LENGTH] - count
        _put_run(rows[i, ADDRESS] + 4 * first, rows[i, POSITION] + first, count, neighbours, positions, used)
        counts[i] = count
        used += count
    return used


# -- uniform ----------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, inline="always")
def _pick_sorted(stream: np.uint64, length: int, count: int, picks: I64Array, used: int) -> None:
    """Floyd: `count` distinct indexes below `length`, ascending, to `picks[used:]`; every set of them equally likely."""
    for i in range(count):
        last = length - count + i
        index = below(mix(stream, np.uint64(i)), last + 1)
        at = used + i
        while at > used and picks[at - 1] > index:
            at -= 1
        if at > used and picks[at - 1] == index:
            picks[used + i] = last  # not among the picks, and above them all
        else:
            for j in range(used + i, at, -1):
                picks[j] = picks[j - 1]
            picks[at] = index


@njit(nogil=True, cache=True)
def _pick_bits(stream: np.uint64, length: int, count: int, bits: U64Array, picks: I64Array, used: int) -> None:
    """As `_pick_sorted`, by a set of bits, all zero before and after."""
    for i in range(count):
        last = length - count + i
        index = below(mix(stream, np.uint64(i)), last + 1)
        if bits[index >> 6] >> np.uint64(index & 63) & _ONE != np.uint64(0):
            index = last
        bits[index >> 6] |= _ONE << np.uint64(index & 63)
    for word in range((length + 63) >> 6):
        if bits[word] != np.uint64(0):
            for bit in range(64):
                if bits[word] >> np.uint64(bit) & _ONE != np.uint64(0):
                    picks[used] = 64 * word + bit
                    used += 1
            bits[word] = np.uint64(0)


@njit(nogil=True, cache=True)
def fill_uniform(
    rows: I64Array, fan_out: int, key: np.uint64, frontier: I32Array, counts: I32Array, neighbours: I32Array, positions: I64Array
) -> int:
    """Uniform draws without replacement, in list order. Returns how many."""
    n = rows.shape[0]
    scanned = fan_out <= _SCANNED_FAN_OUT_MAX
    bits = np.zeros(0 if scanned else (_longest(rows) + 63) >> 6, np.uint64)
    used = 0
    for i in range(n):
        if i + _AHEAD < n:
            prefetch(rows[i + _AHEAD, ADDRESS])
        length = rows[i, LENGTH]
        address = rows[i, ADDRESS]
        position = rows[i, POSITION]
        count = min(length, fan_out)
        if count == length:
            _put_run(address, position, count, neighbours, positions, used)
        else:
            stream = mix(key, np.uint64(np.int64(frontier[i])))
            if scanned:
                _pick_sorted(stream, length, count, positions, used)
            else:
                _pick_bits(stream, length, count, bits, positions, used)
            for j in range(used, used + count):
                neighbours[j] = load_i32(address + 4 * positions[j])
                positions[j] += position
        counts[i] = count
        used += count
    return used


@njit(nogil=True, cache=True)
def fill_uniform_again(
    rows: I64Array, fan_out: int, key: np.uint64, frontier: I32Array, counts: I32Array, neighbours: I32Array, positions: I64Array
) -> int:
    """Uniform draws with replacement, in draw order. Returns how many."""
    n = rows.shape[0]
    used = 0
    for i in range(n):
        if i + _AHEAD < n:
            prefetch(rows[i + _AHEAD, ADDRESS])
        length = rows[i, LENGTH]
        count = fan_out if length > 0 else 0
        stream = mix(key, np.uint64(np.int64(frontier[i])))
        for j in range(count):
            index = below(mix(stream, np.uint64(j)), length)
            neighbours[used + j] = load_i32(rows[i, ADDRESS] + 4 * index)
            positions[used + j] = rows[i, POSITION] + index
        counts[i] = count
        used += count
    return used


# -- weighted ---------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, inline="always")
def draw_weighted(cumulative: int, length: int, total: float, x: np.uint64) -> int:
    """The index drawn by `x` in proportion to the weights whose inclusive sums lie at the address: the first whose sum is above u * total.

    So an index of weight 0, whose sum is its predecessor's, is never drawn. total > 0 is the last of the `length` sums. u is at most
    1 - 2^-53 and the total, a sum of float32, is no subnormal float64: u * total is always rounded to less than the total.
    """
    target = unit(x) * total
    low = 0
    while length > 1:  # as many steps for every draw from a list, and no branch on a sum, which nobody could predict
        half = length >> 1
        low += if_at_most(load_f64(cumulative + 8 * (low + half - 1)), target, half)
        length -= half
    return low


@njit(nogil=True, cache=True)
def fill_weighted_again(
    adjacency: I64Array,
    rows: I64Array,
    fan_out: int,
    key: np.uint64,
    frontier: I32Array,
    counts: I32Array,
    neighbours: I32Array,
    positions: I64Array,
) -> int:
    """Weighted draws with replacement, in draw order. Returns how many."""
    n = rows.shape[0]
    used = 0
    for i in range(n):
        if i + _AHEAD < n:
            sums = _sums_of(adjacency, rows, i + _AHEAD)
            for at in range(0, min(8 * rows[i + _AHEAD, LENGTH], 512), 64):
                prefetch(sums + at)
            prefetch(rows[i + _AHEAD, ADDRESS])
        length = rows[i, LENGTH]
        cumulative = _sums_of(adjacency, rows, i)
        total = load_f64(cumulative + 8 * (length - 1)) if length > 0 else 0.0
        count = fan_out if total > 0.0 else 0
        stream = mix(key, np.uint64(np.int64(frontier[i])))
        for j in range(count):
            index = draw_weighted(cumulative, length, total, mix(stream, np.uint64(j)))
            neighbours[used + j] = load_i32(rows[i, ADDRESS] + 4 * index)
            positions[used + j] = rows[i, POSITION] + index
        counts[i] = count
        used += count
    return used


@njit(nogil=True, cache=True, inline="always")
def _sums_of(adjacency: I64Array, rows: I64Array, i: int) -> int:
    p = rows[i, PARTITION]
    return adjacency[p, CUMULATIVE] + 8 * (rows[i, POSITION] - adjacency[p, EDGE])


@njit(nogil=True, cache=True, inline="always")
def _weights_of(adjacency: I64Array, rows: I64Array, i: int) -> int:
    p = rows[i, PARTITION]
    return adjacency[p, WEIGHTS] + 4 * (rows[i, POSITION] - adjacency[p, EDGE])


@njit(nogil=True, cache=True, inline="always")
def _after(keys: F64Array, picks: I64Array, a: int, b: int) -> bool:
    return keys[a] > keys[b] or (keys[a] == keys[b] and picks[a] > picks[b])


@njit(nogil=True, cache=True)
def _sink(keys: F64Array, picks: I64Array, at: int, size: int) -> None:
    """Restore the heap (the greatest on top) of the first `size` below `at`."""
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _after(keys, picks, child + 1, child):
            child += 1
        if not _after(keys, picks, child, at):
            return
        keys[at], keys[child] = keys[child], keys[at]
        picks[at], picks[child] = picks[child], picks[at]
        at = child


@njit(nogil=True, cache=True, inline="always")
def _worst(most: int) -> int:
    """Where the greatest of `most` kept pairs lies, once all are there."""
    return most - 1 if most <= _SORTED_MAX else 0


@njit(nogil=True, cache=True)
def _keep(keys: F64Array, picks: I64Array, size: int, most: int, key: float, index: int) -> int:
    """Keep the `most` smallest of all (key, index) given: sorted if they are few, else as a heap. Returns how many there are now.

    Indexes are given ascending; once all places are taken, only what is before the worst is given.
    """
    if most <= _SORTED_MAX:
        at = min(size, most - 1)
        while at > 0 and keys[at - 1] > key:
            keys[at] = keys[at - 1]
            picks[at] = picks[at - 1]
            at -= 1
        keys[at] = key
        picks[at] = index
        return min(size + 1, most)
    if size == most:
        keys[0] = key
        picks[0] = index
        _sink(keys, picks, 0, size)
        return size
    at = size
    keys[at] = key
    picks[at] = index
    while at > 0 and _after(keys, picks, at, (at - 1) >> 1):
        up = (at - 1) >> 1
        keys[at], keys[up] = keys[up], keys[at]
        picks[at], picks[up] = picks[up], picks[at]
        at = up
    return size + 1


@njit(nogil=True, cache=True)
def _put_kept(
    keys: F64Array,
    picks: I64Array,
    size: int,
    most: int,
    address: int,
    position: int,
    neighbours: I32Array,
    positions: I64Array,
    used: int,
) -> None:
    """Write what was kept, from the smallest key to the greatest."""
    if most > _SORTED_MAX:
        for last in range(size - 1, 0, -1):
            keys[0], keys[last] = keys[last], keys[0]
            picks[0], picks[last] = picks[last], picks[0]
            _sink(keys, picks, 0, last)
    for j in range(size):
        neighbours[used + j] = load_i32(address + 4 * picks[j])
        positions[used + j] = position + picks[j]


@njit(nogil=True, cache=True)
def _try_draws(cumulative: int, length: int, count: int, stream: np.uint64, tried: I64Array) -> int:
    """Successive draws without replacement, as draws with replacement less the repeats, while there are tries. Returns how many."""
    total = load_f64(cumulative + 8 * (length - 1))
    found = 0
    for attempt in range(TRIES * count):
        index = draw_weighted(cumulative, length, total, mix(stream, np.uint64(length + attempt)))
        new = True
        for j in range(found):
            if tried[j] == index:
                new = False
        if new:
            tried[found] = index
            found += 1
            if found == count:
                break
    return found


@njit(nogil=True, cache=True)
def fill_weighted(
    adjacency: I64Array,
    rows: I64Array,
    fan_out: int,
    key: np.uint64,
    frontier: I32Array,
    counts: I32Array,
    neighbours: I32Array,
    positions: I64Array,
) -> int:
    """Weighted draws without replacement. Returns how many.

    By keys E / weight, the smallest first (Efraimidis and Spirakis); a list much longer than the fan-out is first drawn from by binary
    search, repeats left out, and keys decide what that left open: the same distribution, O(log length) instead of O(length).
    """
    n = rows.shape[0]
    room = min(fan_out, _longest(rows))
    keys = np.empty(max(room, 1), np.float64)
    picks = np.empty(max(room, 1), np.int64)
    tried = np.empty(TRIED_FAN_OUT_MAX, np.int64)
    used = 0
    for i in range(n):
        if i + _AHEAD < n:
            prefetch(_weights_of(adjacency, rows, i + _AHEAD))
        length = rows[i, LENGTH]
        address = rows[i, ADDRESS]
        position = rows[i, POSITION]
        weights = _weights_of(adjacency, rows, i)
        first = used
        if length <= fan_out:
            for j in range(length):
                if load_f32(weights + 4 * j) > 0.0:
                    neighbours[used] = load_i32(address + 4 * j)
                    positions[used] = position + j
                    used += 1
        else:
            stream = mix(key, np.uint64(np.int64(frontier[i])))
            cumulative = _sums_of(adjacency, rows, i)
            found = 0
            if fan_out <= TRIED_FAN_OUT_MAX and length > TRIED_FROM * fan_out and load_f64(cumulative + 8 * (length - 1)) > 0.0:
                found = _try_draws(cumulative, length, fan_out, stream, tried)
            for j in range(found):
                neighbours[used + j] = load_i32(address + 4 * tried[j])
                positions[used + j] = position + tried[j]
            used += found
            if found < fan_out:
                size = _race(weights, length, fan_out - found, stream, tried, found, keys, picks)
                _put_kept(keys, picks, size, fan_out - found, address, position, neighbours, positions, used)
                used += size
        counts[i] = used - first
    return used


@njit(nogil=True, cache=True)
def _race(weights: int, length: int, most: int, stream: np.uint64, taken: I64Array, found: int, keys: F64Array, picks: I64Array) -> int:
    """Keep the `most` smallest keys E / weight of the edges of positive weight that are not among taken[:found]. Returns how many."""
    size = 0
    worst = _worst(most)
    for index in range(length):
        weight = np.float64(load_f32(weights + 4 * index))
        if weight > 0.0:
            x = mix(stream, np.uint64(index))
            # E = -ln u >= 1 - u, which costs no logarithm; the margin is above all rounding
            if size == most and 1.0 - unit(x) > keys[worst] * weight * 1.000001 + 1e-9:
                continue
            key = exponential(x) / weight
            free = size < most or key < keys[worst]
            for j in range(found):
                if taken[j] == index:
                    free = False
            if free:
                size = _keep(keys, picks, size, most, key, index)
    return size


@njit(nogil=True, cache=True)
def fill_top_k(adjacency: I64Array, rows: I64Array, fan_out: int, counts: I32Array, neighbours: I32Array, positions: I64Array) -> int:
    """The heaviest `fan_out`, heaviest first, equal ones in list order. Returns how many."""
    n = rows.shape[0]
    room = min(fan_out, _longest(rows))
    keys = np.empty(max(room, 1), np.float64)
    picks = np.empty(max(room, 1), np.int64)
    used = 0
    for i in range(n):
        if i + _AHEAD < n:
            prefetch(_weights_of(adjacency, rows, i + _AHEAD))
        weights = _weights_of(adjacency, rows, i)
        most = min(fan_out, rows[i, LENGTH])
        worst = _worst(most)
        size = 0
        for index in range(rows[i, LENGTH] if most > 0 else 0):
            key = -np.float64(load_f32(weights + 4 * index))
            if size < most or key < keys[worst]:
                size = _keep(keys, picks, size, most, key, index)
        _put_kept(keys, picks, size, most, rows[i, ADDRESS], rows[i, POSITION], neighbours, positions, used)
        counts[i] = size
        used += size
    return used


# -- edges by their ends, and by their ids ----------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def last_edge(adjacency: I64Array, source: int, target: int, bounded: bool, bound: int) -> int:
    """The dense id of the last edge, in list order, from `source` to `target` (at or before `bound`, if bounded); -1: none."""
    p = owner(adjacency, NODE, source)
    if adjacency[p, INDPTR] == 0:
        return -1
    at = adjacency[p, INDPTR] + 8 * (source - adjacency[p, NODE])
    begin = load_i64(at)
    length = load_i64(at + 8) - begin
    indices = adjacency[p, INDICES] + 4 * begin
    if adjacency[p, TIMES] != 0:  # sorted by time first
        if bounded:
            length = visible(adjacency[p, TIMES] + 8 * begin, length, bound)
        while length > 0 and load_i32(indices + 4 * (length - 1)) != target:
            length -= 1
    else:
        low = 0
        while low < length:
            middle = (low + length) >> 1
            if load_i32(indices + 4 * middle) <= target:
                low = middle + 1
            else:
                length = middle
        if length > 0 and load_i32(indices + 4 * (length - 1)) != target:
            length = 0
    return adjacency[p, EDGE] + begin + length - 1 if length > 0 else -1


@njit(nogil=True, cache=True)
def find_edges(adjacency: I64Array, sources: I32Array, targets: I32Array, as_of: I64Array, found: I64Array) -> None:
    """`last_edge` of every pair; `as_of`: int64 [n] or empty."""
    n = sources.size
    bounded = as_of.size > 0
    for i in range(n):
        if i + _AHEAD < n:
            ahead = np.int64(sources[i + _AHEAD])
            q = owner(adjacency, NODE, ahead)
            prefetch(adjacency[q, INDPTR] + 8 * (ahead - adjacency[q, NODE]))
        found[i] = last_edge(adjacency, np.int64(sources[i]), np.int64(targets[i]), bounded, as_of[i] if bounded else 0)


@njit(nogil=True, cache=True)
def take_weights(adjacency: I64Array, positions: I64Array, out: F32Array) -> None:
    """Weights by dense edge ids; 1 where the partition has none."""
    n = positions.size
    for i in range(n):
        p = owner(adjacency, EDGE, positions[i])
        weights = adjacency[p, WEIGHTS]
        if i + _AHEAD < n:
            prefetch(weights + 4 * (positions[i + _AHEAD] - adjacency[p, EDGE]))  # most often the same partition's
        out[i] = load_f32(weights + 4 * (positions[i] - adjacency[p, EDGE])) if weights != 0 else np.float32(1.0)


@njit(nogil=True, cache=True)
def take_times(adjacency: I64Array, positions: I64Array, out: I64Array) -> None:
    """Times by dense edge ids; 0 where the partition has none."""
    n = positions.size
    for i in range(n):
        p = owner(adjacency, EDGE, positions[i])
        times = adjacency[p, TIMES]
        if i + _AHEAD < n:
            prefetch(times + 8 * (positions[i + _AHEAD] - adjacency[p, EDGE]))
        out[i] = load_i64(times + 8 * (positions[i] - adjacency[p, EDGE])) if times != 0 else 0


@njit(nogil=True, cache=True)
def take_ends(adjacency: I64Array, positions: I64Array, sources: I32Array, targets: I32Array) -> None:
    """From-nodes and to-nodes by dense edge ids of partitions held."""
    for i in range(positions.size):
        p = owner(adjacency, EDGE, positions[i])
        local = positions[i] - adjacency[p, EDGE]
        low = 0
        high = adjacency[p + 1, NODE] - adjacency[p, NODE]  # the row: the last whose first edge is not after `local`
        while low < high:
            middle = (low + high) >> 1
            if load_i64(adjacency[p, INDPTR] + 8 * (middle + 1)) <= local:
                low = middle + 1
            else:
                high = middle
        sources[i] = adjacency[p, NODE] + low
        targets[i] = load_i32(adjacency[p, INDICES] + 4 * local)

"""Walk kernels: uniform and weighted walks with restart, metapaths, and second-order walks (node2vec) by rejection, over CSR in memory.

One kernel, `walk_on`, advances walkers from wherever they stand until they have made all their steps or need a partition that is not
here. With every partition here one call does whole walks; with several shards the executor (`walks`) carries walkers between them. Either
way each choice is a function of (seed, walker, step, attempt) and of canonical lists, so the walks are the same.

Draws of one step, words of its stream `mix(mix(key, walker), step)`: 0 restart; 1 the edge of a first-order step, or the scan; for attempt
t of a second-order step 2 + 2 t the candidate edge and 3 + 2 t whether it is taken.

Walkers of a block step in turn, not one after the other: their cache misses overlap, which makes a step three times cheaper.

Each has a plain reference in tests/graph/test_walk_kernels.py. Without the GIL; any thread. Addresses come in packed tables (`sampling`).
Sources: Grover and Leskovec 2016, "node2vec" (p, q); Yang et al. 2019, "KnightKing" (rejection, with the parts that need no look at the
previous node's list taken first); Sun et al. 2011, "PathSim" (metapaths).
"""

# mypy: disable-error-code="no-any-return, return-value, untyped-decorator"
# (numba widens integers as its kernels need, and carries no types)

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from fondaco.core.memory import load_f32, load_i32, load_i64, prefetch
from fondaco.graph._draws import below, mix, unit
from fondaco.graph._kernels import CUMULATIVE, INDICES, INDPTR, NODE, TIMES, WEIGHTS, load_f64, owner

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
F32Array = npt.NDArray[np.float32]
U8Array = npt.NDArray[np.uint8]

# -- status of a walker -----------------------------------------------------------------------------------------------------------------
DONE: Final = 0  # all steps made, or a dead end
ELSEWHERE: Final = 1  # its node's partition is not here
CHECK: Final = 2  # which candidates are neighbours of `previous`, whose partition is not here?
SCAN: Final = 3  # as CHECK, but for the node's whole list: no attempt succeeded
_MOVED: Final = 4

CANDIDATES: Final = 8  # attempts proposed at once to the shard of the previous node
ATTEMPTS_MAX: Final = 64  # then the exact probabilities are computed: bounds the work whatever p and q are
BLOCK: Final = 128

NEVER: Final = -(1 << 63)  # a clock that bounds nothing
ALWAYS: Final = (1 << 63) - 1  # an as_of that bounds nothing

_U0 = np.uint64(0)
_U1 = np.uint64(1)
_U2 = np.uint64(2)
_U3 = np.uint64(3)


@njit(nogil=True, cache=True)
def first_after(times: int, low: int, high: int, time: int) -> int:
    """The first position in [low, high) whose time is above `time`; `high` if there is none."""
    while low < high:
        middle = (low + high) >> 1
        if load_i64(times + 8 * middle) <= time:
            low = middle + 1
        else:
            high = middle
    return low


@njit(nogil=True, cache=True)
def row_of(table: I64Array, node: int, clock: int, as_of: int) -> tuple[int, int, int, int]:
    """(partition, row start, low, high): edges [low, high) of the node's list are within [clock, as_of]; partition -1: it is not here."""
    partition = owner(table, NODE, node)
    indptr = table[partition, INDPTR]
    if indptr == 0:
        return -1, 0, 0, 0
    entry = indptr + 8 * (node - table[partition, NODE])
    start, high = load_i64(entry), load_i64(entry + 8)
    low = start
    times = table[partition, TIMES]
    if times != 0:
        if as_of != ALWAYS:
            high = first_after(times, low, high, as_of)
        if clock != NEVER:
            low = first_after(times, low, high, clock - 1)
    return partition, start, low, high


@njit(nogil=True, cache=True)
def mass_of(table: I64Array, partition: int, start: int, low: int, high: int) -> float:
    """The sum of the weights of [low, high) in the row that begins at `start`."""
    if low >= high:
        return 0.0
    cumulative = table[partition, CUMULATIVE]
    base = 0.0 if low == start else load_f64(cumulative + 8 * (low - 1))
    return load_f64(cumulative + 8 * (high - 1)) - base


@njit(nogil=True, cache=True)
def position_at(table: I64Array, partition: int, start: int, low: int, high: int, mass: float) -> int:
    """The edge of [low, high) under which `mass`, below the row's, falls. An edge of weight 0 never is."""
    cumulative = table[partition, CUMULATIVE]
    if low != start:
        mass += load_f64(cumulative + 8 * (low - 1))
    top = load_f64(cumulative + 8 * (high - 1))
    last = high
    while low < high:
        middle = (low + high) >> 1
        if load_f64(cumulative + 8 * middle) <= mass:
            low = middle + 1
        else:
            high = middle
    if low == last:  # rounded up to the whole: the last edge that adds anything
        while low > start + 1 and load_f64(cumulative + 8 * (low - 2)) >= top:
            low -= 1
        return low - 1
    return low


@njit(nogil=True, cache=True)
def choose(
    tables: I64Array, first: int, last: int, node: int, clock: int, as_of: int, weighted: bool, x: np.uint64
) -> tuple[int, int, int]:
    """(adjacency, partition, position) of the edge that `x` draws among the node's lists in adjacencies [first, last).

    partition -1: they are not here; position -1: there is none.
    """
    if last - first == 1:
        partition, start, low, high = row_of(tables[first], node, clock, as_of)
        if partition < 0 or low >= high:
            return first, partition, -1
        if not weighted:
            return first, partition, low + below(x, high - low)
        mass = mass_of(tables[first], partition, start, low, high)
        if not mass > 0.0:
            return first, partition, -1
        return first, partition, position_at(tables[first], partition, start, low, high, unit(x) * mass)
    count, total = 0, 0.0
    partition = 0
    for a in range(first, last):
        partition, start, low, high = row_of(tables[a], node, clock, as_of)
        if partition < 0:
            return first, partition, -1
        if weighted:
            total += mass_of(tables[a], partition, start, low, high)
        else:
            count += high - low
    if count == 0 and not total > 0.0:
        return first, partition, -1
    wanted = 0 if weighted else below(x, count)
    rest = unit(x) * total
    found, found_start, found_low, found_high = -1, 0, 0, 0
    for a in range(first, last):
        partition, start, low, high = row_of(tables[a], node, clock, as_of)
        if weighted:
            mass = mass_of(tables[a], partition, start, low, high)
            if mass > 0.0:
                found, found_start, found_low, found_high = a, start, low, high
                if rest < mass:
                    break
                rest -= mass
        else:
            if wanted < high - low:
                return a, partition, low + wanted
            wanted -= high - low
    # of equal from-nodes, all adjacencies have the same partition; `rest` may have been rounded up to the last one's mass
    return found, partition, position_at(tables[found], partition, found_start, found_low, found_high, rest)


@njit(nogil=True, cache=True)
def leads_to(tables: I64Array, first: int, last: int, node: int, target: int, as_of: int) -> int:
    """1 if an edge of adjacencies [first, last) leads from `node` to `target`, 0 if none does, -1 if the node's lists are not here."""
    for a in range(first, last):
        partition, _, low, high = row_of(tables[a], node, NEVER, as_of)
        if partition < 0:
            return -1
        indices = tables[a, partition, INDICES]
        if tables[a, partition, TIMES] != 0:  # in order of time, so not of nodes
            for j in range(low, high):
                if load_i32(indices + 4 * j) == target:
                    return 1
            continue
        while low < high:
            middle = (low + high) >> 1
            to = load_i32(indices + 4 * middle)
            if to == target:
                return 1
            if to < target:
                low = middle + 1
            else:
                high = middle
    return 0


@njit(nogil=True, cache=True)
def weigh(to: I32Array, weights: F32Array, known: U8Array, previous: int, p: float, q: float, x: np.uint64) -> int:
    """The entry of a whole list that `x` draws with node2vec's exact probabilities; -1: no weight is positive.

    weights: of the edges, or empty; known: 1 where the neighbour is one of the previous node's too.
    """
    sums = np.empty(to.size, np.float64)
    total = 0.0
    last = -1
    for j in range(to.size):
        factor = 1.0 / p if to[j] == previous else (1.0 if known[j] else 1.0 / q)
        share = factor * (np.float64(weights[j]) if weights.size else 1.0)
        if share > 0.0:
            last = j
        total += share
        sums[j] = total
    wanted = unit(x) * total
    for j in range(to.size):
        if sums[j] > wanted:
            return j
    return last


@njit(nogil=True, cache=True)
def _scan(
    tables: I64Array, first: int, last: int, node: int, previous: int, as_of: int, weighted: bool, p: float, q: float, x: np.uint64
) -> tuple[int, int]:
    """(status, neighbour): `weigh` over the node's list, with everything here; (SCAN, -1) if the previous node's lists are not."""
    count = 0
    for a in range(first, last):
        _, _, low, high = row_of(tables[a], node, NEVER, as_of)
        count += high - low
    to = np.empty(count, np.int32)
    known = np.empty(count, np.uint8)
    weights = np.empty(count if weighted else 0, np.float32)
    j = 0
    for a in range(first, last):
        partition, _, low, high = row_of(tables[a], node, NEVER, as_of)
        for position in range(low, high):
            to[j] = load_i32(tables[a, partition, INDICES] + 4 * position)
            if weighted:
                weights[j] = load_f32(tables[a, partition, WEIGHTS] + 4 * position)
            answer = leads_to(tables, first, last, previous, to[j], as_of)
            if answer < 0:
                return SCAN, -1
            known[j] = answer
            j += 1
    chosen = weigh(to, weights, known, previous, p, q, x)
    return (_MOVED, np.int64(to[chosen])) if chosen >= 0 else (DONE, -1)


@njit(nogil=True, cache=True)
def _second_order(
    tables: I64Array,
    first: int,
    last: int,
    node: int,
    previous: int,
    as_of: int,
    weighted: bool,
    p: float,
    q: float,
    stream: np.uint64,
    attempt: int,
) -> tuple[int, int, int]:
    """(status, neighbour, attempt): one step of node2vec from `attempt` on."""
    back, far = 1.0 / p, 1.0 / q
    low, high = min(1.0, far), max(1.0, far)
    most = max(back, high)
    for t in range(attempt, ATTEMPTS_MAX):
        word = np.uint64(2 * t)
        a, partition, position = choose(tables, first, last, node, NEVER, as_of, weighted, mix(stream, word + _U2))
        if partition < 0:
            return ELSEWHERE, -1, t
        if position < 0:
            return DONE, -1, t
        to = load_i32(tables[a, partition, INDICES] + 4 * position)
        height = unit(mix(stream, word + _U3)) * most
        if to == previous:
            if height < back:
                return _MOVED, to, t
        elif height < low:
            return _MOVED, to, t
        elif height < high:
            known = leads_to(tables, first, last, previous, to, as_of)
            if known < 0:
                return CHECK, -1, t
            if height < (1.0 if known else far):
                return _MOVED, to, t
    if row_of(tables[first], node, NEVER, as_of)[0] < 0:
        return ELSEWHERE, -1, ATTEMPTS_MAX
    status, to = _scan(tables, first, last, node, previous, as_of, weighted, p, q, mix(stream, _U1))
    return status, to, ATTEMPTS_MAX


@njit(nogil=True, cache=True)
def _prefetch_row(table: I64Array, node: int) -> None:
    """Ask for the ends of the node's list, if it is here."""
    partition = owner(table, NODE, node)
    if table[partition, INDPTR] != 0:
        prefetch(table[partition, INDPTR] + 8 * (node - table[partition, NODE]))


@njit(nogil=True, cache=True)
def are_sound(
    steps: I32Array,
    phases: I32Array,
    nodes: I32Array,
    previous: I32Array,
    origins: I32Array,
    attempts: I32Array,
    length: int,
    counts: I64Array,
) -> bool:
    """Whether walkers stand within the graph and have not made too many steps. counts: int64 [path], nodes of each turn's from-type."""
    for i in range(nodes.size):
        if steps[i] < 0 or steps[i] > length or phases[i] < 0 or phases[i] > length or attempts[i] < 0:
            return False
        if nodes[i] < 0 or nodes[i] >= counts[phases[i] % counts.size] or previous[i] < -1 or previous[i] >= counts[0]:
            return False
        if origins[i] < 0 or origins[i] >= counts[0]:
            return False
    return True


@njit(nogil=True, cache=True)
def walk_on(
    tables: I64Array,
    bounds: I64Array,
    key: np.uint64,
    length: int,
    weighted: bool,
    temporal: bool,
    restart: float,
    p: float,
    q: float,
    walkers: I64Array,
    steps: I32Array,
    phases: I32Array,
    nodes: I32Array,
    previous: I32Array,
    origins: I32Array,
    attempts: I32Array,
    clocks: I64Array,
    as_of: I64Array,
    out: I32Array,
    status: U8Array,
    candidates: I32Array,
) -> None:
    """Advance every walker as far as it can; writes the state arrays, `out`, `status` and `candidates`.

    Args:
        tables: int64 [A, P + 1, 8]; bounds: int64 [path + 1]: step s chooses among the edges of adjacencies
            [bounds[phase % path], bounds[phase % path + 1]), where phase counts steps since the start or the last restart.
        walkers: int64 [n], the numbers that key the draws. steps, phases, nodes, previous, origins, attempts: int32 [n]; clocks: int64 [n].
        as_of: int64 [n] or empty.
        out: int32 [n, length + 1]: the node after step s is written at column s.
        status: uint8 [n]. candidates: int32 [n, CANDIDATES], written where the status is CHECK; no rows if all partitions are here.
    """
    path = bounds.size - 1
    second = p != 1.0 or q != 1.0
    live = np.empty(BLOCK, np.int64)
    streams = np.empty(BLOCK, np.uint64)
    for begin in range(0, walkers.size, BLOCK):
        count = 0
        for i in range(begin, min(begin + BLOCK, walkers.size)):
            status[i] = DONE
            if steps[i] < length:
                live[count] = i
                count += 1
                _prefetch_row(tables[bounds[phases[i] % path]], nodes[i])
            streams[i - begin] = mix(key, np.uint64(walkers[i]))
        while count:
            kept = 0
            for k in range(count):
                i = live[k]
                step, node = steps[i], nodes[i]
                stream = mix(streams[i - begin], np.uint64(step))
                bound = as_of[i] if as_of.size else ALWAYS
                if restart > 0.0 and unit(mix(stream, _U0)) < restart:
                    result, to = _MOVED, np.int64(origins[i])
                    phases[i] = -1
                    clocks[i] = NEVER
                    node = np.int32(-1)
                else:
                    turn = phases[i] % path if path > 1 else 0
                    first, last = bounds[turn], bounds[turn + 1]
                    if second and previous[i] >= 0:
                        result, to, attempts[i] = _second_order(
                            tables, first, last, node, previous[i], bound, weighted, p, q, stream, attempts[i]
                        )
                        if result == CHECK:
                            for c in range(CANDIDATES):
                                word = np.uint64(2 * (attempts[i] + c))
                                a, partition, position = choose(tables, first, last, node, NEVER, bound, weighted, mix(stream, word + _U2))
                                candidates[i, c] = load_i32(tables[a, partition, INDICES] + 4 * position)
                    else:
                        clock = clocks[i] if temporal else NEVER
                        a, partition, position = choose(tables, first, last, node, clock, bound, weighted, mix(stream, _U1))
                        if partition < 0:
                            result, to = ELSEWHERE, np.int64(-1)
                        elif position < 0:
                            result, to = DONE, np.int64(-1)
                        else:
                            result, to = _MOVED, load_i32(tables[a, partition, INDICES] + 4 * position)
                            if temporal and tables[a, partition, TIMES] != 0:
                                clocks[i] = load_i64(tables[a, partition, TIMES] + 8 * position)
                if result != _MOVED:
                    status[i] = result
                    continue
                out[i, step + 1] = to
                steps[i] = step + 1
                phases[i] += 1
                attempts[i] = 0
                previous[i] = node
                nodes[i] = to
                if step + 1 < length:
                    live[kept] = i
                    kept += 1
                    _prefetch_row(tables[bounds[phases[i] % path if path > 1 else 0]], to)
            count = kept


@njit(nogil=True, cache=True)
def settle(
    key: np.uint64,
    p: float,
    q: float,
    walkers: I64Array,
    steps: I32Array,
    previous: I32Array,
    attempts: I32Array,
    candidates: I32Array,
    known: U8Array,
    chosen: I32Array,
) -> None:
    """What `_second_order` does with candidates once it is known which are neighbours of the previous node.

    candidates: int32 [n, CANDIDATES]; known: uint8, the same shape. chosen: int32 [n], the one taken, or -1 where none is; attempts are
    advanced past those that were refused.
    """
    back, far = 1.0 / p, 1.0 / q
    most = max(back, max(1.0, far))
    for i in range(walkers.size):
        stream = mix(mix(key, np.uint64(walkers[i])), np.uint64(steps[i]))
        chosen[i] = -1
        for c in range(CANDIDATES):
            t = attempts[i]
            if t >= ATTEMPTS_MAX:
                break
            height = unit(mix(stream, np.uint64(2 * t) + _U3)) * most
            share = back if candidates[i, c] == previous[i] else (1.0 if known[i, c] else far)
            if height < share:
                chosen[i] = candidates[i, c]
                break
            attempts[i] = t + 1

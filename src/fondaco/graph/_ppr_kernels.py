"""Personalised PageRank kernels: approximate scores around one seed by pushing residual mass forward, and the best of them.

The score of v is the probability that a walk from the seed, which stops with probability alpha before each step and at a node without
edges, stops at v. `advance` keeps, for every node touched, a settled estimate and a residual not yet spread. A round takes the nodes whose
residual is at least eps times their degree, in the order in which they were marked, settles alpha of each residual and spreads the rest
over its list. It ends when no node is left: then estimate(v) <= score(v), and what is missing is sum over u of residual(u) score_u(v), with
residual(u) < eps max(degree(u), 1). At most 1 / (alpha eps) edges are looked at, whatever the graph's size.

Additions happen in an order that only lists and earlier rounds determine, so sums agree bit for bit wherever the lists come from: from
partitions in memory, or from a `cache` of lists fetched from other shards, where a round waits until all lists it needs are there.
That is far beyond any deadline for a small alpha eps, so `advance` and `rank` come back once they have looked at `work` edges or a round
more, to be called again: a round looks at each list once at most.

Each kernel has a plain reference in tests/graph/test_ppr_kernels.py. Without the GIL; any thread.
Source: Andersen, Chung and Lang 2006, "Local graph partitioning using PageRank vectors" (ApproximatePageRank, by rounds and directed).
"""

# mypy: disable-error-code="no-any-return, return-value, untyped-decorator"
# (numba widens integers as its kernels need, and carries no types)

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from fondaco.core.memory import load_f32, load_i32
from fondaco.graph._draws import mix
from fondaco.graph._kernels import INDICES, WEIGHTS
from fondaco.graph._walk_kernels import ALWAYS, NEVER, row_of

U8Array = npt.NDArray[np.uint8]
I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
F64Array = npt.NDArray[np.float64]

# -- what `advance` came to --------------------------------------------------------------------------------------------------------------
FINISHED: Final = 0
MISSING: Final = 1  # the next round needs lists that the cache has not
CROWDED: Final = 2  # the next round needs more room: head[ROOM]
PAUSED: Final = 3  # head[WORK] edges were looked at, as many as were allowed

# -- head of a state: int64 [4] -----------------------------------------------------------------------------------------------------------
TOUCHED: Final = 0  # nodes in keys, residuals, estimates
MARKED: Final = 1  # of them in marked
ROOM: Final = 2  # nodes there may be after the next round
WORK: Final = 3  # edges looked at since the caller set it to 0; a node that was marked counts as `_LOOK`
HEAD: Final = 4

# -- columns of a cache of lists: count within as_of, address of the neighbours (0: only the count is known), of their weights ---------
COUNT: Final = 0
NEIGHBOURS: Final = 1
CACHED_WEIGHTS: Final = 2
CACHE_COLUMNS: Final = 3

ROOM_AT_FIRST: Final = 4096  # nodes; slots are twice as many
_NODE_BITS: Final = 32
_LOOK: Final = 4

_ZERO = np.uint64(0)


@njit(nogil=True, cache=True)
def find_slot(slots: I32Array, keys: I64Array, key: int) -> int:
    """The slot of an open-addressing table (its length a power of two) that holds the index of `key` in `keys`, or is free for it (-1)."""
    mask = slots.size - 1
    slot = np.int64(mix(_ZERO, np.uint64(key)) & np.uint64(mask))
    while slots[slot] >= 0 and keys[slots[slot]] != key:
        slot = (slot + 1) & mask
    return slot


@njit(nogil=True, cache=True)
def fill_slots(slots: I32Array, keys: I64Array, count: int) -> None:
    """Make the table anew for the first `count` keys, all different."""
    slots[:] = -1
    for i in range(count):
        slots[find_slot(slots, keys, keys[i])] = i


@njit(nogil=True, cache=True)
def find_all(slots: I32Array, keys: I64Array, wanted: I64Array, entries: I64Array) -> None:
    """The index in `keys` of each of `wanted`, or -1."""
    for i in range(wanted.size):
        entries[i] = slots[find_slot(slots, keys, wanted[i])]


@njit(nogil=True, cache=True)
def start(
    seed: int, keys: I64Array, residuals: F64Array, estimates: F64Array, flags: U8Array, slots: I32Array, marked: I32Array, head: I64Array
) -> None:
    """Put all mass on `seed`."""
    slots[:] = -1
    keys[0], residuals[0], estimates[0], flags[0] = seed, 1.0, 0.0, 1
    slots[find_slot(slots, keys, seed)] = 0
    marked[0] = 0
    head[TOUCHED], head[MARKED] = 1, 1


@njit(nogil=True, cache=True)
def _list_of(
    tables: I64Array, a: int, cached: bool, cache: I64Array, cache_slots: I32Array, cache_keys: I64Array, node: int, as_of: int
) -> tuple[int, int, int]:
    """(count, address of neighbours, address of weights) of the node's list in adjacency `a`; count -1: not known."""
    if cached:
        entry = cache_slots[find_slot(cache_slots, cache_keys, (np.int64(a) << _NODE_BITS) + node)]
        if entry < 0:
            return -1, 0, 0
        return cache[entry, COUNT], cache[entry, NEIGHBOURS], cache[entry, CACHED_WEIGHTS]
    partition, _, low, high = row_of(tables[a], node, NEVER, as_of)
    if partition < 0:
        return -1, 0, 0
    weights = tables[a, partition, WEIGHTS]
    return high - low, tables[a, partition, INDICES] + 4 * low, (weights + 4 * low if weights != 0 else 0)


@njit(nogil=True, cache=True)
def _add(
    node: int, share: float, eps: float, keys: I64Array, residuals: F64Array, estimates: F64Array, flags: U8Array, slots: I32Array,
    marked: I32Array, head: I64Array,
) -> None:  # fmt: skip
    slot = find_slot(slots, keys, node)
    k = np.int64(slots[slot])
    if k < 0:
        k = head[TOUCHED]
        head[TOUCHED] = k + 1
        slots[slot] = k
        keys[k], residuals[k], estimates[k], flags[k] = node, 0.0, 0.0, 0
    residuals[k] += share
    if flags[k] == 0 and residuals[k] >= eps:  # degrees are 1 or more, or 0 and count as 1: below eps no list is looked at
        flags[k] = 1
        marked[head[MARKED]] = k
        head[MARKED] += 1


@njit(nogil=True, cache=True)
def advance(
    tables: I64Array,
    cached: bool,
    cache: I64Array,
    cache_slots: I32Array,
    cache_keys: I64Array,
    as_of: int,
    alpha: float,
    eps: float,
    weighted: bool,
    keys: I64Array,
    residuals: F64Array,
    estimates: F64Array,
    flags: U8Array,
    slots: I32Array,
    marked: I32Array,
    head: I64Array,
    missing: I64Array,
    work: int,
) -> tuple[int, int]:
    """Push until no residual is large, a list is missing or room is, or `work` edges were looked at.

    Returns (what it came to, entries of `missing` written).

    Args:
        tables: int64 [A, P + 1, 8], adjacencies whose lists are joined; or with `cached`, any, of length A, and a cache: int64
            [m, CACHE_COLUMNS] for keys (adjacency << 32) + node, found by `cache_slots`.
        keys int64, residuals, estimates float64, flags uint8, marked int32: [room] each; slots int32 [>= 2 room]; head int64 [HEAD].
        missing: int64 [>= room], the nodes whose lists are not there; the state is as it was before the round.
    """
    adjacencies = tables.shape[0]
    while head[MARKED] > 0:
        if head[WORK] >= work:
            return PAUSED, 0
        lacking, touched, pushes = 0, head[TOUCHED], 0
        for m in range(head[MARKED]):
            k = marked[m]
            degree = 0
            known, whole = True, True
            for a in range(adjacencies):
                count, to, _ = _list_of(tables, a, cached, cache, cache_slots, cache_keys, keys[k], as_of)
                known = known and count >= 0
                whole = whole and (count == 0 or to != 0)
                degree += count
            if not known or (residuals[k] >= eps * max(degree, 1) and not whole):
                missing[lacking] = keys[k]
                lacking += 1
            elif residuals[k] >= eps * max(degree, 1):
                touched += degree
                pushes += 1
        if lacking:
            return MISSING, lacking
        head[ROOM] = touched
        if touched > keys.size:
            return CROWDED, 0
        frontier = np.empty(pushes, np.int32)
        pushes = 0
        for m in range(head[MARKED]):
            k = marked[m]
            flags[k] = 0
            degree = 0
            for a in range(adjacencies):
                degree += _list_of(tables, a, cached, cache, cache_slots, cache_keys, keys[k], as_of)[0]
            if residuals[k] >= eps * max(degree, 1):
                frontier[pushes] = k
                pushes += 1
        head[WORK] += touched - head[TOUCHED] + _LOOK * head[MARKED]
        head[MARKED] = 0
        for f in range(pushes):
            k = frontier[f]
            mass = residuals[k]
            residuals[k] = 0.0
            total = 0.0
            for a in range(adjacencies):
                count, to, weights = _list_of(tables, a, cached, cache, cache_slots, cache_keys, keys[k], as_of)
                if weighted:
                    for j in range(count):
                        total += np.float64(load_f32(weights + 4 * j))
                else:
                    total += count
            if not total > 0.0:
                estimates[k] += mass
                continue
            estimates[k] += alpha * mass
            share = (1.0 - alpha) * mass / total
            for a in range(adjacencies):
                count, to, weights = _list_of(tables, a, cached, cache, cache_slots, cache_keys, keys[k], as_of)
                for j in range(count):
                    part = share * np.float64(load_f32(weights + 4 * j)) if weighted else share
                    if part > 0.0:
                        _add(load_i32(to + 4 * j), part, eps, keys, residuals, estimates, flags, slots, marked, head)
    return FINISHED, 0


@njit(nogil=True, cache=True)
def _worse(estimates: F64Array, keys: I64Array, i: int, j: int) -> bool:
    """Whether node i ranks below node j: smaller score, or the same and a greater dense id."""
    return estimates[i] < estimates[j] or (estimates[i] == estimates[j] and keys[i] > keys[j])


@njit(nogil=True, cache=True)
def best(keys: I64Array, estimates: F64Array, touched: int, nodes: I32Array, scores: F64Array) -> int:
    """The nodes with the greatest estimates, best first, ties by dense id, at most as many as `nodes` has room for. Returns how many."""
    room = nodes.size
    heap = np.empty(room, np.int64)  # the worst at its top
    used = 0
    for k in range(touched):
        if not estimates[k] > 0.0 or room == 0:
            continue
        if used < room:
            i = used
            used += 1
            while i > 0 and _worse(estimates, keys, k, heap[(i - 1) >> 1]):
                heap[i] = heap[(i - 1) >> 1]
                i = (i - 1) >> 1
            heap[i] = k
        elif _worse(estimates, keys, heap[0], k):
            _sink(heap, used, k, estimates, keys)
    for at in range(used - 1, -1, -1):
        top = heap[0]
        nodes[at], scores[at] = keys[top], estimates[top]
        if at > 0:
            _sink(heap, at, heap[at], estimates, keys)
    return used


@njit(nogil=True, cache=True)
def _sink(heap: I64Array, used: int, k: int, estimates: F64Array, keys: I64Array) -> None:
    """Replace the top of the heap by `k`."""
    i = 0
    while 2 * i + 1 < used:
        child = 2 * i + 1
        if child + 1 < used and _worse(estimates, keys, heap[child + 1], heap[child]):
            child += 1
        if not _worse(estimates, keys, heap[child], k):
            break
        heap[i] = heap[child]
        i = child
    heap[i] = k


@njit(nogil=True, cache=True)
def rank(
    tables: I64Array,
    seeds: I32Array,
    as_of: I64Array,
    alpha: float,
    eps: float,
    weighted: bool,
    counts: I64Array,
    nodes: I32Array,
    scores: F64Array,
    work: int,
) -> tuple[int, bool]:
    """The best nodes around every seed, with all partitions here. nodes int32, scores float64: [n, top_k]; counts int64 [n].

    Returns (how many seeds are done: all, or those before `work` edges were looked at; whether the next one alone needs more than that).
    """
    room = ROOM_AT_FIRST
    keys, residuals, estimates = np.empty(room, np.int64), np.empty(room, np.float64), np.empty(room, np.float64)
    flags, marked, missing = np.empty(room, np.uint8), np.empty(room, np.int32), np.empty(room, np.int64)
    slots = np.empty(2 * room, np.int32)
    head = np.zeros(HEAD, np.int64)
    cache, cache_slots, cache_keys = np.empty((0, CACHE_COLUMNS), np.int64), np.empty(0, np.int32), np.empty(0, np.int64)
    total = 0
    for i in range(seeds.size):
        if total >= work:
            return i, False
        head[WORK] = 0
        start(seeds[i], keys, residuals, estimates, flags, slots, marked, head)
        bound = as_of[i] if as_of.size else ALWAYS
        while True:
            came_to, _ = advance(
                tables, False, cache, cache_slots, cache_keys, bound, alpha, eps, weighted,
                keys, residuals, estimates, flags, slots, marked, head, missing, work,
            )  # fmt: skip
            if came_to == PAUSED:
                return i, True
            if came_to != CROWDED:
                break
            while room < head[ROOM]:
                room *= 2
            touched = head[TOUCHED]
            old_keys, old_residuals, old_estimates, old_flags, old_marked = keys, residuals, estimates, flags, marked
            keys, residuals, estimates = np.empty(room, np.int64), np.empty(room, np.float64), np.empty(room, np.float64)
            flags, marked, missing = np.empty(room, np.uint8), np.empty(room, np.int32), np.empty(room, np.int64)
            keys[:touched], residuals[:touched], estimates[:touched] = old_keys[:touched], old_residuals[:touched], old_estimates[:touched]
            flags[:touched], marked[: head[MARKED]] = old_flags[:touched], old_marked[: head[MARKED]]
            slots = np.empty(2 * room, np.int32)
            fill_slots(slots, keys, touched)
        counts[i] = best(keys, estimates, head[TOUCHED], nodes[i], scores[i])
        total += head[WORK]
    return seeds.size, False

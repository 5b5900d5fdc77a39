"""Sampling: neighbour lists, and draws from them, over the local partitions of one adjacency. NumPy in, NumPy out; kernels in between.

An *adjacency* is one edge type in one direction. `pack_adjacency` turns what an opened version knows of it into one small table of
addresses, which all functions here take; so one call serves any number of local partitions. A node whose partition is not held here has
no neighbours here: who asks (the executor) asks only holders, and checks that ids are in range.

Order and determinism: docs/internals/determinism.md. Pure functions of memory, without the GIL; any thread. The packed table holds
addresses, so whoever made it keeps the maps open. Importing this imports numba.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError
from fondaco.graph import _kernels, _labor_kernels
from fondaco.graph._draws import SALT_LABOR, key_of

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
F32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)

Strategy = Literal["uniform", "weighted", "top_k", "last", "all"]
STRATEGIES: Final[tuple[str, ...]] = get_args(Strategy)
ALWAYS: Final[I64Array] = np.empty(0, np.int64)
"""The `as_of` that sees every edge."""
FAN_OUT_MAX: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Sampled:
    """Neighbours by frontier node: the first `counts[0]` of `neighbours` and `positions` are those of frontier[0], and so on.

    counts: int32 [n]. neighbours: int32 [sum(counts)], dense ids. positions: int64 [sum(counts)], dense edge ids.
    """

    counts: I32Array
    neighbours: I32Array
    positions: I64Array


@dataclass(frozen=True, slots=True)
class Induced:
    """Edges among a set of nodes: rows and columns are indexes into the sets, int32 [m]; positions: int64 [m], dense edge ids.

    Grouped by row in the rows' order, and in list order within one.
    """

    rows: I32Array
    columns: I32Array
    positions: I64Array


def pack_adjacency(
    node_starts: I64Array,
    edge_starts: I64Array,
    indptr: I64Array,
    indices: I64Array,
    weights: I64Array | None = None,
    cumulative: I64Array | None = None,
    times: I64Array | None = None,
) -> I64Array:
    """The table that the functions here take as `adjacency`: int64 [P + 1, 8], one cache line a partition.

    node_starts: int64 [P + 1], first dense id of each partition's from-nodes; edge_starts: int64 [P + 1], first dense edge id of each.
    The others: int64 [P], addresses of the partitions' sections, 0 where a partition is not held (or has no such section); None: no
    partition has it.
    """
    partitions = len(node_starts) - 1
    table = np.zeros((partitions + 1, _kernels.COLUMNS), np.int64)
    table[:, _kernels.NODE] = node_starts
    table[:, _kernels.EDGE] = edge_starts
    columns = ((_kernels.INDPTR, indptr), (_kernels.INDICES, indices), (_kernels.WEIGHTS, weights))
    for column, addresses in (*columns, (_kernels.CUMULATIVE, cumulative), (_kernels.TIMES, times)):
        if addresses is not None:
            table[:partitions, column] = addresses
    table[partitions, _kernels.SCALE] = (partitions << 32) // max(int(node_starts[-1]), 1)
    table[partitions, _kernels.SCALE + 1] = (partitions << 32) // max(int(edge_starts[-1]), 1)
    return table


def sample(
    adjacency: I64Array,
    frontier: I32Array,
    fan_out: int,
    *,
    strategy: str = "uniform",
    replace: bool = False,
    seed: int = 0,
    hop: int = 0,
    salt: int = 0,
    as_of: I64Array = ALWAYS,
) -> Sampled:
    """Up to `fan_out` neighbours of every frontier node; -1: all of them, whatever the strategy.

    Args:
        frontier: int32 [n], dense ids in range; repeats get the same answer.
        strategy: one of STRATEGIES. "last" and "all" draw nothing, nor does "top_k"; `replace` means something for the first two.
        seed, hop, salt: what the draws are keyed by, beside the node; salt is the adjacency's number.
        as_of: int64 [n], µs since 1970: only edges at or before it exist (of an adjacency without times: all of them); or empty.
    Raises:
        InputError: no such strategy, or a fan-out below -1.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"no sampling strategy {strategy!r}; there are {', '.join(STRATEGIES)}.")
    if not -1 <= fan_out <= FAN_OUT_MAX:
        raise InputError(f"fan-out {fan_out} is not a number of neighbours: give 0 or more, or -1 for all.")
    if strategy == "all" or fan_out == -1:
        return sample_all(adjacency, frontier, as_of=as_of)
    if strategy == "last":
        return sample_last(adjacency, frontier, fan_out, as_of=as_of)
    if strategy == "top_k":
        return sample_top_k(adjacency, frontier, fan_out, as_of=as_of)
    draw = sample_uniform if strategy == "uniform" else sample_weighted
    return draw(adjacency, frontier, fan_out, replace=replace, seed=seed, hop=hop, salt=salt, as_of=as_of)


def sample_uniform(
    adjacency: I64Array,
    frontier: I32Array,
    fan_out: int,
    *,
    replace: bool = False,
    seed: int = 0,
    hop: int = 0,
    salt: int = 0,
    as_of: I64Array = ALWAYS,
) -> Sampled:
    """Neighbours drawn uniformly. Without replacement: in list order, and the whole list if it is not longer than `fan_out`.

    With replacement: `fan_out` independent draws, in draw order; none of a node without neighbours.
    Source: Floyd's algorithm (Bentley and Floyd 1987, "A sample of brilliance"); docs/internals/determinism.md.
    """
    key = key_of(seed, hop, salt)
    rows, most = _rows(adjacency, frontier, as_of, fan_out, replace)
    out = _Room(len(rows), most)
    kernel = _kernels.fill_uniform_again if replace else _kernels.fill_uniform
    return out.taken(kernel(rows, fan_out, key, writable(frontier, np.int32), out.counts, out.neighbours, out.positions))


def sample_weighted(
    adjacency: I64Array,
    frontier: I32Array,
    fan_out: int,
    *,
    replace: bool = False,
    seed: int = 0,
    hop: int = 0,
    salt: int = 0,
    as_of: I64Array = ALWAYS,
) -> Sampled:
    """Neighbours drawn in proportion to their edges' weights; an edge of weight 0 is never drawn.

    With replacement: `fan_out` independent draws, in draw order; none if no weight is positive. Without: successive draws, each in
    proportion to what is left, in the order drawn; all edges of positive weight, in list order, if there are not more than `fan_out`.
    Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir".
    """
    key = key_of(seed, hop, salt)
    rows, most = _rows(adjacency, frontier, as_of, fan_out, replace)
    out = _Room(len(rows), most)
    kernel = _kernels.fill_weighted_again if replace else _kernels.fill_weighted
    return out.taken(kernel(adjacency, rows, fan_out, key, writable(frontier, np.int32), out.counts, out.neighbours, out.positions))


def sample_top_k(adjacency: I64Array, frontier: I32Array, fan_out: int, *, as_of: I64Array = ALWAYS) -> Sampled:
    """The `fan_out` neighbours of greatest weight, heaviest first; of equal ones the earlier in the list."""
    rows, most = _rows(adjacency, frontier, as_of, fan_out, False)
    out = _Room(len(rows), most)
    return out.taken(_kernels.fill_top_k(adjacency, rows, fan_out, out.counts, out.neighbours, out.positions))


def sample_last(adjacency: I64Array, frontier: I32Array, fan_out: int, *, as_of: I64Array = ALWAYS) -> Sampled:
    """The last `fan_out` of every list, in list order: of an adjacency with times, the most recent ones, oldest first."""
    rows, most = _rows(adjacency, frontier, as_of, fan_out, False)
    out = _Room(len(rows), most)
    return out.taken(_kernels.fill_last(rows, fan_out, out.counts, out.neighbours, out.positions))


def sample_all(adjacency: I64Array, frontier: I32Array, *, as_of: I64Array = ALWAYS) -> Sampled:
    """Every neighbour, in list order."""
    rows, most = _rows(adjacency, frontier, as_of, FAN_OUT_MAX, False)
    out = _Room(len(rows), most)
    return out.taken(_kernels.fill_last(rows, FAN_OUT_MAX, out.counts, out.neighbours, out.positions))


def sample_layer(
    adjacency: I64Array,
    frontier: I32Array,
    fan_out: int,
    *,
    seed: int = 0,
    hop: int = 0,
    node_type: int = 0,
    as_of: I64Array = ALWAYS,
) -> Sampled:
    """Neighbours that the frontier shares: every *neighbour* draws one number, and is taken by each node whose degree allows it.

    An edge is taken with probability min(1, fan_out / degree), so `fan_out` of a longer list on average; in list order. Edges of
    different types to nodes of one type share the numbers: `node_type` is the neighbours'.
    Source: Balin and Catalyurek 2023, "Layer-neighbor sampling: defusing neighborhood explosion in GNNs" (LABOR-0).
    """
    key = key_of(seed, hop, SALT_LABOR + node_type)
    rows, most = _rows(adjacency, frontier, as_of, FAN_OUT_MAX if fan_out == -1 else fan_out, False)
    counts = np.zeros(len(rows), np.int32)
    parts: list[tuple[I32Array, I64Array]] = []
    first, room = 0, most + (most >> 2) + 1024
    while first < len(rows):
        room = max(room, int(rows[first, _kernels.LENGTH]))  # one row always fits
        neighbours, positions = np.empty(room, np.int32), np.empty(room, np.int64)
        first, used = _labor_kernels.fill_layer(rows, first, fan_out, key, counts, neighbours, positions)
        parts.append((neighbours[:used], positions[:used]))
    return Sampled(counts, _joined([part[0] for part in parts], np.int32), _joined([part[1] for part in parts], np.int64))


def counts(adjacency: I64Array, frontier: I32Array, *, as_of: I64Array = ALWAYS) -> I64Array:
    """How many neighbours (edges) every frontier node has: int64 [n]."""
    rows, _ = _rows(adjacency, frontier, as_of, FAN_OUT_MAX, False)
    return np.ascontiguousarray(rows[:, _kernels.LENGTH])


def find_edges(adjacency: I64Array, sources: I32Array, targets: I32Array, *, as_of: I64Array = ALWAYS) -> I64Array:
    """The dense edge id of an edge from sources[i] to targets[i], int64 [n]; -1: there is none. Of several, the last in list order.

    O(log degree) for an adjacency without times, O(degree) for one with.
    """
    found = np.empty(len(sources), np.int64)
    as_of = writable(as_of, np.int64)
    _kernels.find_edges(adjacency, writable(sources, np.int32), writable(targets, np.int32), as_of, found)
    return found


def has_edges(adjacency: I64Array, sources: I32Array, targets: I32Array, *, as_of: I64Array = ALWAYS) -> BoolArray:
    """Whether there is an edge from sources[i] to targets[i]: bool [n]."""
    return find_edges(adjacency, sources, targets, as_of=as_of) >= 0


def edge_weights(adjacency: I64Array, positions: I64Array) -> F32Array:
    """The weights of edges by their dense ids: float32 [n]; 1 where none are stored."""
    out = np.empty(len(positions), np.float32)
    _kernels.take_weights(adjacency, writable(positions, np.int64), out)
    return out


def edge_times(adjacency: I64Array, positions: I64Array) -> I64Array:
    """The times of edges by their dense ids: int64 [n], µs since 1970; 0 where none are stored."""
    out = np.empty(len(positions), np.int64)
    _kernels.take_times(adjacency, writable(positions, np.int64), out)
    return out


def edge_ends(adjacency: I64Array, positions: I64Array) -> tuple[I32Array, I32Array]:
    """From-node and to-node of edges by their dense ids: int32 [n] each. O(log nodes) an edge."""
    sources, targets = np.empty(len(positions), np.int32), np.empty(len(positions), np.int32)
    _kernels.take_ends(adjacency, writable(positions, np.int64), sources, targets)
    return sources, targets


def writable(array: npt.NDArray[Any], dtype: type[Scalar]) -> npt.NDArray[Scalar]:
    """The array itself, or a copy if it is of another type, strided, or read-only (for which kernels would be compiled once more)."""
    if array.dtype == dtype and array.flags.carray:
        return array
    return np.array(array, dtype, order="C")


class _Room:
    """Arrays of a sampler's answer, as long as it can get."""

    def __init__(self, rows: int, most: int) -> None:
        self.counts = np.empty(rows, np.int32)
        self.neighbours = np.empty(most, np.int32)
        self.positions = np.empty(most, np.int64)

    def taken(self, used: int) -> Sampled:
        if used == len(self.neighbours):
            return Sampled(self.counts, self.neighbours, self.positions)
        return Sampled(self.counts, self.neighbours[:used], self.positions[:used])


def locate(adjacency: I64Array, frontier: I32Array, as_of: I64Array = ALWAYS) -> tuple[I64Array, int]:
    """Where the frontier's whole lists lie, int64 [n, 4] (see _kernels.locate_rows), and how long they are together."""
    return _rows(adjacency, frontier, as_of, FAN_OUT_MAX, False)


def _rows(adjacency: I64Array, frontier: I32Array, as_of: I64Array, fan_out: int, replace: bool) -> tuple[I64Array, int]:
    """Where the frontier's lists lie (see _kernels.locate_rows), and how many picks there can be."""
    rows = np.empty((len(frontier), _kernels.ROW_COLUMNS), np.int64)
    most = _kernels.locate_rows(adjacency, writable(frontier, np.int32), writable(as_of, np.int64), fan_out, replace, rows)
    return rows, most


def _joined(parts: list[npt.NDArray[Scalar]], dtype: type[Scalar]) -> npt.NDArray[Scalar]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, dtype)

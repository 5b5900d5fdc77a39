"""Personalised PageRank over shards: the best nodes around every seed.

One shard that holds everything answers `Rank` by one kernel call. Of several, this side pushes (`_ppr_kernels.advance`) and fetches the
lists that the next round of any seed needs: first lengths, since most nodes that are touched have too little residual for their degree,
then the lists of the others. A list is fetched once for all seeds of a block. The same kernel adds the same numbers in the same order
either way, so scores are equal bit for bit.

Pure functions; any thread. Importing this imports numba.
Source: Andersen, Chung and Lang 2006, "Local graph partitioning using PageRank vectors".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError
from fondaco.graph import _ppr_kernels as kernels
from fondaco.graph._kernels import COLUMNS
from fondaco.graph._walk_kernels import ALWAYS
from fondaco.graph.deadlines import Deadline
from fondaco.graph.execution import Ask, Execution, seeds_of
from fondaco.graph.packed import tables_of
from fondaco.graph.queries import ALL, Arrays, PageRank, put_ids
from fondaco.graph.sampling import writable
from fondaco.graph.schema import GraphSchema
from fondaco.graph.shards import Counts, Hop, Rank, ShardRequest
from fondaco.graph.walks import check_as_of, names_of

if TYPE_CHECKING:
    from fondaco.graph.opened import OpenGraph

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]

TOP_K_MAX: Final = 1 << 20
EPS_MIN: Final = 1e-9
WORK_MAX: Final = 1e10  # edges that one seed may need: minutes
_WORK: Final = 1 << 22  # edges of one kernel call, some tenths of a second: the deadline is looked at between them
BLOCK: Final = 64  # seeds of one call, or pushed from side by side: bounds their memory, and the deadline is looked at between them
_NODE_BITS: Final = 32


def page_rank(execution: Execution, query: PageRank, arrays: Arrays) -> Arrays:
    """The answer to `PageRank`."""
    rank = Rank(
        edge_types=names_of(query.edge_type), direction=query.direction, top_k=query.top_k, weighted=query.weighted,
        alpha=query.alpha, eps=query.eps,
    )  # fmt: skip
    node_type = execution.schema.nodes[check_rank(execution.schema, rank)].name
    if node_type != query.node_type:
        raise InputError(f"edges {', '.join(rank.edge_types)} are between nodes of type {node_type!r}, not {query.node_type!r}")
    seeds = execution.resolve(node_type, seeds_of(arrays), pad=query.pad)
    counts, nodes, scores = rank_all(execution, rank, seeds, check_as_of(execution.schema, rank.edge_types, arrays, len(seeds)))
    answer: Arrays = {"counts": counts, "scores": scores.astype(np.float32)}
    put_ids(answer, "nodes", execution.ids(node_type, nodes))
    return answer


def rank_all(
    execution: Execution, query: Rank, seeds: I32Array, as_of: I64Array | None = None
) -> tuple[I64Array, I32Array, npt.NDArray[np.float64]]:
    """The best nodes around every seed.

    Args:
        seeds: int32 [n], dense ids; -1 (unknown): none. as_of: int64 [n] or [1], only edges at or before it.
    Returns:
        counts int64 [n]; nodes int32 and scores float64 [sum(counts)], best first, ties by dense id.
    Raises:
        InputError: see `check_rank`.
    """
    check_rank(execution.schema, query)
    counts = np.zeros(len(seeds), np.int64)
    known = np.flatnonzero(seeds >= 0)
    bounds = None if as_of is None else np.array(np.broadcast_to(as_of, len(seeds))[known], np.int64)
    frontier = writable(seeds[known], np.int32)
    found: list[Arrays] = []
    for begin in range(0, len(frontier), BLOCK):
        rows = slice(begin, begin + BLOCK)
        bound = None if bounds is None else bounds[rows]
        if execution.shards.shard_count > 1:
            found.append(_rank_over(execution, query, frontier[rows], bound))
        else:
            arrays: Arrays = {"frontier": frontier[rows]} if bound is None else {"frontier": frontier[rows], "as_of": bound}
            found += execution.ask([ShardRequest(0, query, arrays)])
    counts[known] = np.concatenate([np.empty(0, np.int64), *(part["counts"] for part in found)])
    nodes = np.concatenate([np.empty(0, np.int32), *(part["nodes"] for part in found)])
    return counts, nodes, np.concatenate([np.empty(0, np.float64), *(part["scores"] for part in found)])


def check_rank(schema: GraphSchema, query: Rank) -> int:
    """The position of the node type that the edges lead from and to.

    Raises:
        InputError: edges between different types, weights that are not there, or numbers out of bounds. EdgeTypeNotFoundError.
    """
    types: set[int] = set()
    for name in query.edge_types:
        adjacency = schema.adjacency(name, query.direction)
        types |= {adjacency.from_type, adjacency.to_type}
        if query.weighted and not adjacency.edge.weighted:
            raise InputError(f"edges {adjacency.edge.name!r} have no weights; rank with weighted=False, or build them with a weight")
    if len(types) != 1:
        raise InputError(f"PageRank needs edges within one node type; {', '.join(query.edge_types) or 'no edge type'} are not")
    if not 0.0 < query.alpha <= 1.0:
        raise InputError(f"alpha is a chance above 0 and at most 1, not {query.alpha}")
    if not EPS_MIN <= query.eps < math.inf:
        raise InputError(f"eps is at least {EPS_MIN:g}, not {query.eps}; up to 1 / (alpha eps) edges are looked at for each seed")
    if query.alpha * query.eps * WORK_MAX < 1.0:
        raise InputError(
            f"alpha {query.alpha:g} with eps {query.eps:g}: up to 1 / (alpha eps) edges are looked at for each seed, and more than "
            f"{WORK_MAX:g} are too many; choose a greater eps"
        )
    if not 1 <= query.top_k <= TOP_K_MAX:
        raise InputError(f"top_k is between 1 and {TOP_K_MAX}, not {query.top_k}")
    return types.pop()


def answer(opened: OpenGraph, query: Rank, arrays: Arrays, deadline: Deadline) -> Arrays:
    """A shard's answer to `Rank`.

    Raises:
        InputError: see `check_rank`; nodes outside the graph, or not all partitions are held here. DeadlineExceededError.
    """
    total = opened.node_tables[check_rank(opened.schema, query)].count
    seeds = writable(arrays["frontier"], np.int32)
    if not opened.holds_all:
        raise InputError(f"Rank is asked of one that holds the whole graph; this one holds the partitions {sorted(opened.held)}")
    if len(seeds) and (seeds.min() < 0 or seeds.max() >= total):
        raise InputError(f"nodes from {seeds.min()} to {seeds.max()}; there are {total}: 0 to {total - 1}")
    as_of = np.array(np.broadcast_to(arrays["as_of"], len(seeds)), np.int64) if "as_of" in arrays else np.empty(0, np.int64)
    room = _room(query, total)
    counts, nodes, scores = np.empty(len(seeds), np.int64), np.empty((len(seeds), room), np.int32), np.empty((len(seeds), room), np.float64)
    tables = tables_of(opened).stack(opened, query.edge_types, query.direction)
    done, is_long = 0, False
    while done < len(seeds) and not is_long:
        deadline.check()
        rest = slice(done, None)
        came_to, is_long = kernels.rank(
            tables, seeds[rest], as_of[rest], query.alpha, query.eps, query.weighted, counts[rest], nodes[rest], scores[rest], _WORK
        )
        done += came_to
    for i in range(done, len(seeds)):  # one that takes long, and those after it, which may: each by itself, and by and by
        state = _State(int(seeds[i]))
        state.advance(_Mapped(tables, int(as_of[i]) if len(as_of) else ALWAYS), query, deadline)
        counts[i] = state.best(nodes[i], scores[i])
    return _joined(counts, nodes, scores)


def _room(query: Rank, total: int) -> int:
    """How many nodes one seed can get: each has been pushed from, and a push settles alpha eps of the mass or more."""
    return min(query.top_k, total, int(1.0 / (query.alpha * query.eps)) + 2)


def _joined(counts: I64Array, nodes: I32Array, scores: npt.NDArray[np.float64]) -> Arrays:
    there = np.arange(nodes.shape[1]) < counts[:, None]
    return {"counts": counts, "nodes": nodes[there], "scores": scores[there]}


# -- over several shards --------------------------------------------------------------------------------------------------------------


def _rank_over(execution: Execution, query: Rank, seeds: I32Array, as_of: I64Array | None) -> Arrays:
    room = _room(query, execution.node_count(execution.schema.nodes[check_rank(execution.schema, query)].name))
    counts, nodes, scores = np.empty(len(seeds), np.int64), np.empty((len(seeds), room), np.int32), np.empty((len(seeds), room), np.float64)
    for bound in [ALWAYS] if as_of is None else np.unique(as_of).tolist():
        rows = np.arange(len(seeds)) if as_of is None else np.flatnonzero(as_of == bound)
        lists = _Lists(execution, query, bound)
        states = [_State(int(seeds[row])) for row in rows]
        pending = states
        while pending:
            wanted = [state.advance(lists, query, execution.deadline) for state in pending]
            pending = [state for state, missing in zip(pending, wanted, strict=True) if len(missing)]
            if pending:
                lists.fetch(np.unique(np.concatenate(wanted)))
        for row, state in zip(rows, states, strict=True):
            counts[row] = state.best(nodes[row], scores[row])
    return _joined(counts, nodes, scores)


class _Mapped:
    """Lists of partitions that are all mapped here."""

    is_cache: Final = False

    def __init__(self, tables: I64Array, as_of: int) -> None:
        self.tables, self.as_of = tables, as_of
        self.keys, self.slots = np.empty(0, np.int64), np.empty(0, np.int32)
        self.entries = np.empty((0, kernels.CACHE_COLUMNS), np.int64)


class _Lists:
    """Lists that were fetched, as kernels find them: by key (adjacency << 32) + node."""

    is_cache: Final = True

    def __init__(self, execution: Execution, query: Rank, as_of: int) -> None:
        self._execution, self._query, self._as_of = execution, query, as_of
        self._adjacencies = [execution.schema.adjacency(name, query.direction) for name in query.edge_types]
        self._alive: list[npt.NDArray[np.generic]] = []  # what the addresses point into
        self.tables = np.zeros((len(self._adjacencies), 2, COLUMNS), np.int64)  # says only how many adjacencies there are
        self.as_of = as_of
        self.keys = np.empty(0, np.int64)
        self.entries = np.empty((0, kernels.CACHE_COLUMNS), np.int64)
        self.slots = np.full(16, -1, np.int32)

    def fetch(self, nodes: I64Array) -> None:
        """Get what is missing of the nodes: lengths where they are not known, lists where they are."""
        first = self._find(nodes)
        self._fetch_counts(nodes[first < 0])
        self._fetch_lists(nodes[first >= 0])

    def _find(self, nodes: I64Array) -> I64Array:
        entries = np.empty(len(nodes), np.int64)
        kernels.find_all(self.slots, self.keys, nodes, entries)
        return entries

    def _asks(self, nodes: I64Array, *, whole: bool) -> list[Ask]:
        frontier, by_row = nodes.astype(np.int32), None
        if self._as_of != ALWAYS:
            by_row = {"as_of": np.full(len(nodes), self._as_of)}
        asks = []
        for adjacency in self._adjacencies:
            name, direction = adjacency.edge.name, adjacency.direction
            query: Hop | Counts = Counts(edge_type=name, direction=direction)
            if whole:
                query = Hop(edge_type=name, direction=direction, fan_out=ALL, strategy="all", weights=self._query.weighted)
            asks.append(Ask(query, self._execution.starts(adjacency), "frontier", frontier, by_row))
        return asks

    def _fetch_counts(self, nodes: I64Array) -> None:
        if not len(nodes):
            return
        for number, parts in enumerate(self._execution.ask_many(self._asks(nodes, whole=False))):
            entries = np.zeros((len(nodes), kernels.CACHE_COLUMNS), np.int64)
            entries[:, kernels.COUNT] = parts.rows("counts", np.int64)
            self.keys = np.concatenate([self.keys, (number << _NODE_BITS) + nodes])
            self.entries = np.concatenate([self.entries, entries])
        if 2 * len(self.keys) > len(self.slots):
            self.slots = np.empty(1 << int(4 * len(self.keys)).bit_length(), np.int32)
        kernels.fill_slots(self.slots, self.keys, len(self.keys))

    def _fetch_lists(self, nodes: I64Array) -> None:
        if not len(nodes):
            return
        for number, parts in enumerate(self._execution.ask_many(self._asks(nodes, whole=True))):
            counts = parts.rows("counts", np.int32)
            offsets = np.cumsum(counts, dtype=np.int64) - counts
            entries = self._find((number << _NODE_BITS) + nodes)
            self.entries[entries, kernels.NEIGHBOURS] = self._keep(parts.runs(counts, "neighbors", np.int32), np.int32) + 4 * offsets
            if self._query.weighted:
                self.entries[entries, kernels.CACHED_WEIGHTS] = (
                    self._keep(parts.runs(counts, "weights", np.float32), np.float32) + 4 * offsets
                )

    def _keep(self, array: npt.NDArray[np.generic], dtype: type[np.int32] | type[np.float32]) -> int:
        kept = np.ascontiguousarray(array, dtype)
        self._alive.append(kept)
        return int(kept.ctypes.data)


class _State:
    """What is pushed around one seed (see `_ppr_kernels`)."""

    def __init__(self, seed: int) -> None:
        self.head = np.zeros(kernels.HEAD, np.int64)
        self._make(kernels.ROOM_AT_FIRST >> 2)
        kernels.start(seed, self.keys, self.residuals, self.estimates, self.flags, self.slots, self.marked, self.head)

    def _make(self, room: int) -> None:
        self.keys, self.missing = np.empty(room, np.int64), np.empty(room, np.int64)
        self.residuals, self.estimates = np.empty(room, np.float64), np.empty(room, np.float64)
        self.flags, self.marked, self.slots = np.empty(room, np.uint8), np.empty(room, np.int32), np.empty(2 * room, np.int32)

    def best(self, nodes: I32Array, scores: npt.NDArray[np.float64]) -> int:
        """Write the best nodes found, as many as there is room for; how many."""
        return int(kernels.best(self.keys, self.estimates, int(self.head[kernels.TOUCHED]), nodes, scores))

    def advance(self, lists: _Lists | _Mapped, query: Rank, deadline: Deadline) -> I64Array:
        """Push as far as the lists lead; the nodes whose lists are missing, none when it is done.

        Raises:
            DeadlineExceededError.
        """
        while True:
            deadline.check()
            self.head[kernels.WORK] = 0
            came_to, missing = kernels.advance(
                lists.tables, lists.is_cache, lists.entries, lists.slots, lists.keys, lists.as_of, query.alpha, query.eps, query.weighted,
                self.keys, self.residuals, self.estimates, self.flags, self.slots, self.marked, self.head, self.missing, _WORK,
            )  # fmt: skip
            if came_to == kernels.CROWDED:
                self._grow()
            elif came_to != kernels.PAUSED:
                return self.missing[:missing].copy()

    def _grow(self) -> None:
        touched, marked = int(self.head[kernels.TOUCHED]), int(self.head[kernels.MARKED])
        keys, residuals, estimates, flags, marks = self.keys, self.residuals, self.estimates, self.flags, self.marked
        self._make(1 << (int(self.head[kernels.ROOM]) - 1).bit_length())
        self.keys[:touched], self.residuals[:touched], self.estimates[:touched] = keys[:touched], residuals[:touched], estimates[:touched]
        self.flags[:touched], self.marked[:marked] = flags[:touched], marks[:marked]
        kernels.fill_slots(self.slots, self.keys, touched)

"""Global sampling: nodes or edges drawn out of all of a type, uniform or by weight, with or without replacement.

Uniform draws are positions in [0, total) and need no shard. By weight with replacement: the partitions' sums of weights choose a partition,
and its shard finds the node or edge. By weight without replacement: every node or edge has a key that only its position and the seed
determine, every shard finds the smallest keys of its partitions, and the smallest of those are the answer, in the order of their keys; that
reads every weight.

No answer depends on how partitions are divided among shards. Draws: `_global_kernels`. Pure functions; any thread. Imports numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError, LimitError, PartitionNotHeldError
from fondaco.graph import _global_kernels as kernels
from fondaco.graph._draws import SALT_EDGES, SALT_NODES, key_of
from fondaco.graph.execution import Ask, Execution
from fondaco.graph.packed import tables_of
from fondaco.graph.queries import Arrays, SampleEdges, SampleNodes, TotalWeight, put_ids
from fondaco.graph.schema import Direction, GraphSchema
from fondaco.graph.shards import EdgesAt, Masses, Pick, SmallestKeys

if TYPE_CHECKING:
    from fondaco.graph.opened import OpenGraph

I64Array = npt.NDArray[np.int64]
F64Array = npt.NDArray[np.float64]

COUNT_MAX: Final = 1 << 26  # of one answer: 2 GB while it is made


def sample_nodes(execution: Execution, query: SampleNodes, arrays: Arrays) -> Arrays:
    """The answer to `SampleNodes`.

    Raises:
        InputError: more than there are without replacement; no weights, or none above 0.
    """
    index = execution.schema.node_index(query.node_type)
    what = f"nodes of type {query.node_type!r}"
    key = key_of(query.seed, 0, SALT_NODES + index)
    if query.weighted:
        of = _Type(node_type=query.node_type)
        positions = _weighted(execution, of, query.count, query.seed, key, what, replace=query.replace)
    else:
        positions = _uniform(key, execution.node_count(query.node_type), query.count, what, replace=query.replace)
    answer: Arrays = {}
    put_ids(answer, "nodes", execution.ids(query.node_type, positions.astype(np.int32)))
    return answer


def sample_edges(execution: Execution, query: SampleEdges, arrays: Arrays) -> Arrays:
    """The answer to `SampleEdges`. The same seed draws other edges with another direction: each has its own order of edges.

    Raises:
        InputError: more than there are without replacement; no weights, or none above 0; the direction is not stored.
    """
    adjacency = execution.schema.adjacency(query.edge_type, query.direction)
    edge, what = adjacency.edge, f"edges {adjacency.edge.name!r}"
    key = key_of(query.seed, 0, SALT_EDGES + execution.schema.edge_index(edge))
    if query.weighted:
        of = _Type(edge_type=edge.name, direction=query.direction)
        positions = _weighted(execution, of, query.count, query.seed, key, what, replace=query.replace)
    else:
        positions = _uniform(key, execution.edge_count(adjacency), query.count, what, replace=query.replace)
    at = EdgesAt(edge_type=edge.name, direction=query.direction, weights=edge.weighted)
    parts = execution.ask_rows(Ask(at, execution.shards.edge_starts(edge.name, query.direction), "edge_ids", positions))
    ends = parts.rows("from", np.int32), parts.rows("to", np.int32)
    src, dst = ends if query.direction == "out" else ends[::-1]
    answer: Arrays = {"edge_ids": positions}
    put_ids(answer, "src", execution.ids(edge.src, src))
    put_ids(answer, "dst", execution.ids(edge.dst, dst))
    if edge.weighted:
        answer["weights"] = parts.rows("weights", np.float32)
    return answer


def total_weight(execution: Execution, query: TotalWeight, arrays: Arrays) -> Arrays:
    """The answer to `TotalWeight`: sums of partitions, added in their order.

    Raises:
        InputError: the type has no weights.
    """
    of = _Type(query.node_type, query.edge_type, query.direction)
    if not of.is_weighted(execution.schema):
        what = f"nodes of type {query.node_type!r}" if query.node_type is not None else f"edges {query.edge_type!r}"
        raise InputError(f"{what} have no weights; count them instead, or build them with a weight")
    return {"weight": _masses(execution, of).sum(keepdims=True)}


def answer(opened: OpenGraph, query: Masses | Pick | SmallestKeys, arrays: Arrays) -> Arrays:
    """A shard's answer.

    Raises:
        InputError: the type has no weights. PartitionNotHeldError.
    """
    of = _Weights(opened, _Type(query.node_type, query.edge_type, query.direction))
    if isinstance(query, Masses):
        partitions = _held(opened, arrays["partitions"])
        return {"masses": np.array([of.mass(partition) for partition in partitions], np.float64)}
    if isinstance(query, Pick):
        rows, masses = np.asarray(arrays["partition"], np.int64), np.ascontiguousarray(arrays["mass"], np.float64)
        positions = np.empty(len(rows), np.int64)
        for partition in _held(opened, np.unique(rows)):
            chosen = rows == partition
            positions[chosen] = of.pick(partition, masses[chosen])
        return {"positions": positions}
    room = min(max(query.count, 0), of.total)
    keys, positions, used = np.empty(room, np.float64), np.empty(room, np.int64), 0
    key = key_of(query.seed, 0, of.salt)
    for partition in _held(opened, arrays["partitions"]):
        address, count, first = of.weights(partition)
        used = kernels.keep_smallest(address, count, first, key, keys, positions, used)
    return {"keys": keys[:used], "positions": positions[:used]}


class _Type:
    """A node type, or an edge type in a direction."""

    def __init__(self, node_type: str | None = None, edge_type: str | None = None, direction: Direction = "out") -> None:
        self.node_type, self.edge_type, self.direction = node_type, edge_type, direction

    def is_weighted(self, schema: GraphSchema) -> bool:
        if (self.node_type is None) == (self.edge_type is None):
            raise InputError("weights are those of a node type or of an edge type: say one of them")
        if self.node_type is not None:
            return schema.node(self.node_type).weighted
        return schema.adjacency(self.edge_type or "", self.direction).edge.weighted


class _Weights:
    """Weights of the nodes or edges of a type, by partition."""

    def __init__(self, opened: OpenGraph, of: _Type) -> None:
        if not of.is_weighted(opened.schema):
            raise InputError(f"{of.node_type or of.edge_type!r} has no weights; draw with weighted=False")
        self._opened = opened
        self._nodes = None if of.node_type is None else opened.node_table(of.node_type)
        self._edges = None if of.edge_type is None else opened.adjacency_table(of.edge_type, of.direction)
        if self._nodes is not None:
            self._starts, self._addresses, self.salt = self._nodes.starts, self._nodes.weights, SALT_NODES + self._nodes.index
        else:
            assert self._edges is not None
            index = opened.schema.edge_index(self._edges.adjacency.edge)
            self._starts, self._addresses, self.salt = self._edges.edge_starts, self._edges.weights, SALT_EDGES + index
        self.total = int(self._starts[-1])

    def weights(self, partition: int) -> tuple[int, int, int]:
        """(address of the float32 weights, how many, position of the first)."""
        first = int(self._starts[partition])
        return int(self._addresses[partition]), int(self._starts[partition + 1]) - first, first

    def mass(self, partition: int) -> float:
        """The sum of the weights."""
        if self._nodes is not None:
            return float(kernels.last_sum(int(self._nodes.sampling_cumulative[partition]), self.weights(partition)[1]))
        sums = self._row_sums(partition)
        return float(sums[-1]) if len(sums) else 0.0

    def pick(self, partition: int, masses: F64Array) -> I64Array:
        """Positions under which masses fall."""
        if not self.mass(partition) > 0.0:
            raise InputError(f"partition {partition} has no weight above 0")
        positions = np.empty(len(masses), np.int64)
        _, count, first = self.weights(partition)
        if self._nodes is not None:
            kernels.pick_nodes(int(self._nodes.sampling_cumulative[partition]), count, masses, positions)
        else:
            assert self._edges is not None
            indptr, cumulative = int(self._edges.indptr[partition]), int(self._edges.cumulative[partition])
            kernels.pick_edges(indptr, cumulative, self._row_sums(partition), masses, positions)
        return positions + first

    def _row_sums(self, partition: int) -> F64Array:
        assert self._edges is not None
        return tables_of(self._opened).row_sums(self._opened, self._edges.adjacency.number, partition)


def _held(opened: OpenGraph, partitions: npt.NDArray[np.int64]) -> list[int]:
    wanted = [int(partition) for partition in partitions]
    for partition in wanted:
        if partition not in opened.held:
            raise PartitionNotHeldError(opened.name, opened.version, partition)
    return wanted


def _uniform(key: np.uint64, total: int, count: int, what: str, *, replace: bool) -> I64Array:
    _check_count(count, total, what, replace=replace)
    positions = np.empty(count, np.int64)
    (kernels.draw_again if replace else kernels.draw_distinct)(key, total, positions)
    return positions


def _check_count(count: int, total: int, what: str, *, replace: bool) -> None:
    if count < 0:
        raise InputError(f"cannot draw {count} {what}; ask for 0 or more")
    if count > COUNT_MAX:
        raise LimitError(f"{what} drawn at once", count, COUNT_MAX, "Ask for fewer; node_ids lists all of them.")
    if count > total and (not replace or total == 0):
        raise InputError(
            f"cannot draw {count} different {what}: there are {total}; ask for fewer" + ("" if total == 0 else ", or replace=True")
        )


def _masses(execution: Execution, of: _Type) -> F64Array:
    """The sum of the weights in each partition: float64 [partitions]."""
    masses = np.zeros(execution.shards.partitions, np.float64)
    query = Masses(node_type=of.node_type, edge_type=of.edge_type, direction=of.direction)
    for shard, found in enumerate(execution.ask_all(query, lambda shard: {"partitions": execution.held(shard)})):
        masses[execution.held(shard)] = found["masses"]
    return masses


def _weighted(execution: Execution, of: _Type, count: int, seed: int, key: np.uint64, what: str, *, replace: bool) -> I64Array:
    if not of.is_weighted(execution.schema):
        raise InputError(f"{what} have no weights; draw with weighted=False, or build them with a weight")
    _check_count(count, COUNT_MAX, what, replace=replace)
    kind = {"node_type": of.node_type, "edge_type": of.edge_type}
    if not replace:
        smallest = SmallestKeys(count=count, seed=seed, direction=of.direction, **kind)
        answers = execution.ask_all(smallest, lambda shard: {"partitions": execution.held(shard)})
        keys = np.concatenate([found["keys"] for found in answers])
        positions = np.concatenate([found["positions"] for found in answers])
        if len(keys) < count:
            raise InputError(
                f"cannot draw {count} different {what} by weight: {len(keys)} have one above 0; ask for fewer, or replace=True"
            )
        return positions[np.lexsort((positions, keys))[:count]]
    sums = np.cumsum(_masses(execution, of))
    if count and not sums[-1] > 0.0:
        raise InputError(f"cannot draw {what} by weight: none has one above 0")
    partitions, rests = np.empty(count, np.int64), np.empty(count, np.float64)
    if count:
        kernels.draw_masses(key, sums, partitions, rests)
    pick = Pick(direction=of.direction, **kind)
    ask = Ask(pick, np.arange(execution.shards.partitions + 1), "partition", partitions, {"mass": rests})
    return execution.ask_rows(ask).rows("positions", np.int64)

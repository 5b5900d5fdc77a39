"""Executor: answers a query over shards. The one way from a question to an answer, in process and on a server alike.

`execute` looks a query's part up and runs it; parts ask shards through an `Execution`. Embedded and served answers are equal because both
come from here; they are equal for any division because shards answer about rows, and rows keep their order (`execution`).
Importing this imports numba. Thread rule: any thread, several at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError
from fondaco.graph import global_sampling, negatives, neighborhood, walks
from fondaco.graph import queries as q
from fondaco.graph.answers import id_array
from fondaco.graph.deadlines import Deadline
from fondaco.graph.execution import Ask, Execution, StoreColumns, seeds_of, take_ids
from fondaco.graph.features_of import put_edge_feature, put_node_feature
from fondaco.graph.queries import Answer, AnswerMeta, Arrays, Query, StringIds, put_ids
from fondaco.graph.schema import Adjacency
from fondaco.graph.shards import Allocator, Hop, Shards

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]


def execute(
    query: Query,
    arrays: Arrays,
    shards: Shards,
    *,
    deadline: Deadline | None = None,
    allocate: Allocator | None = None,
    stores: StoreColumns | None = None,
) -> Answer:
    """Answer `query`.

    Args:
        allocate: where the big arrays of the answer are to lie: node ids, edges, dense features. Other arrays lie anywhere.
        stores: reads features that are bound to a store.
    Raises:
        NodeIdError, InputError and what else the query's method on `Graph` raises; DeadlineExceededError; UnavailableError.
    """
    run = Execution(shards, Deadline() if deadline is None else deadline, allocate, stores)
    answer = _PARTS[type(query)](run, query, arrays)
    return Answer(AnswerMeta(version=shards.version, seed=getattr(query, "seed", 0)), answer)


# -- neighbours -----------------------------------------------------------------------------------------------------------------------


def _sample_neighbors(run: Execution, query: q.SampleNeighbors, arrays: Arrays) -> Arrays:
    adjacency = run.schema.adjacency(query.edge_type, query.direction)
    _check_start(run, adjacency, query.node_type)
    neighborhood.check_strategy(adjacency.edge, query.strategy)
    _check_as_of(arrays, adjacency)
    seeds = _Seeds(run, query.node_type, arrays, pad=query.pad)
    neighborhood.check_picks(len(seeds.dense), query.fan_out, replace=query.replace)
    hop = Hop(
        edge_type=adjacency.edge.name,
        direction=query.direction,
        fan_out=query.fan_out,
        strategy=query.strategy,
        replace=query.replace,
        seed=query.seed,
        edge_ids=query.edge_ids,
        weights=query.weights and adjacency.edge.weighted,
        times=query.times and adjacency.edge.timed,
    )
    parts = run.ask_rows(Ask(hop, run.starts(adjacency), "frontier", seeds.dense, seeds.by_row))
    counts = parts.rows("counts", np.int32)
    answer: Arrays = {"counts": seeds.spread(counts.astype(np.int64))}
    put_ids(answer, "neighbors", run.ids(run.schema.nodes[adjacency.to_type].name, parts.runs(counts, "neighbors", np.int32)))
    for name, dtype in (("edge_ids", np.int64), ("weights", np.float32), ("times", np.int64)):
        if parts.has(name):
            answer[name] = parts.runs(counts, name, dtype)
    return answer


def _count_neighbors(run: Execution, query: q.CountNeighbors, arrays: Arrays) -> Arrays:
    adjacency = run.schema.adjacency(query.edge_type, query.direction)
    _check_start(run, adjacency, query.node_type)
    _check_as_of(arrays, adjacency)
    seeds = _Seeds(run, query.node_type, arrays, pad=query.pad)
    return {"counts": seeds.spread(run.counts(adjacency, seeds.dense, seeds.as_of))}


def _find_edges(run: Execution, query: q.FindEdges, arrays: Arrays) -> Arrays:
    return {"edge_ids": _edge_ids(run, query.edge_type, query.direction, arrays, pad=query.pad)}


def _edge_ids(run: Execution, edge_type: str, direction: Any, arrays: Arrays, *, pad: bool) -> I64Array:
    adjacency = run.schema.adjacency(edge_type, direction)
    src = run.resolve(adjacency.edge.src, seeds_of(arrays, "src"), pad=pad)
    dst = run.resolve(adjacency.edge.dst, seeds_of(arrays, "dst"), pad=pad)
    if len(src) != len(dst):
        raise InputError(f"src has {len(src)} ids and dst {len(dst)}; give one pair an edge")
    rows, to = (src, dst) if direction == "out" else (dst, src)
    return run.find_edges(edge_type, direction, rows, to)


# -- features -------------------------------------------------------------------------------------------------------------------------


def _node_features(run: Execution, query: q.NodeFeatures, arrays: Arrays) -> Arrays:
    owner = run.schema.node(query.node_type)
    features = [owner.feature(name) for name in query.names]
    ids = seeds_of(arrays)
    dense = run.resolve(owner.name, ids, pad=query.pad)
    answer: Arrays = {}
    for feature in features:
        put_node_feature(run, answer, feature.name, owner.name, feature, dense, ids)
    return answer


def _edge_features(run: Execution, query: q.EdgeFeatures, arrays: Arrays) -> Arrays:
    adjacency = run.schema.adjacency(query.edge_type, query.direction)
    features = [adjacency.edge.feature(name) for name in query.names]
    rows = arrays.get("edge_ids")
    if rows is None:
        rows = _edge_ids(run, query.edge_type, query.direction, arrays, pad=query.pad)
        missing = np.flatnonzero(rows < 0)
        if len(missing) and not query.pad:
            ends = (id_array(take_ids(seeds_of(arrays, name), missing[:1]))[0] for name in ("src", "dst"))
            src, dst = (end if isinstance(end, str) else int(end) for end in ends)
            others = f", nor {len(missing) - 1} more of these" if len(missing) > 1 else ""
            raise InputError(
                f"there is no edge from {src!r} to {dst!r} of type {adjacency.edge.name!r} (position {missing[0]}){others}; "
                'look with has_edges, or say on_unknown="pad"'
            )
    else:
        count = run.edge_count(adjacency)
        outside = np.flatnonzero((rows < 0) | (rows >= count))
        if len(outside):
            raise InputError(
                f"edge id {int(rows[outside[0]])} at position {outside[0]} is none of {adjacency.edge.name!r} "
                f'in direction "{query.direction}", which has {count}: 0 to {count - 1}'
            )
    answer: Arrays = {}
    for feature in features:
        put_edge_feature(run, answer, feature.name, adjacency, feature, rows)
    return answer


# -- which nodes ----------------------------------------------------------------------------------------------------------------------


def _contains(run: Execution, query: q.Contains, arrays: Arrays) -> Arrays:
    return {"found": run.resolve(query.node_type, seeds_of(arrays), pad=True) >= 0}


def _node_types(run: Execution, query: q.NodeTypes, arrays: Arrays) -> Arrays:
    ids = seeds_of(arrays)
    kind = "string" if isinstance(ids, StringIds) else "long"
    types = np.full(q.id_count(ids), -1, np.int32)
    for index, node in enumerate(run.schema.nodes):
        if node.id == kind:
            open_ones = np.flatnonzero(types < 0)
            if not len(open_ones):
                break
            found = run.resolve(node.name, take_ids(ids, open_ones) if len(open_ones) < len(types) else ids, pad=True) >= 0
            types[open_ones[found]] = index
    return {"types": types}


def _node_range(run: Execution, query: q.NodeRange, arrays: Arrays) -> Arrays:
    count = run.node_count(run.schema.node(query.node_type).name)
    if not 0 <= query.start <= query.stop <= count:
        raise InputError(f"nodes {query.start} to {query.stop} of type {query.node_type!r}, which has {count}")
    answer: Arrays = {}
    put_ids(answer, "nodes", run.ids(query.node_type, np.arange(query.start, query.stop, dtype=np.int32)))
    return answer


def _page_rank(run: Execution, query: q.PageRank, arrays: Arrays) -> Arrays:
    from fondaco.graph import ppr

    return ppr.page_rank(run, query, arrays)


# -- what they share --------------------------------------------------------------------------------------------------------------------


class _Seeds:
    """The known ones of a query's seeds: dense ids, and as-of bounds. With pad, the others get what `spread` fills."""

    def __init__(self, run: Execution, node_type: str, arrays: Arrays, *, pad: bool) -> None:
        """
        Raises:
            NodeIdError: unknown seeds, without pad. InputError: as_of is neither one moment nor one a seed.
        """
        dense = run.resolve(node_type, seeds_of(arrays), pad=pad)
        as_of = arrays.get("as_of")
        if as_of is not None and as_of.shape not in ((1,), (len(dense),)):
            raise InputError(f"as_of has shape {as_of.shape} for {len(dense)} nodes; give one moment, or one for each")
        self._count = len(dense)
        self._known = np.flatnonzero(dense >= 0) if len(dense) and dense.min() < 0 else None
        self.dense: I32Array = dense if self._known is None else dense[self._known]
        self.as_of = as_of if as_of is None or len(as_of) == 1 or self._known is None else as_of[self._known]

    @property
    def by_row(self) -> Arrays:
        """What goes with the rows."""
        return {} if self.as_of is None else {"as_of": self.as_of}

    def spread(self, counts: I64Array) -> I64Array:
        """One entry a seed: 0 for the unknown."""
        if self._known is None:
            return counts
        everyone = np.zeros(self._count, np.int64)
        everyone[self._known] = counts
        return everyone


def _check_start(run: Execution, adjacency: Adjacency, node_type: str) -> None:
    start = run.schema.nodes[adjacency.from_type].name
    if start != run.schema.node(node_type).name:
        raise InputError(
            f'edges {adjacency.edge.name!r} in direction "{adjacency.direction}" start at nodes of type {start!r}, '
            f"and the ids are of type {node_type!r}"
        )


def _check_as_of(arrays: Arrays, *adjacencies: Adjacency) -> None:
    if "as_of" in arrays and not any(adjacency.edge.timed for adjacency in adjacencies):
        names = ", ".join(dict.fromkeys(repr(adjacency.edge.name) for adjacency in adjacencies))
        raise InputError(f"as_of needs edges with times, and {names} have none; build the graph with a `time` column, or leave as_of out")


_PARTS: Final[dict[type[Query], Callable[[Execution, Any, Arrays], Arrays]]] = {
    q.Sample: neighborhood.sample,
    q.InducedSubgraph: neighborhood.induced,
    q.SampleNeighbors: _sample_neighbors,
    q.CountNeighbors: _count_neighbors,
    q.FindEdges: _find_edges,
    q.NodeFeatures: _node_features,
    q.EdgeFeatures: _edge_features,
    q.NodeTypes: _node_types,
    q.Contains: _contains,
    q.RandomWalk: walks.random_walk,
    q.Node2Vec: walks.node2vec,
    q.PageRank: _page_rank,
    q.SampleNodes: global_sampling.sample_nodes,
    q.SampleEdges: global_sampling.sample_edges,
    q.TotalWeight: global_sampling.total_weight,
    q.Negatives: negatives.negatives,
    q.NodeRange: _node_range,
}

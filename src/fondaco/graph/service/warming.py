"""Warming: a version is made fast before it answers: its files come into memory, and every kernel that a query may need is loaded.

Kernels are compiled once after an installation and cached on disk; loading one from there still takes tens of milliseconds, which no
request shall wait for. So a few tiny questions about the version itself are asked of its own shard, and whole ones of a graph that it
plays alone. Where it does not hold all partitions, its own rows stand in for those of others, so that what puts parts together is loaded,
too; what the answers say is nonsense then, and thrown away. Any thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import FondacoError, InputError
from fondaco.graph import queries as q
from fondaco.graph.deadlines import Deadline
from fondaco.graph.executor import execute
from fondaco.graph.local import LocalShards
from fondaco.graph.queries import Arrays, Query, StringIds, put_ids
from fondaco.graph.schema import Direction, EdgeType
from fondaco.graph.service.incoming import rows_of, starts_of
from fondaco.graph.service.versions import ServedVersion
from fondaco.graph.shards import (
    Counts,
    EdgeFeature,
    EdgesAt,
    Find,
    Hop,
    NodeFeature,
    NodeIds,
    Resolve,
    ShardQuery,
    ShardRequest,
    Shards,
    WalkOn,
)

I64Array = npt.NDArray[np.int64]

ROWS: Final = 4
WHOLE_S: Final = 5.0  # for a whole question, whatever it is
_LOGGER = logging.getLogger(__name__)


def warm(version: ServedVersion) -> None:
    """Make a version fast. What fails here is for the requests to say."""
    version.opened.warm()
    for query, arrays in _parts(version):
        _try(version, query, arrays)
    if not version.opened.held:
        return
    shards: Shards = LocalShards([version.answers]) if version.opened.holds_all else _StandIn(version)
    for whole, arrays in _wholes(version):
        try:
            execute(whole, arrays, shards, deadline=Deadline(WHOLE_S))
        except FondacoError as exc:
            _LOGGER.debug("warming with %s: %s", type(whole).__name__, exc)


class _StandIn:
    """A divided graph of which this shard answers every part: rows that it does not hold are replaced by some that it does."""

    def __init__(self, version: ServedVersion) -> None:
        opened = self._opened = version.opened
        self._answers = version.answers
        self.schema, self.version, self.partitions = opened.schema, opened.version, opened.partitions
        self.anchor: object = self  # what is found out of it is true of nobody else
        held = np.isin(np.arange(self.partitions), sorted(opened.held))
        self.owners = np.concatenate([[0], np.cumsum(held[1:] != held[:-1])]).astype(np.int64)
        self.shard_count = int(self.owners[-1]) + 1

    def starts(self, node_type: str) -> I64Array:
        return self._opened.node_table(node_type).starts

    def edge_starts(self, edge_type: str, direction: Direction) -> I64Array:
        return self._opened.adjacency_table(edge_type, direction).edge_starts

    def ask(self, requests: Sequence[ShardRequest], deadline: Deadline) -> list[Arrays]:
        deadline.check()
        return [self._answers.answer(request.query, self._mine(request.query, request.arrays)) for request in requests]

    def _mine(self, query: ShardQuery, arrays: Arrays) -> Arrays:
        name, starts = rows_of(query), None
        if name is not None:
            starts = starts_of(self._opened, query)
        elif isinstance(query, WalkOn):
            name, starts = "node", self._opened.adjacency_table(query.steps[0][0], query.direction).starts
        elif not isinstance(query, Resolve):
            raise InputError(f"{type(query).__name__} is about partitions, for which no others can stand in")
        if name is None or starts is None:
            return arrays
        held = sorted(self._opened.held)
        first, after = int(starts[held[0]]), int(starts[held[-1] + 1])
        if first == after:
            raise InputError("no row is held here")
        rows = arrays[name]
        return {**arrays, name: (first + rows % (after - first)).astype(rows.dtype)}


def _try(version: ServedVersion, query: ShardQuery, arrays: Arrays) -> Arrays:
    try:
        return version.answers.answer(query, arrays)
    except FondacoError as exc:
        _LOGGER.debug("warming with %s: %s", type(query).__name__, exc)
        return {}


def _held_rows(version: ServedVersion, starts: I64Array) -> range:
    """A few rows that are open here."""
    held = sorted(version.opened.held)
    if not held:
        return range(0)
    first, after = int(starts[held[0]]), int(starts[held[-1] + 1])
    return range(first, min(after, first + ROWS))


def _parts(version: ServedVersion) -> Iterator[tuple[ShardQuery, Arrays]]:
    opened = version.opened
    for table in opened.node_tables:
        rows = np.array(_held_rows(version, table.starts), np.int32)
        if not len(rows):
            continue
        name = table.type.name
        yield NodeIds(node_type=name), {"dense": rows}
        yield Resolve(node_type=name), _ids(version, name, rows)
        for feature in table.type.features:
            if feature.kind != "store":
                yield NodeFeature(node_type=name, name=feature.name), {"rows": rows}
    for adjacency in opened.adjacency_tables:
        rows = np.array(_held_rows(version, adjacency.starts), np.int32)
        edge, direction = adjacency.adjacency.edge, adjacency.adjacency.direction
        if not len(rows):
            continue
        yield Counts(edge_type=edge.name, direction=direction), {"frontier": rows}
        yield Find(edge_type=edge.name, direction=direction), {"frontier": rows, "to": np.zeros(len(rows), np.int32)}
        for strategy in _strategies(edge):
            for replace in (False, True) if strategy in ("uniform", "weighted") else (False,):
                hop = Hop(
                    edge_type=edge.name, direction=direction, fan_out=2, strategy=strategy, replace=replace, edge_ids=True,
                    weights=edge.weighted, times=edge.timed,
                )  # fmt: skip
                yield hop, {"frontier": rows}
        step = WalkOn(steps=((edge.name,),), direction=direction, length=1)
        yield step, {"node": rows, "walker": np.arange(len(rows))}
        edges = np.array(_held_rows(version, adjacency.edge_starts), np.int64)
        if len(edges):
            yield EdgesAt(edge_type=edge.name, direction=direction), {"edge_ids": edges}
            for feature in edge.features:
                yield EdgeFeature(edge_type=edge.name, direction=direction, name=feature.name), {"rows": edges}


def _strategies(edge: EdgeType) -> list[q.Strategy]:
    strategies: list[q.Strategy] = ["uniform", "all", "labor"]
    if edge.weighted:
        strategies += ["weighted", "top_k"]
    if edge.timed:
        strategies += ["last"]
    return strategies


def _ids(version: ServedVersion, node_type: str, rows: np.ndarray[tuple[int], np.dtype[np.int32]], name: str = "ids") -> Arrays:
    found = _try(version, NodeIds(node_type=node_type), {"dense": rows})
    arrays: Arrays = {}
    if "ids" in found:
        put_ids(arrays, name, found["ids"])
    elif "ids.offsets" in found:
        put_ids(arrays, name, StringIds(found["ids.offsets"], found["ids.data"]))
    return arrays


def _wholes(version: ServedVersion) -> Iterator[tuple[Query, Arrays]]:
    schema = version.info.schema
    for adjacency in schema.adjacencies():
        edge, direction = adjacency.edge, adjacency.direction
        node_type = schema.nodes[adjacency.from_type]
        table = version.opened.node_table(node_type.name)
        rows = np.array(_held_rows(version, table.starts), np.int32)
        if not len(rows):
            continue
        seeds = _ids(version, node_type.name, rows, "seeds")
        features = tuple((node_type.name, feature.name) for feature in node_type.features if feature.kind != "store")
        yield (
            q.Sample(
                node_type=node_type.name, fan_outs=({edge.name: 2}, {edge.name: 2}), edge_types=(edge.name,), direction=direction,
                features=features,
            ),
            seeds,
        )  # fmt: skip
        yield q.RandomWalk(node_type=node_type.name, length=1, edge_types=(edge.name,), direction=direction), seeds
        if adjacency.from_type == adjacency.to_type:
            yield q.Node2Vec(node_type=node_type.name, length=2, edge_type=edge.name, direction=direction, p=0.5, q=2.0), seeds
            yield q.PageRank(node_type=node_type.name, edge_type=edge.name, top_k=1, direction=direction, eps=0.1), seeds
        yield q.SampleNodes(node_type=node_type.name, count=1), {}
        yield q.SampleEdges(edge_type=edge.name, count=1, direction=direction), {}
        if direction == "out":
            yield q.Negatives(edge_type=edge.name, count=1), seeds

"""Warming: a version is made fast before it answers: its files come into memory, and every kernel that a query may need is loaded.

Kernels are compiled once after an installation and cached on disk; loading one from there still takes tens of milliseconds, which no
request shall wait for. So a few tiny questions about the version itself are asked of its own shard, and whole ones of a graph that it plays
alone where it holds all partitions. Any thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import numpy as np

from fondaco.core.errors import FondacoError
from fondaco.graph import queries as q
from fondaco.graph.executor import execute
from fondaco.graph.local import LocalShards
from fondaco.graph.queries import Arrays, Query, StringIds, put_ids
from fondaco.graph.schema import EdgeType
from fondaco.graph.service.versions import ServedVersion
from fondaco.graph.shards import Counts, EdgeFeature, EdgesAt, Find, Hop, NodeFeature, NodeIds, Resolve, ShardQuery, WalkOn

ROWS: Final = 4
_LOGGER = logging.getLogger(__name__)


def warm(version: ServedVersion) -> None:
    """Make a version fast. What fails here is for the requests to say."""
    version.opened.warm()
    for query, arrays in _parts(version):
        _try(version, query, arrays)
    if version.opened.holds_all:
        shards = LocalShards([version.answers])
        for whole, arrays in _wholes(version):
            try:
                execute(whole, arrays, shards)
            except FondacoError as exc:
                _LOGGER.debug("warming with %s: %s", type(whole).__name__, exc)


def _try(version: ServedVersion, query: ShardQuery, arrays: Arrays) -> Arrays:
    try:
        return version.answers.answer(query, arrays)
    except FondacoError as exc:
        _LOGGER.debug("warming with %s: %s", type(query).__name__, exc)
        return {}


def _held_rows(version: ServedVersion, starts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> range:
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
        rows = np.arange(min(table.count, ROWS), dtype=np.int32)
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
        yield q.Node2Vec(node_type=node_type.name, length=2, edge_type=edge.name, direction=direction, p=0.5, q=2.0), seeds
        yield q.PageRank(node_type=node_type.name, edge_type=edge.name, top_k=1, direction=direction, eps=0.1), seeds
        yield q.SampleNodes(node_type=node_type.name, count=1), {}
        yield q.SampleEdges(edge_type=edge.name, count=1, direction=direction), {}
        if direction == "out":
            yield q.Negatives(edge_type=edge.name, count=1), seeds

"""Graphs built by the platform and opened as one shard or as several, each of which holds some of the partitions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import fondaco as fd
from fondaco.graph.deadlines import Deadline
from fondaco.graph.execution import Execution
from fondaco.graph.layout import GraphLayout
from fondaco.graph.local import LocalShards, ShardAnswers
from fondaco.graph.opened import OpenGraph, open_version

Edges = Mapping[tuple[str, str, str], pa.Table]


class Divided:
    """One graph version on disk, to be looked at as any number of shards."""

    def __init__(self, path: Path, nodes: Mapping[str, pa.Table], edges: Edges, *, partitions: int = 8, directions: str = "out") -> None:
        platform = fd.open(path)
        try:
            platform.build_graph("g", nodes=nodes, edges=edges, partitions=partitions, directions=directions)
        finally:
            platform.close()
        self._layout = GraphLayout(path / "graphs" / "g")
        self.partitions = partitions
        self._opened: OpenGraph | None = None

    def opened(self) -> OpenGraph:
        """All partitions, opened once."""
        if self._opened is None:
            self._opened = open_version(self._layout, 1)
        return self._opened

    def shards(self, count: int = 1) -> LocalShards:
        """All partitions, divided among `count` shards."""
        owners = [partition * count // self.partitions for partition in range(self.partitions)]
        held = [[p for p in range(self.partitions) if owners[p] == shard] for shard in range(count)]
        return LocalShards([ShardAnswers(open_version(self._layout, 1, part)) for part in held])

    def execution(self, count: int = 1) -> Execution:
        return Execution(self.shards(count), Deadline(60.0))


def social(path: Path, *, partitions: int = 8, directions: str = "out", nodes: int = 300, edges: int = 2500) -> Divided:
    """People who know each other (weighted, timed "met", and plain "knows"), and pages they read; a few people without any edge."""
    rng = np.random.default_rng(11)

    def ends(count: int, targets: int) -> dict[str, Any]:
        return {"src": rng.integers(0, nodes - 20, count), "dst": (targets * rng.random(count) ** 2).astype(np.int64)}

    pairs = np.unique(np.stack(list(ends(edges, nodes).values())), axis=1)
    both = np.concatenate([pairs, pairs[::-1]], axis=1)
    knows = pa.table({"src": both[0], "dst": both[1]})
    met = pa.table(ends(edges, nodes) | {"weight": rng.random(edges).astype(np.float32), "time": rng.integers(0, 1000, edges)})
    reads, read_by = ends(edges, 80), rng.random(edges)
    pages = [f"page-{i}" for i in range(80)]
    tables = {
        "person": pa.table({"id": np.arange(nodes) * 7 - 50, "weight": (np.arange(nodes) % 9).astype(np.float32)}),
        "page": pa.table({"id": pages}),
    }
    named = {
        ("person", "knows", "person"): _by_id(knows, nodes),
        ("person", "met", "person"): _by_id(met, nodes),
        ("person", "reads", "page"): pa.table(
            {"src": reads["src"] * 7 - 50, "dst": [pages[i] for i in reads["dst"]], "weight": read_by.astype(np.float32)}
        ),
        ("page", "read_by", "person"): pa.table({"src": [pages[i] for i in reads["dst"]], "dst": reads["src"] * 7 - 50}),
    }
    return Divided(path, tables, named, partitions=partitions, directions=directions)


def _by_id(table: pa.Table, nodes: int) -> pa.Table:
    for name in ("src", "dst"):
        column = table.column(name).to_numpy() * 7 - 50
        table = table.set_column(table.column_names.index(name), name, pa.array(column))
    return table

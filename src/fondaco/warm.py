"""Warm: `python -m fondaco.warm` compiles every kernel into the cache, once after an installation.

Compiled machine code is kept beside the sources; without this the first push and the first read of an installation compile for some
seconds. The way is the users' own: a store in a temporary directory is pushed to, written to in real time, read and folded; a graph is
built, updated, and asked everything.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fondaco.dataplane.keys import checked
from fondaco.log import Log, Record, TopicConfig

if TYPE_CHECKING:
    from fondaco.graph import Graph
    from fondaco.platform import Platform


def warm() -> None:
    """Push to, write to and read from a store of every kind of key, plain and compressed; build and ask a graph."""
    from fondaco.platform import Platform

    rows = 64
    table = pa.table(
        {
            "key": np.arange(rows),
            "text": ["text " * 20] * rows,
            "emb": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(rows * 8, np.float32)), 8),
        }
    )
    value = pa.schema([table.schema.field("text"), table.schema.field("emb")])
    with tempfile.TemporaryDirectory(prefix="fondaco-warm-") as directory, Platform.open(directory) as platform:
        for kind in ("long", "string"):
            keyed = table.set_column(0, "key", table["key"].cast(pa.string() if kind == "string" else pa.int64()))
            for compression in ("none", "zstd"):
                store = platform.create_store(f"{kind}-{compression}", key=kind, value=value, partitions=2, compression=compression)
                store.push(keyed, progress=False)
                keys = keyed["key"].to_pylist()
                checked(store.key, np.empty(0, np.uint8), np.zeros(1, np.int64))  # what the data plane asks of keys
                with store.reader() as reader, store.writer() as writer:
                    writer.put_many(keyed)
                    writer.put(keys[0], {"text": "new", "emb": np.zeros(8, np.float32)})
                    writer.patch(keys[1], {"text": "patched"})
                    writer.delete(keys[2])
                    reader.get(keys[0], min_position=writer.flush(), timeout_s=300)
                    reader.get_many(keys)
                    reader.get_columns(keys)
                    reader.get_columns(np.arange(rows)) if kind == "long" else None
                    reader.compute(keys, "cosine", field="emb", vector=np.ones(8, np.float32))
                    reader.get_packed(keys)
                store.push_incremental(keyed.drop_columns(["emb"]), progress=False)
                store.repush(fold=True, progress=False)
        _use_log(platform.log)
        _use_graphs(platform)


def _use_log(log: Log) -> None:
    """What no store does with its topic: compaction, and the search for a time."""
    log.create_topic("warm", TopicConfig(1, cleanup="compact", segment_bytes=256))
    for _ in range(3):
        log.append("warm", 0, [Record(b"key", b"value")] * 3, durability="disk")
    log.read("warm", 0, 0)
    log.offset_for_time("warm", 0, 0)
    log.compact("warm", 0)


def _use_graphs(platform: Platform) -> None:
    """Every question about a graph with every kind of feature, to one shard and to two."""
    from fondaco.graph.embedded import EmbeddedGraph
    from fondaco.graph.layout import GRAPHS_DIRECTORY, GraphLayout
    from fondaco.graph.opened import open_version

    count = 40
    names = [f"n{number}" for number in range(count)]
    people = pa.table(
        {
            "id": np.arange(count),
            "weight": np.ones(count, np.float32),
            "x": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(count * 4, np.float32)), 4),
            "text": [b"text"] * count,
        }
    )
    places = pa.table({"id": names, "y": np.arange(count)})
    ends = {"src": np.repeat(np.arange(count), 5), "dst": (np.repeat(np.arange(count), 5) * 7 + np.tile(np.arange(5), count)) % count}
    more = {
        "weight": np.ones(count * 5, np.float32),
        "time": pa.array(np.arange(count * 5), pa.timestamp("us", "UTC")),
        "z": np.ones(count * 5),
    }
    edges = {
        ("person", "knows", "person"): pa.table(ends),
        ("person", "met", "person"): pa.table({**ends, **more}),
        ("person", "saw", "place"): pa.table({"src": ends["src"], "dst": [names[number] for number in ends["dst"]]}),
    }
    nodes = {"person": people, "place": places}
    platform.build_graph("warm", nodes=nodes, edges=edges, partitions=2, directions="both", progress=False)
    addition = {("person", "knows", "person"): pa.table({"src": [0], "dst": [1]})}
    with platform.graph("warm") as graph:
        graph.update(add_edges=addition, progress=False)
    layout = GraphLayout(platform.directory / GRAPHS_DIRECTORY / "warm")
    for held in ([[0, 1]], [[0], [1]]):
        parts = [open_version(layout, 2, share) for share in held]
        with EmbeddedGraph(lambda parts=parts: parts) as graph:  # type: ignore[misc]  # bound now
            _ask_graph(graph, names)
        for part in parts:
            part.close()


def _ask_graph(graph: Graph, names: list[str]) -> None:
    seeds = np.arange(10)
    person: dict[str, Any] = {"node_type": "person"}
    for strategy in ("uniform", "weighted", "top_k", "last", "all", "labor"):
        timed = [] if strategy in ("uniform", "all", "labor") else ["met"]
        for replace in (False, True) if strategy in ("uniform", "weighted") else (False,):
            graph.sample(
                seeds, [3, 2], strategy=strategy, replace=replace, edge_types=timed or None, as_of=None if replace else 10**12, **person,
                features={"person": ["x", "text"], "place": ["y"]}, edge_features={"met": ["z"]},
            )  # fmt: skip
    graph.sample(seeds, [2], as_of=np.arange(10), **person)
    graph.sample(names[:3], [2], direction="in", node_type="place")
    graph.subgraph(seeds, 1, **person)
    graph.neighbor_counts(seeds, edge_type="met")
    graph.has_edges(seeds, seeds, edge_type="knows")
    graph.has_edges(seeds, seeds, edge_type="met")
    graph.features(seeds, ["x"], **person)
    graph.edge_features(seeds, seeds * 7 % 40, ["z"], edge_type="met")
    graph.node_types(seeds)
    graph.random_walk(seeds, 3, edge_type="knows", restart=0.1)
    graph.random_walk(seeds, 3, edge_type="met", weighted=True, as_of=10**12, temporal=True)
    graph.random_walk(seeds, 1, metapath=["saw"])
    graph.node2vec(seeds, 3, p=0.5, q=2.0, edge_type="knows")
    graph.node2vec(seeds, 3, p=0.5, q=2.0, edge_type="met", weighted=True)
    graph.ppr(seeds, 3, edge_type="knows")
    for replace in (False, True):
        for weighted in (False, True):
            graph.sample_nodes(5, "person", weighted=weighted, replace=replace)
            graph.sample_edges(5, "met", weighted=weighted, replace=replace)
    for distribution in ("uniform", "degree"):
        graph.negatives(seeds, 2, edge_type="knows", distribution=distribution)


if __name__ == "__main__":
    warm()

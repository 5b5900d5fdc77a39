"""Train on a graph larger than the trainer: `python -m examples.larger_than_trainer`. It makes its own graph; nothing is downloaded.

A graph of communities is written batch by batch, never whole in memory; two servers hold its shards; the trainer gets, over TCP, the
sampled neighbourhood of each batch and nothing else. It prints how much its memory grew while it trained, beside the size of the graph:
that depends on the size of a batch (about five of them: one learned from, its messages, those ahead), not on that of the graph.
The walk-through is docs/tutorial-graphs.md.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

import fondaco as fd
from examples._data import vectors
from examples._service import serving

GRAPH = "communities"
COMMUNITIES = 8
ROWS = 1 << 14
DEGREE = 10


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the graph."""

    nodes: int = 400_000
    dim: int = 256


def nodes(sizes: Sizes) -> pa.RecordBatchReader:
    """Node i belongs to community i % COMMUNITIES; its vector says so only faintly."""
    schema = pa.schema([("id", pa.int64()), ("label", pa.int64()), ("x", pa.list_(pa.float32(), sizes.dim))])
    centres = np.random.default_rng(0).standard_normal((COMMUNITIES, sizes.dim), dtype=np.float32) * 0.05

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, sizes.nodes, ROWS):
            ids = np.arange(first, min(first + ROWS, sizes.nodes))
            label = ids % COMMUNITIES
            x = np.random.default_rng(ids[0]).standard_normal((len(ids), sizes.dim), dtype=np.float32) + centres[label]
            yield pa.record_batch([pa.array(ids), pa.array(label), vectors(x)], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def edges(sizes: Sizes) -> pa.RecordBatchReader:
    """DEGREE edges from each node, four of five within its community."""
    schema = pa.schema([("src", pa.int64()), ("dst", pa.int64())])

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, sizes.nodes, ROWS):
            rng = np.random.default_rng([1, first])
            src = np.repeat(np.arange(first, min(first + ROWS, sizes.nodes)), DEGREE)
            dst = rng.integers(0, sizes.nodes, len(src))
            near = rng.random(len(src)) < 0.8
            dst[near] += (src[near] - dst[near]) % COMMUNITIES
            yield pa.record_batch([pa.array(src), pa.array(dst % sizes.nodes)], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def train(batches: int, batch_size: int) -> None:
    """The trainer: knows the service by its environment, and prints what it learned and how its memory grew."""
    import psutil
    import torch
    from torch_geometric.nn import SAGEConv

    torch.manual_seed(0)
    me = psutil.Process()
    with fd.graph.connect(shared_memory=False) as graph:
        dim = graph.schema.nodes[0].feature("x").shape[0]
        first, second = SAGEConv(dim, 32), SAGEConv(32, COMMUNITIES)
        optimiser = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=0.01)
        loader = fd.graph.torch.NeighborLoader(graph, fan_outs=[10, 5], batch_size=batch_size, features=["x"], labels="label", shuffle=True)
        first(torch.zeros(1, dim), torch.zeros(2, 1, dtype=torch.long)).sum().backward()  # what torch itself takes is there by now
        before = highest = me.memory_info().rss
        right: list[float] = []
        for batch in itertools.islice(loader, batches):
            out = second(first(batch.x, batch.edge_index).relu(), batch.edge_index)[: batch.batch_size]
            right.append(float((out.argmax(1) == batch.y[: batch.batch_size]).float().mean()))
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(out, batch.y[: batch.batch_size]).backward()
            optimiser.step()
            highest = max(highest, me.memory_info().rss)
    print(f"accuracy of the last batches {np.mean(right[-10:]):.2f}, of the first {right[0]:.2f}")
    print(f"the trainer grew by {(highest - before) >> 20} MiB")


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, serve, train in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m examples.larger_than_trainer")
    parser.add_argument("--nodes", type=int, default=Sizes().nodes)
    parser.add_argument("--batches", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--train", action="store_true", help="be the trainer (needs FONDACO_GRAPH_ENDPOINTS)")
    asked = parser.parse_args(arguments)
    if asked.train:
        train(asked.batches, asked.batch_size)
        return
    sizes = Sizes(asked.nodes)
    with tempfile.TemporaryDirectory(prefix="fondaco-larger-") as directory:
        with fd.open(directory) as platform:
            report = platform.build_graph(
                GRAPH,
                nodes={"node": nodes(sizes)},
                edges={("node", "joins", "node"): edges(sizes)},
                partitions=4,
                memory=64 << 20,
                progress=False,
            )
        print(f"a graph of {report.bytes >> 20} MiB, built in {report.seconds:.1f} s")
        with serving(Path(directory), GRAPH, shards=2):
            command = [sys.executable, "-m", "examples.larger_than_trainer", "--train"]
            command += ["--batches", str(asked.batches), "--batch-size", str(asked.batch_size)]
            subprocess.run(command, check=True)  # finds the service by its environment


if __name__ == "__main__":
    main()

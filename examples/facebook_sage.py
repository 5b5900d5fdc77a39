"""GraphSAGE on the Facebook page graph, sampled through the graph service: `python -m examples.facebook_sage --data DIR`.

Two tasks: which of four kinds a page is (`--task nodes`), and which pages like each other (`--task links`: a tenth of the edges is held
out of the graph; area under the ROC curve against pages drawn at random). With `--processes 2` two trainers share the batches and their
gradients (DistributedDataParallel, gloo); the script is the same: a loader takes its rank's share by itself.
Model: Hamilton, Ying, Leskovec 2017, mean aggregation, fan-outs [15, 10].
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import SAGEConv

import fondaco as fd
from examples._data import TEST, TRAIN, GraphTables, data_folder, read_facebook_pages
from examples._service import serving

GRAPH = "pages"
FAN_OUTS = [15, 10]
HELD_OUT = 0.1  # of the edges, for link prediction


class SAGE(nn.Module):
    """Two GraphSAGE layers."""

    def __init__(self, dim: int, out: int, hidden: int = 64) -> None:
        super().__init__()
        self.first, self.second = SAGEConv(dim, hidden), SAGEConv(hidden, out)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """[nodes, out]; meant for the batch's seeds, whose neighbourhoods are complete."""
        x = functional.dropout(self.first(x, edge_index).relu(), 0.3, self.training)
        out: Tensor = self.second(x, edge_index)
        return out


@dataclass(frozen=True, slots=True)
class Options:
    """What to train, and how long."""

    task: str
    dim: int
    classes: int
    epochs: int = 5
    batch_size: int = 512
    seed: int = 0
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Result:
    """What came out: accuracy (nodes) or area under the ROC curve (links) on the test part, the last losses, and seconds an epoch."""

    score: float
    losses: list[float]
    seconds_per_epoch: float
    batches: int  # of this process, all epochs


def split_edges(tables: GraphTables, seed: int = 0) -> tuple[GraphTables, np.ndarray]:
    """The graph without a tenth of its edges, and those edges, int64 [2, edges]."""
    held = np.random.default_rng(seed).random(tables.edges.num_rows) < HELD_OUT
    ends = np.stack([tables.edges["src"].to_numpy(), tables.edges["dst"].to_numpy()])
    return GraphTables(tables.nodes, tables.edges.filter(pa.array(~held)), tables.classes, tables.dim), ends[:, held]


def build(directory: Path, tables: GraphTables, *, partitions: int = 2) -> None:
    """Build the graph of pages; each like leads both ways."""
    with fd.open(directory) as platform:
        platform.build_graph(
            GRAPH,
            nodes={"page": tables.nodes},
            edges={("page", "likes", "page"): tables.edges},
            undirected=True,
            partitions=partitions,
            progress=False,
        )


def train(options: Options, held_out: np.ndarray | None = None, *, on_batch: Callable[[int], None] = lambda index: None) -> Result:
    """Train in this process on the graph that FONDACO_GRAPH_ENDPOINTS names; with torch.distributed initialised, as one of several.

    Args:
        held_out: int64 [2, edges], for the task "links". on_batch: called with the number of each batch before it is learned from.
    """
    torch.manual_seed(options.seed)
    model: nn.Module = SAGE(options.dim, options.classes if options.task == "nodes" else 64)
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed:
        model = nn.parallel.DistributedDataParallel(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses, count, began = [], 0, time.perf_counter()
    with fd.graph.connect(graph=GRAPH) as graph:
        loader = _loader(graph, options)
        for epoch in range(options.epochs):
            loader.set_epoch(epoch)
            total, in_epoch = 0.0, 0
            for batch in loader:
                on_batch(count)
                model.train()
                optimiser.zero_grad()
                loss = _loss(model, batch, options.task)
                loss.backward()
                optimiser.step()
                total, count, in_epoch = total + float(loss.detach()), count + 1, in_epoch + 1
            losses.append(total / max(in_epoch, 1))
        seconds = (time.perf_counter() - began) / options.epochs
        plain = model.module if distributed else model
        score = _test_nodes(plain, graph, options) if options.task == "nodes" else _test_links(plain, graph, options, held_out)
    return Result(score, losses, seconds, count)


def _loader(graph: Any, options: Options) -> Any:
    if options.task == "nodes":
        return fd.graph.torch.NeighborLoader(
            graph,
            _nodes_of(graph, TRAIN),
            fan_outs=FAN_OUTS,
            batch_size=options.batch_size,
            features=["x"],
            labels="label",
            shuffle=True,
            seed=options.seed,
        )
    return fd.graph.torch.LinkNeighborLoader(
        graph,
        fan_outs=FAN_OUTS,
        batch_size=options.batch_size,
        negatives=1,
        features=["x"],
        shuffle=True,
        seed=options.seed,
    )


def _nodes_of(graph: Any, part: int) -> np.ndarray:
    ids = np.asarray(graph.node_ids())
    chosen: np.ndarray = ids[np.asarray(graph.features(ids, ["part"])["part"]) == part]
    return chosen


def _loss(model: nn.Module, batch: Any, task: str) -> Tensor:
    out = model(batch.x, batch.edge_index)
    if task == "nodes":
        return functional.cross_entropy(out[: batch.batch_size], batch.y[: batch.batch_size])
    return functional.binary_cross_entropy_with_logits(_likeness(out, batch.edge_label_index), batch.edge_label.float())


def _likeness(out: Tensor, pairs: Tensor) -> Tensor:
    return (functional.normalize(out[pairs[0]]) * functional.normalize(out[pairs[1]])).sum(1) * 5


@torch.no_grad()
def _test_nodes(model: nn.Module, graph: Any, options: Options) -> float:
    model.eval()
    right = total = 0
    for batch in fd.graph.torch.NeighborLoader(
        graph, _nodes_of(graph, TEST), fan_outs=FAN_OUTS, batch_size=2048, features=["x"], labels="label", rank=0, world=1
    ):
        right += int((model(batch.x, batch.edge_index)[: batch.batch_size].argmax(1) == batch.y[: batch.batch_size]).sum())
        total += batch.batch_size
    return right / total


@torch.no_grad()
def _test_links(model: nn.Module, graph: Any, options: Options, held_out: np.ndarray | None) -> float:
    from sklearn.metrics import roc_auc_score

    assert held_out is not None
    model.eval()
    ids = np.asarray(graph.node_ids())
    drawn = np.random.default_rng(options.seed).choice(ids, held_out.shape[1])
    pairs = np.concatenate([held_out, np.stack([held_out[0], drawn])], axis=1)
    real = np.arange(pairs.shape[1]) < held_out.shape[1]
    nodes, positions = np.unique(pairs, return_inverse=True)
    outs = [
        model(batch.x, batch.edge_index)[: batch.batch_size]
        for batch in fd.graph.torch.NeighborLoader(graph, nodes, fan_outs=FAN_OUTS, batch_size=2048, features=["x"], rank=0, world=1)
    ]
    scores = _likeness(torch.cat(outs), torch.from_numpy(positions.reshape(2, -1)))
    return float(roc_auc_score(real, scores.numpy()))


def train_together(options: Options, held_out: np.ndarray | None = None) -> list[Result]:
    """Train in `options.processes` processes on this machine that share their gradients; results by rank."""
    if options.processes == 1:
        return [train(options, held_out)]
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        torch.multiprocessing.spawn(_trainer, (options, held_out, port, folder), nprocs=options.processes)
        return [Result(**json.loads((Path(folder) / str(rank)).read_text())) for rank in range(options.processes)]


def _trainer(rank: int, options: Options, held_out: np.ndarray | None, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=options.processes)
    try:
        (Path(folder) / str(rank)).write_text(json.dumps(asdict(train(options, held_out))))
    finally:
        torch.distributed.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> Result:
    """Train, and print what came out."""
    parser = argparse.ArgumentParser(prog="python -m examples.facebook_sage", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder of facebook_pages/")
    parser.add_argument("--task", choices=("nodes", "links"), default="nodes")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--processes", type=int, default=1, help="trainers that share the work")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    tables = read_facebook_pages(data_folder(asked.data))
    held_out = None
    if asked.task == "links":
        tables, held_out = split_edges(tables)
    options = Options(asked.task, tables.dim, tables.classes, epochs=asked.epochs, seed=asked.seed, processes=asked.processes)
    with tempfile.TemporaryDirectory(prefix="fondaco-pages-") as directory:
        build(Path(directory), tables, partitions=max(2, asked.shards))
        with serving(Path(directory), GRAPH, shards=asked.shards, replicas=asked.replicas):
            result = train_together(options, held_out)[0]
    measure = "test accuracy" if asked.task == "nodes" else "area under the ROC curve of held-out likes"
    losses = ", ".join(f"{loss:.3f}" for loss in result.losses)
    print(f"{measure} {result.score:.3f}; loss by epoch {losses}; {result.seconds_per_epoch:.1f} s an epoch, {asked.processes} trainers")
    return result


if __name__ == "__main__":
    main()

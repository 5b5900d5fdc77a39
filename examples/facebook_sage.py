"""GraphSAGE on the Facebook page graph, sampled through the graph service: `python -m examples.facebook_sage --data DIR`.

Two tasks: which of four kinds a page is (`--task nodes`), and which pages like each other (`--task links`). For links 5 % of the edges
validate and 10 % test; both are left out of the graph, and the edges of a batch carry no messages in it, so no edge is seen by the model
that is asked about it. Each true edge is scored against one whose target is drawn at random and that is in no part.
Nothing is chosen by the test part: the model scored is that of the last epoch.

With `--processes 2` two trainers share the batches and their gradients (DistributedDataParallel, gloo); the script is the same: a loader
takes its rank's share by itself. `--group` and `--adaptive` are the loader's cheaper batches (docs/graphs-training.md).
Model: Hamilton, Ying, Leskovec 2017, mean aggregation, fan-outs [15, 10].
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import SAGEConv

import fondaco as fd
from examples._data import TEST, TRAIN, VALIDATION, GraphTables, data_folder, read_facebook_pages
from examples._service import serving
from examples.pages import GRAPH, build

LEVELS = [[5, 3], [10, 5], [15, 10]]  # of --adaptive

Ends = npt.NDArray[np.int64]  # sources and targets, [2, edges]


class SAGE(nn.Module):
    """Two GraphSAGE layers."""

    def __init__(self, dim: int, out: int, hidden: int = 64, dropout: float = 0.3) -> None:
        super().__init__()
        self.first, self.second, self.dropout = SAGEConv(dim, hidden), SAGEConv(hidden, out), dropout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """[nodes, out]; meant for the batch's seeds, whose neighbourhoods are complete."""
        x = functional.dropout(self.first(x, edge_index).relu(), self.dropout, self.training)
        out: Tensor = self.second(x, edge_index)
        return out


@dataclass(frozen=True, slots=True)
class Options:
    """What to train, and how long."""

    task: str
    dim: int
    classes: int
    epochs: int = 5
    batch_size: int = 512  # of one trainer
    fan_outs: tuple[int, ...] = (15, 10)
    batches: int | None = None  # of one trainer in an epoch, at most
    dropout: float = 0.3
    seed: int = 0
    processes: int = 1
    group: int = 0  # pages in a block of those that share neighbours; 0: no blocks
    adaptive: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came out; scores are accuracy (nodes) or area under the ROC curve (links)."""

    score: float  # of the test part
    validation: list[float]  # by epoch
    losses: list[float]  # by epoch: the mean over this process's batches
    seconds_per_epoch: float  # without validation
    batches: int  # of this process, all epochs


@dataclass(frozen=True, slots=True)
class Pairs:
    """Edges that are held out of the graph, and as many that there are not."""

    true: Ends
    false: Ends


@dataclass(frozen=True, slots=True)
class LinkSplit:
    """Edges to learn from, which the graph has, and those to score."""

    train: Ends
    validation: Pairs
    test: Pairs


def split_edges(tables: GraphTables, seed: int = 0, *, validation: float = 0.05, test: float = 0.1) -> tuple[GraphTables, LinkSplit]:
    """The graph without the edges held out, and all edges by their part."""
    rng = np.random.default_rng(seed)
    ends = np.stack([tables.edges["src"].to_numpy(), tables.edges["dst"].to_numpy()])
    drawn = rng.random(ends.shape[1])
    tested, validated = drawn < test, (drawn >= test) & (drawn < test + validation)
    kept = ~tested & ~validated
    left = GraphTables(tables.nodes, tables.edges.filter(pa.array(kept)), tables.classes, tables.dim)
    ids = tables.nodes["id"].to_numpy()
    validating, testing = (Pairs(ends[:, part], _false_edges(ends[0, part], ids, ends, rng)) for part in (validated, tested))
    return left, LinkSplit(ends[:, kept], validating, testing)


def _false_edges(src: npt.NDArray[np.int64], ids: npt.NDArray[np.int64], ends: Ends, rng: np.random.Generator) -> Ends:
    """Each of `src` with a target to which no edge leads, of any part, in either direction."""
    width = int(ids.max()) + 1
    known = np.concatenate([ends[0] * width + ends[1], ends[1] * width + ends[0], ids * (width + 1)])
    dst = rng.choice(ids, len(src))
    while (wrong := np.isin(src * width + dst, known)).any():
        dst[wrong] = rng.choice(ids, int(wrong.sum()))
    return np.stack([src, dst])


def train(options: Options, links: LinkSplit | None = None, *, on_batch: Callable[[int], None] = lambda index: None) -> Result:
    """Train in this process on the graph that FONDACO_GRAPH_ENDPOINTS names; with torch.distributed initialised, as one of several.

    Args:
        links: for the task "links". on_batch: called with the number of each batch before it is learned from.
    """
    torch.manual_seed(options.seed)
    plain = SAGE(options.dim, options.classes if options.task == "nodes" else 64, dropout=options.dropout)
    model: nn.Module = plain
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        model = nn.parallel.DistributedDataParallel(plain)
        torch.manual_seed(options.seed + torch.distributed.get_rank())  # one start, but not one dropout for all trainers
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    fan_outs = fd.graph.torch.GrowingFanOuts(LEVELS) if options.adaptive else options.fan_outs
    losses, validation, count, seconds = [], [], 0, 0.0
    with fd.graph.connect(graph=GRAPH) as graph:
        loader = _loader(graph, options, fan_outs, links)
        for _ in range(options.epochs):
            model.train()
            began, of_epoch = time.perf_counter(), []
            for batch in itertools.islice(loader, options.batches):
                on_batch(count)
                optimiser.zero_grad()
                loss = _loss(model, batch, options.task)
                loss.backward()
                optimiser.step()
                of_epoch.append(float(loss.detach()))
                count += 1
            losses.append(float(np.mean(of_epoch)))
            seconds += time.perf_counter() - began
            validation.append(_score(plain, graph, options, links, VALIDATION))
            if options.adaptive:
                fan_outs.report(validation[-1])  # every trainer reports the same: models are equal after each batch
        return Result(_score(plain, graph, options, links, TEST), validation, losses, seconds / options.epochs, count)


def _loader(graph: Any, options: Options, fan_outs: Any, links: LinkSplit | None) -> Any:
    if options.task == "nodes":
        return fd.graph.torch.NeighborLoader(
            graph,
            _nodes_of(graph, TRAIN),
            fan_outs=fan_outs,
            batch_size=options.batch_size,
            features=["x"],
            labels="label",
            shuffle=True,
            seed=options.seed,
            group=options.group,
        )
    assert links is not None
    return fd.graph.torch.LinkNeighborLoader(
        graph,
        links.train,
        fan_outs=fan_outs,
        batch_size=options.batch_size,
        negatives=1,
        hide_seed_edges=True,
        features=["x"],
        shuffle=True,
        seed=options.seed,
    )


def _nodes_of(graph: Any, part: int) -> npt.NDArray[np.int64]:
    ids = np.asarray(graph.node_ids())
    chosen: npt.NDArray[np.int64] = ids[np.asarray(graph.features(ids, ["part"])["part"]) == part]
    return chosen


def _loss(model: nn.Module, batch: Any, task: str) -> Tensor:
    out = model(batch.x, batch.edge_index)
    if task == "nodes":
        return functional.cross_entropy(out[: batch.batch_size], batch.y[: batch.batch_size])
    return functional.binary_cross_entropy_with_logits(_likeness(out, batch.edge_label_index), batch.edge_label.float())


def _likeness(out: Tensor, pairs: Tensor) -> Tensor:
    return (functional.normalize(out[pairs[0]]) * functional.normalize(out[pairs[1]])).sum(1) * 5


@torch.no_grad()
def _score(model: nn.Module, graph: Any, options: Options, links: LinkSplit | None, part: int) -> float:
    model.eval()
    if options.task == "nodes":
        nodes = _nodes_of(graph, part)
        labels = torch.from_numpy(np.array(graph.features(nodes, ["label"])["label"]))
        return float((_outputs(model, graph, options, nodes).argmax(1) == labels).double().mean())
    assert links is not None
    pairs = links.validation if part == VALIDATION else links.test
    nodes, places = np.unique(np.concatenate([pairs.true, pairs.false], axis=1), return_inverse=True)
    scores = _likeness(_outputs(model, graph, options, nodes), torch.from_numpy(places.reshape(2, -1))).numpy()
    return area_under_roc(scores[: pairs.true.shape[1]], scores[pairs.true.shape[1] :])


def _outputs(model: nn.Module, graph: Any, options: Options, nodes: npt.NDArray[np.int64]) -> Tensor:
    """Of each of `nodes`, from neighbourhoods drawn with the same seed in every trainer."""
    loader = fd.graph.torch.NeighborLoader(graph, nodes, fan_outs=options.fan_outs, batch_size=2048, features=["x"], rank=0, world=1)
    return torch.cat([model(batch.x, batch.edge_index)[: batch.batch_size] for batch in loader])


def area_under_roc(true: npt.NDArray[Any], false: npt.NDArray[Any]) -> float:
    """The share of pairs of one of `true` and one of `false` in which the true one scores higher; equal scores count half."""
    ordered = np.sort(false)
    below, not_above = np.searchsorted(ordered, true, "left"), np.searchsorted(ordered, true, "right")
    return float((below + not_above).mean() / (2 * len(false)))


def train_together(options: Options, links: LinkSplit | None = None) -> list[Result]:
    """Train in `options.processes` processes on this machine that share their gradients; results by rank."""
    if options.processes == 1:
        return [train(options, links)]
    with tempfile.TemporaryDirectory(prefix="fondaco-trainers-") as folder:
        torch.multiprocessing.spawn(_trainer, (options, links, folder), nprocs=options.processes)
        return [Result(**json.loads((Path(folder) / str(rank)).read_text())) for rank in range(options.processes)]


def _trainer(rank: int, options: Options, links: LinkSplit | None, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=options.processes)
    try:
        (Path(folder) / str(rank)).write_text(json.dumps(asdict(train(options, links))))
    finally:
        torch.distributed.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> Result:
    """Train, and print what came out."""
    parser = argparse.ArgumentParser(prog="python -m examples.facebook_sage", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder of facebook_pages/")
    parser.add_argument("--task", choices=("nodes", "links"), default="nodes")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--processes", type=int, default=1, help="trainers that share the work")
    parser.add_argument("--group", type=int, default=0, help="put pages that share neighbours into one batch, in blocks of so many (nodes)")
    parser.add_argument("--adaptive", action="store_true", help=f"fan-outs {LEVELS}: the next when validation is no better")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of torch, in a single trainer")
    asked = parser.parse_args(arguments)
    if asked.group and asked.task == "links":
        parser.error("--group is for --task nodes: edges cannot be grouped")
    torch.set_num_threads(asked.threads)
    tables, links = read_facebook_pages(data_folder(asked.data)), None
    if asked.task == "links":
        tables, links = split_edges(tables)
    options = Options(
        asked.task, tables.dim, tables.classes, epochs=asked.epochs, seed=asked.seed, processes=asked.processes,
        group=asked.group, adaptive=asked.adaptive,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="fondaco-pages-") as directory:
        build(Path(directory), tables, partitions=max(2, asked.shards))
        with serving(Path(directory), GRAPH, shards=asked.shards, replicas=asked.replicas):
            result = train_together(options, links)[0]
    measure = "accuracy" if asked.task == "nodes" else "area under the ROC curve of held-out likes"
    losses, validation = (", ".join(f"{value:.3f}" for value in values) for values in (result.losses, result.validation))
    print(f"{measure} {result.score:.3f} (test), by epoch {validation} (validation)")
    print(f"loss by epoch {losses}; {result.seconds_per_epoch:.1f} s an epoch, {asked.processes} trainers")
    return result


if __name__ == "__main__":
    main()

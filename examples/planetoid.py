"""GCN and GAT on Cora and Citeseer, every batch through the graph service: `python -m examples.planetoid --data DIR`.

Published test accuracies (public split): GCN 81.5 and 70.3 (Kipf, Welling 2017), GAT 83.0 and 72.5 (Velickovic et al. 2018). A batch is
the two-hop neighbourhood of its seeds, whole, so that two layers compute for the seeds what they would on the whole graph; a node's
degree comes as a feature, because a batch does not hold all edges of the nodes at its rim. Hidden sizes, dropout, weight decay and
learning rates are the papers'. At most 300 epochs, fewer if validation has not become better for 100; the test nodes are scored at the
epoch of best validation accuracy (ties: lower loss), and choose nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GATConv, GCNConv

import fondaco as fd
from examples._data import TEST, TRAIN, VALIDATION, data_folder, read_planetoid
from examples._service import serving

PUBLISHED = {("gcn", "cora"): 81.5, ("gcn", "citeseer"): 70.3, ("gat", "cora"): 83.0, ("gat", "citeseer"): 72.5}
WITHIN = 1.0  # points that the mean over seeds may lie below


class GCN(nn.Module):
    """Two normalised convolutions. Source: Kipf, Welling 2017."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = GCNConv(dim, 16, normalize=False), GCNConv(16, classes, normalize=False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weight decay on the first layer only."""
        return [{"params": self.first.parameters(), "weight_decay": 5e-4}, {"params": self.second.parameters()}]

    def forward(self, x: Tensor, edge_index: Tensor, degree: Tensor) -> Tensor:
        """Logits of every node of the batch, [nodes, classes]; those of the seeds are the whole graph's."""
        nodes = torch.arange(len(x))
        edges = torch.cat([edge_index, nodes.expand(2, -1)], 1)
        scale = (degree + 1).rsqrt()
        weights = scale[edges[0]] * scale[edges[1]]
        x = functional.dropout(x, 0.5, self.training)
        x = functional.dropout(self.first(x, edges, weights).relu(), 0.5, self.training)
        out: Tensor = self.second(x, edges, weights)
        return out


class GAT(nn.Module):
    """Two attention layers, 8 heads of 8 and one. Source: Velickovic et al. 2018."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = GATConv(dim, 8, heads=8, dropout=0.6), GATConv(64, classes, heads=1, concat=False, dropout=0.6)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weight decay on everything."""
        return [{"params": self.parameters(), "weight_decay": 5e-4}]

    def forward(self, x: Tensor, edge_index: Tensor, degree: Tensor) -> Tensor:
        """As GCN's; attention needs no degrees."""
        x = functional.dropout(x, 0.6, self.training)
        x = functional.dropout(functional.elu(self.first(x, edge_index)), 0.6, self.training)
        out: Tensor = self.second(x, edge_index)
        return out


MODELS = {"gcn": (GCN, 0.01), "gat": (GAT, 0.005)}


@dataclass(frozen=True, slots=True)
class Run:
    """One training run."""

    test_accuracy: float  # percent, at the epoch of best validation accuracy
    epochs: int
    seconds: float


def train(graph: Any, model_name: str, classes: int, dim: int, *, seed: int, epochs: int, patience: int) -> Run:
    """Train one model; every batch comes through `graph`."""
    torch.manual_seed(seed)
    kind, rate = MODELS[model_name]
    model = kind(dim, classes)
    optimiser = torch.optim.Adam(model.parameter_groups(), lr=rate)
    parts = np.asarray(graph.features(graph.node_ids(), ["part"])["part"])
    ids = np.asarray(graph.node_ids())

    def batches(part: int) -> Any:
        seeds = ids[parts == part]
        return fd.graph.torch.NeighborLoader(
            graph,
            seeds,
            fan_outs=[-1, -1],
            batch_size=len(seeds),
            features=["x", "degree"],
            labels="label",
            shuffle=part == TRAIN,
            seed=seed,
        )

    training, held_out = batches(TRAIN), {part: next(iter(batches(part))) for part in (VALIDATION, TEST)}
    best, at_best, since = (-1.0, 0.0), 0.0, 0
    began = time.perf_counter()
    epoch = 0
    for epoch in range(1, epochs + 1):  # noqa: B007 (the last one is reported)
        for batch in training:
            model.train()
            optimiser.zero_grad()
            logits = model(batch.x, batch.edge_index, batch.degree)[: batch.batch_size]
            functional.cross_entropy(logits, batch.y[: batch.batch_size]).backward()
            optimiser.step()
        accuracy, loss = _score(model, held_out[VALIDATION])
        since += 1
        if (accuracy, -loss) > best:
            best, at_best, since = (accuracy, -loss), _score(model, held_out[TEST])[0], 0
        elif since >= patience:
            break
    return Run(at_best, epoch, time.perf_counter() - began)


@torch.no_grad()
def _score(model: nn.Module, batch: Any) -> tuple[float, float]:
    model.eval()
    logits = model(batch.x, batch.edge_index, batch.degree)[: batch.batch_size]
    accuracy = 100 * float((logits.argmax(1) == batch.y[: batch.batch_size]).double().mean())
    return accuracy, float(functional.cross_entropy(logits, batch.y[: batch.batch_size]))


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train what was asked for, print a table, and write the results file."""
    parser = argparse.ArgumentParser(prog="python -m examples.planetoid", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder of planetoid/")
    parser.add_argument("--dataset", action="append", choices=("cora", "citeseer"))
    parser.add_argument("--model", action="append", choices=tuple(MODELS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--patience", type=int, default=100)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of torch: batches this small are not faster with more")
    parser.add_argument("--results", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    folder = data_folder(options.data)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fondaco-planetoid-") as directory:
        for dataset in options.dataset or ("cora", "citeseer"):
            tables = read_planetoid(folder, dataset)
            with fd.open(directory) as platform:
                platform.build_graph(
                    dataset,
                    nodes={"paper": tables.nodes},
                    edges={("paper", "cites", "paper"): tables.edges},
                    undirected=True,
                    partitions=options.shards,
                    progress=False,
                )
            with serving(Path(directory), dataset, shards=options.shards), fd.graph.connect(graph=dataset) as graph:
                for model in options.model or MODELS:
                    runs = [
                        train(graph, model, tables.classes, tables.dim, seed=seed, epochs=options.epochs, patience=options.patience)
                        for seed in range(options.seeds)
                    ]
                    results[f"{model} {dataset}"] = _summary(runs, PUBLISHED[model, dataset])
                    print(_line(model, dataset, results[f"{model} {dataset}"]), flush=True)
    if options.results is not None:
        options.results.write_text(json.dumps(results, indent=1) + "\n")
    return results


def _summary(runs: Sequence[Run], published: float) -> dict[str, Any]:
    accuracies = [run.test_accuracy for run in runs]
    return {
        "test_accuracy_mean": round(statistics.fmean(accuracies), 2),
        "test_accuracy_stdev": round(statistics.stdev(accuracies), 2) if len(accuracies) > 1 else 0.0,
        "test_accuracies": [round(accuracy, 1) for accuracy in accuracies],
        "published": published,
        "epochs_mean": statistics.fmean(run.epochs for run in runs),
        "seconds_mean": round(statistics.fmean(run.seconds for run in runs), 1),
    }


def _line(model: str, dataset: str, found: dict[str, Any]) -> str:
    mean, spread, published = found["test_accuracy_mean"], found["test_accuracy_stdev"], found["published"]
    verdict = f"within {WITHIN:g} point" if mean >= published - WITHIN else f"{published - mean:.1f} points below"
    return (
        f"{model.upper():4} {dataset:9} {mean:5.1f} ± {spread:.1f} of {len(found['test_accuracies'])} seeds; "
        f"published {published}: {verdict}; {found['epochs_mean']:.0f} epochs, {found['seconds_mean']:.1f} s a run"
    )


if __name__ == "__main__":
    main()

"""A PyG script: GraphSAGE over sampled neighbourhoods, with PyG's loaders over our client's stores and sampler.

    python -m examples.pages
    fondaco train --graph pages -- python -m examples.unchanged_pyg
    fondaco train --graph pages --shards 2 --nproc 2 -- python -m examples.unchanged_pyg

It knows no address, directory or service, only its environment: `connect()` reads FONDACO_GRAPH_ENDPOINTS, which whoever starts the job
sets, so the same script runs wherever such a graph is served. The graph has one type of nodes with the features `x`, `label` and `part`
(0: to learn from, 1: to validate). Under torchrun the processes share the batches.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fondaco.graph import connect, pyg  # before PyG: it knows which warnings of PyG's are none

from torch_geometric.data import Data  # isort: skip
from torch_geometric.loader import NodeLoader  # isort: skip
from torch_geometric.nn import GraphSAGE  # isort: skip


def main(arguments: Sequence[str] | None = None) -> float:
    """Train; returns the share of the validation nodes that are told right."""
    parser = argparse.ArgumentParser(description="GraphSAGE on the graph that the environment names")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=512)
    options = parser.parse_args(arguments)
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world > 1:
        torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)

    with connect() as graph:
        stores, sampler = pyg.stores(graph, features=["x", "label"]), pyg.NeighborSampler(graph, [10, 5])
        known = graph.features(graph.node_ids(), ["label", "part"])  # in the order of PyG's indexes
        part, classes = np.asarray(known["part"]), int(np.asarray(known["label"]).max()) + 1
        training, held_out = (torch.from_numpy(np.flatnonzero(part == number)) for number in (0, 1))
        share = training[rank::world][: len(training) // world]  # as many for each, or they would wait for each other

        model: nn.Module = GraphSAGE(_width(stores), hidden_channels=64, num_layers=2, out_channels=classes)
        if world > 1:
            model = nn.parallel.DistributedDataParallel(model)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for epoch in range(options.epochs):
            loss = 0.0
            for batch in NodeLoader(stores, sampler, input_nodes=share, batch_size=options.batch_size, shuffle=True):
                optimiser.zero_grad()
                found = functional.cross_entropy(_scores(model, batch), batch.label[: batch.batch_size])
                found.backward()
                optimiser.step()
                loss += float(found.detach())
            if rank == 0:
                print(f"epoch {epoch}: loss {loss:.3f}", flush=True)
        accuracy = _accuracy(model, NodeLoader(stores, sampler, input_nodes=held_out, batch_size=1024))
    if rank == 0:
        print(f"validation accuracy {accuracy:.3f}", flush=True)
    if world > 1:
        torch.distributed.destroy_process_group()
    return accuracy


def _width(stores: tuple[pyg.FeatureStore, pyg.GraphStore]) -> int:
    attribute = next(one for one in stores[0].get_all_tensor_attrs() if one.attr_name == "x")
    return int(stores[0].get_tensor_size(attribute)[1])


def _scores(model: nn.Module, batch: Data) -> Tensor:
    """Of the seeds, which are the first nodes of a batch."""
    scores: Tensor = model(batch.x, batch.edge_index)[: batch.batch_size]
    return scores


@torch.no_grad()
def _accuracy(model: nn.Module, loader: NodeLoader) -> float:
    model.eval()
    right = [_scores(model, batch).argmax(1) == batch.label[: batch.batch_size] for batch in loader]
    return float(torch.cat(right).double().mean())


if __name__ == "__main__":
    main()

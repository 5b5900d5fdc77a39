"""A script written for DeepGNN: two hops of sampled neighbours, mean aggregation, through DeepGNN's client and data set.

    python -m examples.pages
    fondaco train --graph pages --deepgnn -- python -m examples.unchanged_deepgnn

What was changed in it are its imports. Where its graph engine answers it reads from GE_ENDPOINTS, as it did. DeepGNN knows types and
features by number: nodes 0, edges 0, and the features x (0), label (1) and part (2; 0: to learn from, 1: to validate).
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

# from deepgnn.graph_engine import DeepGNNDataset, GENodeSampler, Graph, multihop
# from deepgnn.graph_engine.snark.distributed import Client
from fondaco.graph.deepgnn import DeepGNNDataset, GENodeSampler, Graph, multihop
from fondaco.graph.deepgnn import DistributedClient as Client

LABEL, PART = np.array([[1, 1]]), np.array([[2, 1]])
FAN_OUTS = [10, 5]


class Backend:
    """Holds the client, as DeepGNN's data set wants it."""

    def __init__(self, servers: str) -> None:
        self.graph = Client(servers)


class SupervisedSage(nn.Module):
    """Mean of the neighbours beside a node's own values, twice."""

    def __init__(self, dim: int, classes: int, hidden: int = 64) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2 * dim, hidden), nn.Linear(2 * hidden, classes)

    def forward(self, hops: list[Tensor]) -> Tensor:
        """Scores of the nodes of hop 0, from features of hops 0, 1 and 2."""
        near = [self._joined(self.first, hops[depth], hops[depth + 1], FAN_OUTS[depth]).relu() for depth in (0, 1)]
        return self._joined(self.second, near[0], near[1], FAN_OUTS[0])

    @staticmethod
    def _joined(layer: nn.Linear, own: Tensor, neighbors: Tensor, count: int) -> Tensor:
        out: Tensor = layer(torch.cat([own, neighbors.reshape(len(own), count, -1).mean(1)], 1))
        return out


def query(graph: Graph, nodes: npt.NDArray[np.int64], dim: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Features by hop, and labels and parts of the nodes themselves."""
    hops, _, _ = multihop.sample_fanout(graph, nodes, [[0], [0]], FAN_OUTS, default_node=-1)
    features = [torch.from_numpy(graph.node_features(hop, np.array([[0, dim]]), np.float32)) for hop in hops]
    label, part = (torch.from_numpy(graph.node_features(nodes, kind, np.int64)).reshape(-1) for kind in (LABEL, PART))
    return features, label, part


def main(arguments: Sequence[str] | None = None) -> float:
    """Train; returns the share of the validation nodes drawn that are told right."""
    parser = argparse.ArgumentParser(description="GraphSAGE through DeepGNN's client")
    parser.add_argument("--dim", type=int, default=128, help="of the feature x")
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--servers", default=os.environ.get("GE_ENDPOINTS"))
    options = parser.parse_args(arguments)
    random.seed(0)
    torch.manual_seed(0)

    model = SupervisedSage(options.dim, options.classes)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    right = seen = 0
    data = DeepGNNDataset(
        GENodeSampler,
        lambda graph, nodes: query(graph, nodes, options.dim),
        Backend(options.servers),
        batch_size=options.batch_size,
        epochs=options.epochs,
        node_types=np.array([0], np.int32),
        enable_prefetch=True,
    )
    batches = -(-data.graph.node_count(np.array([0], np.int32)) // options.batch_size) * options.epochs
    for number, (hops, label, part) in enumerate(data):
        scores = model(hops)
        learned, asked = part == 0, part == 1
        if number >= batches // 2:  # by then it has learned something
            right, seen = right + int((scores.argmax(1) == label)[asked].sum()), seen + int(asked.sum())
        optimiser.zero_grad()
        loss = functional.cross_entropy(scores[learned], label[learned])
        loss.backward()
        optimiser.step()
        if number % 20 == 0:
            print(f"batch {number}: loss {float(loss.detach()):.3f}", flush=True)
    accuracy = right / max(seen, 1)
    print(f"validation accuracy {accuracy:.3f}", flush=True)
    data.graph.reset()
    return accuracy


if __name__ == "__main__":
    main()

"""Training with torch on a graph: loaders of sampled neighbourhoods, over an embedded or a served graph alike.

`NeighborLoader` and `LinkNeighborLoader` make batches ahead in threads; `GraphIterableDataset` gives the same batches to torch's DataLoader
and its worker processes. Batches are PyG's `Data` and `HeteroData` where torch_geometric is installed. Several trainers (DDP) share the
seeds out by rank without a word. PyG's own loaders work too: see `fondaco.graph.pyg`.
"""

from __future__ import annotations

from fondaco.graph.torch.extras import need_torch

need_torch()

from fondaco.graph.torch.batches import Batch, HeteroBatch  # noqa: E402  (not before the line that says what is missing)
from fondaco.graph.torch.dataset import GraphIterableDataset  # noqa: E402
from fondaco.graph.torch.fan_outs import GrowingFanOuts  # noqa: E402
from fondaco.graph.torch.link_loader import LinkNeighborLoader  # noqa: E402
from fondaco.graph.torch.neighbor_loader import NeighborLoader  # noqa: E402
from fondaco.graph.torch.options import LoaderOptions  # noqa: E402

__all__ = [
    "Batch",
    "GraphIterableDataset",
    "GrowingFanOuts",
    "HeteroBatch",
    "LinkNeighborLoader",
    "LoaderOptions",
    "NeighborLoader",
]

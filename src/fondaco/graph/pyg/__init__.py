"""PyG over a graph: its FeatureStore, GraphStore and BaseSampler, so that its loaders and models run unchanged.

```python
data = fd.graph.pyg.stores(graph)
loader = NodeLoader(data, fd.graph.pyg.NeighborSampler(graph, [15, 10]), input_nodes=("page", train_index), batch_size=1024, shuffle=True)
```

PyG knows nodes by index: `NodeIndex` says which id has which; where ids are 0..n - 1 they are the same. `fondaco.graph.torch` has loaders
that fetch a batch, features and all, by one request; these need two, one for neighbours and one for features.
"""

from __future__ import annotations

from fondaco.graph.torch.extras import need_geometric, need_torch

need_torch()
need_geometric()

from fondaco.graph.graph import Graph  # noqa: E402  (not before the lines that say what is missing)
from fondaco.graph.pyg.feature_store import FeatureStore  # noqa: E402
from fondaco.graph.pyg.graph_store import GraphStore  # noqa: E402
from fondaco.graph.pyg.indexing import NodeIndex  # noqa: E402
from fondaco.graph.pyg.sampler import NeighborSampler, pyg_direction  # noqa: E402
from fondaco.graph.schema import Direction  # noqa: E402

__all__ = ["FeatureStore", "GraphStore", "NeighborSampler", "NodeIndex", "stores"]


def stores(
    graph: Graph, *, features: tuple[str, ...] | list[str] | None = None, direction: Direction | None = None
) -> tuple[FeatureStore, GraphStore]:
    """The pair that PyG's loaders take for `data`. `features`: names to put into batches (default: all but bytes)."""
    index = NodeIndex(graph)
    offered = None if features is None else tuple(features)
    return FeatureStore(graph, index, offered), GraphStore(graph, index, pyg_direction(graph, direction))

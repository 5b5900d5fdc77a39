"""PyG over a graph: its FeatureStore, GraphStore and BaseSampler, so that its loaders and models run unchanged.

    data = fd.graph.pyg.stores(graph)
    sampler = fd.graph.pyg.NeighborSampler(graph, [15, 10])
    loader = NodeLoader(data, sampler, input_nodes=("page", train_index), batch_size=1024, shuffle=True)

PyG knows nodes by index: `NodeIndex` says which id has which; where ids are 0..n - 1 they are the same. `fondaco.graph.torch` has loaders
that fetch a batch, features and all, by one request; these need two, one for neighbours and one for features.
"""

from __future__ import annotations

from collections.abc import Sequence

from fondaco.graph.torch.extras import need_geometric, need_torch

need_torch()
need_geometric()

from fondaco.core.errors import InputError  # noqa: E402
from fondaco.graph._arguments import pack_node_features  # noqa: E402
from fondaco.graph.graph import Graph  # noqa: E402  (not before the lines that say what is missing)
from fondaco.graph.pyg.feature_store import FeatureStore  # noqa: E402
from fondaco.graph.pyg.graph_store import GraphStore  # noqa: E402
from fondaco.graph.pyg.indexing import NodeIndex  # noqa: E402
from fondaco.graph.pyg.sampler import NeighborSampler, pyg_direction  # noqa: E402
from fondaco.graph.schema import Direction  # noqa: E402

__all__ = ["FeatureStore", "GraphStore", "NeighborSampler", "NodeIndex", "stores"]


def stores(
    graph: Graph, *, features: str | Sequence[str] | None = None, direction: Direction | None = None
) -> tuple[FeatureStore, GraphStore]:
    """The pair that PyG's loaders take for `data`. `features`: names to put into batches (default: all but bytes).

    Raises:
        FeatureNotFoundError: no node type has a feature of that name. InputError: `graph` is none.
    """
    if not isinstance(graph, Graph):
        raise InputError(f"stores are of a graph, as platform.graph(name) or fd.graph.connect() gives; not {graph!r}")
    index = NodeIndex(graph)
    offered = None if features is None else tuple(dict.fromkeys(name for _, name in pack_node_features(graph.schema, features)))
    return FeatureStore(graph, index, offered), GraphStore(graph, index, pyg_direction(graph, direction))

"""DeepGNN's client, over a Fondaco graph: a training script that was written for deepgnn-ge needs other imports, and no other change.

    # from deepgnn.graph_engine import Graph, SamplingStrategy, multihop
    # from deepgnn.graph_engine.snark.local import Client
    # from deepgnn.graph_engine.snark.distributed import Client as DistributedClient
    from fondaco.graph.deepgnn import Client, DistributedClient, Graph, SamplingStrategy, multihop

Names, arguments, shapes and dtypes are DeepGNN's (0.1.66); docs/deepgnn.md says query by query what differs. New scripts do better with
`fondaco.graph.Graph` itself: one request for all hops and features, nodes merged, types by name.
"""

from __future__ import annotations

from fondaco.graph.deepgnn import graph_ops, multihop
from fondaco.graph.deepgnn.client import Client, DistributedClient, Graph
from fondaco.graph.deepgnn.dataset import DeepGNNDataset
from fondaco.graph.deepgnn.native import DistributedGraph, EdgeSampler, MemoryGraph, NodeSampler
from fondaco.graph.deepgnn.numbering import Numbering
from fondaco.graph.deepgnn.samplers import (
    INVALID_NODE_ID,
    BaseSampler,
    FileEdgeSampler,
    FileNodeSampler,
    GEEdgeSampler,
    GENodeSampler,
    RangeNodeSampler,
    get_files,
)
from fondaco.graph.deepgnn.strategies import PartitionStorageType, SamplingStrategy

__all__ = [
    "INVALID_NODE_ID",
    "BaseSampler",
    "Client",
    "DeepGNNDataset",
    "DistributedClient",
    "DistributedGraph",
    "EdgeSampler",
    "FileEdgeSampler",
    "FileNodeSampler",
    "GEEdgeSampler",
    "GENodeSampler",
    "Graph",
    "MemoryGraph",
    "NodeSampler",
    "Numbering",
    "PartitionStorageType",
    "RangeNodeSampler",
    "SamplingStrategy",
    "get_files",
    "graph_ops",
    "multihop",
]

"""Graphs: versions built from node and edge tables, samplers over them, the service that answers from them, and what feeds training.

`platform.graph(name)` answers from files in this process, `connect()` from servers; both are a `Graph` with the same answers, bit for bit.
Names are loaded when they are first used: a client brings in neither numba nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fondaco.graph import deepgnn, pyg, torch
    from fondaco.graph.answers import BytesColumn, EdgeSample, HeteroSubgraph, Neighbors, Ranked, SparseColumn, Subgraph
    from fondaco.graph.build.convert_deepgnn import EdgeListFormat, from_deepgnn
    from fondaco.graph.build.importers import GraphTables, from_networkx, from_pyg
    from fondaco.graph.graph import Graph
    from fondaco.graph.handle import GraphHandle
    from fondaco.graph.inputs import Edges, Nodes, StoreFeature
    from fondaco.graph.report import BuildReport
    from fondaco.graph.schema import Adjacency, EdgeType, Feature, GraphSchema, NodeType
    from fondaco.graph.service.endpoints import connect
    from fondaco.graph.versions import GraphVersionInfo, GraphVersions

__all__ = [
    "Adjacency",
    "BuildReport",
    "BytesColumn",
    "EdgeListFormat",
    "EdgeSample",
    "EdgeType",
    "Edges",
    "Feature",
    "Graph",
    "GraphHandle",
    "GraphSchema",
    "GraphTables",
    "GraphVersionInfo",
    "GraphVersions",
    "HeteroSubgraph",
    "Neighbors",
    "NodeType",
    "Nodes",
    "Ranked",
    "SparseColumn",
    "StoreFeature",
    "Subgraph",
    "connect",
    "deepgnn",
    "from_deepgnn",
    "from_networkx",
    "from_pyg",
    "pyg",
    "torch",
]

_HOMES = {
    "Adjacency": "schema",
    "BuildReport": "report",
    "BytesColumn": "answers",
    "EdgeListFormat": "build.convert_deepgnn",
    "EdgeSample": "answers",
    "EdgeType": "schema",
    "Edges": "inputs",
    "Feature": "schema",
    "Graph": "graph",
    "GraphHandle": "handle",
    "GraphSchema": "schema",
    "GraphTables": "build.importers",
    "GraphVersionInfo": "versions",
    "GraphVersions": "versions",
    "HeteroSubgraph": "answers",
    "Neighbors": "answers",
    "NodeType": "schema",
    "Nodes": "inputs",
    "Ranked": "answers",
    "SparseColumn": "answers",
    "StoreFeature": "inputs",
    "Subgraph": "answers",
    "connect": "service.endpoints",
    "from_deepgnn": "build.convert_deepgnn",
    "from_networkx": "build.importers",
    "from_pyg": "build.importers",
}
_MODULES = frozenset({"deepgnn", "pyg", "torch"})


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"fondaco.graph.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"fondaco.graph.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

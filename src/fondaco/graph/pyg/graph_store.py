"""GraphStore: a graph's edges, as PyG asks for them: whole, by edge type, with indexes for nodes.

PyG's own samplers want all edges in their memory; a `NeighborSampler` of this package does not, and then nothing here is ever read but the
names. Edges are read list by list and kept by nobody. Reading only; any thread.

PyG's messages go along edges, from row 0 to row 1, so it samples against them. Where the graph is sampled along its edges
(direction="out") messages go back: those have types of their own, ("b", "rev_relation", "a"), which are listed here too.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch_geometric.data import EdgeAttr
from torch_geometric.data import GraphStore as BaseGraphStore
from torch_geometric.data.graph_store import EdgeLayout

from fondaco.core.errors import InputError
from fondaco.graph.graph import Graph
from fondaco.graph.pyg.indexing import NodeIndex
from fondaco.graph.schema import Direction, EdgeKey, EdgeType
from fondaco.graph.torch.batches import message_type
from fondaco.graph.torch.links import all_edges

_READ_ONLY: Final = "a graph's edges are those of its version: build a new version instead (platform.build_graph, or .update)"


class GraphStore(BaseGraphStore):  # type: ignore[misc]  # PyG's classes are not typed here
    """Edges of `graph`, sampled in `direction`."""

    def __init__(self, graph: Graph, index: NodeIndex | None = None, direction: Direction = "in") -> None:
        super().__init__()
        self.graph, self.index, self.direction = graph, index or NodeIndex(graph), direction

    def get_all_edge_attrs(self) -> list[EdgeAttr]:
        """One for each edge type; and, sampled along the edges, one for each type of messages back."""
        return [EdgeAttr(key, EdgeLayout.COO, size=self._size(key)) for key in self._types()]

    def _get_edge_index(self, edge_attr: EdgeAttr) -> tuple[torch.Tensor, torch.Tensor] | None:
        key = tuple(edge_attr.edge_type)
        if key not in self._types():
            return None
        edge = self._types()[key]
        src, dst = all_edges(self.graph, edge)
        row, col = self.index.indexes(edge.src, src), self.index.indexes(edge.dst, dst)
        if key != edge.key:
            row, col = col, row
        sizes = self._size(key)
        if edge_attr.layout == EdgeLayout.COO and not edge_attr.is_sorted:
            return _tensors(row, col)
        by, size = (0, sizes[0]) if edge_attr.layout == EdgeLayout.CSR else (1, sizes[1])
        order = np.argsort((row, col)[by], kind="stable")
        row, col = row[order], col[order]
        if edge_attr.layout == EdgeLayout.COO:
            return _tensors(row, col)
        pointers = np.searchsorted((row, col)[by], np.arange(size + 1))
        return _tensors(pointers, col) if by == 0 else _tensors(row, pointers)

    def _types(self) -> dict[EdgeKey, EdgeType]:
        edges = self.graph.schema.edges
        types = {edge.key: edge for edge in edges}
        if self.direction == "out":
            types |= {message_type(edge.key, "out"): edge for edge in edges}
        return types

    def _size(self, key: EdgeKey) -> tuple[int, int]:
        return self.graph.node_count(key[0]), self.graph.node_count(key[2])

    def _put_edge_index(self, edge_index: Any, edge_attr: EdgeAttr) -> bool:
        raise InputError(_READ_ONLY)

    def _remove_edge_index(self, edge_attr: EdgeAttr) -> bool:
        raise InputError(_READ_ONLY)

    def __repr__(self) -> str:
        return f"GraphStore({self.graph!r})"


def _tensors(row: Any, col: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.ascontiguousarray(row)), torch.from_numpy(np.ascontiguousarray(col))

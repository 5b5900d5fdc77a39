"""FeatureStore: a graph's node features, as PyG asks for them: by node type, name and index. Reading only; any thread."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch_geometric.data import FeatureStore as BaseFeatureStore
from torch_geometric.data import TensorAttr

from fondaco.core.errors import InputError
from fondaco.graph.answers import BytesColumn, FeatureColumn
from fondaco.graph.graph import Graph
from fondaco.graph.pyg.indexing import NodeIndex
from fondaco.graph.torch.tensors import array_of, feature_of

_ROWS_AT_ONCE: Final = 1 << 16
_READ_ONLY: Final = "a graph's features are those of its version: build a new version instead (platform.build_graph, or .update)"


class FeatureStore(BaseFeatureStore):  # type: ignore[misc]  # PyG's classes are not typed here
    """Node features of `graph`. `features`: the names to offer to loaders (default: all dense and sparse ones)."""

    def __init__(self, graph: Graph, index: NodeIndex | None = None, features: tuple[str, ...] | None = None) -> None:
        super().__init__()
        # PyG's views turn attribute access into keys; these are plain attributes.
        self.__dict__.update(graph=graph, index=index or NodeIndex(graph), features=features)

    def get_all_tensor_attrs(self) -> list[TensorAttr]:
        """One for each node type and feature offered."""
        return [
            TensorAttr(group_name=node.name, attr_name=feature.name)
            for node in self.graph.schema.nodes
            for feature in node.features
            if (feature.kind != "bytes" if self.features is None else feature.name in self.features)
        ]

    def _get_tensor(self, attr: TensorAttr) -> Any:
        return self._multi_get_tensor([attr])[0]

    def _multi_get_tensor(self, attrs: list[TensorAttr]) -> list[Any]:
        """One request for all features of the same nodes."""
        together: dict[tuple[Any, int], list[str]] = {}
        for attr in attrs:
            together.setdefault((attr.group_name, id(attr.index)), []).append(attr.attr_name)
        found: dict[tuple[Any, int, str], Any] = {}
        for attr in attrs:
            names = together.pop((attr.group_name, id(attr.index)), [])
            for name, value in (self._rows(attr.group_name, names, attr.index) if names else {}).items():
                found[attr.group_name, id(attr.index), name] = value
        return [found[attr.group_name, id(attr.index), attr.attr_name] for attr in attrs]

    def _rows(self, group: str | None, names: list[str], index: Any) -> dict[str, Any]:
        node_type = self._node_type(group)
        ids = self.index.ids(node_type, _positions(index, self.graph.node_count(node_type)))
        if len(ids) <= _ROWS_AT_ONCE:
            return {name: feature_of(column) for name, column in self.graph.features(ids, names, node_type=node_type).items()}
        parts: dict[str, list[Any]] = {name: [] for name in names}
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            columns: dict[str, FeatureColumn] = self.graph.features(ids[start : start + _ROWS_AT_ONCE], names, node_type=node_type)
            for name, column in columns.items():
                parts[name] += column.tolist() if isinstance(column, BytesColumn) else [feature_of(column)]
        return {
            name: torch.cat(of_name) if of_name and isinstance(of_name[0], torch.Tensor) else of_name for name, of_name in parts.items()
        }

    def _get_tensor_size(self, attr: TensorAttr) -> tuple[int, ...]:
        node_type = self._node_type(attr.group_name)
        feature = self.graph.schema.node(node_type).feature(attr.attr_name)
        shape = (
            feature.shape
            if feature.kind in ("dense", "sparse")
            else tuple(self._get_tensor(TensorAttr(node_type, attr.attr_name, slice(0, 1))).shape[1:])
        )
        return self.graph.node_count(node_type), *shape

    def _node_type(self, group: str | None) -> str:
        if group is not None:
            return str(self.graph.schema.node(group).name)
        if len(self.graph.schema.nodes) != 1:
            raise InputError("the graph has several node types; say which: TensorAttr(group_name=...)")
        return str(self.graph.schema.nodes[0].name)

    def _put_tensor(self, tensor: Any, attr: TensorAttr) -> bool:
        raise InputError(_READ_ONLY)

    def _remove_tensor(self, attr: TensorAttr) -> bool:
        raise InputError(_READ_ONLY)

    def __repr__(self) -> str:
        return f"FeatureStore({self.graph!r})"


def _positions(index: Any, count: int) -> npt.NDArray[np.int64] | None:
    """Indexes of the rows asked for; None: all."""
    if index is None or (isinstance(index, slice) and index == slice(None)):
        return None
    if isinstance(index, slice):
        return np.arange(*index.indices(count))
    found = array_of(index)
    if found.dtype == bool:
        return np.flatnonzero(found)
    return found.reshape(1) if found.ndim == 0 else found.astype(np.int64, copy=False)

"""Indexes for nodes: PyG numbers the nodes of a type 0..n - 1, a graph has ids; this is the way between them.

The index of a node is the rank of its id among the ids of its type, in ascending order. So where the ids are 0..n - 1, as in graphs that
came from PyG, index and id are the same number, and nothing is kept; else the sorted ids are (8 bytes a node, more for strings). They are
read once, at first use, from the version that the graph is at then: to train across a change of versions, open the graph at one. Any
thread.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError, StateError
from fondaco.graph.graph import Graph
from fondaco.graph.torch.tensors import Held, ids_of

_Index = npt.NDArray[np.int64]


class NodeIndex:
    """Ids and indexes of a graph's nodes, by node type. Picklable if the graph is."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._sorted: dict[str, npt.NDArray[Any] | None] = {}
        self._lock = threading.Lock()

    def ids(self, node_type: str, indexes: npt.ArrayLike | None = None) -> npt.NDArray[Any]:
        """The ids of nodes by index: int64 [n], or an object array of strings. None: of all nodes, in order.

        Raises:
            InputError: an index outside [0, nodes of the type).
        """
        count = self.graph.node_count(node_type)
        known = self._ids(node_type)
        if indexes is None:
            return np.arange(count, dtype=np.int64) if known is None else known
        index = np.asarray(indexes, dtype=np.int64)
        if index.size and (index.min() < 0 or index.max() >= count):
            wrong = index[(index < 0) | (index >= count)]
            raise InputError(f"{len(wrong)} indexes of {node_type!r} nodes are outside [0, {count}), the first is {int(wrong[0])}")
        return index if known is None else known[index]

    def indexes(self, node_type: str, ids: npt.NDArray[Any]) -> _Index:
        """The indexes of nodes by id: int64 [n].

        Raises:
            StateError: an id that there was not when the ids were read.
        """
        known = self._ids(node_type)
        if known is None:
            return ids
        found = np.searchsorted(known, ids)
        found[found == len(known)] = 0
        if ids.size and (len(known) == 0 or not np.array_equal(known[found], ids)):
            raise StateError(
                f"the {node_type!r} nodes have changed since their indexes were made; open the graph at one version to train on it"
            )
        return found

    def tensor(self, node_type: str, indexes: npt.ArrayLike | None = None) -> Held:
        """`ids` as a tensor (strings: an object array)."""
        return ids_of(self.ids(node_type, indexes))

    def __getstate__(self) -> dict[str, Any]:
        return {"graph": self.graph, "_sorted": self._sorted}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _ids(self, node_type: str) -> npt.NDArray[Any] | None:
        """The ids in ascending order; None where they are 0..n - 1."""
        with self._lock:
            if node_type not in self._sorted:
                ids = self.graph.node_ids(node_type)
                plain = ids.dtype.kind == "i" and (len(ids) == 0 or (ids.min() == 0 and ids.max() == len(ids) - 1))
                self._sorted[node_type] = None if plain else np.sort(ids)  # ids are all different
            return self._sorted[node_type]

"""DeepGNN's upper face: Graph, and its clients in process and of servers (`_base`, `snark.local` and `snark.distributed` there)."""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError
from fondaco.graph import graph as face
from fondaco.graph.deepgnn.lists import I32, I64, Fill
from fondaco.graph.deepgnn.native import (
    DistributedGraph,
    EdgeSampler,
    MemoryGraph,
    NodeSampler,
    Timestamps,
    TimeUnit,
    Types,
    as_longs,
    as_numbers,
    as_times,
)
from fondaco.graph.deepgnn.numbering import Numbering
from fondaco.graph.deepgnn.strategies import PartitionStorageType, SamplingStrategy

_KINDS: Final = {
    SamplingStrategy.Weighted: "weighted",
    SamplingStrategy.Random: "uniform",
    SamplingStrategy.RandomWithoutReplacement: "withoutreplacement",
}
_STRATEGIES: Final = ("byweight", "random", "randomwithoutreplacement", "topk", "ppr-go", "lastn")


class Graph(ABC):
    """What a query function may ask: the base class that DeepGNN's scripts annotate with."""

    @abstractmethod
    def sample_nodes(self, size: int, node_types: int | npt.NDArray[Any], strategy: SamplingStrategy) -> Any:
        """Nodes drawn from the whole graph."""

    @abstractmethod
    def sample_edges(self, size: int, edge_types: int | npt.NDArray[Any], strategy: SamplingStrategy) -> I64:
        """Edges drawn from the whole graph."""

    @abstractmethod
    def sample_neighbors(
        self,
        nodes: npt.NDArray[Any],
        edge_types: Types,
        count: int = 10,
        strategy: str = "byweight",
        default_node: int = -1,
        default_weight: float = 0.0,
        default_edge_type: int = -1,
        alpha: float = 0.5,
        eps: float = 0.0001,
        timestamps: Timestamps = None,
        return_edge_created_ts: bool = False,
    ) -> tuple[npt.NDArray[Any], ...]:
        """Neighbours drawn for each node."""

    @abstractmethod
    def random_walk(
        self,
        node_ids: npt.NDArray[Any],
        metapath: Types,
        walk_len: int,
        p: float,
        q: float,
        default_node: int = -1,
        timestamps: Timestamps = None,
    ) -> I64:
        """Walks from each node."""

    @abstractmethod
    def neighbors(
        self, nodes: npt.NDArray[Any], edge_types: Types, timestamps: Timestamps = None, return_edge_created_ts: bool = False
    ) -> tuple[npt.NDArray[Any], ...]:
        """All neighbours of each node."""

    @abstractmethod
    def node_features(
        self, nodes: npt.NDArray[Any], features: npt.NDArray[Any], feature_type: npt.DTypeLike, timestamps: Timestamps = None
    ) -> npt.NDArray[Any]:
        """Dense features of nodes."""

    @abstractmethod
    def edge_features(
        self, edges: npt.NDArray[Any], features: npt.NDArray[Any], feature_type: npt.DTypeLike, timestamps: Timestamps = None
    ) -> npt.NDArray[Any]:
        """Dense features of edges."""

    @abstractmethod
    def node_types(self, nodes: npt.NDArray[Any]) -> I32:
        """Types of nodes."""

    @abstractmethod
    def node_count(self, types: Types) -> int:
        """How many nodes are of these types."""

    @abstractmethod
    def edge_count(self, types: Types) -> int:
        """How many edges are of these types."""


class _Client(Graph):
    """The queries, over a `MemoryGraph`, with seeds from Python's own generator, so that random.seed() repeats a run."""

    graph: MemoryGraph

    @property
    def logger(self) -> logging.Logger:
        """Where DeepGNN's clients log; nothing here writes to it."""
        return logging.getLogger("fondaco.graph.deepgnn")

    def sample_nodes(self, size: int, node_types: int | npt.NDArray[Any], strategy: SamplingStrategy = SamplingStrategy.Weighted) -> Any:
        """`size` nodes: int64 [size]; where `node_types` is an array, with their types, int32 [size]."""
        nodes, types = NodeSampler(self.graph, _as_types(node_types), _kind(strategy)).sample(size, random.getrandbits(63))
        return nodes if isinstance(node_types, int) else (nodes, types)

    def sample_edges(self, size: int, edge_types: int | npt.NDArray[Any], strategy: SamplingStrategy = SamplingStrategy.Weighted) -> I64:
        """`size` edges: int64 [size, 3], source, target and type."""
        src, dst, types = EdgeSampler(self.graph, _as_types(edge_types), _kind(strategy)).sample(size, random.getrandbits(63))
        return np.stack((src, dst, types.astype(np.int64)), axis=1)

    def sample_neighbors(
        self,
        nodes: npt.NDArray[Any],
        edge_types: Types,
        count: int = 10,
        strategy: str = "byweight",
        default_node: int = -1,
        default_weight: float = 0.0,
        default_edge_type: int = -1,
        alpha: float = 0.5,
        eps: float = 0.0001,
        timestamps: Timestamps = None,
        return_edge_created_ts: bool = False,
    ) -> tuple[npt.NDArray[Any], ...]:
        """`count` neighbours of each node: ids int64, weights float32, types int32, times int64, [n, count] each ("ppr-go": no types).

        strategy: "byweight" and "random" with replacement, "randomwithoutreplacement", "lastn", "topk", "ppr-go". Times are -1 unless asked
        for; "lastn" leaves them out unless asked for.
        """
        seed = random.getrandbits(63)
        times, graph = return_edge_created_ts, self.graph
        if strategy == "byweight":
            found = graph.weighted_sample_neighbors(
                nodes, edge_types, count, default_node, default_weight, default_edge_type, seed, timestamps, times
            )
            return found if times else (*found, _no_times(found[0]))
        if strategy in ("random", "randomwithoutreplacement"):
            fill = Fill(default_node, default_weight, default_edge_type)
            drawn = graph.engine.draw_uniform(
                as_longs(nodes), as_numbers(edge_types), count, fill, seed, as_times(timestamps), replace=strategy == "random"
            )
            return drawn.ids, drawn.weights, drawn.types, drawn.times if times else _no_times(drawn.ids)
        if strategy == "ppr-go":
            ids, scores = graph.ppr_neighbors(nodes, edge_types, count, alpha, eps, default_node, default_weight, timestamps)
            return ids, scores, np.empty(0, np.int32), _no_times(ids)
        if strategy == "lastn":
            if timestamps is None:
                raise InputError('strategy "lastn" needs timestamps, one a node: edges later than that are not seen')
            return graph.lastn_neighbors(
                nodes, edge_types, timestamps, count, default_node, default_weight, default_edge_type, return_edge_created_ts=times
            )
        if strategy == "topk":
            top = graph.topk_neighbors(nodes, edge_types, count, default_node, default_weight, default_edge_type, timestamps)
            return top if times else (*top[:3], _no_times(top[0]))
        raise InputError(f"strategy is one of {', '.join(map(repr, _STRATEGIES))}; not {strategy!r}")

    def random_walk(
        self,
        node_ids: npt.NDArray[Any],
        metapath: Types,
        walk_len: int,
        p: float,
        q: float,
        default_node: int = -1,
        timestamps: Timestamps = None,
    ) -> I64:
        """Walks by edge weight with node2vec's p and q along edges of any of the types `metapath`: int64 [n, walk_len + 1]."""
        return self.graph.random_walk(node_ids, metapath, walk_len, p, q, default_node, random.getrandbits(63), timestamps)

    def neighbors(
        self, nodes: npt.NDArray[Any], edge_types: Types, timestamps: Timestamps = None, return_edge_created_ts: bool = False
    ) -> tuple[npt.NDArray[Any], ...]:
        """All neighbours, node by node: ids, weights, types, counts uint64 [n] (and times)."""
        return self.graph.neighbors(nodes, edge_types, timestamps, return_edge_created_ts)

    def neighbor_count(self, nodes: npt.NDArray[Any], edge_types: Types, timestamps: Timestamps = None) -> npt.NDArray[np.uint64]:
        """How many neighbours each node has: uint64 [n]."""
        return self.graph.neighbor_counts(nodes, edge_types, timestamps)

    def node_features(
        self, nodes: npt.NDArray[Any], features: npt.NDArray[Any], feature_type: npt.DTypeLike, timestamps: Timestamps = None
    ) -> npt.NDArray[Any]:
        """Dense features [[feature, dimension], ...] side by side: [n, sum of dimensions]."""
        return self.graph.node_features(nodes, features, feature_type, timestamps)

    def edge_features(
        self, edges: npt.NDArray[Any], features: npt.NDArray[Any], feature_type: npt.DTypeLike, timestamps: Timestamps = None
    ) -> npt.NDArray[Any]:
        """Dense features of edges [[src, dst, type], ...] side by side: [n, sum of dimensions]."""
        table = np.asarray(edges, np.int64)
        return self.graph.edge_features(table[:, 0], table[:, 1], table[:, 2], features, feature_type, timestamps)

    def node_types(self, nodes: npt.NDArray[Any]) -> I32:
        """Types of nodes: int32 [n]; -1 of what is none."""
        return self.graph.node_types(nodes, -1)

    def node_count(self, types: Types) -> int:
        """How many nodes are of these types."""
        return self.graph.get_node_type_count(types)

    def edge_count(self, types: Types) -> int:
        """How many edges are of these types."""
        return self.graph.get_edge_type_count(types)

    def reset(self) -> None:
        """Close the graph."""
        self.graph.reset()


class Client(_Client):
    """A graph in this process. Arguments as of `MemoryGraph`; picklable, it opens the graph again where it arrives."""

    def __init__(
        self,
        path: str | Path | face.Graph,
        partitions: Sequence[int] = (),
        storage_type: PartitionStorageType = PartitionStorageType.memory,
        config_path: str = "",
        stream: bool = False,
        *,
        graph: str | None = None,
        numbering: Numbering | None = None,
        on_unknown: face.OnUnknown = "error",
        time_unit: TimeUnit = "s",
    ) -> None:
        self.graph = MemoryGraph(
            path,
            partitions,
            storage_type,
            config_path,
            stream,
            graph=graph,
            numbering=numbering,
            on_unknown=on_unknown,
            time_unit=time_unit,
        )


class DistributedClient(_Client):
    """A served graph. Arguments as of `DistributedGraph`; picklable, it connects again where it arrives."""

    def __init__(
        self,
        servers: str | Sequence[str],
        ssl_cert: str | None = None,
        grpc_options: Sequence[tuple[str, str]] | None = None,
        num_threads: int | None = None,
        num_cq_per_thread: int | None = None,
        *,
        graph: str | None = None,
        numbering: Numbering | None = None,
        on_unknown: face.OnUnknown = "error",
        time_unit: TimeUnit = "s",
    ) -> None:
        self.graph = DistributedGraph(
            servers,
            ssl_cert,
            num_threads,
            num_cq_per_thread,
            grpc_options,
            graph=graph,
            numbering=numbering,
            on_unknown=on_unknown,
            time_unit=time_unit,
        )


def _as_types(types: int | npt.NDArray[Any]) -> Types:
    return types if isinstance(types, int) else np.asarray(types)


def _kind(strategy: SamplingStrategy) -> str:
    if strategy not in _KINDS:
        raise InputError(f"nodes and edges are drawn by {', '.join(each.name for each in _KINDS)}; not {strategy!r}")
    return _KINDS[strategy]


def _no_times(ids: npt.NDArray[Any]) -> I64:
    return np.full(ids.shape, -1, np.int64)

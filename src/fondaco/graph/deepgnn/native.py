"""DeepGNN's lower face: MemoryGraph and DistributedGraph, NodeSampler and EdgeSampler, with a seed in every call (`snark.client` there)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError
from fondaco.graph.deepgnn.columns import bytes_by_row, sparse_parts
from fondaco.graph.deepgnn.engine import Engine
from fondaco.graph.deepgnn.lists import F32, I32, I64, Fill
from fondaco.graph.deepgnn.numbering import Numbering, checked
from fondaco.graph.deepgnn.strategies import PartitionStorageType
from fondaco.graph.graph import Graph, OnUnknown

Types: TypeAlias = "int | Sequence[int] | npt.NDArray[np.integer[Any]]"
Timestamps: TypeAlias = "Sequence[int] | npt.NDArray[np.integer[Any]] | None"
TimeUnit = Literal["s", "ms", "us"]

_UNITS_US: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}


@dataclass(frozen=True, slots=True)
class Meta:
    """What DeepGNN's meta.json says of a graph."""

    node_count: int
    edge_count: int
    node_type_count: int
    edge_type_count: int
    node_count_per_type: list[int]
    edge_count_per_type: list[int]
    watermark: int


class MemoryGraph:
    """A graph in this process.

    `meta_path`: the directory of a platform that holds one graph (or say which: `graph`), the graph's directory in it
    (DIR/graphs/NAME), or an open `Graph`. `partitions`, `storage_type`, `config_path`, `stream` are taken and passed over: all partitions
    are mapped. `numbering`: which number stands for which name. on_unknown: "error" (default) refuses unknown ids; "pad" fills, as DeepGNN.
    time_unit: what timestamps count, as it was said to the converter.
    """

    def __init__(
        self,
        meta_path: str | Path | Graph,
        partitions: Sequence[Any] | None = None,
        storage_type: PartitionStorageType = PartitionStorageType.memory,
        config_path: str = "",
        stream: bool = False,
        *,
        graph: str | None = None,
        numbering: Numbering | None = None,
        on_unknown: OnUnknown = "error",
        time_unit: TimeUnit = "s",
    ) -> None:
        del partitions, storage_type, config_path, stream
        self._open(open_graph(meta_path, graph), numbering, on_unknown, time_unit)

    def _open(self, graph: Graph, numbering: Numbering | None, on_unknown: OnUnknown, time_unit: TimeUnit) -> None:
        if time_unit not in _UNITS_US:
            raise InputError(f'timestamps count "s", "ms" or "us", not {time_unit!r}')
        for node in graph.schema.nodes:
            if node.id != "long":
                raise InputError(f"nodes of type {node.name!r} have string ids; DeepGNN's queries know whole numbers only")
        self.fondaco = graph
        numbers = Numbering.of(graph.schema) if numbering is None else checked(numbering, graph.schema)
        self.engine = Engine(graph, numbers, on_unknown, _UNITS_US[time_unit])

    @property
    def meta(self) -> Meta:
        """Counts by number of type."""
        engine, numbers = self.engine, self.engine.numbering
        nodes = [engine.node_count([number]) for number in range(max(numbers.nodes, default=-1) + 1)]
        edges = [engine.edge_count([number]) for number in range(max(numbers.relations, default=-1) + 1)]
        timed = any(edge.timed for edge in self.fondaco.schema.edges)
        return Meta(sum(nodes), sum(edges), len(nodes), len(edges), nodes, edges, 0 if timed else -1)

    def node_types(self, nodes: npt.ArrayLike, default_type: int) -> I32:
        """Types of nodes: int32 [n]; `default_type` of what is none."""
        return self.engine.node_types(as_longs(nodes), default_type)

    def node_features(
        self, nodes: npt.ArrayLike, features: npt.ArrayLike, dtype: npt.DTypeLike, timestamps: Timestamps = None
    ) -> npt.NDArray[Any]:
        """Dense features [[feature, dimension], ...] of nodes, side by side: [n, sum of dimensions]."""
        _refuse_times(timestamps, "features")
        return self.engine.node_features(as_longs(nodes), _pairs(features), dtype)

    def edge_features(
        self,
        edge_src: npt.ArrayLike,
        edge_dst: npt.ArrayLike,
        edge_tp: npt.ArrayLike,
        features: npt.ArrayLike,
        dtype: npt.DTypeLike,
        timestamps: Timestamps = None,
    ) -> npt.NDArray[Any]:
        """Dense features of edges, side by side: [n, sum of dimensions]."""
        _refuse_times(timestamps, "features")
        return self.engine.edge_features(_edges(edge_src, edge_dst, edge_tp), _pairs(features), dtype)

    def node_sparse_features(
        self, nodes: npt.ArrayLike, features: npt.ArrayLike, dtype: npt.DTypeLike, timestamps: Timestamps = None
    ) -> tuple[list[I64], list[npt.NDArray[Any]], I64]:
        """Sparse features, one by one: (row, index) of each number [nnz, 2], the numbers, and 1 (indexes a number has; 0: none)."""
        _refuse_times(timestamps, "features")
        rows = as_longs(nodes)
        return _sparse([sparse_parts(self.engine.node_columns(rows, int(each)), dtype) for each in np.atleast_1d(features)])

    def edge_sparse_features(
        self,
        edge_src: npt.ArrayLike,
        edge_dst: npt.ArrayLike,
        edge_tp: npt.ArrayLike,
        features: npt.ArrayLike,
        dtype: npt.DTypeLike,
        timestamps: Timestamps = None,
    ) -> tuple[list[I64], list[npt.NDArray[Any]], I64]:
        """As `node_sparse_features`, of edges."""
        _refuse_times(timestamps, "features")
        edges = _edges(edge_src, edge_dst, edge_tp)
        return _sparse([sparse_parts(self.engine.edge_columns(edges, int(each)), dtype) for each in np.atleast_1d(features)])

    def node_string_features(
        self, nodes: npt.ArrayLike, features: npt.ArrayLike, dtype: npt.DTypeLike, timestamps: Timestamps = None
    ) -> tuple[npt.NDArray[Any], I64]:
        """Features of any length, node after node: all numbers, and how many each node and feature has: int64 [n, features]."""
        _refuse_times(timestamps, "features")
        rows = as_longs(nodes)
        return _strings([bytes_by_row(self.engine.node_columns(rows, int(each)), len(rows)) for each in np.atleast_1d(features)], dtype)

    def edge_string_features(
        self,
        edge_src: npt.ArrayLike,
        edge_dst: npt.ArrayLike,
        edge_tp: npt.ArrayLike,
        features: npt.ArrayLike,
        dtype: npt.DTypeLike,
        timestamps: Timestamps = None,
    ) -> tuple[npt.NDArray[Any], I64]:
        """As `node_string_features`, of edges."""
        _refuse_times(timestamps, "features")
        edges = _edges(edge_src, edge_dst, edge_tp)
        return _strings([bytes_by_row(self.engine.edge_columns(edges, int(each)), len(edges)) for each in np.atleast_1d(features)], dtype)

    def neighbor_counts(self, nodes: npt.ArrayLike, edge_types: Types, timestamps: Timestamps = None) -> npt.NDArray[np.uint64]:
        """How many neighbours nodes have: uint64 [n]."""
        return self.engine.neighbor_counts(as_longs(nodes), as_numbers(edge_types), as_times(timestamps))

    def neighbors(
        self, nodes: npt.ArrayLike, edge_types: Types, timestamps: Timestamps = None, return_edge_created_ts: bool = False
    ) -> tuple[npt.NDArray[Any], ...]:
        """All neighbours, node by node: ids, weights, types, and counts [n]; with `return_edge_created_ts` the edges' times, too."""
        rows = as_longs(nodes)
        lists = self.engine.neighbors(rows, as_numbers(edge_types), as_times(timestamps))
        counts = np.bincount(lists.rows, minlength=len(rows)).astype(np.uint64)
        found = lists.ids, lists.weights, lists.types, counts
        return (*found, lists.times) if return_edge_created_ts else found

    def weighted_sample_neighbors(
        self,
        nodes: npt.ArrayLike,
        edge_types: Types,
        count: int = 10,
        default_node: int = -1,
        default_weight: float = 0.0,
        default_edge_type: int = -1,
        seed: int | None = None,
        timestamps: Timestamps = None,
        return_edge_created_ts: bool = False,
    ) -> tuple[npt.NDArray[Any], ...]:
        """`count` neighbours of each node, with replacement, by edge weight: ids, weights, types (and times), [n, count] each."""
        fill = Fill(default_node, default_weight, default_edge_type)
        drawn = self.engine.draw_weighted(as_longs(nodes), as_numbers(edge_types), count, fill, _seed(seed), as_times(timestamps))
        found = drawn.ids, drawn.weights, drawn.types
        return (*found, drawn.times) if return_edge_created_ts else found

    def uniform_sample_neighbors(
        self,
        without_replacement: bool,
        nodes: npt.ArrayLike,
        edge_types: Types,
        count: int = 10,
        default_node: int = -1,
        default_type: int = -1,
        seed: int | None = None,
        timestamps: Timestamps = None,
        return_edge_created_ts: bool = False,
    ) -> tuple[npt.NDArray[Any], ...]:
        """`count` neighbours of each node, each as likely as another: ids, types (and times), [n, count] each."""
        fill = Fill(default_node, 0.0, default_type)
        at = as_times(timestamps)
        drawn = self.engine.draw_uniform(as_longs(nodes), as_numbers(edge_types), count, fill, _seed(seed), at, not without_replacement)
        return (drawn.ids, drawn.types, drawn.times) if return_edge_created_ts else (drawn.ids, drawn.types)

    def ppr_neighbors(
        self,
        nodes: npt.ArrayLike,
        edge_types: Types,
        count: int = 10,
        alpha: float = 0.5,
        eps: float = 1e-4,
        default_node: int = -1,
        default_weight: float = 0.0,
        timestamps: Timestamps = None,
    ) -> tuple[I64, F32]:
        """The `count` nodes of highest personalised PageRank of each node, best first, and their scores: [n, count] each."""
        fill = Fill(default_node, default_weight, -1)
        return self.engine.ppr(as_longs(nodes), as_numbers(edge_types), count, alpha, eps, fill, as_times(timestamps))

    def lastn_neighbors(
        self,
        nodes: npt.ArrayLike,
        edge_types: Types,
        timestamps: Timestamps,
        count: int = 10,
        default_node: int = -1,
        default_weight: float = 0.0,
        default_edge_type: int = -1,
        default_timestamp: int = -1,
        return_edge_created_ts: bool = False,
    ) -> tuple[npt.NDArray[Any], ...]:
        """The `count` newest edges of each node at its timestamp, newest first: ids, weights, types (and times), [n, count] each."""
        fill = Fill(default_node, default_weight, default_edge_type, default_timestamp)
        drawn = self.engine.last(as_longs(nodes), as_numbers(edge_types), count, fill, as_times(timestamps))
        found = drawn.ids, drawn.weights, drawn.types
        return (*found, drawn.times) if return_edge_created_ts else found

    def topk_neighbors(
        self,
        nodes: npt.ArrayLike,
        edge_types: Types,
        count: int = 10,
        default_node: int = -1,
        default_weight: float = 0.0,
        default_edge_type: int = -1,
        timestamps: Timestamps = None,
    ) -> tuple[I64, F32, I32, I64]:
        """The `count` heaviest edges of each node, heaviest first: ids, weights, types, times, [n, count] each. Not in DeepGNN."""
        fill = Fill(default_node, default_weight, default_edge_type)
        return self.engine.top(as_longs(nodes), as_numbers(edge_types), count, fill, as_times(timestamps))

    def random_walk(
        self,
        node_ids: npt.ArrayLike,
        edge_types: Types,
        walk_len: int,
        p: float,
        q: float,
        default_node: int = -1,
        seed: int | None = None,
        timestamps: Timestamps = None,
    ) -> I64:
        """Walks of `walk_len` steps by edge weight with node2vec's p and q: int64 [n, walk_len + 1]; `default_node` after a dead end."""
        at = as_times(timestamps)
        return self.engine.walk(as_longs(node_ids), as_numbers(edge_types), walk_len, p, q, default_node, _seed(seed), at)

    def get_node_type_count(self, types: Types) -> int:
        """How many nodes are of these types."""
        return self.engine.node_count(as_numbers(types))

    def get_edge_type_count(self, types: Types) -> int:
        """How many edges are of these types."""
        return self.engine.edge_count(as_numbers(types))

    def reset(self) -> None:
        """Close the graph."""
        self.fondaco.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.reset()


class DistributedGraph(MemoryGraph):
    """A served graph. `servers`: addresses of any of its servers. `ssl_cert`, thread and gRPC options are taken and passed over: TLS and
    deadlines are those of `fondaco.graph.connect`."""

    def __init__(
        self,
        servers: str | Sequence[str],
        ssl_cert: str | None = None,
        num_threads: int | None = None,
        num_cq_per_thread: int | None = None,
        grpc_options: Sequence[tuple[str, str]] | None = None,
        *,
        graph: str | None = None,
        numbering: Numbering | None = None,
        on_unknown: OnUnknown = "error",
        time_unit: TimeUnit = "s",
    ) -> None:
        del ssl_cert, num_threads, num_cq_per_thread, grpc_options
        from fondaco.graph.service.endpoints import connect

        addresses = [servers] if isinstance(servers, str) else list(servers)
        self._open(connect(addresses, graph=graph), numbering, on_unknown, time_unit)


class _Sampler:
    def __init__(self, g: MemoryGraph, types: Types, kind: str = "weighted") -> None:
        if kind not in ("weighted", "uniform", "withoutreplacement"):
            raise InputError(f'a sampler is "weighted", "uniform" or "withoutreplacement", not {kind!r}')
        self.graph, self.types, self.kind = g, as_numbers(types), kind

    def reset(self) -> None:
        """There is nothing to free."""


class NodeSampler(_Sampler):
    """Draws nodes of some types from the whole graph; type -1: all."""

    def __init__(self, g: MemoryGraph, types: Types, kind: str = "weighted") -> None:
        super().__init__(g, list(g.engine.numbering.nodes) if isinstance(types, int) and types == -1 else types, kind)

    def sample(self, size: int, seed: int | None = None) -> tuple[I64, I32]:
        """`size` nodes and their types."""
        return self.graph.engine.sample_nodes(size, self.types, self.kind, _seed(seed))


class EdgeSampler(_Sampler):
    """Draws edges of some types from the whole graph; type -1: all."""

    def __init__(self, g: MemoryGraph, types: Types, kind: str = "weighted") -> None:
        super().__init__(g, list(g.engine.numbering.relations) if isinstance(types, int) and types == -1 else types, kind)

    def sample(self, size: int, seed: int | None = None) -> tuple[I64, I64, I32]:
        """Sources, targets and types of `size` edges."""
        return self.graph.engine.sample_edges(size, self.types, self.kind, _seed(seed))


def open_graph(path: str | Path | Graph, name: str | None = None) -> Graph:
    """The graph that a path means: a platform's directory, or that of a graph in it.

    Raises:
        InputError, GraphNotFoundError, NotAPlatformError: it means none.
    """
    if isinstance(path, Graph):
        return path
    from fondaco.graph.service.endpoints import connect

    directory = Path(path)
    if name is None and directory.parent.name == "graphs":
        directory, name = directory.parent.parent, directory.name
    return connect(str(directory), graph=name)


def as_longs(values: npt.ArrayLike) -> I64:
    """Ids of nodes as int64 [n]."""
    return np.ascontiguousarray(values, dtype=np.int64).ravel()


def as_numbers(types: Types) -> list[int]:
    """Numbers of types, each once, ascending."""
    return sorted(set(np.atleast_1d(np.asarray(types)).ravel().tolist()))


def as_times(timestamps: Timestamps) -> I64 | None:
    """Timestamps as int64 [n]; none for an empty list too."""
    return None if timestamps is None or len(timestamps) == 0 else np.asarray(timestamps, np.int64)


def _refuse_times(timestamps: Timestamps, what: str) -> None:
    if timestamps is not None and len(timestamps):
        raise InputError(f"{what} have no history within a version; leave timestamps out, or open the version of that time")


def _pairs(features: npt.ArrayLike) -> npt.NDArray[np.int32]:
    array = np.asarray(features, dtype=np.int32)
    if array.ndim != 2 or array.shape[1] != 2:
        raise InputError(f"features are pairs [[feature, dimension], ...], not an array of shape {array.shape}")
    return array


def _edges(src: npt.ArrayLike, dst: npt.ArrayLike, kind: npt.ArrayLike) -> I64:
    return np.stack((as_longs(src), as_longs(dst), as_longs(kind)), axis=1)


def _seed(seed: int | None) -> int:
    """A seed; without one from Python's own generator, as DeepGNN does, so that random.seed() repeats a run."""
    return random.getrandbits(63) if seed is None else int(seed) & (1 << 63) - 1


def _sparse(parts: list[tuple[I64, npt.NDArray[Any], int]]) -> tuple[list[I64], list[npt.NDArray[Any]], I64]:
    coordinates, values, dimensions = zip(*parts, strict=True) if parts else ((), (), ())
    return list(coordinates), list(values), np.array([min(dimension, 1) for dimension in dimensions], np.int64)


def _strings(columns: list[list[bytes]], dtype: npt.DTypeLike) -> tuple[npt.NDArray[Any], I64]:
    width = np.dtype(dtype).itemsize
    sizes = np.array([[len(value) for value in column] for column in columns], np.int64).T
    joined = b"".join(value for row in zip(*columns, strict=True) for value in row)
    return np.frombuffer(joined, dtype), sizes // width

"""Helpers over the queries: edges of draws, skip-grams of walks, induced subgraphs (`deepgnn.graph_engine.graph_ops` there)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fondaco.graph.deepgnn.client import Graph

_FLOAT32 = np.dtype(np.float32)


def sample_out_edges(
    graph: Graph,
    nodes: npt.NDArray[Any],
    edge_types: npt.NDArray[Any],
    count: int,
    sampling_strategy: str = "byweight",
    edge_feature_meta: npt.NDArray[Any] | None = None,
    edge_feature_type: npt.DTypeLike = _FLOAT32,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any] | None]:
    """`count` edges out of each node: int64 [n * count, 3] (source, target, type), and their features if `edge_feature_meta` is given."""
    ids, _, types = graph.sample_neighbors(nodes, edge_types, count, sampling_strategy)[:3]
    edges = np.stack((np.repeat(np.reshape(nodes, -1), count), ids.reshape(-1), types.reshape(-1)), axis=1).astype(np.int64)
    return edges, None if edge_feature_meta is None else graph.edge_features(edges, edge_feature_meta, edge_feature_type)


def get_skipgrams_size(path_len: int, left_win_size: int, right_win_size: int) -> int:
    """How many (word, context) pairs one path gives."""
    places = np.arange(path_len)
    left, right = np.minimum(places, left_win_size), np.minimum(path_len - 1 - places, right_win_size)
    return int((left + right).sum())


def gen_skipgrams(paths: npt.NDArray[Any], left_win_size: int, right_win_size: int) -> npt.NDArray[Any]:
    """(word, context) pairs of every path, in order of path, word, context: [paths * pairs, 2].

    Contexts reach `right_win_size` to the right; DeepGNN's reach `left_win_size` there, too.
    """
    length = paths.shape[1]
    word, context = np.nonzero([[i != j and i - left_win_size <= j <= i + right_win_size for j in range(length)] for i in range(length)])
    return np.stack((paths[:, word], paths[:, context]), axis=2).reshape(-1, 2)


def sub_graph(
    graph: Graph,
    src_nodes: npt.NDArray[Any],
    edge_types: npt.NDArray[Any],
    num_hops: int = 1,
    self_loop: bool = True,
    undirected: bool = True,
    return_edges: bool = False,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """The nodes within `num_hops` of the sources and the edges out of all but the last: nodes (ascending), a dense matrix [n, n] of 0 and 1
    (or, `return_edges`, the edges [m, 2]) over places among them, and the sources' places."""
    levels = [np.reshape(src_nodes, -1)]
    for _ in range(num_hops - 1):
        levels.append(np.unique(graph.neighbors(levels[-1], edge_types)[0]))
    inner = np.unique(np.concatenate(levels))
    ids, _, _, counts = graph.neighbors(inner, edge_types)[:4]
    ends = np.stack((np.repeat(inner, counts.astype(np.int64)), ids), axis=1)
    nodes, places = np.unique(np.concatenate((levels[0], ends.reshape(-1))), return_inverse=True)
    sources, edges = places[: len(levels[0])], places[len(levels[0]) :].reshape(-1, 2)
    if return_edges:
        parts = [edges] + [edges[:, ::-1]] * undirected + [np.repeat(np.arange(len(nodes)), 2).reshape(-1, 2)] * self_loop
        return nodes, np.unique(np.concatenate(parts), axis=0) if undirected or self_loop else edges, sources
    matrix = np.zeros((len(nodes), len(nodes)), np.float32)
    matrix[edges[:, 0], edges[:, 1]] = 1
    if undirected:
        matrix[edges[:, 1], edges[:, 0]] = 1
    return nodes, matrix + np.eye(len(nodes), dtype=np.float32) if self_loop else matrix, sources

"""Several hops by calls of `sample_neighbors` and `neighbors`, one a hop: nothing is merged (`deepgnn.graph_engine.multihop` there).

A batch costs less by `fondaco.graph.Graph.sample`: one request, and every node once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError
from fondaco.graph.deepgnn.client import Graph


def sample_fanout(
    graph: Graph,
    nodes: npt.NDArray[Any],
    metapath: Sequence[Any],
    fanouts: Sequence[int],
    default_node: int,
    sampling_strategy: str = "byweight",
) -> tuple[list[npt.NDArray[Any]], list[npt.NDArray[Any]], list[npt.NDArray[Any]]]:
    """Neighbours of neighbours: hop k draws `fanouts[k]` along edges of the types `metapath[k]`, for each entry of the hop before.

    Returns:
        ids: the nodes, then [n * fanouts[0]], [n * fanouts[0] * fanouts[1]], ...; weights and types of the hops.
    """
    ids: list[npt.NDArray[Any]] = [np.reshape(nodes, -1)]
    weights: list[npt.NDArray[Any]] = []
    types: list[npt.NDArray[Any]] = []
    for hop_types, count in zip(metapath, fanouts, strict=False):
        found = graph.sample_neighbors(ids[-1], np.array(hop_types, np.int32), count, sampling_strategy, default_node)
        for collected, values in zip((ids, weights, types), found[:3], strict=True):
            collected.append(values.reshape(-1))
    return ids, weights, types


def get_neighbor(
    graph: Graph, nodes: npt.NDArray[Any], edge_types: Sequence[Any], max_neighbors_per_node: int
) -> tuple[list[list[npt.NDArray[Any]]], list[list[npt.NDArray[Any]]]]:
    """All neighbours, hop by hop, as sparse matrices padded with zeros to a size that does not depend on the batch.

    Returns:
        nodes: [ids, [how many of them are not padding]] of each level; matrices: [coordinates [.., 2], weights, shape, [how many]] of each
        hop: row i is the i-th node of a level, column j the j-th of the next, whose ids ascend.
    Raises:
        InputError: more neighbours than there is room for.
    """
    level = np.reshape(nodes, -1)
    levels, matrices = [[level, np.array([len(level)], np.int64)]], []
    for hop_types in edge_types:
        padded, (count,) = levels[-1]
        room = max_neighbors_per_node * len(padded)
        ids, weights, _, counts = graph.neighbors(padded[:count], hop_types)[:4]
        if len(ids) > room:
            raise InputError(f"{len(ids)} neighbours of {count} nodes, and room for {room}; raise max_neighbors_per_node")
        following, columns = np.unique(ids, return_inverse=True)
        coordinates = np.zeros((room, 2), np.int64)
        coordinates[: len(ids), 0] = np.repeat(np.arange(count), counts.astype(np.int64))
        coordinates[: len(ids), 1] = columns
        values = np.pad(weights, (0, room - len(ids)))
        shape = np.array([count, len(following)])
        matrices.append([coordinates, values, shape, np.array([len(ids)], np.int64)])
        levels.append([np.pad(following, (0, room - len(following))), np.array([len(following)], np.int64)])
    return levels, matrices

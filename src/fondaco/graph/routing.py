"""Routing: which shard holds which of some nodes or edges. NumPy only; pure functions; any thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fondaco.graph.schema import Direction

if TYPE_CHECKING:
    from fondaco.graph.shards import Shards

I64Array = npt.NDArray[np.int64]


def nodes_by_shard(shards: Shards, node_type: str, nodes: npt.NDArray[np.int32]) -> list[tuple[int, I64Array]]:
    """(shard, positions in `nodes` of those that it holds, ascending), by shard; shards that hold none are left out."""
    return _by_shard(shards, shards.starts(node_type), nodes)


def edges_by_shard(shards: Shards, edge_type: str, direction: Direction, edges: I64Array) -> list[tuple[int, I64Array]]:
    """As `nodes_by_shard`, of edge ids."""
    return _by_shard(shards, shards.edge_starts(edge_type, direction), edges)


def partitions_by_shard(shards: Shards) -> list[tuple[int, I64Array]]:
    """(shard, the partitions that it holds), by shard; shards that hold none are left out."""
    owners = shards.owners
    return [(int(shard), np.flatnonzero(owners == shard)) for shard in np.unique(owners)]


def partition_of(starts: I64Array, positions: npt.NDArray[np.int32] | I64Array) -> I64Array:
    """The partition of each dense id or edge id."""
    return np.searchsorted(starts, positions, side="right") - 1


def _by_shard(shards: Shards, starts: I64Array, positions: npt.NDArray[np.int32] | I64Array) -> list[tuple[int, I64Array]]:
    if not len(positions):
        return []
    if shards.shard_count == 1:
        return [(int(shards.owners[0]), np.arange(len(positions)))]
    owners = shards.owners[partition_of(starts, positions)]
    order = np.argsort(owners, kind="stable")
    found, first = np.unique(owners[order], return_index=True)
    return [(int(shard), part) for shard, part in zip(found, np.split(order, first[1:]), strict=True)]

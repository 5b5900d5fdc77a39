"""Shard checks: rows that a part of a query names must lie in partitions that this server has open.

A kernel takes what it is given: a row of a partition that is mapped elsewhere has no address here, and reading it would end the process. So
whatever comes over a connection is compared with what is held before any kernel sees it. Pure functions; any thread.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError, PartitionNotHeldError
from fondaco.graph.opened import OpenGraph
from fondaco.graph.queries import Arrays
from fondaco.graph.shards import Counts, EdgeFeature, EdgesAt, Find, Hop, Induced, NodeFeature, NodeIds, ShardQuery

I64Array = npt.NDArray[np.int64]
_ROWS: Final = {
    NodeIds: "dense",
    Hop: "frontier",
    Counts: "frontier",
    Find: "frontier",
    Induced: "frontier",
    EdgesAt: "edge_ids",
    NodeFeature: "rows",
    EdgeFeature: "rows",
}


def check_held(opened: OpenGraph, query: ShardQuery, arrays: Arrays) -> None:
    """
    Raises:
        PartitionNotHeldError: a row lies elsewhere. InputError: rows are missing, or no rows.
    """
    name = _ROWS.get(type(query))
    if name is None:
        return  # names partitions, which its own answer checks; or resolves ids, of which any are allowed
    rows = arrays.get(name)
    if rows is None or rows.ndim != 1 or rows.dtype.kind != "i":
        raise InputError(f"{type(query).__name__} needs whole numbers {name!r} of shape [n]; it came with {sorted(arrays)}")
    if not len(rows) or opened.holds_all:
        return
    starts = _starts(opened, query)
    held = sorted(opened.held)
    first, after = (starts[held[0]], starts[held[-1] + 1]) if held else (0, 0)
    for row in (int(rows.min()), int(rows.max())):
        if not first <= row < after:
            partition = int(np.searchsorted(starts, row, side="right")) - 1
            raise PartitionNotHeldError(opened.name, opened.version, partition)


def _starts(opened: OpenGraph, query: ShardQuery) -> I64Array:
    """First row of each partition, of the rows that the query names. A shard's partitions follow each other, so two bounds are enough."""
    if isinstance(query, (NodeIds, NodeFeature)):
        return opened.node_table(query.node_type).starts
    assert isinstance(query, (Hop, Counts, Find, Induced, EdgesAt, EdgeFeature))
    table = opened.adjacency_table(query.edge_type, query.direction)
    return table.edge_starts if isinstance(query, (EdgesAt, EdgeFeature)) else table.starts

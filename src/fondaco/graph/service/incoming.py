"""Incoming: what comes over a connection is compared with what its query means, before any kernel sees it.

Kernels check nothing: an array of another type or length, offsets that go backwards, or a row of a partition that is not mapped here would
end the process. In process these arrays are made by our own code; over a connection by anybody. So each array that a query may bring has
one type and is one-dimensional, those that a part of a query needs are there, and its rows lie in partitions that are held. Whether ids and
edges exist, the executor finds out. Pure functions; any thread.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError, PartitionNotHeldError
from fondaco.graph.opened import OpenGraph
from fondaco.graph.queries import Arrays, Query
from fondaco.graph.schema import GraphSchema
from fondaco.graph.shards import (
    Counts,
    EdgeFeature,
    EdgesAt,
    Find,
    Hop,
    InDegrees,
    Induced,
    Masses,
    NodeFeature,
    NodeIds,
    Pick,
    Rank,
    Resolve,
    ShardQuery,
    SmallestKeys,
    WalkOn,
)

I64Array = npt.NDArray[np.int64]

IDS: Final = ("seeds", "src", "dst", "ids")
_OFFSETS: Final = ".offsets"
_DATA: Final = ".data"
_DTYPES: Final = {
    **dict.fromkeys(("as_of", "edge_ids", "partitions", "partition", "walker", "clock", *IDS), "int64"),
    **dict.fromkeys(("dense", "frontier", "to", "members", "step", "phase", "node", "previous", "origin", "attempt"), "int32"),
    **{name + _OFFSETS: "int64" for name in IDS},
    **{name + _DATA: "uint8" for name in IDS},
    "mass": "float64",
}
_OF_QUERIES: Final = frozenset(
    {"as_of", "edge_ids", *(name + ending for name in ("seeds", "src", "dst") for ending in ("", _OFFSETS, _DATA))}
)
_NEEDED: Final[dict[type[ShardQuery], tuple[str, ...]]] = {
    NodeIds: ("dense",),
    Hop: ("frontier",),
    Counts: ("frontier",),
    Find: ("frontier", "to"),
    Induced: ("frontier", "members"),
    Rank: ("frontier",),
    EdgesAt: ("edge_ids",),
    NodeFeature: ("rows",),
    EdgeFeature: ("rows",),
    InDegrees: ("partitions",),
    Masses: ("partitions",),
    SmallestKeys: ("partitions",),
    Pick: ("partition", "mass"),
    WalkOn: ("node",),
}
_ALIKE: Final = {Find: ("frontier", "to"), Pick: ("partition", "mass")}
_ROWS: Final[dict[type[ShardQuery], str]] = {
    **dict.fromkeys((Hop, Counts, Find, Induced), "frontier"),
    **dict.fromkeys((NodeFeature, EdgeFeature), "rows"),
    NodeIds: "dense",
    EdgesAt: "edge_ids",
}


def check_query(schema: GraphSchema, query: Query, arrays: Arrays) -> None:
    """
    Raises:
        InputError: an array that no query brings, or none of its type; or ids of another kind than the nodes'.
    """
    for name in arrays:
        if name not in _OF_QUERIES:
            raise InputError(f"no query brings an array {name!r}; there are: {', '.join(sorted(_OF_QUERIES))}")
    _check_types(arrays, {})
    for name, node_type in _id_types(schema, query).items():
        kind = schema.node(node_type).id
        if name in arrays and kind != "long":
            raise InputError(f"ids of nodes of type {node_type!r} are text, and {name!r} holds numbers")
        if name + _OFFSETS in arrays and kind != "string":
            raise InputError(f"ids of nodes of type {node_type!r} are numbers, and {name!r} holds text")


def check_part(opened: OpenGraph, query: ShardQuery, arrays: Arrays) -> None:
    """
    Raises:
        InputError: an array is missing, or none of its type or length. PartitionNotHeldError: a row lies elsewhere.
    """
    _check_types(arrays, {"rows": "int64" if isinstance(query, EdgeFeature) else "int32"})
    needed = _NEEDED.get(type(query), ())
    if isinstance(query, Resolve):
        needed = ("ids",) if opened.schema.node(query.node_type).id == "long" else ("ids" + _OFFSETS, "ids" + _DATA)
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise InputError(f"{type(query).__name__} needs {', '.join(needed)}; it came without {', '.join(missing)}")
    alike = _ALIKE.get(type(query), ())
    if len({len(arrays[name]) for name in alike}) > 1:
        raise InputError(f"{', '.join(alike)} of {type(query).__name__} have {[len(arrays[name]) for name in alike]} entries")
    _check_held(opened, query, arrays)


def _check_types(arrays: Arrays, more: dict[str, str]) -> None:
    for name, array in arrays.items():
        wanted = more.get(name) or _DTYPES.get(name)
        if wanted is None:
            raise InputError(f"nothing brings an array {name!r}")
        if array.ndim != 1 or array.dtype.name != wanted:
            raise InputError(f"{name!r} is {wanted} of shape [n], not {array.dtype.name} of shape {list(array.shape)}")
    for name in IDS:
        offsets, data = arrays.get(name + _OFFSETS), arrays.get(name + _DATA)
        if offsets is None and data is None:
            continue
        if offsets is None or data is None or name in arrays:
            raise InputError(f"ids {name!r} are one array of numbers, or offsets and data of text")
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(data) or (np.diff(offsets) < 0).any():
            raise InputError(f"{name + _OFFSETS!r} does not rise from 0 to the {len(data)} bytes of {name + _DATA!r}")


def _id_types(schema: GraphSchema, query: Query) -> dict[str, str]:
    """The node type whose ids each array holds, as far as the query says it."""
    found: dict[str, str] = {}
    node_type, edge_type = getattr(query, "node_type", None), getattr(query, "edge_type", None)
    if node_type is not None:
        found["seeds"] = node_type
    if edge_type is not None:
        edge = schema.edge(edge_type)
        found |= {"src": edge.src, "dst": edge.dst}
        found.setdefault("seeds", edge.src)
    return found


def _check_held(opened: OpenGraph, query: ShardQuery, arrays: Arrays) -> None:
    name = rows_of(query)
    if name is None or opened.holds_all or not len(arrays[name]):
        return  # it names partitions, which its own answer checks; or resolves ids, of which any are allowed; or walks, until it leaves
    rows, starts = arrays[name], starts_of(opened, query)
    held = sorted(opened.held)
    first, after = (int(starts[held[0]]), int(starts[held[-1] + 1])) if held else (0, 0)
    for row in (int(rows.min()), int(rows.max())):
        if not 0 <= row < starts[-1]:
            raise InputError(f"row {row} in {name!r}; there are {starts[-1]}")
        if not first <= row < after:
            raise PartitionNotHeldError(opened.name, opened.version, int(np.searchsorted(starts, row, side="right")) - 1)


def rows_of(query: ShardQuery) -> str | None:
    """The array that says which shard a part of a query goes to, as far as it names rows."""
    return _ROWS.get(type(query))


def starts_of(opened: OpenGraph, query: ShardQuery) -> I64Array:
    """First row of each partition, of the rows that the query names. A shard's partitions follow each other, so two bounds are enough."""
    if isinstance(query, (NodeIds, NodeFeature)):
        return opened.node_table(query.node_type).starts
    assert isinstance(query, (Hop, Counts, Find, Induced, EdgesAt, EdgeFeature))
    table = opened.adjacency_table(query.edge_type, query.direction)
    return table.edge_starts if isinstance(query, (EdgesAt, EdgeFeature)) else table.starts

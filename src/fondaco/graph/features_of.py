"""Feature rows for an answer: dense, sparse and bytes ones from the shards, store-bound ones from their store.

Dense rows are written where the answer's allocator says, by the kernel that gathers them. Rows that do not exist (-1) and features that a
row has not are zeros or empty, and False in `<name>.present`. Importing this imports numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import StateError
from fondaco.graph.execution import Ask, Execution, offsets_of
from fondaco.graph.queries import Arrays, Ids
from fondaco.graph.schema import Adjacency, Feature
from fondaco.graph.shards import EdgeFeature, NodeFeature, ShardQuery

I64Array = npt.NDArray[np.int64]


def put_node_feature(
    run: Execution, answer: Arrays, name: str, node_type: str, feature: Feature, rows: npt.NDArray[Any], ids: Ids | None = None
) -> None:
    """Add a feature of nodes to the answer under `name`. rows: int32 [n] dense ids, -1: no such node. ids: theirs, if they are there."""
    if feature.kind == "store":
        _put_stored(run, answer, name, node_type, feature, rows, ids)
    else:
        query = NodeFeature(node_type=node_type, name=feature.name)
        _put(run, answer, name, feature, query, run.shards.starts(node_type), rows)


def put_edge_feature(run: Execution, answer: Arrays, name: str, adjacency: Adjacency, feature: Feature, rows: I64Array) -> None:
    """Add a feature of edges to the answer under `name`. rows: int64 [n] edge ids, -1: no such edge."""
    query = EdgeFeature(edge_type=adjacency.edge.name, direction=adjacency.direction, name=feature.name)
    starts = run.shards.edge_starts(adjacency.edge.name, adjacency.direction)
    _put(run, answer, name, feature, query, starts, rows)


def _put(run: Execution, answer: Arrays, name: str, feature: Feature, query: ShardQuery, starts: I64Array, rows: npt.NDArray[Any]) -> None:
    known = None if not len(rows) or rows.min() >= 0 else np.flatnonzero(rows >= 0)
    wanted = rows if known is None else rows[known]
    out = run.array((len(rows), *feature.shape), feature.numpy_dtype) if feature.kind == "dense" else None
    parts = run.ask_rows(Ask(query, starts, "rows", wanted, out=out if known is None else None))
    present: npt.NDArray[Any] | None = None
    if parts.has("present"):  # a partition in which every row has one does not say so
        for order, part in zip(parts.orders, parts.answers, strict=True):
            part.setdefault("present", np.ones(parts.count if order is None else len(order), np.uint8))
        present = parts.rows("present", np.uint8)
    if out is not None:
        values = parts.rows("values", out.dtype, feature.shape, out if known is None else None)
        if known is not None:
            out[...] = 0
            out[known] = values
        elif values is not out:
            out[...] = values
        answer[name] = out
    elif feature.kind == "sparse":
        found = run.ragged(parts, "indptr", {"indices": np.dtype(np.int64), "values": feature.numpy_dtype})
        answer[name + ".indptr"] = _spread(found["indptr"], known, len(rows))
        answer[name + ".indices"], answer[name + ".values"] = found["indices"], found["values"]
    else:
        found = run.ragged(parts, "offsets", {"data": np.dtype(np.uint8)})
        answer[name + ".offsets"] = _spread(found["offsets"], known, len(rows))
        answer[name + ".data"] = found["data"]
    if known is not None:
        mask = np.zeros(len(rows), np.uint8)
        mask[known] = 1 if present is None else present
        present = mask
    _put_present(answer, name, present)


def _put_stored(
    run: Execution, answer: Arrays, name: str, node_type: str, feature: Feature, rows: npt.NDArray[Any], ids: Ids | None
) -> None:
    if run.stores is None or feature.store is None or feature.field is None:
        raise StateError(
            f"feature {feature.name!r} of node type {node_type!r} lies in the store {feature.store!r}, which is not reachable from here; "
            "ask the graph of a platform, or a server that runs on one"
        )
    known = np.flatnonzero(rows >= 0)
    if ids is None or len(known) != len(rows):
        ids = run.ids(node_type, np.ascontiguousarray(rows[known], np.int32))
    values, found = run.stores.columns(feature.store, feature.field, ids, run.deadline)
    present = np.zeros(len(rows), np.uint8)
    present[known] = found
    if isinstance(values, tuple):
        answer[name + ".offsets"] = _spread(values[0], None if len(known) == len(rows) else known, len(rows))
        answer[name + ".data"] = values[1]
    else:
        out = run.array((len(rows), *values.shape[1:]), values.dtype)
        if len(known) != len(rows):
            out[...] = 0
        out[known if len(known) != len(rows) else slice(None)] = values
        answer[name] = out
    _put_present(answer, name, present)


def _put_present(answer: Arrays, name: str, present: npt.NDArray[Any] | None) -> None:
    """Only where a row of this very answer has none: whether others have does not show, wherever they lie."""
    if present is not None and not present.all():
        answer[name + ".present"] = present


def _spread(offsets: I64Array, known: I64Array | None, count: int) -> I64Array:
    """Offsets of `count` rows of which only the `known` ones have entries."""
    if known is None:
        return offsets
    counts = np.zeros(count, np.int64)
    counts[known] = np.diff(offsets)
    return offsets_of(counts)

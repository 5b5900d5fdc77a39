"""Execution: what the parts of one answer share: shards to ask, a deadline, memory for what is big.

Rows (dense nodes, edge ids) go to the shard that holds them, requests to different shards at once, and what comes back is put together in
the order of the rows: so no answer shows how the graph is divided. With one shard nothing is divided or copied.

One `Execution` answers one query, in one thread. Importing this imports numba.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError, NodeIdError
from fondaco.graph import _merge_kernels as kernels
from fondaco.graph._id_kernels import hash_longs, hash_strings, partitions_of
from fondaco.graph.answers import id_array
from fondaco.graph.deadlines import Deadline
from fondaco.graph.queries import Arrays, Ids, StringIds, find_ids, id_count, put_ids
from fondaco.graph.sampling import writable
from fondaco.graph.schema import Adjacency, Direction, GraphSchema
from fondaco.graph.shards import (
    Allocator,
    Counts,
    Find,
    Into,
    NodeIds,
    Resolve,
    ShardQuery,
    ShardRequest,
    Shards,
)

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]

UNKNOWN_SHOWN = 5  # ids that a NodeIdError lists


class StoreColumns(Protocol):
    """Reads node features that are bound to a store."""

    def columns(self, store: str, field: str, ids: Ids, deadline: Deadline) -> tuple[Any, npt.NDArray[np.bool_]]:
        """The field's values for these keys, [n, *shape], or offsets and data of bytes; and where there is one.

        Where there is none: zeros, or empty.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """A query about rows. `rows`: those that say which shard (by `starts`); `by_row`: arrays with one entry a row, `shared`: the others.

    `rows` travels under the name `name`.
    """

    query: ShardQuery
    starts: I64Array
    name: str
    rows: npt.NDArray[Any]
    by_row: Mapping[str, npt.NDArray[Any]] | None = None
    shared: Mapping[str, npt.NDArray[Any]] | None = None
    out: npt.NDArray[Any] | None = None  # of dense rows: shards in this process write there


class Parts:
    """Answers of the shards among whom `count` rows were divided. `orders`: which rows each had; None: all, in their order."""

    __slots__ = ("answers", "count", "orders")

    def __init__(self, count: int, orders: list[I64Array | None], answers: list[Arrays]) -> None:
        self.count, self.orders, self.answers = count, orders, answers

    def has(self, name: str) -> bool:
        """Whether any answer holds `name`."""
        return any(name in answer for answer in self.answers)

    def rows(self, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...] = (), out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """The array `name`, one row a row."""
        if len(self.orders) == 1 and self.orders[0] is None:
            return self.answers[0][name]
        merged = np.empty((self.count, *shape), dtype) if out is None else out
        row_bytes = merged.itemsize * math.prod(shape)
        for order, answer in zip(self.orders, self.answers, strict=True):
            if answer[name] is merged:
                continue  # it was put there row by row
            part = np.ascontiguousarray(answer[name], merged.dtype)
            assert order is not None
            assert len(part) == len(order)
            if row_bytes:
                kernels.scatter_rows(order, part.ctypes.data, merged.ctypes.data, row_bytes)
        return merged

    def runs(self, counts: npt.NDArray[Any], name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The array `name`, which has counts[i] entries for row i."""
        if len(self.orders) == 1 and self.orders[0] is None:
            return self.answers[0][name]
        return self.merge_runs(offsets_of(counts), [answer[name] for answer in self.answers], dtype)

    def merge_runs(self, offsets: I64Array, parts: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """One array from one of each answer; `offsets`: int64 [count + 1], where each row's entries begin."""
        merged = np.empty(offsets[-1], dtype)
        for order, found in zip(self.orders, parts, strict=True):
            part = np.ascontiguousarray(found, merged.dtype)
            assert order is not None
            kernels.scatter_runs(order, offsets, part.ctypes.data, merged.ctypes.data, merged.itemsize)
        return merged


class Execution:
    """One query on its way."""

    def __init__(
        self,
        shards: Shards,
        deadline: Deadline,
        allocate: Allocator | None = None,
        stores: StoreColumns | None = None,
    ) -> None:
        self.shards, self.deadline, self.stores = shards, deadline, stores
        self.schema: GraphSchema = shards.schema
        self._allocate = allocate
        self._is_one = shards.shard_count == 1

    # -- asking -----------------------------------------------------------------------------------------------------------------------

    def ask(self, requests: Sequence[ShardRequest]) -> list[Arrays]:
        """Answers of shards, in the order of the requests, which go out at once."""
        self.deadline.check()
        return self.shards.ask(requests, self.deadline) if requests else []

    def ask_all(self, query: ShardQuery, arrays: Callable[[int], Arrays]) -> list[Arrays]:
        """One answer of every shard. `arrays(shard)`: what to send it."""
        return self.ask([ShardRequest(shard, query, arrays(shard)) for shard in range(self.shards.shard_count)])

    def held(self, shard: int) -> I64Array:
        """The partitions of one shard: int64."""
        return np.flatnonzero(self.shards.owners == shard)

    def ask_rows(self, ask: Ask) -> Parts:
        """A query about rows: each goes to the shard that holds it."""
        return self.ask_many([ask])[0]

    def ask_many(self, asks: Sequence[Ask]) -> list[Parts]:
        """Several queries about rows, all at once."""
        requests: list[ShardRequest] = []
        planned: list[tuple[int, list[I64Array | None]]] = []
        for ask in asks:
            orders: list[I64Array | None] = []
            for shard, order in self._divided(ask):
                arrays: Arrays = {ask.name: ask.rows if order is None else ask.rows[order]}
                for name, values in (ask.by_row or {}).items():
                    arrays[name] = values if order is None or len(values) != len(ask.rows) else values[order]
                arrays.update(ask.shared or {})
                into = None if ask.out is None or order is None else Into(ask.out, order)
                requests.append(ShardRequest(shard, ask.query, arrays, ask.out if order is None else None, into))
                orders.append(order)
            planned.append((len(ask.rows), orders))
        answers = iter(self.ask(requests))
        return [Parts(count, orders, [next(answers) for _ in orders]) for count, orders in planned]

    def _divided(self, ask: Ask) -> list[tuple[int, I64Array | None]]:
        """(shard, positions of its rows) of all that have rows; None: all of them. No rows: any one shard says how nothing looks."""
        if self._is_one or not len(ask.rows):
            return [(0, None)]
        count = self.shards.shard_count
        last = np.searchsorted(self.shards.owners, np.arange(count), "right")  # partitions of this shard and those before it
        return self._grouped(ask.starts[last], ask.rows)

    def _grouped(self, uppers: I64Array, rows: npt.NDArray[Any]) -> list[tuple[int, I64Array | None]]:
        order, ends = np.empty(len(rows), np.int64), np.empty(len(uppers) + 1, np.int64)
        kernels.divide(uppers, writable(rows, np.int32 if rows.dtype == np.int32 else np.int64), order, ends)
        shards = [shard for shard in range(len(uppers)) if ends[shard + 1] > ends[shard]]
        if len(shards) == 1:
            return [(shards[0], None)]
        return [(shard, order[ends[shard] : ends[shard + 1]]) for shard in shards]

    # -- memory -----------------------------------------------------------------------------------------------------------------------

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Memory for a big array of the answer, from whoever wants to choose it."""
        kind = np.dtype(dtype)
        size = kind.itemsize * math.prod(shape)
        if self._allocate is None or size == 0:
            return np.empty(shape, kind)
        return self._allocate(size).view(kind).reshape(shape)

    # -- nodes and edges --------------------------------------------------------------------------------------------------------------

    def node_count(self, node_type: str) -> int:
        """How many nodes a type has."""
        return int(self.shards.starts(node_type)[-1])

    def edge_count(self, adjacency: Adjacency) -> int:
        """How many edges an adjacency has."""
        return int(self.shards.edge_starts(adjacency.edge.name, adjacency.direction)[-1])

    def starts(self, adjacency: Adjacency) -> I64Array:
        """The first dense id of each partition of the nodes whose lists an adjacency has."""
        return self.shards.starts(self.schema.nodes[adjacency.from_type].name)

    def resolve(self, node_type: str, ids: Ids, *, pad: bool) -> I32Array:
        """Dense ids: int32 [n]; unknown ones -1, with `pad`.

        Raises:
            NodeIdError: unknown ids, without `pad`.
        """
        kind = self.schema.node(node_type).id
        if isinstance(ids, StringIds) != (kind == "string"):
            raise InputError(f"nodes of type {node_type!r} have {kind} ids, and others came")
        dense = self._resolved(node_type, ids)
        if not pad and len(dense) and dense.min() < 0:
            unknown = np.flatnonzero(dense < 0)
            raise NodeIdError(node_type, id_array(take_ids(ids, unknown[:UNKNOWN_SHOWN])).tolist(), len(unknown))
        return dense

    def _resolved(self, node_type: str, ids: Ids) -> I32Array:
        query = Resolve(node_type=node_type)
        if self._is_one or not id_count(ids):
            return self.ask([ShardRequest(0, query, _named_ids(ids))])[0]["dense"]
        partitions = np.empty(id_count(ids), np.int32)
        hashes = np.empty(id_count(ids), np.uint64)
        if isinstance(ids, StringIds):
            hash_strings(ids.data.ctypes.data, writable(ids.offsets, np.int64), hashes)
        else:
            hash_longs(writable(ids, np.int64), hashes)
        partitions_of(hashes, self.shards.partitions, partitions)
        groups = self._grouped(np.searchsorted(self.shards.owners, np.arange(self.shards.shard_count), "right"), partitions)
        requests = [ShardRequest(shard, query, _named_ids(ids if order is None else take_ids(ids, order))) for shard, order in groups]
        return Parts(len(partitions), [order for _, order in groups], self.ask(requests)).rows("dense", np.int32)

    def ids(self, node_type: str, dense: I32Array) -> Ids:
        """The ids of nodes by their dense ids."""
        is_text = self.schema.node(node_type).id == "string"
        out = None if is_text or self._allocate is None else self.array((len(dense),), np.int64)
        parts = self.ask_rows(Ask(NodeIds(node_type=node_type), self.shards.starts(node_type), "dense", dense, out=out))
        if not is_text:
            return parts.rows("ids", np.int64, out=out)
        return StringIds(*self.ragged(parts, "ids.offsets", {"ids.data": np.dtype(np.uint8)}).values())

    def ragged(self, parts: Parts, offsets: str, names: Mapping[str, np.dtype[Any]]) -> Arrays:
        """Rows of several entries: `offsets`, int64 [n + 1], and the arrays that they point into, with their types."""
        if len(parts.orders) == 1 and parts.orders[0] is None:
            return {name: parts.answers[0][name] for name in (offsets, *names)}
        counts = Parts(parts.count, parts.orders, [{"counts": np.diff(answer[offsets])} for answer in parts.answers]).rows(
            "counts", np.int64
        )
        ends = offsets_of(counts)
        merged: Arrays = {offsets: ends}
        for name, dtype in names.items():
            merged[name] = parts.merge_runs(ends, [answer[name] for answer in parts.answers], dtype)
        return merged

    def counts(self, adjacency: Adjacency, frontier: I32Array, as_of: I64Array | None = None) -> I64Array:
        """Lengths of lists: int64 [n]."""
        query = Counts(edge_type=adjacency.edge.name, direction=adjacency.direction)
        return self.ask_rows(Ask(query, self.starts(adjacency), "frontier", frontier, _bounded(as_of))).rows("counts", np.int64)

    def find_edges(self, edge_type: str, direction: Direction, frontier: I32Array, to: I32Array) -> I64Array:
        """Edge ids of pairs: int64 [n], -1 where there is none or an end is -1."""
        adjacency = self.schema.adjacency(edge_type, direction)
        known = np.flatnonzero((frontier >= 0) & (to >= 0))
        everything = len(known) == len(frontier)
        rows, targets = (frontier, to) if everything else (frontier[known], to[known])
        query = Find(edge_type=adjacency.edge.name, direction=direction)
        found = self.ask_rows(Ask(query, self.starts(adjacency), "frontier", rows, {"to": targets})).rows("edge_ids", np.int64)
        if everything:
            return found
        all_found = np.full(len(frontier), -1, np.int64)
        all_found[known] = found
        return all_found


def offsets_of(counts: npt.NDArray[Any]) -> I64Array:
    """Where runs of these lengths begin, and the last ends: int64 [n + 1]."""
    ends = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    return ends


def take_ids(ids: Ids, positions: I64Array) -> Ids:
    """Some of the ids."""
    if not isinstance(ids, StringIds):
        return ids[positions]
    counts = np.diff(ids.offsets)[positions]
    ends = offsets_of(counts)
    within = np.arange(ends[-1]) - np.repeat(ends[:-1], counts)
    return StringIds(ends, ids.data[within + np.repeat(ids.offsets[positions], counts)])


def seeds_of(arrays: Arrays, name: str = "seeds") -> Ids:
    """The ids that a query came with.

    Raises:
        InputError: it came without.
    """
    ids = find_ids(arrays, name)
    if ids is None:
        raise InputError(f"the query needs the ids {name!r}, and came without; it holds {sorted(arrays)}")
    return ids


def _named_ids(ids: Ids) -> Arrays:
    arrays: Arrays = {}
    put_ids(arrays, "ids", ids)
    return arrays


def _bounded(as_of: I64Array | None) -> dict[str, npt.NDArray[Any]]:
    return {} if as_of is None else {"as_of": as_of}

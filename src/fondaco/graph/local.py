"""Shards in this process: steps of a plan answered from mapped files by kernels.

`ShardAnswers` answers for the partitions that one `OpenGraph` holds; a server has one, too. `LocalShards` makes one or several of them
into the `Shards` that the executor asks; several are how tests (and a look at one machine's share) play a divided graph without a network.
Importing this imports numba. Thread rule: any thread, several at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError
from fondaco.graph import gathering, global_sampling, negatives, ppr, sampling, walks
from fondaco.graph._id_kernels import resolve_longs, resolve_strings
from fondaco.graph._merge_kernels import gather_into
from fondaco.graph.deadlines import Deadline
from fondaco.graph.labels import Labels
from fondaco.graph.opened import FeatureTable, OpenGraph
from fondaco.graph.queries import Arrays
from fondaco.graph.schema import Direction, GraphSchema
from fondaco.graph.shards import (
    Counts,
    EdgeFeature,
    EdgesAt,
    Find,
    Hop,
    InDegrees,
    Induced,
    Into,
    Masses,
    NodeFeature,
    NodeIds,
    Pick,
    Rank,
    Resolve,
    ShardQuery,
    ShardRequest,
    SmallestKeys,
    WalkOn,
)

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]


_LINES_AHEAD: Final = 96


class ShardAnswers:
    """Answers for the partitions that one opened version holds."""

    def __init__(self, graph: OpenGraph) -> None:
        self.graph = graph
        self.schema: GraphSchema = graph.schema
        self.adjacencies = tuple(
            sampling.pack_adjacency(
                table.starts, table.edge_starts, table.indptr, table.indices, table.weights, table.cumulative, table.times
            )
            for table in graph.adjacency_tables
        )
        self._numbers = {(adjacency.edge.name, adjacency.direction): adjacency.number for adjacency in graph.adjacencies}
        self._ids = tuple(
            gathering.pack_feature(table.starts, table.ids)
            if table.type.id == "long"
            else gathering.pack_feature(table.starts, table.id_bytes, table.id_offsets)
            for table in graph.node_tables
        )
        self._features = {("nodes", *key): (table, _packed(table)) for key, table in graph.node_features.items()}
        self._features |= {("edges", *key): (table, _packed(table)) for key, table in graph.edge_features.items()}

    def number(self, edge_type: str, direction: Direction) -> int:
        """The number of an adjacency.

        Raises:
            EdgeTypeNotFoundError; InputError: this direction is not stored.
        """
        number = self._numbers.get((edge_type, direction))
        return self.schema.adjacency(edge_type, direction).number if number is None else number

    def answer(
        self, query: ShardQuery, arrays: Arrays, out: npt.NDArray[Any] | Into | None = None, deadline: Deadline | None = None
    ) -> Arrays:
        """One step. `out`: where `values` of a dense feature are to lie, as one array or as rows of one.

        Raises:
            InputError: rows outside the graph, or a query that names what it has not. DeadlineExceededError.
        """
        if isinstance(query, Rank):  # the only step whose work is not bounded by what comes and goes
            return ppr.answer(self.graph, query, arrays, deadline or Deadline())
        return _ANSWERS[type(query)](self, query, arrays, out)

    # -- nodes ------------------------------------------------------------------------------------------------------------------------

    def _resolve(self, query: Resolve, arrays: Arrays, out: object) -> Arrays:
        table = self.graph.node_tables[self.schema.node_index(query.node_type)]
        if table.type.id == "long":
            ids = sampling.writable(arrays["ids"], np.int64)
            dense = np.empty(len(ids), np.int32)
            resolve_longs(table.starts, table.hashes, ids, dense)
        else:
            offsets, data = sampling.writable(arrays["ids.offsets"], np.int64), arrays["ids.data"]
            _check_offsets(offsets, len(data))
            dense = np.empty(len(offsets) - 1, np.int32)
            resolve_strings(table.starts, table.hashes, table.id_offsets, table.id_bytes, data.ctypes.data, offsets, dense)
        return {"dense": dense}

    def _node_ids(self, query: NodeIds, arrays: Arrays, out: npt.NDArray[Any] | Into | None) -> Arrays:
        index = self.schema.node_index(query.node_type)
        table, packed = self.graph.node_tables[index], self._ids[index]
        dense = _rows(arrays["dense"], table.count, np.int32)
        if table.type.id == "long":
            ids = out if isinstance(out, np.ndarray) else np.empty(len(dense), np.int64)
            gathering.gather(packed, dense, 8, ids.ctypes.data)
            return {"ids": ids}
        offsets, data = gathering.gather_bytes(packed, dense)
        return {"ids.offsets": offsets, "ids.data": data}

    # -- edges ------------------------------------------------------------------------------------------------------------------------

    def _hop(self, query: Hop, arrays: Arrays, out: object) -> Arrays:
        number = self.number(query.edge_type, query.direction)
        table, packed = self.graph.adjacency_tables[number], self.adjacencies[number]
        frontier = _rows(arrays["frontier"], table.from_count, np.int32)
        as_of = _as_of(arrays, len(frontier), timed=table.adjacency.edge.timed)
        if query.strategy == "labor":
            found = sampling.sample_layer(
                packed, frontier, query.fan_out, seed=query.seed, hop=query.hop, node_type=table.adjacency.to_type, as_of=as_of
            )
        else:
            found = sampling.sample(
                packed,
                frontier,
                query.fan_out,
                strategy=query.strategy,
                replace=query.replace,
                seed=query.seed,
                hop=query.hop,
                salt=number,
                as_of=as_of,
            )
        answer: Arrays = {"counts": found.counts, "neighbors": found.neighbours}
        if query.edge_ids:
            answer["edge_ids"] = found.positions
        if query.weights and table.adjacency.edge.weighted:
            answer["weights"] = sampling.edge_weights(packed, found.positions)
        if query.times and table.adjacency.edge.timed:
            answer["times"] = sampling.edge_times(packed, found.positions)
        return answer

    def _counts(self, query: Counts, arrays: Arrays, out: object) -> Arrays:
        number = self.number(query.edge_type, query.direction)
        table = self.graph.adjacency_tables[number]
        frontier = _rows(arrays["frontier"], table.from_count, np.int32)
        as_of = _as_of(arrays, len(frontier), timed=table.adjacency.edge.timed)
        return {"counts": sampling.counts(self.adjacencies[number], frontier, as_of=as_of)}

    def _find(self, query: Find, arrays: Arrays, out: object) -> Arrays:
        number = self.number(query.edge_type, query.direction)
        table = self.graph.adjacency_tables[number]
        frontier, to = _rows(arrays["frontier"], table.from_count, np.int32), _rows(arrays["to"], table.to_count, np.int32)
        if len(frontier) != len(to):
            raise InputError(f"{len(frontier)} rows and {len(to)} targets; give one pair an edge")
        as_of = _as_of(arrays, len(frontier), timed=table.adjacency.edge.timed)
        return {"edge_ids": sampling.find_edges(self.adjacencies[number], frontier, to, as_of=as_of)}

    def _edges_at(self, query: EdgesAt, arrays: Arrays, out: object) -> Arrays:
        number = self.number(query.edge_type, query.direction)
        table, packed = self.graph.adjacency_tables[number], self.adjacencies[number]
        positions = _rows(arrays["edge_ids"], table.edge_count, np.int64)
        sources, targets = sampling.edge_ends(packed, positions)
        answer: Arrays = {"from": sources, "to": targets}
        if query.weights and table.adjacency.edge.weighted:
            answer["weights"] = sampling.edge_weights(packed, positions)
        if query.times and table.adjacency.edge.timed:
            answer["times"] = sampling.edge_times(packed, positions)
        return answer

    def _induced(self, query: Induced, arrays: Arrays, out: object) -> Arrays:
        number = self.number(query.edge_type, query.direction)
        table, packed = self.graph.adjacency_tables[number], self.adjacencies[number]
        frontier = _rows(arrays["frontier"], table.from_count, np.int32)
        members = _rows(arrays["members"], table.to_count, np.int32)
        with Labels(table.to_count, expected=len(members)) as labels:
            labels.add(members)
            found = labels.induced(packed, frontier, as_of=_as_of(arrays, len(frontier), timed=table.adjacency.edge.timed))
        counts = np.bincount(found.rows, minlength=len(frontier)).astype(np.int32)
        return {"counts": counts, "members": found.columns, "edge_ids": found.positions}

    # -- features ---------------------------------------------------------------------------------------------------------------------

    def _node_feature(self, query: NodeFeature, arrays: Arrays, out: npt.NDArray[Any] | Into | None) -> Arrays:
        index = self.schema.node_index(query.node_type)
        self.schema.nodes[index].feature(query.name)
        return self._feature("nodes", index, query.name, _rows(arrays["rows"], self.graph.node_tables[index].count, np.int32), out)

    def _edge_feature(self, query: EdgeFeature, arrays: Arrays, out: npt.NDArray[Any] | Into | None) -> Arrays:
        number = self.number(query.edge_type, query.direction)
        table = self.graph.adjacency_tables[number]
        table.adjacency.edge.feature(query.name)
        return self._feature("edges", number, query.name, _rows(arrays["rows"], table.edge_count, np.int64), out)

    def _feature(self, of: str, owner: int, name: str, rows: Any, out: npt.NDArray[Any] | Into | None) -> Arrays:
        table, packed = self._features[of, owner, name]
        answer: Arrays = {}
        if table.feature.kind == "dense":
            answer["values"] = _gathered(table, packed, rows, out)
        elif table.feature.kind == "sparse":
            answer["indptr"], answer["indices"], answer["values"] = gathering.gather_sparse(packed, rows, table.dtype)
        else:
            answer["offsets"], answer["data"] = gathering.gather_bytes(packed, rows)
        if table.present.any():
            answer["present"] = gathering.gather_present(packed, rows).view(np.uint8)
        return answer

    # -- walks, ranks, negatives, global draws ----------------------------------------------------------------------------------------

    def _walk_on(self, query: WalkOn, arrays: Arrays, out: object) -> Arrays:
        return walks.answer(self.graph, query, arrays)

    def _in_degrees(self, query: InDegrees, arrays: Arrays, out: object) -> Arrays:
        return negatives.answer(self.graph, query, arrays)

    def _global(self, query: Masses | Pick | SmallestKeys, arrays: Arrays, out: object) -> Arrays:
        return global_sampling.answer(self.graph, query, arrays)


_ANSWERS: Final[dict[type[ShardQuery], Callable[..., Arrays]]] = {
    Resolve: ShardAnswers._resolve,
    NodeIds: ShardAnswers._node_ids,
    Hop: ShardAnswers._hop,
    Counts: ShardAnswers._counts,
    Find: ShardAnswers._find,
    EdgesAt: ShardAnswers._edges_at,
    NodeFeature: ShardAnswers._node_feature,
    EdgeFeature: ShardAnswers._edge_feature,
    Induced: ShardAnswers._induced,
    WalkOn: ShardAnswers._walk_on,
    InDegrees: ShardAnswers._in_degrees,
    Masses: ShardAnswers._global,
    Pick: ShardAnswers._global,
    SmallestKeys: ShardAnswers._global,
}


class LocalShards:
    """One or several opened parts of a version as `Shards`. `answers`: in the order of their partitions, which together are all."""

    def __init__(self, answers: Sequence[ShardAnswers]) -> None:
        """
        Raises:
            InputError: a partition that nobody holds, or that two hold.
        """
        self._answers = tuple(answers)
        graph = self._answers[0].graph
        self.schema, self.version, self.partitions = graph.schema, graph.version, graph.partitions
        self.anchor: object = graph
        self.shard_count = len(self._answers)
        held = [(partition, number) for number, shard in enumerate(self._answers) for partition in sorted(shard.graph.held)]
        if [partition for partition, _ in held] != list(range(self.partitions)):
            raise InputError(
                f"shards hold the partitions {[partition for partition, _ in held]}, not each of {self.partitions} once, in order"
            )
        self.owners = np.array([number for _, number in held], np.int64)

    def starts(self, node_type: str) -> I64Array:
        graph = self._answers[0].graph
        return graph.node_tables[graph.schema.node_index(node_type)].starts

    def edge_starts(self, edge_type: str, direction: Direction) -> I64Array:
        shard = self._answers[0]
        return shard.graph.adjacency_tables[shard.number(edge_type, direction)].edge_starts

    def ask(self, requests: Sequence[ShardRequest], deadline: Deadline) -> list[Arrays]:
        answers = []
        for request in requests:
            deadline.check()
            out = request.out if request.into is None else request.into
            answers.append(self._answers[request.shard].answer(request.query, request.arrays, out, deadline))
        return answers


def _packed(table: FeatureTable) -> I64Array:
    kind = table.feature.kind
    if kind == "dense":
        return gathering.pack_feature(table.starts, table.values, present=table.present)
    if kind == "sparse":
        return gathering.pack_feature(table.starts, table.indices, table.indptr, table.values, table.present)
    return gathering.pack_feature(table.starts, table.data, table.offsets, present=table.present)


def _gathered(table: FeatureTable, packed: I64Array, rows: Any, out: npt.NDArray[Any] | Into | None) -> npt.NDArray[Any]:
    """Rows of a dense feature; in a new array, in `out`, or in its rows."""
    if isinstance(out, Into):
        if out.array.size:
            gather_into(packed, rows, table.row_bytes, out.rows, out.array.ctypes.data, _rows_ahead(table.row_bytes))
        return out.array
    values = np.empty((len(rows), *table.feature.shape), table.dtype) if out is None else out
    if values.size:
        gathering.gather(packed, rows, table.row_bytes, values.ctypes.data)
    return values


def _rows_ahead(row_bytes: int) -> int:
    """How many rows to ask memory for before they are copied: as many cache lines as a processor keeps under way."""
    return min(max(_LINES_AHEAD * 64 // row_bytes, 1), 32)


def _rows(rows: npt.NDArray[Any], count: int, dtype: Any) -> Any:
    """Rows as kernels take them, checked: they may come from the network."""
    if rows.ndim != 1 or rows.dtype.kind != "i":
        raise InputError(f"rows are whole numbers of shape [n], not {rows.dtype} of shape {rows.shape}")
    if rows.size and (rows.min() < 0 or rows.max() >= count):
        raise InputError(f"rows from {rows.min()} to {rows.max()}; there are {count}: 0 to {count - 1}")
    return sampling.writable(rows, dtype)


def _as_of(arrays: Arrays, count: int, *, timed: bool) -> I64Array:
    as_of = arrays.get("as_of")
    if as_of is None or not timed:
        return sampling.ALWAYS
    if len(as_of) == 1 and count != 1:
        return np.full(count, as_of[0], np.int64)
    if as_of.shape != (count,):
        raise InputError(f"as_of has shape {as_of.shape} for {count} rows; give one moment, or one for each")
    return sampling.writable(as_of, np.int64)


def _check_offsets(offsets: I64Array, size: int) -> None:
    """Offsets that may come from the network lie within their bytes."""
    if offsets.ndim != 1 or not len(offsets) or offsets[0] < 0 or offsets[-1] > size or (np.diff(offsets) < 0).any():
        raise InputError("offsets of string ids are not ascending within their bytes")

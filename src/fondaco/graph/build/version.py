"""Build: node and edge tables become the files of one graph version, in bounded memory.

    1. Node tables, one type after another: ids are hashed, rows sorted by (hash, id), files written (`node_files`). From then on the type
       has dense ids, which `ids.NodeIndex` finds.
    2. Types without a table: edge tables are read, the ids of their ends collected, and the rows kept for step 3.
    3. Edge tables, one after another: both ends become dense ids, rows are sorted for each direction that is stored, files written
       (`edge_files`).

Memory, beyond what the caller's tables take, stays within `memory` plus the directories of ids that do not fit it, which are mapped files
then: a quarter for the index of ids, a twelfth for rows that wait to be sorted (sorting them takes several times as much), and a batch of
a thirty-second with what is made of it.
What does not fit goes through temporary files in the directory (`runs`). The files that come out do not depend on `memory`.

The caller (`platform.build_graph`) owns the directory, the catalog and the swap; this module only writes files into an empty directory. If
it raises, whatever lies there is debris. One thread at a time per directory.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from fondaco.core.errors import GraphBuildError, InputError, near_name
from fondaco.core.units import parse_bytes
from fondaco.graph import _id_kernels as id_kernels
from fondaco.graph.build import _kernels as build_kernels
from fondaco.graph.build.arrow_columns import Problems
from fondaco.graph.build.columns import Column, I32Array, Ragged, Rows, take
from fondaco.graph.build.edge_files import EdgeShape, EdgeSorter
from fondaco.graph.build.node_files import NodeShape, NodeSorter
from fondaco.graph.build.runs import RowSpool
from fondaco.graph.build.tables import Chunk, Ids, TableReader
from fondaco.graph.ids import NodeIndex, hash_ids, show_id
from fondaco.graph.inputs import Edges, Nodes, StoreFeature
from fondaco.graph.manifest import FileEntry
from fondaco.graph.schema import DIRECTIONS, Direction, EdgeKey, EdgeType, Feature, GraphSchema, IdKind, NodeType, check_schema
from fondaco.store.builder import Steps

MEMORY_BYTES = 1 << 30
MEMORY_BYTES_MIN = 1_000_000
BATCH_BYTES_MAX = 32 << 20
PARTITIONS_MAX = 4096  # each has a file of every type, mapped by every reader

OnStep: TypeAlias = Callable[[str, int], None]
"""Called after each piece of work with what is done ("rows of edges person/knows/person", "files written") and how much; it may raise to
stop the build, and it may take its time."""
StoreField: TypeAlias = Callable[[str, str], tuple[str, tuple[int, ...]]]
"""(store, field) -> dtype and shape of the field's vectors; raises StoreNotFoundError or FieldNotFoundError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltGraph:
    """What a build wrote: everything that a manifest says of a version but its number and the checksums of its files."""

    schema: GraphSchema
    partitions: int
    node_counts: tuple[tuple[int, ...], ...]  # by node type, by partition
    edge_counts: tuple[tuple[int, ...], ...]  # by adjacency, by partition
    files: tuple[FileEntry, ...]  # by name
    linked: tuple[str, ...] = ()  # those of them that are hard links to files of the version that an update began with
    built_from: dict[str, Any] = field(default_factory=dict)  # JSON values; an update of this version reads them: keep them whole
    steps: Mapping[str, float] = field(default_factory=dict)  # seconds by step


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateBase:
    """The version that an update begins with, as its manifest says."""

    directory: Path
    schema: GraphSchema
    partitions: int
    node_counts: tuple[tuple[int, ...], ...]
    edge_counts: tuple[tuple[int, ...], ...]
    built_from: dict[str, Any]


def build_graph_version(
    directory: Path,
    *,
    nodes: Mapping[str, object] | None = None,
    edges: Mapping[EdgeKey, object] | None = None,
    partitions: int = 1,
    directions: Literal["out", "in", "both"] = "out",
    undirected: bool = False,
    memory: int | str = MEMORY_BYTES,
    on_step: OnStep | None = None,
    store_field: StoreField | None = None,
) -> BuiltGraph:
    """Write all files of a graph version (sections, no manifest) into `directory`.

    Args:
        nodes: by node type: a table, or `Nodes(table, ...)`. A type that only edges name gets their endpoints as its nodes.
        edges: by (source type, relation, target type): a table, or `Edges(table, ...)`.
        directions: which adjacencies are stored. undirected: add each edge's mirror, where its two types are one.
        memory: bytes for buffers and sorting, as a number or "512MiB"; what is larger goes through temporary files in `directory`.
        store_field: looks up what a `StoreFeature` names.
    Raises:
        GraphBuildError: a row that cannot be taken: table, row, column and why. InputError, SchemaError: tables that cannot be read or
            understood. DiskFullError.
    """
    build = _Build(directory, partitions, directions, undirected=undirected, memory=parse_bytes(memory), on_step=on_step)
    return build.run(nodes, edges, store_field)


class Shares:
    """How a build divides its memory."""

    def __init__(self, memory: int) -> None:
        """
        Raises:
            InputError: less than a build can do with.
        """
        if memory < MEMORY_BYTES_MIN:
            raise InputError(f"memory={memory}: a build needs at least {MEMORY_BYTES_MIN} bytes")
        self.index = memory // 4
        self.sorting = memory // 12
        self.batch = min(memory // 32, BATCH_BYTES_MAX)


class _Build:
    def __init__(self, directory: Path, partitions: int, directions: str, *, undirected: bool, memory: int, on_step: OnStep | None) -> None:
        if isinstance(partitions, bool) or not isinstance(partitions, int) or not 1 <= partitions <= PARTITIONS_MAX:
            raise InputError(f"a graph has 1 to {PARTITIONS_MAX} partitions, not {partitions!r}")
        if directions not in ("out", "in", "both"):
            raise InputError(f'directions is "out", "in" or "both", not {directions!r}')
        self._directory, self._partitions, self._undirected = directory, partitions, undirected
        self._directions: tuple[Direction, ...] = DIRECTIONS if directions == "both" else (_direction(directions),)
        self._shares = Shares(memory)
        self._on_step = on_step or _ignore
        self._steps = Steps()
        self._node_types: list[NodeType] = []
        self._node_counts: list[tuple[int, ...]] = []
        self._edge_types: list[EdgeType] = []
        self._edge_counts: list[tuple[int, ...]] = []
        self._indexes: dict[str, NodeIndex] = {}
        self._files: list[FileEntry] = []
        self._feature_files = 0
        self._built_from: dict[str, Any] = {"nodes": {}, "edges": {}, "endpoints": [], "undirected": []}

    def run(self, nodes: Mapping[str, object] | None, edges: Mapping[EdgeKey, object] | None, store_field: StoreField | None) -> BuiltGraph:
        given_nodes, given_edges = by_type("nodes", nodes), by_type("edges", edges)
        tables = {name: table if isinstance(table, Nodes) else Nodes(table) for name, table in given_nodes.items()}
        edge_tables = {edge_key(key): table if isinstance(table, Edges) else Edges(table) for key, table in given_edges.items()}
        if len(edge_tables) < len(given_edges):
            raise InputError(f"two of edges' keys name one edge type: {', '.join(map(repr, given_edges))}")
        named = _named_types(tables, edge_tables)
        self._check_schema_names(named, edge_tables)
        for name in named:
            if name in tables and tables[name].table is not None:
                self._build_nodes(name, tables[name], store_field)
            else:
                self._node_types.append(NodeType(name))  # its ids are known once edges are read
                self._node_counts.append(())
                self._built_from["endpoints"].append(name)
        with contextlib.ExitStack() as stack:
            opened: dict[EdgeKey, tuple[TableReader, Iterator[_Ends]]] = {}
            waiting = set(self._built_from["endpoints"])
            for key, given in edge_tables.items():
                reader = TableReader(f"edges {'/'.join(key)!r}", given, self._shares.batch)
                opened[key] = (reader, self._resolved(key, reader))
            if waiting:
                self._build_endpoints(stack, opened, waiting)
            for key, (reader, ends) in opened.items():
                self._build_edges(key, reader, ends)
        schema = check_schema(GraphSchema(tuple(self._node_types), tuple(self._edge_types)))
        return BuiltGraph(
            schema=schema,
            partitions=self._partitions,
            node_counts=tuple(self._node_counts),
            edge_counts=tuple(self._edge_counts),
            files=tuple(sorted(self._files, key=lambda entry: entry.name)),
            built_from=self._built_from,
            steps=self._steps.seconds,
        )

    def _check_schema_names(self, named: list[str], edges: Mapping[EdgeKey, Edges]) -> None:
        """What can be refused before anything is read."""
        check_schema(GraphSchema(tuple(NodeType(name) for name in named), tuple(EdgeType(*key) for key in edges)))
        if self._undirected:
            self._built_from["undirected"] = ["/".join(key) for key in edges if key[0] == key[2]]
            if not self._built_from["undirected"]:
                raise InputError("undirected=True mirrors edges between nodes of one type, and there are none; give the other direction")

    # -- nodes ----------------------------------------------------------------------------------------------------------------------

    def _build_nodes(self, name: str, given: Nodes, store_field: StoreField | None) -> None:
        label = f"nodes {name!r}"
        reader = TableReader(label, given, self._shares.batch)
        self._built_from["nodes"][name] = reader.source
        sorter: NodeSorter | None = None
        kind: IdKind | None = None
        with contextlib.ExitStack() as stack:
            with self._steps.timed("read nodes"):
                for chunk in reader.chunks():
                    chunk.problems.raise_first()
                    ids = chunk.ids[0]
                    if sorter is None:
                        kind = _kind(ids)
                        sorter = stack.enter_context(self._node_sorter(label, kind, reader.id_columns[0]))
                    sorter.add(ids.values, chunk.columns, chunk.first_row)
                    self._on_step(f"rows of {label}", len(chunk))
            if sorter is None:
                kind = next(iter(reader.id_kinds), None)
                sorter = stack.enter_context(self._node_sorter(label, kind or "long", None))
            features = [feature.feature for feature in reader.features]
            stored = [_store_feature(label, name, source, store_field) for name, source in reader.store_features.items()]
            node_type = NodeType(name, kind or "long", (*features, *stored), reader.is_weighted, reader.is_timed)
            self._write_nodes(node_type, kind, features, sorter)

    def _node_sorter(self, label: str, kind: IdKind, column: str | None) -> NodeSorter:
        path = self._directory / ".nodes.run"
        return NodeSorter(path, label, kind, id_column=column, distinct=False, share_bytes=self._shares.sorting)

    def _write_nodes(self, node_type: NodeType, kind: IdKind | None, features: list[Feature], sorter: NodeSorter, at: int = -1) -> None:
        """Write one type's files; `at`: its position, if it has one already."""
        number = len(self._node_types) if at < 0 else at
        numbered = [(self._feature_files + position, position, feature) for position, feature in enumerate(features)]
        self._feature_files += len(features)
        shape = NodeShape(number=number, id=node_type.id, weighted=node_type.weighted, timed=node_type.timed, features=numbered)
        with self._steps.timed("write nodes"):
            counts, entries = sorter.write(shape, self._partitions, self._on_file)
        self._files += entries
        in_order = tuple(counts[partition] for partition in range(self._partitions))
        if at < 0:
            self._node_types.append(node_type)
            self._node_counts.append(in_order)
        else:
            self._node_types[at], self._node_counts[at] = node_type, in_order
        self._indexes[node_type.name] = NodeIndex(self._directory, number, kind, in_order, self._shares.index)

    # -- endpoints --------------------------------------------------------------------------------------------------------------------

    def _build_endpoints(
        self, stack: contextlib.ExitStack, opened: dict[EdgeKey, tuple[TableReader, Iterator[_Ends]]], waiting: set[str]
    ) -> None:
        """Nodes of types without a table: read the edges that name them, collect ids, and keep the rows to be read once more."""
        collectors: dict[str, _Endpoints] = {}
        for name in self._built_from["endpoints"]:
            enter = functools.partial(self._endpoint_sorter, stack, name, self._shares.sorting // len(waiting))
            collectors[name] = _Endpoints(name, enter, self._shares.index // len(waiting))
        touching = [key for key in opened if waiting & {key[0], key[2]}]
        for key in touching:
            reader, ends = opened[key]
            path = self._directory / f".edges-{len(self._built_from['edges'])}-{touching.index(key)}.rows"
            spool = stack.enter_context(RowSpool(path, self._shares.sorting // max(len(touching), 1)))
            for batch in ends:
                for name, end, column in zip(key[::2], (batch.src, batch.dst), reader.id_columns, strict=True):
                    if isinstance(end, Ids):
                        with self._steps.timed("collect nodes"):
                            collectors[name].add(end, reader.label, column)
                spool.add(batch.rows())
            opened[key] = (reader, self._again(key, spool))
            for name, kind in zip(key[::2], reader.id_kinds or (None, None), strict=True):
                if name in collectors and collectors[name].kind is None:  # no row said it, for now
                    collectors[name].supposed = collectors[name].supposed or kind
        for name, collector in collectors.items():
            at = next(index for index, node_type in enumerate(self._node_types) if node_type.name == name)
            sorter = collector.open()
            self._write_nodes(NodeType(name, collector.kind or "long"), collector.kind, [], sorter, at)

    def _endpoint_sorter(self, stack: contextlib.ExitStack, name: str, share_bytes: int, kind: IdKind) -> NodeSorter:
        path = self._directory / f".nodes-{self._built_from['endpoints'].index(name)}.run"
        sorter = NodeSorter(path, f"nodes {name!r}", kind, id_column=None, distinct=True, share_bytes=share_bytes)
        return stack.enter_context(sorter)

    def _again(self, key: EdgeKey, spool: RowSpool) -> Iterator[_Ends]:
        """The batches that were kept, with both ends resolved."""
        for rows in spool.batches():
            columns = dict(rows)
            ends = []
            for side, name in (("src", key[0]), ("dst", key[2])):
                ids = columns.pop(f"id:{side}", None)
                with self._steps.timed("resolve"):
                    ends.append(self._indexes[name].resolve(ids) if ids is not None else _dense(columns.pop(f"dense:{side}")))
            yield _Ends(ends[0], ends[1], columns)

    # -- edges ------------------------------------------------------------------------------------------------------------------------

    def _resolved(self, key: EdgeKey, reader: TableReader) -> Iterator[_Ends]:
        """Batches of an edge table; ends whose type has nodes are dense ids."""
        self._built_from["edges"]["/".join(key)] = reader.source
        chunks = reader.chunks()
        while True:
            with self._steps.timed("read edges"):
                chunk = next(chunks, None)
            if chunk is None:
                return
            with self._steps.timed("resolve"):
                ends = [self._resolve(name, chunk, side, reader) for side, name in ((0, key[0]), (1, key[2]))]
                chunk.problems.raise_first()
            self._on_step(f"rows of {reader.label}", len(chunk))
            yield _Ends(ends[0], ends[1], chunk.columns)

    def _resolve(self, name: str, chunk: Chunk, side: int, reader: TableReader) -> I32Array | Ids:
        ids, index = chunk.ids[side], self._indexes.get(name)
        if index is None:
            return ids
        return resolve_ends(index, name, ids, reader.label, reader.id_columns[side], chunk.problems)

    def _build_edges(self, key: EdgeKey, reader: TableReader, ends: Iterator[_Ends]) -> None:
        mirrored = "/".join(key) in self._built_from["undirected"]
        with contextlib.ExitStack() as stack:
            first = next(ends, None)  # dimensions of features are known once a batch was read
            sorters = []
            for number, direction in enumerate(self._directions):
                from_type, to_type = (key[0], key[2]) if direction == "out" else (key[2], key[0])
                shape = EdgeShape(
                    number=len(self._edge_counts) + number,
                    direction=direction,
                    weighted=reader.is_weighted,
                    timed=reader.is_timed,
                    mirrored=mirrored,
                    from_starts=self._indexes[from_type].starts,
                    to_count=self._indexes[to_type].count,
                )
                share = self._shares.sorting // len(self._directions)
                sorters.append(stack.enter_context(EdgeSorter(self._directory, shape, share_bytes=share)))
            while first is not None:
                with self._steps.timed("collect edges"):
                    for sorter in sorters:
                        sorter.add(_dense(first.src), _dense(first.dst), first.columns)
                first = next(ends, None)
            features = [feature.feature for feature in reader.features]
            for sorter in sorters:
                numbered = [(self._feature_files + position, position, feature) for position, feature in enumerate(features)]
                self._feature_files += len(features)
                with self._steps.timed("sort and write edges"):
                    counts, entries = sorter.write(numbered, self._on_file)
                self._files += entries
                self._edge_counts.append(tuple(counts[partition] for partition in range(self._partitions)))
        self._edge_types.append(EdgeType(*key, reader.is_weighted, reader.is_timed, tuple(features), self._directions))

    def _on_file(self, name: str) -> None:
        self._on_step("files written", 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Ends:
    """A batch of edges: dense ids of both ends, or ids where the type has no nodes yet."""

    src: I32Array | Ids
    dst: I32Array | Ids
    columns: Rows

    def rows(self) -> dict[str, Column]:
        """As columns, to be kept."""
        kept: dict[str, Column] = dict(self.columns)
        for side, end in (("src", self.src), ("dst", self.dst)):
            kept[f"id:{side}" if isinstance(end, Ids) else f"dense:{side}"] = end.values if isinstance(end, Ids) else end
        return kept


class _Endpoints:
    """The ids of one type's nodes, collected from the ends of edges. int64 ids that were seen lately are left out at once."""

    def __init__(self, name: str, enter: Callable[[IdKind], NodeSorter], filter_bytes: int) -> None:
        self.kind: IdKind | None = None
        self.supposed: IdKind | None = None  # by the types of columns without rows
        self.sorter: NodeSorter | None = None
        self._name, self._enter, self._filter_bytes = name, enter, filter_bytes
        self._seen = np.zeros(1 << 12, np.uint64)
        self._used = 0

    def open(self) -> NodeSorter:
        """The sorter, made when the kind of ids is known, or nobody says it."""
        if self.sorter is None:
            self.kind = self.kind or self.supposed
            self.sorter = self._enter(self.kind or "long")
        return self.sorter

    def add(self, ids: Ids, label: str, column: str) -> None:
        """
        Raises:
            GraphBuildError: texts, and whole numbers before.
        """
        if ids.kind is not None and self.kind is None:
            self.kind = _kind(ids)
        check_kind(self._name, self.kind, ids, label, column)
        sorter = self.open()
        values = ids.values
        if not isinstance(values, Ragged):
            values = take(values, self._new(hash_ids(values)))
        sorter.add(values, {})

    def _new(self, hashes: np.ndarray[Any, np.dtype[np.uint64]]) -> I32Array:
        self._make_room(len(hashes))
        rows = np.empty(len(hashes), np.int64)
        count = id_kernels.keep_new(hashes, self._seen, self._used, rows)
        self._used += count
        return rows[:count].astype(np.int32)

    def _make_room(self, more: int) -> None:
        """A set at most half full: a larger one, or, where that is too large, an empty one; the sorter drops what comes again."""
        size = len(self._seen)
        while size < 2 * (self._used + more):
            size *= 2
        if size == len(self._seen):
            return
        old = self._seen[self._seen != 0]
        if 8 * size > self._filter_bytes:
            old, size = old[:0], max(len(self._seen), 1 << (2 * more - 1).bit_length())
        self._seen = np.zeros(size, np.uint64)
        self._used = id_kernels.keep_new(old, self._seen, 0, np.empty(len(old), np.int64))


def resolve_ends(
    index: NodeIndex, name: str, ids: Ids, label: str, column: str, problems: Problems, remedy: str = "add it to the node table"
) -> I32Array:
    """Dense ids of one end of edges; ids of no node are noted.

    Raises:
        GraphBuildError: texts for whole numbers, or the other way round.
    """
    check_kind(name, index.kind, ids, label, column)
    dense = index.resolve(ids.values)
    unknown = build_kernels.first_unknown(dense)
    if unknown >= 0:
        problems.note(unknown, column, f"there is no node {show_id(ids.values, unknown)} of type {name!r}; {remedy}")
    return dense


def check_kind(name: str, kind: IdKind | None, ids: Ids, label: str, column: str) -> None:
    """
    Raises:
        GraphBuildError: ids of another kind than the node type's.
    """
    if ids.kind is not None and kind is not None and ids.kind != kind:
        told = {"long": "whole numbers", "string": "texts"}
        raise GraphBuildError(label, None, column, f"mixed types: ids of {name!r} are {told[kind]}, and these are {told[ids.kind]}")


def by_type(what: str, tables: object) -> Mapping[Any, object]:
    """Tables by type; None: none.

    Raises:
        InputError: not a mapping.
    """
    if tables is None:
        return {}
    if not isinstance(tables, Mapping):
        form = "{'person': table}" if "nodes" in what else "{('person', 'knows', 'person'): table}"
        raise InputError(f"{what} says the table of each type, as {form}; it is a {type(tables).__name__}")
    return tables


def edge_key(key: object) -> EdgeKey:
    """The key of an edge table.

    Raises:
        InputError: it is no (source type, relation, target type).
    """
    parts = tuple(key.split("/")) if isinstance(key, str) else key
    if not isinstance(parts, tuple) or len(parts) != 3 or not all(isinstance(part, str) for part in parts):
        raise InputError(f"edges are named by (source type, relation, target type), as ('person', 'knows', 'person'); not by {key!r}")
    return parts


def _named_types(nodes: Mapping[str, Nodes], edges: Mapping[EdgeKey, Edges]) -> list[str]:
    """All node types, in order: those with tables, then those that only edges name.

    Raises:
        GraphBuildError: an edge table names a type that has no table, but nearly the name of one that has.
    """
    names = dict.fromkeys(nodes)
    for key in edges:
        for name in (key[0], key[2]):
            near = near_name(name, nodes) if name not in nodes else None
            if near is not None:
                reason = (
                    f"there is no node table {name!r}; did you mean {near!r}? If the ends of its edges are its nodes, say {name!r}: None"
                )
                raise GraphBuildError(f"edges {'/'.join(key)!r}", None, None, reason)
            names.setdefault(name)
    return list(names)


def _kind(ids: Ids) -> IdKind:
    return "string" if ids.kind == "string" else "long"


def _dense(column: Column | Ids | None) -> I32Array:
    assert isinstance(column, np.ndarray)
    return column


def _direction(text: str) -> Direction:
    return "in" if text == "in" else "out"


def _store_feature(label: str, name: str, source: StoreFeature, store_field: StoreField | None) -> Feature:
    dtype, shape = store_field(source.store, source.field) if store_field is not None else ("", ())
    return Feature(name, "store", dtype, shape, source.store, source.field)


def _ignore(what: str, amount: int) -> None:
    """The `on_step` of those who do not wait for news."""

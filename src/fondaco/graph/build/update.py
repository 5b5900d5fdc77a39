"""Update: the files of a version that is another one plus changes. They are those of a build from the resulting tables, byte for byte.

    1. Node tables: what is removed is looked up, what is added is read; partitions whose nodes change are written anew, from the stored
       rows and the added ones. Dense ids move, so old ones are mapped to new ones (`_Nodes.moved`).
    2. Edge tables: what is removed and what is added is read, with its ends resolved.
    3. Types whose nodes are the ends of their edges: the ends of the edges that remain, and of those that are added.
    4. Edge types that changed, or whose nodes' dense ids did: the stored edges that remain and the added ones are sorted and written like
       those of a build; only the partitions that changed, where dense ids stayed what they were.

Every file that comes out as it was is a hard link to the old one. Memory as for a build, and the tables of edges that are added or removed,
which are held whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fondaco.core.errors import GraphBuildError, InputError
from fondaco.core.files import os_errors
from fondaco.core.units import parse_bytes
from fondaco.graph.build.columns import Column, I32Array, I64Array, Rows, plain, take, take_rows
from fondaco.graph.build.edge_files import EdgeShape, EdgeSorter
from fondaco.graph.build.node_files import NodeShape, NodeSorter
from fondaco.graph.build.stored import edge_features, node_features, stored_edges, stored_ids, stored_nodes
from fondaco.graph.build.tables import Ids, TableReader
from fondaco.graph.build.version import (
    MEMORY_BYTES,
    BuiltGraph,
    OnStep,
    Shares,
    UpdateBase,
    by_type,
    check_kind,
    edge_key,
    resolve_ends,
)
from fondaco.graph.ids import NodeIndex, hash_ids, show_id
from fondaco.graph.inputs import Edges, Nodes
from fondaco.graph.layout import edges_file, feature_file, nodes_file
from fondaco.graph.manifest import FileEntry
from fondaco.graph.schema import Adjacency, EdgeKey, EdgeType, Feature, GraphSchema, IdKind, NodeType
from fondaco.graph.sections import open_sections
from fondaco.store.builder import Steps

BATCH_ROWS = 1 << 18  # of stored rows, at most


def update_graph_version(
    directory: Path,
    base: UpdateBase,
    *,
    add_nodes: Mapping[str, object] | None = None,
    remove_nodes: Mapping[str, object] | None = None,
    add_edges: Mapping[EdgeKey, object] | None = None,
    remove_edges: Mapping[EdgeKey, object] | None = None,
    memory: int | str = MEMORY_BYTES,
    on_step: OnStep | None = None,
) -> BuiltGraph:
    """Write the files of the version that `base` and the changes make into `directory`.

    Removals come first: a node that is removed and added is replaced, and keeps its edges. Removing a node removes its edges. A row of
    `remove_edges` removes every edge between its ends, of that time and weight if it says them; of an undirected type, both ways.

    Args:
        add_nodes, add_edges: as for a build, with the features, weights and times that their types have.
        remove_nodes: tables of ids; other columns mean nothing. remove_edges: tables of both ends.
        memory, on_step: as for a build.
    Raises:
        GraphBuildError: as for a build; or a row removes what is not there. InputError, NodeTypeNotFoundError, EdgeTypeNotFoundError.
    """
    update = _Update(directory, base, parse_bytes(memory), on_step)
    return update.run(
        by_type("add_nodes", add_nodes),
        by_type("remove_nodes", remove_nodes),
        by_type("add_edges", add_edges),
        by_type("remove_edges", remove_edges),
    )


@dataclass(slots=True)
class _Nodes:
    """What becomes of the nodes of one type."""

    type: NodeType
    number: int
    old: NodeIndex
    from_edges: bool
    removed: npt.NDArray[np.bool_]  # of old dense ids; nodes that are replaced are among them
    new: NodeIndex | None = None
    moved: I32Array | None = None  # new dense id of each old one, -1 if it is gone; None: as they were
    counts: tuple[int, ...] = ()

    @property
    def index(self) -> NodeIndex:
        assert self.new is not None
        return self.new


@dataclass(slots=True)
class _EdgeChanges:
    """What is to become of the edges of one type."""

    type: EdgeType
    key: EdgeKey
    adjacencies: tuple[Adjacency, ...]
    undirected: bool
    removals: _Removals | None = None
    added: list[dict[str, Column]] = field(default_factory=list)
    features: tuple[Feature, ...] = ()
    touched: dict[str, set[int]] = field(default_factory=dict)  # by direction, partitions with edges that go or come


class _Update:
    def __init__(self, directory: Path, base: UpdateBase, memory: int, on_step: OnStep | None) -> None:
        self._directory, self._base, self._schema = directory, base, base.schema
        self._partitions = base.partitions
        self._shares = Shares(memory)
        self._on_step: OnStep = on_step or (lambda what, amount: None)
        self._steps = Steps()
        self._entries: dict[str, FileEntry] = {}
        self._linked: set[str] = set()
        self._sources: dict[str, dict[str, Any]] = {}
        self._node_types = list(self._schema.nodes)
        from_edges = set(base.built_from.get("endpoints", ()))
        undirected = set(base.built_from.get("undirected", ()))
        self._nodes = [
            _Nodes(
                node_type,
                number,
                NodeIndex(base.directory, number, node_type.id if sum(counts) else None, counts, self._shares.index // 2),
                node_type.name in from_edges,
                np.zeros(sum(counts), np.bool_),
            )
            for number, (node_type, counts) in enumerate(zip(self._schema.nodes, base.node_counts, strict=True))
        ]
        adjacencies = self._schema.adjacencies()
        self._edges = [
            _EdgeChanges(edge, edge.key, tuple(a for a in adjacencies if a.edge is edge), edge.name in undirected, features=edge.features)
            for edge in self._schema.edges
        ]

    def run(
        self,
        add_nodes: Mapping[str, object],
        remove_nodes: Mapping[str, object],
        add_edges: Mapping[EdgeKey, object],
        remove_edges: Mapping[EdgeKey, object],
    ) -> BuiltGraph:
        node_tables = [{self._schema.node_index(name): table for name, table in tables.items()} for tables in (add_nodes, remove_nodes)]
        edge_tables = [{self._edge_index(key): table for key, table in tables.items()} for tables in (add_edges, remove_edges)]
        if not any((*node_tables, *edge_tables)):
            raise InputError("an update without a change: say add_nodes=, remove_nodes=, add_edges= or remove_edges=")
        with contextlib.ExitStack() as stack:
            for nodes in self._nodes:
                if nodes.from_edges and (nodes.number in node_tables[0] or nodes.number in node_tables[1]):
                    raise InputError(f"nodes of type {nodes.type.name!r} are the ends of its edges: add or remove these instead")
                if not nodes.from_edges:
                    self._update_nodes(nodes, node_tables[0].get(nodes.number), node_tables[1].get(nodes.number))
            for number, edges in enumerate(self._edges):
                if number in edge_tables[1]:
                    self._read_removals(edges, edge_tables[1][number])
            collectors = {nodes.number: _Ends() for nodes in self._nodes if nodes.from_edges}
            for number, edges in enumerate(self._edges):
                if number in edge_tables[0]:
                    self._read_added(edges, edge_tables[0][number], collectors)
            self._update_ends(stack, collectors)
            edge_types, edge_counts = [], []
            for edges in self._edges:
                edge_counts += self._update_edges(edges)
                edge_types.append(msgspec.structs.replace(edges.type, features=edges.features))
        built_from = {**self._base.built_from, "update": {"of": self._base.directory.name, **self._sources}}
        return BuiltGraph(
            schema=GraphSchema(tuple(self._node_types), tuple(edge_types)),
            partitions=self._partitions,
            node_counts=tuple(nodes.counts for nodes in self._nodes),
            edge_counts=tuple(edge_counts),
            files=tuple(self._entries[name] for name in sorted(self._entries)),
            linked=tuple(sorted(self._linked)),
            built_from=built_from,
            steps=self._steps.seconds,
        )

    def _edge_index(self, key: object) -> int:
        return self._schema.edge_index(edge_key(key))

    # -- nodes ------------------------------------------------------------------------------------------------------------------------

    def _update_nodes(self, nodes: _Nodes, added: object | None, removed: object | None) -> None:
        if removed is not None:
            self._remove_nodes(nodes, removed)
        features = node_features(self._schema, nodes.number)
        touched = self._partitions_of(nodes.old.starts, np.flatnonzero(nodes.removed))
        label, column = f"nodes {nodes.type.name!r}", None
        with contextlib.ExitStack() as stack:
            sorter: NodeSorter | None = None
            if added is not None:
                reader = TableReader(label, added if isinstance(added, Nodes) else Nodes(added), self._shares.batch)
                self._note_source("add_nodes", nodes.type.name, reader)
                _check_like(label, reader, nodes.type, [feature for _, _, feature in features])
                column = reader.id_columns[0] if reader.id_columns else None
                for chunk in reader.chunks():
                    ids = chunk.ids[0]
                    check_kind(nodes.type.name, nodes.old.kind, ids, label, reader.id_columns[0])
                    known = nodes.old.resolve(ids.values)
                    there = np.flatnonzero((known >= 0) & ~nodes.removed[np.maximum(known, 0)]) if nodes.old.count else known[:0]
                    if len(there):
                        row = int(there[0])
                        reason = f"the node {show_id(ids.values, row)} is there already; to replace it, name it in remove_nodes too"
                        chunk.problems.note(row, reader.id_columns[0], reason)
                    chunk.problems.raise_first()
                    if sorter is None:
                        touched |= self._settle_kind(nodes, ids)
                        sorter = self._node_sorter(stack, nodes, column, distinct=False)
                    touched |= set(np.unique(self._hash_partitions(ids.values)).tolist())
                    sorter.add(ids.values, _renumbered(chunk.columns, reader, features), chunk.first_row)
                    self._on_step(f"rows of {label}", len(chunk))
                features = [(number, position, _grown(feature, reader)) for number, position, feature in features]
                grown = {feature.name: feature for _, _, feature in features}
                whole = tuple(grown.get(feature.name, feature) for feature in nodes.type.features)
                nodes.type = msgspec.structs.replace(nodes.type, features=whole)
                self._node_types[nodes.number] = nodes.type
            if sorter is None:
                sorter = self._node_sorter(stack, nodes, None, distinct=False)
            for partition in sorted(touched):
                self._keep_stored(nodes, sorter, features, partition, nodes.removed)
            self._write_nodes(nodes, sorter, features, touched)

    def _settle_kind(self, nodes: _Nodes, ids: Ids) -> set[int]:
        """The first ids of a type without nodes say of which kind they are. Returns partitions whose empty files change by that."""
        if nodes.old.count or ids.kind is None or ids.kind == nodes.type.id:
            return set()
        nodes.type = msgspec.structs.replace(nodes.type, id=ids.kind)
        return set(range(self._partitions))

    def _remove_nodes(self, nodes: _Nodes, removed: object) -> None:
        label = f"remove_nodes {nodes.type.name!r}"
        given = removed if isinstance(removed, Nodes) else Nodes(removed)
        reader = TableReader(label, given, self._shares.batch, ids_only=True)
        self._note_source("remove_nodes", nodes.type.name, reader)
        for chunk in reader.chunks():
            ids, column = chunk.ids[0], reader.id_columns[0]
            dense = resolve_ends(nodes.old, nodes.type.name, ids, label, column, chunk.problems, "it cannot be removed")
            found = np.maximum(dense, 0)
            _, first_at = np.unique(found, return_index=True)
            again = np.ones(len(dense), np.bool_)
            again[first_at] = False
            again |= nodes.removed[found] if nodes.old.count else False
            again &= dense >= 0
            if again.any():
                row = int(np.argmax(again))
                chunk.problems.note(row, column, f"the node {show_id(ids.values, row)} is removed by an earlier row already")
            chunk.problems.raise_first()
            nodes.removed[dense] = True

    def _keep_stored(
        self, nodes: _Nodes, sorter: NodeSorter, features: Sequence[tuple[int, int, Feature]], partition: int, gone: npt.NDArray[np.bool_]
    ) -> None:
        """Put the stored nodes of a partition that stay into the sorter."""
        first = int(nodes.old.starts[partition])
        stored = self._schema.nodes[nodes.number]
        for start, ids, columns in stored_nodes(self._base.directory, nodes.number, stored, features, partition, self._rows_max):
            kept = np.flatnonzero(~gone[first + start : first + start + len(ids)]).astype(np.int32)
            if len(kept) < len(ids):
                sorter.add(take(ids, kept), take_rows(columns, kept), -len(ids))
            else:
                sorter.add(ids, columns, -len(ids))

    def _write_nodes(self, nodes: _Nodes, sorter: NodeSorter, features: Sequence[tuple[int, int, Feature]], touched: set[int]) -> None:
        shape = NodeShape(number=nodes.number, id=nodes.type.id, weighted=nodes.type.weighted, timed=nodes.type.timed, features=features)
        with self._steps.timed("write nodes"):
            counts, entries = sorter.write(shape, self._partitions, self._on_file, only=frozenset(touched))
        self._took(entries)
        for partition in set(range(self._partitions)) - touched:
            self._link(nodes_file(nodes.number, partition))
            for number, _, _ in features:
                self._link(feature_file(number, partition))
        old = self._base.node_counts[nodes.number]
        nodes.counts = tuple(counts.get(partition, old[partition]) for partition in range(self._partitions))
        kind = nodes.type.id if sum(nodes.counts) else None
        nodes.new = NodeIndex(self._directory, nodes.number, kind, nodes.counts, self._shares.index // 2)
        if touched:
            with self._steps.timed("move nodes"):
                parts = [np.empty(0, np.int32)]
                for partition in range(self._partitions):
                    ids = stored_ids(self._base.directory, nodes.number, self._schema.nodes[nodes.number], partition)
                    if len(ids):
                        parts.append(nodes.new.resolve(ids))
                moved = np.concatenate(parts)
            same = nodes.new.count == nodes.old.count and bool((moved == np.arange(len(moved))).all())
            nodes.moved = None if same else moved

    def _node_sorter(self, stack: contextlib.ExitStack, nodes: _Nodes, column: str | None, *, distinct: bool) -> NodeSorter:
        path, share = self._directory / f".nodes-{nodes.number}.run", self._shares.sorting
        label = f"nodes {nodes.type.name!r}"
        return stack.enter_context(NodeSorter(path, label, nodes.type.id, id_column=column, distinct=distinct, share_bytes=share))

    # -- changes of edges -------------------------------------------------------------------------------------------------------------

    def _read_removals(self, edges: _EdgeChanges, removed: object) -> None:
        label = f"remove_edges {edges.type.name!r}"
        given = removed if isinstance(removed, Edges) else Edges(removed)
        bare = Edges(given.table, given.src, given.dst, given.weight, given.time, features=(), tz=given.tz)
        reader = TableReader(label, bare, self._shares.batch)
        self._note_source("remove_edges", edges.type.name, reader)
        for flag, there, column in (
            (reader.is_weighted, edges.type.weighted, reader.weight),
            (reader.is_timed, edges.type.timed, reader.time),
        ):
            if flag and not there:
                raise GraphBuildError(label, None, column, f"edges {edges.type.name!r} have no such thing; leave the column out")
        source, target = self._nodes_of(edges)
        removals = _Removals(label, reader.id_columns, edges.undirected)
        for chunk in reader.chunks():
            ends = [
                resolve_ends(
                    nodes.old, nodes.type.name, chunk.ids[side], label, reader.id_columns[side], chunk.problems, "so no edge of it"
                )
                for side, nodes in ((0, source), (1, target))
            ]
            chunk.problems.raise_first()
            removals.add(ends[0], ends[1], chunk.columns, chunk.ids)
        removals.seal()
        edges.removals = removals
        self._touch(edges, removals.src, removals.dst, source.old.starts, target.old.starts)

    def _read_added(self, edges: _EdgeChanges, added: object, collectors: dict[int, _Ends]) -> None:
        label = f"edges {edges.type.name!r}"
        reader = TableReader(label, added if isinstance(added, Edges) else Edges(added), self._shares.batch)
        self._note_source("add_edges", edges.type.name, reader)
        features = edge_features(self._schema, edges.adjacencies[0].number)
        _check_like(label, reader, edges.type, [feature for _, _, feature in features])
        sides = list(zip(self._nodes_of(edges), ("src", "dst"), strict=True))
        for chunk in reader.chunks():
            rows = _renumbered(chunk.columns, reader, features)
            for position, (nodes, side) in enumerate(sides):
                ids, column = chunk.ids[position], reader.id_columns[position]
                if nodes.from_edges:
                    rows[f"id:{side}"] = ids.values
                else:
                    rows[f"dense:{side}"] = resolve_ends(nodes.index, nodes.type.name, ids, label, column, chunk.problems)
            chunk.problems.raise_first()
            for position, (nodes, _) in enumerate(sides):
                if nodes.from_edges:
                    collectors[nodes.number].add(nodes, chunk.ids[position], label, reader.id_columns[position])
            edges.added.append(rows)
            self._on_step(f"rows of {label}", len(chunk))
        edges.features = tuple(_grown(feature, reader) for feature in edges.type.features)

    def _touch(self, edges: _EdgeChanges, src: I32Array, dst: I32Array, src_starts: I64Array, dst_starts: I64Array) -> None:
        for direction, dense, starts in (("out", src, src_starts), ("in", dst, dst_starts)):
            edges.touched.setdefault(direction, set()).update(self._partitions_of(starts, dense))

    # -- nodes that are ends of edges -----------------------------------------------------------------------------------------------------

    def _update_ends(self, stack: contextlib.ExitStack, collectors: dict[int, _Ends]) -> None:
        """Types whose nodes are the ends of their edges: which stay, and which come."""
        changed = {
            number for number in collectors if any(self._may_change(edges) for edges in self._edges if number in self._types_of(edges))
        }
        stay = {number: np.zeros(self._nodes[number].old.count, np.bool_) for number in changed}
        for edges in self._edges if changed else ():
            ends = self._nodes_of(edges)
            if changed.isdisjoint(nodes.number for nodes in ends):
                continue
            for dense in self._remaining(edges, edges.adjacencies[0], [], range(self._partitions)):
                for nodes, kept in zip(ends, dense[:2], strict=True):
                    if nodes.number in changed:
                        stay[nodes.number][kept] = True
        for number, collector in collectors.items():
            nodes = self._nodes[number]
            gone = ~stay[number] if number in changed else np.zeros(nodes.old.count, np.bool_)
            touched = self._partitions_of(nodes.old.starts, np.flatnonzero(gone))
            if collector.kind is not None:
                touched |= self._settle_kind(nodes, Ids(collector.kind, np.empty(0, np.int64)))
            for ids in collector.parts:
                known = nodes.old.resolve(ids)
                new = known < 0
                if nodes.old.count:
                    new |= gone[np.maximum(known, 0)]
                touched |= set(np.unique(self._hash_partitions(ids)[new]).tolist())
            sorter = self._node_sorter(stack, nodes, None, distinct=True)
            for ids in collector.parts:
                rows = np.flatnonzero(np.isin(self._hash_partitions(ids), sorted(touched))).astype(np.int32)
                sorter.add(take(ids, rows), {})
            for partition in sorted(touched):
                self._keep_stored(nodes, sorter, [], partition, gone)
            self._node_types[number] = nodes.type
            self._write_nodes(nodes, sorter, [], touched)

    def _may_change(self, edges: _EdgeChanges) -> bool:
        """Whether edges come or go: some are named, or nodes go."""
        gone = any(bool(nodes.removed.any()) for nodes in self._nodes_of(edges))
        return bool(edges.removals is not None or edges.added or gone)

    # -- edges ------------------------------------------------------------------------------------------------------------------------

    def _update_edges(self, edges: _EdgeChanges) -> list[tuple[int, ...]]:
        source, target = self._nodes_of(edges)
        counts: list[tuple[int, ...]] = []
        moved = source.moved is not None or target.moved is not None
        added = self._resolved_added(edges)
        with contextlib.ExitStack() as stack:
            sorters, wanted = [], []
            for adjacency in edges.adjacencies:
                ends = (source, target) if adjacency.direction == "out" else (target, source)
                shape = EdgeShape(
                    number=adjacency.number,
                    direction=adjacency.direction,
                    weighted=edges.type.weighted,
                    timed=edges.type.timed,
                    mirrored=edges.undirected,
                    from_starts=ends[0].index.starts,
                    to_count=ends[1].index.count,
                )
                touched = edges.touched.get(adjacency.direction, set())
                everything = moved or (edges.undirected and bool(touched))
                wanted.append(set(range(self._partitions)) if everything else touched)
                share = self._shares.sorting // len(edges.adjacencies)
                sorters.append(stack.enter_context(EdgeSorter(self._directory, shape, share_bytes=share)))
            for adjacency, sorter, partitions in zip(edges.adjacencies, sorters, wanted, strict=True):
                features = edge_features(self._schema, adjacency.number)
                for src, dst, columns in self._remaining(edges, adjacency, features, sorted(partitions)):
                    sorter.add(_moved(source, src), _moved(target, dst), columns)
            for src, dst, columns in added:
                for sorter in sorters:
                    sorter.add(src, dst, columns)
            if edges.removals is not None:
                edges.removals.check_all_found()
            for adjacency, sorter, partitions in zip(edges.adjacencies, sorters, wanted, strict=True):
                old = self._base.edge_counts[adjacency.number]
                features = edge_features(GraphSchema(tuple(self._node_types), self._grown_edges()), adjacency.number)
                with self._steps.timed("sort and write edges"):
                    written, entries = sorter.write(features, self._on_file, only=frozenset(partitions))
                self._took(entries)
                for partition in set(range(self._partitions)) - partitions:
                    self._link(edges_file(adjacency.number, partition))
                    for number, _, _ in features:
                        self._link(feature_file(number, partition))
                counts.append(tuple(written.get(partition, old[partition]) for partition in range(self._partitions)))
        return counts

    def _grown_edges(self) -> tuple[EdgeType, ...]:
        return tuple(msgspec.structs.replace(edges.type, features=edges.features) for edges in self._edges)

    def _resolved_added(self, edges: _EdgeChanges) -> list[tuple[I32Array, I32Array, dict[str, Column]]]:
        """The added edges with dense ids; their partitions are noted."""
        source, target = self._nodes_of(edges)
        found = []
        for columns in edges.added:
            ends = []
            for nodes, side in ((source, "src"), (target, "dst")):
                ids = columns.pop(f"id:{side}", None)
                ends.append(nodes.index.resolve(ids) if ids is not None else plain(columns.pop(f"dense:{side}")))
            self._touch(edges, ends[0], ends[1], source.index.starts, target.index.starts)
            found.append((ends[0], ends[1], columns))
        return found

    def _remaining(
        self, edges: _EdgeChanges, adjacency: Adjacency, features: Sequence[tuple[int, int, Feature]], partitions: Sequence[int]
    ) -> Iterator[tuple[I32Array, I32Array, dict[str, Column]]]:
        """(src, dst, columns) of the stored edges that are given and stay; ends are old dense ids."""
        source, target = self._nodes_of(edges)
        starts = (source if adjacency.direction == "out" else target).old.starts
        for partition in partitions:
            stored = stored_edges(
                self._base.directory, adjacency, features, partition, int(starts[partition]), self._rows_max, given_only=edges.undirected
            )
            for froms, tos, columns in stored:
                src, dst = (froms, tos) if adjacency.direction == "out" else (tos, froms)
                gone = np.zeros(len(src), np.bool_)
                for nodes, dense in ((source, src), (target, dst)):
                    if not nodes.from_edges and nodes.moved is not None:
                        gone |= nodes.moved[dense] < 0
                if edges.removals is not None:
                    gone |= edges.removals.match(src, dst, columns)
                if gone.any():
                    kept = np.flatnonzero(~gone).astype(np.int32)
                    yield plain(take(src, kept)), plain(take(dst, kept)), take_rows(columns, kept)
                else:
                    yield src, dst, columns

    # -- inside -----------------------------------------------------------------------------------------------------------------------

    @property
    def _rows_max(self) -> int:
        return max(min(self._shares.batch // 64, BATCH_ROWS), 1)

    def _types_of(self, edges: _EdgeChanges) -> tuple[int, int]:
        return self._schema.node_index(edges.key[0]), self._schema.node_index(edges.key[2])

    def _nodes_of(self, edges: _EdgeChanges) -> tuple[_Nodes, _Nodes]:
        source, target = self._types_of(edges)
        return self._nodes[source], self._nodes[target]

    def _hash_partitions(self, ids: Column) -> I64Array:
        return (((hash_ids(ids) >> np.uint64(32)) * np.uint64(self._partitions)) >> np.uint64(32)).astype(np.int64)

    def _partitions_of(self, starts: I64Array, dense: npt.NDArray[Any]) -> set[int]:
        return set((np.searchsorted(starts, np.unique(dense), "right") - 1).tolist())

    def _note_source(self, option: str, name: str, reader: TableReader) -> None:
        self._sources.setdefault(option, {})[name] = reader.source

    def _on_file(self, name: str) -> None:
        self._on_step("files written", 1)

    def _took(self, entries: Sequence[FileEntry]) -> None:
        """Files that were written; those that came out as they were become links."""
        for entry in entries:
            old = self._base.directory / entry.name
            if old.exists():
                sections = open_sections(old)
                if (sections.bytes, sections.checksum) == (entry.bytes, entry.checksum):
                    (self._directory / entry.name).unlink()
                    self._link(entry.name)
                    continue
            self._entries[entry.name] = entry

    def _link(self, name: str) -> None:
        sections = open_sections(self._base.directory / name)
        with os_errors(self._directory):
            os.link(self._base.directory / name, self._directory / name)
        self._linked.add(name)
        self._entries[name] = FileEntry(name, sections.bytes, sections.checksum)


class _Ends:
    """Ids of the ends of added edges, for a type whose nodes these are."""

    def __init__(self) -> None:
        self.parts: list[Column] = []
        self.kind: IdKind | None = None

    def add(self, nodes: _Nodes, ids: Ids, label: str, column: str) -> None:
        """
        Raises:
            GraphBuildError: texts, and whole numbers before.
        """
        check_kind(nodes.type.name, nodes.old.kind or self.kind, ids, label, column)
        self.kind = self.kind or ids.kind
        self.parts.append(ids.values)


class _Removals:
    """Rows of a table of edges to remove. `match` says which stored edges they mean, and remembers which rows meant one."""

    def __init__(self, label: str, columns: Sequence[str], undirected: bool) -> None:
        self._label, self._columns, self._undirected = label, columns, undirected
        self._parts: list[tuple[I32Array, I32Array, Rows]] = []
        self._shown: list[tuple[Ids, ...]] = []
        self.src = self.dst = np.empty(0, np.int32)

    def add(self, src: I32Array, dst: I32Array, columns: Rows, ids: tuple[Ids, ...]) -> None:
        """Take some rows; old dense ids."""
        self._parts.append((src, dst, columns))
        self._shown.append(ids)

    def seal(self) -> None:
        """All rows are there."""
        empty = np.empty(0, np.int32)
        self.src = np.concatenate([empty, *(src for src, _, _ in self._parts)])
        self.dst = np.concatenate([empty, *(dst for _, dst, _ in self._parts)])
        names = [name for name in ("time", "weight") if self._parts and name in self._parts[0][2]]
        self._also = {name: np.concatenate([plain(columns[name]) for _, _, columns in self._parts]) for name in names}
        self._parts = []
        self._found = np.zeros(len(self.src), np.bool_)
        keys = _pair(self.src, self.dst)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def match(self, src: I32Array, dst: I32Array, columns: Rows) -> npt.NDArray[np.bool_]:
        """Which of some stored edges are to go."""
        gone = self._match(src, dst, columns)
        return gone | self._match(dst, src, columns) if self._undirected else gone

    def check_all_found(self) -> None:
        """
        Raises:
            GraphBuildError: a row meant no edge.
        """
        if self._found.all():
            return
        row = at = int(np.argmin(self._found))
        for ids in self._shown:
            if at < len(ids[0].values):
                ends = [show_id(end.values, at) for end in ids]
                also = "".join(f", {name} {column[row]}" for name, column in self._also.items())
                raise GraphBuildError(self._label, row, self._columns[0], f"there is no edge from {ends[0]} to {ends[1]}{also} to remove")
            at -= len(ids[0].values)

    def _match(self, src: I32Array, dst: I32Array, columns: Rows) -> npt.NDArray[np.bool_]:
        keys = _pair(src, dst)
        low, high = np.searchsorted(self._keys, keys, "left"), np.searchsorted(self._keys, keys, "right")
        gone = low < high
        if not self._also:
            for rows in {*zip(low[gone].tolist(), high[gone].tolist(), strict=True)}:
                self._found[self._order[rows[0] : rows[1]]] = True
            return gone
        wanted = {name: plain(columns[name]) for name in self._also}
        for edge in np.flatnonzero(gone).tolist():
            rows_of_pair = self._order[low[edge] : high[edge]]
            same = np.ones(len(rows_of_pair), np.bool_)
            for name, column in self._also.items():
                same &= column[rows_of_pair] == wanted[name][edge]
            self._found[rows_of_pair[same]] = True
            gone[edge] = bool(same.any())
        return gone


def _pair(src: I32Array, dst: I32Array) -> npt.NDArray[np.uint64]:
    return (src.astype(np.uint64) << np.uint64(32)) | dst.astype(np.uint64)


def _moved(nodes: _Nodes, dense: I32Array) -> I32Array:
    return dense if nodes.moved is None else nodes.moved[dense]


def _check_like(label: str, reader: TableReader, like: NodeType | EdgeType, features: Sequence[Feature]) -> None:
    """
    Raises:
        GraphBuildError: the table lacks what the type has, or has what it lacks.
    """
    if not reader.id_columns:
        return
    for noun, mine, there in (("weight", reader.weight, like.weighted), ("time", reader.time, like.timed)):
        if there and mine is None:
            raise GraphBuildError(label, None, noun, f"it has no {noun}, and the others of its type have one")
        if mine is not None and not there:
            raise GraphBuildError(label, None, mine, f"it has a {noun}, and the others of its type have none; leave it out, or build anew")
    known = {feature.name: feature for feature in features}
    read = {feature.name: feature for feature in reader.features}
    for name in [*known, *read]:
        if name not in read:
            raise GraphBuildError(label, None, name, "the feature is missing; the others of its type have it (null: this one has none)")
        if name not in known:
            raise GraphBuildError(label, None, name, "the others of its type have no such feature; leave it out, or build anew")
        read[name].expect(known[name])


def _renumbered(columns: Rows, reader: TableReader, features: Sequence[tuple[int, int, Feature]]) -> dict[str, Column]:
    """Columns of a table whose features stand in another order than the type's."""
    at = {feature.name: position for _, position, feature in features}
    places = {str(number): str(at[feature.name]) for number, feature in enumerate(reader.features)}
    found: dict[str, Column] = {}
    for name, column in columns.items():
        number, colon, part = name.partition(":")
        found[f"{places[number]}:{part}" if colon else name] = column
    return found


def _grown(feature: Feature, reader: TableReader) -> Feature:
    """A sparse feature may have got a larger dimension."""
    for column in reader.features:
        if column.name == feature.name and feature.kind == "sparse":
            return column.feature
    return feature

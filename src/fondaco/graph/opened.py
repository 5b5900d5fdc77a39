"""An opened version of a graph: its section files mapped, and tables of addresses for kernels.

Kernels take small arrays: for each section one address per partition (0: the section is absent, or the partition is not held here), and
`starts`, the first dense id of each partition. Dense id d of a type lies in the partition p with starts[p] <= d < starts[p + 1], in row
d - starts[p] of its sections. So one kernel call serves any number of partitions. Addresses stay good as long as the `OpenGraph` lives:
whoever calls a kernel holds a reference to it meanwhile. Arrays that were made from a section keep their file mapped by themselves.

An `OpenGraph` never changes, and may be used from any thread and after a fork. A version whose files were removed meanwhile stays readable
to those who hold it. Byte layout: docs/internals/graph-format.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import CorruptFileError, InputError, StateError
from fondaco.core.verified import read_stamps, stamp_of, write_stamps
from fondaco.graph.layout import GraphLayout, edges_file, feature_file, nodes_file, partition_files
from fondaco.graph.manifest import GraphManifest, read_manifest
from fondaco.graph.schema import Adjacency, Direction, EdgeKey, EdgeType, Feature, FeatureFile, GraphSchema, NodeType
from fondaco.graph.sections import Sections, open_sections

I64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class NodeTable:
    """The nodes of one type. Addresses: int64 [partitions].

    Attributes:
        starts: int64 [partitions + 1], the first dense id of each partition; the last is `count`.
        hashes: uint64 [n], ascending. ids: int64 [n] ("long"), else id_offsets: int64 [n + 1] into id_bytes: UTF-8.
        weights: float32 [n]; sampling_cumulative: float64 [n], inclusive sums of the weights in the partition (both: weighted types).
        times: int64 [n], microseconds since the epoch (timed types).
    """

    type: NodeType
    index: int
    count: int
    starts: I64Array
    hashes: I64Array
    ids: I64Array
    id_offsets: I64Array
    id_bytes: I64Array
    weights: I64Array
    times: I64Array
    sampling_cumulative: I64Array


@dataclass(frozen=True, slots=True, eq=False)
class AdjacencyTable:
    """One direction of one edge type. Addresses: int64 [partitions].

    Attributes:
        starts: int64 [partitions + 1], those of the from-nodes, whose partitions rows lie in. from_count, to_count: nodes of both types.
        edge_starts: int64 [partitions + 1]: position 0 of a partition has this dense edge id; the last is `edge_count`.
        indptr: int64 [n + 1]; indices: int32 [m], dense ids of to-nodes.
        weights: float32 [m]; cumulative: float64 [m], inclusive sums of the weights that begin anew in each row (both: weighted types).
        times: int64 [m], microseconds since the epoch, ascending in each row (timed types).
    """

    adjacency: Adjacency
    starts: I64Array
    from_count: int
    to_count: int
    edge_starts: I64Array
    edge_count: int
    indptr: I64Array
    indices: I64Array
    weights: I64Array
    cumulative: I64Array
    times: I64Array


@dataclass(frozen=True, slots=True, eq=False)
class FeatureTable:
    """One stored feature of a node type or an adjacency. Addresses: int64 [partitions].

    Attributes:
        starts: int64 [partitions + 1], the first row of each partition: dense node ids, or dense edge ids.
        present: uint8 [rows], 0 where a row has no value (then it is zeros, or empty); address 0: every row has one.
        values: dtype [rows, *shape] (dense), or dtype [nnz] (sparse, with indptr: int64 [rows + 1] and indices: int64 [nnz]).
        offsets: int64 [rows + 1] into data: uint8 (bytes).
        row_bytes: of a dense row; 0 for the others.
    """

    feature: Feature
    file: FeatureFile
    dtype: np.dtype[Any]
    row_bytes: int
    starts: I64Array
    present: I64Array
    values: I64Array
    indptr: I64Array
    indices: I64Array
    offsets: I64Array
    data: I64Array


class OpenGraph:
    """One version of a graph, or some partitions of it, readable.

    Attributes:
        name, version, schema, manifest: what it is. partitions: of the whole graph. held: those that are mapped here.
        adjacencies: `schema.adjacencies()`, made once.
        node_tables: by position of the node type. adjacency_tables: by number of the adjacency.
        node_features: by (position of the node type, name); edge_features: by (number of the adjacency, name). Without those of stores.
    """

    def __init__(
        self, directory: Path, *, held: Iterable[int] | None = None, shard: tuple[int, int] | None = None, verify: bool = False
    ) -> None:
        """Use `open_version`."""
        self.directory = directory
        self.manifest: GraphManifest = read_manifest(directory)
        self.name, self.version = self.manifest.graph, self.manifest.version
        self.schema: GraphSchema = self.manifest.schema
        self.partitions = self.manifest.partitions
        if shard is not None:
            held = shard_partitions(self.partitions, *shard)
        self.held = frozenset(range(self.partitions) if held is None else held)
        if not self.held <= frozenset(range(self.partitions)):
            raise InputError(f"graph {self.name!r} v{self.version} has partitions 0 to {self.partitions - 1}, not {sorted(self.held)}")
        self.adjacencies = self.schema.adjacencies()
        self._closed = False
        self._files = _open_files(directory, self.manifest, self.held, verify=verify)
        self.node_tables = tuple(self._nodes(index) for index in range(len(self.schema.nodes)))
        self.adjacency_tables = tuple(self._adjacency(adjacency) for adjacency in self.adjacencies)
        self.node_features: dict[tuple[int, str], FeatureTable] = {}
        self.edge_features: dict[tuple[int, str], FeatureTable] = {}
        for file in self.schema.feature_files():
            tables = self.node_features if file.of == "nodes" else self.edge_features
            tables[file.owner, file.feature.name] = self._feature(file)

    # -- finding ----------------------------------------------------------------------------------------------------------------------

    def node_table(self, name: str) -> NodeTable:
        """The table of a node type.

        Raises:
            NodeTypeNotFoundError.
        """
        return self.node_tables[self.schema.node_index(name)]

    def adjacency_table(self, key: EdgeType | EdgeKey | str, direction: Direction = "out") -> AdjacencyTable:
        """The table of one direction of an edge type.

        Raises:
            as `GraphSchema.adjacency`.
        """
        return self.adjacency_tables[self.schema.adjacency(key, direction).number]

    @property
    def holds_all(self) -> bool:
        """Whether every partition is mapped here."""
        return len(self.held) == self.partitions

    def sections(self, file: str) -> Sections:
        """One of the section files, by its name (`layout.nodes_file` and its neighbours).

        Raises:
            KeyError: its partition is not held.
        """
        return self._files[file]

    @property
    def bytes(self) -> int:
        """Bytes of the files that are mapped."""
        return sum(sections.bytes for sections in self._files.values())

    # -- life -------------------------------------------------------------------------------------------------------------------------

    def warm(self, *, bytes_max: int | None = None) -> int:
        """Ask for every file to be read into memory, structure before features, as far as `bytes_max` goes (None: half of the memory
        that is free now); returns the bytes asked for. The system reads in the background."""
        room = _free_memory() // 2 if bytes_max is None else bytes_max
        asked = 0
        for name in sorted(self._files, key=lambda name: (name.startswith("feature"), name)):
            sections = self._files[name]
            if asked + sections.bytes <= room:
                sections.warm()
                asked += sections.bytes
        return asked

    def verify(self) -> None:
        """Read every byte of every file and compare with the checksums.

        Raises:
            CorruptFileError: names file and section.
        """
        for sections in self._files.values():
            sections.verify()

    def close(self) -> None:
        """Say that no more is asked of it. The files stay mapped until the last reference is gone: to this, or to an array made from it."""
        self._closed = True

    def check_open(self) -> None:
        """
        Raises:
            StateError: `close` was called.
        """
        if self._closed:
            raise StateError(f"version {self.version} of graph {self.name!r} was closed; open it again")

    def __enter__(self) -> OpenGraph:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        held = "" if self.holds_all else f", partitions {sorted(self.held)} of {self.partitions}"
        return f"<OpenGraph {self.name!r} v{self.version}{held}>"

    # -- tables -----------------------------------------------------------------------------------------------------------------------

    def _nodes(self, index: int) -> NodeTable:
        kind = self.schema.nodes[index]
        files = [nodes_file(index, partition) for partition in range(self.partitions)]
        counts = self.manifest.nodes[index]
        has_ids = kind.id == "long"
        take = _Taker(self._files, files, counts)
        return NodeTable(
            type=kind,
            index=index,
            count=sum(counts),
            starts=_starts(counts),
            hashes=take("hashes", "uint64"),
            ids=take("ids", "int64", there=has_ids),
            id_offsets=take("id_offsets", "int64", extra=1, there=not has_ids),
            id_bytes=take("id_bytes", "uint8", there=not has_ids, free=True),
            weights=take("weights", "float32", there=kind.weighted),
            times=take("times", "int64", there=kind.timed),
            sampling_cumulative=take("sampling_cumulative", "float64", there=kind.weighted),
        )

    def _adjacency(self, adjacency: Adjacency) -> AdjacencyTable:
        files = [edges_file(adjacency.number, partition) for partition in range(self.partitions)]
        rows, edges, edge = self.manifest.nodes[adjacency.from_type], self.manifest.edges[adjacency.number], adjacency.edge
        take = _Taker(self._files, files, edges)
        return AdjacencyTable(
            adjacency=adjacency,
            starts=_starts(rows),
            from_count=sum(rows),
            to_count=sum(self.manifest.nodes[adjacency.to_type]),
            edge_starts=_starts(edges),
            edge_count=sum(edges),
            indptr=_Taker(self._files, files, rows)("indptr", "int64", extra=1),
            indices=take("indices", "int32"),
            weights=take("weights", "float32", there=edge.weighted),
            cumulative=take("cumulative", "float64", there=edge.weighted),
            times=take("times", "int64", there=edge.timed),
        )

    def _feature(self, file: FeatureFile) -> FeatureTable:
        feature = file.feature
        files = [feature_file(file.number, partition) for partition in range(self.partitions)]
        counts = (self.manifest.nodes if file.of == "nodes" else self.manifest.edges)[file.owner]
        take = _Taker(self._files, files, counts)
        dense, sparse, raw = (feature.kind == kind for kind in ("dense", "sparse", "bytes"))
        dtype = np.dtype(np.uint8) if raw else feature.numpy_dtype
        return FeatureTable(
            feature=feature,
            file=file,
            dtype=dtype,
            row_bytes=feature.row_bytes if dense else 0,
            starts=_starts(counts),
            present=take("present", "uint8", optional=True),
            values=take("values", dtype.name, there=dense or sparse, free=sparse, row_shape=feature.shape if dense else ()),
            indptr=take("indptr", "int64", extra=1, there=sparse),
            indices=take("indices", "int64", there=sparse, free=True),
            offsets=take("offsets", "int64", extra=1, there=raw),
            data=take("data", "uint8", there=raw, free=True),
        )


def shard_partitions(partitions: int, shard: int, shards: int) -> range:
    """The partitions that shard `shard` of `shards` holds, of a version with so many: each lies in one shard, in order.

    Raises:
        InputError: no such shard.
    """
    if not 0 <= shard < shards:
        raise InputError(f"shard {shard}/{shards} does not exist: shards of {shards} are 0 to {shards - 1}")
    first, after = (-(-number * partitions // shards) for number in (shard, shard + 1))
    return range(first, after)


def open_version(
    layout: GraphLayout,
    number: int,
    held: Iterable[int] | None = None,
    *,
    shard: tuple[int, int] | None = None,
    verify: bool = False,
) -> OpenGraph:
    """Open one version. Files that are opened for the first time are read whole and checked; `verify`: all of them again.

    Args:
        held: the partitions to map; None: all. shard: (i, n) instead: those of shard i of n.
    Raises:
        FileNotFoundError: there is no such version (any more), or one of its files is not there.
        CorruptFileError, FormatVersionError: a file cannot be trusted, or not be read; names file and section.
        InputError: no such partitions.
    """
    return OpenGraph(layout.version(number), held=held, shard=shard, verify=verify)


class _Taker:
    """Takes the addresses of one section out of the files of all partitions, and checks that it is what the schema says."""

    def __init__(self, opened: dict[str, Sections], files: list[str], counts: tuple[int, ...]) -> None:
        self._opened, self._files, self._counts = opened, files, counts

    def __call__(
        self,
        section: str,
        dtype: str,
        *,
        extra: int = 0,
        there: bool = True,
        optional: bool = False,
        free: bool = False,
        row_shape: tuple[int, ...] = (),
    ) -> I64Array:
        """
        Args:
            extra: entries more than rows. there: whether the schema asks for it. optional: it may lack. free: it has any length.
        """
        addresses = np.zeros(len(self._files), np.int64)
        for partition, (file, count) in enumerate(zip(self._files, self._counts, strict=True)):
            sections = self._opened.get(file)
            if sections is None or not there:
                continue
            entry = sections.entry(section)
            if entry is None and optional:
                continue
            if entry is None:
                raise CorruptFileError(str(sections.path), section, "the schema says that it is there, and it is not")
            shape = entry.shape if free else (count + extra, *row_shape)
            if entry.dtype != dtype or entry.shape != shape or (free and len(shape) != 1):
                found = f"{entry.dtype}{list(entry.shape)}"
                raise CorruptFileError(str(sections.path), section, f"expected {dtype}{list(shape)}, found {found}")
            addresses[partition] = sections.address(section)
        addresses.flags.writeable = False
        return addresses


def _starts(counts: Iterable[int]) -> I64Array:
    starts = np.concatenate([[0], np.cumsum(np.fromiter(counts, np.int64))]).astype(np.int64)
    starts.flags.writeable = False
    return starts


def _open_files(directory: Path, manifest: GraphManifest, held: frozenset[int], *, verify: bool) -> dict[str, Sections]:
    entries = {entry.name: entry for entry in manifest.files}
    stamps, checked, opened = read_stamps(directory), [], {}
    for name in _held_files(manifest, held):
        path = directory / name
        try:
            sections = open_sections(path)
        except FileNotFoundError as exc:
            if not directory.is_dir():
                raise  # the version was retired
            raise CorruptFileError(str(path), "file", "it is missing") from exc
        entry = entries[name]
        if (sections.bytes, sections.checksum) != (entry.bytes, entry.checksum):
            raise CorruptFileError(str(path), "header", "it is not the file that the manifest lists")
        if verify or stamps.get(name) != stamp_of(path.stat()):
            sections.verify()
            checked.append(name)
        opened[name] = sections
    if checked:
        write_stamps(directory, checked)
    return opened


def _held_files(manifest: GraphManifest, held: frozenset[int]) -> Iterator[str]:
    for partition in sorted(held):
        yield from partition_files(manifest.schema, partition)


def _free_memory() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 0

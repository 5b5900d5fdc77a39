"""Node files: nodes in any order become the node and feature files of their partitions, in the order of (hash, id).

Belongs to one thread; leaving the `with` block removes temporary files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import GraphBuildError
from fondaco.graph import _id_kernels as id_kernels
from fondaco.graph.build import _kernels as kernels
from fondaco.graph.build.columns import Column, I32Array, Ragged, Rows, cut_rows, plain, ragged, sort_order, take_rows
from fondaco.graph.build.feature_files import FeatureFiles
from fondaco.graph.build.file_parts import FileParts
from fondaco.graph.build.runs import RowSorter
from fondaco.graph.ids import hash_ids, partition_bounds, show_id
from fondaco.graph.layout import nodes_file
from fondaco.graph.manifest import NODES_MAX, FileEntry
from fondaco.graph.schema import Feature, IdKind
from fondaco.graph.sections import address_of


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShape:
    """What the files of a node type are to hold. `features`: (number of the feature's files, position in the rows, feature)."""

    number: int
    id: IdKind
    weighted: bool
    timed: bool
    features: Sequence[tuple[int, int, Feature]]


class NodeSorter:
    """Takes the nodes of one type and writes their files.

    Rows: `id` (int64 or texts), `weight`, `time` and the parts of features; the sorter adds `hash` and, unless ids may repeat, `row`.
    """

    def __init__(self, path: Path, label: str, kind: IdKind, *, id_column: str | None, distinct: bool, share_bytes: int) -> None:
        """
        Args:
            path: the temporary file, should one be needed; the node files lie beside it.
            label, id_column: for messages. distinct: an id may come many times, and is one node.
        """
        self._directory, self._label, self._id_column, self._distinct = path.parent, label, id_column, distinct
        ties = ("id",) if kind == "string" else ()
        self._sorter = RowSorter(path, _by_hash, ("hash",), ties=ties, share_bytes=share_bytes, compact=_distinct if distinct else None)

    def __enter__(self) -> NodeSorter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._sorter.__exit__(kind, value, traceback)

    def add(self, ids: Column, columns: Rows, first_row: int = 0) -> None:
        """Take some nodes; `first_row` is the row of the first one in its table."""
        rows: dict[str, Column] = {"hash": hash_ids(ids), "id": ids, **columns}
        if not self._distinct:
            rows["row"] = np.arange(first_row, first_row + len(ids), dtype=np.int64)
        self._sorter.add(rows)

    def write(
        self, shape: NodeShape, partitions: int, on_file: Callable[[str], None], *, only: frozenset[int] | None = None
    ) -> tuple[dict[int, int], list[FileEntry]]:
        """Write the files; returns nodes by partition, and the files.

        Args:
            only: partitions to write; every node lies in one of them. None: all.
        Raises:
            GraphBuildError: an id comes twice, or there are more nodes than dense ids. DiskFullError.
        """
        wanted = sorted(range(partitions) if only is None else only)
        counts = dict.fromkeys(wanted, 0)
        entries: list[FileEntry] = []
        with contextlib.ExitStack() as stack:
            open_parts: _NodeParts | None = None
            queue = iter(wanted)

            def advance(partition: int) -> _NodeParts:
                """The parts of `partition`; those before it are finished."""
                nonlocal open_parts
                while open_parts is None or open_parts.partition < partition:
                    if open_parts is not None:
                        entries.extend(open_parts.write(on_file))
                    open_parts = stack.enter_context(_NodeParts(self._directory, next(queue), shape, spilled=self._sorter.spilled))
                return open_parts

            for rows in self._sorter.slices():
                if not self._distinct:
                    self._check_once(rows)
                bounds = partition_bounds(plain(rows["hash"]), partitions)
                for partition in wanted:
                    start, end = int(bounds[partition]), int(bounds[partition + 1])
                    if end > start:
                        counts[partition] += end - start
                        advance(partition).add(cut_rows(rows, start, end))
                if sum(counts.values()) > NODES_MAX:
                    raise GraphBuildError(self._label, None, None, f"more than {NODES_MAX:,} nodes of one type; split the type")
                del rows
            if wanted:
                entries.extend(advance(wanted[-1]).write(on_file))
        return counts, entries

    def _check_once(self, rows: Rows) -> None:
        hashes, ids, numbers = plain(rows["hash"]), rows["id"], plain(rows["row"])
        repeated: tuple[int, int, int] | None = None
        for at in np.flatnonzero(hashes[1:] == hashes[:-1]).tolist():
            if isinstance(ids, Ragged) and _text(ids, at) != _text(ids, at + 1):
                continue
            first, second = sorted((int(numbers[at]), int(numbers[at + 1])))
            if repeated is None or second < repeated[0]:
                repeated = (second, first, at)
        if repeated is not None:
            second, first, at = repeated
            raise GraphBuildError(self._label, second, self._id_column, f"the id {show_id(ids, at)} is that of row {first} already")


class _NodeParts:
    """The files of one partition in the making."""

    def __init__(self, directory: Path, partition: int, shape: NodeShape, *, spilled: bool) -> None:
        self.partition, self._shape = partition, shape
        self._total = 0.0
        self._nodes = FileParts(directory / nodes_file(shape.number, partition), spilled=spilled)
        self._features = FeatureFiles(directory, partition, shape.features, spilled=spilled)
        self._nodes.declare("hashes", np.uint64)
        if shape.id == "long":
            self._nodes.declare("ids", np.int64)
        else:
            self._nodes.declare_ragged("id_offsets", [("id_bytes", np.uint8)])
        if shape.weighted:
            self._nodes.declare("weights", np.float32)
        if shape.timed:
            self._nodes.declare("times", np.int64)
        if shape.weighted:
            self._nodes.declare("sampling_cumulative", np.float64)

    def __enter__(self) -> _NodeParts:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._nodes.__exit__(kind, value, traceback)
        self._features.__exit__(kind, value, traceback)

    def add(self, rows: Rows) -> None:
        self._nodes.append("hashes", plain(rows["hash"]))
        if self._shape.id == "long":
            self._nodes.append("ids", plain(rows["id"]))
        else:
            self._nodes.append_ragged("id_offsets", {"id_bytes": ragged(rows["id"])})
        if self._shape.weighted:
            weights = np.ascontiguousarray(plain(rows["weight"]))
            sums = np.empty(len(weights), np.float64)
            self._total = kernels.sum_all(weights, self._total, sums)
            self._nodes.append("weights", weights)
            self._nodes.append("sampling_cumulative", sums)
        if self._shape.timed:
            self._nodes.append("times", plain(rows["time"]))
        self._features.add(rows)

    def write(self, on_file: Callable[[str], None]) -> Iterable[FileEntry]:
        entry = self._nodes.write()
        on_file(entry.name)
        return [entry, *self._features.write(on_file)]


def _text(ids: Ragged, row: int) -> bytes:
    return bytes(ids.data[ids.offsets[row] : ids.offsets[row + 1]])


def _by_hash(rows: Rows) -> I32Array:
    """The order of nodes: by hash; texts of one hash, which next to never differ, by their bytes."""
    hashes = plain(rows["hash"])
    order = sort_order([(hashes, 64)], len(hashes))
    ids = rows.get("id")
    if isinstance(ids, Ragged) and _compared(hashes, ids, order)[1]:
        in_order = hashes[order]
        for start, end in _groups(in_order[1:] == in_order[:-1]):
            order[start:end] = sorted(order[start:end], key=lambda row: _text(ids, row))
    return order


def _compared(hashes: npt.NDArray[np.uint64], ids: Ragged, order: I32Array) -> tuple[npt.NDArray[np.uint8], int]:
    """How each row compares with the one before it (`compare_texts`), and how many differ under one hash."""
    out = np.empty(len(order), np.uint8)
    data = np.ascontiguousarray(ids.data)
    return out, id_kernels.compare_texts(hashes, ids.offsets, address_of(data) if len(data) else 0, order, out)


def _groups(same: npt.NDArray[np.bool_]) -> Iterable[tuple[int, int]]:
    """Ranges of rows that are each the same as the one before."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    return [(int(start), int(end) + 1) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _distinct(rows: Rows) -> dict[str, Column]:
    """Each id once."""
    hashes, ids = plain(rows["hash"]), rows["id"]
    new = np.ones(len(hashes), bool)
    if isinstance(ids, Ragged):
        new = _compared(hashes, ids, np.arange(len(hashes), dtype=np.int32))[0] != 1
    else:
        new[1:] = hashes[1:] != hashes[:-1]
    return dict(rows) if new.all() else take_rows(rows, np.flatnonzero(new).astype(np.int32))

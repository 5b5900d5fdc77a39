"""Edge files: edges in any order become the CSR and feature files of one adjacency, in the canonical order.

A row belongs to a from-node; in it, edges ascend by time (if they have times), to-node and weight, and otherwise keep the order in which
they came. So position, and with it the edge id, depends on nothing but the edges. Where each edge also stands for its mirror, mirrors come
along marked and fall out again where the edge the other way was given (at the same time, for timed edges); the mark is kept in the section
`mirrored`, because an update must know which edges were given.

Belongs to one thread; leaving the `with` block removes temporary files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from fondaco.graph.build import _kernels as kernels
from fondaco.graph.build.columns import Array, Column, I32Array, I64Array, Rows, cut_rows, plain, row_count, sort_order, take_rows
from fondaco.graph.build.feature_files import FeatureFiles
from fondaco.graph.build.file_parts import FileParts
from fondaco.graph.build.runs import RowSorter
from fondaco.graph.layout import edges_file
from fondaco.graph.manifest import FileEntry
from fondaco.graph.schema import Direction, Feature

_NO_TIMES = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeShape:
    """What the files of an adjacency are to hold."""

    number: int
    direction: Direction
    weighted: bool
    timed: bool
    mirrored: bool
    from_starts: I64Array
    """int64 [partitions + 1]: first dense id of each partition of the from-nodes."""
    to_count: int


class EdgeSorter:
    """Takes the edges of one adjacency and writes its files. Rows: `weight`, `time`, `mirrored` and the parts of features."""

    def __init__(self, directory: Path, shape: EdgeShape, *, share_bytes: int) -> None:
        self._directory, self._shape = directory, shape
        keys = ("from", "time", "to") if shape.timed else ("from", "to")
        self._sorter = RowSorter(
            directory / f".edges-{shape.number}.run", self._order, keys, ties=("weight",) if shape.weighted else (), share_bytes=share_bytes
        )

    def __enter__(self) -> EdgeSorter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._sorter.__exit__(kind, value, traceback)

    def add(self, src: I32Array, dst: I32Array, columns: Rows) -> None:
        """Take some edges between dense ids. With mirrors, each that is no loop is added the other way too, with the same columns, unless
        the columns say `mirrored` already."""
        ends = (src, dst) if self._shape.direction == "out" else (dst, src)
        if not self._shape.mirrored:
            self._sorter.add({"from": ends[0], "to": ends[1], **columns})
            return
        self._sorter.add({"from": ends[0], "to": ends[1], "mirrored": np.zeros(len(src), np.uint8), **columns})
        straight = np.flatnonzero(src != dst).astype(np.int32)
        mirrors = take_rows({"from": ends[1], "to": ends[0], **columns}, straight)
        self._sorter.add({**mirrors, "mirrored": np.ones(len(straight), np.uint8)})

    def write(
        self, features: Sequence[tuple[int, int, Feature]], on_file: Callable[[str], None], *, only: frozenset[int] | None = None
    ) -> tuple[dict[int, int], list[FileEntry]]:
        """Write the files; returns entries by partition, and the files.

        Args:
            features: (number of the feature's files, its position in the rows, itself).
            only: partitions to write; every edge lies in one of them. None: all.
        Raises:
            DiskFullError.
        """
        starts = self._shape.from_starts
        wanted = sorted(range(len(starts) - 1) if only is None else only)
        counts = dict.fromkeys(wanted, 0)
        entries: list[FileEntry] = []
        carried = (-1, 0.0)
        with contextlib.ExitStack() as stack:
            open_parts: _EdgeParts | None = None
            queue = iter(wanted)

            def advance(partition: int) -> _EdgeParts:
                """The parts of `partition`; those before it are finished."""
                nonlocal open_parts
                while open_parts is None or open_parts.partition < partition:
                    if open_parts is not None:
                        entries.extend(open_parts.write(on_file))
                    parts = _EdgeParts(self._directory, next(queue), self._shape, features, spilled=self._sorter.spilled)
                    open_parts = stack.enter_context(parts)
                return open_parts

            for rows in self._sorter.slices():
                if self._shape.mirrored:
                    rows = self._without_needless_mirrors(rows)
                if self._shape.weighted:
                    rows, carried = self._with_sums(rows, carried)
                bounds = np.searchsorted(plain(rows["from"]), starts.astype(np.int32)).astype(np.int64)
                bounds[-1] = row_count(rows)
                for partition in wanted:
                    start, end = int(bounds[partition]), int(bounds[partition + 1])
                    if end > start:
                        counts[partition] += end - start
                        advance(partition).add(cut_rows(rows, start, end))
                del rows
            if wanted:
                entries.extend(advance(wanted[-1]).write(on_file))
        return counts, entries

    # -- inside ---------------------------------------------------------------------------------------------------------------------

    def _order(self, rows: Rows) -> I32Array:
        sources, targets = plain(rows["from"]), plain(rows["to"])
        keys: list[tuple[Array, int]] = [(targets, _bits(self._shape.to_count))]
        if self._shape.timed:
            times = plain(rows["time"])
            first = times.min()
            since = times.astype(np.uint64) - np.uint64(first.astype(np.uint64))  # wraps where they are negative, and is right
            keys.append((since, _bits(int(since.max()) + 1)))
        keys.append((sources, _bits(int(self._shape.from_starts[-1]))))
        order = sort_order(_packed(keys), len(sources), owned=True)
        if self._shape.weighted and kernels.have_parallel(sources[order], targets[order]):
            # as bits, weights of 0 and more are in the order of numbers
            keys.insert(0, (np.ascontiguousarray(plain(rows["weight"])).view(np.uint32), 32))
            order = sort_order(_packed(keys), len(sources), owned=True)
        return order

    def _without_needless_mirrors(self, rows: dict[str, Column]) -> dict[str, Column]:
        times = plain(rows["time"]) if self._shape.timed else _NO_TIMES
        kept = np.empty(row_count(rows), np.int32)
        count = kernels.keep_given(plain(rows["from"]), plain(rows["to"]), times, plain(rows["mirrored"]), kept)
        return rows if count == len(kept) else take_rows(rows, kept[:count])

    def _with_sums(self, rows: dict[str, Column], carried: tuple[int, float]) -> tuple[dict[str, Column], tuple[int, float]]:
        sources, weights = plain(rows["from"]), plain(rows["weight"])
        sums = np.empty(len(weights), np.float64)
        total = kernels.sum_rows(sources, weights, *carried, sums)
        return {**rows, "cumulative": sums}, (int(sources[-1]), total)


class _EdgeParts:
    """The files of one partition in the making."""

    def __init__(
        self, directory: Path, partition: int, shape: EdgeShape, features: Sequence[tuple[int, int, Feature]], *, spilled: bool
    ) -> None:
        self.partition, self._shape = partition, shape
        self._first = int(shape.from_starts[partition])
        self._counts = np.zeros(int(shape.from_starts[partition + 1]) - self._first, np.int64)
        self._edges = FileParts(directory / edges_file(shape.number, partition), spilled=spilled)
        self._features = FeatureFiles(directory, partition, features, spilled=spilled)
        self._columns: list[tuple[str, str, type[np.generic]]] = [("indices", "to", np.int32)]
        if shape.weighted:
            self._columns += [("weights", "weight", np.float32), ("cumulative", "cumulative", np.float64)]
        if shape.timed:
            self._columns.append(("times", "time", np.int64))
        if shape.mirrored:
            self._columns.append(("mirrored", "mirrored", np.uint8))
        self._edges.declare("indptr", np.int64)
        for section, _, dtype in self._columns:
            self._edges.declare(section, dtype)

    def __enter__(self) -> _EdgeParts:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._edges.__exit__(kind, value, traceback)
        self._features.__exit__(kind, value, traceback)

    def add(self, rows: Rows) -> None:
        kernels.count_rows(plain(rows["from"]), self._first, self._counts)
        for section, column, _ in self._columns:
            self._edges.append(section, plain(rows[column]))
        self._features.add(rows)

    def write(self, on_file: Callable[[str], None]) -> list[FileEntry]:
        self._edges.append("indptr", np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int64))
        entry = self._edges.write()
        on_file(entry.name)
        return [entry, *self._features.write(on_file)]


def _bits(count: int) -> int:
    """How many bits the numbers below `count` take."""
    return max(count - 1, 0).bit_length()


def _packed(keys: Sequence[tuple[Array, int]]) -> list[tuple[Array, int]]:
    """Keys, the least significant first, in as few words of 64 bits as they fit."""
    words: list[tuple[Array, int]] = []
    for values, bits in keys:
        if words and words[-1][1] + bits <= 64:
            word, used = words[-1]
            high = values.astype(np.uint64)
            high <<= np.uint64(used)
            word |= high
            words[-1] = (word, used + bits)
        else:
            words.append((values.astype(np.uint64), bits))
    return words

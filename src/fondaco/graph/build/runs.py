"""Runs: sort more rows than memory holds. Rows come in any order, in batches; slices of them go out in the order of their keys.

Batches wait in memory. Once they weigh more than a share of it they are sorted and written to a temporary file as one run. At the end the
runs are cut at common keys, chosen from samples of all runs so that a slice fits the share too, and slice by slice what lies in one range
of keys is read back, joined and sorted. Rows with one key are never cut apart, and equal keys keep the order in which they came. So slices,
laid end to end, are the same for any batch size and any share; how they are cut is not. Without a run there is one slice and no file.

This is a sample sort over sorted runs (Frazer, McKellar 1970), which has no trouble with a key that many rows share, such as a hub's, as
long as the whole key (row, time, neighbour) is cut and not the row.

A sorter belongs to one thread. Leaving its `with` block removes its file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np

from fondaco.core.files import os_errors
from fondaco.graph.build.columns import Array, Column, I32Array, Ragged, Rows, join, row_count, size, take

SAMPLES_PER_RUN = 512

Order: TypeAlias = Callable[[Rows], I32Array]
"""The order of some rows: a stable one by their keys."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an array of a run lies."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Run:
    """Rows that lie in a file."""

    rows: int
    columns: dict[str, tuple[_Place, ...]]  # one array, or offsets and data


class RunFile:
    """A temporary file of rows, written run by run and read back in parts. Leaving its `with` block removes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.bytes = 0
        self._map = np.empty(0, np.uint8)

    def __enter__(self) -> RunFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._map = np.empty(0, np.uint8)
        self._path.unlink(missing_ok=True)

    def write(self, rows: Rows) -> Run:
        """Put rows behind those that are there.

        Raises:
            DiskFullError.
        """
        columns = {}
        with os_errors(self._path), open(self._path, "ab") as file:
            for name, column in rows.items():
                if isinstance(column, Ragged):
                    column = column.from_zero()
                places = []
                for array in (column.offsets, column.data) if isinstance(column, Ragged) else (column,):
                    places.append(_Place(array.dtype, array.shape, self.bytes))
                    contiguous = np.ascontiguousarray(array)
                    file.write(contiguous.reshape(-1).view(np.uint8).data)
                    padding = -contiguous.nbytes % 8
                    file.write(bytes(padding))
                    self.bytes += contiguous.nbytes + padding
                columns[name] = tuple(places)
        return Run(row_count(rows), columns)

    def read(self, run: Run, begin: int, end: int) -> dict[str, Column]:
        """Some rows of a run, in memory of their own."""
        rows: dict[str, Column] = {}
        for name, places in run.columns.items():
            if len(places) == 1:
                rows[name] = np.array(self.mapped(places[0])[begin:end])
            else:
                offsets = np.array(self.mapped(places[0])[begin : end + 1])
                rows[name] = Ragged(offsets - offsets[0], np.array(self.mapped(places[1])[offsets[0] : offsets[-1]]))
        return rows

    def key(self, run: Run, name: str) -> Array:
        """A column of a run, one value a row, mapped."""
        return self.mapped(run.columns[name][0])

    def mapped(self, place: _Place) -> Array:
        """An array of a run, mapped."""
        if 0 in place.shape:
            return np.empty(place.shape, place.dtype)
        if len(self._map) < self.bytes:  # the whole file at once: slices take little from each of many runs
            self._map = np.asarray(np.memmap(self._path, np.uint8, "r"))
        size = int(np.prod(place.shape, dtype=np.int64)) * place.dtype.itemsize
        return self._map[place.offset : place.offset + size].view(place.dtype).reshape(place.shape)


class RowSpool:
    """Keeps rows in the order in which they came, to be read once more: in memory up to a share, in a file beyond it."""

    def __init__(self, path: Path, share_bytes: int) -> None:
        self._file, self._share = RunFile(path), share_bytes
        self._kept: list[Rows | Run] = []
        self._kept_bytes = 0

    def __enter__(self) -> RowSpool:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._kept = []
        self._file.__exit__(kind, value, traceback)

    def add(self, rows: Rows) -> None:
        """Keep a batch; its arrays must not change any more."""
        self._kept_bytes += size(rows)
        self._kept.append(self._file.write(rows) if self._kept_bytes > self._share else rows)

    def batches(self) -> Iterator[Rows]:
        """The batches, in their order; once."""
        kept, self._kept = self._kept, []
        for batch in _drained(kept):
            yield self._file.read(batch, 0, batch.rows) if isinstance(batch, Run) else batch


def _drained(items: list[Rows | Run]) -> Iterator[Rows | Run]:
    """The items, each let go of as soon as the next one is asked for."""
    items.reverse()
    while items:
        yield items.pop()


class RowSorter:
    """Sorts rows by keys.

    Args:
        path: the temporary file, should one be needed. order: sorts by the columns `keys`, the most significant first (all integers);
            it is given these and the columns `ties`, by which it may sort rows with equal keys.
        share_bytes: rows that wait in memory weigh at most so much, a single batch excepted. Sorting takes as much again.
        compact: called with rows that are sorted, gives those that are to be kept (drops repeated ones); may be called many times.
    """

    def __init__(
        self,
        path: Path,
        order: Order,
        keys: Sequence[str],
        *,
        ties: Sequence[str] = (),
        share_bytes: int,
        compact: Callable[[Rows], dict[str, Column]] | None = None,
    ) -> None:
        self._file, self._order, self._keys, self._ties, self._share, self._compact = RunFile(path), order, keys, ties, share_bytes, compact
        self._waiting: list[dict[str, Column]] = []
        self._waiting_bytes = 0
        self._runs: list[Run] = []
        self.rows = 0

    def __enter__(self) -> RowSorter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._waiting, self._runs = [], []
        self._file.__exit__(kind, value, traceback)

    @property
    def spilled(self) -> bool:
        """Whether rows lie in the file, so that there may be several slices."""
        return bool(self._runs)

    def add(self, rows: Rows) -> None:
        """Take a batch; its arrays must not change any more."""
        count = row_count(rows)
        if not count:
            return
        self.rows += count
        self._waiting.append(dict(rows))
        self._waiting_bytes += size(rows)
        if self._waiting_bytes > self._share:
            self._make_room()

    def slices(self) -> Iterator[dict[str, Column]]:
        """Everything, in order, slice by slice; once. No slice without rows."""
        if not self._runs:
            if self._waiting:
                yield self._sorted()
            return
        if self._waiting:
            self._runs.append(self._file.write(self._sorted()))
        cuts = self._cuts()
        begins = [0] * len(self._runs)
        for number in range(len(cuts[0])):
            ends = [run_cuts[number] for run_cuts in cuts]
            for run, begin, end in zip(self._runs, begins, ends, strict=True):
                if end > begin:
                    self._waiting.append(self._file.read(run, begin, end))
            begins = ends
            if self._waiting:
                yield self._sorted()

    # -- inside ---------------------------------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        rows = self._sorted()
        if self._compact is not None and size(rows) <= self._share // 2:
            self._waiting, self._waiting_bytes = [rows], size(rows)
        else:
            self._runs.append(self._file.write(rows))

    def _sorted(self) -> dict[str, Column]:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        keys = {name: join([part[name] for part in waiting]) for name in (*self._keys, *self._ties)}
        order = self._order(keys)
        in_order = bool((order[1:] > order[:-1]).all()) if len(order) else True
        rows: dict[str, Column] = {}
        for name in list(waiting[0]):
            column = keys.pop(name) if name in keys else join([part[name] for part in waiting])
            for part in waiting:
                del part[name]  # one column at a time: the whole is never there twice
            rows[name] = column if in_order else take(column, order)
        return rows if self._compact is None else self._compact(rows)

    def _cuts(self) -> list[list[int]]:
        """For each run, the ends of its parts; all runs are cut at the same keys."""
        run_bytes = self._file.bytes
        total = sum(run.rows for run in self._runs)
        slices = max(1, -(-run_bytes // max(self._share // 2, 1)))
        if slices == 1:
            return [[run.rows] for run in self._runs]
        samples: list[list[Array]] = []
        per_run = max(SAMPLES_PER_RUN, 4 * slices)
        weights = []
        for run in self._runs:
            at = np.unique(np.linspace(0, run.rows - 1, min(per_run, run.rows)).astype(np.int64))
            samples.append([self._file.key(run, key)[at] for key in self._keys])
            weights.append(np.diff(np.concatenate([at, [run.rows]])))
        keys = [np.concatenate([sample[k] for sample in samples]) for k in range(len(self._keys))]
        weight = np.concatenate(weights)
        order = np.lexsort(keys[::-1])
        reached = np.cumsum(weight[order])
        at_ends = np.searchsorted(reached, [total * (number + 1) // slices for number in range(slices - 1)])
        splitters = [tuple(key[order[at]] for key in keys) for at in at_ends]
        return [[*(self._position(run, splitter) for splitter in splitters), run.rows] for run in self._runs]

    def _position(self, run: Run, splitter: tuple[Any, ...]) -> int:
        """How many rows of a run come before the splitter."""
        low, high = 0, run.rows
        for key, value in zip(self._keys, splitter, strict=True):
            column = self._file.key(run, key)[low:high]
            left, right = np.searchsorted(column, value, "left"), np.searchsorted(column, value, "right")
            low, high = low + int(left), low + int(right)
            if left == right:
                break
        return low

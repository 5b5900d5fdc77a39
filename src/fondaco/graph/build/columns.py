"""Columns: rows on their way through a build, as NumPy arrays by name; ragged ones (texts, sparse vectors) with offsets.

A `Rows` is a mapping of columns of one length. Nothing here knows what a column means. Plain values; a function never changes its
arguments. Importing this imports numba.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fondaco.graph.build import _kernels as kernels

Array: TypeAlias = npt.NDArray[Any]
I32Array: TypeAlias = npt.NDArray[np.int32]
I64Array: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of different lengths: items `data[offsets[i]:offsets[i + 1]]` belong to row i. offsets: int64 [rows + 1], from any start on."""

    offsets: I64Array
    data: Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of offsets and of the items between them."""
        return 8 * len(self.offsets) + int(self.offsets[-1] - self.offsets[0]) * self.data.dtype.itemsize

    def from_zero(self) -> Ragged:
        """The same rows, with offsets from 0 on and no item that is not theirs."""
        first, last = int(self.offsets[0]), int(self.offsets[-1])
        if first == 0 and last == len(self.data):
            return self
        return Ragged(self.offsets - first, self.data[first:last])


Column: TypeAlias = Array | Ragged
Rows: TypeAlias = Mapping[str, Column]


def row_count(rows: Rows) -> int:
    """How many rows; 0 without columns."""
    return next((len(column) for column in rows.values()), 0)


def size(rows: Rows) -> int:
    """Bytes of all columns."""
    return sum(column.nbytes for column in rows.values())


def cut(column: Column, start: int, stop: int) -> Column:
    """Some consecutive rows; a view."""
    return Ragged(column.offsets[start : stop + 1], column.data) if isinstance(column, Ragged) else column[start:stop]


def take(column: Column, order: I32Array) -> Column:
    """The rows `order`, in that order; a copy."""
    if isinstance(column, Ragged):
        offsets = np.empty(len(order) + 1, np.int64)
        kernels.gather_lengths(column.offsets, order, offsets)
        data = np.empty(int(offsets[-1]), column.data.dtype)
        source = np.ascontiguousarray(column.data)
        kernels.gather_ragged(source.ctypes.data, source.dtype.itemsize, column.offsets, order, data.ctypes.data)
        return Ragged(offsets, data)
    source = np.ascontiguousarray(column)
    out = np.empty((len(order), *source.shape[1:]), source.dtype)
    row_bytes = source.dtype.itemsize * int(np.prod(source.shape[1:], dtype=np.int64))
    kernels.gather_rows(source.ctypes.data, row_bytes, order, out.ctypes.data)
    return out


def join(columns: Sequence[Column]) -> Column:
    """Rows of several columns of one kind, one after another; a copy unless there is one column only."""
    if len(columns) == 1:
        return columns[0]
    ragged = [column.from_zero() for column in columns if isinstance(column, Ragged)]
    if not ragged:
        return np.concatenate([column for column in columns if not isinstance(column, Ragged)])
    starts = np.concatenate([[0], np.cumsum([column.offsets[-1] for column in ragged])])
    parts = [ragged[0].offsets[:1], *(column.offsets[1:] + start for column, start in zip(ragged, starts[:-1], strict=True))]
    return Ragged(np.concatenate(parts), np.concatenate([column.data for column in ragged]))


def join_rows(parts: Sequence[Rows]) -> dict[str, Column]:
    """Rows of several batches with the same columns."""
    return {name: join([part[name] for part in parts]) for name in parts[0]}


def take_rows(rows: Rows, order: I32Array) -> dict[str, Column]:
    """The rows `order` of all columns."""
    return {name: take(column, order) for name, column in rows.items()}


def cut_rows(rows: Rows, start: int, stop: int) -> dict[str, Column]:
    """Some consecutive rows of all columns; views."""
    return {name: cut(column, start, stop) for name, column in rows.items()}


def sort_order(words: Iterable[tuple[Array, int]], count: int, *, owned: bool = False) -> I32Array:
    """The stable order of `count` rows by keys of unsigned integers.

    Args:
        words: the least significant key first: (uint64 [count], how many of its low bits count). owned: they may be overwritten.
    """
    order = np.arange(count, dtype=np.int32)
    spare_order, spare = np.empty_like(order), np.empty(count, np.uint64)
    fresh = True
    for keys, bits in words:
        mine = keys.astype(np.uint64, copy=not owned) if fresh else plain(take(keys.astype(np.uint64, copy=False), order))
        kernels.radix_sort(mine, order, spare, spare_order, bits)
        fresh = False
    return order


def plain(column: Column) -> Array:
    """A column that is known to have one value a row."""
    assert not isinstance(column, Ragged)
    return column


def ragged(column: Column) -> Ragged:
    """A column that is known to be ragged."""
    assert isinstance(column, Ragged)
    return column

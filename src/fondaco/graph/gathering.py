"""Gathering: feature rows and ids of nodes or edges, from the local partitions into memory that the caller chose.

`pack_feature` turns the addresses of one feature into the small table that the functions here take; rows are asked for by dense node id
(int32) or dense edge id (int64), in range. Rows of a partition not held here are zeros: who asks, asks only holders.

Pure functions of memory, without the GIL; any thread. Whoever made the table keeps the maps open, and the output lives as long as the call.
Importing this imports numba.
"""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from fondaco.graph import _gather_kernels as kernels
from fondaco.graph.sampling import writable

I32Array = npt.NDArray[np.int32]
I64Array = npt.NDArray[np.int64]
U8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
RowArray = I32Array | I64Array
Scalar = TypeVar("Scalar", bound=np.generic)

_LINES_AHEAD: Final = 96  # cache lines asked for before they are copied; about what the processor keeps under way
_ROWS_AHEAD_MAX: Final = 32


def pack_feature(
    starts: I64Array,
    data: I64Array,
    offsets: I64Array | None = None,
    values: I64Array | None = None,
    present: I64Array | None = None,
) -> I64Array:
    """The table that the functions here take as `feature`: int64 [P + 1, 8].

    starts: int64 [P + 1], first dense node (or edge) id of each partition. The others: int64 [P], addresses of sections, 0 where a
    partition is not held: data, the values of dense features (or ids), the bytes of bytes features and string ids, the indices of sparse
    ones; offsets of ragged rows; values of sparse ones; present flags.
    """
    partitions = len(starts) - 1
    table = np.zeros((partitions + 1, kernels.COLUMNS), np.int64)
    table[:, kernels.START] = starts
    columns = ((kernels.DATA, data), (kernels.OFFSETS, offsets), (kernels.VALUES, values), (kernels.PRESENT, present))
    for column, addresses in columns:
        if addresses is not None:
            table[:partitions, column] = addresses
    table[partitions, kernels.SCALE] = (partitions << 32) // max(int(starts[-1]), 1)
    return table


def gather(feature: I64Array, rows: RowArray, row_bytes: int, out: int, stride: int | None = None) -> None:
    """Copy dense rows of `row_bytes` to the address `out`, `stride` bytes apart (one after the other by default)."""
    rows = _rows(rows)
    apart = row_bytes if stride is None else stride
    ahead = min(1 << max(_LINES_AHEAD * kernels.LINE // max(row_bytes, 1), 1).bit_length(), _ROWS_AHEAD_MAX)
    if row_bytes == 8:
        kernels.gather_words(feature, rows, out, apart, ahead)
    elif row_bytes % kernels.LINE == 0:
        kernels.gather_lines(feature, rows, row_bytes, out, apart, ahead)
    else:
        kernels.gather_rows(feature, rows, row_bytes, out, apart, ahead)


def gather_array(feature: I64Array, rows: RowArray, dtype: npt.DTypeLike, shape: tuple[int, ...] = ()) -> npt.NDArray[np.generic]:
    """Dense rows as a new array of `dtype`, shape [n, *shape]."""
    out = np.empty((len(rows), *shape), dtype)
    if out.size:
        gather(feature, rows, out.nbytes // len(rows), out.ctypes.data)
    return out


def gather_present(feature: I64Array, rows: RowArray) -> BoolArray:
    """Which rows have a value of their own, bool [n]; the others are zeros, or empty."""
    present = np.empty(len(rows), np.bool_)
    kernels.take_present(feature, _rows(rows), present)
    return present


def gather_bytes(feature: I64Array, rows: RowArray) -> tuple[I64Array, U8Array]:
    """Bytes of ragged rows one after the other: offsets int64 [n + 1], data uint8 [offsets[n]]."""
    return _items(feature, rows, np.dtype(np.uint8))


def gather_sparse(feature: I64Array, rows: RowArray, dtype: npt.DTypeLike) -> tuple[I64Array, I64Array, npt.NDArray[np.generic]]:
    """Sparse rows as CSR: indptr int64 [n + 1], indices int64 [nnz], values dtype [nnz]."""
    rows = _rows(rows)
    indptr, indices = _items(feature, rows, np.dtype(np.int64))
    values: npt.NDArray[np.generic] = np.empty(len(indices), dtype)
    kernels.gather_ragged(feature, rows, kernels.VALUES, values.itemsize, indptr, values.ctypes.data)
    return indptr, indices, values


def _items(feature: I64Array, rows: RowArray, dtype: np.dtype[Scalar]) -> tuple[I64Array, npt.NDArray[Scalar]]:
    """Items of the data section of ragged rows: offsets int64 [n + 1], items dtype [offsets[n]]."""
    rows = _rows(rows)
    offsets = np.empty(len(rows) + 1, np.int64)
    items = np.empty(kernels.measure_ragged(feature, rows, offsets), dtype)
    kernels.gather_ragged(feature, rows, kernels.DATA, items.itemsize, offsets, items.ctypes.data)
    return offsets, items


def _rows(rows: RowArray) -> RowArray:
    return writable(rows, np.int32) if rows.dtype == np.int32 else writable(rows, np.int64)

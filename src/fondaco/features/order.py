"""Order: answers put back in the labels' order, and Arrow and NumPy seen as each other, without sorting and without copies.

Pure functions on arrays; any thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def in_order(table: pa.Table) -> pa.Table:
    """The rows by `rid`, which holds 0 to n - 1 in any order."""
    positions = numbers_of(table["rid"], np.int64)
    answers = table.drop_columns(["rid"])
    if (positions[1:] > positions[:-1]).all():
        return answers
    order: npt.NDArray[np.int64] | None = None
    columns = []
    for column in answers.columns:
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            columns.append(_scattered(column, positions))
            continue
        if order is None:
            order = np.empty(len(positions), np.int64)
            order[positions] = np.arange(len(positions))
        columns.append(column.combine_chunks().take(arrow_array(order, pa.int64())))
    return pa.table(columns, names=answers.column_names)


def _scattered(column: pa.ChunkedArray, positions: npt.NDArray[np.int64]) -> pa.Array:
    """Numbers put in their places: a third of the time that Arrow's `take` needs."""
    kind = column.type.to_pandas_dtype()
    values, missing = np.empty(len(positions), kind), np.zeros(len(positions), np.bool_)
    start = 0
    for chunk in column.chunks:
        places = positions[start : start + len(chunk)]
        values[places] = _raw(chunk, kind)
        if chunk.null_count:
            missing[places] = _missing(chunk)
        start += len(chunk)
    return arrow_array(values, column.type, ~missing if column.null_count else None)


def picked(column: pa.ChunkedArray, rows: npt.NDArray[np.int64]) -> pa.Array:
    """The numbers at `rows`, null where that is -1."""
    kind = column.type.to_pandas_dtype()
    if len(column) == 0:
        return pa.nulls(len(rows), column.type)
    valid = rows >= 0
    if column.null_count:
        valid &= ~nulls_of(column)[rows]
    return arrow_array(numbers_of(column, kind)[rows], column.type, None if valid.all() else valid)


def nulls_of(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Which values are null."""
    return np.concatenate([np.empty(0, np.bool_), *(_missing(chunk) for chunk in column.chunks)])


def _missing(chunk: pa.Array) -> npt.NDArray[np.bool_]:
    if not chunk.null_count:
        return np.zeros(len(chunk), np.bool_)
    skipped = chunk.offset % 8
    bits = np.unpackbits(_bits(chunk), count=len(chunk) + skipped, bitorder="little")[skipped:]
    missing: npt.NDArray[np.bool_] = bits == 0
    return missing


def numbers_of(column: pa.ChunkedArray, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """A column of numbers as one fresh array; where it is null, it holds anything."""
    return np.concatenate([np.empty(0, kind), *(_raw(chunk, kind) for chunk in column.chunks)])


def _raw(chunk: pa.Array, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    return (
        np.frombuffer(chunk.buffers()[1], kind, count=len(chunk), offset=chunk.offset * np.dtype(kind).itemsize)
        if len(chunk)
        else np.empty(0, kind)
    )


def _bits(chunk: pa.Array) -> npt.NDArray[np.uint8]:
    return np.frombuffer(chunk.buffers()[0], np.uint8)[chunk.offset // 8 :]


def arrow_array(values: npt.NDArray[Any], kind: pa.DataType, valid: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """NumPy numbers as Arrow, without a copy.

    `pyarrow.array` and `to_numpy` would import pandas first, a tenth of a second, to ask whether it is a series.
    """
    validity = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(values)])

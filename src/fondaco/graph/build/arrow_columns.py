"""Arrow columns: what lies in them, as NumPy arrays without copies; and what is wrong with their rows. Pure functions; any thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from fondaco.core.errors import GraphBuildError
from fondaco.graph.build.columns import Array, Ragged


class Problems:
    """What is wrong with the rows of one chunk; the first row of all decides."""

    def __init__(self, table: str, first_row: int) -> None:
        self._table, self._first_row = table, first_row
        self._worst: tuple[int, str, str] | None = None

    def note(self, row: int, column: str, reason: str) -> None:
        """Row `row` of the chunk cannot be taken."""
        if self._worst is None or row < self._worst[0]:
            self._worst = (row, column, reason)

    def raise_first(self) -> None:
        """
        Raises:
            GraphBuildError: a row was noted.
        """
        if self._worst is not None:
            row, column, reason = self._worst
            raise GraphBuildError(self._table, self._first_row + row, column, reason)


def as_array(column: Any) -> pa.Array:
    """A column of a batch without dictionaries and views."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode() if hasattr(column, "dictionary_decode") else column.cast(kind.value_type)
        kind = column.type
    if kind == pa.string_view():
        return column.cast(pa.large_string())
    if kind == pa.binary_view():
        return column.cast(pa.large_binary())
    return column


def numbers_of(array: pa.Array) -> Array:
    """The values of a primitive array; anything at all where they are null. A view, except of truth values."""
    if pa.types.is_boolean(array.type):
        filled = array.fill_null(False) if array.null_count else array
        return np.asarray(filled.to_numpy(zero_copy_only=False))
    if pa.types.is_null(array.type):
        return np.zeros(len(array), np.float32)
    dtype = np.dtype(array.type.to_pandas_dtype())
    buffer = array.buffers()[1]
    if buffer is None:
        return np.zeros(len(array), dtype)
    return np.frombuffer(buffer, dtype, len(array), array.offset * dtype.itemsize)


def first_null(array: pa.Array) -> int:
    """The first row that is null; there is one."""
    return int(np.argmin(array.is_valid().to_numpy(zero_copy_only=False)))


def ragged_bytes(array: pa.Array) -> Ragged:
    """Texts or bytes as UTF-8 or bytes; nulls are empty."""
    text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    if array.null_count:
        array = array.fill_null("" if text else b"")
    array = array.cast(pa.large_string() if text else pa.large_binary())
    _, offsets, data = array.buffers()
    if offsets is None or not len(array):
        return Ragged(np.zeros(len(array) + 1, np.int64), np.empty(0, np.uint8))
    starts = np.frombuffer(offsets, np.int64, len(array) + 1, 8 * array.offset)
    return Ragged(starts, np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8))

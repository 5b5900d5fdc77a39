"""Encoding batches: Arrow columns in, Avro rows one after the other out.

One pass: the room that all rows take at most is added up from the Arrow arrays beforehand (exact for text, lists and vectors, the longest
varint for each integer), so the kernel never looks for room, and pages of memory that stay unused are never touched.

Thread rule: any thread; the kernel runs without the GIL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa

from fondaco.core.errors import DataError, RowError
from fondaco.schema import _ops as o
from fondaco.schema._bind import Binder, Binding, Site, WrongTypeError
from fondaco.schema._expected import show_value
from fondaco.schema._nodes import member_path
from fondaco.schema.types import Record, Type

Words = np.ndarray[Any, np.dtype[np.int64]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

CHUNK_ROWS_MIN: Final = 4096  # tables of smaller chunks are joined first: binding a chunk costs as much as encoding some hundred rows


def encode_columns(kind: Type, batch: pa.RecordBatch | pa.Table, first_row: int = 0) -> tuple[Bytes, Words]:
    """Encode the rows of a table.

    Args:
        kind: a record whose fields are columns of `batch` (other columns are ignored; a field without a column takes its default), or any
            other type, for a batch of one column.
        first_row: number of the first row, for errors.
    Returns:
        data, uint8, and offsets, int64, shape [rows + 1], from 0: row i is `data[offsets[i]:offsets[i + 1]]`.
    Raises:
        RowError: the first value that does not fit; names row, field, value and what was expected.
        ColumnNotFoundError: a field has neither column nor default. DataError: an array is not valid Arrow.
    """
    if not isinstance(kind, Record):
        if batch.num_columns != 1:
            raise DataError(f"a {type(kind).__name__.lower()} is encoded from one column, not from {batch.num_columns}")
        return encode_array(kind, batch.column(0), batch.schema.names[0], first_row)
    _refuse_doubles(kind, batch.schema.names)
    bindings: list[tuple[Binding, int]] = []
    row = first_row
    for piece in _pieces(batch):
        columns = dict(zip(piece.schema.names, piece.columns, strict=True))
        bindings.append((_bound(partial(Binder.record, kind=kind, columns=columns, count=piece.num_rows), row), piece.num_rows))
        row += piece.num_rows
    return _run(bindings, first_row)


def encode_array(kind: Type, array: pa.Array | pa.ChunkedArray, field: str = "key", first_row: int = 0) -> tuple[Bytes, Words]:
    """Encode each value of one array; `field` is its name in errors. Otherwise as `encode_columns`."""
    bindings: list[tuple[Binding, int]] = []
    row = first_row
    for chunk in [array] if isinstance(array, pa.Array) else _chunks(array):
        bindings.append((_bound(partial(Binder.column, kind=kind, name=field, array=chunk), row), len(chunk)))
        row += len(chunk)
    return _run(bindings, first_row)


def _bound(emit: Callable[[Binder], None], row: int) -> Binding:
    """The code of one batch, whose first row has the number `row`."""
    binder = Binder()
    try:
        emit(binder)
    except WrongTypeError as exc:
        raise _wrong_type(exc, row) from None
    except (pa.ArrowInvalid, IndexError) as exc:
        raise DataError(f"column {binder.path!r} is not a valid Arrow array: {exc}") from exc
    return binder.finish()


def _pieces(batch: pa.RecordBatch | pa.Table) -> Iterable[pa.RecordBatch]:
    if isinstance(batch, pa.RecordBatch):
        return [batch]
    pieces = batch.to_batches()
    if len(pieces) > 1 and batch.num_rows < CHUNK_ROWS_MIN * len(pieces):
        pieces = batch.combine_chunks().to_batches()
    return pieces or [pa.RecordBatch.from_arrays([pa.nulls(0, column.type) for column in batch.schema], schema=batch.schema)]


def _chunks(array: pa.ChunkedArray) -> list[pa.Array]:
    if array.num_chunks > 1 and len(array) < CHUNK_ROWS_MIN * array.num_chunks:
        joined = array.combine_chunks()
        return list(joined.chunks) if isinstance(joined, pa.ChunkedArray) else [joined]
    return list(array.chunks) or [pa.nulls(0, array.type)]


def _refuse_doubles(kind: Record, names: list[str]) -> None:
    if len(set(names)) == len(names):
        return
    for member in kind.fields:
        if names.count(member.name) > 1:
            raise DataError(f"the table has {names.count(member.name)} columns named {member.name!r}; rename or drop all but one")


def _run(bindings: list[tuple[Binding, int]], first_row: int) -> tuple[Bytes, Words]:
    from fondaco.schema._encode_kernels import encode_rows
    from fondaco.schema._kernels import SOURCES, current

    encode = current(encode_rows, 7)
    rows = sum(count for _, count in bindings)
    offsets = np.zeros(rows + 1, np.int64)
    data = np.empty(sum(binding.bytes_max for binding, _ in bindings), np.uint8)
    origin = target = data.ctypes.data
    row = 0
    for binding, count in bindings:
        code, tables = np.array(binding.code, np.int64), np.array(binding.tables, np.int64)
        state, stack = np.zeros(o.STATE_WORDS, np.int64), np.zeros(o.FRAME * binding.frames_max + 1, np.int64)
        encode(
            SOURCES,
            code.ctypes.data,
            tables.ctypes.data,
            count,
            target,
            origin,
            offsets[row:].ctypes.data,
            stack.ctypes.data,
            state.ctypes.data,
        )
        if state[o.STATUS] != o.DONE:
            raise _row_fault(binding.sites[int(state[o.PC]) // o.WIDTH], state, stack, first_row + row)
        target = int(state[o.POSITION])
        row += count
    return data[: target - origin], offsets


# -- errors -------------------------------------------------------------------------------------------------------------------------


def _wrong_type(fault: WrongTypeError, row: int) -> RowError:
    path = ""
    for step in fault.way:
        path = member_path(path, step.name) if step.name is not None else f"{path}[]"
    return RowError(row, path, f"a column of Arrow type {fault.array.type}", fault.expected)


def _row_fault(site: Site, state: Words, stack: Words, first_row: int) -> RowError:
    index = int(state[o.INDEX])
    frames = stack[: state[o.DEPTH]].reshape(-1, o.FRAME).tolist()
    value = None if site.array is None or state[o.STATUS] == o.BAD_NULL else _python_value(site.array, index)
    return RowError(first_row + int(state[o.ROW]), _path(site, frames, index), show_value(value), site.expected)


def _path(site: Site, frames: list[list[int]], index: int) -> str:
    """The way to the value, with the place of each item: `orders[2].price`, `counts['a']`."""
    inner = [*(frame[0] for frame in frames), index][1:]  # entry inside each frame
    loops = [(entry, frame[2]) for frame, entry in zip(frames, inner, strict=True) if frame[1]]
    path = ""
    for step in site.way:
        if step.name is not None:
            path = member_path(path, step.name)
            continue
        entry, first = loops.pop(0)
        path += f"[{entry - first}]" if step.keys is None else f"[{_python_value(step.keys, entry)!r}]"
    return path


def _python_value(array: pa.Array, index: int) -> Any:
    try:
        return array[index].as_py()
    except (ValueError, OverflowError, UnicodeDecodeError):  # text that is not UTF-8, times outside Python's range
        scalar = array[index]
        return scalar.as_buffer().to_pybytes() if hasattr(scalar, "as_buffer") else getattr(scalar, "value", str(scalar.type))

"""Given: what callers hand to the batch functions of a codec, brought to the one form that these read.

Rows to encode come as a table or as Python values, rows to decode as one block of bytes with offsets or as many bytes objects. What is
neither is refused with what would be accepted. Nothing is copied that has the form already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from fondaco.core.errors import ColumnNotFoundError, InputError, RowError
from fondaco.schema.types import Record, Type

Words = np.ndarray[Any, np.dtype[np.int64]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_TABLES: Final = (
    "a pyarrow Table or RecordBatch, a pandas or Polars DataFrame or anything else with __arrow_c_stream__, a dict of columns, "
    "or a list of rows"
)


# -- rows to encode -----------------------------------------------------------------------------------------------------------------


def table_of(data: object) -> pa.Table | pa.RecordBatch | None:
    """`data` as a table; None if it is columns or rows of Python values.

    Raises:
        InputError: none of these, or a table that Arrow cannot hold.
    """
    if isinstance(data, pa.Table | pa.RecordBatch):
        return data
    try:
        if type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "columns"):
            return pa.Table.from_pandas(data, preserve_index=False)
        if hasattr(data, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(data).read_all()
        if isinstance(data, Mapping):
            return None if any(isinstance(column, list | tuple) for column in data.values()) else _arrays(data)
    except (pa.ArrowException, TypeError, ValueError) as exc:
        raise InputError(f"a {type(data).__name__} that is no table of rows ({exc}); expected {_TABLES}") from exc
    if isinstance(data, list | tuple):
        return None
    raise InputError(f"cannot encode a {type(data).__name__}; expected {_TABLES}")


def _arrays(columns: Mapping[Any, Any]) -> pa.Table:
    """Columns that are arrays; a NumPy array of two dimensions holds a list in each row."""
    arrays = {
        str(name): pa.FixedSizeListArray.from_arrays(pa.array(column.ravel()), column.shape[1])
        if isinstance(column, np.ndarray) and column.ndim == 2 and column.shape[1] and column.dtype.kind in "fiu"
        else column
        for name, column in columns.items()
    }
    return pa.table(arrays)


def encode_values(
    kind: Type, encode: Callable[[Any], bytes], data: Mapping[str, Any] | Sequence[Any], first_row: int
) -> tuple[Bytes, Words]:
    """Encode columns or rows of Python values by the rules of single rows; results as those of `encode_columns`.

    Raises:
        RowError, ColumnNotFoundError; InputError: columns of different lengths.
    """
    rows = _rows(kind, data) if isinstance(data, Mapping) else data
    encoded = []
    for number, row in enumerate(rows, first_row):
        try:
            encoded.append(encode(row))
        except RowError as exc:
            raise RowError(number, exc.field, exc.value, exc.expected) from None
    return np.frombuffer(b"".join(encoded), np.uint8), _offsets(encoded)


def _rows(kind: Type, columns: Mapping[str, Any]) -> Iterable[Any]:
    values = {name: column.to_pylist() if hasattr(column, "to_pylist") else list(column) for name, column in columns.items()}
    lengths = {name: len(column) for name, column in values.items()}
    if len(set(lengths.values())) > 1:
        raise InputError("columns of different lengths: " + ", ".join(f"{name!r} has {length}" for name, length in lengths.items()))
    if not isinstance(kind, Record):
        if len(values) != 1:
            raise InputError(f"a {type(kind).__name__.lower()} is encoded from one column, not from {len(values)}")
        return next(iter(values.values()))
    wanted = [member.name for member in kind.fields if member.name in values]
    for member in kind.fields:
        if member.name not in values and not member.has_default:
            raise ColumnNotFoundError(member.name, tuple(values), "the columns")
    return (dict(zip(wanted, row, strict=True)) for row in zip(*(values[name] for name in wanted), strict=True))


# -- rows to decode -----------------------------------------------------------------------------------------------------------------


def block_of(data: Any) -> Bytes:
    """One buffer of rows as uint8.

    Raises:
        InputError: not a buffer of bytes.
    """
    try:
        view = memoryview(data)
        if view.itemsize == 1 and view.ndim == 1:
            return np.frombuffer(view, np.uint8) if len(view) else np.empty(0, np.uint8)
    except (TypeError, ValueError):
        pass
    raise InputError(f"with offsets, data is one buffer of bytes (or uint8), not {_describe(data)}")


def offsets_of(offsets: Any) -> Words:
    """Offsets as int64.

    Raises:
        InputError: not whole numbers.
    """
    try:
        numbers = np.asarray(offsets)
    except ValueError:
        numbers = np.empty(0, object)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise InputError(f"offsets are whole numbers, shape [rows + 1], not {_describe(offsets)}")
    return np.ascontiguousarray(numbers, np.int64)


def rows_of(data: Any) -> tuple[Bytes, Words]:
    """Rows given one by one, as one block and its offsets.

    Args:
        data: Arrow array of binary (chunked or not), or an iterable of bytes.
    Raises:
        InputError: none of these, or an item that is no bytes; names its position.
    """
    if isinstance(data, pa.Array | pa.ChunkedArray):
        return _binary(data)
    if isinstance(data, str | bytes | bytearray | memoryview | pa.Buffer) or (isinstance(data, np.ndarray) and data.dtype.kind in "iufb"):
        where = f"offsets=[0, ..., {len(data)}] (where each row begins, and the end)"
        raise InputError(f"{_describe(data)} without offsets; give {where}, or a list of bytes")
    if not isinstance(data, Iterable) or isinstance(data, Mapping):
        raise InputError(f"rows to decode are a list of bytes, an Arrow array of binary, or one buffer with offsets, not {_describe(data)}")
    rows = data if isinstance(data, list) else list(data)
    try:
        offsets, joined = _offsets(rows), b"".join(rows)
    except TypeError:
        joined = None
    if joined is None or len(joined) != offsets[-1]:  # or buffers of numbers wider than a byte
        wrong = next(position for position, row in enumerate(rows) if not _is_bytes(row))
        raise InputError(f"row {wrong} is {_describe(rows[wrong])}; expected bytes")
    return np.frombuffer(joined, np.uint8) if joined else np.empty(0, np.uint8), offsets


def _binary(array: pa.Array | pa.ChunkedArray) -> tuple[Bytes, Words]:
    kind, of_bytes = array.type, (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    if not any(check(kind) for check in of_bytes):
        raise InputError(f"rows to decode are an Arrow array of binary, not of {kind}")
    if array.null_count:
        raise InputError(f"row {array.is_null().index(True).as_py()} is null; leave out rows that do not exist")
    wide = array.cast(pa.large_binary())
    wide = wide.combine_chunks() if isinstance(wide, pa.ChunkedArray) else wide
    if len(wide) == 0:
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, data = wide.buffers()
    return (
        np.empty(0, np.uint8) if data is None or not data.size else np.frombuffer(data, np.uint8),
        np.frombuffer(offsets, np.int64, len(wide) + 1, 8 * wide.offset),
    )


def _offsets(rows: Sequence[Any]) -> Words:
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)), out=offsets[1:])
    return offsets


def _is_bytes(row: Any) -> bool:
    try:
        view = memoryview(row)
    except TypeError:
        return False
    return view.nbytes == len(row)


def _describe(data: Any) -> str:
    if isinstance(data, np.ndarray):
        return f"an array of {data.dtype}, shape {list(data.shape)}"
    return "None" if data is None else f"{type(data).__name__} {repr(data)[:60]}"

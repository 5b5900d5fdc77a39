"""Arrow arrays as decoded buffers: the way back of `_arrow_buffers`, for columns that came over a network.

The buffers are views of the arrays' own memory, but for validity and booleans (bits there, bytes here) and for types that were declared
narrower than rows hold them, which are cast back. So `Columns` made from Arrow are those that were decoded, dtype by dtype, and reading
them needs no kernel. Pure functions of immutable arrays; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from fondaco.core.errors import DataError
from fondaco.schema._arrow_buffers import _INTERVAL, _NANOS_PER_MILLI, Bools, _plain_type
from fondaco.schema._code import CompiledCode, RowsLayout
from fondaco.schema._nodes import ROWS, Layout, Node, value_bytes
from fondaco.schema._objects import PRIMITIVE_DTYPES
from fondaco.schema._run import Bytes, Decoded
from fondaco.schema.arrow import arrow_type
from fondaco.schema.types import Decimal, Duration, Enum, Fixed, Primitive, Uuid, Vector
from fondaco.schema.vectors import vector_dtype

_NO_LAYOUT: Final = RowsLayout.of(())


def decoded_of(compiled: CompiledCode, batch: pa.RecordBatch | pa.Table) -> Decoded:
    """The columns of `compiled` as if they had just been decoded.

    Args:
        batch: has a column for each field of `compiled`, of the type that the field maps to (`arrow.arrow_type`), nulls where missing.
    Raises:
        DataError: a column is not there, or of another type.
    """
    counts = [0] * compiled.scope_count
    counts[ROWS] = batch.num_rows
    taken = _Taken(counts, {})
    for name, node in compiled.nodes.items():
        if name not in batch.schema.names:
            raise DataError(f"the columns have no {name!r}; they are {', '.join(batch.schema.names)}")
        array, wanted = batch.column(name), arrow_type(node.type)
        if array.type != wanted:
            raise DataError(f"column {name!r} is {array.type}, not {wanted}")
        taken.node(node, _one_array(array), wanted)
    return Decoded(counts, _NO_LAYOUT, np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64), taken.buffers)


def _one_array(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    if not isinstance(array, pa.ChunkedArray):
        return array
    if array.num_chunks == 1:
        return array.chunk(0)
    return pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)


def is_raw(node: Node) -> bool:
    """Whether a column's NumPy array is all there is to it, so that it can travel as such: numbers, moments, vectors of floats."""
    kind = node.type
    if isinstance(kind, Fixed) and isinstance(kind.logical, Vector):
        return kind.logical.dtype != "int8"
    return node.layout is Layout.VALUES and isinstance(kind, Primitive) and not isinstance(kind.logical, Decimal | Uuid)


def decoded_of_numbers(compiled: CompiledCode, columns: Sequence[tuple[np.ndarray[Any, Any], Bools | None]], count: int) -> Decoded:
    """Columns that are all `is_raw`, as if they had just been decoded.

    Args:
        columns: for each column of `compiled` its NumPy array, as `Columns` gives it, and where it is valid (None: everywhere).
    Raises:
        DataError: an array of another dtype or shape.
    """
    counts = [0] * compiled.scope_count
    counts[ROWS] = count
    buffers: dict[int, Bytes] = {}
    for (name, node), (values, valid) in zip(compiled.nodes.items(), columns, strict=True):
        expected, shape = _array_type(node, count)
        if values.dtype != expected or values.shape != shape:
            raise DataError(f"column {name!r} is {values.dtype} of shape {list(values.shape)}, not {expected} of {list(shape)}")
        width = value_bytes(node.type, node.path)
        if values.dtype.kind in "mM" and width == 4:
            values = values.view(np.int64).astype(np.int32)
        buffers[node.buffers[0]] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        if node.validity is not None:
            buffers[node.validity] = np.ones(count, np.uint8) if valid is None else valid.view(np.uint8)
    return Decoded(counts, _NO_LAYOUT, np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64), buffers)


def _array_type(node: Node, count: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    kind = node.type
    if isinstance(kind, Fixed) and isinstance(kind.logical, Vector):
        return np.dtype(vector_dtype(kind.logical.dtype)), (count, kind.logical.dim)
    assert isinstance(kind, Primitive)
    from fondaco.schema.columns import times_of  # which imports this module when it is needed

    return times_of(kind, np.empty(0, PRIMITIVE_DTYPES[kind.kind])).dtype, (count,)


class _Taken:
    """Buffers by number, filled node by node."""

    def __init__(self, counts: list[int], buffers: dict[int, Bytes]) -> None:
        self.counts, self.buffers = counts, buffers

    def node(self, node: Node, array: pa.Array, wanted: pa.DataType) -> None:
        self.counts[node.scope] = count = len(array)
        if node.validity is not None:
            self.buffers[node.validity] = _validity(array)
        match node.layout:
            case Layout.NULL:
                pass
            case Layout.VALUES:
                self.buffers[node.buffers[0]] = _values(node, array, wanted)
            case Layout.VECTOR_INT8:
                scales, numbers = array.field(0), array.field(1)
                self.buffers[node.buffers[0]] = _data(scales.buffers()[1], 4, scales.offset, count)
                self.buffers[node.buffers[1]] = _list_values(numbers, 1, wanted.field(1).type.list_size)
            case Layout.TEXT:
                self._text(node, array)
            case Layout.LIST:
                self._list(node, array, wanted)
            case Layout.MAP:
                first, last = self._offsets(node, array, 4)
                for child, items, kind in zip(node.children, (array.keys, array.items), (wanted.key_type, wanted.item_type), strict=True):
                    self.node(child, _as_text(items.slice(first, last - first), child), kind)
            case Layout.STRUCT:
                for index, child in enumerate(node.children):
                    self.node(child, array.field(index), wanted.field(index).type)
            case Layout.UNION:
                _, types, places = array.buffers()[:3]
                self.buffers[node.buffers[0]] = _data(types, 1, array.offset, count)
                self.buffers[node.buffers[1]] = _data(places, 4, array.offset, count)
                for index, child in enumerate(node.children):
                    self.node(child, array.field(index), wanted.field(index).type)

    def _text(self, node: Node, array: pa.Array) -> None:
        assert isinstance(node.type, Primitive)
        plain = pa.string() if node.type.kind == "string" else pa.binary()
        array = array if array.type == plain else array.cast(plain)
        first, last = self._offsets(node, array, 4)
        self.buffers[node.buffers[1]] = _data(array.buffers()[2], 1, first, last - first)

    def _list(self, node: Node, array: pa.Array, wanted: pa.DataType) -> None:
        (child,) = node.children
        if pa.types.is_fixed_size_list(wanted):
            size, count = wanted.list_size, len(array)
            self.buffers[node.buffers[0]] = (np.arange(count + 1, dtype=np.int32) * np.int32(size)).view(np.uint8)
            self.node(child, array.values.slice(array.offset * size, count * size), wanted.value_type)
            return
        first, last = self._offsets(node, array, 8 if pa.types.is_large_list(wanted) else 4)
        self.node(child, array.values.slice(first, last - first), wanted.value_type)

    def _offsets(self, node: Node, array: pa.Array, width: int) -> tuple[int, int]:
        """Keep the offsets of a text, list or map as int32 from 0; where its data begins and ends."""
        found = _data(array.buffers()[1], width, array.offset, len(array) + 1).view(np.int32 if width == 4 else np.int64)
        first, last = int(found[0]), int(found[-1])
        self.buffers[node.buffers[0]] = np.ascontiguousarray(found - first if first else found, np.int32).view(np.uint8)
        return first, last


# -- leaves -------------------------------------------------------------------------------------------------------------------------


def _validity(array: pa.Array) -> Bytes:
    bitmap = array.buffers()[0]
    if bitmap is None:
        return np.ones(len(array), np.uint8)
    return np.unpackbits(np.frombuffer(bitmap, np.uint8), count=array.offset + len(array), bitorder="little")[array.offset :]


def _values(node: Node, array: pa.Array, wanted: pa.DataType) -> Bytes:
    kind = node.type
    assert isinstance(kind, Primitive | Fixed | Enum)
    if isinstance(kind, Enum):
        return _symbols(kind, array)
    if isinstance(kind, Fixed) and isinstance(kind.logical, Vector):
        return _list_values(array, kind.size // kind.logical.dim, kind.logical.dim)
    if isinstance(kind.logical, Uuid):
        array = array.storage
    elif isinstance(kind.logical, Duration):
        return _durations(array)
    else:
        plain = _plain_type(kind)
        array = array if array.type == plain else array.cast(plain)
    if pa.types.is_boolean(array.type):
        bits = array.buffers()[1]
        if bits is None:
            return np.zeros(len(array), np.uint8)
        return np.unpackbits(np.frombuffer(bits, np.uint8), count=array.offset + len(array), bitorder="little")[array.offset :]
    return _data(array.buffers()[1], value_bytes(kind, node.path), array.offset, len(array))


def _symbols(kind: Enum, array: pa.Array) -> Bytes:
    """Places of symbols, whatever order their dictionary has."""
    indices = _data(array.indices.buffers()[1], 4, array.indices.offset, len(array)).view(np.int32)
    given = array.dictionary.to_pylist()
    if given == list(kind.symbols):
        return indices.view(np.uint8)
    places = {symbol: place for place, symbol in enumerate(kind.symbols)}
    if unknown := [symbol for symbol in given if symbol not in places]:
        raise DataError(f"enum {kind.fullname!r} has no symbol {unknown[0]!r}")
    table = np.array([*(places[symbol] for symbol in given), 0], np.int32)
    return table[np.clip(indices, 0, len(given))].view(np.uint8)


def _durations(array: pa.Array) -> Bytes:
    intervals = _data(array.buffers()[1], 16, array.offset, len(array)).view(_INTERVAL)
    parts = np.empty((len(array), 3), np.uint32)
    parts[:, 0], parts[:, 1] = intervals["months"], intervals["days"]
    parts[:, 2] = intervals["nanos"] // _NANOS_PER_MILLI
    return parts.reshape(-1).view(np.uint8)


def _list_values(array: pa.Array, width: int, size: int) -> Bytes:
    """The numbers of a fixed-size list."""
    numbers = array.values
    return _data(numbers.buffers()[1], width, numbers.offset + array.offset * size, len(array) * size)


def _as_text(array: pa.Array, child: Node) -> pa.Array:
    """Keys of a map may be declared as large strings; nodes know only `string`."""
    return array.cast(pa.string()) if pa.types.is_large_string(array.type) and child.layout is Layout.TEXT else array


def _data(buffer: pa.Buffer | None, width: int, first: int, count: int) -> Bytes:
    """Entries `first` to `first + count` of a buffer; zeros if there is none."""
    if buffer is None or not count:
        return np.zeros(width * count, np.uint8)
    data: Any = np.frombuffer(buffer, np.uint8)
    return data[width * first : width * (first + count)]  # type: ignore[no-any-return]

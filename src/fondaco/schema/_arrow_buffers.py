"""Decoded buffers as Arrow arrays: nothing is copied but validity and booleans, which are bytes here and bits in Arrow.

The buffers have the plain Arrow type of each schema type (`string`, `int32`, ...). Leaves that were declared from a narrower or another
Arrow type (`arrow.arrow_type`: large_string, uint8, ...) are cast to it. Arrays keep the NumPy memory alive that they lie in.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa

from fondaco.core.errors import DataError
from fondaco.schema._nodes import Layout, Node, value_bytes
from fondaco.schema._run import Bytes, Decoded
from fondaco.schema.types import Date, Decimal, Duration, Enum, Fixed, Primitive, Time, Timestamp, Uuid, Vector

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Words = np.ndarray[Any, np.dtype[np.int64]]

_INTERVAL: Final = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanos", "<i8")])
_INT32_MAX: Final = (1 << 31) - 1
_NANOS_PER_MILLI: Final = 1_000_000
UNITS: Final = {"millis": "ms", "micros": "us", "nanos": "ns"}
_PRIMITIVES: Final = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
}


def valid_entries(node: Node, decoded: Decoded) -> Bools | None:
    """Which entries of `node` are not null; None: all are."""
    if node.validity is None:
        return None
    valid = decoded.buffer(node.validity)[: decoded.counts[node.scope]].view(np.bool_)
    return None if valid.all() else valid


def arrow_array(node: Node, decoded: Decoded, valid: Bools | None, wanted: pa.DataType) -> pa.Array:
    """The entries of `node` as an array of type `wanted`, null where `valid` (None: nowhere) is false.

    Args:
        wanted: `arrow.arrow_type(node.type)`.
    Raises:
        DataError: a value that `wanted` cannot hold (rows may hold more than the column that they were declared from).
    """
    count = decoded.counts[node.scope]
    if node.layout is Layout.NULL:
        return pa.nulls(count)
    if node.layout is Layout.UNION:
        return _union(node, decoded, count, wanted)
    nulls = 0 if valid is None else count - int(np.count_nonzero(valid))
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    match node.layout:
        case Layout.LIST:
            return _list(node, decoded, valid, wanted, bitmap, nulls)
        case Layout.MAP:
            return _map(node, decoded, wanted, bitmap, nulls)
        case Layout.STRUCT:
            children = [_child(child, decoded, wanted.field(index).type) for index, child in enumerate(node.children)]
            return pa.Array.from_buffers(wanted, count, [bitmap], nulls, children=children)
        case Layout.VECTOR_INT8:
            return _vector_int8(node, decoded, count, wanted, bitmap, nulls)
    array = _leaf(node, decoded, count, wanted, bitmap, nulls)
    return array if array.type == wanted else _cast(node, array, wanted)


def text_array(node: Node, decoded: Decoded) -> pa.Array:
    """The entries of a TEXT node as string or binary; empty where null."""
    assert isinstance(node.type, Primitive)
    return _text(node, decoded, decoded.counts[node.scope], None, 0)


def offsets_of(node: Node, decoded: Decoded) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Offsets of a TEXT, LIST or MAP node: int32, shape [entries + 1]."""
    data = decoded.buffer(node.buffers[0])[: 4 * (decoded.counts[node.scope] + 1)]
    offsets: np.ndarray[Any, np.dtype[np.int32]] = data.view("<i4")
    return offsets


# -- leaves -------------------------------------------------------------------------------------------------------------------------


def _leaf(node: Node, decoded: Decoded, count: int, wanted: pa.DataType, bitmap: pa.Buffer | None, nulls: int) -> pa.Array:
    if node.layout is Layout.TEXT:
        return _text(node, decoded, count, bitmap, nulls)
    kind, data = node.type, decoded.buffer(node.buffers[0])
    assert isinstance(kind, Primitive | Fixed | Enum)
    if isinstance(kind, Enum):
        indices = pa.Array.from_buffers(pa.int32(), count, [bitmap, pa.py_buffer(data)], nulls)
        return pa.DictionaryArray.from_arrays(indices, pa.array(kind.symbols, pa.string()))
    if isinstance(kind.logical, Vector):
        numbers = pa.Array.from_buffers(wanted.value_type, count * wanted.list_size, [None, pa.py_buffer(data)], 0)
        return pa.Array.from_buffers(wanted, count, [bitmap], nulls, children=[numbers])
    if isinstance(kind.logical, Uuid):
        storage = pa.Array.from_buffers(pa.binary(16), count, [bitmap, pa.py_buffer(data)], nulls)
        return pa.ExtensionArray.from_storage(pa.uuid(), storage)
    if isinstance(kind.logical, Duration):
        data = _intervals(node, data[: 12 * count])
    plain = _plain_type(kind)
    if plain == pa.bool_():
        data = np.packbits(data[:count], bitorder="little")
    return pa.Array.from_buffers(plain, count, [bitmap, pa.py_buffer(data)], nulls)


def _intervals(node: Node, data: Bytes) -> Bytes:
    """Avro's durations (unsigned months, days, milliseconds) as Arrow's (signed months, days, nanoseconds)."""
    parts = data.view("<u4").reshape(-1, 3)
    if parts[:, :2].max(initial=0) > _INT32_MAX:
        raise DataError(f"column {node.path!r} holds 2**31 months or days or more, which Arrow cannot; read it as columns[...]")
    intervals = np.empty(len(parts), _INTERVAL)
    intervals["months"], intervals["days"] = parts[:, 0], parts[:, 1]
    intervals["nanos"] = parts[:, 2].astype(np.int64) * _NANOS_PER_MILLI
    return intervals.view(np.uint8)


def _plain_type(kind: Primitive | Fixed) -> pa.DataType:
    match kind.logical:
        case Decimal(precision, scale):
            return pa.decimal128(precision, scale) if value_bytes(kind, "") == 16 else pa.decimal256(precision, scale)
        case Date():
            return pa.date32()
        case Time(unit):
            return pa.time32("ms") if unit == "millis" else pa.time64(UNITS[unit])
        case Timestamp(unit, local):
            return pa.timestamp(UNITS[unit], None if local else "UTC")
        case Duration():
            return pa.month_day_nano_interval()
    return _PRIMITIVES[kind.kind] if isinstance(kind, Primitive) else pa.binary(kind.size)


def _text(node: Node, decoded: Decoded, count: int, bitmap: pa.Buffer | None, nulls: int) -> pa.Array:
    assert isinstance(node.type, Primitive)
    offsets, data = (pa.py_buffer(decoded.buffer(number)) for number in node.buffers)
    return pa.Array.from_buffers(_PRIMITIVES[node.type.kind], count, [bitmap, offsets, data], nulls)


def _vector_int8(node: Node, decoded: Decoded, count: int, wanted: pa.StructType, bitmap: pa.Buffer | None, nulls: int) -> pa.Array:
    scales, numbers = (pa.py_buffer(decoded.buffer(number)) for number in node.buffers)
    lists = wanted.field(1).type
    items = pa.Array.from_buffers(pa.int8(), count * lists.list_size, [None, numbers], 0)
    children = [
        pa.Array.from_buffers(pa.float32(), count, [None, scales], 0),
        pa.Array.from_buffers(lists, count, [None], 0, children=[items]),
    ]
    return pa.Array.from_buffers(wanted, count, [bitmap], nulls, children=children)


def _cast(node: Node, array: pa.Array, wanted: pa.DataType) -> pa.Array:
    try:
        if pa.types.is_dictionary(wanted):
            return array.cast(wanted.value_type).dictionary_encode().cast(wanted)
        return array.cast(wanted)
    except pa.ArrowInvalid as exc:
        raise DataError(f"column {node.path!r} was declared as {wanted}, which cannot hold a value of its rows: {exc}") from exc


# -- nested -------------------------------------------------------------------------------------------------------------------------


def _child(node: Node, decoded: Decoded, wanted: pa.DataType) -> pa.Array:
    return arrow_array(node, decoded, valid_entries(node, decoded), wanted)


def _list(node: Node, decoded: Decoded, valid: Bools | None, wanted: pa.DataType, bitmap: pa.Buffer | None, nulls: int) -> pa.Array:
    (child,) = node.children
    items = _child(child, decoded, wanted.value_type)
    offsets = offsets_of(node, decoded)
    count = len(offsets) - 1
    if pa.types.is_fixed_size_list(wanted):
        items = items.take(pa.array(fixed_places(node, offsets, valid, wanted.list_size)))
        return pa.Array.from_buffers(wanted, count, [bitmap], nulls, children=[items])
    if pa.types.is_large_list(wanted):
        offsets = offsets.astype(np.int64)
    return pa.Array.from_buffers(wanted, count, [bitmap, pa.py_buffer(offsets)], nulls, children=[items])


def fixed_places(node: Node, offsets: np.ndarray[Any, Any], valid: Bools | None, size: int) -> Words:
    """Where the items of lists of `size` items lie, `size` for each entry; those of a null are any.

    Raises:
        DataError: a list has another length.
    """
    lengths = np.diff(offsets)
    wrong = lengths != size if valid is None else (lengths != size) & valid
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"column {node.path!r} was declared with lists of {size} items; entry {row} has {lengths[row]}")
    places = offsets[:-1, None].astype(np.int64) + np.arange(size)
    return np.minimum(places, max(int(offsets[-1]) - 1, 0)).ravel() if offsets[-1] else np.zeros(0, np.int64)


def _map(node: Node, decoded: Decoded, wanted: pa.MapType, bitmap: pa.Buffer | None, nulls: int) -> pa.Array:
    keys = _child(node.children[0], decoded, pa.string()).cast(wanted.key_type)
    values = _child(node.children[1], decoded, wanted.item_type)
    entries = pa.Array.from_buffers(pa.struct([wanted.key_field, wanted.item_field]), len(keys), [None], 0, children=[keys, values])
    offsets = pa.py_buffer(decoded.buffer(node.buffers[0]))
    return pa.Array.from_buffers(wanted, decoded.counts[node.scope], [bitmap, offsets], nulls, children=[entries])


def _union(node: Node, decoded: Decoded, count: int, wanted: pa.UnionType) -> pa.Array:
    children = [_child(child, decoded, wanted.field(index).type) for index, child in enumerate(node.children)]
    types, offsets = (pa.py_buffer(decoded.buffer(number)) for number in node.buffers)
    return pa.Array.from_buffers(wanted, count, [None, types, offsets], 0, children=children)

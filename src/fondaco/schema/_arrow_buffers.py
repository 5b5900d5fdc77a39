"""Decoded buffers as Arrow arrays: nothing is copied but validity and booleans, which are bytes here and bits in Arrow.

`arrow_array` gives the type that the buffers have by nature (`string`, `int32`, ...). A column that was declared from a narrower or larger
Arrow type is cast to it by `columns`. Arrays keep the NumPy buffers alive that they lie in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from fondaco.schema._nodes import Layout, Node
from fondaco.schema._run import Bytes, Decoded
from fondaco.schema.types import Date, Decimal, Duration, Enum, Fixed, Map, Primitive, Record, Time, Timestamp, Uuid, Vector

Bools = np.ndarray[Any, np.dtype[np.bool_]]

_UNITS = {"millis": "ms", "micros": "us", "nanos": "ns"}
_PRIMITIVES = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
}
_VECTOR_ITEMS = {"float32": pa.float32(), "float16": pa.float16(), "bfloat16": pa.uint16()}


def valid_entries(node: Node, decoded: Decoded) -> Bools | None:
    """Which entries of `node` are not null; None: all are."""
    if node.validity is None:
        return None
    valid = decoded.buffer(node.validity)[: decoded.counts[node.scope]].view(np.bool_)
    return None if valid.all() else valid


def arrow_array(node: Node, decoded: Decoded, valid: Bools | None) -> pa.Array:
    """The entries of `node`, null where `valid` (None: nowhere) is false."""
    count = decoded.counts[node.scope]
    if node.layout is Layout.UNION:
        return _union(node, decoded, count)
    if node.layout is Layout.NULL:
        return pa.nulls(count)
    nulls = 0 if valid is None else count - int(np.count_nonzero(valid))
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return _LAYOUTS[node.layout](node, decoded, count, nulls, bitmap)


def natural_type(kind: Primitive | Fixed | Enum) -> pa.DataType:
    """Arrow type of the entries of a node that is no list, map, record or union."""
    if isinstance(kind, Enum):
        return pa.dictionary(pa.int32(), pa.string())
    match kind.logical:
        case Decimal(precision, scale):
            return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
        case Uuid():
            return pa.uuid()
        case Date():
            return pa.date32()
        case Time(unit):
            return pa.time32("ms") if unit == "millis" else pa.time64(_UNITS[unit])
        case Timestamp(unit, local):
            return pa.timestamp(_UNITS[unit], None if local else "UTC")
        case Duration():
            return pa.month_day_nano_interval()
        case Vector(dim, "int8"):
            return pa.struct(
                [pa.field("scale", pa.float32(), False), pa.field("values", pa.list_(pa.field("item", pa.int8(), False), dim), False)]
            )
        case Vector(dim, dtype):
            return pa.list_(pa.field("item", _VECTOR_ITEMS[dtype], False), dim)
    return _PRIMITIVES[kind.kind] if isinstance(kind, Primitive) else pa.binary(kind.size)


def _values(node: Node, decoded: Decoded, count: int, nulls: int, bitmap: pa.Buffer | None) -> pa.Array:
    kind, data = node.type, decoded.buffer(node.buffers[0])
    assert isinstance(kind, Primitive | Fixed | Enum)
    arrow = natural_type(kind)
    if isinstance(kind, Enum):
        indices = pa.Array.from_buffers(pa.int32(), count, [bitmap, pa.py_buffer(data)], nulls)
        return pa.DictionaryArray.from_arrays(indices, pa.array(kind.symbols, pa.string()))
    if isinstance(kind.logical, Vector):
        return _fixed_lists(arrow, data, count, nulls, bitmap)
    if arrow == pa.bool_():
        data = np.packbits(data[:count], bitorder="little")
    if isinstance(kind.logical, Uuid):
        storage = pa.Array.from_buffers(arrow.storage_type, count, [bitmap, pa.py_buffer(data)], nulls)
        return pa.ExtensionArray.from_storage(arrow, storage)
    return pa.Array.from_buffers(arrow, count, [bitmap, pa.py_buffer(data)], nulls)


def _fixed_lists(arrow: pa.FixedSizeListType, data: Bytes, count: int, nulls: int = 0, bitmap: pa.Buffer | None = None) -> pa.Array:
    numbers = pa.Array.from_buffers(arrow.value_type, count * arrow.list_size, [None, pa.py_buffer(data)], 0)
    return pa.Array.from_buffers(arrow, count, [bitmap], nulls, children=[numbers])


def _vector_int8(node: Node, decoded: Decoded, count: int, nulls: int, bitmap: pa.Buffer | None) -> pa.Array:
    assert isinstance(node.type, Fixed)
    arrow = natural_type(node.type)
    scales, numbers = (decoded.buffer(number) for number in node.buffers)
    children = [pa.Array.from_buffers(pa.float32(), count, [None, pa.py_buffer(scales)], 0), _fixed_lists(arrow[1].type, numbers, count)]
    return pa.Array.from_buffers(arrow, count, [bitmap], nulls, children=children)


def _text(node: Node, decoded: Decoded, count: int, nulls: int, bitmap: pa.Buffer | None) -> pa.Array:
    assert isinstance(node.type, Primitive)
    offsets, data = (pa.py_buffer(decoded.buffer(number)) for number in node.buffers)
    return pa.Array.from_buffers(_PRIMITIVES[node.type.kind], count, [bitmap, offsets, data], nulls)


def _child(node: Node, decoded: Decoded) -> pa.Array:
    return arrow_array(node, decoded, valid_entries(node, decoded))


def _list(node: Node, decoded: Decoded, count: int, nulls: int, bitmap: pa.Buffer | None) -> pa.Array:
    (child,) = node.children
    items = _child(child, decoded)
    arrow = pa.list_(pa.field("item", items.type, _may_be_null(child)))
    return pa.Array.from_buffers(arrow, count, [bitmap, pa.py_buffer(decoded.buffer(node.buffers[0]))], nulls, children=[items])


def _map(node: Node, decoded: Decoded, count: int, nulls: int, bitmap: pa.Buffer | None) -> pa.Array:
    assert isinstance(node.type, Map)
    keys, values = (_child(child, decoded) for child in node.children)
    arrow = pa.map_(pa.string(), pa.field("value", values.type, _may_be_null(node.children[1])))
    entry = pa.struct([pa.field("key", pa.string(), False), pa.field("value", values.type, _may_be_null(node.children[1]))])
    entries = pa.Array.from_buffers(entry, len(keys), [None], 0, children=[keys, values])
    return pa.Array.from_buffers(arrow, count, [bitmap, pa.py_buffer(decoded.buffer(node.buffers[0]))], nulls, children=[entries])


def _struct(node: Node, decoded: Decoded, count: int, nulls: int, bitmap: pa.Buffer | None) -> pa.Array:
    assert isinstance(node.type, Record)
    children = [_child(child, decoded) for child in node.children]
    fields = [
        pa.field(member.name, child.type, _may_be_null(part))
        for member, child, part in zip(node.type.fields, children, node.children, strict=True)
    ]
    return pa.Array.from_buffers(pa.struct(fields), count, [bitmap], nulls, children=children)


def _union(node: Node, decoded: Decoded, count: int) -> pa.Array:
    children = [_child(child, decoded) for child in node.children]
    fields = [
        pa.field(str(index), child.type, _may_be_null(part))
        for index, (child, part) in enumerate(zip(children, node.children, strict=True))
    ]
    types, offsets = (pa.py_buffer(decoded.buffer(number)) for number in node.buffers)
    return pa.Array.from_buffers(pa.dense_union(fields), count, [None, types, offsets], 0, children=children)


def _may_be_null(node: Node) -> bool:
    return node.validity is not None or node.layout in (Layout.NULL, Layout.UNION)


_LAYOUTS = {
    Layout.VALUES: _values,
    Layout.VECTOR_INT8: _vector_int8,
    Layout.TEXT: _text,
    Layout.LIST: _list,
    Layout.MAP: _map,
    Layout.STRUCT: _struct,
}

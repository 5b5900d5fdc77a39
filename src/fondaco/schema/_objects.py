"""Decoded buffers as Python values, the same ones that `Codec.decode` gives row by row; made a column at a time, when asked for.

Source of the mapping: `logical`. Nulls are None.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import MAX_PREC, Context
from decimal import Decimal as PyDecimal
from itertools import pairwise
from typing import Any
from uuid import UUID

import numpy as np

from fondaco.schema._arrow_buffers import Bools, offsets_of, text_array, valid_entries
from fondaco.schema._nodes import Layout, Node, value_bytes
from fondaco.schema._run import Decoded
from fondaco.schema.defaults import float_array_dtype
from fondaco.schema.logical import from_base
from fondaco.schema.types import Array, Decimal, Enum, Fixed, Primitive, Record, Uuid, Vector
from fondaco.schema.vectors import QuantizedVector, vector_dtype

PRIMITIVE_DTYPES = {"boolean": "?", "int": "<i4", "long": "<i8", "float": "<f4", "double": "<f8"}
_EXACT = Context(prec=MAX_PREC)


def objects(node: Node, decoded: Decoded, valid: Bools | None) -> list[Any]:
    """The entries of `node` as Python values, None where `valid` (None: nowhere) is false."""
    values = _LAYOUTS[node.layout](node, decoded, valid)
    if valid is not None and node.layout is not Layout.UNION:
        for index in np.flatnonzero(~valid).tolist():
            values[index] = None
    return values


def numbers(node: Node, decoded: Decoded) -> np.ndarray[Any, Any]:
    """The stored numbers of a VALUES node without a logical type, or with one on int or long: 1-D, a view."""
    assert isinstance(node.type, Primitive)
    data = decoded.buffer(node.buffers[0])[: decoded.counts[node.scope] * value_bytes(node.type, node.path)]
    view: np.ndarray[Any, Any] = data.view(PRIMITIVE_DTYPES[node.type.kind])
    return view


def vectors(node: Node, decoded: Decoded) -> np.ndarray[Any, Any]:
    """The vectors of a node, shape [entries, dim]: a view, but for int8, which is dequantised to float32."""
    assert isinstance(node.type, Fixed)
    kind = node.type.logical
    assert isinstance(kind, Vector)
    count = decoded.counts[node.scope]
    if kind.dtype == "int8":
        scales, steps = _int8_parts(node, decoded, kind, count)
        dequantized: np.ndarray[Any, Any] = steps.astype(np.float32) * scales[:, None]
        return dequantized
    data = decoded.buffer(node.buffers[0])[: count * kind.size]
    rows: np.ndarray[Any, Any] = data.view(vector_dtype(kind.dtype)).reshape(count, kind.dim)
    return rows


def _int8_parts(node: Node, decoded: Decoded, kind: Vector, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    scales, steps = (decoded.buffer(number) for number in node.buffers)
    return scales[: 4 * count].view("<f4"), steps[: count * kind.dim].view(np.int8).reshape(count, kind.dim)


def _children(node: Node, decoded: Decoded) -> list[list[Any]]:
    return [objects(child, decoded, valid_entries(child, decoded)) for child in node.children]


# -- by layout ----------------------------------------------------------------------------------------------------------------------


def _null(node: Node, decoded: Decoded, valid: Bools | None) -> list[Any]:
    return [None] * decoded.counts[node.scope]


def _values(node: Node, decoded: Decoded, valid: Bools | None) -> list[Any]:
    kind = node.type
    if isinstance(kind, Enum):
        symbols = kind.symbols
        return [symbols[index] for index in decoded.buffer(node.buffers[0])[: 4 * decoded.counts[node.scope]].view("<i4").tolist()]
    assert isinstance(kind, Primitive | Fixed)
    match kind.logical:
        case Vector():
            return list(vectors(node, decoded))
        case Decimal(scale=scale):
            return [PyDecimal(unscaled).scaleb(-scale, _EXACT) for unscaled in _integers(node, decoded)]
        case Uuid():
            return [UUID(bytes=piece) for piece in _pieces(node, decoded)]
    if isinstance(kind, Fixed):
        pieces = _pieces(node, decoded)
        convert = from_base(kind)  # a duration
        return pieces if convert is None else [convert(piece) for piece in pieces]
    stored: list[Any] = numbers(node, decoded).tolist()
    convert = from_base(kind)
    if convert is None:
        return stored
    if valid is None:
        return list(map(convert, stored))  # within range: the kernel has looked
    return [convert(value) if present else None for value, present in zip(stored, valid.tolist(), strict=True)]


def _pieces(node: Node, decoded: Decoded) -> list[bytes]:
    count, width = decoded.counts[node.scope], value_bytes(node.type, node.path)
    blob = decoded.buffer(node.buffers[0])[: count * width].tobytes()
    return [blob[place : place + width] for place in range(0, count * width, width)] if width else [b""] * count


def _integers(node: Node, decoded: Decoded) -> list[int]:
    return [int.from_bytes(piece, "little", signed=True) for piece in _pieces(node, decoded)]


def _vector_int8(node: Node, decoded: Decoded, valid: Bools | None) -> list[Any]:
    assert isinstance(node.type, Fixed)
    kind = node.type.logical
    assert isinstance(kind, Vector)
    scales, steps = _int8_parts(node, decoded, kind, decoded.counts[node.scope])
    return [QuantizedVector(row, scale) for row, scale in zip(steps, scales.tolist(), strict=True)]


def _text(node: Node, decoded: Decoded, valid: Bools | None) -> list[Any]:
    values: list[Any] = text_array(node, decoded).to_numpy(zero_copy_only=False).tolist()
    return values


def _list(node: Node, decoded: Decoded, valid: Bools | None) -> list[Any]:
    (child,) = node.children
    assert isinstance(node.type, Array)
    offsets = offsets_of(node, decoded)
    if float_array_dtype(node.type):
        return _float_views(numbers(child, decoded), offsets)
    items = objects(child, decoded, valid_entries(child, decoded))
    return [items[first:end] for first, end in pairwise(offsets.tolist())]


def _float_views(items: np.ndarray[Any, Any], offsets: np.ndarray[Any, np.dtype[np.int32]]) -> list[Any]:
    """Floats stay one block, of which each value is a view. Rows of a matrix are cut twice as fast as slices."""
    lengths = np.diff(offsets)
    if len(lengths) and lengths[0] and (lengths == lengths[0]).all():
        return list(items.reshape(len(lengths), lengths[0]))
    return [items[first:end] for first, end in pairwise(offsets.tolist())]


def _map(node: Node, decoded: Decoded, valid: Bools | None) -> list[Any]:
    keys, values = _children(node, decoded)
    offsets: list[int] = offsets_of(node, decoded).tolist()
    return [dict(zip(keys[first:end], values[first:end], strict=True)) for first, end in pairwise(offsets)]


def _struct(node: Node, decoded: Decoded, valid: Bools | None) -> list[Any]:
    assert isinstance(node.type, Record)
    names = [member.name for member in node.type.fields]
    columns = _children(node, decoded)
    if not columns:
        return [{} for _ in range(decoded.counts[node.scope])]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _union(node: Node, decoded: Decoded, valid: Bools | None) -> list[Any]:
    count = decoded.counts[node.scope]
    branches = _children(node, decoded)
    types = decoded.buffer(node.buffers[0])[:count].tolist()
    places = decoded.buffer(node.buffers[1])[: 4 * count].view("<i4").tolist()
    return [branches[branch][place] for branch, place in zip(types, places, strict=True)]


_LAYOUTS: dict[Layout, Callable[[Node, Decoded, Bools | None], list[Any]]] = {
    Layout.NULL: _null,
    Layout.VALUES: _values,
    Layout.VECTOR_INT8: _vector_int8,
    Layout.TEXT: _text,
    Layout.LIST: _list,
    Layout.MAP: _map,
    Layout.STRUCT: _struct,
    Layout.UNION: _union,
}

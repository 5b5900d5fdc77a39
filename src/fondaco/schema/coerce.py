"""Coerce: values that are not of the plain Python type a field asks for, but lose nothing by becoming it.

NumPy scalars become ints and floats, ints become floats, any sequence becomes items. Booleans are never numbers, text is never bytes or
items, floats are never ints. Each function raises TypeError or ValueError for what does not fit.

Thread rule: pure functions.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from operator import index as as_index
from typing import Any, Final

import numpy as np

from fondaco.schema.types import Primitive
from fondaco.schema.vectors import float_block

as_float32: Final = struct.Struct("<f").pack
"""Bytes of a float; OverflowError beyond its range."""

_RANGES: Final = {
    "int": (-(1 << 31), (1 << 31) - 1),
    "long": (-(1 << 63), (1 << 63) - 1),
    "int8": (-(1 << 7), (1 << 7) - 1),
    "int16": (-(1 << 15), (1 << 15) - 1),
    "uint8": (0, (1 << 8) - 1),
    "uint16": (0, (1 << 16) - 1),
    "uint32": (0, (1 << 32) - 1),
}
_PLAIN_NUMBERS: Final = frozenset((float, int))
_DTYPES: Final[dict[str, np.dtype[Any]]] = {"<f4": np.dtype("<f4"), "<f8": np.dtype("<f8")}


def integer_range(kind: Primitive) -> tuple[int, int]:
    """Least and greatest value of an int or long; narrower if its Arrow type is."""
    least, most = _RANGES[kind.kind]
    narrow = _RANGES.get(str(kind.properties.get("arrow")), (least, most))
    return max(least, narrow[0]), min(most, narrow[1])


def as_int(value: Any) -> int:
    """An int of any Python or NumPy integer."""
    if isinstance(value, bool | np.bool_):
        raise TypeError
    return as_index(value)


def as_float(value: Any) -> float:
    """A float of any Python or NumPy number that is not complex."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError
    return float(value)


def as_text(value: Any) -> str:
    """A str, or an instance of a class made from it (as NumPy's)."""
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def as_bytes(value: Any) -> bytes:
    """Bytes of bytes, bytearray or memoryview."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError
    return bytes(value)


def as_items(value: Any) -> Sequence[Any]:
    """The items of a list, tuple, one-dimensional array or other sequence that is not text, bytes or a mapping."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, np.ndarray):
        if value.ndim == 0:
            raise TypeError
        items: list[Any] = value.tolist() if value.ndim == 1 and value.dtype.kind in "biuf" else list(value)
        return items
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview | Mapping):
        return list(value)
    raise TypeError


def float_items(value: Any, dtype: str) -> tuple[int, bytes]:
    """Count and bytes of the numbers of an array of floats; `dtype` is `<f4` or `<f8`."""
    if isinstance(value, list | tuple) and _PLAIN_NUMBERS.issuperset(map(type, value)):
        return len(value), struct.pack(f"<{len(value)}{dtype[-1].replace('4', 'f').replace('8', 'd')}", *value)
    block = float_block(value, _DTYPES[dtype])
    return len(block), block.tobytes()

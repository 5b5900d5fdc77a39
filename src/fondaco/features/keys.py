"""Keys: columns of keys as callers give them, brought into the few forms that stores take; what means "none" becomes null.

A part is one key column: an Arrow array, a NumPy array, or a list. Pure functions; any thread.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fondaco.core.errors import InputError, KeyTypeError
from fondaco.features.kinds import INT, Kind

Array = np.ndarray[Any, Any]
_PLAIN = frozenset((str, int, bytes, bool, type(None)))
_EXACT_MAX = 1 << 53  # whole floats up to it name one integer each


def is_missing(value: object) -> bool:
    """Whether a value stands for no key: None, NaN, or the missing values of pandas."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NAType", "NaTType")


def key_column(where: str, kind: Kind, part: Any) -> Any:
    """The part with NaN as null, whole floats as the integers that they stand for, and views and dictionaries written out.

    Raises:
        KeyTypeError: a float that is no integer. InputError: no column.
    """
    if isinstance(part, (str, bytes)) or not hasattr(part, "__getitem__") or getattr(part, "ndim", 1) != 1:
        raise InputError(f"{where} is {part!r}, expected an array or a list")
    if not isinstance(part, (pa.Array, pa.ChunkedArray, np.ndarray, list)):
        part = _from_series(part)
    if isinstance(part, np.ndarray) and part.dtype.kind == "f":
        part = pa.array(part, pa.float64(), from_pandas=True)
    if isinstance(part, (pa.Array, pa.ChunkedArray)):
        return _arrow_column(where, kind, part)
    if isinstance(part, np.ndarray) and part.dtype != object:
        return part
    values = part.tolist() if isinstance(part, np.ndarray) else part
    if _PLAIN.issuperset(map(type, values)):  # the usual case; a loop over the values would take longer than reading them
        return values
    return [_value(where, kind, value) for value in values]


def _from_series(part: Any) -> Any:
    if type(part).__module__.partition(".")[0] == "pandas":
        return pa.array(part, from_pandas=True)
    return pa.chunked_array(part) if hasattr(part, "__arrow_c_stream__") else list(part)


def _arrow_column(where: str, kind: Kind, part: Any) -> Any:
    if pa.types.is_dictionary(part.type):
        if part.type.value_type == pa.string_view():
            part = part.cast(pa.dictionary(part.type.index_type, pa.string()))
        part = part.cast(part.type.value_type)
    if part.type == pa.string_view():
        return part.cast(pa.large_string())
    if part.type == pa.binary_view():
        return part.cast(pa.large_binary())
    if kind == INT and pa.types.is_floating(part.type):
        values = part.cast(pa.float64())
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
        odd = pc.filter(values, pc.or_(pc.not_equal(values, pc.floor(values)), pc.greater(pc.abs(values), float(_EXACT_MAX))))
        if len(odd.drop_null()):
            _value(where, kind, odd.drop_null()[0].as_py())
        return values.cast(pa.int64())
    return part


def _value(where: str, kind: Kind, value: object) -> object:
    if is_missing(value):
        return None
    if kind == INT and isinstance(value, float):
        if not value.is_integer() or abs(value) > _EXACT_MAX:
            hint = 'in pandas write .astype("Int64") for integers that may be missing'
            raise KeyTypeError(f"{value!r} (float)", f"int in {where} ({hint})")
        return int(value)
    return value


def present(part: Any) -> Array:
    """bool [rows]: where the part is not null."""
    if isinstance(part, (pa.Array, pa.ChunkedArray)):
        return np.asarray(part.is_valid()) if part.null_count else np.ones(len(part), np.bool_)
    if isinstance(part, np.ndarray):
        return np.ones(len(part), np.bool_)
    return np.fromiter((value is not None for value in part), np.bool_, len(part))


def selected(part: Any, keep: Array) -> Any:
    """The values where `keep`."""
    if isinstance(part, (pa.Array, pa.ChunkedArray)):
        return part.filter(pa.array(keep))
    if isinstance(part, np.ndarray):
        return part[keep]
    return [value for value, kept in zip(part, keep.tolist(), strict=True) if kept]


def as_arrow(part: Any) -> Any:
    """The part as Arrow.

    Raises:
        InputError: values of several types, or of one that Arrow does not have.
    """
    if isinstance(part, (pa.Array, pa.ChunkedArray)):
        return part
    try:
        return pa.array(part)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as exc:
        raise InputError(f"a column of the keys cannot be read: {exc}; it begins with {list(part)[:3]!r}") from exc

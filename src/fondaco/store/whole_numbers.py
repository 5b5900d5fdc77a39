"""Whole numbers: columns of floats and decimals as the integers that they hold, for fields of integers.

pandas makes floats of integers as soon as one is missing, and `sum()` of integers is decimal(38, 0) in DuckDB. Both mean integers, and
nothing is lost by taking them so: a float must be whole and at most 2^53, beyond which neighbouring integers are the same float; NaN is a
missing value; a decimal must have no digits behind its point. Everything else stays as it is, for the codec to refuse.

Thread rule: pure functions.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import numpy as np
import pyarrow as pa

from fondaco.core.errors import RowError
from fondaco.schema.types import Field, Primitive, Record, Type, Union

_FLOAT_MAX: Final = float(1 << 53)
_LONG: Final = (-(1 << 63), (1 << 63) - 1)
_EXPECTED: Final = "a whole number, from -2^53 to 2^53 as a float"


def integer_fields(schema: Type) -> dict[str, Field]:
    """The fields of a record that hold plain integers, nullable or not, by name."""
    if not isinstance(schema, Record):
        return {}
    return {member.name: member for member in schema.fields if _is_integer(member.type)}


def with_whole_numbers(batch: pa.RecordBatch, integers: dict[str, Field], first_row: int) -> pa.RecordBatch:
    """The batch with int64 where a field of integers has a column of floats or of decimals without a fraction.

    Args:
        integers: what `integer_fields` gave.
        first_row: position of the batch's first row in the input, for errors.
    Raises:
        RowError: the first number that is not whole, or too large.
    """
    for index, column in enumerate(batch.schema):
        member = integers.get(column.name)
        if member is None:
            continue
        array = batch.column(index)
        if pa.types.is_floating(array.type):
            array = _of_floats(array, member, first_row)
        elif pa.types.is_decimal(array.type) and array.type.scale == 0:
            array = _of_decimals(array, member, first_row)
        else:
            continue
        batch = batch.set_column(index, pa.field(column.name, pa.int64(), column.nullable), array)
    return batch


def _is_integer(kind: Type) -> bool:
    if isinstance(kind, Union):
        return kind.optional is not None and _is_integer(kind.optional)
    return isinstance(kind, Primitive) and kind.kind in ("int", "long") and kind.logical is None


def _of_floats(array: pa.Array, member: Field, first_row: int) -> pa.Array:
    values = array.to_numpy(zero_copy_only=False).astype(np.float64)  # a null is NaN here
    missing = np.isnan(values) if isinstance(member.type, Union) else np.asarray(array.is_null())
    fits = missing | ((np.floor(values) == values) & (np.abs(values) <= _FLOAT_MAX))
    if not fits.all():
        row = int(fits.argmin())
        hint = " (NaN needs a nullable field)" if np.isnan(values[row]) else ""
        raise RowError(first_row + row, member.name, f"{values[row]!s}{hint}", _EXPECTED)
    return pa.array(np.where(missing, 0.0, values).astype(np.int64), pa.int64(), mask=missing)


def _of_decimals(array: pa.Array, member: Field, first_row: int) -> pa.Array:
    try:
        return array.cast(pa.int64())
    except pa.ArrowInvalid:
        for row, value in enumerate(array.to_pylist()):
            if isinstance(value, Decimal) and not _LONG[0] <= value <= _LONG[1]:
                raise RowError(first_row + row, member.name, str(value), "an integer from -2^63 to 2^63 - 1") from None
        raise

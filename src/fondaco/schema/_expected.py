"""What a value or a column of a type is, in words, for the errors of the batch encoder."""

from __future__ import annotations

from typing import Any, Final

from fondaco.schema.logical import timestamp_range_text
from fondaco.schema.misfit import expected
from fondaco.schema.parse import branch_name
from fondaco.schema.types import Array, Date, Decimal, Duration, Enum, Fixed, Map, Primitive, Time, Timestamp, Type, Union, Uuid, Vector

SHOWN_MAX: Final = 120
_COLUMNS: Final = {
    "null": "a column of nulls",
    "boolean": "a column of booleans",
    "int": "a column of integers",
    "long": "a column of integers",
    "float": "a column of numbers",
    "double": "a column of numbers",
    "bytes": "a column of binary values",
    "string": "a column of strings",
}


def expected_value(kind: Type) -> str:
    """What a value of `kind` is."""
    if isinstance(kind, Union) and kind.optional is not None:
        return f"{expected_value(kind.optional)} or null"
    if isinstance(kind, Primitive) and kind.logical is None and "arrow" in kind.properties and kind.kind in ("int", "long"):
        return f"an integer that fits {kind.properties['arrow']}"
    logical = kind.logical if isinstance(kind, Primitive | Fixed) else None
    match logical:
        case Decimal(precision, scale):
            return f"a decimal of at most {precision} digits, {scale} of them after the point"
        case Uuid():
            return "a UUID"
        case Date():
            return "a date in the years 1 to 9999"
        case Time(unit):
            return f"a time of day in whole {unit}"
        case Timestamp(unit, local):
            return f"a timestamp in whole {unit} {'without a time zone' if local else 'with a time zone'}, {timestamp_range_text(unit)}"
        case Duration():
            return "a duration of months, days and whole milliseconds, none negative"
        case Vector(dim, "int8"):
            return f"{dim} finite numbers"
        case Vector(dim, dtype):
            return f"{dim} numbers within the range of {dtype}"
    return "a map with text keys, none of them twice" if isinstance(kind, Map) else expected(kind)


def expected_column(kind: Type) -> str:
    """What a column that holds values of `kind` is."""
    logical = kind.logical if isinstance(kind, Primitive | Fixed) else None
    match logical:
        case Decimal(precision, scale):
            return f"a column of decimal({precision}, {scale})"
        case Uuid():
            return "a column of UUIDs or their text"
        case Date():
            return "a column of dates"
        case Time():
            return "a column of times of day"
        case Timestamp(local=True):
            return "a column of timestamps without a time zone (local time)"
        case Timestamp():
            return 'a column of timestamps with a time zone (say which naive times have, as in column.cast(pa.timestamp("us", "UTC")))'
        case Duration():
            return "a column of month_day_nano_interval"
        case Vector(dim):
            return f"a column of lists of {dim} numbers"
    match kind:
        case Primitive():
            return _COLUMNS[kind.kind]
        case Fixed():
            return f"a column of binary values of {kind.size} bytes"
        case Enum():
            return f"a column of strings out of {list(kind.symbols)}"
        case Array():
            return "a column of lists"
        case Map():
            return "a column of maps with string keys"
        case Union():
            return "a column of a union, or of one of: " + ", ".join(branch_name(branch) for branch in kind.branches)
    return f"a column of structs with the fields of {kind.fullname!r}"


def show_value(value: Any) -> str:
    """A value with its Python type, shortened."""
    text = f"{type(value).__name__} {value!r}" if value is not None else "null"
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 3] + "..."

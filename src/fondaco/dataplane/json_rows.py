"""JSON rows: values as people and curl write them, both ways.

| Avro | JSON |
|---|---|
| boolean, int, long, string, enum | themselves; integers of any size are exact |
| float, double | number; "NaN", "Infinity", "-Infinity" as text, because JSON has none |
| bytes, fixed | text in base64 |
| decimal, uuid | text, as "12.50" |
| date, time, timestamp | ISO 8601 text: "2026-11-21", "08:00:00", "2026-11-21T08:00:00Z" (local: without Z) |
| duration | [months, days, milliseconds] |
| vector, array; map, record | list; object |
| union | the value alone; reading JSON, the first branch that the value fits |

`from_json` turns JSON into what `Codec.encode` and `KeyCodec.encode` take; it checks no more than it must, because they do. Pure functions.
"""

from __future__ import annotations

import base64
import binascii
import decimal
import math
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from typing import Any, Final

import numpy as np

from fondaco.core.errors import InputError
from fondaco.schema.types import (
    Array,
    Date,
    Decimal,
    Duration,
    Enum,
    Fixed,
    Map,
    Primitive,
    Record,
    Time,
    Timestamp,
    Type,
    Union,
    Uuid,
    Vector,
)

_NO_NUMBERS: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_SHOWN_MAX: Final = 60


# -- out ------------------------------------------------------------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """A decoded value as what a JSON encoder takes."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _not_finite(value)
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        text = value.isoformat()
        return text.removesuffix("+00:00") + "Z" if value.tzinfo is UTC or text.endswith("+00:00") else text
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, uuid.UUID, np.datetime64, np.timedelta64)):
        return str(value)
    return numbers_to_json(np.asarray(value))


def numbers_to_json(values: np.ndarray[Any, Any]) -> Any:
    """An array of numbers, of any shape, as lists; masked ones are null."""
    if values.dtype.kind in "fV":
        values = values if values.dtype.kind == "f" else values.astype(np.float32)  # V: bfloat16
        if not np.isfinite(np.ma.getdata(values)).all():
            return to_json(values.tolist())
    elif values.dtype.kind in "Mm":
        return [None if item is None else str(item) for item in values]
    return values.tolist()


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


# -- in -------------------------------------------------------------------------------------------------------------------------------


def from_json(kind: Type, value: Any, path: str = "$") -> Any:
    """The Python value that JSON means under an Avro type.

    Raises:
        InputError: text that is not what the type is written as; names the path. What else does not fit, the encoder refuses.
    """
    if isinstance(kind, Record):
        return _record(kind, value, path)
    if isinstance(kind, Array):
        return [from_json(kind.items, item, f"{path}[{i}]") for i, item in enumerate(value)] if isinstance(value, list) else value
    if isinstance(kind, Map):
        if not isinstance(value, dict):
            return value
        return {key: from_json(kind.values, item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(kind, Union):
        return _union(kind, value, path)
    if isinstance(kind, (Primitive, Fixed)):
        reader = _reader(kind)
        return reader(value, path) if reader is not None and isinstance(value, (str, list)) else value
    return value


def _record(kind: Record, value: Any, path: str) -> Any:
    members = {member.name: member.type for member in kind.fields}
    if isinstance(value, list) and len(value) == len(members):  # a key as a list of its fields
        return {
            name: from_json(member, item, f"{path}[{i}]")
            for i, ((name, member), item) in enumerate(zip(members.items(), value, strict=True))
        }
    if not isinstance(value, dict):
        return value
    return {name: from_json(members[name], item, f"{path}.{name}") if name in members else item for name, item in value.items()}


def _union(kind: Union, value: Any, path: str) -> Any:
    if value is None:
        return None
    branches = [branch for branch in kind.branches if not (isinstance(branch, Primitive) and branch.kind == "null")]
    for branch in branches:
        if len(branches) == 1:
            return from_json(branch, value, path)
        if _fits(branch, value):
            try:
                return from_json(branch, value, path)
            except InputError:
                continue
    return value


def _fits(kind: Type, value: Any) -> bool:
    if isinstance(kind, Record | Map):
        return isinstance(value, dict)
    if isinstance(kind, Array) or (isinstance(kind, Fixed) and isinstance(kind.logical, Vector)):
        return isinstance(value, list)
    if isinstance(kind, Enum):
        return value in kind.symbols
    if isinstance(kind, Primitive) and kind.logical is None and kind.kind != "bytes":
        if kind.kind == "boolean":
            return isinstance(value, bool)
        if kind.kind in ("int", "long"):
            return isinstance(value, int) and not isinstance(value, bool)
        if kind.kind in ("float", "double"):
            return (isinstance(value, (int, float)) and not isinstance(value, bool)) or value in _NO_NUMBERS
        return isinstance(value, str)
    return isinstance(value, str)


def _reader(kind: Primitive | Fixed) -> Callable[[Any, str], Any] | None:
    match kind.logical:
        case Decimal():
            return _text(decimal.Decimal, "a decimal number as text, as '12.50'")
        case Uuid():
            return None  # the encoder takes its text
        case Date():
            return _text(date.fromisoformat, "a date as text, as '2026-11-21'")
        case Time():
            return _text(time.fromisoformat, "a time as text, as '08:00:00'")
        case Timestamp(unit, local):
            return _text(_nanos if unit == "nanos" else _moment, "a moment as text, as '2026-11-21T08:00:00" + ("'" if local else "Z'"))
        case Duration() | Vector():
            return lambda value, path: _vector(value)
    if isinstance(kind, Fixed) or kind.kind == "bytes":
        return _text(lambda text: base64.b64decode(text, validate=True), "bytes as base64 text")
    if kind.kind in ("float", "double"):
        return lambda value, path: _NO_NUMBERS.get(value, value) if isinstance(value, str) else value
    return None


def _vector(value: Any) -> Any:
    if isinstance(value, list):
        return [_NO_NUMBERS.get(item, item) if isinstance(item, str) else item for item in value]
    return value


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _nanos(text: str) -> np.datetime64:
    return np.datetime64(text.removesuffix("Z"), "ns")


def _text(convert: Callable[[str], Any], expected: str) -> Callable[[Any, str], Any]:
    def read(value: Any, path: str) -> Any:
        if isinstance(value, str):
            try:
                return convert(value)
            except (ValueError, binascii.Error, decimal.InvalidOperation):
                pass
        shown = repr(value)
        raise InputError(
            f"expected {expected}, got {shown if len(shown) <= _SHOWN_MAX else shown[:_SHOWN_MAX] + '...'} at {path}"
        ) from None

    return read

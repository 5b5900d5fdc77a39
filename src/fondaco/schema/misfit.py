"""Misfit: a plain walk over a value and its type, to say exactly which field does not fit, what it holds and what was expected.

The generated encoders only notice that a value does not fit; then this walk names it. The same walk decides which branch of a union a
value belongs to: the first branch whose own Python type it has (an int for a long, a datetime for a timestamp, a float for a float only
if 32 bits hold it exactly), else the first that can take it at all. A tuple `(branch name, value)` chooses explicitly.

Thread rule: pure functions.
"""

from __future__ import annotations

import reprlib
import struct
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal as PyDecimal
from typing import Any
from uuid import UUID

import numpy as np

from fondaco.core.errors import RowError, near_name
from fondaco.schema._nodes import short_path
from fondaco.schema.coerce import as_bytes, as_float, as_float32, as_int, as_items, as_text, float_items, integer_range
from fondaco.schema.defaults import float_array_dtype
from fondaco.schema.logical import Interval, to_base
from fondaco.schema.parse import branch_name
from fondaco.schema.resolution import DEPTH_MAX
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
from fondaco.schema.vectors import QuantizedVector

_SHORT = reprlib.Repr()  # bounded in depth and length, whatever the value
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SHORT.maxlevel = 3

_NATIVE_BASE: dict[str, tuple[type, ...]] = {
    "boolean": (bool, np.bool_),
    "int": (int, np.integer),
    "long": (int, np.integer),
    "float": (float, np.floating),
    "double": (float, np.floating),
    "bytes": (bytes, bytearray, memoryview),
    "string": (str,),
}
_EXPECTED = {
    "null": "null",
    "boolean": "a bool",
    "int": "an int of 32 bits",
    "long": "an int of 64 bits",
    "float": "a number within the range of 32-bit floats",
    "double": "a number",
    "bytes": "bytes",
    "string": "text that UTF-8 can encode",
}


def row_fault(kind: Type, value: Any) -> RowError:
    """What is wrong with a value that an encoder refused."""
    try:
        check_value(kind, value)
    except RowError as exc:
        return RowError(None, short_path(exc.field), exc.value, exc.expected)
    except RecursionError:
        return RowError(None, "$", _show(value), "values nested less deep than the caller's stack")
    return RowError(None, "$", _show(value), expected(kind))


def check_value(kind: Type, value: Any, path: str = "", depth: int = 0) -> None:
    """Refuse a value that `kind` cannot hold.

    Raises:
        RowError: `row` is None; `field` is the path inside the value (`address.zip`, `tags[3]`; `$` for the value itself).
    """
    if depth > DEPTH_MAX:
        raise RowError(None, path, _show(value), f"values nested at most {DEPTH_MAX} deep")
    match kind:
        case Primitive() | Fixed() | Enum():
            _scalar(kind, value, path)
        case Array():
            _array(kind, value, path, depth)
        case Map():
            if not isinstance(value, Mapping):
                raise _misfit(path, value, "a mapping with text keys")
            for key, item in value.items():
                if not isinstance(key, str) or not _encodable(key):
                    raise _misfit(path, value, "a mapping with text keys")
                check_value(kind.values, item, f"{path}[{key!r}]", depth)
        case Union():
            _union(kind, value, path, depth)
        case Record():
            _record(kind, value, path, depth)


def picker(union: Union) -> Callable[[Any], tuple[int, Any]]:
    """A function from a value to the branch that holds it and the value without a branch name; ValueError if none does."""
    names = {branch_name(branch): index for index, branch in enumerate(union.branches)}
    for index, branch in enumerate(union.branches):
        names.setdefault(branch_name(branch).rpartition(".")[2], index)

    def pick(value: Any) -> tuple[int, Any]:
        if type(value) is tuple and len(value) == 2 and isinstance(value[0], str) and value[0] in names:
            return names[value[0]], value[1]
        acceptable = None
        for index, branch in enumerate(union.branches):
            native = _is_native(branch, value)
            if (native or acceptable is None) and fits(branch, value):
                if native:
                    return index, value
                acceptable = index
        if acceptable is None:
            raise ValueError
        return acceptable, value

    return pick


def fits(kind: Type, value: Any) -> bool:
    """Whether `kind` can hold `value`."""
    try:
        check_value(kind, value)
    except RowError:
        return False
    return True


def expected(kind: Type) -> str:
    """What a value of `kind` is, in words."""
    match kind:
        case Primitive(kind="int" | "long") if kind.properties.get("arrow"):
            return "an int from {} to {}".format(*integer_range(kind))
        case Primitive():
            return _EXPECTED[kind.kind]
        case Fixed():
            return f"{kind.size} bytes"
        case Enum():
            return f"one of {list(kind.symbols)}"
        case Array():
            return "a list of numbers" if float_array_dtype(kind) else "a list"
        case Map():
            return "a mapping with text keys"
        case Union():
            return "one of: " + ", ".join(branch_name(branch) for branch in kind.branches)
    return f"a mapping with the fields of {kind.fullname!r}"


# -- by type ------------------------------------------------------------------------------------------------------------------------


def _scalar(kind: Primitive | Fixed | Enum, value: Any, path: str) -> None:
    try:
        _try_scalar(kind, value)
    except ValueError as exc:
        raise _misfit(
            path, value, str(exc) if _logical(kind) and not isinstance(exc, UnicodeError) and str(exc) else expected(kind)
        ) from exc
    except (TypeError, AttributeError, KeyError, OverflowError, ArithmeticError, struct.error) as exc:
        raise _misfit(path, value, expected(kind)) from exc


def _try_scalar(kind: Primitive | Fixed | Enum, value: Any) -> None:
    if isinstance(kind, Enum):
        if value not in kind.symbols or not isinstance(value, str):
            raise TypeError
        return
    convert = to_base(kind)
    if convert is not None:
        value = convert(value)
    if isinstance(kind, Fixed):
        if len(as_bytes(value)) != kind.size:
            raise TypeError
        return
    match kind.kind:
        case "null":
            if value is not None:
                raise TypeError
        case "boolean":
            if not isinstance(value, bool | np.bool_):
                raise TypeError
        case "int" | "long":
            least, most = integer_range(kind)
            if not least <= as_int(value) <= most:
                raise OverflowError
        case "float":
            as_float32(as_float(value))
        case "double":
            as_float(value)
        case "string":
            as_text(value).encode()
        case "bytes":
            as_bytes(value)


def _array(kind: Array, value: Any, path: str, depth: int) -> None:
    dtype = float_array_dtype(kind)
    try:
        if dtype is not None:
            float_items(value, dtype)
            return
        items = as_items(value)
    except (TypeError, ValueError, OverflowError, struct.error) as exc:
        if dtype is not None and isinstance(value, list | tuple):
            for index, item in enumerate(value):
                _scalar(_item(kind), item, f"{path}[{index}]")
        raise _misfit(path, value, expected(kind)) from exc
    for index, item in enumerate(items):
        check_value(kind.items, item, f"{path}[{index}]", depth)


def _item(kind: Array) -> Primitive:
    assert isinstance(kind.items, Primitive)
    return kind.items


def _union(kind: Union, value: Any, path: str, depth: int) -> None:
    inner = kind.optional
    if inner is not None:
        if value is not None:
            check_value(inner, value, path, depth)
        return
    try:
        index, value = picker(kind)(value)
    except ValueError as exc:
        raise _misfit(path, value, expected(kind)) from exc
    check_value(kind.branches[index], value, path, depth)


def _record(kind: Record, value: Any, path: str, depth: int) -> None:
    if not isinstance(value, Mapping):
        raise _misfit(path, value, expected(kind))
    names = [member.name for member in kind.fields]
    known = set(names)
    for key in value:
        if key not in known:
            near = near_name(str(key), names)
            hint = f"did you mean {near!r}?" if near else f"there is: {', '.join(names[:12])}"
            raise RowError(None, _join(path, str(key)), _show(value[key]), f"no such field ({hint})")
    for member in kind.fields:
        if member.name in value:
            check_value(member.type, value[member.name], _join(path, member.name), depth + 1)
        elif not member.has_default:
            raise RowError(None, _join(path, member.name), "no value", f"{expected(member.type)} (the field has no default)")


# -- branches -----------------------------------------------------------------------------------------------------------------------


def _is_native(kind: Type, value: Any) -> bool:
    """Whether `value` has the Python type that reading a `kind` gives."""
    match kind:
        case Primitive(kind="null"):
            return value is None
        case Primitive() | Fixed() if kind.logical is not None:
            return _is_native_logical(kind, value)
        case Primitive(kind="int" | "long"):
            return isinstance(value, int | np.integer) and not isinstance(value, bool)
        case Primitive(kind="float") if isinstance(value, float):
            return value != value or abs(value) == float("inf") or _survives_float32(value)
        case Primitive():
            return isinstance(value, _NATIVE_BASE[kind.kind])
        case Fixed():
            return isinstance(value, bytes | bytearray | memoryview)
        case Enum():
            return isinstance(value, str)
        case Array():
            return isinstance(value, list | tuple | np.ndarray)
    return isinstance(value, Mapping)


def _is_native_logical(kind: Primitive | Fixed, value: Any) -> bool:
    match kind.logical:
        case Decimal():
            return isinstance(value, PyDecimal)
        case Uuid():
            return isinstance(value, UUID)
        case Date():
            return isinstance(value, date) and not isinstance(value, datetime)
        case Time():
            return isinstance(value, time)
        case Timestamp(_, local):
            return isinstance(value, np.datetime64) or (isinstance(value, datetime) and (value.tzinfo is None) == local)
        case Duration():
            return isinstance(value, Interval)
        case Vector():
            return isinstance(value, np.ndarray | QuantizedVector)
    return False


def _survives_float32(value: float) -> bool:
    try:
        return bool(struct.unpack("<f", as_float32(value))[0] == value)
    except OverflowError:
        return False


def _logical(kind: Primitive | Fixed | Enum) -> bool:
    return not isinstance(kind, Enum) and kind.logical is not None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _show(value: Any) -> str:
    return f"{type(value).__name__} {_SHORT.repr(value)}"


def _misfit(path: str, value: Any, wanted: str) -> RowError:
    return RowError(None, path or "$", _show(value), wanted)

"""Defaults: JSON values written in a schema, checked against their type and turned into the values that rows hold.

JSON has fewer types than Avro, so the specification says how each is written: bytes and fixed as text whose code points 0-255 are the
bytes, a record as an object, an enum as its symbol. A union's default may be of any branch (1.12); the first branch that it fits counts.

Source: Apache Avro 1.12.0 specification, "Complex Types", table of field default values.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fondaco.core.errors import SchemaError, near_name
from fondaco.schema.logical import from_base
from fondaco.schema.types import Array, Enum, Field, Fixed, Map, Primitive, Record, Type, Union

DEFAULT_DEPTH_MAX = 64
_UNION_DEPTH_MAX = 24


def check_default(kind: Type, default: object, path: str) -> None:
    """Refuse a default that its type cannot hold.

    Raises:
        SchemaError: names the place in the schema and what the type expects.
    """
    default_value(kind, default, path)


def default_value(kind: Type, default: object, path: str = "$", depth: int = 0) -> Any:
    """The value that `Codec.decode` gives for a field filled by `default` (JSON, as written in the schema). A new object at each call.

    Raises:
        SchemaError: the type cannot hold it.
    """
    if depth > DEFAULT_DEPTH_MAX:
        raise SchemaError(path, f"the default nests deeper than {DEFAULT_DEPTH_MAX} values (a record whose default needs itself?)")
    match kind:
        case Primitive():
            return _primitive(kind, default, path)
        case Fixed():
            data = _bytes(default, path)
            if len(data) != kind.size:
                raise SchemaError(path, f"default of {len(data)} bytes for a fixed of {kind.size}")
            return _logical(kind, data, path)
        case Enum():
            if default not in kind.symbols:
                raise SchemaError(path, f"default {default!r} is not one of the symbols {list(kind.symbols)}")
            return default
        case Array():
            if not isinstance(default, list | tuple):
                raise _unfit(path, default, "a list")
            items = [default_value(kind.items, item, f"{path}[{index}]", depth + 1) for index, item in enumerate(default)]
            dtype = float_array_dtype(kind)
            return np.array(items, dtype) if dtype else items
        case Map():
            if not isinstance(default, dict) or not all(isinstance(key, str) for key in default):
                raise _unfit(path, default, "an object")
            return {key: default_value(kind.values, value, f"{path}[{key!r}]", depth + 1) for key, value in default.items()}
        case Union():
            return _union(kind, default, path, depth)[1]
    return _record(kind, default, path, depth)


def default_branch(union: Union, default: object) -> int:
    """The first branch of `union` that holds `default`.

    Raises:
        SchemaError: none does.
    """
    return _union(union, default, "$", 0)[0]


def field_default(member: Field) -> Any:
    """A new value of the default of a field that has one."""
    return default_value(member.type, member.default, f"$.{member.name}")


def float_array_dtype(kind: Array) -> str | None:
    """NumPy dtype of an array that is read as one block (`<f4`, `<f8`), or None for one that is read item by item."""
    if isinstance(kind.items, Primitive):
        return {"float": "<f4", "double": "<f8"}.get(kind.items.kind)
    return None


def _primitive(kind: Primitive, default: object, path: str) -> Any:
    match kind.kind:
        case "null":
            if default is not None:
                raise _unfit(path, default, "null")
            return None
        case "boolean":
            if not isinstance(default, bool):
                raise _unfit(path, default, "true or false")
            return default
        case "int" | "long":
            bits = 31 if kind.kind == "int" else 63
            if isinstance(default, bool) or not isinstance(default, int) or not -(1 << bits) <= default < 1 << bits:
                raise _unfit(path, default, f"an {kind.kind} ({bits + 1} bits)")
            return _logical(kind, default, path)
        case "float" | "double":
            if isinstance(default, bool) or not isinstance(default, int | float) or not math.isfinite(default):
                raise _unfit(path, default, "a finite number")
            with np.errstate(over="ignore"):
                number = float(np.float32(default)) if kind.kind == "float" else float(default)
            if not math.isfinite(number):
                raise _unfit(path, default, "a number that a float (32 bits) can hold")
            return number
        case "bytes":
            return _logical(kind, _bytes(default, path), path)
        case "string":
            if not isinstance(default, str):
                raise _unfit(path, default, "text")
            return _logical(kind, default, path)


def _union(kind: Union, default: object, path: str, depth: int) -> tuple[int, Any]:
    if depth > _UNION_DEPTH_MAX:  # trying branches inside branches doubles the work at each level
        raise SchemaError(path, f"the default nests unions deeper than {_UNION_DEPTH_MAX} values")
    for index, branch in enumerate(kind.branches):
        try:
            return index, default_value(branch, default, path, depth + 1)
        except SchemaError:
            continue
    raise SchemaError(path, f"default {default!r} fits no branch of the union")


def _record(kind: Record, default: object, path: str, depth: int) -> dict[str, Any]:
    if not isinstance(default, dict):
        raise _unfit(path, default, "an object")
    names = [member.name for member in kind.fields]
    for name in default:
        if name not in names:
            near = near_name(str(name), names)
            hint = f"; did you mean {near!r}?" if near else ""
            raise SchemaError(path, f"default names {name!r}, which {kind.fullname!r} does not have{hint}")
    values = {}
    for member in kind.fields:
        if member.name in default:
            value = default[member.name]
        elif member.has_default:
            value = member.default
        else:
            raise SchemaError(path, f"default lacks field {member.name!r} of {kind.fullname!r}, which has no default of its own")
        values[member.name] = default_value(member.type, value, f"{path}.{member.name}", depth + 1)
    return values


def _logical(kind: Primitive | Fixed, base: object, path: str) -> Any:
    convert = from_base(kind)
    if convert is None:
        return base
    try:
        return convert(base)
    except (ValueError, OverflowError, ArithmeticError) as exc:
        raise SchemaError(path, f"default {base!r} does not fit its logical type: {exc}") from exc


def _bytes(default: object, path: str) -> bytes:
    if not isinstance(default, str):
        raise _unfit(path, default, "text with one character (code point 0-255) a byte")
    try:
        return default.encode("latin-1")
    except UnicodeEncodeError:
        raise _unfit(path, default, "text with one character (code point 0-255) a byte") from None


def _unfit(path: str, default: object, expected: str) -> SchemaError:
    return SchemaError(path, f"default {default!r}: expected {expected}")

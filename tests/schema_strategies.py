"""Random schemas, values and evolutions, for every test that compares an Avro decoder of ours with fastavro or with another of ours.

`schemas()` draws schema JSON; `values(kind)` draws values that `Codec.encode` takes; `evolutions(schema)` draws a reader schema to which
every row of the writer resolves; `for_fastavro` turns a value into what fastavro takes and gives; `same` compares decoded values.
"""

from __future__ import annotations

import copy
import math
import struct
import uuid
from datetime import UTC
from decimal import Decimal as PyDecimal
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fondaco.schema.logical import Interval, to_base
from fondaco.schema.misfit import picker
from fondaco.schema.parse import parse
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
from fondaco.schema.vectors import QuantizedVector, vector, vector_dtype

PRIMITIVES = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"]
LOGICAL = [
    {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
    {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 10},
    {"type": "string", "logicalType": "uuid"},
    {"type": "int", "logicalType": "date"},
    {"type": "int", "logicalType": "time-millis"},
    {"type": "long", "logicalType": "time-micros"},
    {"type": "long", "logicalType": "timestamp-millis"},
    {"type": "long", "logicalType": "timestamp-micros"},
    {"type": "long", "logicalType": "timestamp-nanos"},
    {"type": "long", "logicalType": "local-timestamp-millis"},
    {"type": "long", "logicalType": "local-timestamp-micros"},
    {"type": "long", "logicalType": "local-timestamp-nanos"},
]
_PROMOTIONS = {"int": ["long", "float", "double"], "long": ["float", "double"], "float": ["double"], "string": ["bytes"]}


# -- schemas ------------------------------------------------------------------------------------------------------------------------


class _Names:
    def __init__(self) -> None:
        self.count = 0

    def next(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"


@st.composite
def schemas(draw: st.DrawFn, *, depth: int = 3, unions: bool = True, recursive: bool = True, root: str = "record") -> Any:
    """Schema JSON of a record (or, with `root="any"`, of any type).

    `unions=False` leaves only optional ones; `recursive=False` leaves out records that contain themselves.
    """
    names = _Names()
    if root == "any" and draw(st.booleans()):
        return draw(_type(names, depth, unions, recursive))
    return draw(_record(names, depth, unions, recursive))


@st.composite
def _record(draw: st.DrawFn, names: _Names, depth: int, unions: bool, recursive: bool) -> Any:
    name = names.next("Record")
    fields = [
        {"name": f"f{index}", "type": draw(_type(names, depth - 1, unions, recursive))}
        for index in range(draw(st.integers(0, 5 if depth > 1 else 3)))
    ]
    if recursive and draw(st.integers(0, 5)) == 0:
        fields.append({"name": "next", "type": ["null", name]})
    return {"type": "record", "name": name, "fields": fields}


@st.composite
def _type(draw: st.DrawFn, names: _Names, depth: int, unions: bool, recursive: bool) -> Any:
    scalar = st.deferred(lambda: _scalar(names))
    if depth <= 0:
        return draw(scalar)
    kinds = ["scalar", "scalar", "scalar", "optional", "array", "map", "record"] + (["union"] if unions else [])
    inner = _type(names, depth - 1, unions, recursive)
    match draw(st.sampled_from(kinds)):
        case "scalar":
            return draw(scalar)
        case "optional":
            branch = draw(inner.filter(lambda kind: kind != "null" and not isinstance(kind, list)))
            return ["null", branch] if draw(st.booleans()) else [branch, "null"]
        case "array":
            return {"type": "array", "items": draw(inner)}
        case "map":
            return {"type": "map", "values": draw(inner)}
        case "record":
            return draw(_record(names, depth - 1, unions, recursive))
    branches: dict[str, Any] = {}
    for branch in draw(st.lists(inner.filter(lambda kind: not isinstance(kind, list)), min_size=1, max_size=4)):
        branches.setdefault(_identity(branch), branch)
    return list(branches.values())


@st.composite
def _scalar(draw: st.DrawFn, names: _Names) -> Any:
    match draw(st.integers(0, 9)):
        case 0 | 1:
            return copy.deepcopy(draw(st.sampled_from(LOGICAL)))
        case 2:
            symbols = draw(st.lists(st.sampled_from("ABCDEFGH"), min_size=1, max_size=5, unique=True))
            return {"type": "enum", "name": names.next("Enum"), "symbols": symbols}
        case 3:
            return draw(_fixed(names))
        case 4:
            return vector(draw(st.integers(1, 5)), draw(st.sampled_from(["float32", "float16", "bfloat16", "int8"])), names.next("Vector"))
    return draw(st.sampled_from(PRIMITIVES))


@st.composite
def _fixed(draw: st.DrawFn, names: _Names) -> Any:
    name = names.next("Fixed")
    match draw(st.integers(0, 4)):
        case 0:
            return {"type": "fixed", "name": name, "size": 16, "logicalType": "uuid"}
        case 1:
            return {"type": "fixed", "name": name, "size": 12, "logicalType": "duration"}
        case 2:
            return {"type": "fixed", "name": name, "size": 8, "logicalType": "decimal", "precision": 12, "scale": 3}
    return {"type": "fixed", "name": name, "size": draw(st.integers(0, 9))}


def _identity(kind: Any) -> str:
    if isinstance(kind, dict):
        return str(kind.get("name", kind["type"]))
    return str(kind)


# -- values -------------------------------------------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_FLOAT32 = st.floats(width=32)


def values(kind: Type, depth: int = 0) -> st.SearchStrategy[Any]:
    """Values of `kind` as `Codec.encode` takes them and `Codec.decode` gives them (a union's branch is chosen by name)."""
    match kind:
        case Primitive() | Fixed() if kind.logical is not None:
            return _logical_values(kind)
        case Primitive():
            return {
                "null": st.none(),
                "boolean": st.booleans(),
                "int": st.integers(-(1 << 31), (1 << 31) - 1),
                "long": st.one_of(st.integers(-200, 200), st.integers(-(1 << 63), (1 << 63) - 1)),
                "float": _FLOAT32,
                "double": st.floats(),
                "bytes": st.binary(max_size=12),
                "string": _TEXT,
            }[kind.kind]
        case Fixed():
            return st.binary(min_size=kind.size, max_size=kind.size)
        case Enum():
            return st.sampled_from(kind.symbols)
        case Array():
            return st.lists(values(kind.items, depth), max_size=4 if depth < 3 else 0)
        case Map():
            return st.dictionaries(_TEXT, values(kind.values, depth), max_size=3 if depth < 3 else 0)
        case Union():
            branches = list(kind.branches)
            if depth > 2 and kind.null_index is not None:
                return st.none()
            if kind.optional is not None:
                return st.one_of(st.none(), st.deferred(lambda: values(kind.optional, depth + 1)))
            return st.one_of([st.deferred(lambda b=branch: values(b, depth + 1)) for branch in branches])
    return st.fixed_dictionaries({member.name: st.deferred(lambda m=member: values(m.type, depth + 1)) for member in kind.fields})


def _logical_values(kind: Primitive | Fixed) -> st.SearchStrategy[Any]:
    match kind.logical:
        case Decimal(precision, scale):
            bound = 10**precision - 1
            return st.integers(-bound, bound).map(lambda unscaled: PyDecimal(f"{unscaled}E-{scale}"))
        case Uuid():
            return st.binary(min_size=16, max_size=16).map(lambda data: uuid.UUID(bytes=data))
        case Date():
            return st.dates()
        case Time(unit):
            return st.times().map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000) if unit == "millis" else t)
        case Timestamp("nanos", _):
            return st.integers(-(1 << 62), (1 << 62)).map(lambda nanos: np.datetime64(nanos, "ns"))
        case Timestamp(unit, local):
            moments = st.datetimes(timezones=st.none() if local else st.just(UTC))
            return moments.map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000) if unit == "millis" else t)
        case Duration():
            counts = st.integers(0, (1 << 31) - 1)  # Arrow's intervals hold no more
            return st.builds(Interval, counts, counts, counts)
        case Vector(dim, "int8"):
            steps = st.lists(st.integers(-127, 127), min_size=dim, max_size=dim)
            scales = st.floats(2**-20, 2**20, width=32)
            return st.builds(lambda v, scale: QuantizedVector(np.array(v, np.int8), scale), steps, scales)
        case Vector(dim, dtype):
            numbers = st.lists(st.floats(-1000, 1000, width=16), min_size=dim, max_size=dim)
            return numbers.map(lambda items: np.array(items).astype(vector_dtype(dtype)))
    raise AssertionError(kind)


def rows(schema: Any) -> st.SearchStrategy[Any]:
    """Values of a schema given as JSON."""
    return values(parse(schema))


@st.composite
def schemas_and_rows(draw: st.DrawFn, *, count_max: int = 4, **options: Any) -> tuple[Any, list[Any]]:
    """A schema and some of its rows."""
    schema = draw(schemas(**options))
    return schema, draw(st.lists(rows(schema), max_size=count_max))


# -- evolutions ---------------------------------------------------------------------------------------------------------------------


@st.composite
def evolutions(draw: st.DrawFn, schema: Any) -> Any:
    """A reader's schema for rows of `schema`: fields dropped, reordered, added with defaults, renamed by alias, promoted, made optional."""
    return draw(_evolve(copy.deepcopy(schema), _Names()))


@st.composite
def _evolve(draw: st.DrawFn, kind: Any, names: _Names) -> Any:
    if isinstance(kind, list):
        return kind  # evolving branches would be lawful; fastavro and the specification differ in which branch they then take
    if isinstance(kind, str):
        return draw(st.sampled_from([kind, *_PROMOTIONS[kind]])) if kind in _PROMOTIONS else kind
    match kind["type"]:
        case "array":
            return {**kind, "items": draw(_evolve(kind["items"], names))}
        case "map":
            return {**kind, "values": draw(_evolve(kind["values"], names))}
        case "enum" if draw(st.booleans()):
            symbols = draw(st.permutations([*kind["symbols"], "Z"]))
            return {**kind, "symbols": list(symbols), "default": "Z"}
        case "record":
            return draw(_evolve_record(kind, names))
    return kind


@st.composite
def _evolve_record(draw: st.DrawFn, kind: Any, names: _Names) -> Any:
    fields = []
    for member in kind["fields"]:
        action = draw(st.sampled_from(["keep", "keep", "evolve", "drop", "rename", "optional"]))
        if member["name"] == "next" or action == "keep":
            fields.append(member)
        elif action == "evolve":
            fields.append({**member, "type": draw(_evolve(member["type"], names))})
        elif action == "rename":
            fields.append({**member, "name": f"{member['name']}_new", "aliases": [member["name"]]})
        elif action == "optional" and not isinstance(member["type"], list) and member["type"] != "null":
            fields.append({**member, "type": ["null", member["type"]]})
        elif action != "drop":
            fields.append(member)
    for _ in range(draw(st.integers(0, 2))):
        added = draw(
            st.sampled_from(
                [
                    {"type": "long", "default": 7},
                    {"type": "string", "default": "new"},
                    {"type": ["null", "double"], "default": None},
                    {"type": ["double", "null"], "default": 0.5},
                    {"type": {"type": "array", "items": "int"}, "default": [1, 2]},
                    {"type": {"type": "map", "values": "string"}, "default": {"a": "b"}},
                ]
            )
        )
        fields.append({"name": names.next("added"), **copy.deepcopy(added)})
    return {**kind, "fields": draw(st.permutations(fields)) if not _declares_types(fields) else fields}


def _declares_types(fields: list[Any]) -> bool:
    return any("'name'" in repr(member["type"]) for member in fields)


# -- comparing ----------------------------------------------------------------------------------------------------------------------


def for_fastavro(kind: Type, value: Any) -> Any:
    """`value` in the form that fastavro takes and gives: bytes for vectors and durations, plain lists for arrays, ints for nanoseconds."""
    match kind:
        case Fixed() if isinstance(kind.logical, Uuid):
            return to_base(kind)(value)
        case Primitive() | Fixed() if isinstance(kind.logical, Vector | Duration) or kind.logical in (
            Timestamp("nanos"),
            Timestamp("nanos", local=True),
        ):
            return to_base(kind)(value)
        case Array():
            return [for_fastavro(kind.items, item) for item in value]
        case Map():
            return {key: for_fastavro(kind.values, item) for key, item in value.items()}
        case Union():
            index, value = picker(kind)(value)
            return for_fastavro(kind.branches[index], value)
        case Record():
            return {member.name: for_fastavro(member.type, value[member.name]) for member in kind.fields}
    return value


def same(left: Any, right: Any) -> bool:
    """Equality of decoded values: NaN equals NaN, arrays equal lists of the same numbers, -0.0 differs from 0.0."""
    if isinstance(left, QuantizedVector) or isinstance(right, QuantizedVector):
        return bool(left == right)
    if isinstance(left, np.ndarray | list | tuple) and isinstance(right, np.ndarray | list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(_plain(left), _plain(right), strict=True))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, float) and isinstance(right, float):
        return struct.pack("<d", left) == struct.pack("<d", right) or (math.isnan(left) and math.isnan(right))
    return bool(left == right)


def _plain(items: Any) -> Any:
    return items.astype(np.float64).tolist() if isinstance(items, np.ndarray) else items


__all__ = ["evolutions", "for_fastavro", "rows", "same", "schemas", "schemas_and_rows", "values"]

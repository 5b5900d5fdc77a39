"""Arrow: the types of columns <-> the schema of rows, both ways, without loss or not at all.

| Arrow | Avro |
|---|---|
| bool, int32, int64, float, double, string, binary, null | boolean, int, long, float, double, string, bytes, null |
| int8, int16, uint8, uint16; uint32; halffloat | int; long; float |
| large_string, string_view, dictionary of strings; large_binary, binary_view | string; bytes |
| decimal32/64/128/256; date32, date64; time32, time64[us] | decimal; date; time-millis, time-micros |
| timestamp[s, ms, us, ns] with a zone; without | timestamp-...; local-timestamp-... (seconds are kept as millis) |
| duration[...]; month_day_nano_interval | long; duration |
| fixed_size_binary; arrow.uuid | fixed; uuid on fixed |
| fixed_size_list of float or halffloat | vector |
| list, large_list, other fixed_size_list; map with text keys; struct | array; map; record |
| a nullable field; dense_union with children named "0", "1", ... | optional, with default null; union |

The narrower type of a row's leaf is kept as its property `"arrow"` (`{"type": "int", "arrow": "uint8"}`), so the way back is exact.
Refused by name: uint64, time64[ns], sparse unions, run-end encoding, list_view (whose values an array takes), other extension types and map
keys, names that Avro does not allow.
Lists of floats and fixed-size lists stay `array<float>` and `vector` even if Arrow would let their items be null, as `pyarrow.list_` does
unless told otherwise: items that *are* null are refused when they are encoded. A union has no nulls of its own in either world, so whether
Arrow calls its field nullable is not kept.

A schema that was made from Avro carries it in its metadata, so that names, defaults, docs and symbols come back too, as long as the
columns are unchanged. Avro enums become dictionary<int32, string>; int8 vectors become struct<scale, values>; bfloat16 becomes uint16,
marked in the field's metadata. A record that contains itself has no Arrow type.

Thread rule: pure functions. Source: Apache Arrow columnar format 1.5; Apache Avro 1.12.0 specification.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa

from fondaco.core.errors import SchemaError
from fondaco.schema.canonical import full_form
from fondaco.schema.declared import as_type
from fondaco.schema.parse import SCHEMA_DEPTH_MAX, SCHEMA_NODES_MAX, parse
from fondaco.schema.types import (
    NO_DEFAULT,
    Array,
    Date,
    Decimal,
    Duration,
    Enum,
    Field,
    Fixed,
    Logical,
    Map,
    Primitive,
    PrimitiveKind,
    Record,
    Time,
    Timestamp,
    TimeUnit,
    Type,
    Union,
    Uuid,
    Vector,
    VectorDtype,
)

AVRO_KEY: Final = b"fondaco.avro"  # schema metadata: the full form of the Avro schema it was made from
VECTOR_KEY: Final = b"fondaco.vector"  # field metadata: dtype of a vector that Arrow has no type for
_NULLABLE_ITEMS: Final = "arrow.nullable_items"  # property: Arrow would let the items be null

_UNITS: Final[dict[TimeUnit, str]] = {"millis": "ms", "micros": "us", "nanos": "ns"}
_UNITS_BACK: Final[dict[str, TimeUnit]] = {"s": "millis", "ms": "millis", "us": "micros", "ns": "nanos"}
_PRIMITIVES: Final = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
}
_VECTOR_ITEMS: Final[dict[VectorDtype, pa.DataType]] = {
    "float32": pa.float32(),
    "float16": pa.float16(),
    "bfloat16": pa.uint16(),
    "int8": pa.int8(),
}
# Leaves whose Arrow type is narrower than, or another form of, the plain one: what they are in rows.
_VARIANTS: Final[dict[pa.DataType, tuple[PrimitiveKind, Logical | None]]] = {
    pa.int8(): ("int", None),
    pa.int16(): ("int", None),
    pa.uint8(): ("int", None),
    pa.uint16(): ("int", None),
    pa.uint32(): ("long", None),
    pa.float16(): ("float", None),
    pa.large_string(): ("string", None),
    pa.string_view(): ("string", None),
    pa.large_binary(): ("bytes", None),
    pa.binary_view(): ("bytes", None),
    pa.date64(): ("int", Date()),
    pa.time32("s"): ("int", Time("millis")),
    pa.timestamp("s"): ("long", Timestamp("millis", local=True)),
    **{pa.duration(unit): ("long", None) for unit in ("s", "ms", "us", "ns")},
}
_VARIANT_NAMES: Final = {str(arrow): arrow for arrow in _VARIANTS}
_PLAIN: Final[dict[pa.DataType, tuple[PrimitiveKind, Logical | None]]] = {
    **{arrow: (kind, None) for kind, arrow in _PRIMITIVES.items()},  # type: ignore[misc]
    pa.date32(): ("int", Date()),
    pa.time32("ms"): ("int", Time("millis")),
    pa.time64("us"): ("long", Time("micros")),
}
_TIMESTAMP: Final = re.compile(r"timestamp\[(s|ms|us|ns), tz=([^\]]{1,64})\]")
_DICTIONARY: Final = re.compile(r"dictionary<values=(string|large_string), indices=(u?int(?:8|16|32|64)), ordered=([01])>")
_DECIMAL: Final = re.compile(r"decimal(32|64|128|256)\((\d+), (\d+)\)")
_FIXED_LIST: Final = re.compile(r"fixed_size_list\[(\d{1,9})\]")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


# -- Avro to Arrow ------------------------------------------------------------------------------------------------------------------


def to_arrow(schema: object) -> pa.Schema:
    """The Arrow schema of a record's columns.

    Args:
        schema: Avro schema (dict, JSON text) or `Type`.
    Raises:
        SchemaError: not a record, or one that contains itself; names the place.
    """
    kind = as_type(schema)
    if not isinstance(kind, Record):
        raise SchemaError("$", "only a record has columns")
    builder = _ToArrow()
    fields = [builder.field(member.name, member.type, f"$.{member.name}", (kind,)) for member in kind.fields]
    return pa.schema(fields, metadata={AVRO_KEY: full_form(kind).encode()})


def arrow_type(kind: Type) -> pa.DataType:
    """The Arrow type of one column.

    Raises:
        SchemaError: a record that contains itself.
    """
    return _ToArrow().type_of(kind, "$", ())


class _ToArrow:
    def __init__(self) -> None:
        self._count = 0

    def field(self, name: str, kind: Type, path: str, outer: tuple[Record, ...]) -> pa.Field:
        inner = kind.optional if isinstance(kind, Union) else None
        value = inner if inner is not None else kind
        nullable = isinstance(kind, Union) or (isinstance(kind, Primitive) and kind.kind == "null")
        metadata = None
        if isinstance(value, Fixed) and isinstance(value.logical, Vector) and value.logical.dtype in ("bfloat16", "int8"):
            metadata = {VECTOR_KEY: value.logical.dtype.encode()}
        return pa.field(name, self.type_of(value, path, outer), nullable, metadata)

    def type_of(self, kind: Type, path: str, outer: tuple[Record, ...]) -> pa.DataType:
        self._count += 1
        if self._count > SCHEMA_NODES_MAX:
            raise SchemaError(path, f"more than {SCHEMA_NODES_MAX} columns, counted inside lists and structs")
        match kind:
            case Primitive() | Fixed() | Enum():
                return _leaf_type(kind)
            case Array():
                return self._array(kind, path, outer)
            case Map():
                value = self.field("value", kind.values, f"{path}.values", outer)
                keys = pa.large_string() if kind.properties.get("arrow.keys") == "large_string" else pa.string()
                return pa.map_(keys, value, kind.properties.get("arrow") == "map<sorted>")
            case Union():
                fields = [self.field(str(index), branch, f"{path}[{index}]", outer) for index, branch in enumerate(kind.branches)]
                return pa.dense_union(fields)
        if kind in outer:
            raise SchemaError(
                path, f"record {kind.fullname!r} contains itself; Arrow has no such columns. Rows can still be read one by one."
            )
        return pa.struct([self.field(member.name, member.type, f"{path}.{member.name}", (*outer, kind)) for member in kind.fields])

    def _array(self, kind: Array, path: str, outer: tuple[Record, ...]) -> pa.DataType:
        item = self.field("item", kind.items, f"{path}.items", outer)
        if kind.properties.get(_NULLABLE_ITEMS) is True:
            item = item.with_nullable(True)
        variant = kind.properties.get("arrow")
        if variant == "large_list":
            return pa.large_list(item)
        size = _FIXED_LIST.fullmatch(variant) if isinstance(variant, str) else None
        return pa.list_(item, int(size[1])) if size else pa.list_(item)


def _leaf_type(kind: Primitive | Fixed | Enum) -> pa.DataType:
    if isinstance(kind, Enum):
        return pa.dictionary(pa.int32(), pa.string())
    variant = _variant(kind)
    if variant is not None:
        return variant
    match kind.logical:
        case Decimal(precision, scale):
            return pa.decimal128(precision, scale) if precision <= 38 else _decimal256(precision, scale)
        case Uuid():
            return pa.uuid()
        case Date():
            return pa.date32()
        case Time(unit):
            return pa.time32("ms") if unit == "millis" else pa.time64("us")
        case Timestamp(unit, local):
            return pa.timestamp(_UNITS[unit], None if local else "UTC")
        case Duration():
            return pa.month_day_nano_interval()
        case Vector() as vector:
            return _vector_type(vector, kind)
    return _PRIMITIVES[kind.kind] if isinstance(kind, Primitive) else pa.binary(kind.size)


def _vector_type(vector: Vector, kind: Primitive | Fixed) -> pa.DataType:
    nullable = kind.properties.get(_NULLABLE_ITEMS) is True
    items = pa.list_(pa.field("item", _VECTOR_ITEMS[vector.dtype], nullable), vector.dim)
    if vector.dtype != "int8":
        return items
    return pa.struct([pa.field("scale", pa.float32(), False), pa.field("values", items, False)])


def _decimal256(precision: int, scale: int) -> pa.DataType:
    if precision > 76:
        raise SchemaError("$", f"a decimal of {precision} digits; Arrow holds 76 at most")
    return pa.decimal256(precision, scale)


def _variant(kind: Primitive | Fixed) -> pa.DataType | None:
    """The Arrow type that the property `arrow` names, if rows of `kind` can stand for it; any other property is not ours."""
    name = kind.properties.get("arrow")
    if not isinstance(name, str):
        return None
    if isinstance(kind, Primitive) and name in _VARIANT_NAMES:
        arrow = _VARIANT_NAMES[name]
        return arrow if _VARIANTS[arrow] == (kind.kind, kind.logical) else None
    if isinstance(kind.logical, Timestamp) and (match := _TIMESTAMP.fullmatch(name)):
        return pa.timestamp(match[1], match[2]) if kind.logical == Timestamp(_UNITS_BACK[match[1]]) else None
    if isinstance(kind, Primitive) and (kind.kind, kind.logical) == ("string", None) and (match := _DICTIONARY.fullmatch(name)):
        return pa.dictionary(_primitive_named(match[2]), _primitive_named(match[1]), match[3] == "1")
    if isinstance(kind.logical, Decimal) and (match := _DECIMAL.fullmatch(name)):
        if (int(match[2]), int(match[3])) != (kind.logical.precision, kind.logical.scale):
            return None
        try:
            return {"32": pa.decimal32, "64": pa.decimal64, "128": pa.decimal128, "256": pa.decimal256}[match[1]](
                int(match[2]), int(match[3])
            )
        except ValueError:
            return None
    return None


def _primitive_named(name: str) -> pa.DataType:
    return pa.type_for_alias(name)


# -- Arrow to Avro ------------------------------------------------------------------------------------------------------------------


def _schema_of(given: object) -> pa.Schema:
    match given:
        case pa.Schema():
            return given
        case pa.StructType():
            return pa.schema(list(given))
        case pa.Table() | pa.RecordBatch():
            return given.schema
    raise SchemaError("$", f"the columns of rows are declared by a pyarrow.Schema or a struct type, not by a {type(given).__name__}")


def from_arrow(schema: pa.Schema | pa.StructType | pa.Table | pa.RecordBatch, name: str = "Row") -> Record:
    """The record whose rows hold the columns of `schema`.

    Args:
        schema: or what has one: a struct type, a table, a batch.
        name: of the record, if `schema` was not made from an Avro schema. Structs are named after their place (`Row.address`).
    Raises:
        SchemaError: a column that rows cannot hold without loss; names it and says what to cast it to. Or it is none of these.
    """
    schema = _schema_of(schema)
    declared = (schema.metadata or {}).get(AVRO_KEY)
    if declared is not None:
        kind = _declared(declared)
        if kind is not None and to_arrow(kind).equals(schema):
            return kind
    made = parse(full_form(_FromArrow().record(name, list(schema), "$")))  # through text: Avro's own rules are checked on the way
    assert isinstance(made, Record)
    return made


def _declared(text: bytes) -> Record | None:
    try:
        kind = parse(text)
    except SchemaError:
        return None
    return kind if isinstance(kind, Record) else None


class _FromArrow:
    def __init__(self) -> None:
        self._shared: dict[str, Fixed] = {}  # fixed types are named by their shape: equal ones are one type

    def record(self, name: str, fields: list[pa.Field], path: str) -> Record:
        if len(path.split(".")) > SCHEMA_DEPTH_MAX:
            raise SchemaError(path, f"nested deeper than {SCHEMA_DEPTH_MAX} types")
        members: list[Field] = []
        for column in fields:
            place = f"{path}.{column.name}"
            if not _NAME.fullmatch(column.name):
                raise SchemaError(
                    place, f"{column.name!r} cannot name a field: use a letter or '_', then letters, digits, '_'; rename the column"
                )
            if any(member.name == column.name for member in members):
                raise SchemaError(place, f"two columns are named {column.name!r}; rename one")
            kind = self.field(column, place, f"{name}.{column.name}")
            members.append(Field(column.name, kind, None if isinstance(kind, Union) and kind.null_index == 0 else NO_DEFAULT))
        return Record(name, tuple(members))

    def field(self, column: pa.Field, path: str, name: str) -> Type:
        """The type of a column; optional if it is nullable."""
        kind = self.type_of(column.type, path, name, (column.metadata or {}).get(VECTOR_KEY, b"").decode("ascii", "replace"))
        if not column.nullable or isinstance(kind, Union) or (isinstance(kind, Primitive) and kind.kind == "null"):
            return kind
        return Union((Primitive("null"), kind))

    def type_of(self, arrow: pa.DataType, path: str, name: str, mark: str = "") -> Type:
        if mark:
            vector = self._marked(arrow, mark)
            if vector is not None:
                return vector
        if arrow in _PLAIN:
            return Primitive(*_PLAIN[arrow])
        if arrow in _VARIANTS:
            return Primitive(*_VARIANTS[arrow], {"arrow": str(arrow)})
        for accepts, build in _BUILDERS:
            if accepts(arrow):
                return build(self, arrow, path, name)
        raise SchemaError(path, f"rows cannot hold {arrow} without loss; {_REMEDIES.get(str(arrow), 'cast the column, or leave it out')}")

    # -- by kind ----------------------------------------------------------------------------------------------------------------

    def decimal(self, arrow: pa.DataType, path: str, name: str) -> Type:
        if not 0 <= arrow.scale <= arrow.precision:
            raise SchemaError(path, f"{arrow}: Avro's decimals have a scale from 0 to the precision; cast to another scale")
        plain = pa.types.is_decimal128(arrow) if arrow.precision <= 38 else pa.types.is_decimal256(arrow)
        return Primitive("bytes", Decimal(arrow.precision, arrow.scale), {} if plain else {"arrow": str(arrow)})

    def timestamp(self, arrow: pa.TimestampType, path: str, name: str) -> Type:
        logical = Timestamp(_UNITS_BACK[arrow.unit], local=arrow.tz is None)
        return Primitive("long", logical, {} if arrow.unit != "s" and arrow.tz in (None, "UTC") else {"arrow": str(arrow)})

    def dictionary(self, arrow: pa.DictionaryType, path: str, name: str) -> Type:
        if arrow.value_type not in (pa.string(), pa.large_string()):
            raise SchemaError(path, f"{arrow}: only dictionaries of strings are kept; cast the column to {arrow.value_type}")
        return Primitive("string", None, {"arrow": str(arrow)})

    def fixed(self, arrow: pa.FixedSizeBinaryType, path: str, name: str) -> Type:
        return self._once(Fixed(f"fixed_{arrow.byte_width}", arrow.byte_width))

    def uuid(self, arrow: pa.DataType, path: str, name: str) -> Type:
        return self._once(Fixed("uuid", 16, Uuid()))

    def interval(self, arrow: pa.DataType, path: str, name: str) -> Type:
        return self._once(Fixed("duration", 12, Duration()))

    def fixed_list(self, arrow: pa.FixedSizeListType, path: str, name: str) -> Type:
        item, size = arrow.value_field, arrow.list_size
        dtype = _VECTOR_BACK.get(item.type)
        if dtype is not None and size > 0:
            return self._vector(Vector(size, dtype), item.nullable)
        return self._array(item, path, name, f"fixed_size_list[{size}]")

    def list(self, arrow: pa.ListType, path: str, name: str) -> Type:
        return self._array(arrow.value_field, path, name, "large_list" if pa.types.is_large_list(arrow) else None)

    def map(self, arrow: pa.MapType, path: str, name: str) -> Type:
        if arrow.key_type not in (pa.string(), pa.large_string()):
            raise SchemaError(path, f"{arrow}: keys of a map are text; cast them to string")
        properties: dict[str, object] = {"arrow": "map<sorted>"} if arrow.keys_sorted else {}
        if arrow.key_type == pa.large_string():
            properties["arrow.keys"] = "large_string"
        return Map(self.field(arrow.item_field, f"{path}.values", name), properties)

    def struct(self, arrow: pa.StructType, path: str, name: str) -> Type:
        return self.record(name, [arrow.field(index) for index in range(arrow.num_fields)], path)

    def union(self, arrow: pa.UnionType, path: str, name: str) -> Type:
        children = [arrow.field(index) for index in range(arrow.num_fields)]
        expected = [str(index) for index in range(len(children))]
        if [child.name for child in children] != expected or list(arrow.type_codes) != list(range(len(children))) or not children:
            raise SchemaError(
                path, f"{arrow}: Avro's unions keep neither names nor codes; call the children '0', '1', ... with these codes"
            )
        nulls = [child for child in children if child.nullable and not _never_holds_nulls_itself(child.type)]
        if nulls:
            raise SchemaError(path, f"{arrow}: child {nulls[0].name!r} is nullable; make it not nullable and add a child of type null")
        if len(children) == 2 and any(pa.types.is_null(child.type) for child in children):
            raise SchemaError(path, f"{arrow}: a union of null and one type is a nullable column; cast it to that")
        branches = tuple(self.field(child, f"{path}[{child.name}]", f"{name}.branch_{child.name}") for child in children)
        return Union(branches)

    # -- parts ------------------------------------------------------------------------------------------------------------------

    def _array(self, item: pa.Field, path: str, name: str, variant: str | None) -> Array:
        properties: dict[str, object] = {} if variant is None else {"arrow": variant}
        if item.nullable and item.type in (pa.float32(), pa.float64()):
            item = item.with_nullable(False)
            properties[_NULLABLE_ITEMS] = True
        return Array(self.field(item, f"{path}.items", name), properties)

    def _vector(self, vector: Vector, nullable: bool) -> Fixed:
        name = f"vector_{vector.dtype}_{vector.dim}"
        if not nullable:
            return self._once(Fixed(name, vector.size, vector))
        # A type of its own: the same name must not mean two Arrow types.
        return self._once(Fixed(f"{name}_n", vector.size, vector, properties={_NULLABLE_ITEMS: True}))

    def _marked(self, arrow: pa.DataType, mark: str) -> Fixed | None:
        lists = arrow.field(1).type if mark == "int8" and pa.types.is_struct(arrow) and arrow.num_fields == 2 else arrow
        if mark not in ("bfloat16", "int8") or not pa.types.is_fixed_size_list(lists) or lists.list_size < 1:
            return None
        vector = Vector(lists.list_size, "int8" if mark == "int8" else "bfloat16")
        kind = Fixed("", vector.size, vector, properties={_NULLABLE_ITEMS: True} if lists.value_field.nullable else {})
        return self._vector(vector, lists.value_field.nullable) if _vector_type(vector, kind) == arrow else None

    def _once(self, kind: Fixed) -> Fixed:
        return self._shared.setdefault(kind.fullname, kind)


def _never_holds_nulls_itself(arrow: pa.DataType) -> bool:
    return bool(pa.types.is_null(arrow) or pa.types.is_union(arrow))


_VECTOR_BACK: Final[dict[pa.DataType, VectorDtype]] = {pa.float32(): "float32", pa.float16(): "float16"}
_BUILDERS: Final[list[tuple[Callable[[Any], bool], Callable[[_FromArrow, Any, str, str], Type]]]] = [
    (pa.types.is_decimal, _FromArrow.decimal),
    (pa.types.is_timestamp, _FromArrow.timestamp),
    (pa.types.is_dictionary, _FromArrow.dictionary),
    (lambda arrow: arrow == pa.uuid(), _FromArrow.uuid),
    (pa.types.is_fixed_size_binary, _FromArrow.fixed),
    (lambda arrow: arrow == pa.month_day_nano_interval(), _FromArrow.interval),
    (pa.types.is_fixed_size_list, _FromArrow.fixed_list),
    (lambda arrow: pa.types.is_list(arrow) or pa.types.is_large_list(arrow), _FromArrow.list),
    (pa.types.is_map, _FromArrow.map),
    (pa.types.is_struct, _FromArrow.struct),
    (lambda arrow: pa.types.is_union(arrow) and arrow.mode == "dense", _FromArrow.union),
]
_REMEDIES: Final = {
    "uint64": "cast it to int64, or to decimal128(20, 0)",
    "time64[ns]": "cast it to time64[us]",
}

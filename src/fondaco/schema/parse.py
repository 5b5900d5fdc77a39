"""Parsing: Avro schema JSON -> the tree of `types`, with every rule of the specification checked before any row is touched.

What is kept beside the types: aliases, docs, order, defaults as written, and attributes that Avro does not define (as `properties`), so
that `canonical.full_form` gives back everything. A logical type that is unknown or does not fit its base type is ignored, as the
specification asks, and its attributes stay as properties; only our own `vector` is refused when it does not fit, because reading its
bytes as numbers of another width would be silent damage. Hostile schemas are bounded in size, nesting and height.

Thread rule: pure functions. Source: Apache Avro 1.12.0 specification, "Schema Declaration", "Names", "Aliases", "Logical Types".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, cast, get_args

from fondaco.core.errors import SchemaError, near_name
from fondaco.schema.defaults import check_default
from fondaco.schema.types import (
    NO_DEFAULT,
    VECTOR_ITEM_BYTES,
    Array,
    Date,
    Decimal,
    Duration,
    Enum,
    Field,
    Fixed,
    Logical,
    Map,
    Named,
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
)

SCHEMA_BYTES_MAX: Final = 4 << 20  # JSON text of one schema
SCHEMA_NODES_MAX: Final = 65_536
SCHEMA_DEPTH_MAX: Final = 64  # types written inside types
SCHEMA_HEIGHT_MAX: Final = 128  # the same, following references to named types; keeps every walk far below Python's recursion limit

PRIMITIVES: Final[frozenset[str]] = frozenset(get_args(PrimitiveKind))
_COMPLEX: Final = ("record", "error", "enum", "array", "map", "fixed")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME_RULE: Final = "use a letter or '_', then letters, digits, '_'"
_MISSING: Final = object()
_FASTAVRO_MARKS: Final = (
    "__fastavro_parsed",
    "__fastavro_parsed__",
    "__named_schemas",
)  # left in a dict by fastavro.parse_schema; no part of the schema


def parse(schema: object) -> Type:
    """The type that `schema` declares.

    Args:
        schema: JSON text, the value it stands for (dict, list of a union, name of a primitive type), or a Type (returned as it is).
    Raises:
        SchemaError: not a valid Avro schema; `path` leads to the place, as in `$.address.zip`.
    """
    if isinstance(schema, (Primitive, Fixed, Enum, Array, Map, Union, Record)):
        return schema
    parser = _Parser()
    parsed = parser.type_of(_load(schema), "$", "", 0)
    _check_height(parsed)
    for path, kind, default in parser.defaults:
        check_default(kind, default, path)
    return parsed


def _load(schema: object) -> object:
    if isinstance(schema, (bytes, bytearray)):
        schema = bytes(schema).decode("utf-8", errors="replace")
    if not isinstance(schema, str):
        return schema
    if len(schema) > SCHEMA_BYTES_MAX:
        raise SchemaError("$", f"{len(schema)} characters of JSON; at most {SCHEMA_BYTES_MAX} are accepted")
    if _NAME.fullmatch(schema.strip()) and schema.strip() not in ("null", "true", "false"):
        return schema.strip()
    if schema.strip() == "null":
        return "null"
    try:
        return json.loads(schema)
    except RecursionError:
        raise SchemaError("$", f"nested deeper than {SCHEMA_DEPTH_MAX} types") from None
    except ValueError as exc:
        raise SchemaError("$", f"not JSON: {exc}") from exc


class _Parser:
    def __init__(self) -> None:
        self.named: dict[str, Named] = {}
        self.defaults: list[tuple[str, Type, object]] = []  # checked at the end, when every record has its fields
        self._nodes = 0

    def type_of(self, schema: object, path: str, namespace: str, depth: int) -> Type:
        self._nodes += 1
        if depth > SCHEMA_DEPTH_MAX:
            raise SchemaError(path, f"nested deeper than {SCHEMA_DEPTH_MAX} types")
        if self._nodes > SCHEMA_NODES_MAX:
            raise SchemaError(path, f"more than {SCHEMA_NODES_MAX} types in one schema")
        if isinstance(schema, str):
            if schema in PRIMITIVES:
                return Primitive(cast(PrimitiveKind, schema))
            return self._reference(schema, path, namespace)
        if isinstance(schema, Mapping):
            return self._declaration(schema, path, namespace, depth)
        if isinstance(schema, Sequence) and not isinstance(schema, (bytes, bytearray)):
            return self._union(schema, path, namespace, depth)
        raise SchemaError(path, f"a type is a name, an object or a list (union), not {_show(schema)}")

    # -- by shape ---------------------------------------------------------------------------------------------------------------

    def _reference(self, name: str, path: str, namespace: str) -> Named:
        if not name or not all(_NAME.fullmatch(part) for part in name.split(".")):
            raise SchemaError(path, f"{name!r} is not the name of a type")
        candidates = [name] if "." in name or not namespace else [f"{namespace}.{name}", name]
        for candidate in candidates:
            if candidate in self.named:
                return self.named[candidate]
        near = near_name(name, [*PRIMITIVES, *_COMPLEX, *self.named])
        hint = f"; did you mean {near!r}?" if near else "; a named type must be declared before it is referred to"
        raise SchemaError(path, f"unknown type {name!r}{hint}")

    def _union(self, schema: Sequence[object], path: str, namespace: str, depth: int) -> Union:
        branches: list[Type] = []
        seen: set[str] = set()
        for index, branch in enumerate(schema):
            place = f"{path}[{index}]"
            parsed = self.type_of(branch, place, namespace, depth + 1)
            if isinstance(parsed, Union):
                raise SchemaError(place, "a union may not directly contain another union; write its branches here")
            identity = branch_name(parsed)
            if identity in seen:
                raise SchemaError(
                    place, f"a second branch of type {identity!r}; only named types may occur more than once, under different names"
                )
            seen.add(identity)
            branches.append(parsed)
        if not branches:
            raise SchemaError(path, "a union needs at least one branch")
        return Union(tuple(branches))

    def _declaration(self, schema: Mapping[object, object], path: str, namespace: str, depth: int) -> Type:
        if "type" not in schema:
            raise SchemaError(path, f"an object without 'type': {_show(dict(schema))}")
        kind = schema["type"]
        if not isinstance(kind, str):  # {"type": {"type": "array", ...}} and {"type": [...]}, as some tools write
            extra = [str(key) for key in schema if key != "type"]
            if extra:
                raise SchemaError(path, f"attributes {extra} stand beside a nested type; write them inside it")
            return self.type_of(kind, path, namespace, depth + 1)
        attributes = {str(key): value for key, value in schema.items() if key not in _FASTAVRO_MARKS}
        match kind:
            case "record" | "error":
                return self._record(attributes, path, namespace, depth)
            case "enum":
                return self._enum(attributes, path, namespace)
            case "fixed":
                return self._fixed(attributes, path, namespace)
            case "array":
                items = self.type_of(_required(attributes, "items", path), f"{path}.items", namespace, depth + 1)
                _refuse_vector(attributes, path)
                return Array(items, _rest(attributes, "type", "items"))
            case "map":
                values = self.type_of(_required(attributes, "values", path), f"{path}.values", namespace, depth + 1)
                _refuse_vector(attributes, path)
                return Map(values, _rest(attributes, "type", "values"))
        if kind in PRIMITIVES:
            primitive = cast(PrimitiveKind, kind)
            logical = _primitive_logical(primitive, attributes, path)
            return Primitive(primitive, logical, _rest(attributes, "type", *_logical_keys(logical)))
        return self._reference(kind, path, namespace)

    # -- named types ------------------------------------------------------------------------------------------------------------

    def _record(self, attributes: dict[str, object], path: str, namespace: str, depth: int) -> Record:
        fullname, space = self._fullname(attributes, path, namespace)
        record = Record(
            fullname,
            aliases=_aliases(attributes, path, space),
            doc=_doc(attributes, path),
            properties=_rest(attributes, "type", "name", "namespace", "fields", "aliases", "doc"),
        )
        self._define(record, path)
        _refuse_vector(attributes, path)
        declared = _required(attributes, "fields", path)
        if isinstance(declared, (str, bytes)) or not isinstance(declared, Sequence):
            raise SchemaError(path, f"'fields' is a list, not {_show(declared)}")
        names: set[str] = set()
        fields = []
        for index, member in enumerate(declared):
            fields.append(self._field(member, path, index, space, depth))
            if fields[-1].name in names:
                raise SchemaError(path, f"two fields are named {fields[-1].name!r}")
            names.add(fields[-1].name)
        record.fields = tuple(fields)
        return record

    def _field(self, member: object, path: str, index: int, space: str, depth: int) -> Field:
        if not isinstance(member, Mapping):
            raise SchemaError(f"{path}.fields[{index}]", f"a field is an object, not {_show(member)}")
        attributes = {str(key): value for key, value in member.items() if key not in _FASTAVRO_MARKS}
        name = attributes.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SchemaError(
                f"{path}.fields[{index}]", f"{_show(name)} cannot name a field: use a letter or '_', then letters, digits, '_'"
            )
        place = f"{path}.{name}"
        kind = self.type_of(_required(attributes, "type", place), place, space, depth + 1)
        order = attributes.get("order", "ascending")
        if order not in ("ascending", "descending", "ignore"):
            raise SchemaError(place, f"order {_show(order)}; use 'ascending', 'descending' or 'ignore'")
        default = attributes.get("default", NO_DEFAULT)
        if default is not NO_DEFAULT:
            self.defaults.append((place, kind, default))
        return Field(
            name,
            kind,
            default,
            aliases=tuple(_alias_names(attributes, place)),
            doc=_doc(attributes, place),
            order=cast(Literal["ascending", "descending", "ignore"], order),
            properties=_rest(attributes, "name", "type", "default", "aliases", "doc", "order"),
        )

    def _enum(self, attributes: dict[str, object], path: str, namespace: str) -> Enum:
        fullname, space = self._fullname(attributes, path, namespace)
        symbols = _required(attributes, "symbols", path)
        if isinstance(symbols, str) or not isinstance(symbols, Sequence):
            raise SchemaError(path, f"'symbols' is a list of names, not {_show(symbols)}")
        self._nodes += len(symbols)
        if self._nodes > SCHEMA_NODES_MAX:
            raise SchemaError(path, f"more than {SCHEMA_NODES_MAX} types and symbols in one schema")
        for symbol in symbols:
            if not isinstance(symbol, str) or not _NAME.fullmatch(symbol):
                raise SchemaError(path, f"{_show(symbol)} cannot be an enum symbol: {_NAME_RULE}")
        if len(set(symbols)) != len(symbols):
            twice = next(symbol for symbol in symbols if symbols.count(symbol) > 1)
            raise SchemaError(path, f"symbol {twice!r} occurs twice")
        default = attributes.get("default")
        if default is not None and default not in symbols:
            raise SchemaError(path, f"default {_show(default)} is not one of the symbols {list(symbols)}")
        _refuse_vector(attributes, path)
        enum = Enum(
            fullname,
            tuple(symbols),
            cast("str | None", default),
            _aliases(attributes, path, space),
            _doc(attributes, path),
            _rest(attributes, "type", "name", "namespace", "symbols", "default", "aliases", "doc"),
        )
        self._define(enum, path)
        return enum

    def _fixed(self, attributes: dict[str, object], path: str, namespace: str) -> Fixed:
        fullname, space = self._fullname(attributes, path, namespace)
        size = _required(attributes, "size", path)
        if not _is_int(size) or not 0 <= cast(int, size) < 1 << 31:
            raise SchemaError(path, f"'size' is a count of bytes below 2 GiB, not {_show(size)}")
        logical = _fixed_logical(cast(int, size), attributes, path)
        fixed = Fixed(
            fullname,
            cast(int, size),
            logical,
            _aliases(attributes, path, space),
            _rest(attributes, "type", "name", "namespace", "size", "aliases", *_logical_keys(logical)),
        )
        known = self.named.get(fullname)
        if isinstance(known, Fixed) and isinstance(logical, Vector) and known.logical == logical:
            return known  # vector(128) written in two places gives the same name twice; it is the same type
        self._define(fixed, path)
        return fixed

    def _fullname(self, attributes: dict[str, object], path: str, enclosing: str) -> tuple[str, str]:
        name = _required(attributes, "name", path)
        if not isinstance(name, str) or not name or not all(_NAME.fullmatch(part) for part in name.split(".")):
            raise SchemaError(
                path, f"{_show(name)} cannot name a type: use a letter or '_', then letters, digits, '_'; dots separate namespaces"
            )
        if "." in name:
            space, _, simple = name.rpartition(".")
        else:
            declared = attributes.get("namespace", enclosing)
            if declared is None:
                declared = ""
            if not isinstance(declared, str) or (declared and not all(_NAME.fullmatch(part) for part in declared.split("."))):
                raise SchemaError(path, f"{_show(declared)} is not a namespace: use names separated by dots")
            space, simple = declared, name
        if simple in PRIMITIVES:
            raise SchemaError(path, f"{simple!r} is the name of a primitive type; choose another")
        return (f"{space}.{simple}" if space else simple), space

    def _define(self, named: Named, path: str) -> None:
        if named.fullname in self.named:
            raise SchemaError(path, f"type {named.fullname!r} is declared twice; refer to the first declaration by its name")
        self.named[named.fullname] = named


# -- attributes ---------------------------------------------------------------------------------------------------------------------


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _required(attributes: Mapping[str, object], key: str, path: str) -> object:
    value = attributes.get(key, _MISSING)
    if value is _MISSING:
        raise SchemaError(path, f"{attributes.get('type', 'type')} without {key!r}")
    return value


def _rest(attributes: dict[str, object], *known: str) -> dict[str, object]:
    return {key: value for key, value in attributes.items() if key not in known}


def _doc(attributes: dict[str, object], path: str) -> str | None:
    doc = attributes.get("doc")
    if doc is not None and not isinstance(doc, str):
        raise SchemaError(path, f"'doc' is text, not {_show(doc)}")
    return doc


def _alias_names(attributes: dict[str, object], path: str) -> list[str]:
    aliases = attributes.get("aliases", ())
    if isinstance(aliases, str) or not isinstance(aliases, Sequence):
        raise SchemaError(path, f"'aliases' is a list of names, not {_show(aliases)}")
    for alias in aliases:
        if not isinstance(alias, str) or not all(_NAME.fullmatch(part) for part in alias.split(".")):
            raise SchemaError(path, f"{_show(alias)} cannot be an alias: it is not a name")
    return list(aliases)


def _aliases(attributes: dict[str, object], path: str, space: str) -> tuple[str, ...]:
    return tuple(alias if "." in alias or not space else f"{space}.{alias}" for alias in _alias_names(attributes, path))


# -- logical types ------------------------------------------------------------------------------------------------------------------


_ON_PRIMITIVES: Final[dict[tuple[str, object], Logical]] = {
    ("string", "uuid"): Uuid(),
    ("int", "date"): Date(),
    ("int", "time-millis"): Time("millis"),
    ("long", "time-micros"): Time("micros"),
    **{("long", f"timestamp-{unit}"): Timestamp(unit) for unit in get_args(TimeUnit)},
    **{("long", f"local-timestamp-{unit}"): Timestamp(unit, local=True) for unit in get_args(TimeUnit)},
}


def _primitive_logical(kind: PrimitiveKind, attributes: dict[str, object], path: str) -> Logical | None:
    _refuse_vector(attributes, path)
    name = attributes.get("logicalType")
    if name == "decimal" and kind == "bytes":
        return _decimal(attributes, None)
    return _ON_PRIMITIVES.get((kind, name)) if isinstance(name, str) else None


def _fixed_logical(size: int, attributes: dict[str, object], path: str) -> Logical | None:
    match attributes.get("logicalType"):
        case "decimal":
            return _decimal(attributes, size)
        case "uuid" if size == 16:
            return Uuid()
        case "duration" if size == 12:
            return Duration()
        case "vector":
            return _vector(size, attributes, path)
    return None


def _decimal(attributes: dict[str, object], size: int | None) -> Decimal | None:
    precision, scale = attributes.get("precision"), attributes.get("scale", 0)
    if not isinstance(precision, int) or not isinstance(scale, int) or isinstance(precision, bool) or isinstance(scale, bool):
        return None
    if precision <= 0 or not 0 <= scale <= precision:
        return None
    if size is not None and (size == 0 or precision > len(str((1 << (8 * size - 1)) - 1)) - 1):
        return None  # the fixed cannot hold every number of so many digits
    return Decimal(precision, scale)


def _vector(size: int, attributes: dict[str, object], path: str) -> Vector:
    dim, dtype = attributes.get("dim"), attributes.get("dtype", "float32")
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
        raise SchemaError(path, f"a vector needs 'dim', a count of numbers from 1, not {_show(dim)}")
    if not isinstance(dtype, str) or dtype not in VECTOR_ITEM_BYTES:
        raise SchemaError(path, f"vector dtype {_show(dtype)}; use one of {list(VECTOR_ITEM_BYTES)}")
    vector = Vector(dim, dtype)
    if vector.size != size:
        raise SchemaError(path, f"a vector of {dim} {dtype} takes {vector.size} bytes, but 'size' is {size}")
    return vector


def _refuse_vector(attributes: dict[str, object], path: str) -> None:
    if attributes.get("logicalType") == "vector":
        raise SchemaError(
            path, f"'vector' is a logical type of fixed, not of {attributes['type']}; declare it with fondaco.schema.vector(dim)"
        )


def _logical_keys(logical: Logical | None) -> tuple[str, ...]:
    match logical:
        case None:
            return ()
        case Decimal():
            return ("logicalType", "precision", "scale")
        case Vector():
            return ("logicalType", "dim", "dtype")
    return ("logicalType",)


# -- names and heights --------------------------------------------------------------------------------------------------------------


def branch_name(kind: Type) -> str:
    """What tells the branches of a union apart: the full name of a named type, else the kind (`"long"`, `"array"`)."""
    match kind:
        case Primitive():
            return kind.kind
        case Array():
            return "array"
        case Map():
            return "map"
        case Union():
            return "union"
    return kind.fullname


def named_types(root: Type) -> dict[str, Named]:
    """Every named type that `root` reaches, by full name."""
    found: dict[str, Named] = {}
    stack = [root]
    while stack:
        kind = stack.pop()
        if isinstance(kind, Fixed | Enum | Record):
            if kind.fullname in found:
                continue
            found[kind.fullname] = kind
        stack.extend(_children(kind))
    return found


def _children(kind: Type) -> list[Type]:
    match kind:
        case Array():
            return [kind.items]
        case Map():
            return [kind.values]
        case Union():
            return list(kind.branches)
        case Record():
            return [member.type for member in kind.fields]
    return []


def _check_height(root: Type) -> None:
    """Refuse a schema whose types nest too high through references; a way back up (recursion) counts as a leaf."""
    heights: dict[int, int] = {}
    stack: list[tuple[Type, bool]] = [(root, False)]
    while stack:
        kind, leaving = stack.pop()
        if leaving:
            heights[id(kind)] = 1 + max((heights[id(child)] for child in _children(kind)), default=0)
            if heights[id(kind)] > SCHEMA_HEIGHT_MAX:
                raise SchemaError("$", f"types nest deeper than {SCHEMA_HEIGHT_MAX} through references, at {branch_name(kind)!r}")
        elif id(kind) not in heights:
            heights[id(kind)] = 0
            stack.append((kind, True))
            stack.extend((child, False) for child in _children(kind))

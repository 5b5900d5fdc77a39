"""Parsing: what the specification allows is read with all it declares, what it forbids is refused by place."""

from __future__ import annotations

import json
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings

from fondaco.core.errors import SchemaError
from fondaco.schema import parse, vector
from fondaco.schema.canonical import full_form, to_json
from fondaco.schema.parse import SCHEMA_DEPTH_MAX, SCHEMA_HEIGHT_MAX, branch_name, named_types
from fondaco.schema.types import Array, Date, Decimal, Duration, Enum, Fixed, Map, Primitive, Record, Time, Timestamp, Union, Uuid, Vector
from schema_strategies import schemas


def record(*fields: Any, **attributes: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": list(fields), **attributes}


def refused(schema: Any, path: str, reason: str) -> None:
    with pytest.raises(SchemaError) as caught:
        parse(schema)
    assert (caught.value.path, reason in caught.value.reason) == (path, True), str(caught.value)


# -- shapes -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["null", "boolean", "int", "long", "float", "double", "bytes", "string"])
def test_primitive_types_are_read_in_every_spelling(name: str) -> None:
    for spelling in (
        name,
        json.dumps(name),
        {"type": name},
        json.dumps({"type": name}),
        {"type": {"type": name}},
        json.dumps(name).encode(),
    ):
        kind = parse(spelling)
        assert isinstance(kind, Primitive)
        assert kind.kind == name


def test_a_type_is_returned_as_it_is() -> None:
    kind = parse("long")
    assert parse(kind) is kind


def test_a_record_keeps_all_that_it_declares() -> None:
    kind = parse(
        record(
            {"name": "a", "type": "int", "doc": "an a", "order": "descending", "aliases": ["b"], "default": 3, "unit": "km"},
            doc="rows",
            aliases=["Old", "other.Older"],
            namespace="x.y",
            owner={"team": "t"},
        )
    )
    assert isinstance(kind, Record)
    assert (kind.fullname, kind.doc, kind.aliases, kind.properties) == (
        "x.y.R",
        "rows",
        ("x.y.Old", "other.Older"),
        {"owner": {"team": "t"}},
    )
    (member,) = kind.fields
    assert (member.name, member.doc, member.order, member.aliases, member.default) == ("a", "an a", "descending", ("b",), 3)
    assert member.properties == {"unit": "km"}


def test_a_reference_is_the_type_it_names() -> None:
    kind = parse(record({"name": "a", "type": {"type": "enum", "name": "E", "symbols": ["X"]}}, {"name": "b", "type": ["null", "E"]}))
    assert isinstance(kind, Record)
    assert isinstance(kind.fields[1].type, Union)
    assert kind.fields[1].type.branches[1] is kind.fields[0].type


def test_a_record_may_contain_itself() -> None:
    kind = parse(record({"name": "next", "type": ["null", "R"]}, {"name": "children", "type": {"type": "map", "values": "R"}}))
    assert isinstance(kind, Record)
    assert isinstance(kind.fields[1].type, Map)
    assert kind.fields[1].type.values is kind


def test_the_pieces_of_a_union_are_told_apart() -> None:
    kind = parse(
        ["null", {"type": "array", "items": "int"}, {"type": "fixed", "name": "n.F", "size": 2}, {"type": "map", "values": "long"}]
    )
    assert isinstance(kind, Union)
    assert [branch_name(branch) for branch in kind.branches] == ["null", "array", "n.F", "map"]
    assert (kind.null_index, kind.optional) == (0, None)
    assert parse(["string", "null"]).optional.kind == "string"  # type: ignore[union-attr]


# -- names --------------------------------------------------------------------------------------------------------------------------


def test_namespaces_follow_the_rules_of_the_specification() -> None:
    inner = {"type": "fixed", "name": "F", "size": 1}
    kind = parse(
        record(
            {"name": "a", "type": inner},
            {"name": "b", "type": {**inner, "name": "G", "namespace": "other"}},
            {"name": "c", "type": {**inner, "name": "third.H", "namespace": "ignored"}},
            {"name": "d", "type": {**inner, "name": "I", "namespace": ""}},
            {"name": "e", "type": "space.F"},
            {"name": "f", "type": {"type": "record", "name": "deep.S", "fields": [{"name": "x", "type": {**inner, "name": "J"}}]}},
            namespace="space",
        )
    )
    assert sorted(named_types(kind)) == ["I", "deep.J", "deep.S", "other.G", "space.F", "space.R", "third.H"]


def test_a_name_without_namespace_is_found_from_inside_one() -> None:
    fixed = {"type": "fixed", "name": "F", "size": 1, "namespace": ""}
    kind = parse(record({"name": "a", "type": fixed}, {"name": "b", "type": "F"}, namespace="space"))
    assert isinstance(kind, Record)
    assert kind.fields[0].type is kind.fields[1].type
    assert full_form(parse(full_form(kind))) == full_form(kind)


def test_a_vector_may_be_declared_in_several_places() -> None:
    kind = parse(record({"name": "a", "type": vector(3)}, {"name": "b", "type": vector(3)}))
    assert isinstance(kind, Record)
    assert kind.fields[0].type is kind.fields[1].type


@pytest.mark.parametrize(
    ("schema", "path", "reason"),
    [
        ("integer", "$", "unknown type 'integer'; did you mean"),
        ("{not json", "$", "not JSON"),
        (5, "$", "a type is a name, an object or a list"),
        ({}, "$", "an object without 'type'"),
        ({"type": "array"}, "$", "array without 'items'"),
        ({"type": "map"}, "$", "map without 'values'"),
        ({"type": "record", "name": "R"}, "$", "record without 'fields'"),
        ({"type": "record", "fields": []}, "$", "record without 'name'"),
        ({"type": "record", "name": "1R", "fields": []}, "$", "cannot name a type"),
        ({"type": "record", "name": "int", "fields": []}, "$", "name of a primitive type"),
        ({"type": "record", "name": "R", "namespace": "a..b", "fields": []}, "$", "is not a namespace"),
        ({"type": "record", "name": "R", "fields": {}}, "$", "'fields' is a list"),
        ({"type": "record", "name": "R", "doc": 5, "fields": []}, "$", "'doc' is text"),
        ({"type": "record", "name": "R", "aliases": "S", "fields": []}, "$", "'aliases' is a list"),
        (record({"name": "a-b", "type": "int"}), "$.fields[0]", "cannot name a field"),
        (record({"name": "a"}), "$.a", "without 'type'"),
        (record({"name": "a", "type": "int"}, {"name": "a", "type": "int"}), "$", "two fields are named 'a'"),
        (record({"name": "a", "type": "int", "order": "up"}), "$.a", "order 'up'"),
        (record({"name": "a", "type": {"type": "array", "items": "flot"}}), "$.a.items", "did you mean 'float'"),
        (record({"name": "a", "type": {"type": "map", "values": ["int", ["null"]]}}), "$.a.values[1]", "another union"),
        (record({"name": "a", "type": ["int", "int"]}), "$.a[1]", "second branch of type 'int'"),
        (["null", {"type": "array", "items": "int"}, {"type": "array", "items": "long"}], "$[2]", "second branch of type 'array'"),
        ([], "$", "at least one branch"),
        ({"type": "enum", "name": "E", "symbols": ["A", "A"]}, "$", "'A' occurs twice"),
        ({"type": "enum", "name": "E", "symbols": ["a b"]}, "$", "cannot be an enum symbol"),
        ({"type": "enum", "name": "E", "symbols": ["A"], "default": "B"}, "$", "default 'B' is not one of the symbols"),
        ({"type": "enum", "name": "E", "symbols": "A"}, "$", "'symbols' is a list"),
        ({"type": "fixed", "name": "F"}, "$", "fixed without 'size'"),
        ({"type": "fixed", "name": "F", "size": -1}, "$", "'size' is a count of bytes"),
        ({"type": "fixed", "name": "F", "size": True}, "$", "'size' is a count of bytes"),
        ({"type": {"type": "int"}, "doc": "lost"}, "$", "write them inside"),
        (record({"name": "a", "type": {"type": "record", "name": "R", "fields": []}}), "$.a", "'R' is declared twice"),
    ],
)
def test_what_is_no_schema_is_refused_by_place(schema: Any, path: str, reason: str) -> None:
    refused(schema, path, reason)


# -- logical types ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "logical"),
    [
        ({"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2}, Decimal(5, 2)),
        ({"type": "bytes", "logicalType": "decimal", "precision": 5}, Decimal(5, 0)),
        ({"type": "fixed", "name": "F", "size": 4, "logicalType": "decimal", "precision": 9}, Decimal(9)),
        ({"type": "string", "logicalType": "uuid"}, Uuid()),
        ({"type": "fixed", "name": "F", "size": 16, "logicalType": "uuid"}, Uuid()),
        ({"type": "int", "logicalType": "date"}, Date()),
        ({"type": "int", "logicalType": "time-millis"}, Time("millis")),
        ({"type": "long", "logicalType": "time-micros"}, Time("micros")),
        ({"type": "long", "logicalType": "timestamp-millis"}, Timestamp("millis")),
        ({"type": "long", "logicalType": "timestamp-nanos"}, Timestamp("nanos")),
        ({"type": "long", "logicalType": "local-timestamp-micros"}, Timestamp("micros", local=True)),
        ({"type": "fixed", "name": "F", "size": 12, "logicalType": "duration"}, Duration()),
        (vector(3, "int8"), Vector(3, "int8")),
    ],
)
def test_logical_types_are_read_and_written_back(schema: Any, logical: object) -> None:
    kind = parse(schema)
    assert isinstance(kind, Primitive | Fixed)
    assert (kind.logical, kind.properties) == (logical, {})
    assert parse(full_form(kind)).logical == logical  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "bytes", "logicalType": "decimal"},
        {"type": "bytes", "logicalType": "decimal", "precision": 0},
        {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 4},
        {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": -1},
        {"type": "fixed", "name": "F", "size": 4, "logicalType": "decimal", "precision": 10},
        {"type": "string", "logicalType": "date"},
        {"type": "fixed", "name": "F", "size": 15, "logicalType": "uuid"},
        {"type": "long", "logicalType": "time-millis"},
        {"type": "bytes", "logicalType": "something-new", "level": 3},
    ],
)
def test_a_logical_type_that_does_not_fit_is_ignored_and_kept(schema: Any) -> None:
    kind = parse(schema)
    assert isinstance(kind, Primitive | Fixed)
    assert kind.logical is None
    assert kind.properties["logicalType"] == schema["logicalType"]
    assert set(to_json(kind).items()) == set(schema.items())


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({**vector(4), "size": 15}, "a vector of 4 float32 takes 16 bytes, but 'size' is 15"),
        ({**vector(4), "dim": 0}, "'dim', a count of numbers"),
        ({**vector(4), "dtype": "float64"}, "vector dtype 'float64'; use one of"),
        ({**vector(4), "dtype": []}, "vector dtype []"),
        ({"type": "bytes", "logicalType": "vector", "dim": 4}, "'vector' is a logical type of fixed, not of bytes"),
        ({"type": "array", "items": "float", "logicalType": "vector"}, "not of array"),
    ],
)
def test_a_vector_that_does_not_fit_is_refused(schema: Any, reason: str) -> None:
    refused(schema, "$", reason)


# -- defaults -----------------------------------------------------------------------------------------------------------------------

POINT = {"type": "record", "name": "P", "fields": [{"name": "x", "type": "int"}, {"name": "y", "type": "int", "default": 2}]}


@pytest.mark.parametrize(
    ("kind", "default"),
    [
        ("null", None),
        ("boolean", False),
        ("int", -(1 << 31)),
        ("float", 1),
        ("double", 1.5),
        ("bytes", "\x00ÿ"),
        ("string", "é"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "A"),
        ({"type": "array", "items": "int"}, [1, 2]),
        ({"type": "map", "values": "int"}, {"a": 1}),
        ({"type": "fixed", "name": "F", "size": 2}, "ab"),
        (["null", "string"], None),
        (["null", "string"], "1.12 allows any branch"),
        (POINT, {"x": 1}),
        ({"type": "string", "logicalType": "uuid"}, "00000000-0000-0000-0000-000000000000"),
        ({"type": "int", "logicalType": "date"}, 0),
    ],
)
def test_defaults_that_fit_are_kept_as_written(kind: Any, default: Any) -> None:
    parsed = parse(record({"name": "a", "type": kind, "default": default}))
    assert isinstance(parsed, Record)
    assert parsed.fields[0].has_default
    assert parsed.fields[0].default == default


@pytest.mark.parametrize(
    ("kind", "default", "path", "reason"),
    [
        ("null", 0, "$.a", "expected null"),
        ("boolean", 1, "$.a", "expected true or false"),
        ("int", 1 << 31, "$.a", "expected an int (32 bits)"),
        ("int", True, "$.a", "expected an int"),
        ("long", 1.0, "$.a", "expected an long"),
        ("float", "1", "$.a", "expected a finite number"),
        ("float", 1e39, "$.a", "that a float (32 bits) can hold"),
        ("double", float("nan"), "$.a", "expected a finite number"),
        ("bytes", "Ā", "$.a", "code point 0-255"),
        ("string", b"x", "$.a", "expected text"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "B", "$.a", "not one of the symbols"),
        ({"type": "array", "items": "int"}, [1, "x"], "$.a[1]", "expected an int"),
        ({"type": "map", "values": "int"}, {"k": None}, "$.a['k']", "expected an int"),
        ({"type": "fixed", "name": "F", "size": 2}, "abc", "$.a", "3 bytes for a fixed of 2"),
        (["null", "int"], "x", "$.a", "fits no branch"),
        (POINT, {}, "$.a", "lacks field 'x'"),
        (POINT, {"x": 1, "yy": 2}, "$.a", "did you mean 'y'"),
        (POINT, {"x": "1"}, "$.a.x", "expected an int"),
        ({"type": "string", "logicalType": "uuid"}, "abc", "$.a", "does not fit its logical type"),
    ],
)
def test_defaults_that_do_not_fit_are_refused(kind: Any, default: Any, path: str, reason: str) -> None:
    refused(record({"name": "a", "type": kind, "default": default}), path, reason)


def test_a_default_may_be_of_a_record_that_is_declared_around_it() -> None:
    parse(record({"name": "next", "type": ["null", "R"], "default": {"next": {"next": None}}}))
    refused(record({"name": "next", "type": "R", "default": {}}), "$" + ".next" * 66, "nests deeper than 64")


# -- bounds -------------------------------------------------------------------------------------------------------------------------


def test_hostile_nesting_and_size_are_refused() -> None:
    deep: Any = "int"
    for _ in range(SCHEMA_DEPTH_MAX + 1):
        deep = {"type": "array", "items": deep}
    refused(deep, "$" + ".items" * (SCHEMA_DEPTH_MAX + 1), "nested deeper than 64")
    refused("[" * 100_000, "$", "nested deeper than")
    refused(" " * (5 << 20), "$", "characters of JSON")
    refused(
        {"type": "map", "values": {"type": "enum", "name": "E", "symbols": [f"S{i}" for i in range(70_000)]}}, "$.values", "more than 65536"
    )
    refused(record(*({"name": f"f{i}", "type": "int"} for i in range(70_000))), "$.f65535", "more than 65536 types")


def test_types_that_nest_through_references_are_bounded_too() -> None:
    def chain(count: int) -> list[Any]:
        first = {"type": "record", "name": "R0", "fields": []}
        rest = [{"type": "record", "name": f"R{i}", "fields": [{"name": "x", "type": f"R{i - 1}"}]} for i in range(1, count)]
        return [first, *rest]

    parse(chain(SCHEMA_HEIGHT_MAX - 1))
    refused(chain(SCHEMA_HEIGHT_MAX + 1), "$", "through references")


# -- against others -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(schema=schemas(root="any"))
def test_any_schema_is_read_back_from_its_full_form_and_taken_by_fastavro(schema: Any) -> None:
    kind = parse(schema)
    assert full_form(parse(full_form(kind))) == full_form(kind)
    fastavro.parse_schema(to_json(kind))


def test_a_schema_parsed_by_fastavro_is_taken_too() -> None:
    parsed = fastavro.parse_schema(record({"name": "a", "type": "int"}))
    assert full_form(parse(parsed)) == full_form(parse(record({"name": "a", "type": "int"})))


def test_array_and_map_keep_unknown_attributes() -> None:
    kind = parse({"type": "array", "items": {"type": "map", "values": "int", "java-class": "x"}, "note": 1})
    assert isinstance(kind, Array)
    assert kind.properties == {"note": 1}
    assert isinstance(kind.items, Map)
    assert kind.items.properties == {"java-class": "x"}


def test_an_enum_keeps_its_default() -> None:
    kind = parse({"type": "enum", "name": "E", "symbols": ["A", "B"], "default": "B", "doc": "d"})
    assert isinstance(kind, Enum)
    assert (kind.symbols, kind.default, kind.doc) == (("A", "B"), "B", "d")

"""Resolution: which rows of a writer a reader can see, and as what."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import DecodeError, SchemaResolutionError
from fondaco.schema import Codec, parse, resolve, vector
from fondaco.schema.resolution import ReadRecord, ReadUnion, Refuse, WrapUnion, min_step_size, min_wire_size
from fondaco.schema.types import Record
from schema_strategies import evolutions, rows, same, schemas


def record(*fields: Any, name: str = "R", **attributes: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **attributes}


def field(name: str, kind: Any, **attributes: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **attributes}


def enum(*symbols: str, name: str = "E", **attributes: Any) -> dict[str, Any]:
    return {"type": "enum", "name": name, "symbols": list(symbols), **attributes}


def read(writer: Any, reader: Any, value: Any) -> Any:
    codec = Codec(writer, reader)
    return codec.decode(codec.encode(value))


def refused(writer: Any, reader: Any, path: str, reason: str) -> None:
    with pytest.raises(SchemaResolutionError) as caught:
        resolve(parse(writer), parse(reader))
    assert (caught.value.path, reason in caught.value.reason) == (path, True), str(caught.value)


# -- records ------------------------------------------------------------------------------------------------------------------------


def test_fields_are_matched_by_name_reordered_dropped_and_filled() -> None:
    writer = record(field("a", "int"), field("b", "string"), field("c", "long"))
    reader = record(field("c", "long"), field("d", "string", default="new"), field("a", "int"))
    assert read(writer, reader, {"a": 1, "b": "x", "c": 3}) == {"c": 3, "d": "new", "a": 1}


def test_a_field_without_default_must_come_from_the_writer() -> None:
    refused(record(field("a", "int")), record(field("a", "int"), field("b", "int")), "$.b", "has no default; give it one")


def test_a_renamed_field_is_found_by_the_readers_alias() -> None:
    writer = record(field("old", "int"), field("b", "int"))
    assert read(writer, record(field("new", "int", aliases=["older", "old"])), {"old": 1, "b": 2}) == {"new": 1}


def test_a_name_comes_before_an_alias() -> None:
    writer = record(field("a", "int"), field("b", "int"))
    reader = record(field("b", "int"), field("c", "int", aliases=["b"], default=9))
    assert read(writer, reader, {"a": 1, "b": 2}) == {"b": 2, "c": 9}


def test_records_match_by_unqualified_name_or_alias() -> None:
    assert read(record(field("a", "int"), name="x.R"), record(field("a", "int"), name="y.R"), {"a": 1}) == {"a": 1}
    assert read(record(field("a", "int"), name="x.Old"), record(field("a", "int"), name="New", aliases=["x.Old"]), {"a": 1}) == {"a": 1}
    refused(record(field("a", "int"), name="S"), record(field("a", "int")), "$", "the names differ; add 'S' to the reader's aliases")


def test_names_may_be_disregarded_for_readers_whose_names_were_invented() -> None:
    writer, reader = parse(record(field("a", "int"), name="S")), parse(record(field("a", "int")))
    assert isinstance(resolve(writer, reader, match_names=False), ReadRecord)


def test_a_recursive_schema_resolves_to_a_cycle() -> None:
    writer = record(field("x", "int"), field("next", ["null", "R"]))
    reader = record(field("next", ["null", "R"]), field("x", "long"))
    step = resolve(parse(writer), parse(reader))
    assert isinstance(step, ReadRecord)
    inner = step.members[1].step
    assert isinstance(inner, ReadUnion)
    assert inner.branches[1] is step
    assert read(writer, reader, {"x": 1, "next": {"x": 2, "next": None}}) == {"next": {"next": None, "x": 2}, "x": 1}


def test_defaults_reach_into_nested_records() -> None:
    inner = record(field("p", "int"), field("q", {"type": "array", "items": "double"}, default=[1, 2]), name="I")
    decoded = read(record(), record(field("i", inner, default={"p": 5})), {})
    assert decoded["i"]["p"] == 5
    assert decoded["i"]["q"].tolist() == [1, 2]


# -- other types --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("writer", "reader"), [("long", "int"), ("double", "float"), ("int", "string"), ("boolean", "int"), ("null", "int")]
)
def test_only_the_promotions_of_the_specification_are_made(writer: str, reader: str) -> None:
    refused(writer, reader, "$", f"the writer's {writer} cannot be read as {reader}")


def test_fixed_types_match_by_name_and_size() -> None:
    fixed = {"type": "fixed", "name": "F", "size": 2}
    assert read(fixed, {**fixed, "name": "other.F"}, b"ab") == b"ab"
    refused(fixed, {**fixed, "size": 3}, "$", "has 3 bytes, the writer's has 2")
    refused(fixed, {**fixed, "name": "G"}, "$", "the names differ")


def test_enum_symbols_are_matched_by_name_and_unknown_ones_take_the_default() -> None:
    assert read(enum("A", "B"), enum("B", "A"), "B") == "B"
    assert read(enum("A", "B"), enum("A", "C", default="C"), "B") == "C"
    codec = Codec(enum("A", "B"), enum("A"))
    assert codec.decode(codec.encode("A")) == "A"
    with pytest.raises(DecodeError, match="unknown to the reader, which has no default"):
        codec.decode(codec.encode("B"))


def test_items_and_values_are_resolved_inside() -> None:
    assert read({"type": "array", "items": "int"}, {"type": "array", "items": "double"}, [1, 2]).tolist() == [1.0, 2.0]
    assert read({"type": "map", "values": "int"}, {"type": "map", "values": ["null", "long"]}, {"a": 1}) == {"a": 1}
    refused({"type": "array", "items": "string"}, {"type": "array", "items": "int"}, "$.items", "cannot be read as int")


# -- unions -------------------------------------------------------------------------------------------------------------------------


def test_a_plain_value_is_read_into_a_union() -> None:
    step = resolve(parse("int"), parse(["null", "string", "long"]))
    assert isinstance(step, WrapUnion)
    assert step.target_index == 2
    assert read("int", ["null", "long"], 5) == 5
    refused("boolean", ["null", "string"], "$", "fits no branch of the reader's union of null, string")


def test_the_readers_branch_of_the_very_type_comes_before_a_promotion() -> None:
    assert isinstance(read("int", ["double", "int"], 5), int)
    assert isinstance(read("int", ["string", "double"], 5), float)


def test_a_union_is_read_as_a_plain_type_until_a_value_has_no_place() -> None:
    codec = Codec(["null", "int"], "long")
    assert codec.decode(codec.encode(5)) == 5
    with pytest.raises(DecodeError, match="no place for this value"):
        codec.decode(codec.encode(None))
    refused(["null", "string"], "long", "$", "no branch of the writer's union")


def test_unions_are_matched_branch_by_branch() -> None:
    writer = ["null", record(field("a", "int"), name="A"), record(field("b", "int"), name="B")]
    reader = [record(field("b", "long"), field("c", "int", default=1), name="B"), "null", record(field("a", "int"), name="A")]
    step = resolve(parse(writer), parse(reader))
    assert isinstance(step, ReadUnion)
    assert step.targets == (1, 2, 0)
    assert read(writer, reader, ("B", {"b": 2})) == {"b": 2, "c": 1}


def test_a_branch_that_cannot_be_resolved_gives_way_to_the_next() -> None:
    writer = record(field("a", "int"))
    reader = [record(field("a", "int"), field("needed", "int")), record(field("a", "int"), name="other.R")]
    assert read(writer, reader, {"a": 1}) == {"a": 1}
    refusing = resolve(parse(["int", "string"]), parse(["int"]))
    assert isinstance(refusing, ReadUnion)
    assert isinstance(refusing.branches[1], Refuse)


# -- logical types ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ({"type": "long", "logicalType": "timestamp-millis"}, {"type": "long", "logicalType": "timestamp-micros"}),
        ({"type": "long", "logicalType": "timestamp-millis"}, {"type": "long", "logicalType": "local-timestamp-millis"}),
        ({"type": "int", "logicalType": "date"}, {"type": "long", "logicalType": "timestamp-millis"}),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
            {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 3},
        ),
        (vector(4, "float32", "V"), {**vector(8, "float16", "V")}),
    ],
)
def test_a_change_of_meaning_is_refused(writer: Any, reader: Any) -> None:
    refused(writer, reader, "$", "values would change their meaning")


def test_a_logical_type_on_one_side_is_the_readers_choice() -> None:
    stamp = {"type": "long", "logicalType": "timestamp-millis"}
    codec = Codec(stamp, "long")
    assert codec.decode(codec.encode(5)) == 5
    assert Codec("int", stamp).decode(b"\x02").isoformat() == "1970-01-01T00:00:00.001000+00:00"


# -- in general ---------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data())
def test_every_evolution_reads_every_row_and_the_identity_changes_none(data: st.DataObject) -> None:
    writer = data.draw(schemas())
    reader = data.draw(evolutions(writer))
    row = data.draw(rows(writer))
    encoded = Codec(writer).encode(row)
    assert same(Codec(writer, writer).decode(encoded), row)
    decoded = Codec(writer, reader).decode(encoded)
    kind = parse(reader)
    assert isinstance(kind, Record)
    assert list(decoded) == [member.name for member in kind.fields]


@settings(max_examples=60)
@given(data=st.data())
def test_no_value_takes_fewer_bytes_than_its_schema_says(data: st.DataObject) -> None:
    schema = data.draw(schemas(root="any"))
    kind = parse(schema)
    assert len(Codec(schema).encode(data.draw(rows(schema)))) >= min_wire_size(kind) == min_step_size(resolve(kind))


def test_resolving_unions_inside_unions_does_not_take_exponential_time() -> None:
    def nest(depth: int, leaf: str) -> Any:
        kind: Any = record(field("x", leaf), name=f"R{depth}")
        for level in reversed(range(depth)):
            kind = record(field("a", ["null", kind]), field("b", ["null", f"R{level + 1}"]), name=f"R{level}")
        return kind

    writer, reader = parse(nest(25, "string")), parse(nest(25, "int"))
    step = resolve(writer, reader)  # every null branch resolves, no record does
    assert isinstance(step, ReadRecord)

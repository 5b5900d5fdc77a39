"""Arrow types and Avro schemas: there and back without loss, or refused by name."""

from __future__ import annotations

import itertools
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import SchemaError
from fondaco.schema import Codec, from_arrow, full_form, parse, to_arrow, vector
from fondaco.schema.arrow import AVRO_KEY, arrow_type
from fondaco.schema.canonical import to_json
from fondaco.schema.types import Record
from schema_strategies import rows, same, schemas


def avro_of(arrow: pa.DataType, nullable: bool = False) -> Any:
    """The Avro schema, as JSON, of one column."""
    return to_json(from_arrow(pa.schema([pa.field("x", arrow, nullable or pa.types.is_null(arrow))])).fields[0].type)


# -- Arrow to Avro ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrow", "avro"),
    [
        (pa.null(), "null"),
        (pa.bool_(), "boolean"),
        (pa.int32(), "int"),
        (pa.int64(), "long"),
        (pa.float32(), "float"),
        (pa.float64(), "double"),
        (pa.string(), "string"),
        (pa.binary(), "bytes"),
        (pa.int8(), {"type": "int", "arrow": "int8"}),
        (pa.uint16(), {"type": "int", "arrow": "uint16"}),
        (pa.uint32(), {"type": "long", "arrow": "uint32"}),
        (pa.float16(), {"type": "float", "arrow": "halffloat"}),
        (pa.large_string(), {"type": "string", "arrow": "large_string"}),
        (pa.binary_view(), {"type": "bytes", "arrow": "binary_view"}),
        (pa.date32(), {"type": "int", "logicalType": "date"}),
        (pa.date64(), {"type": "int", "logicalType": "date", "arrow": "date64[ms]"}),
        (pa.time32("s"), {"type": "int", "logicalType": "time-millis", "arrow": "time32[s]"}),
        (pa.time64("us"), {"type": "long", "logicalType": "time-micros"}),
        (pa.timestamp("us", "UTC"), {"type": "long", "logicalType": "timestamp-micros"}),
        (pa.timestamp("ns"), {"type": "long", "logicalType": "local-timestamp-nanos"}),
        (pa.timestamp("s"), {"type": "long", "logicalType": "local-timestamp-millis", "arrow": "timestamp[s]"}),
        (
            pa.timestamp("ms", "Europe/Paris"),
            {"type": "long", "logicalType": "timestamp-millis", "arrow": "timestamp[ms, tz=Europe/Paris]"},
        ),
        (pa.duration("us"), {"type": "long", "arrow": "duration[us]"}),
        (pa.decimal128(9, 2), {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}),
        (pa.decimal32(5, 2), {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2, "arrow": "decimal32(5, 2)"}),
        (pa.decimal256(50, 2), {"type": "bytes", "logicalType": "decimal", "precision": 50, "scale": 2}),
        (pa.binary(5), {"name": "fixed_5", "type": "fixed", "size": 5}),
        (pa.uuid(), {"name": "uuid", "type": "fixed", "size": 16, "logicalType": "uuid"}),
        (pa.month_day_nano_interval(), {"name": "duration", "type": "fixed", "size": 12, "logicalType": "duration"}),
        (pa.list_(pa.int32()), {"type": "array", "items": ["null", "int"]}),
        (pa.list_(pa.float32()), {"type": "array", "items": "float", "arrow.nullable_items": True}),
        (pa.large_list(pa.field("i", pa.int32(), False)), {"type": "array", "items": "int", "arrow": "large_list"}),
        (pa.map_(pa.string(), pa.int32()), {"type": "map", "values": ["null", "int"]}),
        (pa.list_(pa.field("item", pa.float32(), False), 3), dict(vector(3))),
        (pa.list_(pa.field("item", pa.float64(), False), 3), {"type": "array", "items": "double", "arrow": "fixed_size_list[3]"}),
        (pa.dense_union([pa.field("0", pa.int32(), False), pa.field("1", pa.string(), False)]), ["int", "string"]),
    ],
)
def test_arrow_types_have_their_avro_types(arrow: pa.DataType, avro: Any) -> None:
    expected = avro if isinstance(avro, (str, list)) else dict(avro)
    assert avro_of(arrow) == expected


def test_a_nullable_column_is_optional_with_a_null_default() -> None:
    (member,) = from_arrow(pa.schema([("x", pa.int64())])).fields
    assert (to_json(member.type), member.default) == (["null", "long"], None)


def test_structs_are_records_named_after_their_place() -> None:
    inner = pa.struct([pa.field("zip", pa.int32(), False)])
    kind = from_arrow(
        pa.schema([pa.field("address", inner, False), pa.field("others", pa.list_(pa.field("i", inner, False)), False)]), "Member"
    )
    assert [to_json(kind)["fields"][i]["type"] for i in (0, 1)] == [
        {"name": "Member.address", "type": "record", "fields": [{"name": "zip", "type": "int"}]},
        {"type": "array", "items": {"name": "Member.others", "type": "record", "fields": [{"name": "zip", "type": "int"}]}},
    ]


def test_equal_vectors_are_one_type() -> None:
    kind = from_arrow(pa.schema([("a", pa.list_(pa.float32(), 4)), ("b", pa.list_(pa.float32(), 4))]))
    assert full_form(parse(full_form(kind))) == full_form(kind)


@pytest.mark.parametrize(
    ("arrow", "path", "reason"),
    [
        (pa.uint64(), "$.x", "cast it to int64, or to decimal128(20, 0)"),
        (pa.time64("ns"), "$.x", "cast it to time64[us]"),
        (pa.decimal128(5, -2), "$.x", "scale from 0 to the precision"),
        (pa.dictionary(pa.int8(), pa.int64()), "$.x", "only dictionaries of strings"),
        (pa.map_(pa.int32(), pa.int32()), "$.x", "keys of a map are text"),
        (pa.sparse_union([pa.field("0", pa.int32(), False)]), "$.x", "without loss"),
        (pa.dense_union([pa.field("a", pa.int32(), False)]), "$.x", "call the children '0', '1'"),
        (pa.dense_union([pa.field("0", pa.int32())]), "$.x", "child '0' is nullable"),
        (pa.dense_union([pa.field("0", pa.null()), pa.field("1", pa.int32(), False)]), "$.x", "a nullable column"),
        (pa.dense_union([pa.field("0", pa.int32(), False), pa.field("1", pa.int16(), False)]), "$.x[1]", "second branch of type 'int'"),
        (pa.run_end_encoded(pa.int32(), pa.int64()), "$.x", "without loss"),
        (pa.struct([pa.field("y", pa.uint64())]), "$.x.y", "cast it to int64"),
        (pa.list_(pa.struct([pa.field("a b", pa.int8())])), "$.x.items.a b", "rename the column"),
    ],
)
def test_what_rows_cannot_hold_is_refused_by_name(arrow: pa.DataType, path: str, reason: str) -> None:
    with pytest.raises(SchemaError) as caught:
        from_arrow(pa.schema([pa.field("x", arrow, nullable=False)]))
    assert (caught.value.path, reason in caught.value.reason) == (path, True), str(caught.value)


def test_columns_need_names_that_avro_allows() -> None:
    with pytest.raises(SchemaError, match=r"\$\.dep time: 'dep time' cannot name a field"):
        from_arrow(pa.schema([("dep time", pa.int64())]))
    with pytest.raises(SchemaError, match="two columns are named 'a'"):
        from_arrow(pa.schema([("a", pa.int64()), ("a", pa.int64())]))


def test_hostile_depth_is_refused() -> None:
    deep: pa.DataType = pa.int32()
    for _ in range(100):
        deep = pa.struct([pa.field("x", deep, False)])
    with pytest.raises(SchemaError, match="nested deeper"):
        from_arrow(pa.schema([pa.field("x", deep, False)]))


# -- Avro to Arrow ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("avro", "arrow"),
    [
        ({"type": "enum", "name": "E", "symbols": ["A"]}, pa.dictionary(pa.int32(), pa.string())),
        ({"type": "string", "logicalType": "uuid"}, pa.uuid()),
        ({"type": "fixed", "name": "F", "size": 3}, pa.binary(3)),
        (["int", "string"], pa.dense_union([pa.field("0", pa.int32(), False), pa.field("1", pa.string(), False)])),
        (vector(3, "float16"), pa.list_(pa.field("item", pa.float16(), False), 3)),
        (vector(3, "bfloat16"), pa.list_(pa.field("item", pa.uint16(), False), 3)),
        (
            vector(3, "int8"),
            pa.struct([pa.field("scale", pa.float32(), False), pa.field("values", pa.list_(pa.field("item", pa.int8(), False), 3), False)]),
        ),
        ({"type": "int", "arrow": "uint8"}, pa.uint8()),
        ({"type": "long", "arrow": "uint8"}, pa.int64()),  # does not fit: not ours
        ({"type": "int", "arrow": {"level": 3}}, pa.int32()),
        ({"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2, "arrow": "decimal32(9, 2)"}, pa.decimal128(5, 2)),
        ({"type": "long", "logicalType": "timestamp-micros", "arrow": "timestamp[ms, tz=UTC]"}, pa.timestamp("us", "UTC")),
    ],
)
def test_avro_types_have_their_arrow_types(avro: Any, arrow: pa.DataType) -> None:
    assert arrow_type(parse(avro)) == arrow


def test_a_schema_that_contains_itself_has_no_columns() -> None:
    with pytest.raises(SchemaError, match=r"\$\.next: record 'R' contains itself"):
        to_arrow(parse({"type": "record", "name": "R", "fields": [{"name": "next", "type": ["null", "R"]}]}))
    with pytest.raises(SchemaError, match="only a record has columns"):
        to_arrow(parse("long"))


def test_types_that_multiply_through_references_are_bounded() -> None:
    kind: Any = {"type": "record", "name": "R0", "fields": [{"name": "x", "type": "int"}]}
    for level in range(1, 40):
        kind = {"type": "record", "name": f"R{level}", "fields": [{"name": "a", "type": kind}, {"name": "b", "type": f"R{level - 1}"}]}
    with pytest.raises(SchemaError, match="more than 65536 columns"):
        to_arrow(parse(kind))


# -- there and back -----------------------------------------------------------------------------------------------------------------

_LEAVES = [
    *(pa.null(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()),
    *(pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(), pa.string_view(), pa.binary()),
    *(pa.large_binary(), pa.binary_view(), pa.binary(3), pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us")),
    *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Europe/Paris", "+02:00")),
    *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
    *(pa.decimal32(4, 1), pa.decimal64(12, 0), pa.decimal128(38, 38), pa.decimal256(20, 3), pa.decimal256(76, 10)),
    *(pa.uuid(), pa.month_day_nano_interval(), pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.uint32(), pa.large_string(), True)),
]


def _has_no_validity(kind: pa.DataType) -> bool:
    """Nulls and unions: whether such a field is called nullable means nothing, and is not kept."""
    return bool(pa.types.is_null(kind) or pa.types.is_union(kind))


@st.composite
def arrow_fields(draw: st.DrawFn, name: str = "item", depth: int = 3) -> pa.Field:
    kind = draw(arrow_types(depth))
    return pa.field(name, kind, _has_no_validity(kind) or draw(st.booleans()))


@st.composite
def arrow_types(draw: st.DrawFn, depth: int = 3) -> pa.DataType:
    kind = draw(st.sampled_from(["leaf", "leaf", "list", "large_list", "fixed", "map", "struct", "union"] if depth else ["leaf"]))
    item = arrow_fields(depth=depth - 1)
    match kind:
        case "list":
            return pa.list_(draw(item))
        case "large_list":
            return pa.large_list(draw(item))
        case "fixed":
            return pa.list_(draw(item), draw(st.integers(1, 4)))
        case "map":
            keys = draw(st.sampled_from([pa.string(), pa.large_string()]))
            return pa.map_(keys, draw(arrow_fields("value", depth - 1)), draw(st.booleans()))
        case "struct":
            return pa.struct([draw(arrow_fields(f"f{index}", depth - 1)) for index in range(draw(st.integers(0, 3)))])
        case "union":
            branches = draw(
                st.permutations([pa.int16(), pa.string(), pa.float64(), pa.null(), draw(arrow_types(0).filter(pa.types.is_date))])
            )
            chosen = [branch for branch in branches if branch != pa.date32() and branch != pa.date64()]
            return pa.dense_union([pa.field(str(index), branch, branch == pa.null()) for index, branch in enumerate(chosen)])
    return draw(st.sampled_from(_LEAVES))


@settings(max_examples=200)
@given(fields=st.lists(arrow_fields(), max_size=4))
def test_every_arrow_schema_comes_back_as_it_was(fields: list[pa.Field]) -> None:
    schema = pa.schema([field.with_name(f"c{index}") for index, field in enumerate(fields)])
    kind = from_arrow(schema)
    back = to_arrow(kind)
    assert back.types == schema.types
    for field, before in zip(back, schema, strict=True):
        assert field.nullable == before.nullable
    assert full_form(from_arrow(back.remove_metadata())) == full_form(kind)


@settings(max_examples=100)
@given(schema=schemas(recursive=False))
def test_every_avro_schema_comes_back_as_it_was(schema: Any) -> None:
    kind = parse(schema)
    arrow = to_arrow(kind)
    assert full_form(from_arrow(arrow)) == full_form(kind)


def test_a_changed_schema_is_no_longer_what_its_metadata_says() -> None:
    kind = parse({"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": "int"}]})
    arrow = to_arrow(kind)
    assert AVRO_KEY in arrow.metadata
    selected = pa.schema([arrow.field("a")], metadata=arrow.metadata)
    assert [member.name for member in from_arrow(selected).fields] == ["a"]
    assert from_arrow(arrow.with_metadata({AVRO_KEY: b"not json"})).fullname == "Row"


def test_bfloat16_and_int8_vectors_come_back_from_their_marks() -> None:
    kind = parse(
        {
            "type": "record",
            "name": "R",
            "fields": [{"name": "a", "type": vector(3, "bfloat16")}, {"name": "b", "type": ["null", vector(3, "int8")]}],
        }
    )
    back = from_arrow(to_arrow(kind).remove_metadata())
    assert isinstance(back, Record)
    assert to_json(back.fields[0].type) == dict(vector(3, "bfloat16"))
    assert to_json(back.fields[1].type) == ["null", dict(vector(3, "int8"))]


@settings(max_examples=50)
@given(data=st.data())
def test_rows_of_a_schema_made_from_arrow_are_rows_of_its_columns(data: st.DataObject) -> None:
    schema = data.draw(schemas(unions=False, recursive=False).filter(lambda schema: bool(schema["fields"])))
    written = data.draw(st.lists(rows(schema), min_size=1, max_size=3))
    codec = Codec(schema)
    batch = codec.decode_columns([codec.encode(row) for row in written]).to_arrow()
    assert batch.schema.equals(codec.arrow_schema)
    data_bytes, offsets = codec.encode_columns(batch)
    assert [bytes(data_bytes[a:b]) for a, b in itertools.pairwise(offsets)] == [codec.encode(row) for row in written]
    assert all(same(codec.decode(codec.encode(row)), row) for row in written)

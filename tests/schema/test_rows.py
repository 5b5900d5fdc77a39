"""Rows: generated decoders and encoders against fastavro, against the plain walk, and against bytes that are not rows."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import DecodeError, RowError
from fondaco.schema import Codec, parse
from fondaco.schema.canonical import to_json
from fondaco.schema.malformed import read_row
from fondaco.schema.resolution import DEPTH_MAX, ZERO_SIZE_ITEMS_MAX, resolve
from fondaco.schema.rows import RowDecoder
from fondaco.schema.wire import encode_long
from schema_strategies import evolutions, for_fastavro, rows, same, schemas, schemas_and_rows


def fastavro_bytes(schema: Any, row: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), row)
    return out.getvalue()


def fastavro_row(data: bytes, writer: Any, reader: Any = None) -> Any:
    parsed = None if reader is None else fastavro.parse_schema(reader)
    return fastavro.schemaless_reader(io.BytesIO(data), fastavro.parse_schema(writer), parsed)


def record(**fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": name, "type": kind} for name, kind in fields.items()]}


# -- against fastavro ---------------------------------------------------------------------------------------------------------------


@given(case=schemas_and_rows(root="any"))
def test_a_row_comes_back_as_it_was_written(case: tuple[Any, list[Any]]) -> None:
    schema, written = case
    codec = Codec(schema)
    for row in written:
        assert same(codec.decode(codec.encode(row)), row)


@given(case=schemas_and_rows(unions=False))
def test_bytes_are_those_of_fastavro(case: tuple[Any, list[Any]]) -> None:
    schema, written = case
    codec = Codec(schema)
    for row in written:
        plain = for_fastavro(codec.writer, row)
        data = fastavro_bytes(to_json(codec.writer), plain)
        assert codec.encode(row) == data
        assert same(for_fastavro(codec.writer, codec.decode(data)), fastavro_row(data, to_json(codec.writer)))


@given(case=schemas_and_rows(root="any"))
def test_fastavro_reads_what_we_write(case: tuple[Any, list[Any]]) -> None:
    schema, written = case
    codec = Codec(schema)
    for row in written:
        assert same(for_fastavro(codec.writer, row), fastavro_row(codec.encode(row), to_json(codec.writer)))


@given(data=st.data())
def test_evolved_rows_read_as_fastavro_reads_them(data: st.DataObject) -> None:
    writer = data.draw(schemas(unions=False), label="writer")
    reader = data.draw(evolutions(writer), label="reader")
    codec = Codec(writer, reader)
    row = data.draw(rows(writer), label="row")
    encoded = codec.encode(row)
    decoded = codec.decode(encoded)
    assert same(decoded, read_row(resolve(parse(writer), parse(reader)), encoded))
    theirs = fastavro_row(encoded, to_json(codec.writer), to_json(codec.schema))
    assert same(float32_rounded(codec.schema, for_fastavro(codec.schema, decoded)), float32_rounded(codec.schema, theirs))


def float32_rounded(kind: Any, value: Any) -> Any:
    """fastavro keeps more digits of an int read as a float than 32 bits hold."""
    if isinstance(value, dict):
        return {name: float32_rounded(kind, item) for name, item in value.items()}
    if isinstance(value, list):
        return [float32_rounded(kind, item) for item in value]
    return float(np.float32(value)) if isinstance(value, float) and abs(value) < 3e38 else value


# -- against the plain walk ---------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(data=st.data())
def test_damaged_bytes_give_a_row_or_a_typed_error_as_the_plain_walk_does(data: st.DataObject) -> None:
    writer = data.draw(schemas(root="any"), label="schema")
    codec = Codec(writer)
    row = bytearray(codec.encode(data.draw(rows(writer), label="row")))
    for _ in range(data.draw(st.integers(1, 3))):
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip" if row:
                row[data.draw(st.integers(0, len(row) - 1))] = data.draw(st.integers(0, 255))
            case "cut" if row:
                del row[data.draw(st.integers(0, len(row) - 1)) :]
            case _:
                row[data.draw(st.integers(0, len(row))) : 0] = data.draw(st.binary(max_size=4))
    step = resolve(parse(writer))
    try:
        expected = read_row(step, bytes(row))
    except DecodeError:
        with pytest.raises(DecodeError) as caught:
            RowDecoder(step).decode(bytes(row))
        assert 0 <= caught.value.position <= len(row)
    else:
        assert same(RowDecoder(step).decode(bytes(row)), expected)


@given(value=st.integers(-(1 << 63), (1 << 63) - 1))
def test_integers_of_every_length_are_read_back(value: int) -> None:
    data = encode_long(value)
    codec = Codec("long")
    assert codec.encode(value) == data == fastavro_bytes("long", value)
    assert codec.decode(data) == value


def test_integers_take_at_most_ten_bytes_and_sixty_four_bits() -> None:
    codec = Codec("long")
    assert codec.decode(b"\x80" * 9 + b"\x00") == 0  # longer than needed, and legal
    for data, reason in [
        (b"\xff" * 10 + b"\x01", "more than 10 bytes"),
        (b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\xff\xff", "truncated"),
        (b"", "truncated"),
    ]:
        with pytest.raises(DecodeError, match=reason):
            codec.decode(data)
    with pytest.raises(DecodeError, match="does not fit 32 bits"):
        Codec("int").decode(b"\xff\xff\xff\xff\x1f")


# -- bytes that are not rows --------------------------------------------------------------------------------------------------------

MALFORMED = [
    ("boolean", b"\x02", 0, "boolean byte 2"),
    ("int", encode_long(1 << 31), 0, "does not fit 32 bits"),
    ("float", b"\x00\x00", 0, "truncated"),
    ("string", b"\x01", 0, "negative length -1"),
    ("string", b"\x0cabc", 0, "6 bytes, 3 are left"),
    ("string", encode_long(1 << 62), 0, "bytes, 0 are left"),
    ("string", b"\x02\xff", 0, "not UTF-8"),
    ("bytes", b"\x04a", 0, "2 bytes, 1 are left"),
    (["null", "long"], b"\x04", 0, "union branch 2; there are 2"),
    (["null", "long"], b"\x01", 0, "union branch -1"),
    ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, b"\x04", 0, "enum index 2"),
    ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, b"\x01", 0, "enum index -1"),
    ({"type": "fixed", "name": "F", "size": 4}, b"abc", 0, "truncated"),
    ({"type": "array", "items": "int"}, encode_long(1 << 50), 0, "block of 1125899906842624 items"),
    ({"type": "array", "items": "int"}, encode_long(-(1 << 50)) + b"\x04\x02\x02", 0, "block of 1125899906842624 items"),
    ({"type": "array", "items": "int"}, b"\x03\x01", 1, "negative length -1 of a block"),
    ({"type": "array", "items": "int"}, b"\x03\x08\x02\x02\x00", 1, "a block of 4 bytes, 3 are left"),
    ({"type": "array", "items": "int"}, b"\x03\x06\x02\x02\x00\x00", 0, "a block says it ends at byte 5"),
    ({"type": "array", "items": "double"}, encode_long(1 << 59) + bytes(8), 0, "items of at least 8 bytes"),
    ({"type": "array", "items": "null"}, encode_long(1 << 40), 0, "items without bytes"),
    ({"type": "map", "values": "null"}, encode_long(1 << 40), 0, "items of at least 1 bytes"),
    ({"type": "int", "logicalType": "date"}, encode_long(1 << 30), 0, "Date"),
    ({"type": "string", "logicalType": "uuid"}, b"\x06abc", 0, "Uuid"),
    ({"type": "bytes", "logicalType": "decimal", "precision": 2}, b"\x06\x7f\xff\xff", 0, "does not fit 2 digits"),
    ("null", b"\x00", 0, "1 bytes left over"),
]


@pytest.mark.parametrize(("schema", "data", "position", "reason"), MALFORMED)
def test_malformed_bytes_name_position_and_reason(schema: Any, data: bytes, position: int, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        Codec(schema).decode(data)
    assert caught.value.position == position
    assert reason in str(caught.value)


def test_the_field_of_malformed_bytes_is_named() -> None:
    codec = Codec(record(a="long", b={"type": "record", "name": "Inner", "fields": [{"name": "c", "type": "string"}]}))
    with pytest.raises(DecodeError, match=r"byte 1 \(field 'b\.c'\): negative length -3") as caught:
        codec.decode(b"\x02\x05")
    assert caught.value.field == "b.c"


def test_items_without_bytes_are_bounded_in_a_whole_row() -> None:
    codec = Codec({"type": "array", "items": {"type": "array", "items": "null"}})
    allowed = [[None] * (ZERO_SIZE_ITEMS_MAX // 2)] * 2
    assert codec.decode(codec.encode(allowed)) == allowed
    block = encode_long(ZERO_SIZE_ITEMS_MAX // 2) + b"\x00"
    with pytest.raises(DecodeError, match="items without bytes in one row"):
        codec.decode(encode_long(3) + block * 3 + b"\x00")


def test_recursive_rows_nest_to_a_stated_depth_and_no_deeper() -> None:
    codec = Codec({"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]})

    def nested(depth: int) -> dict[str, Any]:
        node: dict[str, Any] = {"next": None}
        for _ in range(depth - 1):
            node = {"next": node}
        return node

    assert codec.decode(codec.encode(nested(DEPTH_MAX))) == nested(DEPTH_MAX)
    with pytest.raises(DecodeError, match=f"nested deeper than {DEPTH_MAX}"):
        codec.decode(b"\x02" * DEPTH_MAX + b"\x00")
    with pytest.raises(DecodeError, match=f"nested deeper than {DEPTH_MAX}"):
        codec.decode(b"\x02" * 100_000)
    with pytest.raises(RowError, match=f"nested at most {DEPTH_MAX} deep"):
        codec.encode(nested(DEPTH_MAX + 1))
    with pytest.raises(RowError, match="nested"):
        codec.encode(nested(100_000))


def test_a_skipped_recursive_field_is_bounded_too() -> None:
    tree = {"type": "record", "name": "Tree", "fields": [{"name": "children", "type": {"type": "array", "items": "Tree"}}]}
    writer = record(tree=tree, x="long")
    codec = Codec(writer, record(x="long"))
    row = {"tree": {"children": [{"children": []}, {"children": [{"children": []}]}]}, "x": 5}
    assert codec.decode(codec.encode(row)) == {"x": 5}
    with pytest.raises(DecodeError, match="nested deeper"):
        codec.decode(b"\x02" * 10_000)


# -- forms that are legal and unusual -----------------------------------------------------------------------------------------------


def test_arrays_and_maps_in_several_blocks_with_sizes_are_read() -> None:
    codec = Codec(record(a={"type": "array", "items": "int"}, f={"type": "array", "items": "float"}, m={"type": "map", "values": "int"}))
    floats = np.array([1, 2, 3], "<f4").tobytes()
    data = (
        (b"\x02\x02" + b"\x03\x04\x04\x06" + b"\x00")
        + (b"\x04" + floats[:8] + b"\x01\x08" + floats[8:] + b"\x00")
        + (b"\x01\x06\x02a\x02" + b"\x02\x02b\x04" + b"\x00")
    )
    decoded = codec.decode(data)
    assert (decoded["a"], decoded["f"].tolist(), decoded["m"]) == ([1, 2, 3], [1, 2, 3], {"a": 1, "b": 2})
    assert Codec(codec.writer, record(m={"type": "map", "values": "int"})).decode(data) == {"m": {"a": 1, "b": 2}}
    assert codec.row(data)["m"] == {"a": 1, "b": 2}


def test_a_branch_index_in_more_bytes_than_needed_is_read() -> None:
    codec = Codec(record(x=["null", "long"], y="long"))
    data = b"\x82\x00\x06\x08"
    assert codec.decode(data) == {"x": 3, "y": 4}
    assert codec.row(data)["y"] == 4


def test_arrays_of_floats_and_vectors_are_views_of_the_row() -> None:
    codec = Codec(record(a={"type": "array", "items": "float"}, d={"type": "array", "items": "double"}))
    decoded = codec.decode(codec.encode({"a": [1, 2.5], "d": (1.0,)}))
    assert decoded["a"].dtype == np.float32
    assert decoded["d"].dtype == np.float64
    assert not decoded["a"].flags.writeable
    assert not decoded["a"].flags.owndata


def test_promotions_follow_the_table_of_the_specification() -> None:
    for wire, value, targets in [
        ("int", 7, {"long": 7, "float": 7.0, "double": 7.0}),
        ("long", (1 << 24) + 1, {"float": float(1 << 24), "double": float((1 << 24) + 1)}),
        ("float", 0.5, {"double": 0.5}),
        ("string", "é", {"bytes": "é".encode()}),
        ("bytes", b"abc", {"string": "abc"}),
    ]:
        for target, expected in targets.items():
            codec = Codec(wire, target)
            got = codec.decode(codec.encode(value))
            assert (got, type(got)) == (expected, type(expected))


def test_deeply_nested_collections_are_read_by_functions_of_their_own() -> None:
    schema: Any = "int"
    value: Any = 1
    for _ in range(40):
        schema, value = {"type": "array", "items": schema}, [value]
    codec = Codec(schema)
    assert codec.decode(codec.encode(value)) == value
    assert Codec(record(a=schema, b="int"), record(b="int")).decode(codec.encode(value) + b"\x04") == {"b": 2}


def test_defaults_of_missing_fields_are_made_anew_for_each_row() -> None:
    reader = record(a="long")
    reader["fields"] += [
        {"name": "tags", "type": {"type": "array", "items": "string"}, "default": ["x"]},
        {"name": "inner", "type": record(n={"type": "map", "values": "int"}) | {"name": "I"}, "default": {"n": {"k": 1}}},
        {"name": "v", "type": {"type": "array", "items": "float"}, "default": [1, 2]},
    ]
    codec = Codec(record(a="long"), reader)
    first, second = codec.decode(b"\x02"), codec.decode(b"\x02")
    first["tags"].append("y")
    first["inner"]["n"]["k"] = 2
    assert second["tags"] == ["x"]
    assert second["inner"] == {"n": {"k": 1}}
    assert codec.row(b"\x02")["tags"] == ["x"]
    assert second["v"].dtype == np.float32


def test_rows_in_one_block_follow_one_another() -> None:
    decoder = RowDecoder(resolve(parse(record(x="long", s="string"))))
    data = b"".join(b"\x02\x02" + letter for letter in [b"a", b"b", b"c"])
    assert [row["s"] for row in decoder.decode_many(data, 3)] == ["a", "b", "c"]
    with pytest.raises(DecodeError, match="row 2, byte 1"):
        list(decoder.decode_many(data[:-1], 3))
    with pytest.raises(DecodeError, match="3 bytes left over after 2 rows"):
        list(decoder.decode_many(data, 2))

"""Programs: what is compiled, what is refused, what a projection passes over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fondaco.core.errors import DecodeError, FieldNotFoundError, SchemaError
from fondaco.schema import Codec, parse, vector
from fondaco.schema import _ops as o
from fondaco.schema.columns import decode_list
from fondaco.schema.program import PROJECTIONS_MAX, Program, compile_program
from fondaco.schema.resolution import resolve

NODE = {
    "type": "record",
    "name": "Node",
    "fields": [{"name": "value", "type": "long"}, {"name": "next", "type": ["null", "Node"]}],
}


def record(**fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": name, "type": kind} for name, kind in fields.items()]}


def program(writer: Any, reader: Any = None) -> Program:
    return compile_program(resolve(parse(writer), None if reader is None else parse(reader)))


def ops(compiled: Any) -> list[int]:
    return compiled.code[:: o.WIDTH].tolist()


def test_a_record_that_contains_itself_is_refused_by_the_name_of_the_field() -> None:
    with pytest.raises(SchemaError) as caught:
        program(record(head=NODE))
    assert caught.value.path == "head.next"
    assert "read it row by row" in str(caught.value)


def test_passing_over_a_record_that_contains_itself_is_refused_too() -> None:
    with pytest.raises(SchemaError) as caught:
        program(record(a="int", head=NODE), record(a="int"))
    assert caught.value.path == "head.next"


def test_a_decimal_that_no_column_holds_is_refused() -> None:
    with pytest.raises(SchemaError, match="80 digits"):
        program(record(d={"type": "bytes", "logicalType": "decimal", "precision": 80}))


def test_a_union_of_more_branches_than_arrow_has_is_refused() -> None:
    branches = [{"type": "fixed", "name": f"F{index}", "size": 1} for index in range(128)]
    with pytest.raises(SchemaError, match="128 branches"):
        program(record(u=branches))


def test_an_unknown_field_is_refused_with_the_near_name() -> None:
    with pytest.raises(FieldNotFoundError, match="did you mean 'clicks'"):
        program(record(clicks="int")).select(["clickz"])


def test_projections_are_compiled_once_and_only_so_many_are_kept() -> None:
    made = program(record(**{f"f{index}": "int" for index in range(PROJECTIONS_MAX + 2)}))
    first = made.select(["f0"])
    for index in range(1, PROJECTIONS_MAX - 1):
        made.select([f"f{index}"])
    assert made.select(["f0"]) is first
    for index in range(1, PROJECTIONS_MAX + 2):
        made.select([f"f{index}"])
    assert made.select(["f0"]) is not first
    assert len(made._projections) <= PROJECTIONS_MAX


def test_neighbours_of_constant_size_that_nobody_wants_become_one_instruction() -> None:
    schema = record(a="double", b="float", c="boolean", d=vector(8), e="int")
    compiled = program(schema).select(["e"])
    assert ops(compiled)[:2] == [o.SKIP_FIXED, o.INT]
    assert compiled.code[2] == 8 + 4 + 1 + 32


def test_an_optional_scalar_needs_no_jump_after_it() -> None:
    assert ops(program(record(a=["null", "long"])).select(None)) == [o.OPTIONAL, o.LONG, o.END, o.END]


def test_floats_of_an_array_are_copied_in_blocks_only_when_they_are_not_promoted() -> None:
    floats, doubles = record(a={"type": "array", "items": "float"}), record(a={"type": "array", "items": "double"})
    assert ops(program(floats).select(None))[0] == o.ARRAY_FIXED
    assert o.FLOAT_AS_DOUBLE in ops(program(floats, doubles).select(None))


def test_a_schema_other_than_a_record_has_one_column() -> None:
    made = compile_program(resolve(parse("long")), name="key")
    columns = decode_list(made, [Codec("long").encode(value) for value in (1, -2, 3)])
    assert list(columns) == ["key"]
    assert columns["key"].tolist() == [1, -2, 3]


def test_columns_come_in_the_order_asked_for_and_each_once() -> None:
    schema = record(a="int", b="string", c="int")
    rows = [Codec(schema).encode({"a": index, "b": "text", "c": -index}) for index in range(3)]
    columns = decode_list(program(schema), rows, ["c", "a", "c"])
    assert list(columns) == ["c", "a"]
    assert columns["c"].tolist() == [0, -1, -2]


def test_no_fields_at_all_still_checks_every_row() -> None:
    schema = record(a="int", b="string")
    row = Codec(schema).encode({"a": 1, "b": "x"})
    columns = decode_list(program(schema), [row, row], [])
    assert len(columns) == 0
    assert columns.row_count == 2
    assert columns.to_arrow().num_rows == 2
    with pytest.raises(DecodeError, match="row 1, byte 3: 1 bytes after the end"):
        decode_list(program(schema), [row, row + b"!"], [])


def test_a_refused_branch_is_an_error_only_when_a_row_uses_it() -> None:
    made = program(record(a=["int", "string"]), record(a="long"))
    codec = Codec(record(a=["int", "string"]))
    assert decode_list(made, [codec.encode({"a": 5})])["a"].tolist() == [5]
    with pytest.raises(DecodeError, match=r"row 1, byte 1 .field 'a'."):
        decode_list(made, [codec.encode({"a": 5}), codec.encode({"a": "five"})])


def test_an_enum_symbol_that_the_reader_lacks_is_its_default_or_an_error() -> None:
    def enum(symbols: list[str], **more: Any) -> dict[str, Any]:
        return record(e={"type": "enum", "name": "E", "symbols": symbols, **more})

    writer = enum(["A", "B", "C"])
    rows = [Codec(writer).encode({"e": symbol}) for symbol in "CAB"]
    assert decode_list(program(writer, enum(["C", "A", "X"], default="X")), rows)["e"].tolist() == ["C", "A", "X"]
    with pytest.raises(DecodeError, match=r"row 2, .*symbol 1"):
        decode_list(program(writer, enum(["C", "A"])), rows)


def test_defaults_of_every_shape_fill_fields_that_the_writer_lacks() -> None:
    inner = {"type": "record", "name": "I", "fields": [{"name": "x", "type": "int", "default": 4}, {"name": "y", "type": ["null", "int"]}]}
    added: list[dict[str, Any]] = [
        {"name": "i", "type": "int", "default": -3},
        {"name": "s", "type": "string", "default": "é"},
        {"name": "b", "type": "bytes", "default": "\u00ff"},
        {"name": "n", "type": ["null", "long"], "default": None},
        {"name": "o", "type": ["long", "null"], "default": 9},
        {"name": "l", "type": {"type": "array", "items": "string"}, "default": ["p", "q"]},
        {"name": "f", "type": {"type": "array", "items": "float"}, "default": [0.5, 1.5]},
        {"name": "m", "type": {"type": "map", "values": "int"}, "default": {"k": 1}},
        {"name": "r", "type": inner, "default": {"y": None}},
        {"name": "u", "type": ["int", "string", "null"], "default": "text"},
        {"name": "z", "type": "bytes", "default": ""},
    ]
    reader = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, *added]}
    codec = Codec(record(a="int"), reader)
    rows = [codec.encode({"a": index}) for index in range(3)]
    columns = decode_list(codec.program, rows)
    expected = codec.decode(rows[1])
    got = {name: columns[name][1] for name in columns}
    assert got["n"] is np.ma.masked
    assert got.pop("f").tolist() == expected.pop("f").tolist()
    assert {name: None if value is np.ma.masked else value for name, value in got.items()} == expected

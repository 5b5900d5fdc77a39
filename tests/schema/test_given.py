"""Given: the natural ways to hand over schemas, rows and columns are taken, and what is not is refused by a typed error with a remedy."""

from __future__ import annotations

import json
import mmap
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from fondaco.core.errors import ColumnNotFoundError, DecodeError, InputError, RowError, SchemaError
from fondaco.schema import (
    Codec,
    check_compatible,
    fingerprint,
    full_form,
    parse,
    parsing_canonical_form,
    resolve,
    superset,
    to_arrow,
    vector,
)

SCHEMA = {
    "type": "record",
    "name": "R",
    "fields": [{"name": "a", "type": "int"}, {"name": "s", "type": ["null", "string"], "default": None}],
}
ROWS = [{"a": 1, "s": "x"}, {"a": 2, "s": None}]
CODEC = Codec(SCHEMA)
ENCODED = [CODEC.encode(row) for row in ROWS]


@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA), parse(SCHEMA)])
def test_functions_of_schemas_take_every_way_to_write_one(schema: Any) -> None:
    kind = parse(SCHEMA)
    assert full_form(schema) == full_form(kind)
    assert parsing_canonical_form(schema) == parsing_canonical_form(kind)
    assert fingerprint(schema, "MD5") == fingerprint(kind, "MD5")
    assert to_arrow(schema).equals(to_arrow(kind), check_metadata=True)
    assert resolve(schema, schema) is not None
    assert full_form(superset([schema])) == full_form(kind)
    check_compatible(schema, kind)


def test_functions_of_schemas_take_arrow_schemas() -> None:
    assert full_form(to_arrow(SCHEMA)) == full_form(SCHEMA)
    assert len(fingerprint(pa.schema([("a", pa.int64())]))) == 8
    assert resolve(to_arrow(SCHEMA)) is not None
    assert full_form(superset([to_arrow(SCHEMA), SCHEMA])) == full_form(SCHEMA)


def test_what_has_an_arrow_schema_declares_one() -> None:
    columns = [pa.field("a", pa.int64()), pa.field("b", pa.string())]
    expected = full_form(pa.schema(columns))
    for given in (pa.struct(columns), pa.table({"a": [1], "b": ["x"]}), pa.record_batch({"a": [1], "b": ["x"]})):
        assert full_form(given) == expected


@pytest.mark.parametrize("given", [pa.int64(), pa.field("a", pa.int64()), pa.array([1]), 5, None, "no json{"])
def test_what_declares_no_columns_is_refused(given: Any) -> None:
    with pytest.raises(SchemaError):
        Codec(given)


def test_a_superset_of_one_schema_instead_of_a_list_is_refused() -> None:
    for schema in ("long", SCHEMA):
        with pytest.raises(SchemaError, match="list of schemas"):
            superset(schema)


@pytest.mark.parametrize(
    "table",
    [
        ROWS,
        tuple(ROWS),
        {"a": [1, 2], "s": ["x", None], "other": [5, 6]},
        {"a": np.array([1, 2]), "s": ["x", None]},
        {"a": np.array([1, 2]), "s": pa.array(["x", None])},
        pd.DataFrame({"a": [1, 2], "s": ["x", None]}),
        pl.DataFrame({"a": [1, 2], "s": ["x", None]}),
        pa.table({"a": [1, 2], "s": ["x", None]}),
        pa.RecordBatchReader.from_batches(
            pa.schema([("a", pa.int64()), ("s", pa.string())]), pa.table({"a": [1, 2], "s": ["x", None]}).to_batches()
        ),
    ],
    ids=lambda table: type(table).__name__,
)
def test_columns_are_encoded_from_every_kind_of_table(table: Any) -> None:
    data, offsets = CODEC.encode_columns(table)
    assert [data[first:end].tobytes() for first, end in pairwise(offsets)] == ENCODED


def test_columns_of_values_follow_the_rules_of_rows() -> None:
    with pytest.raises(RowError) as refusal:
        CODEC.encode_columns({"a": [1, "2"]}, first_row=10)
    assert (refusal.value.row, refusal.value.field) == (11, "a")
    with pytest.raises(ColumnNotFoundError):
        CODEC.encode_columns({"s": ["x"]})
    with pytest.raises(InputError, match="'a' has 2, 's' has 1"):
        CODEC.encode_columns({"a": [1, 2], "s": ["x"]})
    assert Codec("long").encode_columns([1, 2])[0].tobytes() == b"\x02\x04"
    assert Codec("long").encode_columns({"x": [1, 2]})[1].tolist() == [0, 1, 2]
    assert CODEC.encode_columns([])[1].tolist() == [0]


def test_a_matrix_is_a_column_of_vectors() -> None:
    codec = Codec({"type": "record", "name": "R", "fields": [{"name": "emb", "type": vector(3)}]})
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    for column in (matrix, list(matrix), matrix.tolist()):
        assert np.array_equal(codec.decode_columns(*codec.encode_columns({"emb": column}))["emb"], matrix)


@pytest.mark.parametrize("table", [5, None, "a.parquet", b"", {1, 2}, {"a": np.zeros((2, 2, 2))}, {"a": 5}, pa.array([1, 2])])
def test_what_is_no_table_is_refused_with_what_is(table: Any) -> None:
    with pytest.raises(InputError, match="pyarrow Table"):
        CODEC.encode_columns(table)


@pytest.mark.parametrize(
    "data",
    [
        pa.array(ENCODED),
        pa.array(ENCODED, pa.large_binary()),
        pa.array(ENCODED, pa.binary_view()),
        pa.array([b"", *ENCODED, b""]).slice(1, 2),
        pa.chunked_array([[ENCODED[0]], [], [ENCODED[1]]]),
        tuple(ENCODED),
        [bytearray(ENCODED[0]), memoryview(ENCODED[1])],
        np.array(ENCODED, object),
    ],
)
def test_rows_are_decoded_from_arrow_and_from_any_sequence_of_bytes(data: Any) -> None:
    assert CODEC.decode_columns(data).to_arrow().to_pylist() == ROWS


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_no_rows_at_all_are_decoded_too(kind: pa.DataType) -> None:
    for data in ([], pa.array([], kind), pa.chunked_array([], kind)):
        assert CODEC.decode_columns(data).row_count == 0
    assert Codec({"type": "record", "name": "E", "fields": []}).decode_columns(pa.array([b"", b""], kind)).row_count == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"".join(ENCODED), r"without offsets; give offsets=\[0, ..., 6\]"),
        (np.frombuffer(b"".join(ENCODED), np.uint8), "without offsets"),
        ([ENCODED[0], None], "row 1 is None; expected bytes"),
        (["a"], "row 0 is str 'a'"),
        ([ENCODED[0], np.zeros(2, np.int32)], "row 1 is an array of int32"),
        ([ENCODED[0], 5], "row 1 is int 5"),
        (pa.array([ENCODED[0], None]), "row 1 is null"),
        (pa.array(["a"]), "not of string"),
        (pa.array([1]), "not of int64"),
        ("a", "without offsets"),
        (5, "a list of bytes, an Arrow array"),
        (None, "a list of bytes, an Arrow array"),
    ],
)
def test_rows_that_are_no_bytes_are_refused_by_position(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CODEC.decode_columns(data)


@pytest.mark.parametrize(
    ("data", "offsets", "message"),
    [
        ("ab", [0, 2], "one buffer of bytes"),
        (np.zeros(2, np.int64), [0, 2], "one buffer of bytes"),
        (None, [0], "one buffer of bytes"),
        ([b"a"], [0, 1], "one buffer of bytes"),
        (b"ab", [0.5, 2.0], "whole numbers"),
        (b"ab", ["0"], "whole numbers"),
        (b"ab", [], r"\[rows \+ 1\]"),
        (b"ab", 5, r"\[rows \+ 1\]"),
    ],
)
def test_a_block_of_another_kind_or_without_whole_offsets_is_refused(data: Any, offsets: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CODEC.decode_columns(data, offsets)


@pytest.mark.parametrize("data", ["abc", None, [2], (2,), 5, {"a": 1}])
def test_a_row_that_is_no_bytes_is_refused(data: Any) -> None:
    with pytest.raises(InputError, match="is bytes"):
        CODEC.decode(data)


def test_a_row_may_be_any_buffer_of_bytes() -> None:
    with mmap.mmap(-1, len(ENCODED[0])) as memory:
        memory.write(ENCODED[0])
        for data in (ENCODED[0], bytearray(ENCODED[0]), memoryview(ENCODED[0]), np.frombuffer(ENCODED[0], np.uint8), memory):
            assert CODEC.decode(data) == ROWS[0]
    with pytest.raises(DecodeError):
        CODEC.decode(bytearray())


def test_the_path_of_a_value_that_nests_too_deep_is_shortened() -> None:
    codec = Codec({"type": "record", "name": "T", "fields": [{"name": "child", "type": ["null", "T"]}]})
    value: Any = None
    for _ in range(200):
        value = {"child": value}
    with pytest.raises(RowError) as refusal:
        codec.encode(value)
    with pytest.raises(DecodeError) as fault:
        codec.decode(b"\x02" * 200 + b"\x00")
    for message in (str(refusal.value), str(fault.value)):
        assert "more).child" in message
        assert message.count("child") < 20

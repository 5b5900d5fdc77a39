"""Encoding columns: any Arrow form of the values gives the bytes of the row encoder, and the first value that does not fit is named."""

from __future__ import annotations

import datetime
import decimal
import uuid
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fondaco.core.errors import ColumnNotFoundError, DataError, RowError
from fondaco.schema import Codec, parse, vector
from fondaco.schema.columns import encode_array, encode_columns
from schema_strategies import same, schemas_and_rows

batches = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def record(**fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": name, "type": kind} for name, kind in fields.items()]}


def split(data: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    assert data.dtype == np.uint8
    assert offsets.dtype == np.int64
    assert offsets[0] == 0
    assert offsets[-1] == len(data)
    return [data[first:end].tobytes() for first, end in pairwise(offsets)]


def encoded(kind: Any, array: Any, name: str = "x") -> list[Any]:
    """The values of `array` after the way through bytes of `kind`."""
    rows = split(*encode_array(parse(kind), array, name))
    return [Codec(kind).decode(row) for row in rows]


def refusal(kind: Any, array: Any, first_row: int = 0) -> RowError:
    with pytest.raises(RowError) as caught:
        encode_array(parse(kind), array, "x", first_row)
    return caught.value


# -- against the row encoder --------------------------------------------------------------------------------------------------------


def rows_without_long_durations(codec: Codec, written: list[Any]) -> list[bytes]:
    rows = [codec.encode(row) for row in written]
    try:
        codec.decode_columns(rows).to_arrow()
    except DataError as exc:
        assume("months" not in str(exc))
        raise
    return rows


@batches
@given(case=schemas_and_rows(recursive=False, unions=False, count_max=6))
def test_columns_encode_to_the_bytes_of_the_row_encoder(case: tuple[Any, list[Any]]) -> None:
    schema, written = case
    codec = Codec(schema)
    rows = rows_without_long_durations(codec, written)
    assert split(*codec.encode_columns(codec.decode_columns(rows).to_arrow())) == rows or not codec.fields


@batches
@given(data=st.data())
def test_slices_and_chunks_of_any_schema_come_back(data: st.DataObject) -> None:
    schema, written = data.draw(schemas_and_rows(recursive=False, count_max=8))
    codec = Codec(schema)
    assume(codec.fields)
    rows = rows_without_long_durations(codec, written)
    batch = codec.decode_columns(rows).to_arrow()
    first = data.draw(st.integers(0, len(rows)))
    end = data.draw(st.integers(first, len(rows)))
    table = pa.Table.from_batches([batch.slice(0, first), batch.slice(first, 0), batch.slice(first)])
    for source, expected in ((batch.slice(first, end - first), rows[first:end]), (table, rows), (table.slice(first), rows[first:])):
        got = split(*codec.encode_columns(source))
        assert all(same(codec.decode(ours), codec.decode(theirs)) for ours, theirs in zip(got, expected, strict=True))


# -- forms of Arrow -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrow", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()])
@pytest.mark.parametrize("kind", ["int", "long"])
def test_integers_of_any_width_are_taken(kind: str, arrow: pa.DataType) -> None:
    assert encoded(kind, pa.array([0, 1, 127], arrow)) == [0, 1, 127]


def test_integers_out_of_range_are_refused() -> None:
    error = refusal("int", pa.array([1, 1 << 31, -5]), first_row=100)
    assert (error.row, error.field, error.value) == (101, "x", "int 2147483648")
    assert refusal("int", pa.array([1, 1 << 31], pa.uint32())).row == 1
    assert refusal("long", pa.array([5, 1 << 63], pa.uint64())).row == 1
    assert encoded("long", pa.array([(1 << 63) - 1, 0], pa.uint64())) == [(1 << 63) - 1, 0]
    assert encoded("int", pa.array([-(1 << 31), (1 << 31) - 1])) == [-(1 << 31), (1 << 31) - 1]
    assert refusal({"type": "int", "arrow": "uint8"}, pa.array([255, 256])).expected == "an integer that fits uint8"


@pytest.mark.parametrize("arrow", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_text_of_any_form_is_taken(arrow: pa.DataType) -> None:
    values = ["", "é", "x" * 300, None, "é"]
    array = pa.array(values, pa.string()).dictionary_encode().cast(arrow) if pa.types.is_dictionary(arrow) else pa.array(values, arrow)
    assert encoded(["null", "string"], array) == values
    assert encoded(["null", "string"], array.slice(1, 3)) == values[1:4]


def test_text_that_is_not_utf8_is_refused() -> None:
    array = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"a\xc3(")])
    assert refusal("string", array).row == 1
    keys = pa.MapArray.from_arrays(pa.array([0, 0, 2], pa.int32()), array, pa.array([1, 2]))
    assert refusal({"type": "map", "values": "long"}, keys).row == 1


def test_bytes_of_any_form_are_taken() -> None:
    for arrow in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(2)):
        assert encoded("bytes", pa.array([b"ab", b"\0\xff"], arrow)) == [b"ab", b"\0\xff"]
    fixed = {"type": "fixed", "name": "F", "size": 2}
    assert encoded(fixed, pa.array([b"ab", b"\0\xff"])) == [b"ab", b"\0\xff"]
    assert refusal(fixed, pa.array([b"ab", b"abc"])).value == "bytes b'abc'"


def test_floats_are_rounded_but_never_overflow() -> None:
    assert encoded("float", pa.array([0.1, float("inf")])) == [np.float32(0.1), float("inf")]
    assert np.isnan(encoded("float", pa.array([float("nan")]))[0])
    assert refusal("float", pa.array([1.0, 1e39])).value == "float 1e+39"
    assert encoded("double", pa.array([0.5, 1.0], pa.float16())) == [0.5, 1.0]
    assert encoded("double", pa.array([1, 2])) == [1.0, 2.0]
    assert refusal("double", pa.array([1, (1 << 53) + 1])).row == 1


def test_enums_take_text_and_dictionaries() -> None:
    kind = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
    words = pa.array(["B", "A", "B"])
    assert encoded(kind, words) == ["B", "A", "B"]
    assert encoded(kind, words.dictionary_encode().slice(1)) == ["A", "B"]
    assert encoded(["null", kind], pa.array(["B", None]).dictionary_encode()) == ["B", None]
    error = refusal(kind, pa.array(["A", "C"]))
    assert (error.row, error.value, error.expected) == (1, "str 'C'", "one of ['A', 'B']")
    assert refusal(kind, pa.array(["A", "C"]).dictionary_encode()).row == 1


def test_decimals_are_rescaled_only_without_loss() -> None:
    kind = {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}
    values = [decimal.Decimal(text) for text in ("1.5", "-9999.99", "0", "-1.28", "1.27")]
    for arrow in (pa.decimal128(6, 2), pa.decimal128(20, 2), pa.decimal256(50, 2), pa.decimal64(9, 2)):
        assert encoded(kind, pa.array(values, arrow)) == values
    assert encoded(kind, pa.array([decimal.Decimal("1.500")], pa.decimal128(10, 3))) == [decimal.Decimal("1.50")]
    assert refusal(kind, pa.array([decimal.Decimal("1.501")], pa.decimal128(10, 3))).row == 0
    assert refusal(kind, pa.array([decimal.Decimal("10000.00")], pa.decimal128(10, 2))).row == 0
    fixed = {"type": "fixed", "name": "D", "size": 2, "logicalType": "decimal", "precision": 4, "scale": 2}
    assert encoded(fixed, pa.array(values[2:], pa.decimal128(6, 2))) == values[2:]


def test_uuids_are_taken_as_uuids_and_as_text() -> None:
    values = [uuid.UUID(int=7), uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")]
    storage = pa.array([value.bytes for value in values], pa.binary(16))
    for kind in ({"type": "string", "logicalType": "uuid"}, {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}):
        assert encoded(kind, pa.ExtensionArray.from_storage(pa.uuid(), storage)) == values
        assert encoded(kind, storage) == values
        assert encoded(kind, pa.array([str(value).upper() for value in values])) == values
        assert refusal(kind, pa.array([str(values[0]), "6ba7b810"])).row == 1


def test_times_of_other_units_are_taken_when_nothing_is_lost() -> None:
    micros = {"type": "long", "logicalType": "timestamp-micros"}
    moment = datetime.datetime(2020, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    for unit in ("s", "ms", "us", "ns"):
        assert encoded(micros, pa.array([moment], pa.timestamp(unit, "Europe/Rome"))) == [moment]
    assert refusal(micros, pa.array([0, 1_001, 2_000], pa.timestamp("ns", "UTC"))).row == 1
    assert encoded({"type": "int", "logicalType": "date"}, pa.array([moment.date()], pa.date64())) == [moment.date()]
    clock = pa.array([datetime.time(1, 2, 3)], pa.time64("ns"))
    assert encoded({"type": "int", "logicalType": "time-millis"}, clock) == [datetime.time(1, 2, 3)]
    assert refusal({"type": "int", "logicalType": "time-millis"}, pa.array([86_400_000], pa.int32()).view(pa.time32("ms"))).row == 0


def test_naive_and_aware_times_are_not_mixed_up() -> None:
    aware, local = ({"type": "long", "logicalType": name} for name in ("timestamp-micros", "local-timestamp-micros"))
    naive = pa.array([1], pa.timestamp("us"))
    assert encoded(local, naive) == [datetime.datetime(1970, 1, 1, 0, 0, 0, 1)]
    error = refusal(aware, naive)
    assert error.value == "a column of Arrow type timestamp[us]"
    assert 'cast(pa.timestamp("us", "UTC"))' in error.expected
    assert "without a time zone" in refusal(local, pa.array([1], pa.timestamp("us", "UTC"))).expected


def test_durations_keep_their_parts() -> None:
    kind = {"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"}
    array = pa.array([(1, 2, 3_000_000), (0, 0, 0)], pa.month_day_nano_interval())
    assert encoded(kind, array) == [(1, 2, 3), (0, 0, 0)]
    assert refusal(kind, pa.array([(0, 0, 1)], pa.month_day_nano_interval())).row == 0
    assert refusal(kind, pa.array([(-1, 0, 0)], pa.month_day_nano_interval())).row == 0


def test_nulls_lists_and_maps_of_other_forms_are_taken() -> None:
    values = [[1, 2], [], [3]]
    kind = {"type": "array", "items": "long"}
    for arrow in (pa.list_(pa.int64()), pa.large_list(pa.int16()), pa.list_view(pa.int32()), pa.large_list_view(pa.int64())):
        assert encoded(kind, pa.array(values, arrow)) == values
        assert encoded(kind, pa.array(values, arrow).slice(1)) == values[1:]
    assert encoded(kind, pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)).slice(1)) == [[3, 4]]
    assert encoded(["null", kind], pa.array([None, [1]])) == [None, [1]]
    assert encoded("null", pa.nulls(2)) == [None, None]
    assert encoded(["null", "long"], pa.nulls(2)) == [None, None]
    assert refusal("null", pa.array([None, 1])).row == 1
    ends = pc_run_ends([5, 5, 6])
    assert encoded("long", ends) == [5, 5, 6]


def pc_run_ends(values: list[int]) -> pa.Array:
    import pyarrow.compute as pc

    return pc.run_end_encode(pa.array(values))


def test_arrays_of_floats_are_copied_whatever_their_numbers_are() -> None:
    kind = {"type": "array", "items": "float"}
    for arrow in (pa.list_(pa.float32()), pa.list_(pa.float64()), pa.large_list(pa.float16()), pa.list_(pa.int16())):
        got = encoded(kind, pa.array([[1, 2], [], [3]], arrow).slice(1))
        assert [items.tolist() for items in got] == [[], [3.0]]
    assert refusal(kind, pa.array([[1.0], [None]], pa.list_(pa.float32()))).row == 1
    assert refusal(kind, pa.array([[1.0], [2.0, 1e39]])).row == 1


# -- vectors ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrow", [pa.list_(pa.float32(), 4), pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.int64(), 4)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_vectors_are_taken_from_lists_of_any_numbers(dtype: Any, arrow: pa.DataType) -> None:
    values = [[1, -2, 3, 127], [0, 0, 0, 0], [5, 6, 7, 8]]
    kind = vector(4, dtype)
    codec = Codec(kind)
    got = split(*encode_array(parse(kind), pa.array(values, arrow)))
    assert got == [codec.encode(row) for row in values]
    assert split(*encode_array(parse(kind), pa.array(values, arrow).slice(1))) == got[1:]


def test_bfloat16_is_rounded_to_the_nearest_even() -> None:
    numbers = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -3.14159, 1e-40, 65504.0], np.float32)
    (row,) = split(*encode_array(parse(vector(6, "bfloat16")), pa.array([numbers.tolist()], pa.list_(pa.float32(), 6))))
    assert row == numbers.astype(ml_dtypes.bfloat16).tobytes()
    assert refusal(vector(1, "bfloat16"), pa.array([[3.39e38], [3.4e38]], pa.list_(pa.float32()))).row == 1


def test_int8_vectors_quantise_exactly_as_the_row_encoder_does() -> None:
    rng = np.random.default_rng(11)
    values = np.concatenate([rng.standard_normal((200, 16)), rng.standard_normal((50, 16)) * 1e30, np.full((1, 16), 1e-44)]).astype(
        np.float32
    )
    codec = Codec(vector(16, "int8"))
    got = split(*encode_array(codec.writer, pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 16)))
    assert got == [codec.encode(row) for row in values]
    bad = pa.array([[1.0], [float("nan")]], pa.list_(pa.float32(), 1))
    assert refusal(vector(1, "int8"), bad).expected == "1 finite numbers"


def test_vectors_read_as_arrow_go_back_unchanged() -> None:
    rng = np.random.default_rng(3)
    for dtype in ("float32", "float16", "bfloat16", "int8"):
        codec = Codec(record(emb=["null", vector(8, dtype)]))
        rows = [codec.encode({"emb": rng.integers(-90, 90, 8).astype(np.float32) if index % 3 else None}) for index in range(10)]
        batch = codec.decode_columns(rows).to_arrow()
        assert split(*codec.encode_columns(batch.slice(2))) == rows[2:]


def test_vectors_of_another_length_or_with_holes_are_refused() -> None:
    kind = vector(3)
    assert refusal(kind, pa.array([[1, 2, 3], [1, 2]], pa.list_(pa.float32()))).row == 1
    assert refusal(kind, pa.array([[1, 2, 3], [1, None, 3]], pa.list_(pa.float32(), 3))).row == 1
    assert (
        refusal(vector(3, "float16"), pa.array([[1, 2, 70000.0]], pa.list_(pa.float32(), 3))).expected
        == "3 numbers within the range of float16"
    )
    assert refusal(kind, pa.array(["a"])).expected == "a column of lists of 3 numbers"
    values = pa.array([[1, 2, 3], None, [4, 5, 6]], pa.list_(pa.float32()))
    assert [None if row is None else row.tolist() for row in encoded(["null", kind], values)] == [[1, 2, 3], None, [4, 5, 6]]


# -- unions -------------------------------------------------------------------------------------------------------------------------


def test_unions_of_both_forms_are_taken_whole_and_sliced() -> None:
    kind = ["null", "long", "string"]
    types = pa.array([1, 2, 0, 1, 2], pa.int8())
    children = [pa.nulls(1), pa.array([10, 11]), pa.array(["a", "b"])]
    dense = pa.UnionArray.from_dense(types, pa.array([0, 0, 0, 1, 1], pa.int32()), children)
    sparse = pa.UnionArray.from_sparse(types, [pa.nulls(5), pa.array([10, 0, 0, 11, 0]), pa.array(["", "a", "", "", "b"])])
    for array in (dense, sparse):
        assert encoded(kind, array) == [10, "a", None, 11, "b"]
        assert encoded(kind, array.slice(1, 3)) == ["a", None, 11]


def test_a_plain_column_goes_into_the_branch_that_holds_it() -> None:
    kind = ["null", "long", "string", {"type": "array", "items": "long"}]
    assert encoded(kind, pa.array(["a", None])) == ["a", None]
    assert encoded(kind, pa.array([5, None])) == [5, None]
    assert encoded(kind, pa.array([[1], []])) == [[1], []]
    assert "a union" in refusal(kind, pa.array([True])).expected
    assert refusal(["long", "string"], pa.array(["a", None])).value == "null"


# -- tables -------------------------------------------------------------------------------------------------------------------------


def table_of(**columns: Any) -> pa.Table:
    return pa.table(columns)


def test_other_columns_are_left_out_and_absent_ones_take_their_default() -> None:
    schema = {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": "a", "type": "long"},
            {"name": "b", "type": ["null", "string"], "default": None},
            {"name": "c", "type": "string", "default": "é"},
        ],
    }
    codec = Codec(schema)
    rows = split(*codec.encode_columns(table_of(z=[0, 0], a=[1, 2])))
    assert [codec.decode(row) for row in rows] == [{"a": 1, "b": None, "c": "é"}, {"a": 2, "b": None, "c": "é"}]


def test_a_field_without_column_and_default_is_named_with_the_near_column() -> None:
    with pytest.raises(ColumnNotFoundError, match=r"no column 'clicks' in the table; did you mean 'click'"):
        Codec(record(clicks="long")).encode_columns(table_of(click=[1]))
    inner = {"type": "record", "name": "I", "fields": [{"name": "zip", "type": "string"}]}
    with pytest.raises(ColumnNotFoundError, match="no column 'zip' in address"):
        Codec(record(address=inner)).encode_columns(table_of(address=[{"zap": "x"}]))


def test_the_first_bad_row_is_reported_whatever_column_it_is_in() -> None:
    codec = Codec(record(a="int", b="string"))
    table = table_of(a=[1, 2, None, 1 << 40], b=["x", "y", "z", None])
    with pytest.raises(RowError) as caught:
        codec.encode_columns(table, first_row=1000)
    assert (caught.value.row, caught.value.field, caught.value.value) == (1002, "a", "null")
    assert str(caught.value) == "row 1002, field 'a': expected an int of 32 bits, got null"


def test_rows_are_counted_through_all_chunks() -> None:
    chunks = pa.chunked_array([pa.array(np.arange(5000)), pa.array(np.arange(5000)), pa.array([1 << 40])])
    for array in (chunks, chunks.slice(10)):
        with pytest.raises(RowError) as caught:
            Codec(record(a="int")).encode_columns(pa.table({"a": array}))
        assert caught.value.row == len(array) - 1
        assert refusal("int", array).row == len(array) - 1


def test_errors_lead_to_the_place_inside_a_row() -> None:
    order = {
        "type": "record",
        "name": "O",
        "fields": [{"name": "price", "type": "int"}, {"name": "tags", "type": {"type": "map", "values": "int"}}],
    }
    codec = Codec(record(orders={"type": "array", "items": order}))

    def fault(*rows: Any) -> tuple[Any, ...]:
        kind = pa.list_(pa.struct([("price", pa.int64()), ("tags", pa.map_(pa.string(), pa.int64()))]))
        with pytest.raises(RowError) as caught:
            codec.encode_columns(pa.table({"orders": pa.array(rows, kind)}))
        return caught.value.row, caught.value.field, caught.value.value

    fine = {"price": 1, "tags": [("a", 1)]}
    assert fault([fine], [fine, fine, {"price": 1 << 40, "tags": []}]) == (1, "orders[2].price", f"int {1 << 40}")
    assert fault([fine, {"price": 1, "tags": [("a", 1), ("b", None)]}]) == (0, "orders[1].tags['b']", "null")
    assert fault([fine, None]) == (0, "orders[1]", "null")
    assert fault([], None) == (1, "orders", "null")


def test_what_lies_under_a_null_is_not_looked_at() -> None:
    inner = {"type": "record", "name": "I", "fields": [{"name": "x", "type": "int"}, {"name": "s", "type": "string"}]}
    structs = pa.StructArray.from_arrays(
        [pa.array([1, 1 << 40, 3]), pa.array(["a", None, "c"])], names=["x", "s"], mask=pa.array([False, True, False])
    )
    assert encoded(["null", inner], structs) == [{"x": 1, "s": "a"}, None, {"x": 3, "s": "c"}]
    assert refusal(inner, structs).row == 1


def test_wrong_column_types_are_refused_by_name() -> None:
    error = refusal("long", pa.array(["5"]), first_row=3)
    assert (error.row, error.field, error.value, error.expected) == (3, "x", "a column of Arrow type string", "a column of integers")
    for kind, array in (
        ("string", pa.array([b"x"])),
        ("bytes", pa.array(["x"])),
        ("int", pa.array([1.0])),
        ("boolean", pa.array([1])),
        ("double", pa.array([True])),
        ({"type": "array", "items": "int"}, pa.array([1])),
        ({"type": "map", "values": "int"}, pa.array([[1]])),
        (record(a="int"), pa.array([1])),
        ({"type": "fixed", "name": "F", "size": 3}, pa.array([b"ab"], pa.binary(2))),
    ):
        assert "Arrow type" in refusal(kind, array).value
    with pytest.raises(DataError, match="2 columns named 'a'"):
        Codec(record(a="int")).encode_columns(pa.table([[1], [2]], names=["a", "a"]))


def test_no_rows_give_no_bytes() -> None:
    codec = Codec(
        record(a="int", l={"type": "array", "items": "string"}, v=vector(3), m={"type": "map", "values": "int"}, u=["int", "string"])
    )
    batch = codec.decode_columns([]).to_arrow()
    for table in (batch, pa.Table.from_batches([batch]), pa.Table.from_batches([], schema=batch.schema)):
        data, offsets = codec.encode_columns(table)
        assert len(data) == 0
        assert offsets.tolist() == [0]
    assert split(*encode_array(parse("long"), pa.chunked_array([], pa.int64()))) == []


def test_keys_are_encoded_from_one_array() -> None:
    assert split(*encode_array(parse("long"), pa.array([1, -1]))) == [b"\x02", b"\x01"]
    assert split(*encode_array(parse("string"), pa.array(["ab"]))) == [b"\x04ab"]
    with pytest.raises(RowError, match="row 7, field 'key': expected an int of 64 bits, got null"):
        encode_array(parse("long"), pa.array([1, None]), first_row=6)
    assert split(*encode_columns(parse("long"), pa.table({"id": [1]}))) == [b"\x02"]
    with pytest.raises(DataError, match="one column"):
        encode_columns(parse("long"), pa.table({"id": [1], "x": [1]}))


def test_more_branches_than_a_byte_holds_are_written() -> None:
    kind = [{"type": "fixed", "name": f"F{index}", "size": index + 1} for index in range(80)]
    assert encoded(kind, pa.array([b"x" * 75], pa.binary(75))) == [b"x" * 75]


def test_a_map_with_a_key_twice_is_refused_because_rows_would_lose_a_value() -> None:
    codec = Codec({"type": "record", "name": "R", "fields": [{"name": "m", "type": ["null", {"type": "map", "values": "long"}]}]})
    maps = [[("a", 1), ("b", 2)], None, [("a", 3)], []]
    arrow = pa.map_(pa.string(), pa.int64())
    data, offsets = codec.encode_columns(pa.table({"m": pa.array(maps, arrow)}))
    assert codec.decode_columns(data, offsets)["m"].tolist() == [{"a": 1, "b": 2}, None, {"a": 3}, {}]
    with pytest.raises(RowError, match="none of them twice") as refusal:
        codec.encode_columns(pa.table({"m": pa.array([*maps, [("b", 1), ("a", 2), ("b", 1)]], arrow)}))
    assert (refusal.value.row, refusal.value.field) == (4, "m")


def test_arrays_that_are_not_valid_arrow_are_refused() -> None:
    def offsets(*values: int) -> pa.Buffer:
        return pa.py_buffer(np.array(values, np.int32))

    text = pa.Array.from_buffers(pa.string(), 3, [None, offsets(0, 9, 2, 3), pa.py_buffer(b"abc")])
    lists = pa.Array.from_buffers(pa.list_(pa.int64()), 2, [None, offsets(0, 2, 1)], children=[pa.array([1, 2])])
    types = pa.Array.from_buffers(
        pa.dense_union([pa.field("0", pa.int64()), pa.field("1", pa.string())]),
        1,
        [None, pa.py_buffer(b"\x05"), offsets(0)],
        children=[pa.array([1]), pa.array(["a"])],
    )
    places = pa.UnionArray.from_buffers(types.type, 1, [None, pa.py_buffer(b"\x00"), offsets(7)], children=[pa.array([1]), pa.array(["a"])])
    words = pa.DictionaryArray.from_arrays(pa.array([0, 5]), pa.array(["A"]), safe=False)
    for kind, array in (
        ("string", text),
        ({"type": "array", "items": "long"}, lists),
        (["long", "string"], types),
        (["long", "string"], places),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, words),
    ):
        with pytest.raises(DataError, match="column 'x' is not a valid Arrow array"):
            encode_array(parse(kind), array, "x")


def test_a_kernel_that_was_compiled_from_other_sources_does_not_run() -> None:
    from fondaco.schema import _ops as o
    from fondaco.schema._decode_kernels import decode_rows
    from fondaco.schema._encode_kernels import encode_rows
    from fondaco.schema._kernels import SOURCES

    for kernel, operand_count in ((decode_rows, 11), (encode_rows, 7)):
        state = np.zeros(o.STATE_WORDS, np.int64)
        kernel(SOURCES + 1, *[0] * operand_count, state.ctypes.data)
        assert state[o.STATUS] == o.STALE

"""Columns: batches of rows decode to what the row decoder gives, and show it as NumPy and Arrow without silent zeros."""

from __future__ import annotations

import datetime
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fondaco.core.errors import DataError, DecodeError, FieldNotFoundError
from fondaco.schema import Codec, QuantizedVector, parse, to_arrow, vector
from fondaco.schema._objects import objects
from fondaco.schema.canonical import to_json
from fondaco.schema.columns import Columns, decode_addresses, decode_batch, decode_list
from schema_strategies import evolutions, for_fastavro, rows, same, schemas, schemas_and_rows

batches = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def record(**fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": name, "type": kind} for name, kind in fields.items()]}


def column_values(columns: Columns) -> dict[str, list[Any]]:
    """Every column as the values that `Codec.decode` gives."""
    return {name: objects(columns._nodes[name], columns._decoded, columns._valid(columns._nodes[name])) for name in columns}


def row_values(columns: Columns) -> list[dict[str, Any]]:
    values = column_values(columns)
    return [{name: values[name][index] for name in values} for index in range(columns.row_count)]


# -- against the row decoder and fastavro -------------------------------------------------------------------------------------------


@batches
@given(case=schemas_and_rows(recursive=False, count_max=6))
def test_a_batch_holds_what_the_row_decoder_gives(case: tuple[Any, list[Any]]) -> None:
    schema, written = case
    codec = Codec(schema)
    encoded = [codec.encode(row) for row in written]
    columns = decode_list(codec.program, encoded)
    for got, data in zip(row_values(columns), encoded, strict=True):
        assert same(got, codec.decode(data))


@batches
@given(case=schemas_and_rows(recursive=False, unions=False, count_max=4))
def test_a_batch_holds_what_fastavro_wrote(case: tuple[Any, list[Any]]) -> None:
    import io

    schema, written = case
    codec = Codec(schema)
    parsed = fastavro.parse_schema(to_json(codec.writer))
    encoded = []
    for row in written:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, for_fastavro(codec.writer, row))
        encoded.append(out.getvalue())
    for got, row in zip(row_values(decode_list(codec.program, encoded)), written, strict=True):
        assert same(for_fastavro(codec.writer, got), for_fastavro(codec.writer, row))


@batches
@given(data=st.data())
def test_evolved_rows_decode_as_the_row_decoder_reads_them(data: st.DataObject) -> None:
    writer = data.draw(schemas(recursive=False))
    codec = Codec(writer, data.draw(evolutions(writer)))
    encoded = [codec.encode(row) for row in data.draw(st.lists(rows(writer), max_size=4))]
    columns = decode_list(codec.program, encoded)
    for got, row in zip(row_values(columns), encoded, strict=True):
        assert same(got, codec.decode(row))


@batches
@given(data=st.data())
def test_a_projection_gives_the_same_columns_as_decoding_all(data: st.DataObject) -> None:
    schema, written = data.draw(schemas_and_rows(recursive=False))
    codec = Codec(schema)
    encoded = [codec.encode(row) for row in written]
    everything = column_values(decode_list(codec.program, encoded))
    chosen = data.draw(st.lists(st.sampled_from(codec.fields), unique=True)) if codec.fields else []
    some = column_values(decode_list(codec.program, encoded, chosen))
    assert list(some) == chosen
    assert all(same(some[name], everything[name]) for name in chosen)


@batches
@given(case=schemas_and_rows(recursive=False))
def test_arrow_columns_are_valid_and_of_the_schema_s_types(case: tuple[Any, list[Any]]) -> None:
    schema, written = case
    codec = Codec(schema)
    columns = codec.decode_columns([codec.encode(row) for row in written])
    assume(not _has_long_durations(columns))
    batch = columns.to_arrow()
    batch.validate(full=True)
    assert batch.schema == codec.arrow_schema
    assert batch.schema.metadata == codec.arrow_schema.metadata
    assert batch.num_rows == len(written) or not codec.fields


def _has_long_durations(columns: Columns) -> bool:
    """Arrow's durations have 31 bits where Avro's have 32."""
    try:
        columns.to_arrow()
    except DataError as exc:
        return "months" in str(exc)
    return False


@batches
@given(data=st.data())
def test_missing_rows_are_null_in_every_column_and_leave_the_others_alone(data: st.DataObject) -> None:
    schema, written = data.draw(schemas_and_rows(recursive=False, count_max=5))
    codec = Codec(schema)
    encoded = [codec.encode(row) for row in written]
    found = np.array(data.draw(st.lists(st.booleans(), min_size=len(written), max_size=len(written))), np.bool_)
    blob = np.frombuffer(b"".join(encoded) + b"\0", np.uint8)
    ends = np.cumsum([len(row) for row in encoded], dtype=np.int64) + blob.ctypes.data
    starts = ends - np.array([len(row) for row in encoded], np.int64)
    columns = decode_addresses(codec.program, np.where(found, starts, 0), ends)
    assert columns.found.tolist() == found.tolist()
    for index, got in enumerate(row_values(columns)):
        assert same(got, codec.decode(encoded[index])) if found[index] else set(got.values()) <= {None}
    for name in columns:
        assert not columns.valid(name)[~found].any()
        if not found.all():
            assert isinstance(columns[name], np.ma.MaskedArray)
    if not _has_long_durations(columns):
        columns.to_arrow().validate(full=True)


# -- NumPy and Arrow faces ----------------------------------------------------------------------------------------------------------


def decode(schema: Any, values: list[dict[str, Any]]) -> Columns:
    codec = Codec(schema)
    return codec.decode_columns([codec.encode(value) for value in values])


def test_numbers_become_arrays_of_their_type() -> None:
    schema = record(i="int", l="long", f="float", d="double", b="boolean")
    columns = decode(schema, [{"i": -1, "l": 1 << 40, "f": 0.5, "d": 0.1, "b": True}, {"i": 2, "l": -5, "f": 2.0, "d": -0.1, "b": False}])
    assert {name: columns[name].dtype.str for name in columns} == {"i": "<i4", "l": "<i8", "f": "<f4", "d": "<f8", "b": "|b1"}
    assert columns["l"].tolist() == [1 << 40, -5]
    assert columns["b"].tolist() == [True, False]
    assert columns["i"] is columns["i"]


def test_nulls_are_masked_and_columns_without_any_are_plain() -> None:
    columns = decode(record(a=["null", "int"], b=["null", "int"]), [{"a": 1, "b": None}, {"a": 2, "b": 7}])
    assert type(columns["a"]) is np.ndarray
    assert columns["b"].mask.tolist() == [True, False]
    assert columns["b"][0] is np.ma.masked
    assert columns.valid("b").tolist() == [False, True]
    assert columns.arrow("b").to_pylist() == [None, 7]


def test_dates_and_times_are_numpy_times() -> None:
    schema = record(
        day={"type": "int", "logicalType": "date"},
        at={"type": "long", "logicalType": "timestamp-micros"},
        nanos={"type": "long", "logicalType": "timestamp-nanos"},
        clock={"type": "int", "logicalType": "time-millis"},
    )
    moment = datetime.datetime(2013, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    columns = decode(schema, [{"day": moment.date(), "at": moment, "nanos": 1_000_000_007, "clock": datetime.time(0, 0, 1)}])
    assert columns["day"].tolist() == [moment.date()]
    assert columns["at"][0] == np.datetime64("2013-01-02T03:04:05.000006")
    assert columns["nanos"].dtype == "<M8[ns]"
    assert columns["clock"].tolist() == [datetime.timedelta(seconds=1)]
    assert columns.arrow("at").type == pa.timestamp("us", "UTC")


def test_dates_that_rows_refuse_are_refused_by_columns_too() -> None:
    schema = record(
        at={"type": "long", "logicalType": "timestamp-micros"}, many={"type": "array", "items": {"type": "int", "logicalType": "date"}}
    )
    plain = Codec(record(at="long", many={"type": "array", "items": "int"}))
    for row, field in (({"at": 1 << 61, "many": []}, "at"), ({"at": 0, "many": [0, 1 << 30]}, "many")):
        with pytest.raises(DecodeError, match=field):
            Codec(schema).decode_columns([plain.encode(row)])
        with pytest.raises(DecodeError, match=field):
            Codec(schema).decode(plain.encode(row))


@pytest.mark.parametrize(("dtype", "item"), [("float32", pa.float32()), ("float16", pa.float16()), ("bfloat16", pa.uint16())])
def test_vectors_become_one_matrix_without_a_copy(dtype: Any, item: pa.DataType) -> None:
    rng = np.random.default_rng(5)
    values = rng.integers(-50, 50, (7, 16)).astype(np.float32)
    columns = decode(record(emb=vector(16, dtype)), [{"emb": row} for row in values])
    assert columns["emb"].shape == (7, 16)
    assert np.array_equal(columns["emb"].astype(np.float32), values)
    assert columns.arrow("emb").type == pa.list_(pa.field("item", item, False), 16)
    assert columns.arrow("emb").values.buffers()[1].address == columns["emb"].ctypes.data


def test_int8_vectors_are_dequantised_and_arrow_has_their_parts() -> None:
    values = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]], np.float32)
    columns = decode(record(emb=vector(3, "int8")), [{"emb": row} for row in values])
    assert columns["emb"].dtype == np.float32
    assert np.abs(columns["emb"] - values).max() <= 2.0 / 127 / 2
    assert columns.arrow("emb").field("values").to_pylist()[0] == [64, -127, 32]
    assert isinstance(column_values(columns)["emb"][0], QuantizedVector)


def test_a_null_vector_masks_its_whole_row() -> None:
    columns = decode(record(emb=["null", vector(2)]), [{"emb": [1, 2]}, {"emb": None}])
    assert columns["emb"].mask.tolist() == [[False, False], [True, True]]
    assert columns.arrow("emb").to_pylist() == [[1.0, 2.0], None]


def test_lists_declared_with_a_fixed_size_are_a_matrix() -> None:
    lists = pa.array([[1, 2, 3], None, [4, 5, 6]], pa.list_(pa.field("item", pa.int64(), False), 3))
    table = pa.table([lists], schema=pa.schema([pa.field("x", lists.type)]))
    codec = Codec(table.schema)
    columns = codec.decode_columns(*codec.encode_columns(table))
    assert columns["x"].shape == (3, 3)
    assert columns["x"][2].tolist() == [4, 5, 6]
    assert columns["x"].mask[1].all()
    assert columns.arrow("x").type == lists.type
    assert columns.arrow("x").to_pylist() == lists.to_pylist()


def test_text_and_other_values_are_objects() -> None:
    schema = record(s=["null", "string"], l={"type": "array", "items": "int"}, m={"type": "map", "values": "int"})
    columns = decode(schema, [{"s": "é", "l": [1], "m": {"a": 1}}, {"s": None, "l": [2], "m": {}}])
    assert columns["s"].dtype == object
    assert columns["s"][0] == "é"
    assert columns["s"].mask.tolist() == [False, True]
    assert columns["l"].tolist() == [[1], [2]]
    assert columns["m"].tolist() == [{"a": 1}, {}]


def test_floats_of_arrays_are_views_of_one_block() -> None:
    columns = decode(record(a={"type": "array", "items": "float"}), [{"a": [1, 2]}, {"a": []}, {"a": [3]}])
    first, empty, last = columns["a"]
    assert first.dtype == np.float32
    assert empty.tolist() == []
    assert last.ctypes.data == first.ctypes.data + 8


def test_declared_arrow_types_come_back_exactly() -> None:
    table = pa.table(
        {
            "u": pa.array([1, 255], pa.uint8()),
            "w": pa.array([1, (1 << 32) - 1], pa.uint32()),
            "h": pa.array([0.5, None], pa.float16()),
            "large": pa.array(["a", None], pa.large_string()),
            "view": pa.array(["a", "b" * 40], pa.string_view()),
            "city": pa.array(["x", "y"]).dictionary_encode(),
            "at": pa.array([1, 2], pa.timestamp("s", "America/New_York")),
            "took": pa.array([1, None], pa.duration("ms")),
            "day": pa.array([86_400_000, 0], pa.date64()),
            "price": pa.array([1, 2]).cast(pa.decimal256(40, 2)),
            "many": pa.array([[1], []], pa.large_list(pa.int16())),
            "map": pa.array([[("a", 1)], []], pa.map_(pa.large_string(), pa.int8())),
        }
    )
    codec = Codec(table.schema)
    columns = codec.decode_columns(*codec.encode_columns(table))
    back = pa.Table.from_batches([columns.to_arrow()])
    back.validate(full=True)
    assert back.schema == table.schema
    assert back.to_pylist() == table.to_pylist()
    assert columns["took"].dtype == "<m8[ms]"


def test_a_value_that_the_declared_arrow_type_cannot_hold_is_an_error_not_a_wrap() -> None:
    kind = parse(record(u={"type": "int", "arrow": "uint8"}))
    columns = Codec(kind).decode_columns([Codec(record(u="int")).encode({"u": 300})])
    with pytest.raises(DataError, match="uint8"):
        columns.arrow("u")
    assert columns["u"].tolist() == [300]


def test_columns_are_a_mapping_of_fields() -> None:
    columns = decode(record(clicks="int", views="int"), [{"clicks": 1, "views": 2}])
    assert list(columns) == ["clicks", "views"]
    assert len(columns) == 2
    assert columns.row_count == 1
    assert "clicks" in columns
    assert "other" not in columns
    assert columns.get("other") is None
    assert columns.found.tolist() == [True]
    assert repr(columns) == "Columns(1 rows: clicks, views)"
    with pytest.raises(FieldNotFoundError, match="did you mean 'clicks'"):
        columns["click"]


def test_no_rows_give_empty_columns_of_the_right_types() -> None:
    schema = record(a="int", s="string", l={"type": "array", "items": "string"}, e=vector(4), u=["int", "string"], o=["null", "long"])
    columns = Codec(schema).decode_columns([])
    assert columns["a"].shape == (0,)
    assert columns["e"].shape == (0, 4)
    assert columns.to_arrow().schema == to_arrow(parse(schema))
    assert columns.to_arrow().num_rows == 0


def test_one_huge_row_decodes() -> None:
    schema = record(s="string", l={"type": "array", "items": "long"}, b="bytes")
    row = {"s": "é" * (3 << 20), "l": list(range(200_000)), "b": b"\0" * (5 << 20)}
    columns = decode(schema, [row, {"s": "", "l": [], "b": b""}])
    assert columns["s"][0] == row["s"]
    assert columns["l"][0] == row["l"]
    assert columns["b"][0] == row["b"]


def test_buffers_grow_from_a_guess_that_was_too_small() -> None:
    # Rows of one list of many items without a value: the guess is one item a row, the truth is thousands.
    items = {"type": "array", "items": ["null", {"type": "array", "items": ["null", "long"]}]}
    schema = record(l=items, s="string", t="string")
    row = {"l": [[None] * 300, None] * 40, "s": "x" * 5_000, "t": ""}
    columns = decode(schema, [row] * 20)
    assert columns["l"].tolist() == [row["l"]] * 20
    assert columns["s"].tolist() == [row["s"]] * 20


def test_offsets_that_do_not_fit_the_data_are_refused() -> None:
    program = Codec(record(a="int")).program
    with pytest.raises(DataError, match="must not decrease"):
        decode_batch(program, b"\x02\x04", np.array([0, 3]))
    with pytest.raises(DataError, match="must not decrease"):
        decode_batch(program, b"\x02\x04", np.array([0, 2, 1]))
    with pytest.raises(DataError, match=r"rows . 1"):
        decode_batch(program, b"", np.empty(0, np.int64))
    assert decode_batch(program, memoryview(b"\x02\x04"), np.array([0, 1, 2]))["a"].tolist() == [1, 2]


def test_threads_decode_at_the_same_time() -> None:
    codec = Codec(record(a="long", s="string"))
    rows = [codec.encode({"a": index, "s": str(index)}) for index in range(2_000)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda fields: decode_list(codec.program, rows, fields), [["a"], ["s"], ["s", "a"], None] * 4))
    assert all(columns["a"].tolist() == list(range(2_000)) for columns in results if "a" in columns)
    assert all(columns["s"][7] == "7" for columns in results if "s" in columns)

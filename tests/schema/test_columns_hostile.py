"""Hostile bytes: the batch decoder accepts exactly what the row decoder accepts, names what it refuses, and allocates within reason."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fondaco.core.errors import DataError, DecodeError, RowError
from fondaco.schema import Codec, vector
from fondaco.schema._objects import objects
from fondaco.schema.columns import decode_list
from fondaco.schema.resolution import ZERO_SIZE_ITEMS_MAX
from fondaco.schema.wire import encode_long
from schema_strategies import evolutions, rows, same, schemas

hostile = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

_JUNK = [
    b"",
    b"\x00",
    b"\x80",
    b"\xff" * 9 + b"\x01",  # the largest varint
    b"\xff" * 10,  # longer than any varint
    b"\xff" * 9 + b"\x02",  # a 65th bit
    encode_long(1 << 31),
    encode_long(1 << 62),
    encode_long(-(1 << 63)),
    encode_long(-1),
    encode_long(1_000_000),
]


@st.composite
def mutations(draw: st.DrawFn, row: bytes) -> bytes:
    """`row` with some bytes changed, cut, left out, repeated or replaced by telling numbers."""
    data = bytearray(row)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["set", "cut", "insert", "delete", "repeat"])):
            case "set" if place < len(data):
                data[place] = draw(st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
            case "cut":
                del data[place:]
            case "insert":
                data[place:place] = draw(st.sampled_from(_JUNK))
            case "delete":
                del data[place : place + draw(st.integers(1, 4))]
            case "repeat":
                data[place:place] = data[place : place + draw(st.integers(1, 16))]
    return bytes(data)


def decode_row(codec: Codec, data: bytes) -> tuple[Any, DecodeError | None]:
    try:
        return codec.decode(data), None
    except DecodeError as exc:
        return None, exc


def decode_column(codec: Codec, data: bytes) -> tuple[Any, DecodeError | None]:
    try:
        columns = decode_list(codec.program, [data])
    except DecodeError as exc:
        return None, exc
    nodes, decoded = columns._nodes, columns._decoded
    return {name: objects(nodes[name], decoded, columns._valid(nodes[name]))[0] for name in columns}, None


@hostile
@given(data=st.data())
def test_the_batch_decoder_accepts_what_the_row_decoder_accepts(data: st.DataObject) -> None:
    schema = data.draw(schemas(recursive=False))
    codec = Codec(schema)
    row = data.draw(mutations(codec.encode(data.draw(rows(schema)))))
    value, fault = decode_row(codec, row)
    got, refused = decode_column(codec, row)
    assert (fault is None) == (refused is None), (fault, refused)
    assert fault is not None or same(got, value)
    if refused is not None:
        assert refused.row == 0
        assert 0 <= refused.position <= len(row)


@hostile
@given(data=st.data())
def test_hostile_rows_of_other_versions_and_projections_end_in_a_value_or_a_typed_error(data: st.DataObject) -> None:
    schema = data.draw(schemas(recursive=False))
    codec = Codec(schema, data.draw(evolutions(schema)))
    row = data.draw(mutations(codec.encode(data.draw(rows(schema)))))
    fields = data.draw(st.lists(st.sampled_from(codec.fields), unique=True)) if codec.fields else None
    try:
        columns = decode_list(codec.program, [row], fields)
        for name in columns:
            columns[name]
    except DecodeError:
        return


_TIMES = [
    ({"type": "int", "logicalType": "date"}, pa.date32(), [-719_162, 2_932_896]),
    ({"type": "int", "logicalType": "time-millis"}, pa.time32("ms"), [0, 86_399_999]),
    ({"type": "long", "logicalType": "time-micros"}, pa.time64("us"), [0, 86_399_999_999]),
    ({"type": "long", "logicalType": "timestamp-millis"}, pa.timestamp("ms", "UTC"), [-62_135_596_800_000, 253_402_300_799_999]),
    ({"type": "long", "logicalType": "timestamp-micros"}, pa.timestamp("us", "UTC"), [-62_135_596_800_000_000, 253_402_300_799_999_999]),
    ({"type": "long", "logicalType": "local-timestamp-micros"}, pa.timestamp("us"), [-62_135_596_800_000_000, 253_402_300_799_999_999]),
    ({"type": "long", "logicalType": "timestamp-nanos"}, pa.timestamp("ns", "UTC"), [-(1 << 63) + 1, (1 << 63) - 1]),
]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_time_that_one_of_four_ways_takes_all_take(data: st.DataObject) -> None:
    """Encoding and decoding, by rows and by columns, agree on which numbers are dates, times and timestamps."""
    kind, arrow, (least, most) = data.draw(st.sampled_from(_TIMES))
    bits = 32 if kind["type"] == "int" else 64
    edges = st.sampled_from([least - 1, least, most, most + 1])
    number = data.draw((edges | st.integers()).filter(lambda n: -(1 << bits - 1) <= n < 1 << bits - 1))
    codec = Codec({"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]})
    column = pa.table({"a": pa.array([number], pa.int32() if bits == 32 else pa.int64()).view(arrow)})
    raw = encode_long(number)
    ways = {
        "row": lambda: codec.encode({"a": number}),
        "columns": lambda: codec.encode_columns(column)[0].tobytes(),
        "decoded row": lambda: codec.encode(codec.decode(raw)),
        "decoded columns": lambda: codec.encode_columns(codec.decode_columns([raw]).to_arrow())[0].tobytes(),
        "decoded array": lambda: codec.encode({"a": codec.decode_columns([raw])["a"].astype(np.int64)[0]}),
    }
    for way, run in ways.items():
        if least <= number <= most:
            assert run() == raw, way
        else:
            with pytest.raises((RowError, DecodeError)) as refusal:
                run()
            assert str(refusal.value), way


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_at_all_end_in_a_value_or_a_typed_error(data: bytes) -> None:
    inner = {
        "type": "record",
        "name": "I",
        "fields": [{"name": "x", "type": ["null", "string"]}, {"name": "y", "type": {"type": "array", "items": "float"}}],
    }
    fields = [
        {"name": "l", "type": {"type": "array", "items": inner}},
        {"name": "m", "type": {"type": "map", "values": ["int", "null", "I"]}},
    ]
    codec = Codec({"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}, *fields, {"name": "b", "type": "boolean"}]})
    value, fault = decode_row(codec, data)
    got, refused = decode_column(codec, data)
    assert (fault is None) == (refused is None)
    assert fault is not None or same(got, value)


# -- what is said about it ----------------------------------------------------------------------------------------------------------


def record(**fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": name, "type": kind} for name, kind in fields.items()]}


ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 0}
CASES = [
    ("int", b"", "byte 0 (field 'x'): the row ends inside a number"),
    ("long", b"\x80\x80", "byte 0 (field 'x'): the row ends inside a number"),
    ("long", b"\xff" * 10, "byte 0 (field 'x'): a varint that does not fit 64 bits"),
    ("int", encode_long(1 << 31), "byte 0 (field 'x'): 2147483648 does not fit an int (32 bits)"),
    ("double", b"1234567", "byte 0 (field 'x'): the row ends inside a value of 8 bytes"),
    ("boolean", b"\x02", "byte 0 (field 'x'): a boolean is 0 or 1, not 2"),
    ("string", encode_long(-1), "byte 0 (field 'x'): negative length -1"),
    ("bytes", encode_long(9) + b"ab", "byte 0 (field 'x'): a length of 9 bytes runs past the end of the row"),
    ("string", encode_long(3) + b"a\xc3(", "byte 2 (field 'x'): byte 0xc3 is not UTF-8 here"),
    (["null", "int"], encode_long(2), "byte 0 (field 'x'): union branch 2; there are 2"),
    (["null", "int", "string"], encode_long(-1), "byte 0 (field 'x'): union branch -1; there are 3"),
    (ENUM, encode_long(2), "byte 0 (field 'x'): enum symbol 2; there are 2"),
    ({"type": "array", "items": "long"}, encode_long(1 << 40), "byte 0 (field 'x'): 1099511627776 items do not fit the rest of the row"),
    ({"type": "array", "items": "float"}, encode_long(2) + b"123456\x00", "byte 0 (field 'x'): 2 items do not fit the rest of the row"),
    (
        {"type": "array", "items": "int"},
        encode_long(-1) + encode_long(2) + b"\x02\x00",
        "byte 3 (field 'x'): a block says that it has 1 bytes",
    ),
    (
        {"type": "array", "items": "int"},
        encode_long(-1) + encode_long(50) + b"\x02\x00",
        "a block says that it has 50 bytes, which is not so",
    ),
    ({"type": "array", "items": "null"}, encode_long(ZERO_SIZE_ITEMS_MAX + 1) + b"\x00", "65537 items without bytes; a row may have 65536"),
    ({"type": "string", "logicalType": "uuid"}, encode_long(36) + b"x" * 36, "text that is not a UUID"),
    (DECIMAL, encode_long(2) + (1000).to_bytes(2, "big"), "2 bytes that are not a decimal of the schema's precision"),
    ({"type": "int", "logicalType": "time-millis"}, encode_long(86_400_000), "86400000 is not a time of day"),
    ("null", b"\x00", "byte 0: 1 bytes after the end of the row"),
]


@pytest.mark.parametrize(("kind", "row", "message"), CASES, ids=[case[2][:60] for case in CASES])
def test_what_is_wrong_is_named_with_row_byte_and_field(kind: Any, row: bytes, message: str) -> None:
    codec = Codec(record(x=kind))
    with pytest.raises(DecodeError) as caught:
        decode_list(codec.program, [row])
    assert message in str(caught.value)
    assert str(caught.value).startswith("row 0, byte ")


def test_the_bad_row_of_many_is_named() -> None:
    codec = Codec(record(a={"type": "record", "name": "I", "fields": [{"name": "b", "type": "string"}]}))
    good = codec.encode({"a": {"b": "fine"}})
    with pytest.raises(DecodeError, match=r"row 700, byte 0 .field 'a.b'.: a length of 100 bytes"):
        decode_list(codec.program, [good] * 700 + [encode_long(100)] + [good] * 9)


# -- what it costs ------------------------------------------------------------------------------------------------------------------


def peak_bytes(codec: Codec, data: list[bytes]) -> int:
    codec.program.select(None)
    decode_list(codec.program, [])
    tracemalloc.start()
    try:
        decode_list(codec.program, data)
    except DecodeError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("items", ["long", "double", "string", "null", vector(4), {"type": "array", "items": "null"}], ids=str)
def test_a_huge_count_allocates_nothing(items: Any) -> None:
    codec = Codec(record(a={"type": "array", "items": items}))
    for count in (1 << 31, 1 << 40, 1 << 62, -(1 << 62)):
        assert peak_bytes(codec, [encode_long(count) + b"\x7f" * 30]) < 100_000


def test_items_without_bytes_are_bounded_for_the_row_as_a_whole() -> None:
    empty = {"type": "record", "name": "Nothing", "fields": []}
    codec = Codec(record(a={"type": "array", "items": {"type": "array", "items": empty}}))
    inner = encode_long(ZERO_SIZE_ITEMS_MAX // 2) + b"\x00"
    assert len(decode_list(codec.program, [encode_long(2) + inner * 2 + b"\x00"])["a"][0]) == 2
    with pytest.raises(DecodeError, match="items without bytes"):
        decode_list(codec.program, [encode_long(3) + inner * 3 + b"\x00"])


def test_memory_stays_in_proportion_to_the_rows() -> None:
    # Every byte a value of eight: the worst that a schema without defaults can ask for.
    codec = Codec(record(a={"type": "array", "items": "long"}))
    row = encode_long(1 << 20) + b"\x02" * (1 << 20) + b"\x00"
    assert peak_bytes(codec, [row]) < 5 * 8 * (1 << 20)
    assert decode_list(codec.program, [row])["a"][0] == [1] * (1 << 20)


def test_a_long_default_does_not_fill_memory_for_many_short_rows() -> None:
    old = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}
    new = {**old, "fields": [*old["fields"], {"name": "s", "type": "string", "default": "x" * 100_000}]}
    codec, row = Codec(old, new), Codec(old).encode({"a": 1})
    assert len(codec.decode_columns([row] * 10)["s"][9]) == 100_000
    with pytest.raises(DataError, match="fewer rows at a time"):
        codec.decode_columns([row] * 10_000)
    assert codec.decode_columns([row] * 10_000, fields=["a"]).row_count == 10_000


def test_more_than_offsets_can_count_is_refused_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    from fondaco.schema import _run

    monkeypatch.setattr(_run, "OFFSET_MAX", 1_000)
    codec = Codec(record(s="string", l={"type": "array", "items": "int"}))
    row = codec.encode({"s": "x" * 600, "l": [1] * 10})
    assert decode_list(codec.program, [row])["s"].tolist() == ["x" * 600]
    with pytest.raises(DataError, match="column 's' of this batch holds more than 2 GiB"):
        decode_list(codec.program, [row, row])


def test_bytes_are_never_read_beyond_a_row() -> None:
    # The row is followed by bytes that would complete it.
    codec = Codec(record(a="long", b="double", s="string"))
    row = codec.encode({"a": 1 << 40, "b": 0.5, "s": "text"})
    for cut in range(len(row)):
        blob = np.frombuffer(row, np.uint8)
        with pytest.raises(DecodeError):
            codec.decode_columns(blob, np.array([0, cut], np.int64))


def test_nan_payloads_and_negative_zero_pass_unchanged() -> None:
    codec = Codec(record(f="float", d="double"))
    row = struct.pack("<Id", 0x7FC12345, -0.0)
    columns = decode_list(codec.program, [row])
    assert columns["f"].view(np.uint32).tolist() == [0x7FC12345]
    assert columns["d"].tobytes() == struct.pack("<d", -0.0)
    assert codec.encode_columns(columns.to_arrow())[0].tobytes() == row

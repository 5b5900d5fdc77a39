"""Codec: the public face; what Python values are written and read, and what is refused."""

from __future__ import annotations

import decimal
import pickle
import subprocess
import sys
import uuid
from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings

from fondaco.core.errors import DecodeError, RowError, SchemaError, SchemaResolutionError
from fondaco.schema import Codec, Interval, as_type, parse, vector
from fondaco.schema.codec import _parts_of
from schema_strategies import same, schemas_and_rows


def record(**fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": name, "type": kind} for name, kind in fields.items()]}


def logical(base: str, name: str, **attributes: Any) -> dict[str, Any]:
    return {"type": base, "logicalType": name, **attributes}


STAMP = logical("long", "timestamp-micros")
MILLIS = logical("long", "timestamp-millis")
NANOS = logical("long", "timestamp-nanos")
LOCAL = logical("long", "local-timestamp-micros")
MONEY = logical("bytes", "decimal", precision=9, scale=2)
PARIS = timezone(timedelta(hours=2))


# -- values -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "value", "read"),
    [
        ("long", np.int32(5), 5),
        ("double", 5, 5.0),
        ("double", np.float32(0.5), 0.5),
        ("float", np.int8(3), 3.0),
        ("boolean", np.True_, True),
        ("string", np.str_("x"), "x"),
        ("bytes", bytearray(b"x"), b"x"),
        ("bytes", memoryview(b"x"), b"x"),
        ({"type": "array", "items": "int"}, (1, 2), [1, 2]),
        ({"type": "array", "items": "int"}, np.array([1, 2]), [1, 2]),
        ({"type": "array", "items": "int"}, range(2), [0, 1]),
        ({"type": "array", "items": {"type": "array", "items": "int"}}, np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ({"type": "map", "values": "int"}, OrderedDict(a=1), {"a": 1}),
        (MONEY, Decimal("12.3"), Decimal("12.30")),
        (MONEY, -7, Decimal("-7.00")),
        (logical("bytes", "decimal", precision=60, scale=3), Decimal("1" * 57 + ".125"), Decimal("1" * 57 + ".125")),
        (logical("string", "uuid"), "12345678-1234-5678-1234-56781234ABCD", uuid.UUID("12345678-1234-5678-1234-56781234abcd")),
        (logical("int", "date"), date(1, 1, 1), date(1, 1, 1)),
        (logical("int", "date"), np.datetime64("2013-01-01"), date(2013, 1, 1)),
        (logical("int", "date"), -1, date(1969, 12, 31)),
        (logical("int", "time-millis"), time(23, 59, 59, 999_000), time(23, 59, 59, 999_000)),
        (logical("long", "time-micros"), 1, time(0, 0, 0, 1)),
        (STAMP, datetime(2013, 1, 1, 2, tzinfo=PARIS), datetime(2013, 1, 1, tzinfo=UTC)),
        (STAMP, datetime(1, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)),
        (STAMP, datetime.max.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
        (STAMP, np.datetime64("2013-01-01T00:00"), datetime(2013, 1, 1, tzinfo=UTC)),
        (STAMP, pd.Timestamp("2013-01-01", tz="UTC"), datetime(2013, 1, 1, tzinfo=UTC)),
        (MILLIS, 1, datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)),
        (NANOS, datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC), np.datetime64(1000, "ns")),
        (NANOS, pd.Timestamp(5, tz="UTC"), np.datetime64(5, "ns")),
        (LOCAL, datetime(2013, 1, 1), datetime(2013, 1, 1)),
        ({"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"}, (1, 2, 3), Interval(1, 2, 3)),
        (
            {"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"},
            Interval(0, 0, (1 << 32) - 1),
            Interval(0, 0, (1 << 32) - 1),
        ),
        ({"type": "fixed", "name": "D", "size": 4, "logicalType": "decimal", "precision": 9, "scale": 1}, Decimal("-1.5"), Decimal("-1.5")),
    ],
)
def test_values_that_lose_nothing_are_written(schema: Any, value: Any, read: Any) -> None:
    codec = Codec(schema)
    got = codec.decode(codec.encode(value))
    assert (got, type(got)) == (read, type(read))


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ("null", 0, "null"),
        ("boolean", 1, "a bool"),
        ("int", True, "an int of 32 bits"),
        ("int", 1 << 31, "an int of 32 bits"),
        ("int", 5.0, "an int of 32 bits"),
        ("int", "5", "an int"),
        ("long", -(1 << 63) - 1, "an int of 64 bits"),
        ("long", None, "an int of 64 bits"),
        ("float", 1e39, "within the range of 32-bit floats"),
        ("float", True, "a number"),
        ("double", "5", "a number"),
        ("double", Decimal(5), "a number"),
        ("double", 10**400, "a number"),
        ("string", b"x", "text"),
        ("string", "\ud800", "text that UTF-8 can encode"),
        ("bytes", "x", "bytes"),
        ({"type": "fixed", "name": "F", "size": 2}, b"x", "2 bytes"),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "C", "one of ['A', 'B']"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, [], "one of ['A']"),
        ({"type": "array", "items": "int"}, "ab", "a list"),
        ({"type": "array", "items": "int"}, {1, 2}, "a list"),
        ({"type": "array", "items": "float"}, [[1.0]], "a number"),
        ({"type": "map", "values": "int"}, [("a", 1)], "a mapping with text keys"),
        ({"type": "map", "values": "int"}, {1: 1}, "a mapping with text keys"),
        (MONEY, 0.5, "a Decimal or an int"),
        (MONEY, Decimal("0.001"), "at most 2 digits after the point"),
        (MONEY, Decimal("10000000"), "at most 7 digits before the point"),
        (MONEY, Decimal("NaN"), "before the point"),
        (MONEY, Decimal("1e999999"), "before the point"),
        (logical("string", "uuid"), "no uuid", "a UUID or its text"),
        (logical("string", "uuid"), 5, "a UUID or its text"),
        (logical("string", "uuid"), "{12345678-1234-5678-1234-567812345678}", "8-4-4-4-12"),
        (logical("string", "uuid"), "urn:uuid:12345678-1234-5678-1234-567812345678", "8-4-4-4-12"),
        (logical("string", "uuid"), "12345678-1234-5678-1234-5678-12345678", "8-4-4-4-12"),
        (logical("int", "date"), 1 << 30, "years 1 to 9999"),
        (logical("int", "date"), np.datetime64("10000-01-01"), "years 1 to 9999"),
        (STAMP, 1 << 62, "years 1 to 9999"),
        (STAMP, datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "years 1 to 9999"),
        (NANOS, -(1 << 63), "1677-09-21 to 2262-04-11"),
        (LOCAL, np.datetime64("0000-12-31"), "years 1 to 9999"),
        (logical("int", "date"), datetime(2013, 1, 1), "a date"),
        (logical("int", "time-millis"), time(0, 0, 0, 1), "a time in whole millis"),
        (logical("int", "time-millis"), time(1, tzinfo=UTC), "without a zone"),
        (logical("long", "time-micros"), 86_400_000_000, "since midnight"),
        (STAMP, datetime(2013, 1, 1), "a datetime with a time zone, such as tzinfo=UTC"),
        (STAMP, "2013-01-01", "a datetime with a time zone"),
        (STAMP, True, "a datetime with a time zone"),
        (STAMP, np.datetime64("NaT"), "whole micros"),
        (STAMP, pd.Timestamp(5, tz="UTC"), "whole micros"),
        (MILLIS, datetime(2013, 1, 1, 0, 0, 0, 1, tzinfo=UTC), "a time in whole millis"),
        (NANOS, datetime.max.replace(tzinfo=UTC), "64 bits"),
        (LOCAL, datetime(2013, 1, 1, tzinfo=UTC), "without a zone"),
        ({"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"}, (1, 2, -3), "from 0 to 4294967295"),
        ({"type": "fixed", "name": "D", "size": 12, "logicalType": "duration"}, pa.MonthDayNano([1, 2, 3]), "an Interval"),
        (["null", "long", "string"], 5.5, "one of: null, long, string"),
        (record(a="int"), [1], "a mapping with the fields of 'R'"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_the_expectation(schema: Any, value: Any, expected: str) -> None:
    with pytest.raises(RowError) as caught:
        Codec(record(x=schema) if schema != record(a="int") else schema).encode({"x": value} if schema != record(a="int") else value)
    assert expected in caught.value.expected, caught.value.expected
    assert type(value).__name__ in caught.value.value


def test_the_field_of_a_misfit_is_named_by_its_path() -> None:
    inner = record(n={"type": "array", "items": {"type": "map", "values": "int"}}, f={"type": "array", "items": "float"}) | {"name": "I"}
    codec = Codec(record(a=inner, b=["null", "long"]))
    good = {"a": {"n": [{}, {"k": 1}], "f": []}, "b": None}
    codec.encode(good)
    for row, path in [
        ({**good, "b": "x"}, "b"),
        ({**good, "a": {"n": [{}, {"k": "x"}], "f": []}}, "a.n[1]['k']"),
        ({**good, "a": {"n": [], "f": [1.0, "x"]}}, "a.f[1]"),
        ({**good, "a": 5}, "a"),
    ]:
        with pytest.raises(RowError) as caught:
            codec.encode(row)
        assert (caught.value.row, caught.value.field) == (None, path)


def test_missing_fields_take_their_default_or_are_refused() -> None:
    schema = record(a="int", b="string")
    schema["fields"][1]["default"] = "none"
    codec = Codec(schema)
    assert codec.decode(codec.encode({"a": 1})) == {"a": 1, "b": "none"}
    with pytest.raises(RowError, match=r"field 'a': expected an int of 32 bits \(the field has no default\), got no value"):
        codec.encode({"b": "x"})


def test_unknown_fields_are_refused_with_the_near_name() -> None:
    with pytest.raises(RowError, match=r"field 'clickz': expected no such field \(did you mean 'clicks'\?\), got int 1"):
        Codec(record(clicks="int")).encode({"clicks": 1, "clickz": 1})
    with pytest.raises(RowError, match="did you mean 'clicks'"):
        Codec(record(clicks="int")).encode({"clickz": 1})


def test_the_value_in_a_message_is_bounded() -> None:
    nested: Any = None
    for _ in range(5000):
        nested = [nested]
    for value in ("x" * 10**6, nested, 1 << 4000, list(range(10**6))):
        with pytest.raises(RowError) as caught:
            Codec(record(a="int")).encode({"a": value})
        assert len(str(caught.value)) < 500


# -- unions -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("branches", "value", "index"),
    [
        (["null", "int", "long"], 5, 1),
        (["null", "int", "long"], 1 << 40, 2),
        (["float", "double"], 0.5, 0),
        (["float", "double"], 0.1, 1),
        (["double", "long"], 5, 1),
        (["double", "string"], 5, 0),
        (["string", "bytes"], b"x", 1),
        ([{"type": "enum", "name": "E", "symbols": ["A"]}, "string"], "B", 1),
        (["long", "string", MONEY], Decimal(1), 2),
        (["string", logical("int", "date")], date(2013, 1, 1), 1),
        ([record(a="int"), record(a="int", b="int") | {"name": "S"}], {"a": 1, "b": 2}, 1),
        ([record(a="int"), {"type": "map", "values": "int"}], {"b": 2}, 1),
        ([{"type": "array", "items": "int"}, "null"], [1], 0),
        ([record(a="int"), record(a="int") | {"name": "n.S"}], ("n.S", {"a": 1}), 1),
        ([record(a="int"), record(a="int") | {"name": "n.S"}], ("S", {"a": 1}), 1),
        (["int", "long"], ("long", 5), 1),
    ],
)
def test_the_branch_that_holds_the_value_as_it_is_comes_first(branches: Any, value: Any, index: int) -> None:
    codec = Codec(branches)
    data = codec.encode(value)
    assert data[0] == 2 * index
    assert codec.decode(data) == (value[1] if isinstance(value, tuple) else value)


# -- schemas ------------------------------------------------------------------------------------------------------------------------


def test_a_codec_takes_every_form_of_schema() -> None:
    forms: list[object] = [record(a="int"), '{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}', parse(record(a="int"))]
    assert len({Codec(form) for form in forms}) == 1
    arrow = Codec(pa.schema([pa.field("a", pa.int32(), nullable=False)]))
    assert arrow.fields == ("a",)
    assert arrow.encode({"a": 1}) == b"\x02"
    assert as_type(pa.schema([])).fullname == "Row"  # type: ignore[union-attr]


def test_a_codec_knows_its_schemas_and_fields() -> None:
    codec = Codec(record(a="int", b="string"), record(a="long"))
    assert [member.name for member in codec.writer.fields] == ["a", "b"]  # type: ignore[union-attr]
    assert codec.fields == ("a",)
    assert codec.arrow_schema.equals(pa.schema([pa.field("a", pa.int64(), nullable=False)]))
    assert Codec("long").fields == ()
    with pytest.raises(SchemaResolutionError):
        Codec(record(a="int"), record(a="string"))


def test_an_arrow_reader_need_not_guess_the_writers_names() -> None:
    inner = record(x="int") | {"name": "Inner"}
    writer = record(a="int", s=inner) | {"name": "Member"}
    reader = pa.schema([pa.field("s", pa.struct([pa.field("x", pa.int64(), nullable=False)]), nullable=False)])
    assert Codec(writer, reader).decode(b"\x02\x04") == {"s": {"x": 2}}


def test_equal_codecs_are_equal_and_share_what_they_compiled() -> None:
    one, two = Codec(record(a="int")), Codec({**record(a="int"), "namespace": ""})
    assert one == two
    assert hash(one) == hash(two)
    assert one.decode is two.decode
    assert one != Codec(record(a="int"), record(a="long"))
    assert one != 5
    assert _parts_of.cache_info().maxsize == 256


def test_a_codec_survives_pickling_and_shows_its_schemas() -> None:
    codec = Codec(record(a="int"), record(a="long"))
    assert pickle.loads(pickle.dumps(codec)) == codec
    assert repr(Codec("long")) == 'Codec("long")'
    assert ", reader=" in repr(codec)


def test_any_buffer_of_exactly_one_row_is_decoded() -> None:
    codec = Codec(record(a="int", v=vector(2)))
    data = codec.encode({"a": 1, "v": [1, 2]})
    for buffer in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)):
        assert codec.decode(buffer)["a"] == 1
    with pytest.raises(DecodeError, match="left over"):
        codec.decode(data + b"\0")


def test_the_decimal_context_of_the_caller_changes_nothing() -> None:
    codec = Codec(logical("bytes", "decimal", precision=38, scale=4))
    with decimal.localcontext(prec=3):
        value = Decimal("123456789.1234")
        assert codec.decode(codec.encode(value)) == value


@settings(max_examples=50)
@given(case=schemas_and_rows())
def test_encoding_what_was_decoded_gives_the_same_values(case: tuple[Any, list[Any]]) -> None:
    schema, written = case
    codec = Codec(schema)
    for row in written:
        decoded = codec.decode(codec.encode(row))
        assert same(codec.decode(codec.encode(decoded)), decoded)


# -- columns ------------------------------------------------------------------------------------------------------------------------


def test_columns_go_in_and_come_out() -> None:
    codec = Codec(record(a="int", s=["null", "string"], v=vector(2)))
    table = pa.table({"v": pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2)), "s": ["x", None], "a": [1, 2], "more": [0, 0]})
    data, offsets = codec.encode_columns(table)
    assert [codec.decode(data[offsets[i] : offsets[i + 1]])["s"] for i in range(2)] == ["x", None]
    columns = codec.decode_columns(data, offsets, ["a", "v"])
    assert columns["a"].tolist() == [1, 2]
    assert columns["v"].tolist() == [[1, 2], [3, 4]]
    rows = [codec.encode({"a": 7, "s": None, "v": [0, 1]})]
    assert codec.decode_columns(rows).to_arrow().to_pylist() == [{"a": 7, "s": None, "v": [0.0, 1.0]}]
    assert codec.program is codec.program


def test_a_recursive_schema_has_rows_and_no_columns() -> None:
    codec = Codec(record(next=["null", "R"]))
    assert codec.decode(codec.encode({"next": {"next": None}})) == {"next": {"next": None}}
    with pytest.raises(SchemaError, match="contains itself"):
        codec.decode_columns([b"\0"])


def test_importing_the_package_brings_in_neither_numba_nor_pyarrow() -> None:
    code = (
        "import sys, fondaco.schema as s; c = s.Codec({'type': 'record', 'name': 'R', 'fields': [{'name': 'v', 'type': s.vector(2)}]});"
        "c.row(c.encode({'v': [1, 2]}))['v']; print([m for m in ('numba', 'pyarrow', 'ml_dtypes') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Columns that came as Arrow are those that were decoded: every dtype, mask and value, without a kernel."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fondaco.core.errors import DataError, FieldNotFoundError
from fondaco.schema import Codec, vector
from fondaco.schema._objects import objects
from fondaco.schema.columns import Columns, decode_addresses
from schema_strategies import same, schemas_and_rows

batches = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def over_the_wire(batch: pa.RecordBatch) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pa.ipc.open_stream(sink.getvalue()) as reader:
        return reader.read_all()


def decoded(codec: Codec, encoded: list[bytes | None], fields: list[str] | None = None) -> Columns:
    """As a store decodes: rows at addresses, some missing."""
    data = np.frombuffer(b"".join(row or b"" for row in encoded) + b"\0", np.uint8)
    ends = np.cumsum([len(row or b"") for row in encoded], dtype=np.int64)
    starts = ends - np.array([len(row or b"") for row in encoded], np.int64)
    present = np.array([row is not None for row in encoded], np.bool_)
    starts, ends = starts + data.ctypes.data, ends + data.ctypes.data
    return decode_addresses(codec.program, np.where(present, starts, 0), np.where(present, ends, 0), fields, codec.arrow_schema)


def assert_equal(got: Columns, expected: Columns) -> None:
    assert list(got) == list(expected)
    assert (got.found == expected.found).all()
    for name in expected:
        one, other = got[name], expected[name]
        assert type(one) is type(other), name
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert (np.ma.getmaskarray(one) == np.ma.getmaskarray(other)).all()
        assert (got.valid(name) == expected.valid(name)).all()
        assert same(values(got, name), values(expected, name))
    assert got.to_arrow().equals(expected.to_arrow(), check_metadata=True)


def values(columns: Columns, name: str) -> list[Any]:
    node = columns._nodes[name]
    return objects(node, columns._decoded, columns._valid(node))


@batches
@given(case=schemas_and_rows(recursive=False, count_max=6), data=st.data())
def test_columns_from_arrow_equal_those_decoded(case: tuple[Any, list[Any]], data: st.DataObject) -> None:
    schema, written = case
    codec = Codec(schema)
    encoded: list[bytes | None] = [codec.encode(row) for row in written]
    encoded = [row if data.draw(st.integers(0, 3)) else None for row in encoded]
    expected = decoded(codec, encoded)
    try:
        batch = expected.to_arrow()
    except DataError as exc:
        assume("months" not in str(exc))
        raise
    assume(not any(np.isnan(part).any() for part in expected.values() if part.dtype.kind == "f"))  # Arrow's equals knows no NaN
    table = over_the_wire(batch)
    assume(codec.fields)
    got = Columns.from_arrow(table, codec, None, expected.found)
    for name in expected:
        assert same(values(got, name), values(expected, name))
        assert got[name].dtype == expected[name].dtype
        assert (np.ma.getmaskarray(got[name]) == np.ma.getmaskarray(expected[name])).all()
        assert type(got[name]) is type(expected[name])


EVERYTHING = pa.schema(
    [
        pa.field("flag", pa.bool_()),
        pa.field("small", pa.uint8(), False),
        pa.field("big", pa.int64(), False),
        pa.field("text", pa.large_string()),
        pa.field("word", pa.dictionary(pa.int8(), pa.string())),
        pa.field("at", pa.timestamp("s"), False),
        pa.field("amount", pa.decimal128(12, 2)),
        pa.field("half", pa.float16()),
        pa.field("took", pa.duration("ms"), False),
        pa.field("pair", pa.list_(pa.int32(), 2)),
        pa.field("many", pa.large_list(pa.field("item", pa.string(), False))),
        pa.field("emb", pa.list_(pa.field("item", pa.float32(), False), 3), False),
        pa.field("tags", pa.map_(pa.large_string(), pa.int64())),
        pa.field("place", pa.struct([pa.field("zip", pa.string()), pa.field("n", pa.int32(), False)])),
    ]
)
ROWS: list[dict[str, Any]] = [
    {
        "flag": bool(n % 2) if n % 5 else None, "small": n, "big": n << 40, "text": f"t{n}" if n % 3 else None, "word": "ab"[n % 2],
        "at": np.datetime64(1_700_000_000 + n, "s").item(), "amount": None if n == 2 else "1.25", "half": n / 2, "took": n * 1000,
        "pair": [n, -n] if n % 4 else None, "many": ["x"] * n, "emb": [n, 1.5, -n], "tags": [(f"k{n}", n)] if n % 2 else None,
        "place": {"zip": None, "n": n} if n % 3 else None,
    }
    for n in range(9)
]  # fmt: skip


def everything() -> tuple[Codec, list[bytes | None]]:
    codec = Codec(EVERYTHING)
    columns = {
        name: pa.array([row[name] for row in ROWS], pa.string() if name == "amount" else EVERYTHING.field(name).type).cast(
            EVERYTHING.field(name).type
        )
        for name in EVERYTHING.names
    }
    data, offsets = codec.encode_columns(pa.table(columns, schema=EVERYTHING))
    rows: list[bytes | None] = [data[start:end].tobytes() for start, end in itertools.pairwise(offsets.tolist())]
    rows[4] = rows[7] = None
    return codec, rows


def test_types_declared_from_arrow_come_back_as_they_were_decoded() -> None:
    codec, rows = everything()
    expected = decoded(codec, rows)
    assert_equal(Columns.from_arrow(over_the_wire(expected.to_arrow()), codec, None, expected.found), expected)


def test_slices_and_several_batches_are_one_table() -> None:
    codec, rows = everything()
    expected = decoded(codec, rows)
    batch = expected.to_arrow()
    pieces = pa.Table.from_batches([batch.slice(0, 3), batch.slice(3, 1), batch.slice(4)])
    assert_equal(Columns.from_arrow(pieces, codec, None, expected.found), expected)
    tail = Columns.from_arrow(batch.slice(3), codec, None, expected.found[3:])
    for name in expected:
        assert same(values(tail, name), values(expected, name)[3:])


def test_a_choice_of_fields_keeps_their_order() -> None:
    codec, rows = everything()
    expected = decoded(codec, rows, ["emb", "flag"])
    assert_equal(Columns.from_arrow(over_the_wire(expected.to_arrow()), codec, ["emb", "flag"], expected.found), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_vectors_of_every_dtype_come_back(dtype: Any) -> None:
    codec = Codec({"type": "record", "name": "R", "fields": [{"name": "emb", "type": vector(4, dtype)}]})
    rows: list[bytes | None] = [codec.encode({"emb": np.arange(4, dtype=np.float32) - n}) for n in range(3)]
    rows.insert(1, None)
    expected = decoded(codec, rows)
    assert_equal(Columns.from_arrow(over_the_wire(expected.to_arrow()), codec, None, expected.found), expected)


def test_columns_of_another_type_are_refused() -> None:
    codec = Codec(pa.schema([pa.field("a", pa.int64(), False)]))
    with pytest.raises(DataError, match=r"column 'a' is string, not int64"):
        Columns.from_arrow(pa.record_batch({"a": ["x"]}), codec)
    with pytest.raises(DataError, match=r"the columns have no 'a'; they are b"):
        Columns.from_arrow(pa.record_batch({"b": ["x"]}), codec)
    with pytest.raises(DataError, match=r"1 rows, and \[2\] marks"):
        Columns.from_arrow(pa.record_batch({"a": [1]}), codec, None, np.ones(2, np.bool_))
    with pytest.raises(FieldNotFoundError, match="no field 'c'"):
        Columns.from_arrow(pa.record_batch({"a": [1]}), codec, ["c"])


def test_numba_is_not_imported_for_columns_from_arrow() -> None:
    code = """
import sys, numpy as np, pyarrow as pa
from fondaco.schema import Codec
from fondaco.schema.columns import Columns
codec = Codec(pa.schema([pa.field("a", pa.int64(), False)]))
columns = Columns.from_arrow(pa.record_batch({"a": [1, None]}), codec, None, np.array([True, False]))
assert columns["a"].tolist() == [1, None], columns["a"]
assert "numba" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


NUMBERS = pa.schema(
    [
        pa.field("flag", pa.bool_()),
        pa.field("small", pa.uint8(), False),
        pa.field("big", pa.int64()),
        pa.field("half", pa.float16()),
        pa.field("day", pa.date32()),
        pa.field("clock", pa.time32("ms"), False),
        pa.field("at", pa.timestamp("s")),
        pa.field("exact", pa.timestamp("ns", "UTC"), False),
        pa.field("took", pa.duration("us"), False),
        pa.field("emb", pa.list_(pa.field("item", pa.float32(), False), 3)),
    ]
)


def test_columns_of_numbers_come_back_from_their_arrays_alone() -> None:
    codec = Codec(NUMBERS)
    assert Columns.travels_raw(codec, None)
    table = pa.table(
        {
            name: _numbers([None if n == 2 and NUMBERS.field(name).nullable else _number(name, n) for n in range(5)], NUMBERS.field(name))
            for name in NUMBERS.names
        },
        schema=NUMBERS,
    )
    data, offsets = codec.encode_columns(table)
    rows: list[bytes | None] = [data[start:end].tobytes() for start, end in itertools.pairwise(offsets.tolist())]
    rows[3] = None
    expected = decoded(codec, rows)
    columns = [(np.ma.getdata(expected[name]), expected.valid(name)) for name in expected]
    assert_equal(Columns.from_numbers(columns, codec, None, expected.found), expected)


def _numbers(values: list[Any], field: pa.Field) -> pa.Array:
    if field.name in ("day", "clock"):
        return pa.array(values, pa.int32()).cast(field.type)
    return pa.array(values).cast(field.type)


def _number(name: str, n: int) -> Any:
    kinds = {"flag": bool(n % 2), "emb": [1.0, 2.0, float(n)], "half": float(n)}
    return kinds.get(name, n)


def test_what_is_more_than_numbers_does_not_travel_raw() -> None:
    fields = [{"name": "q", "type": vector(2, "int8")}, {"name": "t", "type": "string"}, {"name": "n", "type": "int"}]
    codec = Codec({"type": "record", "name": "R", "fields": fields})
    assert [Columns.travels_raw(codec, [name]) for name in ("q", "t", "n")] == [False, False, True]
    assert not any(Columns.travels_raw(Codec(EVERYTHING), [name]) for name in ("text", "word", "amount", "pair", "many", "tags", "place"))
    with pytest.raises(DataError, match=r"column 'n' is int64 of shape \[1\], not int32 of \[1\]"):
        Columns.from_numbers([(np.zeros(1, np.int64), None)], codec, ["n"], np.ones(1, np.bool_))

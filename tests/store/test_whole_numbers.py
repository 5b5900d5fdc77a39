"""Integers in columns of floats and decimals: taken where nothing is lost, refused by row where something would be."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from fondaco.core.errors import RowError
from fondaco.schema import Codec
from fondaco.store.encoder import RowEncoder
from fondaco.store.inputs import open_input
from fondaco.store.keys import KeyCodec

VALUE = pa.schema([pa.field("x", pa.int64(), nullable=False), pa.field("y", pa.int32())])


def _rows(data: object, value: pa.Schema = VALUE) -> list[dict[str, Any]]:
    codec, opened, rows = Codec(value), open_input(data, batch_bytes=1 << 20), []
    encoder = RowEncoder("s", KeyCodec("long"), codec, opened.schema)
    for chunk in opened.chunks:
        encoded = encoder.encode(chunk, len(rows))
        data_bytes = encoded.values.tobytes()
        rows += [codec.decode(data_bytes[start:end]) for start, end in zip(encoded.offsets, encoded.offsets[1:], strict=False)]
    return rows


def test_whole_floats_of_pandas_are_integers_and_nan_is_a_missing_one() -> None:
    frame = pd.DataFrame({"key": [1, 2], "x": [1.0, -2.0], "y": [3, None]})
    assert frame["y"].dtype == np.float64
    assert _rows(frame) == [{"x": 1, "y": 3}, {"x": -2, "y": None}]


def test_nan_in_arrow_is_a_missing_integer_too() -> None:
    assert _rows({"key": [1, 2], "x": [1, 2], "y": np.array([np.nan, 7.0], np.float32)}) == [{"x": 1, "y": None}, {"x": 2, "y": 7}]


def test_sums_of_duckdb_are_integers() -> None:
    relation = duckdb.sql("SELECT i AS key, sum(i) AS x, NULL::INTEGER AS y FROM range(3) AS r(i) GROUP BY i ORDER BY i")
    assert [row["x"] for row in _rows(relation)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.array([1.0, 1.5]), r"row 1, field 'x': expected a whole number.*, got 1\.5"),
        (np.array([1.0, 2.0**60]), r"row 1, field 'x': expected a whole number, from -2\^53 to 2\^53"),
        (np.array([1.0, np.inf]), r"row 1, field 'x'.*got inf"),
        (np.array([1.0, np.nan]), r"row 1, field 'x'.*got nan \(NaN needs a nullable field\)"),
        (pa.array([Decimal(1), Decimal(2**63)], pa.decimal128(38, 0)), r"row 1, field 'x'.*got 9223372036854775808"),
    ],
)
def test_a_number_that_would_lose_something_is_refused_by_its_row(column: Any, message: str) -> None:
    with pytest.raises(RowError, match=message):
        _rows({"key": [1, 2], "x": column, "y": [1, 2]})


def test_a_whole_float_beyond_the_fields_own_range_is_refused() -> None:
    with pytest.raises(RowError, match="row 1, field 'y'"):
        _rows({"key": [1, 2], "x": [1, 2], "y": np.array([1.0, 2.0**40])})


@pytest.mark.parametrize("column", [["1", "2"], [True, False], pa.array([Decimal("1.50")] * 2)])
def test_a_column_of_another_type_is_refused_as_a_column_with_the_remedy(column: Any) -> None:
    with pytest.raises(
        RowError, match=r"^field 'x': expected .*integers, got a column of Arrow type .*; cast the column to int64$"
    ) as caught:
        _rows({"key": [1, 2], "x": column, "y": [1, 2]})
    assert caught.value.row is None

"""Which column is the key, which may be left out, and what a message says of a key or a column that does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fondaco.core.errors import ColumnNotFoundError, InputError, RowError
from fondaco.schema import Codec
from fondaco.store.encoder import Encoded, RowEncoder
from fondaco.store.inputs import open_input
from fondaco.store.keys import KeyCodec

VALUE = {
    "type": "record",
    "name": "V",
    "fields": [{"name": "x", "type": "long"}, {"name": "note", "type": ["null", "string"], "default": None}],
}
ROUTE = {"type": "record", "name": "K", "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": "string"}]}
NAMED = {"name": "member_id", "type": "long"}


def _encode(data: object, key: object = "long", value: object = VALUE) -> list[Encoded]:
    opened = open_input(data, batch_bytes=1 << 20)
    encoder = RowEncoder("s", KeyCodec(key), Codec(value), opened.schema)
    encoded: list[Encoded] = []
    for chunk in opened.chunks:
        encoded.append(encoder.encode(chunk, sum(map(len, encoded))))
    return encoded


def test_the_column_that_is_no_field_is_the_key_of_a_store_whose_key_has_no_name_of_its_own() -> None:
    named = _encode({"key": [1, 2], "x": [3, 4]})
    other = _encode({"tail": [1, 2], "x": [3, 4]})
    assert np.array_equal(named[0].keys.hashes, other[0].keys.hashes)


@pytest.mark.parametrize("rows", [{"score": [1, 2], "x": [3, 4]}, [{"score": 1, "x": 3}]])
def test_another_column_never_becomes_a_key_that_has_a_name(rows: Any) -> None:
    with pytest.raises(ColumnNotFoundError, match="no column 'member_id' in the data pushed to store 's', whose key it is"):
        _encode(rows, NAMED)


def test_a_left_over_column_that_looks_like_a_field_or_has_another_type_is_not_the_key() -> None:
    with pytest.raises(ColumnNotFoundError, match="no column 'key'"):
        _encode({"nite": [1, 2], "x": [3, 4]})
    with pytest.raises(ColumnNotFoundError, match="no column 'key'"):
        _encode({"score": [0.5, 2.5], "x": [3, 4]})


def test_columns_may_leave_out_fields_that_have_defaults_as_mappings_may() -> None:
    columns, mappings = _encode({"key": [1, 2], "x": [3, 4]}), _encode([{"key": 1, "x": 3}, {"key": 2, "x": 4}])
    assert columns[0].values.tobytes() == mappings[0].values.tobytes()
    assert Codec(VALUE).decode(columns[0].values.tobytes()[: columns[0].offsets[1]]) == {"x": 3, "note": None}
    with pytest.raises(ColumnNotFoundError, match="no column 'x'"):
        _encode({"key": [1, 2], "note": ["a", "b"]})
    with pytest.raises(ColumnNotFoundError, match=r"no column 'note'.*did you mean 'nite'"):
        _encode({"key": [1, 2], "x": [3, 4], "nite": ["a", "b"]})


@pytest.mark.parametrize("column", [["1", "2"], [1.0, 2.0], [True, False]])
def test_a_key_column_of_another_type_is_named(column: list[Any]) -> None:
    with pytest.raises(RowError, match=r"^field 'key': expected long .*, got a column of Arrow type \w+; cast it") as caught:
        _encode({"key": column, "x": [3, 4]})
    assert caught.value.row is None


@pytest.mark.parametrize("key", ["long", "string"])
def test_a_null_key_is_named_by_row_and_column(key: str) -> None:
    good = {"long": 1, "string": "a"}[key]
    for rows in ({"key": [good, None], "x": [3, 4]}, [{"key": good, "x": 3}, {"key": None, "x": 4}]):
        with pytest.raises(RowError, match=rf"^row 1, field 'key': expected {key}.*, got null$"):
            _encode(rows, key)


def test_a_null_inside_a_record_key_is_told_once_by_row_and_field() -> None:
    for rows in ({"a": [1, None], "b": ["x", "y"], "x": [3, 4]}, [{"a": 1, "b": "x", "x": 3}, {"a": None, "b": "y", "x": 4}]):
        with pytest.raises(RowError, match=r"^row 1, field 'a': expected an int of 64 bits, got (null|None|NoneType None)$"):
            _encode(rows, ROUTE)
    with pytest.raises(RowError, match=r"^field 'a': expected .*integers, got a column of Arrow type string; cast the column to int64$"):
        _encode({"a": ["1"], "b": ["x"], "x": [3]}, ROUTE)


def test_text_that_is_not_utf8_is_refused_as_a_key_by_its_row() -> None:
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    with pytest.raises(RowError, match="row 0, field 'key': expected string, got text that is not UTF-8"):
        _encode(pa.table({"key": broken, "x": [1]}), "string")


def test_two_candidates_for_the_key_are_a_question() -> None:
    with pytest.raises(InputError, match="which of the columns 'p', 'q' is the key"):
        _encode({"p": [1], "q": [2], "x": [3]})

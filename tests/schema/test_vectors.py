"""Vectors: declared once, written from any numbers, read as views, quantised within half a step."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fondaco.core.errors import DecodeError, RowError, SchemaError
from fondaco.schema import Codec, QuantizedVector, vector
from fondaco.schema.canonical import to_json
from fondaco.schema.types import Vector
from fondaco.schema.vectors import quantize, vector_bytes, view_vector


def embedding(dim: int, dtype: Any = "float32") -> Codec:
    return Codec({"type": "record", "name": "R", "fields": [{"name": "id", "type": "long"}, {"name": "emb", "type": vector(dim, dtype)}]})


def test_a_vector_declares_itself() -> None:
    assert vector(128) == {
        "type": "fixed",
        "name": "vector_float32_128",
        "size": 512,
        "logicalType": "vector",
        "dim": 128,
        "dtype": "float32",
    }
    assert vector(128, "int8", "Emb")["size"] == 132
    assert vector(3, "bfloat16")["size"] == 6


def test_numpy_s_integers_and_types_declare_a_vector_too() -> None:
    for dtype, name in ((np.float32, "float32"), (np.dtype("<f2"), "float16"), (ml_dtypes.bfloat16, "bfloat16"), (np.int8, "int8")):
        assert vector(np.int64(4), dtype) == vector(4, name)
        assert type(vector(np.int64(4), dtype)["dim"]) is int
    for wrong in (np.float64, None, 5, "f4"):
        with pytest.raises(SchemaError, match="use one of"):
            vector(4, wrong)


@pytest.mark.parametrize(
    ("dim", "dtype", "reason"), [(0, "float32", "count of numbers"), (True, "float32", "count"), (3, "float64", "'float64'; use one of")]
)
def test_what_is_no_vector_is_refused(dim: Any, dtype: Any, reason: str) -> None:
    with pytest.raises(SchemaError, match=reason):
        vector(dim, dtype)


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("float32", np.float32), ("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
def test_a_float_vector_is_read_as_a_view_of_the_bytes(dtype: Any, numpy_dtype: Any) -> None:
    codec = embedding(4, dtype)
    data = codec.encode({"id": 1, "emb": [1, 2.5, -3, 0]})
    for emb in (codec.decode(data)["emb"], codec.row(data)["emb"]):
        assert emb.dtype == numpy_dtype
        assert emb.astype(float).tolist() == [1, 2.5, -3, 0]
        assert np.shares_memory(emb, np.frombuffer(data, np.uint8))


def test_other_readers_of_avro_see_the_bytes() -> None:
    codec = embedding(2)
    data = codec.encode({"id": 1, "emb": np.array([1, 2], np.float32)})
    row = fastavro.schemaless_reader(io.BytesIO(data), fastavro.parse_schema(to_json(codec.schema)), None)
    assert row == {"id": 1, "emb": np.array([1, 2], "<f4").tobytes()}


@pytest.mark.parametrize(
    "value",
    [
        [1, 2, 3],
        (1.0, 2.0, 3.0),
        np.array([1, 2, 3], np.int64),
        np.array([1, 2, 3], ">f4"),
        np.array([1, 2, 3], np.float64),
        np.array([1, 9, 2, 9, 3], np.float32)[::2],
        np.array([1, 2, 3], ml_dtypes.bfloat16),
        QuantizedVector(np.array([1, 2, 3], np.int8), 1.0),
    ],
)
def test_any_sequence_of_numbers_is_written(value: Any) -> None:
    codec = embedding(3)
    assert codec.decode(codec.encode({"id": 1, "emb": value}))["emb"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], "3 numbers, not 2"),
        ([1, 2, None], "numbers"),
        ([1, 2, "3"], "numbers"),
        ([1, 2, True], "numbers"),
        ("abc", "a sequence of numbers"),
        (b"abc", "a sequence of numbers"),
        ([[1, 2, 3]], "a flat sequence of numbers"),
        ([1, 2, 1e39], "within the range of float32"),
        (np.array([1, 2, 3], bool), "a sequence of numbers"),
        (np.array([1, 2, 3], complex), "a sequence of numbers"),
        (5, "a flat sequence of numbers"),
        (None, "a flat sequence of numbers"),
    ],
)
def test_what_is_no_vector_of_that_kind_is_refused_by_field(value: Any, expected: str) -> None:
    with pytest.raises(RowError) as caught:
        embedding(3).encode({"id": 1, "emb": value})
    assert caught.value.field == "emb"
    assert expected in caught.value.expected


def test_nan_and_infinity_are_kept_by_float_vectors() -> None:
    codec = embedding(2)
    assert np.isnan(codec.decode(codec.encode({"id": 1, "emb": [float("nan"), float("inf")]}))["emb"]).tolist() == [True, False]


def test_a_truncated_vector_is_an_error() -> None:
    codec = embedding(3)
    data = codec.encode({"id": 1, "emb": [1, 2, 3]})[:-1]
    with pytest.raises(DecodeError, match=r"byte 1 \(field 'emb'\): truncated: .* takes 12 bytes, 11 are left"):
        codec.decode(data)
    with pytest.raises(DecodeError, match="takes 12 bytes"):
        codec.row(data)["emb"]


# -- int8 ---------------------------------------------------------------------------------------------------------------------------


@given(numbers=hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_quantising_errs_by_half_a_step_at_most(numbers: np.ndarray[Any, Any]) -> None:
    kind = Vector(len(numbers), "int8")
    read = view_vector(kind, vector_bytes(kind, numbers))
    largest = float(np.abs(numbers).max())
    assert read.scale == np.float32(largest / 127)
    assert np.abs(read.to_float32().astype(float) - numbers.astype(float)).max() <= read.scale * 0.5001 + 1e-44


def test_a_quantised_vector_is_written_as_it_is_and_read_as_a_view() -> None:
    codec = embedding(3, "int8")
    given = QuantizedVector(np.array([-127, 0, 5], np.int8), 0.5)
    data = codec.encode({"id": 1, "emb": given})
    read = codec.decode(data)["emb"]
    assert read == given
    assert np.shares_memory(read.values, np.frombuffer(data, np.uint8))
    assert np.asarray(read).tolist() == [-63.5, 0, 2.5]
    assert np.asarray(read, np.float64).dtype == np.float64
    assert len(read) == 3
    assert "scale=0.5" in repr(read)


def test_zero_and_tiny_vectors_have_a_scale_too() -> None:
    assert quantize(np.zeros(3, np.float32)) == bytes(7)
    assert quantize(np.full(2, 1e-45, np.float32)) == bytes(6)


@pytest.mark.parametrize("value", [[1, float("nan")], [float("inf"), 1]])
def test_an_int8_vector_holds_finite_numbers_only(value: Any) -> None:
    with pytest.raises(RowError, match="finite numbers"):
        embedding(2, "int8").encode({"id": 1, "emb": value})


def test_a_quantised_vector_does_not_pretend_to_be_a_view() -> None:
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(QuantizedVector(np.zeros(2, np.int8), 1.0), copy=False)
    assert QuantizedVector(np.zeros(2, np.int8), 1.0) != 5

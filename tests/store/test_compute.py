"""Similarities equal the same computation on fetched values, for every way to store a vector."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fondaco.core.errors import FieldNotFoundError, InputError
from fondaco.schema import Codec, vector
from fondaco.schema.columns import Columns, decode_list
from fondaco.store.compute import best_of, compute_scores

DIM = 5
FIELDS = {
    "float32": vector(DIM, "float32", "A"),
    "float16": vector(DIM, "float16", "B"),
    "bfloat16": vector(DIM, "bfloat16", "C"),
    "int8": vector(DIM, "int8", "D"),
    "floats": {"type": "array", "items": "float"},
    "doubles": {"type": "array", "items": "double"},
}
SCHEMA = {
    "type": "record",
    "name": "Value",
    "fields": [{"name": name, "type": ["null", kind]} for name, kind in FIELDS.items()] + [{"name": "text", "type": "string"}],
}
CODEC = Codec(SCHEMA)


def columns_of(rows: list[np.ndarray | None], field: str) -> tuple[Columns, list[np.ndarray | None]]:
    """Columns of rows that hold each vector in every field, and what a single fetched row gives for one field."""
    encoded = [CODEC.encode({**dict.fromkeys(FIELDS, None if row is None else row), "text": "x"}) for row in rows]
    fetched = [None if row is None else np.asarray(CODEC.decode(data)[field], np.float64) for row, data in zip(rows, encoded, strict=True)]
    return decode_list(CODEC.program, encoded, [field]), fetched


def plain(operation: str, row: np.ndarray, query: np.ndarray) -> float | None:
    if operation == "dot":
        return float(np.dot(row, query))
    if operation == "euclidean":
        return float(np.linalg.norm(row - query))
    norms = math.sqrt(float(np.dot(row, row))) * math.sqrt(float(np.dot(query, query)))
    return None if norms == 0 else float(np.dot(row, query)) / norms


vectors = hnp.arrays(np.float32, DIM, elements=st.sampled_from([-3.5, -1.0, 0.0, 0.25, 1.0, 2.0, 100.0]))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("operation", ["dot", "cosine", "euclidean"])
@given(rows=st.lists(st.none() | vectors, max_size=6), query=vectors.filter(lambda v: v.any()))
@settings(max_examples=25, deadline=None)
def test_scores_equal_those_of_fetched_rows(field, operation, rows, query):
    columns, fetched = columns_of(rows, field)
    scores = compute_scores(columns, operation, field, query)
    expected = [None if row is None else plain(operation, row, query.astype(np.float64)) for row in fetched]
    assert scores.dtype == np.float64
    assert np.ma.getmaskarray(scores).tolist() == [value is None for value in expected]
    for score, value in zip(scores.tolist(), expected, strict=True):
        assert value is None or score == pytest.approx(value, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.int64])
def test_the_query_may_have_any_real_dtype(dtype):
    columns, _ = columns_of([np.arange(DIM, dtype=np.float32)], "float32")
    assert compute_scores(columns, "dot", "float32", np.arange(DIM).astype(dtype)).tolist() == [30.0]
    assert compute_scores(columns, "dot", "float32", list(range(DIM))).tolist() == [30.0]


def test_a_cosine_with_nothing_is_masked_or_refused_never_zero():
    columns, _ = columns_of([np.zeros(DIM, np.float32), np.ones(DIM, np.float32)], "float32")
    assert compute_scores(columns, "cosine", "float32", np.ones(DIM)).tolist() == [None, pytest.approx(1.0)]
    with pytest.raises(InputError, match="norm zero"):
        compute_scores(columns, "cosine", "float32", np.zeros(DIM))


def test_a_cosine_stays_within_its_range_and_huge_vectors_do_not_overflow():
    encoded = [CODEC.encode({**dict.fromkeys(FIELDS), "doubles": np.full(DIM, value), "text": ""}) for value in (1e150, -1e150, 1e-150)]
    scores = compute_scores(decode_list(CODEC.program, encoded, ["doubles"]), "cosine", "doubles", np.full(DIM, 1e100))
    assert scores.tolist() == [pytest.approx(1.0), pytest.approx(-1.0), pytest.approx(1.0)]
    assert abs(scores).max() <= 1.0


def test_what_is_not_a_number_stays_so():
    encoded = CODEC.encode({**dict.fromkeys(FIELDS), "float32": np.array([np.nan, 1, 1, 1, 1]), "text": ""})
    columns = decode_list(CODEC.program, [encoded], ["float32"])
    for operation in ("dot", "cosine", "euclidean"):
        assert np.isnan(compute_scores(columns, operation, "float32", np.ones(DIM))[0])


@pytest.mark.parametrize("field", FIELDS)
def test_a_vector_of_another_length_is_refused_with_both_lengths(field):
    columns, _ = columns_of([None, np.ones(DIM, np.float32)], field)
    with pytest.raises(InputError, match=r"5 numbers.* 4"):
        compute_scores(columns, "dot", field, np.ones(4))


def test_an_array_of_another_length_is_named_by_its_row():
    encoded = [CODEC.encode({**dict.fromkeys(FIELDS), "floats": np.ones(n, np.float32), "text": ""}) for n in (2, 3)]
    with pytest.raises(InputError, match="in row 1"):
        compute_scores(decode_list(CODEC.program, encoded, ["floats"]), "dot", "floats", [1, 2])


@pytest.mark.parametrize("query", [np.ones((1, DIM)), 3.0, ["a"] * DIM, np.ones(DIM, complex), np.ones(DIM, bool)])
def test_a_query_that_is_no_vector_is_refused(query):
    columns, _ = columns_of([np.ones(DIM, np.float32)], "float32")
    with pytest.raises(InputError, match="one row of numbers"):
        compute_scores(columns, "dot", "float32", query)


def test_an_unknown_operation_field_or_type_is_refused():
    columns, _ = columns_of([np.ones(DIM, np.float32)], "float32")
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        compute_scores(columns, "cosin", "float32", np.ones(DIM))  # type: ignore[arg-type]
    with pytest.raises(FieldNotFoundError):
        compute_scores(columns, "dot", "float23", np.ones(DIM))
    with pytest.raises(InputError, match="needs a vector"):
        compute_scores(decode_list(CODEC.program, [CODEC.encode({**dict.fromkeys(FIELDS), "text": ""})], ["text"]), "dot", "text", [1.0])


@pytest.mark.parametrize("field", FIELDS)
@given(rows=st.lists(st.none() | vectors, max_size=6), query=vectors)
@settings(max_examples=20, deadline=None)
def test_products_equal_those_of_fetched_rows(field, rows, query):
    columns, fetched = columns_of(rows, field)
    products = compute_scores(columns, "hadamard", field, query)
    assert products.shape == (len(rows), DIM)
    assert products.dtype == np.float64
    for row, product in zip(fetched, products, strict=True):
        if row is None:
            assert np.ma.getmaskarray(product).all()
        else:
            assert product.tolist() == (row * query.astype(np.float64)).tolist()


scores = st.lists(st.none() | st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0, math.nan, math.inf]), max_size=12)


@given(values=scores, count=st.integers(1, 14), operation=st.sampled_from(["dot", "cosine", "euclidean"]))
@settings(max_examples=80)
def test_the_best_are_the_first_of_a_stable_sort(values, count, operation):
    masked = np.ma.MaskedArray([0.0 if value is None else value for value in values], [value is None for value in values], np.float64)
    positions, best = best_of(masked, operation, count)
    sign = 1 if operation == "euclidean" else -1
    there = [i for i, value in enumerate(values) if value is not None and not math.isnan(value)]
    expected = sorted(there, key=lambda i: sign * values[i])[:count]
    assert positions.tolist() == expected
    assert best.tolist() == [values[i] for i in expected]


@pytest.mark.parametrize("count", [0, -1, True, 1.5, None, "3"])
def test_a_top_k_that_counts_nothing_is_refused(count):
    with pytest.raises(InputError, match="top_k"):
        best_of(np.ma.MaskedArray([1.0]), "dot", count)


def test_products_have_no_best():
    with pytest.raises(InputError, match="no order"):
        best_of(np.ma.MaskedArray([[1.0, 2.0]]), "hadamard", 1)

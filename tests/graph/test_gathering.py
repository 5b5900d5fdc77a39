"""Gathering: every row is the one asked for, over any partitions and widths; what is absent or not held is zeros and says so."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.graph import gathering
from graph.reference import ragged_feature, rows_feature

CUTS = st.lists(st.integers(0, 40), max_size=4).map(sorted)
WANTED = st.lists(st.integers(0, 39), max_size=60)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("int8", ()),
        ("float16", ()),
        ("float32", ()),
        ("int64", ()),
        ("float32", (16,)),
        ("float32", (128,)),
        ("float16", (3, 5)),
        ("int8", (128,)),
        ("float64", (33,)),
    ],
)
@pytest.mark.parametrize("rows", [np.int32, np.int64])
@given(cuts=CUTS, wanted=WANTED)
@settings(max_examples=15, deadline=None)
def test_rows_are_those_asked_for(dtype: str, shape: tuple[int, ...], rows: type[np.generic], cuts: list[int], wanted: list[int]) -> None:
    values = np.random.default_rng(0).integers(-100, 100, (40, *shape)).astype(dtype)
    feature, _keep = rows_feature(values, cuts)
    found = gathering.gather_array(feature, np.array(wanted, rows), dtype, shape)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values[wanted])


@pytest.mark.parametrize("width", [1, 8, 60, 64, 128, 520])
def test_rows_are_written_where_they_belong_and_nowhere_else(width: int) -> None:
    values = np.random.default_rng(0).integers(0, 255, (40, width)).astype(np.uint8)
    feature, _keep = rows_feature(values, [13, 13, 20])
    wanted = np.array([39, 0, 13, 12, 20, 0], np.int32)
    out = np.full((8, width + 24), 7, np.uint8)
    gathering.gather(feature, wanted, width, out[1:].ctypes.data + 8, stride=width + 24)
    assert (out[1:7, 8 : 8 + width] == values[wanted]).all()
    out[1:7, 8 : 8 + width] = 7
    assert (out == 7).all()


@pytest.mark.parametrize("width", [1, 8, 60, 64])
def test_rows_of_a_partition_that_is_not_held_are_zeros_and_not_present(width: int) -> None:
    values = np.ones((4, width), np.uint8)
    feature, _keep = rows_feature(values, [2])
    feature[1, 1] = 0
    rows = np.array([3, 1, 2], np.int32)
    assert gathering.gather_array(feature, rows, np.uint8, (width,)).max(axis=1).tolist() == [0, 1, 0]
    assert gathering.gather_present(feature, rows).tolist() == [False, True, False]


@given(cuts=CUTS, wanted=WANTED)
@settings(max_examples=30, deadline=None)
def test_presence_is_the_rows_own(cuts: list[int], wanted: list[int]) -> None:
    flags = (np.arange(40) % 3 > 0).astype(np.uint8)
    flagged, _keep = rows_feature(np.zeros(40, np.float32), cuts, flags)
    plain, _keep_too = rows_feature(np.zeros(40, np.float32), cuts)
    rows = np.array(wanted, np.int32)
    assert gathering.gather_present(flagged, rows).tolist() == [bool(flags[row]) for row in wanted]
    assert gathering.gather_present(plain, rows).tolist() == [True] * len(wanted)


@given(cuts=CUTS, wanted=WANTED, seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_sparse_rows_are_those_asked_for(cuts: list[int], wanted: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [(sorted(rng.integers(0, 1 << 40, n).tolist()), rng.integers(0, 9, n).astype(float).tolist()) for n in rng.integers(0, 5, 40)]
    feature, _keep = ragged_feature(rows, cuts, np.int64)
    indptr, indices, values = gathering.gather_sparse(feature, np.array(wanted, np.int32), np.float32)
    assert indptr.tolist() == np.cumsum([0, *(len(rows[row][0]) for row in wanted)]).tolist()
    assert indices.tolist() == [index for row in wanted for index in rows[row][0]]
    assert values.tolist() == [value for row in wanted for value in rows[row][1]]
    assert values.dtype == np.float32


@given(cuts=CUTS, wanted=WANTED, blobs=st.lists(st.binary(max_size=9), min_size=40, max_size=40))
@settings(max_examples=30, deadline=None)
def test_bytes_rows_are_those_asked_for(cuts: list[int], wanted: list[int], blobs: list[bytes]) -> None:
    feature, _keep = ragged_feature([(list(blob), None) for blob in blobs], cuts, np.uint8)
    offsets, data = gathering.gather_bytes(feature, np.array(wanted, np.int64))
    assert [data[a:b].tobytes() for a, b in itertools.pairwise(offsets)] == [blobs[row] for row in wanted]


def test_ragged_rows_of_a_partition_that_is_not_held_are_empty() -> None:
    feature, _keep = ragged_feature([([1, 2], None), ([3], None)], [1], np.uint8)
    feature[1, 1:] = 0
    offsets, data = gathering.gather_bytes(feature, np.array([1, 0, 1], np.int32))
    assert offsets.tolist() == [0, 0, 2, 2]
    assert data.tolist() == [1, 2]

"""Kernels of a build against plain Python."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.graph.build import _kernels as kernels
from fondaco.graph.build.columns import Column, I32Array, Ragged, Rows, join, plain, ragged, sort_order, take
from fondaco.graph.build.runs import RowSorter, RowSpool


@settings(max_examples=60, deadline=None)
@given(keys=st.lists(st.integers(0, 2**64 - 1), max_size=80), bits=st.sampled_from([0, 1, 7, 11, 12, 33, 64]))
def test_radix_sort_is_a_stable_sort_by_the_low_bits(keys: list[int], bits: int) -> None:
    values, order = np.array(keys, np.uint64), np.arange(len(keys), dtype=np.int32)
    kernels.radix_sort(values, order, np.empty_like(values), np.empty_like(order), bits)
    expected = sorted(range(len(keys)), key=lambda i: keys[i] & ((1 << bits) - 1))
    assert order.tolist() == expected
    assert values.tolist() == [keys[i] for i in expected]


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**64 - 1)), max_size=60))
def test_several_words_sort_by_the_last_one_first(pairs: list[tuple[int, int]]) -> None:
    words = [(np.array([b for _, b in pairs], np.uint64), 64), (np.array([a for a, _ in pairs], np.uint64), 3)]
    assert sort_order(words, len(pairs)).tolist() == sorted(range(len(pairs)), key=lambda i: pairs[i])
    assert sort_order(words, len(pairs), owned=True).tolist() == sorted(range(len(pairs)), key=lambda i: pairs[i])


@pytest.mark.parametrize("dtype", ["int8", "float16", "int32", "float64"])
@pytest.mark.parametrize("shape", [(9,), (9, 3), (9, 2, 2), (9, 0)])
def test_rows_are_taken_whatever_their_width(dtype: str, shape: tuple[int, ...]) -> None:
    source = np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)
    order = np.array([8, 0, 3, 3], np.int32)
    assert (plain(take(source, order)) == source[order]).all()


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.binary(max_size=5), min_size=1, max_size=12), data=st.data())
def test_ragged_rows_are_cut_joined_and_taken(rows: list[bytes], data: st.DataObject) -> None:
    column = Ragged(np.cumsum([3, *map(len, rows)]).astype(np.int64), np.frombuffer(b"xyz" + b"".join(rows), np.uint8))
    order = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    assert _texts(take(column, np.array(order, np.int32))) == [rows[i] for i in order]
    assert _texts(join([column, column])) == rows + rows


def _texts(column: Column) -> list[bytes]:
    found = ragged(column)
    return [bytes(found.data[a:b]) for a, b in itertools.pairwise(found.offsets.tolist())]


@pytest.mark.parametrize(("weights", "bad"), [([0, 1, 2], -1), ([1, np.nan], 1), ([np.inf], 0), ([1, -1e-30], 1), ([], -1), ([-0.0], -1)])
def test_the_first_bad_weight_is_found_and_minus_zero_is_zero(weights: list[float], bad: int) -> None:
    values = np.array(weights, np.float32)
    assert kernels.first_bad_weight(values) == bad
    assert not np.signbit(values[:0] if bad >= 0 else values).any()


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 1), st.integers(0, 1)), max_size=30).map(sorted),
    timed=st.booleans(),
)
def test_mirrors_stay_only_where_nothing_was_given(rows: list[tuple[int, int, int, int]], timed: bool) -> None:
    columns = [np.array([row[k] for row in rows], dtype) for k, dtype in enumerate((np.int32, np.int32, np.int64, np.uint8))]
    out = np.empty(len(rows), np.int32)
    count = kernels.keep_given(columns[0], columns[1], columns[2] if timed else columns[2][:0], columns[3], out)
    width = 3 if timed else 2
    given_ = {row[:width] for row in rows if row[3] == 0}
    assert out[:count].tolist() == [i for i, row in enumerate(rows) if row[3] == 0 or row[:width] not in given_]


def _order(rows: Rows) -> I32Array:
    return np.lexsort([plain(rows["b"]), plain(rows["a"])]).astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.text(max_size=3)), max_size=12), max_size=8),
    share=st.integers(1, 600),
)
def test_sorting_in_runs_is_sorting_at_once(tmp_path_factory: pytest.TempPathFactory, batches: list[list[Any]], share: int) -> None:
    path = tmp_path_factory.mktemp("runs") / "run"
    with RowSorter(path, _order, ("a", "b"), share_bytes=share) as sorter:
        for batch in batches:
            sorter.add(_batch(batch))
        found = [row for part in sorter.slices() for row in _rows(part)]
    assert found == sorted((row for batch in batches for row in batch), key=lambda row: row[:2])
    assert not path.exists()


@settings(max_examples=30, deadline=None)
@given(batches=st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.text(max_size=3)), max_size=12), max_size=8))
def test_a_spool_gives_back_what_it_was_given(tmp_path_factory: pytest.TempPathFactory, batches: list[list[Any]]) -> None:
    path = tmp_path_factory.mktemp("spool") / "rows"
    with RowSpool(path, 200) as spool:
        for batch in batches:
            spool.add(_batch(batch))
        assert [row for rows in spool.batches() for row in _rows(rows)] == [row for batch in batches for row in batch]
    assert not Path(path).exists()


def _batch(rows: list[tuple[int, int, str]]) -> dict[str, Column]:
    raw = [text.encode() for _, _, text in rows]
    return {
        "a": np.array([a for a, _, _ in rows], np.int32),
        "b": np.array([b for _, b, _ in rows], np.int64),
        "text": Ragged(np.cumsum([0, *map(len, raw)]).astype(np.int64), np.frombuffer(b"".join(raw), np.uint8)),
    }


def _rows(rows: Rows) -> list[tuple[int, int, str]]:
    texts = [text.decode() for text in _texts(rows["text"])]
    return list(zip(plain(rows["a"]).tolist(), plain(rows["b"]).tolist(), texts, strict=True))

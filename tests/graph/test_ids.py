"""Ids are hashed as XXH64 says, and found in any partition by any of the ways."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.graph import _id_kernels as kernels
from fondaco.graph.build.columns import Ragged
from fondaco.graph.ids import hash_ids, partition_bounds


def _table(ids: np.ndarray, partitions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    hashes = hash_ids(ids)
    order = np.argsort(hashes)
    hashes, ids = hashes[order], ids[order]
    starts = partition_bounds(hashes, partitions)
    return hashes, ids, starts, np.array([hashes.ctypes.data + 8 * start for start in starts[:-1]], np.int64)


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=200), partitions=st.integers(1, 9), other=st.integers(-5, 5))
def test_numbers_are_found_where_their_hash_is(ids: list[int], partitions: int, other: int) -> None:
    hashes, in_order, starts, addresses = _table(np.array(ids, np.int64), partitions)
    assert hashes.tolist() == sorted(xxhash.xxh64_intdigest(i.to_bytes(8, "little", signed=True)) for i in ids)
    wanted = np.array([*ids, other, 2**62 + 1], np.int64)
    expected = [{int(i): at for at, i in enumerate(in_order)}.get(int(i), -1) for i in wanted]
    out = np.empty(len(wanted), np.int32)
    kernels.resolve_longs(starts, addresses, wanted, out)
    assert out.tolist() == expected
    bits = max(len(ids).bit_length(), 1)
    directory = np.empty((1 << bits) + 1, np.int32)
    kernels.fill_directory(hashes, 64 - bits, directory)
    kernels.look_up(hashes, 64 - bits, directory, hash_ids(wanted), out)
    assert out.tolist() == expected


def test_a_partition_that_is_not_held_has_no_nodes() -> None:
    ids = np.arange(100)
    _, in_order, starts, addresses = _table(ids, 4)
    addresses[2] = 0
    out = np.empty(100, np.int32)
    kernels.resolve_longs(starts, addresses, in_order, out)
    assert out.tolist() == [-1 if starts[2] <= i < starts[3] else i for i in range(100)]


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(max_size=40), unique=True, max_size=60), partitions=st.integers(1, 5))
def test_texts_are_found_where_their_hash_is(texts: list[str], partitions: int) -> None:
    raw = sorted((text.encode() for text in texts), key=lambda t: (xxhash.xxh64_intdigest(t), t))
    column = Ragged(np.cumsum([0, *map(len, raw)]).astype(np.int64), np.frombuffer(b"".join(raw) or b"\0", np.uint8))
    hashes = hash_ids(column)
    assert hashes.tolist() == [xxhash.xxh64_intdigest(text) for text in raw]
    starts = partition_bounds(hashes, partitions)
    tables = [np.array([array.ctypes.data + 8 * start for start in starts[:-1]], np.int64) for array in (hashes, column.offsets)]
    data = np.full(partitions, column.data.ctypes.data, np.int64)
    wanted = [*(text.encode() for text in texts), b"\xff absent"]
    given_ = Ragged(np.cumsum([0, *map(len, wanted)]).astype(np.int64), np.frombuffer(b"".join(wanted), np.uint8))
    out = np.empty(len(wanted), np.int32)
    kernels.resolve_strings(starts, *tables, data, given_.data.ctypes.data, given_.offsets, out)
    assert out.tolist() == [raw.index(text) if text in raw else -1 for text in wanted]


@pytest.mark.parametrize("skew", [1, 1 << 20, 1 << 45])
def test_hashes_that_are_not_spread_evenly_are_found_all_the_same(skew: int) -> None:
    hashes = np.unique(np.random.default_rng(1).integers(0, 2**63 // skew, 5000).astype(np.uint64))
    hashes = np.concatenate([hashes, hashes + np.uint64(1 << 63)])
    for at in [0, 1, 17, len(hashes) // 2 - 1, len(hashes) // 2, len(hashes) - 1, *range(0, len(hashes), 37)]:
        assert kernels.find_hash(hashes.ctypes.data, len(hashes), 1, hashes[at]) == at
        missing = hashes[at] + np.uint64(1)
        if missing not in hashes:
            assert kernels.find_hash(hashes.ctypes.data, len(hashes), 1, missing) == -1


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(st.integers(0, 30), max_size=20), max_size=5))
def test_only_hashes_that_were_not_there_are_kept(batches: list[list[int]]) -> None:
    slots, used, seen = np.zeros(256, np.uint64), 0, set()
    for batch in batches:
        rows = np.empty(len(batch), np.int64)
        count = kernels.keep_new(np.array(batch, np.uint64), slots, used, rows)
        used += count
        expected = []
        for row, value in enumerate(batch):
            if value == 0 or value not in seen:
                expected.append(row)
            seen.add(value)
        assert rows[:count].tolist() == expected

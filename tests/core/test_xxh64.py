"""XXH64 against the reference implementation."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.xxh64 import xxh64, xxh64_finish, xxh64_start, xxh64_update
from fondaco.store.basefile import address_of


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_xxh64_equals_the_reference_implementation(data):
    array = np.frombuffer(data + b"\0", np.uint8)
    assert int(xxh64(address_of(array), len(data))) == xxhash.xxh64_intdigest(data)


def test_xxh64_equals_the_reference_at_every_length_around_its_branches():
    data = np.random.default_rng(3).integers(0, 256, 200).astype(np.uint8)
    for start in (0, 1, 5):  # unaligned too
        for length in range(150):
            expected = xxhash.xxh64_intdigest(data[start : start + length].tobytes())
            assert int(xxh64(address_of(data) + start, length)) == expected


@pytest.mark.parametrize("pieces", [[], [32], [32, 64], [4096, 32, 96]])
def test_a_hash_in_pieces_equals_the_hash_of_the_whole(pieces):
    data = np.random.default_rng(4).integers(0, 256, sum(pieces) + 1).astype(np.uint8)
    state, position = np.empty(4, np.uint64), 0
    xxh64_start(state)
    for length in pieces:
        xxh64_update(state, address_of(data) + position, length)
        position += length
    assert int(xxh64_finish(state, position)) == xxhash.xxh64_intdigest(data[:position].tobytes())

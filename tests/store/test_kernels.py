"""Each kernel against a plain reference."""

from __future__ import annotations

import itertools

import numpy as np
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.store import _kernels
from fondaco.store.basefile import address_of, partition_rows

longs = st.integers(-(1 << 63), (1 << 63) - 1)


def avro_long(value: int) -> bytes:
    rest = value << 1 ^ value >> 63
    out = bytearray()
    while rest >= 128:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def packed(parts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.frombuffer(b"".join(parts) + b"\0", np.uint8), offsets


@given(st.lists(longs, max_size=20))
@settings(max_examples=100, deadline=None)
def test_longs_are_encoded_as_avro_and_hashed(values):
    out, offsets, hashes = np.empty(10 * len(values) + 1, np.uint8), np.empty(len(values) + 1, np.int64), np.empty(len(values), np.uint64)
    used = _kernels.encode_longs(np.array(values, np.int64), out, address_of(out), offsets, hashes)
    expected = [avro_long(value) for value in values]
    assert out[:used].tobytes() == b"".join(expected)
    assert [out[a:b].tobytes() for a, b in itertools.pairwise(offsets)] == expected
    assert [int(hash_) for hash_ in hashes] == [xxhash.xxh64_intdigest(key) for key in expected]


@given(longs)
@settings(max_examples=100, deadline=None)
def test_a_long_kept_in_registers_has_the_bytes_and_hash_of_its_encoding(value):
    low, high, count = _kernels._pack_long(value)
    expected = avro_long(value)
    assert (int(low).to_bytes(8, "little") + int(high).to_bytes(8, "little"))[:count] == expected
    assert int(_kernels._hash_packed(np.uint64(low), np.uint64(high), count)) == xxhash.xxh64_intdigest(expected)


@given(st.lists(st.binary(max_size=200), max_size=8))
@settings(max_examples=50, deadline=None)
def test_blobs_are_encoded_as_avro_and_hashed(values):
    data, starts = packed(values)
    out, offsets, hashes = (
        np.empty(len(data) + 10 * len(values), np.uint8),
        np.empty(len(values) + 1, np.int64),
        np.empty(len(values), np.uint64),
    )
    used = _kernels.encode_blobs(address_of(data), starts, out, address_of(out), offsets, hashes)
    expected = [avro_long(len(value)) + value for value in values]
    assert out[:used].tobytes() == b"".join(expected)
    assert [int(hash_) for hash_ in hashes] == [xxhash.xxh64_intdigest(key) for key in expected]


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=50), st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_partitioning_is_stable_and_follows_the_upper_half_of_the_hash(hashes, partition_count):
    order, bounds = partition_rows(np.array(hashes, np.uint64), partition_count)
    expected: list[list[int]] = [[] for _ in range(partition_count)]
    for row, hash_ in enumerate(hashes):
        expected[((hash_ >> 32) * partition_count) >> 32].append(row)
    assert [order[a:b].tolist() for a, b in itertools.pairwise(bounds)] == expected


@given(st.integers(0, (1 << 62) - 1), st.booleans(), st.sampled_from([0, 1, 2, 3]))
@settings(max_examples=100, deadline=None)
def test_a_frame_header_states_its_content_size_as_rfc_8878_says(size, single_segment, id_code):
    code, width = (0, 1) if size < 256 and single_segment else (1, 2) if 256 <= size < 65792 else (2, 4) if size < 1 << 32 else (3, 8)
    stated = size - 256 if code == 1 else size
    header = b"\x28\xb5\x2f\xfd" + bytes([code << 6 | single_segment << 5 | id_code]) + (b"" if single_segment else b"\x50")
    header += bytes([0, 1, 2, 4][id_code]) + stated.to_bytes(width, "little")
    array = np.frombuffer(header, np.uint8)
    assert _kernels.frame_size(address_of(array), address_of(array) + len(header)) == size
    assert _kernels.frame_size(address_of(array), address_of(array) + len(header) - 1) == -1


def test_gather_copies_slices_one_after_the_other():
    data = np.arange(100, dtype=np.uint8)
    starts, ends = np.array([5, 0, 50, 7]), np.array([9, 0, 60, 8])
    out, offsets = np.empty(15, np.uint8), np.empty(5, np.int64)
    _kernels.gather(starts + address_of(data), ends + address_of(data), address_of(out), offsets)
    assert out.tolist() == [*range(5, 9), *range(50, 60), 7]
    assert offsets.tolist() == [0, 4, 4, 14, 15]

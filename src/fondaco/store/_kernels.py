"""Kernels: hash, write, index, probe and gather over raw memory. Each has a plain reference in tests/store/test_kernels.py.

All run without the GIL and are compiled once for every schema (cached beside the module by numba). They take addresses as int64 (see
`_memory`) and never keep one. Positions read from a file are checked against the section they point into, so a damaged or hostile file
gives a status, never a read outside it.

Layout of heap records and index slots: docs/internals/base-file.md. XXH64: Yann Collet, "XXH64 algorithm description" (xxHash
specification 0.1.1), seed 0.
"""

# mypy: disable-error-code="no-any-return, return-value"
# (numba widens integers as its kernels need; the annotations are for readers)

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fondaco.core.memory import copy_bytes, prefetch
from fondaco.core.xxh64 import PRIME5, avalanche, mix1, mix4, mix8, xxh64
from fondaco.store._memory import bytes_address, load8, load32, load64, store8

U8Array = npt.NDArray[np.uint8]
I64Array = npt.NDArray[np.int64]
U64Array = npt.NDArray[np.uint64]

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_LOW32 = np.uint64(0xFFFFFFFF)
_TAG = np.uint64(0xFFFFFF)
_POSITION = np.uint64((1 << 40) - 1)

# -- statuses of kernels that can fail ------------------------------------------------------------------------------------------------
OK = 0
MALFORMED = 1  # a record does not fit its heap
DUPLICATE = 2  # one key, two values, and the rule says fail

# -- pages of the heap: a record does not cross from one to the next if leaving the rest of the page empty costs little ---------------
PAGE_BYTES = 4096
PADDING_BYTES_MAX = 409  # a tenth of a page

# -- what to do with one key that has two values (values of `mode`) ------------------------------------------------------------------
KEEP_NONE = 0
KEEP_FIRST = 1
KEEP_LAST = 2

# -- table of partitions: int64 [1 + ENTRY * partition_count]; entry p begins at 1 + ENTRY * p ---------------------------------------
ENTRY = 5  # file address, heap address, heap end address, index address, slot count


# -- keys ---------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _put_varint(address: int, value: np.uint64) -> int:
    """Write `value` in groups of 7 bits, lowest first; return the address after it."""
    while value >= np.uint64(128):
        store8(address, (value & np.uint64(127)) | np.uint64(128))
        value >>= np.uint64(7)
        address += 1
    store8(address, value)
    return address + 1


@njit(nogil=True, cache=True)
def _zigzag(value: int) -> np.uint64:
    return np.uint64(value << 1) ^ np.uint64(value >> 63)


@njit(nogil=True, cache=True)
def encode_longs(values: I64Array, out: U8Array, out_address: int, offsets: I64Array, hashes: U64Array) -> int:
    """Avro bytes and hashes of int64 keys. `out` has room for 10 bytes a key; `offsets` [n + 1]. Returns the bytes used."""
    address = out_address
    offsets[0] = 0
    for i in range(values.size):
        end = _put_varint(address, _zigzag(values[i]))
        hashes[i] = xxh64(address, end - address)
        offsets[i + 1] = end - out_address
        address = end
    return address - out_address


@njit(nogil=True, cache=True)
def encode_blobs(data_address: int, starts: I64Array, out: U8Array, out_address: int, offsets: I64Array, hashes: U64Array) -> int:
    """Avro bytes (length, then bytes) and hashes of string or bytes keys that lie at `data_address + starts[i]`, `starts` [n + 1].

    `out` has room for all bytes and 10 more a key.
    """
    address = out_address
    offsets[0] = 0
    for i in range(starts.size - 1):
        length = starts[i + 1] - starts[i]
        end = _put_varint(address, _zigzag(length))
        copy_bytes(end, data_address + starts[i], length)
        end += length
        hashes[i] = xxh64(address, end - address)
        offsets[i + 1] = end - out_address
        address = end
    return address - out_address


@njit(nogil=True, cache=True)
def hash_many(data_address: int, offsets: I64Array, hashes: U64Array) -> None:
    """Hash of each slice `data[offsets[i]:offsets[i + 1]]`."""
    for i in range(hashes.size):
        hashes[i] = xxh64(data_address + offsets[i], offsets[i + 1] - offsets[i])


@njit(nogil=True, cache=True)
def partition_of(hash_: np.uint64, partition_count: int) -> int:
    """The partition of a key: its hash's upper 32 bits, scaled to [0, partition_count)."""
    return np.int64(((hash_ >> np.uint64(32)) * np.uint64(partition_count)) >> np.uint64(32))


@njit(nogil=True, cache=True)
def partition_rows(hashes: U64Array, bounds: I64Array, order: I64Array) -> None:
    """Sort rows by partition, keeping their order within one: `order[bounds[p]:bounds[p + 1]]` are the rows of partition p."""
    count = bounds.size - 1
    bounds[:] = 0
    for i in range(hashes.size):
        bounds[partition_of(hashes[i], count) + 1] += 1
    for p in range(count):
        bounds[p + 1] += bounds[p]
    cursor = bounds[:-1].copy()
    for i in range(hashes.size):
        p = partition_of(hashes[i], count)
        order[cursor[p]] = i
        cursor[p] += 1


# -- records ------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _varint_bytes(value: int) -> int:
    count = 1
    rest = np.uint64(value) >> np.uint64(7)
    while rest != _ZERO:
        rest >>= np.uint64(7)
        count += 1
    return count


@njit(nogil=True, cache=True)
def _get_varint(address: int, end: int) -> tuple[int, int]:
    """(value, address after it) of a varint below 2^42; address 0 if it runs past `end` or is longer."""
    value = _ZERO
    shift = _ZERO
    while address < end and shift < np.uint64(42):
        byte = load8(address)
        address += 1
        value |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            return np.int64(value), address
        shift += np.uint64(7)
    return 0, 0


@njit(nogil=True, cache=True)
def _record(address: int, end: int) -> tuple[int, int, int, int]:
    """(key address, value address, end address, compressed) of the record at `address`; key address 0 if it does not fit before `end`."""
    key_bytes, cursor = _get_varint(address, end)
    if key_bytes == 0:  # a varint that runs past the end, or padding
        return 0, 0, 0, 0
    value_word, cursor = _get_varint(cursor, end)
    if cursor == 0:
        return 0, 0, 0, 0
    value = cursor + key_bytes
    value_end = value + (value_word >> 1)
    if value_end > end:
        return 0, 0, 0, 0
    return cursor, value, value_end, value_word & 1


@njit(nogil=True, cache=True)
def padding(position: int, length: int) -> int:
    """Zeros before a record of `length` bytes that comes next at `position` of the heap: up to the next page or none."""
    rest = -position & (PAGE_BYTES - 1)
    return rest if rest < length <= PAGE_BYTES and rest <= PADDING_BYTES_MAX else 0


@njit(nogil=True, cache=True)
def _next(heap: int, address: int, end: int) -> int:
    """Where the next record begins after one that ended at `address`: there, or if a zero is there, at the next page."""
    if address < end and load8(address) == _ZERO:
        return address + (-(address - heap) & (PAGE_BYTES - 1))
    return address


@njit(nogil=True, cache=True)
def _put_padding(address: int, count: int) -> int:
    """Write `count` zeros; return the address after them."""
    for i in range(count):
        store8(address + i, _ZERO)
    return address + count


@njit(nogil=True, cache=True)
def _equal(a: int, b: int, length: int) -> bool:
    while length >= 8:
        if load64(a) != load64(b):
            return False
        a += 8
        b += 8
        length -= 8
    while length > 0:
        if load8(a) != load8(b):
            return False
        a += 1
        b += 1
        length -= 1
    return True


@njit(nogil=True, cache=True)
def fill(
    buffer_address: int,
    used: int,
    capacity: int,
    keys_address: int,
    key_offsets: I64Array,
    values_address: int,
    value_offsets: I64Array,
    compressed: U8Array,
    select: I64Array,
    first: int,
) -> tuple[int, int]:
    """Write records of rows `select[first:]` after the `used` bytes of a buffer until one does not fit. The buffer begins a page.

    `compressed` is uint8 [n] or empty (none is). Returns (next index into `select`, bytes used).
    """
    address = buffer_address + used
    end = buffer_address + capacity
    flagged = compressed.size != 0
    for i in range(first, select.size):
        row = select[i]
        key_bytes = key_offsets[row + 1] - key_offsets[row]
        value_bytes = value_offsets[row + 1] - value_offsets[row]
        word = value_bytes << 1
        if flagged:
            word |= np.int64(compressed[row])
        length = _varint_bytes(key_bytes) + _varint_bytes(word) + key_bytes + value_bytes
        empty = padding(address - buffer_address, length)
        if empty + length > end - address:
            return i, address - buffer_address
        address = _put_padding(address, empty)
        address = _put_varint(address, np.uint64(key_bytes))
        address = _put_varint(address, np.uint64(word))
        copy_bytes(address, keys_address + key_offsets[row], key_bytes)
        address += key_bytes
        copy_bytes(address, values_address + value_offsets[row], value_bytes)
        address += value_bytes
    return select.size, address - buffer_address


# -- index --------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _first_slot(hash_: np.uint64, slot_count: int) -> int:
    return np.int64(((hash_ & _LOW32) * np.uint64(slot_count)) >> np.uint64(32))


@njit(nogil=True, cache=True)
def _tag(hash_: np.uint64) -> np.uint64:
    return (hash_ >> np.uint64(32)) & _TAG


@njit(nogil=True, cache=True)
def build_index(heap: int, heap_bytes: int, slots: U64Array, mode: int) -> tuple[int, int, int, int, int]:
    """Walk a heap and enter every record into `slots` (zeroed; more slots than records).

    A repeated key keeps one record: either one if the values are equal, else as `mode` says. Returns (status, records walked, repeated
    records, a, b): DUPLICATE names the positions a < b of two records with one key; MALFORMED the position a.
    """
    end = heap + heap_bytes
    address = heap
    walked = 0
    repeated = 0
    slot_count = slots.size
    while address < end:
        key, value, record_end, flag = _record(address, end)
        if key == 0:
            return MALFORMED, walked, repeated, address - heap, 0
        hash_ = xxh64(key, value - key)
        entry = (_tag(hash_) << np.uint64(40)) | np.uint64(address - heap + 1)
        i = _first_slot(hash_, slot_count)
        while True:
            slot = slots[i]
            if slot == _ZERO:
                slots[i] = entry
                break
            if (slot ^ entry) >> np.uint64(40) == _ZERO:
                position = np.int64(slot & _POSITION) - 1
                other_key, other_value, other_end, other_flag = _record(heap + position, end)
                if other_value - other_key == value - key and _equal(other_key, key, value - key):
                    repeated += 1
                    same = (
                        other_end - other_value == record_end - value
                        and other_flag == flag
                        and _equal(other_value, value, record_end - value)
                    )
                    if not same:
                        if mode == KEEP_NONE:
                            return DUPLICATE, walked, repeated, position, address - heap
                        if mode == KEEP_LAST:
                            slots[i] = entry
                    break
            i += 1
            if i == slot_count:
                i = 0
        walked += 1
        address = _next(heap, record_end, end)
    return OK, walked, repeated, 0, 0


@njit(nogil=True, cache=True)
def compact(heap: int, heap_bytes: int, position: int, slots: U64Array, buffer_address: int, used: int, capacity: int) -> tuple[int, int]:
    """Copy the records that the index points at, from `position` on, into a buffer until one does not fit.

    Returns (next position, bytes used). The buffer begins a page. A record larger than the buffer stops it with nothing used.
    """
    end = heap + heap_bytes
    address = heap + position
    slot_count = slots.size
    while address < end:
        key, value, record_end, _ = _record(address, end)
        hash_ = xxh64(key, value - key)
        entry = (_tag(hash_) << np.uint64(40)) | np.uint64(address - heap + 1)
        i = _first_slot(hash_, slot_count)
        while slots[i] != entry and slots[i] != _ZERO:
            i += 1
            if i == slot_count:
                i = 0
        if slots[i] == entry:
            length = record_end - address
            empty = padding(used, length)
            if empty + length > capacity - used:
                break
            copy_bytes(_put_padding(buffer_address + used, empty), address, length)
            used += empty + length
        address = _next(heap, record_end, end)
    return address - heap, used


@njit(nogil=True, cache=True)
def next_record(heap: int, heap_bytes: int, position: int) -> int:
    """Position of the record that follows one that ended at `position`; `heap_bytes` after the last."""
    return min(_next(heap, heap + position, heap + heap_bytes) - heap, heap_bytes)


@njit(nogil=True, cache=True)
def record_at(heap: int, heap_bytes: int, position: int) -> tuple[int, int, int, int]:
    """(key, value, end, compressed) of the record at `position`, as positions in the heap; key -1 if there is none."""
    key, value, end, flag = _record(heap + position, heap + heap_bytes)
    if key == 0:
        return -1, 0, 0, 0
    return key - heap, value - heap, end - heap, flag


@njit(nogil=True, cache=True)
def count_before(heap: int, heap_bytes: int, position: int) -> int:
    """How many records lie before `position`: the ordinal of the record there."""
    address = heap
    count = 0
    while address < heap + position:
        key, _, record_end, _ = _record(address, heap + heap_bytes)
        if key == 0:
            return count
        address = _next(heap, record_end, heap + heap_bytes)
        count += 1
    return count


@njit(nogil=True, cache=True)
def list_records(
    heap: int, heap_bytes: int, position: int, keys: I64Array, values: I64Array, ends: I64Array, flags: U8Array
) -> tuple[int, int]:
    """Positions of up to `keys.size` records from `position` on. Returns (records, next position); next -1 if one is malformed."""
    end = heap + heap_bytes
    address = heap + position
    count = 0
    while address < end and count < keys.size:
        key, value, record_end, flag = _record(address, end)
        if key == 0:
            return count, -1
        keys[count], values[count], ends[count], flags[count] = key - heap, value - heap, record_end - heap, flag
        count += 1
        address = _next(heap, record_end, end)
    return count, address - heap


# -- probe one ----------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _pack_long(value: int) -> tuple[np.uint64, np.uint64, int]:
    """The Avro bytes of a long in two words, and how many they are: nothing touches memory on the way to the probe."""
    rest = _zigzag(value)
    low = _ZERO
    high = _ZERO
    count = 0
    while True:
        byte = rest & np.uint64(127)
        rest >>= np.uint64(7)
        if rest != _ZERO:
            byte |= np.uint64(128)
        if count < 8:
            low |= byte << np.uint64(8 * count)
        else:
            high |= byte << np.uint64(8 * (count - 8))
        count += 1
        if rest == _ZERO:
            return low, high, count


@njit(nogil=True, cache=True)
def _hash_packed(low: np.uint64, high: np.uint64, count: int) -> np.uint64:
    """XXH64 of the first `count` (at most 10) bytes of two words."""
    hash_ = PRIME5 + np.uint64(count)
    rest = low
    if count >= 8:
        hash_ = mix8(hash_, low)
        rest = high
        count -= 8
    if count >= 4:
        hash_ = mix4(hash_, rest & _LOW32)
        rest >>= np.uint64(32)
        count -= 4
    while count > 0:
        hash_ = mix1(hash_, rest & np.uint64(255))
        rest >>= np.uint64(8)
        count -= 1
    return avalanche(hash_)


@njit(nogil=True, cache=True)
def _equal_packed(address: int, low: np.uint64, high: np.uint64, count: int) -> bool:
    """Whether `count` bytes at `address` are those words. May load up to 8 bytes further, which are the value, index or footer."""
    if count < 8:
        return (load64(address) ^ low) << np.uint64(64 - 8 * count) == _ZERO
    if load64(address) != low:
        return False
    if count == 8:
        return True
    return (load64(address + 8) ^ high) << np.uint64(64 - 8 * (count - 8)) == _ZERO


@njit(nogil=True, cache=True)
def _answer(file: int, partition: int, value: int, end: int, flag: int) -> tuple[int, int, int]:
    if flag != 0:
        return ~partition, value - file, end - file
    return partition, value - file, end - file


@njit(nogil=True, cache=True)
def _probe_packed(low: np.uint64, high: np.uint64, count: int, hash_: np.uint64, entry: int) -> tuple[int, int, int]:
    """As `_probe`, for a key of at most 10 bytes in two words."""
    heap = np.int64(load64(entry + 8))
    heap_end = np.int64(load64(entry + 16))
    index = np.int64(load64(entry + 24))
    slot_count = np.int64(load64(entry + 32))
    tag = _tag(hash_)
    i = _first_slot(hash_, slot_count)
    for _ in range(slot_count):
        slot = load64(index + 8 * i)
        if slot == _ZERO:
            return 0, 0, 0
        if slot >> np.uint64(40) == tag:
            key_at, value, end, flag = _record(heap + np.int64(slot & _POSITION) - 1, heap_end)
            if key_at == 0:
                return -1, 0, 0
            if value - key_at == count and _equal_packed(key_at, low, high, count):
                return value, end, flag
        i += 1
        if i == slot_count:
            i = 0
    return -1, 0, 0  # no slot is free: no index of ours, or none at all (`partial.AbsentFile`)


@njit(nogil=True, cache=True)
def _probe(address: int, length: int, hash_: np.uint64, entry: int) -> tuple[int, int, int]:
    """(value address, end address, compressed) of key bytes in one partition; value 0: missing, -1: the index leads outside the heap."""
    heap = np.int64(load64(entry + 8))
    heap_end = np.int64(load64(entry + 16))
    index = np.int64(load64(entry + 24))
    slot_count = np.int64(load64(entry + 32))
    tag = _tag(hash_)
    i = _first_slot(hash_, slot_count)
    for _ in range(slot_count):
        slot = load64(index + 8 * i)
        if slot == _ZERO:
            return 0, 0, 0
        if slot >> np.uint64(40) == tag:
            key_at, value, end, flag = _record(heap + np.int64(slot & _POSITION) - 1, heap_end)
            if key_at == 0:
                return -1, 0, 0
            if value - key_at == length and _equal(key_at, address, length):
                return value, end, flag
        i += 1
        if i == slot_count:
            i = 0
    return -1, 0, 0  # no slot is free: no index of ours, or none at all (`partial.AbsentFile`)


@njit(nogil=True, cache=True)
def probe_bytes(key: bytes, table: int) -> tuple[int, int, int]:
    """Find key bytes in the partitions of `table` (address).

    Returns (partition, start, end): where the value lies in the partition's file; ~partition if it is compressed. start is 0 if there is
    no such key, -1 if the index leads outside the heap.
    """
    address = bytes_address(key)
    hash_ = xxh64(address, len(key))
    partition = partition_of(hash_, np.int64(load64(table)))
    entry = table + 8 + 8 * ENTRY * partition
    value, end, flag = _probe(address, len(key), hash_, entry)
    if value <= 0:
        return partition, value, 0
    return _answer(np.int64(load64(entry)), partition, value, end, flag)


# -- probe many ---------------------------------------------------------------------------------------------------------------------

_PREFETCH_BYTES = 1024  # of each value that is found: the caller reads it next, and 1000 of these fit the second-level cache
_GROUP = 32  # keys in flight: enough to hide a memory latency, few enough to stay in the first-level cache


@njit(nogil=True, cache=True)
def prefetch_group(hashes: U64Array, table: int, first: int, last: int) -> None:
    """Ask for the index slots of the keys from `first` to `last`, then for the records that they lead to."""
    partition_count = np.int64(load64(table))
    for k in range(first, last):
        entry = table + 8 + 8 * ENTRY * partition_of(hashes[k], partition_count)
        prefetch(np.int64(load64(entry + 24)) + 8 * _first_slot(hashes[k], np.int64(load64(entry + 32))))
    for k in range(first, last):
        entry = table + 8 + 8 * ENTRY * partition_of(hashes[k], partition_count)
        slot_count = np.int64(load64(entry + 32))
        index = np.int64(load64(entry + 24))
        tag = _tag(hashes[k])
        i = _first_slot(hashes[k], slot_count)
        for _ in range(slot_count):
            slot = load64(index + 8 * i)
            if slot == _ZERO or slot >> np.uint64(40) == tag:
                if slot != _ZERO:
                    prefetch(np.int64(load64(entry + 8)) + np.int64(slot & _POSITION) - 1)
                break
            i += 1
            if i == slot_count:
                i = 0


@njit(nogil=True, cache=True)
def probe_many(
    keys_address: int,
    key_offsets: I64Array,
    hashes: U64Array,
    table: int,
    starts: I64Array,
    ends: I64Array,
    compressed: U8Array,
) -> tuple[int, int]:
    """Find many keys (bytes, offsets [n + 1], hashes [n]) in the partitions of `table`.

    Fills absolute addresses of values: starts [n] (0: missing), ends [n], and compressed [n] (1: the value is a frame). Works in groups:
    all slots are asked for, then all records, then keys are compared, so that cache misses overlap. Returns (number of compressed
    values, first key whose index entry leads outside the heap or -1).
    """
    count = hashes.size
    partition_count = np.int64(load64(table))
    total = 0
    for group in range(0, count, _GROUP):
        last = min(group + _GROUP, count)
        prefetch_group(hashes, table, group, last)
        for k in range(group, last):
            entry = table + 8 + 8 * ENTRY * partition_of(hashes[k], partition_count)
            value, end, flag = _probe(keys_address + key_offsets[k], key_offsets[k + 1] - key_offsets[k], hashes[k], entry)
            if value < 0:
                return total, k
            starts[k], ends[k], compressed[k] = value, end, flag
            total += flag
            for line in range(value, min(end, value + _PREFETCH_BYTES), 64):
                prefetch(line)
    return total, -1


@njit(nogil=True, cache=True)
def gather(starts: I64Array, ends: I64Array, out_address: int, offsets: I64Array) -> None:
    """Copy the slices [starts[i], ends[i]) (absolute addresses) one after the other; `offsets` [n + 1] is filled."""
    position = 0
    offsets[0] = 0
    for i in range(starts.size):
        length = ends[i] - starts[i]
        copy_bytes(out_address + position, starts[i], length)
        position += length
        offsets[i + 1] = position


# -- frames -------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def frame_size(address: int, end: int) -> int:
    """Content size that the header of a zstd frame states; -1 if it states none or is no frame header. Source: RFC 8878, section 3.1.1."""
    if end - address < 6 or load32(address) != np.uint64(0xFD2FB528):
        return -1
    descriptor = np.int64(load8(address + 4))
    single_segment = (descriptor >> 5) & 1
    size_code = descriptor >> 6
    dictionary_id_bytes = (0, 1, 2, 4)[descriptor & 3]
    position = address + 5 + (1 - single_segment) + dictionary_id_bytes
    if position + (single_segment, 2, 4, 8)[size_code] > end:
        return -1
    if size_code == 0:
        return np.int64(load8(position)) if single_segment == 1 else -1
    if size_code == 1:
        return np.int64(load8(position) | (load8(position + 1) << np.uint64(8))) + 256
    if size_code == 2:
        return np.int64(load32(position))
    size = load64(position)
    return np.int64(size) if size < np.uint64(1 << 62) else -1


@njit(nogil=True, cache=True)
def list_frames(starts: I64Array, ends: I64Array, compressed: U8Array, limit: int, which: I64Array, sizes: I64Array) -> tuple[int, int]:
    """The compressed values among many: `which` index and content `sizes` of each. Returns (count, -1), or (index, its size or 0)
    of one that states none or one over `limit`."""
    count = 0
    for i in range(starts.size):
        if compressed[i] != 0:
            size = frame_size(starts[i], ends[i])
            if size <= 0 or size > limit:  # an empty value is never made a frame
                return i, max(size, 0)
            which[count] = i
            sizes[count] = size
            count += 1
    return count, -1

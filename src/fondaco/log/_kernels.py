"""Kernels: framing records into a batch, walking, checking and parsing batches, and compaction, over raw memory.

All run without the GIL and are compiled once (cached beside the module by numba). Addresses are int64; nothing here keeps one. What comes
from a file is checked against the bytes that are there before it is followed: damage gives a status, never a read outside.

Layout: docs/internals/log-format.md. Each has a plain reference in tests/log/test_kernels.py.
"""

# mypy: disable-error-code="no-any-return, return-value"
# (numba widens integers as its kernels need; the annotations are for readers)

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fondaco.core.memory import copy_bytes, load_i32, load_i64, load_u8, load_u32, load_u64, store_i8, store_i32, store_i64
from fondaco.core.xxh64 import xxh64

I64Array = npt.NDArray[np.int64]

SEGMENT_HEADER_BYTES = 64
BATCH_HEADER_BYTES = 64
RECORD_HEADER_BYTES = 40
BATCH_MAGIC = 0x31424C46  # "FLB1"
NO_TIMESTAMP = -(2**63)

# -- what `check` found ---------------------------------------------------------------------------------------------------------------
OK = 0  # whole batches up to the end, or to the limit
SHORT = 1  # the bytes end inside a batch
NOT_A_BATCH = 2
BAD_CHECKSUM = 3
BAD_RECORD = 4  # a record that does not fit into its batch
REASONS = {
    SHORT: "it is cut off",
    NOT_A_BATCH: "no batch begins here",
    BAD_CHECKSUM: "its checksum is wrong",
    BAD_RECORD: "a record does not fit into it",
}

# -- rows of the columns that `parse` fills: int64 [COLUMNS, n] -------------------------------------------------------------------------
COLUMNS = 9  # offset, timestamp_ms, appended_ms, key start and length, value start and length, headers start and length

_LOW32 = np.uint64(0xFFFFFFFF)


@njit(nogil=True, cache=True)
def _padded(count: int) -> int:
    return (count + 7) & -8


# -- writing ----------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def framed_bytes(count: int, key_offsets: int, value_offsets: int, header_offsets: int) -> int:
    """Bytes of a batch of `count` records with these offsets (addresses of int64 [count + 1]; header_offsets 0: no headers)."""
    total = BATCH_HEADER_BYTES
    for i in range(count):
        at = 8 * i
        size = load_i64(key_offsets + at + 8) - load_i64(key_offsets + at) + load_i64(value_offsets + at + 8) - load_i64(value_offsets + at)
        if header_offsets:
            size += load_i64(header_offsets + at + 8) - load_i64(header_offsets + at)
        total += _padded(RECORD_HEADER_BYTES + size)
    return total


@njit(nogil=True, cache=True)
def _seal_batch(out: int, bytes_: int) -> None:
    """Fill in magic, size and checksum of a batch whose other bytes are in place."""
    store_i32(out, BATCH_MAGIC)
    store_i32(out + 4, bytes_)
    store_i64(out + 8, np.int64(xxh64(out + 16, bytes_ - 16)))


@njit(nogil=True, cache=True)
def frame(
    out: int, count: int, base_offset: int, offsets: int, appended_ms: int, timestamps: int,
    keys: int, key_offsets: int, key_nulls: int, values: int, value_offsets: int, value_nulls: int, headers: int, header_offsets: int,
) -> int:  # fmt: skip
    """Write a batch at `out`, which has room for `framed_bytes`; return the greatest timestamp in it.

    All but `count`, `base_offset` and `appended_ms` are addresses; 0 stands for: offsets from `base_offset` on without gaps, no timestamps
    (the moment of the append), no nulls (bool), no headers.
    """
    at = out + BATCH_HEADER_BYTES
    offset = base_offset
    first = offset
    timestamp_max = np.int64(NO_TIMESTAMP)
    for i in range(count):
        if offsets:
            offset = load_i64(offsets + 8 * i)
        if i == 0:
            first = offset
        timestamp = load_i64(timestamps + 8 * i) if timestamps else np.int64(NO_TIMESTAMP)
        if timestamp == NO_TIMESTAMP:
            timestamp = appended_ms
        timestamp_max = max(timestamp_max, timestamp)
        end = at + RECORD_HEADER_BYTES

        start = load_i64(key_offsets + 8 * i)
        length = load_i64(key_offsets + 8 * i + 8) - start
        null = key_nulls != 0 and load_u8(key_nulls + i) != 0
        if not null:
            copy_bytes(end, keys + start, length)
            end += length
        store_i32(at + 24, -1 if null else length)

        start = load_i64(value_offsets + 8 * i)
        length = load_i64(value_offsets + 8 * i + 8) - start
        null = value_nulls != 0 and load_u8(value_nulls + i) != 0
        if not null:
            copy_bytes(end, values + start, length)
            end += length
        store_i32(at + 28, -1 if null else length)

        length = np.int64(0)
        if header_offsets:
            start = load_i64(header_offsets + 8 * i)
            length = load_i64(header_offsets + 8 * i + 8) - start
            copy_bytes(end, headers + start, length)
            end += length
        store_i64(at + 32, length)  # and the reserved half
        store_i64(at + 8, offset)
        store_i64(at + 16, timestamp)
        size = _padded(end - at)
        rest = at + size - end
        for j in range(rest):
            store_i8(end + j, 0)
        store_i32(at, size)
        store_i32(at + 4, np.int64(xxh64(at + 8, end - at - 8) & _LOW32))
        at += size
        offset += 1
    store_i64(out + 16, first)
    store_i64(out + 24, offset - 1)
    store_i64(out + 32, appended_ms)
    store_i64(out + 40, timestamp_max)
    store_i64(out + 48, count)  # and the flags
    store_i64(out + 56, 0)
    _seal_batch(out, at - out)
    return timestamp_max


# -- reading ----------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def seek(address: int, length: int, offset: int) -> int:
    """The byte of the first batch that ends at or after `offset`, or of the first that does not lie within `length` bytes, by headers only.

    -1 - byte: no batch begins at that byte.
    """
    at = 0
    while at + BATCH_HEADER_BYTES <= length:
        size = load_u32(address + at + 4)
        if load_u32(address + at) != BATCH_MAGIC or size < BATCH_HEADER_BYTES:
            return -1 - at
        if load_i64(address + at + 24) >= offset:
            return at
        at += size
    return at


@njit(nogil=True, cache=True)
def check_batch(address: int, length: int) -> int:
    """Whether one whole, sound batch begins at `address`, `length` bytes being there: a status."""
    if length < BATCH_HEADER_BYTES:
        return SHORT
    size = load_u32(address + 4)
    if load_u32(address) != BATCH_MAGIC or size < BATCH_HEADER_BYTES or size & 7:
        return NOT_A_BATCH
    if size > length:
        return SHORT
    if xxh64(address + 16, size - 16) != load_u64(address + 8):
        return BAD_CHECKSUM
    at = address + BATCH_HEADER_BYTES
    end = address + size
    before = load_i64(address + 16) - 1
    for _ in range(load_u32(address + 48)):
        if at + RECORD_HEADER_BYTES > end:
            return BAD_RECORD
        record = load_u32(at)
        key, value, headers = load_i32(at + 24), load_i32(at + 28), load_u32(at + 32)
        if key < -1 or value < -1 or record != _padded(RECORD_HEADER_BYTES + max(key, 0) + max(value, 0) + headers) or at + record > end:
            return BAD_RECORD
        if load_i64(at + 8) <= before:
            return BAD_RECORD
        before = load_i64(at + 8)
        at += record
    return OK if at == end and before <= load_i64(address + 24) else BAD_RECORD


@njit(nogil=True, cache=True)
def check(address: int, length: int, limit: int, found: I64Array) -> int:
    """Check batches one after the other until `limit` bytes would be exceeded (but at least one). A status, of the first that is not sound.

    found: int64 [5]: bytes of the sound ones, records in them; then, unchanged if none is: last offset and append moment of the last, and
    the greatest timestamp of all and of `found` as it was.
    """
    at = 0
    records = 0
    status = OK
    while at < length:
        status = check_batch(address + at, length - at)
        if status != OK:
            break
        size = load_u32(address + at + 4)
        if at > 0 and at + size > limit:
            break
        found[2] = load_i64(address + at + 24)
        found[3] = load_i64(address + at + 32)
        found[4] = max(found[4], load_i64(address + at + 40))
        records += load_u32(address + at + 48)
        at += size
    found[0] = at
    found[1] = records
    return status


@njit(nogil=True, cache=True)
def parse(address: int, length: int, offset: int, columns: I64Array) -> int:
    """Columns of the records at or after `offset` in sound batches. `columns`: int64 [COLUMNS, n], n as `check` counted; returns how many.

    Starts are bytes from `address`.
    """
    at = 0
    n = 0
    while at < length:
        end = at + load_u32(address + at + 4)
        appended = load_i64(address + at + 32)
        at += BATCH_HEADER_BYTES
        while at < end:
            record = address + at
            if load_i64(record + 8) >= offset:
                key, value = load_i32(record + 24), load_i32(record + 28)
                start = at + RECORD_HEADER_BYTES
                columns[0, n] = load_i64(record + 8)
                columns[1, n] = load_i64(record + 16)
                columns[2, n] = appended
                columns[3, n] = start
                columns[4, n] = key
                start += max(key, 0)
                columns[5, n] = start
                columns[6, n] = value
                start += max(value, 0)
                columns[7, n] = start
                columns[8, n] = load_u32(record + 32)
                n += 1
            at += load_u32(record)
    return n


@njit(nogil=True, cache=True)
def find_time(address: int, length: int, low: int, timestamp_ms: int) -> int:
    """The offset of the first record in sound batches that is at or after `low` and not older than `timestamp_ms`; -1: none."""
    at = 0
    while at < length:
        end = at + load_u32(address + at + 4)
        if load_i64(address + at + 40) >= timestamp_ms and load_i64(address + at + 24) >= low:
            at += BATCH_HEADER_BYTES
            while at < end:
                record = address + at
                if load_i64(record + 16) >= timestamp_ms and load_i64(record + 8) >= low:
                    return load_i64(record + 8)
                at += load_u32(record)
        at = end
    return -1


@njit(nogil=True, cache=True)
def find_sound(address: int, length: int) -> int:
    """The first byte, a multiple of 8, at which a sound batch begins; -1: none. For telling damage in the middle from a torn tail."""
    at = 0
    while at + BATCH_HEADER_BYTES <= length:
        if load_u32(address + at) == BATCH_MAGIC and check_batch(address + at, length - at) == OK:
            return at
        at += 8
    return -1


# -- compaction -------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _same_key(a: int, b: int) -> bool:
    """Whether the records at two addresses have the same key."""
    length = load_i32(a + 24)
    if length != load_i32(b + 24):
        return False
    for i in range(RECORD_HEADER_BYTES, RECORD_HEADER_BYTES + length):  # noqa: SIM110 (numba compiles the loop, not a generator)
        if load_u8(a + i) != load_u8(b + i):
            return False
    return True


@njit(nogil=True, cache=True)
def _slot_of(record: int, slots: I64Array) -> int:
    """The slot that holds the key of a record, or the empty one where it belongs. `slots`: a power of two, not full."""
    mask = slots.size - 1
    slot = np.int64(xxh64(record + RECORD_HEADER_BYTES, max(load_i32(record + 24), 0)) >> np.uint64(1)) & mask
    while slots[slot] != 0 and not _same_key(slots[slot], record):
        slot = (slot + 1) & mask
    return slot


@njit(nogil=True, cache=True)
def note_newest(address: int, length: int, start: int, slots: I64Array, used: int, state: I64Array) -> None:
    """Let each key's slot hold the address of its newest record, in sound batches from byte `start` on, as long as half of the slots
    stay free.

    state: int64 [2], becomes the byte of the next batch, and the slots in use.
    """
    at = start
    while at < length:
        if 2 * (used + load_u32(address + at + 48)) > slots.size:
            break
        end = at + load_u32(address + at + 4)
        at += BATCH_HEADER_BYTES
        while at < end:
            slot = _slot_of(address + at, slots)
            if slots[slot] == 0:
                used += 1
            slots[slot] = address + at
            at += load_u32(address + at)
    state[0] = at
    state[1] = used


@njit(nogil=True, cache=True)
def rehash(old: I64Array, new: I64Array) -> None:
    """Put every entry of one table into a larger one."""
    for i in range(old.size):
        if old[i] != 0:
            new[_slot_of(old[i], new)] = old[i]


@njit(nogil=True, cache=True)
def copy_newest(address: int, length: int, slots: I64Array, low: int, tombstones_from_ms: int, out: int, state: I64Array) -> int:
    """Copy sound batches to `out` (room for `length` bytes) with only the newest record of each key, at or after offset `low`, and without
    tombstones appended before `tombstones_from_ms`. Returns the bytes written.

    state: int64 [2], becomes the records seen and the records kept.
    """
    at = 0
    to = out
    seen = 0
    kept = 0
    while at < length:
        batch = address + at
        end = at + load_u32(batch + 4)
        too_old = load_i64(batch + 32) < tombstones_from_ms
        at += BATCH_HEADER_BYTES
        put = to + BATCH_HEADER_BYTES
        count = 0
        timestamp_max = np.int64(NO_TIMESTAMP)
        while at < end:
            record = address + at
            size = load_u32(record)
            seen += 1
            dropped = load_i64(record + 8) < low or (load_i32(record + 28) < 0 and too_old)
            if not dropped and slots[_slot_of(record, slots)] == record:
                copy_bytes(put, record, size)
                timestamp_max = max(timestamp_max, load_i64(record + 16))
                put += size
                count += 1
            at += size
        if count:
            copy_bytes(to, batch, BATCH_HEADER_BYTES)
            store_i64(to + 40, timestamp_max)
            store_i32(to + 48, count)
            _seal_batch(to, put - to)
            kept += count
            to = put
    state[0] = seen
    state[1] = kept
    return to - out


# -- keys to partitions -----------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def murmur2(address: int, length: int) -> int:
    """MurmurHash2 of 32 bits as Kafka's own clients compute it (Austin Appleby's, seed 0x9747b28c): 0 to 2^32 - 1."""
    m = np.uint64(0x5BD1E995)
    h = np.uint64(0x9747B28C) ^ (np.uint64(length) & _LOW32)
    end = address + (length & -4)
    at = address
    while at < end:
        k = (np.uint64(load_u32(at)) * m) & _LOW32
        k = ((k ^ (k >> np.uint64(24))) * m) & _LOW32
        h = ((h * m) & _LOW32) ^ k
        at += 4
    rest = length & 3
    if rest >= 3:
        h ^= np.uint64(load_u8(at + 2)) << np.uint64(16)
    if rest >= 2:
        h ^= np.uint64(load_u8(at + 1)) << np.uint64(8)
    if rest >= 1:
        h = ((h ^ np.uint64(load_u8(at))) * m) & _LOW32
    h = ((h ^ (h >> np.uint64(13))) * m) & _LOW32
    return np.int64(h ^ (h >> np.uint64(15)))


@njit(nogil=True, cache=True)
def partitions_xxh64(keys: int, offsets: I64Array, partitions: int, out: I64Array) -> None:
    """`((XXH64(key) >> 32) * partitions) >> 32` of each key `keys[offsets[i]:offsets[i + 1]]`."""
    for i in range(out.size):
        hash_ = xxh64(keys + offsets[i], offsets[i + 1] - offsets[i])
        out[i] = np.int64(((hash_ >> np.uint64(32)) * np.uint64(partitions)) >> np.uint64(32))


@njit(nogil=True, cache=True)
def partitions_murmur2(keys: int, offsets: I64Array, partitions: int, out: I64Array) -> None:
    """`(murmur2(key) & 0x7fffffff) % partitions` of each key."""
    for i in range(out.size):
        out[i] = (murmur2(keys + offsets[i], offsets[i + 1] - offsets[i]) & 0x7FFFFFFF) % partitions

"""Kernels of reads: real-time writes first, then the base, in one call. Plain reference: tests/store/test_read_kernels.py.

Both halves have their own kernels (`_overlay_kernels`, `_kernels`); here they are one, because entering a kernel costs as much as finding a
key in it. They take the address of a *serving table* and never keep it; whoever calls keeps what it leads to alive.

    serving table, int64 words: [0] as_of_ms of the base                     [1] address of the overlay's table
                                [2] since_ms: older writes do not count     [3] number of the value schema that rows can be given out in
                                [4] number of the overlay's first memory in the joint list: base files, then the overlay's memories
    then, from word BASE_WORD on, a table of partitions as in `_kernels`; one of 0 partitions: there is no base.
"""

# mypy: disable-error-code="no-any-return, return-value, untyped-decorator"
# (numba widens integers as its kernels need; the annotations are for readers)

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fondaco.core.memory import copy_bytes, load_i32, load_i64, load_u64, prefetch
from fondaco.core.xxh64 import xxh64
from fondaco.store import _kernels as base
from fondaco.store import _overlay_kernels as overlay
from fondaco.store._memory import bytes_address

U8Array = npt.NDArray[np.uint8]
I64Array = npt.NDArray[np.int64]
U64Array = npt.NDArray[np.uint64]

BASE_WORD = 5
ALWAYS = -(1 << 63)  # `oldest_ms` of stores whose rows stay

# -- what `start` says when it is no position ----------------------------------------------------------------------------------------
MISSING = 0
BROKEN = -1  # the base's index leads outside the heap
ASK = -2  # the overlay has to be asked in another way: stale, damaged, a merge, another schema

# -- flags of many keys --------------------------------------------------------------------------------------------------------------
PLAIN = 0  # the value lies at starts, ends; or starts is 0: there is none
FRAME = 1  # it lies there compressed
OTHER_SCHEMA = 2  # it lies there, in the value schema `schemas`
MERGED = 3  # it must be made

# numba takes functions from globals, not from modules under another name
find, find_packed, memory_base, topic_partition, overlay_probe, segment_locate = (
    overlay.find, overlay.find_packed, overlay.memory_base, overlay.topic_partition, overlay.overlay_probe, overlay.locate,
)  # fmt: skip
_pack_long, _hash_packed, _probe_packed, _probe, _first_slot, _tag, partition_of, prefetch_group = (
    base._pack_long, base._hash_packed, base._probe_packed, base._probe, base._first_slot, base._tag, base.partition_of,
    base.prefetch_group,
)  # fmt: skip
sound, _DAMAGED, _RECORD_BYTES = overlay.sound, overlay.DAMAGED, overlay.RECORD_BYTES
_NONE, _PUT, _DELETE = overlay.NONE, overlay.PUT, overlay.DELETE
_OVERLAY_HEAD = 8 * overlay.TABLE_WORDS
_OVERLAY_ENTRY = 8 * overlay.PARTITION_WORDS
_BASE = 8 * BASE_WORD
_HEAD = _BASE + 8
_ENTRY = 8 * base.ENTRY
_GROUP = base._GROUP
_PREFETCH_BYTES = base._PREFETCH_BYTES
_TAG_SHIFT = np.uint64(40)
_ZERO = np.uint64(0)


# -- one key ------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _base_answer(value: int, end: int, flag: int, partition: int, entry: int) -> tuple[int, int, int]:
    if value <= 0:
        return partition, value, 0
    file = load_i64(entry)
    return ~partition if flag != 0 else partition, value - file, end - file


@njit(nogil=True, cache=True)
def _put_answer(memory: int, start: int, end: int, overlay_entry: int, table: int) -> tuple[int, int, int]:
    address = memory_base(overlay_entry, memory)
    return load_i64(table + 32) + memory, start - address, end - address


@njit(nogil=True, cache=True)
def read_long(key: int, table: int, oldest_ms: int) -> tuple[int, int, int]:
    """Find an integer key.

    Args:
        table: address of a serving table. oldest_ms: puts, and a base, from before are over (`ALWAYS`: none is).
    Returns:
        (number in the joint list of memories, start, end) of the row's bytes; ~number if they are compressed; start may be MISSING,
        BROKEN (the number is the base's partition) or ASK.
    """
    low, high, count = _pack_long(key)
    hash_ = _hash_packed(low, high, count)
    writes = load_i64(table + 8)
    kind, memory, start, end, schema, timestamp = find_packed(low, high, count, hash_, writes, load_i64(table + 16))
    if kind != _NONE:
        if kind == _DELETE:
            return 0, MISSING, 0
        if kind != _PUT:
            return 0, ASK, 0
        if timestamp >= oldest_ms:
            if schema != load_i64(table + 24) or load_i64(writes + 24) != 0:
                return 0, ASK, 0
            partition = partition_of(hash_, load_i64(writes + 16))
            return _put_answer(memory, start, end, writes + _OVERLAY_HEAD + _OVERLAY_ENTRY * partition, table)
    count_of_base = load_i64(table + _BASE)
    if count_of_base == 0 or load_i64(table) < oldest_ms:
        return 0, MISSING, 0
    partition = partition_of(hash_, count_of_base)
    entry = table + _HEAD + _ENTRY * partition
    value, end, flag = _probe_packed(low, high, count, hash_, entry)
    return _base_answer(value, end, flag, partition, entry)


@njit(nogil=True, cache=True)
def read_bytes(key: bytes, table: int, oldest_ms: int) -> tuple[int, int, int]:
    """As `read_long`, for key bytes that are encoded already."""
    address = bytes_address(key)
    length = len(key)
    hash_ = xxh64(address, length)
    writes = load_i64(table + 8)
    kind, memory, start, end, schema, timestamp = find(address, length, hash_, writes, load_i64(table + 16))
    if kind != _NONE:
        if kind == _DELETE:
            return 0, MISSING, 0
        if kind != _PUT:
            return 0, ASK, 0
        if timestamp >= oldest_ms:
            if schema != load_i64(table + 24):
                return 0, ASK, 0
            partition = topic_partition(address, length, hash_, load_i64(writes + 16), load_i64(writes + 24))
            return _put_answer(memory, start, end, writes + _OVERLAY_HEAD + _OVERLAY_ENTRY * partition, table)
    count_of_base = load_i64(table + _BASE)
    if count_of_base == 0 or load_i64(table) < oldest_ms:
        return 0, MISSING, 0
    partition = partition_of(hash_, count_of_base)
    entry = table + _HEAD + _ENTRY * partition
    value, end, flag = _probe(address, length, hash_, entry)
    return _base_answer(value, end, flag, partition, entry)


@njit(nogil=True, cache=True)
def read_long_always(key: int, table: int) -> tuple[int, int, int]:
    """`read_long` in a store whose rows stay; one argument less is 20 ns less."""
    return read_long(key, table, ALWAYS)


@njit(nogil=True, cache=True)
def read_bytes_always(key: bytes, table: int) -> tuple[int, int, int]:
    """`read_bytes` in a store whose rows stay."""
    return read_bytes(key, table, ALWAYS)


@njit(nogil=True, cache=True)
def ask_overlay(key: bytes, table: int) -> tuple[int, int, int, int, int, int]:
    """All that the overlay says of a key: as `_overlay_kernels.overlay_probe`, of a serving table. start and end count from the memory's
    beginning."""
    address = bytes_address(key)
    return overlay_probe(address, len(key), xxh64(address, len(key)), load_i64(table + 8), load_i64(table + 16))


# -- many keys ----------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _prefetch_writes(keys_address: int, key_offsets: I64Array, hashes: U64Array, writes: int, first: int, last: int) -> None:
    """Ask for the overlay's slots of a group of keys, then for the records they lead to."""
    partition_count = load_i64(writes + 16)
    partitioner = load_i64(writes + 24)
    for k in range(first, last):
        address = keys_address + key_offsets[k]
        partition = topic_partition(address, key_offsets[k + 1] - key_offsets[k], hashes[k], partition_count, partitioner)
        entry = writes + _OVERLAY_HEAD + _OVERLAY_ENTRY * partition
        if load_i64(entry) != 0:
            prefetch(load_i64(entry) + 8 * _first_slot(hashes[k], load_i64(entry + 8)))
    for k in range(first, last):
        address = keys_address + key_offsets[k]
        partition = topic_partition(address, key_offsets[k + 1] - key_offsets[k], hashes[k], partition_count, partitioner)
        entry = writes + _OVERLAY_HEAD + _OVERLAY_ENTRY * partition
        slots = load_i64(entry)
        if slots != 0:
            slot_count = load_i64(entry + 8)
            tag = _tag(hashes[k])
            i = _first_slot(hashes[k], slot_count)
            for _ in range(slot_count):
                slot = load_u64(slots + 8 * i)
                if slot == _ZERO:
                    break
                if slot >> _TAG_SHIFT == tag:
                    status, record, _, _ = segment_locate(slot, entry, load_i64(writes), load_i64(writes + 8))
                    if status == _PUT:
                        prefetch(record)
                        prefetch(record + 64)
                    break
                i += 1
                if i == slot_count:
                    i = 0


@njit(nogil=True, cache=True)
def read_many(
    keys_address: int,
    key_offsets: I64Array,
    hashes: U64Array,
    table: int,
    oldest_ms: int,
    wheres: I64Array,
    starts: I64Array,
    ends: I64Array,
    flags: U8Array,
    schemas: I64Array,
) -> tuple[int, int, int, int]:
    """Find many keys (bytes, offsets [n + 1], hashes [n]); arguments as `read_long`.

    Fills, all [n]: wheres (number in the joint list of memories), starts and ends (absolute addresses; start 0: missing), flags, schemas
    (the value schema of the row's bytes; 0: missing, or MERGED). Works in groups: all slots are asked for, then all records, then keys
    are compared, so that cache misses overlap.

    Returns (number of FRAMEs, number of OTHER_SCHEMA and MERGED, status, key): status is 0, BROKEN at that key, or ASK if the overlay is
    stale or damaged at it: its kind is then in `wheres`, its memory in `starts`, the record's address in `ends`.
    """
    count = hashes.size
    writes = load_i64(table + 8)
    since_ms = load_i64(table + 16)
    own_schema = load_i64(table + 24)
    first_memory = load_i64(table + 32)
    base_count = load_i64(table + _BASE)
    if load_i64(table) < oldest_ms:
        base_count = 0
    frames = 0
    others = 0
    # without a write there is nothing to ask key by key, but whether the overlay moved on, once
    asks = load_i64(writes + 16) != 0
    if count > 0 and not asks:
        kind, memory, start, end, schema, timestamp = find(keys_address, 0, hashes[0], writes, since_ms)
        if kind != _NONE:
            wheres[0], starts[0], ends[0] = kind, memory, start
            return 0, 0, ASK, 0
    for group in range(0, count, _GROUP):
        last = min(group + _GROUP, count)
        if asks:
            _prefetch_writes(keys_address, key_offsets, hashes, writes, group, last)
        if base_count != 0:
            prefetch_group(hashes, table + _BASE, group, last)
        for k in range(group, last):
            address = keys_address + key_offsets[k]
            length = key_offsets[k + 1] - key_offsets[k]
            if asks:
                kind, memory, start, end, schema, timestamp = find(address, length, hashes[k], writes, since_ms)
                if kind < 0:
                    wheres[k], starts[k], ends[k] = kind, memory, start
                    return frames, others, ASK, k
                if kind == _PUT and timestamp < oldest_ms:
                    kind = _NONE
                if kind != _NONE:
                    wheres[k], starts[k], ends[k], schemas[k] = first_memory + memory, start, end, schema
                    if kind == _PUT:
                        flags[k] = PLAIN if schema == own_schema else OTHER_SCHEMA
                        others += schema != own_schema
                        for line in range(start, min(end, start + _PREFETCH_BYTES), 64):
                            prefetch(line)
                    elif kind == _DELETE:
                        starts[k], ends[k], flags[k], schemas[k] = 0, 0, PLAIN, 0
                    else:
                        flags[k], schemas[k] = MERGED, 0
                        others += 1
                    continue
            if base_count == 0:
                wheres[k], starts[k], ends[k], flags[k], schemas[k] = 0, 0, 0, PLAIN, 0
                continue
            partition = partition_of(hashes[k], base_count)
            value, end, flag = _probe(address, length, hashes[k], table + _HEAD + _ENTRY * partition)
            if value < 0:
                return frames, others, BROKEN, k
            wheres[k], starts[k], ends[k], flags[k] = partition, value, end, flag
            schemas[k] = own_schema if value != 0 else 0
            frames += flag
            for line in range(value, min(end, value + _PREFETCH_BYTES), 64):
                prefetch(line)
    return frames, others, 0, -1


# -- all keys -----------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def list_writes(
    writes: int, partition: int, first_slot: int, since_ms: int, keys_address: int, keys_bytes: int, key_offsets: I64Array
) -> tuple[int, int, int, int, int]:
    """Copy the keys of one partition of the overlay that were written to at or after `since_ms`.

    Args:
        writes: address of the overlay's table. first_slot: where to begin; go on with what is returned.
        keys_address, keys_bytes: where the keys go, one after the other; key_offsets: [room + 1].
    Returns:
        (next slot, keys, status, memory, record): the next slot is -1 after the last one; status is 0, or STALE or DAMAGED at the next
        slot, whose memory and record's address follow. No progress means that one key is larger than the room.
    """
    entry = writes + _OVERLAY_HEAD + _OVERLAY_ENTRY * partition
    slots = load_i64(entry)
    slot_count = load_i64(entry + 8)
    count = 0
    used = 0
    key_offsets[0] = 0
    if slots == 0:
        return -1, 0, 0, 0, 0
    for i in range(first_slot, slot_count):
        slot = load_u64(slots + 8 * i)
        if slot == _ZERO:
            continue
        status, record, end, memory = segment_locate(slot, entry, load_i64(writes), load_i64(writes + 8))
        if status < 0:
            return i, count, status, memory, record
        if status != _PUT:
            continue
        if not sound(record, end):
            return i, count, _DAMAGED, memory, record
        if load_i64(record + 16) < since_ms:
            continue
        length = max(load_i32(record + 24), 0)
        if used + length > keys_bytes or count + 1 == key_offsets.size:
            return i, count, 0, 0, 0
        copy_bytes(keys_address + used, record + _RECORD_BYTES, length)
        used += length
        count += 1
        key_offsets[count] = used
    return -1, count, 0, 0, 0

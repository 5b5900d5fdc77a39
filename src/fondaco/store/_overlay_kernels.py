"""Kernels that read the overlay: what it says of a key, through the index over the log. Tried in tests/store/test_overlay_kernels.py.

All run without the GIL, in any number of threads and processes, while a tailer writes. They take no lock: a slot is one aligned word,
stored after the bytes it leads to; a record is believed only if its checksum and its key match. They take the address of a table that
`OverlayView` made, and never keep it.

    table, int64 words: [0] address of the shared epoch cell, [1] the epoch of this view, [2] partitions (0: nothing was ever written),
                        [3] partitioner (0: XXH64 of the key, 1: Kafka's murmur2), then from word TABLE_WORDS on per partition:
    partition, PARTITION_WORDS words:
        [0] address of the slots (0: no entry yet)      [1] slots       [2] origin: log position from which slots count
        [3] address of the segments                     [4] segments    [5] log position below which everything was deleted
        [6] log position up to which bytes are known to be there        [7] address of the cell that says how far they are now
        [8] address of the side heap                    [9] bytes of it that are known to be there
        [10] address of the cell that says how many there are now       [11] bytes of it that are mapped
        [12] number of its first memory in `OverlayView.memories`: the segments, then the side heap
    segment, SEGMENT_WORDS words: [0] log position of its first byte, [1] its address, [2] bytes that are mapped

Slot: tag (24 bits, of the key's hash) | unit + 1 (39 bits) | heap (1 bit: 0 log, 1 side), 0 = empty; the record lies `unit * 8` bytes after
the origin of the log, or after the beginning of the side heap. Layouts: docs/internals/overlay.md, docs/internals/log-format.md.
"""

# mypy: disable-error-code="no-any-return, return-value, untyped-decorator"
# (numba widens integers as its kernels need, and carries no types)

from __future__ import annotations

import numpy as np
from numba import njit

from fondaco.core.memory import load_i32, load_i64, load_u8, load_u32
from fondaco.core.xxh64 import xxh64
from fondaco.store._atomics import load_acquire
from fondaco.store._kernels import _equal, _equal_packed, _first_slot, _tag, partition_of

# -- kinds of answers ---------------------------------------------------------------------------------------------------------------
NONE = 0  # the overlay says nothing of this key: ask the base
PUT = 1  # start and end of the Avro row
DELETE = 2  # there is no row, whatever the base says
MERGE = 3  # start and end of what `OverlayView.state` makes a State of: a patch in the log, or a state of the side heap
STALE = -1  # the overlay moved on: refresh it and ask again
DAMAGED = -2  # the record is damaged: `OverlayView.broken`

TABLE_WORDS = 8
PARTITION_WORDS = 13
SEGMENT_WORDS = 3

RECORD_BYTES = 40  # header of a log record, and of a record of the side heap
ENVELOPE_BYTES = 24
ENVELOPE_FORMAT = 1
OP_PUT = 1
OP_DELETE = 2
OP_PATCH = 3
OP_HEARTBEAT = 4

_UNIT_MASK = np.uint64((1 << 39) - 1)
_ONE = np.uint64(1)
_ZERO = np.uint64(0)
_LOW32 = np.uint64(0xFFFFFFFF)


# -- which partition ----------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def murmur2(address: int, length: int) -> int:
    """Kafka's hash of keys: MurmurHash2 (Austin Appleby), 32 bits, seed 0x9747b28c, made positive as Kafka does."""
    m = np.uint64(0x5BD1E995)
    hash_ = np.uint64(0x9747B28C) ^ np.uint64(length)
    end = address + length
    while address + 4 <= end:
        k = (np.uint64(load_u32(address)) * m) & _LOW32
        k = ((k ^ (k >> np.uint64(24))) * m) & _LOW32
        hash_ = ((hash_ * m) & _LOW32) ^ k
        address += 4
    rest = end - address
    if rest >= 3:
        hash_ ^= np.uint64(load_u8(address + 2)) << np.uint64(16)
    if rest >= 2:
        hash_ ^= np.uint64(load_u8(address + 1)) << np.uint64(8)
    if rest >= 1:
        hash_ = ((hash_ ^ np.uint64(load_u8(address))) * m) & _LOW32
    hash_ = ((hash_ ^ (hash_ >> np.uint64(13))) * m) & _LOW32
    return np.int64((hash_ ^ (hash_ >> np.uint64(15))) & np.uint64(0x7FFFFFFF))


@njit(nogil=True, cache=True)
def topic_partition(address: int, length: int, hash_: np.uint64, partition_count: int, partitioner: int) -> int:
    """The partition of the topic that holds a key (bytes at `address`, and their XXH64)."""
    if partitioner == 0:
        return partition_of(hash_, partition_count)
    return murmur2(address, length) % partition_count


# -- one slot -----------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def segment_of(segments: int, count: int, position: int) -> int:
    """Number of the segment whose bytes begin at or before `position`; there is one."""
    low = 0
    high = count - 1
    while low < high:
        middle = (low + high + 1) >> 1
        if load_i64(segments + 8 * SEGMENT_WORDS * middle) <= position:
            low = middle
        else:
            high = middle - 1
    return low


@njit(nogil=True, cache=True)
def locate(slot: np.uint64, entry: int, epoch_cell: int, epoch: int) -> tuple[int, int, int, int]:
    """Where the record of a slot lies: (status, its address, address of the end of the bytes that are there, number of its memory).

    status: PUT it lies there; NONE it was deleted from the log; STALE; DAMAGED the slot leads nowhere.
    """
    offset = (np.int64((slot >> _ONE) & _UNIT_MASK) - 1) << 3
    if slot & _ONE != _ZERO:
        there = load_i64(entry + 72)
        heap = load_i64(entry + 64)
        memory = load_i64(entry + 96) + load_i64(entry + 32)
        if offset + RECORD_BYTES > there or offset + load_u32(heap + offset) > there:
            there = load_acquire(load_i64(entry + 80))
            if load_acquire(epoch_cell) != epoch:
                return STALE, 0, 0, 0
            if offset + RECORD_BYTES > there:
                return DAMAGED, 0, 0, memory
            mapped = load_i64(entry + 88)
            if offset + RECORD_BYTES > mapped or offset + load_u32(heap + offset) > mapped:
                return STALE, 0, 0, 0
        return PUT, heap + offset, heap + there, memory
    position = load_i64(entry + 16) + offset
    if position < load_i64(entry + 40):
        return NONE, 0, 0, 0
    there = load_i64(entry + 48)
    count = load_i64(entry + 32)
    segments = load_i64(entry + 24)
    number = segment_of(segments, count, position)
    segment = segments + 8 * SEGMENT_WORDS * number
    inside = position - load_i64(segment)
    address = load_i64(segment + 8) + inside
    mapped = load_i64(segment + 16)
    if position + RECORD_BYTES > there or position + load_u32(address) > there:
        there = load_acquire(load_i64(entry + 56))
        # The cell of how far the bytes go is ahead of every slot. A slot can only lead into a segment that this view does not know if
        # the epoch moved on before the slot was stored.
        if load_acquire(epoch_cell) != epoch:
            return STALE, 0, 0, 0
        if position + RECORD_BYTES > there:
            return DAMAGED, 0, 0, load_i64(entry + 96) + number
    if inside + RECORD_BYTES > mapped or inside + load_u32(address) > mapped:
        if number + 1 == count:
            return STALE, 0, 0, 0  # the last segment grew beyond what was mapped
        return DAMAGED, 0, 0, load_i64(entry + 96) + number
    return PUT, address, load_i64(segment + 8) + min(there - load_i64(segment), mapped), load_i64(entry + 96) + number


@njit(nogil=True, cache=True)
def sound(record: int, end: int) -> bool:
    """Whether a whole record lies at `record`, before `end`, as it was written."""
    length = load_u32(record)
    content = RECORD_BYTES + max(load_i32(record + 24), 0) + max(load_i32(record + 28), 0) + load_u32(record + 32)
    if content > length or record + length > end:
        return False
    return xxh64(record + 8, content - 8) & _LOW32 == np.uint64(load_u32(record + 4))


@njit(nogil=True, cache=True)
def operation(record: int) -> int:
    """The operation of a sound log record; 0 if it is none that this version knows."""
    value_bytes = load_i32(record + 28)
    if value_bytes < 0:
        return OP_DELETE  # a null value: how producers that do not know envelopes delete
    envelope = record + RECORD_BYTES + max(load_i32(record + 24), 0)
    if value_bytes < ENVELOPE_BYTES or load_u8(envelope) != ENVELOPE_FORMAT or load_u8(envelope + 2) | load_u8(envelope + 3) != 0:
        return 0
    op = load_u8(envelope + 1)
    return op if OP_PUT <= op <= OP_HEARTBEAT else 0


@njit(nogil=True, cache=True)
def _answer(slot: np.uint64, record: int, memory: int, since_ms: int) -> tuple[int, int, int, int, int, int]:
    """What a sound record of the right key says."""
    timestamp = load_i64(record + 16)
    if timestamp < since_ms:
        return NONE, 0, 0, 0, 0, 0
    start = record + RECORD_BYTES + load_i32(record + 24)
    end = start + max(load_i32(record + 28), 0)
    if slot & _ONE != _ZERO:
        return MERGE, memory, start, end, 0, timestamp
    op = operation(record)
    if op == OP_PUT:
        return PUT, memory, start + ENVELOPE_BYTES, end, load_u32(start + 4), timestamp
    if op == OP_DELETE:
        return DELETE, memory, start, end, 0, timestamp
    if op == OP_PATCH:
        return MERGE, memory, start, end, load_u32(start + 4), timestamp
    return NONE, 0, 0, 0, 0, 0


# -- one key ------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def find(key: int, length: int, hash_: np.uint64, table: int, since_ms: int) -> tuple[int, int, int, int, int, int]:
    """What the overlay says of a key: (kind, number of the memory, start, end, schema number, timestamp_ms).

    start and end are absolute addresses; for DAMAGED start is the address of the record, or 0. Entries older than `since_ms` are NONE.
    """
    epoch_cell = load_i64(table)
    epoch = load_i64(table + 8)
    if load_acquire(epoch_cell) != epoch:
        return STALE, 0, 0, 0, 0, 0
    partition_count = load_i64(table + 16)
    if partition_count == 0:
        return NONE, 0, 0, 0, 0, 0
    partition = topic_partition(key, length, hash_, partition_count, load_i64(table + 24))
    entry = table + 8 * (TABLE_WORDS + PARTITION_WORDS * partition)
    slots = load_i64(entry)
    if slots == 0:
        return NONE, 0, 0, 0, 0, 0
    slot_count = load_i64(entry + 8)
    tag = _tag(hash_)
    i = _first_slot(hash_, slot_count)
    for _ in range(slot_count):
        slot = np.uint64(load_acquire(slots + 8 * i))
        if slot == _ZERO:
            return NONE, 0, 0, 0, 0, 0
        if slot >> np.uint64(40) == tag:
            status, record, end, memory = locate(slot, entry, epoch_cell, epoch)
            if status < 0:
                return status, memory, record, 0, 0, 0
            if status == PUT:
                # The tag says that it is this key but for one case in 16 million: damage is reported even if it hit the key's own bytes
                if not sound(record, end):
                    return DAMAGED, memory, record, 0, 0, 0
                if load_i32(record + 24) == length and _equal(record + RECORD_BYTES, key, length):
                    return _answer(slot, record, memory, since_ms)
        i += 1
        if i == slot_count:
            i = 0
    return NONE, 0, 0, 0, 0, 0


@njit(nogil=True, cache=True)
def find_packed(
    low: np.uint64, high: np.uint64, count: int, hash_: np.uint64, table: int, since_ms: int
) -> tuple[int, int, int, int, int, int]:
    """As `find`, for a key of at most 10 bytes in two words (`_kernels._pack_long`): it never touches memory."""
    epoch_cell = load_i64(table)
    epoch = load_i64(table + 8)
    if load_acquire(epoch_cell) != epoch:
        return STALE, 0, 0, 0, 0, 0
    partition_count = load_i64(table + 16)
    if partition_count == 0:
        return NONE, 0, 0, 0, 0, 0
    if load_i64(table + 24) == 0:
        partition = partition_of(hash_, partition_count)
    else:
        words = np.array([low, high])
        partition = murmur2(words.ctypes.data, count) % partition_count
    entry = table + 8 * (TABLE_WORDS + PARTITION_WORDS * partition)
    slots = load_i64(entry)
    if slots == 0:
        return NONE, 0, 0, 0, 0, 0
    slot_count = load_i64(entry + 8)
    tag = _tag(hash_)
    i = _first_slot(hash_, slot_count)
    for _ in range(slot_count):
        slot = np.uint64(load_acquire(slots + 8 * i))
        if slot == _ZERO:
            return NONE, 0, 0, 0, 0, 0
        if slot >> np.uint64(40) == tag:
            status, record, end, memory = locate(slot, entry, epoch_cell, epoch)
            if status < 0:
                return status, memory, record, 0, 0, 0
            if status == PUT:
                if not sound(record, end):
                    return DAMAGED, memory, record, 0, 0, 0
                # Keys begin at a multiple of 8 and records end at one, so the words that are compared lie inside the record
                if load_i32(record + 24) == count and _equal_packed(record + RECORD_BYTES, low, high, count):
                    return _answer(slot, record, memory, since_ms)
        i += 1
        if i == slot_count:
            i = 0
    return NONE, 0, 0, 0, 0, 0


@njit(nogil=True, cache=True)
def overlay_probe(key: int, length: int, hash_: np.uint64, table: int, since_ms: int) -> tuple[int, int, int, int, int, int]:
    """As `find`, with start and end counted from the beginning of `OverlayView.memories[number]`."""
    kind, memory, start, end, schema, timestamp = find(key, length, hash_, table, since_ms)
    if kind > 0 or (kind == DAMAGED and start != 0):
        base = memory_address(key, length, hash_, table, memory)
        return kind, memory, start - base, max(end - base, 0), schema, timestamp
    return kind, memory, start, end, schema, timestamp


@njit(nogil=True, cache=True)
def memory_address(key: int, length: int, hash_: np.uint64, table: int, memory: int) -> int:
    """Address at which the memory with this number begins, given the key that was found in it."""
    partition = topic_partition(key, length, hash_, load_i64(table + 16), load_i64(table + 24))
    return memory_base(table + 8 * (TABLE_WORDS + PARTITION_WORDS * partition), memory)


@njit(nogil=True, cache=True)
def memory_base(entry: int, memory: int) -> int:
    """Address at which a memory of the partition with this entry begins."""
    number = memory - load_i64(entry + 96)
    if number == load_i64(entry + 32):
        return load_i64(entry + 64)
    return load_i64(load_i64(entry + 24) + 8 * SEGMENT_WORDS * number + 8)

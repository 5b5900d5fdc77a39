"""Kernels that write the overlay's index: apply log records, assign slots, make the next generation.

Tried in tests/store/test_tailer.py (against a plain merge of all records) and tests/store/test_overlay_kernels.py.

One process at a time runs them on one partition (it holds the tailer's lock), while readers probe. So every slot is one word stored with
release order after everything it leads to, and `applied_*` are stored after the slots. All run without the GIL. They trust nothing that
they read from the log: a record counts only if it is framed and its checksum is right.

`entry` is the address of a partition's words in a table (see `_overlay_kernels`), of the tailer's own view, whose known bytes cover all
that is applied; `cells` the address of the partition's cells, or of words like them while the index is hidden. Layouts:
docs/internals/overlay.md.
"""

# mypy: disable-error-code="no-any-return, return-value, untyped-decorator"
# (numba widens integers as its kernels need, and carries no types)

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from fondaco.core.memory import copy_bytes, load_i32, load_i64, load_u32, store_i32, store_i64
from fondaco.core.xxh64 import xxh64
from fondaco.store import _overlay_cells as cells_of
from fondaco.store._atomics import store_release
from fondaco.store._kernels import _equal, _first_slot, _tag
from fondaco.store._memory import load64
from fondaco.store._overlay_kernels import (
    NONE,
    OP_DELETE,
    OP_HEARTBEAT,
    OP_PATCH,
    OP_PUT,
    PUT,
    RECORD_BYTES,
    SEGMENT_WORDS,
    locate,
    operation,
    segment_of,
    sound,
)  # fmt: skip

I64Array = npt.NDArray[np.int64]
U64Array = npt.NDArray[np.uint64]

BATCH_MAGIC = 0x31424C46  # "FLB1"
BATCH_BYTES = 64
SEGMENT_BYTES = 64

# -- cursor: int64 [CURSOR_WORDS], where a tailer is and what it counted ---------------------------------------------------------------
POSITION = 0  # of the next byte to look at
BATCH_END = 1  # position after the batch it lies in; 0: between batches
APPENDED_MS = 2  # of that batch
BATCH_BEGIN = 3  # where that batch begins, or POSITION between batches
APPLIED = 4  # the next offset
ENTRIES = 5
RECORDS = 6
SKIPPED = 7
DAMAGED = 8
DAMAGED_AT = 9  # position of the last damage
HEARTBEAT_MS = 10
DEFERRED = 11  # rows of `deferred` in use
MOMENTS = 12  # rows of `moments` in use
CURSOR_WORDS = 13

# -- why `apply` returned ---------------------------------------------------------------------------------------------------------------
DONE = 0
INDEX_FULL = 1
PAUSE = 2  # `deferred` or `moments` is full

# -- what `seek` found ------------------------------------------------------------------------------------------------------------------
EMPTY = 0  # a slot that nothing leads from
REUSED = 1  # a slot of a record that was deleted from the log
FOUND = 2
BROKEN = 3  # a damaged record, most likely of this key

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_LOW32 = np.uint64(0xFFFFFFFF)
_UNIT_MASK = np.uint64((1 << 39) - 1)


# -- slots ------------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def slot_of(hash_: np.uint64, offset: int, side: int) -> np.uint64:
    """The slot of a record that lies `offset` bytes after the origin (or in the side heap)."""
    return (_tag(hash_) << np.uint64(40)) | (np.uint64((offset >> 3) + 1) << _ONE) | np.uint64(side)


@njit(nogil=True, cache=True)
def seek(entry: int, epoch_cell: int, epoch: int, key: int, length: int, hash_: np.uint64) -> tuple[int, int, np.uint64, int]:
    """Where a key's slot is, or would be: (what was found, index of the slot, the slot, address of its record)."""
    slots = load_i64(entry)
    slot_count = load_i64(entry + 8)
    tag = _tag(hash_)
    i = _first_slot(hash_, slot_count)
    reuse = -1
    while True:
        slot = load64(slots + 8 * i)
        if slot == _ZERO:
            if reuse >= 0:
                return REUSED, reuse, _ZERO, 0
            return EMPTY, i, _ZERO, 0
        if slot >> np.uint64(40) == tag:
            status, record, end, _ = locate(slot, entry, epoch_cell, epoch)
            if status == NONE:
                if reuse < 0:
                    reuse = i  # not taken before the chain has ended: this key may have a slot further on
            elif status != PUT or not sound(record, end):
                return BROKEN, i, slot, record
            elif load_i32(record + 24) == length and _equal(record + RECORD_BYTES, key, length):
                return FOUND, i, slot, record
        i += 1
        if i == slot_count:
            i = 0


@njit(nogil=True, cache=True)
def _origin(record: int, op_is_null: bool) -> tuple[np.uint64, np.uint64]:
    """(writer, sequence) of a sound record; a null value has none."""
    if op_is_null:
        return _ZERO, _ZERO
    envelope = record + RECORD_BYTES + load_i32(record + 24)
    return load64(envelope + 8), load64(envelope + 16)


@njit(nogil=True, cache=True)
def stamp_order(a: int, b: int) -> int:
    """1, 0 or -1: whether the write in record a has a greater, the same or a smaller stamp than that in record b. No side records."""
    if load_i64(a + 16) != load_i64(b + 16):
        return 1 if load_i64(a + 16) > load_i64(b + 16) else -1
    writer_a, sequence_a = _origin(a, load_i32(a + 28) < 0)
    writer_b, sequence_b = _origin(b, load_i32(b + 28) < 0)
    if writer_a != writer_b:
        return 1 if writer_a > writer_b else -1
    if sequence_a != sequence_b:
        return 1 if sequence_a > sequence_b else -1
    return 0


@njit(nogil=True, cache=True)
def _same_value(a: int, b: int) -> bool:
    """Whether two records of one key have the same value bytes."""
    length = load_i32(a + 28)
    if length != load_i32(b + 28):
        return False
    return _equal(a + RECORD_BYTES + load_i32(a + 24), b + RECORD_BYTES + load_i32(b + 24), max(length, 0))


# -- apply ------------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def _framed(record: int, end: int) -> bool:
    """Whether sizes at `record` describe a record that ends at or before `end`."""
    if record + RECORD_BYTES > end:
        return False
    length = load_u32(record)
    key_bytes = load_i32(record + 24)
    value_bytes = load_i32(record + 28)
    content = RECORD_BYTES + max(key_bytes, 0) + max(value_bytes, 0) + load_u32(record + 32)
    return key_bytes >= -1 and value_bytes >= -1 and content <= length < content + 8 and length & 7 == 0 and record + length <= end


@njit(nogil=True, cache=True)
def _batch_bytes(batch: int, end: int) -> int:
    """Bytes that the header of a batch at `batch` states; 0 if it is no header, or they are too many."""
    if batch + BATCH_BYTES > end or load_u32(batch) != BATCH_MAGIC:
        return 0
    length = load_u32(batch + 4)
    return length if length >= BATCH_BYTES and length & 7 == 0 and batch + length <= end else 0


@njit(nogil=True, cache=True)
def _sound_batch(batch: int, end: int) -> bool:
    """Whether a whole batch lies at `batch`, as it was written."""
    length = _batch_bytes(batch, end)
    return length != 0 and xxh64(batch + 16, length - 16) == load64(batch + 8)


@njit(nogil=True, cache=True)
def _walks(batch: int, length: int) -> bool:
    """Whether the sizes of the records of a batch lead from its header to its end: damage to a size is found before it misleads."""
    end = batch + length
    record = batch + BATCH_BYTES
    count = load_u32(batch + 48)
    while record < end:
        if not _framed(record, end):
            return False
        record += load_u32(record)
        count -= 1
    return count == 0


@njit(nogil=True, cache=True)
def _next_batch(batch: int, end: int) -> int:
    """Address of the next sound batch after a damaged one; `end` if there is none."""
    batch += 8
    while batch + BATCH_BYTES <= end:
        if _sound_batch(batch, end):
            return batch
        batch += 8
    return end


@njit(nogil=True, cache=True)
def _next_record(record: int, end: int) -> int:
    """Address of the next sound record after a damaged one; `end` if there is none."""
    record += 8
    while record + RECORD_BYTES <= end:
        if _framed(record, end) and sound(record, end):
            return record
        record += 8
    return end


@njit(nogil=True, cache=True)
def _publish(cells: int, cursor: I64Array) -> None:
    store_release(cells + 8 * cells_of.APPENDED_MS, cursor[APPENDED_MS])
    store_release(cells + 8 * cells_of.APPLIED_POSITION, cursor[BATCH_BEGIN])
    store_release(cells + 8 * cells_of.APPLIED_OFFSET, cursor[APPLIED])


@njit(nogil=True, cache=True)
def publish(cells: int, cursor: I64Array) -> None:
    """Say that everything before the cursor can be read; after the slots of it were stored."""
    _publish(cells, cursor)


@njit(nogil=True, cache=True)
def apply(
    table: int,
    entry: int,
    cells: int,
    end: int,
    pause_at: int,
    entries_max: int,
    cursor: I64Array,
    deferred: I64Array,
    moments: I64Array,
) -> int:
    """Apply records from the cursor up to log position `end`, which is the end of a batch. Returns DONE, INDEX_FULL or PAUSE.

    Args:
        pause_at: position at or after which to stop between two batches.
        entries_max: entries that the index may hold.
        deferred: int64 [n, 4]; filled with (address, position, hash, bytes) of records that need `merge`: patches, and writes to keys with
            patches. While there are some, nothing is published: the caller does, after it has merged them.
        moments: int64 [m, 2]; filled with (appended_ms, records).
    """
    epoch_cell = load_i64(table)
    epoch = load_i64(table + 8)
    origin = load_i64(entry + 16)
    segments = load_i64(entry + 24)
    count = load_i64(entry + 32)
    slots = load_i64(entry)
    store_release(cells + 8 * cells_of.SEEN_POSITION, end)
    while cursor[POSITION] < end:
        number = segment_of(segments, count, cursor[POSITION])
        segment = segments + 8 * SEGMENT_WORDS * number
        base = load_i64(segment)
        shift = load_i64(segment + 8) - base  # address = position + shift
        segment_end = end
        if number + 1 < count:
            segment_end = min(end, load_i64(segment + 8 * SEGMENT_WORDS))
        if cursor[BATCH_END] == 0:
            if cursor[POSITION] < base + SEGMENT_BYTES:
                cursor[POSITION] = min(base + SEGMENT_BYTES, segment_end)
                cursor[BATCH_BEGIN] = cursor[POSITION]
                continue
            if cursor[MOMENTS] == moments.shape[0] or cursor[POSITION] >= pause_at:
                return PAUSE
            batch = cursor[POSITION] + shift
            length = _batch_bytes(batch, segment_end + shift)
            if length != 0 and load_u32(batch + 52) != 0 and _sound_batch(batch, segment_end + shift):
                cursor[SKIPPED] += load_u32(batch + 48)  # flags of a later format
                cursor[POSITION] += length
                cursor[BATCH_BEGIN] = cursor[POSITION]
                continue
            if length == 0 or load_u32(batch + 52) != 0 or not _walks(batch, length):
                # The header or the size of a record is damaged. Records are looked for up to the next batch that is whole.
                cursor[BATCH_END] = _next_batch(batch, segment_end + shift) - shift
                cursor[DAMAGED] += 1
                cursor[DAMAGED_AT] = cursor[POSITION]
                cursor[POSITION] = min(cursor[POSITION] + BATCH_BYTES, cursor[BATCH_END])
            else:
                cursor[BATCH_END] = cursor[POSITION] + length
                cursor[APPENDED_MS] = load_i64(batch + 32)
                row = cursor[MOMENTS]
                if row > 0 and moments[row - 1, 0] == cursor[APPENDED_MS]:
                    moments[row - 1, 1] += load_u32(batch + 48)
                else:
                    moments[row, 0] = cursor[APPENDED_MS]
                    moments[row, 1] = load_u32(batch + 48)
                    cursor[MOMENTS] = row + 1
                cursor[POSITION] += BATCH_BYTES
        batch_end = cursor[BATCH_END] + shift
        while cursor[POSITION] < cursor[BATCH_END]:
            record = cursor[POSITION] + shift
            if not _framed(record, batch_end):
                cursor[POSITION] = _next_record(record, batch_end) - shift
                continue
            whole = sound(record, batch_end)
            key_bytes = load_i32(record + 24)
            op = operation(record) if whole else 0
            if whole and (op == 0 or op == OP_HEARTBEAT or key_bytes < 0):
                if op == OP_HEARTBEAT:
                    cursor[HEARTBEAT_MS] = max(cursor[HEARTBEAT_MS], load_i64(record + 16))
                else:
                    cursor[SKIPPED] += 1
            elif key_bytes >= 0:
                key = record + RECORD_BYTES
                hash_ = xxh64(key, key_bytes)
                found, i, slot, old = seek(entry, epoch_cell, epoch, key, key_bytes, hash_)
                if found == EMPTY and cursor[ENTRIES] + cursor[DEFERRED] >= entries_max:
                    if cursor[DEFERRED] != 0:
                        return PAUSE  # each of them may need an entry: what they do need is known when they are merged
                    _publish(cells, cursor)
                    return INDEX_FULL
                store = not whole or found != FOUND
                defer = False
                if whole and op == OP_PATCH:
                    store = False
                    defer = True
                elif whole and found == FOUND:
                    if slot & _ONE != _ZERO:
                        defer = True
                    else:
                        old_op = operation(old)
                        if old_op == OP_PATCH:
                            defer = True
                        else:
                            order = stamp_order(record, old)
                            if order > 0 or (order == 0 and op == OP_DELETE):
                                store = True
                            elif order == 0 and old_op == OP_PUT:
                                # Two puts of one stamp: the same again moves to the newer record, which stays longer in the log
                                store = _same_value(record, old)
                                defer = not store
                if defer:
                    row = cursor[DEFERRED]
                    if row == deferred.shape[0]:
                        return PAUSE
                    deferred[row, 0] = record
                    deferred[row, 1] = cursor[POSITION]
                    deferred[row, 2] = np.int64(hash_)
                    deferred[row, 3] = load_u32(record)
                    cursor[DEFERRED] = row + 1
                elif store:
                    store_release(slots + 8 * i, np.int64(slot_of(hash_, cursor[POSITION] - origin, 0)))
                    if found == EMPTY:
                        cursor[ENTRIES] += 1
                if whole:
                    cursor[RECORDS] += 1
                else:
                    cursor[DAMAGED] += 1
                    cursor[DAMAGED_AT] = cursor[POSITION]
            else:
                cursor[DAMAGED] += 1
                cursor[DAMAGED_AT] = cursor[POSITION]
            if whole:
                cursor[APPLIED] = max(cursor[APPLIED], load_i64(record + 8) + 1)
            cursor[POSITION] += load_u32(record)
        cursor[BATCH_END] = 0
        cursor[BATCH_BEGIN] = cursor[POSITION]
        if cursor[DEFERRED] == 0:
            _publish(cells, cursor)
    if cursor[DEFERRED] == 0:
        _publish(cells, cursor)
    return DONE


# -- merged states ----------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def seal_records(address: int, end: int) -> None:
    """Put the checksums into records of the side heap that lie one after the other."""
    while address < end:
        content = RECORD_BYTES + load_i32(address + 24) + load_i32(address + 28)
        store_i32(address + 4, np.int64(xxh64(address + 8, content - 8) & _LOW32))
        address += load_u32(address)


@njit(nogil=True, cache=True)
def assign(table: int, entry: int, keys: I64Array, key_bytes: I64Array, hashes: U64Array, offsets: I64Array, sides: I64Array) -> int:
    """Let the slots of keys (addresses [n], bytes [n], hashes [n]) lead to records that are in place; returns how many are new entries."""
    epoch_cell = load_i64(table)
    epoch = load_i64(table + 8)
    slots = load_i64(entry)
    added = 0
    for k in range(keys.size):
        found, i, _, _ = seek(entry, epoch_cell, epoch, keys[k], key_bytes[k], hashes[k])
        store_release(slots + 8 * i, np.int64(slot_of(hashes[k], offsets[k], sides[k])))
        if found == EMPTY:
            added += 1
    return added


# -- generations ------------------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def count_live(entry: int) -> int:
    """Entries whose record was not deleted from the log."""
    slots = load_i64(entry)
    origin = load_i64(entry + 16)
    low = load_i64(entry + 40)
    live = 0
    for i in range(load_i64(entry + 8)):
        slot = load64(slots + 8 * i)
        if slot != _ZERO and (slot & _ONE != _ZERO or origin + ((np.int64((slot >> _ONE) & _UNIT_MASK) - 1) << 3) >= low):
            live += 1
    return live


@njit(nogil=True, cache=True)
def count_entries(entry: int) -> int:
    """Slots that are not empty."""
    slots = load_i64(entry)
    entries = 0
    for i in range(load_i64(entry + 8)):
        if load64(slots + 8 * i) != _ZERO:
            entries += 1
    return entries


@njit(nogil=True, cache=True)
def rehash(
    table: int,
    entry: int,
    first: int,
    slots: int,
    slot_count: int,
    origin: int,
    horizon_ms: int,
    side_offset: int,
    buffer: int,
    buffer_bytes: int,
) -> tuple[int, int, int]:
    """Enter what is alive in old slots from `first` on into new `slots`, and copy the states among them to a buffer.

    Left out: what was deleted from the log, what is older than `horizon_ms`, what is damaged so that its key is not known. Returns
    (next old slot, entries made, bytes of the buffer used); it stops where a state does not fit into the buffer.

    Args:
        side_offset: where the buffer's first byte will lie in the new side heap.
    """
    epoch_cell = load_i64(table)
    epoch = load_i64(table + 8)
    old_slots = load_i64(entry)
    old_origin = load_i64(entry + 16)
    entries = 0
    used = 0
    for i in range(first, load_i64(entry + 8)):
        slot = load64(old_slots + 8 * i)
        if slot == _ZERO:
            continue
        status, record, end, _ = locate(slot, entry, epoch_cell, epoch)
        if status != PUT or load_i64(record + 16) < horizon_ms or not _framed(record, end):
            continue
        hash_ = xxh64(record + RECORD_BYTES, load_i32(record + 24))
        if _tag(hash_) != slot >> np.uint64(40):
            continue
        side = np.int64(slot & _ONE)
        if side != 0:
            length = load_u32(record)
            if used + length > buffer_bytes:
                return i, entries, used
            copy_bytes(buffer + used, record, length)
            offset = side_offset + used
            used += length
        else:
            offset = old_origin + ((np.int64((slot >> _ONE) & _UNIT_MASK) - 1) << 3) - origin
        j = _first_slot(hash_, slot_count)
        while load64(slots + 8 * j) != _ZERO:
            j += 1
            if j == slot_count:
                j = 0
        store_i64(slots + 8 * j, np.int64(slot_of(hash_, offset, side)))
        entries += 1
    return load_i64(entry + 8), entries, used

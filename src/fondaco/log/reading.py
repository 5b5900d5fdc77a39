"""Reading: records from an offset on, and the first record of a time, for any thread of any process, without a lock.

The cells are taken first, then the file up to what they promise; every batch is checked. Files may be removed or rewritten meanwhile: then
the generation has changed, and the reader begins again. What it has read is a copy and stays. See docs/internals/log-format.md.
"""

from __future__ import annotations

import bisect
import os
import time
from collections.abc import Callable
from itertools import zip_longest
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import CorruptFileError, OffsetOutOfRangeError, StateError, TopicNotFoundError
from fondaco.log import _kernels, state
from fondaco.log.index import Entry, find_before_time, find_offset, greatest_timestamp, names_a_batch, read_index
from fondaco.log.partition import Partition
from fondaco.log.records import LogBatch
from fondaco.log.recovery import damage
from fondaco.log.segments import Segment, address_of, opened, read_at

_ATTEMPTS: Final = 100  # each further one means that the files changed under our hands
_CHUNK_BYTES: Final = 64 << 10  # read at least so much when looking for a place
_CURSORS: Final = 64
_POLL_S: Final = (0.0001, 0.002)  # how soon a waiting reader looks again at first, and at last
_Answer = TypeVar("_Answer")


class Reader:
    """Reads one partition. Any thread."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._cursors: dict[int, tuple[int, int, int]] = {}  # offset -> generation, base offset, byte: where reads ended

    def read(self, offset: int, *, max_bytes: int, wait_s: float) -> LogBatch:
        """See `Log.read`.

        Raises:
            OffsetOutOfRangeError: below the low or above the high watermark. CorruptFileError: the next batch is damaged.
        """
        partition = self._partition
        self._check_range(offset)
        if offset == partition.high and not (wait_s > 0 and self._wait(offset, wait_s)):
            return LogBatch.empty(partition.topic, partition.number, offset)
        return self._steady(lambda: self._read(offset, max(max_bytes, 1)))

    def offset_for_time(self, timestamp_ms: int) -> int | None:
        """See `Log.offset_for_time`."""
        return self._steady(lambda: self._offset_for_time(timestamp_ms))

    # -- private -------------------------------------------------------------------------------------------------------------------------

    def _check_range(self, offset: int) -> None:
        partition = self._partition
        low, high = partition.low, partition.high
        if not low <= offset <= high:
            raise OffsetOutOfRangeError(partition.topic, partition.number, offset, low, high)

    def _wait(self, offset: int, seconds: float) -> bool:
        """Wait until there is a record at or after `offset`; False: there is none yet. Looks ever more rarely, up to 500 times a second."""
        deadline = time.monotonic() + seconds
        pause, longest = _POLL_S
        while (cells := self._partition.cells)[state.HIGH_OFFSET] <= offset:
            if self._partition.look_again():
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if cells[state.DELETED]:
                raise TopicNotFoundError(self._partition.topic)
            if self._partition.closed:
                raise StateError("the log was closed while a reader waited for records")
            time.sleep(min(pause, left))
            pause = min(pause * 1.2, longest)
        return True

    def _steady(self, answer: Callable[[], _Answer]) -> _Answer:
        """The answer from files that did not change meanwhile."""
        partition = self._partition
        for _ in range(_ATTEMPTS):
            stamp = partition.stamp()
            try:
                found = answer()
                if partition.cells[state.GENERATION] == stamp[0]:
                    return found
            except (FileNotFoundError, CorruptFileError):
                if partition.stamp() == stamp:
                    raise
        raise CorruptFileError(str(partition.directory), "segments", "its files change faster than they can be read")

    def _read(self, offset: int, max_bytes: int) -> LogBatch:
        partition = self._partition
        self._check_range(offset)
        generation, high = partition.cells[state.GENERATION], partition.high
        segments = partition.segments()
        at = max(bisect.bisect_right(segments, offset, key=lambda segment: segment.base_offset) - 1, 0)
        cursor = self._cursors.get(offset)
        for segment, after in zip_longest(segments[at:], segments[at + 1 :]):
            with opened(segment.path) as descriptor:
                end = self._end(segment, after, descriptor)
                if cursor is not None and not generation & 1 and cursor[:2] == (generation, segment.base_offset):
                    byte = cursor[2]
                else:
                    byte = _start(descriptor, end, find_offset(read_index(segment.index_path), offset))
                while byte < end:
                    byte, data = _chunk(segment, descriptor, byte, end, offset, max_bytes)
                    if not len(data):
                        break
                    batch, byte = self._parse(segment, data, byte, offset, max_bytes)
                    if len(batch):
                        self._remember(batch.next_offset, (generation, segment.base_offset, byte))
                        return batch
        return LogBatch.empty(partition.topic, partition.number, max(high, offset))  # what was there has been compacted away

    def _parse(
        self, segment: Segment, data: npt.NDArray[np.uint8], byte: int, offset: int, max_bytes: int
    ) -> tuple[LogBatch, int]:  # fmt: skip
        """Records from `offset` on of the whole batches in `data`, which begins at `byte`; and the byte after them."""
        found = np.array([0, 0, -1, 0, 0], np.int64)
        status = int(_kernels.check(address_of(data), len(data), max_bytes, found))
        used, records = int(found[0]), int(found[1])
        if used == 0:
            raise damage(segment.path, byte, status)
        columns = np.empty((_kernels.COLUMNS, records), np.int64)
        count = _kernels.parse(address_of(data), used, max(offset, self._partition.low), columns)
        columns = columns[:, :count]
        batch = LogBatch(
            self._partition.topic, self._partition.number, int(found[2]) + 1, data=data,
            offsets=columns[0], timestamps_ms=columns[1], appended_ms=columns[2], key_starts=columns[3], key_lengths=columns[4],
            value_starts=columns[5], value_lengths=columns[6], header_starts=columns[7], header_lengths=columns[8],
        )  # fmt: skip
        return batch, byte + used

    def _end(self, segment: Segment, after: Segment | None, descriptor: int) -> int:
        """Where the committed bytes of a segment end. The cell is looked at first: what it promises is in the file by then."""
        promised = self._partition.cells[state.HIGH_POSITION] if after is None else after.base_position
        return int(min(os.fstat(descriptor).st_size, promised - segment.base_position))

    def _remember(self, offset: int, cursor: tuple[int, int, int]) -> None:
        while len(self._cursors) >= _CURSORS:
            self._cursors.pop(next(iter(self._cursors), 0), None)
        self._cursors[offset] = cursor

    def _offset_for_time(self, timestamp_ms: int) -> int | None:
        partition = self._partition
        segments = partition.segments()
        for segment, after in zip_longest(segments, segments[1:]):
            with opened(segment.path) as descriptor:
                end = self._end(segment, after, descriptor)
                if after is not None:
                    greatest = greatest_timestamp(segment.index_path, end)
                    if greatest is not None and greatest < timestamp_ms:
                        continue
                byte = _start(descriptor, end, find_before_time(read_index(segment.index_path), timestamp_ms))
                while byte < end:
                    byte, data = _chunk(segment, descriptor, byte, end, partition.low, 1 << 20)
                    found = np.array([0, 0, -1, 0, 0], np.int64)
                    status = int(_kernels.check(address_of(data), len(data), len(data), found))
                    if found[0] == 0 and len(data):
                        raise damage(segment.path, byte, status)
                    offset = int(_kernels.find_time(address_of(data), int(found[0]), partition.low, timestamp_ms))
                    if offset >= 0:
                        return offset
                    byte += int(found[0])
        return None


def _start(descriptor: int, end: int, entry: Entry | None) -> int:
    """The byte to begin at: where the index says, if a batch is there."""
    return entry.byte if entry is not None and names_a_batch(descriptor, entry, end) else _kernels.SEGMENT_HEADER_BYTES


def _chunk(
    segment: Segment, descriptor: int, byte: int, end: int, offset: int, max_bytes: int
) -> tuple[int, npt.NDArray[np.uint8]]:  # fmt: skip
    """The byte of the first batch from `byte` on that ends at or after `offset`, and bytes from there: this batch whole, and about
    `max_bytes`. No bytes: there is none before `end`.

    Raises:
        CorruptFileError: no batch begins where one should, or it is longer than the file.
    """
    while byte < end:
        data = read_at(descriptor, min(max(max_bytes, _CHUNK_BYTES), end - byte), byte)
        skipped = int(_kernels.seek(address_of(data), len(data), offset))
        if skipped < 0:
            raise damage(segment.path, byte - 1 - skipped, _kernels.NOT_A_BATCH)
        byte += skipped
        if skipped >= len(data):
            continue
        data = data[skipped:]
        if len(data) < _kernels.BATCH_HEADER_BYTES:
            if byte + len(data) >= end:
                raise damage(segment.path, byte, _kernels.SHORT)
            continue
        size = int.from_bytes(data[4:8].tobytes(), "little")
        if byte + size > end:
            raise damage(segment.path, byte, _kernels.SHORT)
        if size > len(data):
            data = read_at(descriptor, size, byte)
        return byte, data
    if byte > end:
        raise damage(segment.path, end, _kernels.SHORT)
    return byte, np.empty(0, np.uint8)

"""Retention: giving up the oldest records, by offset, by age, by size.

The watermark goes first and is synced, files go after it: a crash between leaves files that no longer count, which the next removal or
recovery takes away. Whoever has a file open reads on in it. Under the partition's lock.
"""

from __future__ import annotations

from itertools import pairwise

from fondaco.core.errors import DiskFullError, OffsetOutOfRangeError
from fondaco.log import state
from fondaco.log._kernels import SEGMENT_HEADER_BYTES
from fondaco.log.index import greatest_timestamp
from fondaco.log.partition import Partition
from fondaco.log.recovery import sound_batches
from fondaco.log.segments import Segment, base_offsets, remove_segment, segment_path


def delete_before(partition: Partition, offset: int) -> int:
    """See `Log.delete_before`."""
    with partition.locked():
        low, high = partition.low, partition.high
        if offset > high or offset < 0:
            raise OffsetOutOfRangeError(partition.topic, partition.number, offset, low, high)
        if offset > low:
            if offset == high and _active_holds_records(partition):
                _begin_segment(partition, partition.clock.now_us() // 1000)
            segments = partition.segments()
            gone = sum(after.base_offset <= offset for after in segments[1:])
            _give_up(partition, offset, segments, gone)
        return partition.low


def enforce(partition: Partition, now_ms: int) -> None:
    """Apply the topic's retention; the active segment is closed if it is past it too."""
    config = partition.config
    if config.retention_ms is None and config.retention_bytes is None:
        return
    with partition.locked():
        newest_ms = partition.cells[state.SEGMENT_TIMESTAMP_MAX]
        if config.retention_ms is not None and _active_holds_records(partition) and newest_ms < now_ms - config.retention_ms:
            _begin_segment(partition, now_ms)
        expire(partition, now_ms)


def expire(partition: Partition, now_ms: int) -> None:
    """Remove closed segments that the topic's retention gives up; the lock is held."""
    config = partition.config
    if config.retention_ms is None and config.retention_bytes is None:
        return
    segments = partition.segments()
    total = partition.cells[state.HIGH_POSITION] - segments[0].base_position if segments else 0
    gone = 0
    for segment, after in pairwise(segments):
        too_old = config.retention_ms is not None and _greatest_timestamp(segment) < now_ms - config.retention_ms
        total -= after.base_position - segment.base_position
        too_much = config.retention_bytes is not None and total >= config.retention_bytes
        if not (too_old or too_much):
            break
        gone += 1
    if gone:
        _give_up(partition, max(segments[gone].base_offset, partition.low), segments, gone)


def _give_up(partition: Partition, low: int, segments: list[Segment], gone: int) -> None:
    """Raise the low watermark, then remove the first `gone` segments."""
    cells = partition.cells
    cells[state.LOW_OFFSET] = low
    if gone:
        cells[state.FIRST_BASE] = segments[gone].base_offset
        cells[state.GENERATION] += 2
    partition.sync_state()
    if gone:
        for base in base_offsets(partition.directory):
            if base < cells[state.FIRST_BASE]:
                remove_segment(segment_path(partition.directory, base))


def _begin_segment(partition: Partition, now_ms: int) -> None:
    """Close the active segment, so that it can be removed; without space for another file it stays until there is."""
    try:
        with partition.changing():
            partition.begin_segment(now_ms)
    except DiskFullError:
        partition.cells[state.WRITING] = 0


def _active_holds_records(partition: Partition) -> bool:
    cells = partition.cells
    return bool(cells[state.ACTIVE_BASE] >= 0 and cells[state.HIGH_POSITION] - partition.active()[1] > SEGMENT_HEADER_BYTES)


def _greatest_timestamp(segment: Segment) -> int:
    known = greatest_timestamp(segment.index_path, segment.path.stat().st_size)
    return sound_batches(segment.path).timestamp_max if known is None else known

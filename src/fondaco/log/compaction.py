"""Compaction: of each key only the newest record stays. Closed segments are read, and written again without the others.

Appends and reads go on; only the exchange of files takes the partition's lock. A rename makes the new file count and the old ones dead in
one step, so a crash at any moment leaves the old state or the new one. One compactor a partition (compact.lock). Docs: log-format.md.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import InputError, ReadOnlyError
from fondaco.core.files import FileLock, os_errors, sync_directory
from fondaco.log import _kernels, state
from fondaco.log._kernels import OK, SEGMENT_HEADER_BYTES
from fondaco.log.index import IndexBuilder
from fondaco.log.partition import Partition
from fondaco.log.recovery import damage
from fondaco.log.segments import Segment, address_of, bytes_of, opened, pack_header, remove_segment, write_at

COMPACTING: Final = ".compacting"  # ending of a file that does not count yet
_SLOTS_MIN: Final = 1 << 12
_HEAD: Final = np.dtype(
    [
        ("magic", "<u4"), ("bytes", "<u4"), ("checksum", "<u8"), ("base_offset", "<i8"), ("last_offset", "<i8"), ("appended_ms", "<i8"),
        ("timestamp_max", "<i8"), ("count", "<u4"), ("flags", "<u4"), ("zero", "<u8"),
    ]
)  # fmt: skip


def compact(partition: Partition) -> None:
    """See `Log.compact`.

    Raises:
        InputError: the topic's cleanup is not "compact". LockedError: another process is at it. CorruptFileError: a segment is damaged.
        DiskFullError: nothing was changed, or some segments were compacted and others not.
    """
    if partition.config.cleanup != "compact":
        raise InputError(f'topic {partition.topic!r} is not compacted; create it with TopicConfig(cleanup="compact")')
    if not partition.writable:
        raise ReadOnlyError(str(partition.directory))
    with FileLock(partition.directory / "compact.lock"):
        _remove_debris(partition.directory)
        now_ms = partition.clock.now_us() // 1000
        with partition.locked(), partition.changing():
            if partition.cells[state.ACTIVE_BASE] >= 0:
                partition.begin_segment(max(now_ms, partition.cells[state.APPENDED_MS]))
        active = partition.cells[state.ACTIVE_BASE]
        closed = [segment for segment in partition.segments() if segment.base_offset < active]
        mapped = [(segment, _mapped_batches(segment)) for segment in closed]
        slots = _newest([data for _, data in mapped])
        for group in _groups(partition, mapped, slots, now_ms - partition.config.tombstone_ms):
            _exchange(partition, group)


class _Group:
    """Neighbouring segments that become one file, and what it will hold."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.parts: list[npt.NDArray[np.uint8]] = []
        self.bytes = SEGMENT_HEADER_BYTES
        self.dropped = 0

    def add(self, segment: Segment, data: npt.NDArray[np.uint8], dropped: int) -> None:
        self.segments.append(segment)
        self.parts.append(data)
        self.bytes += len(data)
        self.dropped += dropped

    @property
    def changes(self) -> bool:
        """Whether the new file would differ from the old ones."""
        return self.dropped > 0 or len(self.segments) > 1


def _mapped_batches(segment: Segment) -> npt.NDArray[np.uint8]:
    """The batches of a closed segment, checked; mapped as long as the array lives."""
    with open(segment.path, "rb") as file:
        data = bytes_of(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[SEGMENT_HEADER_BYTES:]
    found = np.array([0, 0, -1, 0, 0], np.int64)
    status = int(_kernels.check(address_of(data), len(data), len(data), found)) if len(data) else OK
    if status != OK:
        raise damage(segment.path, SEGMENT_HEADER_BYTES + int(found[0]), status)
    return data


def _newest(parts: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int64]:
    """The table of the newest record of each key. Grows with the keys, not with the records."""
    slots = np.zeros(_SLOTS_MIN, np.int64)
    progress = np.zeros(2, np.int64)
    for data in parts:
        at = 0
        while at < len(data):
            _kernels.note_newest(address_of(data), len(data), at, slots, int(progress[1]), progress)
            at = int(progress[0])
            if at < len(data):
                larger = np.zeros(2 * len(slots), np.int64)
                _kernels.rehash(slots, larger)
                slots = larger
    return slots


def _groups(
    partition: Partition, mapped: Sequence[tuple[Segment, npt.NDArray[np.uint8]]], slots: npt.NDArray[np.int64], tombstones_from_ms: int
) -> Iterator[_Group]:  # fmt: skip
    """Segments with what stays of them, neighbours together while they fit into one file."""
    group = _Group()
    counts = np.zeros(2, np.int64)
    for segment, data in mapped:
        out = np.empty(len(data), np.uint8)
        size = int(_kernels.copy_newest(address_of(data), len(data), slots, partition.low, tombstones_from_ms, address_of(out), counts))
        kept = out[:size].copy() if size < len(out) else out
        if group.segments and group.bytes + size > partition.config.segment_bytes:
            yield group
            group = _Group()
        group.add(segment, kept, int(counts[0] - counts[1]))
    if group.segments:
        yield group


def _exchange(partition: Partition, group: _Group) -> None:
    """Put one new file in the place of a group's segments."""
    if not group.changes:
        return
    first, last = group.segments[0], group.segments[-1]
    temporary = first.path.with_suffix(COMPACTING)
    data = np.concatenate(group.parts) if len(group.parts) > 1 else group.parts[0]
    covers = last.base_offset + 1
    with os_errors(temporary):
        try:
            with opened(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as descriptor:
                write_at(descriptor, pack_header(first.base_offset, first.base_position, first.created_ms, covers_offset=covers), 0)
                write_at(descriptor, data.data, SEGMENT_HEADER_BYTES)
                os.fsync(descriptor)
            with partition.locked():
                _put_in_place(partition, group, temporary)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    _write_index(first, data, next_offset=covers)


def _put_in_place(partition: Partition, group: _Group, temporary: Path) -> None:
    cells = partition.cells
    first = group.segments[0]
    if first.base_offset < cells[state.FIRST_BASE]:  # retention was quicker
        temporary.unlink()
        return
    with partition.changing():
        cells[state.GENERATION] += 1  # odd: a reader that opened the file meanwhile does not trust what it knew of the other one
        first.index_path.unlink(missing_ok=True)
        os.replace(temporary, first.path)
        sync_directory(partition.directory)
        cells[state.GENERATION] += 1
    partition.sync_state()
    for segment in group.segments[1:]:
        remove_segment(segment.path)


def _write_index(segment: Segment, data: npt.NDArray[np.uint8], *, next_offset: int) -> None:
    """The index of a rewritten segment. Without it reading only takes longer."""
    builder = IndexBuilder()
    at = 0
    while at < len(data):
        head = np.frombuffer(data, _HEAD, 1, at)[0]
        builder.add(int(head["base_offset"]), SEGMENT_HEADER_BYTES + at, int(head["timestamp_max"]))
        at += int(head["bytes"])
    builder.close(next_offset, SEGMENT_HEADER_BYTES + at)
    with contextlib.suppress(OSError), opened(segment.index_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as descriptor:
        write_at(descriptor, builder.packed(), 0)


def _remove_debris(directory: Path) -> None:
    """Files of a compaction that did not come to its end."""
    for name in os.listdir(directory):
        if name.endswith(COMPACTING):
            (directory / name).unlink(missing_ok=True)

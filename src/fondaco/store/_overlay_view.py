"""Views: what one process knows of the overlay's files at one epoch, as the table that kernels read. Layout of it: `_overlay_kernels`.

A view never changes. Whoever asks a kernel with its table holds the view meanwhile, and whatever the answer leads to lies in its
`memories`: that is what keeps files mapped, so nothing is ever unmapped under a reader. When the epoch has moved on the kernels say STALE,
and `Overlay` makes the next view, which shares every map that is still good. Any thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import CorruptFileError, DecodeError
from fondaco.log.segments import base_offsets, read_header, segment_path
from fondaco.log.view import SegmentFile
from fondaco.store import _overlay_cells as cells_of
from fondaco.store import _overlay_kernels as kernels
from fondaco.store._overlay_cells import Cells
from fondaco.store._overlay_files import SIDE_BYTES, IndexFiles, grown_side, open_files, side_name
from fondaco.store._overlay_maps import GrowingMap
from fondaco.store.basefile import address_of

if TYPE_CHECKING:
    from fondaco.store.merge import State

_NOWHERE: Final = 1 << 62  # no log position is as great: without segments every record counts as deleted
SEGMENT_RESERVE_BYTES: Final = 80 << 20  # a segment of the default size, and a batch more


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of the log, mapped: `mapped` bytes from log position `base_position` on."""

    path: Path
    base_position: int
    mapped: int
    map: GrowingMap


@dataclass(frozen=True, slots=True)
class PartitionFiles:
    """What is mapped of a partition; `index` is None while there is none to trust. `known`: log position before which bytes are there."""

    partition: int
    index: IndexFiles | None = None
    segments: tuple[Segment, ...] = ()
    known: int = 0


class OverlayView:
    """One view. `table` is the address that kernels take; memory number i of their answers is `memories[i]`, at address `bases[i]`."""

    __slots__ = ("_files", "bases", "cells", "epoch", "is_empty", "memories", "partition_count", "partitions", "table", "words")

    def __init__(self, directory: Path, cells: Cells | None, epoch: int, partitioner: int, partitions: Sequence[PartitionFiles]) -> None:
        self.cells, self.epoch = cells, epoch
        self.partitions = tuple(partitions)
        self.partition_count = len(partitions)
        self.is_empty = all(files.index is None for files in partitions)
        self.words, memories = _table(directory, cells, epoch, partitioner, partitions)
        self.table = address_of(self.words)
        self.memories = tuple(map_.memory for map_, _, _ in memories)
        self.bases = tuple(map_.address for map_, _, _ in memories)
        self._files = tuple((path, section) for _, path, section in memories)

    def state(self, memory: int, start: int, end: int, timestamp_ms: int) -> State:
        """The state that an answer of kind MERGE, PUT or DELETE leads to; positions in `memories[memory]`, as from `overlay_probe`.

        Args:
            timestamp_ms: as the kernel answered.
        Raises:
            CorruptFileError: the bytes are no state although their checksum is right.
        """
        return self.state_at(memory, self.bases[memory] + start, self.bases[memory] + end, timestamp_ms)

    def state_at(self, memory: int, start: int, end: int, timestamp_ms: int, *, kind: int = kernels.MERGE) -> State:
        """As `state`, from absolute addresses, as from `find`."""
        from fondaco.store import merge, writes

        try:
            if kind == kernels.MERGE and self._files[memory][1] == "state":
                return merge.decode_state(ctypes.string_at(start, end - start))
            if kind == kernels.PUT:
                start -= kernels.ENVELOPE_BYTES
            value = ctypes.string_at(start, end - start) if end > start else None
            return merge.state_of(writes.decode_write(value, timestamp_ms))
        except DecodeError as exc:
            path, section, position = self._place(memory, start)
            raise CorruptFileError(str(path), section, f"byte {position}: {exc}") from exc

    def broken(self, memory: int, start: int) -> CorruptFileError:
        """The error for an answer of kind DAMAGED; `start` as from `overlay_probe` (0: the slot leads nowhere)."""
        path, section, position = self._place(memory, self.bases[memory] + start)
        if start == 0:
            return CorruptFileError(str(path), section, "the index leads to bytes that are not there")
        return CorruptFileError(str(path), section, f"the record at byte {position} has a wrong checksum")

    def _place(self, memory: int, address: int) -> tuple[Path, str, int]:
        path, section = self._files[memory]
        return path, section, address - self.bases[memory]


def _table(
    directory: Path, cells: Cells | None, epoch: int, partitioner: int, partitions: Sequence[PartitionFiles]
) -> tuple[npt.NDArray[np.int64], list[tuple[GrowingMap, Path, str]]]:
    """The words of a table, and its memories: map, path, what lies there."""
    memories: list[tuple[GrowingMap, Path, str]] = []
    place = kernels.TABLE_WORDS + kernels.PARTITION_WORDS * len(partitions)
    words = np.zeros(place + kernels.SEGMENT_WORDS * sum(len(files.segments) for files in partitions) + 1, np.int64)
    address = address_of(words)
    # Without cells nobody ever wrote, and the last word of the table, which is 0 as the epoch is, stands for the cell
    words[:4] = cells.address + 8 * cells_of.EPOCH if cells else address + 8 * (len(words) - 1), epoch, len(partitions), partitioner
    for number, files in enumerate(partitions):
        index, partition = files.index, files.partition
        if index is None or cells is None:
            continue
        entry = kernels.TABLE_WORDS + kernels.PARTITION_WORDS * number
        low = files.segments[0].base_position if files.segments else _NOWHERE
        side = index.side.address, index.side_bytes, index.index.address + 8 * SIDE_BYTES, index.side.bytes
        log = files.known, cells.partition_address(partition, cells_of.SEEN_POSITION)
        words[entry : entry + 13] = (
            index.slots_address, index.slot_count, index.origin, address + 8 * place, len(files.segments), low, *log, *side, len(memories),
        )  # fmt: skip
        for segment in files.segments:
            words[place : place + kernels.SEGMENT_WORDS] = segment.base_position, segment.map.address, segment.mapped
            place += kernels.SEGMENT_WORDS
            memories.append((segment.map, segment.path, "record"))
        memories.append((index.side, directory / side_name(index.generation, partition), "state"))
    return words, memories


# -- making one -----------------------------------------------------------------------------------------------------------------------


def list_segments(directory: Path, first_base: int, active_base: int) -> list[SegmentFile]:
    """The segments of a partition's directory, oldest first. One whose header is damaged lies where the segment before it ends.

    Args:
        first_base, active_base: base offsets of the first and the last that count.
    Raises:
        FileNotFoundError: one was removed meanwhile: list them again.
    """
    found: list[SegmentFile] = []
    for base_offset in base_offsets(directory):
        if not first_base <= base_offset <= active_base:
            continue
        path = segment_path(directory, base_offset)
        try:
            found.append(SegmentFile(base_offset, read_header(path).base_position, path))
        except CorruptFileError:
            if found:
                found.append(SegmentFile(base_offset, found[-1].base_position + found[-1].path.stat().st_size, path))
    return found


def map_segments(files: Sequence[SegmentFile], before: Sequence[Segment], known: int) -> tuple[Segment, ...]:
    """Map the segments of a partition, with the maps that are there already where they are good.

    Args:
        known: log position up to which the last segment must be mapped.
    Raises:
        FileNotFoundError: one was removed meanwhile: list them again.
    """
    mapped = {(segment.path, segment.base_position): segment for segment in before}
    segments = []
    for number, file in enumerate(files):
        last = number + 1 == len(files)
        length = (known if last else files[number + 1].base_position) - file.base_position
        status = file.path.stat()
        old = mapped.get((file.path, file.base_position))
        if old is not None and old.map.bytes >= length and (status.st_dev, status.st_ino) == old.map.identity:
            map_ = old.map
        else:
            map_ = GrowingMap(file.path, reserve_bytes=max(SEGMENT_RESERVE_BYTES, 2 * status.st_size) if last else length)
        segments.append(Segment(file.path, file.base_position, map_.bytes if last else min(length, status.st_size), map_))
    return tuple(segments)


def open_partition(directory: Path, partition: int, generation: int, before: PartitionFiles | None) -> IndexFiles | None:
    """The index and side heap of a generation, from before if they are the same.

    Raises:
        FileNotFoundError: another generation took its place meanwhile.
    """
    if generation == 0:
        return None
    if before is not None and before.index is not None and before.index.generation == generation:
        return grown_side(before.index, directory)
    return open_files(directory, generation, partition)

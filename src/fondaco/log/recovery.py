"""Recovery: cells that agree with the files again, after a process died, the machine restarted, or somebody cut a file off.

With `repair`, which needs the partition's lock, torn tails are cut off and dead files removed; without it only cells are computed, for a
process that may not write. What is trusted, and what counts as a torn tail: docs/internals/log-format.md, "Recovery".
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import CorruptFileError
from fondaco.core.files import sync_directory
from fondaco.log import state
from fondaco.log._kernels import BATCH_HEADER_BYTES, NO_TIMESTAMP, OK, REASONS, SEGMENT_HEADER_BYTES, SHORT, check, find_sound
from fondaco.log.index import ENTRY_BYTES, SPACING_BYTES, read_index, sound_entry
from fondaco.log.segments import (
    Segment,
    address_of,
    base_offsets,
    opened,
    read_at,
    read_header,
    readable_segments,
    remove_segment,
    segment_path,
)

_log = logging.getLogger("fondaco.log")
_CHUNK_BYTES: Final = 4 << 20


@dataclass(slots=True)
class Sound:
    """Whole, sound batches of a segment from some byte up to `end`; what follows there has `status` (OK: nothing does)."""

    end: int
    status: int = OK
    last_offset: int = -1  # -1: there is no batch
    appended_ms: int = 0
    timestamp_max: int = NO_TIMESTAMP


def is_current(cells: memoryview) -> bool:
    """Whether the cells are ours and were written since the machine started."""
    ours = cells[state.MAGIC] == state.STATE_MAGIC and cells[state.FORMAT] == state.STATE_FORMAT
    return bool(ours and cells[state.BOOT] == state.boot_id())


def is_whole(directory: Path, cells: memoryview) -> bool:
    """Whether the active segment is as long as the cells promise (it may be longer)."""
    base = cells[state.ACTIVE_BASE]
    if base < 0:
        return True
    path = segment_path(directory, base)
    try:
        return path.stat().st_size >= max(cells[state.HIGH_POSITION] - read_header(path).base_position, SEGMENT_HEADER_BYTES)
    except (FileNotFoundError, CorruptFileError):
        return False


def recover(directory: Path, cells: memoryview, *, repair: bool) -> None:
    """Bring `cells` in line with the segments in `directory`.

    Raises:
        CorruptFileError: what was promised to be there is damaged.
    """
    if is_current(cells):
        if cells[state.PENDING_POSITION] == cells[state.HIGH_POSITION]:
            cells[state.HIGH_OFFSET] = cells[state.PENDING_OFFSET]  # it died between the two stores that publish
        if is_whole(directory, cells):
            _drop_unpublished(directory, cells, repair=repair)
        else:
            _rescan(directory, cells, cells[state.HIGH_POSITION], from_begin=True, repair=repair)
    elif cells[state.MAGIC] == state.STATE_MAGIC and cells[state.FORMAT] == state.STATE_FORMAT:
        _rescan(directory, cells, cells[state.SYNCED_POSITION], from_begin=False, repair=repair)
    else:
        _clear(cells)
        _rescan(directory, cells, None, from_begin=True, repair=repair)
    cells[state.GENERATION] += cells[state.GENERATION] & 1
    if repair:
        cells[state.PENDING_POSITION] = -1
        cells[state.RESERVED_POSITION] = 0
        cells[state.WRITING] = 0
        cells[state.FORMAT] = state.STATE_FORMAT
        cells[state.BOOT] = state.boot_id()
        cells[state.MAGIC] = state.STATE_MAGIC


def sound_batches(path: Path, start: int = SEGMENT_HEADER_BYTES, end: int | None = None) -> Sound:
    """Check the batches of a segment from byte `start` on, up to byte `end` (None: all that is there)."""
    found = np.array([0, 0, -1, 0, NO_TIMESTAMP], np.int64)
    result = Sound(start)
    with opened(path) as descriptor:
        end = os.fstat(descriptor).st_size if end is None else end
        size = _CHUNK_BYTES
        while result.end < end:
            data = read_at(descriptor, min(size, end - result.end), result.end)
            result.status = check(address_of(data), len(data), len(data), found)
            done = int(found[0])
            result.end += done
            if result.status == OK:
                continue
            size = max(_CHUNK_BYTES, _claimed_bytes(data[done:]))
            if result.status != SHORT or result.end + min(size, end - result.end) <= result.end - done + len(data):
                break  # damaged; or the file has no more bytes than these
    result.last_offset, result.appended_ms, result.timestamp_max = (int(value) for value in found[2:5])
    return result


def damage(path: Path, byte: int, status: int) -> CorruptFileError:
    """The error that names a batch."""
    return CorruptFileError(str(path), f"batch at byte {byte}", REASONS[status])


# -- steps ------------------------------------------------------------------------------------------------------------------------------


def _clear(cells: memoryview) -> None:
    for cell in range(state.CELLS):
        cells[cell] = 0
    cells[state.ACTIVE_BASE] = cells[state.FIRST_BASE] = cells[state.PENDING_POSITION] = -1
    cells[state.SEGMENT_TIMESTAMP_MAX] = NO_TIMESTAMP


def _drop_unpublished(directory: Path, cells: memoryview, *, repair: bool) -> None:
    """A process died here: everything published is whole, and what lies behind it was not acknowledged."""
    active = cells[state.ACTIVE_BASE]
    if active >= 0:
        path = segment_path(directory, active)
        base_position = read_header(path).base_position
        if cells[state.HIGH_POSITION] < base_position + SEGMENT_HEADER_BYTES:  # it died between the two stores that begin a segment
            cells[state.HIGH_POSITION] = base_position + SEGMENT_HEADER_BYTES
            cells[state.SEGMENT_TIMESTAMP_MAX], cells[state.INDEX_ENTRIES] = NO_TIMESTAMP, 0
        end = cells[state.HIGH_POSITION] - base_position
        _take_index(path.with_suffix(".index"), cells, end, repair=repair)
        if repair and path.stat().st_size != end:
            os.truncate(path, end)
    if repair:
        for base in base_offsets(directory):
            if base > active:
                remove_segment(segment_path(directory, base))
        _, dead, _ = readable_segments(directory, cells[state.FIRST_BASE])
        for path in dead:
            remove_segment(path)


def _rescan(directory: Path, cells: memoryview, promised: int | None, *, from_begin: bool, repair: bool) -> None:
    """Find the committed end by checking batches, from the promised position on or (`from_begin`) from the begin of its segment.

    `promised`: None if nothing is known. Where the sound batches end, everything ends.
    """
    segments, dead, unreadable = readable_segments(directory, max(cells[state.FIRST_BASE], 0))
    if unreadable is not None:
        _refuse_if_promised(directory, segments, unreadable, promised)
    if not segments:
        _take_nothing(directory, cells, promised, repair=repair)
        return
    at = 0 if promised is None else max((i for i, segment in enumerate(segments) if segment.base_position <= promised), default=0)
    start = SEGMENT_HEADER_BYTES
    if not from_begin and promised is not None:
        start = max(promised - segments[at].base_position, start)
        start = start if start <= segments[at].path.stat().st_size else SEGMENT_HEADER_BYTES
    sound = Sound(start)
    for last in range(at, len(segments)):
        sound = sound_batches(segments[last].path, start if last == at else SEGMENT_HEADER_BYTES)
        if sound.status != OK:
            if not _ends_here(segments[last : last + 2], sound.end):
                _refuse_damage(segments[last:], sound, promised, unreadable)
                break
            if repair:
                os.truncate(segments[last].path, sound.end)
    verified_from = start if last == at else SEGMENT_HEADER_BYTES
    _take(cells, segments[: last + 1], sound, verified_from, promised, repair=repair)
    if repair:
        _cut(directory, cells, segments[last], sound, dead)


def _refuse_if_promised(directory: Path, segments: Sequence[Segment], unreadable: CorruptFileError, promised: int | None) -> None:
    """A header that cannot be read is a torn tail only where nothing promised can lie behind it."""
    there = segments[-1].base_position + segments[-1].path.stat().st_size if segments else 0
    bases = [base for base in base_offsets(directory) if str(segment_path(directory, base)) >= unreadable.path]
    cut_off = len(bases) == 1 and Path(unreadable.path).stat().st_size < SEGMENT_HEADER_BYTES
    if promised is None:
        lost = any(_has_sound_batch(segment_path(directory, base), 0) for base in bases)
    else:
        lost = there < promised and not cut_off
    if lost:
        raise unreadable


def _ends_here(segments: Sequence[Segment], end: int) -> bool:
    """Whether the next segment begins where the sound batches of this one end: what follows them here is left of what was reserved."""
    return len(segments) == 2 and segments[0].base_position + end == segments[1].base_position


def _refuse_damage(segments: Sequence[Segment], sound: Sound, promised: int | None, unreadable: CorruptFileError | None) -> None:
    """Raise unless the batch that ends the sound ones in `segments[0]` belongs to a torn tail."""
    segment = segments[0]
    is_end = len(segments) == 1 and unreadable is None
    if promised is None:
        lost = _has_sound_batch(segment.path, sound.end) or any(
            _has_sound_batch(after.path, SEGMENT_HEADER_BYTES) for after in segments[1:]
        )
    else:
        lost = segment.base_position + sound.end < promised and not (is_end and sound.status == SHORT)
    if lost:
        raise damage(segment.path, sound.end, sound.status)


def _take_nothing(directory: Path, cells: memoryview, promised: int | None, *, repair: bool) -> None:
    """No segment is left: the next append begins one."""
    bases = base_offsets(directory)
    counted = [base for base in bases if base >= cells[state.FIRST_BASE]]
    before = cells[state.LOW_OFFSET] if is_current(cells) else max(cells[state.LOW_OFFSET], cells[state.SYNCED_OFFSET])
    cells[state.HIGH_OFFSET] = max(counted[0], cells[state.LOW_OFFSET]) if counted else before
    if not is_current(cells):
        cells[state.HIGH_POSITION] = promised or 0
    cells[state.ACTIVE_BASE] = cells[state.FIRST_BASE] = -1
    cells[state.SYNCED_OFFSET], cells[state.SYNCED_POSITION] = cells[state.HIGH_OFFSET], cells[state.HIGH_POSITION]
    cells[state.SEGMENT_TIMESTAMP_MAX], cells[state.INDEX_ENTRIES] = NO_TIMESTAMP, 0
    cells[state.GENERATION] += 2
    if repair:
        for base in bases:
            _log.warning("%s had no whole header and was removed", segment_path(directory, base))
            remove_segment(segment_path(directory, base))


def _take(
    cells: memoryview, segments: Sequence[Segment], sound: Sound, start: int, promised: int | None, *, repair: bool
) -> None:  # fmt: skip
    """Cells for a partition that ends at `sound.end` of the last of these segments."""
    active = segments[-1]
    high = max(sound.last_offset + 1, active.base_offset, active.covers_offset)
    if start > SEGMENT_HEADER_BYTES:  # batches before the synced position were not looked at
        high = max(high, cells[state.SYNCED_OFFSET])
        before = sound_batches(active.path, SEGMENT_HEADER_BYTES, start)
        sound.timestamp_max = max(sound.timestamp_max, before.timestamp_max)
    cells[state.FIRST_BASE], cells[state.ACTIVE_BASE] = segments[0].base_offset, active.base_offset
    cells[state.HIGH_POSITION] = active.base_position + sound.end
    cells[state.HIGH_OFFSET] = high
    cells[state.LOW_OFFSET] = min(max(cells[state.LOW_OFFSET], segments[0].base_offset), high)
    cells[state.APPENDED_MS] = max(cells[state.APPENDED_MS], sound.appended_ms)
    cells[state.SEGMENT_TIMESTAMP_MAX] = sound.timestamp_max
    if promised is None:
        cells[state.SYNCED_OFFSET], cells[state.SYNCED_POSITION] = segments[0].base_offset, segments[0].base_position
    elif is_current(cells):
        cells[state.SYNCED_OFFSET] = min(cells[state.SYNCED_OFFSET], high)
        cells[state.SYNCED_POSITION] = min(cells[state.SYNCED_POSITION], cells[state.HIGH_POSITION])
    else:  # read after a restart: it came from the disk
        cells[state.SYNCED_OFFSET], cells[state.SYNCED_POSITION] = high, cells[state.HIGH_POSITION]
    cells[state.GENERATION] += 2
    _take_index(active.index_path, cells, sound.end, repair=repair)


def _take_index(path: Path, cells: memoryview, end: int, *, repair: bool) -> None:
    """Keep the entries of the active segment's index that name batches before byte `end`."""
    entries = read_index(path)
    count, last_byte = 0, -SPACING_BYTES
    while (entry := sound_entry(entries, count)) is not None and last_byte < entry.byte < end:
        count, last_byte = count + 1, entry.byte
    cells[state.INDEX_ENTRIES], cells[state.INDEX_BYTE] = count, last_byte
    if repair and path.exists():
        os.truncate(path, count * ENTRY_BYTES)


def _cut(directory: Path, cells: memoryview, active: Segment, sound: Sound, dead: Sequence[Path]) -> None:
    """Remove what lies behind the committed end."""
    surplus = active.path.stat().st_size - sound.end
    if surplus and not _is_zero(active.path, sound.end):  # zeros were reserved and not used
        why = REASONS[sound.status]
        _log.warning("%s: %d bytes from byte %d on are no whole batches (%s) and were cut off", active.path, surplus, sound.end, why)
    if surplus:
        os.truncate(active.path, sound.end)
    for base in base_offsets(directory):
        if base > active.base_offset and segment_path(directory, base) not in dead:
            _log.warning("%s lay behind a torn tail and was removed", segment_path(directory, base))
            remove_segment(segment_path(directory, base))
    for path in dead:
        remove_segment(path)
    with opened(active.path, os.O_RDWR) as descriptor:
        os.fsync(descriptor)
    sync_directory(directory)


def _has_sound_batch(path: Path, start: int) -> bool:
    """Whether a sound batch begins somewhere behind byte `start`."""
    data: npt.NDArray[np.uint8]
    with opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        start = (start + 7) & -8
        data = read_at(descriptor, max(size - start, 0), start)
    return len(data) >= BATCH_HEADER_BYTES and find_sound(address_of(data), len(data)) >= 0


def _is_zero(path: Path, start: int) -> bool:
    with opened(path) as descriptor:
        return not read_at(descriptor, os.fstat(descriptor).st_size - start, start).any()


def _claimed_bytes(data: npt.NDArray[np.uint8]) -> int:
    """The size that the batch header at the begin of `data` claims; a header's where there is not even that."""
    return max(BATCH_HEADER_BYTES, int.from_bytes(data[4:8].tobytes(), "little"))

"""One partition of a tailer: follows its segments and keeps its index, one generation after the other.

Puts and deletes are applied by one kernel call over many batches. What needs `merge` (patches, and writes to keys with patches) is handed
back by that kernel, merged key by key (`_tailer_merging`), written to the side heap, and only then let in. `applied_*` are stored last, so
they never run ahead; a tailer that was killed goes on from them, and applying a record again changes nothing.

A generation is made beside the one in use and takes its place in one store: when the index fills up, when most of the side heap is garbage,
when most entries lead to deleted segments, or when there is no index that can be trusted. In the last case it is hidden until it has
everything that was in the log when it was begun: a reader sees a whole index or none.

Not thread-safe: it belongs to the thread that runs its tailer, in the process that holds `tailer.lock`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import DiskFullError
from fondaco.core.files import os_errors
from fondaco.log import state as log_state
from fondaco.store import _overlay_cells as cells_of
from fondaco.store import _overlay_files as files_of
from fondaco.store import _overlay_kernels as probes
from fondaco.store import _tailer_kernels as kernels
from fondaco.store._atomics import store_word
from fondaco.store._overlay_cells import Cells
from fondaco.store._overlay_files import IndexFiles
from fondaco.store._overlay_view import OverlayView, PartitionFiles, Segment, list_segments, map_segments
from fondaco.store._tailer_merging import Merger
from fondaco.store.basefile import address_of

if TYPE_CHECKING:
    from fondaco.log import PartitionView

I64Array = npt.NDArray[np.int64]

LOAD: Final = 0.6  # of the index, at which the next generation is made
LOAD_MAX: Final = 0.9  # and up to which it is filled while there is no room for that
STEP_BYTES: Final = 8 << 20  # of the log in one kernel call: about 20 ms
DEFERRED_MAX: Final = 4096
MOMENTS_MAX: Final = 512
RETRY_S: Final = 1.0  # between attempts after a full disk
GARBAGE_MIN: Final = 16 << 20  # bytes of the side heap that are not worth a new generation
UNITS_BYTES: Final = 1 << 42  # of the log that one origin can address
_BUFFER_BYTES: Final = 4 << 20
_LOGGER: Final = logging.getLogger("fondaco.store.tailer")
_COUNTED: Final = (
    (kernels.RECORDS, cells_of.RECORDS),
    (kernels.SKIPPED, cells_of.SKIPPED),
    (kernels.DAMAGED, cells_of.DAMAGED),
    (kernels.HEARTBEAT_MS, cells_of.HEARTBEAT_MS),
    (kernels.ENTRIES, cells_of.ENTRIES),
)  # words of the cursor, and the cells that show them


class PartitionTailer:
    """Follows one partition. `step` applies what is there."""

    def __init__(
        self,
        directory: Path,
        log_directory: Path,
        topic: str,
        cells: Cells,
        partition: int,
        files: PartitionView,
        moved: Callable[[], None],
    ) -> None:
        """
        Args:
            directory: of the overlay. log_directory: of the log, with the partition's segments in `<topic>/<partition>`.
            files: the partition's live cells.
            moved: makes readers look at files again (the next epoch).
        """
        self.partition, self.name = partition, f"{topic}/{partition}"
        self.stalled = False
        self._directory, self._segments_directory = directory, log_directory / topic / str(partition)
        self._cells, self._log, self._moved = cells, files.cells, moved
        self._first = cells.partition(partition)
        self._cursor: I64Array = np.zeros(kernels.CURSOR_WORDS, np.int64)
        self._deferred: I64Array = np.zeros((DEFERRED_MAX, 4), np.int64)
        self._moments: I64Array = np.zeros((MOMENTS_MAX, 2), np.int64)
        self._scratch: I64Array = np.zeros(cells_of.PARTITION_BYTES // 8, np.int64)  # takes the place of the cells while hidden
        self._index: IndexFiles | None = None
        self._segments: tuple[Segment, ...] = ()
        self._side = -1  # descriptor of the side heap
        self._hidden_until: int | None = None  # log position at which a rebuilt index is let out
        self._listed = (0, 0, 0)  # cells of the log when its segments were last listed
        self._view = OverlayView(directory, None, 0, 0, ())
        self._merger = Merger()
        self._merged = self._lost = 0
        self._wants_room = False
        self._retry_at = 0.0  # monotonic; not 0 while a full disk keeps the next generation from being made
        self._side_is_full = False
        self._looked = 0  # end of the log at the last step
        self._told: set[str] = set()

    # -- begin and end --------------------------------------------------------------------------------------------------------------

    def open(self, *, trusted: bool) -> None:
        """Go on with the index that is there, or begin to make it from the log.

        Args:
            trusted: False: the cells are of another run of the machine, or of another topic of this name.
        Raises:
            DiskFullError, ReadOnlyError.
        """
        generation = self._cell(cells_of.GENERATION)
        index = None
        if trusted and generation and not self._cell(cells_of.REBUILDING) and self._fits_log():
            with contextlib.suppress(FileNotFoundError):
                index = files_of.open_files(self._directory, generation, self.partition, writable=True)
        if index is None:
            if generation:
                _LOGGER.warning("%s: there is no index to trust; making it anew from the log", self.name)
            self._rebuild()
            return
        cursor = self._cursor
        cursor[kernels.POSITION] = cursor[kernels.BATCH_BEGIN] = self._cell(cells_of.APPLIED_POSITION)
        cursor[kernels.APPLIED] = self._cell(cells_of.APPLIED_OFFSET)
        cursor[kernels.APPENDED_MS] = self._cell(cells_of.APPENDED_MS)
        for word, cell in _COUNTED:
            cursor[word] = self._cell(cell)
        self._merged, self._lost = self._cell(cells_of.MERGED), self._cell(cells_of.LOST)
        self._list_segments(index)
        # The tailer before this one may have been killed between storing slots and counting them
        cursor[kernels.ENTRIES] = kernels.count_entries(self._entry)

    def _fits_log(self) -> bool:
        """Whether the log still holds everything that the cells say was applied (it is cut off only after a crash of the machine)."""
        position, offset = self._cell(cells_of.APPLIED_POSITION), self._cell(cells_of.APPLIED_OFFSET)
        return position <= self._log[log_state.HIGH_POSITION] and offset <= self._log[log_state.HIGH_OFFSET]

    def close(self) -> None:
        """Let go of files; everything applied is in them."""
        if self._side >= 0:
            os.close(self._side)
            self._side = -1
        if self._hidden_until is not None and self._index is not None:
            self._remove(self._index)
        self._index = None
        self._view = OverlayView(self._directory, None, 0, 0, ())
        self._segments = ()

    # -- what others look at --------------------------------------------------------------------------------------------------------

    @property
    def word(self) -> int:
        """Address of the log's cell that changes when there is more to apply."""
        return address_of(np.frombuffer(self._log, np.int64)) + 8 * log_state.HIGH_POSITION

    @property
    def seen(self) -> int:
        """What `word` holds while there is nothing to apply, or no room for it."""
        return self._looked if self.stalled else self.position

    @property
    def position(self) -> int:
        """The log position that comes next."""
        return int(self._cursor[kernels.POSITION])

    @property
    def end(self) -> int:
        """Where the log ends now."""
        return self._log[log_state.HIGH_POSITION]

    @property
    def caught_up(self) -> bool:
        """Whether everything that the log holds can be read."""
        return self._hidden_until is None and self._log[log_state.HIGH_POSITION] <= self._cursor[kernels.POSITION]

    @property
    def deleted(self) -> bool:
        """Whether the topic is gone."""
        return bool(self._log[log_state.DELETED])

    # -- steps ----------------------------------------------------------------------------------------------------------------------

    def step(self, now_us: Callable[[], int], fresh_since_ms: int) -> int:
        """Apply up to `STEP_BYTES` of the log; return how many records it was. `stalled`: there is more, and no room for it.

        Args:
            fresh_since_ms: records appended before it do not count in the histogram of freshness: nobody was here to apply them.
        """
        high_offset = self._log[log_state.HIGH_OFFSET]  # before the position, as the log asks: what it counts lies below the position
        high = self._looked = self._log[log_state.HIGH_POSITION]
        if high < self._cursor[kernels.POSITION]:
            _LOGGER.warning("%s: the log was cut off at position %d; making the index anew", self.name, high)
            self._rebuild()
        if self._log_files() != self._listed:
            self._list_segments(self._index)
        if high <= self._cursor[kernels.POSITION] or not self._segments or not self._has_room(high):
            self._finish(high, high_offset)
            return 0
        before = int(self._cursor[kernels.RECORDS])
        self._apply(high)
        self._finish(high, high_offset)
        self._count(now_us, fresh_since_ms)
        return int(self._cursor[kernels.RECORDS]) - before

    def _apply(self, high: int) -> None:
        index, cursor = self._index, self._cursor
        assert index is not None
        if high > self._segments[-1].base_position + self._segments[-1].mapped:
            self._list_segments(index)  # it has grown beyond what was mapped of it; readers notice that by themselves
        self._view.words[probes.TABLE_WORDS + 6] = high
        kept = cursor.copy()
        cursor[kernels.DEFERRED] = cursor[kernels.MOMENTS] = 0
        limit = int(index.slot_count * (LOAD_MAX if self._retry_at else LOAD))
        pause_at = int(cursor[kernels.POSITION]) + STEP_BYTES
        status = kernels.apply(self._view.table, self._entry, self._published, high, pause_at, limit, cursor, self._deferred, self._moments)
        self._wants_room |= status == kernels.INDEX_FULL
        if cursor[kernels.DEFERRED]:
            try:
                self._merge_deferred()
            except DiskFullError as exc:
                # Slots that were stored are right, and storing them again changes nothing; what was counted is counted again
                kept[kernels.ENTRIES] = cursor[kernels.ENTRIES]
                cursor[:] = kept
                cursor[kernels.MOMENTS] = 0
                self._no_room(exc)
                self._side_is_full = self.stalled = True
                return
            cursor[kernels.DEFERRED] = 0
            kernels.publish(self._published, cursor)
            if self._side_is_full:
                self._room_again()

    def _merge_deferred(self) -> None:
        index, cursor = self._index, self._cursor
        assert index is not None
        count, side_offset = int(cursor[kernels.DEFERRED]), index.side_bytes
        outcome = self._merger.run(self._view, self._deferred[:count], origin=index.origin, side_offset=side_offset)
        if len(outcome.heap):
            self._append_side(outcome.heap, side_offset)
        if outcome.slots:
            slots = np.array(outcome.slots, object)
            hashes = slots[:, 2].astype(np.uint64)
            keys, lengths, offsets, sides = (slots[:, column].astype(np.int64) for column in (0, 1, 3, 4))
            cursor[kernels.ENTRIES] += kernels.assign(self._view.table, self._entry, keys, lengths, hashes, offsets, sides)
        self._merged += count
        cursor[kernels.SKIPPED] += outcome.skipped
        cursor[kernels.DAMAGED] += outcome.damaged
        garbage = index.add_garbage(outcome.garbage)
        self._wants_room |= garbage > max(GARBAGE_MIN, index.side_bytes // 2)

    def _append_side(self, data: npt.NDArray[np.uint8], offset: int) -> None:
        index = self._index
        assert index is not None
        _write_at(self._side, data, offset, self._directory / files_of.side_name(index.generation, self.partition))
        index.set_side_bytes(offset + len(data))
        if index.side_bytes > index.side.bytes:
            self._index = files_of.grown_side(index, self._directory)
            self._merger.forget()
            self._remap()
        self._view.words[probes.TABLE_WORDS + 9] = index.side_bytes

    def _finish(self, high: int, high_offset: int) -> None:
        """What is left to do at the end of the log."""
        cursor = self._cursor
        if cursor[kernels.POSITION] < high:
            return
        if high_offset > cursor[kernels.APPLIED]:  # what was missing was damaged beyond recognition: nothing more will come of it
            cursor[kernels.APPLIED] = high_offset
            kernels.publish(self._published, cursor)
        if self._hidden_until is not None and cursor[kernels.POSITION] >= self._hidden_until:
            self._let_out()

    def _count(self, now_us: Callable[[], int], fresh_since_ms: int) -> None:
        """Say in the cells what was done, how late, and, once, what was wrong."""
        cursor, view, first = self._cursor, self._cells.view, self._first
        for word, cell in _COUNTED:
            view[first + cell] = int(cursor[word])
        view[first + cells_of.MERGED], view[first + cells_of.LOST] = self._merged, self._lost
        if self._hidden_until is None:
            now_ms = now_us() / 1000
            for appended_ms, records in self._moments[: cursor[kernels.MOMENTS]].tolist():
                if appended_ms >= fresh_since_ms:
                    view[cells_of.HISTOGRAM + bucket_of(now_ms - appended_ms)] += records
        if cursor[kernels.DAMAGED_AT]:
            self._tell("damaged", "a record near log position %d is damaged; its key cannot be read until it is written again",
                       int(cursor[kernels.DAMAGED_AT]))  # fmt: skip
        if cursor[kernels.SKIPPED]:
            self._tell("skipped", "records of a format or operation that this Fondaco does not know are skipped (%d so far)",
                       int(cursor[kernels.SKIPPED]))  # fmt: skip

    def _tell(self, what: str, text: str, *values: object) -> None:
        if what not in self._told:
            self._told.add(what)
            _LOGGER.warning("%s: " + text, self.name, *values)

    # -- files of the log -------------------------------------------------------------------------------------------------------------

    def _log_files(self) -> tuple[int, int, int]:
        return self._log[log_state.ACTIVE_BASE], self._log[log_state.GENERATION], self._log[log_state.FIRST_BASE]

    def _list_segments(self, index: IndexFiles | None) -> None:
        """Map the log's segments; readers look again too, before any slot leads into a segment that they do not know."""
        listed = self._log_files()
        high = self._log[log_state.HIGH_POSITION]
        files = [] if listed[0] < 0 else list_segments(self._segments_directory, listed[2], listed[0])
        self._segments = map_segments(files, self._segments, high)
        removed = self._listed[1] != listed[1]
        changed, self._listed = self._listed != listed, listed
        self._set(cells_of.FIRST_BASE, listed[2])
        self._set(cells_of.ACTIVE_BASE, listed[0])
        self._merger.forget()
        first = self._segments[0].base_position if self._segments else 0
        cursor = self._cursor
        if cursor[kernels.POSITION] < first:
            low = self._log[log_state.LOW_OFFSET]
            if index is not None:
                self._lost += max(0, low - int(cursor[kernels.APPLIED]))
                self._tell("lost", "the log was trimmed to offset %d before everything was applied", low)
            cursor[kernels.POSITION] = cursor[kernels.BATCH_BEGIN] = first
            cursor[kernels.BATCH_END] = 0
            cursor[kernels.APPLIED] = max(int(cursor[kernels.APPLIED]), low)
        if index is None:
            return
        self._use(index)
        if removed and cursor[kernels.ENTRIES] > files_of.SLOTS_MIN:
            self._wants_room |= 4 * int(kernels.count_live(self._entry)) < int(cursor[kernels.ENTRIES])
        if changed and self._hidden_until is None:
            self._moved()

    # -- generations ------------------------------------------------------------------------------------------------------------------

    def _rebuild(self) -> None:
        """Begin an index of everything that the log holds, out of sight."""
        self._set(cells_of.REBUILDING, 1)
        self._set(cells_of.APPLIED_OFFSET, 0)
        self._cursor[:] = self._scratch[:] = 0
        self._merged = self._lost = 0
        if self._hidden_until is not None and self._index is not None:
            self._remove(self._index)
        self._index, self._hidden_until = None, self._log[log_state.HIGH_POSITION]
        self._list_segments(None)
        first = self._segments[0].base_position if self._segments else self._hidden_until
        self._cursor[kernels.POSITION] = self._cursor[kernels.BATCH_BEGIN] = first
        self._cursor[kernels.APPLIED] = self._log[log_state.LOW_OFFSET]
        self._use(self._create(min((self._hidden_until - first) // 512, 1 << 20), first))

    def _let_out(self) -> None:
        """Show the hidden index to readers."""
        assert self._index is not None
        self._set(cells_of.SEEN_POSITION, int(self._scratch[cells_of.SEEN_POSITION]))
        self._hidden_until = None
        self._show(self._index)
        self._set(cells_of.REBUILDING, 0)
        kernels.publish(self._published, self._cursor)
        for word, cell in _COUNTED:
            self._set(cell, int(self._cursor[word]))

    def _show(self, index: IndexFiles) -> None:
        """Let the cells name a generation, and remove the one before."""
        before = self._cell(cells_of.GENERATION)
        self._set(cells_of.GENERATION, index.generation)
        self._moved()
        if before:
            for name in (files_of.index_name(before, self.partition), files_of.side_name(before, self.partition)):
                (self._directory / name).unlink(missing_ok=True)

    def _create(self, entries: int, origin: int) -> IndexFiles:
        generation = self._cell(cells_of.BUILT) + 1
        self._set(cells_of.BUILT, generation)
        return files_of.create_files(self._directory, generation, self.partition, slot_count=files_of.slots_for(entries), origin=origin)

    def _has_room(self, high: int) -> bool:
        """Whether records can be applied, after making the next generation where one is needed and can be made."""
        index, now = self._index, time.monotonic()
        assert index is not None
        entries = int(self._cursor[kernels.ENTRIES])
        out_of_reach = high - index.origin > UNITS_BYTES
        if (self._wants_room or out_of_reach or entries >= LOAD * index.slot_count) and now >= self._retry_at:
            try:
                self.next_generation()
                self._room_again()
            except DiskFullError as exc:
                self._no_room(exc)
        if now < self._retry_at:
            self.stalled = self._side_is_full or out_of_reach or entries >= int(LOAD_MAX * index.slot_count)
            return not self.stalled
        if high - self._segments[0].base_position > UNITS_BYTES:
            self._tell("reach", "more than %d bytes of the log are kept, and an index reaches no further; trim it", UNITS_BYTES)
            self.stalled = True
            return False
        return True

    def _room_again(self) -> None:
        if self._retry_at:
            _LOGGER.warning("%s: there is room again", self.name)
        self._retry_at, self._side_is_full, self.stalled = 0.0, False, False

    def _no_room(self, exc: DiskFullError) -> None:
        if not self._retry_at:
            _LOGGER.error("%s: %s Until then what is there can be read, and what does not fit waits in the log.", self.name, exc)
        self._retry_at = time.monotonic() + RETRY_S

    def next_generation(self) -> None:
        """Make the next generation of what is there: room for as many keys again, without garbage."""
        old = self._index
        assert old is not None
        begun = time.monotonic()
        self._view.words[probes.TABLE_WORDS + 9] = old.side_bytes
        origin = self._segments[0].base_position if self._segments else old.origin
        new = self._create(int(kernels.count_live(self._entry)), origin)
        try:
            entries, side_bytes = self._fill(new)
        except BaseException:
            self._remove(new)
            raise
        new.set_side_bytes(side_bytes)
        self._cursor[kernels.ENTRIES] = entries
        self._wants_room = False
        self._merger.forget()
        self._use(new)
        if self._hidden_until is None:
            self._show(new)
        else:
            self._remove(old)
        _LOGGER.debug("%s: generation %d of the index, %d keys, %d slots, %d bytes of merged states, in %.3f s",
                     self.name, new.generation, entries, new.slot_count, side_bytes, time.monotonic() - begun)  # fmt: skip

    def _fill(self, new: IndexFiles) -> tuple[int, int]:
        """Enter what is alive into a new generation; (entries, bytes of its side heap)."""
        buffer = np.empty(_BUFFER_BYTES, np.uint8)
        entries, side_bytes, first = 0, files_of.SIDE_HEADER_BYTES, 0
        path = self._directory / files_of.side_name(new.generation, self.partition)
        with os_errors(path), open(path, "r+b", buffering=0) as side:
            while True:
                first, added, used = kernels.rehash(
                    self._view.table, self._entry, first, new.slots_address, new.slot_count, new.origin, self._cell(cells_of.HORIZON_MS),
                    side_bytes, address_of(buffer), len(buffer),
                )  # fmt: skip
                _write_at(side.fileno(), buffer[:used], side_bytes, path)
                entries, side_bytes = entries + added, side_bytes + used
                if self._index is not None and first == self._index.slot_count:
                    return entries, side_bytes
                if used == 0:
                    buffer = np.empty(2 * len(buffer), np.uint8)  # one state that is larger than the buffer

    def _use(self, index: IndexFiles) -> None:
        """Work on this generation from now on."""
        if self._index is None or self._index.generation != index.generation or self._side < 0:
            if self._side >= 0:
                os.close(self._side)
            path = self._directory / files_of.side_name(index.generation, self.partition)
            with os_errors(path):
                self._side = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self._index = files_of.grown_side(index, self._directory)
        self._remap()

    def _remap(self) -> None:
        """Make the table that the kernels of this tailer read. Its epoch is its own: it never goes stale by what the tailer does."""
        known = self._log[log_state.HIGH_POSITION]
        files = PartitionFiles(self.partition, self._index, self._segments, known)
        self._view = view = OverlayView(self._directory, self._cells, 0, 0, [files])
        view.words[0] = address_of(view.words) + 8 * (len(view.words) - 1)

    def _remove(self, index: IndexFiles) -> None:
        for name in (files_of.index_name(index.generation, self.partition), files_of.side_name(index.generation, self.partition)):
            (self._directory / name).unlink(missing_ok=True)

    # -- cells ------------------------------------------------------------------------------------------------------------------------

    @property
    def _entry(self) -> int:
        return self._view.table + 8 * probes.TABLE_WORDS

    @property
    def _published(self) -> int:
        """Where applied positions are stored: in the cells, or out of sight."""
        if self._hidden_until is None:
            return self._cells.partition_address(self.partition, 0)
        return address_of(self._scratch)

    def _cell(self, cell: int) -> int:
        return self._cells.view[self._first + cell]

    def _set(self, cell: int, value: int) -> None:
        store_word(self._cells.address + 8 * (self._first + cell), value)


def bucket_of(latency_ms: float) -> int:
    """The bucket of the histogram of freshness that a latency falls into."""
    if latency_ms <= 1:
        return 0
    return min(int(4 * math.log2(latency_ms)), cells_of.HISTOGRAM_CELLS - 1)


def _write_at(descriptor: int, data: npt.NDArray[np.uint8], offset: int, path: Path) -> None:
    rest = memoryview(data)  # type: ignore[arg-type]  # NumPy's stubs do not declare the buffer protocol
    with os_errors(path):
        while len(rest):
            written = os.pwrite(descriptor, rest, offset)
            offset += written
            rest = rest[written:]

"""Overlay: what was written in real time, found by key. It is an index over the log, made by a tailer, read without locks.

    with Overlay.open(store / "overlay", platform / "log", "members.rt") as overlay:
        view = overlay.view                                    # hold it while its table is used, and as long as what came of it
        answer = overlay_probe(key_address, key_bytes, hash, view.table, since_ms)
        while answer[0] == STALE:
            view = overlay.refresh(view)
            ...

Everything that a reader follows lies in mapped memory: the cells, the index's slots, the log's own segments, the side heap. A tailer in
this or in another process changes them meanwhile; `docs/internals/overlay.md` says in which order, and why no reader ever sees half of a
change. One overlay serves all readers of a store in a process, from any thread. It writes nothing but the empty cells of a store that has
none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np

from fondaco.core.errors import DeadlineExceededError, InputError
from fondaco.core.xxh64 import xxh64
from fondaco.log.state import boot_id
from fondaco.store import _overlay_cells as cells_of
from fondaco.store import _overlay_kernels as kernels
from fondaco.store import _wait_kernels as waits
from fondaco.store._overlay_cells import Cells, open_cells
from fondaco.store._overlay_view import OverlayView, PartitionFiles, list_segments, map_segments, open_partition
from fondaco.store.basefile import address_of

_TRIES: Final = 1000  # each fails only because the tailer moved on meanwhile
_POLL_US: Final = 100
_SLICE_US: Final = 50_000  # a thread that waits looks this often whether it should stop (Ctrl-C)


class Overlay:
    """The read side of one store's overlay in one process."""

    def __init__(self, directory: Path, log_directory: Path, topic: str) -> None:
        """Use `Overlay.open`."""
        self._directory, self._topic, self._log_directory = directory, topic, log_directory
        self._lock = threading.Lock()
        self._cells: Cells | None = None
        self.view = OverlayView(directory, None, 0, 0, ())
        """The newest view. Replaced by `refresh`, never changed: take it once per call and hold it while you use its table."""
        self.refresh()

    @classmethod
    def open(cls, directory: Path | str, log_directory: Path | str, topic: str) -> Overlay:
        """Open the overlay of a store; one that nobody ever wrote to is empty, and notices when that changes.

        Args:
            directory: `stores/<store>/overlay`; its cells are made if they are missing and it can be written.
            log_directory: `<platform>/log`, with the topic's segments in `<topic>/<partition>`.
        Raises:
            FormatVersionError: a newer Fondaco wrote it.
        """
        return cls(Path(directory), Path(log_directory), topic)

    # -- views ----------------------------------------------------------------------------------------------------------------------

    def refresh(self, stale: OverlayView | None = None) -> OverlayView:
        """Make the next view, and return it.

        Args:
            stale: the view whose table gave STALE. If another thread has replaced it already, its new view is returned.
        """
        with self._lock:
            if stale is None or self.view is stale:
                self.view = self._next_view()
            return self.view

    def _next_view(self) -> OverlayView:
        if self._cells is None or self._cells.replaced:
            self._cells = open_cells(self._directory, writable=False)
            self.view = OverlayView(self._directory, None, 0, 0, ())  # numbers of generations begin anew: no map of it is the same
        cells = self._cells
        if cells is None:
            return OverlayView(self._directory, None, 0, 0, ())
        for _ in range(_TRIES):
            epoch = cells.view[cells_of.EPOCH]
            try:
                partitions = [self._open(cells, partition) for partition in range(cells.view[cells_of.PARTITIONS])]
            except FileNotFoundError:  # the tailer, or the log's retention, removed a file between the look and the map
                time.sleep(0.0005)
                continue
            if cells.view[cells_of.EPOCH] == epoch:
                return OverlayView(self._directory, cells, epoch, cells.view[cells_of.PARTITIONER], partitions)
        # Files that the cells name are gone for good: the tailer makes them again when it next starts, and until then there is no overlay
        empty = [PartitionFiles(partition) for partition in range(cells.view[cells_of.PARTITIONS])]
        return OverlayView(self._directory, cells, cells.view[cells_of.EPOCH], cells.view[cells_of.PARTITIONER], empty)

    def _open(self, cells: Cells, partition: int) -> PartitionFiles:
        first = cells.partition(partition)
        known = cells.view[first + cells_of.SEEN_POSITION]
        before = self.view.partitions[partition] if partition < len(self.view.partitions) else None
        index = open_partition(self._directory, partition, cells.view[first + cells_of.GENERATION], before)
        if index is None:
            return PartitionFiles(partition)
        bases = cells.view[first + cells_of.FIRST_BASE], cells.view[first + cells_of.ACTIVE_BASE]
        files = list_segments(self._log_directory / self._topic / str(partition), *bases)
        return PartitionFiles(partition, index, map_segments(files, before.segments if before else (), known), known)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever written, as far as this process has noticed."""
        return self.view.is_empty

    # -- positions ------------------------------------------------------------------------------------------------------------------

    @property
    def partition_count(self) -> int:
        """Partitions of the topic; 0 while there is none."""
        cells = self._cells
        return cells.view[cells_of.PARTITIONS] if cells else 0

    def partition_of(self, key: bytes) -> int:
        """The partition of the topic that key bytes belong to.

        Raises:
            InputError: there is no topic yet.
        """
        cells, count = self._cells, self.partition_count
        if cells is None or count == 0:
            raise InputError(f"topic {self._topic!r} has no partitions yet: nothing was written")
        data = np.frombuffer(key, np.uint8)
        address = address_of(data)
        return int(kernels.topic_partition(address, len(key), np.uint64(xxh64(address, len(key))), count, cells.view[cells_of.PARTITIONER]))

    def applied(self, partition: int) -> int:
        """Every record of the partition with a lower offset can be read; 0 while there is nothing."""
        cells = self._cells
        if cells is None or not 0 <= partition < cells.view[cells_of.PARTITIONS]:
            return 0
        return cells.view[cells.partition(partition) + cells_of.APPLIED_OFFSET]

    def positions(self) -> dict[int, int]:
        """Per partition the offset of the last record that can be read; partitions without one are left out."""
        if self._cells is None or self._cells.replaced:  # whoever asks again and again would else never see the first write of a store
            self.refresh()
        return {partition: offset - 1 for partition in range(self.partition_count) if (offset := self.applied(partition)) > 0}

    def wait(self, positions: Mapping[int, int], deadline: float) -> None:
        """Return when the records at `positions` (partition -> offset) can be read. Sleeps without the GIL.

        While a partition's index is to be made anew (`rebuilding`), nothing counts as readable: what an index of another run of the machine
        says of itself is not to be trusted.

        Args:
            deadline: of `time.monotonic()`.
        Raises:
            DeadlineExceededError: they could not in time; says where the overlay is.
        """
        begun = time.monotonic()
        for partition, offset in positions.items():
            while (applied := self.applied(partition)) <= offset or self._is_rebuilding(partition):
                rest = deadline - time.monotonic()
                if rest <= 0:
                    self._too_late(partition, offset, time.monotonic() - begun)
                self._sleep(partition, applied, min(int(rest * 1e6) + 1, _SLICE_US))

    @property
    def rebuilding(self) -> bool:
        """Whether an index has to be, or is being, made anew from the log: until that is done, real-time writes may be missing."""
        return any(self._is_rebuilding(partition) for partition in range(self.partition_count))

    def _is_rebuilding(self, partition: int) -> bool:
        cells = self._cells
        if cells is None:
            return False
        return cells.view[cells_of.BOOT] != boot_id() or bool(cells.view[cells.partition(partition) + cells_of.REBUILDING])

    def _sleep(self, partition: int, seen: int, us: int) -> None:
        """Until something else is applied than what was `seen` (not asked here again: it may have come meanwhile), or `us` have passed."""
        cells = self._cells
        if cells is None or cells.view[cells_of.PARTITIONS] <= partition:
            time.sleep(0.001)
            if cells is None:
                self.refresh()
            return
        word = cells.partition_address(partition, cells_of.APPLIED_OFFSET)
        waits.wait_word(word, seen, _POLL_US, us)

    def _too_late(self, partition: int, offset: int, seconds: float) -> None:
        cells = self._cells
        if cells is None or not 0 <= partition < cells.view[cells_of.PARTITIONS]:
            count = self.partition_count
            known = f"it has {count} partitions: is this the position of a write to another store?"
            state = known if count else "the store's topic was never seen by a tailer"
        elif self._is_rebuilding(partition):
            state = "its index is being made anew from the log"
        else:
            age_s = time.time() - cells.view[cells_of.ALIVE_US] / 1e6
            state = f"it is at offset {self.applied(partition)}" + (f"; no tailer has run for {age_s:.1f} s" if age_s > 1 else "")
        what = f"reading position {partition}:{offset} of topic {self._topic!r}"
        raise DeadlineExceededError(what, round(seconds, 3), state)

    # -- end ------------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the files; views and what came of them stay valid as long as they are held."""
        with self._lock:
            self._cells = None
            self.view = OverlayView(self._directory, None, 0, 0, ())

    def __enter__(self) -> Overlay:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

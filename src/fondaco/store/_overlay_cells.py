"""Cells of an overlay: what the tailer says of itself to readers, in words that every process maps. Layout: docs/internals/overlay.md.

A cell is one aligned int64. Only the tailer writes (it holds `tailer.lock`), and each cell changes in one store of the processor. The file
has a fixed size and is never replaced, so that a reader which mapped it while there was nothing yet sees everything that comes. All
zeros means: nothing was ever written. Cells that readers look at on each call lie apart from those that change with each write. No numba
here: metrics and the governor look at cells too.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import FormatVersionError
from fondaco.core.files import os_errors

CELLS_FILE: Final = "cells"
LOCK_FILE: Final = "tailer.lock"
FORMAT: Final = 1
PARTITIONS_MAX: Final = 1024
HEAD_BYTES: Final = 4096
PARTITION_BYTES: Final = 256
CELLS_BYTES: Final = HEAD_BYTES + PARTITIONS_MAX * PARTITION_BYTES  # sparse: what no partition uses takes no room on the disk

# -- head: looked at by readers on each call ------------------------------------------------------------------------------------------
EPOCH: Final = 0  # grows whenever readers have to look at files again; alone on its cache line
# -- head: set when the topic is first seen -------------------------------------------------------------------------------------------
FORMAT_CELL: Final = 8
PARTITIONS: Final = 9
PARTITIONER: Final = 10  # 0: xxh64, 1: murmur2
BOOT: Final = 11  # the run of the machine in which the index was last written
TOPIC: Final = 12  # identity of the topic (of its topic.json): another one means that the log was made anew
# -- head: the tailer's state ---------------------------------------------------------------------------------------------------------
PID: Final = 16
ALIVE_US: Final = 17  # the tailer's last sign of life
CAUGHT_UP_US: Final = 18  # everything that was appended before this moment can be read
STALLED: Final = 19  # a value of `Stalled`
HISTOGRAM: Final = 64  # [64] records by time from append to readable: bucket i holds those of less than 2**((i + 1) / 4) ms
HISTOGRAM_CELLS: Final = 64

# -- partitions: cells of one, counted from its first -----------------------------------------------------------------------------------
GENERATION: Final = 0  # of its index and side heap; 0: there is none
FIRST_BASE: Final = 2  # base offset of the first segment of the log that counts
ACTIVE_BASE: Final = 3  # and of the last: files beyond it may be begun and given up again; -1: there is none
REBUILDING: Final = 1  # 1: the index is being made from the log, and readers see none (or an old one) until it is whole
SEEN_POSITION: Final = 8  # the log's bytes before this are committed; stored before any slot that leads to them
APPLIED_OFFSET: Final = 9  # everything below can be read; stored after the slots
APPLIED_POSITION: Final = 10  # begin of a batch: where a tailer goes on
HEARTBEAT_MS: Final = 11  # timestamp of the newest heartbeat
APPENDED_MS: Final = 12  # when the newest batch that can be read was appended
HORIZON_MS: Final = 13  # nobody can see what is older: windows of all retained versions begin later
RECORDS: Final = 16  # applied since the index was made, heartbeats not counted
MERGED: Final = 17  # of them through `merge`
SKIPPED: Final = 18  # of a format or operation that this Fondaco does not know
DAMAGED: Final = 19  # with a wrong checksum
LOST: Final = 20  # offsets that were deleted from the log before they were applied
ENTRIES: Final = 21  # keys in the index
BUILT: Final = 22  # generations made


class Cells:
    """The mapped cells of one overlay. `words` is int64 [CELLS_BYTES / 8]; `address` is that of word 0."""

    def __init__(self, path: Path, words: npt.NDArray[np.int64], identity: tuple[int, int]) -> None:
        """Use `open_cells`."""
        self.path, self.words, self.identity = path, words, identity
        self.address = int(words.__array_interface__["data"][0])
        self.view = memoryview(words).cast("B").cast("q")  # type: ignore[arg-type]  # stubs; one load per look, and no NumPy scalar

    def partition(self, partition: int) -> int:
        """Index of a partition's first cell in `view`."""
        return (HEAD_BYTES + partition * PARTITION_BYTES) // 8

    def partition_address(self, partition: int, cell: int) -> int:
        """Address of a partition's cell."""
        return self.address + HEAD_BYTES + partition * PARTITION_BYTES + 8 * cell

    @property
    def replaced(self) -> bool:
        """Whether another file, or none, lies at the path now."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self.identity


def open_cells(directory: Path, *, writable: bool) -> Cells | None:
    """Map the cells of an overlay, after making them if they are missing and that can be done; None if they are not there.

    Raises:
        FormatVersionError: written by a newer Fondaco.
        DiskFullError, ReadOnlyError: only if `writable`.
    """
    path = directory / CELLS_FILE
    if not path.exists():
        try:
            _create(path)
        except OSError:
            if writable:
                with os_errors(path):
                    raise
            return None
    with os_errors(path):
        descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if status.st_size < CELLS_BYTES:
            if not writable:
                return None
            os.ftruncate(descriptor, CELLS_BYTES)
        mapped = mmap.mmap(descriptor, CELLS_BYTES, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
    cells = Cells(path, np.frombuffer(mapped, np.int64), (status.st_dev, status.st_ino))
    if cells.view[FORMAT_CELL] > FORMAT:
        raise FormatVersionError(str(path), cells.view[FORMAT_CELL], FORMAT)
    return cells


def read_cells(directory: Path) -> memoryview | None:
    """A copy of the cells, int64; None if there are none, or the topic was not seen yet."""
    try:
        with open(directory / CELLS_FILE, "rb", buffering=0) as file:
            head = file.read(HEAD_BYTES)
            count = int.from_bytes(head[8 * PARTITIONS : 8 * PARTITIONS + 8], "little")
            if len(head) < HEAD_BYTES or not 0 < count <= PARTITIONS_MAX:
                return None
            rest = file.read(count * PARTITION_BYTES)
    except OSError:
        return None
    return memoryview(head + rest).cast("q") if len(rest) == count * PARTITION_BYTES else None


def read_caught_up_us(directory: Path) -> int:
    """Everything that was appended before this moment (us since 1970) can be read; 0: no tailer has come so far. Also without a topic."""
    try:
        with open(directory / CELLS_FILE, "rb", buffering=0) as file:
            return int.from_bytes(file.read(HEAD_BYTES)[8 * CAUGHT_UP_US : 8 * CAUGHT_UP_US + 8], "little")
    except OSError:
        return 0


def _create(path: Path) -> None:
    """Make a file of zeros appear at once, unless somebody else is quicker."""
    path.parent.mkdir(exist_ok=True)  # not its parents: a store that was deleted must not come back as a directory
    temporary = path.with_name(f".{CELLS_FILE}.{os.getpid()}.{os.urandom(6).hex()}")
    try:
        with open(temporary, "xb") as file:
            file.truncate(CELLS_BYTES)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

"""Appending: records behind the committed end, all of a batch or nothing, one write and one sync for all threads that wait.

Threads that append to one partition at the same time queue up; the one that gets the mutex first frames and writes the batches of all,
syncs once if any of them asked for it, publishes, and the others find their answer there. Other processes wait for the partition's lock.
What a reader may see, and what a crash leaves: docs/internals/log-format.md, "Appending".
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from fondaco.core.errors import FondacoError, InputError, LimitError, StateError, StorageError
from fondaco.core.files import os_errors
from fondaco.log import _kernels, state
from fondaco.log.index import IndexBuilder
from fondaco.log.log import Durability
from fondaco.log.partition import Partition
from fondaco.log.records import RecordBatch
from fondaco.log.retention import expire
from fondaco.log.segments import address_of, segment_path, write_at

BATCH_BYTES_MAX: Final = 1 << 30
_GROUP_BYTES: Final = 4 << 20  # of waiting batches that share a write; one larger batch goes alone
_KEPT_BYTES: Final = 8 << 20  # of the buffer for framing, between calls
_RESERVED_BATCH_BYTES: Final = 64 << 10  # synced batches up to this size go into space reserved before; for larger ones zeros cost more
_IDLE_S: Final = 60.0  # a closed segment not appended to for so long has been written by the kernel, which waits 30 s; syncing it is quick


class Ticket:
    """One call of `append` in the queue."""

    __slots__ = ("base_offset", "batch", "bytes", "durable", "error", "offsets", "range")

    def __init__(self, batch: RecordBatch, durable: bool, offsets: npt.NDArray[np.int64] | None) -> None:
        self.batch, self.durable, self.offsets = batch, durable, offsets
        self.bytes = int(
            _kernels.framed_bytes(
                len(batch), address_of(batch.key_offsets), address_of(batch.value_offsets), _address(batch.header_offsets)
            )
        )
        self.range: range | None = None
        self.error: BaseException | None = None
        self.base_offset = 0

    @property
    def first(self) -> int:
        """The offset of its first record."""
        return self.base_offset if self.offsets is None else int(self.offsets[0])

    @property
    def done(self) -> bool:
        """Whether it is known how it ended."""
        return self.range is not None or self.error is not None


class Appender:
    """Appends to one partition. Any thread."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._waiting: deque[Ticket] = deque()
        self._leader = threading.Lock()
        self._buffer = np.empty(0, np.uint8)
        self.appended = False  # by this object; what `close` syncs

    def append(self, batch: RecordBatch, *, durability: Durability, offsets: npt.NDArray[np.int64] | None = None) -> range:
        """See `Log.append`. `offsets`: int64 [n], for mirrors of other logs; increasing, from the high watermark on.

        Raises:
            DiskFullError, ReadOnlyError, InputError, LimitError, TopicNotFoundError: nothing was appended.
        """
        if durability not in ("os", "disk"):
            raise InputError(f'durability is "os" or "disk", not {durability!r}')
        offsets = _checked_offsets(offsets, len(batch))
        self._check(batch)
        if len(batch) == 0:
            high = self._partition.high
            return range(high, high)
        ticket = Ticket(batch, durability == "disk", offsets)
        if ticket.bytes > BATCH_BYTES_MAX:
            raise LimitError("bytes of one batch", ticket.bytes, BATCH_BYTES_MAX, "Append it in several.")
        self._waiting.append(ticket)
        with self._leader:
            while not ticket.done:
                self._commit_group()
        if ticket.error is not None:
            raise ticket.error
        assert ticket.range is not None
        return ticket.range

    def _check(self, batch: RecordBatch) -> None:
        if self._partition.config.cleanup == "compact" and batch.key_nulls is not None and batch.key_nulls.any():
            row = int(np.argmax(batch.key_nulls))
            raise InputError(f"record {row} for topic {self._partition.topic!r} has no key, and a compacted topic keeps records by key")

    # -- the leader's part ---------------------------------------------------------------------------------------------------------------

    def _commit_group(self) -> None:
        """Append the batches that wait, the first one at least, and give each its answer."""
        group = [self._waiting.popleft()]
        size = group[0].bytes
        while self._waiting and size + self._waiting[0].bytes <= _GROUP_BYTES:
            group.append(self._waiting.popleft())
            size += group[-1].bytes
        try:
            with self._partition.locked():
                self._append_runs(group)
        except BaseException as exc:
            for ticket in group:
                if not ticket.done:
                    ticket.error = exc if isinstance(exc, Exception) else _interrupted(self._partition.topic)
            if not isinstance(exc, Exception):
                raise

    def _append_runs(self, group: Sequence[Ticket]) -> None:
        """Write runs of batches that fit into one segment each."""
        run: list[Ticket] = []
        run_bytes = 0
        for ticket in group:
            if run and self._segment_bytes() + run_bytes + ticket.bytes > self._partition.config.segment_bytes:
                self._append_run_or_each(run)
                run, run_bytes = [], 0
            run.append(ticket)
            run_bytes += ticket.bytes
        self._append_run_or_each(run)

    def _append_run_or_each(self, run: Sequence[Ticket]) -> None:
        """If a run does not fit on the disk, perhaps some of it does."""
        try:
            self._append_run(run)
        except FondacoError as exc:
            if len(run) == 1:
                run[0].error = exc
                return
            for ticket in run:
                self._append_run_or_each([ticket])

    def _segment_bytes(self) -> int:
        """Length of the active segment; 0 if there is none."""
        cells = self._partition.cells
        return int(cells[state.HIGH_POSITION] - self._partition.active()[1]) if cells[state.ACTIVE_BASE] >= 0 else 0

    def _append_run(self, run: Sequence[Ticket]) -> None:
        partition, cells = self._partition, self._partition.cells
        now_ms = max(partition.clock.now_us() // 1000, cells[state.APPENDED_MS])
        size = sum(ticket.bytes for ticket in run)
        used = self._segment_bytes()
        offset = cells[state.HIGH_OFFSET]
        for ticket in run:  # before anything is changed: a mirror's offsets may be wrong
            ticket.base_offset = offset
            offset = _offset_after(ticket, offset)
        with partition.changing():
            try:
                if used == 0 or (used + size > partition.config.segment_bytes and used > _kernels.SEGMENT_HEADER_BYTES):
                    self._next_segment(now_ms)
                durable = any(ticket.durable for ticket in run)
                timestamps, data = self._frame(run, size, now_ms)
                self._write(data, durable=durable)
            except BaseException:
                cells[state.PENDING_POSITION] = -1
                cells[state.WRITING] = 0 if partition.agrees() else os.getpid()  # not cut back: the next holder does it
                raise
            index = self._index(run, timestamps)
            position = cells[state.HIGH_POSITION] + size
            cells[state.APPENDED_MS] = now_ms
            cells[state.SEGMENT_TIMESTAMP_MAX] = index.timestamp_max  # too high does no harm, too low would hide records from a search
            cells[state.PENDING_POSITION] = -1  # or the position of the batch before would vouch for the offset of this one
            cells[state.PENDING_OFFSET] = offset
            cells[state.PENDING_POSITION] = position
            cells[state.HIGH_POSITION] = position
            cells[state.HIGH_OFFSET] = offset
            if durable:
                partition.note_synced(offset, position)
        self.appended = True
        partition.write_index(index)
        for ticket in run:
            ticket.range = range(ticket.first, _offset_after(ticket, ticket.base_offset))

    def _next_segment(self, now_ms: int) -> None:
        partition = self._partition
        partition.begin_segment(now_ms)
        self._sync_idle()
        expire(partition, now_ms)

    def _frame(self, run: Sequence[Ticket], size: int, now_ms: int) -> tuple[list[int], npt.NDArray[np.uint8]]:
        """All batches of a run as they will lie in the file, and the greatest timestamp of each."""
        if len(self._buffer) < size:
            self._buffer = np.empty(size, np.uint8)
        buffer = self._buffer[:size]
        if size > _KEPT_BYTES:
            self._buffer = np.empty(0, np.uint8)
        at = address_of(buffer)
        timestamps = []
        for ticket in run:
            batch = ticket.batch
            timestamps.append(
                int(
                    _kernels.frame(
                        at, len(batch), ticket.base_offset, _address(ticket.offsets), now_ms, _address(batch.timestamps_ms),
                        address_of(batch.keys), address_of(batch.key_offsets), _address(batch.key_nulls),
                        address_of(batch.values), address_of(batch.value_offsets), _address(batch.value_nulls),
                        address_of(batch.headers), _address(batch.header_offsets),
                    )
                )
            )  # fmt: skip
            at += ticket.bytes
        return timestamps, buffer

    def _write(self, data: npt.NDArray[np.uint8], *, durable: bool) -> None:
        """Put bytes behind the committed end, on the disk if `durable`; if that fails, cut the file back."""
        partition = self._partition
        base, base_position, descriptor = partition.active()
        end = partition.cells[state.HIGH_POSITION] - base_position
        path = segment_path(partition.directory, base)
        try:
            with os_errors(path):
                if durable and len(data) <= _RESERVED_BATCH_BYTES:
                    partition.reserve(len(data))
                write_at(descriptor, data.data, end)
                if durable:
                    partition.sync_up_to_active()
                    os.fdatasync(descriptor)
        except BaseException as exc:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, end)
                partition.cells[state.RESERVED_POSITION] = 0
            if isinstance(exc, OSError):  # after a failed sync nobody knows what of earlier "os" appends is on the disk
                raise StorageError(f"{path} could not be written or synced: {exc}; the batch was not appended. Check the disk.") from exc
            raise

    def _index(self, run: Sequence[Ticket], timestamps: Sequence[int]) -> IndexBuilder:
        """The entries for batches that lie behind the committed end."""
        builder = self._partition.index_builder()
        byte = self._segment_bytes()
        for ticket, timestamp_max in zip(run, timestamps, strict=True):
            builder.add(ticket.first, byte, timestamp_max)
            byte += ticket.bytes
        return builder

    def _sync_idle(self) -> None:
        """Sync closed segments that nobody has appended to for a minute, so that a restart has little to check."""
        partition = self._partition
        synced = partition.cells[state.SYNCED_POSITION]
        segments = partition.segments()
        for segment, after in pairwise(segments):
            if after.base_position > synced:
                if time.time() - segment.path.stat().st_mtime < _IDLE_S:
                    return
                partition.sync_segment(segment, after)


def _interrupted(topic: str) -> StateError:
    return StateError(f"the thread that was appending to topic {topic!r} for several others was interrupted; append again")


def _offset_after(ticket: Ticket, high: int) -> int:
    """The high watermark after a batch that is appended at `high`."""
    if ticket.offsets is None:
        return high + len(ticket.batch)
    if ticket.first < high:
        raise InputError(f"offset {ticket.first} is there already or was passed over: the next offset is {high}, or a greater one")
    return int(ticket.offsets[-1]) + 1


def _checked_offsets(offsets: npt.NDArray[np.int64] | None, count: int) -> npt.NDArray[np.int64] | None:
    if offsets is None:
        return None
    offsets = np.ascontiguousarray(offsets)
    if offsets.shape != (count,) or offsets.dtype != np.int64:
        raise InputError(f"offsets: expected int64 [{count}], got {offsets.dtype} {list(offsets.shape)}")
    if count and (offsets[0] < 0 or (offsets[1:] <= offsets[:-1]).any()):
        raise InputError("offsets of a batch increase from record to record, and none is negative")
    return offsets


def _address(array: npt.NDArray[np.generic] | None) -> int:
    """For kernels: 0 for what is not there."""
    return 0 if array is None else address_of(array)

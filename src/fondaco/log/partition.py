"""Partition: one partition of the embedded log as this process sees it: its cells, its lock, its files.

Whoever changes files holds `locked()`: one thread of one process at a time, by a mutex here and flock(2) on the state file, which the
kernel lets go when its holder dies. Readers take no lock; they look at the cells and then at the files. A partition that cannot be written
is read all the same. Any thread; not to be used across a fork.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from fondaco.core.clock import Clock
from fondaco.core.errors import CorruptFileError, FormatVersionError, ReadOnlyError, StateError, TopicNotFoundError
from fondaco.core.files import os_errors, sync_directory
from fondaco.log import state
from fondaco.log._kernels import SEGMENT_HEADER_BYTES
from fondaco.log.index import ENTRY_BYTES, IndexBuilder
from fondaco.log.log import TopicConfig
from fondaco.log.recovery import is_current, is_whole, recover
from fondaco.log.segments import Segment, live_segments, opened, pack_header, segment_path, write_at
from fondaco.log.view import PartitionView, SegmentFile

_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_RESERVE_MIN = 64 << 10
_RESERVE_MAX = 1 << 20
_ATTEMPTS = 100  # of a reader to catch the files of one generation; each new attempt means that somebody changed them


class Partition:
    """See the module. Made by `open`."""

    def __init__(self, directory: Path, topic: str, number: int, config: TopicConfig, clock: Clock) -> None:
        self.directory, self.topic, self.number, self.config, self.clock = directory, topic, number, config, clock
        self.cells: memoryview = memoryview(b"")
        self.writable = False
        self._reckoned = False  # the cells are our own reckoning: nobody has written them yet, or nobody since the machine started
        self._state: int | None = None  # descriptor of the state file, which is also what the lock is on
        self._mutex = threading.Lock()
        self._active: tuple[int, int, int] | None = None  # base offset, base position and descriptor of the segment appended to
        self._known: tuple[tuple[int, int, int], list[Segment]] | None = None

    @classmethod
    def open(
        cls, directory: Path, topic: str, number: int, config: TopicConfig, *, clock: Clock, read_only: bool = False
    ) -> Partition:  # fmt: skip
        """Open the partition in a directory, and bring its cells in line with its files if nobody has since the machine started.

        Raises:
            CorruptFileError: what was promised to be on disk is damaged. FormatVersionError: a newer Fondaco wrote it.
        """
        partition = cls(directory, topic, number, config, clock)
        try:
            if read_only or not partition._open_to_write():
                partition._open_to_read()
        except BaseException:
            partition.close()
            raise
        return partition

    # -- what everybody asks -------------------------------------------------------------------------------------------------------------

    @property
    def low(self) -> int:
        """Low watermark."""
        return int(self.cells[state.LOW_OFFSET])

    @property
    def high(self) -> int:
        """High watermark."""
        return int(self.cells[state.HIGH_OFFSET])

    @property
    def deleted(self) -> bool:
        """Whether the topic was deleted, by whatever process."""
        return bool(self.cells[state.DELETED] == 1 and self.cells[state.MAGIC] == state.STATE_MAGIC)

    @property
    def closed(self) -> bool:
        """Whether this object was closed."""
        return self._state is None and self.writable

    def view(self) -> PartitionView:
        """The partition for readers that map its files themselves."""
        cells = self.cells
        return PartitionView(
            cells,
            lambda: [SegmentFile(s.base_offset, s.base_position, s.path) for s in self.segments()],
            lambda: self.look_again() or self.cells is not cells,
        )

    def look_again(self) -> bool:
        """Take the cells that others write, if we had to reckon our own so far and theirs can be trusted by now; whether that was so. Who
        may not write cannot wait for that: an appender makes them at its first append, and again after each restart of the machine."""
        if not self._reckoned:
            return False
        with self._mutex:
            if not self._reckoned:
                return False
            try:
                cells, descriptor = state.map_state(self.directory / state.STATE_FILE, writable=False)
            except (FileNotFoundError, ValueError):
                if not self.directory.exists():
                    self.cells[state.MAGIC], self.cells[state.DELETED] = state.STATE_MAGIC, 1
                return False
            if not is_current(cells) or not is_whole(self.directory, cells):
                os.close(descriptor)
                return False
            if self._state is not None:
                os.close(self._state)
            self.cells, self._state, self._reckoned, self._known = cells, descriptor, False, None
            return True

    def segments(self) -> list[Segment]:
        """The segments of this moment, oldest first."""
        for _ in range(_ATTEMPTS):
            stamp = self.stamp()
            known = self._known
            if known is not None and known[0] == stamp:
                return known[1]
            headers = {s.base_offset: s for s in known[1]} if known is not None and known[0][0] == stamp[0] else {}
            with contextlib.suppress(FileNotFoundError):  # removed while we looked: the stamp is another now
                live = live_segments(self.directory, stamp[2], stamp[1], headers)  # one that is being begun does not count yet
                if self.stamp() == stamp:
                    self._known = (stamp, live)
                    return live
        raise CorruptFileError(str(self.directory), "segments", "files that the state counts are missing")

    def stamp(self) -> tuple[int, int, int]:
        """Changes whenever the list of segments does: generation, and the base offsets of the active and of the oldest segment."""
        return self.cells[state.GENERATION], self.cells[state.ACTIVE_BASE], self.cells[state.FIRST_BASE]

    # -- what the holder of the lock does ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the partition against every other process and thread; files and cells agree when the block begins.

        Raises:
            ReadOnlyError: it cannot be written. TopicNotFoundError: the topic was deleted.
        """
        with self._mutex:
            if self._state is None:
                raise StateError(f"the log with topic {self.topic!r} is closed; open it again")
            if not self.writable:
                raise ReadOnlyError(str(self.directory))
            fcntl.flock(self._state, fcntl.LOCK_EX)
            try:
                if self.deleted:
                    raise TopicNotFoundError(self.topic)
                if self.cells[state.WRITING] or not is_current(self.cells) or not self.agrees():
                    self._let_go()
                    recover(self.directory, self.cells, repair=True)
                yield
            finally:
                fcntl.flock(self._state, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Mark that files change from here on; under the lock. If the block does not come to its end, the next holder recovers."""
        self.cells[state.WRITING] = os.getpid()
        yield
        self.cells[state.WRITING] = 0

    def agrees(self) -> bool:
        """Whether the active segment ends where the cells say."""
        if self.cells[state.ACTIVE_BASE] < 0:
            return True
        try:
            _, base_position, descriptor = self.active()
        except FileNotFoundError:
            return False
        end = max(self.cells[state.HIGH_POSITION], self.cells[state.RESERVED_POSITION])
        return bool(os.fstat(descriptor).st_size == end - base_position)

    def active(self) -> tuple[int, int, int]:
        """Base offset, base position and open descriptor of the segment that is appended to; under the lock, and when there is one."""
        base = self.cells[state.ACTIVE_BASE]
        if self._active is None or self._active[0] != base:
            self._let_go()
            path = segment_path(self.directory, base)
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self._active = (base, _base_position(descriptor), descriptor)
        return self._active

    def begin_segment(self, now_ms: int) -> None:
        """Close the active segment, if it holds anything, and begin the next; under the lock, inside `changing`.

        Raises:
            DiskFullError: the one before stays active.
        """
        cells = self.cells
        base, position = cells[state.HIGH_OFFSET], cells[state.HIGH_POSITION]
        if cells[state.ACTIVE_BASE] == base:
            return
        path = segment_path(self.directory, base)
        if cells[state.RESERVED_POSITION] > position:
            _, base_position, active = self.active()
            os.ftruncate(active, position - base_position)
            cells[state.RESERVED_POSITION] = 0
        with os_errors(path):
            path.with_suffix(".index").unlink(missing_ok=True)
            try:
                with opened(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as descriptor:
                    write_at(descriptor, pack_header(base, position, now_ms), 0)
                sync_directory(self.directory)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        if cells[state.ACTIVE_BASE] >= 0:
            self._close_index(base, position)
        cells[state.SEGMENT_TIMESTAMP_MAX], cells[state.INDEX_ENTRIES], cells[state.INDEX_BYTE] = state.NO_TIMESTAMP, 0, 0
        if cells[state.FIRST_BASE] < 0:
            cells[state.FIRST_BASE] = base
        cells[state.ACTIVE_BASE] = base  # before the position: an end that lies before a file's begin reads as an empty file
        cells[state.HIGH_POSITION] = position + SEGMENT_HEADER_BYTES

    def reserve(self, needed: int) -> None:
        """Extend the active segment with zeros if `needed` bytes do not fit into what is reserved; under the lock, inside `changing`.

        A file whose length stays is synced without a commit of the file system's journal, and with that without waiting for what everybody
        else has written. So the file grows ahead, by as much as it holds. Without space it does not; whether the bytes themselves fit, the
        write will tell.
        """
        _, base_position, descriptor = self.active()
        end = self.cells[state.HIGH_POSITION] - base_position
        size = max(end, self.cells[state.RESERVED_POSITION] - base_position)
        if end + needed <= size:
            return
        target = min(end + needed + min(max(end, _RESERVE_MIN), _RESERVE_MAX), max(self.config.segment_bytes, end + needed))
        try:
            write_at(descriptor, bytes(target - size), size)
        except OSError:
            os.ftruncate(descriptor, size)
        else:
            self.cells[state.RESERVED_POSITION] = base_position + target

    def give_back_reserve(self) -> None:
        """Cut the active segment off at the committed end; under the lock."""
        if self.cells[state.ACTIVE_BASE] >= 0 and self.cells[state.RESERVED_POSITION] > self.cells[state.HIGH_POSITION]:
            _, base_position, descriptor = self.active()
            with self.changing():
                os.ftruncate(descriptor, self.cells[state.HIGH_POSITION] - base_position)
                self.cells[state.RESERVED_POSITION] = 0

    def write_index(self, builder: IndexBuilder) -> None:
        """Append the entries chosen for the active segment; under the lock. A full disk costs only the entries."""
        cells = self.cells
        if builder.entries:
            path = segment_path(self.directory, cells[state.ACTIVE_BASE]).with_suffix(".index")
            with contextlib.suppress(OSError), opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
                write_at(descriptor, builder.packed(), ENTRY_BYTES * cells[state.INDEX_ENTRIES])
                cells[state.INDEX_BYTE] = builder.last_byte
                cells[state.INDEX_ENTRIES] += len(builder.entries)

    def index_builder(self) -> IndexBuilder:
        """What goes on with the active segment's index; under the lock."""
        cells = self.cells
        timestamp_max = cells[state.SEGMENT_TIMESTAMP_MAX]
        if cells[state.INDEX_ENTRIES] == 0:
            return IndexBuilder(timestamp_max=timestamp_max)
        return IndexBuilder(last_byte=cells[state.INDEX_BYTE], timestamp_max=timestamp_max)

    def sync_up_to_active(self) -> None:
        """Sync closed segments that are not on disk yet; under the lock. The caller syncs the active one and says so in the cells."""
        active = self.cells[state.ACTIVE_BASE]
        synced = self.cells[state.SYNCED_POSITION]
        base_position = self.active()[1]
        if synced < base_position:
            segments = self.segments()
            for segment, after in pairwise(segments):
                if after.base_position > synced and segment.base_offset < active:
                    self.sync_segment(segment, after)

    def sync_segment(self, segment: Segment, after: Segment) -> None:
        """Sync one closed segment, all before it being on disk; `after` is the next one."""
        with os_errors(segment.path), opened(segment.path) as descriptor:
            os.fdatasync(descriptor)
        self.note_synced(after.base_offset, after.base_position)

    def note_synced(self, offset: int, position: int) -> None:
        """Everything below is on disk. The position goes last: recovery reads from it, and finds the offset by itself."""
        self.cells[state.SYNCED_OFFSET] = offset
        self.cells[state.SYNCED_POSITION] = position

    def sync_state(self) -> None:
        """Make the cells durable; before files that they no longer count are removed."""
        if self._state is not None:
            with os_errors(self.directory):
                os.fsync(self._state)

    def sync(self) -> None:
        """Make everything appended durable."""
        with self.locked():
            if self.cells[state.ACTIVE_BASE] < 0 or self.cells[state.SYNCED_POSITION] >= self.cells[state.HIGH_POSITION]:
                return
            self.sync_up_to_active()
            with os_errors(self.directory):
                os.fdatasync(self.active()[2])
            self.note_synced(self.cells[state.HIGH_OFFSET], self.cells[state.HIGH_POSITION])

    def finish(self) -> None:
        """What a process that has appended does before it goes: sync, and give back what it reserved."""
        self.sync()
        with self.locked():
            self.give_back_reserve()

    def mark_deleted(self) -> None:
        """Tell every process that has the partition open that the topic is gone."""
        with self.locked():
            self.cells[state.DELETED] = 1

    def close(self) -> None:
        """Let go of all files."""
        with self._mutex:
            self._let_go()
            self._reckoned = False
            if self._state is not None:
                os.close(self._state)
                self._state = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # a store that was pickled opens a log where it arrives, and has no `close`
            self.close()

    # -- private -------------------------------------------------------------------------------------------------------------------------

    def _open_to_write(self) -> bool:
        """Open the state, made anew if it is missing; False where that is not allowed."""
        path = self.directory / state.STATE_FILE
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            if exc.errno in _REFUSED:
                return False
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_size < state.STATE_BYTES:
                with os_errors(path):
                    write_at(descriptor, bytes(state.STATE_BYTES), 0)  # written, not left a hole: storing into a cell must not need space
        finally:
            os.close(descriptor)
        self.cells, self._state = state.map_state(path, writable=True)
        self.writable = True
        self._check_format()
        if not is_current(self.cells) or not is_whole(self.directory, self.cells):
            with self.locked():
                pass
        return True

    def _open_to_read(self) -> None:
        path = self.directory / state.STATE_FILE
        try:
            self.cells, self._state = state.map_state(path, writable=False)
        except (FileNotFoundError, ValueError):  # ValueError: shorter than its cells
            self.cells = memoryview(bytearray(state.STATE_BYTES)).cast("q")
        self._check_format()
        if not is_current(self.cells) or not is_whole(self.directory, self.cells):
            private = bytearray(self.cells.tobytes())
            self.cells, self._reckoned = memoryview(private).cast("q"), True
            recover(self.directory, self.cells, repair=False)

    def _check_format(self) -> None:
        if self.cells[state.MAGIC] == state.STATE_MAGIC and self.cells[state.FORMAT] > state.STATE_FORMAT:
            raise FormatVersionError(str(self.directory / state.STATE_FILE), self.cells[state.FORMAT], state.STATE_FORMAT)

    def _close_index(self, next_offset: int, position: int) -> None:
        _, base_position, _ = self.active()
        builder = self.index_builder()
        builder.close(next_offset, position - base_position)
        self.write_index(builder)

    def _let_go(self) -> None:
        if self._active is not None:
            os.close(self._active[2])
            self._active = None


def _base_position(descriptor: int) -> int:
    return int.from_bytes(os.pread(descriptor, 8, 24), "little")

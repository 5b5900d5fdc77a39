"""Tailers: follow a store's topic and keep the overlay's index, one process at a time.

    with Tailer.open(store / "overlay", platform / "log", "members.rt", log) as tailer:      # LockedError: somebody else tails
        tailer.run(stop)

`Tailer` is synchronous and belongs to one thread. `TailerThread` runs one beside the readers and writers of a process as long as nobody
else does: it tries for the lock every 50 ms, so when the process that tails dies, another goes on within that time, from where the cells
say. Between looks at the log it sleeps without the GIL, 0.3 ms while the log moves and up to 4 ms when it has not for a while.

What makes all of this safe to kill at any moment: `_tailer_partition` and docs/internals/overlay.md.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from fondaco.core.clock import Clock, SystemClock
from fondaco.core.errors import LockedError, ReadOnlyError, TopicNotFoundError
from fondaco.core.files import FileLock, os_errors
from fondaco.log.state import boot_id
from fondaco.store import _overlay_cells as cells_of
from fondaco.store import _wait_kernels as waits
from fondaco.store._atomics import store_word
from fondaco.store._overlay_cells import LOCK_FILE, Cells, open_cells
from fondaco.store._overlay_files import remove_others
from fondaco.store._tailer_partition import PartitionTailer
from fondaco.store.basefile import address_of

if TYPE_CHECKING:
    from fondaco.log import PartitionView, TopicConfig

LOCK_SECONDS: Final = 0.05  # between attempts to become the one who tails
POLL_US_MIN: Final = 300  # between looks while the log moves
POLL_US_MAX: Final = 4_000  # and when it has not moved for a while
SLICE_US: Final = 50_000  # in which Python gets a word in: signals, the stop event, the sign of life
_TOPIC_SECONDS: Final = 0.02  # between looks for a topic that is not there yet
_ASK_SECONDS: Final = 1.0  # between questions to the log itself, which may be a broker
_RETRY_SECONDS: Final = 1.0
_LOGGER: Final = logging.getLogger(__name__)


class TailedLog(Protocol):
    """What a tailer needs of a log: its segments as local files. `EmbeddedLog`, and Kafka's adapter by its mirror."""

    @property
    def partitioner(self) -> str:
        """ "xxh64" or "murmur2"."""
        ...

    def describe_topic(self, name: str) -> TopicConfig:
        """Raises TopicNotFoundError."""
        ...

    def partition_files(self, topic: str, partition: int) -> PartitionView:
        """The live cells and files of a partition."""
        ...


class Tailer:
    """Tails one store. Holds `tailer.lock` from `open` to `close`."""

    def __init__(
        self, directory: Path, log_directory: Path, topic: str, log: TailedLog, clock: Clock, lock: FileLock, cells: Cells
    ) -> None:
        """Use `Tailer.open`."""
        self.topic = topic
        self.partitions: list[PartitionTailer] = []
        self._files: list[PartitionView] = []
        self._directory, self._log_directory, self._log, self._clock = directory, log_directory, log, clock
        self._lock, self._cells = lock, cells
        self._stop = np.zeros(1, np.int64)
        self._asked_at = -_ASK_SECONDS
        self._started_ms = clock.now_us() // 1000
        self._moved_at = time.monotonic()

    @classmethod
    def open(cls, directory: Path | str, log_directory: Path | str, topic: str, log: TailedLog, *, clock: Clock | None = None) -> Tailer:
        """Become the one who tails a store.

        Args:
            directory: `stores/<store>/overlay`; made if it is missing (the store's own directory is not).
            log_directory: `<platform>/log`. topic: of the store; it need not exist yet.
        Raises:
            LockedError: another process, or another tailer of this one, tails it.
            ReadOnlyError, DiskFullError: the overlay's directory cannot be written. FileNotFoundError: there is no store.
            FormatVersionError: a newer Fondaco wrote the overlay.
        """
        directory = Path(directory)
        with os_errors(directory):
            directory.mkdir(exist_ok=True)
        lock = FileLock(directory / LOCK_FILE)
        lock.acquire()
        try:
            cells = open_cells(directory, writable=True)
            assert cells is not None
            cells.view[cells_of.PID] = os.getpid()
            tailer = cls(directory, Path(log_directory), topic, log, clock or SystemClock(), lock, cells)
            tailer._epoch()  # the tailer before this one may have been killed before it said so
            tailer._find_topic()
        except BaseException:
            lock.release()
            raise
        return tailer

    # -- work -----------------------------------------------------------------------------------------------------------------------

    def run_once(self) -> int:
        """Apply what the log holds now; return how many records it was. It stops early when `stop` was called, or the disk is full."""
        total = self.step()
        ends = {partition: partition.end for partition in self.partitions}
        idle = 0
        while idle < 2 and self._stop[0] == 0:
            behind = [partition for partition, end in ends.items() if partition.position < end and not partition.stalled]
            if not behind or not self.partitions:
                break
            before = [partition.position for partition in behind]
            total += self.step()
            idle = idle + 1 if before == [partition.position for partition in behind] else 0  # once is fine: an index was full
        return total

    def step(self) -> int:
        """Apply a step (8 MiB of the log) in every partition that has more; return how many records it was."""
        if any(files.is_stale for files in self._files):
            self._close_partitions()
        if not self._find_topic():
            return 0
        total, now_us, view = 0, self._clock.now_us, self._cells.view
        begun_us = now_us()
        for partition in self.partitions:
            with contextlib.suppress(FileNotFoundError):  # the log's retention removed a segment between the look and the map
                total += partition.step(now_us, self._started_ms)
        if all(partition.caught_up for partition in self.partitions):
            view[cells_of.CAUGHT_UP_US] = begun_us
        view[cells_of.STALLED] = int(any(partition.stalled for partition in self.partitions))
        view[cells_of.ALIVE_US] = now_us()
        if total:
            self._moved_at = time.monotonic()
        if any(partition.deleted for partition in self.partitions):
            self._forget_topic()
        return total

    def run(self, stop: threading.Event) -> None:
        """Tail until `stop` is set (or `stop` was called)."""
        while not stop.is_set() and self._stop[0] == 0:
            self.step()
            wait_all((self,))

    @property
    def caught_up(self) -> bool:
        """Whether everything that the log holds can be read; also while there is no topic."""
        return all(partition.caught_up for partition in self.partitions)

    @property
    def is_cut_off(self) -> bool:
        """Whether the overlay was removed, and perhaps made anew: nobody reads what this tailer goes on to make."""
        return self._cells.replaced

    def stop(self) -> None:
        """Make `run` return, and `run_once` break off, soon. From any thread."""
        self._stop[0] = 1

    @property
    def stop_word(self) -> int:
        """Address of the word that `stop` sets."""
        return address_of(self._stop)

    def words(self) -> tuple[list[int], list[int]]:
        """Addresses of the log's cells that change when there is more to apply, and what they hold while there is not."""
        return [partition.word for partition in self.partitions], [partition.seen for partition in self.partitions]

    def poll_us(self) -> int:
        """How long to sleep between looks now."""
        idle_s = time.monotonic() - self._moved_at
        return POLL_US_MIN if idle_s < 1 else min(POLL_US_MAX, int(idle_s * 1000))

    def applied(self, partition: int) -> int:
        """Every record of the partition with a lower offset can be read."""
        return self._cells.view[self._cells.partition(partition) + cells_of.APPLIED_OFFSET]

    def set_horizon(self, timestamp_ms: int) -> None:
        """Say that nobody can see writes from before `timestamp_ms`: the next generation of the index leaves them out."""
        for partition in range(len(self.partitions)):
            self._cells.view[self._cells.partition(partition) + cells_of.HORIZON_MS] = timestamp_ms

    # -- the topic --------------------------------------------------------------------------------------------------------------------

    def _find_topic(self) -> bool:
        """Whether the topic is there and its partitions are open; looks for it now and then."""
        if self.partitions:
            return True
        now = time.monotonic()
        place = self._log_directory / self.topic
        if not place.exists() and now - self._asked_at < _ASK_SECONDS:
            return self._wait_for_topic()
        self._asked_at = now
        try:
            config = self._log.describe_topic(self.topic)
            files = [self._log.partition_files(self.topic, partition) for partition in range(config.partitions)]
            identity = _identity(place)
        except (TopicNotFoundError, FileNotFoundError):
            return self._wait_for_topic()
        self._open_partitions(files, identity)
        return True

    def _wait_for_topic(self) -> bool:
        view = self._cells.view
        view[cells_of.ALIVE_US] = view[cells_of.CAUGHT_UP_US] = self._clock.now_us()
        return False

    def _open_partitions(self, files: Iterable[PartitionView], identity: int) -> None:
        view, files = self._cells.view, list(files)
        partitioner = int(self._log.partitioner == "murmur2")
        trusted = (view[cells_of.BOOT], view[cells_of.TOPIC], view[cells_of.PARTITIONS], view[cells_of.PARTITIONER]) == (
            boot_id(), identity, len(files), partitioner,
        )  # fmt: skip
        partitions = [
            PartitionTailer(self._directory, self._log_directory, self.topic, self._cells, number, files_of, self._epoch)
            for number, files_of in enumerate(files)
        ]
        generations = {p: view[self._cells.partition(p) + cells_of.GENERATION] for p in range(len(files))}
        remove_others(self._directory, generations)
        try:
            for partition in partitions:
                partition.open(trusted=trusted)
        except BaseException:
            for partition in partitions:
                partition.close()
            raise
        view[cells_of.FORMAT_CELL], view[cells_of.PARTITIONER] = cells_of.FORMAT, partitioner
        # Which run of the machine and which topic the index is of, only now that all partitions that cannot be trusted say so themselves
        view[cells_of.BOOT], view[cells_of.TOPIC] = boot_id(), identity
        view[cells_of.PARTITIONS] = len(files)
        self.partitions, self._files = partitions, files
        self._epoch()

    def _forget_topic(self) -> None:
        """The topic was deleted: nothing is over the base any more, until there is a topic of this name again."""
        self._close_partitions()
        self._cells.view[cells_of.PARTITIONS] = 0
        self._cells.view[cells_of.TOPIC] = 0
        self._epoch()
        remove_others(self._directory, {})

    def _epoch(self) -> None:
        store_word(self._cells.address + 8 * cells_of.EPOCH, self._cells.view[cells_of.EPOCH] + 1)

    # -- end ------------------------------------------------------------------------------------------------------------------------

    def _close_partitions(self) -> None:
        for partition in self.partitions:
            partition.close()
        self.partitions, self._files = [], []

    def close(self) -> None:
        """Let others tail. Everything applied stays readable."""
        self._close_partitions()
        if self._lock.held:
            self._cells.view[cells_of.PID] = 0
            self._lock.release()

    def __enter__(self) -> Tailer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def _identity(topic: Path) -> int:
    """A number of this topic, another if one of the same name is created later."""
    status = os.stat(topic / "topic.json")
    return hash((status.st_ino, status.st_mtime_ns)) or 1


# -- several at once ------------------------------------------------------------------------------------------------------------------


def wait_all(tailers: Iterable[Tailer], *, limit_us: int = SLICE_US) -> bool:
    """Sleep, without the GIL, until one of the logs has more, one tailer is to stop, or `limit_us` have passed. Whether one has more."""
    tailers = list(tailers)
    addresses: list[int] = []
    seen: list[int] = []
    for tailer in tailers:
        words, values = tailer.words()
        addresses += words
        seen += values
    if not tailers or any(not tailer.partitions for tailer in tailers):
        limit_us = min(limit_us, int(_TOPIC_SECONDS * 1e6))
    stop = tailers[0].stop_word if tailers else address_of(_NEVER)
    poll_us = min((tailer.poll_us() for tailer in tailers), default=POLL_US_MAX)
    return bool(waits.wait_any(np.array(addresses, np.int64), np.array(seen, np.int64), stop, poll_us, limit_us))


_NEVER: Final = np.zeros(1, np.int64)


class TailerThread:
    """Tails a store from a daemon thread of this process whenever no other process does. Close it with the last reader or writer."""

    def __init__(
        self, directory: Path | str, log_directory: Path | str, topic: str, open_log: Callable[[], TailedLog], *, clock: Clock | None = None
    ) -> None:
        """
        Args:
            directory, log_directory, topic: as `Tailer.open`.
            open_log: gives the log when this thread is the one who tails; the log is not closed here.
        """
        self._directory, self._log_directory, self._topic = Path(directory), Path(log_directory), topic
        self._open_log, self._clock = open_log, clock
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._tailer: Tailer | None = None
        self._thread = threading.Thread(target=self._run, name=f"fondaco tailer {topic}", daemon=True)

    def start(self) -> TailerThread:
        """Begin; returns at once."""
        self._thread.start()
        return self

    @property
    def tailing(self) -> bool:
        """Whether it is this thread that tails now."""
        return self._tailer is not None

    def close(self) -> None:
        """Stop, and let others tail. What the log holds then is applied by whoever tails next."""
        self._stop.set()
        with self._lock:
            if self._tailer is not None:
                self._tailer.stop()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        told = ""
        while not self._stop.is_set():
            pause = LOCK_SECONDS
            try:
                with Tailer.open(self._directory, self._log_directory, self._topic, self._open_log(), clock=self._clock) as tailer:
                    with self._lock:
                        self._tailer = tailer
                    try:
                        tailer.run(self._stop)
                    finally:
                        with self._lock:
                            self._tailer = None
            except LockedError:
                pass
            except (ReadOnlyError, FileNotFoundError):  # a directory that others write, or a store that was deleted
                pause = _RETRY_SECONDS
            except Exception as exc:  # whatever it is: readers depend on somebody who tries again
                pause = _RETRY_SECONDS
                if str(exc) != told:
                    told = str(exc)
                    _LOGGER.exception("tailing %s failed; trying again every %.0f s", self._topic, _RETRY_SECONDS)
            self._stop.wait(pause)


def warm() -> None:
    """Load the kernels that tailing needs (compile them, the first time on a machine): the first write is then as quick as the others."""
    from fondaco.log import EmbeddedLog, Record, TopicConfig
    from fondaco.store.overlay import Overlay
    from fondaco.store.writes import EditKind, Op, encode_envelope, pack_edit, pack_patch

    patch = encode_envelope(Op.PATCH, 1, 1, 1, pack_patch([pack_edit(EditKind.SET, b"a", b"", b"")]))
    with tempfile.TemporaryDirectory() as scratch, EmbeddedLog(Path(scratch) / "log") as log:
        log.create_topic("t", TopicConfig(1))
        with Tailer.open(Path(scratch) / "overlay", log.directory, "t", log) as tailer:
            log.append("t", 0, [Record(b"k", encode_envelope(Op.PUT, 1, 1, 0), 1), Record(b"k", patch, 1)])
            tailer.run_once()
            tailer.partitions[0].next_generation()
            wait_all((tailer,), limit_us=0)
            with Overlay.open(Path(scratch) / "overlay", log.directory, "t") as overlay:
                overlay.wait({0: 0}, 0.0)

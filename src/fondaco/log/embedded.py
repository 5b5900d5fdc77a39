"""EmbeddedLog: topics in a directory, without a server. Any number of processes may have it open, and append.

    <directory>/<topic>/topic.json        settings
    <directory>/<topic>/<partition>/      state, segments and their indexes (docs/internals/log-format.md)

A topic appears and goes by a rename, so it is there whole or not at all. Every method may be called from any thread; a process must open
its own (do not carry one across a fork).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgspec
import numpy as np
import numpy.typing as npt

from fondaco.core.clock import Clock, SystemClock
from fondaco.core.errors import (
    AlreadyExistsError,
    CorruptFileError,
    FormatVersionError,
    InputError,
    ReadOnlyError,
    StateError,
    TopicNotFoundError,
)
from fondaco.core.files import os_errors, remove_tree, sync_directory, write_atomically
from fondaco.log import retention
from fondaco.log.appending import Appender
from fondaco.log.compaction import compact
from fondaco.log.log import Durability, Partitioner, TopicConfig, check_topic
from fondaco.log.partition import Partition
from fondaco.log.reading import Reader
from fondaco.log.records import LogBatch, Record, RecordBatch
from fondaco.log.view import PartitionView

TOPIC_FILE: Final = "topic.json"
TOPIC_FORMAT: Final = 1
_DELETED: Final = ".deleted-"


class _TopicFile(msgspec.Struct, frozen=True):
    format: int
    config: TopicConfig


class _Open(NamedTuple):
    """A partition with what works on it."""

    partition: Partition
    reader: Reader
    appender: Appender


class EmbeddedLog:
    """A `Log` in a directory."""

    partitioner: Partitioner = "xxh64"

    def __init__(self, directory: Path | str, *, clock: Clock | None = None, read_only: bool = False) -> None:
        """Open the log in `directory`, which is made if need be.

        Raises:
            ReadOnlyError: it does not exist and cannot be made.
        """
        self.directory = Path(directory)
        self.read_only = read_only
        self._clock = clock if clock is not None else SystemClock()
        self._open: dict[tuple[str, int], _Open] = {}
        self._lock = threading.Lock()
        self._closed = False
        if not read_only:
            with os_errors(self.directory):
                self.directory.mkdir(parents=True, exist_ok=True)

    # -- topics --------------------------------------------------------------------------------------------------------------------------

    def topics(self) -> list[str]:
        """Names of all topics, sorted."""
        self._check_open()
        if not self.directory.is_dir():
            return []
        return sorted(name for name in os.listdir(self.directory) if name[0] != "." and (self.directory / name / TOPIC_FILE).exists())

    def create_topic(self, name: str, config: TopicConfig) -> None:
        """See `Log.create_topic`."""
        check_topic(name, config)
        self._check_writable()
        if not (self.directory / name).exists():
            self._make_topic(name, config)
        held = self.describe_topic(name)
        for setting in ("partitions", "cleanup"):
            has, asked = getattr(held, setting), getattr(config, setting)
            if has != asked:
                raise AlreadyExistsError("topic", name, f"its {setting} is {has!r}, not {asked!r}")

    def delete_topic(self, name: str) -> None:
        """See `Log.delete_topic`."""
        self.describe_topic(name)
        self._check_writable()
        gone = self.directory / f"{_DELETED}{secrets.token_hex(8)}"
        with os_errors(self.directory):
            try:
                (self.directory / name).rename(gone)
            except FileNotFoundError:
                raise TopicNotFoundError(name, self.topics()) from None
            sync_directory(self.directory)
        self._sweep(gone)
        with self._lock:
            for key in [key for key in self._open if key[0] == name]:
                self._open.pop(key).partition.close()

    def describe_topic(self, name: str) -> TopicConfig:
        """See `Log.describe_topic`."""
        self._check_open()
        path = self.directory / name / TOPIC_FILE
        try:
            held = msgspec.json.decode(path.read_bytes(), type=_TopicFile)
        except (FileNotFoundError, NotADirectoryError):
            raise TopicNotFoundError(name, self.topics()) from None
        except msgspec.DecodeError as exc:
            raise CorruptFileError(str(path), "topic", str(exc)) from exc
        if held.format > TOPIC_FORMAT:
            raise FormatVersionError(str(path), held.format, TOPIC_FORMAT)
        return held.config

    # -- records -------------------------------------------------------------------------------------------------------------------------

    def append(
        self,
        topic: str,
        partition: int,
        batch: RecordBatch | Sequence[Record],
        *,
        durability: Durability = "os",
        offsets: npt.NDArray[np.int64] | None = None,
    ) -> range:
        """See `Log.append`. With `offsets` (int64 [n], increasing, not below the high watermark) the records get these, so that a partition
        of another log can be mirrored here.
        """
        self._check_writable()
        if not isinstance(batch, RecordBatch):
            batch = RecordBatch.of(batch)
        return self._partition(topic, partition).appender.append(batch, durability=durability, offsets=offsets)

    def read(self, topic: str, partition: int, offset: int, *, max_bytes: int = 1 << 20, wait_s: float = 0.0) -> LogBatch:
        """See `Log.read`. A batch is read whole even if it is larger than `max_bytes`."""
        return self._partition(topic, partition).reader.read(int(offset), max_bytes=max_bytes, wait_s=wait_s)

    def high_watermark(self, topic: str, partition: int) -> int:
        """See `Log.high_watermark`."""
        return self._partition(topic, partition).partition.high

    def low_watermark(self, topic: str, partition: int) -> int:
        """See `Log.low_watermark`."""
        return self._partition(topic, partition).partition.low

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        """See `Log.offset_for_time`."""
        return self._partition(topic, partition).reader.offset_for_time(int(timestamp_ms))

    def sync(self, topic: str, partition: int) -> None:
        """See `Log.sync`."""
        self._check_writable()
        self._partition(topic, partition).partition.sync()

    # -- removing ------------------------------------------------------------------------------------------------------------------------

    def delete_before(self, topic: str, partition: int, offset: int) -> int:
        """See `Log.delete_before`. The watermark is exact; the space of segments that lie wholly below it is given back."""
        self._check_writable()
        return retention.delete_before(self._partition(topic, partition).partition, int(offset))

    def enforce_retention(self, topic: str, now_ms: int | None = None) -> None:
        """See `Log.enforce_retention`. Also done for a partition whenever it begins a new segment."""
        self._check_writable()
        now_ms = self._clock.now_us() // 1000 if now_ms is None else now_ms
        for partition in range(self.describe_topic(topic).partitions):
            retention.enforce(self._partition(topic, partition).partition, now_ms)

    def compact(self, topic: str, partition: int) -> None:
        """See `Log.compact`. Appends and reads go on meanwhile. Needs about 24 bytes of memory a key, and the space of one segment on disk.

        Raises:
            LockedError: another process compacts the partition. InputError: the topic is not to be compacted.
        """
        self._check_writable()
        compact(self._partition(topic, partition).partition)

    # -- files and life ------------------------------------------------------------------------------------------------------------------

    def partition_files(self, topic: str, partition: int) -> PartitionView:
        """Cells and files of a partition, for readers that map them. Valid until the log is closed."""
        return self._partition(topic, partition).partition.view()

    def close(self) -> None:
        """Sync what was appended, and let go of all files. Again: nothing."""
        with self._lock:
            self._closed = True
            opened, self._open = list(self._open.values()), {}
        try:
            for each in opened:
                if each.appender.appended and not each.partition.deleted:
                    with contextlib.suppress(TopicNotFoundError):
                        each.partition.finish()
        finally:
            for each in opened:
                each.partition.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    # -- private -------------------------------------------------------------------------------------------------------------------------

    def _partition(self, topic: str, number: int) -> _Open:
        found = self._open.get((topic, number))
        if found is not None:
            found.partition.look_again()
            if not found.partition.deleted:
                return found
        config = self.describe_topic(topic)
        if not 0 <= number < config.partitions:
            raise InputError(f"topic {topic!r} has the partitions 0 to {config.partitions - 1}, not {number}")
        with self._lock:
            self._check_open()
            found = self._open.get((topic, number))
            if found is not None and not found.partition.deleted:
                return found
            if found is not None:
                found.partition.close()
            directory = self.directory / topic / str(number)
            partition = Partition.open(directory, topic, int(number), config, clock=self._clock, read_only=self.read_only)
            made = _Open(partition, Reader(partition), Appender(partition))
            self._open[topic, number] = made
            return made

    def _make_topic(self, name: str, config: TopicConfig) -> None:
        target, made = self.directory / name, self.directory / f".new-{secrets.token_hex(8)}"
        with os_errors(target):
            try:
                for partition in range(config.partitions):
                    (made / str(partition)).mkdir(parents=True)
                write_atomically(made / TOPIC_FILE, msgspec.json.encode(_TopicFile(TOPIC_FORMAT, config)))
                made.rename(target)
                sync_directory(self.directory)
            except OSError:
                if not (target / TOPIC_FILE).exists():  # else another process was quicker
                    raise
            finally:
                remove_tree(made)
        for name_ in os.listdir(self.directory):  # of a process that died in `delete_topic`
            if name_.startswith(_DELETED):
                self._sweep(self.directory / name_)

    def _sweep(self, gone: Path) -> None:
        """Tell everybody who has a deleted topic open, by its cells, and remove its files."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for number in filter(str.isdigit, os.listdir(gone)):
                with contextlib.suppress(CorruptFileError, TopicNotFoundError):
                    partition = Partition.open(gone / number, gone.name, int(number), TopicConfig(1), clock=self._clock)
                    try:
                        partition.mark_deleted()
                    finally:
                        partition.close()
        remove_tree(gone)

    def _check_open(self) -> None:
        if self._closed:
            raise StateError(f"the log in {self.directory} is closed; open it again")

    def _check_writable(self) -> None:
        self._check_open()
        if self.read_only:
            raise ReadOnlyError(str(self.directory))

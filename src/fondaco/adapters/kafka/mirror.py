"""Mirror: partitions of a Kafka topic, copied into an embedded log under the same offsets.

The overlay is an index over local segments, so real-time writes that travel through Kafka are first brought here; everything behind is the
same code as without Kafka. The local log is only a copy: what is lost of it is copied again, as long as Kafka still has it. Offsets are
Kafka's, gaps included; the place from which the copy goes on is the local high watermark, so it cannot be ahead of the data.

`MirroredLog` is what a platform opens: it appends to Kafka and reads from the mirror. One process copies a topic at a time (file lock);
the others find the lock taken and follow the files. A broker that goes away is tried again until it comes back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from fondaco.adapters.kafka.log import KafkaLog
from fondaco.core.clock import Clock
from fondaco.core.errors import DiskFullError, FondacoError, LockedError, OffsetOutOfRangeError, StateError, TopicNotFoundError
from fondaco.core.files import FileLock
from fondaco.log.log import Durability, Partitioner, TopicConfig
from fondaco.log.records import LogBatch, Record, RecordBatch

if TYPE_CHECKING:
    from fondaco.core.config import LogConfig
    from fondaco.log import EmbeddedLog
    from fondaco.log.view import PartitionView

FETCH_BYTES: Final = 4 << 20
WAIT_S: Final = 0.05  # at the end of a partition; the broker answers sooner when there is something
BACK_OFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
LOCK_FILE: Final = "mirror.lock"
LOCK_AGAIN_S: Final = 0.5

_LOGGER = logging.getLogger(__name__)


def open_kafka_log(directory: Path, config: LogConfig, clock: Clock) -> MirroredLog:
    """The log of a platform whose `[log]` says "kafka".

    Args:
        directory: `<platform>/log`, where the mirror lies.
    Raises:
        InputError: no `bootstrap`, or an option that librdkafka does not know.
    """
    from fondaco.log import EmbeddedLog

    return MirroredLog(KafkaLog(config.bootstrap or "", config.options), EmbeddedLog(directory, clock=clock), directory)


class KafkaMirror:
    """Copies one topic. `copy_once` is one round over a partition; several partitions may be copied by several threads."""

    def __init__(self, kafka: KafkaLog, local: EmbeddedLog, topic: str) -> None:
        """
        Raises:
            TopicNotFoundError: Kafka has no such topic. AlreadyExistsError: the mirror has it with another number of partitions.
        """
        self._kafka, self._local, self.topic = kafka, local, topic
        described = kafka.describe_topic(topic)
        self.partitions = described.partitions
        # the mirror keeps what the store's windows need (its tailer trims it), whatever Kafka keeps
        local.create_topic(topic, TopicConfig(described.partitions))

    def copy_once(self, partition: int, *, wait_s: float = 0.0) -> int:
        """Copy what has come since the last time, about 4 MiB at most; return how many records.

        Raises:
            StateError: the mirror holds more than the topic, so this is another topic of the same name.
            UnavailableError, DeadlineExceededError: the broker; DiskFullError: here. Nothing is lost, call again.
        """
        here = self._local.high_watermark(self.topic, partition)
        try:
            batch = self._kafka.read(self.topic, partition, here, max_bytes=FETCH_BYTES, wait_s=wait_s)
        except OffsetOutOfRangeError as exc:
            if exc.offset > exc.high:
                raise StateError(
                    f"the mirror of {self.topic!r}, partition {partition} is at offset {here} and Kafka only at {exc.high}: the topic was "
                    "made again, or its brokers lost records. Delete the mirror's directory and the store's overlay to copy it anew."
                ) from exc
            batch = self._kafka.read(self.topic, partition, exc.low, max_bytes=FETCH_BYTES)  # older ones were deleted there
        if len(batch):
            self._local.append(self.topic, partition, _to_append(batch), offsets=batch.offsets)
        return len(batch)


def _to_append(batch: LogBatch) -> RecordBatch:
    """The same records, ready to be appended."""
    records = [Record(record.key, record.value, record.timestamp_ms, record.headers) for record in batch.records()]
    return RecordBatch.of(records)


class MirroredLog:
    """A platform's log on Kafka: appends go to the brokers, reads come from the mirror once it has the records.

    `high_watermark` and `low_watermark` are those of the brokers; `read` and `partition_files` are of the mirror, so what was just appended
    is readable as soon as it has come back.
    """

    partitioner: Partitioner = KafkaLog.partitioner

    def __init__(self, kafka: KafkaLog, local: EmbeddedLog, directory: Path) -> None:
        self.kafka, self.local, self._directory = kafka, local, directory
        self._lock = threading.Lock()
        self._threads: dict[str, _MirrorThread] = {}

    # -- topics and appends: Kafka's -----------------------------------------------------------------------------------------------------

    def topics(self) -> list[str]:
        """As `Log.topics`."""
        return self.kafka.topics()

    def create_topic(self, name: str, config: TopicConfig) -> None:
        """As `Log.create_topic`."""
        self.kafka.create_topic(name, config)

    def delete_topic(self, name: str) -> None:
        """As `Log.delete_topic`; the mirror goes too."""
        self._stop(name)
        self.kafka.delete_topic(name)
        if name in self.local.topics():
            self.local.delete_topic(name)

    def describe_topic(self, name: str) -> TopicConfig:
        """As `Log.describe_topic`."""
        return self.kafka.describe_topic(name)

    def append(self, topic: str, partition: int, batch: RecordBatch | Sequence[Record], *, durability: Durability = "os") -> range:
        """As `KafkaLog.append`."""
        return self.kafka.append(topic, partition, batch, durability=durability)

    def high_watermark(self, topic: str, partition: int) -> int:
        """As `Log.high_watermark`, of the brokers."""
        return self.kafka.high_watermark(topic, partition)

    def low_watermark(self, topic: str, partition: int) -> int:
        """As `Log.low_watermark`, of the brokers."""
        return self.kafka.low_watermark(topic, partition)

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        """As `Log.offset_for_time`."""
        return self.kafka.offset_for_time(topic, partition, timestamp_ms)

    def compact(self, topic: str, partition: int) -> None:
        """As `KafkaLog.compact`."""
        self.kafka.compact(topic, partition)

    def enforce_retention(self, topic: str, now_ms: int | None = None) -> None:
        """The brokers do it."""
        self.kafka.enforce_retention(topic, now_ms)

    def sync(self, topic: str, partition: int) -> None:
        """As `KafkaLog.sync`."""
        self.kafka.sync(topic, partition)

    # -- reads: the mirror's --------------------------------------------------------------------------------------------------------------

    def read(self, topic: str, partition: int, offset: int, *, max_bytes: int = 1 << 20, wait_s: float = 0.0) -> LogBatch:
        """As `Log.read`, of the mirror, which is followed from now on."""
        self.follow(topic)
        return self.local.read(topic, partition, offset, max_bytes=max_bytes, wait_s=wait_s)

    def partition_files(self, topic: str, partition: int) -> PartitionView:
        """As `EmbeddedLog.partition_files`, of the mirror, which is followed from now on."""
        self.follow(topic)
        return self.local.partition_files(topic, partition)

    def delete_before(self, topic: str, partition: int, offset: int) -> int:
        """Trim the mirror. Kafka keeps what its own retention says: other mirrors may still need it."""
        if topic not in self.local.topics():
            return 0
        return self.local.delete_before(topic, partition, min(offset, self.local.high_watermark(topic, partition)))

    def follow(self, topic: str) -> None:
        """Keep the mirror of a topic up to date, from a thread of this process if no other process does.

        Raises:
            TopicNotFoundError: Kafka has no such topic.
        """
        with self._lock:
            if topic not in self._threads:
                mirror = KafkaMirror(self.kafka, self.local, topic)
                self._threads[topic] = _MirrorThread(mirror, self._directory / topic / LOCK_FILE)

    def _stop(self, topic: str) -> None:
        with self._lock:
            thread = self._threads.pop(topic, None)
        if thread is not None:
            thread.close()

    def close(self) -> None:
        """Stop copying and let go of all connections and files."""
        for topic in list(self._threads):
            self._stop(topic)
        self.kafka.close()
        self.local.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"MirroredLog({self.kafka.bootstrap!r}, {str(self._directory)!r})"


class _MirrorThread:
    """Copies all partitions of a topic, one after the other, as long as it is open and holds the lock."""

    def __init__(self, mirror: KafkaMirror, lock_path: Path) -> None:
        self._mirror, self._lock = mirror, FileLock(lock_path)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"mirror of {mirror.topic}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._lock.acquire()
            except LockedError:  # another process copies; should it end, we go on
                self._ended.wait(LOCK_AGAIN_S)
                continue
            try:
                self._copy()
            finally:
                self._lock.release()

    def _copy(self) -> None:
        failures = 0
        while not self._ended.is_set():
            try:
                copied = sum(self._mirror.copy_once(partition) for partition in range(self._mirror.partitions))
            except (StateError, TopicNotFoundError) as exc:
                _LOGGER.error("mirror of %r stopped: %s", self._mirror.topic, exc)
                self._ended.wait()
                return
            except FondacoError as exc:
                pause = BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)]
                if failures == 0:
                    where = "here" if isinstance(exc, DiskFullError) else "at the broker"
                    _LOGGER.warning("mirror of %r waits, something is wrong %s: %s", self._mirror.topic, where, exc)
                failures += 1
                self._ended.wait(pause)
                continue
            if failures:
                _LOGGER.warning("mirror of %r goes on", self._mirror.topic)
            failures = 0
            if not copied:
                self._ended.wait(WAIT_S / 10)

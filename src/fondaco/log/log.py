"""Log: the interface that the embedded log and every adapter have. Its expectations, in words that run: `fondaco.testing.LogContract`.

A topic has a fixed number of partitions; a partition is a sequence of records, each with an offset greater than that of the one before.
Offsets may have gaps (compaction, mirrors of other logs), so a reader goes on at `next_offset` and never counts. Records between the low
watermark (the first offset that may still be there) and the high watermark (the offset the next record gets, if no mirror chooses another)
can be read. Every method may be called from any thread.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Protocol, Self

import msgspec

from fondaco.core.errors import InputError
from fondaco.log.records import LogBatch, Record, RecordBatch

Durability = Literal["os", "disk"]
Cleanup = Literal["delete", "compact"]
Partitioner = Literal["xxh64", "murmur2"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
_PARTITIONS_MAX = 1 << 16


class TopicConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a topic is created with.

    `retention_ms`: records older than this (by their timestamps) may go, whole segments at a time; None: never. `retention_bytes`: the
    oldest segments of a partition go while the others hold so much. `cleanup="compact"`: `compact` keeps the newest record of each key;
    a record without a value deletes its key and goes itself `tombstone_ms` after it was appended. `segment_bytes`: a file is closed and
    the next begun before it grows beyond this (a batch that is larger has a file of its own).
    """

    partitions: int
    retention_ms: int | None = None
    retention_bytes: int | None = None
    cleanup: Cleanup = "delete"
    segment_bytes: int = 64 << 20
    tombstone_ms: int = 86_400_000


class Log(Protocol):
    """Topics of partitions of records. `partitioner` says how a key finds its partition (see `fondaco.log.partition_keys`)."""

    partitioner: Partitioner

    def topics(self) -> list[str]:
        """Names of all topics, sorted."""
        ...

    def create_topic(self, name: str, config: TopicConfig) -> None:
        """Create a topic. If it is there with as many partitions and the same cleanup, nothing happens (its other settings stay).

        Raises:
            AlreadyExistsError: it is there and differs. InputError: a name or a setting that cannot be.
        """
        ...

    def delete_topic(self, name: str) -> None:
        """Remove a topic and its records.

        Raises:
            TopicNotFoundError: there is none.
        """
        ...

    def describe_topic(self, name: str) -> TopicConfig:
        """What a topic was created with.

        Raises:
            TopicNotFoundError: there is none.
        """
        ...

    def append(self, topic: str, partition: int, batch: RecordBatch | Sequence[Record], *, durability: Durability = "os") -> range:
        """Append records, all or none, and return their offsets. When it returns, readers see them, and they survive the end of the process
        ("os") or a loss of power ("disk"). Records of one call lie side by side.

        Raises:
            DiskFullError: nothing was appended. UnavailableError, DeadlineExceededError: it is not known whether they were (Kafka); the
            same call again may append them a second time. InputError: a null key in a compacted topic. LimitError: too large for one batch.
        """
        ...

    def read(self, topic: str, partition: int, offset: int, *, max_bytes: int = 1 << 20, wait_s: float = 0.0) -> LogBatch:
        """Records from `offset` on, about `max_bytes` of them, at least one if there is one. At the high watermark the answer is empty,
        after waiting `wait_s` for the first record to come.

        Raises:
            OffsetOutOfRangeError: `offset` is below the low or above the high watermark.
        """
        ...

    def high_watermark(self, topic: str, partition: int) -> int:
        """The offset after the last record."""
        ...

    def low_watermark(self, topic: str, partition: int) -> int:
        """The first offset that may be read."""
        ...

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        """The first offset whose record has this timestamp or a later one; None: there is none."""
        ...

    def delete_before(self, topic: str, partition: int, offset: int) -> int:
        """Give up all records below `offset`; return the low watermark, which never goes back.

        Raises:
            OffsetOutOfRangeError: above the high watermark.
        """
        ...

    def compact(self, topic: str, partition: int) -> None:
        """Keep the newest record of each key. Offsets stay.

        Raises:
            InputError: the topic's cleanup is not "compact".
        """
        ...

    def enforce_retention(self, topic: str, now_ms: int | None = None) -> None:
        """Remove what the topic's retention gives up, as of `now_ms` (None: the log's clock)."""
        ...

    def sync(self, topic: str, partition: int) -> None:
        """When this returns, every record appended before survives a loss of power."""
        ...

    def close(self) -> None:
        """Let go of files and connections. Further calls fail."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None: ...


def check_topic(name: str, config: TopicConfig) -> None:
    """Whether a topic can be created so.

    Raises:
        InputError: it cannot; says which setting and what it may be.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot name a topic: use letters, digits, '_', '-' and '.', not first '.' or '-', 200 at most")
    if not 1 <= config.partitions <= _PARTITIONS_MAX:
        raise InputError(f"topic {name!r}: a topic has 1 to {_PARTITIONS_MAX} partitions, not {config.partitions}")
    if config.cleanup not in ("delete", "compact"):
        raise InputError(f'topic {name!r}: cleanup is "delete" or "compact", not {config.cleanup!r}')
    if not 1 <= config.segment_bytes <= 1 << 32:
        raise InputError(f"topic {name!r}: segment_bytes is 1 to {1 << 32}, not {config.segment_bytes}")
    for setting in ("retention_ms", "retention_bytes", "tombstone_ms"):
        value = getattr(config, setting)
        if value is not None and value < 0:
            raise InputError(f"topic {name!r}: {setting} cannot be negative: {value}")

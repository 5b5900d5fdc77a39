"""Log: topics of partitions of records with offsets; embedded segments, and the interface that every log has.

    with EmbeddedLog(directory) as log:
        log.create_topic("clicks", TopicConfig(partitions=4))
        offsets = log.append("clicks", 0, [Record(b"member-42", b"...")], durability="disk")
        batch = log.read("clicks", 0, offsets.start)

Names are loaded when they are first used; `EmbeddedLog` and `partition_keys` bring in numba, the others do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fondaco.log.embedded import EmbeddedLog
    from fondaco.log.log import Cleanup, Durability, Log, Partitioner, TopicConfig
    from fondaco.log.partitioning import partition_keys
    from fondaco.log.records import LogBatch, LogRecord, Record, RecordBatch
    from fondaco.log.view import PartitionView

__all__ = [
    "Cleanup",
    "Durability",
    "EmbeddedLog",
    "Log",
    "LogBatch",
    "LogRecord",
    "PartitionView",
    "Partitioner",
    "Record",
    "RecordBatch",
    "TopicConfig",
    "partition_keys",
]

_HOMES = {
    "Cleanup": "log",
    "Durability": "log",
    "EmbeddedLog": "embedded",
    "Log": "log",
    "LogBatch": "records",
    "LogRecord": "records",
    "PartitionView": "view",
    "Partitioner": "log",
    "Record": "records",
    "RecordBatch": "records",
    "TopicConfig": "log",
    "partition_keys": "partitioning",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

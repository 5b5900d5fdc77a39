"""Kafka: the log on a real broker (extra `kafka`), and the local mirror that the overlay indexes.

`KafkaLog` is a `fondaco.log.Log`; `KafkaMirror` copies the partitions of a topic into an embedded log under the same offsets, so that what
reads real-time writes is the same code whatever carries them. Only features that every broker of the protocol has are used: an idempotent
producer with acks from all replicas, partitions assigned by hand, offsets that we keep ourselves. No consumer groups, no transactions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fondaco.adapters.kafka.log import KafkaLog
    from fondaco.adapters.kafka.mirror import KafkaMirror, MirroredLog, open_kafka_log

__all__ = ["KafkaLog", "KafkaMirror", "MirroredLog", "open_kafka_log"]

_HOMES = {"KafkaLog": "log", "KafkaMirror": "mirror", "MirroredLog": "mirror", "open_kafka_log": "mirror"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

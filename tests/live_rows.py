"""Rows of a topic as a reader without a base would see them: every record merged, whatever its order. Shared by tests of writers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fondaco.log import Log
from fondaco.store.keys import KeyCodec
from fondaco.store.merge import NOTHING, RowCodecs, State, apply, merge, state_of
from fondaco.store.writes import Write, decode_write


def writes_of(log: Log, topic: str) -> list[tuple[bytes, Write]]:
    """Keys and writes, partition by partition."""
    found = []
    for partition in range(log.describe_topic(topic).partitions):
        offset, end = log.low_watermark(topic, partition), log.high_watermark(topic, partition)
        while offset < end:
            batch = log.read(topic, partition, offset)
            found += [(record.key or b"", decode_write(record.value, record.timestamp_ms)) for record in batch.records()]
            offset = batch.next_offset
    return found


def live_rows(log: Log, topic: str, key: KeyCodec, schemas: Mapping[int, object], bases: Mapping[Any, Any] | None = None) -> dict[Any, Any]:
    """Key -> row, of keys that have one, in the newest schema."""
    states: dict[Any, State] = {}
    for key_bytes, write in writes_of(log, topic):
        name = key.decode(key_bytes)
        states[name] = merge(states.get(name, NOTHING), state_of(write))
    codecs = RowCodecs(schemas.__getitem__, schemas[max(schemas)])
    bases = bases or {}
    rows = {name: apply(states.get(name, NOTHING), bases.get(name), since_ms=0, codecs=codecs) for name in {*states, *bases}}
    return {name: row for name, row in rows.items() if row is not None}

"""Parts of tests of the overlay: a log with writes in it, reading one key through the overlay, and the plain model of what it must say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fondaco.core.xxh64 import xxh64
from fondaco.log import EmbeddedLog, Record, TopicConfig, partition_keys
from fondaco.store import _overlay_kernels as probes
from fondaco.store.basefile import address_of
from fondaco.store.merge import NOTHING, State, merge, state_of
from fondaco.store.overlay import Overlay
from fondaco.store.tailer import Tailer
from fondaco.store.writes import Op, decode_write, encode_envelope

TOPIC = "s.rt"
ALWAYS = -(1 << 63)


def place(tmp_path: Path) -> tuple[Path, Path]:
    """(overlay directory, log directory) of a store."""
    (tmp_path / "stores" / "s").mkdir(parents=True, exist_ok=True)
    return tmp_path / "stores" / "s" / "overlay", tmp_path / "log"


def make_log(log_directory: Path, partitions: int = 1, segment_bytes: int = 64 << 20) -> EmbeddedLog:
    log = EmbeddedLog(log_directory)
    log.create_topic(TOPIC, TopicConfig(partitions=partitions, segment_bytes=segment_bytes))
    return log


def write(key: bytes, op: Op, timestamp_ms: int, payload: bytes = b"", *, writer: int = 1, sequence: int = 0, schema: int = 1) -> Record:
    """One write as a log record."""
    return Record(key, encode_envelope(op, schema, writer, sequence, payload), timestamp_ms)


def put(key: bytes, timestamp_ms: int, payload: bytes, **stamp: int) -> Record:
    return write(key, Op.PUT, timestamp_ms, payload, **stamp)


def delete(key: bytes, timestamp_ms: int, **stamp: int) -> Record:
    return write(key, Op.DELETE, timestamp_ms, **stamp)


def append(log: EmbeddedLog, records: Iterable[Record], partitions: int = 1) -> dict[int, int]:
    """Append records where their keys belong; per partition the offset of the last."""
    by_partition: dict[int, list[Record]] = {}
    for record in records:
        assert record.key is not None
        data = np.frombuffer(record.key, np.uint8)
        number = int(partition_keys(data, np.array([0, len(data)], np.int64), partitions, "xxh64")[0])
        by_partition.setdefault(number, []).append(record)
    return {number: log.append(TOPIC, number, rows)[-1] for number, rows in by_partition.items()}


@contextmanager
def both(overlay_at: Path, log_at: Path, log: EmbeddedLog) -> Iterator[tuple[Tailer, Overlay]]:
    """A tailer of the store, and its overlay."""
    with Tailer.open(overlay_at, log_at, TOPIC, log) as tailer, Overlay.open(overlay_at, log_at, TOPIC) as overlay:
        yield tailer, overlay


class Answer:
    """What the overlay says of a key: `kind`, and the row or the state it leads to."""

    def __init__(self, overlay: Overlay, key: bytes, since_ms: int = ALWAYS) -> None:
        data = np.frombuffer(key, np.uint8)
        address = address_of(data)
        hash_ = np.uint64(xxh64(address, len(key)))
        view = overlay.view
        while True:
            answer = probes.overlay_probe(address, len(key), hash_, view.table, since_ms)
            if answer[0] != probes.STALE:
                break
            view = overlay.refresh(view)
        self.kind, self.memory, self.start, self.end, self.schema, self.timestamp_ms = answer
        self.view = view

    @property
    def row(self) -> bytes:
        assert self.kind == probes.PUT
        return bytes(self.view.memories[self.memory][self.start : self.end])

    @property
    def state(self) -> State:
        if self.kind == probes.NONE:
            return NOTHING
        if self.kind == probes.DAMAGED:
            raise self.view.broken(self.memory, self.start)
        base = self.view.bases[self.memory]
        return self.view.state_at(self.memory, base + self.start, base + self.end, self.timestamp_ms, kind=self.kind)


def model(records: Iterable[Record]) -> dict[bytes, State]:
    """What a plain merge of all records gives, by key."""
    states: dict[bytes, State] = {}
    for record in records:
        found = decode_write(record.value, record.timestamp_ms or 0)
        if found.op != Op.HEARTBEAT:
            assert record.key is not None
            states[record.key] = merge(states.get(record.key, NOTHING), state_of(found))
    return states


def read_all(overlay: Overlay, keys: Iterable[bytes]) -> dict[bytes, State]:
    """The states of those keys that the overlay knows."""
    return {key: state for key in keys if (state := Answer(overlay, key).state) != NOTHING}


def flip(path: Path, at: int, mask: int = 0x55) -> None:
    """Damage one byte of a file."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ mask]))

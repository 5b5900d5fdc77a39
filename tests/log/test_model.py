"""Any sequence of appends, removals, compactions, restarts and clocks that jump leaves what a plain list says it should."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.clock import ManualClock
from fondaco.log import EmbeddedLog, LogRecord, Record, TopicConfig, state

GRACE_MS = 500
RETENTION_MS = 2_000
START_MS = 1_000_000


class Model:
    """One partition as a list of records and two numbers."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.low = self.high = self.appended_ms = 0

    def append(self, records: list[Record], offsets: list[int], clock_ms: int) -> None:
        self.appended_ms = max(self.appended_ms, clock_ms)
        for record, offset in zip(records, offsets, strict=True):
            moment = self.appended_ms if record.timestamp_ms is None else record.timestamp_ms
            self.records.append(
                LogRecord("t", 0, offset, moment, self.appended_ms, record.key, record.value, tuple(record.headers))
            )  # fmt: skip
            self.high = offset + 1

    def give_up_before(self, offset: int) -> None:
        self.low = max(self.low, offset)
        self.records = [record for record in self.records if record.offset >= self.low]

    def compact(self, clock_ms: int) -> None:
        newest = {record.key: record.offset for record in self.records}
        self.records = [
            record
            for record in self.records
            if newest[record.key] == record.offset and not (record.value is None and record.appended_ms < clock_ms - GRACE_MS)
        ]

    def offset_for_time(self, moment: int) -> int | None:
        return next((record.offset for record in self.records if record.timestamp_ms >= moment), None)


class Append(NamedTuple):
    records: list[Record]
    gaps: list[int] | None
    durability: str


class DeleteBefore(NamedTuple):
    share: float


class Compact(NamedTuple):
    pass


class Retain(NamedTuple):
    pass


class Reopen(NamedTuple):
    restarted: bool


class MoveClock(NamedTuple):
    ms: int


class Read(NamedTuple):
    share: float
    max_bytes: int


class Find(NamedTuple):
    after_start_ms: int


keys = st.sampled_from([b"a", b"b", b"c", b"", b"long key " * 4])
values = st.none() | st.binary(max_size=30) | st.sampled_from([b"v" * 300])
some_headers = st.sampled_from([(), (("h", b"1"),), (("h", None), ("h", b""))])
records = st.lists(
    st.builds(Record, keys, values, st.none() | st.integers(START_MS - 3_000, START_MS + 5_000), some_headers), min_size=0, max_size=6
)
gaps = st.none() | st.lists(st.integers(1, 5), min_size=6, max_size=6)
operations = st.lists(
    st.one_of(
        st.builds(Append, records, gaps, st.sampled_from(["os", "disk"])),
        st.builds(Append, records, st.none(), st.just("os")),
        st.builds(DeleteBefore, st.floats(0, 1)),
        st.builds(Compact),
        st.builds(Retain),
        st.builds(Reopen, st.booleans()),
        st.builds(MoveClock, st.integers(-1_000, 3_000)),
        st.builds(Read, st.floats(0, 1), st.sampled_from([1, 100, 1 << 20])),
        st.builds(Find, st.integers(-4_000, 7_000)),
    ),
    max_size=30,
)


def _read_all(log: EmbeddedLog) -> list[LogRecord]:
    offset, found = log.low_watermark("t", 0), []
    while offset < log.high_watermark("t", 0):
        batch = log.read("t", 0, offset, max_bytes=200)
        found += batch.records()
        offset = batch.next_offset
    return found


def _restart(directory: Path) -> None:
    """A restart of the machine: the boot id is another. Closing has synced everything."""
    with open(directory / "t" / "0" / "state", "r+b") as file:
        file.seek(8 * state.BOOT)
        file.write(struct.pack("<q", 77))


def _append(log: EmbeddedLog, model: Model, operation: Append, clock: ManualClock) -> None:
    given_records, offsets = operation.records, None
    if operation.gaps is not None:
        offsets = model.high - 1 + np.cumsum(operation.gaps[: len(given_records)]).astype(np.int64)
    taken = log.append("t", 0, given_records, durability=operation.durability, offsets=offsets)
    if given_records:
        model.append(given_records, list(taken) if offsets is None else offsets.tolist(), clock.now_us() // 1000)
    assert taken.stop == model.high


@given(operations, st.sampled_from([1, 400, 2_000, 1 << 20]), st.sampled_from(["delete", "compact"]), st.booleans())
@settings(max_examples=120, deadline=None)
def test_the_log_is_what_the_list_says(tmp_path_factory, given_operations, segment_bytes, cleanup, retained):
    directory = tmp_path_factory.mktemp("log")
    clock, model = ManualClock(START_MS * 1000), Model()
    config = TopicConfig(
        1, cleanup=cleanup, segment_bytes=segment_bytes, tombstone_ms=GRACE_MS, retention_ms=RETENTION_MS if retained else None
    )  # fmt: skip
    log = EmbeddedLog(directory, clock=clock)
    log.create_topic("t", config)
    try:
        for operation in given_operations:
            match operation:
                case Append():
                    _append(log, model, operation, clock)
                case DeleteBefore(share):
                    offset = round(share * model.high)
                    model.give_up_before(offset)
                    assert log.delete_before("t", 0, offset) == model.low
                case Compact():
                    if cleanup == "compact":
                        log.compact("t", 0)
                        model.compact(clock.now_us() // 1000)
                case Retain():
                    log.enforce_retention("t")
                case Reopen(restarted):
                    log.close()
                    if restarted and (directory / "t" / "0" / "state").exists():
                        _restart(directory)
                    log = EmbeddedLog(directory, clock=clock)
                case MoveClock(ms):
                    clock.advance(us=ms * 1000)
                case Read(share, max_bytes):
                    offset = model.low + round(share * (model.high - model.low))
                    batch = log.read("t", 0, offset, max_bytes=max_bytes)
                    expected = [record for record in model.records if record.offset >= offset]
                    assert list(batch.records()) == expected[: len(batch)]
                    assert len(batch) or not expected
                    assert offset <= batch.next_offset <= model.high
                case Find(after_start_ms):
                    assert log.offset_for_time("t", 0, START_MS + after_start_ms) == model.offset_for_time(START_MS + after_start_ms)
            low = log.low_watermark("t", 0)
            if retained:  # whole segments go, so how far is the log's choice; but only what is old enough
                lost = [record for record in model.records if record.offset < low]
                assert all(record.timestamp_ms < max(clock.now_us() // 1000, model.appended_ms) - RETENTION_MS for record in lost)
                model.give_up_before(low)
            assert (low, log.high_watermark("t", 0)) == (model.low, model.high)
            assert _read_all(log) == model.records
    finally:
        log.close()
        shutil.rmtree(directory)

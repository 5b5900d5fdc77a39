"""The embedded log beyond the contract: segments, retention, compaction, times, mirrors, group commit, what other processes' topics do."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from fondaco.core.clock import ManualClock
from fondaco.core.errors import InputError, LimitError, LockedError, OffsetOutOfRangeError, StateError
from fondaco.core.files import FileLock
from fondaco.log import EmbeddedLog, LogRecord, Record, RecordBatch, TopicConfig, appending, state
from fondaco.log.index import ENTRY_BYTES, read_index
from fondaco.log.view import SegmentFile

NOW_MS = 1_700_000_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_MS * 1000)


@pytest.fixture
def log(tmp_path: Path, clock: ManualClock):
    with EmbeddedLog(tmp_path, clock=clock) as log:
        yield log


def read_all(log: EmbeddedLog, topic: str = "t") -> list[LogRecord]:
    offset, records = log.low_watermark(topic, 0), []
    while offset < log.high_watermark(topic, 0):
        batch = log.read(topic, 0, offset)
        records += batch.records()
        offset = batch.next_offset
    return records


def segments(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "t" / "0").glob("*.log"))


# -- segments and positions ---------------------------------------------------------------------------------------------------------------


def test_a_segment_is_closed_before_it_grows_beyond_its_size(log, tmp_path):
    log.create_topic("t", TopicConfig(1, segment_bytes=1000))
    for _ in range(10):
        log.append("t", 0, [Record(b"k", b"x" * 100)])
    assert len(segments(tmp_path)) == 3  # 208 bytes a batch: four of them and a header
    assert all((tmp_path / "t" / "0" / name).stat().st_size <= 1000 for name in segments(tmp_path))
    log.append("t", 0, [Record(b"k", b"x" * 5000)])
    log.append("t", 0, [Record(b"k", b"x")])
    assert len(segments(tmp_path)) == 5
    assert len(read_all(log)) == 12


def test_positions_go_on_from_segment_to_segment_and_cover_every_byte(log, tmp_path):
    log.create_topic("t", TopicConfig(1, segment_bytes=500))
    view = log.partition_files("t", 0)
    assert view.segments() == []
    for i in range(20):
        log.append("t", 0, [Record(b"k", b"x" * (10 * i))])
    files = view.segments()
    assert len(files) > 3
    position = 0
    for file in files:
        assert isinstance(file, SegmentFile)
        assert file.base_position == position
        position += file.path.stat().st_size
    assert position == view.cells[state.HIGH_POSITION]
    assert (view.low, view.high) == (0, 20)
    assert files[-1].base_offset == view.cells[state.ACTIVE_BASE]


def test_what_is_given_up_leaves_the_disk_segment_by_segment(log, tmp_path):
    log.create_topic("t", TopicConfig(1, segment_bytes=1))
    for _ in range(5):
        log.append("t", 0, [Record(b"k", b"v")] * 2)
    generation = log.partition_files("t", 0).cells[state.GENERATION]
    log.delete_before("t", 0, 5)
    assert [int(name[:20]) for name in segments(tmp_path)] == [4, 6, 8]
    assert log.partition_files("t", 0).cells[state.GENERATION] > generation
    log.delete_before("t", 0, 10)
    assert [int(name[:20]) for name in segments(tmp_path)] == [10]
    assert not list((tmp_path / "t" / "0").glob("*4.index"))


def test_a_reader_that_was_overtaken_by_a_removal_is_told(log):
    log.create_topic("t", TopicConfig(1, segment_bytes=1))
    for i in range(6):
        log.append("t", 0, [Record(b"k", b"%d" % i)])
    assert log.read("t", 0, 0).next_offset == 1
    log.delete_before("t", 0, 4)
    with pytest.raises(OffsetOutOfRangeError, match="it holds 4 up to, not including, 6"):
        log.read("t", 0, 1)


# -- retention ----------------------------------------------------------------------------------------------------------------------------


def test_retention_by_size_keeps_at_least_so_much(log):
    log.create_topic("t", TopicConfig(1, segment_bytes=1000, retention_bytes=3000))
    for _ in range(100):
        log.append("t", 0, [Record(b"k", b"x" * 300)])
    log.enforce_retention("t")
    held = sum(file.path.stat().st_size for file in log.partition_files("t", 0).segments())
    assert 3000 <= held <= 5000
    assert log.high_watermark("t", 0) == 100
    assert read_all(log)[0].offset == log.low_watermark("t", 0) > 80


def test_retention_by_time_looks_at_the_newest_record_of_a_segment(log, clock):
    log.create_topic("t", TopicConfig(1, segment_bytes=1, retention_ms=1000))
    for age in (5000, 4000, 100, 3000, 0):
        log.append("t", 0, [Record(b"k", b"v", NOW_MS - age), Record(b"k", b"v", NOW_MS - age - 2000)])
    log.enforce_retention("t")
    assert log.low_watermark("t", 0) == 4  # the third segment is young, so the fourth stays behind it
    clock.advance(us=60_000_000)
    log.enforce_retention("t")
    assert (log.low_watermark("t", 0), log.high_watermark("t", 0)) == (10, 10)
    assert log.append("t", 0, [Record(b"k", b"v")]).start == 10


def test_retention_is_applied_when_a_segment_is_begun(log, clock, tmp_path):
    log.create_topic("t", TopicConfig(1, segment_bytes=1, retention_ms=1000))
    for _ in range(10):
        log.append("t", 0, [Record(b"k", b"v")])
        clock.advance(us=500_000)
    assert len(segments(tmp_path)) <= 5


# -- compaction ---------------------------------------------------------------------------------------------------------------------------


def test_compaction_takes_many_files_together_and_gives_their_space_back(log, tmp_path):
    log.create_topic("t", TopicConfig(1, cleanup="compact", segment_bytes=10_000))
    for i in range(200):
        log.append("t", 0, [Record(b"%d" % (i % 10), b"%d" % i * 100)])
    before = len(segments(tmp_path))
    log.compact("t", 0)
    assert before > 5
    assert len(segments(tmp_path)) == 2
    assert [record.offset for record in read_all(log)] == list(range(190, 200))
    assert (log.low_watermark("t", 0), log.high_watermark("t", 0)) == (0, 200)
    assert int(log.read("t", 0, 0).offsets[0]) == 190


def test_a_tombstone_stays_for_its_grace_and_goes_then(log, clock):
    log.create_topic("t", TopicConfig(1, cleanup="compact", tombstone_ms=60_000))
    log.append("t", 0, [Record(b"k", b"v"), Record(b"l", b"v")])
    log.append("t", 0, [Record(b"k", None)])
    log.compact("t", 0)
    assert [(record.key, record.value) for record in read_all(log)] == [(b"l", b"v"), (b"k", None)]
    clock.advance(us=61_000_000)
    log.compact("t", 0)
    assert [(record.key, record.value) for record in read_all(log)] == [(b"l", b"v")]
    assert log.append("t", 0, [Record(b"k", b"back")]).start == 3


def test_everything_may_be_compacted_away_and_reading_ends_at_the_high_watermark(log, clock):
    log.create_topic("t", TopicConfig(1, cleanup="compact", tombstone_ms=0))
    log.append("t", 0, [Record(b"k", b"v"), Record(b"k", None)])
    clock.advance(us=1_000_000)
    log.compact("t", 0)
    batch = log.read("t", 0, 0)
    assert (len(batch), batch.next_offset) == (0, 2)
    assert log.offset_for_time("t", 0, 0) is None


def test_compaction_of_many_keys_keeps_each_once(log):
    log.create_topic("t", TopicConfig(1, cleanup="compact", segment_bytes=300_000))
    keys = [b"key-%d" % i for i in range(20_000)]
    log.append("t", 0, RecordBatch.from_values([b"old"] * len(keys), keys))
    log.append("t", 0, RecordBatch.from_values([b"new"] * (len(keys) // 2), keys[::2]))
    log.compact("t", 0)
    found = {record.key: record.value for record in read_all(log)}
    assert len(read_all(log)) == len(keys)
    assert found == {key: b"new" if i % 2 == 0 else b"old" for i, key in enumerate(keys)}


def test_records_are_appended_and_read_while_another_thread_compacts(log):
    log.create_topic("t", TopicConfig(1, cleanup="compact", segment_bytes=3_000))
    failures: list[BaseException] = []
    stop = threading.Event()

    def compact_on_and_on() -> None:
        try:
            while not stop.is_set():
                log.compact("t", 0)
        except BaseException as exc:
            failures.append(exc)

    def tail() -> None:
        try:
            offset, last = 0, {}
            while len(last) < 20 or any(value != 299 for value in last.values()):
                batch = log.read("t", 0, offset, max_bytes=500, wait_s=5)
                for record in batch.records():
                    assert record.offset >= offset
                    assert int(record.value or b"") >= last.get(record.key, -1)
                    last[record.key] = int(record.value or b"")
                offset = batch.next_offset
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=compact_on_and_on), threading.Thread(target=tail), threading.Thread(target=tail)]
    for thread in threads:
        thread.start()
    for value in range(300):
        log.append("t", 0, [Record(b"%d" % key, b"%d" % value) for key in range(20)])
    for thread in threads[1:]:
        thread.join(timeout=60)
    stop.set()
    threads[0].join(timeout=60)
    assert not failures
    log.compact("t", 0)
    assert {record.value for record in read_all(log)} == {b"299"}


def test_of_two_compactors_the_second_is_told(log, tmp_path):
    log.create_topic("t", TopicConfig(1, cleanup="compact"))
    log.append("t", 0, [Record(b"k", b"v")])
    with FileLock(tmp_path / "t" / "0" / "compact.lock"), pytest.raises(LockedError):
        log.compact("t", 0)


def test_files_that_a_compaction_covers_do_not_count_even_if_they_are_still_there(log, tmp_path):
    log.create_topic("t", TopicConfig(1, cleanup="compact", segment_bytes=1))
    for i in range(4):
        log.append("t", 0, [Record(b"%d" % (i % 2), b"%d" % i)])
    stale = {name: (tmp_path / "t" / "0" / name).read_bytes() for name in segments(tmp_path)[1:]}
    log.close()
    with EmbeddedLog(tmp_path) as merging:
        partition = merging._partition("t", 0).partition
        object.__setattr__(partition, "config", TopicConfig(1, cleanup="compact"))  # room for all of them in one file
        merging.compact("t", 0)
        expected = read_all(merging)
        for name, data in stale.items():  # as if the compactor had died before it unlinked them
            (tmp_path / "t" / "0" / name).write_bytes(data)
    with EmbeddedLog(tmp_path) as reopened:
        assert [record.offset for record in expected] == [2, 3]
        assert read_all(reopened) == expected
        reopened.partition_files("t", 0).cells[state.WRITING] = 1
        reopened.append("t", 0, [Record(b"x", b"y")])
        assert set(segments(tmp_path)).isdisjoint(set(stale) - {segments(tmp_path)[-1]})


# -- time ---------------------------------------------------------------------------------------------------------------------------------


def test_the_moment_of_an_append_never_goes_back_though_the_clock_does(log, clock):
    log.create_topic("t", TopicConfig(1, segment_bytes=300))
    for step in (0, 5_000, -60_000, 1_000, -10, 100_000):
        clock.advance(us=step * 1000)
        log.append("t", 0, [Record(b"k", b"v")])
    records = read_all(log)
    moments = [record.appended_ms for record in records]
    assert moments == sorted(moments)
    assert [record.timestamp_ms for record in records] == moments
    log.close()
    with EmbeddedLog(log.directory, clock=ManualClock(1000)) as reopened:
        reopened.append("t", 0, [Record(b"k", b"v")])
        assert read_all(reopened)[-1].appended_ms == moments[-1]


def test_the_time_index_never_decreases_whatever_the_timestamps_do(log, tmp_path):
    chance = np.random.default_rng(1)
    log.create_topic("t", TopicConfig(1))
    moments = chance.integers(0, 1_000_000, 1500)
    for moment in moments.tolist():
        log.append("t", 0, [Record(b"k", b"x" * 1000, moment)])
    entries = read_index(tmp_path / "t" / "0" / f"{0:020d}.index")
    assert len(entries) > 4
    assert (np.diff(entries["timestamp_max"][1:]) >= 0).all()  # the first one is none
    assert (np.diff(entries["byte"].astype(np.int64)) >= 256 << 10).all()
    for wanted in chance.integers(0, 1_000_000, 50).tolist():
        later = np.flatnonzero(moments >= wanted)
        assert log.offset_for_time("t", 0, wanted) == (int(later[0]) if len(later) else None)


def test_the_index_of_a_closed_segment_tells_its_greatest_timestamp(log, tmp_path):
    log.create_topic("t", TopicConfig(1, segment_bytes=1))
    log.append("t", 0, [Record(b"k", b"v", 70), Record(b"k", b"v", 50)])
    log.append("t", 0, [Record(b"k", b"v", 60)])
    index = tmp_path / "t" / "0" / f"{0:020d}.index"
    assert index.stat().st_size == 2 * ENTRY_BYTES
    assert read_index(index)["timestamp_max"].tolist()[-1] == 70


# -- mirrors ------------------------------------------------------------------------------------------------------------------------------


def test_a_mirror_chooses_the_offsets(log):
    log.create_topic("t", TopicConfig(1, segment_bytes=200))
    taken = log.append("t", 0, [Record(b"k", b"%d" % i) for i in range(3)], offsets=np.array([5, 6, 9]))
    assert (taken.start, taken.stop) == (5, 10)
    log.append("t", 0, [Record(b"k", b"3")], offsets=np.array([100]))
    assert [record.offset for record in read_all(log)] == [5, 6, 9, 100]
    assert [int(log.read("t", 0, offset).offsets[0]) for offset in (0, 5, 7, 9, 10, 99)] == [5, 5, 9, 9, 100, 100]
    assert log.append("t", 0, [Record(b"k", b"4")]).start == 101


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 1], "offset 0 is there already or was passed over: the next offset is 2"),
        ([3, 3], "increase"),
        ([4, 3], "increase"),
        ([-2, 3], "increase|negative"),
        ([3], r"expected int64 \[2\]"),
        ([3.0, 4.0], "expected int64"),
    ],
)
def test_offsets_that_cannot_be_are_refused_and_nothing_appended(log, offsets, message):
    log.create_topic("t", TopicConfig(1))
    log.append("t", 0, [Record(b"k", b"v")] * 2)
    with pytest.raises(InputError, match=message):
        log.append("t", 0, [Record(b"k", b"v")] * 2, offsets=np.array(offsets))
    assert log.high_watermark("t", 0) == 2


# -- threads and durability ---------------------------------------------------------------------------------------------------------------


def test_threads_that_append_at_the_same_time_share_a_sync(log, monkeypatch):
    log.create_topic("t", TopicConfig(1))
    log.append("t", 0, [Record(b"k", b"first")], durability="disk")
    syncs, first_syncs, go_on = [], threading.Event(), threading.Event()
    sync = os.fdatasync

    def slow_sync(descriptor: int) -> None:
        syncs.append(descriptor)
        first_syncs.set()
        assert go_on.wait(30)
        sync(descriptor)

    monkeypatch.setattr(appending.os, "fdatasync", slow_sync)
    appender = log._partition("t", 0).appender
    threads = [
        threading.Thread(target=log.append, args=("t", 0, [Record(b"k", b"%d" % i)] * 3), kwargs={"durability": "disk"}) for i in range(9)
    ]
    threads[0].start()
    assert first_syncs.wait(30)
    assert log.high_watermark("t", 0) == 1  # not seen before it is on disk
    for thread in threads[1:]:
        thread.start()
    while len(appender._waiting) < 8:
        assert threads[0].is_alive()
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(syncs) == 2
    assert log.high_watermark("t", 0) == 28
    values = [record.value for record in read_all(log)][1:]
    assert all(len(set(values[at : at + 3])) == 1 for at in range(0, 27, 3))


def test_one_bad_batch_does_not_spoil_those_that_share_its_write(log):
    log.create_topic("t", TopicConfig(1))
    appender = log._partition("t", 0).appender
    good, bad = (appending.Ticket(RecordBatch.of([Record(b"k", b"v")]), False, offsets) for offsets in (None, np.array([-5])))
    bad.offsets = np.array([-5])
    appender._waiting.extend([good, bad])
    assert log.append("t", 0, [Record(b"k", b"last")]).start == 1
    assert good.range == range(1)
    assert isinstance(bad.error, InputError)


def test_what_is_on_disk_is_known_by_the_cells(log):
    log.create_topic("t", TopicConfig(1, segment_bytes=1))
    cells = log.partition_files("t", 0).cells
    for _ in range(3):
        log.append("t", 0, [Record(b"k", b"v")])
    assert cells[state.SYNCED_OFFSET] == 0
    log.append("t", 0, [Record(b"k", b"v")], durability="disk")
    assert (cells[state.SYNCED_OFFSET], cells[state.SYNCED_POSITION]) == (4, cells[state.HIGH_POSITION])
    log.append("t", 0, [Record(b"k", b"v")])
    assert cells[state.SYNCED_OFFSET] == 4
    log.sync("t", 0)
    assert cells[state.SYNCED_OFFSET] == 5
    log.append("t", 0, [Record(b"k", b"v")])
    log.close()
    assert cells[state.SYNCED_OFFSET] == 6


def test_a_disk_that_fails_to_sync_fails_the_append_and_readers_never_see_it(log, monkeypatch):
    from fondaco.core.errors import StorageError

    log.create_topic("t", TopicConfig(1))
    log.append("t", 0, [Record(b"k", b"v")])

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(appending.os, "fdatasync", fail)
        with pytest.raises(StorageError, match="could not be written or synced"):
            log.append("t", 0, [Record(b"k", b"w")], durability="disk")
    assert log.high_watermark("t", 0) == 1
    assert log.append("t", 0, [Record(b"k", b"x")], durability="disk").start == 1
    assert [record.value for record in read_all(log)] == [b"v", b"x"]


def test_a_batch_over_the_limit_is_refused(log, monkeypatch):
    monkeypatch.setattr(appending, "BATCH_BYTES_MAX", 1000)
    log.create_topic("t", TopicConfig(1))
    with pytest.raises(LimitError, match="bytes of one batch"):
        log.append("t", 0, [Record(b"k", b"x" * 2000)])
    assert log.high_watermark("t", 0) == 0


def test_a_reader_that_waits_is_let_go_when_the_log_is_closed(tmp_path):
    log = EmbeddedLog(tmp_path)
    log.create_topic("t", TopicConfig(1))
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            log.read("t", 0, 0, wait_s=60)
        except StateError as exc:
            outcome.append(exc)

    thread = threading.Thread(target=wait)
    log.high_watermark("t", 0)
    thread.start()
    log.close()
    thread.join(timeout=20)
    assert len(outcome) == 1


# -- topics -------------------------------------------------------------------------------------------------------------------------------


def test_a_topic_half_made_by_a_process_that_died_is_none(log, tmp_path):
    (tmp_path / ".new-abc" / "0").mkdir(parents=True)
    (tmp_path / ".deleted-abc" / "0").mkdir(parents=True)
    log.create_topic("t", TopicConfig(1))
    assert log.topics() == ["t"]
    assert not (tmp_path / ".deleted-abc").exists()


def test_a_topic_made_by_two_at_once_is_one(tmp_path):
    logs = [EmbeddedLog(tmp_path) for _ in range(4)]
    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    def create(log: EmbeddedLog) -> None:
        try:
            barrier.wait()
            for i in range(10):
                log.create_topic(f"t{i}", TopicConfig(2))
                log.append(f"t{i}", 1, [Record(b"k", b"v")])
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=create, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [logs[0].high_watermark(f"t{i}", 1) for i in range(10)] == [4] * 10
    for log in logs:
        log.close()
    assert sorted(os.listdir(tmp_path)) == [f"t{i}" for i in range(10)]


def test_no_file_stays_open_after_closing(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    with EmbeddedLog(tmp_path) as log:
        log.create_topic("t", TopicConfig(8))
        for partition in range(8):
            log.append("t", partition, [Record(b"k", b"v")], durability="disk")
            log.read("t", partition, 0)
    assert set(os.listdir("/proc/self/fd")) <= before  # what earlier tests have left may be closed meanwhile

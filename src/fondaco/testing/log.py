"""LogContract: what every log does, in tests that an adapter runs by subclassing.

    class TestMyLog(LogContract):
        cannot = frozenset({"retention_gives_up_what_is_too_old"})  # and why

        @pytest.fixture
        def log(self, tmp_path):
            with MyLog(tmp_path) as log:
                yield log

Each method `test_<expectation>` states one; `LogContract.expectations()` names them. What a broker cannot meet is listed in `cannot` and
becomes a strict xfail: should it begin to work, the test fails until the list is shortened. Every test makes topics of its own, so a log
may outlive them. Needs pytest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest

from fondaco.core.errors import AlreadyExistsError, InputError, OffsetOutOfRangeError, StateError, TopicNotFoundError
from fondaco.log.log import Log, TopicConfig
from fondaco.log.records import LogRecord, Record, RecordBatch

_YEAR_2020_MS = 1_577_836_800_000
_ACCEPTED = ("xxh64", "murmur2")


class LogContract:
    """See the module. A subclass gives the fixture `log`, open and empty or not."""

    cannot: ClassVar[frozenset[str]] = frozenset()
    patience_s: ClassVar[float] = 10.0  # how long something that must happen may take

    @classmethod
    def expectations(cls) -> list[str]:
        """Names of all expectations, as `cannot` lists them."""
        return sorted(name.removeprefix("test_") for name in dir(LogContract) if name.startswith("test_"))

    def settle_compaction(self, log: Log, topic: str, partition: int) -> None:
        """Have the partition compacted; for brokers that do it in their own time, wait for it here."""
        log.compact(topic, partition)

    @pytest.fixture
    def log(self) -> Log:
        """The log to test."""
        raise NotImplementedError("a subclass of LogContract gives the fixture `log`")

    @pytest.fixture
    def topic(self, log: Log, request: pytest.FixtureRequest) -> str:
        """A new topic with three partitions."""
        name = _topic_name(request)
        log.create_topic(name, TopicConfig(3))
        return name

    @pytest.fixture(autouse=True)
    def _expect_failure(self, request: pytest.FixtureRequest) -> None:
        name = request.node.originalname.removeprefix("test_")
        if name in self.cannot:
            request.node.add_marker(pytest.mark.xfail(strict=True, reason=f"this log cannot: {name}"))

    def test_only_expectations_are_listed_as_impossible(self) -> None:
        assert set(self.cannot) <= set(self.expectations())

    # -- topics -----------------------------------------------------------------------------------------------------------------------

    def test_a_new_topic_is_listed_and_described_and_empty(self, log: Log, request: pytest.FixtureRequest) -> None:
        name = _topic_name(request)
        log.create_topic(name, TopicConfig(2, cleanup="compact"))
        assert name in log.topics()
        assert log.topics() == sorted(log.topics())
        described = log.describe_topic(name)
        assert (described.partitions, described.cleanup) == (2, "compact")
        for partition in range(2):
            assert (log.low_watermark(name, partition), log.high_watermark(name, partition)) == (0, 0)
            assert len(log.read(name, partition, 0)) == 0

    def test_creating_a_topic_again_changes_nothing(self, log: Log, topic: str) -> None:
        log.append(topic, 0, [Record(b"k", b"v")])
        log.create_topic(topic, TopicConfig(3))
        assert log.high_watermark(topic, 0) == 1

    def test_a_topic_with_another_number_of_partitions_is_refused(self, log: Log, topic: str) -> None:
        with pytest.raises(AlreadyExistsError, match="partitions is 3, not 4"):
            log.create_topic(topic, TopicConfig(4))
        assert log.describe_topic(topic).partitions == 3

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "ä", "x" * 201])
    def test_a_name_that_cannot_be_is_refused(self, log: Log, name: str) -> None:
        with pytest.raises(InputError, match="cannot name a topic"):
            log.create_topic(name, TopicConfig(1))

    def test_a_topic_without_partitions_is_refused(self, log: Log) -> None:
        with pytest.raises(InputError, match="partitions"):
            log.create_topic("none", TopicConfig(0))

    def test_an_unknown_topic_is_not_found(self, log: Log, topic: str) -> None:
        for call in (
            lambda name: log.append(name, 0, [Record(b"k", b"v")]),
            lambda name: log.read(name, 0, 0),
            lambda name: log.high_watermark(name, 0),
            log.describe_topic,
            log.delete_topic,
        ):
            with pytest.raises(TopicNotFoundError):
                call(f"{topic}x")

    def test_an_unknown_partition_is_refused(self, log: Log, topic: str) -> None:
        for partition in (3, -1):
            with pytest.raises(InputError, match=str(partition)):
                log.append(topic, partition, [Record(b"k", b"v")])
            with pytest.raises(InputError, match=str(partition)):
                log.read(topic, partition, 0)

    def test_a_deleted_topic_is_gone_and_its_name_is_free(self, log: Log, topic: str) -> None:
        log.append(topic, 0, [Record(b"k", b"v")])
        log.delete_topic(topic)
        assert topic not in log.topics()
        with pytest.raises(TopicNotFoundError):
            log.read(topic, 0, 0)
        log.create_topic(topic, TopicConfig(1))
        self._eventually(lambda: log.high_watermark(topic, 0) == 0)

    # -- appending and reading --------------------------------------------------------------------------------------------------------

    def test_the_partitioner_is_named(self, log: Log) -> None:
        assert log.partitioner in _ACCEPTED

    def test_records_come_back_as_they_were_given(self, log: Log, topic: str) -> None:
        given = [
            Record(b"key", b"value", _YEAR_2020_MS),
            Record(None, None, _YEAR_2020_MS + 1),
            Record(b"", b"", _YEAR_2020_MS + 2),
            Record(bytes(range(256)), b"\0" * 1000, 5),
            Record(b"k", b"v", _YEAR_2020_MS, [("a", b"1"), ("a", b""), ("b", None), ("ключ", b"\xff")]),
        ]
        offsets = log.append(topic, 1, given)
        assert (offsets.start, offsets.stop) == (0, len(given))
        read = self._read_all(log, topic, 1)
        assert [(record.topic, record.partition, record.offset) for record in read] == [(topic, 1, i) for i in range(len(given))]
        assert [(r.key, r.value, r.timestamp_ms, r.headers) for r in read] == [
            (r.key, r.value, r.timestamp_ms, tuple(r.headers)) for r in given
        ]

    def test_a_record_without_a_timestamp_gets_the_moment_of_the_append(self, log: Log, topic: str) -> None:
        begin_ms = time.time_ns() // 1_000_000
        log.append(topic, 0, [Record(b"k", b"v")])
        (record,) = self._read_all(log, topic, 0)
        assert begin_ms - 1000 <= record.timestamp_ms <= time.time_ns() // 1_000_000 + 1000

    def test_columns_and_single_records_are_the_same(self, log: Log, topic: str) -> None:
        given = [Record(b"%d" % i, None if i % 3 == 0 else b"v" * i, _YEAR_2020_MS + i) for i in range(50)]
        log.append(topic, 0, given)
        log.append(topic, 1, RecordBatch.of(given))
        columns = [
            log.append(topic, 2, RecordBatch.from_values([r.value], [r.key], np.array([r.timestamp_ms]))) for r in given
        ]  # fmt: skip
        assert [offsets.start for offsets in columns] == list(range(50))
        one, two, three = ([record[2:4] + record[5:] for record in self._read_all(log, topic, partition)] for partition in range(3))
        assert one == two == three

    def test_an_append_of_nothing_changes_nothing(self, log: Log, topic: str) -> None:
        log.append(topic, 0, [Record(b"k", b"v")])
        offsets = log.append(topic, 0, [])
        assert (offsets.start, offsets.stop) == (1, 1)
        assert log.high_watermark(topic, 0) == 1

    def test_offsets_grow_without_gaps_as_records_are_appended(self, log: Log, topic: str) -> None:
        ends = [log.append(topic, 0, [Record(b"k", b"v")] * count).stop for count in (1, 5, 100)]
        assert ends == [1, 6, 106]
        assert [record.offset for record in self._read_all(log, topic, 0)] == list(range(106))

    def test_an_append_is_seen_when_it_returns(self, log: Log, topic: str) -> None:
        for i in range(20):
            offsets = log.append(topic, 0, [Record(b"k", b"%d" % i)], durability="disk" if i % 5 == 0 else "os")
            assert log.high_watermark(topic, 0) == offsets.stop
            batch = log.read(topic, 0, offsets.start, wait_s=self.patience_s)
            assert batch.values() == [b"%d" % i]

    def test_partitions_do_not_see_each_other(self, log: Log, topic: str) -> None:
        log.append(topic, 0, [Record(b"k", b"zero")])
        log.append(topic, 2, [Record(b"k", b"two")] * 2)
        assert [log.high_watermark(topic, partition) for partition in range(3)] == [1, 0, 2]
        assert {record.value for record in self._read_all(log, topic, 2)} == {b"two"}

    def test_an_unknown_durability_is_refused(self, log: Log, topic: str) -> None:
        with pytest.raises(InputError, match="durability"):
            log.append(topic, 0, [Record(b"k", b"v")], durability="tape")  # type: ignore[arg-type]

    def test_what_is_no_record_is_refused_and_nothing_appended(self, log: Log, topic: str) -> None:
        with pytest.raises(InputError, match="bytes or None"):
            log.append(topic, 0, [Record(b"k", b"v"), Record(b"k", "text")])  # type: ignore[arg-type]
        assert log.high_watermark(topic, 0) == 0

    def test_reading_begins_at_any_record(self, log: Log, topic: str) -> None:
        for start in range(0, 60, 20):
            log.append(topic, 0, [Record(b"k", b"%d" % i) for i in range(start, start + 20)])
        for offset in (0, 1, 19, 20, 33, 59):
            batch = log.read(topic, 0, offset, wait_s=self.patience_s)
            first = next(batch.records())
            assert (first.offset, first.value) == (offset, b"%d" % offset)
            assert batch.next_offset == int(batch.offsets[-1]) + 1

    def test_reading_at_the_end_gives_nothing_at_once(self, log: Log, topic: str) -> None:
        log.append(topic, 0, [Record(b"k", b"v")])
        begin = time.monotonic()
        batch = log.read(topic, 0, 1)
        assert (len(batch), batch.next_offset) == (0, 1)
        assert time.monotonic() - begin < self.patience_s / 2

    def test_reading_outside_the_watermarks_is_refused(self, log: Log, topic: str) -> None:
        log.append(topic, 0, [Record(b"k", b"v")] * 3)
        for offset in (4, 1000, -1):
            with pytest.raises(OffsetOutOfRangeError, match=rf"no offset {offset}: it holds 0 up to, not including, 3"):
                log.read(topic, 0, offset)

    def test_a_read_is_bounded_and_reading_on_gives_every_record_once(self, log: Log, topic: str) -> None:
        for i in range(40):
            log.append(topic, 0, [Record(b"%d" % i, b"x" * 10_000)])
        sizes, offset = [], 0
        while offset < 40:
            batch = log.read(topic, 0, offset, max_bytes=50_000, wait_s=self.patience_s)
            assert int(batch.offsets[0]) == offset
            sizes.append(len(batch))
            offset = batch.next_offset
        assert sum(sizes) == 40
        assert max(sizes) <= 6

    def test_one_record_is_read_however_small_the_bound(self, log: Log, topic: str) -> None:
        log.append(topic, 0, [Record(b"k", b"x" * 300_000)])
        (record,) = log.read(topic, 0, 0, max_bytes=1, wait_s=self.patience_s).records()
        assert record.value == b"x" * 300_000

    def test_a_waiting_read_gets_the_next_record(self, log: Log, topic: str) -> None:
        log.append(topic, 0, [Record(b"k", b"first")])
        thread = threading.Timer(0.2, lambda: log.append(topic, 0, [Record(b"k", b"second")]))
        thread.start()
        try:
            batch = log.read(topic, 0, 1, wait_s=self.patience_s)
        finally:
            thread.join()
        assert batch.values() == [b"second"]

    def test_a_waiting_read_gives_up_at_its_time(self, log: Log, topic: str) -> None:
        begin = time.monotonic()
        assert len(log.read(topic, 0, 0, wait_s=0.3)) == 0
        assert 0.25 <= time.monotonic() - begin < 0.3 + self.patience_s

    def test_appends_of_several_threads_are_all_there_and_each_in_its_order(self, log: Log, topic: str) -> None:
        taken: dict[int, list[int]] = {}

        def produce(producer: int) -> None:
            mine = [log.append(topic, 0, [Record(b"%d" % producer, b"%d" % i)]).start for i in range(30)]
            taken[producer] = mine

        threads = [threading.Thread(target=produce, args=(producer,)) for producer in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        records = self._read_all(log, topic, 0)
        assert len(records) == 120
        for producer in range(4):
            own = [record for record in records if record.key == b"%d" % producer]
            assert [record.value for record in own] == [b"%d" % i for i in range(30)]
            assert [record.offset for record in own] == taken[producer]

    def test_records_of_one_append_lie_side_by_side(self, log: Log, topic: str) -> None:
        def produce(producer: int) -> None:
            for i in range(10):
                log.append(topic, 0, [Record(b"%d" % producer, b"%d" % i)] * 20)

        threads = [threading.Thread(target=produce, args=(producer,)) for producer in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        records = self._read_all(log, topic, 0)
        assert len(records) == 600
        for start in range(0, 600, 20):
            assert len({(record.key, record.value) for record in records[start : start + 20]}) == 1

    def test_sync_makes_no_difference_to_readers(self, log: Log, topic: str) -> None:
        log.append(topic, 0, [Record(b"k", b"v")])
        log.sync(topic, 0)
        log.sync(topic, 1)
        assert len(self._read_all(log, topic, 0)) == 1

    # -- times ------------------------------------------------------------------------------------------------------------------------

    def test_a_time_is_found_as_the_first_record_not_before_it(self, log: Log, topic: str) -> None:
        for i in range(30):
            log.append(topic, 0, [Record(b"k", b"v", _YEAR_2020_MS + 1000 * i)])
        for moment, offset in (
            (0, 0),
            (_YEAR_2020_MS, 0),
            (_YEAR_2020_MS + 1, 1),
            (_YEAR_2020_MS + 15_000, 15),
            (_YEAR_2020_MS + 28_001, 29),
        ):
            assert log.offset_for_time(topic, 0, moment) == offset

    def test_a_time_after_all_records_is_not_found(self, log: Log, topic: str) -> None:
        assert log.offset_for_time(topic, 0, 0) is None
        log.append(topic, 0, [Record(b"k", b"v", _YEAR_2020_MS)])
        assert log.offset_for_time(topic, 0, _YEAR_2020_MS + 1) is None

    def test_a_time_is_found_among_records_that_are_out_of_order(self, log: Log, topic: str) -> None:
        moments = [50, 10, 90, 20, 80, 100, 30]
        for moment in moments:
            log.append(topic, 0, [Record(b"k", b"v", _YEAR_2020_MS + moment)])
        for wanted in range(0, 101, 5):
            expected = next(i for i, moment in enumerate(moments) if moment >= wanted)
            assert log.offset_for_time(topic, 0, _YEAR_2020_MS + wanted) == expected

    # -- removing ---------------------------------------------------------------------------------------------------------------------

    def test_records_before_an_offset_can_be_given_up(self, log: Log, topic: str) -> None:
        log.append(topic, 0, [Record(b"k", b"%d" % i, _YEAR_2020_MS + i) for i in range(100)])
        assert log.delete_before(topic, 0, 40) == 40
        assert (log.low_watermark(topic, 0), log.high_watermark(topic, 0)) == (40, 100)
        with pytest.raises(OffsetOutOfRangeError, match="holds 40 up to"):
            log.read(topic, 0, 39)
        assert [record.value for record in self._read_all(log, topic, 0)] == [b"%d" % i for i in range(40, 100)]
        assert log.offset_for_time(topic, 0, _YEAR_2020_MS) == 40

    def test_the_low_watermark_never_goes_back(self, log: Log, topic: str) -> None:
        log.append(topic, 0, [Record(b"k", b"v")] * 10)
        assert log.delete_before(topic, 0, 7) == 7
        assert log.delete_before(topic, 0, 3) == 7
        assert log.low_watermark(topic, 0) == 7

    def test_everything_can_be_given_up_and_offsets_go_on(self, log: Log, topic: str) -> None:
        log.append(topic, 0, [Record(b"k", b"v")] * 10)
        assert log.delete_before(topic, 0, 10) == 10
        assert len(log.read(topic, 0, 10)) == 0
        assert log.append(topic, 0, [Record(b"k", b"new")]).start == 10
        assert [record.offset for record in self._read_all(log, topic, 0)] == [10]

    def test_what_is_not_there_yet_cannot_be_given_up(self, log: Log, topic: str) -> None:
        log.append(topic, 0, [Record(b"k", b"v")])
        with pytest.raises(OffsetOutOfRangeError):
            log.delete_before(topic, 0, 2)
        assert log.low_watermark(topic, 0) == 0

    def test_retention_gives_up_what_is_too_old(self, log: Log, request: pytest.FixtureRequest) -> None:
        name = _topic_name(request)
        log.create_topic(name, TopicConfig(1, retention_ms=60_000))
        now_ms = time.time_ns() // 1_000_000
        log.append(name, 0, [Record(b"k", b"old", now_ms - 120_000)] * 5)
        log.enforce_retention(name, now_ms)
        log.append(name, 0, [Record(b"k", b"new", now_ms)] * 5)
        log.enforce_retention(name, now_ms)
        self._eventually(lambda: log.low_watermark(name, 0) == 5)
        assert {record.value for record in self._read_all(log, name, 0)} == {b"new"}

    def test_compaction_keeps_the_newest_record_of_each_key_and_its_offset(self, log: Log, request: pytest.FixtureRequest) -> None:
        name = _topic_name(request)
        log.create_topic(name, TopicConfig(1, cleanup="compact"))
        for round_ in range(5):
            log.append(name, 0, [Record(b"%d" % key, b"%d" % round_) for key in range(20)])
        log.append(name, 0, [Record(b"7", None)])
        self.settle_compaction(log, name, 0)
        newest: dict[bytes | None, LogRecord] = {}
        records = self._read_all(log, name, 0)
        for record in records:
            newest[record.key] = record
        assert len(records) < 101
        assert log.high_watermark(name, 0) >= 101
        for key in range(20):
            record = newest[b"%d" % key]
            assert (record.offset, record.value) == ((100, None) if key == 7 else (80 + key, b"4"))

    def test_a_compacted_topic_refuses_records_without_a_key(self, log: Log, request: pytest.FixtureRequest) -> None:
        name = _topic_name(request)
        log.create_topic(name, TopicConfig(1, cleanup="compact"))
        with pytest.raises(InputError, match="key"):
            log.append(name, 0, [Record(b"k", b"v"), Record(None, b"v")])
        assert log.high_watermark(name, 0) == 0

    def test_a_topic_that_is_not_to_be_compacted_is_not(self, log: Log, topic: str) -> None:
        with pytest.raises(InputError, match="compact"):
            log.compact(topic, 0)

    # -- the end ----------------------------------------------------------------------------------------------------------------------

    def test_a_closed_log_refuses_everything_but_closing(self, log: Log, topic: str) -> None:
        log.append(topic, 0, [Record(b"k", b"v")])
        log.close()
        log.close()
        for call in (log.topics, lambda: log.read(topic, 0, 0), lambda: log.append(topic, 0, [Record(b"k", b"v")])):
            with pytest.raises(StateError, match="closed"):
                call()

    # -- helpers ----------------------------------------------------------------------------------------------------------------------

    def _read_all(self, log: Log, topic: str, partition: int) -> Sequence[LogRecord]:
        """Every record between the watermarks."""
        offset, high = log.low_watermark(topic, partition), log.high_watermark(topic, partition)
        records: list[LogRecord] = []
        deadline = time.monotonic() + self.patience_s
        while offset < high and time.monotonic() < deadline:
            batch = log.read(topic, partition, offset, wait_s=1.0)
            records += batch.records()
            offset = batch.next_offset
        return records

    def _eventually(self, condition: object) -> None:
        deadline = time.monotonic() + self.patience_s
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.01)


def _topic_name(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses, also where the log outlives the run."""
    return f"{request.node.originalname[:40]}-{time.time_ns():x}"

"""The log on Kafka: what the contract does not say, faults included."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kafka_broker import Broker
from waiting import free_port, wait_for

pytest.importorskip("confluent_kafka", reason="the extra `kafka` is not installed")

from confluent_kafka import Producer

from fondaco.adapters.kafka import KafkaLog, KafkaMirror, MirroredLog
from fondaco.core.errors import (
    DeadlineExceededError,
    FondacoError,
    InputError,
    OffsetOutOfRangeError,
    StateError,
    TopicNotFoundError,
    UnavailableError,
)
from fondaco.log import EmbeddedLog, Record, TopicConfig

pytestmark = pytest.mark.xdist_group("kafka")  # the broker is started once for a file


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    made = Broker(tmp_path_factory.mktemp("broker"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def kafka(broker: Broker) -> Iterator[KafkaLog]:
    with KafkaLog(broker.bootstrap, append_s=20) as log:
        yield log


def test_a_mirror_has_the_records_under_kafkas_own_offsets(kafka: KafkaLog, tmp_path: Path) -> None:
    kafka.create_topic("mirrored", TopicConfig(2))
    for partition in (0, 1):
        kafka.append("mirrored", partition, [Record(b"k%d" % i, b"v%d" % i, 1000 + i, [("h", None)]) for i in range(100)])
    kafka.delete_before("mirrored", 1, 40)  # so that the first offset is not 0
    with EmbeddedLog(tmp_path) as local:
        mirror = KafkaMirror(kafka, local, "mirrored")
        for partition in (0, 1):
            while mirror.copy_once(partition):
                pass
            assert local.high_watermark("mirrored", partition) == 100
        first = next(local.read("mirrored", 1, local.low_watermark("mirrored", 1)).records(), None)
        copied = list(local.read("mirrored", 0, 0).records())
    assert [(r.offset, r.timestamp_ms, r.key, r.value, r.headers) for r in copied] == [
        (i, 1000 + i, b"k%d" % i, b"v%d" % i, (("h", None),)) for i in range(100)
    ]
    assert first is not None
    assert first.offset == 40


def test_a_mirror_goes_on_where_it_stopped(kafka: KafkaLog, tmp_path: Path) -> None:
    kafka.create_topic("resumed", TopicConfig(1))
    for round_ in range(3):
        kafka.append("resumed", 0, [Record(None, b"%d" % round_)] * 10)
        with EmbeddedLog(tmp_path) as local:
            assert KafkaMirror(kafka, local, "resumed").copy_once(0) == 10
            assert local.high_watermark("resumed", 0) == 10 * (round_ + 1)


def test_a_mirror_of_a_topic_that_was_made_again_stops_instead_of_mixing(kafka: KafkaLog, tmp_path: Path) -> None:
    kafka.create_topic("again", TopicConfig(1))
    kafka.append("again", 0, [Record(None, b"old")] * 10)
    with EmbeddedLog(tmp_path) as local:
        KafkaMirror(kafka, local, "again").copy_once(0)
        kafka.delete_topic("again")
        kafka.create_topic("again", TopicConfig(1))
        kafka.append("again", 0, [Record(None, b"new")])
        with pytest.raises(StateError, match="made again"):
            KafkaMirror(kafka, local, "again").copy_once(0)


def test_a_platforms_log_appends_to_kafka_and_reads_what_came_back(broker: Broker, tmp_path: Path) -> None:
    with MirroredLog(KafkaLog(broker.bootstrap), EmbeddedLog(tmp_path), tmp_path) as log:
        log.create_topic("members.rt", TopicConfig(1))
        log.follow("members.rt")
        assert log.append("members.rt", 0, [Record(b"k", b"v", 7)]) == range(1)
        wait_for(lambda: log.partition_files("members.rt", 0).high == 1, "the record is in the mirror")
        assert [record.value for record in log.read("members.rt", 0, 0).records()] == [b"v"]
        log.delete_topic("members.rt")
        assert "members.rt" not in log.topics()


def test_two_platforms_on_one_machine_share_one_mirror(broker: Broker, tmp_path: Path) -> None:
    first = MirroredLog(KafkaLog(broker.bootstrap), EmbeddedLog(tmp_path), tmp_path)
    second = MirroredLog(KafkaLog(broker.bootstrap), EmbeddedLog(tmp_path), tmp_path)
    with second:
        with first:
            first.create_topic("shared.rt", TopicConfig(1))
            first.follow("shared.rt")
            second.follow("shared.rt")
            first.append("shared.rt", 0, [Record(None, b"1")])
            wait_for(lambda: second.partition_files("shared.rt", 0).high == 1, "the record is in the mirror")
        second.append("shared.rt", 0, [Record(None, b"2")])  # the one that copied has gone
        wait_for(lambda: second.partition_files("shared.rt", 0).high == 2, "the record is in the mirror")
        assert [record.value for record in second.read("shared.rt", 0, 0).records()] == [b"1", b"2"]


def test_an_append_while_the_broker_is_away_is_made_when_it_comes_back(tmp_path: Path) -> None:
    """Or fails with an error that says that a retry helps; then it is sent again here."""
    broker = Broker(tmp_path)
    broker.start()
    acknowledged: list[int] = []
    wrong: list[FondacoError] = []

    def append(log: KafkaLog, count: int) -> None:
        while len(acknowledged) < count:
            try:
                acknowledged.extend(log.append("outage", 0, [Record(None, b"x")]))
            except FondacoError as exc:
                if not exc.retryable:
                    wrong.append(exc)
                    return

    try:
        with KafkaLog(broker.bootstrap, append_s=60) as log:
            log.create_topic("outage", TopicConfig(1))
            append(log, 100)
            time.sleep(1.5)  # this broker acknowledges first and saves soon after; what it forgets itself is not what is tried here
            broker.stop()
            thread = threading.Thread(target=append, args=(log, 200))
            thread.start()
            time.sleep(0.5)  # it is trying
            assert len(acknowledged) == 100
            broker.start()
            thread.join(90)
            assert not thread.is_alive()
        with KafkaLog(broker.bootstrap) as log:
            there = {record.offset for record in log.read("outage", 0, 0, max_bytes=1 << 24).records()}
    finally:
        broker.stop()
    assert wrong == []
    assert len(set(acknowledged)) == len(acknowledged) == 200
    assert set(acknowledged) <= there


def test_a_broker_that_is_not_there_is_said_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fondaco.adapters.kafka.log.CALL_S", 1.0)
    peer = f"127.0.0.1:{free_port()}"
    with KafkaLog(peer, append_s=1) as log, pytest.raises((UnavailableError, DeadlineExceededError), match=peer):
        log.topics()


def test_an_append_that_nobody_acknowledges_fails_in_time() -> None:
    cluster = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "unused", "log_level": 0})  # librdkafka's own, in this process
    brokers = cluster.list_topics(timeout=10).brokers
    log = KafkaLog(",".join(f"{broker.host}:{broker.port}" for broker in brokers.values()), append_s=2)
    log._partitions["t"], log._compacted["t"] = 1, False  # the mock makes a topic at the first append
    assert log.append("t", 0, [Record(None, b"1")]) == range(1)
    del cluster  # and with it the brokers
    begun = time.monotonic()
    with pytest.raises((UnavailableError, DeadlineExceededError)):
        log.append("t", 0, [Record(None, b"2")])
    assert time.monotonic() - begun < 10
    log.close()


def test_what_cannot_be_is_refused_with_its_name(kafka: KafkaLog) -> None:
    with pytest.raises(TopicNotFoundError, match="nowhere"):
        kafka.append("nowhere", 0, [Record(None, b"")])
    kafka.create_topic("few", TopicConfig(2))
    with pytest.raises(InputError, match="0 to 1, not 2"):
        kafka.append("few", 2, [Record(None, b"")])
    with pytest.raises(OffsetOutOfRangeError, match="no offset 5"):
        kafka.read("few", 0, 5)
    with pytest.raises(InputError, match=r"no\.such\.setting"):
        KafkaLog("127.0.0.1:1", {"no.such.setting": "1"})
    with pytest.raises(InputError, match="bootstrap"):
        KafkaLog("")
    with pytest.raises(InputError, match="not compacted"):
        kafka.compact("few", 0)


def test_a_closed_log_says_so(broker: Broker) -> None:
    log = KafkaLog(broker.bootstrap)
    log.close()
    log.close()
    with pytest.raises(StateError, match="closed"):
        log.topics()


def test_every_error_is_one_of_ours(kafka: KafkaLog) -> None:
    kafka.create_topic("large", TopicConfig(1))
    with pytest.raises(FondacoError):
        kafka.append("large", 0, [Record(None, bytes(2_000_000))])  # beyond message.max.bytes of the client

"""The contract of logs on Kafka: against the small broker that the tests start, and against any cluster named by FONDACO_TEST_KAFKA."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import ClassVar

import pytest

from kafka_broker import Broker

pytest.importorskip("confluent_kafka", reason="the extra `kafka` is not installed")

from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from fondaco.adapters.kafka import KafkaLog
from fondaco.log import Log, Record
from fondaco.testing.log import LogContract

CLUSTER = os.environ.get("FONDACO_TEST_KAFKA", "")

KAFKA_CANNOT = frozenset(
    {
        "retention_gives_up_what_is_too_old",  # brokers do it in minutes, and by segment
    }
)


class KafkaContract(LogContract):
    """What all brokers have in common."""

    patience_s: ClassVar[float] = 30.0

    def settle_compaction(self, log: Log, topic: str, partition: int) -> None:
        """Ask the brokers to be quick about it, and give them new segments until they are."""
        log.compact(topic, partition)
        assert isinstance(log, KafkaLog)
        hurry = {"segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "1000"}
        entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in hurry.items()]
        for future in log._admin.incremental_alter_configs(
            [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)]
        ).values():
            future.result(timeout=20)
        deadline = time.monotonic() + self.patience_s
        before = len(log.read(topic, partition, 0, max_bytes=1 << 24))
        while len(log.read(topic, partition, 0, max_bytes=1 << 24)) >= before:
            assert time.monotonic() < deadline, "the brokers did not compact the topic in time"
            log.append(topic, partition, [Record(b"closes the segment", b"")])
            time.sleep(1)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    made = Broker(tmp_path_factory.mktemp("broker"))
    made.start()
    yield made
    made.stop()


@pytest.mark.xdist_group("kafka")
class TestKafkaOnTheTestBroker(KafkaContract):
    """noida-db 0.2.3."""

    patience_s = 8.0
    cannot = KAFKA_CANNOT

    @pytest.fixture
    def log(self, broker: Broker) -> Iterator[KafkaLog]:  # type: ignore[override]
        with KafkaLog(broker.bootstrap, append_s=20) as log:
            yield log


@pytest.mark.skipif(not CLUSTER, reason="FONDACO_TEST_KAFKA names no cluster (host:port,...)")
class TestKafkaOnACluster(KafkaContract):
    """A real cluster, topics made and left to be deleted by name."""

    cannot = KAFKA_CANNOT

    @pytest.fixture
    def log(self) -> Iterator[KafkaLog]:  # type: ignore[override]
        with KafkaLog(CLUSTER) as log:
            before = set(log.topics())
            yield log
            if not log._closed:
                for topic in set(log.topics()) - before:
                    log.delete_topic(topic)

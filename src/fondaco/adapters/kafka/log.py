"""KafkaLog: `fondaco.log.Log` over confluent-kafka (librdkafka).

What differs from the embedded log, because it is Kafka's:
* records of one append lie in order, and those of other producers may lie between them; the range that `append` returns reaches from the
  first to the last. If it fails half-way, some may be there: writes of stores are known by their stamps, so repeating them is harmless.
* `durability` makes no difference: an append returns when all in-sync replicas have it, whatever they have synced.
* compaction and retention are the brokers' own, at their own pace: `compact` and `enforce_retention` check and leave it to them.
* a record has one time; `appended_ms` is its timestamp.

One producer for all topics; a consumer for each partition that is read, the least recently used closed beyond 64. Any thread: reads of
one partition wait for each other. Nothing is sent after `append` has returned or raised.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from fondaco.core.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    InputError,
    MissingExtraError,
    OffsetOutOfRangeError,
    StateError,
    TopicNotFoundError,
)

try:
    from confluent_kafka import OFFSET_END, OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient, ConfigEntry, ConfigResource, NewTopic, ResourceType
except ImportError as exc:
    raise MissingExtraError("confluent_kafka", "kafka", "the log on Kafka") from exc

from fondaco.adapters.kafka.errors import error_of, kafka_errors
from fondaco.log.log import Cleanup, Durability, Partitioner, TopicConfig, check_topic
from fondaco.log.records import LogBatch, LogRecord, Record, RecordBatch

APPEND_S: Final = 60.0  # librdkafka retries for so long; a broker that restarts is back by then
CALL_S: Final = 30.0  # administrative calls and watermarks
READERS_MAX: Final = 64
_FETCH_RECORDS: Final = 1000
_NO_LIMIT: Final = -1
_LOGGER = logging.getLogger("fondaco.adapters.kafka")  # librdkafka's own words go here, not to stderr


class KafkaLog:
    """Topics of a Kafka cluster. Close it when done."""

    partitioner: Partitioner = "murmur2"  # Java's default for records with a key, so that other producers find the same partitions

    def __init__(
        self, bootstrap: str, options: Mapping[str, str] | None = None, *, append_s: float = APPEND_S, replication: int | None = None
    ) -> None:
        """
        Args:
            bootstrap: "host:port,host:port".
            options: settings of librdkafka for all clients, as {"security.protocol": "SASL_SSL", "sasl.username": ...}.
            append_s: how long an append is tried before it fails.
            replication: replicas of topics that are created; None: 3, or as many as there are brokers.
        Raises:
            InputError: a setting that librdkafka does not know. Nothing is connected yet.
        """
        if not isinstance(bootstrap, str) or not bootstrap.strip():
            raise InputError(f'[log] kind = "kafka" needs bootstrap = "host:port,...", not {bootstrap!r}')
        self.bootstrap = bootstrap
        self._common = {**dict(options or {}), "bootstrap.servers": bootstrap, "client.id": "fondaco", "logger": _LOGGER}
        self._append_s, self._replication = append_s, replication
        self._lock = threading.Lock()
        self._admin: AdminClient = self._client(AdminClient, {})
        self._producer: Producer | None = None
        self._readers: OrderedDict[tuple[str, int], _PartitionReader] = OrderedDict()
        self._partitions: dict[str, int] = {}
        self._compacted: dict[str, bool] = {}
        self._sending: defaultdict[tuple[str, int], threading.Lock] = defaultdict(threading.Lock)
        self._closed = False

    def _client(self, kind: Any, settings: Mapping[str, Any]) -> Any:
        try:
            return kind({**self._common, **settings})
        except KafkaException as exc:
            raise InputError(f"a setting of Kafka's client is wrong: {exc.args[0].str()}") from exc

    # -- topics -----------------------------------------------------------------------------------------------------------------------

    def topics(self) -> list[str]:
        """Names of all topics, sorted; the brokers' own (that begin with two underscores) left out."""
        return sorted(name for name in self._metadata("the list of topics").topics if not name.startswith("__"))

    def create_topic(self, name: str, config: TopicConfig) -> None:
        """As `Log.create_topic`. Raises also UnavailableError."""
        check_topic(name, config)
        if name not in self._metadata(name).topics:
            entries = {
                "cleanup.policy": config.cleanup,
                "retention.ms": str(_NO_LIMIT if config.retention_ms is None else config.retention_ms),
                "retention.bytes": str(_NO_LIMIT if config.retention_bytes is None else config.retention_bytes),
                "segment.bytes": str(max(config.segment_bytes, 14)),  # the brokers' own least
                "delete.retention.ms": str(config.tombstone_ms),
                "message.timestamp.type": "CreateTime",  # timestamps are the writes' own; the broker must not put its clock there
            }
            topic = NewTopic(name, config.partitions, self._replicas(), config=entries)
            try:
                self._done(self._admin.create_topics([topic], operation_timeout=CALL_S, request_timeout=CALL_S)[name], name)
            except KafkaException as exc:
                if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody else made it meanwhile
                    raise error_of(exc.args[0], self.bootstrap, f"creating topic {name!r}", CALL_S) from exc
            self._await_topic(name, there=True)
        existing = self.describe_topic(name)
        if existing.partitions != config.partitions:
            raise AlreadyExistsError("topic", name, f"its partitions is {existing.partitions}, not {config.partitions}")
        if existing.cleanup != config.cleanup:
            raise AlreadyExistsError("topic", name, f"its cleanup is {existing.cleanup!r}, not {config.cleanup!r}")

    def _replicas(self) -> int:
        return self._replication if self._replication is not None else min(3, len(self._metadata("the brokers").brokers)) or 1

    def delete_topic(self, name: str) -> None:
        """As `Log.delete_topic`."""
        self._count(name)
        with kafka_errors(self.bootstrap, f"deleting topic {name!r}", CALL_S):
            self._done(self._admin.delete_topics([name], operation_timeout=CALL_S, request_timeout=CALL_S)[name], name)
        with self._lock:
            self._partitions.pop(name, None)
            self._compacted.pop(name, None)
            gone = [self._readers.pop(place) for place in list(self._readers) if place[0] == name]
            self._producer = None  # its sequence numbers for the topic would not fit one that is made again under the name
        for reader in gone:
            reader.close()
        self._await_topic(name, there=False)

    def _await_topic(self, name: str, *, there: bool) -> None:
        """The cluster tells its brokers in its own time; what follows expects that they know."""
        deadline = time.monotonic() + CALL_S
        while (name in self._metadata(name).topics) is not there:
            if time.monotonic() > deadline:
                raise DeadlineExceededError(f"Kafka at {self.bootstrap}: topic {name!r}", CALL_S, "the brokers do not agree on it yet")
            time.sleep(0.05)

    def describe_topic(self, name: str) -> TopicConfig:
        """As `Log.describe_topic`; settings that the broker does not tell have their defaults."""
        partitions = self._count(name, fresh=True)
        resource = ConfigResource(ResourceType.TOPIC, name)
        with kafka_errors(self.bootstrap, f"topic {name!r}", CALL_S):
            told: dict[str, ConfigEntry] = self._done(self._admin.describe_configs([resource], request_timeout=CALL_S)[resource], name)

        def number(setting: str) -> int | None:
            value = told[setting].value if setting in told else None
            return None if value is None or int(value) < 0 else int(value)

        policy = told["cleanup.policy"].value if "cleanup.policy" in told else "delete"
        cleanup: Cleanup = "compact" if "compact" in (policy or "") else "delete"
        given = {"segment_bytes": number("segment.bytes"), "tombstone_ms": number("delete.retention.ms")}
        return TopicConfig(
            partitions, number("retention.ms"), number("retention.bytes"), cleanup, **{k: v for k, v in given.items() if v is not None}
        )

    def _metadata(self, what: str) -> Any:
        self._check_open()
        with kafka_errors(self.bootstrap, what, CALL_S):
            return self._admin.list_topics(timeout=CALL_S)

    def _count(self, topic: str, *, fresh: bool = False) -> int:
        """Partitions of a topic. Raises TopicNotFoundError."""
        self._check_open()
        known = self._partitions.get(topic)
        if known is None or fresh:
            topics = self._metadata(topic).topics
            if topic not in topics:
                raise TopicNotFoundError(topic, sorted(topics), f"the Kafka cluster at {self.bootstrap}")
            known = self._partitions[topic] = len(topics[topic].partitions)
        return known

    def _check_partition(self, topic: str, partition: int) -> None:
        count = self._count(topic)
        if not 0 <= partition < count:
            raise InputError(f"topic {topic!r} has the partitions 0 to {count - 1}, not {partition}")

    @staticmethod
    def _done(future: Any, what: str) -> Any:
        return future.result(timeout=CALL_S + 5)

    # -- writing ----------------------------------------------------------------------------------------------------------------------

    def append(self, topic: str, partition: int, batch: RecordBatch | Sequence[Record], *, durability: Durability = "os") -> range:
        """As `Log.append`, with the differences that the module names.

        Raises:
            DeadlineExceededError: not acknowledged in time; records may be there. TopicNotFoundError, LimitError, UnavailableError.
        """
        if durability not in ("os", "disk"):
            raise InputError(f'durability is "os" or "disk", not {durability!r}')
        self._check_partition(topic, partition)
        records = list(batch.records() if isinstance(batch, RecordBatch) else RecordBatch.of(batch).records())
        if any(record.key is None for record in records) and self._is_compacted(topic):
            raise InputError(f"topic {topic!r} is compacted, so every record needs a key; the brokers would refuse the rest")
        waiting = _Deliveries()
        producer = self._producer_of()
        with self._sending[topic, partition]:  # side by side, as far as this process is concerned
            for record in records:
                self._produce(producer, topic, partition, record, waiting)
        deadline = time.monotonic() + self._append_s + 5  # librdkafka gives every message an answer by then
        while waiting.open and waiting.failed is None and time.monotonic() < deadline:
            waiting.poll(producer)
        if waiting.failed is not None:
            if waiting.failed.fatal():  # an idempotent producer that has lost the thread is of no more use; the next append gets another
                self._forget_producer(producer)
            raise error_of(waiting.failed, self.bootstrap, f"append to {topic!r}, partition {partition}", self._append_s)
        if waiting.open:
            raise DeadlineExceededError(f"Kafka at {self.bootstrap}: append to {topic!r}", self._append_s, f"{waiting.open} records open")
        if waiting.last < 0:
            high = self.high_watermark(topic, partition)
            return range(high, high)
        return range(waiting.first, waiting.last + 1)

    def _is_compacted(self, topic: str) -> bool:
        known = self._compacted.get(topic)
        if known is None:
            known = self._compacted[topic] = self.describe_topic(topic).cleanup == "compact"
        return known

    def _produce(self, producer: Producer, topic: str, partition: int, record: Record, waiting: _Deliveries) -> None:
        timestamp = int(time.time() * 1000) if record.timestamp_ms is None else record.timestamp_ms
        headers = [(name, value) for name, value in record.headers]
        waiting.open += 1
        while True:
            try:
                # a timestamp of 0 asks librdkafka for the clock; one millisecond later is the nearest that can be said
                producer.produce(
                    topic, record.value, record.key, partition, on_delivery=waiting.on_delivery, timestamp=timestamp or 1, headers=headers
                )
                return
            except BufferError:  # its queue is full: let it work off some
                waiting.poll(producer)
            except KafkaException as exc:
                waiting.open -= 1
                waiting.failed = exc.args[0]
                return

    def _producer_of(self) -> Producer:
        with self._lock:
            if self._producer is None:
                self._producer = self._client(
                    Producer,
                    {
                        "enable.idempotence": True,
                        "acks": "all",
                        "linger.ms": 0,  # `append` brings whole batches; waiting for more would be waiting for nothing
                        "batch.size": 1_000_000,
                        "partitioner": "murmur2_random",
                        "message.timeout.ms": int(self._append_s * 1000),
                    },
                )
            return self._producer

    def _forget_producer(self, producer: Producer | None) -> None:
        with self._lock:
            if self._producer is producer:
                self._producer = None

    def sync(self, topic: str, partition: int) -> None:
        """Nothing is left to do: what `append` returned for has been acknowledged by all in-sync replicas."""
        self._check_partition(topic, partition)

    # -- reading ----------------------------------------------------------------------------------------------------------------------

    def read(self, topic: str, partition: int, offset: int, *, max_bytes: int = 1 << 20, wait_s: float = 0.0) -> LogBatch:
        """As `Log.read`. Raises also UnavailableError, DeadlineExceededError."""
        return self._reader(topic, partition).read(offset, max_bytes, wait_s)

    def high_watermark(self, topic: str, partition: int) -> int:
        """As `Log.high_watermark`."""
        return self._reader(topic, partition).watermarks()[1]

    def low_watermark(self, topic: str, partition: int) -> int:
        """As `Log.low_watermark`."""
        return self._reader(topic, partition).watermarks()[0]

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        """As `Log.offset_for_time`."""
        return self._reader(topic, partition).offset_for_time(timestamp_ms)

    def _reader(self, topic: str, partition: int) -> _PartitionReader:
        self._check_partition(topic, partition)
        surplus = None
        with self._lock:
            place = (topic, partition)
            reader = self._readers.get(place)
            if reader is None:
                # a group is asked for and never used: partitions are assigned by hand and offsets are ours
                consumer = self._client(
                    Consumer,
                    {
                        "group.id": "fondaco",
                        "enable.auto.commit": False,
                        "enable.auto.offset.store": False,
                        "auto.offset.reset": "error",
                        "enable.partition.eof": True,
                        "isolation.level": "read_committed",
                        "allow.auto.create.topics": False,
                        "fetch.wait.max.ms": 50,
                        "queued.max.messages.kbytes": 16 << 10,
                        "receive.message.max.bytes": 1_000_000_000,  # some brokers answer a fetch with more than was asked for
                    },
                )
                reader = self._readers[place] = _PartitionReader(consumer, self.bootstrap, topic, partition)
            self._readers.move_to_end(place)
            if len(self._readers) > READERS_MAX:
                surplus = self._readers.popitem(last=False)[1]
        if surplus is not None:
            surplus.close()
        return reader

    # -- what the brokers do ------------------------------------------------------------------------------------------------------------

    def delete_before(self, topic: str, partition: int, offset: int) -> int:
        """As `Log.delete_before`."""
        low, high = self._reader(topic, partition).watermarks()
        if offset > high:
            raise OffsetOutOfRangeError(topic, partition, offset, low, high)
        if offset <= low:
            return low
        place = TopicPartition(topic, partition, offset)
        with kafka_errors(self.bootstrap, f"deleting records of {topic!r}", CALL_S):
            (future,) = self._admin.delete_records([place], request_timeout=CALL_S, operation_timeout=CALL_S).values()
            return int(self._done(future, topic).low_watermark)

    def compact(self, topic: str, partition: int) -> None:
        """Check that the topic is compacted; its brokers do it in their own time."""
        self._check_partition(topic, partition)
        if self.describe_topic(topic).cleanup != "compact":
            raise InputError(f'topic {topic!r} is not compacted: its cleanup is "delete"')

    def enforce_retention(self, topic: str, now_ms: int | None = None) -> None:
        """The brokers do it in their own time."""
        self._count(topic)

    # -- closing ----------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of all connections. Closing again does nothing."""
        with self._lock:
            self._closed = True
            readers, self._readers = list(self._readers.values()), OrderedDict()
            producer, self._producer = self._producer, None
        for reader in readers:
            reader.close()
        if producer is not None:
            producer.flush(5)

    def _check_open(self) -> None:
        if self._closed:
            raise StateError(f"the log at {self.bootstrap} is closed; open it again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"KafkaLog({self.bootstrap!r})"


class _Deliveries:
    """What became of the messages of one append; called back from `poll` in the thread that appends, or in another that polls."""

    def __init__(self) -> None:
        self.open = 0
        self.first, self.last = 1 << 62, -1
        self.failed: KafkaError | None = None
        self._lock = threading.Lock()

    def poll(self, producer: Producer) -> None:
        """Let answers come in."""
        try:
            producer.poll(0.05)
        except KafkaException as exc:
            self.failed = self.failed or exc.args[0]

    def on_delivery(self, error: KafkaError | None, message: Message) -> None:
        with self._lock:
            self.open -= 1
            if error is not None:
                self.failed = self.failed or error
                return
            offset = message.offset()
            self.first, self.last = min(self.first, offset), max(self.last, offset)


class _PartitionReader:
    """One consumer, assigned to one partition, that reads on where it stopped or seeks."""

    def __init__(self, consumer: Consumer, peer: str, topic: str, partition: int) -> None:
        self._consumer, self._peer = consumer, peer
        self._topic, self._partition = topic, partition
        self._lock = threading.Lock()
        self._next: int | None = None  # where the consumer stands
        self._held: list[Message] = []  # fetched, and beyond what the last read could take
        self._at_end = False  # the broker has said that there is nothing more, and nothing has come since

    def close(self) -> None:
        with self._lock:
            self._consumer.close()

    def watermarks(self) -> tuple[int, int]:
        with self._lock:
            return self._watermarks()

    def _watermarks(self) -> tuple[int, int]:
        place = TopicPartition(self._topic, self._partition)
        with kafka_errors(self._peer, f"watermarks of {self._topic!r}", CALL_S):
            told = self._consumer.get_watermark_offsets(place, timeout=CALL_S, cached=False)
        if told is None:
            raise DeadlineExceededError(f"Kafka at {self._peer}: watermarks of {self._topic!r}", CALL_S)
        return int(told[0]), int(told[1])

    def offset_for_time(self, timestamp_ms: int) -> int | None:
        place = TopicPartition(self._topic, self._partition, max(timestamp_ms, 0))
        with self._lock, kafka_errors(self._peer, f"times of {self._topic!r}", CALL_S):
            found = self._consumer.offsets_for_times([place], timeout=CALL_S)[0]
        if found.error is not None:
            raise error_of(found.error, self._peer, f"times of {self._topic!r}", CALL_S)
        return None if found.offset in (OFFSET_END, OFFSET_INVALID) or found.offset < 0 else int(found.offset)

    def read(self, offset: int, max_bytes: int, wait_s: float) -> LogBatch:
        with self._lock:
            if self._next != offset:
                self._seek(offset)
            deadline = time.monotonic() + max(wait_s, 0.0)
            records: list[LogRecord] = []
            size = 0
            while size < max_bytes:
                found = self._fetch(deadline, first=not records)
                if not found:
                    break
                taken = 0
                for message in found:
                    record = self._record(message)
                    records.append(record)
                    size += len(record.key or b"") + len(record.value or b"")
                    taken += 1
                    if size >= max_bytes:
                        break
                self._held = found[taken:]
            if records:
                self._next = records[-1].offset + 1
            return LogBatch.of(self._topic, self._partition, records, offset if self._next is None else self._next)

    def _seek(self, offset: int) -> None:
        low, high = self._watermarks()
        if not low <= offset <= high:
            raise OffsetOutOfRangeError(self._topic, self._partition, offset, low, high)
        with kafka_errors(self._peer, f"reading {self._topic!r}", CALL_S):
            self._consumer.assign([TopicPartition(self._topic, self._partition, offset)])
        self._held, self._next, self._at_end = [], offset, False

    def _fetch(self, deadline: float, *, first: bool) -> list[Message]:
        """The next messages: those kept back, or what the broker sends; none at the end of the partition once `deadline` has passed."""
        if self._held:
            found, self._held = self._held, []
            return found
        patience = time.monotonic() + CALL_S
        while True:
            messages = self._poll(deadline)
            found = [message for message in messages if message.error() is None]
            self._at_end = self._at_end and not found
            for failed in (message.error() for message in messages):
                self._judge(failed)
            if found:
                return found
            if self._at_end and not first:
                return []
            if self._at_end and time.monotonic() >= deadline:
                if (self._next or 0) >= self._watermarks()[1]:
                    return []
                self._at_end = False  # something was appended that the broker has not sent yet
            if not self._at_end and time.monotonic() > patience:
                self._next = None
                raise DeadlineExceededError(f"Kafka at {self._peer}: reading {self._topic!r}", CALL_S, "no answer")

    def _poll(self, deadline: float) -> list[Message]:
        """What has been fetched by now; waits a little, and at the end of the partition not beyond `deadline`."""
        patience = min(0.1, max(0.0, deadline - time.monotonic())) if self._at_end else 0.1
        with kafka_errors(self._peer, f"reading {self._topic!r}", CALL_S):
            head = self._consumer.poll(patience)  # `consume` with a timeout would wait until it has all it may take
            return [] if head is None else [head, *self._consumer.consume(_FETCH_RECORDS, timeout=0)]

    def _judge(self, failed: KafkaError | None) -> None:
        """Note the end of the partition; let what librdkafka tries again by itself pass; raise the rest."""
        if failed is None:
            return
        code = failed.code()
        if code == KafkaError._PARTITION_EOF:
            self._at_end = True
        elif code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            wanted, (low, high) = self._next or 0, self._watermarks()
            self._next = None
            raise OffsetOutOfRangeError(self._topic, self._partition, wanted, low, high)
        elif not failed.retriable() and code not in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT):
            self._next = None
            raise error_of(failed, self._peer, f"reading {self._topic!r}", CALL_S)

    def _record(self, message: Message) -> LogRecord:
        timestamp = max(message.timestamp()[1], 0)  # -1: the message has none
        headers = tuple((name, value) for name, value in (message.headers() or ()))
        key, value = message.key(), message.value()
        return LogRecord(self._topic, self._partition, message.offset(), timestamp, timestamp, key, value, headers)

"""Writing over HTTP: what was acknowledged is there, once; what cannot be written is said; quotas are waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from fondaco.core.errors import (
    FieldNotFoundError,
    KeyTypeError,
    QuotaExceededError,
    RowError,
    StateError,
    StoreNotFoundError,
    UnavailableError,
    UnwrittenError,
)
from fondaco.dataplane import wire
from fondaco.dataplane.client_faces import Connections
from fondaco.dataplane.client_writer import PART_WRITES, HttpTarget, RemoteWriter
from fondaco.dataplane.pool_blocking import BlockingTransport
from fondaco.dataplane.thin import ThinReader
from fondaco.platform import Platform
from fondaco.store.writes import Op, batch_of, encode_envelope
from live_data_plane import DataPlaneProcess, TailingProcess
from scripted_server import CloseNow, Got, ScriptedServer, answer

SCHEMA = {
    "type": "record",
    "name": "Row",
    "fields": [{"name": "n", "type": "long"}, {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []}],
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "platform"
    with Platform.open(path) as platform:
        platform.create_store("members", key="long", value=SCHEMA, partitions=4)
    return path


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[DataPlaneProcess]:
    with TailingProcess(directory), DataPlaneProcess(directory) as server:
        yield server


def test_what_was_written_is_read_at_its_position(server: DataPlaneProcess) -> None:
    with RemoteWriter(server.url, "members", "job") as writer, ThinReader(server.url, "members") as reader:
        position = writer.put(1, {"n": 10})
        assert dict(reader.get(1, min_position=position) or {}) == {"n": 10, "tags": []}
        position = writer.patch(1, {"n": 11}, add={"tags": ["a"]})
        assert dict(reader.get(1, min_position=position) or {}) == {"n": 11, "tags": ["a"]}
        position = writer.delete(1)
        assert reader.get(1, min_position=position) is None
        positions = writer.put_many(pa.table({"key": np.arange(5000), "n": np.arange(5000) * 3}))
        columns = reader.get_columns(np.arange(5000), ["n"], min_position=positions)
        assert columns["n"].tolist() == [3 * n for n in range(5000)]
        written = [writer.put(key, {"n": key}) for key in range(20)]
        writer.flush("disk")
        assert [dict(reader.get(key, min_position=place) or {})["n"] for key, place in enumerate(written)] == list(range(20))


def test_what_does_not_fit_is_refused_before_it_is_sent(server: DataPlaneProcess) -> None:
    with RemoteWriter(server.url, "members") as writer:
        with pytest.raises(KeyTypeError):
            writer.put("1", {"n": 1})
        with pytest.raises(RowError):
            writer.put(1, {"n": "x"})
        with pytest.raises(FieldNotFoundError):
            writer.patch(1, {"m": 1})
    with pytest.raises(StateError, match="closed"):
        writer.put(1, {"n": 1})
    with pytest.raises(StoreNotFoundError, match="did you mean 'members'"):
        RemoteWriter(server.url, "member")


# -- a server that misbehaves -------------------------------------------------------------------------------------------------------


def description() -> bytes:
    document = {"name": "members", "key_schema": "long", "value_schemas": {"1": SCHEMA}, "version": 1}
    return answer(body=msgspec.json.encode(document), Fondaco_Version="1")


class Log:
    """Keeps what it is sent, as a server would."""

    def __init__(self) -> None:
        self.batches: list[tuple[Any, str | None]] = []

    def take(self, got: Got) -> bytes:
        batch, durability = wire.unpack_writes(got.body)
        first = sum(len(taken) for taken, _ in self.batches)
        self.batches.append((batch, durability))
        document = {"positions": "", "partitions": [0] * len(batch), "offsets": list(range(first, first + len(batch)))}
        return answer(body=msgspec.json.encode(document))


def test_a_write_whose_acknowledgement_was_lost_is_sent_again() -> None:
    log = Log()

    def handler(got: Got) -> bytes:
        if got.method == "GET":
            return description()
        acknowledgement = log.take(got)
        if len(log.batches) in (1, 2):
            raise CloseNow
        return acknowledgement

    with ScriptedServer(handler) as server, RemoteWriter(server.url, "members", linger_ms=1) as writer:
        position = writer.put(7, {"n": 1})
        assert position.offset == 2
    sent = [batch for batch, _ in log.batches]
    assert len(sent) == 3
    assert all(batch.values.tobytes() == sent[0].values.tobytes() for batch in sent)  # the same stamp each time


def test_a_server_that_is_away_for_a_moment_loses_nothing() -> None:
    log, away = Log(), True

    def handler(got: Got) -> bytes:
        if got.method == "GET":
            return description()
        return answer(503, wire.error_body(UnavailableError("the node", "it starts"))) if away else log.take(got)

    with ScriptedServer(handler) as server:
        with RemoteWriter(server.url, "members", linger_ms=1, timeout_s=20) as writer:
            for key in range(50):
                writer.put(key, {"n": key})
            assert writer.waiting == 50
            away = False
            writer.flush()
            assert writer.waiting == 0
        assert sum(len(batch) for batch, _ in log.batches) == 50


def test_a_quota_is_waited_for_and_not_asked_about() -> None:
    log, refused = Log(), QuotaExceededError("job", "members", "5 rows/s", 1.0)
    refusals: list[float] = []

    def handler(got: Got) -> bytes:
        if got.method == "GET":
            return description()
        if not refusals:
            refusals.append(time.monotonic())
            return answer(429, wire.error_body(refused), Retry_After="1")
        refusals.append(time.monotonic())
        return log.take(got)

    with ScriptedServer(handler) as server, RemoteWriter(server.url, "members", linger_ms=1, timeout_s=10) as writer:
        writer.put(1, {"n": 1})
        writer.flush()
    assert len(refusals) == 2
    assert refusals[1] - refusals[0] >= 0.95


def test_what_could_not_be_written_is_counted_at_the_end() -> None:
    def handler(got: Got) -> bytes:
        return description() if got.method == "GET" else answer(503, wire.error_body(UnavailableError("the node", "it is full")))

    with ScriptedServer(handler) as server:
        writer = RemoteWriter(server.url, "members", timeout_s=0.3)
        writer.put(1, {"n": 1})
        writer.put(2, {"n": 2})
        with pytest.raises(UnwrittenError, match="2 writes"):
            writer.close()


def test_an_acknowledgement_of_something_else_is_refused() -> None:
    def handler(got: Got) -> bytes:
        return description() if got.method == "GET" else answer(body=b'{"partitions": [0], "offsets": []}')

    with ScriptedServer(handler) as server:
        writer = RemoteWriter(server.url, "members", timeout_s=0.2)
        writer.put(1, {"n": 1})
        with pytest.raises(UnwrittenError, match="0 positions for 1 writes"):
            writer.close()


def test_what_was_written_to_memory_is_made_durable_by_one_write_again() -> None:
    log = Log()
    with ScriptedServer(lambda got: description() if got.method == "GET" else log.take(got)) as server:
        with RemoteWriter(server.url, "members", linger_ms=1) as writer:
            writer.put(1, {"n": 1})
            writer.put(2, {"n": 2})
            writer.flush()
            writer.flush("disk")
        (first, _), (again, durability) = log.batches
        assert (len(first), len(again), durability) == (2, 1, "disk")
        assert again.values.tobytes() == first.values.tobytes()[int(first.value_offsets[1]) :]


def test_a_large_batch_is_cut_into_requests_of_bounded_size() -> None:
    count = PART_WRITES + 5
    batch = batch_of([b"\x02"] * count, [encode_envelope(Op.DELETE, 0, 1, n) for n in range(count)], list(range(count)))
    connections = Connections(BlockingTransport(), "http://127.0.0.1:1", None, None)
    parts = HttpTarget(connections, "members", 1.0).split(batch)
    assert [len(part.batch) for part in parts] == [PART_WRITES, 5]
    assert np.concatenate([part.batch.timestamps_ms for part in parts]).tolist() == list(range(count))
    assert parts[1].batch.key_offsets.tolist() == list(range(6))
    long = batch_of([b"\x02"] * 3, [encode_envelope(Op.PUT, 1, 1, 0, bytes(3 << 20))] * 3, [0] * 3)
    assert [len(part.batch) for part in HttpTarget(connections, "members", 1.0).split(long)] == [1, 1, 1]
    connections.transport.close()

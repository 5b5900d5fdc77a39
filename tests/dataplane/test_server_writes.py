"""Writes are appended in groups, none acknowledged is lost, and a full disk or a damaged version is a typed error and no end."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import fondaco as fd
from data_server import DataServer, ask
from fondaco.core.errors import DiskFullError
from fondaco.dataplane.writing import Appender, positions_of
from fondaco.log import EmbeddedLog, TopicConfig
from fondaco.store.writer import LogTarget
from fondaco.store.writes import WriteBatch, batch_of
from waiting import wait_for

VALUE = pa.schema([("v", pa.int64()), ("text", pa.string())])


class CountingLog(EmbeddedLog):
    """A log that counts its appends, and fails when told to."""

    appends = 0
    fails = False

    def append(self, *args: Any, **options: Any) -> range:
        self.appends += 1
        if self.fails:
            raise DiskFullError("log")
        return super().append(*args, **options)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[CountingLog]:
    with CountingLog(tmp_path / "log") as log:
        log.create_topic("t", TopicConfig(partitions=3))
        yield log


def batch(first: int, count: int) -> WriteBatch:
    return batch_of([b"%d" % i for i in range(first, first + count)], [b"value %d" % i for i in range(first, first + count)], [5] * count)


def test_requests_that_come_together_are_appended_together_and_each_is_told_its_places(log: CountingLog) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as workers:
            appender = Appender(lambda: LogTarget(log, "t", "test"), workers)
            placed = await asyncio.gather(*(appender.append(batch(10 * i, 1 + i % 4), "disk") for i in range(60)))
            for i, places in enumerate(placed):
                for j, (partition, offset) in enumerate(zip(places.partitions.tolist(), places.offsets.tolist(), strict=True)):
                    (record, *_) = log.read("t", partition, offset).records()
                    assert (record.offset, record.key) == (offset, b"%d" % (10 * i + j))
            assert positions_of(placed[-1]).keys() == set(placed[-1].partitions.tolist())

    asyncio.run(run())
    assert log.appends <= 3 * 3  # the first request alone, the others while it was at work


def test_an_append_that_fails_is_told_to_all_of_its_group_and_the_next_is_tried(log: CountingLog) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as workers:
            appender = Appender(lambda: LogTarget(log, "t", "test"), workers)
            log.fails = True
            results = await asyncio.gather(*(appender.append(batch(i, 1), "os") for i in range(5)), return_exceptions=True)
            assert [type(result) for result in results] == [DiskFullError] * 5
            log.fails = False
            assert len((await appender.append(batch(1, 2), "os")).offsets) == 2
            await appender.drained()

    asyncio.run(run())


def test_what_was_taken_is_appended_although_its_client_has_gone(log: CountingLog) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as workers:
            appender = Appender(lambda: LogTarget(log, "t", "test"), workers)
            gone = asyncio.create_task(appender.append(batch(0, 1), "os"))
            await asyncio.sleep(0)
            gone.cancel()
            await appender.drained()

    asyncio.run(run())
    assert sum(log.high_watermark("t", partition) for partition in range(3)) == 1


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with fd.open(tmp_path / "p") as platform:
        platform.create_store("s", key="long", value=VALUE, partitions=1)
    return tmp_path / "p"


def test_a_full_disk_is_told_nothing_acknowledged_is_lost_and_writing_goes_on_after_it(directory: Path) -> None:
    with DataServer(directory) as server, server.connection() as connection:

        def write(key: int) -> int:
            body = {"writes": [{"op": "put", "key": key, "row": {"v": key, "text": "x" * 4000}}]}
            reply = ask(connection, "POST", "/v1/stores/s/writes", body)
            assert reply.status == 200 or (reply.status, reply.error) == (507, "DiskFullError"), reply
            return reply.status

        assert write(0) == 200
        soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (200_000, hard))  # what is longer does not fit on this "disk"
        acknowledged = [0]
        for key in range(1, 100):
            if write(key) != 200:
                break
            acknowledged.append(key)
        assert 10 < len(acknowledged) < 99
        assert server.ask("GET", "/healthz").status == 200
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (soft, hard))
        assert write(1000) == 200
        with fd.open(directory) as platform, platform.store("s").reader() as reader:
            position = ask(connection, "POST", "/v1/stores/s/writes", {"writes": [{"op": "delete", "key": 5000}]}).json()["positions"]
            assert reader.get(1000, min_position=position)["v"] == 1000
            assert all(row is not None for row in reader.get_many(acknowledged))


def test_acknowledged_writes_survive_the_server_s_sudden_end(directory: Path) -> None:
    acknowledged = []
    with DataServer(directory) as server, server.connection() as connection:
        for key in range(40):
            body = {"writes": [{"op": "put", "key": key, "row": {"v": key, "text": ""}}], "durability": "disk" if key % 5 == 0 else None}
            if ask(connection, "POST", "/v1/stores/s/writes", body).status == 200:
                acknowledged.append(key)
        server.kill()
    with DataServer(directory) as again, fd.open(directory) as platform, platform.store("s").reader() as reader:
        placed = again.ask("POST", "/v1/stores/s/writes", {"writes": [{"op": "delete", "key": 5000}]}).json()
        rows = reader.get_many(acknowledged, min_position=placed["positions"])
        assert [row["v"] for row in rows if row is not None] == acknowledged == list(range(40))


def test_a_version_that_cannot_be_opened_leaves_the_one_before_in_place(tmp_path: Path) -> None:
    with fd.open(tmp_path / "p") as platform:
        store = platform.create_store("s", key="long", value=VALUE, partitions=1, rewind="0s")

        def push(v: int, swap: bool = True) -> int:
            table = pa.table({"key": np.arange(2000), "v": np.full(2000, v), "text": ["x"] * 2000})
            return store.push(table, swap=swap, progress=False).version

        push(1)
        with DataServer(tmp_path / "p") as server:
            bad = push(2, swap=False)
            (part,) = (tmp_path / "p" / "stores" / "s" / "versions" / str(bad)).glob("part-*")
            data = bytearray(part.read_bytes())
            data[len(data) // 3] ^= 255
            part.chmod(0o644)
            part.write_bytes(data)
            store.swap(bad)
            for _ in range(3):
                reply = server.ask("GET", "/v1/stores/s/rows/1")
                assert (reply.json()["v"], reply.headers["fondaco-version"]) == (1, "1")
            assert server.ask("GET", "/v1/stores/s/rows/1", headers={"Fondaco-Version": str(bad)}).error == "CorruptFileError"
            good = push(3)
            wait_for(lambda: server.ask("GET", "/v1/stores/s/rows/1").headers["fondaco-version"] == str(good), "the good version is served")

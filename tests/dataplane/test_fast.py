"""The fast client: a slow replica is hedged within the budget, a hung or dead one does no harm, batches go where the keys are.

The replicas are real server processes over one platform directory; delays are made by a proxy of ours between client and server.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import FondacoError, UnavailableError
from fondaco.dataplane import wire
from fondaco.dataplane.client_batches import PackedKeys
from fondaco.dataplane.client_routes import hashes_of
from fondaco.dataplane.fast import AsyncFastReader, FastReader
from fondaco.dataplane.routing import RoutingTable, StoreRoute
from fondaco.platform import Platform
from fondaco.store.keys import KeyCodec
from live_data_plane import DataPlaneProcess
from scripted_server import Got, ScriptedServer, answer

ROWS = 2000


class Proxy:
    """A hop before a server: delays each piece of an answer by `delay()` seconds, counts requests, and answers `GET /v1/routing` itself."""

    def __init__(self, target: str) -> None:
        self._target = int(target.rpartition(":")[2])
        self.delay: Callable[[], float] = lambda: 0.0
        self.table: Callable[[], bytes] = lambda: b""
        self.requests = 0
        self.url = ""

    def __enter__(self) -> Proxy:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._stopped, self._tasks = asyncio.Event(), set[asyncio.Task[Any]]()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await self._stopped.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        behind, ahead = await asyncio.open_connection("127.0.0.1", self._target)
        pause = 0.0

        async def relay() -> None:
            nonlocal pause
            while data := await behind.read(1 << 16):
                pause, due = 0.0, pause
                if due:
                    await asyncio.sleep(due)
                writer.write(data)

        relaying = asyncio.create_task(relay())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
                body = await reader.readexactly(length)
                if head.startswith(f"GET {wire.ROUTING} ".encode()):
                    writer.write(answer(body=self.table()))
                    continue
                self.requests += 1
                pause = self.delay()
                ahead.write(head + body)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            relaying.cancel()
            ahead.close()
            writer.close()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hedged") / "platform"
    schema = pa.schema([pa.field("key", pa.int64(), False), pa.field("n", pa.int64(), False)])
    with Platform.open(path) as platform:
        store = platform.create_store("numbers", key="long", value=pa.schema([schema.field("n")]), partitions=4)
        store.push(pa.table({"key": np.arange(ROWS), "n": np.arange(ROWS) * 7}, schema=schema), progress=False)
    return path


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[DataPlaneProcess]:
    with DataPlaneProcess(directory) as server:
        yield server


def table_of(*replicas: list[str]) -> Callable[[], bytes]:
    """A routing table of the store with these replicas of each partition."""
    started = time.time_ns() // 1000
    route = StoreRoute(id=1, version=1, partitions=len(replicas), replicas=tuple(map(tuple, replicas)))
    return lambda: RoutingTable(epoch=1, as_of_us=max(started, time.time_ns() // 1000), stores={"numbers": route}).encode()


@pytest.fixture
def proxies(server: DataPlaneProcess) -> Iterator[tuple[Proxy, Proxy]]:
    with Proxy(server.url) as one, Proxy(server.url) as other:
        one.table = other.table = table_of(*[[one.url, other.url]] * 4)
        yield one, other


def latencies(reader: FastReader, keys: list[int]) -> list[float]:
    took = []
    for key in keys:
        began = time.perf_counter()
        row = reader.get(key)
        took.append(time.perf_counter() - began)
        assert row is not None
        assert row["n"] == key * 7
    return sorted(took)


def test_sometimes_slow_replicas_do_not_make_slow_reads_and_cost_a_tenth_at_most(proxies: tuple[Proxy, Proxy]) -> None:
    one, other = proxies
    slow = random.Random(7)
    one.delay = other.delay = lambda: 0.2 if slow.random() < 0.04 else 0.0  # both: a reader may ask one of them alone
    keys = np.random.default_rng(3).integers(0, ROWS, 900).tolist()
    with FastReader(one.url, "numbers") as reader:
        latencies(reader, keys[:300])
        before = one.requests + other.requests
        sent, extra = reader._caller.hedges.sent, reader._caller.hedges.extra
        hedged = latencies(reader, keys[300:])
        load = one.requests + other.requests - before
        sent, extra = reader._caller.hedges.sent - sent, reader._caller.hedges.extra - extra
    with FastReader(one.url, "numbers") as reader:
        reader._caller.hedges = type(reader._caller.hedges)(share=0.0)
        unhedged = latencies(reader, keys[600:])
    p99, p99_unhedged = hedged[int(0.99 * len(hedged))], unhedged[int(0.99 * len(unhedged))]
    print(f"p99 {p99 * 1e3:.1f} ms hedged, {p99_unhedged * 1e3:.1f} ms not; extra load {extra / sent:.1%} ({load} requests)")
    assert p99_unhedged > 0.18
    assert p99 < p99_unhedged / 2
    assert extra <= 0.1 * sent + 10  # what was saved up before counts too


def test_when_everything_is_slow_hedges_stay_within_the_budget(proxies: tuple[Proxy, Proxy]) -> None:
    one, other = proxies
    with FastReader(one.url, "numbers") as reader:
        latencies(reader, list(range(100)))
        one.delay = other.delay = lambda: 0.02
        before, sent = one.requests + other.requests, reader._caller.hedges.sent
        latencies(reader, list(range(200)))
        load, sent = one.requests + other.requests - before, reader._caller.hedges.sent - sent
    assert load <= sent * 1.1 + 10 + 1


def test_a_batch_is_hedged_too_and_of_one_version(proxies: tuple[Proxy, Proxy]) -> None:
    one, _ = proxies
    with FastReader(one.url, "numbers") as reader:
        for _ in range(150):
            reader.get_many([1, 2, 3])
        one.delay = lambda: 3.0
        began = time.monotonic()
        for _ in range(4):
            rows = reader.get_many([1, ROWS + 5, 3])
            assert [None if row is None else row["n"] for row in rows] == [7, None, 21]
        assert time.monotonic() - began < 3.0


def test_a_replica_that_hangs_is_hedged_then_avoided(directory: Path, server: DataPlaneProcess) -> None:
    with DataPlaneProcess(directory) as hung, Proxy(server.url) as front:
        front.table = table_of(*[[hung.url, server.url]] * 4)
        with FastReader(front.url, "numbers", timeout_s=10.0) as reader:
            latencies(reader, list(range(200)))
            hung.freeze()
            try:
                took = latencies(reader, list(range(200)))
            finally:
                hung.thaw()
            assert statistics.median(took) < 0.1
            assert took[-1] < 5.0


def test_a_replica_that_dies_costs_no_wrong_answer_and_no_error(directory: Path, server: DataPlaneProcess) -> None:
    with Proxy(server.url) as front:
        with DataPlaneProcess(directory) as dying:
            front.table = table_of(*[[dying.url, server.url]] * 4)
            reader = FastReader(front.url, "numbers")
            latencies(reader, list(range(50)))
        with reader:
            latencies(reader, list(range(200)))
            assert [row["n"] for row in reader.get_many(list(range(100)))] == [n * 7 for n in range(100)]
            front.table = table_of(*[[server.url]] * 4)
            latencies(reader, list(range(20)))


def test_a_batch_goes_to_the_nodes_of_its_keys(server: DataPlaneProcess) -> None:
    with Proxy(server.url) as one, Proxy(server.url) as other, Proxy(server.url) as both:
        one.table = table_of([one.url], [other.url], [one.url, both.url], [other.url])
        keys = np.random.default_rng(5).permutation(np.arange(-50, ROWS + 50))
        there = (keys >= 0) & (keys < ROWS)
        with FastReader(one.url, "numbers") as reader:
            for _ in range(3):
                assert [None if row is None else row["n"] for row in reader.get_many(keys)] == [
                    n * 7 if found else None for n, found in zip(keys.tolist(), there.tolist(), strict=True)
                ]
                columns = reader.get_columns(keys)
                assert (columns.found == there).all()
                assert (columns["n"][there] == keys[there] * 7).all()
            for key in keys[:40].tolist():
                row = reader.get(key)
                assert (None if row is None else row["n"]) == (key * 7 if 0 <= key < ROWS else None)
        assert one.requests > 0
        assert other.requests > 0


def test_a_partition_that_nobody_has_is_unavailable(server: DataPlaneProcess) -> None:
    with Proxy(server.url) as front:
        front.table = table_of([front.url], [])
        with FastReader(front.url, "numbers") as reader, pytest.raises(UnavailableError, match=r"none has what .* needs ready now"):
            reader.get_many(list(range(100)))


def test_the_asyncio_client_hedges_alike(proxies: tuple[Proxy, Proxy]) -> None:
    one, _ = proxies

    async def main() -> float:
        async with AsyncFastReader(one.url, "numbers") as reader:
            for key in range(300):
                await reader.get(key)
            slow = random.Random(7)
            one.delay = lambda: 3.0 if slow.random() < 0.04 else 0.0
            worst = 0.0
            for key in range(200):
                began = time.monotonic()
                row = await reader.get(key)
                assert row is not None
                assert row["n"] == key * 7
                worst = max(worst, time.monotonic() - began)
            return worst

    assert asyncio.run(main()) < 3.0


def test_the_table_is_kept_while_it_cannot_be_had_again(server: DataPlaneProcess) -> None:
    broken = False

    def handler(got: Got) -> bytes:
        return answer(503, wire.error_body(UnavailableError("routing", "it starts"))) if broken else table()

    table = table_of([server.url])
    with ScriptedServer(lambda got: answer(body=handler(got)) if not broken else handler(got)) as front:
        reader = FastReader(front.url, "numbers")
        with reader:
            assert reader.get(3) is not None
            broken = True
            deadline = time.monotonic() + 1.5
            while time.monotonic() < deadline:  # past the table's time to live
                row = reader.get(4)
                assert row is not None
                assert row["n"] == 28


def test_a_server_without_a_table_is_no_cluster() -> None:
    with ScriptedServer(lambda got: answer(body=b"{}")) as front, pytest.raises(FondacoError, match="its routing table cannot be read"):
        FastReader(front.url, "numbers")


# -- hashes -------------------------------------------------------------------------------------------------------------------------------


@given(keys=st.lists(st.binary(max_size=100), max_size=30))
@settings(max_examples=60, deadline=None)
def test_hashes_of_many_keys_are_xxh64(keys: list[bytes]) -> None:
    offsets = np.zeros(len(keys) + 1, np.int64)
    np.cumsum([len(key) for key in keys], out=offsets[1:])
    data = np.frombuffer(b"".join(keys) or b"\0", np.uint8)
    assert hashes_of(data, offsets).tolist() == [xxhash.xxh64_intdigest(key) for key in keys]


@given(keys=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30), data=st.data())
@settings(max_examples=40, deadline=None)
def test_keys_taken_out_of_a_batch_keep_their_bytes(keys: list[int], data: st.DataObject) -> None:
    codec = KeyCodec("long")
    packed = PackedKeys(*codec.pack_many(keys))
    rows = np.array(data.draw(st.lists(st.integers(0, len(keys) - 1), max_size=10)), np.int64)
    taken = packed.take(rows)
    raw = taken.data.tobytes()
    got = [raw[start:end] for start, end in zip(taken.offsets[:-1].tolist(), taken.offsets[1:].tolist(), strict=True)]
    assert got == [codec.encode(keys[row]) for row in rows.tolist()]

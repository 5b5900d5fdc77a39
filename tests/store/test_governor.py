"""The governor: how much of its time a build may work, what it looks at, and what it asks of the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.core.clock import ManualClock, SystemClock
from fondaco.core.config import GovernorConfig
from fondaco.store import governor
from fondaco.store._overlay_cells import ALIVE_US, CAUGHT_UP_US, open_cells
from fondaco.store.governor import Governor, PlatformRisk, Risk, ServingCell, lowered_priority, own_priority, served_p99_ms

CALM, BEHIND = Risk(True), Risk(True, "reads are behind")


_GOVERNORS: list[Governor] = []


@pytest.fixture(autouse=True)
def own_priority_afterwards() -> Iterator[None]:
    """Governors lower the thread that they are asked in, which here goes on with other tests."""
    yield
    while _GOVERNORS:
        _GOVERNORS.pop().__exit__()


class Bench:
    """A build in made-up time: each chunk takes a tenth of a second of work."""

    def __init__(self, config: GovernorConfig | None = None) -> None:
        self.now, self.risk = 100.0, CALM
        self.governor = Governor(config or GovernorConfig(), lambda: self.risk, now_s=lambda: self.now)
        _GOVERNORS.append(self.governor)

    def nap(self, seconds: float) -> None:
        self.now += seconds

    def chunk(self, seconds: float = 0.1) -> float:
        self.now += seconds
        return self.governor.pace(nap=self.nap)


def test_a_build_that_disturbs_nobody_is_not_slowed() -> None:
    bench = Bench()
    assert [bench.chunk() for _ in range(20)] == [0.0] * 20
    assert bench.governor.share == 1.0


def test_the_share_halves_at_each_look_while_something_is_at_risk_and_no_further_than_the_slowest() -> None:
    bench = Bench(GovernorConfig(slowest=0.1))
    bench.risk = BEHIND
    slept = [bench.chunk() for _ in range(6)]
    assert slept[:4] == pytest.approx([0.1, 0.3, 0.7, 0.9])
    assert slept[5] == pytest.approx(0.9)
    assert bench.governor.slowest_share == pytest.approx(0.1)
    assert bench.governor.reasons == {"reads are behind"}
    assert bench.governor.paused_s == pytest.approx(sum(slept))


def test_the_share_grows_back_when_all_is_well() -> None:
    bench = Bench()
    bench.risk = BEHIND
    for _ in range(10):
        bench.chunk()
    bench.risk = CALM
    slept = [bench.chunk() for _ in range(20)]
    assert slept[0] > slept[5] > slept[10] > slept[19] == 0.0


def test_chunks_between_two_looks_keep_the_share() -> None:
    bench = Bench()
    bench.risk = BEHIND
    assert [bench.chunk(0.02) for _ in range(2)] == pytest.approx([0.02, 0.02])
    assert bench.governor.share == 0.5


def test_a_long_pause_is_bounded_and_can_be_broken_off() -> None:
    bench = Bench(GovernorConfig(slowest=0.01))
    bench.risk = BEHIND
    for _ in range(10):
        bench.chunk(0.01)
    assert bench.chunk(60.0) == pytest.approx(governor.PAUSE_S_MAX)
    looks = []

    def stop() -> None:
        looks.append(bench.now)
        if len(looks) == 3:
            raise KeyboardInterrupt

    bench.now += 10
    with pytest.raises(KeyboardInterrupt):
        bench.governor.pace(stop, nap=bench.nap)
    assert looks[2] - looks[0] == pytest.approx(2 * governor.NAP_S)


def test_a_governor_that_is_switched_off_does_nothing() -> None:
    bench = Bench(GovernorConfig(enabled=False))
    bench.risk = BEHIND
    with bench.governor:
        assert bench.chunk() == 0.0


# -- what it looks at -----------------------------------------------------------------------------------------------------------------


def test_served_reads_above_their_target_put_a_build_at_risk(tmp_path: Path) -> None:
    clock = ManualClock(1_750_000_000_000_000)
    now_ms = clock.now_us() // 1000
    look = PlatformRisk(tmp_path, GovernorConfig(read_p99_ms=10), clock)
    assert not look().serves
    one, two = ServingCell(tmp_path, "node-7071"), ServingCell(tmp_path, "node-7072")
    one.publish(read_p99_us=2_000, reads=10, now_ms=now_ms)
    two.publish(read_p99_us=9_000, reads=10, now_ms=now_ms)
    assert served_p99_ms(tmp_path, now_ms) == 9.0
    assert look().serves
    assert look().reason == ""
    two.publish(read_p99_us=12_500, reads=20, now_ms=now_ms)
    assert look().reason == "served reads take 12.5 ms at p99, and 10 ms are the target"
    assert served_p99_ms(tmp_path, now_ms + governor.SERVING_AGE_MS + 1) is None, "a server that is gone counts no more"
    two.close()
    assert served_p99_ms(tmp_path, now_ms) == 2.0
    one.close()
    assert served_p99_ms(tmp_path, now_ms) is None


def test_a_store_that_is_behind_its_freshness_puts_a_build_at_risk(tmp_path: Path) -> None:
    with fd.open(tmp_path) as platform:
        store = platform.create_store("s", key="long", value=pa.schema([("v", pa.int64())]), freshness_ms=200)
        platform.create_store("quiet", key="long", value=pa.schema([("v", pa.int64())]))
        with store.writer() as writer, store.reader() as reader:
            reader.get(1, min_position=writer.put(1, {"v": 1}))
        look = PlatformRisk(tmp_path, GovernorConfig(), SystemClock())
        look()
        cells = open_cells(tmp_path / "stores" / "s" / "overlay", writable=True)
        assert cells is not None
        now_us = time.time_ns() // 1000
        cells.view[ALIVE_US], cells.view[CAUGHT_UP_US] = now_us + 60_000_000, now_us
        assert look().reason == ""
        assert look().serves
        cells.view[CAUGHT_UP_US] = now_us - 700_000
        assert "ms behind, and 200 ms are the target" in look().reason
        cells.view[ALIVE_US] = now_us - 60_000_000
        assert look().reason == "", "nobody tails, so nobody is slowed by the build"


def test_a_push_pauses_while_reads_are_at_risk_and_says_how_long(tmp_path: Path) -> None:
    with fd.open(tmp_path) as platform:
        store = platform.create_store("s", key="long", value=pa.schema([("v", pa.int64())]), compression="none")
        table = pa.table({"key": range(1000), "v": range(1000)})
        assert "paused" not in store.push(table.to_batches(max_chunksize=50), progress=False).steps
        cell = ServingCell(tmp_path, "node")
        cell.publish(read_p99_us=50_000, reads=1)
        slowed = store.push(iter(table.to_batches(max_chunksize=50)), progress=False)
        assert slowed.steps["paused"] > 0
        cell.close()


# -- what it asks of the kernel ---------------------------------------------------------------------------------------------------------


def priority() -> tuple[int, int]:
    thread = threading.get_native_id()
    return os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)


def test_a_build_beside_a_server_runs_at_a_lower_priority_and_gets_its_own_back() -> None:
    before, inside = priority(), []
    with Governor(GovernorConfig(), lambda: CALM):
        inside.append(priority())
    assert inside[0][0] == os.SCHED_BATCH
    assert inside[0][1] >= before[1]
    assert priority() == before
    with Governor(GovernorConfig(), lambda: Risk(False)):
        assert priority() == before


def test_a_process_that_is_no_part_of_the_build_starts_with_the_priority_that_its_thread_had() -> None:
    said = "import os; print(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))"

    def child() -> list[int]:
        return [int(word) for word in subprocess.run([sys.executable, "-c", said], capture_output=True, check=True).stdout.split()]

    before = child()
    with lowered_priority():
        inside = priority()
        assert child() == list(inside) != before
        with own_priority():
            assert child() == before
        assert priority() == inside
    assert child() == before
    with own_priority():
        assert child() == before


def test_other_threads_keep_their_priority() -> None:
    found: list[Any] = []
    ready, done = threading.Event(), threading.Event()

    def other() -> None:
        ready.set()
        done.wait()
        found.append(priority())

    thread = threading.Thread(target=other)
    thread.start()
    ready.wait()
    before = priority()
    with lowered_priority():
        done.set()
        thread.join()
    assert found == [before]

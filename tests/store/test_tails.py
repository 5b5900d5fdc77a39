"""Tails: who follows a store's log in a process, and what a push does about it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.core.errors import InputError
from fondaco.store import freshness, realtime, tails
from fondaco.store.freshness import Freshness
from fondaco.store.realtime import BEHIND_MAX
from waiting import wait_for

VALUE = pa.schema([("v", pa.int64())])


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[fd.Platform]:
    with fd.open(tmp_path / "p") as platform:
        yield platform


def tailers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fondaco tailer")]


def test_readers_and_writers_of_a_store_share_one_thread_which_ends_with_the_last(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=VALUE)
    with store.writer() as writer:
        writer.put(1, {"v": 1})
        writer.flush()
        readers = [store.reader() for _ in range(3)]
        assert tailers() == ["fondaco tailer s.rt"]
    assert tailers() == ["fondaco tailer s.rt"]
    for reader in readers[:-1]:
        reader.close()
        reader.close()
    assert tailers() == ["fondaco tailer s.rt"]
    readers[-1].close()
    assert tailers() == []


def test_a_reader_that_is_forgotten_lets_go_of_its_tail(platform: fd.Platform) -> None:
    import gc

    store = platform.create_store("s", key="long", value=VALUE)
    with store.writer() as writer:
        writer.put(1, {"v": 1})
    reader = store.reader()
    assert tailers() == ["fondaco tailer s.rt"]
    del reader
    gc.collect()
    wait_for(lambda: tailers() == [], "the thread of a forgotten reader goes on")


def test_a_store_without_a_topic_costs_no_thread_of_its_own(platform: fd.Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "TOPIC_SECONDS", 0.05)
    stores = [platform.create_store(name, key="long", value=VALUE) for name in ("a", "b", "c")]
    readers = [store.reader() for store in stores]
    assert tailers() == []
    with stores[1].writer(tail=False) as writer:
        writer.put(1, {"v": 1})
    wait_for(lambda: tailers() == ["fondaco tailer b.rt"], "a topic that came was not noticed")
    wait_for(lambda: readers[1].position != {}, "it was not followed")
    assert readers[1].get(1)["v"] == 1
    for reader in readers:
        reader.close()
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("fondaco t")], "threads are left")


def test_a_push_that_lasts_hands_the_tailing_to_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "HAND_OVER_AFTER_S", 0.0)
    (tmp_path / "fondaco.toml").write_text("[store]\nbatch_bytes = 4096\n")
    platform = fd.open(tmp_path)
    store = platform.create_store("s", key="long", value=VALUE, compression="none")
    with store.writer() as writer, store.reader() as reader:
        assert reader.get(1, min_position=writer.put(1, {"v": 1}))["v"] == 1
        assert reader._tail.tailing
        others: set[int] = set()

        def batches() -> Iterator[pa.RecordBatch]:
            deadline = time.monotonic() + 60
            number = 0
            while not others and time.monotonic() < deadline:
                keys = np.arange(1000 * number, 1000 * number + 1000) + 100
                yield pa.record_batch({"key": keys, "v": keys})
                number += 1
                lock = platform.directory / "stores" / "s" / "overlay" / "tailer.lock"
                holder = int(lock.read_text() or 0)
                if holder != os.getpid() and not reader._tail.tailing:
                    others.add(holder)
                    position = writer.put(2, {"v": 2})
                    assert reader.get(2, min_position=position, timeout_s=30)["v"] == 2
                time.sleep(0.01)

        store.push(batches(), progress=False)
        assert len(others) == 1, "nobody else tailed while the push was at work"
        wait_for(lambda: reader._tail.tailing, "the tailing did not come back")
        assert reader.get(3, min_position=writer.put(3, {"v": 3}))["v"] == 3
        (child,) = others
        wait_for(lambda: not Path(f"/proc/{child}").exists(), "the other process is left")
    platform.close()


def test_a_short_push_starts_no_process(platform: fd.Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    store = platform.create_store("s", key="long", value=VALUE)
    monkeypatch.setattr(tails, "HAND_OVER_AFTER_S", 60.0)
    monkeypatch.setattr(tails.subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    with store.writer() as writer, store.reader() as reader:
        reader.get(1, min_position=writer.put(1, {"v": 1}))
        store.push(pa.table({"key": [1], "v": [2]}), progress=False)
        assert reader.get(1)["v"] == 1


def test_a_push_that_cannot_hand_over_goes_on(platform: fd.Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "HAND_OVER_AFTER_S", 0.0)
    monkeypatch.setattr(tails.sys, "executable", "/bin/false")
    store = platform.create_store("s", key="long", value=VALUE, compression="none")
    with store.writer() as writer, store.reader() as reader:
        reader.get(1, min_position=writer.put(1, {"v": 1}))
        chunks = ({"key": [number], "v": [number]} for number in range(50))
        report = store.push((pa.record_batch(chunk) for chunk in chunks), progress=False)
        assert report.records == 50
        assert reader.get(1, min_position=writer.put(1, {"v": 5}))["v"] == 5


def test_freshness_of_a_store_is_measured_and_starts_at_nothing(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=VALUE, freshness_ms=500)
    nothing = store.freshness()
    assert isinstance(nothing, Freshness)
    assert (nothing.target_ms, nothing.counted, nothing.p99_ms) == (500, 0, None)
    with store.writer() as writer, store.reader() as reader:
        for number in range(50):
            reader.get(number, min_position=writer.put(number, {"v": number}))
        fresh = store.freshness()
    assert fresh.tailing
    assert fresh.counted == 50
    assert fresh.lag_ms < 5_000


# -- retention --------------------------------------------------------------------------------------------------------------------------


def configure(directory: Path, retention: str) -> None:
    (directory / "fondaco.toml").write_text(f'[log]\nretention = "{retention}"\n')


def test_a_log_that_forgets_what_a_version_shows_is_refused(tmp_path: Path) -> None:
    configure(tmp_path, "12h")
    with fd.open(tmp_path) as platform:
        with pytest.raises(InputError, match=r"retention is 12h, and store 's' .* from 1d before"):
            platform.create_store("s", key="long", value=VALUE)
        store = platform.create_store("s", key="long", value=VALUE, rewind="6h")
        store.push(pa.table({"key": [1], "v": [1]}), progress=False)
        with store.writer() as writer:
            writer.put(1, {"v": 2})
            writer.flush()
        assert platform.log.describe_topic("s.rt").retention_ms == 12 * 3_600_000
    fd.open(tmp_path).close()
    configure(tmp_path, "5h")
    with pytest.raises(InputError, match="retention is 5h"):
        fd.open(tmp_path)
    configure(tmp_path, "6h")
    with pytest.raises(InputError, match=r"oldest version of store 's' .* of the last 6h"):
        fd.open(tmp_path)


def test_a_store_may_be_old_where_the_log_keeps_what_is_needed(tmp_path: Path) -> None:
    with fd.open(tmp_path) as platform:
        store = platform.create_store("s", key="long", value=VALUE)
        store.push(pa.table({"key": [1], "v": [1]}), as_of="2020-01-01T00:00:00Z", progress=False)
    fd.open(tmp_path).close()


# -- incremental pushes -------------------------------------------------------------------------------------------------------------------


def test_an_incremental_push_twice_is_once(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=pa.schema([("v", pa.int64()), ("w", pa.int64())]))
    store.push(pa.table({"key": [1, 2, 3], "v": [1, 2, 3], "w": [1, 2, 3]}), progress=False)
    some = pa.table({"key": [2, 3, 4], "v": [20, 30, 40], "w": [200, 300, 400]})
    with store.writer() as writer, store.reader() as reader:
        report = store.push_incremental(some, push_id="daily")
        assert (report.rows, report.patches) == (3, 0)
        later = writer.put(3, {"v": 99, "w": 99})
        writer.flush()
        assert store.push_incremental(some, push_id="daily") == report
        ends = [platform.log.high_watermark("s.rt", partition) for partition in range(8)]
        assert sum(ends) == 4
        columns = reader.get_columns([1, 2, 3, 4], min_position=f"{report.positions},{later}")
        assert columns["v"].tolist() == [1, 20, 99, 40]
        partial = store.push_incremental(pa.table({"key": [1, 2], "v": [-1, -2]}), push_id="partial")
        assert partial.patches == 2
        columns = reader.get_columns([1, 2], min_position=partial.positions)
        assert (columns["v"].tolist(), columns["w"].tolist()) == ([-1, -2], [1, 200])
    kinds = [(row.push_id, row.kind, str(row.state)) for row in store.pushes()]
    assert kinds[1:] == [("daily", "incremental", "CURRENT"), ("partial", "incremental", "CURRENT")]
    assert store.current == 1


def test_an_incremental_push_that_broke_off_makes_the_same_writes_again(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=VALUE)

    def broken() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"key": [1, 2], "v": [10, 20]})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.push_incremental(broken(), push_id="x")
    assert store.pushes()[0].state == "FAILED"
    with store.writer() as writer, store.reader() as reader:
        newer = writer.put(1, {"v": 11})
        writer.flush()
        report = store.push_incremental(pa.table({"key": [1, 2, 3], "v": [10, 20, 30]}), push_id="x")
        values = reader.get_columns([1, 2, 3], min_position=f"{report.positions},{newer}")["v"]
        assert values.tolist() == [11, 20, 30], "the stamps are those of the first attempt, so what was written since stays"


def test_an_incremental_push_goes_no_faster_than_its_patches_can_be_read(platform: fd.Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "ALIVE_MS", 100_000)  # a tailer that gets no CPU for long would be taken for one that is gone,
    monkeypatch.setattr(realtime, "FOLLOW_S_MAX", 100.0)  # or be waited for no longer
    store = platform.create_store("s", key="long", value=pa.schema([("v", pa.int64()), ("w", pa.int64())]), partitions=2)
    with store.reader() as reader, store.writer() as writer:
        reader.get(0, min_position=writer.put(0, {"v": 0, "w": 0}))
        store.push_incremental(pa.table({"key": np.arange(60_000), "v": np.arange(60_000)}), durability="os")
        written = sum(platform.log.high_watermark("s.rt", partition) for partition in range(2))
        assert written - sum(store.freshness().applied) <= BEHIND_MAX


def test_a_push_id_of_a_version_is_none_of_an_incremental_push(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=VALUE)
    store.push(pa.table({"key": [1], "v": [1]}), push_id="x", progress=False)
    with pytest.raises(InputError, match="built a version"):
        store.push_incremental(pa.table({"key": [1], "v": [1]}), push_id="x")
    store.push_incremental(pa.table({"key": [1], "v": [1]}), push_id="y")
    with pytest.raises(InputError, match="incremental"):
        store.push(pa.table({"key": [1], "v": [1]}), push_id="y", progress=False)


def test_an_incremental_push_as_of_an_earlier_moment_gives_way_to_newer_writes(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=VALUE)
    now_us = time.time_ns() // 1000
    with store.writer() as writer, store.reader() as reader:
        position = writer.put(1, {"v": 5}, timestamp_ms=now_us // 1000 - 1000)
        report = store.push_incremental(pa.table({"key": [1, 2], "v": [1, 2]}), as_of=now_us - 3_600_000_000, durability="os")
        rows = reader.get_many([1, 2], min_position=f"{report.positions},{position}")
        assert [row["v"] for row in rows] == [5, 2]
        assert np.abs(report.as_of.timestamp() * 1e6 - (now_us - 3_600_000_000)) < 1000

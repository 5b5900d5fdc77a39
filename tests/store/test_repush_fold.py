"""Folding writes into a version: every key keeps its value, and the log need not keep what came before the new window."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.core.clock import ManualClock
from fondaco.core.errors import NoCurrentVersionError
from fondaco.platform import Platform
from fondaco.store.manifest import read_manifest

T0_MS = 1_750_000_000_000
HOUR_MS = 3_600_000
ONE = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "a", "type": "long", "default": 0},
        {"name": "text", "type": ["null", "string"], "default": None},
        {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
    ],
}
TWO = {**ONE, "fields": [*ONE["fields"], {"name": "more", "type": "double", "default": 0.5}]}
FEWER = {**ONE, "fields": ONE["fields"][:1]}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(T0_MS * 1000)


@pytest.fixture
def platform(tmp_path: Any, clock: ManualClock) -> Iterator[Platform]:
    with Platform.open(tmp_path / "p", clock=clock) as platform:
        yield platform


def push(store: fd.Store, numbers: range, as_of_ms: int) -> None:
    table = pa.table(
        {
            "key": pa.array(numbers, pa.int64()),
            "a": pa.array(numbers, pa.int64()),
            "text": [f"text {number}" for number in numbers],
            "tags": [[f"t{number}"] for number in numbers],
        }
    )
    store.push(table, as_of=as_of_ms * 1000, progress=False)


def write_some(writer: Any, numbers: range, timestamp_ms: int) -> None:
    for number in numbers:
        match number % 4:
            case 0:
                writer.put(number, {"a": -number, "text": None}, timestamp_ms=timestamp_ms + number)
            case 1:
                writer.patch(number, {"a": 1000 + number}, timestamp_ms=timestamp_ms + number, add={"tags": ["new", "x"]})
            case 2:
                writer.delete(number, timestamp_ms=timestamp_ms + number)


def everything(reader: Any, numbers: range) -> list[Any]:
    return [None if row is None else {name: np.asarray(row[name]).tolist() for name in row} for row in reader.get_many(list(numbers))]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_fold_keeps_the_value_of_every_key(platform: Platform, clock: ManualClock, compression: str) -> None:
    store = platform.create_store("s", key="long", value=ONE, partitions=3, rewind="1h", compression=compression)
    push(store, range(400), T0_MS - 5 * HOUR_MS)
    with store.writer() as writer, store.reader() as reader:
        write_some(writer, range(100, 500), T0_MS - 5 * HOUR_MS)  # these will lie before the new window
        write_some(writer, range(200, 600), T0_MS - HOUR_MS // 2)  # and these in it
        reader.get_many([], min_position=writer.flush())
        before = everything(reader, range(700))
        report = store.repush(fold=True, partitions=5, progress=False)
        assert reader.version == report.version == 2
        assert report.partitions == 5
        assert report.records == sum(row is not None for row in before)
        assert everything(reader, range(700)) == before
        assert reader.get_columns(np.arange(700))["a"].tolist() == [None if row is None else row["a"] for row in before]
        assert report.as_of.timestamp() * 1000 == T0_MS
        manifest = read_manifest(platform.directory / "stores" / "s" / "versions" / "2")
        assert manifest.built_from["source"] == "fold"
        assert manifest.built_from["version"] == 1
        with reader.at(1) as old:
            assert everything(old, range(700)) == before
        assert store.repush(report.push_id, fold=True, progress=False) == report
        again = store.repush(fold=True, progress=False)
        assert (again.version, again.records) == (3, report.records)
        assert everything(reader, range(700)) == before


def test_after_a_fold_the_log_before_its_window_is_not_needed(platform: Platform, clock: ManualClock) -> None:
    store = platform.create_store("s", key="long", value=ONE, partitions=1, rewind="1h", keep=1)
    with store.writer() as writer, store.reader() as reader:
        write_some(writer, range(100), T0_MS - 5 * HOUR_MS)
        cut = writer.flush()
        write_some(writer, range(50, 150), T0_MS)
        reader.get_many([], min_position=writer.flush())
        before = everything(reader, range(200))
        store.repush(fold=True, progress=False)
        assert platform.log.delete_before("s.rt", 0, cut[0] + 1) == cut[0] + 1
        assert everything(reader, range(200)) == before
    with store.reader() as reader:
        assert everything(reader, range(200)) == before


def test_a_store_that_was_only_written_to_folds_into_its_first_version(platform: Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE, partitions=2)
    with pytest.raises(NoCurrentVersionError):
        store.repush(fold=True, progress=False)
    with store.writer() as writer, store.reader() as reader:
        write_some(writer, range(40), T0_MS - 500 * HOUR_MS)
        reader.get_many([], min_position=writer.flush())
        before = everything(reader, range(50))
        assert store.repush(fold=True, progress=False).version == 1
        assert everything(reader, range(50)) == before
        for number in range(0, 40, 4):
            writer.delete(number)
        reader.get_many([], min_position=writer.flush())
        assert store.repush(fold=True, progress=False).records == sum(row is not None for row in before) - 10


def test_a_fold_sees_what_nobody_tailed_yet(platform: Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE)
    with store.writer(tail=False) as writer:
        writer.put(1, {"a": 1}, timestamp_ms=T0_MS - 1)
    assert store.repush(fold=True, progress=False).records == 1


def test_rows_of_every_schema_are_folded_without_losing_a_field(platform: Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE, partitions=2, rewind="1h")
    push(store, range(10), T0_MS - 5 * HOUR_MS)
    store.add_schema(TWO)
    with store.writer() as writer:
        writer.put(3, {"a": 33, "more": 3.0}, timestamp_ms=T0_MS - 5 * HOUR_MS)
        writer.patch(4, {"more": 4.0}, timestamp_ms=T0_MS - 5 * HOUR_MS)
    store.add_schema(FEWER)
    with store.writer() as writer, store.reader() as reader:
        writer.put(5, {"a": 55}, timestamp_ms=T0_MS - 5 * HOUR_MS)
        reader.get_many([], min_position=writer.flush())
        before = everything(reader, range(12))
        assert before[4]["more"] == 4.0
        assert before[5]["text"] is None
        store.repush(fold=True, progress=False)
        assert everything(reader, range(12)) == before
        store.repush(fold=True, progress=False)
        assert everything(reader, range(12)) == before
    with store.reader() as reader:
        assert everything(reader, range(12)) == before


def test_writes_that_come_while_a_fold_runs_are_neither_lost_nor_undone(tmp_path: Any) -> None:
    with fd.open(tmp_path / "p") as platform:
        store = platform.create_store("s", key="long", value=ONE, partitions=2)
        with store.writer() as writer, store.reader() as reader:
            for number in range(3000):
                writer.put(number, {"a": 0})
            writer.flush()
            stop = threading.Event()
            last = [0] * 3000

            def write() -> None:
                rng = np.random.default_rng(7)
                while not stop.is_set():
                    number = int(rng.integers(3000))
                    last[number] += 1
                    writer.put(number, {"a": last[number]})

            thread = threading.Thread(target=write)
            thread.start()
            try:
                for _ in range(3):
                    store.repush(fold=True, progress=False)
            finally:
                stop.set()
                thread.join()
            columns = reader.get_columns(np.arange(3000), ["a"], min_position=writer.flush())
            assert columns["a"].tolist() == last
            assert reader.version == 3


def test_a_plain_repush_takes_the_base_alone(platform: Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE)
    push(store, range(3), T0_MS)
    with store.writer() as writer, store.reader() as reader:
        reader.get(1, min_position=writer.delete(1))
        assert store.repush(progress=False).records == 3
        assert reader.get(1) is None

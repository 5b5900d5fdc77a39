"""Readers over real-time writes: kinds of keys, mixed schemas, processes, stores that come and go. The rule itself: test_read_rule.py."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.core.errors import CorruptFileError, InputError, NoCurrentVersionError, StateError, StoreNotFoundError
from fondaco.schema import Codec, vector
from fondaco.store import _overlay_cells as cells_of
from fondaco.store.mirror import SCHEMAS_FILE, STORE_FILE
from fondaco.store.reader import EmbeddedReader
from waiting import wait_for

ONE = {
    "type": "record",
    "name": "Member",
    "fields": [
        {"name": "clicks", "type": "long", "default": 0},
        {"name": "title", "type": ["null", "string"], "default": None},
        {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
        {"name": "emb", "type": vector(3), "default": "\0" * 12},
    ],
}
TWO = {**ONE, "fields": [*ONE["fields"], {"name": "score", "type": "double", "default": 0.5}]}
SEEN = {"name": "seen", "type": {"type": "long", "logicalType": "timestamp-millis"}, "default": 0}
THREE = {**ONE, "fields": [TWO["fields"][0], *TWO["fields"][2:], SEEN]}


def row(number: int, **more: Any) -> dict[str, Any]:
    title = None if number % 3 == 0 else f"title {number}"
    return {"clicks": number, "title": title, "tags": [f"t{number}"] * (number % 4), "emb": np.full(3, number, np.float32), **more}


def same(found: Any, expected: dict[str, Any] | None) -> bool:
    if found is None or expected is None:
        return found is None and expected is None
    return all(np.array_equal(np.asarray(found[name]), np.asarray(value)) for name, value in expected.items()) and len(found) == len(
        expected
    )


def check(reader: EmbeddedReader, expected: dict[Any, dict[str, Any] | None], **options: Any) -> None:
    """Rows one by one, together and as columns are what is expected."""
    keys = list(expected)
    rows = reader.get_many(keys, **options)
    for key, found in zip(keys, rows, strict=True):
        assert same(found, expected[key]), (key, found, expected[key])
        assert same(reader.get(key), expected[key]), key
    columns = reader.get_columns(keys)
    assert columns.found.tolist() == [expected[key] is not None for key in keys]
    names = next((list(value) for value in expected.values() if value is not None), [])
    assert list(columns) == names
    for name in names:
        for place, key in enumerate(keys):
            value = expected[key]
            if value is None:
                assert not columns.valid(name)[place]
            elif value[name] is None:
                assert columns.arrow(name)[place].as_py() is None
            else:
                assert np.array_equal(np.asarray(columns[name][place]), np.asarray(value[name])), (name, key)
        assert reader.get_columns(keys, [name]).to_arrow().column(0).equals(columns.arrow(name))


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[fd.Platform]:
    with fd.open(tmp_path / "p") as platform:
        yield platform


def table(keys: list[Any], rows: list[dict[str, Any]], key_type: Any) -> pa.Table:
    arrays: dict[str, Any] = {"key": pa.array(keys, key_type)}
    for name, kind in (("clicks", pa.int64()), ("title", pa.string()), ("tags", pa.list_(pa.string()))):
        arrays[name] = pa.array([one[name] for one in rows], kind)
    arrays["emb"] = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate([one["emb"] for one in rows])), 3)
    return pa.table(arrays)


# -- keys, partitions, compression ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize(("kind", "make"), [("long", int), ("int", int), ("string", lambda n: f"key {n}"), ("bytes", lambda n: b"k%d" % n)])
@pytest.mark.parametrize("partitions", [1, 5])
def test_every_kind_of_key_is_read_under_its_writes(
    platform: fd.Platform, compression: str, kind: str, make: Callable[[int], Any], partitions: int
) -> None:
    arrow = {"long": pa.int64(), "int": pa.int32(), "string": pa.string(), "bytes": pa.binary()}[kind]
    store = platform.create_store("s", key=kind, value=ONE, partitions=partitions, compression=compression)
    keys = [make(number) for number in range(60)]
    store.push(table(keys, [row(number) for number in range(60)], arrow), progress=False)
    expected: dict[Any, dict[str, Any] | None] = {key: row(number) for number, key in enumerate(keys)}
    with store.writer() as writer, store.reader() as reader:
        check(reader, expected)
        for number in range(0, 80, 3):
            key = make(number)
            if number % 2:
                writer.put(key, row(number + 1000))
                expected[key] = row(number + 1000)
            elif number % 4 == 0:
                writer.delete(key)
                expected[key] = None
            else:
                writer.patch(key, {"clicks": -number}, add={"tags": ["more"]})
                before = expected.get(key) or {"clicks": 0, "title": None, "tags": [], "emb": np.zeros(3, np.float32)}
                expected[key] = {**before, "clicks": -number, "tags": [*dict.fromkeys([*before["tags"]]), "more"]}
        expected[make(999)] = None
        reader.get_many([], min_position=writer.flush())
        for key, value in expected.items():  # arrays that were patched are read as ordered sets
            if value is not None and "more" in value["tags"]:
                found = reader.get(key)
                assert sorted(set(found["tags"])) == sorted(value["tags"])
                expected[key] = {**value, "tags": list(found["tags"])}
        check(reader, expected)
        packed = reader.get_packed(list(expected))
        codec = Codec(store.value_schema)
        for place, value in enumerate(expected.values()):
            data = packed.data[packed.offsets[place] : packed.offsets[place + 1]].tobytes()
            assert same(codec.decode(data) if packed.found[place] else None, value)
            assert packed.schemas[place] == (1 if value is not None else 0)


def test_record_keys_are_read_under_their_writes(platform: fd.Platform) -> None:
    key = {"type": "record", "name": "Route", "fields": [{"name": "origin", "type": "string"}, {"name": "number", "type": "int"}]}
    store = platform.create_store("s", key=key, value=ONE)
    with store.writer() as writer, store.reader() as reader:
        writer.put(("EWR", 1), row(1))
        writer.put({"origin": "JFK", "number": 2}, row(2))
        check_keys = [("EWR", 1), ("JFK", 2), ("LGA", 3)]
        found = reader.get_many(check_keys, min_position=writer.flush())
        assert [one and one["clicks"] for one in found] == [1, 2, None]
        assert reader.get({"origin": "EWR", "number": 1})["clicks"] == 1


# -- schemas ----------------------------------------------------------------------------------------------------------------------------


def test_rows_of_several_schemas_are_read_as_one(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE, partitions=2)
    store.push(table(list(range(6)), [row(number) for number in range(6)], pa.int64()), progress=False)
    reader = store.reader()
    with store.writer("one") as writer:
        writer.put(1, row(101))
        writer.patch(2, {"clicks": 102})
        check(reader, {0: row(0), 1: row(101), 2: row(2) | {"clicks": 102}, 9: None}, min_position=writer.flush())
    store.add_schema(TWO)
    with store.writer("two") as writer:
        writer.put(3, row(103, score=3.0))
        writer.patch(4, {"score": 4.0})
        position = writer.flush()
    assert store.add_schema(THREE) == 3
    with store.writer("three") as writer:
        value = row(105, score=5.0, seen=7)
        del value["title"]
        writer.put(5, value)
        position = position | writer.flush()
    from datetime import UTC, datetime

    def full(number: int, **values: Any) -> dict[str, Any]:
        return {**row(number), "score": 0.5, "seen": datetime(1970, 1, 1, tzinfo=UTC), **values}

    reader.get_many([], min_position=position)
    for key in range(6):  # the reader meets the schemas one by one
        reader.get(key)
    for other in (reader, store.reader()):
        expected = {
            0: full(0), 1: full(101), 2: full(2, clicks=102), 3: full(103, score=3.0), 4: full(4, score=4.0),
            5: full(105, title=None, score=5.0, seen=datetime(1970, 1, 1, 0, 0, 0, 7000, tzinfo=UTC)), 9: None,
        }  # fmt: skip
        rows = other.get_many(list(expected))
        assert [found is not None for found in rows] == [True] * 6 + [False]
        for found, value in zip(rows, expected.values(), strict=True):
            assert same(found, value), (found, value)
        columns = other.get_columns(list(expected))
        assert columns["score"].tolist() == [0.5, 0.5, 0.5, 3.0, 4.0, 5.0, None]
        assert columns["clicks"].tolist() == [0, 101, 102, 103, 4, 105, None]
        assert columns["title"].tolist() == [None, "title 101", "title 2", "title 103", "title 4", None, None]
        assert other.get_columns([5, 0], ["seen", "tags"])["tags"].tolist() == [["t105"], []]
        assert other.compute([5, 0], "dot", "emb", np.ones(3)).tolist() == [315.0, 0.0]
        packed = other.get_packed(list(expected))
        assert packed.schemas.tolist() == [1, 1, 3, 2, 3, 3, 0]
        other.close()


def test_a_batch_is_the_first_to_meet_a_new_schema(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE)
    with store.reader() as reader, store.reader(schema=ONE) as narrow:
        with store.writer("one") as writer:
            writer.put(1, row(1))
            position = writer.flush()
        assert list(reader.get_columns([1], min_position=position)) == list(row(1))
        store.add_schema(TWO)
        with store.writer("two") as writer:
            writer.put(2, row(2, score=2.0))
            position = writer.flush()
        columns = reader.get_columns([1, 2, 3], min_position=position)
        assert columns["score"].tolist() == [0.5, 2.0, None]
        check(narrow, {1: row(1), 2: row(2)}, min_position=position)
        arrow = pa.schema([("clicks", pa.int64()), ("score", pa.float64())])
        with store.reader(schema=arrow.set(1, pa.field("clicks2", pa.int64())).remove(1)) as by_arrow:
            assert by_arrow.get_columns([1, 2])["clicks"].tolist() == [1, 2]


def test_recursive_rows_are_read_and_patched_one_by_one(platform: fd.Platform) -> None:
    tree = {
        "type": "record",
        "name": "Tree",
        "fields": [{"name": "value", "type": "long", "default": 0}, {"name": "child", "type": ["null", "Tree"], "default": None}],
    }
    store = platform.create_store("s", key="long", value=tree)
    with store.writer() as writer, store.reader() as reader:
        writer.put(1, {"value": 1, "child": {"value": 2, "child": None}})
        writer.put(2, {"value": 3})
        writer.patch(2, {"value": 4})
        rows = reader.get_many([1, 2, 3], min_position=writer.flush())
        assert rows[0]["child"]["value"] == 2
        assert rows[1].to_dict() == {"value": 4, "child": None}
        assert rows[2] is None
        store.repush(fold=True, progress=False)
        assert reader.version == 1
        assert reader.get(2).to_dict() == {"value": 4, "child": None}


# -- processes --------------------------------------------------------------------------------------------------------------------------


def answer(reader: EmbeddedReader, asked: Any, answers: Any) -> None:
    with reader:
        while (question := asked.get()) is not None:
            key, position = question
            found = reader.get(key, min_position=position)
            answers.put(None if found is None else found["clicks"])


def test_a_reader_goes_to_another_process_and_follows_writes_there(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE)
    context = multiprocessing.get_context("spawn")
    asked, answers = context.Queue(), context.Queue()
    with store.reader() as reader:
        process = context.Process(target=answer, args=(reader, asked, answers))
        process.start()
    try:
        for number in range(3):
            with store.writer() as writer:  # each time another is the one who tails
                position = writer.put(number, row(number))
                asked.put((number, str(position)))
                assert answers.get(timeout=60) == number
        asked.put((77, None))
        assert answers.get(timeout=60) is None
    finally:
        asked.put(None)
        process.join(60)
    assert process.exitcode == 0


def tail_until_killed(directory: Path, ready: Any) -> None:
    platform = fd.open(directory)
    with platform.store("s").reader() as reader:
        wait_for(lambda: reader._tail.tailing, "the child never tailed")
        ready.set()
        time.sleep(600)


def test_when_the_process_that_tails_is_killed_another_goes_on(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE)
    with store.writer(tail=False) as writer:
        writer.put(0, row(0))
        writer.flush()
        context = multiprocessing.get_context("spawn")
        ready = context.Event()
        process = context.Process(target=tail_until_killed, args=(platform.directory, ready))
        process.start()
        assert ready.wait(60)
        with store.reader() as reader:
            assert reader.get(0)["clicks"] == 0
            assert not reader._tail.tailing
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join(60)
            assert reader.get(1, min_position=writer.put(1, row(1)), timeout_s=20)["clicks"] == 1
            assert reader._tail.tailing


def test_a_pickled_reader_reads_what_was_written(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE)
    with store.writer() as writer:
        writer.put(1, row(1))
        writer.flush()
        with store.reader() as reader:
            assert reader.get(1)["clicks"] == 1
            copied = pickle.loads(pickle.dumps(reader))
    with copied:
        assert copied.get(1)["clicks"] == 1


def test_what_was_flushed_is_there_for_a_reader_that_is_opened_later(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE)
    with store.writer(tail=False) as writer:  # nobody tails until the reader is opened
        for number in range(1000):
            writer.put(number, row(number))
        writer.flush()
    with store.reader() as reader:
        assert reader.get_columns(np.arange(1000)).found.all()


def test_after_a_restart_of_the_machine_a_reader_waits_until_the_index_is_made_again(tmp_path: Path) -> None:
    with fd.open(tmp_path / "p") as platform:
        store = platform.create_store("members", key="long", value=ONE, partitions=2)
        with store.writer("w") as writer, store.reader() as reader:
            reader.get_many(range(500), min_position=writer.put_many(table(list(range(500)), [row(i) for i in range(500)], pa.int64())))
    overlay = tmp_path / "p" / "stores" / "members" / "overlay"
    cells = cells_of.open_cells(overlay, writable=True)
    assert cells is not None
    cells.view[cells_of.BOOT] += 1
    for path in overlay.glob("*.index"):  # pages of a mapped file that had not reached the disk
        size = path.stat().st_size
        os.truncate(path, 4096)
        os.truncate(path, size)
    with fd.open(tmp_path / "p") as platform, platform.store("members").reader() as reader:
        check(reader, {number: row(number) for number in range(500)})


@pytest.mark.parametrize("timeout_s", ["1", None, float("nan"), True])
def test_a_time_to_wait_that_is_none_is_refused(platform: fd.Platform, timeout_s: Any) -> None:
    store = platform.create_store("members", key="long", value=ONE)
    with store.writer("w") as writer, store.reader() as reader:
        position = writer.put(1, row(1))
        with pytest.raises(InputError, match="timeout_s is how many seconds"):
            reader.get(1, min_position=position, timeout_s=timeout_s)
        assert reader.get(1, min_position=position, timeout_s=float("inf")) is not None


def test_a_store_that_was_pickled_leaves_no_file_open_when_it_is_forgotten(platform: fd.Platform) -> None:
    store = platform.create_store("members", key="long", value=ONE)
    with store.writer("w") as writer:
        writer.put(1, row(1))

    def write_elsewhere() -> int:
        arrived = pickle.loads(pickle.dumps(store))
        with arrived.writer("w") as writer, arrived.reader() as reader:
            assert reader.get(2, min_position=writer.put(2, row(2))) is not None
        del arrived, writer, reader
        gc.collect()
        paths = [os.path.realpath(entry.path) for entry in os.scandir("/proc/self/fd")]
        return sum(f"{platform.directory}/log" in path for path in paths)

    before = write_elsewhere()
    assert [write_elsewhere() for _ in range(3)] == [before] * 3


def test_a_reader_without_a_tail_waits_for_others(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE)
    with store.reader(tail=False) as served:
        with store.writer(tail=False) as writer:
            position = writer.put(1, row(1))
            writer.flush()
        assert served.position == {}
        with store.reader():
            assert served.get(1, min_position=position)["clicks"] == 1


def test_readers_outlive_their_platform_and_go_on_following(tmp_path: Path) -> None:
    with fd.open(tmp_path / "p") as platform:
        store = platform.create_store("s", key="long", value=ONE)
        with store.writer() as writer:
            writer.put(1, row(1))
        reader = store.reader()
    with reader:
        assert reader.get(1)["clicks"] == 1
        with fd.open(tmp_path / "p") as again, again.store("s").writer(tail=False) as writer:
            assert reader.get(2, min_position=writer.put(2, row(2)))["clicks"] == 2


# -- stores that come and go --------------------------------------------------------------------------------------------------------------


def test_a_store_that_is_deleted_takes_its_writes_along(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE)
    reader = store.reader()
    with store.writer() as writer:
        assert reader.get(1, min_position=writer.put(1, row(1)))["clicks"] == 1
    assert platform.log.topics() == ["s.rt"]
    platform.delete_store("s")
    assert platform.log.topics() == []
    with pytest.raises(NoCurrentVersionError):
        reader.get(1)
    with pytest.raises(StoreNotFoundError):
        store.writer()
    again = platform.create_store("s", key="long", value=ONE, partitions=3)
    with pytest.raises(NoCurrentVersionError):
        reader.get(1)
    with again.writer() as writer:
        position = writer.put(2, row(2))
        assert reader.get_many([], min_position=position) == []
        check(reader, {1: None, 2: row(2)}, min_position=position)
        again.push(table([1], [row(7)], pa.int64()), progress=False)
        check(reader, {1: row(7), 2: row(2)})
    reader.close()
    with pytest.raises(StateError):
        reader.get(1, min_position=position)


def test_a_topic_left_by_a_deletion_that_was_cut_short_is_not_taken_over(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE)
    with store.writer() as writer:
        writer.put(1, row(1))
    kept = platform.directory / "log" / "s.rt"
    moved = platform.directory / "log" / "kept"
    kept.rename(moved)
    platform.delete_store("s")
    moved.rename(kept)
    again = platform.create_store("s", key="long", value=ONE)
    with again.reader() as reader, again.writer() as writer:
        check(reader, {1: None, 2: row(2)}, min_position=writer.put(2, row(2)))


# -- files --------------------------------------------------------------------------------------------------------------------------------


def test_a_store_is_mirrored_for_those_without_a_catalog(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE, ttl="2h")
    directory = platform.directory / "stores" / "s"
    store.add_schema(TWO)
    with store.writer() as writer:
        position = writer.put(1, row(1, score=1.5))
        writer.flush()
        with EmbeddedReader.open(directory, "s") as reader:
            assert reader.get(1, min_position=position)["score"] == 1.5
    for name in (STORE_FILE, SCHEMAS_FILE):
        (directory / name).unlink()
    with fd.open(platform.directory), EmbeddedReader.open(directory, "s") as reader:
        assert reader.get(1)["score"] == 1.5


def test_a_damaged_write_is_reported_and_not_passed_over(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=ONE, partitions=1)
    store.push(table([1, 2], [row(1), row(2)], pa.int64()), progress=False)
    with store.reader() as reader:
        with store.writer() as writer:
            check(reader, {1: row(11), 2: row(2)}, min_position=writer.put(1, row(11)))
        (segment,) = (platform.directory / "log" / "s.rt" / "0").glob("*.log")
        data = bytearray(segment.read_bytes())
        place = data.index(b"title 11")
        data[place] ^= 0xFF
        with open(segment, "r+b") as file:
            file.seek(place)
            file.write(data[place : place + 1])
        for call, asked in ((reader.get, 1), (reader.get_many, [2, 1]), (reader.get_columns, [1]), (reader.get_packed, [1])):
            with pytest.raises(CorruptFileError, match="record"):
                call(asked)
        assert reader.get(2)["clicks"] == 2

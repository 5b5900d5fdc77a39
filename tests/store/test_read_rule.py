"""The read rule: a row at version v is v's row under every write from v's window, whichever way it is asked for.

The judge is a few lines of plain Python over the list of everything that was written. Stores are real, in their own directories, and the
clock stands still, so that every edge of a window can be hit to the millisecond.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fondaco as fd
from fondaco.core.clock import ManualClock
from fondaco.core.errors import DeadlineExceededError, InputError, NoCurrentVersionError, StateError, VersionNotFoundError
from fondaco.platform import Platform
from fondaco.schema import vector
from fondaco.store.positions import Position, Positions

NOW_MS = 1_750_000_000_000
HOUR_MS = 3_600_000
REWIND_MS = 24 * HOUR_MS
KEYS = [1, 2, 3, 4, 5]
FIELDS = ("clicks", "name")
VALUE = {
    "type": "record",
    "name": "Member",
    "fields": [
        {"name": "clicks", "type": "long", "default": -1},
        {"name": "name", "type": "string", "default": "nobody"},
        {"name": "emb", "type": vector(4), "default": "\0" * 16},
    ],
}


def emb(clicks: int) -> np.ndarray:
    return np.full(4, clicks, np.float32)


def whole(clicks: int, name: str) -> dict[str, Any]:
    return {"clicks": clicks, "name": name, "emb": emb(clicks)}


def plain(row: Any) -> dict[str, Any] | None:
    return None if row is None else {name: row[name] for name in FIELDS}


# -- the judge ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Judge:
    """Everything that was ever written, and what the rule makes of it. Timestamps are distinct, so ties are another test's affair."""

    bases: dict[int, tuple[int, dict[int, dict[str, Any]]]] = field(default_factory=dict)  # version -> as_of_ms, rows
    writes: list[tuple[int, int, str, dict[str, Any]]] = field(default_factory=list)  # timestamp, key, op, fields

    def row(self, version: int, key: int, rewind_ms: int = REWIND_MS) -> dict[str, Any] | None:
        as_of_ms, rows = self.bases.get(version, (None, {}))
        row = rows.get(key)
        row = None if row is None else {name: row[name] for name in FIELDS}
        for timestamp, written, op, values in sorted(self.writes, key=lambda write: write[0]):
            if written != key or (as_of_ms is not None and timestamp < as_of_ms - rewind_ms):
                continue
            if op == "delete":
                row = None
            elif op == "put":
                row = {name: values[name] for name in FIELDS}
            else:
                row = {**(row or {"clicks": -1, "name": "nobody"}), **values}
        return row


def check(judge: Judge, reader: Any, version: int) -> None:
    """Every way of asking gives what the judge says, and so all ways give the same."""
    expected = [judge.row(version, key) for key in KEYS]
    assert [plain(reader.get(key)) for key in KEYS] == expected
    assert [plain(row) for row in reader.get_many(KEYS)] == expected
    columns = reader.get_columns(np.array(KEYS), list(FIELDS))
    assert columns.found.tolist() == [row is not None for row in expected]
    for name in FIELDS:
        assert np.ma.getmaskarray(columns[name]).tolist() == [row is None for row in expected]
        assert [value for value, found in zip(columns[name], columns.found, strict=True) if found] == [row[name] for row in expected if row]
    scores = reader.compute(KEYS, "dot", field="emb", vector=np.ones(4))
    assert np.ma.getmaskarray(scores).tolist() == [row is None for row in expected]
    for key, score in zip(KEYS, scores, strict=True):
        row = reader.get(key)
        assert row is None or score == pytest.approx(float(np.asarray(row["emb"]).sum()))
    packed = reader.get_packed(KEYS)
    assert packed.found.tolist() == [row is not None for row in expected]
    assert (packed.schemas > 0).tolist() == packed.found.tolist()


# -- the store ----------------------------------------------------------------------------------------------------------------------


class World:
    """A store and its judge."""

    def __init__(self, directory: Any, **options: Any) -> None:
        self.clock = ManualClock(NOW_MS * 1000)
        self.platform = Platform.open(directory, clock=self.clock)
        self.store = self.platform.create_store("members", key="long", value=VALUE, partitions=3, keep=10, **options)
        self.judge = Judge()
        self.writer = self.store.writer("judge")
        self.reader = self.store.reader()
        self.position = Positions()

    def push(self, rows: dict[int, tuple[int, str]], as_of_ms: int, *, swap: bool = True) -> int:
        values = [whole(*row) for row in rows.values()]
        table = pa.table(
            {
                "key": list(rows),
                "clicks": [row["clicks"] for row in values],
                "name": [row["name"] for row in values],
                "emb": pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate([row["emb"] for row in values])), 4),
            }
        )
        version = self.store.push(table, as_of=as_of_ms * 1000, swap=swap, progress=False).version
        self.judge.bases[version] = (as_of_ms, {key: whole(*row) for key, row in rows.items()})
        return version

    def write(self, timestamp_ms: int, key: int, op: str, **values: Any) -> Position:
        if op == "put":
            values = whole(**values)
            position = self.writer.put(key, values, timestamp_ms=timestamp_ms)
        elif op == "patch":
            position = self.writer.patch(key, values, timestamp_ms=timestamp_ms)
        else:
            position = self.writer.delete(key, timestamp_ms=timestamp_ms)
        self.judge.writes.append((timestamp_ms, key, op, values))
        self.position = self.position | position
        return position

    def check(self, reader: Any = None, version: int | None = None) -> None:
        reader = self.reader if reader is None else reader
        reader.get_many([], min_position=self.position)
        check(self.judge, reader, reader.version if version is None else version)

    def check_all_versions(self) -> None:
        self.check()
        for version in self.judge.bases:
            with self.reader.at(version) as pinned:
                check(self.judge, pinned, version)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()
        self.platform.close()


@pytest.fixture
def world(tmp_path: Any) -> Iterator[World]:
    world = World(tmp_path / "p")
    yield world
    world.close()


BASE = {1: (10, "a"), 2: (20, "b"), 3: (30, "c")}


# -- edges --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["put", "patch", "delete"])
def test_a_write_counts_from_the_first_millisecond_of_the_window_and_not_one_before(world: World, op: str) -> None:
    as_of_ms = NOW_MS
    world.push(BASE, as_of_ms)
    values = {} if op == "delete" else {"clicks": 7, "name": "z"} if op == "put" else {"clicks": 7}
    for key, timestamp_ms in ((1, as_of_ms - REWIND_MS - 1), (2, as_of_ms - REWIND_MS), (3, as_of_ms - REWIND_MS + 1)):
        world.write(timestamp_ms, key, op, **values)
    world.check()
    assert world.reader.get(1)["clicks"] == 10
    assert plain(world.reader.get(2)) != {"clicks": 20, "name": "b"}


def test_an_as_of_between_two_milliseconds_does_not_shorten_the_window(world: World) -> None:
    world.store.push(
        pa.table({"key": [1], "clicks": [1], "name": ["a"], "emb": pa.FixedSizeListArray.from_arrays(pa.array(emb(1)), 4)}),
        as_of=NOW_MS * 1000 + 999,
        progress=False,
    )
    position = world.writer.put(1, whole(2, "b"), timestamp_ms=NOW_MS - REWIND_MS)
    assert world.reader.get(1, min_position=position)["clicks"] == 2


def test_writes_older_than_the_window_count_for_older_versions_only(world: World) -> None:
    old = world.push(BASE, NOW_MS - 48 * HOUR_MS)
    new = world.push({1: (11, "aa"), 2: (21, "bb")}, NOW_MS)
    world.write(NOW_MS - 40 * HOUR_MS, 1, "put", clicks=5, name="late")
    world.write(NOW_MS - 40 * HOUR_MS, 2, "delete")
    world.write(NOW_MS - 39 * HOUR_MS, 3, "patch", clicks=6)
    world.check_all_versions()
    assert world.reader.version == new
    assert plain(world.reader.get(1)) == {"clicks": 11, "name": "aa"}
    with world.reader.at(old) as pinned:
        assert plain(pinned.get(1)) == {"clicks": 5, "name": "late"}
        assert pinned.get(2) is None
        assert plain(pinned.get(3)) == {"clicks": 6, "name": "c"}


def test_a_patch_lies_over_a_base_row_a_missing_row_and_a_deleted_row(world: World) -> None:
    world.push(BASE, NOW_MS)
    world.write(NOW_MS - 3, 1, "patch", clicks=7)
    world.write(NOW_MS - 2, 4, "patch", name="new")
    world.write(NOW_MS - 2, 2, "delete")
    world.write(NOW_MS - 1, 2, "patch", clicks=8)
    world.check()
    assert plain(world.reader.get(1)) == {"clicks": 7, "name": "a"}
    assert plain(world.reader.get(4)) == {"clicks": -1, "name": "new"}
    assert plain(world.reader.get(2)) == {"clicks": 8, "name": "nobody"}


def test_a_patch_of_a_row_whose_other_fields_have_no_default_waits_for_a_put(tmp_path: Any) -> None:
    value = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": "long"}]}
    with fd.open(tmp_path / "p") as platform:
        store = platform.create_store("s", key="long", value=value)
        with store.writer() as writer, store.reader() as reader:
            position = writer.patch(1, {"a": 1})
            assert reader.get(1, min_position=position) is None
            assert reader.get_many([1]) == [None]
            assert reader.get_columns([1]).found.tolist() == [False]
            assert reader.get_packed([1]).found.tolist() == [False]
            position = writer.patch(1, {"b": 2})
            assert dict(reader.get(1, min_position=position)) == {"a": 1, "b": 2}
            assert reader.get_columns([1])["b"].tolist() == [2]


# -- pushes, swaps and rollbacks ------------------------------------------------------------------------------------------------------


def test_a_rollback_keeps_every_write(world: World) -> None:
    world.push(BASE, NOW_MS - 2 * HOUR_MS)
    world.write(NOW_MS - HOUR_MS, 1, "put", clicks=100, name="x")
    world.push({1: (11, "aa"), 4: (40, "d")}, NOW_MS)
    world.write(NOW_MS, 2, "patch", clicks=200)
    world.check()
    world.store.rollback()
    world.check()
    assert plain(world.reader.get(2)) == {"clicks": 200, "name": "b"}
    world.store.swap(2)
    world.check_all_versions()


def test_a_row_deleted_while_a_push_runs_stays_deleted(world: World) -> None:
    world.push(BASE, NOW_MS - HOUR_MS)
    as_of_ms = NOW_MS

    def batches() -> Iterator[pa.RecordBatch]:
        table = pa.table({"key": [1, 2], "clicks": [11, 21], "name": ["aa", "bb"]})
        yield from table.append_column("emb", pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(8, np.float32)), 4)).to_batches()
        world.write(NOW_MS + 1, 1, "delete")
        world.writer.flush()

    world.store.push(batches(), as_of=as_of_ms * 1000, progress=False)
    world.judge.bases[2] = (as_of_ms, {1: whole(11, "aa"), 2: whole(21, "bb")})
    world.check()
    assert world.reader.get(1) is None


def test_a_swap_never_shows_an_older_value_than_before(world: World) -> None:
    """One key is written all the time with a growing number, while versions are pushed that hold an old one."""
    world.push({1: (0, "base")}, NOW_MS - HOUR_MS)
    stop, seen, failures = threading.Event(), [0], []

    def read() -> None:
        while not stop.is_set():
            row = world.reader.get(1)
            if row is None or row["clicks"] < seen[-1]:
                failures.append((row and row["clicks"], seen[-1]))
                return
            if row["clicks"] != seen[-1]:
                seen.append(row["clicks"])

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for number in range(1, 31):
            world.write(NOW_MS - HOUR_MS + number, 1, "put", clicks=number, name="live")
            world.writer.flush()
            if number % 6 == 0:
                world.push({1: (number - 5, "stale")}, NOW_MS - HOUR_MS + number)
            if number == 20:
                world.store.rollback()
    finally:
        stop.set()
        thread.join()
    assert not failures
    world.check_all_versions()


def test_a_version_waiting_for_its_swap_gets_the_writes_of_the_meantime(world: World) -> None:
    world.push(BASE, NOW_MS - HOUR_MS)
    waiting = world.push({1: (11, "aa")}, NOW_MS, swap=False)
    world.write(NOW_MS + 5, 1, "patch", clicks=12)
    world.check()
    world.store.swap(waiting)
    world.check()
    assert plain(world.reader.get(1)) == {"clicks": 12, "name": "aa"}


# -- everything at once ---------------------------------------------------------------------------------------------------------------

OFFSETS_MS = st.one_of(st.integers(-3, 3), st.integers(-REWIND_MS - 2, -REWIND_MS + 2), st.integers(-60 * HOUR_MS, HOUR_MS))
WRITES = st.tuples(
    st.just("write"), st.sampled_from(KEYS), st.sampled_from(["put", "put", "patch", "delete"]), OFFSETS_MS, st.integers(0, 99)
)
PUSHES = st.tuples(st.just("push"), st.dictionaries(st.sampled_from(KEYS), st.integers(100, 199), min_size=1), OFFSETS_MS)
STEPS = st.one_of(WRITES, WRITES, WRITES, PUSHES, st.just(("rollback",)), st.just(("check",)))


@given(steps=st.lists(STEPS, min_size=1, max_size=14))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_history_reads_as_the_rule_says_at_every_version(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    world = World(tmp_path_factory.mktemp("rule") / "p")
    used: set[int] = set()
    try:
        for step in steps:
            if step[0] == "write":
                _, key, op, offset_ms, number = step
                timestamp_ms = NOW_MS + offset_ms
                while timestamp_ms in used:
                    timestamp_ms += 1
                used.add(timestamp_ms)
                values: dict[str, Any] = (
                    {"clicks": number, "name": f"w{number}"} if op == "put" else {"clicks": number} if op == "patch" else {}
                )
                world.write(timestamp_ms, key, op, **values)
            elif step[0] == "push":
                world.push({key: (clicks, f"b{clicks}") for key, clicks in step[1].items()}, NOW_MS + step[2])
            elif step[0] == "rollback":
                if world.store.current and any(info.state == "BACKUP" and not info.rolled_back for info in world.store.versions()):
                    try:
                        world.store.rollback()
                    except StateError:
                        continue  # no older backup
            elif world.judge.bases or world.judge.writes:
                world.check()
        if world.judge.bases or world.judge.writes:
            world.check_all_versions()
    finally:
        world.close()


# -- positions ----------------------------------------------------------------------------------------------------------------------


def test_a_write_is_read_by_its_position_in_every_form(world: World) -> None:
    for number in range(1, 6):
        position = world.writer.put(7, whole(number, "x"))
        forms = [position, Positions.of(position), str(position), {position.partition: position.offset}]
        assert world.reader.get(7, min_position=forms[number % 4])["clicks"] == number
    assert world.reader.position[position.partition] >= position.offset
    both = world.writer.put(8, whole(1, "y")), world.writer.put(9, whole(2, "z"))
    rows = world.reader.get_many([8, 9], min_position=f"{both[0]},{both[1]}")
    assert [row["clicks"] for row in rows] == [1, 2]
    assert world.reader.get_columns([8], min_position=world.writer.flush()).found.all()
    assert world.reader.compute([8], "dot", "emb", np.ones(4), min_position=both[0]).tolist() == [4.0]


@pytest.mark.parametrize("call", ["get", "get_many", "get_columns", "compute", "get_packed"])
def test_a_position_that_is_not_reached_is_a_deadline_in_time(world: World, call: str) -> None:
    world.write(NOW_MS, 1, "put", clicks=1, name="a")
    world.check()
    arguments = {"get": (1,), "compute": ([1], "dot", "emb", np.ones(4))}.get(call, ([1],))
    begun = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="0:1000000"):
        getattr(world.reader, call)(*arguments, min_position="0:1000000", timeout_s=0.2)
    assert 0.15 < time.monotonic() - begun < 20


def test_what_is_no_position_is_refused(world: World) -> None:
    for wrong in ("1", "a:b", 7, [1]):
        with pytest.raises(InputError, match="position"):
            world.reader.get(1, min_position=wrong)


# -- stores without a version -----------------------------------------------------------------------------------------------------------


def test_a_store_that_was_only_written_to_is_version_0(world: World) -> None:
    with pytest.raises(NoCurrentVersionError):
        world.reader.get(1)
    world.write(NOW_MS - 1000 * HOUR_MS, 1, "put", clicks=1, name="old")
    world.write(NOW_MS, 2, "patch", clicks=2)
    world.check()
    assert world.reader.version == 0
    with pytest.raises(VersionNotFoundError):
        world.reader.at(0)
    with world.store.reader() as later:
        world.check(later)
    world.push({3: (3, "c")}, NOW_MS)
    assert world.reader.version == 1
    world.check()
    assert world.reader.get(1) is None


def test_a_reader_opened_before_the_first_write_sees_it_within_milliseconds(world: World) -> None:
    world.push(BASE, NOW_MS)
    assert world.reader.get(1)["clicks"] == 10
    world.writer.put(1, whole(99, "now"))
    world.writer.flush()
    deadline = time.monotonic() + 5
    while world.reader.get(1)["clicks"] != 99:
        assert time.monotonic() < deadline, "a flushed write was not seen"
        time.sleep(0.001)

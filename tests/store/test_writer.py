"""StoreWriter on a real log: what is taken, acknowledged, tried again, refused and counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.clock import Clock, ManualClock
from fondaco.core.errors import (
    CorruptFileError,
    DataError,
    DiskFullError,
    FieldNotFoundError,
    InputError,
    KeyTypeError,
    RowError,
    StateError,
    UnavailableError,
    UnwrittenError,
)
from fondaco.log import EmbeddedLog, TopicConfig
from fondaco.store import _write_kernels
from fondaco.store._write_columns import by_partition
from fondaco.store.basefile import address_of
from fondaco.store.keys import KeyCodec
from fondaco.store.positions import Position, Positions
from fondaco.store.write_encoder import WRITE_BYTES_MAX, WriteEncoder
from fondaco.store.writer import LogTarget, Part, Placed, StoreWriter
from fondaco.store.writes import Op, batch_of
from live_rows import live_rows, writes_of
from waiting import wait_for

SCHEMA = {
    "type": "record",
    "name": "Member",
    "fields": [
        {"name": "clicks", "type": "long", "default": 0},
        {"name": "name", "type": "string", "default": "?"},
        {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
    ],
}
KEY = KeyCodec("long")
TOPIC = "members.rt"
DAY_US = 86_400_000_000
DEADLINE_S = 20.0


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    with EmbeddedLog(tmp_path / "log") as log:
        log.create_topic(TOPIC, TopicConfig(partitions=4))
        yield log


def row(clicks: int, name: str = "n") -> dict[str, Any]:
    return {"clicks": clicks, "name": name, "tags": []}


def encoder(clock: Clock | None = None, writer_id: str = "job") -> WriteEncoder:
    return WriteEncoder("members", KEY, SCHEMA, 1, writer_id, clock=clock)


def open_writer(log: EmbeddedLog, target: Any = None, clock: Clock | None = None, **settings: Any) -> StoreWriter:
    return StoreWriter(target or LogTarget(log, TOPIC, "store 'members'"), encoder(clock), **settings)


def rows_of(log: EmbeddedLog) -> dict[Any, Any]:
    return live_rows(log, TOPIC, KEY, {1: SCHEMA})


def held(log: EmbeddedLog) -> int:
    return sum(log.high_watermark(TOPIC, partition) for partition in range(4))


class Trouble(LogTarget):
    """A real log that fails as told: `error` at every append while it is set, or only in `partition`."""

    def __init__(self, log: EmbeddedLog) -> None:
        super().__init__(log, TOPIC, "store 'members'")
        self.error: Exception | None = None
        self.partition: int | None = None
        self.attempts: list[tuple[int, str]] = []
        self.synced: list[int] = []

    def append(self, part: Any, durability: Any) -> Placed:
        self.attempts.append((part.partition, durability))
        if self.error is not None and self.partition in (None, part.partition):
            raise self.error
        return super().append(part, durability)

    def sync(self, partitions: Any) -> None:
        self.synced += partitions
        super().sync(self.synced)


# -- taken and acknowledged -----------------------------------------------------------------------------------------------------------


def test_writes_reach_the_log_with_their_positions(log: EmbeddedLog) -> None:
    with open_writer(log) as writer:
        first, second = writer.put(42, row(1)), writer.put(42, row(2))
        writer.patch(42, {"name": "x"}, add={"tags": ["a"]})
        writer.put(43, row(9))
        writer.delete(43)
        assert (second.partition, second.offset) == (first.partition, first.offset + 1)
        positions = writer.flush()
        assert positions[first.partition] >= second.offset
        assert Positions.of(str(positions)) == positions
    assert rows_of(log) == {42: {"clicks": 2, "name": "x", "tags": ["a"]}}


def test_a_key_always_lies_in_the_partition_of_its_hash(log: EmbeddedLog) -> None:
    with open_writer(log) as writer:
        partitions = {key: writer.put(key, row(0)).partition for key in range(20)}
        assert len(set(partitions.values())) == 4
        assert {key: writer.delete(key).partition for key in range(20)} == partitions


def test_what_was_taken_is_written_without_a_flush(log: EmbeddedLog) -> None:
    with open_writer(log, linger_ms=1) as writer:
        writer.put(1, row(1))
        wait_for(lambda: held(log) == 1, "the first write is in the log")
        writer.put(2, row(1))
        wait_for(lambda: held(log) == 2, "the second write is in the log")
        assert writer.waiting == 0


def test_asking_for_a_position_writes_at_once(log: EmbeddedLog) -> None:
    with open_writer(log, linger_ms=600_000) as writer:
        position = writer.put(1, row(1))
        assert repr(position) == "Position(not flushed)"
        assert held(log) == 0
        assert position == Position.parse(str(position))
        assert held(log) == 1


def test_a_full_buffer_is_sent_without_waiting(log: EmbeddedLog) -> None:
    with open_writer(log, linger_ms=600_000, buffer_bytes=2_000) as writer:
        for key in range(100):
            writer.put(key, row(key))
            assert writer._waiting_bytes < 2_400
        assert held(log) > 80


def test_closing_writes_what_waits_and_a_closed_writer_takes_nothing(log: EmbeddedLog) -> None:
    writer = open_writer(log, linger_ms=600_000)
    position = writer.put(1, row(1))
    writer.close()
    writer.close()
    assert position.offset == 0
    assert held(log) == 1
    for call in (lambda: writer.put(1, row(1)), writer.flush, lambda: writer.put_many({"key": [1], "clicks": [1]})):
        with pytest.raises(StateError, match="closed; open another"):
            call()


def test_closing_in_the_middle_of_the_lingering_does_not_wait_for_it(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that sends late had just seen that nobody closes, and then took `close`'s call to wake up for an older one."""
    writer = open_writer(log, linger_ms=0)
    clear, seen = writer._wake.clear, threading.Event()

    def clear_after_closing() -> None:
        seen.set()
        writer._closing.wait(10)
        clear()

    monkeypatch.setattr(writer._wake, "clear", clear_after_closing)
    writer.put(1, row(1))
    assert seen.wait(10)
    begun = time.monotonic()
    writer.close()
    assert time.monotonic() - begun < 5


def test_an_exception_in_the_block_does_not_lose_what_was_taken(log: EmbeddedLog) -> None:
    def fail() -> None:
        with open_writer(log, linger_ms=600_000) as writer:
            writer.put(1, row(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert held(log) == 1


@settings(max_examples=30, deadline=None)
@given(
    writes=st.lists(st.tuples(st.sampled_from(["put", "patch", "delete"]), st.integers(0, 5), st.integers(0, 99)), max_size=40),
    buffer_bytes=st.sampled_from([0, 600, 1 << 20]),
)
def test_the_last_write_of_a_writer_wins_whatever_the_buffers(writes: Any, buffer_bytes: int, tmp_path_factory: Any) -> None:
    expected: dict[int, Any] = {}
    with EmbeddedLog(tmp_path_factory.mktemp("log")) as log:
        log.create_topic(TOPIC, TopicConfig(partitions=4))
        with open_writer(log, buffer_bytes=buffer_bytes) as writer:
            for op, key, clicks in writes:
                if op == "put":
                    writer.put(key, row(clicks))
                    expected[key] = row(clicks)
                elif op == "patch":
                    writer.patch(key, {"clicks": clicks})
                    expected[key] = {**expected.get(key, {"clicks": 0, "name": "?", "tags": []}), "clicks": clicks}
                else:
                    writer.delete(key)
                    expected.pop(key, None)
        assert rows_of(log) == expected


def test_several_threads_share_a_writer_and_each_keeps_its_order(log: EmbeddedLog) -> None:
    positions: dict[int, list[Position]] = {}

    def work(thread: int) -> None:
        positions[thread] = [writer.put(thread, row(number)) for number in range(400)]

    with open_writer(log, linger_ms=0, buffer_bytes=4_000) as writer:
        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        writer.flush()
        for thread in range(4):
            offsets = [position.offset for position in positions[thread]]
            assert offsets == sorted(set(offsets))
    assert held(log) == 1600
    assert {key: found["clicks"] for key, found in rows_of(log).items()} == dict.fromkeys(range(4), 399)


# -- stamps ---------------------------------------------------------------------------------------------------------------------------


def test_a_clock_that_goes_back_does_not_make_the_last_write_lose(log: EmbeddedLog) -> None:
    clock = ManualClock(10 * DAY_US)
    with open_writer(log, clock=clock) as writer:
        writer.put(1, row(1))
        clock.advance(us=-3_600_000_000)
        writer.put(1, row(2))
        writer.patch(1, {"name": "after"})
    assert rows_of(log) == {1: row(2, "after")}
    assert len({write.stamp.timestamp_ms for _, write in writes_of(log, TOPIC)}) == 1


def test_a_clock_put_right_after_days_in_the_future_is_believed_again(log: EmbeddedLog) -> None:
    clock = ManualClock(100 * DAY_US)
    with open_writer(log, clock=clock) as writer:
        writer.put(1, row(1))
        clock.advance(us=-50 * DAY_US)
        writer.put(2, row(2))
    times = sorted(write.stamp.timestamp_ms for _, write in writes_of(log, TOPIC))
    assert times == [50 * DAY_US // 1000, 100 * DAY_US // 1000]


def test_writes_with_times_of_their_own_do_not_depend_on_their_order(log: EmbeddedLog) -> None:
    with open_writer(log) as writer:
        for order in ((1, 2), (2, 1)):
            for value in order:
                writer.put(order[0], row(value), timestamp_ms=1_000)
    assert all(write.stamp.sequence == 0 for _, write in writes_of(log, TOPIC))
    assert {found["clicks"] for found in rows_of(log).values()} == {2}


def test_a_second_writer_of_one_id_continues_above_the_first(log: EmbeddedLog) -> None:
    clock = ManualClock(DAY_US)
    with open_writer(log, clock=clock) as writer:
        writer.put(1, row(1))
    clock.advance(us=10)
    with open_writer(log, clock=clock) as writer:
        writer.put(1, row(0))
    assert rows_of(log)[1]["clicks"] == 0


def test_times_that_cannot_be_are_refused_and_nothing_is_taken(log: EmbeddedLog) -> None:
    with open_writer(log, clock=ManualClock(DAY_US)) as writer:
        for wrong in (-1, 2 * 86_400_001, 1.5):
            with pytest.raises(InputError, match="timestamp_ms"):
                writer.put(1, row(1), timestamp_ms=wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="is it in milliseconds"):
            writer.put_many({"key": [1], "clicks": [1]}, timestamp_ms=DAY_US)
        assert writer.waiting == 0


# -- refused --------------------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_names_it_and_nothing_is_taken(log: EmbeddedLog) -> None:
    with open_writer(log, linger_ms=600_000) as writer:
        with pytest.raises(KeyTypeError, match="'x'"):
            writer.put("x", row(1))
        with pytest.raises(RowError, match=r"'clicks': expected an int of 64 bits, got str 'many'"):
            writer.put(1, {"clicks": "many"})
        with pytest.raises(FieldNotFoundError, match="did you mean 'clicks'"):
            writer.patch(1, {"clics": 1})
        with pytest.raises(InputError, match="changes nothing"):
            writer.patch(1)
        with pytest.raises(DataError, match="limit is"):
            writer.put(1, {"name": "x" * (WRITE_BYTES_MAX + 1)})
        assert writer.waiting == 0


@pytest.mark.parametrize("wrong", [{"durability": "ram"}, {"linger_ms": -1}, {"buffer_bytes": "1"}, {"timeout_s": float("nan")}])
def test_settings_that_cannot_be_are_refused(log: EmbeddedLog, wrong: Any) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        open_writer(log, **wrong)
    with open_writer(log) as writer, pytest.raises(InputError, match="durability"):
        writer.flush("ram")  # type: ignore[arg-type]


# -- a log that fails -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [DiskFullError("d"), UnavailableError("broker", "no route")])
def test_writes_wait_while_the_log_does_not_take_them_and_are_sent_in_order(log: EmbeddedLog, error: Exception) -> None:
    target = Trouble(log)
    with open_writer(log, target, linger_ms=0) as writer:
        target.error = error
        positions = [writer.put(1, row(number)) for number in range(50)]
        wait_for(lambda: len(target.attempts) > 2, "it tries again")
        with pytest.raises(type(error)):
            writer.flush(timeout_s=0.02)
        assert writer.waiting == 50
        target.error = None
        wait_for(lambda: held(log) == 50, "every write is in the log")
        assert [position.offset for position in positions] == list(range(50))
    assert rows_of(log)[1]["clicks"] == 49


def test_a_put_waits_for_room_then_raises_the_logs_error_without_taking_the_write(log: EmbeddedLog) -> None:
    target = Trouble(log)
    with open_writer(log, target, linger_ms=600_000, buffer_bytes=1_000, timeout_s=0.05) as writer:
        target.error = UnavailableError("broker", "no route")
        taken = 0
        while writer._waiting_bytes < 1_000:
            writer.put(taken, row(taken))
            taken += 1
        with pytest.raises(UnavailableError, match="no route"):
            writer.put(taken, row(taken))
        assert 0 < taken < 10
        assert writer.waiting == taken
        target.error = None
        writer.put(taken, row(0))
    assert held(log) == taken + 1


def test_a_put_that_waits_for_room_goes_on_when_the_log_is_back(log: EmbeddedLog) -> None:
    target = Trouble(log)
    with open_writer(log, target, linger_ms=600_000, buffer_bytes=0) as writer:
        writer.put(0, row(0))
        target.error = DiskFullError("d")
        blocked = threading.Thread(target=lambda: writer.put(1, row(1)))
        blocked.start()
        wait_for(lambda: len(target.attempts) >= 2, "it tries again")
        target.error = None
        blocked.join(DEADLINE_S)
        assert not blocked.is_alive()
    assert held(log) == 2


def test_a_part_that_was_appended_is_not_appended_again_when_another_fails(log: EmbeddedLog) -> None:
    target = Trouble(log)
    with open_writer(log, target, linger_ms=600_000) as writer:
        target.error, target.partition = DiskFullError("d"), 2
        for key in range(40):
            writer.put(key, row(key))
        with pytest.raises(DiskFullError):
            writer.flush(timeout_s=0.05)
        assert 0 < writer.waiting < 40
        target.error = None
        positions = writer.flush()
        assert sum(offset + 1 for offset in positions.values()) == 40
    assert held(log) == 40


def test_closing_counts_what_could_not_be_written(log: EmbeddedLog) -> None:
    target = Trouble(log)
    writer = open_writer(log, target, linger_ms=600_000, timeout_s=0.05)
    writer.put(1, row(1))
    writer.flush()
    target.error = DiskFullError("d")
    lost = [writer.put(key, row(key)) for key in range(7)]
    with pytest.raises(UnwrittenError, match=r"7 writes to store 'members' could not be written: no space left") as info:
        writer.close()
    assert info.value.count == 7
    assert isinstance(info.value.__cause__, DiskFullError)
    with pytest.raises(UnwrittenError):
        _ = lost[0].offset
    assert held(log) == 1


def test_a_log_that_is_damaged_ends_the_writer(log: EmbeddedLog) -> None:
    target = Trouble(log)
    writer = open_writer(log, target, linger_ms=600_000)
    target.error = CorruptFileError("00000.log", "batch", "checksum differs")
    writer.put(1, row(1))
    with pytest.raises(CorruptFileError):
        writer.flush()
    target.error = None
    with pytest.raises(UnwrittenError, match=r"1 write to .* checksum differs"):
        writer.put(2, row(2))
    with pytest.raises(UnwrittenError):
        writer.flush()
    with pytest.raises(UnwrittenError, match="1 write to"):
        writer.close()


def test_an_unexpected_error_of_a_target_is_raised_and_kept(log: EmbeddedLog) -> None:
    target = Trouble(log)
    writer = open_writer(log, target, linger_ms=600_000)
    target.error = OSError(5, "Input/output error")
    writer.put(1, row(1))
    with pytest.raises(OSError, match="Input/output"):
        writer.flush()
    with pytest.raises(UnwrittenError, match="Input/output"):
        writer.close()


def test_the_lingering_thread_notes_what_ends_the_writer(log: EmbeddedLog) -> None:
    target = Trouble(log)
    writer = open_writer(log, target, linger_ms=0)
    target.error = CorruptFileError("00000.log", "batch", "checksum differs")
    writer.put(1, row(1))
    wait_for(lambda: target.attempts, "the append begins")
    writer._thread.join(DEADLINE_S)
    with pytest.raises(UnwrittenError, match="checksum differs"):
        writer.close()


def test_a_target_that_finds_the_partitions_itself_has_them_all_noted(log: EmbeddedLog) -> None:
    class Mixed(Trouble):
        def split(self, batch: Any) -> list[Part]:
            return [Part(-1, None, batch)]

        def append(self, part: Part, durability: Any) -> Placed:
            return Placed(np.array([2, 0, 3, 2], np.int64), np.array([5, 1, 7, 6], np.int64))

        def sync(self, partitions: Any) -> None:
            self.synced += partitions

    target = Mixed(log)
    with open_writer(log, target, linger_ms=600_000) as writer:
        positions = [writer.put(key, row(key)) for key in range(4)]
        assert str(writer.flush()) == "0:1,2:6,3:7"
        assert [str(position) for position in positions] == ["2:5", "0:1", "3:7", "2:6"]
        writer.flush("disk")
        assert target.synced == [0, 2, 3]


def test_a_writer_killed_at_any_moment_has_lost_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path / "log") as log:
        log.create_topic(TOPIC, TopicConfig(partitions=4))
    for kill_after in (1, 40):
        child = subprocess.Popen(
            [sys.executable, "-m", "writer_child", str(tmp_path / "log"), json.dumps(SCHEMA)],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
        try:
            assert child.stdout is not None
            acknowledged = [int(child.stdout.readline()) for _ in range(kill_after)]
        finally:
            child.kill()
            acknowledged += [int(line) for line in child.communicate()[0].splitlines()]
        with EmbeddedLog(tmp_path / "log") as log:
            clicks = {key: found["clicks"] for key, found in rows_of(log).items()}
        for number in range(max(0, acknowledged[-1] - 49), acknowledged[-1] + 1):
            assert clicks[number % 50] >= number


# -- durability -----------------------------------------------------------------------------------------------------------------------


def test_durability_is_asked_of_the_log_for_what_waits_and_for_what_was_written_before(log: EmbeddedLog) -> None:
    target = Trouble(log)
    with open_writer(log, target, linger_ms=600_000) as writer:
        first = writer.put(1, row(1)).partition
        assert target.attempts == [(first, "os")]
        writer.put(1, row(2))
        writer.flush("disk")
        assert target.attempts[1:] == [(first, "disk")]
        assert target.synced == [first]
        writer.flush("disk")
        assert target.synced == [first]
    with open_writer(log, target, linger_ms=600_000, durability="disk") as writer:
        writer.put(1, row(3))
    assert target.attempts[2:] == [(first, "disk")]


# -- many at once ---------------------------------------------------------------------------------------------------------------------


def test_putting_a_table_is_putting_its_rows(log: EmbeddedLog) -> None:
    table = pa.table({"key": [1, 2, 3, 2], "clicks": [10, 20, 30, 40], "name": ["a", "b", "c", "d"], "tags": [["x"], [], ["y"], []]})
    with open_writer(log) as writer:
        writer.put(1, row(99))
        positions = writer.put_many(table)
        assert sum(offset + 1 for offset in positions.values()) == 5
        rows = rows_of(log)
        writer.put(3, row(7))
    assert rows == {
        1: {"clicks": 10, "name": "a", "tags": ["x"]},
        2: {"clicks": 40, "name": "d", "tags": []},
        3: {"clicks": 30, "name": "c", "tags": ["y"]},
    }
    assert rows_of(log)[3] == row(7)
    assert {write.op for _, write in writes_of(log, TOPIC)} == {Op.PUT}


def test_rows_of_a_table_may_have_times_of_their_own(log: EmbeddedLog) -> None:
    with open_writer(log) as writer:
        writer.put_many({"key": [1, 1], "clicks": [1, 2]}, timestamp_ms=np.array([2_000, 1_000]))
        assert rows_of(log)[1]["clicks"] == 1
        writer.put_many([{"key": 2, "clicks": 5}], timestamp_ms=3_000)
        assert rows_of(log)[2]["clicks"] == 5
        for wrong in ([1_000], [1_000] * 3):
            with pytest.raises(InputError, match="one for each row"):
                writer.put_many({"key": [1, 1], "clicks": [1, 2]}, timestamp_ms=wrong)
        with pytest.raises(InputError, match="whole milliseconds"):
            writer.put_many({"key": [1], "clicks": [1]}, timestamp_ms=[1.5])


def test_a_wrong_row_of_a_table_is_named(log: EmbeddedLog) -> None:
    with open_writer(log) as writer, pytest.raises(RowError, match="row 1, field 'clicks'"):
        writer.put_many([{"key": 1, "clicks": 1}, {"key": 2, "clicks": "many"}])


def test_encoded_writes_are_taken_as_they_are(log: EmbeddedLog) -> None:
    writes = [encoder().put(key, row(key), 1_000) for key in range(10)]
    batch = batch_of(*map(list, zip(*writes, strict=True)))  # type: ignore[arg-type]
    with open_writer(log) as writer:
        writer.put_batch(batch)
        writer.put_batch(batch_of([], [], []))
    assert {key: found["clicks"] for key, found in rows_of(log).items()} == {key: key for key in range(10)}


# -- kernels against plain references -------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=9), st.binary(max_size=9)), max_size=30))
def test_a_batch_is_cut_by_partition_in_order(writes: Any) -> None:
    batch = batch_of([key for _, key, _ in writes], [value for _, _, value in writes], list(range(len(writes))))
    parts = by_partition(batch, np.array([partition for partition, _, _ in writes], np.int64), 6)
    assert [partition for partition, _, _ in parts] == sorted({partition for partition, _, _ in writes})
    for partition, rows, part in parts:
        expected = [number for number, write in enumerate(writes) if write[0] == partition]
        assert (list(range(len(writes))) if rows is None else rows.tolist()) == expected
        assert part.timestamps_ms.tolist() == expected
        for i, number in enumerate(expected):
            key = part.keys[part.key_offsets[i] : part.key_offsets[i + 1]].tobytes()
            value = part.values[part.value_offsets[i] : part.value_offsets[i + 1]].tobytes()
            assert (key, value) == writes[number][1:]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=12), max_size=20), st.integers(0, 1 << 40), st.integers(0, 1))
def test_envelopes_are_put_before_rows(rows: list[bytes], first: int, step: int) -> None:
    from fondaco.store.writes import encode_envelope

    data = np.frombuffer(b"".join(rows) + b"\0", np.uint8)
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    template = np.frombuffer(encode_envelope(Op.PUT, 3, 5, 0), np.uint8)
    out, out_offsets = np.zeros(int(offsets[-1]) + 24 * len(rows) + 1, np.uint8), np.zeros(len(rows) + 1, np.int64)
    _write_kernels.put_envelopes(address_of(template), address_of(data), offsets, first, step, address_of(out), out_offsets)
    expected = [encode_envelope(Op.PUT, 3, 5, first + i * step, row) for i, row in enumerate(rows)]
    assert out[: out_offsets[-1]].tobytes() == b"".join(expected)
    assert np.diff(out_offsets).tolist() == [len(value) for value in expected]

"""Tailers: what they make of a log; restarts, damage and full disks change nothing about it. Judge: a plain merge of all records."""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.clock import ManualClock
from fondaco.core.errors import CorruptFileError, LockedError
from fondaco.log import EmbeddedLog, Record, TopicConfig
from fondaco.log import state as log_state
from fondaco.store import _overlay_cells as cells_of
from fondaco.store import _overlay_files as files_of
from fondaco.store import _overlay_kernels as probes
from fondaco.store import _tailer_partition
from fondaco.store.freshness import Freshness
from fondaco.store.overlay import Overlay
from fondaco.store.tailer import Tailer, TailerThread
from fondaco.store.writes import EditKind, Op, encode_envelope, heartbeat, pack_edit, pack_patch
from overlay_parts import (
    TOPIC,
    Answer,
    append,
    both,
    delete,
    flip,
    make_log,
    model,
    place,
    put,
    read_all,
    write,
)


def patch(key: bytes, timestamp_ms: int, *edits: tuple[EditKind, bytes, bytes, bytes], sequence: int = 0, writer: int = 1) -> Record:
    return write(key, Op.PATCH, timestamp_ms, pack_patch([pack_edit(*edit) for edit in edits]), sequence=sequence, writer=writer)


def set_a(key: bytes, timestamp_ms: int, value: bytes = b"v") -> Record:
    return patch(key, timestamp_ms, (EditKind.SET, b"a", b"", value))


_EDITS = st.lists(
    st.one_of(
        st.tuples(st.just(EditKind.SET), st.sampled_from([b"a", b"b.c", b"b"]), st.just(b""), st.sampled_from([b"x", b"y"])),
        st.tuples(st.sampled_from([EditKind.ADD, EditKind.REMOVE]), st.just(b"tags"), st.sampled_from([b"1", b"2"]), st.just(b"")),
    ),
    min_size=1,
    max_size=3,
)
_STAMPS = {"timestamp_ms": st.integers(0, 4), "writer": st.integers(1, 2), "sequence": st.integers(0, 1)}
_KEYS = st.sampled_from([b"", b"k", b"key-2", b"a rather long key, longer than one lane of the hash"])
_WRITES = st.one_of(
    st.builds(put, _KEYS, payload=st.binary(max_size=3), schema=st.integers(1, 2), **_STAMPS),
    st.builds(delete, _KEYS, **_STAMPS),
    st.builds(lambda key, edits, **stamp: patch(key, stamp.pop("timestamp_ms"), *edits, **stamp), _KEYS, _EDITS, **_STAMPS),
    st.builds(lambda key, timestamp_ms: Record(key, None, timestamp_ms), _KEYS, st.integers(0, 4)),
)


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.lists(_WRITES, min_size=1, max_size=12), max_size=5),
    restart=st.sets(st.integers(0, 4)),
    grow=st.sets(st.integers(0, 4)),
)
def test_any_writes_in_any_order_give_what_a_plain_merge_gives(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Record]], restart: set[int], grow: set[int]
) -> None:
    overlay_at, log_at = place(tmp_path_factory.mktemp("any"))
    with make_log(log_at) as log, Overlay.open(overlay_at, log_at, TOPIC) as overlay:
        tailer = Tailer.open(overlay_at, log_at, TOPIC, log)
        try:
            for number, records in enumerate(batches):
                append(log, records)
                tailer.run_once()
                if number in grow:
                    tailer.partitions[0].next_generation()
                if number in restart:
                    tailer.close()
                    tailer = Tailer.open(overlay_at, log_at, TOPIC, log)
                expected = model(record for batch in batches[: number + 1] for record in batch)
                assert read_all(overlay, expected) == expected
        finally:
            tailer.close()


def test_records_are_applied_in_every_partition_and_positions_say_so(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    records = [put(b"key-%d" % i, 1000 + i, b"row %d" % i) for i in range(500)]
    with (
        make_log(log_at, 4) as log,
        Tailer.open(overlay_at, log_at, TOPIC, log) as tailer,
        Overlay.open(overlay_at, log_at, TOPIC) as overlay,
    ):
        last = append(log, records, 4)
        assert tailer.run_once() == 500
        assert tailer.run_once() == 0
        assert overlay.positions() == last
        assert overlay.partition_count == 4
        assert read_all(overlay, [record.key or b"" for record in records]) == model(records)


def test_growing_through_many_generations_keeps_every_key(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        records: list[Record] = []
        for part in range(6):
            more = [put(b"%d" % i, part * 10_000 + i, b"%d" % part) for i in range(part * 3000, part * 3000 + 4000)]
            more += [set_a(b"%d" % i, 70_000 + part) for i in range(part * 3000, part * 3000 + 50)]
            append(log, more)
            records += more
            tailer.run_once()
            expected = model(records)
            assert read_all(overlay, expected) == expected
        assert sorted(path.suffix for path in overlay_at.glob("*-0.*")) == [".index", ".side"]  # what went before is removed
        assert Freshness.of(overlay_at, target_ms=1).keys == len(expected)


def test_a_tailer_that_may_not_write_to_the_log_and_came_before_the_first_append_applies_it(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, EmbeddedLog(log_at, read_only=True) as reading, both(overlay_at, log_at, reading) as (tailer, overlay):
        assert tailer.run_once() == 0
        assert tailer.caught_up
        last = append(log, [put(b"k", 1, b"v")])
        assert tailer.run_once() == 1
        overlay.wait(last, time.monotonic() + 1)
        last = append(log, [put(b"k", 2, b"w")])
        assert tailer.run_once() == 1
        overlay.wait(last, time.monotonic() + 1)


def test_a_batch_that_fills_the_index_several_times_over_is_applied_whole(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    records = [put(b"%d" % i, i, b"") for i in range(20_000)]
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, records[:1])
        tailer.run_once()
        append(log, records[1:])
        assert tailer.run_once() == 19_999
        assert len(read_all(overlay, [record.key or b"" for record in records])) == 20_000


@pytest.mark.timeout(120)
def test_more_patches_to_new_keys_at_once_than_the_index_has_slots_are_applied(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    records = [put(b"first %d" % i, 1, b"row") for i in range(50)]
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, records)
        tailer.run_once()
        patches = [set_a(b"%d" % i, 2) for i in range(2 * files_of.SLOTS_MIN)]
        append(log, patches)
        tailer.run_once()
        assert tailer.caught_up
        assert read_all(overlay, model(records + patches)) == model(records + patches)


def test_a_log_of_many_segments_is_followed_from_one_to_the_next(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with (
        make_log(log_at, segment_bytes=4096) as log,
        Tailer.open(overlay_at, log_at, TOPIC, log) as tailer,
        Overlay.open(overlay_at, log_at, TOPIC) as overlay,
    ):
        records: list[Record] = []
        for round_ in range(30):
            more = [put(b"%d" % (i % 40), round_ * 100 + i, bytes([round_]) * 50) for i in range(25)]
            append(log, more)
            records += more
            tailer.run_once()
            assert read_all(overlay, model(records)) == model(records)
    assert len(list((log_at / TOPIC / "0").glob("*.log"))) > 20


def test_a_batch_larger_than_the_space_reserved_for_a_segment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fondaco.store._overlay_view.SEGMENT_RESERVE_BYTES", 8192)
    monkeypatch.setattr("fondaco.store._overlay_files.SIDE_RESERVE_BYTES", 4096)
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        records: list[Record] = []
        for round_ in range(20):
            more = [put(b"%d" % i, round_, b"x" * 700) for i in range(30)] + [
                set_a(b"p%d" % i, round_, b"y" * 100 * round_) for i in range(3)
            ]
            append(log, more)
            records += more
            tailer.run_once()
            assert read_all(overlay, model(records)) == model(records)


# -- what the log may hold ------------------------------------------------------------------------------------------------------------


def test_heartbeats_are_no_rows_and_move_the_position(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        log.append(TOPIC, 0, [Record(b"", heartbeat(), 5000), put(b"", 7, b"the empty key is a key")])
        tailer.run_once()
        assert overlay.applied(0) == 2
        assert Answer(overlay, b"").row == b"the empty key is a key"
        assert Freshness.of(overlay_at, target_ms=1, now_us=5_250_000).heartbeat_age_ms == 250


def test_records_of_formats_and_operations_to_come_are_skipped_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overlay_at, log_at = place(tmp_path)
    good = encode_envelope(Op.PUT, 1, 1, 0, b"row")
    strange = [b"", b"\x02" + good[1:], good[:1] + b"\x09" + good[2:], good[:2] + b"\x01" + good[3:], b"\x01\x03" + good[2:]]
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        for _ in range(2):
            log.append(TOPIC, 0, [Record(b"k%d" % i, value, 1) for i, value in enumerate(strange)] + [Record(None, good, 1)])
            tailer.run_once()
        log.append(TOPIC, 0, [put(b"k0", 1, b"row")])
        tailer.run_once()
        assert overlay.applied(0) == 13
        assert read_all(overlay, [b"k%d" % i for i in range(6)]).keys() == {b"k0"}
        assert Freshness.of(overlay_at, target_ms=1).skipped == 12
    assert len([record for record in caplog.records if "skipped" in record.getMessage()]) == 1


def test_gaps_in_offsets_are_nothing_special(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        log.append(TOPIC, 0, [put(b"a", 1, b"1"), put(b"b", 1, b"2")], offsets=np.array([10, 1000]))
        tailer.run_once()
        log.append(TOPIC, 0, [put(b"a", 2, b"3")], offsets=np.array([5000]))
        tailer.run_once()
        assert overlay.applied(0) == 5001
        overlay.wait({0: 3000}, time.monotonic())
        assert (Answer(overlay, b"a").row, Answer(overlay, b"b").row) == (b"3", b"2")


def test_a_tailer_waits_for_the_topic_and_notices_when_it_is_deleted_and_made_again(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with (
        EmbeddedLog(log_at) as log,
        Tailer.open(overlay_at, log_at, TOPIC, log) as tailer,
        Overlay.open(overlay_at, log_at, TOPIC) as overlay,
    ):
        assert tailer.run_once() == 0
        assert overlay.partition_count == 0
        for content in (b"first", b"second"):
            log.create_topic(TOPIC, TopicConfig(1))
            append(log, [put(b"k-" + content, 1, content)])
            assert tailer.run_once() == 1
            assert read_all(overlay, [b"k-first", b"k-second"]).keys() == {b"k-" + content}
            log.delete_topic(TOPIC)
            tailer.run_once()
            assert read_all(overlay, [b"k-first", b"k-second"]) == {}


def test_a_topic_made_again_while_nobody_tailed_is_another_topic(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log:
        append(log, [put(b"old", 1, b"x")])
        with Tailer.open(overlay_at, log_at, TOPIC, log) as tailer:
            tailer.run_once()
        log.delete_topic(TOPIC)
    with make_log(log_at) as log:
        append(log, [put(b"new", 1, b"x"), put(b"newer", 1, b"x")])
        with both(overlay_at, log_at, log) as (tailer, overlay):
            tailer.run_once()
            assert read_all(overlay, [b"old", b"new", b"newer"]).keys() == {b"new", b"newer"}


# -- who tails ------------------------------------------------------------------------------------------------------------------------


def test_only_one_tails_a_store_and_the_next_goes_on_where_it_ended(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log:
        append(log, [put(b"k", 1, b"1")])
        with Tailer.open(overlay_at, log_at, TOPIC, log) as tailer:
            tailer.run_once()
            with pytest.raises(LockedError) as caught:
                Tailer.open(overlay_at, log_at, TOPIC, log)
            assert caught.value.pid == os.getpid()
        append(log, [put(b"k", 2, b"2")])
        with both(overlay_at, log_at, log) as (tailer, overlay):
            assert Answer(overlay, b"k").row == b"1"
            assert tailer.run_once() == 1  # not both again
            assert Answer(overlay, b"k").row == b"2"


def test_a_store_that_is_not_there_is_not_made_by_tailing_it(tmp_path: Path) -> None:
    _, log_at = place(tmp_path)
    with make_log(log_at) as log, pytest.raises(FileNotFoundError):
        Tailer.open(tmp_path / "stores" / "gone" / "overlay", log_at, TOPIC, log)
    assert not (tmp_path / "stores" / "gone").exists()


@contextmanager
def _thread(overlay_at: Path, log_at: Path, log: EmbeddedLog) -> Iterator[TailerThread]:
    thread = TailerThread(overlay_at, log_at, TOPIC, lambda: log).start()
    try:
        yield thread
    finally:
        thread.close()


def test_a_thread_tails_beside_its_process_and_another_takes_over(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, Overlay.open(overlay_at, log_at, TOPIC) as overlay, _thread(overlay_at, log_at, log) as first:
        overlay.wait(append(log, [put(b"k", 1, b"1")]), time.monotonic() + 10)
        assert first.tailing
        with _thread(overlay_at, log_at, log) as second:
            assert not second.tailing
            first.close()
            overlay.wait(append(log, [put(b"k", 2, b"2")]), time.monotonic() + 10)
            assert second.tailing
            assert Answer(overlay, b"k").row == b"2"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fondaco tailer")]


def test_a_thread_survives_the_deletion_of_its_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, log_at = place(tmp_path)
    with make_log(log_at) as log:
        thread = TailerThread(tmp_path / "stores" / "gone" / "overlay", log_at, TOPIC, lambda: log).start()
        thread.close()
    assert caplog.records == []


# -- trust ----------------------------------------------------------------------------------------------------------------------------


def _tailed(tmp_path: Path, count: int = 200) -> tuple[Path, Path, list[Record]]:
    overlay_at, log_at = place(tmp_path)
    records = [put(b"%d" % i, i, b"row %d" % i) for i in range(count)] + [set_a(b"%d" % i, count + i) for i in range(0, count, 7)]
    with make_log(log_at) as log:
        append(log, records)
        with Tailer.open(overlay_at, log_at, TOPIC, log) as tailer:
            tailer.run_once()
    return overlay_at, log_at, records


def _read_again(overlay_at: Path, log_at: Path, records: list[Record]) -> bool:
    """Whether the next tailer reads the same; returns whether it made the index anew."""
    with (
        EmbeddedLog(log_at) as log,
        Tailer.open(overlay_at, log_at, TOPIC, log) as tailer,
        Overlay.open(overlay_at, log_at, TOPIC) as overlay,
    ):
        anew = overlay.rebuilding
        tailer.run_once()
        assert not overlay.rebuilding
        expected = model(records)
        assert read_all(overlay, expected) == expected
        assert Freshness.of(overlay_at, target_ms=1).keys == len(expected)
    return anew


def test_an_index_of_the_same_run_of_the_machine_is_used_as_it_is(tmp_path: Path) -> None:
    assert not _read_again(*_tailed(tmp_path))


def _only(overlay_at: Path, ending: str) -> Path:
    (found,) = overlay_at.glob(f"*-0{ending}")
    return found


def test_after_a_restart_of_the_machine_the_index_is_made_from_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay_at, log_at, records = _tailed(tmp_path)
    for slot in range(files_of.HEADER_BYTES, files_of.HEADER_BYTES + 8 * 4096, 64):  # what a loss of power may have left of it
        flip(_only(overlay_at, ".index"), slot)
    monkeypatch.setattr("fondaco.store._overlay_files.boot_id", lambda: 77)
    monkeypatch.setattr("fondaco.store.tailer.boot_id", lambda: 77)
    monkeypatch.setattr("fondaco.store.overlay.boot_id", lambda: 77)
    with Overlay.open(overlay_at, log_at, TOPIC) as overlay:
        assert read_all(overlay, model(records)) == {}  # rather nothing than what cannot be trusted
    assert _read_again(overlay_at, log_at, records)
    assert not _read_again(overlay_at, log_at, records)


def _copy(path: Path) -> None:
    """Put a copy in its place, as a backup that is brought back does."""
    path.rename(path.parent / "kept")
    path.write_bytes((path.parent / "kept").read_bytes())


@pytest.mark.parametrize(
    "harm",
    [
        lambda overlay_at: _only(overlay_at, ".index").unlink(),
        lambda overlay_at: _only(overlay_at, ".side").unlink(),
        lambda overlay_at: flip(_only(overlay_at, ".index"), 8 * files_of.ORIGIN),
        lambda overlay_at: os.truncate(_only(overlay_at, ".index"), 5000),
        lambda overlay_at: os.truncate(_only(overlay_at, ".index"), 0),
        lambda overlay_at: (overlay_at / cells_of.CELLS_FILE).unlink(),
        lambda overlay_at: (overlay_at / cells_of.CELLS_FILE).write_bytes(b""),
        lambda overlay_at: _copy(_only(overlay_at, ".index")),
    ],
    ids=["index missing", "heap missing", "header damaged", "index cut off", "index empty", "cells missing", "cells empty", "index copied"],
)  # fmt: skip
def test_an_index_that_cannot_be_trusted_is_made_anew(tmp_path: Path, harm: object) -> None:
    overlay_at, log_at, records = _tailed(tmp_path)
    harm(overlay_at)  # type: ignore[operator]
    assert _read_again(overlay_at, log_at, records)


def test_readers_keep_the_index_they_have_while_it_is_made_anew(tmp_path: Path) -> None:
    overlay_at, log_at, records = _tailed(tmp_path)
    with Overlay.open(overlay_at, log_at, TOPIC) as overlay:
        expected = model(records)
        assert read_all(overlay, expected) == expected
        _only(overlay_at, ".index").unlink()
        with EmbeddedLog(log_at) as log, Tailer.open(overlay_at, log_at, TOPIC, log) as tailer:
            append(log, [put(b"0", 10_000, b"newest")])
            view = overlay.view
            assert overlay.rebuilding
            assert overlay.view is view
            assert overlay.applied(0) == 0
            tailer.run_once()
            assert Answer(overlay, b"0").row == b"newest"
            assert read_all(overlay, expected).keys() == expected.keys()


def test_debris_of_a_tailer_that_died_is_swept_away(tmp_path: Path) -> None:
    overlay_at, log_at, records = _tailed(tmp_path)
    for name in ("77-0.index", "77-0.side", "3-9.index"):
        (overlay_at / name).write_bytes(b"x" * 100)
    assert not _read_again(overlay_at, log_at, records)
    assert sorted(path.name for path in overlay_at.iterdir()) == ["1-0.index", "1-0.side", "cells", "tailer.lock"]


# -- damage in the log ----------------------------------------------------------------------------------------------------------------


def _segment(log_at: Path) -> Path:
    return next((log_at / TOPIC / "0").glob("*.log"))


@pytest.mark.parametrize("applied_before", [True, False])
def test_a_damaged_record_is_an_error_for_its_key_alone_until_it_is_written_again(tmp_path: Path, applied_before: bool) -> None:
    overlay_at, log_at = place(tmp_path)
    records = [put(b"key-%d" % i, i, b"value of %d" % i) for i in range(50)]
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, records)
        if applied_before:
            tailer.run_once()
        content = _segment(log_at).read_bytes()
        flip(_segment(log_at), content.index(b"value of 17"))
        tailer.run_once()
        assert Answer(overlay, b"key-17").kind == probes.DAMAGED
        with pytest.raises(CorruptFileError, match=r"\.log: section 'record' is damaged: the record at byte \d+ has a wrong checksum"):
            _ = Answer(overlay, b"key-17").state
        others = model(record for record in records if record.key != b"key-17")
        assert read_all(overlay, others) == others
        assert Freshness.of(overlay_at, target_ms=1).damaged == (0 if applied_before else 1)
        append(log, [set_a(b"key-17", 90)])  # it cannot be said what this gives
        tailer.run_once()
        assert Answer(overlay, b"key-17").kind == probes.DAMAGED
        append(log, [put(b"key-17", 99, b"again")])
        tailer.run_once()
        assert Answer(overlay, b"key-17").row == b"again"


def test_damage_to_a_key_is_noticed_by_who_asks_for_it(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, [put(b"key-1", 1, b"one"), put(b"key-2", 1, b"two")])
        tailer.run_once()
        flip(_segment(log_at), _segment(log_at).read_bytes().index(b"key-1"))
        assert Answer(overlay, b"key-1").kind == probes.DAMAGED
        assert Answer(overlay, b"key-2").row == b"two"


@settings(max_examples=60, deadline=None)
@given(at=st.integers(64, 64 + 2500), mask=st.integers(1, 255), restart=st.booleans())
def test_one_flipped_byte_anywhere_in_the_log_gives_no_wrong_value_and_harms_its_key_and_no_other_but_the_one_it_became(
    tmp_path_factory: pytest.TempPathFactory, at: int, mask: int, restart: bool
) -> None:
    overlay_at, log_at = place(tmp_path_factory.mktemp("flip"))
    batches = [[put(b"key-%d-%d" % (batch, i), i, b"value %d" % i) for i in range(5)] for batch in range(5)]
    with make_log(log_at) as log, Overlay.open(overlay_at, log_at, TOPIC) as overlay:
        for batch in batches:
            append(log, batch)
        flip(_segment(log_at), at % (_segment(log_at).stat().st_size - 64) + 64, mask)
        tailer = Tailer.open(overlay_at, log_at, TOPIC, log)
        tailer.run_once()
        if restart:
            tailer.close()
            tailer = Tailer.open(overlay_at, log_at, TOPIC, log)
        append(log, [put(b"after", 1, b"x")])
        tailer.run_once()
        tailer.close()
        expected = model(record for batch in batches for record in batch)
        answers = {key: Answer(overlay, key) for key in expected}
        damaged = [key for key, answer in answers.items() if answer.kind == probes.DAMAGED]
        missing = [key for key, answer in answers.items() if answer.kind == probes.NONE]
        assert len(damaged) <= 1
        assert len(missing) <= 1
        assert all(answer.state == expected[key] for key, answer in answers.items() if key not in damaged + missing)
        assert Answer(overlay, b"after").row == b"x"
        assert overlay.applied(0) == log.high_watermark(TOPIC, 0)


# -- segments that go -----------------------------------------------------------------------------------------------------------------


def test_what_was_deleted_from_the_log_is_not_read_and_leaves_the_index(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    old = [put(b"old-%d" % i, i, b"x" * 20) for i in range(9000)]
    new = [put(b"new-%d" % i, 9000 + i, b"y" * 20) for i in range(100)]
    with (
        make_log(log_at, segment_bytes=1 << 17) as log,
        Tailer.open(overlay_at, log_at, TOPIC, log) as tailer,
        Overlay.open(overlay_at, log_at, TOPIC) as overlay,
    ):
        for first in range(0, 9000, 500):
            append(log, old[first : first + 500])
        append(log, new)
        tailer.run_once()
        low = log.delete_before(TOPIC, 0, 9000)
        assert low == 9000
        tailer.run_once()
        kept = read_all(overlay, [record.key or b"" for record in old])
        assert len(kept) <= 1000  # of the segment that holds the first records that stay
        assert len(read_all(overlay, [record.key or b"" for record in new])) == 100
        append(log, [put(b"old-0", 9999, b"again")])
        tailer.run_once()
        assert Answer(overlay, b"old-0").row == b"again"
        assert Freshness.of(overlay_at, target_ms=1).keys < 2000


def test_a_slot_of_a_deleted_record_is_used_again_and_hides_nothing(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with (
        make_log(log_at, segment_bytes=1024) as log,
        Tailer.open(overlay_at, log_at, TOPIC, log) as tailer,
        Overlay.open(overlay_at, log_at, TOPIC) as overlay,
    ):
        for round_ in range(40):
            offsets = log.append(TOPIC, 0, [put(b"%d" % i, round_, b"%d" % round_) for i in range(20)])
            tailer.run_once()
            log.delete_before(TOPIC, 0, offsets[0])
            tailer.run_once()
            assert {Answer(overlay, b"%d" % i).row for i in range(20)} == {b"%d" % round_}
        assert Freshness.of(overlay_at, target_ms=1).keys == 20


def test_a_log_longer_than_slots_reach_is_followed_with_later_origins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tailer_partition, "UNITS_BYTES", 10_000)
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at, segment_bytes=1024) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        for round_ in range(30):
            offsets = log.append(TOPIC, 0, [put(b"%d" % i, round_, b"%d" % round_) for i in range(20)])
            tailer.run_once()
            log.delete_before(TOPIC, 0, offsets[0])
            assert {Answer(overlay, b"%d" % i).row for i in range(20)} == {b"%d" % round_}
        assert tailer.partitions[0].position > 40_000


def test_a_log_that_keeps_more_than_slots_reach_waits_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_tailer_partition, "UNITS_BYTES", 5_000)
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at, segment_bytes=1024) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        for round_ in range(10):
            log.append(TOPIC, 0, [put(b"%d" % i, round_, b"%d" % round_) for i in range(20)])
            tailer.run_once()
        applied = overlay.applied(0)
        assert 0 < applied < 200
        assert Freshness.of(overlay_at, target_ms=1).stalled
        assert "trim it" in caplog.text
        log.delete_before(TOPIC, 0, 180)
        tailer.run_once()
        assert Answer(overlay, b"0").row == b"9"


def test_a_tailer_that_comes_too_late_says_how_much_it_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at, segment_bytes=1024) as log:
        append(log, [put(b"first", 1, b"x")])
        with Tailer.open(overlay_at, log_at, TOPIC, log) as tailer:
            tailer.run_once()
        for i in range(100):
            append(log, [put(b"%d" % i, i, b"x")])
        log.delete_before(TOPIC, 0, 51)
        with both(overlay_at, log_at, log) as (tailer, overlay):
            tailer.run_once()
            assert overlay.applied(0) == 101
            assert Answer(overlay, b"99").row == b"x"
        assert Freshness.of(overlay_at, target_ms=1).lost > 0
    assert "trimmed" in caplog.text


def test_garbage_in_the_side_heap_is_left_behind_by_a_new_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tailer_partition, "GARBAGE_MIN", 10_000)
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        records = [patch(b"hot", i, (EditKind.SET, b"a%d" % (i % 3), b"", b"%d" % i * 20)) for i in range(300)]
        for record in records:
            append(log, [record])
            tailer.run_once()
        assert read_all(overlay, [b"hot"]) == model(records)
        assert _only(overlay_at, ".side").stat().st_size < 30_000


def test_entries_beyond_the_horizon_leave_at_the_next_generation(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    records = [
        put(b"old", 10, b"x"),
        set_a(b"old-patch", 11),
        set_a(b"old-patch", 12),
        put(b"new", 100, b"y"),
        set_a(b"p", 5),
        set_a(b"p", 100),
    ]
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, records)
        tailer.run_once()
        tailer.set_horizon(50)
        tailer.partitions[0].next_generation()
        assert read_all(overlay, [b"old", b"old-patch", b"new", b"p"]).keys() == {b"new", b"p"}


# -- no room --------------------------------------------------------------------------------------------------------------------------


@contextmanager
def _full_disk(limit_bytes: int) -> Iterator[None]:
    """No file can grow beyond `limit_bytes`, which looks as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_index_from_growing_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    overlay_at, log_at = place(tmp_path)
    moment = [1000.0]
    monkeypatch.setattr(_tailer_partition.time, "monotonic", lambda: moment[0])
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        records = [put(b"%d" % i, i, b"") for i in range(10_000)]
        append(log, records[:2000])
        tailer.run_once()
        append(log, records[2000:])
        with _full_disk(40_000):  # more than the index of 4096 slots has, less than the next
            tailer.run_once()
            applied = overlay.applied(0)
            assert 3600 < applied < 3700  # 0.9 of the slots
            assert len(read_all(overlay, [b"%d" % i for i in range(10_000)])) == applied
            assert Freshness.of(overlay_at, target_ms=1).stalled
            tailer.run_once()
            assert overlay.applied(0) == applied
            moment[0] += 2
            tailer.run_once()  # tries again, in vain
            assert overlay.applied(0) == applied
        moment[0] += 2
        tailer.run_once()
        assert overlay.applied(0) == 10_000
        assert read_all(overlay, [b"%d" % i for i in range(10_000)]) == model(records)
        assert not Freshness.of(overlay_at, target_ms=1).stalled
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "no space left" in said[0]
    assert "room again" in said[1]


def test_patches_wait_in_the_log_while_there_is_no_room_for_what_they_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    overlay_at, log_at = place(tmp_path)
    moment = [1000.0]
    monkeypatch.setattr(_tailer_partition.time, "monotonic", lambda: moment[0])
    records = [put(b"%d" % i, i, b"") for i in range(100)]
    patches = [set_a(b"%d" % i, 1000 + i, b"x" * 1000) for i in range(100)]
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, records)
        tailer.run_once()
        append(log, patches)
        with _full_disk(40_000):
            tailer.run_once()
            assert overlay.applied(0) == 100
            assert read_all(overlay, model(records)) == model(records)
        moment[0] += 2
        tailer.run_once()
        assert overlay.applied(0) == 200
        assert read_all(overlay, model(records)) == model(records + patches)
        assert Freshness.of(overlay_at, target_ms=1).records == 200
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


# -- freshness ------------------------------------------------------------------------------------------------------------------------


def test_the_cells_say_when_everything_was_last_readable(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    clock = ManualClock(5_000_000)
    with make_log(log_at) as log, Tailer.open(overlay_at, log_at, TOPIC, log, clock=clock) as tailer:
        tailer.run_once()
        append(log, [put(b"k", 1, b"x")])
        clock.advance(us=300_000)
        assert Freshness.of(overlay_at, target_ms=1, now_us=clock.now_us()).lag_ms == 300
        tailer.run_once()
        assert Freshness.of(overlay_at, target_ms=1, now_us=clock.now_us()).lag_ms == 0


def test_the_log_cut_off_under_the_tailer_makes_it_begin_anew(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    records = [put(b"%d" % i, i, b"") for i in range(10)]
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, records)
        tailer.run_once()
        with open(log_at / TOPIC / "0" / log_state.STATE_FILE, "r+b") as state:  # as the recovery of a log that lost its end leaves it
            cells = np.fromfile(state, np.int64, log_state.CELLS)
            cells[log_state.HIGH_OFFSET] = 0
            cells[log_state.HIGH_POSITION] = 64
            cells[log_state.GENERATION] += 1
            state.seek(0)
            cells.tofile(state)
        tailer.run_once()
        assert read_all(overlay, model(records)) == {}
        assert overlay.applied(0) == 0

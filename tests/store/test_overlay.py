"""The overlay as readers see it: what is there, what is waited for, and what stays valid while the tailer moves on."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

import pytest

from fondaco.core.errors import DeadlineExceededError, FormatVersionError, InputError
from fondaco.log import TopicConfig
from fondaco.store import _overlay_cells as cells_of
from fondaco.store import _overlay_kernels as probes
from fondaco.store.merge import NOTHING
from fondaco.store.overlay import Overlay
from fondaco.store.tailer import Tailer
from fondaco.store.writes import EditKind, Op, pack_edit, pack_patch
from overlay_parts import TOPIC, Answer, append, both, make_log, model, place, put, read_all, write


def test_an_overlay_of_a_store_that_nobody_wrote_to_is_empty_and_notices_the_first_write(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with Overlay.open(overlay_at, log_at, TOPIC) as overlay:
        assert overlay.is_empty
        assert Answer(overlay, b"k").kind == probes.NONE
        assert (overlay.partition_count, overlay.positions(), overlay.applied(0)) == (0, {}, 0)
        with make_log(log_at) as log, Tailer.open(overlay_at, log_at, TOPIC, log) as tailer:
            append(log, [put(b"k", 1, b"row")])
            tailer.run_once()
            assert Answer(overlay, b"k").row == b"row"
            assert not overlay.is_empty


def test_whoever_asks_for_positions_again_and_again_sees_the_first_write(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, Overlay.open(overlay_at, log_at, TOPIC) as overlay:
        assert overlay.positions() == {}
        append(log, [put(b"a", 1, b"row")])
        with Tailer.open(overlay_at, log_at, TOPIC, log) as tailer:
            tailer.run_once()
        assert overlay.positions() == {0: 0}


def test_cells_that_come_after_the_overlay_was_opened_are_found_when_it_is_refreshed(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log:
        os.rename(tmp_path / "stores", tmp_path / "away")  # so that the overlay cannot make them itself
        with Overlay.open(overlay_at, log_at, TOPIC) as overlay:
            assert overlay.is_empty
            assert not overlay_at.parent.exists()
            os.rename(tmp_path / "away", tmp_path / "stores")
            with Tailer.open(overlay_at, log_at, TOPIC, log) as tailer:
                last = append(log, [put(b"k", 1, b"row")])
                tailer.run_once()
                overlay.wait(last, time.monotonic() + 10)
                assert Answer(overlay, b"k").row == b"row"


def test_puts_deletes_and_patches_have_their_kinds(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    patch = pack_patch([pack_edit(EditKind.SET, b"a", b"", b"v")])
    records = [
        put(b"put", 10, b"row", schema=3),
        write(b"delete", Op.DELETE, 11),
        write(b"patch", Op.PATCH, 12, patch, schema=4),
        put(b"both", 13, b"row"),
        write(b"both", Op.PATCH, 14, patch),
        write(b"undone", Op.PATCH, 15, patch),
        put(b"undone", 16, b"row"),
    ]
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, records)
        tailer.run_once()
        kinds = {key: (Answer(overlay, key).kind, Answer(overlay, key).timestamp_ms) for key in model(records)}
        assert kinds == {
            b"put": (probes.PUT, 10), b"delete": (probes.DELETE, 11), b"patch": (probes.MERGE, 12), b"both": (probes.MERGE, 14),
            b"undone": (probes.PUT, 16),
        }  # fmt: skip
        assert Answer(overlay, b"put").schema == 3
        assert read_all(overlay, model(records)) == model(records)
        assert Answer(overlay, b"nobody").state == NOTHING


def test_a_view_that_is_held_stays_readable_whatever_the_tailer_does(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at, segment_bytes=4096) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, [put(b"k", 1, b"first" * 100)])
        tailer.run_once()
        answer = Answer(overlay, b"k")
        row = answer.view.memories[answer.memory][answer.start : answer.end]
        for number in range(20):
            append(log, [put(b"%d" % i, number, b"x" * 200) for i in range(20)])
            tailer.run_once()
        tailer.partitions[0].next_generation()
        log.delete_before(TOPIC, 0, 300)
        tailer.run_once()
        Answer(overlay, b"0")
        overlay.refresh()
        del answer
        gc.collect()
        assert row == b"first" * 100


def test_maps_of_what_nobody_holds_are_given_back(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)

    def mapped() -> int:
        return sum(str(overlay_at) in line or str(log_at) in line for line in Path("/proc/self/maps").read_text().splitlines())

    with make_log(log_at, segment_bytes=4096) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        for number in range(30):
            offsets = log.append(TOPIC, 0, [put(b"%d" % i, number, b"x" * 200) for i in range(20)])
            tailer.run_once()
            tailer.partitions[0].next_generation()
            log.delete_before(TOPIC, 0, offsets[0])
            tailer.run_once()
            assert Answer(overlay, b"0").row == b"x" * 200
        gc.collect()
        assert mapped() < 25
    del tailer, overlay
    gc.collect()
    assert mapped() == 0


# -- waiting --------------------------------------------------------------------------------------------------------------------------


def test_waiting_for_a_position_ends_when_it_can_be_read(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at, 3) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        tailer.run_once()
        last = append(log, [put(b"%d" % i, 1, b"row") for i in range(50)], 3)
        seen: list[int] = []

        def wait() -> None:
            overlay.wait(last, time.monotonic() + 30)
            seen.append(len(read_all(overlay, [b"%d" % i for i in range(50)])))

        thread = threading.Thread(target=wait)
        thread.start()
        assert not seen
        tailer.run_once()
        thread.join()
        assert seen == [50]


def test_a_position_that_is_reached_just_before_the_wait_begins_is_not_slept_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, [put(b"k", 1, b"row")])
        tailer.run_once()
        overlay.wait({0: 0}, time.monotonic() + 30)  # the kernel is there
        applied, answers = overlay.applied, [0]
        monkeypatch.setattr(overlay, "applied", lambda partition: answers.pop() if answers else applied(partition))
        monkeypatch.setattr("fondaco.store.overlay._SLICE_US", 20_000_000)
        begun = time.monotonic()
        overlay.wait({0: 0}, begun + 20)
        assert not answers
        assert time.monotonic() - begun < 10


def test_waiting_ends_at_the_deadline_and_says_where_the_overlay_is(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, Overlay.open(overlay_at, log_at, TOPIC) as overlay:
        with pytest.raises(DeadlineExceededError, match=r"position 0:0 of topic 's.rt'.*never seen by a tailer"):
            overlay.wait({0: 0}, time.monotonic() + 0.02)
        with Tailer.open(overlay_at, log_at, TOPIC, log) as tailer:
            append(log, [put(b"k", 1, b"row")])
            tailer.run_once()
            overlay.wait({0: 0}, time.monotonic() - 1)  # what is there needs no time
            begun = time.monotonic()
            with pytest.raises(DeadlineExceededError, match=r"position 0:1 .*it is at offset 1") as caught:
                overlay.wait({0: 1}, begun + 0.1)
            assert caught.value.retryable
            assert 0.1 <= time.monotonic() - begun < 5
            with pytest.raises(DeadlineExceededError, match="position 7:0"):
                overlay.wait({7: 0}, time.monotonic() + 0.01)


def test_the_partition_of_a_key_is_where_the_writer_puts_it(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with Overlay.open(overlay_at, log_at, TOPIC) as overlay, pytest.raises(InputError, match="no partitions yet"):
        overlay.partition_of(b"k")
    with make_log(log_at, 5) as log, both(overlay_at, log_at, log) as (_, overlay):
        for number in range(30):
            (partition,) = append(log, [put(b"%d" % number, 1, b"")], 5)
            assert overlay.partition_of(b"%d" % number) == partition


def test_a_position_is_not_reached_while_the_index_is_of_another_run_of_the_machine(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log:
        append(log, [put(b"k", 1, b"row")])
        with Tailer.open(overlay_at, log_at, TOPIC, log) as tailer:
            tailer.run_once()
        cells = cells_of.open_cells(overlay_at, writable=True)
        assert cells is not None
        cells.view[cells_of.BOOT] += 1
        with Overlay.open(overlay_at, log_at, TOPIC) as overlay:
            assert overlay.rebuilding
            with pytest.raises(DeadlineExceededError, match="its index is being made anew"):
                overlay.wait({0: 0}, time.monotonic() + 0.01)
            with Tailer.open(overlay_at, log_at, TOPIC, log) as tailer:
                with pytest.raises(DeadlineExceededError, match="its index is being made anew"):
                    overlay.wait({0: 0}, time.monotonic() + 0.01)
                tailer.run_once()
                overlay.wait({0: 0}, time.monotonic())
                assert not overlay.rebuilding


def test_a_position_of_a_topic_with_more_partitions_is_said_to_be_of_another_store(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, [put(b"k", 1, b"row")])
        tailer.run_once()
        with pytest.raises(DeadlineExceededError, match=r"position 7:0 .* a write to another store"):
            overlay.wait({7: 0}, time.monotonic() + 0.01)


# -- trust ----------------------------------------------------------------------------------------------------------------------------


def test_an_overlay_of_a_newer_fondaco_is_refused(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log:
        Tailer.open(overlay_at, log_at, TOPIC, log).close()
        cells = cells_of.open_cells(overlay_at, writable=True)
        assert cells is not None
        cells.view[cells_of.FORMAT_CELL] = cells_of.FORMAT + 1
        with pytest.raises(FormatVersionError, match="Upgrade Fondaco"):
            Overlay.open(overlay_at, log_at, TOPIC)
        with pytest.raises(FormatVersionError):
            Tailer.open(overlay_at, log_at, TOPIC, log)


def test_cells_that_were_replaced_are_followed_after_a_refresh(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, Overlay.open(overlay_at, log_at, TOPIC) as overlay:
        for content in (b"1", b"2"):
            append(log, [put(b"k", int(content), content)])
            with Tailer.open(overlay_at, log_at, TOPIC, log) as tailer:
                tailer.run_once()
            overlay.refresh()
            assert Answer(overlay, b"k").row == content
            for path in overlay_at.iterdir():
                path.unlink()


def test_a_store_directory_that_is_gone_leaves_what_was_open_readable(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, Overlay.open(overlay_at, log_at, TOPIC) as overlay:
        append(log, [put(b"k", 1, b"row")])
        with Tailer.open(overlay_at, log_at, TOPIC, log) as tailer:
            tailer.run_once()
        assert Answer(overlay, b"k").row == b"row"
        os.rename(overlay_at.parent, tmp_path / "deleted")
        assert Answer(overlay, b"k").row == b"row"
        assert overlay.refresh().is_empty


def test_a_segment_that_was_begun_and_given_up_is_not_followed(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    with make_log(log_at) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        append(log, [put(b"a", 1, b"1")])
        directory = log_at / TOPIC / "0"
        (begun,) = directory.glob("*.log")
        header = bytearray(begun.read_bytes()[:64])
        header[16:24] = (1).to_bytes(8, "little")
        header[24:32] = begun.stat().st_size.to_bytes(8, "little")
        (directory / f"{1:020d}.log").write_bytes(header)
        tailer.run_once()
        append(log, [put(b"b", 1, b"2")])
        tailer.run_once()
        assert (Answer(overlay, b"a").row, Answer(overlay, b"b").row) == (b"1", b"2")


def test_one_overlay_serves_many_threads_while_the_tailer_works(tmp_path: Path) -> None:
    overlay_at, log_at = place(tmp_path)
    log_at.mkdir()
    with make_log(log_at, segment_bytes=1 << 15) as log, both(overlay_at, log_at, log) as (tailer, overlay):
        log.create_topic(TOPIC, TopicConfig(1))
        faults: list[str] = []
        stop = threading.Event()

        def read() -> None:
            seen = dict.fromkeys(range(50), -1)
            while not stop.is_set():
                for key, version in seen.items():
                    answer = Answer(overlay, b"%d" % key)
                    found = -1 if answer.kind == probes.NONE else int(answer.row)
                    if found < version:
                        faults.append(f"{key} went from {version} to {found}")
                    seen[key] = found

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for version in range(60):
            append(log, [put(b"%d" % key, version, b"%d" % version) for key in range(50)])
            tailer.run_once()
            if version % 5 == 0:
                tailer.partitions[0].next_generation()
        stop.set()
        for thread in threads:
            thread.join()
        assert faults == []

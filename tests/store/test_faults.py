"""Faults, on real files and processes: a push killed at any moment, readers during swaps, full and read-only disks, two pushers."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import fondaco as fd
from disks import read_only, small_disk
from fondaco.catalog import VersionState
from fondaco.core.errors import DiskFullError, PushInProgressError, ReadOnlyError
from fondaco.store.layout import read_cell

CHILD = Path(__file__).with_name("push_child.py")
ROWS = 20_000
VALUE = pa.schema([pa.field("seed", pa.int64(), nullable=False), pa.field("text", pa.string(), nullable=False)])


def _table(seed: int, rows: int = ROWS) -> pa.Table:
    texts = [f"row {key} of seed {seed}" for key in range(rows)]
    return pa.table({"key": np.arange(rows), "seed": np.full(rows, seed), "text": texts})


class _Child:
    """A process of `push_child.py`."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen([sys.executable, CHILD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def tell(self, message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def _check_whole(platform: fd.Platform, expected_seed: int) -> None:
    """The current version holds every row of one seed; nothing lies about that the catalog does not know."""
    store = platform.store("s")
    layout = store._context.layout
    assert os.listdir(layout.building) == []
    assert layout.version_numbers() == [version.version for version in store.versions()]
    assert read_cell(layout.current_cell) == store.current
    assert all(push.finished_us is not None for push in store.pushes())
    with store.reader() as reader:
        columns = reader.get_columns(np.arange(ROWS), ["seed"])
    assert columns.found.all()
    assert set(columns["seed"].tolist()) == {expected_seed}


@pytest.mark.slow
def test_a_push_killed_at_any_moment_leaves_the_current_version_and_no_files_and_can_be_repeated(tmp_path: Path) -> None:
    trials, seed_of_seeds = 100, 20261121
    chance = random.Random(seed_of_seeds)
    with fd.open(tmp_path) as platform:
        platform.create_store("s", value=VALUE, partitions=4).push(_table(1))
    current_seed, killed, survived = 1, 0, 0
    with _Child("fork") as child:
        assert child.hear() == "warm"
        span = 0.2
        for trial in range(trials):
            seed, push_id = 100 + trial, f"trial-{trial}"
            child.tell({"directory": str(tmp_path), "seed": seed, "push_id": push_id})
            pid = child.hear()
            time.sleep(chance.uniform(0, span))  # not to wait for something: this is the moment of the fault
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            assert child.hear() == "ended"
            with fd.open(tmp_path) as platform:
                store = platform.store("s")
                done = any(push.push_id == push_id and push.state is VersionState.CURRENT for push in store.pushes())
                if done:
                    survived += 1
                    current_seed, span = seed, span * 0.85
                    _check_whole(platform, current_seed)
                else:
                    killed += 1
                    span *= 1.05  # so that about one kill of four comes after the commit, however fast the machine is
                    _check_whole(platform, current_seed)
                    store.push(_table(seed), push_id=push_id)
                    current_seed = seed
                    _check_whole(platform, current_seed)
    print(f"seed {seed_of_seeds}: {killed} killed before the commit, {survived} after it")
    assert killed >= trials // 4
    assert survived >= trials // 20


def test_a_reader_in_another_process_sees_only_whole_versions_through_50_swaps_and_rollbacks(tmp_path: Path) -> None:
    with fd.open(tmp_path) as platform:
        store = platform.create_store("s", value=VALUE, partitions=4, keep=3)
        for seed in (1, 2, 3):
            store.push(_table(seed))
        with _Child("read", str(tmp_path)) as child:
            assert child.hear() == "reading"
            chance = random.Random(7)
            for step in range(50):
                if step % 10 == 9:
                    store.push(_table(10 + step))
                    continue
                versions = [version.version for version in store.versions()]
                backups = [version for version in store.versions() if version.state == "BACKUP" and not version.rolled_back]
                if step % 2 and any(version.version < (store.current or 0) for version in backups):
                    store.rollback()
                else:
                    store.swap(chance.choice(versions))
            child.tell("stop")
            answer = child.hear()
    assert answer.keys() == {"reads", "seeds"}, answer
    assert answer["reads"] > 10
    assert len(answer["seeds"]) > 2


def test_a_full_disk_fails_the_push_and_keeps_the_current_version(tmp_path: Path) -> None:
    with small_disk(tmp_path, "16m") as disk, fd.open(disk) as platform:
        store = platform.create_store("s", value=VALUE, partitions=2, compression="none")
        store.push(_table(1))
        big = pa.table({"key": np.arange(300), "seed": np.zeros(300, np.int64), "text": ["x" * 100_000] * 300})
        with pytest.raises(DiskFullError, match="no space left"):
            store.push(big)
        _check_whole(platform, 1)
        failed = store.pushes()[-1]
        assert (failed.state, failed.error_class, failed.blame) == (VersionState.FAILED, "DiskFullError", "system")
        store.push(_table(2))
        _check_whole(platform, 2)


def test_a_file_size_limit_fails_the_push_like_a_full_disk(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with fd.open(tmp_path) as platform:
        store = platform.create_store("s", value=VALUE, partitions=2, compression="none")
        store.push(_table(1))
        big = pa.table({"key": np.arange(300), "seed": np.zeros(300, np.int64), "text": ["x" * 100_000] * 300})
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, hard))
        try:
            with pytest.raises(DiskFullError):
                store.push(big)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        _check_whole(platform, 1)


def test_of_two_processes_that_push_the_second_is_told_and_the_first_goes_on(tmp_path: Path) -> None:
    with fd.open(tmp_path) as platform:
        store = platform.create_store("s", value=VALUE, partitions=2)
        with _Child("push", str(tmp_path)) as child:
            assert child.hear() == "pushing"
            with pytest.raises(PushInProgressError, match=rf"push 'slow' \(process {child.process.pid}\)"):
                store.push(_table(1))
            child.tell("go on")
            assert child.hear() == 1
        _check_whole(platform, 99)
        assert store.push(_table(2)).version == 2


def test_a_push_in_another_process_is_killed_on_request(tmp_path: Path) -> None:
    with fd.open(tmp_path) as platform:
        store = platform.create_store("s", value=VALUE, partitions=2)
        store.push(_table(1))
        with _Child("push", str(tmp_path)) as child:
            assert child.hear() == "pushing"
            store.kill("slow")
            child.tell("go on")
            assert child.hear() == "PushKilledError"
        assert store.pushes()[-1].state is VersionState.KILLED
        _check_whole(platform, 1)


def test_after_a_pusher_died_another_process_may_push_at_once(tmp_path: Path) -> None:
    with fd.open(tmp_path) as platform:
        store = platform.create_store("s", value=VALUE, partitions=2)
        with _Child("push", str(tmp_path)) as child:
            assert child.hear() == "pushing"
        assert store.push(_table(1)).version == 2
        _check_whole(platform, 1)
        assert store.pushes()[0].error_class == "ProcessDied"


@pytest.mark.parametrize("closed", [True, False], ids=["closed cleanly", "while a writer has it open"])
def test_a_read_only_directory_is_read_and_every_change_is_refused(tmp_path: Path, closed: bool) -> None:
    writer = fd.open(tmp_path / "data")
    writer.create_store("s", value=VALUE, partitions=2).push(_table(1))
    if closed:
        writer.close()
    with read_only(tmp_path / "data"), fd.open(tmp_path / "data") as platform:
        store = platform.store("s")
        assert platform.read_only
        with store.reader() as reader:
            row = reader.get(5)
            assert row is not None
            assert row["seed"] == 1
        for change in (lambda: store.push(_table(2)), lambda: platform.create_store("t", value=VALUE), lambda: store.retire(1)):
            with pytest.raises(ReadOnlyError):
                change()
    writer.close()


def test_a_new_platform_cannot_be_made_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with read_only(tmp_path / "data"), pytest.raises(ReadOnlyError):
        fd.open(tmp_path / "data")

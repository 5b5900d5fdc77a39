"""What a dead process leaves is put in order at the next open or push, with one outcome."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.catalog import VersionState, pushes, versions
from fondaco.core.files import FileLock
from fondaco.store.context import StoreContext
from fondaco.store.layout import read_cell, write_cell

VALUE = pa.schema([pa.field("x", pa.int64(), nullable=False)])


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    with fd.open(tmp_path) as platform:
        platform.create_store("s", value=VALUE, partitions=1).push({"key": [1], "x": [1]})
    return tmp_path


def _context(platform: fd.Platform) -> StoreContext:
    return platform.store("s")._context


def _leave_a_push(platform: fd.Platform, push_id: str = "dead") -> int:
    """The catalog rows and files of a push whose process died while it was building."""
    context = _context(platform)
    with platform.catalog.write() as connection:
        number = versions.allocate(connection, context.id, push_id=push_id, schema_number=1, partitions=1, as_of_us=0, now_us=0)
        pushes.insert(connection, context.id, push_id=push_id, version=number, pid=1, partitions=1, built_from=None, now_us=0)
    building = context.layout.building / push_id
    building.mkdir()
    (building / "part-00000.base").write_bytes(b"half")
    return number


def test_opening_removes_the_files_of_a_dead_push_and_says_that_its_process_died(directory: Path) -> None:
    with fd.open(directory) as platform:
        _leave_a_push(platform)
    with fd.open(directory) as platform:
        assert list(_context(platform).layout.building.iterdir()) == []
        dead = platform.store("s").pushes()[-1]
        assert (dead.state, dead.blame, dead.error_class) == (VersionState.FAILED, "system", "ProcessDied")
        assert "process 1 ended" in str(dead.error_message)
        assert platform.store("s").current == 1


def test_the_next_push_recovers_too(directory: Path) -> None:
    with fd.open(directory) as platform:
        number = _leave_a_push(platform)
        report = platform.store("s").push({"key": [1], "x": [2]}, push_id="dead")
        assert report.version == number + 1
        assert [str(push.state) for push in platform.store("s").pushes()] == ["BACKUP", "FAILED", "CURRENT"]


def test_a_push_that_is_alive_is_left_alone(directory: Path) -> None:
    with fd.open(directory) as platform, FileLock(_context(platform).layout.push_lock):
        _leave_a_push(platform)
        with fd.open(directory) as other:
            assert len(list(_context(other).layout.building.iterdir())) == 1
            assert other.store("s").pushes()[-1].state is VersionState.STARTED


def test_killing_a_push_whose_process_is_dead_clears_it_up(directory: Path) -> None:
    with fd.open(directory) as platform:
        _leave_a_push(platform)
        platform.store("s").kill("dead")
        assert platform.store("s").pushes()[-1].state is VersionState.KILLED
        assert list(_context(platform).layout.building.iterdir()) == []


def test_a_directory_of_a_version_that_was_never_committed_is_removed(directory: Path) -> None:
    with fd.open(directory) as platform:
        number = _leave_a_push(platform)
        layout = _context(platform).layout
        (layout.building / "dead").rename(layout.version(number))
    with fd.open(directory) as platform:
        assert _context(platform).layout.version_numbers() == [1]
        assert platform.store("s").current == 1


def test_a_swap_that_was_committed_reaches_the_cell(directory: Path) -> None:
    with fd.open(directory) as platform:
        cell = _context(platform).layout.current_cell
        write_cell(cell, 0)  # as if the process had died between the commit and the cell
        with fd.open(directory):
            assert read_cell(cell) == 1


@pytest.mark.parametrize("damage", [None, b"", b"\x01\0\0"], ids=["deleted", "empty", "cut short"])
def test_a_cell_that_was_lost_is_written_again_from_the_catalog(directory: Path, damage: bytes | None) -> None:
    cell = directory / "stores" / "s" / "CURRENT"
    if damage is None:
        cell.unlink()
    else:
        cell.write_bytes(damage)
    with fd.open(directory) as platform, platform.store("s").reader() as reader:
        assert cell.read_bytes() == (1).to_bytes(8, "little")
        assert reader.get(1)["x"] == 1
        assert platform.store("s").push({"key": [1], "x": [2]}).swapped
        assert reader.get(1)["x"] == 2


def test_a_cell_lost_under_an_open_platform_is_written_again_by_the_next_push_or_swap(directory: Path) -> None:
    with fd.open(directory) as platform:
        store = platform.store("s")
        for change in (lambda: store.push({"key": [1], "x": [2]}), store.rollback, lambda: store.swap(2)):
            (directory / "stores" / "s" / "CURRENT").unlink()
            change()
            assert read_cell(_context(platform).layout.current_cell) == store.current


@pytest.mark.parametrize("has_backup", [True, False])
def test_a_current_version_that_is_gone_gives_way_to_the_newest_backup(
    directory: Path, has_backup: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with fd.open(directory) as platform:
        store = platform.store("s")
        store.push({"key": [1], "x": [2]})
        if not has_backup:
            store.retire(1)
        with platform.catalog.write() as connection:  # what an interrupted push once left: current, and FAILED
            versions.update(connection, _context(platform).id, 2, state=VersionState.FAILED)
    with fd.open(directory) as platform:
        store = platform.store("s")
        assert store.current == (1 if has_backup else None)
        assert read_cell(_context(platform).layout.current_cell) == (store.current or 0)
        assert _context(platform).layout.version_numbers() == ([1] if has_backup else [])
        assert "version 2 of store 's' was current and is gone" in caplog.text
        assert store.push({"key": [1], "x": [3]}).version == 3


def test_files_of_a_retired_version_that_were_not_yet_removed_go(directory: Path) -> None:
    with fd.open(directory) as platform:
        store = platform.store("s")
        store.push({"key": [1], "x": [2]})
        with platform.catalog.write() as connection:
            versions.update(connection, _context(platform).id, 1, state=VersionState.RETIRED)
    with fd.open(directory) as platform:
        assert _context(platform).layout.version_numbers() == [2]


def test_where_nothing_is_wrong_nothing_is_touched(directory: Path) -> None:
    lock = directory / "stores" / "s" / "push.lock"
    before = {path: path.stat().st_mtime_ns for path in (directory / "stores").rglob("*")}
    lock.unlink()
    fd.open(directory).close()
    assert not lock.exists()
    assert {path: path.stat().st_mtime_ns for path in before if path.is_file() and path != lock} == {
        path: when for path, when in before.items() if path.is_file() or (not path.exists() and path != lock)
    }


def test_a_store_directory_without_a_name_is_removed(directory: Path) -> None:
    (directory / "stores" / "halfway" / "versions").mkdir(parents=True)  # died between making the directory and the commit
    with fd.open(directory) as platform:
        assert platform.stores() == ["s"]
    assert [path.name for path in (directory / "stores").iterdir()] == ["s"]


def test_a_deletion_that_was_not_committed_is_taken_back(directory: Path) -> None:
    with fd.open(directory) as platform:
        context = _context(platform)
        context.layout.directory.rename(directory / "stores" / f".deleted-s-{context.id}")
    with fd.open(directory) as platform, platform.store("s").reader() as reader:
        assert reader.get(1)["x"] == 1


def test_a_deletion_that_was_committed_is_finished(directory: Path) -> None:
    (directory / "stores" / ".deleted-old-99" / "versions" / "1").mkdir(parents=True)
    fd.open(directory).close()
    assert [path.name for path in (directory / "stores").iterdir()] == ["s"]

"""Versions: swap, rollback, the keep rule, retiring; and what a reader that is open sees of it."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.core.errors import InputError, SchemaError, StateError, StoreNotFoundError, VersionNotFoundError
from fondaco.store.layout import read_cell

VALUE = pa.schema([pa.field("version", pa.int64(), nullable=False)])


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[fd.Platform]:
    with fd.open(tmp_path / "data") as opened:
        yield opened


def _store(platform: fd.Platform, keep: int = 2) -> fd.Store:
    return platform.create_store("s", value=VALUE, partitions=2, keep=keep)


def _push(store: fd.Store, swap: bool = True) -> int:
    number = len(store.versions(all=True)) + 1
    report = store.push({"key": [1, 2, 3], "version": [number] * 3}, swap=swap)
    assert report.version == number
    return number


def _states(store: fd.Store) -> dict[int, str]:
    return {version.version: str(version.state) for version in store.versions()}


def _on_disk(store: fd.Store) -> list[int]:
    return store._context.layout.version_numbers()


def test_a_store_without_a_push_has_no_current_version(platform: fd.Platform) -> None:
    store = _store(platform)
    assert store.current is None
    assert store.versions() == []
    assert store.describe()["current"] is None


def test_the_current_version_and_one_backup_are_kept(platform: fd.Platform) -> None:
    store = _store(platform)
    for _ in range(4):
        _push(store)
    assert _states(store) == {3: "BACKUP", 4: "CURRENT"}
    assert _on_disk(store) == [3, 4]
    assert [str(version.state) for version in store.versions(all=True)] == ["RETIRED", "RETIRED", "BACKUP", "CURRENT"]


@pytest.mark.parametrize("keep", [1, 3])
def test_keep_counts_the_current_version(platform: fd.Platform, keep: int) -> None:
    store = _store(platform, keep)
    for _ in range(5):
        _push(store)
    assert _on_disk(store) == list(range(6 - keep, 6))


def test_a_rollback_returns_the_old_rows_and_a_later_push_gets_a_higher_number(platform: fd.Platform) -> None:
    store = _store(platform)
    _push(store)
    _push(store)
    with store.reader() as reader:
        assert reader.get(1)["version"] == 2
        assert store.rollback() == 1
        assert reader.get(1)["version"] == 1
        assert _push(store) == 3
        assert reader.get(1)["version"] == 3


def test_a_rollback_without_a_backup_changes_nothing(platform: fd.Platform) -> None:
    store = _store(platform)
    with pytest.raises(StateError, match="no backup"):
        store.rollback()
    _push(store)
    _push(store)
    store.rollback()
    with pytest.raises(StateError, match=r"no backup to roll back to; it holds v1 CURRENT, v2 BACKUP"):
        store.rollback()
    assert store.current == 1


def test_a_rollback_goes_back_twice_if_there_are_two_backups(platform: fd.Platform) -> None:
    store = _store(platform, keep=3)
    for _ in range(3):
        _push(store)
    assert [store.rollback(), store.rollback()] == [2, 1]
    assert {version.version: version.rolled_back for version in store.versions()} == {1: False, 2: True, 3: True}


def test_after_a_rollback_the_next_push_keeps_the_good_version_as_backup_not_the_one_rolled_back(platform: fd.Platform) -> None:
    store = _store(platform)
    for _ in range(2):
        _push(store)
    store.rollback()
    _push(store)
    assert _states(store) == {1: "BACKUP", 3: "CURRENT"}
    assert store.rollback() == 1


def test_a_version_that_was_rolled_back_can_be_swapped_to(platform: fd.Platform) -> None:
    store = _store(platform)
    for _ in range(2):
        _push(store)
    store.rollback()
    store.swap(2)
    assert _states(store) == {1: "BACKUP", 2: "CURRENT"}
    assert not store.versions()[1].rolled_back
    assert store.rollback() == 1


def test_swapping_to_the_current_version_changes_nothing(platform: fd.Platform) -> None:
    store = _store(platform)
    _push(store)
    before = store.versions()
    store.swap(1)
    assert [v.state for v in store.versions()] == [v.state for v in before]


def test_only_versions_that_exist_can_be_swapped_to(platform: fd.Platform) -> None:
    store = _store(platform)
    for _ in range(3):
        _push(store)
    with pytest.raises(VersionNotFoundError, match="has no version 1; available: 2, 3"):
        store.swap(1)


def test_a_version_is_named_by_its_number(platform: fd.Platform) -> None:
    store = _store(platform)
    for _ in range(2):
        _push(store)
    for action in (store.swap, store.retire):
        with pytest.raises(InputError, match="a version is a whole number, as 3, not '1'"):
            action("1")  # type: ignore[arg-type]
        with pytest.raises(VersionNotFoundError, match=r"^store 's' has no version 7; available: 1, 2$"):
            action(7)
    assert store.swap(np.int64(1)) == 1  # type: ignore[arg-type]


def test_a_ready_version_waits_for_its_swap_and_is_overtaken_by_a_newer_one(platform: fd.Platform) -> None:
    store = _store(platform)
    _push(store)
    _push(store, swap=False)
    assert _states(store) == {1: "CURRENT", 2: "READY"}
    _push(store, swap=False)
    assert _states(store) == {1: "CURRENT", 3: "READY"}
    _push(store)
    assert _states(store) == {1: "BACKUP", 4: "CURRENT"}
    assert _on_disk(store) == [1, 4]


def test_a_version_is_retired_by_hand_but_never_the_current_one(platform: fd.Platform) -> None:
    store = _store(platform)
    for _ in range(2):
        _push(store)
    with pytest.raises(StateError, match="version 2 of store 's' is current"):
        store.retire(2)
    store.retire(1)
    assert _on_disk(store) == [2]
    with pytest.raises(VersionNotFoundError):
        store.retire(1)


def test_a_reader_pinned_to_a_version_keeps_it_after_it_was_retired(platform: fd.Platform) -> None:
    store = _store(platform, keep=1)
    _push(store)
    with store.reader() as reader:
        pinned = reader.at(1)
        assert pinned.get(1)["version"] == 1
        _push(store)
        assert _on_disk(store) == [2]
        assert pinned.get(2)["version"] == 1
        assert reader.get(2)["version"] == 2


def test_the_cell_always_names_the_current_version(platform: fd.Platform) -> None:
    store = _store(platform)
    cell = store._context.layout.current_cell
    assert read_cell(cell) == 0
    for _ in range(2):
        _push(store)
        assert read_cell(cell) == store.current
    store.rollback()
    assert read_cell(cell) == 1
    store.swap(2)
    assert read_cell(cell) == 2


def test_a_handle_of_a_deleted_store_says_so_even_when_there_is_a_new_store_of_its_name(platform: fd.Platform) -> None:
    old = _store(platform)
    _push(old)
    platform.delete_store("s")
    new = _store(platform)
    for action in (lambda: old.push({"key": [1], "version": [1]}), lambda: old.current, lambda: old.swap(1), old.rollback, old.versions):
        with pytest.raises(StoreNotFoundError):
            action()
    assert new.push({"key": [1], "version": [2]}).version == 2


def test_a_reader_of_a_store_that_is_deleted_stops_finding_a_version(platform: fd.Platform) -> None:
    from fondaco.core.errors import NoCurrentVersionError

    store = _store(platform)
    _push(store)
    with store.reader() as reader:
        assert reader.get(1) is not None
        platform.delete_store("s")
        with pytest.raises(NoCurrentVersionError):
            reader.get(1)
        again = _store(platform)
        with pytest.raises(NoCurrentVersionError):
            reader.get(1)
        again.push({"key": [1], "version": [2]})
        assert reader.get(1) is not None  # made again under its name, it is the same store to whoever reads it


def test_a_schema_that_old_rows_do_not_fit_is_refused(platform: fd.Platform) -> None:
    store = _store(platform)
    with pytest.raises(SchemaError):
        store.add_schema(pa.schema([*VALUE, pa.field("must", pa.int64(), nullable=False)]))
    assert store.describe()["schema_number"] == 1


def test_every_field_ever_registered_is_there_after_a_rollback(platform: fd.Platform) -> None:
    store = _store(platform)
    _push(store)
    store.add_schema(pa.schema([*VALUE, pa.field("note", pa.string())]))
    with store.reader() as early:
        assert dict(early.get(1)) == {"version": 1, "note": None}
        store.push({"key": [1], "version": [2], "note": ["two"]})
        assert dict(early.get(1)) == {"version": 2, "note": "two"}
        store.rollback()
        for reader in (early, store.reader()):
            assert dict(reader.get(1)) == {"version": 1, "note": None}
            assert reader.get_columns([1], ["note"]).found.all()
        reader.close()


def test_a_reader_may_ask_for_a_schema_of_its_own(platform: fd.Platform) -> None:
    store = _store(platform)
    _push(store)
    wider = pa.schema([pa.field("version", pa.float64(), nullable=False), pa.field("more", pa.int64())])
    with store.reader(schema=wider) as reader:
        assert dict(reader.get(1)) == {"version": 1.0, "more": None}
        _push(store)
        assert dict(reader.get(1)) == {"version": 2.0, "more": None}


def test_a_handle_of_a_closed_platform_says_so(tmp_path: Path) -> None:
    with fd.open(tmp_path) as platform:
        store = _store(platform)
        _push(store)
        reader = store.reader()
    actions = (
        lambda: store.current,
        lambda: store.push({"key": [1], "version": [1]}),
        store.versions,
        store.pushes,
        store.describe,
        store.reader,
        store.rollback,
        platform.stores,
        lambda: platform.store("s"),
        lambda: platform.create_store("t", value=VALUE),
        lambda: pickle.dumps(store),
    )
    for action in actions:
        with pytest.raises(StateError, match="is closed; open it again"):
            action()
    platform.close()
    assert reader.get(1)["version"] == 1
    reader.close()


def test_a_handle_that_is_pickled_works_where_it_arrives(platform: fd.Platform) -> None:
    store = _store(platform)
    _push(store)
    assert store.key.kind == "long"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_push_there, (store,)) == 2
        assert pool.apply(_stores_there, (platform,)) == ["s"]
    assert store.current == 2


def _push_there(store: fd.Store) -> int:
    return store.push({"key": [1], "version": [2]}).version


def _stores_there(platform: fd.Platform) -> list[str]:
    with platform:
        return platform.stores()

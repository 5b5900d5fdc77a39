"""What the catalog promises about stores, versions, pushes and records, on a real database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from fondaco.catalog import Catalog, StoreRow, VersionState, pushes, records, stores, versions
from fondaco.core.errors import StoreNotFoundError, VersionNotFoundError


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(tmp_path)
    yield opened
    opened.close()


def _store(catalog: Catalog, name: str = "members") -> StoreRow:
    with catalog.write() as connection:
        return stores.create(connection, name, key_schema='"long"', value_schema="{}", settings={}, now_us=1)


def _version(catalog: Catalog, store: StoreRow, push_id: str = "p") -> int:
    with catalog.write() as connection:
        number = versions.allocate(connection, store.id, push_id=push_id, schema_number=1, partitions=4, as_of_us=5, now_us=6)
        pushes.insert(connection, store.id, push_id=push_id, version=number, pid=1, partitions=4, built_from=None, now_us=6)
    return number


def test_an_unknown_store_is_named_with_its_nearest_name(catalog: Catalog) -> None:
    _store(catalog)
    with catalog.read() as connection, pytest.raises(StoreNotFoundError, match="did you mean 'members'"):
        stores.get(connection, "member")


def test_two_live_stores_cannot_share_a_name(catalog: Catalog) -> None:
    _store(catalog)
    with pytest.raises(IntegrityError):
        _store(catalog)


def test_version_numbers_are_never_given_again_even_after_the_store_was_deleted_and_made_anew(catalog: Catalog) -> None:
    first = _store(catalog)
    assert [_version(catalog, first), _version(catalog, first)] == [1, 2]
    with catalog.write() as connection:
        stores.delete(connection, first.id, now_us=9)
    second = _store(catalog)
    assert second.id != first.id
    assert _version(catalog, second) == 3
    with catalog.read() as connection:
        assert [version.number for version in versions.all_of(connection, second.id)] == [3]


def test_a_number_is_used_up_only_by_a_transaction_that_commits(catalog: Catalog) -> None:
    store = _store(catalog)
    with pytest.raises(ZeroDivisionError), catalog.write() as connection:
        _ = versions.allocate(connection, store.id, push_id="p", schema_number=1, partitions=1, as_of_us=0, now_us=0) / 0
    assert _version(catalog, store) == 1


def test_promotion_changes_the_store_and_both_versions_together(catalog: Catalog) -> None:
    store = _store(catalog)
    one, two = _version(catalog, store), _version(catalog, store)
    with catalog.write() as connection:
        assert versions.promote(connection, store.id, one, now_us=10) == 0
        assert versions.promote(connection, store.id, two, now_us=11) == 1
        assert versions.current(connection, store.id) == two
        states = {version.number: version.state for version in versions.retained(connection, store.id)}
    assert states == {1: VersionState.BACKUP, 2: VersionState.CURRENT}


def test_a_rollback_marks_the_version_it_left(catalog: Catalog) -> None:
    store = _store(catalog)
    one, two = _version(catalog, store), _version(catalog, store)
    with catalog.write() as connection:
        versions.promote(connection, store.id, one, now_us=10)
        versions.promote(connection, store.id, two, now_us=11)
        versions.promote(connection, store.id, one, now_us=12, rollback=True)
        left = versions.get_retained(connection, store.id, "members", two)
    assert (left.state, left.rolled_back_us) == (VersionState.BACKUP, 12)


def test_only_retained_versions_are_found(catalog: Catalog) -> None:
    store = _store(catalog)
    number = _version(catalog, store)
    with catalog.read() as connection, pytest.raises(VersionNotFoundError, match="it holds none yet"):
        versions.get_retained(connection, store.id, "members", number)


def test_the_latest_attempt_under_a_push_id_is_the_one_found(catalog: Catalog) -> None:
    store = _store(catalog)
    _version(catalog, store, "daily")
    _version(catalog, store, "daily")
    with catalog.write() as connection:
        pushes.update(connection, store.id, 1, state=VersionState.FAILED, blame="user", steps={"write": 1.5})
        found = pushes.find_latest(connection, store.id, "daily")
        assert found is not None
        assert found.version == 2
        assert [push.version for push in pushes.at_work(connection, store.id)] == [2]
        assert pushes.all_of(connection, store.id)[0].steps == {"write": 1.5}


def test_a_request_to_kill_is_seen_by_the_push_it_names(catalog: Catalog) -> None:
    store = _store(catalog)
    number = _version(catalog, store)
    with catalog.write() as connection:
        assert not pushes.kill_requested(connection, store.id, number)
        pushes.update(connection, store.id, number, kill_requested=True)
        assert pushes.kill_requested(connection, store.id, number)


def test_value_schemas_are_numbered_from_one(catalog: Catalog) -> None:
    store = _store(catalog)
    with catalog.write() as connection:
        assert stores.add_value_schema(connection, store.id, '{"v":2}', now_us=2) == 2
        assert [(row.number, row.schema) for row in stores.value_schemas(connection, store.id)] == [(1, "{}"), (2, '{"v":2}')]


def test_feature_sets_are_kept_once_per_plan_and_the_one_recorded_last_is_the_newest(catalog: Catalog) -> None:
    with catalog.write() as connection:
        for now_us, plan_hash in enumerate(("a", "b", "a"), start=1):
            records.record_feature_set(connection, "late", plan_hash=plan_hash, plan={"hash": plan_hash}, now_us=now_us)
        assert [(row.plan_hash, row.plan) for row in records.feature_sets(connection, "late")] == [
            ("b", {"hash": "b"}),
            ("a", {"hash": "a"}),
        ]


def test_every_training_set_leaves_its_own_record(catalog: Catalog) -> None:
    with catalog.write() as connection:
        ids = [records.record_training_set(connection, "late", plan_hash="a", record={"rows": n}, now_us=n) for n in (1, 2)]
        assert len(set(ids)) == 2
        assert [row.record for row in records.training_sets(connection, "late")] == [{"rows": 1}, {"rows": 2}]
        assert records.training_sets(connection, "other") == []

"""What the catalog promises about tokens, quotas, nodes, placements, replicas, and about its counter of changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fondaco.catalog import (
    Catalog,
    QuotaRow,
    ReplicaRow,
    ReplicaState,
    StoreRow,
    VersionState,
    nodes,
    placements,
    pushes,
    quotas,
    replicas,
    stores,
    tokens,
    versions,
)
from fondaco.core.errors import AlreadyExistsError, InputError, NodeNotFoundError, StateError, TokenNotFoundError


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def store(catalog: Catalog) -> StoreRow:
    with catalog.write() as connection:
        return stores.create(connection, "members", key_schema='"long"', value_schema="{}", settings={}, now_us=1)


def test_a_token_is_found_by_its_secret_which_the_catalog_does_not_hold(catalog: Catalog) -> None:
    with catalog.write() as connection:
        row, secret = tokens.create(connection, "trainer", {"members": "write", "*": "read"}, None, 5)
        assert tokens.find_by_secret(connection, secret) == row
        assert tokens.find_by_secret(connection, secret[:-1]) is None
    assert secret.startswith("fdc_")
    assert len(secret) == 4 + 43  # 256 bits in base64url
    assert secret.encode() not in (catalog.directory / "catalog.sqlite").read_bytes()


def test_a_role_holds_the_smaller_ones_and_a_star_stands_for_every_store(catalog: Catalog) -> None:
    with catalog.write() as connection:
        row, _ = tokens.create(connection, "trainer", {"members": "write", "*": "read"}, None, 5)
    assert row.allows("write", "members")
    assert row.allows("read", "members")
    assert row.allows("read", "jobs")
    assert not row.allows("write", "jobs")
    assert not row.allows("admin", "members")


def test_a_token_says_why_it_is_not_good(catalog: Catalog) -> None:
    with catalog.write() as connection:
        row, secret = tokens.create(connection, "trainer", {"*": "admin"}, 100, 5)
        assert row.refusal(99) is None
        assert row.refusal(100) == "the token 'trainer' expired"
        tokens.revoke(connection, "trainer", now_us=50)
        found = tokens.find_by_secret(connection, secret)
        assert found is not None
        assert found.refusal(60) == "the token 'trainer' was revoked"


def test_a_name_is_free_again_after_its_token_was_revoked(catalog: Catalog) -> None:
    with catalog.write() as connection:
        tokens.create(connection, "trainer", {"*": "read"}, None, 5)
        with pytest.raises(AlreadyExistsError, match="revoke it first"):
            tokens.create(connection, "trainer", {"*": "read"}, None, 6)
        tokens.revoke(connection, "trainer", now_us=7)
        tokens.create(connection, "trainer", {"*": "read"}, None, 8)
        assert [row.revoked_us for row in tokens.all_of(connection)] == [7, None]
        with pytest.raises(TokenNotFoundError, match="did you mean 'trainer'"):
            tokens.revoke(connection, "trainr", now_us=9)


def test_a_token_without_a_role_or_with_an_unknown_one_is_refused(catalog: Catalog) -> None:
    with catalog.write() as connection:
        with pytest.raises(InputError, match="needs a role"):
            tokens.create(connection, "t", {}, None, 0)
        with pytest.raises(InputError, match="'owner' on '\\*' is no role"):
            tokens.create(connection, "t", {"*": "owner"}, None, 0)  # type: ignore[dict-item]
        with pytest.raises(InputError, match="expired already"):
            tokens.create(connection, "t", {"*": "read"}, 10, 10)


def test_the_most_particular_quota_decides_as_a_whole(catalog: Catalog) -> None:
    with catalog.write() as connection:
        quotas.set_quota(connection, "*", "*", 10, 1)
        quotas.set_quota(connection, "*", "trainer", 20, None)
        quotas.set_quota(connection, "members", "*", 30, None)
        quotas.set_quota(connection, "members", "trainer", 40, None)
        held = quotas.all_of(connection)
    assert quotas.effective(held, "members", "trainer") == QuotaRow("members", "trainer", 40, None)
    assert quotas.effective(held, "members", "other") == QuotaRow("members", "*", 30, None)
    assert quotas.effective(held, "jobs", "trainer") == QuotaRow("*", "trainer", 20, None)
    assert quotas.effective(held, "jobs", "other") == QuotaRow("*", "*", 10, 1)
    assert quotas.effective([], "jobs", "other") is None


def test_a_quota_is_replaced_and_removed(catalog: Catalog) -> None:
    with catalog.write() as connection:
        quotas.set_quota(connection, "members", "*", 10, None)
        quotas.set_quota(connection, "members", "*", 10.5, 2)
        assert quotas.all_of(connection) == [QuotaRow("members", "*", 10.5, 2)]
        quotas.set_quota(connection, "members", "*", None, None)
        assert quotas.all_of(connection) == []


@pytest.mark.parametrize("bound", [0, -1, float("nan"), float("inf")])
def test_a_quota_that_is_no_positive_number_is_refused(catalog: Catalog, bound: float) -> None:
    with catalog.write() as connection, pytest.raises(InputError, match="positive number"):
        quotas.set_quota(connection, "members", "*", bound, None)


def _register(catalog: Catalog, name: str, address: str, lease_until_us: int, now_us: int = 0) -> None:
    with catalog.write() as connection:
        nodes.register(connection, name, address, zone="a", cluster="main", lease_until_us=lease_until_us, now_us=now_us)


def test_a_node_is_live_until_its_lease_ends(catalog: Catalog) -> None:
    _register(catalog, "n1", "http://h:1", 100)
    with catalog.write(quiet=True) as connection:
        assert [row.name for row in nodes.all_live(connection, 99)] == ["n1"]
        assert nodes.all_live(connection, 100) == []
        assert nodes.renew(connection, "n1", "http://h:1", 200)
        assert [row.name for row in nodes.all_live(connection, 100)] == ["n1"]
        assert not nodes.renew(connection, "n1", "http://h:2", 300)


def test_a_name_is_taken_over_after_a_restart_and_never_from_a_live_node_elsewhere(catalog: Catalog) -> None:
    _register(catalog, "n1", "http://h:1", 100)
    with catalog.write() as connection:
        nodes.drain(connection, "n1", True)
    _register(catalog, "n1", "http://h:1", 150, now_us=50)
    with pytest.raises(AlreadyExistsError, match="serves at http://h:1"):
        _register(catalog, "n1", "http://h:2", 200, now_us=60)
    _register(catalog, "n1", "http://h:2", 300, now_us=150)
    with catalog.read() as connection:
        row = nodes.get(connection, "n1")
    assert (row.address, row.draining) == ("http://h:2", True)


def test_an_address_belongs_to_one_live_node(catalog: Catalog) -> None:
    _register(catalog, "n1", "http://h:1", 100)
    with pytest.raises(AlreadyExistsError, match="'n2' needs an address of its own"):
        _register(catalog, "n2", "http://h:1", 100, now_us=50)
    _register(catalog, "n2", "http://h:1", 200, now_us=150)


def test_what_opens_a_nodes_files_is_not_in_its_row(catalog: Catalog) -> None:
    with catalog.write() as connection:
        given = {"zone": "a", "cluster": "main", "lease_until_us": 9, "now_us": 1, "files_address": "http://h:2", "files_secret": "hush"}
        row = nodes.register(connection, "n1", "http://h:1", **given)  # type: ignore[arg-type]
        assert row.files_address == "http://h:2"
        assert "hush" not in repr(row)
        assert nodes.files_secret(connection, "n1") == "hush"


def test_a_node_is_removed_with_what_it_held_once_its_lease_has_ended(catalog: Catalog, store: StoreRow) -> None:
    _register(catalog, "n1", "http://h:1", 100)
    with catalog.write() as connection:
        replicas.report(connection, [ReplicaRow(store.id, 1, 0, "n1", ReplicaState.READY, 10, None, 1)])
        with pytest.raises(StateError, match="is live"):
            nodes.remove(connection, "n1", now_us=99)
        nodes.remove(connection, "n1", now_us=100)
        assert replicas.all_of(connection) == []
        with pytest.raises(NodeNotFoundError, match="there is none yet"):
            nodes.drain(connection, "n1", True)


def test_a_store_is_placed_once_and_differently_at_any_time(catalog: Catalog, store: StoreRow) -> None:
    with catalog.write() as connection:
        assert placements.find(connection, store.id) is None
        placements.assign(connection, store.id, "main", 2, True, now_us=1)
        row = placements.assign(connection, store.id, "other", 1, False, nodes=["n2", "n1", "n2"], now_us=2)
        assert row.nodes == ("n2", "n1")
        placements.adopt(connection, store.id, 7)
        row = placements.assign(connection, store.id, "other", 3, False, now_us=3)
        assert (row.nodes, row.routed) == ((), 7)  # placed differently, it is read on as it was
        assert placements.find(connection, store.id) == row
        assert placements.all_of(connection) == [row]
        assert placements.remove(connection, store.id)
        assert not placements.remove(connection, store.id)


@pytest.mark.parametrize("count", [0, -1, 65])
def test_a_placement_with_a_senseless_number_of_replicas_is_refused(catalog: Catalog, store: StoreRow, count: int) -> None:
    with catalog.write() as connection, pytest.raises(InputError, match="1 to 64 replicas"):
        placements.assign(connection, store.id, "main", count, False, now_us=1)


def test_a_replica_is_reported_anew_and_removed(catalog: Catalog, store: StoreRow) -> None:
    row = ReplicaRow(store.id, 1, 0, "n1", ReplicaState.FETCHING, 10, "no such file", 1)
    with catalog.write() as connection:
        replicas.report(connection, [row, replace(row, partition=1)])
        ready = replace(row, state=ReplicaState.READY, error=None, updated_us=2)
        replicas.report(connection, [ready])
        assert replicas.all_of(connection, store_id=store.id) == [ready, replace(row, partition=1)]
        assert replicas.all_of(connection, node="n2") == []
        replicas.remove(connection, store.id, 1, 0, "n1")
        assert [held.partition for held in replicas.all_of(connection, node="n1")] == [1]


def test_the_counter_grows_with_every_change_and_with_nothing_else(catalog: Catalog, store: StoreRow) -> None:
    before = catalog.change_counter()
    with catalog.read() as connection:
        stores.all_live(connection)
    with catalog.write() as connection:
        stores.all_live(connection)
    with pytest.raises(ZeroDivisionError), catalog.write() as connection:
        stores.delete(connection, store.id, now_us=1 // 0)
    assert catalog.change_counter() == before
    with catalog.write() as connection:
        quotas.set_quota(connection, "members", "*", 1, None)
    assert catalog.change_counter() == before + 1
    _register(catalog, "n1", "http://h:1", 100)
    with catalog.write(quiet=True) as connection:
        nodes.renew(connection, "n1", "http://h:1", 200)
    assert catalog.change_counter() == before + 2


def test_the_counter_is_one_for_all_processes_that_have_the_catalog_open(catalog: Catalog, store: StoreRow) -> None:
    other = Catalog.open(catalog.directory)
    before = other.change_counter()
    with catalog.write() as connection:
        quotas.set_quota(connection, "members", "*", 1, None)
    assert other.change_counter() > before
    other.close()


def test_an_incremental_push_builds_no_version_and_is_not_mistaken_for_one_that_does(catalog: Catalog, store: StoreRow) -> None:
    with catalog.write() as connection:
        number = versions.allocate(connection, store.id, push_id="b", schema_number=1, partitions=1, as_of_us=0, now_us=0)
        pushes.insert(connection, store.id, push_id="b", version=number, pid=1, partitions=1, built_from=None, now_us=0)
        added = {"push_id": "i", "version": None, "kind": "incremental", "pid": 1, "partitions": 1, "built_from": None, "now_us": 0}
        ids = [pushes.insert(connection, store.id, **added) for _ in range(2)]  # type: ignore[arg-type]
        pushes.update_by_id(connection, ids[1], state=VersionState.READY, records=7, steps={"write": 1.0})
        assert [(push.kind, push.version, push.state) for push in pushes.all_of(connection, store.id)] == [
            ("batch", 1, VersionState.STARTED),
            ("incremental", 0, VersionState.STARTED),
            ("incremental", 0, VersionState.READY),
        ]
        found = pushes.find_latest(connection, store.id, "i")
        assert found is not None
        assert (found.id, found.records, found.steps) == (ids[1], 7, {"write": 1.0})
        assert [push.push_id for push in pushes.at_work(connection, store.id)] == ["b"]
        assert [push.id for push in pushes.at_work(connection, store.id, "incremental")] == ids[:1]

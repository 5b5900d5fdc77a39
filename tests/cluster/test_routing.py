"""Where readers are sent, and when they are sent to another version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cluster_states import NOW_US, STORE_ID, node, placement, replica, state
from fondaco.catalog import Catalog, ReplicaRow, ReplicaState, nodes, placements, pushes, replicas, stores, versions
from fondaco.cluster.routing import Router
from fondaco.cluster.state import ReplicaKey, read_state

N1, N2, N3 = node("n1"), node("n2"), node("n3")
FOUR = {1: 4}


def _everywhere(number: int, names: list[str], partitions: int = 4) -> list[ReplicaRow]:
    return [replica(number, partition, name) for partition in range(partitions) for name in names]


def _route(router: Router) -> tuple[int, tuple[tuple[str, ...], ...]]:
    route = router.table().stores["s"]
    return route.version, route.replicas


def test_a_version_is_adopted_only_when_every_partition_has_a_ready_replica() -> None:
    held = _everywhere(1, ["n1"])
    for missing in range(4):
        some = [row for row in held if row.partition != missing]
        assert Router(state([N1], current=1, placed=placement(), versions=FOUR, replicas=some), NOW_US).adoptions() == {}
    assert Router(state([N1], current=1, placed=placement(), versions=FOUR, replicas=held), NOW_US).adoptions() == {STORE_ID: 1}


def test_a_replica_on_its_way_or_on_a_node_whose_lease_ended_does_not_count() -> None:
    on_its_way = [replica(1, 0, "n1", ReplicaState.FETCHING)]
    assert Router(state([N1], current=1, placed=placement(), versions={1: 1}, replicas=on_its_way), NOW_US).adoptions() == {}
    gone = state([node("n1", lease_us=0)], current=1, placed=placement(), versions={1: 1}, replicas=[replica(1, 0, "n1")])
    assert Router(gone, NOW_US).adoptions() == {}
    assert Router(gone, NOW_US - 1).adoptions() == {STORE_ID: 1}


def test_until_the_next_version_is_complete_the_one_before_is_routed() -> None:
    held = [*_everywhere(1, ["n1"]), replica(2, 0, "n1")]
    router = Router(state([N1], current=2, placed=placement(routed=1), versions={1: 4, 2: 4}, replicas=held), NOW_US)
    assert router.adoptions() == {}
    assert _route(router) == (1, (("http://n1:1",),) * 4)


def test_a_version_stays_routed_when_a_replica_is_lost_rather_than_stepping_back() -> None:
    held = [*_everywhere(1, ["n1"]), *_everywhere(2, ["n1"], 3)]
    router = Router(state([N1], current=2, placed=placement(routed=2), versions={1: 4, 2: 4}, replicas=held), NOW_US)
    assert _route(router) == (2, (("http://n1:1",), ("http://n1:1",), ("http://n1:1",), ()))


def test_a_store_of_which_nothing_was_ever_complete_has_no_route() -> None:
    assert "s" not in Router(state([N1], current=5, placed=placement(), versions={5: 1}), NOW_US).table().stores


def test_a_store_that_was_only_written_to_is_routed_as_version_zero_until_its_first_version_is_complete() -> None:
    written = replica(0, 0, "n1")
    first = Router(state([N1], current=0, placed=placement(), versions={}, replicas=[written]), NOW_US)
    assert first.adoptions() == {STORE_ID: 0}
    pushed = Router(state([N1], current=1, placed=placement(routed=0), versions={1: 2}, replicas=[written]), NOW_US)
    assert pushed.adoptions() == {}
    assert _route(pushed) == (0, (("http://n1:1",),))


def test_a_rollback_is_routed_at_once_where_the_version_is_there() -> None:
    held = [*_everywhere(1, ["n1"]), *_everywhere(2, ["n1"])]
    router = Router(state([N1], current=1, placed=placement(routed=2), versions={1: 4, 2: 4}, replicas=held), NOW_US)
    assert router.adoptions() == {STORE_ID: 1}


def test_a_partition_is_routed_to_those_it_is_assigned_to_in_their_order() -> None:
    held = _everywhere(1, ["n1", "n2", "n3"])
    router = Router(state([N1, N2, N3], current=1, placed=placement(routed=1), versions=FOUR, replicas=held), NOW_US)
    for partition in range(4):
        key = ReplicaKey(STORE_ID, 1, partition)
        assert router.routed(key) == router.assigned(key)
        assert len(router.routed(key)) == 2


def test_while_a_store_moves_those_that_had_it_are_routed_until_those_that_should_are_ready() -> None:
    here, there = node("n1", cluster="old"), [node("n2"), node("n3")]
    key = ReplicaKey(STORE_ID, 1, 0)
    both = [here, *there]

    def routed(*names: str) -> tuple[str, ...]:
        held = [replica(1, 0, name) for name in names]
        return Router(state(both, current=1, placed=placement(routed=1), versions={1: 1}, replicas=held), NOW_US).routed(key)

    assert routed("n1") == ("n1",)
    assert routed("n1", "n2") == ("n2", "n1")
    assert set(routed("n1", "n2", "n3")) == {"n2", "n3"}


def test_a_draining_replica_is_routed_only_when_there_is_no_other() -> None:
    key = ReplicaKey(STORE_ID, 1, 0)
    leaving = replica(1, 0, "n3", ReplicaState.DRAINING)
    two = [node("n1"), node("n2"), node("n3", draining=True)]
    some = state(two, current=1, placed=placement(routed=1), versions={1: 1}, replicas=[replica(1, 0, "n1"), leaving])
    assert Router(some, NOW_US).routed(key) == ("n1",)
    none = state(two, current=1, placed=placement(routed=1), versions={1: 1}, replicas=[leaving])
    assert Router(none, NOW_US).routed(key) == ("n3",)


def test_a_partition_that_nobody_holds_has_an_empty_list() -> None:
    router = Router(state([N1], current=1, placed=placement(routed=1), versions={1: 1}), NOW_US)
    assert _route(router) == (1, ((),))


# -- from a real catalog ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(tmp_path)
    yield opened
    opened.close()


def test_the_state_is_read_from_the_catalog_with_a_routed_version_that_was_retired(catalog: Catalog) -> None:
    with catalog.write() as connection:
        for name in ("gone", "also-gone"):
            lost = stores.create(connection, name, key_schema='"long"', value_schema="{}", settings={}, now_us=1)
            placements.assign(connection, lost.id, "main", 1, False, now_us=0)
            stores.delete(connection, lost.id, now_us=1)
        store = stores.create(connection, "s", key_schema='"long"', value_schema="{}", settings={}, now_us=1)
        assert store.id == STORE_ID
        stores.create(connection, "unplaced", key_schema='"long"', value_schema="{}", settings={}, now_us=1)
        for push_id in ("a", "b"):
            number = versions.allocate(connection, store.id, push_id=push_id, schema_number=1, partitions=2, as_of_us=0, now_us=0)
            pushes.insert(connection, store.id, push_id=push_id, version=number, pid=1, partitions=2, built_from=None, now_us=0)
            versions.promote(connection, store.id, number, now_us=0)
        versions.update(connection, store.id, 1, state="RETIRED")
        placements.assign(connection, store.id, "main", 1, False, now_us=0)
        placements.adopt(connection, store.id, 1)
        nodes.register(connection, "n1", "http://n1:1", zone="a", cluster="main", lease_until_us=10, now_us=0)
        replicas.report(connection, [replica(1, 0, "n1")])
    found = read_state(catalog)
    assert found.epoch == catalog.change_counter()
    assert [(placed.row.name, placed.wanted()) for placed in found.stores.values()] == [("s", [2, 1])]
    assert list(found.of_node("n1")) == [ReplicaKey(STORE_ID, 1, 0)]
    assert found.is_live("n1", 9)
    assert not found.is_live("n1", 10)

"""What a node does next."""

from __future__ import annotations

from cluster.cluster_states import NOW_US, STORE_ID, node, placement, replica, state
from fondaco.catalog import ReplicaState
from fondaco.cluster.plan import NodePlan, make_plan
from fondaco.cluster.routing import Router
from fondaco.cluster.state import ClusterState, ReplicaKey

DRAIN_S = 5.0


def _key(version: int, partition: int) -> ReplicaKey:
    return ReplicaKey(STORE_ID, version, partition)


def _plan(found: ClusterState, held: set[ReplicaKey], name: str = "n1") -> NodePlan:
    return make_plan(Router(found, NOW_US), name, held, drain_s=DRAIN_S)


def test_what_is_wanted_and_not_there_is_fetched_the_current_version_first() -> None:
    found = state([node("n1")], current=2, placed=placement(routed=1), versions={1: 1, 2: 1, 3: 1})
    assert _plan(found, set()) == NodePlan(fetch=[_key(2, 0), _key(1, 0), _key(3, 0)])


def test_what_lies_in_the_directory_is_reported_and_not_fetched() -> None:
    found = state([node("n1")], current=1, placed=placement(), versions={1: 2})
    assert _plan(found, {_key(1, 0)}) == NodePlan(report=[_key(1, 0)], fetch=[_key(1, 1)])


def test_what_is_as_it_should_be_is_left_alone() -> None:
    found = state([node("n1")], current=1, placed=placement(), versions={1: 1}, replicas=[replica(1, 0, "n1")])
    assert _plan(found, {_key(1, 0)}) == NodePlan()


def test_a_file_that_was_said_to_be_there_and_is_not_is_forgotten_and_fetched_again() -> None:
    found = state([node("n1")], current=1, placed=placement(), versions={1: 1}, replicas=[replica(1, 0, "n1")])
    assert _plan(found, set()) == NodePlan(fetch=[_key(1, 0)], forget=[_key(1, 0)])


def test_a_replica_drains_once_all_that_should_have_it_do_and_not_before() -> None:
    nodes = [node("n1", draining=True), node("n2"), node("n3")]
    for others, drains in ((["n2"], False), (["n2", "n3"], True)):
        held = [replica(1, 0, name) for name in ["n1", *others]]
        found = state(nodes, current=1, placed=placement(routed=1), versions={1: 1}, replicas=held)
        assert _plan(found, {_key(1, 0)}) == NodePlan(drain=[_key(1, 0)] if drains else [])


def test_a_node_that_drains_where_nobody_else_is_keeps_what_it_has() -> None:
    found = state([node("n1", draining=True)], current=1, placed=placement(routed=1), versions={1: 1}, replicas=[replica(1, 0, "n1")])
    assert _plan(found, {_key(1, 0)}) == NodePlan()


def test_a_drained_replica_goes_after_its_readers_had_time_to_leave() -> None:
    nodes = [node("n1", draining=True), node("n2")]
    for age_s, plan in ((4.9, NodePlan()), (5.0, NodePlan(forget=[_key(1, 0)], remove=[_key(1, 0)]))):
        leaving = replica(1, 0, "n1", ReplicaState.DRAINING, NOW_US - round(age_s * 1e6))
        found = state(nodes, current=1, placed=placement(replicas=1), versions={1: 1}, replicas=[leaving, replica(1, 0, "n2")])
        assert _plan(found, {_key(1, 0)}) == plan


def test_a_draining_replica_that_is_needed_again_is_ready_again() -> None:
    leaving = replica(1, 0, "n1", ReplicaState.DRAINING, 0)
    back = state([node("n1")], current=1, placed=placement(), versions={1: 1}, replicas=[leaving])
    assert _plan(back, {_key(1, 0)}) == NodePlan(report=[_key(1, 0)])
    alone = state([node("n1", draining=True)], current=1, placed=placement(), versions={1: 1}, replicas=[leaving])
    assert _plan(alone, {_key(1, 0)}) == NodePlan(report=[_key(1, 0)])


def test_a_retired_version_drains_and_the_routed_one_stays() -> None:
    held = [replica(number, 0, "n1") for number in (1, 2, 3)]
    found = state([node("n1")], current=3, placed=placement(routed=2), versions={2: 1, 3: 1}, replicas=held)
    assert _plan(found, {_key(number, 0) for number in (1, 2, 3)}) == NodePlan(drain=[_key(1, 0)])


def test_a_store_that_is_not_placed_any_more_drains() -> None:
    found = state([node("n1")], current=1, placed=None, versions={}, replicas=[replica(1, 0, "n1")])
    assert _plan(found, {_key(1, 0)}) == NodePlan(drain=[_key(1, 0)])


def test_a_file_that_no_row_speaks_of_and_nobody_wants_goes() -> None:
    found = state([node("n1")], current=1, placed=placement(), versions={1: 1}, replicas=[replica(1, 0, "n1")])
    assert _plan(found, {_key(1, 0), _key(9, 2)}) == NodePlan(remove=[_key(9, 2)])


def test_a_fetch_that_is_not_wanted_any_more_is_forgotten() -> None:
    found = state([node("n1")], current=2, placed=placement(), versions={2: 1}, replicas=[replica(1, 0, "n1", ReplicaState.FETCHING)])
    assert _plan(found, set()) == NodePlan(fetch=[_key(2, 0)], forget=[_key(1, 0)])


def test_a_store_that_was_only_written_to_is_held_without_a_file() -> None:
    found = state([node("n1")], current=0, placed=placement(), versions={})
    assert _plan(found, set()).fetch == [_key(0, 0)]
    assert _plan(found, {_key(0, 0)}).report == [_key(0, 0)]

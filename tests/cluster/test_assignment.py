"""Which nodes should hold which partition."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cluster.cluster_states import NOW_US, node, placement
from fondaco.cluster.assignment import assign, eligible

ZONES = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=7)


@given(zones=ZONES, replicas=st.integers(1, 4), partition=st.integers(0, 1023))
def test_a_partition_has_as_many_nodes_as_it_should_or_as_there_are(zones: list[str], replicas: int, partition: int) -> None:
    nodes = [node(f"n{number}", zone=zone) for number, zone in enumerate(zones)]
    for spread in (False, True):
        chosen = assign(placement(replicas=replicas, zone_spread=spread), nodes, partition)
        assert len(chosen) == len(set(chosen)) == min(replicas, len(nodes))
        assert chosen == assign(placement(replicas=replicas, zone_spread=spread), reversed(nodes), partition)


@given(zones=ZONES, replicas=st.integers(1, 4), partition=st.integers(0, 1023))
def test_with_zone_spread_no_zone_is_used_twice_before_each_was_used_once(zones: list[str], replicas: int, partition: int) -> None:
    nodes = {f"n{number}": zone for number, zone in enumerate(zones)}
    rows = [node(name, zone=zone) for name, zone in nodes.items()]
    chosen = assign(placement(replicas=replicas, zone_spread=True), rows, partition)
    assert len({nodes[name] for name in chosen}) == min(len(chosen), len(set(zones)))


@given(count=st.integers(2, 7), replicas=st.integers(1, 3), gone=st.integers(0, 6))
def test_when_a_node_goes_only_its_own_share_moves(count: int, replicas: int, gone: int) -> None:
    nodes = [node(f"n{number}") for number in range(count)]
    left = [row for row in nodes if row.name != f"n{gone}"]
    for partition in range(16):
        before = assign(placement(replicas=replicas), nodes, partition)
        after = assign(placement(replicas=replicas), left, partition)
        assert set(before) - {f"n{gone}"} <= set(after)


def test_shares_are_about_equal() -> None:
    nodes = [node(f"n{number}") for number in range(4)]
    shares = Counter(name for partition in range(1024) for name in assign(placement(replicas=2), nodes, partition))
    assert min(shares.values()) > 0.85 * 512
    assert max(shares.values()) < 1.15 * 512


def test_only_nodes_of_the_cluster_that_are_not_draining_and_not_long_gone_are_eligible() -> None:
    here, elsewhere, draining = node("n1"), node("n2", cluster="other"), node("n3", draining=True)
    restarting, gone = node("n4", lease_us=-59_000_000), node("n5", lease_us=-61_000_000)
    nodes = [gone, restarting, draining, elsewhere, here]
    assert [row.name for row in eligible(placement(), nodes, NOW_US)] == ["n1", "n4"]
    assert [row.name for row in eligible(placement(nodes=["n4", "n2"]), nodes, NOW_US)] == ["n4"]
    assert [row.name for row in eligible(replace(placement(), cluster="other"), nodes, NOW_US)] == ["n2"]

"""States of a cluster, written down briefly for tests of what is decided from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fondaco.catalog import NodeRow, PlacementRow, ReplicaRow, ReplicaState, StoreRow, VersionRow, VersionState
from fondaco.cluster.state import ClusterState, PlacedStore, ReplicaKey

NOW_US = 1_000_000_000
STORE_ID = 3


def node(name: str, *, zone: str = "a", cluster: str = "main", lease_us: int = 1_000_000, draining: bool = False) -> NodeRow:
    """A node whose lease holds for `lease_us` from now."""
    return NodeRow(name, f"http://{name}:1", zone, cluster, NOW_US + lease_us, draining, 0)


def placement(
    *, replicas: int = 2, routed: int | None = None, cluster: str = "main", zone_spread: bool = False, nodes: Iterable[str] = ()
) -> PlacementRow:
    """Where the store should be."""
    return PlacementRow(STORE_ID, cluster, replicas, zone_spread, tuple(nodes), routed, 0)


def version(number: int, partitions: int = 4) -> VersionRow:
    """A version that is retained."""
    return VersionRow(number, VersionState.BACKUP, "p", 1, partitions, 0, 0, "none", 0, 0, 0, 0, None)


def replica(number: int, partition: int, name: str, state: ReplicaState = ReplicaState.READY, updated_us: int = NOW_US) -> ReplicaRow:
    """What a node says it has."""
    return ReplicaRow(STORE_ID, number, partition, name, state, 0, None, updated_us)


def state(
    nodes: Iterable[NodeRow], *, current: int, placed: PlacementRow | None, versions: Mapping[int, int], replicas: Iterable[ReplicaRow] = ()
) -> ClusterState:
    """A cluster with one store called "s"; `versions` says how many partitions each has."""
    stores = {}
    if placed is not None:
        row = StoreRow(STORE_ID, "s", '"long"', {}, current, 0)
        stores[STORE_ID] = PlacedStore(row, placed, {number: version(number, count) for number, count in versions.items()})
    grouped: dict[ReplicaKey, list[ReplicaRow]] = {}
    for held in replicas:
        grouped.setdefault(ReplicaKey(held.store_id, held.version, held.partition), []).append(held)
    return ClusterState(1, stores, {row.name: row for row in nodes}, grouped)

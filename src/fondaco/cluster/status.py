"""Status: how a cluster stands, in words and numbers for its operator. Made of one state of the catalog; changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from fondaco.catalog import ReplicaState
from fondaco.cluster.routing import Router
from fondaco.cluster.state import PlacedStore, ReplicaKey


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node: "live", "draining" (live, giving away what it has), "drained" (live, and holds nothing), or "gone" (no lease)."""

    name: str
    address: str
    cluster: str
    zone: str
    state: str
    lease_s: float  # what is left of it; negative: it ended so long ago
    ready: int
    fetching: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """A placed store. `routed` is what readers are sent to; None: nothing yet. `complete` of `partitions` of the *current* version have a
    ready replica, `settled` have all that they should. `problem` is what a node last said went wrong, or what keeps the store from being
    read."""

    name: str
    cluster: str
    replicas: int
    zone_spread: bool
    current: int
    routed: int | None
    partitions: int
    complete: int
    settled: int
    problem: str | None


def node_statuses(router: Router) -> list[NodeStatus]:
    """Every node, by name."""
    statuses = []
    for node in router.state.nodes.values():
        held = [row for row in router.state.of_node(node.name).values() if row.version]
        ready = sum(row.state is not ReplicaState.FETCHING for row in held)
        live = router.state.is_live(node.name, router.now_us)
        state = ("draining" if held else "drained") if live and node.draining else "live" if live else "gone"
        statuses.append(
            NodeStatus(
                node.name,
                node.address,
                node.cluster,
                node.zone,
                state,
                (node.lease_until_us - router.now_us) / 1e6,
                ready,
                len(held) - ready,
                sum(row.bytes for row in held),
            )
        )
    return statuses


def store_statuses(router: Router) -> list[StoreStatus]:
    """Every placed store, by name."""
    return sorted((_store_status(router, store) for store in router.state.stores.values()), key=lambda status: status.name)


def _store_status(router: Router, store: PlacedStore) -> StoreStatus:
    version = store.row.current if store.row.current in store.versions else 0
    keys = [ReplicaKey(store.row.id, version, partition) for partition in range(store.partitions(version))]
    placement = store.placement
    return StoreStatus(
        store.row.name,
        placement.cluster,
        placement.replicas,
        placement.zone_spread,
        store.row.current,
        placement.routed,
        len(keys),
        sum(bool(router.ready(key)) for key in keys),
        sum(router.is_settled(key) for key in keys),
        _problem(router, store, keys),
    )


def _problem(router: Router, store: PlacedStore, keys: list[ReplicaKey]) -> str | None:
    placement = store.placement
    errors = [row for key in keys for row in router.state.replicas.get(key, ()) if row.error]
    if errors:
        last = max(errors, key=lambda row: row.updated_us)
        return f"node {last.node!r}, partition {last.partition}: {last.error}"
    assigned = len(router.assigned(keys[0]))
    if not assigned:
        on = f" named {', '.join(placement.nodes)}" if placement.nodes else ""
        return f"cluster {placement.cluster!r} has no node{on} that could hold it"
    if assigned < placement.replicas:
        return f"cluster {placement.cluster!r} has {assigned} nodes for {placement.replicas} replicas"
    return None

"""Routing: the table that readers follow, computed from the state of the cluster, and when it moves to another version.

A version is *complete* when each of its partitions has a ready replica on a live node. `adoptions` finds stores whose current version is
complete and not yet routed; whoever sees it first writes it down (`placements.adopt`), and from then on every node's table names it. It
stays routed until another one is adopted: if nodes die, some of its keys cannot be read, but no reader steps back in time.

A partition is routed to the nodes it is assigned to, once as many of them are ready as there should be; until then also to those that held
it before. So a store can be moved, and a node drained, while it is read.
"""

from __future__ import annotations

from fondaco.catalog import ReplicaRow, ReplicaState
from fondaco.cluster.assignment import FORGET_S, assign, eligible
from fondaco.cluster.state import ClusterState, PlacedStore, ReplicaKey
from fondaco.dataplane.routing import TTL_MS, RoutingTable, StoreRoute


class Router:
    """A state of the cluster at a moment, asked for where things are and should be."""

    def __init__(self, state: ClusterState, now_us: int, *, forget_s: float = FORGET_S, grace_us: int = 0) -> None:
        """
        Args:
            grace_us: how much longer leases are believed: after the catalog could not be reached, nobody had renewed his.
        """
        self.state, self.now_us = state, now_us
        self._leases_us = now_us - grace_us
        self._candidates = {
            store_id: eligible(store.placement, state.nodes.values(), self._leases_us, forget_s=forget_s)
            for store_id, store in state.stores.items()
        }

    def assigned(self, key: ReplicaKey) -> tuple[str, ...]:
        """The nodes that should hold a replica; none if the store is not placed."""
        store = self.state.stores.get(key.store_id)
        return assign(store.placement, self._candidates[key.store_id], key.partition) if store is not None else ()

    def ready(self, key: ReplicaKey) -> list[ReplicaRow]:
        """The replicas that live nodes can be asked for: ready, or draining and still there."""
        can = (ReplicaState.READY, ReplicaState.DRAINING)
        return [row for row in self.state.replicas.get(key, ()) if row.state in can and self.state.is_live(row.node, self._leases_us)]

    def routed(self, key: ReplicaKey) -> tuple[str, ...]:
        """The nodes that readers are sent to, the preferred ones first."""
        ready = {row.node: row for row in self.ready(key)}
        wanted = self.assigned(key)
        here = [node for node in wanted if node in ready]
        if wanted and len(here) == len(wanted):
            return tuple(here)
        settled = [node for node, row in ready.items() if node not in here and row.state is ReplicaState.READY]
        leaving = [node for node, row in ready.items() if node not in here and row.state is ReplicaState.DRAINING]
        return (*here, *sorted(settled)) if here or settled else tuple(sorted(leaving))

    def is_settled(self, key: ReplicaKey) -> bool:
        """Whether every node that should hold a replica has it ready and is live, so that others may let go of theirs."""
        ready = {row.node for row in self.ready(key) if row.state is ReplicaState.READY}
        wanted = self.assigned(key)
        return bool(wanted) and ready.issuperset(wanted)

    def is_complete(self, store: PlacedStore, version: int) -> bool:
        """Whether each partition of a version has a ready replica on a live node."""
        return all(self.ready(ReplicaKey(store.row.id, version, partition)) for partition in range(store.partitions(version)))

    def adoptions(self) -> dict[int, int]:
        """Stores whose current version is complete, and not yet the one that is routed: version by store id."""
        return {
            store_id: store.row.current
            for store_id, store in self.state.stores.items()
            if (store.row.current == 0 or store.row.current in store.versions)
            and store.row.current != store.placement.routed
            and self.is_complete(store, store.row.current)
        }

    def table(self, ttl_ms: int = TTL_MS) -> RoutingTable:
        """The routing table. A store of which nothing has been complete yet has no route."""
        routes = {store.row.name: route for store in self.state.stores.values() if (route := self._route(store)) is not None}
        return RoutingTable(epoch=self.state.epoch, as_of_us=self.now_us, ttl_ms=ttl_ms, stores=routes)

    def _route(self, store: PlacedStore) -> StoreRoute | None:
        version = store.placement.routed
        if version is None or (version and version not in store.versions):  # the latter: the catalog lost the version
            return None
        addresses = []
        for partition in range(store.partitions(version)):
            nodes = self.routed(ReplicaKey(store.row.id, version, partition))
            addresses.append(tuple(self.state.nodes[node].address for node in nodes))
        return StoreRoute(id=store.row.id, version=version, partitions=len(addresses), replicas=tuple(addresses))

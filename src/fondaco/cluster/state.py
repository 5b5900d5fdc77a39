"""Cluster state: what the catalog says of nodes, placements and replicas, read in one transaction and never changed.

Everything that decides (`assignment`, `routing`, `plan`) is a pure function of such a state and a moment, so every node that reads the same
rows comes to the same decisions, and a decision can be looked at without a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from fondaco.catalog import Catalog, NodeRow, PlacementRow, ReplicaRow, StoreRow, VersionRow, nodes, placements, replicas, stores, versions


class ReplicaKey(NamedTuple):
    """One partition of one version of one store. Version 0 is a store that was only written to; it has one partition without a file."""

    store_id: int
    version: int
    partition: int


@dataclass(frozen=True, slots=True)
class PlacedStore:
    """A live store that has a placement, with the versions that nodes should hold: those retained, and the one that is routed."""

    row: StoreRow
    placement: PlacementRow
    versions: Mapping[int, VersionRow]

    def partitions(self, version: int) -> int:
        """Partitions of one of its versions; 1 of version 0."""
        return self.versions[version].partitions if version else 1

    def wanted(self) -> list[int]:
        """The versions that nodes should hold, the most urgent first: current, routed, then the newest."""
        named = (self.row.current, self.placement.routed)
        urgent = [number for number in named if number is not None and (number == 0 or number in self.versions)]
        return list(dict.fromkeys([*urgent, *sorted(self.versions, reverse=True)]))


@dataclass(frozen=True, slots=True)
class ClusterState:
    """One snapshot of the catalog."""

    epoch: int
    stores: Mapping[int, PlacedStore]
    nodes: Mapping[str, NodeRow]
    replicas: Mapping[ReplicaKey, Sequence[ReplicaRow]]

    def is_live(self, node: str, now_us: int) -> bool:
        """Whether the lease of a node holds."""
        row = self.nodes.get(node)
        return row is not None and now_us < row.lease_until_us

    def of_node(self, node: str) -> dict[ReplicaKey, ReplicaRow]:
        """What one node says it has."""
        return {key: row for key, rows in self.replicas.items() for row in rows if row.node == node}


def read_state(catalog: Catalog, before: ClusterState | None = None) -> ClusterState:
    """Read the catalog.

    Args:
        before: what was read last. While the change counter stands still only the leases are read again; these it does not count.
    Raises:
        UnavailableError: it does not answer.
    """
    epoch = catalog.change_counter()  # before the rows: what changes in between is read again
    if before is not None and before.epoch == epoch:
        with catalog.read() as connection:
            return replace(before, nodes={row.name: row for row in nodes.all_of(connection)})
    with catalog.read() as connection:
        live = {row.id: row for row in stores.all_live(connection)}
        placed: dict[int, PlacedStore] = {}
        for placement in placements.all_of(connection):
            if placement.store_id not in live:
                continue
            held = {row.number: row for row in versions.retained(connection, placement.store_id)}
            if placement.routed and placement.routed not in held:
                routed = versions.find(connection, placement.store_id, placement.routed)
                if routed is not None:
                    held[routed.number] = routed
            placed[placement.store_id] = PlacedStore(live[placement.store_id], placement, held)
        grouped: dict[ReplicaKey, list[ReplicaRow]] = {}
        for replica in replicas.all_of(connection):
            grouped.setdefault(ReplicaKey(replica.store_id, replica.version, replica.partition), []).append(replica)
        return ClusterState(epoch, placed, {row.name: row for row in nodes.all_of(connection)}, grouped)

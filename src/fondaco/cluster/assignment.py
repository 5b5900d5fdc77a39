"""Assignment: which nodes should hold which partition, computed from the operator's placements; nothing is stored.

Rendezvous hashing: of the nodes that may hold a partition, those with the greatest hash of (store, partition, node) do. When a node comes
or goes only its own share moves, and nobody has to coordinate. With zone spread, one node of each zone is taken before a second of any.

A node whose lease has just ended stays assigned for `FORGET_S`: it is not routed to, but its share is not copied elsewhere because of a
restart. A draining node is assigned nothing.
Source: Thaler and Ravishankar 1998, "Using name-based mappings to increase hit rates".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from fondaco.catalog import NodeRow, PlacementRow

FORGET_S: Final = 60.0


def eligible(placement: PlacementRow, nodes: Iterable[NodeRow], now_us: int, *, forget_s: float = FORGET_S) -> list[NodeRow]:
    """The nodes that may hold the store's partitions now, by name."""
    horizon_us = now_us - round(forget_s * 1e6)
    return sorted(
        (
            node
            for node in nodes
            if node.cluster == placement.cluster
            and (not placement.nodes or node.name in placement.nodes)
            and not node.draining
            and node.lease_until_us > horizon_us
        ),
        key=lambda node: node.name,
    )


def assign(placement: PlacementRow, candidates: Iterable[NodeRow], partition: int) -> tuple[str, ...]:
    """The nodes that should hold one partition, the preferred one first; fewer than `placement.replicas` where there are fewer."""
    ranked = sorted(candidates, key=lambda node: _weight(placement.store_id, partition, node.name), reverse=True)
    if placement.zone_spread:
        seen: dict[str, int] = {}
        turns = []
        for node in ranked:
            turns.append(seen.get(node.zone, 0))
            seen[node.zone] = turns[-1] + 1
        ranked = [node for _, node in sorted(zip(turns, ranked, strict=True), key=lambda pair: pair[0])]
    return tuple(node.name for node in ranked[: placement.replicas])


def _weight(store_id: int, partition: int, node: str) -> bytes:
    return hashlib.blake2b(f"{store_id}/{partition}/{node}".encode(), digest_size=8).digest()

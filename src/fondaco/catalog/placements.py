"""Placements in the catalog: which cluster holds a store, how often, and where not. Functions on an open transaction.

Operators own these rows; the nodes' reconcile loops act on them. A store without one is on no node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog import tables
from fondaco.catalog.rows import PlacementRow
from fondaco.core.errors import InputError
from fondaco.core.ids import check_name

REPLICAS_MAX: Final = 64

_T = tables.placements


def assign(
    connection: Connection,
    store_id: int,
    cluster: str,
    replicas: int,
    zone_spread: bool,
    *,
    nodes: Sequence[str] = (),
    now_us: int,
) -> PlacementRow:
    """Place a store, or place it differently: it then moves while it is read.

    Args:
        replicas: copies of each partition, 1 to 64; fewer are made where there are fewer nodes.
        zone_spread: copies of one partition lie in different zones, as far as there are zones.
        nodes: only on these; empty: any of the cluster.
    Raises:
        InputError.
    """
    check_name("cluster", cluster)
    if not 1 <= replicas <= REPLICAS_MAX:
        raise InputError(f"a store has 1 to {REPLICAS_MAX} replicas, not {replicas}")
    for node in nodes:
        check_name("node", node)
    chosen = tuple(dict.fromkeys(nodes))
    values: dict[str, object] = {"cluster": cluster, "replicas": replicas, "zone_spread": zone_spread, "updated_us": now_us}
    values["nodes"] = msgspec.json.encode(chosen).decode()
    before = find(connection, store_id)
    if before is None:
        connection.execute(_T.insert().values(store_id=store_id, **values))
    else:
        connection.execute(_T.update().where(_T.c.store_id == store_id).values(**values))
    return PlacementRow(store_id, cluster, replicas, zone_spread, chosen, before.routed if before else None, now_us)


def adopt(connection: Connection, store_id: int, version: int) -> None:
    """Send readers to `version` from now on; the caller has seen, in this transaction, that all of it is there."""
    connection.execute(_T.update().where(_T.c.store_id == store_id).values(routed=version))


def remove(connection: Connection, store_id: int) -> bool:
    """Take a store off every node; whether it was placed. Its versions stay where they were pushed to."""
    return connection.execute(_T.delete().where(_T.c.store_id == store_id)).rowcount == 1


def find(connection: Connection, store_id: int) -> PlacementRow | None:
    """Where a store is to be, or None."""
    row = connection.execute(sa.select(_T).where(_T.c.store_id == store_id)).first()
    return _placement(row) if row else None


def all_of(connection: Connection) -> list[PlacementRow]:
    """Every placement, by store id; those of deleted stores included until a node has cleared up after them."""
    return [_placement(row) for row in connection.execute(sa.select(_T).order_by(_T.c.store_id))]


def _placement(row: sa.Row[Any]) -> PlacementRow:
    nodes = msgspec.json.decode(row.nodes, type=tuple[str, ...])
    return PlacementRow(row.store_id, row.cluster, row.replicas, bool(row.zone_spread), nodes, row.routed, row.updated_us)

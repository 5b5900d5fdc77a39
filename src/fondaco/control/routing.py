"""Routing of a control API: the cluster's table, and for stores that no cluster holds, the data plane beside it.

A store with a placement is where its nodes are; every other one is read from the platform's own directory, which the data plane of the
same `fondaco up` serves whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fondaco.catalog import stores, versions
from fondaco.cluster.routing import Router
from fondaco.cluster.state import read_state
from fondaco.dataplane.routing import RoutingTable, StoreRoute
from fondaco.platform import Platform


def routing_table(platform: Platform, addresses: Sequence[str]) -> RoutingTable:
    """The table as of now.

    Args:
        addresses: of the data plane, as the caller can reach it.
    """
    state = read_state(platform.catalog)
    table = Router(state, platform.clock.now_us()).table()
    routes = dict(table.stores)
    with platform.catalog.read() as connection:
        for store in stores.all_live(connection):
            if store.id in state.stores:
                continue
            version = versions.find(connection, store.id, store.current) if store.current else None
            partitions = version.partitions if version is not None else 1
            here = tuple(tuple(addresses) for _ in range(partitions))
            routes[store.name] = StoreRoute(id=store.id, version=store.current, partitions=partitions, replicas=here)
    return msgspec.structs.replace(table, stores=routes)

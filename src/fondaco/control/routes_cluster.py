"""Routes of nodes and placements: what the operator of a cluster decides. They ask for the role admin on every store.

    GET    /v1/nodes                      {"nodes": [{"name", "address", "zone", "cluster", "live", "draining", ...}]}
    POST   /v1/nodes/{node}/drain         {"draining": true}
    DELETE /v1/nodes/{node}               forget a node that is not live
    GET    /v1/placements                 {"placements": [{"store", "cluster", "replicas", "zone_spread", "nodes"}]}
    PUT    /v1/placements/{store}         {"cluster", "replicas", "zone_spread", "nodes"}
    DELETE /v1/placements/{store}         take it off every node
    GET    /v1/replicas                   {"replicas": [...]}: what each node says it has

Each is a row of the catalog that the nodes' reconcile loops act on.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec

from fondaco.catalog import nodes, placements, replicas, stores
from fondaco.catalog.rows import PlacementRow
from fondaco.control.api import Call, Operation
from fondaco.platform import Platform


class Drain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the node is to give away what it holds."""

    draining: bool


class NewPlacement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a store is to be."""

    cluster: str
    replicas: int = 1
    zone_spread: bool = False
    nodes: list[str] = []


def operations(platform: Platform) -> list[Operation]:
    """The operations on nodes and placements."""

    def list_nodes(call: Call) -> object:
        now_us = platform.clock.now_us()
        with platform.catalog.read() as connection:
            rows = nodes.all_of(connection)
        return {"nodes": [{**asdict(row), "live": row.lease_until_us > now_us} for row in rows]}

    def drain(call: Call) -> object:
        with platform.catalog.write() as connection:
            nodes.drain(connection, call.name("node"), call.body.draining)
        return {"node": call.name("node"), "draining": call.body.draining}

    def remove(call: Call) -> object:
        with platform.catalog.write() as connection:
            nodes.remove(connection, call.name("node"), now_us=platform.clock.now_us())
        return {"removed": call.name("node")}

    def list_placements(call: Call) -> object:
        with platform.catalog.read() as connection:
            names = {row.id: row.name for row in stores.all_live(connection)}
            rows = placements.all_of(connection)
        return {"placements": [_placement(names[row.store_id], row) for row in rows if row.store_id in names]}

    def place(call: Call) -> object:
        wanted: NewPlacement = call.body
        with platform.catalog.write() as connection:
            store = stores.get(connection, call.name("store"))
            row = placements.assign(
                connection,
                store.id,
                wanted.cluster,
                wanted.replicas,
                wanted.zone_spread,
                nodes=wanted.nodes,
                now_us=platform.clock.now_us(),
            )
        return _placement(store.name, row)

    def displace(call: Call) -> object:
        with platform.catalog.write() as connection:
            store = stores.get(connection, call.name("store"))
            return {"store": store.name, "was_placed": placements.remove(connection, store.id)}

    def list_replicas(call: Call) -> object:
        with platform.catalog.read() as connection:
            names = {row.id: row.name for row in stores.all_live(connection)}
            rows = replicas.all_of(connection)
        return {"replicas": [{"store": names[row.store_id], **asdict(row)} for row in rows if row.store_id in names]}

    def operation(method: str, path: str, summary: str, run: Any, **more: Any) -> Operation:
        return Operation(method=method, path=path, summary=summary, run=run, scope=None, tag="cluster", **more)

    return [
        operation("GET", "/v1/nodes", "The nodes, live or not", list_nodes),
        operation("POST", "/v1/nodes/{node}/drain", "Drain a node, or let it take part again", drain, body=Drain),
        operation("DELETE", "/v1/nodes/{node}", "Forget a node that is not live", remove),
        operation("GET", "/v1/placements", "Where stores are to be", list_placements),
        operation("PUT", "/v1/placements/{store}", "Place a store", place, body=NewPlacement),
        operation("DELETE", "/v1/placements/{store}", "Take a store off every node", displace),
        operation("GET", "/v1/replicas", "What each node says it has", list_replicas),
    ]


def _placement(store: str, row: PlacementRow) -> dict[str, object]:
    return {"store": store, **asdict(row)}

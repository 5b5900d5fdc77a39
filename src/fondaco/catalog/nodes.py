"""Nodes in the catalog: processes that serve, each for as long as its lease. Functions on an open transaction.

A node registers under its name and address and renews its lease every few seconds; when it stops doing so it leaves routing by itself. Its
row stays until the operator removes it, so that what it holds is known when it comes back.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog import tables
from fondaco.catalog.rows import NodeRow
from fondaco.core.errors import AlreadyExistsError, NodeNotFoundError, StateError
from fondaco.core.ids import check_name

_T = tables.nodes
_R = tables.replicas


def register(
    connection: Connection,
    name: str,
    address: str,
    *,
    zone: str,
    cluster: str,
    lease_until_us: int,
    now_us: int,
    files_address: str | None = None,
    files_secret: str | None = None,
) -> NodeRow:
    """Enter a node, or take its name over again after a restart; a node that was draining still is.

    Args:
        address: where it serves, as "http://10.0.0.7:7071".
        files_address, files_secret: where other nodes fetch version files from, and what they must show there.
    Raises:
        AlreadyExistsError: a live node at another address has this name, or one of another name this address.
    """
    check_name("node", name)
    check_name("zone", zone)
    check_name("cluster", cluster)
    found = find(connection, name)
    if found is not None and found.address != address and found.lease_until_us > now_us:
        raise AlreadyExistsError("node", name, f"it serves at {found.address}, not {address}; stop that one, or choose another name")
    for other in all_live(connection, now_us):
        if other.address == address and other.name != name:
            raise AlreadyExistsError("node", other.name, f"it serves at {address} already; {name!r} needs an address of its own")
    values = {"address": address, "zone": zone, "cluster": cluster, "lease_until_us": lease_until_us, "registered_us": now_us}
    values |= {"files_address": files_address, "files_secret": files_secret}
    if found is None:
        connection.execute(_T.insert().values(name=name, **values))
    else:
        connection.execute(_T.update().where(_T.c.name == name).values(**values))
    return get(connection, name)


def files_secret(connection: Connection, name: str) -> str | None:
    """What must be shown at the node's `files_address`; kept out of `NodeRow`, which is listed and logged."""
    secret: str | None = connection.execute(sa.select(_T.c.files_secret).where(_T.c.name == name)).scalar()
    return secret


def renew(connection: Connection, name: str, address: str, lease_until_us: int) -> bool:
    """Prolong the lease; False if the node is no longer known under this name and address, and must register again.

    Best inside `Catalog.write(quiet=True)`: a renewal changes nothing that anybody caches.
    """
    renewed = _T.update().where(_T.c.name == name, _T.c.address == address).values(lease_until_us=lease_until_us)
    return connection.execute(renewed).rowcount == 1


def find(connection: Connection, name: str) -> NodeRow | None:
    """The node of this name, live or not, or None."""
    row = connection.execute(sa.select(_T).where(_T.c.name == name)).first()
    return _node(row) if row else None


def get(connection: Connection, name: str) -> NodeRow:
    """The node of this name, live or not.

    Raises:
        NodeNotFoundError: there is none; suggests the nearest.
    """
    found = find(connection, name)
    if found is None:
        raise NodeNotFoundError(name, [row.name for row in all_of(connection)])
    return found


def all_of(connection: Connection) -> list[NodeRow]:
    """Every node, live or not, by name."""
    return [_node(row) for row in connection.execute(sa.select(_T).order_by(_T.c.name))]


def all_live(connection: Connection, now_us: int) -> list[NodeRow]:
    """The nodes whose lease holds, draining ones included, by name."""
    return [row for row in all_of(connection) if row.lease_until_us > now_us]


def drain(connection: Connection, name: str, draining: bool) -> None:
    """Let a node give away what it holds, and be given nothing; or, with False, take part again.

    Raises:
        NodeNotFoundError.
    """
    get(connection, name)
    connection.execute(_T.update().where(_T.c.name == name).values(draining=draining))


def remove(connection: Connection, name: str, *, now_us: int) -> None:
    """Forget a node, and what it held.

    Raises:
        NodeNotFoundError. StateError: it is live; stop it first, or it would come back.
    """
    if get(connection, name).lease_until_us > now_us:
        raise StateError(f"node {name!r} is live; drain it, stop it, and remove it when its lease has ended")
    connection.execute(_R.delete().where(_R.c.node == name))
    connection.execute(_T.delete().where(_T.c.name == name))


def _node(row: sa.Row[Any]) -> NodeRow:
    return NodeRow(
        row.name, row.address, row.zone, row.cluster, row.lease_until_us, bool(row.draining), row.registered_us, row.files_address
    )

"""Replicas in the catalog: what each node says it can serve. Functions on an open transaction.

Only the node itself writes its rows (and `nodes.remove` those of a dead one), so there is no quarrel about them. A row says what is; what
ought to be is computed from the placements.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog import tables
from fondaco.catalog.rows import ReplicaRow, ReplicaState

_T = tables.replicas


def report(connection: Connection, rows: Iterable[ReplicaRow]) -> None:
    """Enter what a node holds, or say anew how it stands."""
    for row in rows:
        connection.execute(
            _T.delete().where(
                _T.c.store_id == row.store_id, _T.c.version == row.version, _T.c.partition == row.partition, _T.c.node == row.node
            )
        )
        connection.execute(
            _T.insert().values(
                store_id=row.store_id,
                version=row.version,
                partition=row.partition,
                node=row.node,
                state=row.state,
                bytes=row.bytes,
                error=row.error,
                updated_us=row.updated_us,
            )
        )


def remove(connection: Connection, store_id: int, version: int, partition: int, node: str) -> None:
    """Say that a node does not have it any more; it is said before the file goes."""
    connection.execute(
        _T.delete().where(_T.c.store_id == store_id, _T.c.version == version, _T.c.partition == partition, _T.c.node == node)
    )


def all_of(connection: Connection, *, store_id: int | None = None, node: str | None = None) -> list[ReplicaRow]:
    """Every replica (of one store, on one node), by store, version, partition, node."""
    query = sa.select(_T).order_by(_T.c.store_id, _T.c.version, _T.c.partition, _T.c.node)
    if store_id is not None:
        query = query.where(_T.c.store_id == store_id)
    if node is not None:
        query = query.where(_T.c.node == node)
    return [_replica(row) for row in connection.execute(query)]


def _replica(row: sa.Row[Any]) -> ReplicaRow:
    state = ReplicaState(row.state)
    return ReplicaRow(row.store_id, row.version, row.partition, row.node, state, row.bytes, row.error, row.updated_us)

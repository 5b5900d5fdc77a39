"""Graphs in the catalog: their names, and the numbers and states of their versions. Functions on an open transaction.

A graph is in the catalog from the moment its first version begins to be built; `names` lists those that have one whose files exist. Nothing
is ever deleted: a number that was given once is never given again, also not to a graph of the same name created later. Versions follow
the rules of those of stores (`generations`).
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog import tables
from fondaco.catalog.generations import Generations
from fondaco.catalog.rows import AT_WORK, RETAINED, GraphRow, GraphVersionRow, VersionState
from fondaco.core.errors import GraphNotFoundError

_T = tables.graphs
_V = tables.graph_versions


def _graph(row: sa.Row[Any]) -> GraphRow:
    return GraphRow(row.id, row.name, row.keep, row.current, row.created_us)


def _version(row: sa.Row[Any]) -> GraphVersionRow:
    return GraphVersionRow(
        row.number,
        VersionState(row.state),
        row.build_id,
        row.pid,
        row.partitions,
        row.nodes,
        row.edges,
        row.bytes,
        row.created_us,
        row.ready_us,
        row.promoted_us,
        row.rolled_back_us,
        row.error_class,
        row.error_message,
    )


GENERATIONS: Final = Generations("graph", _T, _V, _V.c.graph_id, _version)


def find(connection: Connection, name: str) -> GraphRow | None:
    """The live graph called `name`, also one without a version yet, or None."""
    row = connection.execute(sa.select(_T).where(_T.c.name == name, _T.c.deleted_us.is_(None))).first()
    return _graph(row) if row else None


def get(connection: Connection, name: str) -> GraphRow:
    """The graph called `name`, if it has a version.

    Raises:
        GraphNotFoundError: there is none; suggests the nearest name.
    """
    known = names(connection)
    found = find(connection, name) if name in known else None
    if found is None:
        raise GraphNotFoundError(name, known)
    return found


def check_live(connection: Connection, graph: GraphRow) -> None:
    """Make sure that a graph looked up earlier was not deleted since; a new one of the same name is another graph.

    Raises:
        GraphNotFoundError: it was.
    """
    if connection.execute(sa.select(_T.c.id).where(_T.c.id == graph.id, _T.c.deleted_us.is_(None))).first() is None:
        raise GraphNotFoundError(graph.name, [name for name in names(connection) if name != graph.name])


def all_live(connection: Connection) -> list[GraphRow]:
    """Every graph that is not deleted, by name, also those without a version yet."""
    rows = connection.execute(sa.select(_T).where(_T.c.deleted_us.is_(None)).order_by(_T.c.name))
    return [_graph(row) for row in rows]


def names(connection: Connection) -> list[str]:
    """The names of the graphs that have a version whose files exist, in order."""
    joined = _T.join(_V, _V.c.graph_id == _T.c.id)
    query = sa.select(_T.c.name).select_from(joined).where(_T.c.deleted_us.is_(None), _V.c.state.in_(RETAINED))
    return list(connection.execute(query.distinct().order_by(_T.c.name)).scalars())


def create(connection: Connection, name: str, *, keep: int, now_us: int) -> GraphRow:
    """Enter a new graph. Numbers go on where a deleted graph of this name left off."""
    used = connection.execute(sa.select(sa.func.max(_T.c.next_version)).where(_T.c.name == name)).scalar()
    connection.execute(_T.insert().values(name=name, keep=keep, next_version=used or 1, created_us=now_us))
    found = find(connection, name)
    assert found is not None
    return found


def set_keep(connection: Connection, graph_id: int, keep: int) -> None:
    """Change how many versions are kept, from the next swap on."""
    connection.execute(_T.update().where(_T.c.id == graph_id).values(keep=keep))


def delete(connection: Connection, graph_id: int, *, now_us: int) -> None:
    """Mark a graph as deleted, and the versions that it had as retired."""
    for version in GENERATIONS.retained(connection, graph_id):
        GENERATIONS.update(connection, graph_id, version.number, state=VersionState.RETIRED)
    connection.execute(_T.update().where(_T.c.id == graph_id).values(deleted_us=now_us, current=0))


def at_work(connection: Connection, graph_id: int) -> list[GraphVersionRow]:
    """Versions that are being built, or whose builder died."""
    return [version for version in GENERATIONS.all_of(connection, graph_id) if version.state in AT_WORK]

"""Versions in the catalog: numbers, states, and which one is current. Functions on an open transaction.

`stores.current` and the state CURRENT always change together, in `promote`; at most one version of a store is CURRENT.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog import tables
from fondaco.catalog.rows import RETAINED, VersionRow, VersionState
from fondaco.core.errors import VersionNotFoundError

_T = tables.versions
_STORES = tables.stores


def all_of(connection: Connection, store_id: int) -> list[VersionRow]:
    """Every version the store ever had, oldest first, failed and retired ones included."""
    rows = connection.execute(sa.select(_T).where(_T.c.store_id == store_id).order_by(_T.c.number))
    return [_version(row) for row in rows]


def retained(connection: Connection, store_id: int) -> list[VersionRow]:
    """The versions whose files exist: READY, CURRENT and BACKUP, oldest first."""
    rows = connection.execute(sa.select(_T).where(_T.c.store_id == store_id, _T.c.state.in_(RETAINED)).order_by(_T.c.number))
    return [_version(row) for row in rows]


def find(connection: Connection, store_id: int, number: int) -> VersionRow | None:
    """One version in whatever state, or None if the store never had it."""
    row = connection.execute(sa.select(_T).where(_T.c.store_id == store_id, _T.c.number == number)).first()
    return _version(row) if row else None


def get_retained(connection: Connection, store_id: int, store: str, number: int) -> VersionRow:
    """One version whose files exist.

    Raises:
        VersionNotFoundError: there is none of this number; names those that exist.
    """
    versions = retained(connection, store_id)
    for version in versions:
        if version.number == number:
            return version
    raise VersionNotFoundError(store, number, [version.number for version in versions])


def allocate(
    connection: Connection,
    store_id: int,
    *,
    push_id: str,
    schema_number: int,
    partitions: int,
    as_of_us: int,
    now_us: int,
    at_least: int = 1,
) -> int:
    """Give the next version number (and `at_least` this one) to a push; the number is used up whatever becomes of the push."""
    number = connection.execute(sa.select(_STORES.c.next_version).where(_STORES.c.id == store_id)).scalar_one()
    number = max(int(number), at_least)
    connection.execute(_STORES.update().where(_STORES.c.id == store_id).values(next_version=number + 1))
    connection.execute(
        _T.insert().values(
            store_id=store_id,
            number=number,
            state=VersionState.STARTED,
            push_id=push_id,
            schema_number=schema_number,
            partitions=partitions,
            as_of_us=as_of_us,
            created_us=now_us,
        )
    )
    return number


def update(connection: Connection, store_id: int, number: int, **values: object) -> None:
    """Change columns of one version."""
    connection.execute(_T.update().where(_T.c.store_id == store_id, _T.c.number == number).values(**values))


def current(connection: Connection, store_id: int) -> int:
    """The current version's number, 0 when there is none (or the store was deleted)."""
    return int(connection.execute(sa.select(_STORES.c.current).where(_STORES.c.id == store_id)).scalar_one())


def promote(connection: Connection, store_id: int, number: int, *, now_us: int, rollback: bool = False) -> int:
    """Make a retained version current and the former current one a backup; return the former's number (0: there was none).

    The caller has checked, in this transaction, that the version is retained. `rollback` marks the former as rolled back.
    """
    former = current(connection, store_id)
    if former and former != number:
        update(connection, store_id, former, state=VersionState.BACKUP, rolled_back_us=now_us if rollback else None)
    update(connection, store_id, number, state=VersionState.CURRENT, promoted_us=now_us, rolled_back_us=None)
    connection.execute(_STORES.update().where(_STORES.c.id == store_id).values(current=number))
    return former


def demote_lost(connection: Connection, store_id: int) -> int:
    """If the current version is none whose files exist, make the newest good backup current, or none; return what was current, else 0.

    No step of ours leads there: whoever comes here finds a catalog that was damaged, or written by an older Fondaco.
    """
    lost = current(connection, store_id)
    kept = retained(connection, store_id)
    if not lost or any(row.number == lost for row in kept):
        return 0
    backups = [row for row in kept if row.state is VersionState.BACKUP]
    newest = max(backups, key=lambda row: (row.rolled_back_us is None, row.number), default=None)
    if newest is not None:
        update(connection, store_id, newest.number, state=VersionState.CURRENT, rolled_back_us=None)
    connection.execute(_STORES.update().where(_STORES.c.id == store_id).values(current=newest.number if newest else 0))
    return lost


def _version(row: sa.Row[Any]) -> VersionRow:
    return VersionRow(
        row.number,
        VersionState(row.state),
        row.push_id,
        row.schema_number,
        row.partitions,
        row.records,
        row.bytes,
        row.compression,
        row.as_of_us,
        row.created_us,
        row.ready_us,
        row.promoted_us,
        row.rolled_back_us,
    )

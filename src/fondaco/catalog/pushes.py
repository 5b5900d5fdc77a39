"""Pushes in the catalog: one row per attempt to bring rows in, kept for ever. Functions on an open transaction.

A push of kind "batch" builds a version, and is named by it; one of kind "incremental" writes into the overlay, builds no version, and is
named by the number that `insert` returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog import tables
from fondaco.catalog.rows import AT_WORK, PushRow, VersionState

_T = tables.pushes
_V = tables.versions
_JSON = ("compression_sample", "steps", "built_from")


def insert(
    connection: Connection,
    store_id: int,
    *,
    push_id: str,
    version: int | None,
    pid: int,
    partitions: int,
    built_from: object,
    now_us: int,
    kind: Literal["batch", "incremental"] = "batch",
) -> int:
    """Enter a push that starts now; returns its number. `version` is None for an incremental one, and only for such."""
    statement = _T.insert().values(
        store_id=store_id,
        push_id=push_id,
        version=version,
        kind=kind,
        state=VersionState.STARTED,
        pid=pid,
        partitions=partitions,
        started_us=now_us,
        built_from=_encode(built_from),
    )
    return int(connection.execute(statement.returning(_T.c.id)).scalar_one())


def update(connection: Connection, store_id: int, version: int, **values: object) -> None:
    """Change columns of the push that builds `version`; values of the JSON columns are encoded here."""
    connection.execute(_T.update().where(_T.c.store_id == store_id, _T.c.version == version).values(**_encoded(values)))


def update_by_id(connection: Connection, push: int, **values: object) -> None:
    """Change columns of the push of this number (`insert`, `PushRow.id`), of either kind."""
    connection.execute(_T.update().where(_T.c.id == push).values(**_encoded(values)))


def find_latest(connection: Connection, store_id: int, push_id: str) -> PushRow | None:
    """The latest attempt under this push id, of either kind, or None."""
    rows = sa.select(_T).where(_T.c.store_id == store_id, _T.c.push_id == push_id).order_by(_T.c.id.desc()).limit(1)
    row = connection.execute(rows).first()
    return _push(row) if row else None


def at_work(connection: Connection, store_id: int, kind: Literal["batch", "incremental"] = "batch") -> list[PushRow]:
    """Pushes that have not ended; more than one batch push only while what a dead process left is not yet recovered."""
    rows = sa.select(_T).where(_T.c.store_id == store_id, _T.c.state.in_(AT_WORK), _T.c.kind == kind)
    return [_push(row) for row in connection.execute(rows.order_by(_T.c.id))]


def all_of(connection: Connection, store_id: int) -> list[PushRow]:
    """Every push of the store, oldest first, each with the state that its version has now (its own was settled when it ended)."""
    present = (_V.c.store_id == _T.c.store_id) & (_V.c.number == _T.c.version)
    both = sa.select(_T, _V.c.state.label("version_state")).join_from(_T, _V, present, isouter=True)
    rows = connection.execute(both.where(_T.c.store_id == store_id).order_by(_T.c.id))
    return [replace(_push(row), state=VersionState(row.version_state or row.state)) for row in rows]


def count_by_state(connection: Connection, store_id: int) -> dict[str, int]:
    """How many pushes of the store are in each state now, the state being as in `all_of`."""
    present = (_V.c.store_id == _T.c.store_id) & (_V.c.number == _T.c.version)
    state = sa.func.coalesce(_V.c.state, _T.c.state)
    counts = sa.select(state, sa.func.count()).select_from(_T.join(_V, present, isouter=True)).where(_T.c.store_id == store_id)
    return {str(found): int(count) for found, count in connection.execute(counts.group_by(state))}


def kill_requested(connection: Connection, store_id: int, version: int) -> bool:
    """Whether somebody asked the push that builds `version` to stop."""
    return bool(connection.execute(sa.select(_T.c.kill_requested).where(_T.c.store_id == store_id, _T.c.version == version)).scalar())


def _encoded(values: Mapping[str, object]) -> dict[str, object]:
    return {name: _encode(value) if name in _JSON else value for name, value in values.items()}


def _encode(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _push(row: sa.Row[Any]) -> PushRow:
    values = {name: row._mapping[name] for name in PushRow.__dataclass_fields__}
    for name in _JSON:
        values[name] = None if values[name] is None else msgspec.json.decode(values[name])
    return PushRow(**{**values, "state": VersionState(row.state), "version": row.version or 0})

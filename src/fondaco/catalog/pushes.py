"""Pushes in the catalog: one row per attempt to build a version, kept for ever. Functions on an open transaction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog import tables
from fondaco.catalog.rows import AT_WORK, PushRow, VersionState

_T = tables.pushes
_V = tables.versions
_JSON = ("compression_sample", "steps", "built_from")


def insert(
    connection: Connection, store_id: int, *, push_id: str, version: int, pid: int, partitions: int, built_from: object, now_us: int
) -> None:
    """Enter a push that starts now."""
    connection.execute(
        _T.insert().values(
            store_id=store_id,
            push_id=push_id,
            version=version,
            state=VersionState.STARTED,
            pid=pid,
            partitions=partitions,
            started_us=now_us,
            built_from=_encode(built_from),
        )
    )


def update(connection: Connection, store_id: int, version: int, **values: object) -> None:
    """Change columns of the push that builds `version`; values of the JSON columns are encoded here."""
    encoded = {name: _encode(value) if name in _JSON else value for name, value in values.items()}
    connection.execute(_T.update().where(_T.c.store_id == store_id, _T.c.version == version).values(**encoded))


def find_latest(connection: Connection, store_id: int, push_id: str) -> PushRow | None:
    """The latest attempt under this push id, or None."""
    rows = sa.select(_T).where(_T.c.store_id == store_id, _T.c.push_id == push_id).order_by(_T.c.id.desc()).limit(1)
    row = connection.execute(rows).first()
    return _push(row) if row else None


def at_work(connection: Connection, store_id: int) -> list[PushRow]:
    """Pushes that have not ended; more than one only while what a dead process left is not yet recovered."""
    rows = connection.execute(sa.select(_T).where(_T.c.store_id == store_id, _T.c.state.in_(AT_WORK)).order_by(_T.c.id))
    return [_push(row) for row in rows]


def all_of(connection: Connection, store_id: int) -> list[PushRow]:
    """Every push of the store, oldest first, each with the state that its version has now (its own was settled when it ended)."""
    present = (_V.c.store_id == _T.c.store_id) & (_V.c.number == _T.c.version)
    rows = connection.execute(
        sa.select(_T, _V.c.state.label("version_state")).join_from(_T, _V, present).where(_T.c.store_id == store_id).order_by(_T.c.id)
    )
    return [replace(_push(row), state=VersionState(row.version_state)) for row in rows]


def kill_requested(connection: Connection, store_id: int, version: int) -> bool:
    """Whether somebody asked the push that builds `version` to stop."""
    return bool(connection.execute(sa.select(_T.c.kill_requested).where(_T.c.store_id == store_id, _T.c.version == version)).scalar())


def _encode(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _push(row: sa.Row[Any]) -> PushRow:
    values = {name: row._mapping[name] for name in PushRow.__dataclass_fields__}
    for name in _JSON:
        values[name] = None if values[name] is None else msgspec.json.decode(values[name])
    return PushRow(**{**values, "state": VersionState(row.state)})

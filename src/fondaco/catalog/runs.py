"""Runs in the catalog: jobs that were started, on which versions, and how they ended. Functions on an open transaction.

A launcher begins a run, says every few seconds that it is still there (`heartbeat`), and finishes it. One that is not heard of any more is
LOST. Values of variables that may be secrets are never given to these functions.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog import tables
from fondaco.catalog.rows import RunRow, RunState
from fondaco.core.errors import RunNotFoundError

AT_WORK: Final = frozenset({RunState.PREPARING, RunState.RUNNING})

_T = tables.runs
_DOCUMENTS: Final = frozenset({"command", "graphs", "features", "services", "environment", "variables"})


def new_id() -> str:
    """An id that no other run has: 48 random bits as hex."""
    return f"run-{secrets.token_hex(6)}"


def begin(
    connection: Connection,
    run_id: str,
    *,
    name: str,
    command: Sequence[str],
    directory: str,
    holder: str,
    pid: int,
    host: str,
    now_us: int,
    graphs: Mapping[str, int] | None = None,
    features: Mapping[str, str] | None = None,
    services: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> RunRow:
    """Enter a run that is being prepared."""
    values: dict[str, Any] = {
        "command": list(command), "graphs": dict(graphs or {}), "features": dict(features or {}), "services": list(services),
        "environment": dict(environment or {}), "variables": dict(variables or {}),
    }  # fmt: skip
    connection.execute(
        _T.insert().values(
            id=run_id, name=name, directory=directory, state=RunState.PREPARING, started_us=now_us, heartbeat_us=now_us, holder=holder,
            pid=pid, host=host, **_encoded(values),
        )
    )  # fmt: skip
    return get(connection, run_id)


def update(connection: Connection, run_id: str, **values: Any) -> None:
    """Change what is known of a run: `state`, `graphs`, `features`, `services`, `environment`, `variables`, ..."""
    connection.execute(_T.update().where(_T.c.id == run_id).values(**_encoded(values)))


def heartbeat(connection: Connection, run_id: str, *, now_us: int) -> bool:
    """Say that the run is still there; one that was thought lost is running again. False if there is no such run, or it has ended.

    Best inside `Catalog.write(quiet=True)`.
    """
    state = sa.case((_T.c.state == RunState.LOST, RunState.RUNNING.value), else_=_T.c.state)
    ended = sa.case((_T.c.state == RunState.LOST, None), else_=_T.c.ended_us)
    beating = _T.update().where(_T.c.id == run_id, _T.c.state.in_([*AT_WORK, RunState.LOST]))
    return connection.execute(beating.values(heartbeat_us=now_us, state=state, ended_us=ended)).rowcount == 1


def finish(
    connection: Connection, run_id: str, state: RunState, *, now_us: int, exit_code: int | None = None, signal: int | None = None
) -> None:
    """Note how a run ended."""
    values = {"state": state, "exit_code": exit_code, "signal": signal, "ended_us": now_us, "heartbeat_us": now_us}
    connection.execute(_T.update().where(_T.c.id == run_id).values(**values))


def get(connection: Connection, run: str) -> RunRow:
    """The run of this id, or the newest one of this name.

    Raises:
        RunNotFoundError: there never was one; suggests the nearest.
    """
    newest = sa.select(_T).where(_T.c.name == run).order_by(_T.c.started_us.desc(), _T.c.id).limit(1)
    row = connection.execute(sa.select(_T).where(_T.c.id == run)).first() or connection.execute(newest).first()
    if row is None:
        known = all_of(connection, limit=100)
        raise RunNotFoundError(run, [name for there in known for name in dict.fromkeys((there.id, there.name))])
    return _run(row)


def all_of(connection: Connection, limit: int | None = None) -> list[RunRow]:
    """The runs there were, newest first."""
    return [_run(row) for row in connection.execute(sa.select(_T).order_by(_T.c.started_us.desc(), _T.c.id).limit(limit))]


def lost(connection: Connection, *, heard_before_us: int, now_us: int) -> list[RunRow]:
    """Mark as LOST the runs at work that were not heard of since `heard_before_us`; returns them."""
    silent = (_T.c.state.in_(AT_WORK), _T.c.heartbeat_us < heard_before_us)
    found = [row.id for row in connection.execute(sa.select(_T.c.id).where(*silent).order_by(_T.c.id))]
    if found:
        connection.execute(_T.update().where(*silent).values(state=RunState.LOST, ended_us=now_us))
    return [get(connection, run_id) for run_id in found]


def _encoded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: msgspec.json.encode(value).decode() if name in _DOCUMENTS else value for name, value in values.items()}


def _run(row: sa.Row[Any]) -> RunRow:
    documents = {name: msgspec.json.decode(getattr(row, name)) for name in _DOCUMENTS}
    return RunRow(
        row.id, row.name, tuple(documents["command"]), row.directory, RunState(row.state), row.exit_code, row.signal, row.started_us,
        row.ended_us, row.heartbeat_us, row.holder, row.pid, row.host, documents["graphs"], documents["features"],
        tuple(documents["services"]), documents["environment"], documents["variables"],
    )  # fmt: skip

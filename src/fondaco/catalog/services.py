"""Data services in the catalog: what shall run, where, and who holds it. Functions on an open transaction.

At most one service of a name is LIVE; others of it may be on their way out (REMOVING), each with its own incarnation. A row stays after the
service is gone (`removed_us`), so that whatever a slow process makes of it later is known for what it is.

An incarnation is the time of its making in milliseconds, or one more than the greatest there is: also a catalog that was lost and begun
anew gives none that an earlier one gave. Times are the caller's wall clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fondaco.catalog import tables
from fondaco.catalog.rows import LeaseRow, ServiceRow, ServiceState
from fondaco.core.errors import ServiceNotFoundError

_T = tables.services
_L = tables.service_leases
_LIVE = _T.c.state == ServiceState.LIVE
_THERE = _T.c.removed_us.is_(None)
_IDS_AT_ONCE: Final = 500  # parameters of one statement; SQLite of old took 999


def find(connection: Connection, name: str) -> ServiceRow | None:
    """The live service of this name, or None."""
    row = connection.execute(sa.select(_T).where(_T.c.name == name, _LIVE)).first()
    return _service(row) if row else None


def get(connection: Connection, name: str) -> ServiceRow:
    """The live service of this name.

    Raises:
        ServiceNotFoundError: there is none; suggests the nearest.
    """
    found = find(connection, name)
    if found is None:
        raise ServiceNotFoundError(name, names(connection))
    return found


def get_incarnation(connection: Connection, service_id: int) -> ServiceRow | None:
    """The service of this incarnation, in whatever state, also after it is gone; or None."""
    row = connection.execute(sa.select(_T).where(_T.c.id == service_id)).first()
    return _service(row) if row else None


def newest_gone(connection: Connection, name: str) -> ServiceRow | None:
    """The newest service of this name of which nothing is left, or None."""
    row = connection.execute(sa.select(_T).where(_T.c.name == name, sa.not_(_THERE)).order_by(_T.c.id.desc()).limit(1)).first()
    return _service(row) if row else None


def removing(connection: Connection, name: str) -> list[ServiceRow]:
    """The services of this name that are on their way out, newest first."""
    rows = connection.execute(sa.select(_T).where(_T.c.name == name, _THERE, sa.not_(_LIVE)).order_by(_T.c.id.desc()))
    return [_service(row) for row in rows]


def names(connection: Connection) -> list[str]:
    """The names of the live services, in order."""
    return list(connection.execute(sa.select(_T.c.name).where(_LIVE).order_by(_T.c.name)).scalars())


def all_of(connection: Connection) -> list[ServiceRow]:
    """Every service that is not gone, live or on its way out, by name."""
    return [_service(row) for row in connection.execute(sa.select(_T).where(_THERE).order_by(_T.c.name, _T.c.id))]


def any_ever(connection: Connection) -> bool:
    """Whether there ever was a service: if not, this catalog may be a new one in front of services that run."""
    return connection.execute(sa.select(_T.c.id).limit(1)).first() is not None


def known(connection: Connection, service_ids: Iterable[int]) -> dict[int, ServiceRow]:
    """Those of the incarnations that the catalog knows, gone ones included."""
    wanted, found = sorted(set(service_ids)), {}
    for begin in range(0, len(wanted), _IDS_AT_ONCE):
        for row in connection.execute(sa.select(_T).where(_T.c.id.in_(wanted[begin : begin + _IDS_AT_ONCE]))):
            found[row.id] = _service(row)
    return found


def create(
    connection: Connection,
    name: str,
    *,
    identity: str,
    spec: Mapping[str, Any],
    cluster: str,
    replicas: int,
    ttl_us: int,
    now_us: int,
    incarnation: int | None = None,
    idle_since_us: int | None = None,
    state: ServiceState = ServiceState.LIVE,
    reason: str = "",
) -> ServiceRow:
    """Enter a service; the caller has seen, in this transaction, that none of this name is live (if this one shall be).

    Args:
        incarnation: of something that runs and has no row; None: a new one.
    """
    if incarnation is None:
        last = connection.execute(sa.select(sa.func.max(_T.c.id))).scalar() or 0
        incarnation = max(last + 1, now_us // 1000)
    connection.execute(
        _T.insert().values(
            id=incarnation, name=name, identity=identity, spec=_json(spec), cluster=cluster, replicas=replicas, state=state, ttl_us=ttl_us,
            created_us=now_us, idle_since_us=idle_since_us, reason=reason,
        )
    )  # fmt: skip
    found = get_incarnation(connection, incarnation)
    assert found is not None
    return found


def update(connection: Connection, service_id: int, **values: Any) -> None:
    """Change columns of a service; `spec` is a mapping."""
    if "spec" in values:
        values["spec"] = _json(values["spec"])
    connection.execute(_T.update().where(_T.c.id == service_id).values(**values))


# -- leases -----------------------------------------------------------------------------------------------------------------------------


def take_lease(connection: Connection, service_id: int, holder: str, *, expires_us: int | None, now_us: int, note: str = "") -> bool:
    """Have a holder hold a live service until `expires_us` (None: until it is released); never shorter than it does already.

    Returns:
        whether the holder is a new one.
    """
    if renew(connection, service_id, holder, expires_us):
        return False
    connection.execute(_L.insert().values(service_id=service_id, holder=holder, acquired_us=now_us, expires_us=expires_us, note=note))
    connection.execute(_T.update().where(_T.c.id == service_id, _T.c.idle_since_us.is_not(None)).values(idle_since_us=None))
    return True


def renew(connection: Connection, service_id: int, holder: str, expires_us: int | None, *, exactly: bool = False) -> bool:
    """Prolong a lease, never shorten it unless `exactly` is said; False if the holder has none, or the service is not live.

    Best inside `Catalog.write(quiet=True)`.
    """
    if exactly:
        later: Any = expires_us
    elif expires_us is None:
        later = None
    else:
        later = sa.case((sa.or_(_L.c.expires_us.is_(None), _L.c.expires_us > expires_us), _L.c.expires_us), else_=expires_us)
    live = sa.exists().where(_T.c.id == service_id, _LIVE)
    renewed = _L.update().where(_L.c.service_id == service_id, _L.c.holder == holder, live).values(expires_us=later)
    return connection.execute(renewed).rowcount == 1


def release(connection: Connection, service_id: int, holder: str, *, now_us: int) -> bool:
    """End a holder's lease; after the last one the service is idle. Whether there was one."""
    ended = connection.execute(_L.delete().where(_L.c.service_id == service_id, _L.c.holder == holder)).rowcount == 1
    if ended:
        _mark_idle(connection, now_us, service_id)
    return ended


def release_all(connection: Connection, service_id: int) -> None:
    """End every lease of a service that is being removed."""
    connection.execute(_L.delete().where(_L.c.service_id == service_id))


def leases(connection: Connection, service_id: int) -> list[LeaseRow]:
    """The leases of a service, oldest first; also ones that have run out and were not looked at since."""
    rows = connection.execute(sa.select(_L).where(_L.c.service_id == service_id).order_by(_L.c.acquired_us, _L.c.holder))
    return [_lease(row) for row in rows]


def all_leases(connection: Connection) -> dict[int, list[LeaseRow]]:
    """Every lease, by incarnation, oldest first."""
    found: dict[int, list[LeaseRow]] = {}
    for row in connection.execute(sa.select(_L).order_by(_L.c.acquired_us, _L.c.holder)):
        found.setdefault(row.service_id, []).append(_lease(row))
    return found


# -- what time does ---------------------------------------------------------------------------------------------------------------------


def is_something_over(connection: Connection, now_us: int) -> bool:
    """Whether `expire` or `begin_removal_of_due` would change anything."""
    return bool(connection.execute(sa.select(sa.or_(sa.exists().where(_expired(now_us)), sa.exists().where(_due(now_us))))).scalar())


def expire(connection: Connection, now_us: int) -> list[LeaseRow]:
    """End the leases that have run out; services without any are idle from now (not from when the lease ran out: a clock that was set
    forward, or a catalog that was away, then costs nobody the service within its ttl)."""
    over = [_lease(row) for row in connection.execute(sa.select(_L).where(_expired(now_us)).order_by(_L.c.service_id, _L.c.holder))]
    if over:
        connection.execute(_L.delete().where(_expired(now_us)))
    _mark_idle(connection, now_us)
    return over


def begin_removal_of_due(connection: Connection, now_us: int) -> list[ServiceRow]:
    """Have the services removed that nobody has held for their ttl. After `expire`, in the same transaction."""
    due = [_service(row) for row in connection.execute(sa.select(_T).where(_due(now_us)).order_by(_T.c.name))]
    if due:
        connection.execute(_T.update().where(_due(now_us)).values(state=ServiceState.REMOVING, reason="nobody used it for its ttl"))
    return due


def begin_removal(connection: Connection, service_id: int, *, now_us: int, reason: str) -> None:
    """Have one removed, whoever holds it; also one that was thought to be gone."""
    release_all(connection, service_id)
    values: dict[str, Any] = {"state": ServiceState.REMOVING, "removed_us": None, "reason": reason}
    values["idle_since_us"] = sa.func.coalesce(_T.c.idle_since_us, now_us)
    connection.execute(_T.update().where(_T.c.id == service_id).values(**values))


def end_removal(connection: Connection, service_ids: Iterable[int], *, now_us: int) -> None:
    """Note that nothing is left of services that were on their way out."""
    wanted = sorted(set(service_ids))
    for begin in range(0, len(wanted), _IDS_AT_ONCE):
        chosen = (_T.c.id.in_(wanted[begin : begin + _IDS_AT_ONCE]), _THERE, sa.not_(_LIVE))
        connection.execute(_T.update().where(*chosen).values(removed_us=now_us))


def _mark_idle(connection: Connection, now_us: int, service_id: int | None = None) -> None:
    held = sa.exists().where(_L.c.service_id == _T.c.id)
    which = [_T.c.id == service_id] if service_id is not None else []
    connection.execute(_T.update().where(*which, _LIVE, _T.c.idle_since_us.is_(None), sa.not_(held)).values(idle_since_us=now_us))


def _expired(now_us: int) -> Any:
    return _L.c.expires_us <= now_us


def _due(now_us: int) -> Any:
    held = sa.exists().where(_L.c.service_id == _T.c.id)
    return sa.and_(_LIVE, _T.c.idle_since_us.is_not(None), _T.c.idle_since_us + _T.c.ttl_us <= now_us, sa.not_(held))


def _json(document: Mapping[str, Any]) -> str:
    return msgspec.json.encode(document).decode()


def _service(row: sa.Row[Any]) -> ServiceRow:
    return ServiceRow(
        row.id, row.name, row.identity, msgspec.json.decode(row.spec), row.cluster, row.replicas, ServiceState(row.state), row.ttl_us,
        row.created_us, row.idle_since_us, row.removed_us, row.reason,
    )  # fmt: skip


def _lease(row: sa.Row[Any]) -> LeaseRow:
    return LeaseRow(row.service_id, row.holder, row.acquired_us, row.expires_us, row.note)

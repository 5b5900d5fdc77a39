"""Status: how a data service stands: what the catalog decided together with what its provisioner sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from fondaco.services.provisioner import Instance, Observed, Phase
from fondaco.services.resolution import environment
from fondaco.services.settings import Source

if TYPE_CHECKING:
    from fondaco.catalog import LeaseRow, ServiceRow


class Holder(msgspec.Struct, frozen=True):
    """Who keeps a service, since when, and until when (None: until it is released)."""

    holder: str
    acquired_us: int
    expires_us: int | None
    note: str = ""


class ServiceStatus(msgspec.Struct, frozen=True):
    """How a service stands at one moment. Times are microseconds since the epoch.

    Attributes:
        service: its name. name: its spec's. incarnation: which of all services that ever had the name.
        phase: UNKNOWN while its cluster does not answer. ready, total: instances.
        reason: one sentence that names cause and place, "" if nothing needs to be said.
        endpoints: "host:port" of every instance at the first port, in order. ports: the same for each port.
        env: the variables that a job gets, as the spec in the catalog exports them.
        holders: whose leases count now. idle_since_us: since when there is none. removal_us: when it will go if nobody comes; None: no time
            is set, because somebody holds it.
        replicas: wanted. drift: what somebody else changed, in words; the reaper repairs it.
        note: why its row is as it is, e.g. that it was adopted. log_tail: newest lines, where they were asked for or it is failing.
    """

    service: str
    name: str
    phase: Phase
    ready: int
    total: int
    reason: str
    endpoints: tuple[str, ...]
    ports: Mapping[str, tuple[str, ...]]
    instances: tuple[Instance, ...]
    env: Mapping[str, str]
    cluster: str
    identity: str
    incarnation: int
    replicas: int
    holders: tuple[Holder, ...]
    ttl_us: int
    created_us: int
    idle_since_us: int | None
    removal_us: int | None
    drift: tuple[str, ...] = ()
    source: Source | None = None
    note: str = ""
    log_tail: tuple[str, ...] = ()


def status_of(row: ServiceRow, leases: Sequence[LeaseRow], observed: Observed | None, now_us: int, *, unknown: str = "") -> ServiceStatus:
    """The status of a row.

    Args:
        observed: what its cluster says; None: it does not answer, and `unknown` says why.
    """
    from fondaco.catalog import ServiceState
    from fondaco.services.context import spec_of

    spec = spec_of(row)
    holders = tuple(Holder(lease.holder, lease.acquired_us, lease.expires_us, lease.note) for lease in leases if lease.holds(now_us))
    stranger = observed is not None and observed.phase is not Phase.ABSENT and observed.incarnation != row.id
    if observed is None:
        seen = Observed(row.name, row.id, Phase.UNKNOWN, 0, row.replicas, unknown)
    elif stranger:
        there = f"objects of another service of this name ({observed.incarnation}) stand in the way"
        seen = Observed(row.name, row.id, Phase.ABSENT, 0, row.replicas, there)
    else:
        seen = observed
    phase = seen.phase
    removal: int | None
    if row.state is ServiceState.REMOVING and phase is not Phase.UNKNOWN:
        phase = Phase.REMOVING
    if row.state is ServiceState.REMOVING:
        removal = now_us
    else:
        removal = row.idle_since_us + row.ttl_us if row.idle_since_us is not None and not holders else None
    first = next(iter(spec.ports), "")
    return ServiceStatus(
        service=row.name, name=spec.name, phase=phase, ready=seen.ready, total=max(seen.total, row.replicas) if phase is not Phase.READY
        else seen.total, reason=seen.reason or ("nothing of it is there yet" if seen.phase is Phase.ABSENT else ""),
        endpoints=tuple(seen.endpoints.get(first, ())), ports=seen.endpoints, instances=seen.instances,
        env=environment(spec, row.name, seen.endpoints), cluster=row.cluster, identity=row.identity, incarnation=row.id,
        replicas=row.replicas, holders=holders, ttl_us=row.ttl_us, created_us=row.created_us, idle_since_us=row.idle_since_us,
        removal_us=removal, drift=seen.drift, source=spec.source, note=row.reason,
    )  # fmt: skip

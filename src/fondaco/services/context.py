"""Context: what the parts of the services' manager share, and the steps that several of them take.

One rule holds for all of them: no transaction of the catalog is open while a provisioner is called. So anything may have changed between
two steps, and what a step may do to a service is decided by its incarnation: a removal takes only what carries it, and what was applied
for a service that is not live any more is taken back by whoever applied it (`apply_live`), or by the reaper.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from fondaco.core.clock import Clock
from fondaco.core.config import ServicesConfig
from fondaco.core.errors import FondacoError, LockedError
from fondaco.core.units import parse_duration_us
from fondaco.services.places import Places
from fondaco.services.provisioner import Desired, Observed, Phase
from fondaco.services.spec import ServiceSpec

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from fondaco.catalog import Catalog, LeaseRow, ServiceRow

HOLDERS_SHOWN: Final = 20
KEPT_MAX: Final = 200  # holders of 512 characters: within the 256 KiB that Kubernetes allows all annotations of an object
ADOPTED: Final = "(adopted)"  # the holder of a service found without a row, until those who use it have renewed their leases
LONG_LEASE_US: Final = 900_000_000
_HOUR_US: Final = 3_600_000_000
_LOCKED_S: Final = 60.0  # writers of SQLite wait 10 s for each other; with hundreds of them, one may be unlucky more than once
_LOGGER = logging.getLogger("fondaco.services")
T = TypeVar("T")


@dataclass(frozen=True)
class ServicesContext:
    """What every part of the manager stands on. Any thread."""

    catalog: Catalog
    config: ServicesConfig
    clock: Clock
    places: Places

    def now_us(self) -> int:
        """The wall clock, in microseconds; what leases are measured by."""
        return self.clock.now_us()

    def read(self, question: Callable[[Connection], T]) -> T:
        """Ask the catalog."""
        with self.catalog.read() as connection:
            return question(connection)

    def write(self, change: Callable[[Connection], T]) -> T:
        """Change the catalog in one transaction, patiently; `change` may be called again.

        Raises:
            LockedError: other writers held on for a minute. Otherwise as `Catalog.write`.
        """
        give_up = time.monotonic() + _LOCKED_S
        while True:
            try:
                with self.catalog.write(quiet=True) as connection:
                    return change(connection)
            except LockedError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(random.uniform(0.01, 0.1))

    @property
    def lease_us(self) -> int:
        """How long a lease lasts whose taker does not say."""
        return parse_duration_us(self.config.lease)


def desired_of(row: ServiceRow, leases: Sequence[LeaseRow], now_us: int) -> Desired:
    """What a service shall be, with the facts for people and for adoption."""
    held = [lease for lease in leases if lease.holds(now_us)]
    names = [lease.holder for lease in held[:HOLDERS_SHOWN]] + ([f"and {len(held) - HOLDERS_SHOWN} more"] * (len(held) > HOLDERS_SHOWN))
    annotations = {"holders": ",".join(names), "ttl-us": str(row.ttl_us), "identity": row.identity, "kept": _kept(held, now_us)}
    return Desired(row.name, row.id, spec_of(row), row.replicas, annotations)


def _kept(held: Sequence[LeaseRow], now_us: int) -> str:
    """The leases that nobody renews, as a JSON object: by holder until when, rounded up to an hour so that it seldom changes, or null. Were
    the catalog lost, nothing else would say that they hold."""
    long = [lease for lease in held if lease.expires_us is None or lease.expires_us > now_us + LONG_LEASE_US]
    kept = {lease.holder: None if lease.expires_us is None else -(-lease.expires_us // _HOUR_US) * _HOUR_US for lease in long[:KEPT_MAX]}
    return json.dumps(kept) if kept else ""


def _kept_in(annotations: Mapping[str, str]) -> dict[str, int | None]:
    """What `_kept` has written; nothing if it cannot be read."""
    with contextlib.suppress(msgspec.MsgspecError):
        return msgspec.json.decode(annotations.get("kept") or "{}", type=dict[str, int | None])
    return {}


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isascii() and text.isdigit() else otherwise


def spec_of(row: ServiceRow) -> ServiceSpec:
    """The spec of a row."""
    return ServiceSpec.from_dict(row.spec)


def differs(row: ServiceRow, observed: Observed, desired: Desired) -> bool:
    """Whether what was applied last is not what shall be, or was changed since by somebody else."""
    if observed.incarnation != row.id or observed.phase is Phase.ABSENT or observed.drift:
        return True
    applied = observed.desired
    if applied is None:
        return False
    return applied.replicas != desired.replicas or applied.spec != desired.spec


def apply_live(context: ServicesContext, row: ServiceRow) -> bool:
    """Apply a service as its row says now, if it is live, and take it back if it was not any more when that was done.

    Returns:
        whether it is live.
    Raises:
        as `Provisioner.apply`.
    """
    from fondaco.catalog import ServiceState, services

    def look(connection: Connection) -> tuple[ServiceRow | None, list[LeaseRow]]:
        return services.get_incarnation(connection, row.id), services.leases(connection, row.id)

    now, leases = context.read(look)
    if now is None or now.state is not ServiceState.LIVE:
        return False
    context.places.provisioner(row.cluster).apply(desired_of(now, leases, context.now_us()))
    after = context.read(lambda connection: services.get_incarnation(connection, row.id))
    if after is not None and after.state is ServiceState.LIVE:
        return True
    take_away(context, row, "it was removed while it was applied")
    return False


def take_away(context: ServicesContext, row: ServiceRow, reason: str) -> bool:
    """Have a service removed, whoever holds it, and begin with it. Whether nothing is left; else the reaper goes on.

    Raises:
        as `Provisioner.remove`; the reaper goes on then too.
    """
    from fondaco.catalog import services

    context.write(lambda connection: services.begin_removal(connection, row.id, now_us=context.now_us(), reason=reason))
    return finish_removal(context, row)


def finish_removal(context: ServicesContext, row: ServiceRow) -> bool:
    """Go on with the removal of a service. Whether nothing of it is left.

    Raises:
        as `Provisioner.remove`.
    """
    from fondaco.catalog import services

    gone = context.places.provisioner(row.cluster).remove(row.name, row.id)
    if gone:
        context.write(lambda connection: services.end_removal(connection, [row.id], now_us=context.now_us()))
    return gone


def settle_stranger(context: ServicesContext, cluster: str, observed: Observed) -> str | None:
    """Deal with something of ours that runs and that no live row stands for.

    Without any row it is adopted: entered again as it is, with the leases that nobody renews, and held for the length of a lease so that
    those who use it can renew theirs; or, if another service of this name is live or it is on its way out already, removed. Where its row
    says that it is gone it is what a slow process has made since: removed.

    Returns:
        "adopted", "removing", or None if there was nothing to do (any more).
    """
    from fondaco.catalog import ServiceState, services

    applied = observed.desired
    if observed.phase is Phase.ABSENT or applied is None:
        return None
    now_us = context.now_us()

    def settle(connection: Connection) -> str | None:
        known = services.get_incarnation(connection, observed.incarnation)
        if known is not None:
            if known.removed_us is None:
                return None
            services.begin_removal(connection, known.id, now_us=now_us, reason="it was made after it was removed")
            return "removing"
        if services.find(connection, observed.service) is not None:
            unwanted = "another one of this name is live"
        else:
            unwanted = "found on its way out, without a row" if observed.phase is Phase.REMOVING else ""
        identity = applied.annotations.get("identity") or applied.spec.identity
        row = services.create(
            connection,
            observed.service,
            identity=identity,
            spec=applied.spec.to_dict(),
            cluster=cluster,
            replicas=applied.replicas,
            ttl_us=_number(applied.annotations.get("ttl-us", ""), applied.spec.ttl_us),
            now_us=now_us,
            incarnation=observed.incarnation,
            idle_since_us=now_us,
            state=ServiceState.REMOVING if unwanted else ServiceState.LIVE,
            reason=unwanted or "found running, without a row",
        )
        if unwanted:
            return "removing"
        leases = _kept_in(applied.annotations) | {ADOPTED: now_us + context.lease_us}
        for holder, expires_us in leases.items():
            services.take_lease(connection, row.id, holder, expires_us=expires_us, now_us=now_us, note="found without a row")
        return "adopted"

    outcome = context.write(settle)
    if outcome is not None:
        _LOGGER.warning("service %r on %s: %s", observed.service, cluster, _SAID[outcome])
    return outcome


_SAID: Final = {
    "adopted": "found without a row in the catalog; adopted",
    "removing": "found although it is gone, on its way out, or another one is live; it is removed",
}


@contextlib.contextmanager
def logged(what: str) -> Any:
    """Log an error of ours instead of raising it: for what the reaper does again anyway."""
    try:
        yield
    except FondacoError as exc:
        _LOGGER.warning("%s: %s", what, exc)

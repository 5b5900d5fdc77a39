"""Manager: the data services of a platform, `platform.services`: ensured, held, looked at, changed and removed.

What shall run is in the catalog, what runs is with the provisioners, and nothing is kept here: any number of processes and threads do the
same at once. No lock is held and no transaction is open while a provisioner is called.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fondaco.core.clock import Clock
from fondaco.core.config import ServicesConfig
from fondaco.core.errors import FondacoError, InputError, ServiceNotFoundError, StateError, UnavailableError
from fondaco.services import reaper
from fondaco.services.arguments import as_holder, as_lease_us, as_spec, as_timeout_s
from fondaco.services.context import ServicesContext, apply_live, finish_removal, spec_of
from fondaco.services.ensuring import Ensuring, Progress
from fondaco.services.lease import Lease
from fondaco.services.places import Places
from fondaco.services.provisioner import Observed, Phase, Provisioner
from fondaco.services.reaper import ReapReport
from fondaco.services.resolution import environment, resolve
from fondaco.services.spec import REPLICAS_MAX, ServiceSpec
from fondaco.services.status import ServiceStatus, status_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from fondaco.catalog import Catalog, LeaseRow, ServiceRow

REMOVAL_S: Final = 30.0
_LOG_LINES: Final = 20
_CHANGEABLE: Final = frozenset(
    {"image", "env", "secrets", "resources", "replicas", "readiness", "pod", "volumes", "ttl_us", "exports", "labels"}
)


class Services:
    """The data services of one platform. Any thread, any number of processes; `Platform.services` makes it."""

    def __init__(
        self, catalog: Catalog, config: ServicesConfig, clock: Clock, provisioners: Mapping[str, Callable[[], Provisioner]]
    ) -> None:
        """
        Args:
            provisioners: opens the provisioner of each cluster, when it is first needed; in the order in which clusters are tried.
        """
        self._context = ServicesContext(catalog, config, clock, Places(config, provisioners))
        self._leases: weakref.WeakSet[Lease] = weakref.WeakSet()
        self._pid = os.getpid()

    # -- use --------------------------------------------------------------------------------------------------------------------------

    def ensure(
        self,
        spec: ServiceSpec | Mapping[str, Any] | str | Path,
        holder: str | None = None,
        *,
        wait: bool = True,
        timeout: str | timedelta = "10m",
        lease: str | timedelta | None = "",
        env: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> Lease:
        """Have a service run that is what `spec` means, and hold it. Safe to repeat, after any half-done call, from anywhere at once: specs
        that mean the same share one service; one that has failed or vanished is made again.

        Args:
            spec: or what `ServiceSpec.from_dict` reads, or the path of a TOML file.
            holder: who uses it; the same holder again renews its lease. None: "user@host:pid".
            wait: return when every instance is ready; else as soon as it is on its way.
            timeout: of all of it.
            lease: how long the service is held without a sign of life; the lease is renewed three times in that time for as long as this
                process lives. None: until it is released, by whomever. Default: as configured, "60s".
            env: more variables for the job, with words in braces as in `exports`: {"GE_ENDPOINTS": "{endpoints}"}.
            progress: called with the status at each look while waiting.
        Raises:
            InputError: the spec cannot work; names the path. AlreadyExistsError: `exact_name`, and the name means something else.
            GraphNotFoundError, StoreNotFoundError, VersionNotFoundError, NoCurrentVersionError: what it shall serve is not there.
            ServiceFailedError: it will not become ready; says why, with the end of its log. DeadlineExceededError: it was not ready in
                time. After both the lease is given back, and the service stays for its ttl, so that one can look at it.
            UnavailableError: no cluster that could run it answers.
        """
        wanted = as_spec(spec)
        name = as_holder(holder)
        lease_us = self._lease_us(lease)
        resolved = self._context.read(lambda connection: resolve(connection, wanted))
        environment(resolved, resolved.service, {}, env)  # finds words that are unknown before anything is made
        self._adopt_into_a_new_catalog()
        ensuring = Ensuring(self._context, resolved, name, lease_us=lease_us, wait=wait, timeout_s=as_timeout_s(timeout), progress=progress)
        row, seen = ensuring.run()
        ports = dict(seen.endpoints) if seen is not None and seen.incarnation == row.id else {}
        held = Lease(
            self, resolved, service=row.name, incarnation=row.id, holder=name, lease_us=lease_us, ports=ports, more=env
        )  # fmt: skip
        self._leases.add(held)
        return held

    def resolve(self, spec: ServiceSpec | Mapping[str, Any] | str | Path) -> ServiceSpec:
        """The spec as `ensure` would take it now, with versions as numbers; its `service` is what the service is called.

        Raises:
            as `ensure`, of specs.
        """
        wanted = as_spec(spec)
        return self._context.read(lambda connection: resolve(connection, wanted))

    def hold(self, service: str, holder: str, *, lease: str | timedelta | None = "") -> LeaseRow:
        """Renew a holder's lease on a service that is there, or take one; never shortens it. For those who come again from other processes.

        Args:
            lease: as `ensure`.
        Raises:
            ServiceNotFoundError: it is gone, or on its way out.
        """
        name, lease_us = as_holder(holder), self._lease_us(lease)
        from fondaco.catalog import services

        def take(connection: Connection) -> LeaseRow:
            row = services.get(connection, service)
            now_us = self._context.now_us()
            expires = None if lease_us is None else now_us + lease_us
            services.take_lease(connection, row.id, name, expires_us=expires, now_us=now_us)
            return next(found for found in services.leases(connection, row.id) if found.holder == name)

        return self._context.write(take)

    def renew(self, service: str, holder: str, *, lease: str | timedelta | None = "", exactly: bool = False) -> bool:
        """Renew a holder's lease; False if it has none (any more), and it takes none then: who has given a lease back does not get it again
        by a renewal that was under way.

        Args:
            lease: as `ensure`. exactly: also where that is sooner than the lease ends now; else it is never shortened.
        Raises:
            ServiceNotFoundError: the service is gone, or on its way out.
        """
        name, lease_us = as_holder(holder), self._lease_us(lease)
        from fondaco.catalog import services

        def prolong(connection: Connection) -> bool:
            row = services.get(connection, service)
            expires_us = None if lease_us is None else self._context.now_us() + lease_us
            return services.renew(connection, row.id, name, expires_us, exactly=exactly)

        return self._context.write(prolong)

    def release(self, service: str, holder: str) -> bool:
        """End a holder's lease; the service stays for its ttl after the last one. Whether there was one; safe to repeat."""
        from fondaco.catalog import services

        def end(connection: Connection) -> bool:
            row = services.find(connection, service)
            return row is not None and services.release(connection, row.id, as_holder(holder), now_us=self._context.now_us())

        return self._context.write(end)

    # -- look -------------------------------------------------------------------------------------------------------------------------

    def status(self, service: str, *, log_lines: int | None = None) -> ServiceStatus:
        """How a service stands. A cluster that does not answer is no error: the phase is UNKNOWN then.

        Args:
            log_lines: newest lines to bring along; None: 20 if it has failed or instances of it have.
        Raises:
            ServiceNotFoundError: there is none; suggests the nearest.
        """
        row, leases = self._context.read(lambda connection: self._look_up(connection, service))
        seen, unknown = self._observe(row)
        status = status_of(row, leases, seen, self._context.now_us(), unknown=unknown)
        lines = log_lines if log_lines is not None else _LOG_LINES if status.phase in (Phase.FAILED, Phase.DEGRADED) else 0
        if lines and seen is not None:
            import msgspec

            try:
                tail = tuple(self._context.places.provisioner(row.cluster).logs(row.name, lines=lines))
            except FondacoError as exc:
                tail = (f"(no log: {exc})",)
            status = msgspec.structs.replace(status, log_tail=tail)
        return status

    def list(self) -> builtins.list[ServiceStatus]:
        """How every service stands, by name; those on their way out included. One look at each cluster, however many they are."""
        from fondaco.catalog import services

        rows, leases = self._context.read(lambda connection: (services.all_of(connection), services.all_leases(connection)))
        seen = self._context.places.observe_all({row.cluster for row in rows})
        now_us = self._context.now_us()
        return [_listed(row, leases.get(row.id, []), seen[row.cluster], now_us) for row in rows]

    def newest_gone(self, service: str) -> ServiceRow | None:
        """The newest service of this name of which nothing is left, with the reason; None if none is known."""
        from fondaco.catalog import services

        return self._context.read(lambda connection: services.newest_gone(connection, service))

    def note_refusal(self, spec: ServiceSpec, why: str) -> None:
        """Enter a service that could not be made, as gone, with the reason: for who comes later and asks (`newest_gone`).

        Args:
            spec: resolved.
        """
        from fondaco.catalog import ServiceState, services

        def note(connection: Connection) -> None:
            now_us = self._context.now_us()
            row = services.create(
                connection, spec.service, identity=spec.identity, spec=spec.to_dict(), cluster=spec.placement.cluster or "",
                replicas=spec.replicas, ttl_us=spec.ttl_us, now_us=now_us, idle_since_us=now_us, state=ServiceState.REMOVING,
                reason=f"it could not be made: {why}",
            )  # fmt: skip
            services.end_removal(connection, [row.id], now_us=now_us)

        self._context.write(note)

    def logs(self, service: str, index: int | None = None, lines: int = 100) -> Sequence[str]:
        """The newest lines that an instance (None: each) has said, oldest first.

        Raises:
            ServiceNotFoundError; InputError: no such instance. UnavailableError.
        """
        row, _ = self._context.read(lambda connection: self._look_up(connection, service))
        if index is not None and (not isinstance(index, int) or not 0 <= index < row.replicas):
            raise InputError(f"service {service!r} has the instances 0 to {row.replicas - 1}, no {index!r}")
        return self._context.places.provisioner(row.cluster).logs(service, index=index, lines=lines)

    def env(self, service: str, spec: ServiceSpec | None = None, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """The variables of a job that uses a service, as `Lease.env`, for those who hold it from other processes.

        Args:
            spec: whose exports count; None: those of the spec in the catalog. env: more.
        Raises:
            ServiceNotFoundError.
        """
        status = self.status(service, log_lines=0)
        if spec is None:
            row, _ = self._context.read(lambda connection: self._look_up(connection, service))
            spec = spec_of(row)
        return environment(spec, service, status.ports, env)

    # -- change -----------------------------------------------------------------------------------------------------------------------

    def scale(self, service: str, replicas: int) -> None:
        """Have a service run with so many instances from now on.

        Raises:
            ServiceNotFoundError; InputError: not such a number. UnavailableError: it is noted, and done when the cluster answers again.
        """
        from fondaco.catalog import services

        if isinstance(replicas, bool) or not isinstance(replicas, int) or not 1 <= replicas <= REPLICAS_MAX:
            raise InputError(f"replicas: a service has 1 to {REPLICAS_MAX} instances, not {replicas!r}")
        row, _ = self._context.read(lambda connection: self._look_up(connection, service))
        spec = spec_of(row)
        if replicas % spec.shards:
            raise InputError(f"replicas: {replicas} is not a multiple of the shards of service {service!r}, {spec.shards}")
        with contextlib.suppress(UnavailableError):  # a cluster has its own bounds, and is asked before anything is noted
            self._context.places.provisioner(row.cluster).check(_desired_for_check(row, spec.replace(replicas=replicas)))

        def change(connection: Connection) -> ServiceRow:
            row = services.get(connection, service)
            services.update(connection, row.id, replicas=replicas)
            return row

        apply_live(self._context, self._context.write(change))

    def update(self, service: str, spec: ServiceSpec | Mapping[str, Any] | str | Path) -> None:
        """Change what a service runs, instance by instance, under those who use it.

        A service with an exact name may change in everything but its placement. Another one keeps the name that its first spec gave it, and
        is found by that one's meaning; so its image, variables, resources, volumes, readiness, pod settings, ttl, exports and labels may
        change, and nothing else.

        Raises:
            ServiceNotFoundError; InputError: the spec is of another name, or changes what cannot be changed; names it.
        """
        from fondaco.catalog import services

        wanted = self._context.read(lambda connection: resolve(connection, as_spec(spec)))
        row, _ = self._context.read(lambda connection: self._look_up(connection, service))
        self._context.places.provisioner(row.cluster).check(_desired_for_check(row, wanted))

        def change(connection: Connection) -> ServiceRow:
            row = services.get(connection, service)
            changed = _changes(row, spec_of(row), wanted)
            values: dict[str, Any] = {"spec": wanted.to_dict(), "replicas": wanted.replicas, "ttl_us": wanted.ttl_us}
            if wanted.exact_name:
                values["identity"] = wanted.identity
            if changed:
                values["reason"] = f"updated: {', '.join(changed)}"
            services.update(connection, row.id, **values)
            return row

        apply_live(self._context, self._context.write(change))

    def delete(self, service: str, force: bool = False, *, holder: str | None = None, timeout: str | timedelta = "30s") -> bool:
        """Remove a service now. Whether it is gone; if not after `timeout`, the reaper goes on.

        Args:
            force: also while others hold it; it is taken from them. holder: whose own lease does not count.
        Raises:
            ServiceNotFoundError; StateError: somebody holds it; names them. UnavailableError: it is noted, and done later.
        """
        from fondaco.catalog import services

        def begin(connection: Connection) -> ServiceRow:
            row, now_us = services.find(connection, service), self._context.now_us()
            if row is None:
                going = services.removing(connection, service)
                if going:
                    return going[0]
                return services.get(connection, service)
            others = [lease.holder for lease in services.leases(connection, row.id) if lease.holds(now_us) and lease.holder != holder]
            if others and not force:
                shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
                raise StateError(f"service {service!r} is held by {shown}; stop them, or delete it by force, which takes it from them")
            services.begin_removal(connection, row.id, now_us=now_us, reason="deleted by force" if others else "deleted")
            return row

        row = self._context.write(begin)
        give_up = time.monotonic() + as_timeout_s(timeout)
        pause = 0.02
        while not finish_removal(self._context, row):
            if time.monotonic() >= give_up:
                return False
            time.sleep(min(pause, max(0.0, give_up - time.monotonic())))
            pause = min(pause * 1.5, 0.5)
        return True

    # -- look after -------------------------------------------------------------------------------------------------------------------

    def reap(self, *, repair: bool = True) -> ReapReport:
        """One look of the reaper (`fondaco.services.reaper`).

        Args:
            repair: False: end, remove and adopt only; apply nothing.
        """
        return reaper.reap(self._context, repair=repair)

    def adopt(self) -> ReapReport:
        """Enter again what runs without a row in the catalog: only that part of `reap`."""
        return reaper.adopt(self._context)

    def reap_loop(
        self, stop: threading.Event, every_s: float | None = None, *, on_report: Callable[[ReapReport], None] | None = None
    ) -> None:
        """`reap` again and again until `stop` is set; blocks. Any number of them may run at once, on any machines.

        Args:
            every_s: default: as configured.
        """
        reaper.reap_loop(self._context, stop, self._context.config.reap_s if every_s is None else every_s, on_report)

    def clusters(self) -> builtins.list[str]:
        """The names of the clusters, in the order in which they are tried."""
        return self._context.places.names()

    def provisioner(self, cluster: str) -> Provisioner:
        """The provisioner of a cluster.

        Raises:
            ClusterNotFoundError; UnavailableError.
        """
        return self._context.places.provisioner(cluster)

    def close(self) -> None:
        """Release the leases that this object has given and that are renewed by this process; close the provisioners. Services go on."""
        if self._pid == os.getpid():
            for lease in list(self._leases):
                if lease.is_renewed:
                    lease.__exit__(None, None, None)
        self._context.places.close()

    # -- inside -----------------------------------------------------------------------------------------------------------------------

    def _lease_us(self, lease: str | timedelta | None) -> int | None:
        return as_lease_us(lease if lease != "" else self._context.config.lease)

    def _adopt_into_a_new_catalog(self) -> None:
        """Before the first service of a catalog: should an earlier catalog have been lost, its services may run."""
        from fondaco.catalog import services

        if not self._context.read(services.any_ever):
            self.adopt()

    def _look_up(self, connection: Connection, service: str) -> tuple[ServiceRow, builtins.list[LeaseRow]]:
        """The live service of this name, or one on its way out."""
        from fondaco.catalog import services

        row = services.find(connection, service)
        if row is None:
            going = services.removing(connection, service)
            row = going[0] if going else services.get(connection, service)
        return row, services.leases(connection, row.id)

    def _observe(self, row: ServiceRow) -> tuple[Observed | None, str]:
        try:
            return self._context.places.provisioner(row.cluster).observe(row.name), ""
        except (UnavailableError, InputError) as exc:
            return None, str(exc)

    def _renew(self, service: str, incarnation: int, holder: str, lease_us: int | None) -> None:
        """Prolong a lease, or take it again while the service it was on is live.

        Raises:
            ServiceNotFoundError: that incarnation is not live.
        """
        from fondaco.catalog import ServiceState, services

        def prolong(connection: Connection) -> None:
            now_us = self._context.now_us()
            expires = None if lease_us is None else now_us + lease_us
            if services.renew(connection, incarnation, holder, expires):
                return
            row = services.get_incarnation(connection, incarnation)
            if row is None and not services.any_ever(connection):
                raise UnavailableError("the catalog", "it knows no service at all; it may have been lost, and what runs is adopted soon")
            if row is None or row.state is not ServiceState.LIVE:
                raise ServiceNotFoundError(service, [name for name in services.names(connection) if name != service])
            services.take_lease(connection, incarnation, holder, expires_us=expires, now_us=now_us, note="taken again")

        self._context.write(prolong)

    def _release(self, lease: Lease) -> None:
        from fondaco.catalog import services

        self._leases.discard(lease)
        self._context.write(lambda c: services.release(c, lease.incarnation, lease.holder, now_us=self._context.now_us()))


def _listed(row: ServiceRow, leases: Sequence[LeaseRow], seen: Mapping[str, Observed] | FondacoError, now_us: int) -> ServiceStatus:
    if isinstance(seen, FondacoError):
        return status_of(row, leases, None, now_us, unknown=str(seen))
    observed = seen.get(row.name) or Observed(row.name, row.id, Phase.ABSENT, 0, row.replicas)
    return status_of(row, leases, observed, now_us)


def _desired_for_check(row: ServiceRow, spec: ServiceSpec) -> Any:
    from fondaco.services.provisioner import Desired

    return Desired(row.name, row.id, spec, spec.replicas)


def _changes(row: ServiceRow, there: ServiceSpec, wanted: ServiceSpec) -> list[str]:
    """What an update changes.

    Raises:
        InputError: it may not.
    """
    if wanted.name != there.name or wanted.exact_name != there.exact_name:
        raise InputError(
            f"name: service {row.name!r} was made from a spec named {there.name!r}, not {wanted.name!r}; ensure that as a service"
        )
    one, other = there.to_dict(), wanted.to_dict()
    changed = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    fixed = {"placement", "shards"} if wanted.exact_name else set(one | other) - _CHANGEABLE
    for key in changed:
        if key in fixed:
            raise InputError(
                f"{key}: service {row.name!r} has {one.get(key)!r} and cannot change to {other.get(key)!r} while it runs; "
                "ensure the new spec as a service of its own"
            )
    return changed

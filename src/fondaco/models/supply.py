"""Supply: the services of one job, ensured and held for as long as a block lasts, and watched meanwhile.

Every lease is held by the run's id and renewed by a thread of its own (`fondaco.services`). If one is lost all the same, because this
process was stopped or the catalog away for longer than the lease lasts, it is taken again at once. The job is never ended for that: it may
have all it needs by then. Should the service have gone meanwhile, a new one is made, and the job is told so in words, for its environment
names the endpoints of the old one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from fondaco.core.errors import FondacoError, ServiceNotFoundError
from fondaco.core.units import parse_duration_us
from fondaco.models.request import Resolved, RunPlatform
from fondaco.models.runs import BEAT_S, RunRecord
from fondaco.models.variables import Served

if TYPE_CHECKING:
    from fondaco.services.lease import Lease
    from fondaco.services.spec import ServiceSpec
    from fondaco.services.status import ServiceStatus

Say = Callable[[str], None]
Progress = Callable[["ServiceStatus"], None]


class Supply:
    """What one job is fed by. Made by `supplied`."""

    def __init__(self, platform: RunPlatform, resolved: Resolved, holder: str, *, lease: str | None, say: Say) -> None:
        self.served: tuple[Served, ...] = ()
        self._platform, self._resolved, self._holder, self._say = platform, resolved, holder, say
        self._lease = lease or ""  # "": as configured
        self._leases: list[Lease] = []
        self._trouble: dict[str, str] = {}  # by service: what was said last, so that it is said once

    def acquire(self, *, timeout: str, progress: Progress | None) -> None:
        """Ensure every service, and wait until all are ready; `timeout` is that of all of them together.

        Raises:
            as `Services.ensure`.
        """
        specs = self._resolved.specs
        services = self._platform.services
        give_up = time.monotonic() + parse_duration_us(timeout) / 1e6
        with contextlib.ExitStack() as started:
            if len(specs) > 1:  # so that they start beside each other; held apart, for a lease ends when its holder releases it once
                for spec in specs:
                    started.enter_context(services.ensure(spec, f"{self._holder}:starting", wait=False, lease=self._lease))
            for spec in specs:
                left = timedelta(seconds=max(0.0, give_up - time.monotonic()))
                self._leases.append(services.ensure(spec, self._holder, timeout=left, lease=self._lease, progress=progress))
        known = zip(self._resolved.served, self._leases, strict=True)
        self.served = tuple(
            replace(one, service=lease.service, endpoints=tuple(lease.endpoints), exports=dict(lease.env)) for one, lease in known
        )

    def look_after(self) -> None:
        """Take leases again that were lost."""
        for number, (lease, known, spec) in enumerate(zip(tuple(self._leases), self.served, self._resolved.specs, strict=True)):
            if (why := lease.lost) is None:
                continue
            self._say_once(known.service, f"the lease of {known.service} is lost: {why}; taking it again")
            try:
                self._leases[number] = self._take_again(lease, spec, known)
            except FondacoError as exc:
                self._say_once(known.service, f"the lease of {known.service} cannot be taken again now: {exc} Trying on.")
            else:
                del self._trouble[known.service]

    def release(self) -> None:
        """Give every lease back; what cannot be now goes when it expires."""
        for lease in reversed(self._leases):
            try:
                lease.release()
            except FondacoError as exc:
                self._say(f"the lease of {lease.service} could not be given back ({exc}); it expires by itself")
        self._leases = []

    def _take_again(self, lease: Lease, spec: ServiceSpec, known: Served) -> Lease:
        with contextlib.suppress(ServiceNotFoundError):
            lease.renew()
            self._say(f"the lease of {known.service} is held again")
            return lease
        lease = self._platform.services.ensure(spec, self._holder, wait=False, lease=self._lease)
        if tuple(lease.endpoints) == known.endpoints:
            self._say(f"{lease.service} was removed and is made anew, at the same endpoints")
        else:
            now = ",".join(lease.endpoints) or "not known yet"
            self._say(f"{lease.service} was removed; made anew it answers elsewhere ({now}), and the job knows the old endpoints only")
        return lease

    def _say_once(self, service: str, what: str) -> None:
        if self._trouble.get(service) != what:
            self._trouble[service] = what
            self._say(what)


@contextlib.contextmanager
def supplied(
    platform: RunPlatform,
    resolved: Resolved,
    record: RunRecord,
    *,
    lease: str | None,
    timeout: str,
    say: Say,
    progress: Progress | None,
) -> Iterator[Supply]:
    """The services of a run, ready, and given back at the end however it comes; leases and the run's record are kept alive meanwhile.

    Args:
        lease: None: as configured.

    Raises:
        as `Services.ensure`.
    """
    supply = Supply(platform, resolved, record.run_id, lease=lease, say=say)
    every_s = BEAT_S if lease is None else min(BEAT_S, parse_duration_us(lease) / 3e6)
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(every_s):
            record.beat()
            if supply.served:
                supply.look_after()

    thread = threading.Thread(target=look, name="run-heartbeat", daemon=True)
    thread.start()
    try:
        supply.acquire(timeout=timeout, progress=progress)
        yield supply
    finally:
        stop.set()
        thread.join(BEAT_S)
        supply.release()

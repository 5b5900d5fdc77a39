"""Lease: what keeps a service for one holder, renewed by a thread of its own for as long as the process lives or until it is released.

A lease that nobody renews (its process was killed, its machine is cut off) runs out by itself; the service then stays for its ttl. Times
are the wall clock of the machine that writes the catalog row: where clocks of machines differ, or are set, by more than two thirds of a
lease, leases run out early or late by as much, and within the service's ttl a renewal brings an early one back.

Any thread. After a fork the child's copy does nothing: the lease is the parent's. It cannot be pickled: hand over its `env`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from fondaco.core.errors import FondacoError, ServiceNotFoundError, StateError
from fondaco.services.resolution import environment
from fondaco.services.spec import ServiceSpec

if TYPE_CHECKING:
    from fondaco.services.status import ServiceStatus

_LOGGER = logging.getLogger(__name__)


class Keeper(Protocol):
    """What a lease was taken from: the platform's services here, or over the network."""

    def status(self, service: str) -> ServiceStatus: ...

    def _renew(self, service: str, incarnation: int, holder: str, lease_us: int | None) -> None: ...

    def _release(self, lease: Lease) -> None: ...


class Lease:
    """A holder's claim on a service; `Services.ensure` makes it. Release it, or use it as a context manager.

    Attributes:
        service: the service's name. holder: who holds it. incarnation: which service of that name.
    """

    def __init__(
        self,
        services: Keeper,
        spec: ServiceSpec,
        *,
        service: str,
        incarnation: int,
        holder: str,
        lease_us: int | None,
        ports: Mapping[str, tuple[str, ...]],
        more: Mapping[str, str] | None,
    ) -> None:
        """Use `Services.ensure`."""
        self.service, self.incarnation, self.holder = service, incarnation, holder
        self._services, self._spec, self._more = services, spec, dict(more or {})
        self._lease_us = lease_us
        self._ports = dict(ports)
        self._pid = os.getpid()
        self._renewed = time.monotonic()
        self._lost: str | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        if lease_us is not None:
            self._thread = threading.Thread(target=self._beat, name=f"fondaco-lease-{service}", daemon=True)
            self._thread.start()

    def __repr__(self) -> str:
        state = "released" if self._over.is_set() else f"lost: {self.lost}" if self.lost else "held"
        return f"<Lease of {self.service!r} by {self.holder!r}, {state}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a lease belongs to the process that took it; hand over lease.env, or ensure the service there")

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self.release()
        except FondacoError as exc:  # it runs out by itself; what the block has raised matters more
            _LOGGER.warning("lease of service %r by %r could not be released and runs out by itself: %s", self.service, self.holder, exc)

    # -- what jobs get ----------------------------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> list[str]:
        """ "host:port" of every instance at the first port, in their order; asked for again as long as they are not known."""
        first = next(iter(self._spec.ports), "")
        if first and not self._ports.get(first):
            self.status()
        return list(self._ports.get(first, ()))

    @property
    def env(self) -> dict[str, str]:
        """The variables for the job: FONDACO_SERVICE_NAME, FONDACO_SERVICE_ENDPOINTS, the spec's exports, and what `ensure` was given."""
        _ = self.endpoints
        return environment(self._spec, self.service, self._ports, self._more)

    def status(self) -> ServiceStatus:
        """How the service stands now.

        Raises:
            ServiceNotFoundError: it is gone.
        """
        status = self._services.status(self.service)
        if status.incarnation == self.incarnation and any(status.ports.values()):
            self._ports = dict(status.ports)
        return status

    # -- holding on -------------------------------------------------------------------------------------------------------------------

    @property
    def lost(self) -> str | None:
        """Why the service is not held any more, or cannot be known to be; None: it is held (or was released). A lease that was not renewed
        because the catalog was away is held again when a renewal succeeds."""
        if self._lost is not None or self._over.is_set() or self._lease_us is None:
            return self._lost
        silent = time.monotonic() - self._renewed
        return f"it was not renewed for {silent:.0f} s, longer than the lease lasts" if silent * 1e6 > self._lease_us else None

    @property
    def is_renewed(self) -> bool:
        """Whether a thread of this process renews it, until it is released."""
        return self._thread is not None and not self._over.is_set() and self._pid == os.getpid()

    def renew(self) -> None:
        """Prolong it now; the thread does so by itself.

        Raises:
            ServiceNotFoundError: the service is gone. StateError: the lease was released. Otherwise as `Catalog.write`.
        """
        if self._pid != os.getpid():
            return
        if self._over.is_set():
            raise StateError(f"the lease of service {self.service!r} by {self.holder!r} was released; ensure the service again")
        begun = time.monotonic()
        try:
            self._services._renew(self.service, self.incarnation, self.holder, self._lease_us)
        except ServiceNotFoundError:
            self._lost = f"service {self.service!r} was removed"
            raise
        self._renewed, self._lost = begun, None

    def release(self) -> None:
        """Give it back; done again, nothing happens. After the last one the service stays for its ttl.

        Raises:
            as `Catalog.write`; it runs out by itself then.
        """
        if self._stop():
            self._services._release(self)

    def leave(self) -> None:
        """Leave it as it is: neither renewed nor released by this process any more. Another one may hold on under the same holder's name
        (`Services.hold`)."""
        self._stop()

    def _stop(self) -> bool:
        """End the thread; False if that was done before, or the lease is another process's."""
        if self._pid != os.getpid() or self._over.is_set():
            return False
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()  # a renewal under way must not come after a release
        return True

    def _beat(self) -> None:
        assert self._lease_us is not None
        pause = self._lease_us / 3e6
        while not self._over.wait(pause):
            try:
                self.renew()
                pause = self._lease_us / 3e6
            except ServiceNotFoundError:
                _LOGGER.error("lease of service %r by %r is lost: %s", self.service, self.holder, self._lost)
                return
            except Exception as exc:  # a catalog that is away comes back; whatever else it is, giving up would lose the service
                if self._over.is_set():
                    return
                _LOGGER.warning("lease of service %r by %r was not renewed, next try soon: %r", self.service, self.holder, exc)
                pause = min(self._lease_us / 6e6, 5.0)

"""Remote: the data services of a platform over the network, `fondaco.connect(url).services`, with the face of `Services`.

The control API does what is asked, and remembers; here is what keeps a lease: the thread that renews it, over HTTP. Waiting is done here
too, by looking again and again, so no request lasts. Reaping is the platform's own matter. Imports no SQLAlchemy.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from fondaco.core.errors import DeadlineExceededError, ProtocolError, ServiceFailedError, ServiceNotFoundError
from fondaco.core.units import parse_duration_us
from fondaco.services.arguments import as_holder, as_lease_us, as_spec, as_timeout_s
from fondaco.services.ensuring import MENDING_S, Progress
from fondaco.services.lease import Lease
from fondaco.services.provisioner import Phase
from fondaco.services.resolution import environment
from fondaco.services.spec import ServiceSpec
from fondaco.services.status import Holder, ServiceStatus

LEASE: Final = "60s"
_PAUSES_S: Final = (0.05, 1.0)
_SERVICES: Final = "/v1/services"
T = TypeVar("T")


class Control(Protocol):
    """What asks the control API, as `RemotePlatform.control` does."""

    def __call__(self, method: str, target: str, *, body: object = None, again: bool = True, timeout_s: float = ...) -> Any:
        """The answer, as JSON-like values."""
        ...


class RemoteServices:
    """The data services of a remote platform. Any thread; `RemotePlatform.services` makes it."""

    def __init__(self, control: Control, peer: str) -> None:
        """
        Args:
            peer: the address asked, for messages.
        """
        self._control, self._peer = control, peer
        self._leases: weakref.WeakSet[Lease] = weakref.WeakSet()

    # -- use --------------------------------------------------------------------------------------------------------------------------

    def ensure(
        self,
        spec: ServiceSpec | Mapping[str, Any] | str | Path,
        holder: str | None = None,
        *,
        wait: bool = True,
        timeout: str | timedelta = "10m",
        lease: str | timedelta | None = LEASE,
        env: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> Lease:
        """Have a service run that is what `spec` means, and hold it. Arguments and errors: `Services.ensure`; a file is read here.

        Raises:
            AuthenticationError: also where no token is needed otherwise, if the spec has a command of its own and no token is shown.
        """
        wanted = as_spec(spec)
        environment(wanted, wanted.service, {}, env)
        give_up = time.monotonic() + as_timeout_s(timeout)
        lease_us = as_lease_us(lease)
        who = as_holder(holder)
        body = {"spec": wanted.to_dict(), "holder": who, "lease": _text(lease_us)}
        while True:
            status = self._claim(body, wanted, give_up)
            held = Lease(
                self, wanted.replace(source=status.source), service=status.service, incarnation=status.incarnation,
                holder=who, lease_us=lease_us, ports=status.ports, more=env,
            )  # fmt: skip
            self._leases.add(held)
            try:
                if not wait or self._wait(held, status, give_up, timeout, progress):
                    return held
            except BaseException:
                self._give_back(held)
                raise
            held.leave()  # the service was removed meanwhile, and its lease with it: again

    def hold(self, service: str, holder: str, *, lease: str | timedelta | None = LEASE) -> Holder:
        """Renew a holder's lease on a service that is there, or take one; never shortens it. Errors: `Services.hold`."""
        body = {"holder": holder, "lease": _text(as_lease_us(lease))}
        return self._converted(self._control("POST", _path(service, "hold"), body=body), Holder)

    def release(self, service: str, holder: str) -> bool:
        """End a holder's lease; whether there was one. Safe to repeat."""
        held: bool = self._control("POST", _path(service, "release"), body={"holder": holder})["held"]
        return held

    # -- look -------------------------------------------------------------------------------------------------------------------------

    def status(self, service: str, *, log_lines: int | None = None) -> ServiceStatus:
        """How a service stands. Arguments and errors: `Services.status`."""
        return self._converted(self._control("GET", _path(service) + _query(log_lines=log_lines)), ServiceStatus)

    def list(self) -> list[ServiceStatus]:
        """How every service stands, by name."""
        return self._converted(self._control("GET", _SERVICES)["services"], list[ServiceStatus])

    def logs(self, service: str, index: int | None = None, lines: int = 100) -> Sequence[str]:
        """The newest lines that an instance (None: each) has said, oldest first. Errors: `Services.logs`."""
        said: list[str] = self._control("GET", _path(service, "logs") + _query(index=index, lines=lines))["lines"]
        return said

    # -- change -----------------------------------------------------------------------------------------------------------------------

    def scale(self, service: str, replicas: int) -> None:
        """Have a service run with so many instances from now on. Errors: `Services.scale`."""
        self._control("POST", _path(service, "scale"), body={"replicas": replicas})

    def update(self, service: str, spec: ServiceSpec | Mapping[str, Any] | str | Path) -> None:
        """Change what a service runs, instance by instance, under those who use it. Errors: `Services.update`."""
        self._control("PUT", _path(service), body={"spec": as_spec(spec).to_dict()})

    def delete(self, service: str, force: bool = False, *, holder: str | None = None, timeout: str | timedelta = "30s") -> bool:
        """Remove a service now; whether it is gone. Arguments and errors: `Services.delete`."""
        give_up, pause = time.monotonic() + as_timeout_s(timeout), _PAUSES_S[0]
        target = _path(service) + _query(force="true" if force else None, holder=holder)
        gone: bool = self._control("DELETE", target)["gone"]
        while not gone and time.monotonic() < give_up:
            time.sleep(pause)
            pause = min(pause * 1.5, _PAUSES_S[1])
            try:
                gone = self._control("DELETE", target)["gone"]
            except ServiceNotFoundError:
                gone = True
        return gone

    def close(self) -> None:
        """Release the leases that this object has given and renews. Services go on."""
        for lease in list(self._leases):
            if lease.is_renewed:
                lease.__exit__(None, None, None)

    # -- inside -----------------------------------------------------------------------------------------------------------------------

    def _claim(self, body: Mapping[str, Any], spec: ServiceSpec, give_up: float) -> ServiceStatus:
        while True:
            try:
                return self._converted(self._control("POST", _SERVICES, body=body), ServiceStatus)
            except DeadlineExceededError:  # an older service of this name is still on its way out
                if time.monotonic() >= give_up:
                    raise

    def _wait(self, lease: Lease, status: ServiceStatus, give_up: float, timeout: object, progress: Progress | None) -> bool:
        """Wait until it is ready; False if it was removed."""
        begun, pause = time.monotonic(), _PAUSES_S[0]
        patience = MENDING_S if status.phase is Phase.FAILED else 0.0  # one that had failed was made again, and needs a moment to show it
        while True:
            if status.incarnation != lease.incarnation or status.phase is Phase.REMOVING:
                return False
            if progress is not None:
                progress(status)
            if status.phase is Phase.READY:
                return True
            if status.phase is Phase.FAILED and time.monotonic() - begun >= patience:
                raise ServiceFailedError(status.service, status.reason or "it says no reason", status.log_tail)
            if time.monotonic() >= give_up:
                waited = parse_duration_us(timeout) / 1e6  # type: ignore[arg-type]
                raise DeadlineExceededError(
                    f"ensure service {status.service!r}", waited, status.reason or f"{status.ready}/{status.total} ready"
                )
            time.sleep(pause)
            pause = min(pause * 1.3, _PAUSES_S[1])
            try:
                status = lease.status()
            except ServiceNotFoundError:
                return False

    def _give_back(self, lease: Lease) -> None:
        lease.__exit__(None, None, None)

    def _renew(self, service: str, incarnation: int, holder: str, lease_us: int | None) -> None:
        self._control("POST", _path(service, "hold"), body={"holder": holder, "lease": _text(lease_us), "incarnation": incarnation})

    def _release(self, lease: Lease) -> None:
        self._leases.discard(lease)
        self.release(lease.service, lease.holder)

    def _converted(self, value: Any, into: type[T]) -> T:
        try:
            return msgspec.convert(value, into)
        except msgspec.ValidationError as exc:
            raise ProtocolError(self._peer, f"an answer that cannot be read ({exc})") from exc


def _text(lease_us: int | None) -> str | None:
    return None if lease_us is None else f"{lease_us}us"


def _path(service: str, what: str | None = None) -> str:
    path = f"{_SERVICES}/{quote(service, safe='')}"
    return path if what is None else f"{path}/{what}"


def _query(**settings: object) -> str:
    given = {name: value for name, value in settings.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""

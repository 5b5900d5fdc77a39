"""A scripted provisioner in memory, for tests of what stands above: it does what is asked at once, or as it is told to misbehave.

What runs is in a `FakePlace`; any number of `FakeProvisioner` objects on one place are as many processes on one cluster. It passes
`fondaco.testing.ProvisionerContract`. Any thread.

    place = FakePlace()
    place.script("routes", "crashing")               # a service's name or its spec's: "ready", "slow", "crashing", "never ready"
    place.away = "the API server is down"            # every call raises UnavailableError
    place.fail_next["apply"] = [InputError("..."), None]     # what the next calls of a method raise; None: nothing
    place.before["remove"] = lambda: ...             # called before each call of a method, e.g. to have something happen in between
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from fondaco.core.errors import InputError, StateError, UnavailableError
from fondaco.services.provisioner import Desired, Instance, Observed, Phase

_PORTS = itertools.count(20_000)


@dataclass
class FakeService:
    """One service on a place."""

    desired: Desired
    ports: dict[tuple[str, int], int] = field(default_factory=dict)
    generation: list[int] = field(default_factory=list)  # of each instance: how often it was started
    running: int = 0
    drift: str = ""
    leaving: int = 0  # calls of `remove` until it is gone


class FakePlace:
    """A cluster in memory."""

    def __init__(self, cluster: str = "local") -> None:
        self.cluster = cluster
        self.services: dict[str, FakeService] = {}
        self.scripts: dict[str, str] = {}
        self.away = ""
        self.fail_next: dict[str, list[BaseException | None]] = {}
        self.fail_after: dict[str, list[BaseException | None]] = {}  # the same, raised once the call has done its work
        self.before: dict[str, Callable[[], None]] = {}
        self.calls: list[tuple[str, str]] = []
        self.removal_calls = 1  # how often `remove` is called until nothing is left
        self.lock = threading.RLock()

    def script(self, name: str, how: str) -> None:
        """Have the service of this name, or those whose spec has it, behave so."""
        self.scripts[name] = how

    def how(self, desired: Desired) -> str:
        """How a service behaves: as scripted, or as its variable BEHAVE says."""
        return self.scripts.get(desired.service) or self.scripts.get(desired.spec.name) or desired.spec.env.get("BEHAVE", "ready")

    def count(self, method: str) -> int:
        """How often a method was called."""
        return sum(name == method for name, _ in self.calls)

    def provisioner(self) -> FakeProvisioner:
        return FakeProvisioner(self)


class FakeProvisioner:
    """See the module."""

    def __init__(self, place: FakePlace) -> None:
        self.place = place
        self.closed = False

    @property
    def cluster(self) -> str:
        return self.place.cluster

    def check(self, desired: Desired) -> None:
        self._begin("check", desired.service)

    def apply(self, desired: Desired) -> None:
        self._begin("apply", desired.service)
        with self.place.lock:
            there = self.place.services.get(desired.service)
            if there is not None and there.desired.incarnation != desired.incarnation:
                raise StateError(f"service {desired.service!r} of incarnation {there.desired.incarnation} stands in the way")
            if there is not None and there.leaving:
                raise StateError(f"service {desired.service!r} is on its way out")
            if there is None:
                there = self.place.services[desired.service] = FakeService(desired)
            changed = there.desired.spec != desired.spec
            there.desired, there.drift = desired, ""
            for index in range(desired.replicas):
                for port, number in desired.spec.ports.items():
                    there.ports.setdefault((port, index), number + index if number else next(_PORTS))
            kept = there.generation[: desired.replicas]
            failed = self.place.how(desired) == "crashing"
            there.generation = [one + (changed or failed) for one in kept] + [0] * (desired.replicas - len(kept))
            there.running = desired.replicas
        self._end("apply")

    def observe(self, service: str) -> Observed:
        self._begin("observe", service)
        with self.place.lock:
            there = self.place.services.get(service)
            return Observed(service, 0, Phase.ABSENT, 0, 0) if there is None else self._observed(there)

    def observe_all(self) -> Mapping[str, Observed]:
        self._begin("observe_all", "")
        with self.place.lock:
            return {name: self._observed(there) for name, there in self.place.services.items()}

    def remove(self, service: str, incarnation: int) -> bool:
        self._begin("remove", service)
        with self.place.lock:
            there = self.place.services.get(service)
            if there is not None and there.desired.incarnation == incarnation:
                there.leaving += 1
                if there.leaving < self.place.removal_calls:
                    return False
                del self.place.services[service]
        self._end("remove")
        return True

    def logs(self, service: str, *, index: int | None = None, lines: int = 100) -> Sequence[str]:
        self._begin("logs", service)
        with self.place.lock:
            there = self.place.services.get(service)
            if there is None:
                return []
            said = "Traceback: boom" if self.place.how(there.desired) == "crashing" else "hello"
            each = range(there.desired.replicas) if index is None else [index]
            return [f"{number}: {said}" if index is None else said for number in each][-lines:]

    def close(self) -> None:
        self.closed = True

    # -- inside -----------------------------------------------------------------------------------------------------------------------

    def _begin(self, method: str, service: str) -> None:
        place = self.place
        if method in place.before:
            place.before[method]()
        with place.lock:
            place.calls.append((method, service))
            if place.away:
                raise UnavailableError(f"cluster {place.cluster}", place.away)
            self._raise(place.fail_next, method)

    def _end(self, method: str) -> None:
        with self.place.lock:
            self._raise(self.place.fail_after, method)

    @staticmethod
    def _raise(planned: dict[str, list[BaseException | None]], method: str) -> None:
        if planned.get(method):
            error = planned[method].pop(0)
            if error is not None:
                raise error

    def _observed(self, there: FakeService) -> Observed:
        desired, how = there.desired, self.place.how(there.desired)
        phases = {"ready": Phase.READY, "slow": Phase.STARTING, "never ready": Phase.STARTING, "crashing": Phase.FAILED}
        phase = Phase.REMOVING if there.leaving else phases[how]
        count = desired.replicas
        ready = there.running if phase is Phase.READY else 0
        if phase is Phase.READY and ready < count:
            phase = Phase.DEGRADED
        why = {"crashing": "exit code 3", "slow": "it loads", "never ready": "it is asked and does not answer"}.get(how, "")
        first = next(iter(desired.spec.ports), "")
        instances = tuple(
            Instance(index, phase, f"127.0.0.1:{there.ports[first, index]}" if first else "", there.generation[index], why, "memory")
            for index in range(count)
        )
        endpoints = {
            port: tuple(f"127.0.0.1:{there.ports[port, index]}" for index in range(count)) for port in desired.spec.ports
        }  # fmt: skip
        reason = "" if phase is Phase.READY else f"{ready}/{count} ready" + (f"; instance 0: {why}" if why else "")
        kept = msgspec.structs.replace(desired, annotations=dict(desired.annotations))
        drift = (there.drift,) if there.drift else ()
        return Observed(desired.service, desired.incarnation, phase, ready, count, reason, endpoints, instances, drift, kept)


def refuse(*errors: str) -> list[BaseException | None]:
    """A plan for `fail_next`: the next calls are refused."""
    return [InputError(error) for error in errors]

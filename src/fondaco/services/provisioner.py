"""Provisioner: what runs services somewhere: processes of this machine, a Kubernetes cluster. Six methods, and the facts they deal in.

Whoever calls has decided *that* a service runs, and under which name; a provisioner makes it so and says how it stands. All of it is
level-based: `apply` states what shall be, any number of times, after any half-done call, and never waits until instances are ready.
Nothing is remembered in the provisioner object: another process with another object sees the same.

*Incarnation*: a number that no two services of a catalog share, also not two of the same name after each other. Everything a provisioner
makes carries it, and `remove` takes away only what carries the one it was given: a slow removal of an old service cannot hit the new one.

Every implementation passes `fondaco.testing.ProvisionerContract`. Any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from fondaco.services.spec import ServiceSpec


class Phase(StrEnum):
    """How a service, or one instance of it, stands."""

    ABSENT = "absent"  # nothing of it exists
    STARTING = "starting"  # on its way
    READY = "ready"  # every instance can do its work
    DEGRADED = "degraded"  # was ready, and some instances are not now; what can be done about it is being done
    FAILED = "failed"  # will not become ready without a change; `reason` says which
    REMOVING = "removing"  # on its way out
    UNKNOWN = "unknown"  # its place does not answer; said of a service in a status, never by a provisioner


class Desired(msgspec.Struct, frozen=True):
    """What shall be.

    Attributes:
        service: its name, a DNS label. incarnation: see above. spec: resolved; `replicas` here is what counts (a service can be scaled).
        annotations: facts for people and for adoption, as {"holders": "run-17,run-18", "ttl-us": "600000000"}; kept as they are, read back
            in `Observed.desired`; a change of them alone restarts nothing.
    """

    service: str
    incarnation: int
    spec: ServiceSpec
    replicas: int
    annotations: Mapping[str, str] = {}


class Instance(msgspec.Struct, frozen=True):
    """One process or pod.

    Attributes:
        address: "host:port" at the first port, or "" while there is none. restarts: how often it was started again. reason: why it is not
            ready, in words, or "". where: node or machine. log: a link, or a path, or "".
    """

    index: int
    phase: Phase
    address: str = ""
    restarts: int = 0
    reason: str = ""
    where: str = ""
    log: str = ""


class Observed(msgspec.Struct, frozen=True):
    """How a service stands.

    Attributes:
        phase, reason: of the whole: reason is one sentence that names cause and place, as "3/8 ready; instance 5: CrashLoopBackOff: exit
            code 1, 4 restarts", also while it starts; "" if nothing needs to be said. READY is said of what was applied last, never of
            what was there before it.
        endpoints: per port name, "host:port" of all desired instances in order; also before they are ready, where they are known.
        drift: what differs from what was applied last, in words, e.g. "spec.replicas is 1, not 3 (changed by kubectl)"; `apply` repairs it.
        desired: what was applied last, as far as it can be read back; None where nothing of ours is there.
    """

    service: str
    incarnation: int
    phase: Phase
    ready: int
    total: int
    reason: str = ""
    endpoints: Mapping[str, tuple[str, ...]] = {}
    instances: tuple[Instance, ...] = ()
    drift: tuple[str, ...] = ()
    desired: Desired | None = None


class Provisioner(Protocol):
    """Runs services in one place.

    Errors of every method: UnavailableError: the place does not answer now (the same call may succeed later). PermissionDeniedError: it
    answers, and does not let us; names verb and resource. None of them blocks for more than about 10 seconds.
    """

    @property
    def cluster(self) -> str:
        """Its name in the configuration, as "local", "texas"."""
        ...

    def check(self, desired: Desired) -> None:
        """Find what cannot work here before anything is made: images that are missing, volumes of another kind, programs that are not
        there, taken ports. Changes nothing, and is allowed to find nothing.

        Raises:
            InputError: names the path in the spec.
        """
        ...

    def apply(self, desired: Desired) -> None:
        """Make it so: create what is missing, change what differs, instance by instance where a change needs a restart; leave the rest.
        What has FAILED is tried anew, also where nothing differs.

        Raises:
            InputError: the place refuses it; names why. What this call has created is gone again, or `remove` finds it.
            StateError: something that is not this incarnation's stands in the way (named).
        """
        ...

    def observe(self, service: str) -> Observed:
        """How a service stands now; phase ABSENT if there is nothing of it."""
        ...

    def observe_all(self) -> Mapping[str, Observed]:
        """How everything of ours stands that is here, whoever made it, by name: a bounded number of requests however many they are."""
        ...

    def remove(self, service: str, incarnation: int) -> bool:
        """Take away what carries this incarnation; absent is fine. Returns whether nothing of it is left (else call again later)."""
        ...

    def logs(self, service: str, *, index: int | None = None, lines: int = 100) -> Sequence[str]:
        """The newest lines that an instance (None: each, with its number before the line) has said, oldest first; those of its last end
        if it does not run now."""
        ...

    def close(self) -> None:
        """Give connections back; services go on."""
        ...

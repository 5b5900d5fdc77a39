"""Pods: what the pods of a service say of themselves, as instances and reasons in words.

A reason names what Kubernetes calls it, where there is a name that can be searched for, and what was said last: "CrashLoopBackOff: exit
code 1, 4 restarts: no such graph: 'routes'". What will not heal without a change is FAILED, all else is waited for:

    FAILED      an image or its name that is not there; a secret, config map or claim that is missing; a container that cannot be made;
                a program that has ended badly three times and was never ready. What may be made a moment later (images, secrets,
                claims) only after `patience_s`.
    DEGRADED    it has been ready: it comes back, or whatever runs it is at it
    STARTING    no room for it now (Unschedulable), no quota, a volume that is not mounted yet, a registry that does not answer

Pure; any thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from fondaco.services.provisioner import Instance, Phase

CRASHES_MAX: Final = 3  # so often a program may end before it was ever ready; by then Kubernetes has waited 10 s and 20 s between them
_MESSAGE_MAX: Final = 300
_IMAGE: Final = frozenset(
    {"ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError", "RegistryUnavailable"}
)
_BROKEN: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "ContainerCannotRun"})
_SURE: Final = frozenset({"InvalidImageName", "ErrImageNeverPull"})
_NO_IMAGE = re.compile(
    r"not found|no such image|manifest unknown|does not exist|denied|unauthorized|forbidden|invalid reference", re.IGNORECASE
)
_NO_CLAIM = re.compile(r'persistentvolumeclaim "[^"]*" not found')
_NOT_MOUNTED: Final = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox"})
_NO_SOURCE = re.compile(r'(secret|configmap|persistentvolumeclaim) "[^"]*" not found')


class Owner(msgspec.Struct):
    uid: str = ""


class Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    owner_references: list[Owner] | None = None


class Ended(msgspec.Struct, rename="camel"):
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""


class Waiting(msgspec.Struct):
    reason: str = ""
    message: str = ""


class State(msgspec.Struct):
    waiting: Waiting | None = None
    running: dict[str, Any] | None = None
    terminated: Ended | None = None


class Container(msgspec.Struct, rename="camel"):
    name: str = ""
    image: str = ""
    ready: bool = False
    restart_count: int = 0
    state: State = msgspec.field(default_factory=State)
    last_state: State = msgspec.field(default_factory=State)


class Condition(msgspec.Struct, rename="camel"):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class PodSpec(msgspec.Struct, rename="camel"):
    node_name: str = ""


class PodStatus(msgspec.Struct, rename="camel"):
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[Condition] | None = None
    container_statuses: list[Container] | None = None
    init_container_statuses: list[Container] | None = None


class Pod(msgspec.Struct):
    """A pod, as far as it is looked at."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)

    @property
    def index(self) -> int:
        """Its number; -1: not a pod of a StatefulSet."""
        number = self.metadata.name.rpartition("-")[2]
        return int(number) if number.isdecimal() and len(number) < 8 else -1

    def condition(self, kind: str) -> Condition | None:
        return next((one for one in self.status.conditions or () if one.type == kind), None)

    @property
    def is_ready(self) -> bool:
        ready = self.condition("Ready")
        return ready is not None and ready.status == "True" and not self.is_ending

    @property
    def is_ending(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    @property
    def was_ready(self) -> bool:
        """Whether it is ready or has been: then Ready changed after the pod was set up, at which it is False for the first time."""
        ready, initialized = self.condition("Ready"), self.condition("Initialized")
        if ready is None or ready.status == "True":
            return ready is not None
        if initialized is None or ready.last_transition_time is None or initialized.last_transition_time is None:
            return False
        return initialized.status == "True" and ready.last_transition_time > initialized.last_transition_time

    @property
    def restarts(self) -> int:
        return sum(one.restart_count for one in self.status.container_statuses or ())


class Involved(msgspec.Struct, rename="camel"):
    kind: str = ""
    name: str = ""
    uid: str = ""


class Event(msgspec.Struct, rename="camel"):
    """An event, as far as it is looked at."""

    involved_object: Involved = msgspec.field(default_factory=Involved)
    reason: str = ""
    message: str = ""
    type: str = ""
    last_timestamp: datetime | None = None
    event_time: datetime | None = None
    metadata: Meta = msgspec.field(default_factory=Meta)

    @property
    def when(self) -> float:
        at = self.last_timestamp or self.event_time or self.metadata.creation_timestamp
        return at.timestamp() if at is not None else 0.0


class Trouble(NamedTuple):
    """Why something is not ready; `lasts`: it will not heal without a change."""

    reason: str
    lasts: bool = False


def instance_of(pod: Pod, *, address: str, log: str, now: datetime, patience_s: float, events: Mapping[str, Sequence[Event]]) -> Instance:
    """A pod as an instance.

    Args:
        events: warnings by the uid of what they are about. now: what time it is; patience_s: see above.
    """
    trouble = Trouble("")
    if pod.is_ready:
        phase = Phase.READY
    elif pod.is_ending:
        phase, trouble = Phase.REMOVING, Trouble(_ending(pod, now))
    else:
        waited_s = (now - pod.metadata.creation_timestamp).total_seconds() if pod.metadata.creation_timestamp else patience_s
        trouble = trouble_of(pod, patient=waited_s < patience_s, warnings=events.get(pod.metadata.uid, ()))
        phase = Phase.DEGRADED if pod.was_ready else Phase.FAILED if trouble.lasts else Phase.STARTING
    return Instance(pod.index, phase, address, pod.restarts, trouble.reason, pod.spec.node_name, log)


def trouble_of(pod: Pod, *, patient: bool, warnings: Sequence[Event]) -> Trouble:
    """Why a pod that is not ready is not."""
    status = pod.status
    if status.phase == "Failed" or status.reason:
        return Trouble(_joined(status.reason or "the pod has failed", status.message))
    for container in [*(status.init_container_statuses or ()), *(status.container_statuses or ())]:
        trouble = _trouble_in(container, patient=patient, warnings=warnings)
        if trouble is not None:
            return trouble
    scheduled = pod.condition("PodScheduled")
    if scheduled is not None and scheduled.status == "False":
        return Trouble(_joined(scheduled.reason, scheduled.message), bool(_NO_CLAIM.search(scheduled.message)) and not patient)
    if not pod.spec.node_name:
        return Trouble("waits for a node")
    newest = max(warnings, key=lambda event: event.when, default=None)
    running = [one for one in status.container_statuses or () if one.state.running is not None]
    if running:
        again = next((one for one in running if one.restart_count and one.last_state.terminated is not None and not one.ready), None)
        ended = f"started again after {_how_ended(again.last_state.terminated)}" if again and again.last_state.terminated else ""
        asked = newest.message if newest is not None and newest.reason == "Unhealthy" else ""
        return Trouble(_joined("was ready, is not now" if pod.was_ready else "not ready yet", ended, asked))
    if newest is not None and newest.reason in _NOT_MOUNTED:
        return Trouble(_joined(newest.reason, newest.message), bool(_NO_SOURCE.search(newest.message)) and not patient)
    return Trouble("its container is being made")


def _trouble_in(container: Container, *, patient: bool, warnings: Sequence[Event]) -> Trouble | None:
    """What keeps a container from running, or None."""
    waiting, ended = container.state.waiting, container.state.terminated or container.last_state.terminated
    if waiting is not None and waiting.reason in _IMAGE:
        pulled = [event.message for event in warnings if event.reason == "Failed" and "pull" in event.message]
        said = f"{container.image}: {pulled[-1] if pulled and 'Back-off' in waiting.message else waiting.message}"
        return Trouble(_joined(waiting.reason, said), waiting.reason in _SURE or (bool(_NO_IMAGE.search(said)) and not patient))
    if waiting is not None and waiting.reason in _BROKEN:
        return Trouble(_joined(waiting.reason, waiting.message), not patient)
    if ended is None or container.state.running is not None:
        return None
    if ended.exit_code == 0 and ended.reason == "Completed" and container.state.terminated is not None and container.restart_count == 0:
        return None if container.ready else Trouble("has ended with exit code 0; a service is to go on")
    times = "1 restart" if container.restart_count == 1 else f"{container.restart_count} restarts"
    name = waiting.reason if waiting is not None and waiting.reason else "ended"
    return Trouble(_joined(name, f"{_how_ended(ended)}, {times}", _last_line(ended.message)), container.restart_count >= CRASHES_MAX)


def _how_ended(ended: Ended) -> str:
    if ended.reason == "OOMKilled":
        return f"OOMKilled (out of memory: raise resources.limits.memory), exit code {ended.exit_code}"
    by = f" (killed by signal {ended.signal or ended.exit_code - 128})" if ended.signal or 128 < ended.exit_code < 160 else ""
    named = "" if ended.reason in ("", "Error", "Completed") else f"{ended.reason}, "
    return f"{named}exit code {ended.exit_code}{by}"


def _ending(pod: Pod, now: datetime) -> str:
    """How long it has been ending, where that is longer than it may take."""
    assert pod.metadata.deletion_timestamp is not None
    late_s = (now - pod.metadata.deletion_timestamp).total_seconds()  # the moment by which it is to be gone, grace included
    if late_s < 30:
        return "is ending"
    return f"should have ended {late_s:.0f} s ago; node {pod.spec.node_name!r} does not confirm it: is it alive?"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _joined(*parts: str) -> str:
    text = ": ".join(" ".join(part.split()) for part in parts if part)
    return text if len(text) <= _MESSAGE_MAX else text[: _MESSAGE_MAX - 3] + "..."

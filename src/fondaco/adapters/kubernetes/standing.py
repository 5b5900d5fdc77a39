"""Standing: how a service stands, from what a cluster holds of it: phase, reason, instances, drift.

Pure: what was found goes in, with the time; an `Observed` comes out. Any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from fondaco.adapters.kubernetes.commands import endpoints_of
from fondaco.adapters.kubernetes.drift import differences
from fondaco.adapters.kubernetes.objects import BUDGET, SERVICE, STATEFUL_SET, desired_of, incarnation_of, wanted
from fondaco.adapters.kubernetes.place import Object, Place, pod_name
from fondaco.adapters.kubernetes.pods import Event, Pod, Trouble, instance_of
from fondaco.core.errors import InputError
from fondaco.services.provisioner import Desired, Instance, Observed, Phase

_NOUNS: Final = {STATEFUL_SET: "StatefulSet", SERVICE: "Service", BUDGET: "PodDisruptionBudget"}
_WORST_FIRST: Final = (Phase.FAILED, Phase.DEGRADED, Phase.STARTING, Phase.REMOVING)


class Found(msgspec.Struct):
    """What a cluster holds of one service. `warnings`: by the uid of what they are about; only where they were asked for."""

    stateful_set: Object | None = None
    service: Object | None = None
    budget: Object | None = None
    pods: list[Pod] = []
    warnings: dict[str, list[Event]] = {}

    @property
    def objects(self) -> tuple[Object | None, Object | None, Object | None]:
        return self.stateful_set, self.service, self.budget

    @property
    def first(self) -> Object | None:
        """The object that says most about it."""
        return self.stateful_set or self.service or self.budget

    def current_pods(self, total: int) -> dict[int, Pod]:
        """The pods that count, by number; of two with one number (one ends, its successor comes), the successor."""
        found: dict[int, Pod] = {}
        for pod in self.pods:
            if 0 <= pod.index < total and (pod.index not in found or found[pod.index].is_ending):
                found[pod.index] = pod
        return found


def observed(name: str, found: Found, place: Place, *, now: datetime, patience_s: float, drift: tuple[str, ...] = ()) -> Observed:
    """How a service stands; `drift` as `drift_of` says it."""
    first = found.first
    if first is None:
        return _only_pods(name, found.pods)
    desired = desired_of(first)
    live_total = int((found.stateful_set or {}).get("spec", {}).get("replicas", 0))
    total = desired.replicas if desired is not None else live_total
    endpoints = endpoints_of(desired.service, desired.spec, desired.replicas, place) if desired is not None else {}
    addresses = next(iter(endpoints.values()), ())
    pods = found.current_pods(total)
    missing = _missing(found, now, patience_s)
    instances = []
    for index in range(total):
        address = addresses[index] if index < len(addresses) else ""
        log = _log(place, name, index)
        if index in pods:
            instances.append(instance_of(pods[index], address=address, log=log, now=now, patience_s=patience_s, events=found.warnings))
        else:
            instances.append(Instance(index, Phase.FAILED if missing.lasts else Phase.STARTING, address, reason=missing.reason))
    ready = sum(instance.phase == Phase.READY for instance in instances)
    updating = _updating(found.stateful_set, total)
    phase = _phase(found, instances, ready == total and not updating)
    reason = _reason(phase, instances, ready, updating, desired, found)
    return Observed(name, incarnation_of(first), phase, ready, total, reason, endpoints, tuple(instances), drift, desired)


def _only_pods(name: str, pods: Sequence[Pod]) -> Observed:
    """What is left when the objects are gone: pods, or nothing."""
    if not pods:
        return Observed(name, 0, Phase.ABSENT, 0, 0)
    incarnation = (pods[0].metadata.labels or {}).get("fondaco.dev/incarnation", "0")
    nodes = ", ".join(sorted({pod.spec.node_name for pod in pods if pod.spec.node_name})) or "no node yet"
    reason = f"{len(pods)} {'pod is' if len(pods) == 1 else 'pods are'} left (on {nodes})"
    return Observed(name, int(incarnation), Phase.REMOVING, 0, 0, reason)


def _log(place: Place, service: str, index: int) -> str:
    pod = pod_name(service, index)
    words = {"{namespace}": place.namespace, "{pod}": pod, "{service}": service, "{cluster}": place.cluster}
    link = place.log_url or ""
    for word, value in words.items():
        link = link.replace(word, value)
    return link


def _missing(found: Found, now: datetime, patience_s: float) -> Trouble:
    """Why pods were not made."""
    if found.stateful_set is None:
        return Trouble("its StatefulSet is gone")
    events = [event for event in found.warnings.get(found.stateful_set["metadata"]["uid"], ()) if event.reason == "FailedCreate"]
    newest = max(events, key=lambda event: event.when, default=None)
    if newest is None:
        return Trouble("")
    said = newest.message.rpartition(" failed error: ")[2]
    made = datetime.fromisoformat(found.stateful_set["metadata"]["creationTimestamp"])
    heals = "exceeded quota" in said or "webhook" in said or not ("forbidden" in said or "is invalid" in said)
    return Trouble(f"FailedCreate: {said}", not heals and (now - made).total_seconds() >= patience_s)


def _updating(stateful_set: Object | None, total: int) -> str:
    """How far a rolling update is; "": there is none."""
    if stateful_set is None:
        return ""
    status = stateful_set.get("status") or {}
    if status.get("observedGeneration", 0) < stateful_set["metadata"].get("generation", 0):
        return "a change was just made" if status.get("observedGeneration") else ""
    new, done = status.get("updateRevision", ""), status.get("updatedReplicas", 0)
    if new == status.get("currentRevision", new) or done >= total:
        return ""
    return f"updating one by one: {done} of {total} run the new settings"


def _phase(found: Found, instances: Sequence[Instance], complete: bool) -> Phase:
    first = found.first
    assert first is not None
    if first["metadata"].get("deletionTimestamp"):
        return Phase.REMOVING
    if found.stateful_set is not None and complete and instances:
        return Phase.READY
    phases = {instance.phase for instance in instances}
    if Phase.FAILED in phases:
        return Phase.FAILED
    if Phase.DEGRADED in phases or _is_replacing(found, len(instances)) or phases == {Phase.READY}:
        return Phase.DEGRADED
    return Phase.STARTING


def _is_replacing(found: Found, total: int) -> bool:
    """Whether an instance is missing that others have been ready beside: its pod was made after another had become ready, or is ending."""
    pods = found.current_pods(total)
    since = [ready.last_transition_time for pod in pods.values() if pod.is_ready and (ready := pod.condition("Ready"))]
    first_ready = min((at for at in since if at is not None), default=None)
    if first_ready is None:
        return any(pod.is_ending for pod in pods.values())
    return any(
        pod.is_ending or (made is not None and made > first_ready)
        for pod in pods.values()
        if not pod.is_ready and ((made := pod.metadata.creation_timestamp) or True)
    )


def drift_of(found: Found, place: Place, policy: str) -> tuple[str, ...]:
    """What differs from what was applied last, in words.

    Args:
        policy: version of the budgets that the server has.
    """
    desired = desired_of(found.first) if found.first is not None else None
    if desired is None or (found.first or {})["metadata"].get("deletionTimestamp"):
        return ()
    try:
        objects = wanted(desired, place, policy=policy, before=found.stateful_set).by_kind()
    except InputError:
        return ()
    lines: list[str] = []
    for kind, live in ((STATEFUL_SET, found.stateful_set), (SERVICE, found.service), (BUDGET, found.budget)):
        if kind not in objects:
            lines += ["there is a PodDisruptionBudget, and none was asked for"] if live is not None else []
        elif live is None:
            lines.append(f"the {_NOUNS[kind]} is gone")
        elif found.stateful_set is not None:  # without it, what was applied is not known
            head = "" if kind == STATEFUL_SET else f"{_NOUNS[kind]}: "
            lines += [head + str(difference) for difference in differences(objects[kind], live)]
    return tuple(lines)


def _reason(phase: Phase, instances: Sequence[Instance], ready: int, updating: str, desired: Desired | None, found: Found) -> str:
    if desired is None:
        return "its spec cannot be read (fondaco.dev/spec): was it written by a newer Fondaco?"
    if phase == Phase.READY:
        return ""
    if phase == Phase.REMOVING:
        left = len(found.pods)
        return f"{left} {'pod is' if left == 1 else 'pods are'} left" if left else "its pods are gone"
    parts = [f"{ready}/{len(instances)} ready", *([updating] if updating else [])]
    for worst in _WORST_FIRST:
        troubled = [instance for instance in instances if instance.phase == worst and instance.reason]
        if troubled:
            alike = sum(instance.reason.partition(":")[0] == troubled[0].reason.partition(":")[0] for instance in troubled) - 1
            others = f" (and {alike} more)" if alike else ""
            parts.append(f"instance {troubled[0].index}{others}: {troubled[0].reason}")
            break
    return "; ".join(parts)


def asks_events(found: Found, total: int) -> list[tuple[str, str, str]]:
    """What to ask events about (kind, name, uid) to say why it is not ready: the StatefulSet if pods are missing, and pods."""
    pods = found.current_pods(total)
    asked = []
    if found.stateful_set is not None and len(pods) < total:
        asked.append((STATEFUL_SET, found.stateful_set["metadata"]["name"], found.stateful_set["metadata"]["uid"]))
    troubled = [pod.metadata for pod in pods.values() if not (pod.is_ready or pod.is_ending) and pod.spec.node_name]
    return asked + [("Pod", pod.name, pod.uid) for pod in troubled]


def by_uid(events: Sequence[Event]) -> Mapping[str, list[Event]]:
    """Warnings by what they are about, oldest first."""
    found: dict[str, list[Event]] = {}
    for event in sorted(events, key=lambda event: event.when):
        found.setdefault(event.involved_object.uid, []).append(event)
    return found

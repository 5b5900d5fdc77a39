"""Pods in words, from what a server says of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from fondaco.adapters.kubernetes.place import Place
from fondaco.adapters.kubernetes.pods import Event, Pod, instance_of
from fondaco.adapters.kubernetes.standing import Found, observed
from fondaco.services.provisioner import Instance, Phase

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()


def pod(container: dict[str, Any] | None = None, *, node: str = "n1", conditions: list[dict[str, Any]] | None = None, **more: Any) -> Pod:
    metadata = {"name": "svc-3", "uid": "u3", "creationTimestamp": at(-100)} | more.pop("metadata", {})
    status: dict[str, Any] = {"phase": "Pending", "conditions": conditions or []} | more
    if container is not None:
        status["containerStatuses"] = [{"name": "main", "image": "img:1"} | container]
    return msgspec.convert({"metadata": metadata, "spec": {"nodeName": node}, "status": status}, Pod)


def seen(one: Pod, *events: tuple[str, str], patience_s: float = 30) -> Instance:
    said = [msgspec.convert({"reason": reason, "message": message, "lastTimestamp": at(-1)}, Event) for reason, message in events]
    return instance_of(one, address="a:1", log="", now=NOW, patience_s=patience_s, events={"u3": said})


def crashed(exit_code: int, restarts: int, **ended: Any) -> dict[str, Any]:
    terminated = {"exitCode": exit_code, "reason": "Error"} | ended
    return {"restartCount": restarts, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": terminated}}


def waits(reason: str, message: str = "") -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


@pytest.mark.parametrize(
    ("one", "phase", "reason"),
    [
        (pod(crashed(1, 4, message="a\nno such graph: 'routes'\n")), Phase.FAILED,
         "CrashLoopBackOff: exit code 1, 4 restarts: no such graph: 'routes'"),
        (pod(crashed(1, 1)), Phase.STARTING, "CrashLoopBackOff: exit code 1, 1 restart"),
        (pod(crashed(137, 3)), Phase.FAILED, "CrashLoopBackOff: exit code 137 (killed by signal 9), 3 restarts"),
        (pod(crashed(137, 5, reason="OOMKilled")), Phase.FAILED,
         "CrashLoopBackOff: OOMKilled (out of memory: raise resources.limits.memory), exit code 137, 5 restarts"),
        (pod({"state": {"terminated": {"exitCode": 2, "reason": "Error"}}}), Phase.STARTING, "ended: exit code 2, 0 restarts"),
        (pod(waits("ErrImagePull", "rpc error: manifest unknown")), Phase.FAILED, "ErrImagePull: img:1: rpc error: manifest unknown"),
        (pod(waits("ErrImagePull", "dial tcp: i/o timeout")), Phase.STARTING, "ErrImagePull: img:1: dial tcp: i/o timeout"),
        (pod(waits("InvalidImageName", "no good")), Phase.FAILED, "InvalidImageName: img:1: no good"),
        (pod(waits("CreateContainerConfigError", 'secret "s" not found')), Phase.FAILED,
         'CreateContainerConfigError: secret "s" not found'),
        (pod(waits("ContainerCreating")), Phase.STARTING, "its container is being made"),
        (pod({"state": {"running": {}}}), Phase.STARTING, "not ready yet"),
        (pod({"state": {"running": {}}, "restartCount": 1, "lastState": {"terminated": {"exitCode": 7}}}), Phase.STARTING,
         "not ready yet: started again after exit code 7"),
        (pod(node=""), Phase.STARTING, "waits for a node"),
        (pod(node="", conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]),
         Phase.STARTING, "Unschedulable: 0/3 nodes"),
        (pod(phase="Failed", reason="Evicted", message="low on memory"), Phase.STARTING, "Evicted: low on memory"),
        (pod(metadata={"deletionTimestamp": at(-10)}), Phase.REMOVING, "is ending"),
        (pod(metadata={"deletionTimestamp": at(-90)}), Phase.REMOVING,
         "should have ended 90 s ago; node 'n1' does not confirm it: is it alive?"),
    ],
)  # fmt: skip
def test_a_pod_says_why_it_is_not_ready(one: Pod, phase: Phase, reason: str) -> None:
    assert (seen(one).phase, seen(one).reason) == (phase, reason)


@pytest.mark.parametrize("reason", ["CreateContainerConfigError", "ErrImagePull"])
def test_what_may_be_made_a_moment_later_is_waited_for(reason: str) -> None:
    one = pod(waits(reason, "not found"))
    assert seen(one, patience_s=101).phase == Phase.STARTING
    assert seen(one, patience_s=99).phase == Phase.FAILED


def test_the_cause_behind_a_back_off_comes_from_events() -> None:
    one = pod(waits("ImagePullBackOff", 'Back-off pulling image "img:1"'))
    assert seen(one).phase == Phase.STARTING
    told = seen(one, ("Failed", 'Failed to pull image "img:1": not found'))
    assert (told.phase, told.reason) == (Phase.FAILED, 'ImagePullBackOff: img:1: Failed to pull image "img:1": not found')


def test_volumes_that_cannot_be_mounted_are_named() -> None:
    one = pod(waits("ContainerCreating"))
    assert seen(one, ("FailedMount", "timed out waiting")).reason == "FailedMount: timed out waiting"
    assert seen(one, ("FailedMount", "timed out waiting")).phase == Phase.STARTING
    assert seen(one, ("FailedMount", 'configmap "c" not found')).phase == Phase.FAILED


def test_a_failing_probe_is_quoted() -> None:
    one = pod({"state": {"running": {}}})
    assert seen(one, ("Unhealthy", "Startup probe failed: 503")).reason == "not ready yet: Startup probe failed: 503"


def test_one_that_was_ready_is_degraded_even_if_it_crashes_now() -> None:
    conditions = [
        {"type": "Initialized", "status": "True", "lastTransitionTime": at(-90)},
        {"type": "Ready", "status": "False", "lastTransitionTime": at(-5)},
    ]
    assert seen(pod(crashed(1, 9), conditions=conditions)).phase == Phase.DEGRADED
    conditions[1]["lastTransitionTime"] = at(-90)
    assert seen(pod(crashed(1, 9), conditions=conditions)).phase == Phase.FAILED


def test_long_messages_stay_one_line_of_bounded_length() -> None:
    reason = seen(pod(waits("CreateContainerError", "many\n  lines " * 200))).reason
    assert len(reason) <= 300
    assert "\n" not in reason


def test_pods_that_outlive_their_objects_are_a_removal() -> None:
    left = pod(metadata={"labels": {"fondaco.dev/incarnation": "7"}, "deletionTimestamp": at(0)})
    standing = observed("svc", Found(pods=[left]), Place("texas", "teams"), now=NOW, patience_s=1)
    assert (standing.phase, standing.incarnation, standing.reason) == (Phase.REMOVING, 7, "1 pod is left (on n1)")


def test_a_spec_of_a_newer_version_is_shown_and_not_guessed() -> None:
    metadata = {"name": "svc", "labels": {"fondaco.dev/incarnation": "7"}, "annotations": {"fondaco.dev/spec": '{"name": "x", "warp": 9}'}}
    item = {"metadata": metadata | {"uid": "u", "creationTimestamp": at(-1)}, "spec": {"replicas": 2}, "status": {}}
    standing = observed("svc", Found(stateful_set=item), Place("texas", "teams"), now=NOW, patience_s=1)
    assert (standing.desired, standing.total, standing.phase) == (None, 2, Phase.STARTING)
    assert "newer Fondaco" in standing.reason

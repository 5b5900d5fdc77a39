"""Template: the pods of a service: one container that starts as the spec says, may do little, and is asked whether it is ready.

Defaults, each of which `pod.security` or `pod.template` can change: user and group 1000, not root, no capabilities, no way to more of them,
seccomp RuntimeDefault, a root that cannot be written (with scratch in /tmp, which is HOME too), no token of a service account unless one is
named, no variables of other services. Where a container ends badly, its last words become the pod's termination message, so whoever
reads the pod reads the reason.

Pure; any thread.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from fondaco.adapters.kubernetes.commands import POD, Start, literal, port_numbers, probe_of, start_of, uses_directory
from fondaco.adapters.kubernetes.merging import merged
from fondaco.adapters.kubernetes.place import INCARNATION, INSTANCE, MANAGED_BY, MANAGER, NAME, PLATFORM, Object, Place
from fondaco.core.errors import InputError
from fondaco.services.provisioner import Desired
from fondaco.services.settings import Volume
from fondaco.services.spec import ServiceSpec

CONTAINER: Final = "main"
_USER: Final = 1000
_PLAIN: Final = frozenset({"cpu", "memory", "ephemeral-storage"})  # what may be used beyond its request; of all else a request is the limit
_SCRATCH: Final = "scratch"
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_SECRET = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)/([A-Za-z0-9_.-]{1,253})")
_OURS: Final = frozenset({NAME, INSTANCE, MANAGED_BY})


def own_labels(desired: Desired, place: Place) -> dict[str, str]:
    """The labels by which everything of a service is known, also its pods; they never change while it lives."""
    return {
        NAME: desired.spec.name,
        INSTANCE: desired.service,
        MANAGED_BY: MANAGER,
        PLATFORM: place.platform,
        INCARNATION: str(desired.incarnation),
    }


def pod_template(desired: Desired, place: Place) -> Object:
    """The pod template.

    Raises:
        InputError: something cannot be said to Kubernetes; names the path in the spec.
    """
    spec, pod = desired.spec, desired.spec.pod
    context, group = _security(spec)
    body: Object = {
        "containers": [_container(desired, place, context)],
        "terminationGracePeriodSeconds": pod.grace_s,
        "enableServiceLinks": False,  # thousands of services would be tens of thousands of variables
        "automountServiceAccountToken": pod.service_account is not None,
        "securityContext": {"fsGroup": group, "fsGroupChangePolicy": "OnRootMismatch"} if group is not None else {},
        "affinity": _affinity(desired),
        "volumes": [_source(name, volume) for name, volume in _volumes(spec, place).items()],
        "serviceAccountName": pod.service_account,
        "imagePullSecrets": [{"name": name} for name in pod.pull_secrets],
        "nodeSelector": dict(pod.node_selector),
        "tolerations": [dict(one) for one in pod.tolerations],
        "priorityClassName": pod.priority_class,
    }
    template: Object = {
        "metadata": {"labels": checked_labels(pod.labels, "pod.labels"), "annotations": dict(pod.annotations)},
        "spec": {name: value for name, value in body.items() if value not in (None, {}, [])},
    }
    template = merged(template, copy.deepcopy(pod.template), path="pod.template")  # it is finished below, and the spec must stay as it is
    for path in ("metadata", "spec"):
        if not isinstance(template.get(path), dict):
            raise InputError(f"pod.template.{path}: it can be added to, not taken away")
    _finish(template, own_labels(desired, place))
    return template


def checked_labels(labels: Mapping[str, str], path: str) -> dict[str, str]:
    """Labels that Kubernetes takes and that are not ours.

    Raises:
        InputError: names the label.
    """
    for key, value in labels.items():
        prefix, slash, name = key.rpartition("/")
        if not _LABEL_NAME.fullmatch(name) or (slash and not _LABEL_PREFIX.fullmatch(prefix)):
            raise InputError(f"{path}.{key}: a label is a name of letters, digits, '-', '_' and '.', 63 at most, or example.com/name")
        if value and not _LABEL_NAME.fullmatch(value):
            raise InputError(
                f"{path}.{key}: {value!r}: a label's value is letters, digits, '-', '_' and '.', 63 at most; use pod.annotations"
            )
        if key in _OURS or prefix == "fondaco.dev":
            raise InputError(f"{path}.{key}: this label is Fondaco's own: by it services are found")
    return dict(labels)


def _finish(template: Object, labels: Mapping[str, str]) -> None:
    """What the escape hatch cannot change, and what servers up to 1.22 want said."""
    template["metadata"]["labels"] = template["metadata"].get("labels", {}) | labels
    containers = _objects(template["spec"], "containers", "pod.template.spec")
    if not any(one.get("name") == CONTAINER for one in containers):
        raise InputError(f"pod.template.spec.containers: the container {CONTAINER!r} is the service; add others by other names")
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(_objects(template["spec"], kind, "pod.template.spec")):
            for port in _objects(container, "ports", f"pod.template.spec.{kind}[{container.get('name', index)}]"):
                port.setdefault("protocol", "TCP")  # part of the key by which server-side apply merges ports: without it, 500


def _objects(holder: Object, key: str, path: str) -> list[Object]:
    found = holder.get(key) or []
    if not isinstance(found, list | tuple) or not all(isinstance(one, dict) for one in found):
        raise InputError(f"{path}.{key}: {found!r} is no list of objects")
    return list(found)


# -- the container --------------------------------------------------------------------------------------------------------------------


def _container(desired: Desired, place: Place, context: Object) -> Object:
    spec = desired.spec
    image = spec.image or place.image
    if not image:
        raise InputError(
            f"image: cluster {place.cluster!r} needs one: name it in the spec, or for all services in [services.clusters.{place.cluster}]"
        )
    start = start_of(desired, place)
    container: Object = {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": spec.pod.pull_policy,
        "command": start.command,
        "env": _variables(spec, place, start, scratch=bool(context.get("readOnlyRootFilesystem"))),
        "ports": [{"name": name, "containerPort": number, "protocol": "TCP"} for name, number in port_numbers(spec).items()],
        "resources": _resources(spec),
        "volumeMounts": [
            {"name": name, "mountPath": volume.path} | ({"readOnly": True} if volume.read_only and not volume.empty else {})
            for name, volume in _volumes(spec, place).items()
        ],
        "securityContext": context,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **_probes(desired, place),
    }
    return {name: value for name, value in container.items() if value not in ({}, [])}


def _variables(spec: ServiceSpec, place: Place, start: Start, *, scratch: bool) -> list[Object]:
    for path, names in (("env", spec.env), ("secrets", spec.secrets)):
        if POD in names:
            raise InputError(f"{path}.{POD}: this variable is set by Fondaco: it is the pod's name")
    shared = uses_directory(spec)
    given = {name: literal(value) for name, value in place.env.items()} if shared else {}
    secrets = (place.secrets if shared else {}) | spec.secrets
    plain = ({"HOME": "/tmp"} if scratch else {}) | given | start.variables
    entries: list[Object] = [{"name": POD, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    entries += [{"name": name, "value": value} for name, value in plain.items() if name not in secrets or name in start.variables]
    return entries + [_secret(name, text) for name, text in secrets.items() if name not in start.variables]


def _secret(name: str, text: str) -> Object:
    match = _SECRET.fullmatch(text)
    if match is None:
        raise InputError(f'secrets.{name}: {text!r} is no secret of Kubernetes; write "secret-name/key"')
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": match[1], "key": match[3]}}}


def _resources(spec: ServiceSpec) -> Object:
    requests, limits = dict(spec.resources.requests), dict(spec.resources.limits)
    limits |= {name: amount for name, amount in requests.items() if name not in _PLAIN and name not in limits}
    return {kind: amounts for kind, amounts in (("requests", requests), ("limits", limits)) if amounts}


def _security(spec: ServiceSpec) -> tuple[Object, int | None]:
    """The container's security context, and the group that volumes belong to."""
    default: Object = {
        "runAsNonRoot": True, "runAsUser": _USER, "runAsGroup": _USER, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    context = merged(default, spec.pod.security, path="pod.security")
    # fsGroup is the pod's, not a container's. Who leaves the user to the cluster (OpenShift has one for each namespace) leaves it that too.
    group = context.pop("fsGroup", context.get("runAsGroup")) if spec.pod.security.get("fsGroup", 0) is not None else None
    return context, group


def _probes(desired: Desired, place: Place) -> Object:
    readiness = desired.spec.readiness
    numbers = port_numbers(desired.spec)
    port = readiness.port or next(iter(numbers), "")
    if readiness.http is not None:
        asked: Object = {"httpGet": {"path": readiness.http, "port": numbers[port], "scheme": "HTTP"}}
    elif readiness.tcp:
        asked = {"tcpSocket": {"port": numbers[port]}}
    elif readiness.command:
        asked = {"exec": {"command": probe_of(desired, place)}}
    else:
        return {}
    period, timeout = max(1, round(readiness.every_s)), max(1, math.ceil(readiness.timeout_s))
    asked |= {"timeoutSeconds": timeout, "successThreshold": 1}
    probes: Object = {
        "startupProbe": asked | {"periodSeconds": period, "failureThreshold": max(1, math.ceil(readiness.start_s / period))},
        "readinessProbe": asked | {"periodSeconds": period, "failureThreshold": 3},
    }
    if readiness.hang_s is not None:
        slow = max(period, min(10, math.ceil(readiness.hang_s / 3)))
        probes["livenessProbe"] = asked | {"periodSeconds": slow, "failureThreshold": max(1, math.ceil(readiness.hang_s / slow))}
    return probes


# -- the pod --------------------------------------------------------------------------------------------------------------------------


def _affinity(desired: Desired) -> Object:
    given: Object = dict(desired.spec.pod.affinity)
    if desired.spec.pod.spread == "none" or "podAntiAffinity" in given:
        return given
    away: Any = {
        "labelSelector": {"matchLabels": {INSTANCE: desired.service, INCARNATION: str(desired.incarnation)}},
        "topologyKey": "kubernetes.io/hostname",
    }
    if desired.spec.pod.spread == "require":
        return given | {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [away]}}
    return given | {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": away}]}}


def _volumes(spec: ServiceSpec, place: Place) -> dict[str, Volume]:
    """What is mounted, by the name of the volume: the spec's, the configured ones where they belong, and scratch."""
    volumes = list(spec.volumes)
    if uses_directory(spec):
        volumes += [volume for volume in place.volumes if all(volume.path != other.path for other in spec.volumes)]
    named = {f"volume-{index}": volume for index, volume in enumerate(volumes)}
    if all(volume.path != "/tmp" for volume in volumes) and _security(spec)[0].get("readOnlyRootFilesystem"):
        named[_SCRATCH] = Volume("/tmp", empty=True, read_only=False)
    return named


def _source(name: str, volume: Volume) -> Object:
    if volume.claim:
        source: Object = {"persistentVolumeClaim": {"claimName": volume.claim} | ({"readOnly": True} if volume.read_only else {})}
    elif volume.host:
        source = {"hostPath": {"path": volume.host}}
    elif volume.secret:
        source = {"secret": {"secretName": volume.secret}}
    elif volume.config:
        source = {"configMap": {"name": volume.config}}
    else:
        source = {"emptyDir": {"sizeLimit": volume.empty} if isinstance(volume.empty, str) else {}}
    return {"name": name, **source}


def canonical(value: object) -> str:
    """JSON that is the same for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)

"""Objects: what a service is in Kubernetes: a StatefulSet, a headless Service, a PodDisruptionBudget, all of its name.

What never changes while a service lives: the names, `serviceName`, `podManagementPolicy` and the selectors (instance and incarnation),
which Kubernetes lets nobody change in place. What was asked (spec, replicas, facts such as holders) stands in annotations of the objects,
not of the pods: a change of it restarts nothing. Beside it stands what was made of it (`fondaco.dev/applied`): as long as the spec is the
same, that is what is applied again, whatever this version of Fondaco or this configuration would make of the spec. Else two versions at
work on one cluster would restart each other's pods, over and over.

Pure; any thread. docs/internals/kubernetes-objects.md has a worked example.
"""

from __future__ import annotations

import functools
import json
from typing import Final

import msgspec

from fondaco.adapters.kubernetes.commands import depends_on_replicas, port_numbers
from fondaco.adapters.kubernetes.place import (
    APPLIED,
    IDENTITY,
    INCARNATION,
    INSTANCE,
    MANAGED_BY,
    MANAGER,
    PLATFORM,
    PREFIX,
    REPLICAS,
    SPEC,
    Object,
    Place,
    selected_by,
)  # fmt: skip
from fondaco.adapters.kubernetes.template import canonical, checked_labels, own_labels, pod_template
from fondaco.core.errors import FondacoError, InputError
from fondaco.services.provisioner import Desired
from fondaco.services.spec import ServiceSpec

STATEFUL_SET: Final = "StatefulSet"
SERVICE: Final = "Service"
BUDGET: Final = "PodDisruptionBudget"
_ANNOTATIONS_BYTES_MAX: Final = 256 << 10  # of one object (apimachinery, TotalAnnotationSizeLimitB)
_OWN_ANNOTATIONS: Final = frozenset({SPEC, REPLICAS, APPLIED})


class Wanted(msgspec.Struct, frozen=True):
    """The objects of one service; `budget` None: none shall be."""

    stateful_set: Object
    service: Object
    budget: Object | None

    def by_kind(self) -> dict[str, Object]:
        found = {STATEFUL_SET: self.stateful_set, SERVICE: self.service}
        return found if self.budget is None else found | {BUDGET: self.budget}


def wanted(desired: Desired, place: Place, *, policy: str = "policy/v1", before: Object | None = None) -> Wanted:
    """The objects that make a service so.

    Args:
        policy: version of the budget that the server has. before: the StatefulSet as it is now, if there is one.
    Raises:
        InputError: something cannot be said to Kubernetes; names the path in the spec.
    """
    specs = (applied_before(desired, before) if before is not None else None) or _specs(desired, place)
    metadata = _metadata(desired, place)
    kept = metadata | {"annotations": metadata["annotations"] | {APPLIED: canonical(specs)}}
    if (size := sum(len(key) + len(text.encode()) for key, text in kept["annotations"].items())) > _ANNOTATIONS_BYTES_MAX:
        raise InputError(
            f"the spec, and what is made of it, are {size} bytes as Fondaco keeps them with the StatefulSet, and Kubernetes takes "
            f"{_ANNOTATIONS_BYTES_MAX}: keep long values in a ConfigMap, and mount that (volumes)"
        )
    versions = {STATEFUL_SET: "apps/v1", SERVICE: "v1", BUDGET: policy}
    made = {
        kind: {"apiVersion": versions[kind], "kind": kind, "metadata": kept if kind == STATEFUL_SET else metadata, "spec": spec}
        for kind, spec in specs.items()
    }
    return Wanted(made[STATEFUL_SET], made[SERVICE], made.get(BUDGET))


def applied_before(desired: Desired, stateful_set: Object) -> dict[str, Object] | None:
    """What was made of the same spec when it was applied last, by kind; None: it was of another spec, or is not to be read."""
    annotations = annotations_of(stateful_set)
    if annotations.get(SPEC) != spec_text(desired.spec):
        return None
    try:
        specs: dict[str, Object] = json.loads(annotations[APPLIED])
        replicas = specs[STATEFUL_SET]["replicas"]
        if specs[SERVICE] and replicas != desired.replicas:
            specs[STATEFUL_SET]["replicas"] = desired.replicas
            return None if depends_on_replicas(desired.spec) else specs
    except (KeyError, TypeError, ValueError):
        return None
    return specs


def _specs(desired: Desired, place: Place) -> dict[str, Object]:
    pod = desired.spec.pod
    selector = selected_by(desired.service, desired.incarnation)
    numbers = port_numbers(desired.spec)
    specs: dict[str, Object] = {
        STATEFUL_SET: {
            "replicas": desired.replicas,
            "serviceName": desired.service,
            "podManagementPolicy": "Parallel",  # partitions load at the same time, not after each other
            "revisionHistoryLimit": 2,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},  # one by one, from the last to the first
            "selector": {"matchLabels": selector},
            "template": pod_template(desired, place),
        },
        SERVICE: {
            "clusterIP": "None",  # names each pod; nothing stands between a client and the shard it asks
            "publishNotReadyAddresses": pod.publish_unready,
            "selector": selector,
            "ports": [{"name": name, "port": number, "targetPort": number, "protocol": "TCP"} for name, number in numbers.items()],
        },
    }
    if not numbers:
        del specs[SERVICE]["ports"]
    if pod.disruption is not None:
        specs[BUDGET] = {"maxUnavailable": pod.disruption, "selector": {"matchLabels": selector}}
    return specs


def _metadata(desired: Desired, place: Place) -> Object:
    labels = checked_labels(desired.spec.labels, "labels") | own_labels(desired, place) | {IDENTITY: desired.spec.identity[:16]}
    annotations = {PREFIX + key: value for key, value in desired.annotations.items()}
    annotations |= {SPEC: spec_text(desired.spec), REPLICAS: str(desired.replicas)}
    return {"name": desired.service, "namespace": place.namespace, "labels": labels, "annotations": annotations}


# -- reading back ---------------------------------------------------------------------------------------------------------------------


def spec_text(spec: ServiceSpec) -> str:
    """A spec as it stands in the annotation."""
    return canonical(spec.to_dict())


@functools.lru_cache(maxsize=8192)
def spec_of(text: str) -> ServiceSpec | None:
    """The spec in an annotation; None: it cannot be read, as one of a newer Fondaco."""
    try:
        return ServiceSpec.from_dict(json.loads(text))
    except (FondacoError, ValueError, TypeError, AttributeError):
        return None


def desired_of(item: Object) -> Desired | None:
    """What was asked, read back from an object of ours."""
    annotations = annotations_of(item)
    spec = spec_of(annotations.get(SPEC, ""))
    replicas = annotations.get(REPLICAS, "")
    if spec is None or not replicas.isdecimal():
        return None
    facts = {
        key.removeprefix(PREFIX): value for key, value in annotations.items() if key.startswith(PREFIX) and key not in _OWN_ANNOTATIONS
    }
    return Desired(item["metadata"]["name"], incarnation_of(item), spec, int(replicas), facts)


def is_ours(item: Object, place: Place) -> bool:
    labels = item["metadata"].get("labels") or {}
    return labels.get(MANAGED_BY) == MANAGER and labels.get(PLATFORM) == place.platform and labels.get(INCARNATION, "").isdecimal()


def incarnation_of(item: Object) -> int:
    return int(item["metadata"]["labels"][INCARNATION])


def service_of(item: Object) -> str:
    """The service that an object (also a pod) of ours belongs to."""
    return str(item["metadata"]["labels"].get(INSTANCE, ""))


def annotations_of(item: Object) -> dict[str, str]:
    found: dict[str, str] = item["metadata"].get("annotations") or {}
    return found

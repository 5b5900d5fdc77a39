"""The shipped manifests as Python values: what `kubectl kustomize` makes of a folder, without patches (the overlays' alone have them)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from kubernetes_cluster import Cluster

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
IMAGE = "fondaco:0.1.0"
Object = dict[str, Any]


def objects_of(folder: str, *, namespace: str = "fondaco") -> list[Object]:
    """The objects of a folder and of those that it includes, in a namespace."""
    found: list[Object] = []
    for resource in yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())["resources"]:
        path = (KUBERNETES / folder / resource).resolve()
        if path.is_dir():
            found += objects_of(str(path.relative_to(KUBERNETES)), namespace=namespace)
        else:
            found += [_placed(one, namespace) for one in yaml.safe_load_all(path.read_text())]
    return found


def _placed(document: Object, namespace: str) -> Object:
    document = json.loads(json.dumps(document))  # anchors of YAML are one value several times
    if document["kind"] == "Namespace":
        document["metadata"]["name"] = namespace
        return document
    document["metadata"]["namespace"] = namespace
    for subject in document.get("subjects", ()):
        subject["namespace"] = namespace
    for container in containers_of(document):
        if container["image"] == "fondaco":
            container["image"] = IMAGE
        for variable in container.get("env", ()):
            if variable["name"] == "IMAGE":
                variable["value"] = IMAGE
    return document


def pod_of(document: Object) -> Object | None:
    """The pod template's spec of a workload."""
    found: Object | None = document["spec"]["template"]["spec"] if document["kind"] in ("Deployment", "StatefulSet") else None
    return found


def containers_of(document: Object) -> list[Object]:
    """The containers of a workload, those that run first included."""
    pod = pod_of(document) or {}
    return [*pod.get("initContainers", ()), *pod.get("containers", ())]


def path_of(document: Object) -> str:
    """Where the API server has an object."""
    group, kind, metadata = document["apiVersion"], document["kind"].lower(), document["metadata"]
    plural = "networkpolicies" if kind == "networkpolicy" else kind + "s"
    root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
    within = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{root}{within}/{plural}/{metadata['name']}"


def give_volumes(cluster: Cluster, claims: Sequence[str]) -> None:
    """Volumes for claims of a test's namespace, as a storage class would make them; gone with the test."""
    for claim in claims:
        name = f"{cluster.namespace}-{claim}"
        spec = {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
            "hostPath": {"path": f"/nowhere/{name}"},
            "claimRef": {"namespace": cluster.namespace, "name": claim},
            "persistentVolumeReclaimPolicy": "Retain",
        }
        volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
        cluster.api.post("/api/v1/persistentvolumes", volume)
        cluster.stack.callback(cluster.api.delete, f"/api/v1/persistentvolumes/{name}")

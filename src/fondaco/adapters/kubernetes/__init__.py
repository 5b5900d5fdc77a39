"""Kubernetes: data services as StatefulSets (extra `kubernetes`).

`KubernetesProvisioner` is a `fondaco.services.provisioner.Provisioner` for one namespace of one cluster. A service is a StatefulSet, a
headless Service and a PodDisruptionBudget of its name, written by server-side apply under the field manager "fondaco"; what was asked is
kept in annotations, so that any other process reads it back. The objects, with a worked example: docs/internals/kubernetes-objects.md.

What it needs to be allowed to do, in its namespace and nowhere else:

    apps                  statefulsets            get list create patch delete
    ""                    services                get list create patch delete
    policy                poddisruptionbudgets    get list create patch delete
    ""                    pods                    list delete
    ""                    events                  list
    ""                    pods/log                get

It reads no secrets and no config maps, watches nothing, and makes no namespaces, roles or nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fondaco.adapters.kubernetes.provisioner import KubernetesProvisioner

__all__ = ["KubernetesProvisioner"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fondaco.adapters.kubernetes.provisioner import KubernetesProvisioner

    return KubernetesProvisioner

"""What every provisioner promises, kept by the one for Kubernetes on a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fondaco.adapters.kubernetes import KubernetesProvisioner
from fondaco.adapters.kubernetes.client import STATEFUL_SETS
from fondaco.adapters.kubernetes.objects import wanted
from fondaco.services.provisioner import Desired, Provisioner
from fondaco.services.spec import ServiceSpec
from fondaco.testing.provisioner import OpenProvisioner, ProvisionerContract
from kubernetes_cluster import BEHAVIOUR, LOG, Cluster

_BEHAVIOURS = {"ready": "ready:0", "slow": "ready:2", "crashing": "crash:3", "never ready": "never"}


class TestKubernetesProvisioner(ProvisionerContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster) -> None:
        cluster.require_ours("nodes that follow a script")
        self.here = cluster

    @pytest.fixture
    def open_provisioner(self, cluster: Cluster) -> Iterator[OpenProvisioner]:
        opened: list[KubernetesProvisioner] = []

        def open_one() -> Provisioner:
            opened.append(
                KubernetesProvisioner(
                    "texas",
                    context=cluster.context,
                    kubeconfig=cluster.kubeconfig,
                    namespace=cluster.namespace,
                    image="registry.example/x:1",
                )
            )
            return opened[-1]

        yield open_one
        for one in opened:
            one.close()

    def make_spec(self, kind: str, name: str, **more: Any) -> ServiceSpec:
        said = {BEHAVIOUR: _BEHAVIOURS[kind], LOG: f"{self.crash_word} said {{pod}}\nand ended"}
        given: dict[str, Any] = {
            "command": ["serve", kind],
            "ports": ["main", "metrics"],
            "readiness": {"http": "/ready", "port": "metrics"},
            "pod": {"annotations": said},
        }
        return ServiceSpec(name, **(given | more))

    def mark_of(self, provisioner: Provisioner, service: str, index: int) -> object:
        return self.here.api.get(self.here.path("pods", f"{service}-{index}"))["metadata"]["uid"]

    def break_something(self, provisioner: Provisioner, service: str) -> bool:
        self.here.api.patch(self.here.path("statefulsets", service, "apps/v1"), {"spec": {"replicas": 1}}, fieldManager="kubectl")
        self.here.api.delete(self.here.path("services", service))
        return True

    def apply_half(self, provisioner: Provisioner, desired: Desired) -> bool:
        assert isinstance(provisioner, KubernetesProvisioner)
        provisioner._client.within().apply(STATEFUL_SETS, wanted(desired, provisioner._place).stateful_set)
        return True

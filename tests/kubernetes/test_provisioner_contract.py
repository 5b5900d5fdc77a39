"""What every provisioner promises, kept by the one for Kubernetes on a real API server.

On the tests' own control plane by pods that follow a script; on a user's cluster by pods that run, with what their kubelet makes of them.
"""

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
from kubernetes_cluster import BEHAVIOUR, IS_GIVEN, LOG, REAL_IMAGE, Cluster

_BEHAVIOURS = {"ready": "ready:0", "slow": "ready:2", "crashing": "crash:3", "never ready": "never"}

_SERVE = "exec httpd -f -p {port.metrics} -h /tmp"
_PROGRAMS = {
    "ready": f"touch /tmp/ready; {_SERVE}",
    "slow": f"sleep 2; touch /tmp/ready; {_SERVE}",
    "crashing": f"echo {ProvisionerContract.crash_word} said $HOSTNAME; echo and ended; exit 3",
    "never ready": _SERVE,
}

# Images are pulled and crashes backed off from; a removal may have to outlast both.
pytestmark = [pytest.mark.real_pods, pytest.mark.timeout(900)] if IS_GIVEN else []


class TestKubernetesProvisioner(ProvisionerContract):
    patience_s = 240.0 if IS_GIVEN else ProvisionerContract.patience_s

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster) -> None:
        cluster.require_running_pods()
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
                    image=REAL_IMAGE if IS_GIVEN else "registry.example/x:1",
                )
            )
            return opened[-1]

        yield open_one
        for one in opened:
            one.close()

    def make_spec(self, kind: str, name: str, **more: Any) -> ServiceSpec:
        said = {BEHAVIOUR: _BEHAVIOURS[kind], LOG: f"{self.crash_word} said {{pod}}\nand ended"}
        given: dict[str, Any] = {
            "command": ["sh", "-c", _PROGRAMS[kind]] if IS_GIVEN else ["serve", kind],
            "ports": ["main", "metrics"],
            "readiness": {"http": "/ready", "port": "metrics", "every_s": 1},
            "pod": {"annotations": said, "grace_s": 1},  # as the first process of its container, httpd hears no SIGTERM
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

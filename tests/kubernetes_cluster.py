"""Fixtures: a Kubernetes cluster for tests. A folder's conftest.py takes them: `from kubernetes_cluster import cluster, kubernetes_run`.

`cluster` is a namespace of the test's own in

    $KUBECONFIG's current context    where this variable names a file: the same tests on your cluster; those that need nodes by script skip
    a control plane of the run's own (tests/kubernetes/control_plane.py), shared by all its workers

A cluster of yours needs

    a login that may do everything in namespaces that it makes, give roles and tokens there, and list nodes: in short, a cluster's admin
    a node that is ready and has no taint, for what needs pods that run (the provisioner's contract, test_real_pods.py): else that skips
    an image with `sh` and busybox's `httpd` that its nodes can pull: $FONDACO_TEST_IMAGE, or else docker.io/library/busybox:1.36

and keeps nothing: each test's namespace, fondaco-test-..., is deleted after it.

Where the programs are not built, tests skip and say how to build them; where they were built and do not start, tests fail.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.kubernetes import control_plane
from tests.kubernetes.api import MERGE, Api, ApiError
from tests.kubernetes.fake_node import PREFIX

from waiting import wait_for

BEHAVIOUR = PREFIX + "behaviour"
LINGER = PREFIX + "linger"
LOG = PREFIX + "log"

IS_GIVEN = bool(os.environ.get("KUBECONFIG"))  # a user's cluster: pods really run there, and follow no script
REAL_IMAGE = os.environ.get("FONDACO_TEST_IMAGE") or "docker.io/library/busybox:1.36"


@dataclass
class Run:
    """What a test run has: one cluster, and perhaps another beside it."""

    kubeconfig: Path
    context: str
    is_ours: bool
    directory: Path
    stack: contextlib.ExitStack = field(repr=False)
    _other: Path | None = None

    def other(self) -> Path:
        """The kubeconfig of a second API server, without controllers or nodes: it keeps what it is told, and nothing becomes ready."""
        if self._other is None:
            require_programs()
            self._other = self.stack.enter_context(control_plane.borrowed(self.directory / "other", "server"))
        return self._other


@dataclass
class Cluster:
    """One test's share of a cluster.

    Attributes:
        kubeconfig, context: how to reach it, as one who may do everything. `nobody` and `unreachable` are contexts of ours, too.
        namespace: the test's own. api: asks the server directly.
    """

    kubeconfig: Path
    context: str
    namespace: str
    api: Api
    run: Run = field(repr=False)
    stack: contextlib.ExitStack = field(repr=False)

    @property
    def node(self) -> Nodes:
        """The nodes that follow a script; skips the test on a cluster that is not ours."""
        self.require_ours("nodes that follow a script")
        return Nodes(self)

    def require_ours(self, what: str) -> None:
        """Skip the test on a user's cluster, which has no such thing."""
        if not self.run.is_ours:
            pytest.skip(f"needs {what}, which the cluster of $KUBECONFIG does not have; unset it")

    def require_running_pods(self) -> None:
        """Skip the test on a user's cluster where no node takes a pod: waiting for one would tell nothing."""
        if not self.run.is_ours and not any(_takes_pods(node) for node in self.api.items("/api/v1/nodes")):
            pytest.skip("needs pods that run: the cluster of $KUBECONFIG has no node that is ready and without taints")

    def settings(self, name: str) -> str:
        """The table of fondaco.toml by which a platform knows this share of the cluster, by a name; more lines may follow."""
        values = {"kind": "kubernetes", "kubeconfig": str(self.kubeconfig), "context": self.context, "namespace": self.namespace}
        return f"[services.clusters.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())

    def path(self, resource: str, name: str = "", group: str = "v1") -> str:
        """The path of a resource of the namespace: path("pods"), path("statefulsets", "x", "apps/v1")."""
        root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
        return f"{root}/namespaces/{self.namespace}/{resource}" + (f"/{name}" if name else "")

    def budgets(self, name: str = "") -> str:
        """The path of its PodDisruptionBudgets, at the version that the server has: before 1.21 only v1beta1, since 1.25 only v1."""
        return self.path("poddisruptionbudgets", name, "policy/v1" if self.api.find("/apis/policy/v1") else "policy/v1beta1")

    def pods(self, selector: str = "") -> list[dict[str, Any]]:
        """The pods of the namespace, by name."""
        found = self.api.items(self.path("pods"), **({"labelSelector": selector} if selector else {}))
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def other(self) -> Cluster:
        """A namespace in a second API server, which has neither controllers nor nodes; gone with the test."""
        return self.stack.enter_context(_share(self.run, self.run.other(), "main"))

    def token(self, account: str) -> str:
        """A token of one of the namespace's service accounts, good for an hour."""
        made = self.api.post(self.path("serviceaccounts", account) + "/token", {"spec": {"expirationSeconds": 3600}})
        return str(made["status"]["token"])

    def kubeconfig_of(self, token: str, directory: Path) -> Path:
        """A kubeconfig for the bearer of a token, with one context `main` in this namespace."""
        from lightkube.config.kubeconfig import KubeConfig

        found = KubeConfig.from_file(self.kubeconfig).get(self.context)
        assert found is not None
        server: dict[str, Any] = {"server": found.cluster.server}
        if found.cluster.insecure:
            server["insecure-skip-tls-verify"] = True
        elif found.cluster.certificate_auth_data:
            server["certificate-authority-data"] = found.cluster.certificate_auth_data
        elif found.cluster.certificate_auth:
            server["certificate-authority"] = str(found.abs_file(found.cluster.certificate_auth))
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "main", "cluster": server}],
            "users": [{"name": "main", "user": {"token": token}}],
            "contexts": [{"name": "main", "context": {"cluster": "main", "user": "main", "namespace": self.namespace}}],
            "current-context": "main",
        }
        path = directory / f"kubeconfig-{secrets.token_hex(4)}"
        path.write_text(json.dumps(document))
        return path


class Nodes:
    """The fake nodes; what they can do is said in tests/kubernetes/fake_node.py."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def behave(self, pod: str, behaviour: str) -> None:
        """Have a living pod behave otherwise from now on."""
        self._cluster.api.patch(self._cluster.path("pods", pod), {"metadata": {"annotations": {BEHAVIOUR: behaviour}}}, MERGE)


def require_programs() -> None:
    """Skip the test where no control plane can be started, and say what to do."""
    missing = control_plane.missing()
    if missing and not control_plane.was_built():
        pytest.skip(f"NO KUBERNETES: {', '.join(missing)} not in {control_plane.home()}; build: tests/kubernetes/build_control_plane.sh")
    assert not missing, f"{', '.join(missing)} was built and is gone: remove {control_plane.home()} and build again"


def _takes_pods(node: dict[str, Any]) -> bool:
    is_ready = any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"].get("conditions", ()))
    return is_ready and not node["spec"].get("taints")


@pytest.fixture(scope="session")
def kubernetes_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The run's cluster, started by whichever worker needs it first."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kubernetes"
    with contextlib.ExitStack() as stack:
        if IS_GIVEN:
            from lightkube.config.kubeconfig import KubeConfig

            given = os.environ["KUBECONFIG"]
            context = KubeConfig.from_file(given).current_context
            assert context, f"{given} has no current context"
            yield Run(Path(given), context, False, directory, stack)
        else:
            require_programs()
            kubeconfig = stack.enter_context(control_plane.borrowed(directory / "main"))
            yield Run(kubeconfig, "main", True, directory, stack)


@pytest.fixture
def cluster(kubernetes_run: Run) -> Iterator[Cluster]:
    """A namespace of the test's own, removed after it with all that is in it."""
    with _share(kubernetes_run, kubernetes_run.kubeconfig, kubernetes_run.context) as share:
        yield share


@contextlib.contextmanager
def _share(run: Run, kubeconfig: Path, context: str) -> Iterator[Cluster]:
    name = f"fondaco-test-{secrets.token_hex(5)}"
    with Api(kubeconfig, context) as api, contextlib.ExitStack() as stack:
        api.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        try:
            share = Cluster(kubeconfig, context, name, api, run, stack)
            if kubeconfig == run.kubeconfig:  # without controllers nobody makes it
                wait_for(
                    lambda: api.find(share.path("serviceaccounts", "default")), "the account `default`, without which there are no pods"
                )
            yield share
        finally:
            with contextlib.suppress(ApiError):
                api.delete(f"/api/v1/namespaces/{name}")  # it goes in its own time

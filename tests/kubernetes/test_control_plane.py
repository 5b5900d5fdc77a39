"""The control plane and its scripted nodes do what the tests of this folder believe of them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys

import pytest
from tests.kubernetes import control_plane
from tests.kubernetes.api import Api, ApiError

from kubernetes_cluster import BEHAVIOUR, LINGER, LOG
from waiting import wait_for


def _set(cluster, name, replicas=1, annotations=None, **container):
    """A StatefulSet with its headless Service."""
    labels = {"app": name}
    port = {"name": "http", "containerPort": 8080, "protocol": "TCP"}
    container = {"name": "main", "image": "example.org/server:1", "ports": [port], **container}
    pod = {"metadata": {"labels": labels, "annotations": annotations or {}}, "spec": {"containers": [container]}}
    common = {"metadata": {"name": name, "namespace": cluster.namespace}}
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    service = {"apiVersion": "v1", "kind": "Service", "spec": {"clusterIP": "None", "selector": labels, "ports": ports}} | common
    spec = {
        "replicas": replicas,
        "serviceName": name,
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": labels},
        "template": pod,
    }
    cluster.api.apply(cluster.path("services", name), service)
    cluster.api.apply(
        cluster.path("statefulsets", name, "apps/v1"), {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": spec} | common
    )


def _ready(cluster, name):
    return cluster.api.get(cluster.path("statefulsets", name, "apps/v1"))["status"].get("readyReplicas", 0)


def _state(pod):
    statuses = pod["status"].get("containerStatuses")
    return statuses[0]["state"] if statuses else {}


def test_pods_of_a_set_become_ready_and_their_addresses_endpoints(cluster):
    cluster.require_ours("nodes that follow a script")
    _set(cluster, "web", 2)
    wait_for(lambda: _ready(cluster, "web") == 2, "both pods to be ready")

    def addresses():
        return [
            one for part in cluster.api.get(cluster.path("endpoints", "web")).get("subsets") or () for one in part.get("addresses") or ()
        ]

    wait_for(lambda: len(addresses()) == 2, "endpoints")
    assert sorted(one["targetRef"]["name"] for one in addresses()) == ["web-0", "web-1"]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("crash:3", "CrashLoopBackOff"),
        ("oom", "CrashLoopBackOff"),
        ("pull-error", "ImagePullBackOff"),
        ("config-error", "CreateContainerConfigError"),
    ],
)
def test_a_pod_fails_as_its_annotation_says_and_the_event_tells(cluster, behaviour, reason):
    cluster.require_ours("nodes that follow a script")
    _set(cluster, "web", annotations={BEHAVIOUR: behaviour})
    wait_for(lambda: any(_state(pod).get("waiting", {}).get("reason") == reason for pod in cluster.pods()), reason)
    wait_for(lambda: any(one["type"] == "Warning" for one in cluster.api.items(cluster.path("events"))), "an event")
    ended = cluster.pods()[0]["status"]["containerStatuses"][0]["lastState"].get("terminated", {})
    assert ended.get("exitCode") == {"crash:3": 3, "oom": 137}.get(behaviour)
    assert ended.get("reason") == {"crash:3": "Error", "oom": "OOMKilled"}.get(behaviour)


def test_restarts_are_counted_and_a_recovered_pod_is_ready(cluster):
    cluster.require_ours("nodes that follow a script")
    _set(cluster, "web", annotations={BEHAVIOUR: "recover:2"})
    wait_for(lambda: _ready(cluster, "web") == 1, "the pod to recover")
    assert cluster.pods()[0]["status"]["containerStatuses"][0]["restartCount"] == 2


def test_one_pod_of_several_behaves_otherwise_and_changes_when_told(cluster):
    cluster.require_ours("nodes that follow a script")
    _set(cluster, "web", 3, annotations={BEHAVIOUR: "ready:0;2=never"})
    wait_for(lambda: _ready(cluster, "web") == 2, "two of three")
    wait_for(lambda: "running" in _state(cluster.pods()[2]), "the third to run")
    cluster.node.behave("web-2", "ready:0")
    wait_for(lambda: _ready(cluster, "web") == 3, "all three")
    cluster.node.behave("web-1", "unready:0")
    wait_for(lambda: _ready(cluster, "web") == 2, "one to fall")


def test_a_deleted_pod_lingers_as_long_as_it_says_and_its_set_makes_it_anew(cluster):
    cluster.require_ours("nodes that follow a script")
    _set(cluster, "web", annotations={LINGER: "stuck"})
    wait_for(lambda: _ready(cluster, "web") == 1, "the pod")
    before = cluster.pods()[0]["metadata"]["uid"]
    cluster.api.delete(cluster.path("pods", "web-0"))
    wait_for(lambda: "deletionTimestamp" in cluster.pods()[0]["metadata"], "it to be ending")
    assert cluster.pods()[0]["metadata"]["uid"] == before
    cluster.api.delete(cluster.path("pods", "web-0"), gracePeriodSeconds=0)
    wait_for(lambda: any(pod["metadata"]["uid"] != before for pod in cluster.pods()), "its successor")


def test_logs_are_asked_of_the_node(cluster):
    cluster.require_ours("nodes that follow a script")
    _set(cluster, "web", annotations={LOG: "one\ntwo\n{pod} listens"})
    wait_for(lambda: _ready(cluster, "web") == 1, "the pod")
    assert cluster.api.get(cluster.path("pods", "web-0") + "/log", tailLines=2) == "two\nweb-0 listens\n"


def test_a_pod_that_asks_for_more_than_there_is_stays_unscheduled(cluster):
    _set(cluster, "web", resources={"limits": {"nvidia.com/gpu": "1000000"}})

    def is_unschedulable():
        conditions = [one for pod in cluster.pods() for one in pod["status"].get("conditions", ())]
        return any(one.get("reason") == "Unschedulable" for one in conditions)

    wait_for(is_unschedulable, "the scheduler's word")


def test_roles_are_enforced(cluster):
    cluster.require_ours("the context `nobody`")
    with Api(cluster.kubeconfig, "nobody") as api, pytest.raises(ApiError, match='User "nobody" cannot list resource "pods"'):
        api.items(cluster.path("pods"))


def test_a_token_of_a_service_account_is_that_account(cluster, tmp_path):
    account = f"system:serviceaccount:{cluster.namespace}:default"
    with Api(cluster.kubeconfig_of(cluster.token("default"), tmp_path)) as api, pytest.raises(ApiError, match=account):
        api.items(cluster.path("pods"))


def test_a_second_api_server_keeps_what_it_is_told_and_nothing_becomes_of_it(cluster):
    cluster.require_ours("programs for a second API server")
    other = cluster.other()
    _set(other, "web")
    assert other.api.get(other.path("statefulsets", "web", "apps/v1"))["spec"]["replicas"] == 1
    assert cluster.api.find(f"/api/v1/namespaces/{other.namespace}") is None
    assert other.pods() == []


def test_custom_resources_are_kept(cluster):
    """A server with the reflect2 of its sources dies within a few of these."""
    cluster.require_ours("programs for a second API server")
    if not (control_plane.home() / "custom-resources").exists():
        pytest.skip(f"NO CUSTOM RESOURCES: built by an older script; remove {control_plane.home()} and build again")
    other = cluster.other()
    group = f"{other.namespace}.example.com"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    names = {"plural": "things", "singular": "thing", "kind": "Thing"}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"things.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
    }
    other.api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
    wait_for(lambda: other.api.find(other.path("things", group=f"{group}/v1")), "things to be known")
    many = {f"key-{number}": "x" for number in range(30)}
    for number in range(30):
        thing = {"apiVersion": f"{group}/v1", "kind": "Thing", "metadata": {"name": f"t-{number}", "labels": many}, "number": number}
        other.api.apply(other.path("things", f"t-{number}", f"{group}/v1"), thing)
        assert other.api.apply(other.path("things", f"t-{number}", f"{group}/v1"), thing)["metadata"]["labels"] == many
    assert len(other.api.items(other.path("things", group=f"{group}/v1"))) == 30


def test_borrowers_share_one_control_plane_and_the_last_one_ends_it(cluster, tmp_path):
    cluster.require_ours("programs to start one")
    program = """
import pathlib, sys
from tests.kubernetes.control_plane import borrowed
with borrowed(pathlib.Path(sys.argv[1]), "server") as kubeconfig:
    print(kubeconfig.name, flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": control_plane.ROOT, "env": os.environ | {"PYTHONPATH": "tests"}}
    with subprocess.Popen(command, **pipes) as first, subprocess.Popen(command, **pipes) as second:
        assert first.stdout.readline() == second.stdout.readline() == b"kubeconfig\n"
        server = json.loads((tmp_path / "kubeconfig").read_text())["clusters"][0]["cluster"]["server"]
        first.kill()  # a killed test run leaves it to the others
        first.wait()
        with Api(tmp_path / "kubeconfig") as api:
            assert api.get("/readyz") == "ok"
        second.kill()
    assert server.startswith("https://127.0.0.1:")
    wait_for(lambda: not (tmp_path / "ready").exists(), "it to be stopped")
    with open(tmp_path / "keeper.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the keeper's, until its servers have ended
    assert not (tmp_path / "etcd").exists()


def test_a_control_plane_that_cannot_start_says_why(cluster, tmp_path, monkeypatch):
    cluster.require_ours("programs to start one")
    (tmp_path / "bin").mkdir()
    for name in control_plane.PROGRAMS:
        (tmp_path / "bin" / name).write_text("#!/bin/sh\necho no room for $0 >&2; exit 7\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("FONDACO_CONTROL_PLANE", str(tmp_path))
    with (
        pytest.raises(control_plane.ControlPlaneError, match=r"(?s)ended with 7: no room for .*/bin/"),
        control_plane.borrowed(tmp_path / "run"),
    ):
        pass

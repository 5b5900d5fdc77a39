"""What is shipped for Kubernetes is accepted by an API server, comes up there, and is what its folder says."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import yaml

from deploy_manifests import IMAGE, KUBERNETES, containers_of, give_volumes, objects_of, path_of, pod_of
from waiting import wait_for

FOLDERS = ["base", "nodes"]
EVERYTHING = [document for folder in FOLDERS for document in objects_of(folder)]
WORKLOADS = [document for document in EVERYTHING if pod_of(document)]


def _name(document):
    return f"{document['kind']}-{document['metadata']['name']}"


def _as_this_server_says(api, document):
    """A budget before 1.21: the same under its former name."""
    if document["kind"] == "PodDisruptionBudget" and api.find("/apis/policy/v1") is None:
        return document | {"apiVersion": "policy/v1beta1"}
    return document


def test_every_object_is_accepted_and_every_pod_comes_up(cluster):
    cluster.require_ours("nodes that follow a script")
    give_volumes(cluster, ["fondaco", "node-fondaco-node-0", "node-fondaco-node-1"])
    for folder in FOLDERS:
        for document in objects_of(folder, namespace=cluster.namespace):
            document = _as_this_server_says(cluster.api, document)
            cluster.api.apply(path_of(document), document)
            again = cluster.api.apply(path_of(document), document)
            assert again["metadata"].get("generation", 1) == 1, f"{_name(document)} is not stable under a second apply"

    def ready():
        states = [pod["status"].get("conditions", ()) for pod in cluster.pods("app.kubernetes.io/part-of=fondaco")]
        return sum(any(one["type"] == "Ready" and one["status"] == "True" for one in state) for state in states)

    replicas = sum(document["spec"]["replicas"] for document in WORKLOADS)
    wait_for(lambda: ready() == replicas, f"{replicas} pods")
    for service in ("fondaco", "fondaco-connector", "fondaco-nodes"):
        wait_for(lambda service=service: cluster.api.get(cluster.path("endpoints", service)).get("subsets"), f"endpoints of {service}")
    budgets = [document["metadata"]["name"] for document in EVERYTHING if document["kind"] == "PodDisruptionBudget"]
    for budget in budgets:
        path = cluster.budgets(budget)
        wait_for(
            lambda path=path: cluster.api.get(path).get("status", {}).get("disruptionsAllowed") == 1, f"budget {budget} to count its pods"
        )


@pytest.mark.parametrize("document", WORKLOADS, ids=_name)
def test_pods_are_as_restricted_as_the_strictest_level_of_pod_security_asks(document):
    pod = pod_of(document)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers_of(document):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert not [volume for volume in pod["volumes"] if "hostPath" in volume]


@pytest.mark.parametrize("document", WORKLOADS, ids=_name)
def test_names_that_refer_to_something_refer_to_what_is_there(document):
    pod = pod_of(document)
    there = {(one["kind"], one["metadata"]["name"]) for one in EVERYTHING}
    labels = document["spec"]["template"]["metadata"]["labels"]
    assert document["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert ("ServiceAccount", pod["serviceAccountName"]) in there
    if document["kind"] == "StatefulSet":
        assert ("Service", document["spec"]["serviceName"]) in there
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    templates = {one["metadata"]["name"] for one in document["spec"].get("volumeClaimTemplates", ())}
    for volume in volumes.values():
        if "persistentVolumeClaim" in volume:
            assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there
        if "configMap" in volume:
            assert ("ConfigMap", volume["configMap"]["name"]) in there
    for container in containers_of(document):
        ports = {port["name"] for port in container.get("ports", ())}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys() | templates
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container.get(probe, {})
            assert {asked[how]["port"] for how in ("httpGet", "tcpSocket") if how in asked} <= ports


def test_only_pods_that_provision_get_a_token_of_kubernetes():
    tokens = {document["metadata"]["name"]: pod_of(document)["automountServiceAccountToken"] for document in WORKLOADS}
    assert tokens == {"fondaco": True, "fondaco-connector": True, "fondaco-reaper": True, "fondaco-node": False}


@pytest.mark.parametrize("folder", ["base", "nodes", "provisioner", "train-jobs", "overlays/local"])
def test_kustomize_makes_of_it_what_these_tests_apply(folder):
    program = shutil.which("kustomize") or shutil.which("kubectl")
    if program is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    command = [program, "build"] if program.endswith("kustomize") else [program, "kustomize"]
    done = subprocess.run([*command, str(KUBERNETES / folder)], capture_output=True, text=True)
    if "replacements" in done.stderr:
        pytest.skip("this kustomize is older than 4.2")
    assert done.returncode == 0, done.stderr
    made = {path_of(one): one for one in yaml.safe_load_all(done.stdout)}
    ours = {path_of(one): one for one in objects_of(folder)}
    if folder != "overlays/local":
        assert made == ours
        return
    assert made.keys() == ours.keys() | {"/api/v1/namespaces/fondaco/secrets/fondaco-catalog"}
    claim = made["/api/v1/namespaces/fondaco/persistentvolumeclaims/fondaco"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    images = {container["image"] for one in made.values() for container in containers_of(one)}
    assert images == {IMAGE, "postgres:16"}
    assert IMAGE in json.dumps(made["/apis/apps/v1/namespaces/fondaco/statefulsets/fondaco"]["spec"]["template"]["spec"]["initContainers"])

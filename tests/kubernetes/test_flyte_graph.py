"""A graph in shards, served on Kubernetes for a workflow: through the connector's process, from either Flyte to a real API server.

Fake nodes mark the pods ready, so no server answers here: what a job is told is held against the pods that the API server has, and
against what each pod's command says when it is run.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flyte2_backend import Flyte2, template2_of
from flyte_backend import Execution, Flyte1, Phase, Wire, template_of
from flyte_platform import FlytePlatform, flyte_platform
from fondaco.adapters import flyte1, flyte2
from fondaco.adapters.data_service import DataServiceConfig
from kubernetes_cluster import BEHAVIOUR, Cluster
from waiting import wait_for

SHARDS, REPLICAS = 3, 2
IMAGE, CLAIM = "registry.invalid/fondaco:1", "fondaco"


CONFIG = DataServiceConfig(
    Graph="ring", Shards=SHARDS, Replicas=REPLICAS, Ttl="1s", Exports={"GE_ENDPOINTS": "{endpoints}"},
    Spec={"pod": {"annotations": {BEHAVIOUR: "ready:0.2;5=never"}}},
)  # fmt: skip


@dataclass(frozen=True)
class Generation:
    """One generation of Flyte: its messages, and how it serializes a task with these settings."""

    wire: Callable[[], Wire]
    template: Callable[[DataServiceConfig], Any]


GENERATIONS = {
    "flyte1": Generation(Flyte1, lambda config: template_of(flyte1.DataServiceTask(name="graph", task_config=config))),
    "flyte2": Generation(Flyte2, lambda config: template2_of(flyte2.DataServiceTask("graph", config))),
}


@pytest.fixture
def here(cluster: Cluster, tmp_path: Path) -> Iterator[FlytePlatform]:
    """A platform with a graph, whose default cluster is the test's."""
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "fondaco.toml").write_text(
        f"""
[services]
default = "texas"
reap_s = 0.5

{cluster.settings("texas")}image = {json.dumps(IMAGE)}
volumes = [{{ path = "/var/lib/fondaco", claim = "{CLAIM}", read_only = true }}]
"""
    )
    with flyte_platform(directory, replicas=1) as made:
        stops = np.arange(24)
        made.platform.build_graph(
            "ring",
            nodes={"stop": pa.table({"id": stops})},
            edges={("stop", "next", "stop"): pa.table({"src": stops, "dst": (stops + 1) % 24})},
        )
        yield made


def stateful_sets(cluster: Cluster) -> list[Any]:
    return cluster.api.items(cluster.path("statefulsets", group="apps/v1"))


@pytest.fixture
def volume(cluster: Cluster) -> Iterator[None]:
    """The claim that the pods mount the platform's directory from, with a volume behind it."""
    cluster.require_ours("nodes that follow a script, and volumes")
    name = f"{cluster.namespace}-fondaco"
    asked = {"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}}
    cluster.api.post(
        "/api/v1/persistentvolumes",
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {"accessModes": ["ReadOnlyMany"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/nowhere"}},
        },
    )
    try:
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": asked}
        cluster.api.post(cluster.path("persistentvolumeclaims"), claim)
        yield
    finally:
        cluster.api.delete(f"/api/v1/persistentvolumes/{name}")


@pytest.mark.parametrize("generation", GENERATIONS.values(), ids=GENERATIONS)
def test_a_workflow_gets_a_graph_in_shards_and_a_second_one_shares_it(
    cluster: Cluster, volume: None, here: FlytePlatform, generation: Generation, tmp_path: Path
) -> None:
    template = generation.template(CONFIG)
    with here.backend(generation.wire()) as backend:
        first = backend.create(template, Execution("first"))
        wait_for(lambda: "5/6 ready" in backend.get(first).message, "all but one")
        assert first.seen[-1].phase == Phase.RUNNING, "a replica of the last shard is missing"
        (made,) = stateful_sets(cluster)
        name = made["metadata"]["name"]
        cluster.node.behave(f"{name}-5", "ready:0")
        outputs = backend.wait(first)
        assert backend.run(template, Execution("second")) == outputs, "the same service"
        (found,) = stateful_sets(cluster)
        assert found["metadata"]["uid"] == made["metadata"]["uid"]
        assert here.holders(name) == {f"flyte:graphs/development/{run}/n0" for run in ("first", "second")}
        is_what_the_job_is_told(cluster, found, outputs)
        serves_one_shard_in_each_pod(found, outputs, tmp_path)
        backend.abort(first)
        here.services.reap()
        assert stateful_sets(cluster)[0]["status"]["readyReplicas"] == SHARDS * REPLICAS, "the second workflow goes on"
    here.services.release(name, "flyte:graphs/development/second/n0")
    wait_for(lambda: not stateful_sets(cluster) and not cluster.pods(), "nothing to be left after the ttl")


def is_what_the_job_is_told(cluster: Cluster, found: Any, outputs: Any) -> None:
    """The addresses are those that the headless Service gives to the pods that there are, in the order of shards."""
    name = outputs["name"]
    service = cluster.api.get(cluster.path("services", name))
    assert service["spec"]["clusterIP"] == "None"
    assert found["spec"]["serviceName"] == name
    (port,) = [port["port"] for port in service["spec"]["ports"] if port["name"] == "graph"]
    pods = sorted(pod["metadata"]["name"] for pod in cluster.pods())
    assert outputs["endpoints"] == [f"{pod}.{name}.{cluster.namespace}.svc:{port}" for pod in pods]
    env = outputs["env"]
    assert env["GE_ENDPOINTS"] == env["FONDACO_GRAPH_ENDPOINTS"] == ",".join(outputs["endpoints"])
    assert (env["FONDACO_GRAPH_NAME"], env["FONDACO_GRAPH_VERSION"]) == ("ring", "1")


def serves_one_shard_in_each_pod(found: Any, outputs: Any, directory: Path) -> None:
    """Each pod's own command, run as its container would be, with a program in place of Python that says what it was asked to do."""
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == IMAGE
    assert {mount["mountPath"]: mount.get("readOnly") for mount in container["volumeMounts"]}["/var/lib/fondaco"] is True
    assert [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume] == [CLAIM]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    said = directory / "python3"
    said.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    said.chmod(0o755)
    for index, endpoint in enumerate(outputs["endpoints"]):
        command = [text.replace("$$", "$") for text in container["command"]]  # as the kubelet does
        environ = {"PATH": f"{directory}:/usr/bin:/bin", "FONDACO_POD": endpoint.partition(".")[0]}
        words = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
        assert words[:4] == ["-m", "fondaco.graph.serve", "/var/lib/fondaco", "ring"]
        options = dict(itertools.pairwise(words[4:]))
        assert (options["--shard"], options["--version"]) == (f"{index % SHARDS}/{SHARDS}", "1")
        assert options["--advertise"] == endpoint
        assert options["--peers"] == ",".join(outputs["endpoints"])

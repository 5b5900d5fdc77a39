"""`fondaco train --on kubeflow`: services on a real API server, TrainJobs in front of it, a script as the controller of those."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.kubernetes.train_jobs import TrainJobs, train_jobs

import fondaco as fd
from kubernetes_cluster import Cluster
from train_process import FONDACO, environment, train, training
from waiting import wait_for


@pytest.fixture
def jobs(cluster: Cluster) -> Iterator[TrainJobs]:
    with train_jobs(cluster.kubeconfig, cluster.context) as found:
        yield found


@pytest.fixture
def platform(cluster: Cluster, jobs: TrainJobs, tmp_path: Path) -> Path:
    """A platform with the graph `routes`, whose services can run in the test's namespace."""
    directory = tmp_path / "platform"
    with fd.open(directory) as opened:
        edges = pa.table({"src": [1, 2, 3], "dst": [2, 3, 1]})
        opened.build_graph("routes", edges={("airport", "flies_to", "airport"): edges}, progress=False)
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "proxied", "cluster": {"server": jobs.url}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "main", "context": {"cluster": "proxied", "user": "nobody"}}],
        "current-context": "main",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    configure(directory, tmp_path / "kubeconfig", "main", cluster.namespace)
    return directory


def configure(directory: Path, kubeconfig: Path, context: str, namespace: str) -> None:
    (directory / "fondaco.toml").write_text(
        f'[services.clusters.texas]\nkind = "kubernetes"\nkubeconfig = "{kubeconfig}"\ncontext = "{context}"\n'
        f'namespace = "{namespace}"\nimage = "example.org/fondaco:1"\ndirectory = "/data"\n'
    )


def told(directory: Path, *arguments: str) -> Any:
    """What a command prints as JSON."""
    command = [*FONDACO, *arguments, "--dir", str(directory), "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout)


ON = ("--on", "kubeflow", "--image", "example.org/train:1", "--nodes", "2")


def test_a_job_gets_the_endpoints_of_its_service_and_its_end_is_the_runs(
    platform: Path, cluster: Cluster, jobs: TrainJobs, tmp_path: Path
) -> None:
    cluster.require_ours("nodes that follow a script")
    log = tmp_path / "log"
    options = (*ON, "--nproc", "4", "--name", "nightly", "--graph", "routes", "--shards", "2", "--env", "SERVERS={graph.endpoints}")
    with training(platform, *options, "--", "python", "train.py", log=log) as process:
        job = jobs.first()
        trainer = job["spec"]["trainer"]
        variables = {one["name"]: one["value"] for one in trainer["env"]}
        service = variables["FONDACO_SERVICES"]
        hosts = [f"{service}-{shard}.{service}.{cluster.namespace}.svc" for shard in (0, 1)]
        assert variables["FONDACO_GRAPH_ENDPOINTS"] == variables["SERVERS"] == ",".join(f"{host}:7080" for host in hosts)
        assert (variables["FONDACO_GRAPH_VERSION"], variables["FONDACO_DIR"]) == ("1", "/data")
        assert trainer["command"] == ["torchrun", "--no-python", "python", "train.py"]
        assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (2, 4, "example.org/train:1")
        pods = cluster.pods(f"app.kubernetes.io/instance={service}")  # it was ready before the job was made
        assert [any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"]) for pod in pods] == [True, True]
        (held,) = told(platform, "service", "list")["services"]
        assert [holder["holder"] for holder in held["holders"]] == [job["metadata"]["name"]]
        wait_for(lambda: "not started yet" in log.read_text(), "its state is said")
        jobs.set(job, "Complete", "JobsCompleted", "all jobs have completed")
        assert process.wait(60) == 0
    assert "JobsCompleted" in log.read_text()
    (run,) = told(platform, "run", "list")
    assert (run["id"], run["name"], run["state"]) == (job["metadata"]["name"], "nightly", "SUCCEEDED")
    assert run["environment"]["image"] == "example.org/train:1"
    assert told(platform, "service", "list")["services"][0]["holders"] == []
    assert jobs.all()  # it is left, for its logs


def test_a_job_that_fails_says_why(platform: Path, jobs: TrainJobs, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with training(platform, *ON, "--", "python", "train.py", log=log) as process:
        jobs.set(jobs.first(), "Failed", "BackoffLimitExceeded", "node 1 ended with 1")
        assert process.wait(60) == 1
    assert "BackoffLimitExceeded: node 1 ended with 1" in log.read_text()
    assert told(platform, "run", "list")[0]["state"] == "FAILED"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_launcher_that_is_told_to_end_deletes_the_job(
    platform: Path, cluster: Cluster, jobs: TrainJobs, tmp_path: Path, number: signal.Signals
) -> None:
    cluster.require_ours("nodes that follow a script")
    log = tmp_path / "log"
    with training(platform, *ON, "--graph", "routes", "--", "true", log=log) as process:
        jobs.first()
        wait_for(lambda: "not started yet" in log.read_text(), "it is waited for")
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    wait_for(lambda: not jobs.all(), "the TrainJob is gone")
    assert jobs.methods == {"PATCH", "GET", "DELETE"}, "what deploy/kubernetes/train-jobs allows, with create"
    assert told(platform, "run", "list")[0]["state"] == "STOPPED"
    assert told(platform, "service", "list")["services"][0]["holders"] == []


def test_a_launcher_that_is_killed_leaves_the_job_its_service_for_an_hour(
    platform: Path, cluster: Cluster, jobs: TrainJobs, tmp_path: Path
) -> None:
    cluster.require_ours("nodes that follow a script")
    log = tmp_path / "log"
    with training(platform, *ON, "--graph", "routes", "--", "true", log=log) as process:
        jobs.first()
        wait_for(lambda: "not started yet" in log.read_text(), "it is waited for")
        process.kill()
        process.wait()
    assert jobs.all()
    ((holder,),) = [service["holders"] for service in told(platform, "service", "list")["services"]]
    assert holder["expires_us"] / 1e6 - time.time() > 3000


def test_a_job_that_somebody_deletes_has_ended(platform: Path, jobs: TrainJobs, tmp_path: Path) -> None:
    with training(platform, *ON, "--", "true", log=tmp_path / "log") as process:
        jobs.delete(jobs.first())
        assert process.wait(60) == 1
    assert told(platform, "run", "list")[0]["state"] == "STOPPED"


def test_a_printed_manifest_starts_nothing_and_names_the_endpoints_that_will_be(platform: Path, cluster: Cluster, jobs: TrainJobs) -> None:
    printed = train(platform, *ON, "--graph", "routes", "--deepgnn", "--print-manifest", "--", "python", "train.py")
    assert printed.returncode == 0, printed.stderr
    manifest = json.loads(printed.stdout)
    variables = {one["name"]: one["value"] for one in manifest["spec"]["trainer"]["env"]}
    service = variables["FONDACO_SERVICES"]
    assert variables["GE_ENDPOINTS"] == f"{service}-0.{service}.{cluster.namespace}.svc:7080"
    assert service in printed.stderr
    assert told(platform, "service", "list")["services"] == told(platform, "run", "list") == jobs.all() == []


def test_a_cluster_without_kubeflow_is_said_to_be_one(platform: Path, cluster: Cluster) -> None:
    if cluster.api.find("/apis/trainer.kubeflow.org") is not None:
        pytest.skip("the cluster of $KUBECONFIG has Kubeflow Trainer")
    configure(platform, cluster.kubeconfig, cluster.context, cluster.namespace)  # the API server itself, which has no TrainJobs
    ended = train(platform, *ON, "--", "true")
    assert ended.returncode == 2
    assert "install Kubeflow Trainer 2" in ended.stderr
    assert told(platform, "run", "list")[0]["state"] == "FAILED"


@pytest.mark.parametrize("status", [503, 401])
def test_a_server_that_is_away_or_refuses_us_for_a_while_ends_no_job(platform: Path, jobs: TrainJobs, tmp_path: Path, status: int) -> None:
    log = tmp_path / "log"
    with training(platform, *ON, "--", "true", log=log) as process:
        job = jobs.first()
        jobs.refusing = status
        wait_for(lambda: "The job is not ended for that" in log.read_text(), "it is said that the server does not answer")
        jobs.set(job, "Complete", "JobsCompleted", "")
        jobs.refusing = 0
        assert process.wait(60) == 0


def test_a_server_that_does_not_answer_when_the_job_is_to_be_made_is_asked_again(platform: Path, jobs: TrainJobs, tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs.refusing = 503
    with training(platform, *ON, "--", "true", log=log) as process:
        wait_for(lambda: "Trying again" in log.read_text(), "it is said that the server does not answer")
        jobs.refusing = 0
        jobs.set(jobs.first(), "Complete", "JobsCompleted", "")
        assert process.wait(60) == 0
    assert len(jobs.all()) == 1

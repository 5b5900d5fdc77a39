"""Those of the Flyte plugin's defects that only Kubernetes shows, on a real API server: the connector's processes make real objects there.

The numbers are those of tests/adapters/flyte1/test_defects.py, where each is told. Pods are marked ready, crashing and so on by nodes that
follow a script.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flytekit import Resources

from flyte_backend import Backend, Execution, Flyte1, Got, Phase, Run, TaskFailedError, template_of
from flyte_platform import FlytePlatform, flyte_platform
from fondaco.adapters.flyte1 import DataServiceConfig, DataServiceTask
from kubernetes_cluster import BEHAVIOUR, Cluster
from waiting import wait_for

IMAGE = "registry.invalid/graph-engine:1"


@contextmanager
def connected(cluster: Cluster, directory: Path, more: str = "", *, first: str = "") -> Iterator[tuple[FlytePlatform, Backend]]:
    """A platform whose default cluster, "texas", is the test's, with a connector, and a backend in front of it.

    Args:
        more, first: tables of other clusters, which come after and before it: of those that have a label the first is asked first.
    """
    directory.mkdir(parents=True)
    (directory / "fondaco.toml").write_text(
        f"""
[services]
default = "texas"
reap_s = 0.5

{first}
{cluster.settings("texas")}labels = {{ region = "texas" }}
log_url = "https://logs.example/{{namespace}}/{{pod}}"
{more}
"""
    )
    with flyte_platform(directory, replicas=1) as here, here.backend(Flyte1()) as backend:
        yield here, backend


@pytest.fixture
def flyte(cluster: Cluster, tmp_path: Path) -> Iterator[tuple[FlytePlatform, Backend]]:
    with connected(cluster, tmp_path / "data") as made:
        yield made


def task(behaviour: str = "ready:0.2", **config: Any) -> Any:
    """A task's template whose pods behave so."""
    spec = {**config.pop("Spec", {})}
    spec["pod"] = {"annotations": {BEHAVIOUR: behaviour}, **spec.get("pod", {})}
    given = {"Image": IMAGE, "Command": ["serve", "--port", "{port}"], "Ttl": "1s", "Spec": spec} | config
    return template_of(DataServiceTask(name="data-service", task_config=DataServiceConfig(**given)))


def stateful_set(cluster: Cluster, name: str) -> Any:
    return cluster.api.get(cluster.path("statefulsets", name, "apps/v1"))


def objects(cluster: Cluster) -> set[tuple[str, str]]:
    """What of a service there is, by kind and name."""
    found = set()
    for kind, group in (("services", "v1"), ("statefulsets", "apps/v1"), ("pods", "v1")):
        found |= {(kind, item["metadata"]["name"]) for item in cluster.api.items(cluster.path(kind, group=group))}
    return {(kind, name) for kind, name in found if name != "kubernetes"}


def until(backend: Backend, run: Run, text: str) -> Got:
    """Ask until the answer says something."""
    wait_for(lambda: text in backend.get(run).message, f"{text!r}; it said {run.seen[-1:]}")
    return run.seen[-1]


def test_defect_01_and_02_defaults_and_numbers_reach_the_pods(cluster: Cluster, flyte: tuple[FlytePlatform, Backend]) -> None:
    cluster.require_ours("nodes that follow a script")
    _, backend = flyte
    outputs = backend.run(task(Name="defaults"), Execution("a"))
    name = outputs["name"]
    assert outputs["endpoints"] == [f"{name}-0.{name}.{cluster.namespace}.svc:40000"]
    found = stateful_set(cluster, name)
    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert found["spec"]["replicas"] == 1
    assert [port["containerPort"] for port in container["ports"]] == [40000]
    env = {item["name"]: item.get("value") for item in container["env"]}
    assert (env["SERVER_PORT"], env["GE_COUNT"]) == ("40000", "1")
    assert container["command"] + container.get("args", []) == ["serve", "--port", "40000"]


def test_defect_03_and_04_a_refusal_leaves_nothing_and_the_next_attempt_works(
    cluster: Cluster, flyte: tuple[FlytePlatform, Backend]
) -> None:
    cluster.require_ours("nodes that follow a script")
    here, backend = flyte
    refused = task(Name="half", Spec={"pod": {"template": {"spec": {"restartPolicy": "Never"}}}})
    with pytest.raises(TaskFailedError, match="restartPolicy"):
        backend.run(refused, Execution("a"))
    wait_for(lambda: not objects(cluster) and not here.names(), "nothing to be left")
    run = backend.create(task(Name="half"), Execution("a"), lose_answers=2)
    assert backend.wait(run)["name"] == "half"


def test_defect_12_each_pod_has_a_name_of_its_own(cluster: Cluster, flyte: tuple[FlytePlatform, Backend]) -> None:
    cluster.require_ours("nodes that follow a script")
    _, backend = flyte
    outputs = backend.run(task(Replicas=3), Execution("a"))
    name = outputs["name"]
    service = cluster.api.get(cluster.path("services", name))
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert stateful_set(cluster, name)["spec"]["serviceName"] == name
    assert outputs["endpoints"] == [f"{name}-{index}.{name}.{cluster.namespace}.svc:40000" for index in range(3)]


def test_defect_13_replicas_that_become_ready_one_by_one_are_a_normal_start(cluster: Cluster, flyte: tuple[FlytePlatform, Backend]) -> None:
    cluster.require_ours("nodes that follow a script")
    _, backend = flyte
    run = backend.create(task("ready:0.2;1=ready:1.5;2=ready:3", Replicas=3), Execution("a"))
    backend.wait(run)
    assert {got.phase for got in run.seen[:-1]} <= {Phase.INITIALIZING, Phase.RUNNING}
    said = " | ".join(got.message for got in run.seen)
    assert "1/3 ready" in said, said
    assert "2/3 ready" in said, said


def test_defect_14_clusters_are_chosen_by_name_and_by_label(cluster: Cluster, tmp_path: Path) -> None:
    cluster.require_ours("a second API server")
    virginia = cluster.other()
    more = f"""
{virginia.settings("virginia")}labels = {{ region = "virginia" }}

{moon(cluster)}
"""
    with connected(cluster, tmp_path / "data", more) as (here, backend):
        by_name = backend.create(task(Name="east", Cluster="virginia"), Execution("a"))
        assert backend.get(by_name).phase in (Phase.INITIALIZING, Phase.RUNNING)
        assert stateful_set(virginia, "east")
        assert here.services.status("east").cluster == "virginia"
        assert not objects(cluster)
        backend.create(task(Name="east-too", Placement={"region": "virginia"}), Execution("b"))
        assert stateful_set(virginia, "east-too")
        assert backend.run(task(Name="west", Placement={"region": "texas"}), Execution("c"))["name"] == "west"
        with pytest.raises(TaskFailedError, match="did you mean 'virginia'"):
            backend.run(task(Cluster="virgina"), Execution("d"))
        with pytest.raises(TaskFailedError, match="moon"):
            backend.run(task(Cluster="moon"), Execution("e"))
        for name in ("east", "east-too"):  # without controllers nobody ends what waits for its dependents to be gone
            here.services.delete(name, force=True, timeout="0s")
            cluster_without_controllers_forgets(virginia, name)


def moon(cluster: Cluster) -> str:
    """The table of a cluster that nobody reaches."""
    return f'[services.clusters.moon]\nkind = "kubernetes"\nkubeconfig = {json.dumps(str(cluster.kubeconfig))}\ncontext = "unreachable"\n'


def test_defect_14_a_new_service_goes_past_a_cluster_that_does_not_answer_and_stays_where_it_went(cluster: Cluster, tmp_path: Path) -> None:
    cluster.require_ours("the context `unreachable`")
    first = f'{moon(cluster)}labels = {{ region = "texas" }}\n'
    wants = task(Name="lander", Placement={"region": "texas"})
    with connected(cluster, tmp_path / "data", first=first) as (here, backend):
        names = here.services.clusters()
        assert names.index("moon") < names.index("texas"), "the moon was not asked first"
        run = backend.create(wants, Execution("a"))
        assert backend.wait(run)["name"] == "lander"
        uid = stateful_set(cluster, "lander")["metadata"]["uid"]
        assert here.services.status("lander").cluster == "texas"
        assert backend.run(wants, Execution("b"))["name"] == "lander"
        assert stateful_set(cluster, "lander")["metadata"]["uid"] == uid
        assert len(here.holders("lander")) == 2, "the second run shares it"


def cluster_without_controllers_forgets(cluster: Cluster, name: str) -> None:
    """Do what the garbage collector would."""
    path = cluster.path("statefulsets", name, "apps/v1")
    wait_for(lambda: "deletionTimestamp" in (cluster.api.find(path) or {"metadata": {"deletionTimestamp": ""}})["metadata"], "its deletion")
    if cluster.api.find(path) is not None:
        cluster.api.patch(path, {"metadata": {"finalizers": None}})


@pytest.mark.parametrize(
    ("behaviour", "more", "reason"),
    [
        ("crash:3", {}, "CrashLoopBackOff"),
        ("pull-error", {}, "ImagePullBackOff"),
        ("oom", {}, "OOMKilled"),
        ("config-error", {}, "CreateContainerConfigError"),
        ("ready:0", {"Requests": Resources(cpu="5000")}, "nsufficient cpu"),
    ],
)
def test_defect_15_a_service_that_does_not_start_says_why(
    cluster: Cluster, flyte: tuple[FlytePlatform, Backend], behaviour: str, more: dict[str, Any], reason: str
) -> None:
    cluster.require_ours("nodes that follow a script")
    _, backend = flyte
    run = backend.create(task(f"ready:0;1={behaviour}" if behaviour != "ready:0" else behaviour, Replicas=2, **more), Execution("a"))
    got = until(backend, run, reason)
    assert "/2 ready" in got.message
    assert got.phase in Phase.DEFINED
    assert any(address.startswith(f"https://logs.example/{cluster.namespace}/") for address in got.links.values()), got


def test_defect_16_pods_start_together_and_a_service_can_be_scaled_and_changed(
    cluster: Cluster, flyte: tuple[FlytePlatform, Backend]
) -> None:
    cluster.require_ours("nodes that follow a script")
    here, backend = flyte
    run = backend.create(task("ready:0.2;0=never", Name="parallel", Replicas=4), Execution("a"))
    wait_for(lambda: len(cluster.pods()) == 4, "all four pods, though the first is not ready")
    assert stateful_set(cluster, "parallel")["spec"]["podManagementPolicy"] == "Parallel"
    until(backend, run, "3/4 ready")
    cluster.node.behave("parallel-0", "ready:0")
    backend.wait(run)
    here.services.scale("parallel", 2)
    wait_for(lambda: len(cluster.pods()) == 2, "two pods")
    assert len(here.services.status("parallel").endpoints) == 2


def test_defect_17_pods_get_what_was_asked_for(cluster: Cluster, flyte: tuple[FlytePlatform, Backend]) -> None:
    _, backend = flyte
    for kind, name in (("secrets", "keys"),):
        cluster.api.post(
            cluster.path(kind), {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"token": "x"}}
        )
    pod = {
        "node_selector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "labels": {"team": "graphs"},
        "grace_s": 5,
        "disruption": 1,
        "spread": "require",
        "template": {"spec": {"hostAliases": [{"ip": "10.0.0.9", "hostnames": ["store"]}]}},
    }
    spec = {"secrets": {"TOKEN": "keys/token"}, "volumes": [{"path": "/scratch", "empty": "1Gi"}], "pod": pod}
    backend.create(
        task(Name="full", Env={"THREADS": "4"}, Requests=Resources(cpu="1", mem="1Gi"), Limits=Resources(gpu="1"), Spec=spec),
        Execution("a"),
    )
    found = stateful_set(cluster, "full")["spec"]["template"]
    (container,) = found["spec"]["containers"]
    assert found["metadata"]["labels"]["team"] == "graphs"
    assert found["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert {"key": "gpu", "operator": "Exists"} in found["spec"]["tolerations"]
    assert found["spec"]["hostAliases"] == [{"ip": "10.0.0.9", "hostnames": ["store"]}]
    assert found["spec"]["terminationGracePeriodSeconds"] == 5
    assert found["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    env = {item["name"]: item for item in container["env"]}
    assert env["TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "keys", "key": "token"}
    assert env["THREADS"]["value"] == "4"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["resources"]["requests"]["memory"] == "1Gi"
    assert "/scratch" in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert container["readinessProbe"]["tcpSocket"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    budgets = cluster.api.items(cluster.budgets())
    assert [budget["metadata"]["name"] for budget in budgets] == ["full"]


def test_defect_10_and_19_leases_decide_what_lives_on_the_cluster(cluster: Cluster, flyte: tuple[FlytePlatform, Backend]) -> None:
    cluster.require_ours("nodes that follow a script")
    here, backend = flyte
    owner, reuser = (backend.create(task(Name="shared"), Execution(run)) for run in ("a", "b"))
    backend.wait(owner)
    backend.wait(reuser)
    backend.abort(reuser)
    here.services.reap()
    assert stateful_set(cluster, "shared")["status"]["readyReplicas"] == 1
    backend.abort(owner)
    wait_for(lambda: not objects(cluster), "all of it to be gone after the ttl")

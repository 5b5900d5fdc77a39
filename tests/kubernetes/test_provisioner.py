"""The provisioner on a real API server, with controllers, scheduler, and nodes that follow a script."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fondaco.adapters.kubernetes import KubernetesProvisioner
from fondaco.core.errors import InputError, PermissionDeniedError, StateError, UnavailableError
from fondaco.services.provisioner import Desired, Observed, Phase
from fondaco.services.spec import ServiceSpec
from kubernetes_cluster import BEHAVIOUR, LINGER, LOG, Cluster
from waiting import wait_for

IMAGE = "registry.example/feed:1"


@pytest.fixture
def provisioner(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[KubernetesProvisioner]:
    if request.node.get_closest_marker("any_server") is None:
        cluster.node  # noqa: B018  # skips on a cluster without nodes by script
    made = provisioner_of(cluster)
    yield made
    made.close()


def provisioner_of(cluster: Cluster, **settings: Any) -> KubernetesProvisioner:
    given = {
        "context": cluster.context,
        "kubeconfig": cluster.kubeconfig,
        "namespace": cluster.namespace,
        "image": IMAGE,
        "patience_s": 1.0,
    }
    return KubernetesProvisioner("texas", **(given | settings))


def desired(
    replicas: int = 1, *, behaviour: str = "ready:0", incarnation: int = 1, facts: dict[str, str] | None = None, **settings: Any
) -> Desired:
    """A service whose pods behave so; `settings` of its spec."""
    pod = settings.pop("pod", {})
    pod = pod | {"annotations": {BEHAVIOUR: behaviour} | pod.get("annotations", {})}
    given = {"command": ["serve", "--port", "{port}"], "ports": ["grpc"], "readiness": {"tcp": True}, "replicas": replicas, "pod": pod}
    spec = ServiceSpec("feed", **(given | settings))
    return Desired(spec.service, incarnation, spec, replicas, facts or {})


def until(provisioner: KubernetesProvisioner, service: str, phase: Phase, having: str = "") -> Observed:
    """How it stands once it stands so, with a reason that has this in it."""
    last: list[Observed] = []

    def is_so() -> bool:
        last[:] = [provisioner.observe(service)]
        return last[0].phase == phase and having in last[0].reason

    try:
        wait_for(is_so, f"{service} to be {phase} ({having})")
    except AssertionError as exc:
        raise AssertionError(f"{exc}; it is {last[0].phase}: {last[0].reason}") from None
    return last[0]


def removed(provisioner: KubernetesProvisioner, service: str, incarnation: int = 1) -> None:
    wait_for(lambda: provisioner.remove(service, incarnation), f"{service} to be gone")


def live(cluster: Cluster, service: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.api.get(cluster.path("statefulsets", service, "apps/v1"))
    return found


def uids(cluster: Cluster) -> list[str]:
    return [pod["metadata"]["uid"] for pod in cluster.pods()]


# -- applying ---------------------------------------------------------------------------------------------------------------------------


def test_a_service_becomes_ready_and_goes_without_a_trace(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(3)
    assert provisioner.observe(wants.service).phase == Phase.ABSENT
    provisioner.check(wants)
    assert cluster.api.items(cluster.path("statefulsets", group="apps/v1")) == []
    provisioner.apply(wants)
    seen = until(provisioner, wants.service, Phase.READY)
    assert (seen.ready, seen.total, seen.reason, seen.drift, seen.desired) == (3, 3, "", (), wants)
    host = f"{wants.service}.{cluster.namespace}.svc:7080"
    assert seen.endpoints == {"grpc": tuple(f"{wants.service}-{index}.{host}" for index in range(3))}
    assert [instance.index for instance in seen.instances] == [0, 1, 2]
    assert all(instance.where for instance in seen.instances)
    removed(provisioner, wants.service)
    assert provisioner.observe(wants.service).phase == Phase.ABSENT
    assert provisioner.observe_all() == {}
    for resource, group in (("statefulsets", "apps/v1"), ("services", "v1"), ("pods", "v1")):
        assert cluster.api.items(cluster.path(resource, group=group)) == []
    assert cluster.api.items(cluster.budgets()) == []


@pytest.mark.any_server
def test_a_server_takes_every_setting_and_gives_it_back_without_drift(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(
        2,
        command=["{python}", "-m", "serve", "--shard", "{shard}/{shards}", "--me", "{address.b}", "--all", "{endpoints}", "$HOME 'x'"],
        shards=2,
        ports={"a": None, "b": 9000},
        readiness={"http": "/ready", "port": "b"},
        env={"EMPTY": "", "NUMBER": "{index}", "ZERO": "0"},
        secrets={"TOKEN": "upstream/token"},
        resources={"requests": {"cpu": "1000m", "memory": "0.5Gi", "nvidia.com/gpu": "1"}, "limits": {"cpu": "2.0", "memory": "1024Mi"}},
        volumes=[
            {"path": "/claim", "claim": "c"}, {"path": "/h", "host": "/mnt"}, {"path": "/s", "secret": "s"}, {"path": "/c", "config": "c"},
            {"path": "/fast", "empty": "2048Mi"},
        ],
        labels={"team": "rank"},
        pod={
            "service_account": "default", "pull_secrets": ["registry"], "node_selector": {"disk": "ssd"}, "labels": {"cost": "7"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}], "spread": "require", "disruption": 0,
            "security": {"capabilities": {"add": ["IPC_LOCK"]}}, "grace_s": 0, "publish_unready": False,
            "template": {"spec": {"containers": [{"name": "side", "image": "x", "ports": [{"containerPort": 1}]}], "hostNetwork": False}},
        },
    )  # fmt: skip
    provisioner.check(wants)
    provisioner.apply(wants)
    seen = provisioner.observe(wants.service)
    assert seen.drift == ()
    assert seen.desired == wants


@pytest.mark.any_server
def test_applying_the_same_again_sends_nothing(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(2, resources={"requests": {"cpu": "1000m"}})
    provisioner.apply(wants)
    version = live(cluster, wants.service)["metadata"]["generation"]
    before = provisioner.request_counts
    provisioner.apply(wants)
    sent = {key for key, count in provisioner.request_counts.items() if count != before.get(key)}
    assert {verb for verb, _ in sent} <= {"get", "list"}
    assert live(cluster, wants.service)["metadata"]["generation"] == version


def test_facts_change_without_a_restart(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    provisioner.apply(desired(2, facts={"holders": "a", "note": "x"}))
    service = desired(2).service
    until(provisioner, service, Phase.READY)
    before, generation = uids(cluster), live(cluster, service)["metadata"]["generation"]
    provisioner.apply(desired(2, facts={"holders": "a,b"}, labels={"team": "new"}))
    seen = provisioner.observe(service)
    assert seen.phase == Phase.READY
    assert seen.desired is not None
    assert seen.desired.annotations == {"holders": "a,b"}
    assert live(cluster, service)["metadata"]["labels"]["team"] == "new"
    assert live(cluster, service)["metadata"]["generation"] == generation
    assert uids(cluster) == before


def test_many_appliers_at_once_make_one_service(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(3)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(provisioner.apply, [wants] * 16))
    seen = until(provisioner, wants.service, Phase.READY)
    assert (seen.total, seen.drift) == (3, ())
    assert len(cluster.pods()) == 3


def test_scaling_up_and_down_touches_only_the_last_instances(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    provisioner.apply(desired(2))
    service = desired(2).service
    until(provisioner, service, Phase.READY)
    before = uids(cluster)
    up = Desired(service, 1, desired(2).spec, 4)
    provisioner.apply(up)
    assert until(provisioner, service, Phase.READY).total == 4
    assert uids(cluster)[:2] == before
    provisioner.apply(Desired(service, 1, desired(2).spec, 1))
    assert until(provisioner, service, Phase.READY).total == 1
    wait_for(lambda: uids(cluster) == before[:1], "the others to be gone")


def test_a_change_is_rolled_out_one_by_one_and_not_ready_before_its_end(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    name = {"exact_name": True}
    provisioner.apply(desired(3, **name))
    until(provisioner, "feed", Phase.READY)
    before = uids(cluster)
    provisioner.apply(desired(3, **name, env={"NEW": "1"}, behaviour="ready:0.3"))
    steps: list[Observed] = []
    wait_for(lambda: steps.append(provisioner.observe("feed")) or steps[-1].phase == Phase.READY, "the update")  # type: ignore[func-returns-value]
    assert all(step.ready >= 2 for step in steps)
    assert any("updating one by one" in step.reason for step in steps)
    assert not set(before) & set(uids(cluster))
    assert all("NEW" in str(pod["spec"]["containers"][0]["env"]) for pod in cluster.pods())


def test_a_broken_update_stops_at_the_first_instance_and_is_mended_by_the_next(
    cluster: Cluster, provisioner: KubernetesProvisioner
) -> None:
    name = {"exact_name": True}
    provisioner.apply(desired(3, **name))
    until(provisioner, "feed", Phase.READY)
    provisioner.apply(desired(3, **name, image="registry.example/none:1", behaviour="pull-error"))
    seen = until(provisioner, "feed", Phase.FAILED, "registry.example/none:1")
    assert seen.ready == 2
    provisioner.apply(desired(3, **name))
    until(provisioner, "feed", Phase.READY)


# -- what is said of trouble ------------------------------------------------------------------------------------------------------------


def test_a_partial_start_is_counted(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(8, behaviour="never;0=ready:0;1=ready:0;2=ready:0")
    provisioner.apply(wants)
    seen = until(provisioner, wants.service, Phase.STARTING, "3/8 ready; instance 3")
    assert (seen.ready, seen.total) == (3, 8)


def test_a_program_that_ends_is_a_crash_loop_with_its_exit_code(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(2, behaviour="ready:0;1=crash:3")
    provisioner.apply(wants)
    seen = until(provisioner, wants.service, Phase.FAILED, "1/2 ready; instance 1: CrashLoopBackOff: exit code 3")
    assert seen.instances[1].restarts >= 3
    assert seen.instances[0].phase == Phase.READY


def test_what_recovers_by_itself_becomes_ready(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(1, behaviour="recover:2")
    provisioner.apply(wants)
    assert until(provisioner, wants.service, Phase.READY).instances[0].restarts == 2


def test_what_has_failed_is_tried_anew_when_it_is_applied_again(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(2, behaviour="ready:0;1=crash:3")
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.FAILED)
    first, second = uids(cluster)

    def tried() -> bool:
        provisioner.apply(wants)  # again and again: at this moment it may be running
        now = uids(cluster)
        return len(now) == 2 and now[0] == first and now[1] != second

    wait_for(tried, "a new pod for the one that failed")


def test_lack_of_memory_is_named(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(1, behaviour="oom")
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.FAILED, "OOMKilled")


def test_an_image_that_is_not_there_is_named(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(1, behaviour="pull-error")
    provisioner.apply(wants)
    seen = until(provisioner, wants.service, Phase.FAILED, IMAGE)
    assert "ImagePull" in seen.reason


def test_a_missing_secret_is_named(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(1, behaviour="config-error", secrets={"TOKEN": "upstream/token"})
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.FAILED, "CreateContainerConfigError")


def test_no_room_is_said_in_the_schedulers_words_and_is_waited_for(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(1, resources={"limits": {"nvidia.com/gpu": "1000"}})
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.STARTING, "Insufficient nvidia.com/gpu")
    labelled = desired(1, pod={"node_selector": {"disk": "none"}})
    provisioner.apply(labelled)
    until(provisioner, labelled.service, Phase.STARTING, "Unschedulable: 0/")


def test_a_missing_claim_is_named(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(1, volumes=[{"path": "/data", "claim": "routes"}])
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.FAILED, 'persistentvolumeclaim "routes" not found')


def test_a_quota_is_named_and_waited_for(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}}
    cluster.api.post(cluster.path("resourcequotas"), quota)
    wait_for(lambda: cluster.api.get(cluster.path("resourcequotas", "few")).get("status", {}).get("hard"), "the quota to count")
    wants = desired(2)
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.STARTING, "exceeded quota: few")
    cluster.api.delete(cluster.path("resourcequotas", "few"))
    until(provisioner, wants.service, Phase.READY)


@pytest.mark.any_server
def test_an_unknown_service_account_is_named(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(1, pod={"service_account": "nobody-has-this"})
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.FAILED, "FailedCreate:")


def test_what_was_ready_and_is_not_is_degraded(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(2)
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.READY)
    wait_for(lambda: later_second(cluster), "a second to pass, the unit of a server's times")
    cluster.node.behave(f"{wants.service}-1", "unready:0")
    seen = until(provisioner, wants.service, Phase.DEGRADED, "1/2 ready; instance 1")
    assert seen.instances[0].phase == Phase.READY
    cluster.node.behave(f"{wants.service}-1", "ready:0")
    until(provisioner, wants.service, Phase.READY)


def later_second(cluster: Cluster) -> bool:
    """Whether the pods became ready in another second than this one."""
    from datetime import UTC, datetime

    times = [one["lastTransitionTime"] for pod in cluster.pods() for one in pod["status"]["conditions"] if one["type"] == "Ready"]
    return max(map(datetime.fromisoformat, times)) < datetime.now(UTC).replace(microsecond=0)


def test_a_deleted_pod_comes_back(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(2, pod={"annotations": {LINGER: "0"}})
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.READY)
    before = uids(cluster)
    cluster.api.delete(cluster.path("pods", f"{wants.service}-1"))
    wait_for(lambda: len(now := uids(cluster)) == 2 and now[1] != before[1], "another pod")
    until(provisioner, wants.service, Phase.READY)


# -- drift ------------------------------------------------------------------------------------------------------------------------------


def test_what_others_change_is_shown_with_their_name_and_repaired(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(3, env={"A": "1"})
    service = wants.service
    provisioner.apply(wants)
    until(provisioner, service, Phase.READY)
    path = cluster.path("statefulsets", service, "apps/v1")
    cluster.api.patch(path, {"spec": {"replicas": 1}}, fieldManager="kubectl")
    image = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "other:9"}]}}}}
    cluster.api.patch(path, image, "strategic-merge-patch", fieldManager="meddler")
    cluster.api.delete(cluster.path("services", service))
    cluster.api.delete(cluster.budgets(service))
    seen = provisioner.observe(service)
    assert seen.total == 3
    assert set(seen.drift) == {
        "spec.replicas is 1, not 3 (changed by kubectl)",
        f"spec.template.spec.containers[main].image is 'other:9', not '{IMAGE}' (changed by meddler)",
        "the Service is gone",
        "the PodDisruptionBudget is gone",
    }
    assert provisioner.observe_all()[service].drift == seen.drift
    provisioner.apply(wants)
    assert until(provisioner, service, Phase.READY).drift == ()


@pytest.mark.any_server
def test_what_others_add_is_theirs(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(1)
    provisioner.apply(wants)
    path = cluster.path("statefulsets", wants.service, "apps/v1")
    cluster.api.patch(path, {"metadata": {"annotations": {"backup": "yes"}, "labels": {"cost": "7"}}}, fieldManager="ops")
    assert provisioner.observe(wants.service).drift == ()
    provisioner.apply(desired(1, facts={"holders": "a"}))
    assert live(cluster, wants.service)["metadata"]["annotations"]["backup"] == "yes"


@pytest.mark.any_server
def test_a_budget_that_is_not_wanted_any_more_goes(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    provisioner.apply(desired(1, exact_name=True))
    provisioner.apply(desired(1, exact_name=True, pod={"disruption": None}))
    assert cluster.api.items(cluster.budgets()) == []
    assert provisioner.observe("feed").drift == ()


def test_a_deleted_stateful_set_is_made_again(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(2)
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.READY)
    cluster.api.delete(
        cluster.path("statefulsets", wants.service, "apps/v1"), propagationPolicy="Background", kind="DeleteOptions", apiVersion="v1"
    )
    seen = provisioner.observe(wants.service)
    assert "the StatefulSet is gone" in seen.drift
    assert seen.desired == wants
    provisioner.apply(wants)
    assert until(provisioner, wants.service, Phase.READY).drift == ()


def test_what_cannot_be_changed_in_place_is_made_again_and_keeps_its_pods(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(2)
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.READY)
    before, path = uids(cluster), cluster.path("statefulsets", wants.service, "apps/v1")
    item = live(cluster, wants.service)
    cluster.api.delete(path, propagationPolicy="Orphan", kind="DeleteOptions", apiVersion="v1")
    wait_for(lambda: cluster.api.find(path) is None, "the StatefulSet to go without its pods")
    item["metadata"] = {key: item["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
    item["spec"]["podManagementPolicy"] = "OrderedReady"
    cluster.api.post(cluster.path("statefulsets", group="apps/v1"), item)
    assert any("podManagementPolicy is 'OrderedReady', not 'Parallel'" in line for line in provisioner.observe(wants.service).drift)
    provisioner.apply(wants)
    assert until(provisioner, wants.service, Phase.READY).drift == ()
    assert uids(cluster) == before


# -- what stands in the way, and who is asked -------------------------------------------------------------------------------------------


def test_what_is_not_ours_is_left_alone(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(1)
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": wants.service},
        "spec": {"clusterIP": "None", "ports": [{"port": 1}]},
    }
    cluster.api.post(cluster.path("services"), theirs)
    for attempt in (provisioner.check, provisioner.apply):
        with pytest.raises(StateError, match=rf"Service '{wants.service}' in namespace .* is not of this platform: it was left alone"):
            attempt(wants)
    assert provisioner.observe(wants.service).phase == Phase.ABSENT
    assert provisioner.remove(wants.service, 1)
    assert cluster.api.find(cluster.path("services", wants.service)) is not None
    assert cluster.api.find(cluster.path("statefulsets", wants.service, "apps/v1")) is None


def test_a_slow_removal_cannot_hit_the_next_of_the_same_name(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    old, new = desired(1, incarnation=4), desired(1, incarnation=5)
    provisioner.apply(old)
    with pytest.raises(StateError, match="incarnation 4, not 5"):
        provisioner.apply(new)
    removed(provisioner, old.service, 4)
    provisioner.apply(new)
    until(provisioner, new.service, Phase.READY)
    assert provisioner.remove(old.service, 4)
    assert provisioner.observe(new.service).phase == Phase.READY
    assert provisioner.observe(new.service).incarnation == 5


def test_removal_says_it_is_done_when_the_last_pod_is_gone(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(1, pod={"annotations": {LINGER: "1"}})
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.READY)
    assert not provisioner.remove(wants.service, 1)
    assert provisioner.observe(wants.service).phase == Phase.REMOVING
    with pytest.raises(StateError, match="is being removed; try again when it is gone"):
        provisioner.apply(wants)
    removed(provisioner, wants.service)
    assert cluster.pods() == []


def test_pods_that_were_left_behind_are_removed_too(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(2)
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.READY)
    path = cluster.path("statefulsets", wants.service, "apps/v1")
    cluster.api.delete(path, propagationPolicy="Orphan", kind="DeleteOptions", apiVersion="v1")
    wait_for(lambda: cluster.api.find(path) is None, "the StatefulSet to go without its pods")
    assert len(cluster.pods()) == 2
    removed(provisioner, wants.service)
    assert cluster.pods() == []


def test_platforms_that_share_a_namespace_do_not_see_each_other(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(1)
    provisioner.apply(wants)
    other = provisioner_of(cluster, platform="other")
    try:
        assert other.observe_all() == {}
        assert other.observe(wants.service).phase == Phase.ABSENT
        assert other.remove(wants.service, 1)
        with pytest.raises(StateError, match="is not of this platform"):
            other.apply(wants)
    finally:
        other.close()
    until(provisioner, wants.service, Phase.READY)


def test_what_the_server_refuses_names_the_field_and_leaves_nothing(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    bad = desired(1, pod={"template": {"metadata": {"labels": {"cost": "not a label"}}}})
    for attempt in (provisioner.check, provisioner.apply):
        with pytest.raises(InputError, match=r"refuses to patch statefulsets.apps: spec.template.labels: Invalid value: \"not a label\""):
            attempt(bad)
    typo = desired(1, pod={"template": {"spec": {"hostNetwrok": True}}})
    with pytest.raises(InputError, match="hostNetwrok"):
        provisioner.check(typo)
    for resource, group in (("statefulsets", "apps/v1"), ("services", "v1")):
        assert cluster.api.items(cluster.path(resource, group=group)) == []


def test_what_is_refused_when_pods_are_made_is_a_failure_that_names_the_field(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(1, pod={"template": {"spec": {"dnsPolicy": "Sometimes"}}})
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.FAILED, 'spec.dnsPolicy: Unsupported value: "Sometimes"')


@pytest.mark.any_server
def test_a_half_done_apply_is_taken_back(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"services": "0"}}}
    cluster.api.post(cluster.path("resourcequotas"), quota)
    wait_for(lambda: cluster.api.get(cluster.path("resourcequotas", "none")).get("status", {}).get("hard"), "the quota to count")
    with pytest.raises(InputError, match="exceeded quota: none"):
        provisioner.apply(desired(1))
    wait_for(lambda: provisioner.observe(desired(1).service).phase == Phase.ABSENT, "what was made to be gone")


def test_a_namespace_that_is_not_there_is_named(cluster: Cluster) -> None:
    provisioner = provisioner_of(cluster, namespace="nobody-made-this")
    try:
        with pytest.raises(InputError, match=r'namespaces "nobody-made-this" not found: make the namespace first'):
            provisioner.apply(desired(1))
        assert provisioner.observe_all() == {}
    finally:
        provisioner.close()


def test_missing_permissions_are_named_by_verb_and_resource(cluster: Cluster) -> None:
    cluster.node  # noqa: B018
    provisioner = provisioner_of(cluster, context="nobody")
    try:
        with pytest.raises(
            PermissionDeniedError, match=r"'nobody' may not do this: it needs the role 'get statefulsets.apps' on namespace"
        ):
            provisioner.observe("x")
        with pytest.raises(PermissionDeniedError, match=r"list statefulsets.apps"):
            provisioner.observe_all()
    finally:
        provisioner.close()


def test_a_server_that_does_not_answer_is_unavailable(cluster: Cluster) -> None:
    cluster.node  # noqa: B018
    provisioner = provisioner_of(cluster, context="unreachable")
    try:
        for attempt in (provisioner.observe_all, lambda: provisioner.apply(desired(1)), lambda: provisioner.remove("x", 1)):
            with pytest.raises(UnavailableError, match="the API server of cluster 'texas'"):
                attempt()
    finally:
        provisioner.close()


# -- all of them, logs ------------------------------------------------------------------------------------------------------------------


def test_the_state_of_many_services_costs_a_handful_of_requests(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = [desired(1, env={"NUMBER": str(number)}, behaviour="ready:0" if number % 2 else "never") for number in range(20)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(provisioner.apply, wants))
    ready = {one.service for number, one in enumerate(wants) if number % 2}
    wait_for(lambda: {name for name, seen in provisioner.observe_all().items() if seen.phase == Phase.READY} == ready, "half of them")
    before = sum(provisioner.request_counts.values())
    seen = provisioner.observe_all()
    assert sum(provisioner.request_counts.values()) - before <= 6
    assert {name: one.desired for name, one in seen.items()} == {one.service: one for one in wants}


@pytest.mark.any_server
def test_long_lists_are_read_page_by_page(cluster: Cluster, provisioner: KubernetesProvisioner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fondaco.adapters.kubernetes.client.PAGE", 2)
    wants = [desired(1, env={"NUMBER": str(number)}) for number in range(5)]
    for one in wants:
        provisioner.apply(one)
    assert provisioner.observe_all().keys() == {one.service for one in wants}
    assert provisioner.request_counts["list", "statefulsets.apps"] == 3


def test_requests_are_counted_for_whoever_asks(cluster: Cluster) -> None:
    counted: list[tuple[str, str]] = []
    lock = threading.Lock()

    def count(verb: str, resource: str) -> None:
        with lock:
            counted.append((verb, resource))

    provisioner = provisioner_of(cluster, on_request=count)
    provisioner.observe_all()
    provisioner.close()
    assert ("list", "pods") in counted


def test_logs_come_from_one_instance_or_from_all(cluster: Cluster, provisioner: KubernetesProvisioner) -> None:
    wants = desired(2, pod={"annotations": {LOG: "one\ntwo\n{pod} is here"}})
    provisioner.apply(wants)
    until(provisioner, wants.service, Phase.READY)
    assert provisioner.logs(wants.service, index=1, lines=2)[-1] == f"{wants.service}-1 is here"
    said = provisioner.logs(wants.service)
    assert f"0: {wants.service}-0 is here" in said
    assert f"1: {wants.service}-1 is here" in said
    assert provisioner.logs("nobody") == []
    assert provisioner.logs(wants.service, index=7) == []


def test_log_links_are_made_from_the_template(cluster: Cluster) -> None:
    provisioner = provisioner_of(cluster, log_url="https://logs.example/{cluster}/{namespace}/{pod}?x={y}")
    wants = desired(1)
    provisioner.apply(wants)
    link = f"https://logs.example/texas/{cluster.namespace}/{wants.service}-0?x={{y}}"
    wait_for(lambda: [one.log for one in provisioner.observe(wants.service).instances] == [link], "the link of the pod")
    removed(provisioner, wants.service)
    provisioner.close()

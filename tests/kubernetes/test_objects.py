"""From what is wanted to objects: which setting goes where. Whether a server takes them: test_provisioner.py."""

from __future__ import annotations

from typing import Any

import pytest

from fondaco.adapters.kubernetes.objects import desired_of, wanted
from fondaco.adapters.kubernetes.place import Place
from fondaco.core.errors import InputError
from fondaco.services.provisioner import Desired
from fondaco.services.settings import Volume
from fondaco.services.spec import ServiceSpec

PLACE = Place("texas", "teams", image="fondaco:1")


def desired(replicas: int | None = None, incarnation: int = 3, annotations: dict[str, str] | None = None, **settings: Any) -> Desired:
    spec = ServiceSpec("feed", **({"command": ["serve"]} | settings))
    return Desired(spec.service, incarnation, spec, replicas or spec.replicas, annotations or {})


def pod(place: Place = PLACE, **settings: Any) -> dict[str, Any]:
    made: dict[str, Any] = wanted(desired(**settings), place).stateful_set["spec"]["template"]
    return made


def container(place: Place = PLACE, **settings: Any) -> dict[str, Any]:
    made: dict[str, Any] = pod(place, **settings)["spec"]["containers"][0]
    return made


def variables(made: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in made["env"]}


def test_a_service_is_a_stateful_set_a_headless_service_and_a_budget_of_its_name() -> None:
    wants = desired(replicas=4, ports=["graph", "metrics"])
    made = wanted(wants, PLACE)
    assert made.by_kind().keys() == {"StatefulSet", "Service", "PodDisruptionBudget"}
    for item in made.by_kind().values():
        assert item["metadata"]["name"] == wants.service
        assert item["metadata"]["namespace"] == "teams"
        assert item["metadata"]["labels"] == {
            "app.kubernetes.io/name": "feed", "app.kubernetes.io/instance": wants.service, "app.kubernetes.io/managed-by": "fondaco",
            "fondaco.dev/incarnation": "3", "fondaco.dev/identity": wants.spec.identity[:16], "fondaco.dev/platform": "default",
        }  # fmt: skip
    assert made.stateful_set["spec"]["serviceName"] == wants.service
    assert made.stateful_set["spec"]["podManagementPolicy"] == "Parallel"
    assert made.stateful_set["spec"]["replicas"] == 4
    assert made.service["spec"]["clusterIP"] == "None"
    assert [(port["name"], port["port"], port["protocol"]) for port in made.service["spec"]["ports"]] == [
        ("graph", 7080, "TCP"), ("metrics", 7081, "TCP"),
    ]  # fmt: skip
    assert made.budget is not None
    assert made.budget["spec"]["maxUnavailable"] == 1


def test_selectors_find_the_pods_of_this_incarnation_only() -> None:
    made = wanted(desired(), PLACE)
    selector = made.service["spec"]["selector"]
    assert made.stateful_set["spec"]["selector"]["matchLabels"] == selector
    assert selector.items() <= made.stateful_set["spec"]["template"]["metadata"]["labels"].items()
    assert selector["fondaco.dev/incarnation"] == "3"


def test_what_is_wanted_can_be_read_back() -> None:
    wants = desired(replicas=5, annotations={"holders": "run-1", "ttl-us": "7"}, ports=["a"], labels={"team": "x"})
    assert desired_of(wanted(wants, PLACE).stateful_set) == wants
    assert desired_of(wanted(wants, PLACE).service) == wants


def test_facts_stand_on_the_objects_and_never_on_pods() -> None:
    one = wanted(desired(annotations={"holders": "a"}, labels={"team": "x"}), PLACE)
    other = wanted(desired(annotations={"holders": "a,b"}, labels={"team": "y"}), PLACE)
    assert one.stateful_set["metadata"]["annotations"]["fondaco.dev/holders"] == "a"
    assert one.stateful_set["metadata"]["labels"]["team"] == "x"
    assert one.stateful_set["spec"] == other.stateful_set["spec"]


def test_pods_may_do_little_unless_more_is_asked_for() -> None:
    context = container()["securityContext"]
    assert context == {
        "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    spec = pod()["spec"]
    assert spec["securityContext"]["fsGroup"] == 1000
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert {"name": "scratch", "mountPath": "/tmp"} in container()["volumeMounts"]
    assert variables(container())["HOME"] == "/tmp"


def test_security_settings_are_merged_into_the_defaults() -> None:
    security = {
        "runAsUser": None,
        "runAsGroup": None,
        "fsGroup": None,
        "readOnlyRootFilesystem": False,
        "capabilities": {"add": ["IPC_LOCK"]},
    }
    made = pod(pod={"security": security})
    context = made["spec"]["containers"][0]["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert "runAsUser" not in context
    assert "fsGroup" not in context
    assert "securityContext" not in made["spec"]
    assert "volumes" not in made["spec"]  # a root that can be written needs no scratch
    assert pod(pod={"security": {"fsGroup": 5}})["spec"]["securityContext"]["fsGroup"] == 5


def test_probes_follow_the_readiness() -> None:
    made = container(
        ports=["graph", "metrics"], readiness={"http": "/ready", "port": "metrics", "every_s": 2, "start_s": 601, "hang_s": 45}
    )
    asked = {"path": "/ready", "port": 7081, "scheme": "HTTP"}
    assert made["startupProbe"] == {
        "httpGet": asked,
        "timeoutSeconds": 5,
        "successThreshold": 1,
        "periodSeconds": 2,
        "failureThreshold": 301,
    }
    assert made["readinessProbe"]["httpGet"] == asked
    assert made["livenessProbe"]["periodSeconds"] * made["livenessProbe"]["failureThreshold"] >= 45


def test_without_a_hang_limit_nothing_is_started_again_for_being_silent() -> None:
    made = container(ports=80, readiness={"tcp": True, "hang_s": None})
    assert made["readinessProbe"]["tcpSocket"] == {"port": 80}
    assert "livenessProbe" not in made
    assert "readinessProbe" not in container()


def test_devices_are_limits_whichever_way_they_are_asked_for() -> None:
    made = container(resources={"requests": {"cpu": "2", "nvidia.com/gpu": "1"}, "limits": {"memory": "4Gi"}})
    assert made["resources"] == {"requests": {"cpu": "2", "nvidia.com/gpu": "1"}, "limits": {"memory": "4Gi", "nvidia.com/gpu": "1"}}


def test_secrets_become_references_and_never_values() -> None:
    made = container(secrets={"TOKEN": "upstream/token"})
    assert variables(made)["TOKEN"] == {"secretKeyRef": {"name": "upstream", "key": "token"}}
    with pytest.raises(InputError, match=r'secrets.TOKEN: \'env:X\' is no secret of Kubernetes; write "secret-name/key"'):
        container(secrets={"TOKEN": "env:X"})


def test_every_kind_of_volume_is_mounted() -> None:
    made = pod(
        volumes=[
            Volume("/claim", claim="c"), Volume("/host", host="/mnt", read_only=False), Volume("/secret", secret="s"),
            Volume("/config", config="m"), Volume("/fast", empty="10Gi"), Volume("/tmp", empty=True),
        ]
    )  # fmt: skip
    sources = [{key: value for key, value in volume.items() if key != "name"} for volume in made["spec"]["volumes"]]
    assert sources == [
        {"persistentVolumeClaim": {"claimName": "c", "readOnly": True}}, {"hostPath": {"path": "/mnt"}}, {"secret": {"secretName": "s"}},
        {"configMap": {"name": "m"}}, {"emptyDir": {"sizeLimit": "10Gi"}}, {"emptyDir": {}},
    ]  # fmt: skip
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in made["spec"]["containers"][0]["volumeMounts"]}
    assert mounts == {"/claim": True, "/host": False, "/secret": True, "/config": True, "/fast": False, "/tmp": False}


def test_what_is_configured_for_the_platforms_directory_reaches_those_that_use_it() -> None:
    place = Place(
        "texas", "teams", image="fondaco:1", volumes=(Volume("/var/lib/fondaco", claim="platform"),), env={"FONDACO_CATALOG_URL": "a$b"},
        secrets={"PGPASSWORD": "catalog/password"},
    )  # fmt: skip
    mine = pod(place, command=["serve", "{directory}"])
    assert mine["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "platform"
    assert variables(mine["spec"]["containers"][0])["FONDACO_CATALOG_URL"] == "a$$b"
    assert variables(mine["spec"]["containers"][0])["PGPASSWORD"] == {"secretKeyRef": {"name": "catalog", "key": "password"}}
    other = pod(place)
    assert [volume["name"] for volume in other["spec"]["volumes"]] == ["scratch"]
    assert "PGPASSWORD" not in variables(other["spec"]["containers"][0])


def test_instances_are_spread_over_nodes_as_asked() -> None:
    assert "preferredDuringSchedulingIgnoredDuringExecution" in pod()["spec"]["affinity"]["podAntiAffinity"]
    assert "requiredDuringSchedulingIgnoredDuringExecution" in pod(pod={"spread": "require"})["spec"]["affinity"]["podAntiAffinity"]
    assert "affinity" not in pod(pod={"spread": "none"})["spec"]
    own = {"podAntiAffinity": {"x": 1}, "nodeAffinity": {"y": 2}}
    assert pod(pod={"affinity": own})["spec"]["affinity"] == own


def test_the_other_pod_settings_have_their_places() -> None:
    made = pod(
        pod={
            "service_account": "reader", "pull_secrets": ["registry"], "pull_policy": "Always", "node_selector": {"disk": "ssd"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}], "priority_class": "high", "labels": {"cost": "x"},
            "annotations": {"note": "any text"}, "grace_s": 5,
        }
    )  # fmt: skip
    spec = made["spec"]
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("reader", True)
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["containers"][0]["imagePullPolicy"] == "Always"
    assert (spec["nodeSelector"], spec["tolerations"]) == ({"disk": "ssd"}, [{"key": "gpu", "operator": "Exists"}])
    assert (spec["priorityClassName"], spec["terminationGracePeriodSeconds"]) == ("high", 5)
    assert made["metadata"]["labels"]["cost"] == "x"
    assert made["metadata"]["annotations"] == {"note": "any text"}


def test_the_template_is_merged_last_by_name() -> None:
    template = {
        "metadata": {"labels": {"app.kubernetes.io/instance": "stolen", "extra": "1"}},
        "spec": {
            "hostNetwork": True,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {"name": "sidecar", "image": "proxy", "ports": [{"containerPort": 15000}]},
                {"name": "main", "tty": True, "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}], "imagePullPolicy": None},
            ],
        },
    }
    made = pod(env={"A": "1"}, pod={"template": template, "tolerations": [{"key": "k", "operator": "Exists"}]})
    main, sidecar = made["spec"]["containers"]
    assert made["spec"]["hostNetwork"] is True
    assert made["spec"]["tolerations"] == [{"key": "k", "operator": "Exists"}, {"operator": "Exists"}]
    assert (main["name"], main["tty"], main["command"]) == ("main", True, ["serve"])
    assert (variables(main)["A"], variables(main)["B"]) == ("2", "3")
    assert "imagePullPolicy" not in main
    assert sidecar["ports"] == [{"containerPort": 15000, "protocol": "TCP"}]
    assert made["metadata"]["labels"]["app.kubernetes.io/instance"].startswith("feed-")
    assert made["metadata"]["labels"]["extra"] == "1"


def test_to_make_objects_of_a_spec_leaves_it_as_it_is() -> None:
    """Else it has another identity afterwards, and nobody finds the service again."""
    asked = desired(
        pod={"template": {"spec": {"containers": [{"name": "sidecar", "image": "proxy", "ports": [{"containerPort": 15000}]}]}}}
    )
    before = asked.spec.to_dict(), asked.spec.service
    text = str(before)
    wanted(asked, PLACE)
    assert str((asked.spec.to_dict(), asked.spec.service)) == text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pod": {"template": {"spec": {"containers": None}}}}, r"pod.template.spec.containers: the container 'main' is the service"),
        ({"pod": {"template": {"spec": None}}}, r"pod.template.spec: it can be added to, not taken away"),
        ({"pod": {"template": {"spec": {"containers": {"name": "x"}}}}}, r"pod.template.spec.containers: .* stands where a list belongs"),
        ({"pod": {"template": {"spec": {"containers": [{"name": "main", "ports": ["http"]}]}}}},
         r"pod.template.spec.containers\[main\].ports: \['http'\] is no list of objects"),
        ({"pod": {"template": {"spec": {"containers": ["main"]}}}}, r"pod.template.spec.containers: \['main'\] is no list of objects"),
        ({"pod": {"template": {"spec": {"initContainers": "first"}}}}, r"pod.template.spec.initContainers: 'first' is no list of objects"),
        ({"env": {f"PART_{number}": "x" * 60_000 for number in range(3)}}, r"\d+ bytes as Fondaco keeps them .* takes 262144"),
        ({"pod": {"labels": {"bad key": "x"}}}, r"pod.labels.bad key: a label is"),
        ({"labels": {"team": "a b"}}, r"labels.team: 'a b': a label's value"),
        ({"labels": {"fondaco.dev/incarnation": "9"}}, r"labels.fondaco.dev/incarnation: this label is Fondaco's own"),
        ({"env": {"FONDACO_POD": "x"}}, r"env.FONDACO_POD: this variable is set by Fondaco"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_to_kubernetes_is_refused_with_its_path(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        wanted(desired(**settings), PLACE)


def test_a_service_without_an_image_is_refused_where_none_is_configured() -> None:
    with pytest.raises(InputError, match=r"image: cluster 'texas' needs one: .*\[services.clusters.texas\]"):
        wanted(desired(), Place("texas", "teams"))


def test_what_was_applied_is_applied_again_whatever_this_version_would_make_of_it() -> None:
    """Else a newer and an older Fondaco, or two configurations, at work on one cluster would restart each other's pods."""
    before = wanted(desired(), PLACE).stateful_set
    newer = Place("texas", "teams", image="fondaco:2", python="/opt/python")
    assert wanted(desired(), newer, before=before).stateful_set["spec"] == before["spec"]
    changed = wanted(desired(env={"A": "1"}), newer, before=before).stateful_set["spec"]["template"]["spec"]["containers"][0]
    assert changed["image"] == "fondaco:2"


def test_scaling_changes_the_number_alone_unless_instances_are_told_of_it() -> None:
    before = wanted(desired(replicas=2), PLACE).stateful_set
    scaled = wanted(desired(replicas=5), Place("texas", "teams", image="other"), before=before).stateful_set
    assert scaled["spec"] == before["spec"] | {"replicas": 5}
    told = {"command": ["serve", "{endpoints}"], "ports": 80}
    before = wanted(desired(replicas=2, **told), PLACE).stateful_set
    command = wanted(desired(replicas=3, **told), PLACE, before=before).stateful_set["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[1].count(",") == 2


def test_the_documented_example_is_what_is_made() -> None:
    import tomllib
    from pathlib import Path

    import yaml

    page = (Path(__file__).parents[2] / "docs/internals/kubernetes-objects.md").read_text(encoding="utf-8")
    spec = ServiceSpec.from_dict(tomllib.loads(page.partition("```toml\n")[2].partition("```")[0]))
    made = list(wanted(Desired(spec.service, 17, spec, 4, {"holders": "run-17"}), Place("texas", "teams")).by_kind().values())
    for item in made:
        annotations = item["metadata"]["annotations"]
        annotations |= {key: "..." for key in ("fondaco.dev/spec", "fondaco.dev/applied") if key in annotations}
    assert list(yaml.safe_load_all(page.partition("```yaml\n")[2].partition("```")[0])) == made

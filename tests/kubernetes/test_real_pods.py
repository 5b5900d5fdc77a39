"""Services as pods that really run: what they are told, how they answer, what they say, how they change, crash, and go.

tests/kubernetes/real_pods.sh                   root only: a kubelet of our own
KUBECONFIG=... pytest -m real_pods ...          a cluster of yours; what it needs: tests/kubernetes_cluster.py

Both run the provisioner's contract, too (test_provisioner_contract.py).
"""

from __future__ import annotations

import pytest
from tests.kubernetes.api import ApiError

from fondaco.adapters.kubernetes import KubernetesProvisioner
from fondaco.services.provisioner import Desired, Phase
from fondaco.services.spec import ServiceSpec
from kubernetes_cluster import IS_GIVEN, REAL_IMAGE
from waiting import wait_for

pytestmark = [
    pytest.mark.real_pods,
    pytest.mark.skipif(not IS_GIVEN, reason="no real pods: tests/kubernetes/real_pods.sh runs these tests"),
    pytest.mark.timeout(600),
]
PATIENCE_S = 180.0
SERVE = 'echo "$WORD from {index} of {replicas}" >/tmp/index.html; echo "{index} serves $WORD"; exec httpd -f -p {port} -h /tmp'


def desired(command, *, replicas=2, incarnation=1, **settings):
    settings = {
        "image": REAL_IMAGE,
        "command": ["sh", "-c", command],
        "ports": ["http"],
        "readiness": {"http": "/index.html", "every_s": 1},
        "pod": {"grace_s": 1},
    } | settings
    spec = ServiceSpec("web", replicas=replicas, **settings)
    return Desired(spec.service, incarnation, spec, replicas)


@pytest.fixture
def provisioner(cluster):
    cluster.require_running_pods()
    made = KubernetesProvisioner("real", kubeconfig=cluster.kubeconfig, context=cluster.context, namespace=cluster.namespace)
    yield made
    made.close()


def answers(cluster, service):
    """What each instance answers now, by its number; None where it does not. The API server asks, who reaches pods from anywhere."""
    said = {}
    for pod in cluster.pods(f"app.kubernetes.io/instance={service}"):
        name, port = pod["metadata"]["name"], pod["spec"]["containers"][0]["ports"][0]["containerPort"]
        try:
            said[int(name.rpartition("-")[2])] = cluster.api.get(cluster.path("pods", f"{name}:{port}") + "/proxy/index.html").strip()
        except ApiError:
            said[int(name.rpartition("-")[2])] = None
    return said


def test_a_service_comes_up_answers_says_what_it_does_is_rolled_over_scaled_and_goes(cluster, provisioner):
    first = desired(SERVE, env={"WORD": "hello"})
    service = first.service
    provisioner.check(first)
    provisioner.apply(first)
    took = wait_for(lambda: provisioner.observe(service).phase is Phase.READY, "it to be ready", PATIENCE_S)
    print(f"ready after {took:.1f} s")
    assert answers(cluster, service) == {0: "hello from 0 of 2", 1: "hello from 1 of 2"}
    assert provisioner.logs(service, index=1) == ["1 serves hello"]
    assert provisioner.logs(service) == ["0: 0 serves hello", "1: 1 serves hello"]

    # Rolled over instance by instance: one of the two answers at any time.
    second = desired(SERVE, env={"WORD": "goodbye"})
    provisioner.apply(Desired(service, 1, second.spec, 2))
    seen = []

    def is_rolled():
        seen.append(answers(cluster, service))
        return set(seen[-1].values()) == {"goodbye from 0 of 2", "goodbye from 1 of 2"}

    wait_for(is_rolled, "both to be rolled over", PATIENCE_S)
    assert all(any(one) for one in (look.values() for look in seen)), f"at some time nobody answered: {seen}"
    wait_for(lambda: provisioner.observe(service).phase is Phase.READY, "it to be ready again", PATIENCE_S)
    assert provisioner.observe(service).drift == ()

    provisioner.apply(Desired(service, 1, second.spec, 3))
    wait_for(lambda: provisioner.observe(service).ready == 3, "the third", PATIENCE_S)
    wait_for(lambda: provisioner.remove(service, 1), "it to be gone", PATIENCE_S)
    assert cluster.pods() == []
    assert provisioner.observe(service).phase is Phase.ABSENT


def test_a_program_that_ends_badly_is_named_with_its_code_and_last_words(cluster, provisioner):
    wants = desired('echo "no partition {index} here"; exit 7', replicas=1)
    provisioner.apply(wants)
    wait_for(lambda: provisioner.observe(wants.service).phase is Phase.FAILED, "it to be given up", PATIENCE_S)
    observed = provisioner.observe(wants.service)
    assert "exit code 7" in observed.reason
    assert provisioner.logs(wants.service, index=0) == ["no partition 0 here"]
    wait_for(lambda: provisioner.remove(wants.service, 1), "it to be gone", PATIENCE_S)


def test_an_image_that_is_not_there_is_named(cluster, provisioner):
    wants = desired("true", replicas=1, image="docker.io/local/absent:1")
    provisioner.apply(wants)
    wait_for(lambda: "docker.io/local/absent:1" in provisioner.observe(wants.service).reason, "the image to be named", PATIENCE_S)
    wait_for(lambda: provisioner.remove(wants.service, 1), "it to be gone", PATIENCE_S)


def test_an_instance_that_hangs_is_started_again(cluster, provisioner):
    # Its page is gone and so are its answers, while its process goes on.
    command = (
        "touch /tmp/index.html; (sleep 4; test -e /var/tmp/x || mv /tmp/index.html /tmp/gone) & echo begun; exec httpd -f -p {port} -h /tmp"
    )
    wants = desired(command, replicas=1, readiness={"http": "/index.html", "every_s": 1, "hang_s": 3})
    provisioner.apply(wants)

    def has_been_restarted():
        instances = provisioner.observe(wants.service).instances
        return bool(instances) and instances[0].restarts > 0

    wait_for(has_been_restarted, "a second start", PATIENCE_S)
    wait_for(lambda: provisioner.remove(wants.service, 1), "it to be gone", PATIENCE_S)


def test_pods_run_as_restricted_as_they_are_told(cluster, provisioner):
    # Not root, nothing writable but /tmp, no capabilities, no way to more.
    look = "touch /x /tmp/index.html 2>&1; sed -n '/^Cap\\|NoNewPrivs\\|^Seccomp:\\|^Uid/p' /proc/self/status"
    wants = desired(f"{look}; exec httpd -f -p {{port}} -h /tmp", replicas=1)
    provisioner.apply(wants)
    wait_for(lambda: provisioner.observe(wants.service).phase is Phase.READY, "it to be ready", PATIENCE_S)
    said = provisioner.logs(wants.service, index=0)
    assert any("Read-only file system" in line for line in said), said
    facts = dict(line.split(":\t") for line in said if ":\t" in line)
    assert set(facts["Uid"].split()) == {"1000"}
    assert facts["NoNewPrivs"] == "1"
    assert {facts[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
    assert facts["Seccomp"] == "2"  # a filter
    wait_for(lambda: provisioner.remove(wants.service, 1), "it to be gone", PATIENCE_S)

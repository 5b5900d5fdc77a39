"""The shipped role is enough for the provisioner, every right in it is used, and it opens nothing else."""

from __future__ import annotations

import pytest
from tests.kubernetes.api import Api, ApiError

import fondaco.adapters.kubeflow
import fondaco.adapters.kubernetes
from deploy_manifests import objects_of, path_of
from fondaco.adapters.kubernetes import KubernetesProvisioner
from fondaco.core.errors import PermissionDeniedError
from fondaco.services.provisioner import Desired, Phase
from fondaco.services.spec import ServiceSpec
from kubernetes_cluster import BEHAVIOUR, LOG
from waiting import wait_for


def _rights(rules):
    return {
        (verb, f"{resource}.{group}" if group else resource)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _shipped(folder):
    (role,) = [one for one in objects_of(folder) if one["kind"] == "Role"]
    return _rights(role["rules"])


GRANTED = _shipped("provisioner")


@pytest.fixture
def account(cluster, tmp_path):
    """A kubeconfig of the account that the provisioner's folder makes."""
    for document in objects_of("provisioner", namespace=cluster.namespace):
        cluster.api.apply(path_of(document), document)
    return cluster.kubeconfig_of(cluster.token("fondaco-provisioner"), tmp_path)


def _desired(behaviour="ready:0", replicas=2, incarnation=1):
    pod = {"annotations": {BEHAVIOUR: behaviour, LOG: "it speaks"}}
    spec = ServiceSpec("web", image="example.org/web:1", command=["serve"], replicas=replicas, ports=["http"], pod=pod)
    return Desired("web-1", incarnation, spec, replicas)


def test_the_role_is_enough_for_all_that_the_provisioner_does_and_every_right_is_used(cluster, account):
    cluster.require_ours("nodes that follow a script")
    used = set()
    with Api(account) as api:  # rights come into force a moment after they were granted
        wait_for(lambda: _may_list_pods(api, cluster), "the role to count")
    provisioner = KubernetesProvisioner("main", kubeconfig=account, patience_s=0, on_request=lambda *what: used.add(what))
    try:
        provisioner.check(_desired())
        provisioner.apply(_desired("ready:0;0=pull-error"))
        wait_for(lambda: provisioner.observe("web-1").phase is Phase.FAILED, "it to fail")
        trial = _desired("ready:0;0=pull-error")  # it may be running just now, for a moment: then nothing is to be tried anew
        wait_for(lambda: provisioner.apply(trial) or ("delete", "pods") in used, "a pod that has failed to be tried anew")
        provisioner.apply(_desired())
        wait_for(lambda: provisioner.observe("web-1").phase is Phase.READY, "it to be ready")
        assert provisioner.logs("web-1", index=0) == ["it speaks"]
        assert provisioner.observe_all()["web-1"].ready == 2
        wait_for(lambda: provisioner.remove("web-1", 1), "it to be gone")
    finally:
        provisioner.close()
    needs = {(verb, resource) for verb, resource in used if resource != "apis"}
    needs |= {("create", resource) for verb, resource in needs if verb == "patch"}  # an apply of what is not there
    assert needs == GRANTED


@pytest.mark.parametrize(("adapter", "folder"), [(fondaco.adapters.kubernetes, "provisioner"), (fondaco.adapters.kubeflow, "train-jobs")])
def test_what_an_adapter_says_it_needs_is_what_is_shipped(adapter, folder):
    said = set()
    for line in adapter.__doc__.splitlines():
        words = line.split()
        if line.startswith("    ") and len(words) > 2:
            group = words[0].strip('"')
            said |= {(verb, f"{words[1]}.{group}" if group else words[1]) for verb in words[2:]}
    assert said == _shipped(folder)


def _known_rights(cluster, account):
    """What the server says the account may do in the namespace, beside what everybody may: ask what they may."""
    with Api(account) as api:
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": cluster.namespace}}
        rights = _rights(api.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review)["status"]["resourceRules"])
    return {right for right in rights if not right[1].endswith(("authorization.k8s.io", "authentication.k8s.io"))}


def test_the_server_knows_of_no_other_rights_of_the_account(cluster, account):
    with Api(account) as api:
        wait_for(lambda: _may_list_pods(api, cluster), "the role to count")
    assert _known_rights(cluster, account) == GRANTED


def test_train_jobs_are_allowed_by_a_role_of_their_own(cluster, account):
    for document in objects_of("train-jobs", namespace=cluster.namespace):
        cluster.api.apply(path_of(document), document)
    both = GRANTED | {(verb, "trainjobs.trainer.kubeflow.org") for verb in ("get", "create", "patch", "delete")}
    wait_for(lambda: _known_rights(cluster, account) == both, "both roles to count, and no other right")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/namespaces/{namespace}/secrets"),
        ("GET", "/api/v1/namespaces/{namespace}/configmaps"),
        ("GET", "/api/v1/namespaces/{namespace}/serviceaccounts"),
        ("POST", "/api/v1/namespaces/{namespace}/pods"),
        ("POST", "/api/v1/namespaces/{namespace}/pods/web-0/exec"),
        ("POST", "/api/v1/namespaces/{namespace}/serviceaccounts/default/token"),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"),
        ("GET", "/apis/apps/v1/namespaces/{namespace}/deployments"),
        ("DELETE", "/apis/apps/v1/namespaces/{namespace}/statefulsets"),
        ("DELETE", "/api/v1/namespaces/{namespace}"),
        ("GET", "/api/v1/namespaces/default/pods"),
        ("GET", "/apis/apps/v1/statefulsets"),
        ("GET", "/api/v1/nodes"),
        ("GET", "/api/v1/namespaces"),
    ],
)
def test_the_account_is_refused_everything_else(cluster, account, method, path):
    with Api(account) as api, pytest.raises(ApiError, match="fondaco-provisioner") as caught:
        api.request(method, path.format(namespace=cluster.namespace), {} if method == "POST" else None)
    assert caught.value.status == 403


def test_without_the_role_the_provisioner_names_the_right_that_is_missing(cluster, account):
    for document in objects_of("provisioner", namespace=cluster.namespace):
        if document["kind"] == "Role":
            rules = [rule for rule in document["rules"] if rule["resources"] != ["statefulsets"]]
            cluster.api.apply(path_of(document), document | {"rules": rules})
    provisioner = KubernetesProvisioner("main", kubeconfig=account)
    try:
        wait_for(lambda: _is_denied(provisioner), "the role to count")
        with pytest.raises(PermissionDeniedError, match=r"fondaco-provisioner.*(get|patch) statefulsets\.apps"):
            provisioner.apply(_desired())
    finally:
        provisioner.close()


def _may_list_pods(api, cluster):
    try:
        return api.get(cluster.path("pods"))
    except ApiError:
        return None


def _is_denied(provisioner):
    try:
        provisioner.observe_all()
    except PermissionDeniedError as exc:
        return "statefulsets" in str(exc)
    return False

"""What differs between what was applied and what is there; with true servers: test_provisioner.py."""

from __future__ import annotations

from typing import Any

import pytest

from fondaco.adapters.kubernetes.drift import differences


def item(spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"metadata": metadata, "spec": spec}


def lines(applied: dict[str, Any], live: dict[str, Any], **metadata: Any) -> list[str]:
    return [str(one) for one in differences(item(applied), item(live, **metadata))]


@pytest.mark.parametrize(
    ("applied", "live"),
    [
        ({"resources": {"requests": {"cpu": "1000m", "memory": "0.5Gi"}}}, {"resources": {"requests": {"cpu": "1", "memory": "512Mi"}}}),
        ({"emptyDir": {"sizeLimit": "1024Mi"}}, {"emptyDir": {"sizeLimit": "1Gi"}}),
        ({"env": [{"name": "A", "value": ""}]}, {"env": [{"name": "A"}]}),
        ({"publish": False, "grace": 0, "list": [], "map": {"a": {}}}, {}),
        ({"a": 1}, {"a": 1, "defaulted": 2}),
        ({"containers": [{"name": "main"}]}, {"containers": [{"name": "injected"}, {"name": "main", "x": 1}]}),
        ({"ports": [{"containerPort": 1, "protocol": "TCP"}]}, {"ports": [{"containerPort": 1, "protocol": "TCP", "name": "x"}]}),
    ],
)
def test_what_the_server_writes_in_its_own_way_or_others_add_is_no_difference(applied: dict[str, Any], live: dict[str, Any]) -> None:
    assert lines(applied, live) == []


@pytest.mark.parametrize(
    ("applied", "live", "said"),
    [
        ({"replicas": 3}, {"replicas": 0}, "spec.replicas is 0, not 3"),
        ({"replicas": 3}, {}, "spec.replicas is gone"),
        ({"env": [{"name": "A", "value": "1000m"}]}, {"env": [{"name": "A", "value": "1"}]}, "spec.env[A].value is '1', not '1000m'"),
        ({"env": [{"name": "A", "value": "1"}]}, {"env": []}, "spec.env[A] is gone"),
        ({"env": [{"name": "A", "value": "1"}]}, {}, "spec.env is gone"),
        ({"command": ["a", "b"]}, {"command": ["a"]}, 'spec.command is ["a"], not ["a", "b"]'),
        ({"command": ["a", "b"]}, {"command": ["a", "c"]}, "spec.command[1] is 'c', not 'b'"),
        ({"limits": {"cpu": "1"}}, {"limits": {"cpu": "1500m"}}, "spec.limits.cpu is '1500m', not '1'"),
    ],
)
def test_a_difference_is_said_with_its_path(applied: dict[str, Any], live: dict[str, Any], said: str) -> None:
    assert lines(applied, live) == [said]


def test_who_changed_it_is_the_last_manager_that_owns_the_field_and_is_not_us() -> None:
    template = {"f:containers": {'k:{"name":"main"}': {"f:image": {}, ".": {}}}, "f:tolerations": {}}
    managed = [
        {"manager": "fondaco", "operation": "Apply", "time": "2026-01-03", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
        {"manager": "old", "operation": "Update", "time": "2026-01-01", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
        {"manager": "kubectl", "operation": "Update", "time": "2026-01-02", "fieldsV1": {"f:spec": {"f:replicas": {}, **template}}},
        {"manager": "controller", "operation": "Update", "time": "2026-01-04", "fieldsV1": {"f:status": {"f:replicas": {}}}},
    ]
    applied = {"replicas": 3, "containers": [{"name": "main", "image": "a", "tty": True}], "tolerations": [{"key": "a"}]}
    live = {"replicas": 1, "containers": [{"name": "main", "image": "b"}], "tolerations": [{"key": "b"}]}
    assert lines(applied, live, managedFields=managed) == [
        "spec.replicas is 1, not 3 (changed by kubectl)",
        "spec.containers[main].image is 'b', not 'a' (changed by kubectl)",
        "spec.containers[main].tty is gone",
        "spec.tolerations[0].key is 'b', not 'a' (changed by kubectl)",
    ]


def test_long_values_are_shortened() -> None:
    (said,) = lines({"text": "a" * 500}, {"text": "b" * 500})
    assert len(said) < 250
    assert said.endswith("...")

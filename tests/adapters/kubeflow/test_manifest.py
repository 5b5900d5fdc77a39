"""Manifests are TrainJobs as Kubeflow publishes them, and say what was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from fondaco.adapters.kubeflow import train_job
from fondaco.adapters.kubeflow.manifest import standing
from fondaco.adapters.kubeflow.runner import kubernetes_cluster
from fondaco.core.config import ClusterConfig, ServicesConfig
from fondaco.core.errors import InputError


def published(manifest: dict[str, Any]) -> Any:
    """The manifest, read by the models of the package kubeflow-trainer-api, which take no value of another type."""
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    return TrainerV1alpha1TrainJob.from_dict(manifest)


def test_the_published_models_read_back_what_was_asked_for() -> None:
    manifest = train_job(
        "run-0123456789ab",
        ["torchrun", "train.py"],
        image="example.org/train:1",
        nodes=2,
        nproc="4",
        env={"B": "2", "A": "1"},
        resources={"nvidia.com/gpu": "4", "memory": "16Gi"},
        deadline_s=60,
        run_name="nightly",
    )
    job = published(manifest)
    assert job.to_dict() == manifest  # nothing is lost, nothing is renamed
    trainer = job.spec.trainer
    assert (trainer.image, trainer.num_nodes, trainer.num_proc_per_node) == ("example.org/train:1", 2, 4)
    assert [(one.name, one.value) for one in trainer.env] == [("A", "1"), ("B", "2")]
    assert (job.spec.runtime_ref.kind, job.spec.runtime_ref.name) == ("ClusterTrainingRuntime", "torch-distributed")
    assert job.spec.active_deadline_seconds == 60


def test_what_is_not_said_is_the_runtimes_affair() -> None:
    assert train_job("run-1", ["true"])["spec"]["trainer"] == {"command": ["true"]}
    assert "numProcPerNode" not in train_job("run-1", ["true"], nproc="auto")["spec"]["trainer"]


def test_kubernetes_reads_no_variables_in_commands_and_values() -> None:
    trainer = train_job("run-1", ["echo", "$(HOME) $$"], env={"A": "$(B)"})["spec"]["trainer"]
    assert trainer["command"] == ["echo", "$$(HOME) $$$$"]
    assert trainer["env"] == [{"name": "A", "value": "$$(B)"}]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nproc": "many"}, "'many'"),
        ({"nproc": 0}, "0"),
        ({"nodes": 0}, "nodes: 0"),
        ({"resources": {"memory": "lots"}}, r"resources\.requests\.memory: 'lots'"),
    ],
)
def test_values_that_cannot_be_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        train_job("run-1", ["true"], **options)
    with pytest.raises(InputError, match="after `--`"):
        train_job("run-1", [])


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (None, (False, False, "not started yet")),
        ({"jobsStatus": [{"name": "node", "active": 1, "ready": 0}]}, (False, False, "node: 1 active")),
        ({"conditions": [{"type": "Suspended", "status": "True", "reason": "Suspended"}]}, (False, False, "suspended: Suspended")),
        ({"conditions": [{"type": "Complete", "status": "False", "reason": "x"}]}, (False, False, "not started yet")),
        (
            {"conditions": [{"type": "Complete", "status": "True", "reason": "JobsCompleted", "message": "m"}]},
            (True, True, "JobsCompleted: m"),
        ),
        ({"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}, (True, False, "DeadlineExceeded")),
    ],
)
def test_conditions_say_how_a_job_stands(status: dict[str, Any] | None, found: tuple[bool, bool, str]) -> None:
    assert standing({} if status is None else {"status": status}) == found


def test_the_cluster_of_a_train_job_is_the_one_named_or_the_only_one() -> None:
    texas, virginia = ClusterConfig(kind="kubernetes", context="tx"), ClusterConfig(kind="kubernetes", context="va")
    assert kubernetes_cluster(ServicesConfig(clusters={"texas": texas}), None) == ("texas", texas)
    both = ServicesConfig(default="virginia", clusters={"texas": texas, "virginia": virginia})
    assert kubernetes_cluster(both, None) == ("virginia", virginia)
    assert kubernetes_cluster(both, "texas") == ("texas", texas)
    with pytest.raises(InputError, match="there are: texas, virginia"):
        kubernetes_cluster(ServicesConfig(clusters=both.clusters), None)
    with pytest.raises(InputError, match=r"fondaco\.toml has none"):
        kubernetes_cluster(ServicesConfig(), None)

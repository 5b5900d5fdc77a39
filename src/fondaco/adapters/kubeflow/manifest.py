"""Manifest: a job as a TrainJob, and what the status of one means.

Commands and variables mean what they say: Kubernetes reads `$(NAME)` in both, so each `$` is written `$$`.
Source: Kubeflow Trainer 2.3, API trainer.kubeflow.org/v1alpha1 (TrainJobSpec, TrainJobStatus). Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from fondaco.adapters.kubernetes.commands import literal
from fondaco.core.errors import InputError
from fondaco.services.quantities import check_resources

GROUP: Final = "trainer.kubeflow.org"
VERSION: Final = "v1alpha1"
RUNTIME: Final = "torch-distributed"  # the ClusterTrainingRuntime that Kubeflow installs for PyTorch
RUN_LABEL: Final = "fondaco.dev/run"
NAME_ANNOTATION: Final = "fondaco.dev/run-name"
RuntimeKind = Literal["ClusterTrainingRuntime", "TrainingRuntime"]


class Standing(NamedTuple):
    """How a TrainJob stands: whether it is over, and how; and in words."""

    ended: bool
    succeeded: bool
    reason: str


def train_job(
    name: str,
    command: Sequence[str],
    *,
    runtime: str = RUNTIME,
    runtime_kind: RuntimeKind = "ClusterTrainingRuntime",
    image: str | None = None,
    nodes: int | None = None,
    nproc: int | str | None = None,
    env: Mapping[str, str] | None = None,
    resources: Mapping[str, str] | None = None,
    deadline_s: int | None = None,
    run_name: str = "",
) -> dict[str, Any]:
    """The manifest of a TrainJob.

    Args:
        name: of the object, a DNS label. run_name: what people call the run.
        runtime: the training runtime; with `runtime_kind` "TrainingRuntime" one of the namespace, else one of the cluster.
        image, nodes, nproc: None: as the runtime has it. nproc: processes on each node; "auto": as many as it has devices.
        resources: of each node, as {"nvidia.com/gpu": "1", "memory": "16Gi"}; requested, and the limit.
        deadline_s: after which it is ended.
    Raises:
        InputError: there is no command; no such amount of a resource; no such number.
    """
    if not command:
        raise InputError("what shall run? Write the command after `--`, as in: fondaco train --on kubeflow --graph G -- python train.py")
    for what, number in (("nodes", nodes), ("deadline_s", deadline_s)):
        if number is not None and number < 1:
            raise InputError(f"{what}: {number} is less than 1")
    trainer: dict[str, Any] = {"command": [literal(word) for word in command]}
    if image is not None:
        trainer["image"] = image
    if nodes is not None:
        trainer["numNodes"] = nodes
    if nproc is not None and nproc != "auto":  # which is what a runtime of PyTorch does by itself, and no number
        trainer["numProcPerNode"] = _whole(nproc)
    if env:
        trainer["env"] = [{"name": variable, "value": literal(value)} for variable, value in sorted(env.items())]
    if resources:
        amounts = dict(resources)
        check_resources(amounts, amounts)
        trainer["resourcesPerNode"] = {"requests": amounts, "limits": amounts}
    spec: dict[str, Any] = {"runtimeRef": {"apiGroup": GROUP, "kind": runtime_kind, "name": runtime}, "trainer": trainer}
    if deadline_s is not None:
        spec["activeDeadlineSeconds"] = deadline_s
    labels = {"app.kubernetes.io/managed-by": "fondaco", RUN_LABEL: name}
    metadata: dict[str, Any] = {"name": name, "labels": labels}
    if run_name and run_name != name:
        metadata["annotations"] = {NAME_ANNOTATION: run_name}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainJob", "metadata": metadata, "spec": spec}


def standing(job: Mapping[str, Any]) -> Standing:
    """How a TrainJob stands, from its conditions (Complete, Failed, Suspended) and the counts of its jobs."""
    status = job.get("status") or {}
    conditions = {one.get("type"): one for one in status.get("conditions") or () if one.get("status") == "True"}
    for kind, succeeded in (("Failed", False), ("Complete", True)):
        if kind in conditions:
            return Standing(True, succeeded, _words(conditions[kind]))
    if "Suspended" in conditions:
        return Standing(False, False, f"suspended: {_words(conditions['Suspended'])}")
    counts = [
        f"{one.get('name')}: " + ", ".join(f"{one[what]} {what}" for what in ("active", "ready", "succeeded", "failed") if one.get(what))
        for one in status.get("jobsStatus") or ()
        if any(one.get(what) for what in ("active", "ready", "succeeded", "failed"))
    ]
    return Standing(False, False, "; ".join(counts) or "not started yet")


def _whole(nproc: int | str) -> int:
    if not str(nproc).isdecimal() or int(nproc) < 1:
        raise InputError(f'nproc: {nproc!r} is neither a number of processes from 1 on nor "auto"')
    return int(nproc)


def _words(condition: Mapping[str, Any]) -> str:
    return ": ".join(part for part in (condition.get("reason"), condition.get("message")) if part)

"""Kubeflow: jobs as TrainJobs of Kubeflow Trainer 2 (extra `kubeflow`), with the data services that they need in the same cluster.

`train_job` makes the manifest, `TrainJobs` is a `fondaco.models.runner.Runner` that has it run: `fondaco train --on kubeflow`. It needs
lightkube and nothing of Kubeflow's own packages: a TrainJob is a document (trainer.kubeflow.org/v1alpha1), and the tests hold ours against
the published models. In its namespace it must be allowed, beside what the services need:

    trainer.kubeflow.org    trainjobs    get create patch delete
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fondaco.adapters.kubeflow.manifest import train_job
    from fondaco.adapters.kubeflow.runner import TrainJobs

__all__ = ["TrainJobs", "train_job"]

_HOMES = {"TrainJobs": "runner", "train_job": "manifest"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"fondaco.adapters.kubeflow.{_HOMES[name]}"), name)

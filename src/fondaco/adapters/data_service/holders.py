"""Holders: under which name a task holds its lease, the same for every attempt of the same node of the same execution."""

from __future__ import annotations

import hashlib
from typing import Any, Final

PREFIX: Final = "flyte:"


def execution_holder(project: str, domain: str, execution: str) -> str:
    """What the holders of all tasks of one execution begin with."""
    return f"{PREFIX}{project}/{domain}/{execution}/"


def holder_of(metadata: Any, output_prefix: str) -> str:
    """The holder of a task.

    Args:
        metadata: the task execution's, a message of either protocol or flytekit's model of it; None or empty in local runs.
        output_prefix: of the task; names it where the metadata does not. Each attempt has its own, and so holds its own lease.
    """
    node = getattr(getattr(metadata, "task_execution_id", None), "node_execution_id", None)
    execution = getattr(node, "execution_id", None)
    if execution is not None and execution.name:
        assert node is not None
        return execution_holder(execution.project, execution.domain, execution.name) + (node.node_id or "task")
    return f"{PREFIX}{hashlib.sha256(output_prefix.encode()).hexdigest()[:20]}"

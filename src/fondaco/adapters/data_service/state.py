"""TaskState: what a connector answers when it is asked how a task stands, in terms of neither protocol."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum


class TaskPhase(StrEnum):
    """The phases that are answered, by the names that both protocols give them (`TaskExecution.Phase`). UNDEFINED never is: a backend
    takes it for a failure of the connector."""

    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    RETRYABLE_FAILED = "RETRYABLE_FAILED"
    FAILED = "FAILED"

    @property
    def is_terminal(self) -> bool:
        """Whether the backend asks no more after it."""
        return self in (TaskPhase.SUCCEEDED, TaskPhase.RETRYABLE_FAILED, TaskPhase.FAILED)


@dataclass(frozen=True, slots=True)
class DataServiceOutputs:
    """What the task gives to those after it.

    Attributes:
        name: of the service. endpoints: "host:port" of its instances, in order. env: variables for jobs.
    """

    name: str
    endpoints: list[str]
    env: dict[str, str]

    def to_dict(self, declared: Collection[str] | None = None) -> dict[str, str | list[str] | dict[str, str]]:
        """The outputs by name, in the order in which our tasks declare them.

        Args:
            declared: by the task: one that the existing plugin has registered declares `name` only. None: all.
        """
        outputs: dict[str, str | list[str] | dict[str, str]] = {"name": self.name, "endpoints": self.endpoints, "env": self.env}
        return {name: value for name, value in outputs.items() if declared is None or name in declared}


@dataclass(frozen=True, slots=True)
class TaskState:
    """How a task stands.

    Attributes:
        message: in words, as "3/8 ready; instance 5: CrashLoopBackOff". outputs: of a task that has succeeded.
        log_links: names and addresses of the instances' logs, where the cluster says how to link them.
    """

    phase: TaskPhase
    message: str
    outputs: DataServiceOutputs | None = None
    log_links: tuple[tuple[str, str], ...] = ()

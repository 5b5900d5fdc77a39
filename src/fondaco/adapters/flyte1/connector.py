"""DataServiceConnector: what Flyte 1's backend asks about data service tasks, answered by the platform's services.

It only translates: what the calls do is in `fondaco.adapters.data_service`. One object answers all requests, from many threads, and
remembers none of them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from flyteidl.admin.agent_pb2 import GetTaskLogsResponse, GetTaskLogsResponseBody
from flyteidl.core.execution_pb2 import TaskExecution, TaskLog
from flytekit.extend.backend.base_connector import AsyncConnectorBase, Resource
from flytekit.models.literals import LiteralMap
from flytekit.models.task import TaskExecutionMetadata, TaskTemplate

from fondaco.adapters.data_service import ANSWER_S, TASK_TYPE, DataServiceConfig, DataServiceMeta, TaskState, create, delete, get, holder_of
from fondaco.adapters.flyte1.literals import literal_map

if TYPE_CHECKING:
    from fondaco.services.manager import Services

LOG_LINES: Final = 100


class DataServiceConnector(AsyncConnectorBase):  # type: ignore[misc]
    """Answers for tasks of type "dataservicetask"."""

    name = "Fondaco data services"

    def __init__(self, services: Services | None = None) -> None:
        """
        Args:
            services: of a platform; None: of the one in FONDACO_DIR, opened with the first call.
        """
        super().__init__(task_type_name=TASK_TYPE, metadata_type=DataServiceMeta)
        self._given = services

    @property
    def services(self) -> Services:
        """What answers."""
        from fondaco.adapters.data_service.local import platform_services

        return self._given if self._given is not None else platform_services()

    def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: LiteralMap | None = None,
        task_execution_metadata: TaskExecutionMetadata | None = None,
        answer_s: float = ANSWER_S,
        **_: Any,
    ) -> DataServiceMeta:
        """Make sure that the service is there or on its way; see `data_service.create`."""
        config = DataServiceConfig.from_custom(task_template.custom or {})
        holder = holder_of(task_execution_metadata, output_prefix)
        declared = None if task_template.interface is None else tuple(task_template.interface.outputs)
        return create(self.services, config, holder=holder, outputs=declared, answer_s=answer_s)

    def get(self, resource_meta: DataServiceMeta, answer_s: float = ANSWER_S, **_: Any) -> Resource:
        """How the task stands; see `data_service.get`."""
        return resource_of(get(self.services, resource_meta, answer_s=answer_s), resource_meta.outputs)

    def delete(self, resource_meta: DataServiceMeta, answer_s: float = ANSWER_S, **_: Any) -> None:
        """Give the task's own lease back; see `data_service.delete`."""
        delete(self.services, resource_meta, answer_s=answer_s)

    def get_logs(self, resource_meta: DataServiceMeta, lines: int = 0, **_: Any) -> GetTaskLogsResponse:
        """The newest lines of the service's instances."""
        found = self.services.logs(resource_meta.service, lines=min(lines, 10_000) or LOG_LINES)
        return GetTaskLogsResponse(body=GetTaskLogsResponseBody(results=list(found)))


def resource_of(state: TaskState, declared: Collection[str] | None = None) -> Resource:
    """A task's state as flytekit models it, with the outputs that it declares."""
    return Resource(
        phase=TaskExecution.Phase.Value(state.phase.value),
        message=state.message,
        log_links=[TaskLog(name=name, uri=uri) for name, uri in state.log_links],
        outputs=literal_map(state.outputs.to_dict(declared)) if state.outputs is not None else None,
    )

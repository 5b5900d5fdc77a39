"""DataServiceConnector: what answers a Flyte 2 backend's calls about data service tasks.

All it knows is in the metadata that it gave; one object serves every call, from the loop, and asks the services in threads.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from flyte.connectors import AsyncConnector, Resource, ResourceMeta
from flyteidl2.connector.connector_pb2 import GetTaskLogsResponse, GetTaskLogsResponseBody
from flyteidl2.core.execution_pb2 import TaskExecution, TaskLog
from flyteidl2.core.tasks_pb2 import TaskTemplate
from flyteidl2.logs.dataplane.payload_pb2 import LogLine, LogLineOriginator
from google.protobuf import json_format

from fondaco.adapters.data_service import ANSWER_S, LEASE, TASK_TYPE, DataServiceConfig, DataServiceMeta, create, delete, get, holder_of
from fondaco.adapters.data_service.local import LEASE as LOCAL_LEASE
from fondaco.adapters.data_service.local import LEASE_S, hold_here
from fondaco.adapters.flyte2.literals import typed_outputs

if TYPE_CHECKING:
    from fondaco.services.manager import Services


LOG_LINES: Final = 100


class DataServiceResource(ResourceMeta):  # type: ignore[misc]
    """A `DataServiceMeta` as flyte's base class wants one; the bytes are the meta's."""

    def __init__(self, meta: DataServiceMeta) -> None:
        self.meta = meta

    def encode(self) -> bytes:
        return self.meta.encode()

    @classmethod
    def decode(cls, data: bytes) -> DataServiceResource:
        return cls(DataServiceMeta.decode(data))


class DataServiceConnector(AsyncConnector[DataServiceResource]):  # type: ignore[misc]
    """Ensures data services over a platform's `services`."""

    name = "Fondaco data services"
    task_type_name = TASK_TYPE
    metadata_type = DataServiceResource

    _lease = LEASE
    _is_local = False

    def __init__(self, services: Callable[[], Services]) -> None:
        """
        Args:
            services: called for each answer; those of one open platform, as a rule.
        """
        self._services = services

    async def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: dict[str, Any] | None = None,
        task_execution_metadata: Any = None,
        answer_s: float = ANSWER_S,
        **connection: Any,
    ) -> DataServiceResource:
        """See `data_service.create`."""
        config = DataServiceConfig.from_custom(json_format.MessageToDict(task_template.custom))
        holder = holder_of(task_execution_metadata, output_prefix)
        declared = None
        if task_template.HasField("interface"):
            declared = tuple(entry.key for entry in task_template.interface.outputs.variables)
        meta = await asyncio.to_thread(
            lambda: create(self._services(), config, holder=holder, outputs=declared, lease=self._lease, answer_s=answer_s)
        )
        if self._is_local and meta.hold_us is not None:  # with policy "keep" it is as on a backend
            meta = msgspec.structs.replace(meta, hold_us=int(LEASE_S * 1e6))
        return DataServiceResource(meta)

    async def get(self, resource_meta: DataServiceResource, answer_s: float = ANSWER_S, **connection: Any) -> Resource:
        """See `data_service.get`."""
        state = await asyncio.to_thread(lambda: get(self._services(), resource_meta.meta, lease=self._lease, answer_s=answer_s))
        return Resource(
            phase=TaskExecution.Phase.Value(state.phase.value),
            message=state.message,
            log_links=[TaskLog(name=name, uri=uri) for name, uri in state.log_links],
            outputs=typed_outputs(state.outputs, resource_meta.meta.outputs) if state.outputs is not None else None,
        )

    async def delete(self, resource_meta: DataServiceResource, answer_s: float = ANSWER_S, **connection: Any) -> None:
        """See `data_service.delete`."""
        await asyncio.to_thread(lambda: delete(self._services(), resource_meta.meta, answer_s=answer_s))

    async def get_logs(self, resource_meta: DataServiceResource, **connection: Any) -> GetTaskLogsResponse:
        """The newest lines of the service's instances, each with its instance's number; without times, which the cluster does not tell."""
        found = await asyncio.to_thread(lambda: self._services().logs(resource_meta.meta.service, lines=LOG_LINES))
        lines = [LogLine(message=line, originator=LogLineOriginator.USER) for line in found]
        return GetTaskLogsResponse(body=GetTaskLogsResponseBody(lines=lines))

    def for_local_runs(self) -> DataServiceConnector:
        """The same with short leases, which this process renews (`hold_here`): after a kill they run out soon."""
        other = copy.copy(self)
        other._lease, other._is_local = LOCAL_LEASE, True
        return other

    def hold_here(self, resource_meta: DataServiceResource) -> None:
        """Renew what a local run has got until this process ends."""
        if resource_meta.meta.hold_us is not None:
            hold_here(self._services(), resource_meta.meta)

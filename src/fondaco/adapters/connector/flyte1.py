"""Flyte 1's protocol (flyteidl: AsyncAgentService, AgentMetadataService) in front of connectors made with flytekit's base classes.

Only the connectors that it is given are served, not everything that flytekit's registry holds: flytekit registers an engine of sensors
when it is imported, and a process that claims all sensors of an installation would take them from whoever serves them now.

Methods of connectors that block run in the loop's pool of threads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import grpc
from flyteidl.admin import agent_pb2 as messages
from flyteidl.service import agent_pb2, agent_pb2_grpc
from flytekit.extend.backend.base_connector import AsyncConnectorBase
from flytekit.extend.backend.utils import mirror_async_methods
from flytekit.models.literals import LiteralMap
from flytekit.models.task import TaskExecutionMetadata, TaskTemplate

from fondaco.adapters.connector.answering import Desk, answer_s
from fondaco.adapters.connector.metrics import ConnectorMetrics
from fondaco.core.errors import InputError, NotFoundError

PROTOCOL = "flyte1"
Message = TypeVar("Message")


def add_flyte1(server: grpc.aio.Server, connectors: Sequence[AsyncConnectorBase], metrics: ConnectorMetrics) -> list[str]:
    """Answer Flyte 1's calls on a server; returns the full names of the services, for the health service."""
    desk = Desk(PROTOCOL, frozenset(connector.task_category.name for connector in connectors), metrics)
    agent_pb2_grpc.add_AsyncAgentServiceServicer_to_server(_Tasks(connectors, desk), server)
    agent_pb2_grpc.add_AgentMetadataServiceServicer_to_server(_Metadata(connectors, desk), server)
    services = agent_pb2.DESCRIPTOR.services_by_name
    return [services[name].full_name for name in ("AsyncAgentService", "AgentMetadataService")]


class _Tasks(agent_pb2_grpc.AsyncAgentServiceServicer):  # type: ignore[misc]  # flyteidl has no types of its services
    def __init__(self, connectors: Sequence[AsyncConnectorBase], desk: Desk) -> None:
        self._connectors = {(found.task_category.name, found.task_category.version): found for found in connectors}
        self._desk = desk

    async def CreateTask(  # noqa: N802  # the protocol's name
        self, request: messages.CreateTaskRequest, context: grpc.aio.ServicerContext
    ) -> messages.CreateTaskResponse:
        async def work() -> messages.CreateTaskResponse:
            connector = self._connector(request.template.type, request.template.task_type_version)
            made = await mirror_async_methods(
                connector.create,
                task_template=_read("template", lambda: TaskTemplate.from_flyte_idl(request.template)),
                inputs=_read("inputs", lambda: LiteralMap.from_flyte_idl(request.inputs)),
                output_prefix=request.output_prefix,
                task_execution_metadata=_read(
                    "task_execution_metadata", lambda: TaskExecutionMetadata.from_flyte_idl(request.task_execution_metadata)
                ),
                answer_s=answer_s(context),
            )
            return messages.CreateTaskResponse(resource_meta=made.encode())

        return await self._desk.answer("create", request.template.type, context, work)

    async def GetTask(  # noqa: N802
        self, request: messages.GetTaskRequest, context: grpc.aio.ServicerContext
    ) -> messages.GetTaskResponse:
        async def work() -> messages.GetTaskResponse:
            connector = self._connector_of(request)
            meta = connector.metadata_type.decode(request.resource_meta)
            found = await mirror_async_methods(connector.get, resource_meta=meta, answer_s=answer_s(context))
            return messages.GetTaskResponse(resource=await found.to_flyte_idl())

        return await self._desk.answer("get", _task_type(request), context, work)

    async def DeleteTask(  # noqa: N802
        self, request: messages.DeleteTaskRequest, context: grpc.aio.ServicerContext
    ) -> messages.DeleteTaskResponse:
        async def work() -> messages.DeleteTaskResponse:
            connector = self._connector_of(request)
            meta = connector.metadata_type.decode(request.resource_meta)
            await mirror_async_methods(connector.delete, resource_meta=meta, answer_s=answer_s(context))
            return messages.DeleteTaskResponse()

        return await self._desk.answer("delete", _task_type(request), context, work)

    async def GetTaskLogs(  # noqa: N802
        self, request: messages.GetTaskLogsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[messages.GetTaskLogsResponse]:
        async def work() -> messages.GetTaskLogsResponse:
            connector = self._connector_of(request)
            metadata = connector.metadata_type.decode(request.resource_meta)
            return await mirror_async_methods(connector.get_logs, resource_meta=metadata, lines=request.lines)

        yield await self._desk.answer("logs", _task_type(request), context, work)

    def _connector_of(self, request: Any) -> AsyncConnectorBase:
        category = request.task_category
        return self._connector(category.name or request.task_type, category.version)

    def _connector(self, task_type: str, version: int) -> AsyncConnectorBase:
        found = self._connectors.get((task_type, version))
        if found is None:
            served = [f"{name} (version {number})" if number else name for name, number in self._connectors]
            raise NotFoundError(f"{task_type} (version {version})" if version else task_type, served, "the task types of this connector")
        return found


class _Metadata(agent_pb2_grpc.AgentMetadataServiceServicer):  # type: ignore[misc]
    def __init__(self, connectors: Sequence[AsyncConnectorBase], desk: Desk) -> None:
        self._agents: dict[str, messages.Agent] = {}
        for connector in connectors:
            agent = self._agents.setdefault(connector.name, messages.Agent(name=connector.name, is_sync=False))
            category = messages.TaskCategory(name=connector.task_category.name, version=connector.task_category.version)
            agent.supported_task_categories.append(category)
            agent.supported_task_types.append(category.name)
        self._desk = desk

    async def GetAgent(  # noqa: N802
        self, request: messages.GetAgentRequest, context: grpc.aio.ServicerContext
    ) -> messages.GetAgentResponse:
        async def work() -> messages.GetAgentResponse:
            if request.name not in self._agents:
                raise NotFoundError(request.name, list(self._agents), "the connectors of this process")
            return messages.GetAgentResponse(agent=self._agents[request.name])

        return await self._desk.answer("describe", "", context, work)

    async def ListAgents(  # noqa: N802
        self, request: messages.ListAgentsRequest, context: grpc.aio.ServicerContext
    ) -> messages.ListAgentsResponse:
        async def work() -> messages.ListAgentsResponse:
            return messages.ListAgentsResponse(agents=list(self._agents.values()))

        return await self._desk.answer("list", "", context, work)


def _task_type(request: Any) -> str:
    return str(request.task_category.name or request.task_type)


def _read(what: str, decode: Callable[[], Message]) -> Message:
    """A part of a request as flytekit models it; a message that lacks what the model needs is the caller's mistake."""
    try:
        return decode()
    except Exception as exc:
        raise InputError(f"the request's {what} cannot be read: {type(exc).__name__}: {exc}") from exc

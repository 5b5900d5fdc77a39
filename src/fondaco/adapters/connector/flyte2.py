"""Flyte 2's protocol (flyteidl2: AsyncConnectorService, ConnectorMetadataService) in front of connectors made with flyte's base class.

The same contract as Flyte 1's under other names; here every method of a connector is a coroutine. A task's inputs are not handed on:
none of our connectors reads any.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
from flyte.connectors import AsyncConnector
from flyte.connectors._connector import get_resource_proto
from flyteidl2.connector import connector_pb2 as messages
from flyteidl2.connector import service_pb2, service_pb2_grpc

from fondaco.adapters.connector.answering import Desk, answer_s
from fondaco.adapters.connector.metrics import ConnectorMetrics
from fondaco.core.errors import NotFoundError

PROTOCOL = "flyte2"


def add_flyte2(server: grpc.aio.Server, connectors: Sequence[AsyncConnector[Any]], metrics: ConnectorMetrics) -> list[str]:
    """Answer Flyte 2's calls on a server; returns the full names of the services, for the health service."""
    desk = Desk(PROTOCOL, frozenset(connector.task_type_name for connector in connectors), metrics)
    service_pb2_grpc.add_AsyncConnectorServiceServicer_to_server(_Tasks(connectors, desk), server)
    service_pb2_grpc.add_ConnectorMetadataServiceServicer_to_server(_Metadata(connectors, desk), server)
    services = service_pb2.DESCRIPTOR.services_by_name
    return [services[name].full_name for name in ("AsyncConnectorService", "ConnectorMetadataService")]


class _Tasks(service_pb2_grpc.AsyncConnectorServiceServicer):  # type: ignore[misc]
    def __init__(self, connectors: Sequence[AsyncConnector[Any]], desk: Desk) -> None:
        self._connectors = {(found.task_type_name, found.task_type_version): found for found in connectors}
        self._desk = desk

    async def CreateTask(  # noqa: N802  # the protocol's name
        self, request: messages.CreateTaskRequest, context: grpc.aio.ServicerContext
    ) -> messages.CreateTaskResponse:
        async def work() -> messages.CreateTaskResponse:
            connector = self._connector(request.template.type, request.template.task_type_version)
            made = await connector.create(
                task_template=request.template,
                output_prefix=request.output_prefix,
                inputs=None,
                task_execution_metadata=request.task_execution_metadata,
                **_named(request, context),
            )
            return messages.CreateTaskResponse(resource_meta=made.encode())

        return await self._desk.answer("create", request.template.type, context, work)

    async def GetTask(  # noqa: N802
        self, request: messages.GetTaskRequest, context: grpc.aio.ServicerContext
    ) -> messages.GetTaskResponse:
        async def work() -> messages.GetTaskResponse:
            connector = self._connector_of(request)
            meta = connector.metadata_type.decode(request.resource_meta)
            found = await connector.get(resource_meta=meta, **_named(request, context))
            return messages.GetTaskResponse(resource=await get_resource_proto(found))

        return await self._desk.answer("get", request.task_category.name, context, work)

    async def DeleteTask(  # noqa: N802
        self, request: messages.DeleteTaskRequest, context: grpc.aio.ServicerContext
    ) -> messages.DeleteTaskResponse:
        async def work() -> messages.DeleteTaskResponse:
            connector = self._connector_of(request)
            meta = connector.metadata_type.decode(request.resource_meta)
            await connector.delete(resource_meta=meta, **_named(request, context))
            return messages.DeleteTaskResponse()

        return await self._desk.answer("delete", request.task_category.name, context, work)

    async def GetTaskLogs(  # noqa: N802
        self, request: messages.GetTaskLogsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[messages.GetTaskLogsResponse]:
        async def work() -> list[messages.GetTaskLogsResponse]:
            connector = self._connector_of(request)
            metadata = connector.metadata_type.decode(request.resource_meta)
            found = connector.get_logs(resource_meta=metadata, token=request.token)
            return [await found] if inspect.isawaitable(found) else [part async for part in found]

        for part in await self._desk.answer("logs", request.task_category.name, context, work):
            yield part

    def _connector_of(self, request: Any) -> AsyncConnector[Any]:
        return self._connector(request.task_category.name, request.task_category.version)

    def _connector(self, task_type: str, version: int) -> AsyncConnector[Any]:
        found = self._connectors.get((task_type, version))
        if found is None:
            served = [f"{name} (version {number})" if number else name for name, number in self._connectors]
            raise NotFoundError(f"{task_type} (version {version})" if version else task_type, served, "the task types of this connector")
        return found


class _Metadata(service_pb2_grpc.ConnectorMetadataServiceServicer):  # type: ignore[misc]
    def __init__(self, connectors: Sequence[AsyncConnector[Any]], desk: Desk) -> None:
        self._listed: dict[str, messages.Connector] = {}
        for connector in connectors:
            listed = self._listed.setdefault(connector.name, messages.Connector(name=connector.name))
            category = messages.TaskCategory(name=connector.task_type_name, version=connector.task_type_version)
            listed.supported_task_categories.append(category)
        self._desk = desk

    async def GetConnector(  # noqa: N802
        self, request: messages.GetConnectorRequest, context: grpc.aio.ServicerContext
    ) -> messages.GetConnectorResponse:
        async def work() -> messages.GetConnectorResponse:
            if request.name not in self._listed:
                raise NotFoundError(request.name, list(self._listed), "the connectors of this process")
            return messages.GetConnectorResponse(connector=self._listed[request.name])

        return await self._desk.answer("describe", "", context, work)

    async def ListConnectors(  # noqa: N802
        self, request: messages.ListConnectorsRequest, context: grpc.aio.ServicerContext
    ) -> messages.ListConnectorsResponse:
        async def work() -> messages.ListConnectorsResponse:
            return messages.ListConnectorsResponse(connectors=list(self._listed.values()))

        return await self._desk.answer("list", "", context, work)


def _named(request: Any, context: grpc.aio.ServicerContext) -> Mapping[str, Any]:
    """Secrets and settings of the task's connection, which the backend resolves and the SDK hands on as named arguments; and ours, which no
    setting of that name replaces: how long the call may take."""
    return {**request.connection.secrets, **request.connection.configs, "answer_s": answer_s(context)}

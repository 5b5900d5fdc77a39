"""The second generation of Flyte for `flyte_backend`: its messages, and a connector that stands for the backend in a local run.

`Flyte2` is a `Wire`; templates are `flyteidl2.core.tasks_pb2.TaskTemplate`: `template2_of(task)`. `Proxy` is registered with flyte in place
of a connector, and sends every call of a workflow that runs in this process to connector processes, as a backend would.
"""

from __future__ import annotations

import asyncio
import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
from flyte.connectors import AsyncConnector, ConnectorRegistry, Resource, ResourceMeta
from flyteidl2.connector import connector_pb2
from flyteidl2.connector.service_pb2_grpc import AsyncConnectorServiceStub, ConnectorMetadataServiceStub
from flyteidl2.core import identifier_pb2
from flyteidl2.core.execution_pb2 import TaskLog

from flyte_backend import CALL_S, Backend, Execution, Got, Run, value_of

with warnings.catch_warnings():  # imported with the first value that it carries; pydantic deprecates how a class there is configured
    warnings.simplefilter("ignore", DeprecationWarning)
    import flyte.io  # noqa: F401


class Flyte2:
    """Messages of Flyte 2 (flyteidl2)."""

    def task_types(self, channel: grpc.Channel) -> set[tuple[str, int]]:
        listed = ConnectorMetadataServiceStub(channel).ListConnectors(connector_pb2.ListConnectorsRequest(), timeout=CALL_S).connectors
        return {(category.name, category.version) for connector in listed for category in connector.supported_task_categories}

    def category(self, template: Any) -> tuple[str, int]:
        return template.type, template.task_type_version

    def create(self, channel: grpc.Channel, template: Any, inputs: Any, prefix: str, execution: Execution) -> bytes:
        node = identifier_pb2.NodeExecutionIdentifier(
            node_id=execution.node,
            execution_id=identifier_pb2.WorkflowExecutionIdentifier(
                project=execution.project, domain=execution.domain, name=execution.name, org="org"
            ),
        )
        task = identifier_pb2.TaskExecutionIdentifier(task_id=template.id, node_execution_id=node, retry_attempt=execution.attempt)
        metadata = connector_pb2.TaskExecutionMetadata(
            task_execution_id=task, namespace=f"{execution.project}-{execution.domain}", max_attempts=3
        )
        request = connector_pb2.CreateTaskRequest(template=template, inputs=inputs, output_prefix=prefix, task_execution_metadata=metadata)
        return bytes(AsyncConnectorServiceStub(channel).CreateTask(request, timeout=CALL_S).resource_meta)

    def get(self, channel: grpc.Channel, category: tuple[str, int], metadata: bytes) -> Got:
        request = connector_pb2.GetTaskRequest(task_category=_category(category), resource_meta=metadata)
        found = AsyncConnectorServiceStub(channel).GetTask(request, timeout=CALL_S).resource
        links = {link.name: link.uri for link in found.log_links}
        return Got(found.phase, found.message, links, {named.name: named.value for named in found.outputs.literals})

    def delete(self, channel: grpc.Channel, category: tuple[str, int], metadata: bytes) -> None:
        request = connector_pb2.DeleteTaskRequest(task_category=_category(category), resource_meta=metadata)
        AsyncConnectorServiceStub(channel).DeleteTask(request, timeout=CALL_S)

    def outputs_declared(self, template: Any) -> Mapping[str, Any]:
        return {entry.key: entry.value.type for entry in template.interface.outputs.variables}


def _category(category: tuple[str, int]) -> Any:
    return connector_pb2.TaskCategory(name=category[0], version=category[1])


def template2_of(task: Any) -> Any:
    """A task of flyte as the backend holds it: serialized."""
    from flyte._internal.runtime.task_serde import get_proto_task
    from flyte.models import SerializationContext

    deployed = copy.copy(task)
    deployed.parent_env_name = "tests"
    template = get_proto_task(deployed, SerializationContext(version="1", project="graphs", domain="development", org="org"))
    return type(template).FromString(template.SerializeToString())


class _Held(ResourceMeta):
    def __init__(self, run: Run) -> None:
        self.run = run


class Proxy(AsyncConnector[_Held]):
    """Every call goes to the connectors behind a backend."""

    name = "proxy"
    metadata_type = _Held

    def __init__(self, task_type: str, backend: Backend, execution: Execution) -> None:
        self.task_type_name, self.backend, self.execution = task_type, backend, execution

    async def create(self, task_template: Any, output_prefix: str, inputs: Any = None, **_: Any) -> _Held:
        template = type(task_template).FromString(task_template.SerializeToString())
        return _Held(await asyncio.to_thread(self.backend.create, template, self.execution))

    async def get(self, resource_meta: _Held, **_: Any) -> Resource:
        got = await asyncio.to_thread(self.backend.get, resource_meta.run)
        outputs = {name: value_of(literal) for name, literal in got.outputs.items()}
        links = [TaskLog(name=name, uri=uri) for name, uri in got.links.items()]
        return Resource(phase=got.phase, message=got.message, log_links=links, outputs=outputs or None)

    async def delete(self, resource_meta: _Held, **_: Any) -> None:
        await asyncio.to_thread(self.backend.abort, resource_meta.run)


@contextmanager
def registered(connector: AsyncConnector[Any]) -> Iterator[None]:
    """Have local runs find this connector until the block is left."""
    registries = (ConnectorRegistry._REGISTRY, ConnectorRegistry._METADATA)
    before = [dict(registry) for registry in registries]
    ConnectorRegistry.register(connector, override=True)
    try:
        yield
    finally:
        for registry, entries in zip(registries, before, strict=True):
            registry.clear()
            registry.update(entries)

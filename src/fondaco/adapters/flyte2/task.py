"""DataServiceTask: a task of a Flyte 2 workflow that ensures a data service and hands over where it answers.

On a backend the connector does the work. In a local run (`flyte.run` without a backend) the task asks the connector that is registered in
this process, by the same calls; flyte's own loop for that does not end when a connector answers RETRYABLE_FAILED, so it is not used. What
a local run has got from a connector of this process is held until the process ends, not for `Hold`.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from flyte.connectors import ConnectorRegistry
from flyte.errors import NonRecoverableError, RuntimeUserError
from flyte.extend import TaskTemplate
from flyte.models import NativeInterface, SerializationContext
from flyteidl2.connector.connector_pb2 import TaskExecutionMetadata
from flyteidl2.core import identifier_pb2
from flyteidl2.core.execution_pb2 import TaskExecution

from fondaco.adapters.data_service import TASK_TYPE, DataServiceConfig
from fondaco.adapters.flyte2.connector import DataServiceConnector
from fondaco.core.errors import InputError

if TYPE_CHECKING:
    from flyte.connectors import AsyncConnector
    from flyte.models import TaskContext

POLL_S: Final = 0.2  # local runs; grows to POLL_S_MAX
POLL_S_MAX: Final = 2.0
_OUTPUTS: Final = {"name": str, "endpoints": list[str], "env": dict[str, str]}
_UNDER_WAY: Final = (TaskExecution.QUEUED, TaskExecution.WAITING_FOR_RESOURCES, TaskExecution.INITIALIZING, TaskExecution.RUNNING)
_LOGGER = logging.getLogger(__name__)


class DataServiceTask(TaskTemplate[Any, Any, Any]):  # type: ignore[misc]
    """Ensures the service that its settings describe; `name, endpoints, env = await task()`."""

    def __init__(self, name: str, config: DataServiceConfig, *, inputs: Mapping[str, type] | None = None, **settings: Any) -> None:
        """
        Args:
            name: of the task. config: what to ensure.
            inputs: names and types of values that the task only waits for, so that it begins after those who make them.
            settings: of flyte's `TaskTemplate`, as `retries` and `timeout`.
        Raises:
            InputError: a setting that has no meaning for a service, as `cache`.
        """
        if settings.get("cache", "disable") != "disable":
            raise InputError("cache: a service is no result that can be kept; equal settings share one running service without it")
        given = {key: (kind, inspect.Parameter.empty) for key, kind in (inputs or {}).items()}
        super().__init__(name=name, task_type=TASK_TYPE, interface=NativeInterface(given, dict(_OUTPUTS)), **settings)
        self.service_config = config
        self._inputs, self._settings = dict(inputs or {}), settings

    def override(self, **changes: Any) -> DataServiceTask:
        """The same task with other settings of flyte's `TaskTemplate`, as `retries`."""
        other = DataServiceTask(self.name, self.service_config, inputs=self._inputs, **(self._settings | changes))
        other.parent_env, other.parent_env_name = self.parent_env, self.parent_env_name
        return other

    def custom_config(self, sctx: SerializationContext) -> dict[str, Any]:
        """The settings, as the connector gets them."""
        return self.service_config.to_custom()

    async def execute(self, *args: Any, **kwargs: Any) -> tuple[str, list[str], dict[str, str]]:
        """Do in this process what a backend would do: create, poll, and delete when the run is given up.

        Raises:
            RuntimeUserError: the service failed, and another attempt may help. NonRecoverableError: it would not.
        """
        from flyte._context import internal_ctx

        context = internal_ctx().data.task_context
        if context is None:
            raise RuntimeError("a data service task runs in a workflow: flyte.run(task), or a call in another task")
        connector = ConnectorRegistry.get_connector(self.task_type, self.task_type_version)
        if isinstance(connector, DataServiceConnector):
            connector = connector.for_local_runs()
        creating = asyncio.ensure_future(
            connector.create(
                task_template=self._template(context),
                output_prefix=f"{context.output_path}/{context.action.name}",
                inputs=dict(kwargs),
                task_execution_metadata=_metadata(context),
            )
        )
        try:
            meta = await asyncio.shield(creating)
        except asyncio.CancelledError:  # it goes on, and what it takes would be nobody's: it answers within seconds
            await _given_back(connector, await creating)
            raise
        try:
            outputs = await self._wait(connector, meta)
        except BaseException:
            await asyncio.shield(_given_back(connector, meta))
            raise
        if isinstance(connector, DataServiceConnector):
            connector.hold_here(meta)
        return outputs

    async def _wait(self, connector: AsyncConnector[Any], meta: Any) -> tuple[str, list[str], dict[str, str]]:
        begun, pause, timeout_s = time.monotonic(), POLL_S, _timeout_s(self.timeout)
        while True:
            found = await connector.get(meta)
            if found.phase == TaskExecution.SUCCEEDED:
                outputs = dict(found.outputs or {})
                return outputs["name"], list(outputs["endpoints"]), dict(outputs["env"])
            if found.phase == TaskExecution.RETRYABLE_FAILED:
                raise RuntimeUserError("DataServiceFailed", f"{self.name}: {found.message}")
            if found.phase not in _UNDER_WAY:
                raise NonRecoverableError(f"{self.name}: {found.message}")
            if timeout_s and time.monotonic() - begun > timeout_s:
                raise RuntimeUserError("DataServiceTimeout", f"{self.name}: not ready within {timeout_s:g} s: {found.message}")
            await asyncio.sleep(pause)
            pause = min(pause * 1.3, POLL_S_MAX)

    def _template(self, context: TaskContext) -> Any:
        """The template as a backend would hold it, numbers of the settings and all."""
        from flyte._internal.runtime.task_serde import get_proto_task

        task = self
        if task.parent_env_name is None:  # only needed for the image of a container that nobody starts
            task = copy.copy(self)
            task.parent_env_name = "data-services"
        serialization = SerializationContext(
            project=context.action.project,
            domain=context.action.domain,
            org=context.action.org,
            version=context.version,
            code_bundle=context.code_bundle,
            image_cache=context.compiled_image_cache,
        )
        return get_proto_task(task, serialization, context)


async def _given_back(connector: AsyncConnector[Any], meta: Any) -> None:
    """Give a lease back on the way out; if that fails, it expires, and what the run failed of matters more."""
    try:
        await connector.delete(meta)
    except Exception as exc:
        _LOGGER.warning("the lease of a data service task could not be given back, and expires: %s", exc)


def _timeout_s(timeout: Any) -> float | None:
    """The seconds that a task may run, as flyte lets one say it; None: no bound."""
    bound = getattr(timeout, "max_runtime", timeout)
    return bound.total_seconds() if isinstance(bound, timedelta) else float(bound) if bound else None


def _metadata(context: TaskContext) -> TaskExecutionMetadata:
    """Who asks, as a backend says it: the run is the execution, the action the node."""
    action = context.action
    execution = identifier_pb2.WorkflowExecutionIdentifier(
        project=action.project or "local", domain=action.domain or "local", name=f"{action.run_name or action.name}.{os.getpid()}"
    )
    node = identifier_pb2.NodeExecutionIdentifier(node_id=action.name, execution_id=execution)
    return TaskExecutionMetadata(task_execution_id=identifier_pb2.TaskExecutionIdentifier(node_execution_id=node))

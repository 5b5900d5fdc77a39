"""Attached: data services of a task environment: every task of it holds them while it runs.

A task of such an environment is an ordinary function task; around its body the services are ensured, waited for and held, and their
variables are in `os.environ`. The container needs Fondaco and the platform's directory (FONDACO_DIR), no connector.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flyte
from flyte.extend import AsyncFunctionTaskTemplate, TaskPluginRegistry

from fondaco.adapters.data_service import DataServiceConfig, execution_holder
from fondaco.adapters.data_service.attached import TIMEOUT, run_attached


@dataclass(frozen=True)
class DataServices:
    """Which services the tasks of an environment hold: `flyte.TaskEnvironment(..., plugin_config=DataServices([...]))`.

    Attributes:
        timeout: for each service to become ready, as "30m".
    """

    configs: Sequence[DataServiceConfig]
    timeout: str = TIMEOUT


def data_service_environment(name: str, *configs: DataServiceConfig, timeout: str = TIMEOUT, **settings: Any) -> flyte.TaskEnvironment:
    """A task environment whose tasks hold these services while they run.

    Args:
        settings: of `flyte.TaskEnvironment`.
    """
    return flyte.TaskEnvironment(name=name, plugin_config=DataServices(configs, timeout), **settings)


class DataServicesTask(AsyncFunctionTaskTemplate[Any, Any, Any]):  # type: ignore[misc]
    """A function task inside `attached`."""

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function with the services held."""
        wanted = self.plugin_config
        assert isinstance(wanted, DataServices)
        run = super().execute
        return await run_attached(lambda: run(*args, **kwargs), *wanted.configs, holder=_holder(), timeout=wanted.timeout)


def _holder() -> str | None:
    """Run and action, and a part of its own for each attempt: one that lingers cannot give back another's lease."""
    context = flyte.ctx()
    if context is None:
        return None
    action = context.action
    execution = execution_holder(action.project or "local", action.domain or "local", action.run_name or action.name)
    return f"{execution}{action.name}/{os.urandom(4).hex()}"


TaskPluginRegistry.register(DataServices, DataServicesTask)

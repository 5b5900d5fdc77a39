"""DataServiceTask: a task of Flyte 1 that makes sure of a data service, and hands to the tasks after it where it is.

On a backend the task runs no container: the connector answers for it. In a local run (`pyflyte run`, or a call of the workflow in a
program) it works on the platform in FONDACO_DIR, without any connector; see `data_service.local`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from flytekit import kwtypes
from flytekit.configuration import SerializationSettings
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit.extend.backend.base_connector import AsyncConnectorExecutorMixin
from flytekit.models.literals import LiteralMap

from fondaco.adapters.data_service import TASK_TYPE, DataServiceConfig
from fondaco.adapters.data_service.local import run_here
from fondaco.adapters.flyte1.literals import literal_map
from fondaco.core.errors import InputError

OUTPUTS: Final = {"name": str, "endpoints": list[str], "env": dict[str, str]}


class DataServiceTask(AsyncConnectorExecutorMixin, PythonTask[DataServiceConfig]):  # type: ignore[misc]
    """Ends when the service is ready; the service goes on, held for `Hold` after that (see `DataServiceConfig`).

    Outputs: name: of the service. endpoints: "host:port" of its instances, in order. env: variables for jobs (`environment` sets them).
    """

    def __init__(self, name: str, task_config: DataServiceConfig, inputs: Mapping[str, type] | None = None, **more: Any) -> None:
        """
        Args:
            inputs: names and types of inputs, which are not read: for the order of tasks. more: as flytekit's tasks take it.
        Raises:
            InputError: task_config is none of ours.
        """
        if not isinstance(task_config, DataServiceConfig):
            raise InputError(f"task_config of {name!r}: expected DataServiceConfig(...) of fondaco.adapters.flyte1, not {task_config!r}")
        interface = Interface(inputs=dict(inputs or {}), outputs=kwtypes(**OUTPUTS))
        super().__init__(task_type=TASK_TYPE, name=name, task_config=task_config, interface=interface, **more)

    def get_custom(self, settings: SerializationSettings) -> dict[str, Any]:
        """The settings, as a task template carries them."""
        return self.task_config.to_custom()  # type: ignore[no-any-return]

    def execute(self, **_: Any) -> LiteralMap:
        """Run here; a backend never calls this.

        Raises:
            as `data_service.local.run_here`.
        """
        timeout = self.metadata.timeout
        if isinstance(timeout, int):
            timeout = timedelta(seconds=timeout)
        state = run_here(self.task_config, task=self.name, timeout=timeout)
        assert state.outputs is not None
        return literal_map(state.outputs.to_dict())

"""Flyte 1: data service tasks for flytekit 1.16, and the connector that answers for them.

    from fondaco.adapters.flyte1 import DataServiceConfig, DataServiceTask, environment

    graph = DataServiceTask(name="routes", task_config=DataServiceConfig(Graph="routes", Replicas=2))

Importing this registers the connectors with flytekit, so that `pyflyte serve connector --modules fondaco.adapters.flyte1` serves them too;
`fondaco service connector` is the process made for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fondaco.core.errors import MissingExtraError

try:
    from flytekit.extend.backend.base_connector import AsyncConnectorBase, ConnectorRegistry
except ModuleNotFoundError as exc:
    raise MissingExtraError(str(exc.name), "flyte1", "a data service task of Flyte 1") from exc

from fondaco.adapters.data_service import DataServiceConfig
from fondaco.adapters.data_service.attached import with_data_services
from fondaco.adapters.data_service.variables import environment
from fondaco.adapters.flyte1.cleanup import CleanupConnector, CleanupSensor
from fondaco.adapters.flyte1.connector import DataServiceConnector
from fondaco.adapters.flyte1.task import DataServiceTask

if TYPE_CHECKING:
    from fondaco.services.manager import Services

__all__ = [
    "CleanupConnector",
    "CleanupSensor",
    "DataServiceConfig",
    "DataServiceConnector",
    "DataServiceTask",
    "connectors",
    "environment",
    "with_data_services",
]


def connectors(services: Services | None = None) -> list[AsyncConnectorBase]:
    """The connectors of Flyte 1 over a platform's services; None: of the platform in FONDACO_DIR."""
    return [DataServiceConnector(services), CleanupConnector(services)]


for _connector in connectors():
    ConnectorRegistry.register(_connector, override=True)  # also where another plugin serves the same task type: the one asked for last

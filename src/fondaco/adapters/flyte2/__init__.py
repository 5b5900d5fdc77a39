"""Flyte 2: data services as tasks of its workflows, and as what tasks hold while they run. Extra `flyte2`.

`DataServiceTask` ensures a service; the connector does the work on a backend (`fondaco service connector`, or flyte's own `c0 --modules
fondaco.adapters.flyte2` with FONDACO_DIR set), and in this process in a local run. `environment` is for the tasks after it.
`data_service_environment` makes tasks that hold services by themselves and need no connector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fondaco.core.errors import MissingExtraError

try:
    import flyte  # noqa: F401
    import grpc  # noqa: F401
except ModuleNotFoundError as exc:
    raise MissingExtraError(str(exc.name), "flyte2", "data services of Flyte 2") from exc

from flyte.connectors import AsyncConnector, ConnectorRegistry

from fondaco.adapters.data_service import TASK_TYPE, DataServiceConfig
from fondaco.adapters.data_service.local import platform_services
from fondaco.adapters.data_service.variables import environment
from fondaco.adapters.flyte2.attached import DataServices, data_service_environment
from fondaco.adapters.flyte2.connector import DataServiceConnector
from fondaco.adapters.flyte2.task import DataServiceTask

if TYPE_CHECKING:
    from fondaco.services.manager import Services

__all__ = [
    "TASK_TYPE",
    "DataServiceConfig",
    "DataServiceConnector",
    "DataServiceTask",
    "DataServices",
    "connectors",
    "data_service_environment",
    "environment",
]


def connectors(services: Services) -> list[AsyncConnector[Any]]:
    """The connectors over a platform's services, for the process that serves them."""
    return [DataServiceConnector(lambda: services)]


def _register() -> None:
    """Let local runs in this process, and flyte's own connector server, find the connector; one registered before stays."""
    try:
        ConnectorRegistry.get_connector(TASK_TYPE)
    except ValueError:
        ConnectorRegistry.register(DataServiceConnector(platform_services))


_register()

"""Connector: the process that Flyte's backends ask to start, watch and give back data services: Flyte 1 and Flyte 2 on one port.

`run_connector` is what `fondaco service connector` does; `ConnectorOptions` says where it listens.
"""

from fondaco.core.errors import MissingExtraError

try:
    import grpc  # noqa: F401
    import grpc_health  # noqa: F401
except ModuleNotFoundError as exc:
    raise MissingExtraError(str(exc.name), "flyte1", "a connector (also with the extra flyte2)") from exc

from fondaco.adapters.connector.options import ConnectorOptions
from fondaco.adapters.connector.serve import Serving, run_connector, serving

__all__ = ["ConnectorOptions", "Serving", "run_connector", "serving"]

"""Data service tasks: what the connectors of Flyte 1 and Flyte 2 have in common. Imports neither SDK.

`DataServiceConfig` is what a person writes; `create`, `get` and `delete` are what a connector does with it over `platform.services`;
`DataServiceMeta` is all the state there is between these calls; `attached` is a job that holds its services while it runs.
"""

from fondaco.adapters.data_service.config import DataServiceConfig
from fondaco.adapters.data_service.holders import execution_holder, holder_of
from fondaco.adapters.data_service.lifecycle import ANSWER_S, LEASE, answering_time, create, delete, get
from fondaco.adapters.data_service.meta import DataServiceMeta
from fondaco.adapters.data_service.state import DataServiceOutputs, TaskPhase, TaskState

TASK_TYPE = "dataservicetask"  # the existing plugin's, so that tasks registered with it go on working

__all__ = [
    "ANSWER_S",
    "LEASE",
    "TASK_TYPE",
    "DataServiceConfig",
    "DataServiceMeta",
    "DataServiceOutputs",
    "TaskPhase",
    "TaskState",
    "answering_time",
    "create",
    "delete",
    "execution_holder",
    "get",
    "holder_of",
]

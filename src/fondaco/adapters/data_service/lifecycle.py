"""Lifecycle of a data service task: `create`, `get`, `delete` over a platform's services, as a backend calls them.

What a backend does, and what follows from it (Flyte's webapi plugin machinery, internal/webapi/{launcher,monitor,cache}.go):

- A call has 10 seconds. `create` never waits until a service is ready, and answers in less than `CREATE_S` also when a cluster is slow.
- A create that failed is repeated without a delete, so it is apply-style, under a holder that every attempt of the node shares.
- An error of `get` is counted; after five the backend fails the task for good, or, if it had an answer before, never asks again and leaves
  it running. So a catalog or cluster that does not answer for a while is an answer (still running, because ...), no error.
- `delete` is called on abort only, perhaps twice, and drops the task's own lease, never the service.

Every `get` renews the lease, for longer than a backend waits between two of them; when the service is ready the lease is prolonged to
`Hold`, since nobody calls after that. Functions here block; connectors call them from threads. Any thread, any process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fondaco.adapters.data_service.config import DataServiceConfig
from fondaco.adapters.data_service.meta import DataServiceMeta
from fondaco.adapters.data_service.state import TaskState

if TYPE_CHECKING:
    from fondaco.services.manager import Services

CREATE_S: Final = 8.0  # a backend's call ends after 10
LEASE: Final = "5m"  # between two polls of a backend lie 30 seconds, or a restart of it


def create(services: Services, config: DataServiceConfig, *, holder: str) -> DataServiceMeta:
    """Make sure that the service is there or on its way, and hold a lease on it; answers within `CREATE_S` seconds.

    Args:
        holder: as `holder_of` names it.
    Raises:
        InputError: what is asked for cannot work. ServiceNotFoundError: ExistingReleaseName is the name of none. AlreadyExistsError: it, or
            the service called Name, means something else. UnavailableError: the same call may succeed later.
    """
    raise NotImplementedError


def get(services: Services, meta: DataServiceMeta) -> TaskState:
    """How the task stands; renews its lease, and prolongs it to `Hold` once the service is ready.

    Raises:
        PermissionDeniedError: the cluster does not let us look.
    """
    raise NotImplementedError


def delete(services: Services, meta: DataServiceMeta) -> None:
    """Give the task's lease back; the service stays for its other holders, and for its ttl. Any number of times.

    Raises:
        UnavailableError: the catalog does not answer now.
    """
    raise NotImplementedError

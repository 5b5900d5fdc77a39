"""CleanupSensor: a last task of a workflow that gives back what the workflow holds on a data service.

A service goes by itself some time after its last holder, so a workflow needs no such task; it makes that sooner, and it keeps workflows
working that have one. It ends leases of its own workflow only: a service that others hold stays, and the message says who they are.

It is a task type of its own, not Flyte's "sensor": whoever answers for that type answers for every sensor of an installation, and Flyte's
engine of sensors does not tell a sensor which execution asks.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.configuration import SerializationSettings
from flytekit.core.base_task import PythonTask, TaskMetadata
from flytekit.core.interface import Interface
from flytekit.extend.backend.base_connector import AsyncConnectorBase, AsyncConnectorExecutorMixin, Resource
from flytekit.models.literals import LiteralMap
from flytekit.models.task import TaskExecutionMetadata, TaskTemplate

from fondaco.adapters.data_service import ANSWER_S, execution_holder
from fondaco.adapters.data_service.bounded import within
from fondaco.adapters.data_service.local import forget, local_holder, platform_services
from fondaco.core.errors import DeadlineExceededError, InputError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from fondaco.services.manager import Services

CLEANUP_TYPE: Final = "dataservicecleanup"


class CleanupMeta(msgspec.Struct, frozen=True):
    """What a clean-up is about. holders: what the holders whose leases end begin with. cleanup: False: nothing is to be done."""

    service: str
    holders: str
    cleanup: bool = True
    cluster: str = ""

    def encode(self) -> bytes:
        """The bytes that the backend keeps."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> CleanupMeta:
        """
        Raises:
            InputError: they are not ours.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError as exc:
            raise InputError(f"not the resource meta of a clean-up: {exc}") from exc


class CleanupSensor(AsyncConnectorExecutorMixin, PythonTask):  # type: ignore[misc]
    """Call it in a workflow with `release_name` (the output `name` of the data service task), `cleanup_data_service`, and `cluster`, which
    may be left out; after the tasks that use the service, as `train_result >> cleanup_result`."""

    def __init__(self, name: str, namespace: str | None = None, timeout: timedelta | int | None = None, **more: Any) -> None:
        """
        Args:
            namespace: not read, for the service knows where it is. more: as flytekit's tasks take it.
        """
        metadata = more.pop("metadata", None) or TaskMetadata()
        if timeout is not None:
            metadata.timeout = timeout
        inputs: dict[str, Any] = {"release_name": str, "cleanup_data_service": (bool, True), "cluster": (str, "")}
        super().__init__(task_type=CLEANUP_TYPE, name=name, task_config=None, interface=Interface(inputs=inputs), metadata=metadata, **more)

    def get_custom(self, settings: SerializationSettings) -> dict[str, Any]:
        """Nothing: all it needs are its inputs."""
        return {}

    def execute(self, *, release_name: str, cleanup_data_service: bool = True, cluster: str = "", **_: Any) -> None:
        """Run here: give back what this process holds on the service."""
        meta = CleanupMeta(release_name, local_holder(), cleanup_data_service, cluster)
        released(platform_services(), meta, each=lambda holder: forget(release_name, holder))


class CleanupConnector(AsyncConnectorBase):  # type: ignore[misc]
    """Answers for tasks of type "dataservicecleanup"."""

    name = "Fondaco data services"

    def __init__(self, services: Services | None = None) -> None:
        """
        Args:
            services: of a platform; None: of the one in FONDACO_DIR, opened with the first call.
        """
        super().__init__(task_type_name=CLEANUP_TYPE, metadata_type=CleanupMeta)
        self._given = services

    def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: LiteralMap | None = None,
        task_execution_metadata: TaskExecutionMetadata | None = None,
        **_: Any,
    ) -> CleanupMeta:
        """Note what is to be given back, by which execution."""
        given = _values(inputs)
        identifier = getattr(task_execution_metadata, "task_execution_id", None)
        execution = getattr(getattr(identifier, "node_execution_id", None), "execution_id", None)
        if execution is None or not execution.name:
            raise InputError("a clean-up ends the leases of its own execution, and this call does not say which that is")
        service = given.get("release_name")
        if not service:
            raise InputError("release_name: which service? Give the output `name` of the data service task")
        holders = execution_holder(execution.project, execution.domain, execution.name)
        return CleanupMeta(str(service), holders, bool(given.get("cleanup_data_service", True)), str(given.get("cluster", "")))

    def get(self, resource_meta: CleanupMeta, answer_s: float = ANSWER_S, **_: Any) -> Resource:
        """Give it back, and say what came of it; while the catalog or the cluster does not answer, the task runs on."""
        services = self._given if self._given is not None else platform_services()
        try:
            said = within(answer_s, f"clean-up of {resource_meta.service}", lambda: released(services, resource_meta))
            return Resource(phase=TaskExecution.SUCCEEDED, message=said)
        except (UnavailableError, DeadlineExceededError) as exc:
            return Resource(phase=TaskExecution.RUNNING, message=str(exc))
        except InputError as exc:
            return Resource(phase=TaskExecution.FAILED, message=str(exc))

    def delete(self, resource_meta: CleanupMeta, **_: Any) -> None:
        """Nothing is left to stop."""


def released(services: Services, meta: CleanupMeta, *, each: Callable[[str], None] = lambda holder: None) -> str:
    """Give back the leases that the clean-up is about; returns in words what happened and what becomes of the service.

    Args:
        each: called with each holder whose lease ended.
    Raises:
        InputError: the service is on another cluster than was said. UnavailableError: the catalog does not answer; any number of times.
    """
    if not meta.cleanup:
        return f"{meta.service} was left alone, as asked (cleanup_data_service is False)"
    try:
        status = services.status(meta.service)
    except NotFoundError:
        return f"{meta.service} is gone already, or never was; nothing to give back"
    if meta.cluster and status.cluster != meta.cluster:
        raise InputError(f"cluster: {meta.service} runs on {status.cluster!r}, not on {meta.cluster!r}; nothing was given back")
    ours = [row.holder for row in status.holders if row.holder.startswith(meta.holders)]
    for holder in ours:
        services.release(meta.service, holder)
        each(holder)
    others = [row.holder for row in status.holders if row.holder not in ours]
    done = f"gave back {len(ours)} lease{'s' if len(ours) != 1 else ''} of this workflow on {meta.service}"
    if not ours:
        done = f"this workflow holds nothing on {meta.service}"
    if others:
        return f"{done}; it stays for {', '.join(others[:5])}" + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    return f"{done}; nobody else holds it, so it goes {status.ttl_us / 1e6:g} s after its last holder"


def _values(inputs: LiteralMap | None) -> dict[str, Any]:
    """Texts and booleans among a task's inputs."""
    found: dict[str, Any] = {}
    for name, literal in (inputs.literals if inputs is not None else {}).items():
        primitive = literal.scalar.primitive if literal.scalar is not None else None
        if primitive is not None:
            found[name] = primitive.value
    return found

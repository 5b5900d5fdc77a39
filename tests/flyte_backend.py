"""A backend of Flyte, as far as connectors meet one: what the Go code does with a connector task, and no more.

Every call has a deadline of 10 s. A failed create is repeated from the beginning, with the same execution and without a delete, for the
backend knows nothing to delete. `get` carries nothing but the bytes that create returned, and goes to another replica of the connector
each time. An answer without a defined phase is an error of the system, of which a task survives five. When a task has succeeded its
outputs are held against its declared interface. A normal end calls nothing; an abort calls delete, and calls it again.

`Backend` is what both generations of Flyte have in common; a `Wire` is one generation's messages. `Flyte1` is the first's.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import grpc

CALL_S = 10.0
SYSTEM_FAILURES_MAX = 5
PATIENCE_S = 120.0
Result = TypeVar("Result")


class Phase:
    """Numbers that both generations share (`TaskExecution.Phase`)."""

    UNDEFINED, QUEUED, RUNNING, SUCCEEDED, ABORTED, FAILED, INITIALIZING, WAITING_FOR_RESOURCES, RETRYABLE_FAILED = range(9)
    UNDER_WAY = frozenset({QUEUED, RUNNING, INITIALIZING, WAITING_FOR_RESOURCES})
    DEFINED = frozenset({*UNDER_WAY, SUCCEEDED, ABORTED, FAILED, RETRYABLE_FAILED})


@dataclass(frozen=True)
class Got:
    """One answer to `get`."""

    phase: int
    message: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Execution:
    """Which node of which run of which workflow asks; the same for each of its attempts but for `attempt`."""

    name: str
    node: str = "n0"
    project: str = "graphs"
    domain: str = "development"
    attempt: int = 0


class Wire(Protocol):
    """One generation's messages. A template is whatever `create` sends."""

    def task_types(self, channel: grpc.Channel) -> set[tuple[str, int]]: ...
    def category(self, template: Any) -> tuple[str, int]: ...
    def create(self, channel: grpc.Channel, template: Any, inputs: Any, prefix: str, execution: Execution) -> bytes: ...
    def get(self, channel: grpc.Channel, category: tuple[str, int], metadata: bytes) -> Got: ...
    def delete(self, channel: grpc.Channel, category: tuple[str, int], metadata: bytes) -> None: ...
    def outputs_declared(self, template: Any) -> Mapping[str, Any]: ...


class TaskFailedError(Exception):
    """A task ended without success; `got` is the last answer, None if none was had."""

    def __init__(self, message: str, got: Got | None = None) -> None:
        super().__init__(message)
        self.got = got


@dataclass
class Run:
    """A task that was created, as the backend remembers it."""

    template: Any
    category: tuple[str, int]
    metadata: bytes
    execution: Execution
    seen: list[Got] = field(default_factory=list)


class Backend:
    """Runs tasks through connectors that listen on `addresses` (replicas of one connector)."""

    def __init__(self, wire: Wire, addresses: Sequence[str], *, poll_s: float = 0.1) -> None:
        self.wire = wire
        self._poll_s = poll_s
        self._channels = [grpc.insecure_channel(address) for address in addresses]
        self._turn = itertools.cycle(self._channels)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def _ask(self, call: Callable[[grpc.Channel], Result]) -> Result:
        """Have the next replica answer; one that nobody can connect to is passed over, as gRPC's round robin does."""
        for left in reversed(range(len(self._channels))):
            try:
                return call(next(self._turn))
            except grpc.RpcError as exc:
                if not left or "failed to connect" not in (exc.details() or ""):
                    raise
        raise AssertionError("unreachable")

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- one step at a time -----------------------------------------------------------------------------------------------------------

    def create(
        self,
        template: Any,
        execution: Execution,
        *,
        inputs: Any = None,
        retries: int = 0,
        lose_answers: int = 0,
        on_error: Callable[[Exception], None] | None = None,
    ) -> Run:
        """Create, and again after each error, `retries` times at most, without a delete between.

        Args:
            lose_answers: of so many calls the connector does its work and the backend never learns it.
        """
        category = self.wire.category(template)
        for attempt in itertools.count():
            assert category in self._ask(self.wire.task_types), f"no connector serves {category}"
            this = Execution(execution.name, execution.node, execution.project, execution.domain, execution.attempt + attempt)
            prefix = f"s3://flyte/{this.project}/{this.domain}/{this.name}/{this.node}/data/{this.attempt}"
            try:
                metadata = self._ask(lambda channel, prefix=prefix, this=this: self.wire.create(channel, template, inputs, prefix, this))
                if attempt < lose_answers:
                    raise TimeoutError("the answer was lost")
                return Run(template, category, metadata, this)
            except (grpc.RpcError, TimeoutError) as exc:
                if on_error is not None:
                    on_error(exc)
                if attempt >= max(retries, lose_answers):
                    raise TaskFailedError(f"create failed: {_details(exc)}") from exc
        raise AssertionError("unreachable")

    def get(self, run: Run) -> Got:
        """Ask the next replica once."""
        got = self._ask(lambda channel: self.wire.get(channel, run.category, run.metadata))
        run.seen.append(got)
        return got

    def wait(self, run: Run, *, patience_s: float = PATIENCE_S) -> Mapping[str, Any]:
        """Poll until the task has ended; its outputs as Python values.

        Raises:
            TaskFailedError: it failed, or what it answered is not what a task may answer.
        """
        failures, give_up = 0, time.monotonic() + patience_s
        while time.monotonic() < give_up:
            try:
                got = self.get(run)
                if got.phase not in Phase.DEFINED:
                    raise TaskFailedError(f"phase {got.phase} is not defined", got)
            except (grpc.RpcError, TaskFailedError) as exc:
                failures += 1
                if failures > SYSTEM_FAILURES_MAX:
                    raise TaskFailedError(f"{failures} system failures, the last: {_details(exc)}") from exc
                time.sleep(self._poll_s)
                continue
            if got.phase == Phase.SUCCEEDED:
                check_outputs(self.wire.outputs_declared(run.template), got.outputs)
                return {name: value_of(literal) for name, literal in got.outputs.items()}
            if got.phase not in Phase.UNDER_WAY:
                raise TaskFailedError(f"phase {got.phase}: {got.message}", got)
            time.sleep(self._poll_s)
        raise TaskFailedError(f"not ended after {patience_s:g} s: {run.seen[-1] if run.seen else None}")

    def run(self, template: Any, execution: Execution, *, inputs: Any = None, retries: int = 0) -> Mapping[str, Any]:
        """The whole life of a task that nobody aborts; RETRYABLE_FAILED is a new attempt while there are retries."""
        for attempt in range(retries + 1):
            this = Execution(execution.name, execution.node, execution.project, execution.domain, attempt)
            try:
                return self.wait(self.create(template, this, inputs=inputs))
            except TaskFailedError as exc:
                if attempt == retries or (exc.got is not None and exc.got.phase != Phase.RETRYABLE_FAILED):
                    raise
        raise AssertionError("unreachable")

    def abort(self, run: Run) -> None:
        """As when a user terminates the workflow: delete, and delete again."""
        for _ in range(2):
            self._ask(lambda channel: self.wire.delete(channel, run.category, run.metadata))


def _details(exc: Exception) -> str:
    return exc.details() or exc.code().name if isinstance(exc, grpc.RpcError) else str(exc)


def check_outputs(declared: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """What the backend holds a task's outputs against: all that were declared, of the declared types, and no others."""
    if declared.keys() != outputs.keys():
        raise TaskFailedError(f"declared outputs are {sorted(declared)}, and there came {sorted(outputs)}")
    for name, literal in outputs.items():
        if not matches(literal, declared[name]):
            raise TaskFailedError(f"output {name!r} is {literal}, which is no {declared[name]}")


def matches(literal: Any, kind: Any) -> bool:
    """Whether a literal has a type; both of either generation's messages. Simple types, lists and maps."""
    match kind.WhichOneof("type"):
        case "simple":
            names = {1: "integer", 2: "float_value", 3: "string_value", 4: "boolean"}
            has = literal.WhichOneof("value") == "scalar" and literal.scalar.WhichOneof("value") == "primitive"
            return has and literal.scalar.primitive.WhichOneof("value") == names[kind.simple]
        case "collection_type":
            return literal.WhichOneof("value") == "collection" and all(
                matches(part, kind.collection_type) for part in literal.collection.literals
            )
        case "map_value_type":
            return literal.WhichOneof("value") == "map" and all(
                matches(part, kind.map_value_type) for part in literal.map.literals.values()
            )
        case other:
            raise AssertionError(f"no task of ours has outputs of type {other}")


def value_of(literal: Any) -> Any:
    """A literal as Python has it."""
    match literal.WhichOneof("value"):
        case "scalar":
            primitive = literal.scalar.primitive
            return getattr(primitive, primitive.WhichOneof("value"))
        case "collection":
            return [value_of(part) for part in literal.collection.literals]
        case "map":
            return {name: value_of(part) for name, part in literal.map.literals.items()}
        case other:
            raise AssertionError(f"no task of ours has literals of kind {other}")


class Flyte1:
    """Messages of Flyte 1 (flyteidl). A template is a `flyteidl.core.tasks_pb2.TaskTemplate`: `template_of(task)`."""

    def task_types(self, channel: grpc.Channel) -> set[tuple[str, int]]:
        from flyteidl.admin import agent_pb2
        from flyteidl.service.agent_pb2_grpc import AgentMetadataServiceStub

        agents = AgentMetadataServiceStub(channel).ListAgents(agent_pb2.ListAgentsRequest(), timeout=CALL_S).agents
        return {(category.name, category.version) for agent in agents for category in agent.supported_task_categories}

    def category(self, template: Any) -> tuple[str, int]:
        return template.type, template.task_type_version

    def create(self, channel: grpc.Channel, template: Any, inputs: Any, prefix: str, execution: Execution) -> bytes:
        from flyteidl.admin import agent_pb2
        from flyteidl.core import identifier_pb2
        from flyteidl.service.agent_pb2_grpc import AsyncAgentServiceStub

        node = identifier_pb2.NodeExecutionIdentifier(
            node_id=execution.node,
            execution_id=identifier_pb2.WorkflowExecutionIdentifier(
                project=execution.project, domain=execution.domain, name=execution.name
            ),
        )
        task = identifier_pb2.TaskExecutionIdentifier(task_id=template.id, node_execution_id=node, retry_attempt=execution.attempt)
        metadata = agent_pb2.TaskExecutionMetadata(
            task_execution_id=task, namespace=f"{execution.project}-{execution.domain}", labels={"execution-id": execution.name}
        )
        request = agent_pb2.CreateTaskRequest(template=template, inputs=inputs, output_prefix=prefix, task_execution_metadata=metadata)
        return bytes(AsyncAgentServiceStub(channel).CreateTask(request, timeout=CALL_S).resource_meta)

    def get(self, channel: grpc.Channel, category: tuple[str, int], metadata: bytes) -> Got:
        from flyteidl.admin import agent_pb2
        from flyteidl.service.agent_pb2_grpc import AsyncAgentServiceStub

        name, version = category
        request = agent_pb2.GetTaskRequest(
            task_category=agent_pb2.TaskCategory(name=name, version=version), resource_meta=metadata, task_type=name
        )
        found = AsyncAgentServiceStub(channel).GetTask(request, timeout=CALL_S).resource
        links = {link.name: link.uri for link in found.log_links}
        return Got(found.phase, found.message, links, dict(found.outputs.literals))

    def delete(self, channel: grpc.Channel, category: tuple[str, int], metadata: bytes) -> None:
        from flyteidl.admin import agent_pb2
        from flyteidl.service.agent_pb2_grpc import AsyncAgentServiceStub

        name, version = category
        request = agent_pb2.DeleteTaskRequest(
            task_category=agent_pb2.TaskCategory(name=name, version=version), resource_meta=metadata, task_type=name
        )
        AsyncAgentServiceStub(channel).DeleteTask(request, timeout=CALL_S)

    def outputs_declared(self, template: Any) -> Mapping[str, Any]:
        return {name: variable.type for name, variable in template.interface.outputs.variables.items()}


def template_of(task: Any) -> Any:
    """A flytekit task as the backend holds it: serialized, so that numbers of `custom` are what a protobuf Struct makes of them."""
    from flytekit.configuration import Image, ImageConfig, SerializationSettings
    from flytekit.tools.translator import get_serializable

    image = Image("default", "registry.invalid/image", "1")
    settings = SerializationSettings(ImageConfig(image, [image]), project="graphs", domain="development", version="1")
    return get_serializable(OrderedDict(), settings, task).template.to_flyte_idl()


def inputs_of(task: Any, **values: Any) -> Any:
    """Python values as the literals that the backend sends for a flytekit task."""
    from flytekit import FlyteContextManager
    from flytekit.core.type_engine import TypeEngine

    kinds = task.python_interface.inputs
    return TypeEngine.dict_to_literal_map(FlyteContextManager.current_context(), values, kinds).to_flyte_idl()


@contextmanager
def backend(wire: Wire, *addresses: str) -> Iterator[Backend]:
    """A backend in front of replicas of a connector."""
    with Backend(wire, addresses) as made:
        yield made

"""Both protocols in front of connectors that follow a script: codes, messages, counts, and what is served at all."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from flyte.connectors import AsyncConnector
from flyte.connectors import Resource as Resource2
from flyte.connectors import ResourceMeta as ResourceMeta2
from flyteidl.admin import agent_pb2 as messages1
from flyteidl.core import tasks_pb2 as tasks1
from flyteidl.service.agent_pb2_grpc import AgentMetadataServiceStub, AsyncAgentServiceStub
from flyteidl2.connector import connector_pb2 as messages2
from flyteidl2.connector.service_pb2_grpc import AsyncConnectorServiceStub, ConnectorMetadataServiceStub
from flyteidl2.core import tasks_pb2 as tasks2
from flytekit.extend.backend.base_connector import AsyncConnectorBase, Resource, ResourceMeta

import flyte_backend
from fondaco.adapters.connector.answering import DETAILS_BYTES_MAX, shortened
from fondaco.adapters.connector.flyte1 import add_flyte1
from fondaco.adapters.connector.flyte2 import add_flyte2
from fondaco.adapters.connector.metrics import ConnectorMetrics
from fondaco.core import errors

RUNNING = flyte_backend.Phase.RUNNING


@dataclass
class Meta(ResourceMeta):
    id: str = "one"


@dataclass
class Meta2(ResourceMeta2):
    id: str = "one"


class Scripted1(AsyncConnectorBase):
    """Does what it is told, in each method."""

    name = "Scripted"

    def __init__(self, work: Callable[[], Any] = lambda: None) -> None:
        super().__init__(task_type_name="scripted", metadata_type=Meta)
        self.work = work

    def create(self, task_template: Any, output_prefix: str, inputs: Any, task_execution_metadata: Any, answer_s: float) -> Meta:
        self.work()
        return Meta(f"{output_prefix} within {answer_s:.1f}" if task_template.id.name == "time" else output_prefix)

    def get(self, resource_meta: Meta, **_: Any) -> Resource:
        self.work()
        return Resource(phase=RUNNING, message=resource_meta.id)

    def delete(self, resource_meta: Meta, **_: Any) -> None:
        self.work()


class Scripted2(AsyncConnector[Meta2]):
    name = "Scripted"
    task_type_name = "scripted"
    metadata_type = Meta2

    def __init__(self, work: Callable[[], Any] = lambda: None) -> None:
        self.work = work

    async def create(
        self, task_template: Any, output_prefix: str, inputs: Any = None, task_execution_metadata: Any = None, *, answer_s: float
    ) -> Meta2:
        await asyncio.to_thread(self.work)
        return Meta2(f"{output_prefix} within {answer_s:.1f}" if task_template.id.name == "time" else output_prefix)

    async def get(self, resource_meta: Meta2, **_: Any) -> Resource2:
        await asyncio.to_thread(self.work)
        return Resource2(phase=RUNNING, message=resource_meta.id)

    async def delete(self, resource_meta: Meta2, **_: Any) -> None:
        await asyncio.to_thread(self.work)


@dataclass
class Served:
    channel: grpc.aio.Channel
    metrics: ConnectorMetrics

    async def counted(self, number: int, **labels: str) -> None:
        """Wait until so many calls are counted, which may be a moment after their answers."""
        async with asyncio.timeout(60):
            while self.metrics.registry.get_sample_value("fondaco_connector_requests_total", labels) != number:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def served(work: Callable[[], Any] = lambda: None) -> AsyncIterator[Served]:
    metrics = ConnectorMetrics()
    server = grpc.aio.server()
    add_flyte1(server, [Scripted1(work)], metrics)
    add_flyte2(server, [Scripted2(work)], metrics)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Served(channel, metrics)
    finally:
        await server.stop(5)


def create1(channel: grpc.aio.Channel, task_type: str = "scripted", *, name: str = "", timeout: float | None = None) -> Any:
    template = tasks1.TaskTemplate(type=task_type, interface={}, metadata={}, id={"name": name})
    request = messages1.CreateTaskRequest(template=template, output_prefix="s3://x")
    return AsyncAgentServiceStub(channel).CreateTask(request, timeout=timeout)


def create2(channel: grpc.aio.Channel, task_type: str = "scripted", *, name: str = "", timeout: float | None = None) -> Any:
    template = tasks2.TaskTemplate(type=task_type, id={"name": name})
    request = messages2.CreateTaskRequest(template=template, output_prefix="s3://x")
    return AsyncConnectorServiceStub(channel).CreateTask(request, timeout=timeout)


BOTH = pytest.mark.parametrize(("protocol", "create"), [("flyte1", create1), ("flyte2", create2)])
ERRORS = [
    (errors.InputError("replicas: 0 is not positive"), grpc.StatusCode.INVALID_ARGUMENT),
    (errors.NotFoundError("routs", ["routes"]), grpc.StatusCode.NOT_FOUND),
    (errors.PermissionDeniedError("flyte", "create", "statefulsets"), grpc.StatusCode.PERMISSION_DENIED),
    (errors.UnavailableError("texas", "connection refused"), grpc.StatusCode.UNAVAILABLE),
    (errors.DeadlineExceededError("apply", 8.0), grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.LockedError("data/lock", 7), grpc.StatusCode.UNAVAILABLE),
    (errors.StateError("not now"), grpc.StatusCode.FAILED_PRECONDITION),
    (errors.CorruptFileError("x", "catalog", "damaged"), grpc.StatusCode.INTERNAL),
    (ZeroDivisionError("a mistake of ours"), grpc.StatusCode.INTERNAL),
]


@BOTH
@pytest.mark.parametrize(("error", "code"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS])
def test_an_error_becomes_the_code_that_says_what_to_do_and_its_message_without_a_traceback(
    protocol: str, create: Any, error: Exception, code: grpc.StatusCode
) -> None:
    def fail() -> None:
        raise error

    async def ask() -> grpc.aio.AioRpcError:
        async with served(fail) as here:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await create(here.channel)
            await here.counted(1, protocol=protocol, task_type="scripted", operation="create", code=code.name)
            return caught.value

    raised = asyncio.run(ask())
    assert raised.code() == code
    assert str(error) in raised.details()
    assert "Traceback" not in raised.details()


@BOTH
def test_a_message_of_any_length_and_script_arrives(protocol: str, create: Any) -> None:
    def fail() -> None:
        raise errors.InputError("begins" + "π" * 100_000 + "ends")

    async def ask() -> str:
        async with served(fail) as here:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await create(here.channel)
            return str(caught.value.details())

    details = asyncio.run(ask())
    assert details.startswith("begins")
    assert details.endswith("ends")
    assert len(details.encode()) < DETAILS_BYTES_MAX + 10


def test_short_messages_are_left_alone() -> None:
    assert shortened("as it is: π") == "as it is: π"


@BOTH
def test_a_task_type_that_is_not_served_is_not_found_and_counted_as_unknown(protocol: str, create: Any) -> None:
    async def ask() -> None:
        async with served() as here:
            for task_type in ("sensor", "x" * 1000, "scriptet"):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await create(here.channel, task_type)
                assert caught.value.code() == grpc.StatusCode.NOT_FOUND
            assert "did you mean 'scripted'?" in caught.value.details()
            await here.counted(3, protocol=protocol, task_type="unknown", operation="create", code="NOT_FOUND")

    asyncio.run(ask())


def test_one_port_answers_both_protocols() -> None:
    async def ask() -> None:
        async with served() as here:
            made1, made2 = await create1(here.channel), await create2(here.channel)
            assert json.loads(made1.resource_meta) == json.loads(made2.resource_meta) == {"id": "s3://x"}
            category1, category2 = messages1.TaskCategory(name="scripted"), messages2.TaskCategory(name="scripted")
            tasks1_, tasks2_ = AsyncAgentServiceStub(here.channel), AsyncConnectorServiceStub(here.channel)
            for request in (  # older backends name the type only
                messages1.GetTaskRequest(task_category=category1, resource_meta=made1.resource_meta),
                messages1.GetTaskRequest(task_type="scripted", resource_meta=made1.resource_meta),
            ):
                assert (await tasks1_.GetTask(request)).resource.phase == RUNNING
            got2 = await tasks2_.GetTask(messages2.GetTaskRequest(task_category=category2, resource_meta=made2.resource_meta))
            assert (got2.resource.phase, got2.resource.message) == (RUNNING, "s3://x")
            await tasks1_.DeleteTask(messages1.DeleteTaskRequest(task_category=category1, resource_meta=made1.resource_meta))
            await tasks2_.DeleteTask(messages2.DeleteTaskRequest(task_category=category2, resource_meta=made2.resource_meta))

            agents = (await AgentMetadataServiceStub(here.channel).ListAgents(messages1.ListAgentsRequest())).agents
            listed = (await ConnectorMetadataServiceStub(here.channel).ListConnectors(messages2.ListConnectorsRequest())).connectors
            assert [agent.name for agent in agents] == [one.name for one in listed] == ["Scripted"]
            assert [list(agent.supported_task_types) for agent in agents] == [["scripted"]], "flytekit's engine of sensors is not ours"
            assert [[category.name for category in one.supported_task_categories] for one in listed] == [["scripted"]]
            with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
                await AgentMetadataServiceStub(here.channel).GetAgent(messages1.GetAgentRequest(name="Sensor"))

    asyncio.run(ask())


@BOTH
def test_work_has_to_be_done_before_the_calls_own_deadline(protocol: str, create: Any) -> None:
    async def ask() -> list[float]:
        async with served() as here:
            made = [await create(here.channel, name="time", timeout=timeout) for timeout in (None, 300.0, 10.0, 5.0)]
            return [float(json.loads(answer.resource_meta)["id"].rpartition(" ")[2]) for answer in made]

    without, patient, usual, hasty = asyncio.run(ask())
    assert (without, patient) == (8.0, 8.0)
    assert 0 < usual <= 8.0
    assert 0 < hasty <= 4.0


def test_calls_that_block_do_not_wait_for_each_other() -> None:
    """Six creates at once, each of which ends only when all have begun."""
    together = threading.Barrier(6, timeout=30)

    async def ask() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(6))
        async with served(together.wait) as here:
            made = await asyncio.gather(*[create(here.channel) for create in (create1, create2) * 3])
            assert len(made) == 6

    asyncio.run(ask())


def test_a_call_whose_deadline_passed_is_counted_as_cancelled() -> None:
    hang = threading.Event()

    async def ask() -> None:
        async with served(lambda: hang.wait(30)) as here:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await AsyncAgentServiceStub(here.channel).GetTask(
                    messages1.GetTaskRequest(task_type="scripted", resource_meta=b"{}"), timeout=0.5
                )
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await here.counted(1, protocol="flyte1", task_type="scripted", operation="get", code="CANCELLED")
            hang.set()

    asyncio.run(asyncio.wait_for(ask(), 30))


@pytest.mark.parametrize("hostile", [b"", b"{", b"\xff\xfe", b"[]", b'{"id": {"deep": ' + b"[" * 500 + b"]" * 500 + b"}}"])
def test_bytes_that_are_no_metadata_end_one_call_and_not_the_server(hostile: bytes) -> None:
    async def ask() -> None:
        async with served() as here:
            stub = AsyncAgentServiceStub(here.channel)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetTask(messages1.GetTaskRequest(task_type="scripted", resource_meta=hostile))
            assert await create1(here.channel)

    asyncio.run(ask())


def test_a_template_without_its_parts_is_read_as_far_as_it_goes() -> None:
    async def ask() -> None:
        async with served() as here:
            template = tasks1.TaskTemplate(type="scripted")
            assert await AsyncAgentServiceStub(here.channel).CreateTask(messages1.CreateTaskRequest(template=template))

    asyncio.run(ask())

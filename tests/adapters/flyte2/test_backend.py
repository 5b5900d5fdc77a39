"""Data service tasks of Flyte 2 before a backend: real connector processes over gRPC, which are killed, asked in turn and asked twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from flyteidl2.connector import connector_pb2
from flyteidl2.connector.service_pb2_grpc import AsyncConnectorServiceStub

from flyte2_backend import Flyte2, template2_of
from flyte_backend import Backend, Execution, Phase, TaskFailedError
from flyte_platform import FlytePlatform, asked, flyte_platform, serving_command
from fondaco.adapters.flyte2 import TASK_TYPE, DataServiceConfig, DataServiceTask
from waiting import wait_for


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlytePlatform]:
    with flyte_platform(tmp_path_factory.mktemp("flyte2") / "data") as made:
        yield made


@pytest.fixture
def backend(here: FlytePlatform) -> Iterator[Backend]:
    with here.backend(Flyte2()) as made:
        yield made


def template(mark: str, *, after_s: float = 0.0, **more: Any) -> Any:
    settings = {"Command": serving_command(mark, after_s=after_s), "Readiness": "/", "Ttl": "1s"} | more
    return template2_of(DataServiceTask("echo", DataServiceConfig(**settings)))


def test_the_task_type_is_served_beside_that_of_flyte_1(here: FlytePlatform) -> None:
    with grpc.insecure_channel(here.connectors[0].address) as channel:
        assert (TASK_TYPE, 0) in Flyte2().task_types(channel)


def test_outputs_arrive_typed_as_declared_and_lead_to_the_service(here: FlytePlatform, backend: Backend) -> None:
    outputs = backend.run(template("typed", Replicas=2, Env={"COLOR": "red"}, Exports={"WEB": "{endpoints}"}), Execution("typed"))
    assert outputs.keys() == {"name", "endpoints", "env"}
    assert len(outputs["endpoints"]) == 2
    assert outputs["env"]["WEB"] == ",".join(outputs["endpoints"])
    for endpoint in outputs["endpoints"]:
        answer = asked(endpoint)
        assert answer["COLOR"] == "red"
        assert answer["SERVER_PORT"] == endpoint.rpartition(":")[2], "numbers arrive as numbers"
        assert answer["GE_COUNT"] == "2"


def test_logs_are_told(here: FlytePlatform, backend: Backend) -> None:
    run = backend.create(template("logs"), Execution("logs"))
    backend.wait(run)
    with grpc.insecure_channel(here.connectors[0].address) as channel:
        request = connector_pb2.GetTaskLogsRequest(task_category=connector_pb2.TaskCategory(name=TASK_TYPE), resource_meta=run.metadata)

        def said() -> bool:
            (answer,) = AsyncConnectorServiceStub(channel).GetTaskLogs(request, timeout=10)
            return any("serving" in line.message for line in answer.body.lines)

        wait_for(said, "the instance's first line")


def test_create_repeated_after_lost_answers_makes_one_service_with_one_holder(here: FlytePlatform, backend: Backend) -> None:
    before = here.names()
    run = backend.create(template("repeated"), Execution("repeated"), lose_answers=3)
    name = backend.wait(run)["name"]
    assert here.names() - before == {name}
    assert here.holders(name) == {"flyte:graphs/development/repeated/n0"}


def test_abort_while_it_starts_is_delete_twice_and_the_service_goes(here: FlytePlatform, backend: Backend) -> None:
    run = backend.create(template("aborted", after_s=20.0, Ttl="0s"), Execution("aborted"))
    got = backend.get(run)
    assert got.phase == Phase.INITIALIZING
    assert "0/1 ready" in got.message
    (name,) = [status.service for status in here.services.list() if "flyte:graphs/development/aborted/n0" in here.holders(status.service)]
    backend.abort(run)
    wait_for(lambda: name not in here.names(), "the connectors' reapers to remove it")


def test_aborting_a_workflow_that_reuses_a_service_leaves_it_to_its_owner(here: FlytePlatform, backend: Backend) -> None:
    name = backend.run(template("shared"), Execution("owner"))["name"]
    reuse = template2_of(DataServiceTask("again", DataServiceConfig(ExistingReleaseName=name)))
    run = backend.create(reuse, Execution("guest"))
    assert backend.wait(run)["name"] == name
    assert len(here.holders(name)) == 2
    backend.abort(run)
    assert here.holders(name) == {"flyte:graphs/development/owner/n0"}
    assert asked(here.services.status(name).endpoints[0])


def test_a_service_that_cannot_run_fails_with_its_last_words_and_another_attempt_starts_it_anew(backend: Backend, tmp_path: Path) -> None:
    there, (program, *arguments) = tmp_path / "there", serving_command("mended")
    command = ["sh", "-c", f'if ! test -e {there}; then echo no such partition; exit 3; fi; exec "$0" "$@"', program, *arguments]
    broken = template2_of(DataServiceTask("broken", DataServiceConfig(Command=command, Readiness={"http": "/", "start_s": 3}, Ttl="1s")))
    with pytest.raises(TaskFailedError) as caught:
        backend.run(broken, Execution("broken"))
    assert caught.value.got is not None
    assert caught.value.got.phase == Phase.RETRYABLE_FAILED
    assert "no such partition" in caught.value.got.message
    there.touch()
    assert backend.run(broken, Execution("broken", attempt=1))["endpoints"]


def test_settings_that_nobody_has_are_refused_with_words(backend: Backend) -> None:
    wrong = template("typo")
    wrong.custom.update({"Replica": 2})
    with pytest.raises(TaskFailedError, match="did you mean 'Replicas'"):
        backend.create(wrong, Execution("typo"))
    missing = template2_of(DataServiceTask("again", DataServiceConfig(ExistingReleaseName="nobody")))
    with pytest.raises(TaskFailedError, match="no service 'nobody'"):
        backend.create(missing, Execution("missing"))


def test_a_connector_that_is_killed_is_replaced_by_any_other(tmp_path_factory: pytest.TempPathFactory) -> None:
    with flyte_platform(tmp_path_factory.mktemp("killed") / "data") as here, here.backend(Flyte2()) as backend:
        run = backend.create(template("survivor", after_s=1.0), Execution("survivor"))
        here.connectors[0].kill()
        outputs = backend.wait(run)
        assert asked(outputs["endpoints"][0])["ARGUMENTS"].endswith("survivor")


def test_a_service_that_vanished_is_made_again_by_the_next_attempt(here: FlytePlatform, backend: Backend) -> None:
    run = backend.create(template("vanishing", after_s=20.0), Execution("vanishing"))
    (name,) = [status.service for status in here.services.list() if "flyte:graphs/development/vanishing/n0" in here.holders(status.service)]
    here.services.delete(name, force=True)
    wait_for(lambda: name not in here.names(), "it to be gone")
    assert backend.get(run).phase in (Phase.INITIALIZING, Phase.RETRYABLE_FAILED), "gone, or being made as far as a connector knows"
    again = backend.create(template("vanishing", after_s=20.0), Execution("vanishing", attempt=1))
    assert here.holders(name) == {"flyte:graphs/development/vanishing/n0"}
    backend.abort(again)


_FLYTES_OWN = """
import asyncio, importlib, grpc
from flyte.connectors._server import AsyncConnectorService, ConnectorMetadataService
from flyteidl2.connector.service_pb2_grpc import (
    add_AsyncConnectorServiceServicer_to_server, add_ConnectorMetadataServiceServicer_to_server)
importlib.import_module("fondaco.adapters.flyte2")  # what its --modules does
async def main():
    server = grpc.aio.server()
    add_AsyncConnectorServiceServicer_to_server(AsyncConnectorService(), server)
    add_ConnectorMetadataServiceServicer_to_server(ConnectorMetadataService(), server)
    print("port", server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()
asyncio.run(main())
"""


def test_flytes_own_connector_server_serves_it_too(here: FlytePlatform, tmp_path: Path) -> None:
    output = tmp_path / "server.log"
    with output.open("wb") as log:
        environ = os.environ | {"FONDACO_DIR": str(here.directory)}
        server = subprocess.Popen([sys.executable, "-c", _FLYTES_OWN], env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_for(lambda: "port " in output.read_text() or server.poll() is not None, "the server to listen")
        port = output.read_text().partition("port ")[2].split()[0]
        with Backend(Flyte2(), [f"127.0.0.1:{port}"]) as backend:
            outputs = backend.run(template("own-server", Replicas=2), Execution("own-server"))
        assert len(outputs["endpoints"]) == 2
        assert here.holders(outputs["name"]) == {"flyte:graphs/development/own-server/n0"}
    finally:
        server.kill()
        server.wait()

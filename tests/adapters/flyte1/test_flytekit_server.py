"""flytekit's own connector service, as `pyflyte serve connector --modules fondaco.adapters.flyte1` runs it, with our connectors in it.

In a process of its own: flytekit's service and flyte's make Prometheus series of the same names, and only one of them fits into a process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fondaco as fd
from flyte_backend import Backend, Execution, Flyte1, template_of
from flyte_platform import asked, serving_command
from fondaco.adapters.flyte1 import DataServiceConfig, DataServiceTask
from waiting import wait_for

_SERVER = """
import asyncio, grpc
import fondaco.adapters.flyte1
from flyteidl.service import agent_pb2_grpc
from flytekit.extend.backend.connector_service import AsyncConnectorService, ConnectorMetadataService

async def serve():
    server = grpc.aio.server()
    agent_pb2_grpc.add_AsyncAgentServiceServicer_to_server(AsyncConnectorService(), server)
    agent_pb2_grpc.add_AgentMetadataServiceServicer_to_server(ConnectorMetadataService(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"port {port}", flush=True)
    await server.wait_for_termination()

asyncio.run(serve())
"""


def test_flytekits_own_server_serves_our_connectors(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with fd.open(tmp_path / "data") as platform, log.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVER], env=os.environ | {"FONDACO_DIR": str(tmp_path / "data")}, stdout=out, stderr=out
        )
        try:
            wait_for(lambda: "port " in log.read_text() or server.poll() is not None, "the server")
            port = log.read_text().split("port ")[1].split()[0]
            config = DataServiceConfig(Command=serving_command("flytekit"), Readiness="/")
            with Backend(Flyte1(), [f"127.0.0.1:{port}"]) as backend:
                run = backend.create(template_of(DataServiceTask(name="echo", task_config=config)), Execution("one"))
                outputs = backend.wait(run)
                assert asked(outputs["endpoints"][0])["ARGUMENTS"].endswith("flytekit")
                backend.abort(run)
            assert platform.services.status(outputs["name"]).holders == ()
        finally:
            server.kill()
            server.wait()
            for status in platform.services.list():
                platform.services.delete(status.service, force=True)

"""Workflows from a data service to embeddings in a store: through connector processes over gRPC, and in a local run without any."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flytekit import task, workflow
from flytekit.exceptions.user import FlyteUserException
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    AsyncConnectorExecutorMixin,
    ConnectorRegistry,
    Resource,
    ResourceMeta,
)
from flytekit.models.literals import LiteralMap

import fondaco as fd
from flyte_backend import Backend, Execution, Flyte1, Phase, TaskFailedError, template_of
from flyte_connectors import connector
from flyte_platform import FlytePlatform, flyte_platform, serving_command
from fondaco.adapters.data_service import local
from fondaco.adapters.flyte1 import CleanupSensor, DataServiceConfig, DataServiceTask, environment
from fondaco.core.errors import InputError, StateError
from waiting import wait_for

NODES = 60


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlytePlatform]:
    with flyte_platform(tmp_path_factory.mktemp("flyte") / "data") as made:
        ids = np.arange(NODES)
        features = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(ids, 4).astype(np.float32)), 4)
        targets = np.stack([(ids + 1) % NODES, (ids + 7) % NODES], axis=1)
        made.platform.build_graph(
            "ring",
            nodes={"stop": pa.table({"id": ids, "x": features})},
            edges={("stop", "next", "stop"): pa.table({"src": np.repeat(ids, 2), "dst": targets.ravel()})},
        )
        yield made


@pytest.fixture
def backend(here: FlytePlatform) -> Iterator[Backend]:
    with here.backend(Flyte1()) as made:
        yield made


@pytest.fixture
def local_platform(here: FlytePlatform, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlytePlatform]:
    """Local runs work on the platform, and hold nothing after the test."""
    monkeypatch.setenv("FONDACO_DIR", str(here.directory))
    yield here
    local.close()


# -- what a user writes ---------------------------------------------------------------------------------------------------------------

CONFIG = DataServiceConfig(Graph="ring", Ttl="1s", Exports={"TRAINING_SERVERS": "{endpoints}"})


@task
def train(env: dict[str, str], directory: str, store: str) -> int:
    """One round of neighbourhood means, on whatever graph the environment names; returns the pushed version."""
    with environment(env):
        assert os.environ["FONDACO_GRAPH_NAME"] == "ring"
        with fd.graph.connect() as graph:
            seeds = np.arange(NODES)
            found = graph.sample(seeds, fan_outs=[2], features=["x"], seed=7)
    assert "FONDACO_GRAPH_NAME" not in os.environ
    source, target = found.edge_index
    means = np.zeros((found.node_count, 4), np.float32)
    np.add.at(means, source, np.asarray(found.features["x"])[target] / 2)
    embeddings = means[found.seed_index]
    with fd.open(directory) as platform:
        schema = pa.schema([("emb", pa.list_(pa.float32(), 4))])
        there = platform.create_store(store, key="long", value=schema)
        values = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), 4)
        return int(there.push(pa.table({"key": seeds, "emb": values})).version)


class ThroughBackend(DataServiceTask):
    """A data service task that a local run gives to a connector, as a backend does."""

    def execute(self, **values: Any) -> LiteralMap:
        return AsyncConnectorExecutorMixin.execute(self, **values)


class Proxy(AsyncConnectorBase):
    """Stands for the backend in a workflow that runs in this process: every call goes to the connector processes over gRPC."""

    name = "proxy"

    class Meta(ResourceMeta):
        def __init__(self, run: Any) -> None:
            self.run = run

    def __init__(self, backend: Backend, execution: Execution) -> None:
        super().__init__(task_type_name="dataservicetask", metadata_type=self.Meta)
        self.backend, self.execution = backend, execution

    def create(self, task_template: Any, output_prefix: str, inputs: Any = None, **_: Any) -> Any:
        return self.Meta(self.backend.create(task_template.to_flyte_idl(), self.execution))

    def get(self, resource_meta: Any, **_: Any) -> Resource:
        from flyteidl.core.literals_pb2 import LiteralMap as Message

        got = self.backend.get(resource_meta.run)
        return Resource(got.phase, got.message, outputs=LiteralMap.from_flyte_idl(Message(literals=got.outputs)))

    def delete(self, resource_meta: Any, **_: Any) -> None:
        self.backend.abort(resource_meta.run)


def run_through_connectors(backend: Backend, execution: str, store: str, directory: Path) -> int:
    """The workflow `service >> train`, with everything about the service over gRPC."""
    service = ThroughBackend(name="graph", task_config=CONFIG)

    @workflow
    def embed(directory: str, store: str) -> int:
        made = service()
        return train(env=made.env, directory=directory, store=store)

    before = dict(ConnectorRegistry._REGISTRY)
    ConnectorRegistry.register(Proxy(backend, Execution(execution)), override=True)
    try:
        return int(embed(directory=str(directory), store=store))
    finally:
        ConnectorRegistry._REGISTRY.clear()
        ConnectorRegistry._REGISTRY.update(before)


# -- claims -----------------------------------------------------------------------------------------------------------------------------


def test_two_workflows_share_one_graph_service_and_leave_nothing(here: FlytePlatform, backend: Backend) -> None:
    assert run_through_connectors(backend, "first", "embeddings-a", here.directory) == 1
    (name,) = here.names()
    incarnation = here.services.status(name).incarnation
    assert run_through_connectors(backend, "second", "embeddings-b", here.directory) == 1
    assert here.names() == {name}, "the second workflow reused it"
    assert here.services.status(name).incarnation == incarnation
    assert here.holders(name) == {"flyte:graphs/development/first/n0", "flyte:graphs/development/second/n0"}
    for store in ("embeddings-a", "embeddings-b"):
        with here.platform.store(store).reader() as reader:
            assert len(reader.get_many(list(range(NODES)))) == NODES
            assert reader.get(3)["emb"].tolist() == [(4 + 10) / 2] * 4, "the mean of what stop 3 leads to"
    for holder in here.holders(name):
        here.services.release(name, holder)
    wait_for(lambda: name not in here.names(), "the connectors' reapers to remove it after its ttl")
    wait_for(lambda: not here.processes(), "its processes to be gone")


def test_a_workflow_runs_in_this_process_without_a_connector(local_platform: FlytePlatform) -> None:
    here = local_platform
    service, cleanup = DataServiceTask(name="graph", task_config=CONFIG), CleanupSensor(name="cleanup")

    @workflow
    def embed(directory: str) -> int:
        made = service()
        version = train(env=made.env, directory=directory, store="embeddings-local")
        cleaned = cleanup(release_name=made.name)
        version >> cleaned
        return version

    assert embed(directory=str(here.directory)) == 1
    (name,) = here.names()
    assert here.holders(name) == set(), "the clean-up gave back what this process held"
    wait_for(lambda: name not in here.names(), "it to be gone")


def test_a_local_run_holds_its_services_until_the_process_ends(here: FlytePlatform, tmp_path: Path) -> None:
    """Also where its workflow fails; and a lease of a process that was killed ends by itself, which the leases' own tests show."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from flytekit import task, workflow\n"
        "from fondaco.adapters.flyte1 import DataServiceConfig, DataServiceTask\n"
        f"service = DataServiceTask(name='echo', task_config=DataServiceConfig(Command={serving_command('local-run')!r}, Ttl='0.2s'))\n"
        "@task\n"
        "def use(name: str, endpoints: list[str]) -> str:\n"
        "    import urllib.request\n"
        "    urllib.request.urlopen('http://' + endpoints[0]).close()\n"
        "    print('used', name, flush=True)\n"
        "    if name: raise ValueError('the training failed')\n"
        "    return name\n"
        "@workflow\n"
        "def wf() -> str:\n"
        "    made = service()\n"
        "    return use(name=made.name, endpoints=made.endpoints)\n"
        "wf()\n"
    )
    done = subprocess.run(
        [sys.executable, str(program)], env=os.environ | {"FONDACO_DIR": str(here.directory)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "the training failed" in done.stderr
    name = done.stdout.split()[1]
    if name in here.names():
        assert here.holders(name) == set()
    wait_for(lambda: name not in here.names(), "it to be gone after its ttl")


def test_a_local_run_without_a_platform_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FONDACO_DIR", raising=False)
    service = DataServiceTask(name="echo", task_config=DataServiceConfig(Command=["true"]))
    with pytest.raises((InputError, FlyteUserException, ValueError), match="FONDACO_DIR"):
        service()


def test_a_service_that_fails_in_a_local_run_says_why_and_is_not_held(local_platform: FlytePlatform) -> None:
    config = DataServiceConfig(Command=["sh", "-c", "echo no such partition; exit 3"], Ttl="0.2s", Readiness={"tcp": True, "start_s": 2})
    service = DataServiceTask(name="broken", task_config=config)
    with pytest.raises((StateError, FlyteUserException), match="3"):
        service()
    assert all(not row.holder.startswith("flyte:local/") for status in local_platform.services.list() for row in status.holders)


def test_killing_a_connector_loses_nothing(tmp_path: Path) -> None:
    """kill -9 between create and get: another replica, and one started later, answer for it."""
    with flyte_platform(tmp_path / "data") as here, here.backend(Flyte1()) as backend:
        config = DataServiceConfig(Command=serving_command("survivor", after_s=1.0), Readiness="/", Ttl="10m")
        run = backend.create(template_of(DataServiceTask(name="echo", task_config=config)), Execution("one"))
        here.connectors[0].kill()
        assert backend.wait(run)["endpoints"], "errors of the dead replica are among those a backend forgives"
        with connector(here.directory) as later, Backend(Flyte1(), [later.address]) as other:
            assert other.get(run).phase == Phase.SUCCEEDED
            other.abort(run)
        (name,) = here.names()
        assert here.holders(name) == set()


def test_hostile_metadata_is_refused_and_harms_nobody(here: FlytePlatform, backend: Backend) -> None:
    config = DataServiceConfig(Command=serving_command("target"), Ttl="1s")
    run = backend.create(template_of(DataServiceTask(name="echo", task_config=config)), Execution("victim"))
    name = backend.wait(run)["name"]
    for metadata in (b"", b"{}", b"[1]", b"\xff", b'{"version": 99}', b'{"service": 1}', run.metadata[:-1], b"x" * 100_000):
        run.metadata, good = metadata, run.metadata
        with pytest.raises(Exception, match=r"resource meta|format|StatusCode") as caught:
            backend.get(run)
        assert "Traceback" not in str(caught.value)
        run.metadata = good
    assert backend.get(run).phase == Phase.SUCCEEDED
    assert len(here.holders(name)) == 1
    wrong = template_of(DataServiceTask(name="echo", task_config=config))
    wrong.custom.update({"Replica": 3})
    with pytest.raises(TaskFailedError, match="did you mean 'Replicas'"):
        backend.run(wrong, Execution("typo"))

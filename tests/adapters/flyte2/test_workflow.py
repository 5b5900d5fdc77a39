"""Workflows of Flyte 2 from a data service to embeddings in a store: in this process, and with everything about the service over gRPC."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flyte
import numpy as np
import psutil
import pyarrow as pa
import pytest
from flyte.errors import RuntimeUserError

import fondaco as fd
from flyte2_backend import Flyte2, Proxy, registered, template2_of
from flyte_backend import Backend, Execution
from flyte_platform import FlytePlatform, flyte_platform, serving_command
from fondaco.adapters.data_service import TaskPhase, local
from fondaco.adapters.flyte2 import (
    TASK_TYPE,
    DataServiceConfig,
    DataServiceConnector,
    DataServiceTask,
    data_service_environment,
    environment,
)
from fondaco.core.errors import InputError
from waiting import wait_for

NODES = 60
CONFIG = DataServiceConfig(Graph="ring", Ttl="1s", Exports={"TRAINING_SERVERS": "{endpoints}"})

graph_service = DataServiceTask("graph", CONFIG)
jobs = flyte.TaskEnvironment("jobs")


@jobs.task
async def train(env: dict[str, str], directory: str, store: str) -> int:
    """One round of neighbourhood means, on whatever graph the environment names; returns the pushed version."""
    with environment(env):
        return embed(directory, store)


@jobs.task
async def workflow(directory: str, store: str) -> int:
    """What a user writes: service, then training."""
    _, _, env = await graph_service()
    return await train(env, directory, store)


def embed(directory: str, store: str) -> int:
    """What a training job does that knows its graph from the environment only."""
    assert os.environ["TRAINING_SERVERS"] == os.environ["FONDACO_GRAPH_ENDPOINTS"]
    with fd.graph.connect() as graph:
        seeds = np.arange(NODES)
        found = graph.sample(seeds, fan_outs=[2], features=["x"], seed=7)
    source, target = found.edge_index
    means = np.zeros((found.node_count, 4), np.float32)
    np.add.at(means, source, np.asarray(found.features["x"])[target] / 2)
    with fd.open(directory) as platform:
        there = platform.create_store(store, key="long", value=pa.schema([("emb", pa.list_(pa.float32(), 4))]))
        values = pa.FixedSizeListArray.from_arrays(pa.array(means[found.seed_index].ravel()), 4)
        return int(there.push(pa.table({"key": seeds, "emb": values})).version)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlytePlatform]:
    with flyte_platform(tmp_path_factory.mktemp("flyte2") / "data") as made:
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
    with here.backend(Flyte2()) as made:
        yield made


@pytest.fixture
def local_platform(here: FlytePlatform, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlytePlatform]:
    """Local runs work on the platform, and hold nothing after the test."""
    monkeypatch.setenv("FONDACO_DIR", str(here.directory))
    yield here
    local.close()


@pytest.fixture(autouse=True)
def flyte_is_initialised(tmp_path: Path) -> None:
    flyte.init()


def run(task: Any, *arguments: Any) -> Any:
    """A local run's output."""
    return flyte.run(task, *arguments).outputs()[0]


def processes_of(directory: Path) -> list[psutil.Process]:
    """Processes whose command names a platform's directory."""
    return [found for found in psutil.process_iter(["cmdline"]) if any(str(directory) in part for part in found.info["cmdline"] or [])]


def assert_embedded(here: FlytePlatform, store: str) -> None:
    with here.platform.store(store).reader() as reader:
        assert len(reader.get_many(list(range(NODES)))) == NODES
        assert reader.get(3)["emb"].tolist() == [(4 + 10) / 2] * 4, "the mean of what stop 3 leads to"


def test_two_workflows_share_one_graph_service_over_grpc_and_leave_nothing(here: FlytePlatform, backend: Backend) -> None:
    for name, store in (("first", "embeddings-a"), ("second", "embeddings-b")):
        with registered(Proxy(TASK_TYPE, backend, Execution(name))):
            assert run(workflow, str(here.directory), store) == 1
    (service,) = here.names()
    assert here.holders(service) == {"flyte:graphs/development/first/n0", "flyte:graphs/development/second/n0"}
    for store in ("embeddings-a", "embeddings-b"):
        assert_embedded(here, store)
    for holder in here.holders(service):
        here.services.release(service, holder)
    wait_for(lambda: service not in here.names(), "the connectors' reapers to remove it after its ttl")
    own = {one.process.pid for one in here.connectors} | {os.getpid()}
    wait_for(lambda: not [left for left in processes_of(here.directory) if left.pid not in own], "every process of it to end")


def test_a_workflow_runs_in_this_process_and_its_service_goes_with_it(local_platform: FlytePlatform) -> None:
    here = local_platform
    assert run(workflow, str(here.directory), "embeddings-local") == 1
    assert_embedded(here, "embeddings-local")
    (service,) = here.names()
    assert len(here.holders(service)) == 1
    local.close()
    wait_for(lambda: service not in here.names(), "it to be gone once the process holds nothing")


def test_tasks_of_an_environment_hold_the_graph_while_they_run(local_platform: FlytePlatform) -> None:
    here = local_platform
    held = data_service_environment("held", CONFIG)
    seen: list[set[str]] = []

    @held.task
    def train_held(directory: str, store: str) -> int:
        (service,) = here.names()
        seen.append(here.holders(service))
        return embed(directory, store)

    assert run(train_held, str(here.directory), "embeddings-held") == 1
    assert len(seen[0]) == 1
    assert "TRAINING_SERVERS" not in os.environ
    assert [here.holders(service) for service in here.names()] in ([set()], [])
    assert_embedded(here, "embeddings-held")
    wait_for(lambda: not here.names(), "it to be gone after its ttl")


def test_a_task_of_an_environment_that_fails_gives_its_services_back(local_platform: FlytePlatform) -> None:
    here = local_platform
    held = data_service_environment("failing", DataServiceConfig(Command=serving_command("failing"), Readiness="/", Ttl="0s"))

    @held.task
    async def fails() -> int:
        assert here.holders(os.environ["FONDACO_SERVICE_NAME"])
        raise ValueError("the training failed")

    with pytest.raises(RuntimeUserError, match="the training failed"):
        flyte.run(fails)
    assert "FONDACO_SERVICE_NAME" not in os.environ
    assert all(not here.holders(service) for service in here.names())


class Scripted(DataServiceConnector):
    """Answers as it is told, whatever the service does."""

    def __init__(self, *phases: TaskPhase) -> None:
        super().__init__(lambda: None)  # type: ignore[arg-type, return-value]
        self.phases, self.deleted = list(phases), 0

    def for_local_runs(self) -> Scripted:
        return self

    async def create(self, task_template: Any, output_prefix: str, *_: Any, **__: Any) -> Any:
        from fondaco.adapters.data_service import DataServiceMeta
        from fondaco.adapters.flyte2.connector import DataServiceResource

        return DataServiceResource(DataServiceMeta(service="a", holder="b", created_us=0))

    async def get(self, resource_meta: Any, **_: Any) -> Any:
        from flyte.connectors import Resource
        from flyteidl2.core.execution_pb2 import TaskExecution

        phase = self.phases.pop(0) if len(self.phases) > 1 else self.phases[0]
        return Resource(phase=TaskExecution.Phase.Value(phase.value), message="as told")

    async def delete(self, resource_meta: Any, **_: Any) -> None:
        self.deleted += 1


def test_a_local_run_ends_when_the_connector_says_that_another_attempt_may_help() -> None:
    """flyte 2.12's own loop goes on asking for ever then."""
    connector = Scripted(TaskPhase.INITIALIZING, TaskPhase.RETRYABLE_FAILED)
    with registered(connector), pytest.raises(RuntimeUserError, match="as told"):
        flyte.run(DataServiceTask("told", CONFIG))
    assert connector.deleted == 1


def test_a_failure_for_good_is_not_tried_again() -> None:
    connector = Scripted(TaskPhase.FAILED)
    with registered(connector), pytest.raises(RuntimeUserError, match="as told"):
        flyte.run(DataServiceTask("told", CONFIG, retries=5))
    assert connector.deleted == 1


def test_retries_of_a_local_run_go_on_where_another_attempt_may_help() -> None:
    connector = Scripted(TaskPhase.RETRYABLE_FAILED)
    with registered(connector), pytest.raises(RuntimeUserError, match="as told"):
        flyte.run(DataServiceTask("told", CONFIG).override(retries=1))
    assert connector.deleted == 2


def test_a_local_run_ends_with_the_tasks_timeout() -> None:
    connector = Scripted(TaskPhase.INITIALIZING)
    with registered(connector), pytest.raises(RuntimeUserError, match="not ready within 1 s: as told"):
        flyte.run(DataServiceTask("told", CONFIG, timeout=1))
    assert connector.deleted == 1


def test_tasks_travel_as_flyte_bundles_them(local_platform: FlytePlatform) -> None:
    import cloudpickle

    task = cloudpickle.loads(cloudpickle.dumps(DataServiceTask("echo", CONFIG, retries=2)))
    assert task.service_config == CONFIG
    assert template2_of(task).custom["Graph"] == "ring"
    held = data_service_environment("bundled", CONFIG)

    @held.task
    async def nothing() -> int:
        return 1

    there = cloudpickle.loads(cloudpickle.dumps(nothing))
    assert (there.task_type, there.plugin_config.configs) == ("python", (CONFIG,))


def test_a_local_run_that_is_cancelled_gives_its_lease_back(local_platform: FlytePlatform) -> None:
    here = local_platform
    slow = DataServiceConfig(Command=serving_command("cancelled", after_s=60.0), Readiness="/", Ttl="0s")
    before = here.names()

    async def work() -> None:
        running = asyncio.create_task(flyte.run.aio(DataServiceTask("slow", slow)))
        while not here.names() - before:
            await asyncio.sleep(0.05)
            if running.done():
                running.result()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(asyncio.wait_for(work(), 60))
    wait_for(lambda: not here.names() - before, "the connectors' reapers to remove it")


def test_what_a_local_run_holds_runs_out_within_a_minute_of_a_kill(local_platform: FlytePlatform) -> None:
    here = local_platform
    quick = DataServiceConfig(Command=serving_command("minute"), Ttl="0s", Hold="6h")
    name = flyte.run(DataServiceTask("quick", quick)).outputs()[0]
    (lease,) = here.services.status(name).holders
    assert lease.expires_us < (time.time() + 61) * 1e6
    kept = DataServiceConfig(Command=serving_command("kept"), Ttl="0s", Policy="keep")
    name = flyte.run(DataServiceTask("kept", kept)).outputs()[0]
    (lease,) = here.services.status(name).holders
    assert lease.expires_us is None


def test_a_local_run_in_a_program_gives_back_what_it_holds_when_it_ends(here: FlytePlatform, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import flyte\n"
        "from fondaco.adapters.flyte2 import DataServiceConfig, DataServiceTask\n"
        f"service = DataServiceTask('echo', DataServiceConfig(Command={serving_command('program')!r}, Ttl='0.2s'))\n"
        "env = flyte.TaskEnvironment('program')\n"
        "@env.task\n"
        "async def main() -> str:\n"
        "    name, _, _ = await service()\n"
        "    print('used', name, flush=True)\n"
        "    raise ValueError('the training failed')\n"
        "if __name__ == '__main__':\n"
        "    flyte.init()\n"
        "    flyte.run(main)\n"
    )
    environ = os.environ | {"FONDACO_DIR": str(here.directory)}
    done = subprocess.run([sys.executable, str(program)], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "the training failed" in done.stdout + done.stderr
    name = done.stdout.partition("used ")[2].split()[0]
    wait_for(lambda: name not in here.names(), "it to be gone after its ttl")


def test_without_a_platform_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FONDACO_DIR", raising=False)
    with pytest.raises(RuntimeUserError, match="FONDACO_DIR"):
        flyte.run(DataServiceTask("echo", DataServiceConfig(Command=["true"])))


def test_caching_a_service_is_refused() -> None:
    with pytest.raises(InputError, match="cache: a service is no result"):
        DataServiceTask("echo", CONFIG, cache="auto")


def test_inputs_only_put_tasks_in_order(local_platform: FlytePlatform) -> None:
    service = DataServiceTask("echo", DataServiceConfig(Command=serving_command("inputs"), Ttl="0s"), inputs={"after": int})
    assert flyte.run(service, after=3).outputs()[0] in local_platform.names()

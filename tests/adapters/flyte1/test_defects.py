"""The twenty defects of Flyte's own data service plugin (flytekitplugins-k8sdataservice 1.16.31), each as a test that it would fail.

Each test says what the plugin does, and holds ours to what it should do instead. All go through real connector processes over gRPC, asked
as Flyte's backend asks. Those that need Kubernetes to show (12 to 17) have a second test on a real API server, in
tests/kubernetes/test_flyte_defects.py.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flyteidl.core import tasks_pb2
from flytekit import Resources
from google.protobuf import json_format

from flyte_backend import Backend, Execution, Flyte1, Phase, TaskFailedError, inputs_of, template_of
from flyte_platform import FlytePlatform, asked, flyte_platform, serving_command
from fondaco.adapters.data_service import DataServiceMeta
from fondaco.adapters.flyte1 import CleanupSensor, DataServiceConfig, DataServiceTask
from fondaco.core.errors import NotFoundError
from waiting import free_port, wait_for

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlytePlatform]:
    with flyte_platform(tmp_path_factory.mktemp("flyte") / "data") as made:
        yield made


@pytest.fixture
def backend(here: FlytePlatform) -> Iterator[Backend]:
    with here.backend(Flyte1()) as made:
        yield made


@pytest.fixture
def execution() -> Execution:
    return Execution(f"run{next(_NUMBERS)}")


@pytest.fixture
def mark(request: pytest.FixtureRequest) -> str:
    """A name of this test alone, whoever else runs tests here."""
    return f"t{os.getpid()}-{next(_NUMBERS)}"


def task(name: str = "data-service", **config: Any) -> Any:
    """A task's template as the backend holds it: through a protobuf Struct, which knows no integers and no unset values."""
    return template_of(DataServiceTask(name=name, task_config=DataServiceConfig(**config)))


def server(mark: str, **config: Any) -> Any:
    return task(**({"Command": serving_command(mark), "Readiness": "/", "Ttl": "1s"} | config))


# What `DataServiceTask(name="data-service", task_config=DataServiceConfig())` of the plugin, 1.16.31, is registered as.
_PLUGIN_TASK = {
    "id": {"resourceType": "TASK", "project": "graphs", "domain": "development", "name": "data-service", "version": "1"},
    "type": "dataservicetask",
    "metadata": {"runtime": {"type": "FLYTE_SDK", "version": "1.16.31", "flavor": "python"}, "retries": {}, "generatesDeck": False},
    "interface": {"inputs": {}, "outputs": {"variables": {"name": {"type": {"simple": "STRING"}, "description": "name"}}}},
    "custom": dict.fromkeys(("Cluster", "Command", "Image", "ExistingReleaseName", "Name", "Replicas", "Port")),
}


def plugin_task(**config: Any) -> Any:
    """A task as the plugin's own class registered it: with explicit nulls for whatever was not set, and `name` as its only output."""
    template = json_format.ParseDict(_PLUGIN_TASK, tasks_pb2.TaskTemplate())
    template.custom.update(config)
    return template


def test_defect_01_unset_port_and_replicas_have_defaults(here: FlytePlatform, backend: Backend, execution: Execution, mark: str) -> None:
    """Plugin: they arrive as null, not as absent, so its defaults are unreachable: "container_port must not be None"."""
    template = plugin_task(Name=mark, Command=serving_command(mark))
    assert backend.run(template, execution) == {"name": mark}, "what the plugin's task declares, and no more"
    (endpoint,) = here.services.status(mark).endpoints
    assert asked(endpoint)["GE_COUNT"] == "1", "one replica"
    assert DataServiceConfig(Image="registry.invalid/image").to_spec().ports == {"main": 40_000}  # type: ignore[union-attr]


def test_defect_02_numbers_arrive_as_numbers(here: FlytePlatform, backend: Backend, execution: Execution, mark: str) -> None:
    """Plugin: a Struct makes 40000.0 of 40000, and the API server refuses the port; SERVER_PORT is "40000.0"."""
    port = free_port()
    template = server(mark, Port=port, Replicas=1)
    assert template.custom["Port"] == float(port)
    assert isinstance(template.custom["Port"], float)
    outputs = backend.run(template, execution)
    assert outputs["endpoints"] == [f"127.0.0.1:{port}"]
    said = asked(outputs["endpoints"][0])
    assert (said["SERVER_PORT"], said["GE_BASE_PORT"], said["GE_COUNT"]) == (str(port), str(port), "1")


def test_defect_03_what_cannot_be_made_leaves_nothing_behind(
    here: FlytePlatform, backend: Backend, execution: Execution, mark: str
) -> None:
    """Plugin: the Service object is made, the StatefulSet refused for its quantity, and the Service stays for good."""
    template = plugin_task(Name=mark, Command=serving_command(mark), Requests={"cpu": "abc"})
    with pytest.raises(TaskFailedError, match="abc"):
        backend.run(template, execution)
    missing = plugin_task(Name=mark, Command=["there-is-no-such-program"])
    with pytest.raises(TaskFailedError, match="there-is-no-such-program"):
        backend.run(missing, execution)
    here.services.reap()
    assert mark not in here.names()
    wait_for(lambda: not here.processes(mark), "its processes to be gone")


def test_defect_04_creating_again_is_as_creating_once(here: FlytePlatform, backend: Backend, execution: Execution, mark: str) -> None:
    """Plugin: the second attempt gets 409 "already exists", for there is no apply and no adoption."""
    with pytest.raises(TaskFailedError):
        backend.run(plugin_task(Name=mark, Command=serving_command(mark), Requests={"cpu": "abc"}), execution)
    template = server(mark, Name=mark, Requests=Resources(cpu="100m"))
    run = backend.create(template, execution, lose_answers=3)  # three times the work was done and the answer lost
    assert backend.wait(run)["name"] == mark
    assert len(here.holders(mark)) == 1, "all attempts of one node hold one lease"
    again = backend.create(template, execution)
    assert backend.wait(again)["name"] == mark
    assert len(here.holders(mark)) == 1


def test_defect_05_one_users_mistake_is_nobody_elses(here: FlytePlatform, backend: Backend, mark: str) -> None:
    """Plugin: default resources are a global that every request changes: after cpu="abc" all creates of all users fail until a restart,
    and a task without limits gets those of the task before."""
    limited = server(mark + "a", Limits=Resources(mem="512Mi"))
    backend.run(limited, Execution(mark + "a"))
    for attempt in range(3):
        with pytest.raises(TaskFailedError):
            backend.run(plugin_task(Name=f"{mark}bad", Command=["x"], Limits={"cpu": "abc"}), Execution(f"{mark}-bad-{attempt}"))
    outputs = backend.run(server(mark + "b"), Execution(mark + "b"))
    spec = here.services.provisioner("local").observe(outputs["name"]).desired.spec
    assert spec.resources.limits == {}
    assert spec.resources.requests == {}


def test_defect_06_creates_at_the_same_time_do_not_mix(here: FlytePlatform, backend: Backend, mark: str) -> None:
    """Plugin: the name and settings of a request are kept in one shared object: of six creates at once one or two services are made, a
    caller is told another's name, the rest get 409."""
    templates = [server(f"{mark}-{number}", Name=f"{mark}-{number}") for number in range(6)]
    together = threading.Barrier(6, timeout=60)

    def create(number: int) -> str:
        together.wait()
        return str(backend.run(templates[number], Execution(f"{mark}-{number}"))["name"])

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(create, range(6))) == [f"{mark}-{number}" for number in range(6)]
    for number in range(6):
        name = f"{mark}-{number}"
        said = asked(here.services.status(name).endpoints[0])
        assert said["ARGUMENTS"].endswith(name)
        here.services.delete(name, force=True)


def test_defect_07_declared_outputs_arrive(backend: Backend, execution: Execution, mark: str) -> None:
    """Plugin: it declares `name` and answers `data_service_name`; a workflow that uses the output dies with KeyError."""
    template = server(mark, Exports={"JOB_SERVERS": "{endpoints}"})
    outputs = backend.run(template, execution)  # holds every output against its declared type
    assert sorted(outputs) == ["endpoints", "env", "name"]
    assert outputs["env"]["JOB_SERVERS"] == ",".join(outputs["endpoints"])
    assert outputs["env"]["FONDACO_SERVICE_NAME"] == outputs["name"]


def test_defect_08_an_existing_service_is_reused_by_its_name_alone(here: FlytePlatform, backend: Backend, mark: str) -> None:
    """Plugin: `get` asks for config.Name, so ExistingReleaseName alone ends in "missing required parameter name"."""
    first = backend.run(server(mark), Execution(mark + "a"))
    second = backend.run(plugin_task(ExistingReleaseName=first["name"]), Execution(mark + "b"))
    assert second == {"name": first["name"]}
    assert len(here.holders(first["name"])) == 2


def test_defect_09_a_service_that_does_not_exist_cannot_be_reused(backend: Backend, execution: Execution, mark: str) -> None:
    """Plugin: create accepts any name, and whatever goes wrong does so later."""
    with pytest.raises(TaskFailedError, match=f"{mark}-nowhere"):
        backend.run(plugin_task(ExistingReleaseName=f"{mark}-nowhere"), execution)


def test_defect_10_aborting_a_workflow_never_takes_a_service_from_another(here: FlytePlatform, backend: Backend, mark: str) -> None:
    """Plugin: aborting a workflow that merely reuses a service deletes it under everyone else."""
    owner = backend.create(server(mark), Execution(mark + "a"))
    outputs = backend.wait(owner)
    reuser = backend.create(plugin_task(ExistingReleaseName=outputs["name"]), Execution(mark + "b"))
    backend.wait(reuser)
    same_settings = backend.create(server(mark), Execution(mark + "c"))
    backend.wait(same_settings)
    backend.abort(reuser)
    backend.abort(same_settings)
    here.services.reap()
    assert asked(outputs["endpoints"][0])
    assert here.holders(outputs["name"]) == {f"flyte:graphs/development/{mark}a/n0"}
    backend.abort(owner)
    assert here.holders(outputs["name"]) == set(), "now nobody holds it"


def test_defect_11_a_service_that_is_gone_is_a_failure_that_may_be_retried(here: FlytePlatform, backend: Backend, mark: str) -> None:
    """Plugin: `get` answers phase None, which no backend knows."""
    run = backend.create(server(mark), Execution(mark))
    name = backend.wait(run)["name"]
    here.services.delete(name, force=True)

    def gone() -> bool:
        here.services.reap()
        return name not in here.names()

    wait_for(gone, "the service to be gone")
    meta = DataServiceMeta.decode(run.metadata)
    run.metadata = msgspec.structs.replace(meta, created_us=meta.created_us - 120_000_000).encode()  # as if it was created a while ago
    got = backend.get(run)
    assert got.phase == Phase.RETRYABLE_FAILED
    assert name in got.message
    with pytest.raises(TaskFailedError, match="phase 8"):
        backend.wait(run)
    assert backend.run(server(mark), Execution(mark), retries=1)["name"] == name, "and a retry makes it again"


def test_defect_12_instances_are_reached_one_by_one(backend: Backend, execution: Execution, mark: str) -> None:
    """Plugin: it makes a Service with one address for all, and leaves it to the user to write `foo-0.foo foo-1.foo` by hand."""
    outputs = backend.run(server(mark, Replicas=3), execution)
    assert len(set(outputs["endpoints"])) == 3
    assert all(asked(endpoint)["ARGUMENTS"].startswith(endpoint.partition(":")[2]) for endpoint in outputs["endpoints"])


def test_defect_13_starting_up_is_not_failing(here: FlytePlatform, backend: Backend, execution: Execution, mark: str) -> None:
    """Plugin: while replicas become ready one after the other it answers FAILED (it reads a count that older servers leave out)."""
    template = task(
        Replicas=3, Command=["sh", "-c", 'sleep 0.$((2 * {index})); exec "$@"', "sh", *serving_command(mark, after_s=0.3)], Readiness="/"
    )
    run = backend.create(template, execution)
    outputs = backend.wait(run)
    assert len(outputs["endpoints"]) == 3
    assert {got.phase for got in run.seen[:-1]} <= {Phase.INITIALIZING, Phase.RUNNING}
    assert any("/3" in got.message for got in run.seen[:-1]), [got.message for got in run.seen]


def test_defect_14_a_cluster_is_honoured_or_refused(backend: Backend, execution: Execution, mark: str) -> None:
    """Plugin: Cluster is ignored and the namespace fixed; outside a cluster it talks to localhost:80."""
    assert backend.run(server(mark, Cluster="local"), execution)["name"]
    with pytest.raises(TaskFailedError, match="texas"):
        backend.run(server(mark, Cluster="texas"), Execution(mark + "b"))


def test_defect_15_a_failure_says_why(here: FlytePlatform, backend: Backend, execution: Execution, mark: str) -> None:
    """Plugin: it looks at counts only: no probe, no reason, no message, no link to a log, no end."""
    program = "import sys; print('no partition 7 in the store', flush=True); sys.exit(3)"
    template = task(Command=["python3", "-c", program, mark], Readiness={"tcp": True, "start_s": 2})
    with pytest.raises(TaskFailedError) as caught:
        backend.run(template, execution)
    got = caught.value.got
    assert got is not None
    assert got.phase in (Phase.FAILED, Phase.RETRYABLE_FAILED)
    assert "3" in got.message
    slow = task(Command=serving_command(mark, after_s=1.0), Readiness="/")
    run = backend.create(slow, Execution(mark + "slow"))
    assert backend.get(run).phase in (Phase.INITIALIZING, Phase.RUNNING), "started is not ready"
    backend.wait(run)


def test_defect_16_instances_start_together_and_a_service_can_be_changed(
    here: FlytePlatform, backend: Backend, execution: Execution, mark: str
) -> None:
    """Plugin: replicas start one after the other, and there is no way to scale or to change a service."""
    outputs = backend.run(task(Command=serving_command(mark, after_s=1.0), Replicas=4, Readiness="/"), execution)
    name = outputs["name"]
    started = [process.create_time() for process in here.processes(mark)]
    assert len(started) == 4
    assert max(started) - min(started) < 1.0, "the first was not waited for"
    here.services.scale(name, 2)
    wait_for(lambda: len(here.services.status(name).endpoints) == 2 and len(here.processes(mark)) == 2, "two instances")


def test_defect_17_everything_else_can_be_said_too(backend: Backend, execution: Execution, mark: str, tmp_path: Path) -> None:
    """Plugin: no environment, secrets, volumes, accounts, selectors, tolerations, devices, labels, templates."""
    secret = tmp_path / "token"
    secret.write_text("hidden")
    more = {
        "secrets": {"TOKEN": f"file:{secret}"},
        "volumes": [{"path": str(tmp_path), "host": str(tmp_path)}],
        "pod": {
            "service_account": "graphs", "node_selector": {"disk": "fast"}, "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "priority_class": "high", "pull_secrets": ["registry"], "grace_s": 5, "template": {"spec": {"hostNetwork": True}},
        },
    }  # fmt: skip
    template = server(mark, Env={"THREADS": "4", "JSON": '{"a": 1}'}, Labels={"team": "graphs"}, Spec=more)
    assert json.loads(json.dumps(dict(template.custom)["Spec"]["pod"]["grace_s"])) == 5.0, "as a Struct has it"
    said = asked(backend.run(template, execution)["endpoints"][0])
    assert (said["TOKEN"], said["THREADS"], said["JSON"]) == ("hidden", "4", '{"a": 1}')


def test_defect_18_the_clean_up_ends_its_own_workflows_lease_and_tells_the_truth(here: FlytePlatform, backend: Backend, mark: str) -> None:
    """Plugin: it deletes at once, under whoever uses the service, swallows errors and reports success, and dies with NameError without a
    kubeconfig; `cluster` is required and undocumented."""
    outputs = backend.run(server(mark, Ttl="10m"), Execution(mark + "a"))
    backend.run(server(mark, Ttl="10m"), Execution(mark + "b"))
    name = outputs["name"]
    sensor = CleanupSensor(name="cleanup")

    def clean(run: str, **inputs: Any) -> str:
        made = backend.create(template_of(sensor), Execution(run, node="n2"), inputs=inputs_of(sensor, release_name=name, **inputs))
        backend.wait(made)
        return made.seen[-1].message

    assert "left alone" in clean(mark + "a", cleanup_data_service=False, cluster="")
    assert len(here.holders(name)) == 2
    with pytest.raises(TaskFailedError, match="runs on 'local', not on 'texas'"):
        clean(mark + "a", cleanup_data_service=True, cluster="texas")
    said = clean(mark + "a", cleanup_data_service=True, cluster="local")
    assert said.startswith(f"gave back 1 lease of this workflow on {name}; it stays for flyte:graphs/development/{mark}b/n0")
    assert asked(outputs["endpoints"][0])
    assert "holds nothing" in clean(mark + "a", cleanup_data_service=True, cluster="")
    assert "nobody else holds it" in clean(mark + "b", cleanup_data_service=True, cluster="")
    here.services.delete(name, force=True)
    wait_for(lambda: (here.services.reap(), name not in here.names())[1], "the service to be gone")
    assert "gone already" in clean(mark + "b", cleanup_data_service=True, cluster="")


def test_defect_19_nothing_outlives_its_users(here: FlytePlatform, backend: Backend, mark: str) -> None:
    """Plugin: no lease, no ttl, no reaper: the service of a training that failed stays for ever."""
    aborted = backend.create(server(mark, Ttl="0.2s"), Execution(mark + "a"))
    name = backend.wait(aborted)["name"]
    backend.abort(aborted)
    wait_for(lambda: name not in here.names(), "the connectors' own reapers to remove it")
    forgotten = backend.create(server(mark, Ttl="0.2s", Hold="1s"), Execution(mark + "b"))  # its workflow dies and tells nobody
    assert backend.wait(forgotten)["name"] == name
    wait_for(lambda: name not in here.names(), "the lease to end, and the service with it")
    wait_for(lambda: not here.processes(mark), "its processes to be gone")
    with pytest.raises(NotFoundError):
        here.services.status(name)


def test_defect_20_the_package_installs_its_own_name_only() -> None:
    """Plugin: it installs top-level packages `utils` and `tests`, and pins a client of 2022 whose models refuse today's servers."""
    settings = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/fondaco"]
    extras = settings["project"]["optional-dependencies"]
    named = [line for extra in ("flyte1", "flyte2", "kubernetes") for line in extras[extra]]
    assert not [line for line in named if line.partition(">")[0].strip() == "kubernetes"], "the provisioner speaks by lightkube"

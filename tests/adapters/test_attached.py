"""Jobs that hold their data services while they run: ensured, in the environment, given back on every way out."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fondaco as fd
from flyte_platform import serving_command
from fondaco.adapters.data_service import DataServiceConfig, local
from fondaco.adapters.data_service.attached import attached, run_attached, with_data_services
from fondaco.catalog import Catalog
from fondaco.core.clock import SystemClock
from fondaco.core.config import ServicesConfig
from fondaco.core.errors import DeadlineExceededError, InputError, StateError
from fondaco.services.manager import Services
from leftover_services import end_services
from services.fake_provisioner import FakePlace
from waiting import wait_for


def config(name: str = "feeder", **more: object) -> DataServiceConfig:
    return DataServiceConfig(**({"Name": name, "Command": ["serve", "{port}"]} | more))  # type: ignore[arg-type]


@pytest.fixture
def place() -> FakePlace:
    return FakePlace()


@pytest.fixture
def services(tmp_path: Path, place: FakePlace) -> Iterator[Services]:
    catalog = Catalog.open(tmp_path)
    made = Services(catalog, ServicesConfig(), SystemClock(), {"local": place.provisioner})
    yield made
    local.close()
    made.close()
    catalog.close()


@pytest.fixture(autouse=True)
def environment_stays_as_it_was() -> Iterator[None]:
    before = dict(os.environ)
    yield
    after = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    before.pop("PYTEST_CURRENT_TEST", None)
    assert after == before


def holders(services: Services, name: str = "feeder") -> list[str]:
    return [found.holder for found in services.status(name).holders]


def test_the_variables_are_set_and_the_service_held_inside_and_neither_after(services: Services) -> None:
    with attached(config(Exports={"SERVERS": "{endpoints}"}), services=services, holder="job") as env:
        assert holders(services) == ["job"]
        assert os.environ["SERVERS"] == env["SERVERS"] == services.status("feeder").endpoints[0]
        assert os.environ["FONDACO_SERVICE_NAME"] == "feeder"
    assert holders(services) == []


def test_an_exception_gives_back_too_and_comes_through(services: Services) -> None:
    def fails() -> None:
        with attached(config(), services=services):
            assert len(holders(services)) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert holders(services) == []


def test_what_was_set_before_comes_back(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVERS", "mine")
    with attached(config(Exports={"SERVERS": "{endpoints}"}), services=services):
        assert os.environ["SERVERS"] != "mine"
    assert os.environ["SERVERS"] == "mine"


def test_tasks_within_each_other_see_the_inner_ones_variables(services: Services) -> None:
    outer, inner = config("outer", Exports={"SERVERS": "{endpoints}"}), config("inner", Exports={"SERVERS": "{endpoints}"})
    with attached(outer, services=services) as one:
        with attached(inner, services=services) as other:
            assert os.environ["SERVERS"] == other["SERVERS"] != one["SERVERS"]
            assert os.environ["FONDACO_SERVICE_NAME"] == "inner"
        assert os.environ["SERVERS"] == one["SERVERS"]
        assert os.environ["FONDACO_SERVICE_NAME"] == "outer"


def test_tasks_beside_each_other_may_agree_on_a_variable_and_not_differ(services: Services) -> None:
    inside, leave = threading.Event(), threading.Event()

    def beside() -> None:
        with attached(config("one", Exports={"SERVERS": "{endpoints}"}), services=services):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=beside)
    thread.start()
    assert inside.wait(60)
    try:
        with attached(config("one", Exports={"SERVERS": "{endpoints}"}), services=services):
            assert len(holders(services, "one")) == 2
        assert "SERVERS" in os.environ, "the other task still runs"
        with (
            pytest.raises(StateError, match="another task of this process has set SERVERS"),
            attached(config("two", Exports={"SERVERS": "{endpoints}"}), services=services),
        ):
            pass
        assert holders(services, "two") == []
    finally:
        leave.set()
        thread.join()


def test_two_services_of_a_job_are_both_held_and_may_not_export_one_name(services: Services) -> None:
    one, two = config("one", Exports={"ONE": "{endpoints}"}), config("two", Exports={"TWO": "{endpoints}"})
    with attached(one, two, services=services) as env:
        assert env["ONE"] != env["TWO"]
        assert env["FONDACO_SERVICE_NAME"] == "one"
        assert len(holders(services, "one")) == len(holders(services, "two")) == 1
    same = config("three", Exports={"ONE": "{endpoints}"})
    with pytest.raises(InputError, match="two services export ONE"), attached(one, same, services=services):
        pass
    assert holders(services, "one") == holders(services, "three") == []


def test_when_the_second_service_fails_the_first_is_given_back(services: Services, place: FakePlace) -> None:
    place.script("two", "crashing")
    with pytest.raises(StateError, match="exit code 3"), attached(config("one"), config("two"), services=services):
        pass
    assert holders(services, "one") == holders(services, "two") == []


def test_a_service_that_is_not_ready_in_time_is_given_back(services: Services, place: FakePlace) -> None:
    place.script("feeder", "never ready")
    with (
        pytest.raises(DeadlineExceededError, match="it is asked and does not answer"),
        attached(config(), services=services, timeout="0.2s"),
    ):
        pass
    assert holders(services) == []


def test_an_existing_service_can_be_held_by_its_name(services: Services) -> None:
    services.ensure(fd.ServiceSpec("feeder", command=["x"], ports=["main"], exact_name=True), "somebody")
    reuse = DataServiceConfig(ExistingReleaseName="feeder", Exports={"SERVERS": "{endpoints}"})
    with attached(reuse, services=services, holder="job"):
        assert holders(services) == ["somebody", "job"]
        assert os.environ["SERVERS"]
    assert holders(services) == ["somebody"]


def test_a_coroutine_that_is_cancelled_while_its_service_starts_is_not_held_up(services: Services, place: FakePlace) -> None:
    place.script("feeder", "never ready")

    async def body() -> None:
        raise AssertionError("it never starts")

    async def work() -> None:
        task = asyncio.create_task(run_attached(body, config(), services=services, holder="job"))
        while "feeder" not in place.services:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    begun = time.monotonic()
    asyncio.run(work())
    assert time.monotonic() - begun < 60, "it would have waited for half an hour"
    assert holders(services) == []


def test_a_coroutine_that_is_cancelled_while_it_runs_gives_back(services: Services) -> None:
    async def work() -> None:
        started = asyncio.Event()

        async def body() -> None:
            started.set()
            await asyncio.sleep(600)

        task = asyncio.create_task(run_attached(body, config(), services=services))
        await started.wait()
        assert len(holders(services)) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert holders(services) == []


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A platform on whose local services a job works."""
    fd.open(tmp_path / "data").close()
    monkeypatch.setenv("FONDACO_DIR", str(tmp_path / "data"))
    yield tmp_path / "data"
    local.close()
    end_services(tmp_path)


def test_decorated_functions_keep_their_face_and_hold_while_they_run(directory: Path) -> None:
    real = DataServiceConfig(Command=serving_command("decorated"), Readiness="/", Ttl="0s", Exports={"SERVERS": "{endpoints}"})

    @with_data_services(real)
    def train(epochs: int, *, rate: float = 0.1) -> str:
        """Train."""
        return f"{epochs} {rate} {os.environ['SERVERS']}"

    @with_data_services(real)
    async def train_async(epochs: int) -> str:
        return f"{epochs} {os.environ['SERVERS']}"

    assert (train.__name__, train.__doc__) == ("train", "Train.")
    assert train(3, rate=0.5).startswith("3 0.5 127.0.0.1:")
    assert asyncio.run(train_async(4)).startswith("4 127.0.0.1:")
    with fd.open(directory) as platform:
        assert all(not status.holders for status in platform.services.list())


_JOB = """
import sys, time
from fondaco.adapters.data_service import DataServiceConfig
from fondaco.adapters.data_service.attached import attached
if __name__ == "__main__":
    with attached(DataServiceConfig(Command={command!r}, Readiness="/", Ttl="0s"), holder="job"):
        print("running", flush=True)
        {body}
"""


@pytest.mark.parametrize(
    ("body", "end", "code"),
    [
        ("sys.exit(3)", None, 3),
        ("raise KeyError", None, 1),
        ("time.sleep(600)", signal.SIGTERM, -signal.SIGTERM),
        ("time.sleep(600)", signal.SIGINT, -signal.SIGINT),
    ],
)
def test_a_job_gives_back_however_it_ends(directory: Path, tmp_path: Path, body: str, end: signal.Signals | None, code: int) -> None:
    with fd.open(directory) as platform, run_job(tmp_path, body) as job:
        if end is not None:
            job.send_signal(end)
        assert job.wait(60) == code
        assert all(not status.holders for status in platform.services.list())


def test_a_job_that_was_killed_keeps_its_service_for_the_length_of_a_lease(directory: Path, tmp_path: Path) -> None:
    with fd.open(directory) as platform, run_job(tmp_path, "time.sleep(600)") as job:
        job.kill()
        job.wait(60)
        (status,) = platform.services.list()
        (holder,) = status.holders
        assert holder.expires_us is not None
        assert holder.expires_us / 1e6 - time.time() <= local.LEASE_S


class run_job:  # noqa: N801  # used as a block
    """A process that holds a service and runs `body`; left running, it is killed."""

    def __init__(self, tmp_path: Path, body: str) -> None:
        program, self.output = tmp_path / "job.py", tmp_path / "job.log"
        program.write_text(_JOB.format(command=serving_command("job"), body=body))
        with self.output.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, str(program)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self) -> subprocess.Popen[bytes]:
        wait_for(lambda: "running" in self.output.read_text() or self.process.poll() is not None, "the job")
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

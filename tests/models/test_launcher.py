"""Jobs with services: held while they run, given back at every end; and a record of each."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fondaco as fd
from fondaco.catalog import runs
from fondaco.catalog.rows import RunState
from fondaco.core.clock import ManualClock
from fondaco.core.errors import FeatureSetNotFoundError, GraphNotFoundError, InputError, ReadOnlyError, ServiceFailedError
from fondaco.models import Here, Request, launch
from fondaco.models.here import under_torchrun, without_stale
from fondaco.models.runs import all_runs, get_run, packages_of
from fondaco.models.variables import Facts, Served
from fondaco.platform import Platform
from fondaco.services.manager import Services
from train_process import removing_services, train, training
from waiting import wait_for

SERVER = ["{python}", "-m", "http.server", "{port}", "--bind", "{host}"]
SPEC = fd.ServiceSpec("files", command=SERVER, ports=["http"], readiness={"tcp": True})
TOML = """
name = "files"
command = ["{python}", "-m", "http.server", "{port}", "--bind", "{host}"]
ports = ["http"]
readiness = {tcp = true}
"""
NEVER = 'name = "never"\ncommand = ["sleep", "600"]\nports = ["http"]\nreadiness = {tcp = true}\n'
WAITING = "echo up; while [ ! -e done ]; do sleep 0.05; done; exit 5"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    found = tmp_path / "platform"
    fd.open(found).close()
    (tmp_path / "files.toml").write_text(TOML)
    with removing_services(found):
        yield found


@pytest.fixture
def platform(directory: Path) -> Iterator[Platform]:
    with fd.open(directory) as opened:
        yield opened


def holders(platform: Platform) -> list[str]:
    return [holder.holder for status in platform.services.list() for holder in status.holders]


def test_a_job_runs_while_its_services_are_held_and_gives_them_back(platform: Platform, tmp_path: Path) -> None:
    program = (
        "import os, sys, fondaco as fd, urllib.request as u\n"
        "u.urlopen('http://' + os.environ['SERVERS']).close()\n"
        "with fd.open(os.environ['FONDACO_DIR']) as p:\n"
        "    held = [h.holder for s in p.services.list() for h in s.holders]\n"
        "sys.exit(0 if held == [os.environ['FONDACO_RUN_ID']] else 9)\n"
    )
    request = Request(services=[tmp_path / "files.toml"], env={"SERVERS": "{service.files.endpoints}"}, name="nightly")
    result = launch(platform, [sys.executable, "-c", program], request)
    assert result.exit_code == 0
    assert result.state == "SUCCEEDED"
    assert holders(platform) == []
    run = get_run(platform, result.run_id)
    assert (run.state, run.name, run.services, run.exit_code) == (RunState.SUCCEEDED, "nightly", result.services, 0)
    assert run.variables["SERVERS"].startswith("127.0.0.1:")
    assert f"pytest=={pytest.__version__}" in packages_of(platform.directory, run.environment["packages"])


def test_two_services_start_beside_each_other_and_are_both_given_back(platform: Platform) -> None:
    request = Request(services=[SPEC, SPEC.replace(name="others")], env={"A": "{service.files.name}", "B": "{service.others.name}"})
    result = launch(platform, ["sh", "-c", 'test "$FONDACO_SERVICES" = "$A,$B"'], request)
    assert result.exit_code == 0
    assert holders(platform) == []


def test_services_are_held_for_as_long_as_is_configured(directory: Path, tmp_path: Path) -> None:
    (directory / "fondaco.toml").write_text('[services]\nlease = "7m"\n')
    log = tmp_path / "log"
    with (
        fd.open(directory) as platform,
        training(directory, "--service", str(tmp_path / "files.toml"), "--", "sh", "-c", WAITING, log=log, cwd=tmp_path),
    ):
        wait_for(lambda: "up" in log.read_text(), "the job runs")
        (status,) = platform.services.list()
        (holder,) = status.holders
        assert holder.expires_us is not None
        assert holder.expires_us - holder.acquired_us >= 420_000_000
        (tmp_path / "done").touch()


def test_the_time_to_become_ready_is_that_of_all_services_together(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    ensure = Services.ensure

    def noting(self: Services, *arguments: Any, **options: Any) -> Any:
        if options.get("wait", True):
            waits.append(options["timeout"].total_seconds())
        return ensure(self, *arguments, **options)

    monkeypatch.setattr(Services, "ensure", noting)
    assert launch(platform, ["true"], Request(services=[SPEC, SPEC.replace(name="others")]), timeout="5m").succeeded
    assert 0 < waits[1] < waits[0] <= 300


def test_two_jobs_at_once_share_one_service_and_either_may_end_first(directory: Path, tmp_path: Path, platform: Platform) -> None:
    toml, log = str(tmp_path / "files.toml"), tmp_path / "log"
    with training(directory, "--service", toml, "--", "sh", "-c", WAITING, log=log, cwd=tmp_path) as first:
        wait_for(lambda: "up" in log.read_text(), "the first job runs")
        ended = train(directory, "--service", toml, "--", "sh", "-c", "echo $FONDACO_SERVICE_FILES_ENDPOINTS")
        assert ended.returncode == 0, ended.stderr
        (status,) = platform.services.list()
        assert ended.stdout.strip() == ",".join(status.endpoints)
        assert len(status.holders) == 1  # the first one's lease stands
        (tmp_path / "done").touch()
        assert first.wait(60) == 5
    assert holders(platform) == []


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Request(graphs=["routs"]), GraphNotFoundError),
        (Request(graphs=["routes@x"]), InputError),
        (Request(features=["late"]), FeatureSetNotFoundError),
        (Request(services=[SPEC, SPEC]), InputError),
        (Request(env={"A": "{graph.endpoints}"}), InputError),
        (Request(deepgnn=True), InputError),
        (Request(services=[SPEC], cluster="texas"), InputError),
    ],
)
def test_what_cannot_be_is_found_before_anything_is_started(platform: Platform, request_: Request, error: type[Exception]) -> None:
    with pytest.raises(error):
        launch(platform, ["true"], request_)
    assert platform.services.list() == []


def test_a_service_that_does_not_become_ready_fails_the_run_with_its_reason(platform: Platform) -> None:
    failing = fd.ServiceSpec("failing", command=["sh", "-c", "echo no data; exit 2"], ports=["http"], readiness={"tcp": True, "start_s": 2})
    with pytest.raises(ServiceFailedError, match="no data"):
        launch(platform, ["true"], Request(services=[failing]), timeout="60s")
    (run,) = all_runs(platform)
    assert run.state is RunState.FAILED
    assert "failing" in run.environment["failed_with"]
    assert holders(platform) == []


def test_a_service_that_never_answers_is_waited_for_until_the_time_is_over(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "never.toml").write_text(NEVER)
    ended = train(directory, "--service", str(tmp_path / "never.toml"), "--timeout", "1s", "--", "echo", "ran")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert re.search(r"not done within (1|0\.\d)", ended.stderr)  # what was left of the second when the service was ensured


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_launcher_that_is_told_to_end_while_it_waits_gives_everything_back(
    directory: Path, tmp_path: Path, platform: Platform, number: signal.Signals
) -> None:
    (tmp_path / "never.toml").write_text(NEVER)
    log = tmp_path / "log"
    with training(directory, "--service", str(tmp_path / "never.toml"), "--", "echo", "ran", log=log) as process:
        wait_for(lambda: holders(platform), "the lease is taken")
        wait_for(lambda: "starting" in log.read_text(), "it is waited for")
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert "before the job had started" in log.read_text()
    assert holders(platform) == []
    assert all_runs(platform)[0].state is RunState.STOPPED


def test_a_lease_that_is_lost_is_said_and_taken_again_and_the_job_goes_on(directory: Path, tmp_path: Path, platform: Platform) -> None:
    log, toml = tmp_path / "log", str(tmp_path / "files.toml")
    with training(directory, "--service", toml, "--lease", "2s", "--", "sh", "-c", WAITING, log=log, cwd=tmp_path) as process:
        wait_for(lambda: "up" in log.read_text(), "the job runs")
        (status,) = platform.services.list()
        platform.services.delete(status.service, force=True)
        wait_for(lambda: "is lost" in log.read_text() and "made anew" in log.read_text(), "the loss is told, and mended")
        wait_for(lambda: holders(platform), "there is a lease again")
        (tmp_path / "done").touch()
        assert process.wait(60) == 5
    assert holders(platform) == []


def test_a_killed_instance_comes_back_at_the_address_that_the_job_knows(directory: Path, tmp_path: Path, platform: Platform) -> None:
    program = (
        "import os, sys, time, urllib.request as u\n"
        "url = 'http://' + os.environ['FONDACO_SERVICE_ENDPOINTS']\n"
        "u.urlopen(url).close(); print('up', flush=True)\n"
        "while not os.path.exists('killed'): time.sleep(0.05)\n"
        "for _ in range(1200):\n"
        "    try: u.urlopen(url).close(); break\n"
        "    except OSError: time.sleep(0.05)\n"
        "else: sys.exit(9)\n"
    )
    log, toml = tmp_path / "log", str(tmp_path / "files.toml")
    with training(directory, "--service", toml, "--", sys.executable, "-c", program, log=log, cwd=tmp_path) as process:
        wait_for(lambda: "up" in log.read_text(), "the job runs")
        (status,) = platform.services.list()
        port = status.endpoints[0].rpartition(":")[2]
        (server,) = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _serves(pid, port)]
        os.kill(server, signal.SIGKILL)
        (tmp_path / "killed").touch()
        assert process.wait(100) == 0


def _serves(pid: int, port: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"http.server" in words and port.encode() in words


def test_a_launcher_that_is_killed_loses_its_lease_by_itself(directory: Path, tmp_path: Path, platform: Platform) -> None:
    log, toml = tmp_path / "log", str(tmp_path / "files.toml")
    with training(directory, "--service", toml, "--lease", "1s", "--", "sh", "-c", "echo up; sleep 600", log=log) as process:
        wait_for(lambda: "up" in log.read_text(), "the job runs")
        wait_for(lambda: all_runs(platform)[0].state is RunState.RUNNING, "the record says so")
        assert len(holders(platform)) == 1
        process.kill()
        process.wait()
    wait_for(lambda: holders(platform) == [], "the lease has run out")
    assert all_runs(platform)[0].state is RunState.RUNNING  # it was heard of a moment ago


def test_a_run_that_was_silent_for_a_minute_is_lost(directory: Path) -> None:
    clock = ManualClock(1_000_000_000)
    with Platform.open(directory, clock=clock) as platform:
        with platform.catalog.write() as connection:
            runs.begin(connection, "run-1", name="n", command=["x"], directory="/", holder="h", pid=1, host="h", now_us=clock.now_us())
        clock.advance(us=59_000_000)
        assert get_run(platform, "run-1").state is RunState.PREPARING
        clock.advance(us=2_000_000)
        assert get_run(platform, "run-1").state is RunState.LOST


def test_a_platform_that_cannot_be_written_runs_jobs_without_services(directory: Path) -> None:
    with fd.open(directory) as platform:
        read_only = Platform(directory, platform.config, type(platform.catalog).open(directory, url=None, read_only=True), platform.clock)
        said: list[str] = []
        try:
            assert launch(read_only, ["sh", "-c", "exit 3"], say=said.append).exit_code == 3
            assert "no record" in said[0]
            with pytest.raises(ReadOnlyError):
                launch(read_only, ["true"], Request(services=[SPEC]))
        finally:
            read_only.close()
        assert all_runs(platform) == []


def test_the_job_runs_where_it_is_told_to(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert launch(platform, ["sh", "-c", "touch it"], runner=Here(directory=tmp_path / "here")).exit_code == 0
    assert (tmp_path / "here" / "it").exists()
    assert all_runs(platform)[0].directory == str(tmp_path / "here")


def test_torchrun_takes_the_command_as_it_is() -> None:
    line = under_torchrun([sys.executable, "-u", "train.py", "--lr", "3"], 2)
    assert line[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert line[-6:] == ["--no-python", sys.executable, "-u", "train.py", "--lr", "3"]
    for wrong in (0, "many", -1):
        with pytest.raises(InputError, match="--nproc"):
            under_torchrun(["true"], wrong)


def test_what_another_run_has_told_is_not_passed_on_where_this_one_tells() -> None:
    outside = {"FONDACO_GRAPH_VERSION": "1", "FONDACO_GRAPH_TOKEN": "t", "FONDACO_SERVICE_X": "x", "FONDACO_FEATURES": "f", "HOME": "/"}
    graph = Facts("r", "n", "/", (Served("g", "g-1", ("a:1",), {}, "g", None),), ())
    assert without_stale(outside, graph) == {"FONDACO_GRAPH_TOKEN": "t", "FONDACO_FEATURES": "f", "HOME": "/"}
    assert without_stale(outside, Facts("r", "n", "/", (), ())) == outside

"""`fondaco up` for real: three processes over one directory, killed one by one, stopped in order, and what it refuses."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import fondaco as fd
from control_server import ARROW, VALUE, arrow_stream, rows
from fondaco.core.runfile import RunFile, find_run_file
from fondaco.services.local.sweep import note_look
from leftover_services import end_services
from waiting import free_port, wait_for

RUN = [sys.executable, "-W", "error", "-c", "from fondaco.cli import main; main()"]
DEADLINE_S = 120.0


class Up:
    """`fondaco up` at work over `directory`."""

    def __init__(self, directory: Path, *options: str, scheme: str = "http") -> None:
        self.directory = directory
        self.data_port, self.control_port = free_port(), free_port()
        self.data, self.control = f"{scheme}://127.0.0.1:{self.data_port}", f"{scheme}://127.0.0.1:{self.control_port}"
        self.log_file = directory.with_name(f"{directory.name}-{time.monotonic_ns()}.log")
        ports = ["--port", str(self.data_port), "--control-port", str(self.control_port)]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*RUN, "up", "--dir", str(directory), *ports, *options], stdout=subprocess.PIPE, stderr=log, text=True
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def run(self) -> RunFile:
        found = find_run_file(self.directory)
        assert found is not None, self.log
        return found

    def wait_ready(self) -> "Up":
        wait_for(lambda: self.process.poll() is not None or self._is_ready(), f"not ready: {self.log}", patience_s=DEADLINE_S)
        assert self.process.poll() is None, self.log
        return self

    def _is_ready(self) -> bool:
        found = find_run_file(self.directory)
        return found is not None and found.pid == self.process.pid and found.is_ready

    def pid(self, name: str) -> int | None:
        return next(process.pid for process in self.run.processes if process.name == name)

    def everything(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*options: str, directory: str = "platform", **more: Any) -> Up:
        started.append(Up(tmp_path / directory, *options, **more))
        return started[-1]

    yield start
    for one in started:
        one.close()


def gone(processes: list[psutil.Process]) -> bool:
    return all(not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in processes)


def ask(method: str, url: str, **more: Any) -> httpx.Response:
    return httpx.request(method, url, timeout=30, trust_env=False, **more)


def get(up: Up, key: int) -> dict[str, Any] | None:
    answer = ask("GET", f"{up.data}/v1/stores/members/rows/{key}")
    if answer.status_code == 404 and answer.json() == {"found": False}:
        return None
    assert answer.status_code == 200, answer.text
    row: dict[str, Any] = answer.json()
    return row


def put(up: Up, key: int, clicks: int) -> str:
    write = {"op": "put", "key": key, "row": {"clicks": clicks, "name": f"n{key}"}}
    answer = ask("POST", f"{up.data}/v1/stores/members/writes", json={"writer": "test", "writes": [write]})
    assert answer.status_code == 200, answer.text
    position: str = answer.json()["positions"]
    return position


def fill(up: Up, count: int = 100) -> None:
    """Create store `members` and push to it, through the control API, and wait until the data plane serves it."""
    created = ask("POST", f"{up.control}/v1/stores", json={"name": "members", "key": "long", "value": VALUE, "partitions": 2})
    assert created.status_code in (200, 201), created.text
    pushed = ask("POST", f"{up.control}/v1/stores/members/pushes", content=arrow_stream(rows(count)), headers=ARROW)
    assert pushed.status_code == 200, pushed.text
    wait_for(lambda: ask("GET", f"{up.data}/v1/stores/members/rows/7").status_code == 200, "the data plane does not serve the store")


@pytest.mark.timeout(600)
def test_from_nothing_to_a_store_that_takes_writes_and_stops_cleanly(up: Callable[..., Up]) -> None:
    running = up().wait_ready()
    assert running.process.stdout is not None
    said = [running.process.stdout.readline().rstrip("\n") for _ in range(8)]
    assert said[0] == f"{running.directory} is up"
    assert running.data in said[1]
    assert running.control in said[2]
    assert [line.split(": ")[1] for line in said[3:6]] == ["tailer", "data", "control"]
    assert said[6] == f"try: curl {running.data}/v1/stores"
    fill(running)
    assert get(running, 7) == {"clicks": 49, "name": "n7"}
    assert get(running, 10_000) is None
    position = put(running, 10_000, 1)
    read = ask("GET", f"{running.data}/v1/stores/members/rows/10000", headers={"Fondaco-Min-Position": position})
    assert read.json() == {"clicks": 1, "name": "n10000"}
    everything = running.everything()
    assert len(everything) == 4
    assert running.stop() == 0
    assert gone(everything)
    assert "Traceback" not in running.log
    assert sorted(file.name for file in (running.directory / "run").iterdir()) == ["spool", "up.lock"]
    with fd.open(running.directory, create=False) as platform, platform.store("members").reader() as reader:
        row = reader.get(10_000, min_position=position)
        assert row is not None
        assert row["clicks"] == 1


@pytest.mark.timeout(600)
def test_each_process_is_back_after_kill_9_and_nothing_acknowledged_is_lost(up: Callable[..., Up]) -> None:
    running = up().wait_ready()
    fill(running)
    for number, name in enumerate(("data", "tailer", "control")):
        put(running, 1000 + number, number)
        before = running.pid(name)
        assert before is not None
        os.kill(before, signal.SIGKILL)
        wait_for(lambda name=name, before=before: running.pid(name) not in (None, before), f"{name} is not back")  # type: ignore[misc]
        running.wait_ready()
        wait_for(lambda number=number: get(running, 1000 + number) is not None, f"a write is lost with {name}")  # type: ignore[misc]
        position = put(running, 2000 + number, number)
        read = ask("GET", f"{running.data}/v1/stores/members/rows/{2000 + number}", headers={"Fondaco-Min-Position": position})
        assert read.json()["clicks"] == number
        assert ask("GET", f"{running.control}/v1/stores/members").json()["current"] == 1
    assert {process.name: process.restarts for process in running.run.processes} == {"tailer": 1, "data": 1, "control": 1}
    metrics = ask("GET", f"{running.control}/metrics").text
    for name in ("data", "tailer", "control"):
        assert f'fondaco_process_restarts_total{{process="{name}"}} 1.0' in metrics
    assert running.stop() == 0


@pytest.mark.timeout(600)
def test_reads_go_on_while_tailer_and_control_api_are_down(up: Callable[..., Up]) -> None:
    running = up().wait_ready()
    fill(running)
    for name in ("tailer", "control"):
        pid = running.pid(name)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    position = put(running, 500, 5)
    assert get(running, 7) == {"clicks": 49, "name": "n7"}
    late = ask(
        "GET", f"{running.data}/v1/stores/members/rows/500", headers={"Fondaco-Min-Position": position, "Fondaco-Deadline-Ms": "200"}
    )
    assert (late.status_code, late.json()["error"]) == (504, "DeadlineExceededError")
    for name in ("tailer", "control"):
        pid = running.pid(name)
        assert pid is not None
        os.kill(pid, signal.SIGCONT)
    read = ask("GET", f"{running.data}/v1/stores/members/rows/500", headers={"Fondaco-Min-Position": position})
    assert read.json()["clicks"] == 5
    assert running.stop(signal.SIGINT) == 0


@pytest.mark.timeout(600)
def test_nothing_outlives_a_supervisor_that_is_killed_and_the_next_one_starts(up: Callable[..., Up]) -> None:
    first = up().wait_ready()
    everything = first.everything()
    first.process.kill()
    wait_for(lambda: gone(everything), "orphans")
    second = up().wait_ready()
    assert second.run.pid == second.process.pid
    assert second.stop() == 0


@pytest.mark.timeout(600)
def test_a_service_whose_time_is_over_is_removed_by_it_and_one_that_is_held_stays(up: Callable[..., Up], tmp_path: Path) -> None:
    directory = tmp_path / "platform"
    directory.mkdir()
    (directory / "fondaco.toml").write_text("[services]\nreap_s = 0.2\n")
    over, held = (fd.ServiceSpec(name, command=["sleep", "600"], ttl="0s") for name in ("over", "held"))
    try:
        with fd.open(directory) as platform:
            services = platform.services
            services.ensure(held, holder="somebody", lease=None)
            services.ensure(over, holder="nobody").release()
            is_over = services.status(over.service)
            assert (is_over.phase, is_over.holders) == ("ready", ())
            assert is_over.removal_us is not None
            assert is_over.removal_us <= platform.clock.now_us()
            note_look(directory / "services")  # keepers look themselves where nobody has for a minute
            running = up().wait_ready()
            wait_for(lambda: [one.service for one in services.list()] == [held.service], f"it is not removed: {running.log}")
            removed = "fondaco_reaper_removed_services_total 1.0"  # by it, and by nobody else
            wait_for(lambda: removed in ask("GET", f"{running.control}/metrics").text, "it has not counted that")
            assert running.stop() == 0
            assert services.status(held.service).phase == "ready"
    finally:
        end_services(directory)


@pytest.mark.timeout(600)
def test_json_says_where_everything_is_and_a_second_up_names_the_first(up: Callable[..., Up]) -> None:
    running = up("--json").wait_ready()
    assert running.process.stdout is not None
    said = json.loads(running.process.stdout.readline())
    assert (said["data"], said["control"], said["pid"]) == (running.data, running.control, running.process.pid)
    assert {process["name"] for process in said["processes"]} == {"tailer", "data", "control"}
    assert ask("GET", f"{said['control']}/v1/endpoints").json()["data"] == [running.data]
    second = up()
    assert second.process.wait(60) == 2
    assert second.log.count("\n") == 1
    assert f"is up already: process {running.process.pid}, data plane {running.data}, control API {running.control}" in second.log
    assert running.stop() == 0


@pytest.mark.parametrize("option", ["--port", "--control-port"])
def test_a_taken_port_is_one_message_and_exit_code_2(up: Callable[..., Up], option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = up(option, str(port))
        assert running.process.wait(60) == 2
    assert running.log.count("\n") == 1
    assert f"127.0.0.1:{port} cannot be listened on (Address already in use); choose another with {option}" in running.log


@pytest.mark.parametrize(
    ("configuration", "options", "message"),
    [
        ("", ("--host", "0.0.0.0"), "0.0.0.0 can be reached from other machines, and there is neither a token nor TLS"),
        ("", ("--host", "no.such.host.invalid"), "'no.such.host.invalid' is no address of this machine"),
        ("[server]\nprot = 1\n", (), "unknown field `prot`"),
        ('[server]\nprivate_key = "key.pem"\n', (), "both certificate and private_key, or neither"),
        ('[server]\nprivate_key = "no.pem"\ncertificate = "no.pem"\n', (), "no.pem, which cannot be read: No such file or directory"),
        ("[server\n", (), "fondaco.toml"),
    ],
)
def test_what_is_wrong_is_found_before_any_process_starts(
    up: Callable[..., Up], tmp_path: Path, configuration: str, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "platform").mkdir()
    (tmp_path / "platform" / "fondaco.toml").write_text(configuration)
    running = up(*options)
    assert running.process.wait(60) == 2
    assert message in running.log
    assert "Traceback" not in running.log
    assert " | " not in running.log


def test_a_directory_of_something_else_is_refused(up: Callable[..., Up], tmp_path: Path) -> None:
    (tmp_path / "platform").mkdir()
    (tmp_path / "platform" / "thesis.tex").write_text("precious")
    running = up()
    assert running.process.wait(60) == 2
    assert "is not a Fondaco directory" in running.log
    assert [file.name for file in (tmp_path / "platform").iterdir()] == ["thesis.tex"]


def test_both_servers_cannot_share_a_port(up: Callable[..., Up]) -> None:
    port = str(free_port())
    running = up("--port", port, "--control-port", port)
    assert running.process.wait(60) == 2
    assert f"cannot both listen on port {port}" in running.log


def test_a_signal_while_everything_still_starts_stops_it_too(up: Callable[..., Up]) -> None:
    running = up()
    wait_for(lambda: find_run_file(running.directory) is not None, "nothing starts")
    everything = running.everything()
    assert running.stop() == 0
    assert gone(everything)
    assert running.process.stdout is not None
    assert running.process.stdout.read() == ""

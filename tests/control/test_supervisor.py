"""The supervisor over small real programs: what it keeps running, what it says, and that nothing outlives it."""

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

import psutil
import pytest

from fondaco.core.runfile import ProcessState, RunFile, find_run_file
from waiting import wait_for

# A program that is ready at once, or later, or never; obeys SIGTERM, or not; and may end by itself.
PROGRAM = """
import os, signal, subprocess, sys, time
kind, ready, notes = sys.argv[1], sys.argv[2], sys.argv[3]
def note(what):
    with open(notes, "a") as file:
        file.write(f"{what} {kind}\\n")
def stop(*_):
    note("stopped")
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if kind == "deaf" else stop)
note("started")
print("hello from", kind)
print("x" * 20_000)
if kind == "mistaken":
    print("fondaco: what was asked is wrong", file=sys.stderr)
    sys.exit(2)
if kind == "brief":
    sys.exit(1)
if kind == "parent":
    subprocess.Popen([sys.executable, "-m", "fondaco.processes.launch", str(os.getpid()), "program", "child", ready + ".child", notes])
with open(ready, "w") as file:
    file.write(str(os.getpid()))
while True:
    if kind != "hanging" or not os.path.exists(notes + ".hang"):
        os.utime(ready)
    time.sleep(0.05)
"""
SUPERVISE = """
import sys
from pathlib import Path
from fondaco.processes.launch import command
from fondaco.processes.probes import FileProbe
from fondaco.processes.process import Patience, ProcessSpec, StartFailedError
from fondaco.control.supervisor import Supervisor
from fondaco.core.errors import FondacoError
directory, notes = Path(sys.argv[1]), sys.argv[2]
def spec(kind):
    ready = directory / f"{kind}.ready"
    return ProcessSpec(kind, command("program", kind, str(ready), notes), FileProbe(ready, stale_s=1.0))
stages = [[spec(kind) for kind in stage.split(",")] for stage in sys.argv[3:]]
patience = Patience(hang=1.0, drain=1.0, pause_first=0.05, probe_every=0.02, watch_every=0.1)
supervisor = Supervisor(directory, on_ready=lambda run: print("ready", len(run.processes), flush=True), patience=patience)
try:
    with supervisor.held():
        supervisor.run(stages, data="http://127.0.0.1:1", control="http://127.0.0.1:2")
except FondacoError as exc:
    sys.exit(f"fondaco: {exc}")
"""
DEADLINE_S = 30.0


class Running:
    """A supervisor at work."""

    def __init__(self, tmp_path: Path, *stages: str) -> None:
        self.directory = tmp_path / "platform"
        self.directory.mkdir(exist_ok=True)
        self.notes_file = tmp_path / "notes"
        (tmp_path / "program.py").write_text(PROGRAM)
        self.log_file = tmp_path / f"log-{time.monotonic_ns()}"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", SUPERVISE, str(self.directory), str(self.notes_file), *stages],
                env={**os.environ, "PYTHONPATH": str(tmp_path)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("ready"), self.log

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def notes(self) -> list[str]:
        return self.notes_file.read_text().splitlines()

    @property
    def run(self) -> RunFile:
        found = find_run_file(self.directory)
        assert found is not None
        return found

    def pid(self, kind: str) -> int | None:
        return next(process.pid for process in self.run.processes if process.name == kind)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(DEADLINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(*stages: str) -> Running:
        running.append(Running(tmp_path, *stages))
        return running[-1]

    yield start
    for one in running:
        one.close()


def gone(processes: list[psutil.Process]) -> bool:
    return all(not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in processes)


def test_what_ends_is_started_again_and_the_run_file_tells(supervise: Callable[..., Running]) -> None:
    up = supervise("a,b", "c")
    up.wait_ready()
    assert up.run.is_ready
    assert [process.name for process in up.run.processes] == ["c", "a", "b"]
    before = up.pid("a")
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: up.pid("a") not in (None, before) and up.run.is_ready, "a is not back")
    a = next(process for process in up.run.processes if process.name == "a")
    assert (a.restarts, a.state) == (1, ProcessState.READY)
    assert a.last_end is not None
    assert a.last_end.startswith("was ended by SIGKILL after")
    assert "up       | a was ended by SIGKILL" in up.log
    assert "starting it again in 0.05 s" in up.log
    wait_for(lambda: "up       | a is ready again" in up.log, "it does not say so")


def test_lines_carry_the_name_of_who_said_them_and_long_ones_come_in_pieces(supervise: Callable[..., Running]) -> None:
    up = supervise("a")
    up.wait_ready()
    wait_for(lambda: up.log.count("x") >= 20_000, "lines are missing")
    lines = up.log.splitlines()
    assert "a        | hello from a" in lines
    pieces = [line.removeprefix("a        | ") for line in lines if line.endswith("xx")]
    assert [len(piece) for piece in pieces] == [8192, 8192, 20_000 - 2 * 8192]


def test_a_signal_stops_stage_after_stage_with_exit_code_0_and_leaves_nothing(supervise: Callable[..., Running]) -> None:
    up = supervise("a,b", "c")
    up.wait_ready()
    children = up.children()
    assert len(children) == 3
    assert up.stop() == 0
    assert gone(children)
    stopped = [note for note in up.notes if note.startswith("stopped")]
    assert sorted(stopped[:2]) == ["stopped a", "stopped b"]
    assert stopped[2] == "stopped c"
    assert find_run_file(up.directory) is None


def test_who_does_not_obey_is_killed_after_the_time_to_drain(supervise: Callable[..., Running]) -> None:
    up = supervise("deaf", "c")
    up.wait_ready()
    children = up.children()
    assert up.stop() == 0
    assert gone(children)
    assert "deaf did not end within 1 s of SIGTERM: killed" in up.log
    assert "stopped c" in up.notes


def test_a_second_signal_kills_at_once(supervise: Callable[..., Running]) -> None:
    up = supervise("deaf", "c")
    up.wait_ready()
    children = up.children()
    up.process.send_signal(signal.SIGINT)
    wait_for(lambda: "SIGINT: stopping" in up.log, "the first signal is not seen")
    assert up.stop() == 0
    assert gone(children)
    assert "SIGTERM again: killing" in up.log


def test_nothing_outlives_a_supervisor_that_is_killed(supervise: Callable[..., Running]) -> None:
    up = supervise("parent,b", "c")
    up.wait_ready()
    wait_for(lambda: len(up.children()) == 4, "the grandchild is missing")
    children = up.children()
    up.process.kill()
    wait_for(lambda: gone(children), "orphans")


def test_after_a_kill_the_directory_is_free_again(supervise: Callable[..., Running]) -> None:
    first = supervise("a")
    first.wait_ready()
    first.process.kill()
    first.process.wait(DEADLINE_S)
    assert find_run_file(first.directory) is not None
    second = supervise("a")
    second.wait_ready()
    assert second.run.pid == second.process.pid


def test_a_second_supervisor_is_told_who_has_the_directory(supervise: Callable[..., Running]) -> None:
    first = supervise("a")
    first.wait_ready()
    second = supervise("a")
    assert second.process.wait(DEADLINE_S) != 0
    assert f"is up already: process {first.process.pid}, data plane http://127.0.0.1:1, control API http://127.0.0.1:2" in second.log
    assert first.run.is_ready


def test_what_ends_again_and_again_is_tried_for_ever_and_that_is_said(supervise: Callable[..., Running]) -> None:
    up = supervise("brief", "c")
    wait_for(lambda: "time in a row, it is tried for ever" in up.log, "it is not said")
    brief = next(process for process in up.run.processes if process.name == "brief")
    assert brief.restarts >= 5
    pauses = [line.split(" again in ")[1].split(" s")[0] for line in up.log.splitlines() if "starting it again" in line]
    assert pauses[:5] == ["0.05", "0.1", "0.2", "0.4", "0.8"]
    assert up.stop() == 0


def test_a_first_start_that_the_user_got_wrong_stops_the_others(supervise: Callable[..., Running]) -> None:
    up = supervise("mistaken", "c")
    assert up.process.wait(DEADLINE_S) != 0
    assert "mistaken | fondaco: what was asked is wrong" in up.log
    assert "the mistaken process could not start; its message is above" in up.log
    assert up.notes.count("started mistaken") == 1


def test_who_was_ready_and_does_not_answer_any_more_is_killed_and_started_again(supervise: Callable[..., Running]) -> None:
    up = supervise("hanging")
    up.wait_ready()
    before = up.pid("hanging")
    hang = Path(f"{up.notes_file}.hang")
    hang.touch()
    wait_for(lambda: "did not answer for 1 s and was killed" in up.log, "it hangs on")
    hang.unlink()
    wait_for(lambda: up.run.is_ready and up.pid("hanging") != before, "it is not back")


def test_nobody_waits_for_who_does_not_read_the_log(tmp_path: Path) -> None:
    """The pipe behind stderr is full and nobody reads it; signals are obeyed all the same."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        (tmp_path / "program.py").write_text(PROGRAM)
        (tmp_path / "platform").mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, str(tmp_path / "platform"), str(tmp_path / "notes"), "brief,a"],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        )
        theirs.close()
        run = tmp_path / "platform" / "run" / "up.json"
        wait_for(lambda: run.exists() and sum(one["restarts"] for one in json.loads(run.read_text())["processes"]) >= 3, "it stands still")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0

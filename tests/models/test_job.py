"""A job runs in our place: output, input, signals, terminals; and nothing of it is left, whoever is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

import fondaco as fd
from fondaco.models.job import CommandError, End, Job
from train_process import FONDACO, Terminal, environment, gone, marked, train, training
from waiting import wait_for

DEAF, FOR_EVER = "trap '' INT TERM HUP", "while :; do sleep 0.05; done"


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    directory = tmp_path / "platform"
    fd.open(directory).close()
    return directory


@pytest.fixture
def mark() -> str:
    return f"mark-{uuid.uuid4().hex}"


def runs(directory: Path) -> list[dict[str, object]]:
    told = subprocess.run([*FONDACO, "run", "list", "--dir", str(directory), "--json"], capture_output=True, text=True, check=True)
    return json.loads(told.stdout)  # type: ignore[no-any-return]


def test_a_job_has_the_signals_that_it_would_have_without_us(platform: Path) -> None:
    looking = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]
    plain = subprocess.run(looking, capture_output=True, text=True, check=True, env=environment())
    assert train(platform, "--", *looking).stdout == plain.stdout


def test_output_input_and_exit_code_pass_through_unchanged(platform: Path) -> None:
    ended = train(platform, "--", "sh", "-c", "cat; echo aside >&2; exit 7", stdin="line\nlast")
    assert (ended.stdout, ended.returncode) == ("line\nlast", 7)
    assert ended.stderr.startswith("aside\n")
    assert ended.stderr.count("\n") == 2  # and one line of ours


def test_json_is_one_line_after_the_output_of_the_job(platform: Path) -> None:
    ended = train(platform, "--name", "first", "--json", "--", "sh", "-c", "echo out; exit 3")
    *output, result = ended.stdout.splitlines()
    assert output == ["out"]
    told = json.loads(result)
    assert (told["state"], told["exit_code"], told["signal"], told["name"]) == ("FAILED", 3, None, "first")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["no-such-program"], 127, "command not found"),
        (["./plain"], 126, "executed"),
        (["./folder"], 126, "executed"),
        (["./gone"], 127, "not found"),
    ],
)
def test_a_command_that_cannot_be_run_ends_as_in_a_shell_and_starts_nothing(
    platform: Path, tmp_path: Path, command: list[str], code: int, words: str
) -> None:
    (tmp_path / "plain").write_text("")
    (tmp_path / "folder").mkdir()
    ended = train(platform, "--", *command, cwd=tmp_path)
    assert ended.returncode == code
    assert words in ended.stderr
    assert runs(platform) == []


def test_a_program_whose_interpreter_is_missing_is_said_to_be_so(platform: Path, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    ended = train(platform, "--", "./script", cwd=tmp_path)
    assert ended.returncode == 127
    assert "command not found" in ended.stderr
    assert runs(platform)[0]["state"] == "FAILED"


def test_no_command_at_all_says_where_it_goes(platform: Path) -> None:
    ended = train(platform)
    assert ended.returncode == 2
    assert "after `--`" in ended.stderr


def test_a_signal_that_ends_the_job_is_in_the_exit_code_and_in_the_record(platform: Path) -> None:
    ended = train(platform, "--", "sh", "-c", "kill -SEGV $$")
    assert ended.returncode == 128 + signal.SIGSEGV
    (run,) = runs(platform)
    assert (run["state"], run["exit_code"], run["signal"]) == ("FAILED", 139, 11)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_group_of_the_job(platform: Path, tmp_path: Path, number: signal.Signals, mark: str) -> None:
    log = tmp_path / "log"
    script = f": {mark}; trap 'echo got; exit 9' {number.name[3:]}; echo up; {FOR_EVER}"
    with training(platform, "--", "sh", "-c", script, log=log) as process:
        wait_for(lambda: "up" in log.read_text(), "the job runs")
        process.send_signal(number)
        assert process.wait(60) == 9
    assert "got" in log.read_text()
    gone(mark)
    assert runs(platform)[0]["state"] == ("FAILED" if number == signal.SIGUSR1 else "STOPPED")


def test_a_second_signal_kills_a_job_that_ignores_the_first_and_all_it_started(platform: Path, tmp_path: Path, mark: str) -> None:
    log = tmp_path / "log"
    script = f": {mark}; {DEAF}; setsid sh -c ': {mark}; {FOR_EVER}' & echo up; {FOR_EVER}"
    with training(platform, "--", "sh", "-c", script, log=log) as process:
        wait_for(lambda: "up" in log.read_text() and len(marked(mark)) >= 3, "the job and its child run")
        process.send_signal(signal.SIGINT)
        wait_for(lambda: "once more within 30 s kills it" in log.read_text(), "the first is passed on")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGKILL
    assert not marked(mark)
    assert runs(platform)[0]["state"] == "STOPPED"


def test_a_daemon_that_the_job_leaves_behind_ends_with_it(platform: Path, tmp_path: Path, mark: str) -> None:
    script = f"(setsid sh -c ': {mark}; while :; do sleep 0.05; done' < /dev/null > /dev/null 2>&1 &); exit 4"
    ended = train(platform, "--", "sh", "-c", script)
    assert ended.returncode == 4
    assert not marked(mark)


@pytest.mark.parametrize("victim", ["launcher", "guard", "job"])
def test_whoever_is_killed_nothing_of_the_job_is_left(platform: Path, tmp_path: Path, mark: str, victim: str) -> None:
    log = tmp_path / "log"
    script = f": {mark}; setsid sh -c ': {mark}; {FOR_EVER}' & echo up $$ $PPID; wait"
    with training(platform, "--", "sh", "-c", script, log=log) as process:
        wait_for(lambda: "up" in log.read_text() and len(marked(mark)) >= 3, "the job and its child run")
        _, job, guard = log.read_text().splitlines()[0].split()
        os.kill({"launcher": process.pid, "guard": int(guard), "job": int(job)}[victim], signal.SIGKILL)
        code = process.wait(60)
        gone(mark)
    if victim == "launcher":
        assert code == -signal.SIGKILL
        assert runs(platform)[0]["state"] == "RUNNING"  # until it was silent for a minute
    else:
        assert code == 128 + signal.SIGKILL
        assert runs(platform)[0]["signal"] == signal.SIGKILL


def test_a_job_that_wants_the_terminal_gets_it(platform: Path) -> None:
    program = "import os; print(os.isatty(0), os.isatty(1)); print('hello ' + input('who? '))"
    with Terminal([*FONDACO, "train", "--dir", str(platform), "--", sys.executable, "-c", program]) as terminal:
        terminal.until("True True")
        terminal.until(r"who\? ")
        terminal.type("you\n")
        terminal.until("hello you")
        assert terminal.process.wait(60) == 0


def test_ctrl_c_twice_kills_a_job_that_does_not_listen(platform: Path, mark: str) -> None:
    with Terminal([*FONDACO, "train", "--dir", str(platform), "--", "sh", "-c", f": {mark}; {DEAF}; echo up; {FOR_EVER}"]) as terminal:
        terminal.until("up")
        terminal.type("\x03")
        terminal.until("once more within 30 s kills it")
        terminal.type("\x03")
        terminal.until("killing the job")
        assert terminal.process.wait(60) == 128 + signal.SIGKILL
    assert not marked(mark)


def test_ctrl_c_reaches_a_job_once(platform: Path) -> None:
    program = (
        "import time\ntry:\n    print('up', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('once')\n    time.sleep(0.2)"
    )
    with Terminal([*FONDACO, "train", "--dir", str(platform), "--", sys.executable, "-c", program]) as terminal:
        terminal.until("up")
        terminal.type("\x03")
        terminal.until("once\r\n")
        assert terminal.process.wait(60) == 0


def test_ctrl_z_stops_the_job_and_fg_lets_it_go_on(platform: Path) -> None:
    counting = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo tick-$i.; sleep 0.05; done"  # the shell prints this too
    with Terminal(["bash", "--norc", "--noprofile", "-i"]) as terminal:
        terminal.type(" ".join([sys.executable, "-c", "'from fondaco.cli import main; main()'", "train", "--dir", str(platform)]))
        terminal.type(f" -- sh -c '{counting}'\n")
        terminal.until(r"tick-3\.")
        terminal.type("\x1a")
        terminal.until("Stopped")
        time.sleep(0.3)
        terminal.type("echo at the $((1+1))nd prompt\n")
        assert len(re.findall(r"tick-\d", terminal.until("at the 2nd prompt"))) <= 1  # what was being written when it was stopped
        terminal.type("fg\n")
        terminal.until(r"tick-\d")
        terminal.type("\x03")
        terminal.until("run-")
        terminal.type("echo code $?.\n")
        terminal.until(r"code 130\.")


def test_a_thread_that_is_not_the_main_one_can_run_jobs() -> None:
    ends: list[End] = []

    def run() -> None:
        with Job(["sh", "-c", "exit 5"], dict(os.environ), run_id="run-x") as job:
            ends.append(job.wait())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert ends == [End(5)]


def test_a_job_that_ends_while_it_starts_leaves_no_zombie(monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.read

    def all_at_once(fd: int, size: int) -> bytes:
        said = b""
        while True:
            try:
                more = read(fd, size)
            except BlockingIOError:
                continue
            said += more
            if not more or b"end" in said:
                return said

    monkeypatch.setattr("fondaco.models.job.os.read", all_at_once)
    with Job(["true"], dict(os.environ), run_id="run-x") as job:
        assert job.wait() == End(0)
    with pytest.raises(ChildProcessError):
        os.waitpid(job.group, os.WNOHANG)


def test_leaving_without_waiting_kills_the_job(mark: str) -> None:
    with Job(["sh", "-c", f": {mark}; {DEAF}; {FOR_EVER}"], {**os.environ, "FONDACO_RUN_ID": mark}, run_id=mark):
        assert marked(mark)
    assert not marked(mark)


def test_an_error_of_a_start_leaves_nothing_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(CommandError, match="command not found"):
        Job(["no-such-program"], dict(os.environ), run_id="run-x")
    assert len(os.listdir("/proc/self/fd")) == len(before)

"""Launcher: a job, run where we are, with the services it needs: `fondaco train`.

Resolve what is asked for, ensure the services and wait for them, set the variables, run the command in our place, give everything back, and
leave a record. The job knows nothing of it but its environment. It ends how it ends: an exit code passes through, and 128 + n stands for
signal n, as in shells. Variables: `variables`; signals and processes: `job`; what happens when X dies: docs/training-jobs.md.

`launch` blocks. In the main thread signals meet the job; in another thread they stay the caller's.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from fondaco.core.errors import InputError, MissingExtraError, ReadOnlyError
from fondaco.models import environment, variables
from fondaco.models.guard import ENDING
from fondaco.models.job import NOT_EXECUTABLE, NOT_FOUND, CommandError, End, Job
from fondaco.models.request import Request, RunPlatform, resolve
from fondaco.models.variables import Facts

if TYPE_CHECKING:
    from fondaco.catalog.rows import RunState
    from fondaco.models.supply import Progress, Say

TIMEOUT: Final = "10m"  # for services to become ready
LEASE: Final = "60s"
_NPROC_WORDS: Final = ("auto", "cpu", "gpu")
_KEPT: Final = frozenset({"FONDACO_GRAPH_TOKEN", "FONDACO_GRAPH_CA"})  # who asks and whom it trusts, not where the graph is


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        state: "SUCCEEDED", "FAILED", or "STOPPED" by a signal that somebody sent. exit_code: the job's, 128 + n if signal n ended it.
        graphs: versions by name. features: plan hashes by set. services: names. packages: digest of what was installed.
        seconds: of the job alone; prepared_s: before it.
    """

    run_id: str
    name: str
    state: str
    exit_code: int
    signal: int | None
    graphs: Mapping[str, int]
    features: Mapping[str, str]
    services: tuple[str, ...]
    packages: str
    seconds: float
    prepared_s: float

    @property
    def succeeded(self) -> bool:
        """Whether the job ended with exit code 0."""
        return self.state == "SUCCEEDED"


def launch(
    platform: RunPlatform,
    command: Sequence[str],
    request: Request | None = None,
    *,
    nproc: int | str | None = None,
    directory: str | os.PathLike[str] | None = None,
    timeout: str = TIMEOUT,
    lease: str = LEASE,
    say: Say = lambda line: None,
    progress: Progress | None = None,
) -> RunResult:
    """Run a command with what it asks for, and wait for it.

    Args:
        nproc: run it under torchrun with so many processes on this machine; also "gpu", "cpu", "auto".
        directory: where it runs; None: here.
        timeout: for the services to become ready. lease: how long they are kept after this process was killed.
        say: gets one line at a time of what a user should know. progress: called while services start.
    Raises:
        CommandError: there is no such program. InputError, NotFoundError and their kin: what `resolve` finds; nothing has run then.
        ServiceFailedError, DeadlineExceededError, UnavailableError: as `Services.ensure`; the record says FAILED.
        ReadOnlyError: services are asked for, and the platform cannot be written.
    """
    from fondaco.catalog import runs
    from fondaco.catalog.rows import RunState
    from fondaco.models.runs import RunRecord, secretless
    from fondaco.models.supply import supplied

    begun = time.monotonic()
    request = request or Request()
    where = Path(os.getcwd() if directory is None else directory).absolute()
    line = [os.fspath(word) for word in command]
    check_command(line, where)
    if nproc is not None:
        line = under_torchrun(line, nproc)
    resolved = resolve(platform, request)
    if platform.read_only:
        if resolved.specs:
            raise ReadOnlyError(str(platform.directory))
        say("the platform cannot be written: this run leaves no record")
    found = environment.describe(line, where)
    run_id = runs.new_id()
    name = request.name or run_id
    with _Interruptible() as interruptible:
        record = RunRecord.begin(platform, run_id, name=name, command=line, directory=str(where), resolved=resolved, environment=found)
        started: float | None = None
        end: End | None = None
        try:
            with supplied(platform, resolved, record, lease=lease, timeout=timeout, say=say, progress=progress) as supply:
                facts = Facts(run_id, name, str(platform.directory), supply.served, resolved.features)
                given = variables.variables(facts, deepgnn=request.deepgnn) | variables.filled(request.env, variables.words(facts))
                interruptible.raising = False
                with Job(line, without_stale(os.environ, facts) | given, run_id=run_id, directory=str(where)) as job:
                    started = time.monotonic()
                    record.update(state=RunState.RUNNING, variables=secretless(given, request.env))
                    end = interruptible.caught or job.wait()
                ended = time.monotonic()
                state = _state_of(end, job.signalled)
                record.finish(state, exit_code=end.exit_code, signal=end.signal)
        except _Interrupted as exc:
            if end is None:
                say(f"stopped by {signal.Signals(exc.number).name} before the job had started")
                end, state, ended = End(128 + exc.number, exc.number), RunState.STOPPED, time.monotonic()
                record.finish(state, exit_code=end.exit_code, signal=end.signal)
        except BaseException as exc:
            if started is None:
                record.update(environment=found.to_dict() | {"not_started": str(exc) or type(exc).__name__})
            record.finish(RunState.FAILED)
            raise
    return RunResult(
        run_id,
        name,
        state.value,
        end.exit_code,
        end.signal,
        resolved.graphs,
        {features.name: features.plan for features in resolved.features},
        tuple(served.service for served in resolved.served),
        found.digest,
        ended - (started or ended),
        (started or ended) - begun,
    )


def check_command(command: Sequence[str], directory: Path) -> None:
    """Find out whether there is such a program, before anything is started for it.

    Raises:
        InputError: there is no command. CommandError: no such program, or one that cannot be run.
    """
    if not command or not command[0]:
        raise InputError("what shall run? Write the command after `--`, as in: fondaco train --graph routes -- python train.py")
    program = command[0]
    path = directory / program if os.sep in program else program
    if shutil.which(path) is None:
        if os.sep in program and Path(path).exists():
            raise CommandError(program, "cannot be run: it is no file that may be executed (chmod +x)", NOT_EXECUTABLE)
        raise CommandError(program, "command not found", NOT_FOUND)


def under_torchrun(command: Sequence[str], nproc: int | str) -> list[str]:
    """The command line that runs a command `nproc` times under torchrun, on this machine, with the interpreter that the command uses.

    Raises:
        InputError: no such number of processes. MissingExtraError: torch is not installed.
    """
    number = str(nproc)
    if number not in _NPROC_WORDS and not (number.isdecimal() and 1 <= int(number) <= 1024):
        raise InputError(f"--nproc is how many processes, from 1 to 1024, or one of {', '.join(_NPROC_WORDS)}; not {number!r}")
    python = environment.interpreter_of(command)
    if python == sys.executable and importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", "graph", "--nproc")
    return [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", number, "--no-python", *command]


def without_stale(inherited: Mapping[str, str], facts: Facts) -> dict[str, str]:
    """Our own environment, without what another run told about graphs, services or features where this one tells about them."""
    families = ("FONDACO_SERVICE",) * bool(facts.served) + ("FONDACO_FEATURES",) * bool(facts.features)
    if facts.graphs:
        families += ("FONDACO_GRAPH_",)
    return {name: value for name, value in inherited.items() if name in _KEPT or not name.startswith(families)}


def _state_of(end: End, signalled: int | None) -> RunState:
    from fondaco.catalog.rows import RunState

    if signalled in ENDING or end.signal == signal.SIGINT:
        return RunState.STOPPED
    return RunState.SUCCEEDED if end.exit_code == 0 else RunState.FAILED


class _Interrupted(BaseException):
    """Somebody wants us to end, by a signal. Not an Exception: nothing on the way shall take it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Interruptible:
    """Signals while there is no job to pass them on to: the first leads out, orderly; a second one on the way out cuts that short."""

    def __init__(self) -> None:
        self.raising = True
        self.caught: End | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Interruptible:
        if current_thread() is main_thread():
            for number in ENDING:
                if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` means it
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.raising or self.caught is not None:
            self.raising = False
            self.caught = End(128 + number, number)
            raise _Interrupted(number)
        self.caught = End(128 + number, number)

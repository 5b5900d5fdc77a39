"""Launcher: a job, run with the services that it needs: `fondaco train`.

Resolve what is asked for, ensure the services and wait for them, set the variables, run the command, give everything back, and leave a
record. The job knows nothing of it but its environment. It ends how it ends: an exit code passes through, and 128 + n stands for signal n,
as in shells. Variables: `variables`; signals and processes: `job`; what happens when X dies: docs/training-jobs.md.

`launch` blocks. In the main thread signals meet the job; in another thread they stay the caller's.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fondaco.core.errors import InputError, ReadOnlyError
from fondaco.core.units import parse_duration_us
from fondaco.models import variables
from fondaco.models.interrupts import Interrupted, Interruptible
from fondaco.models.job import End
from fondaco.models.request import Request, RunPlatform, resolve
from fondaco.models.runner import Outcome, Runner
from fondaco.models.variables import Facts

if TYPE_CHECKING:
    from fondaco.catalog.rows import RunState
    from fondaco.models.supply import Progress, Say

TIMEOUT: Final = "10m"  # for services to become ready
_LEASE_US_MIN: Final = 1_000_000  # three renewals in it have to find a busy machine awake


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        state: "SUCCEEDED", "FAILED", or "STOPPED" by a signal that somebody sent. exit_code: the job's, 128 + n if signal n ended it.
        graphs: versions by name. features: plan hashes by set. services: names. message: what else is known of the end.
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
    message: str
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
    runner: Runner | None = None,
    timeout: str = TIMEOUT,
    lease: str | None = None,
    say: Say = lambda line: None,
    progress: Progress | None = None,
) -> RunResult:
    """Run a command with what it asks for, and wait for it.

    Args:
        runner: where it runs; None: here (`fondaco.models.Here()`).
        timeout: for the services to become ready. lease: how long they are kept after this process was killed; None: as the runner
            says, or as configured.
        say: gets one line at a time of what a user should know. progress: called while services start.
    Raises:
        CommandError: there is no such program. InputError, NotFoundError and their kin: what `resolve` finds; nothing has run then.
        ServiceFailedError, DeadlineExceededError, UnavailableError: as `Services.ensure`; the record says FAILED.
        ReadOnlyError: services are asked for, and the platform cannot be written.
    """
    from fondaco.catalog import runs
    from fondaco.catalog.rows import RunState
    from fondaco.models.here import Here
    from fondaco.models.runs import RunRecord, secretless
    from fondaco.models.supply import supplied

    begun = time.monotonic()
    request, runner = request or Request(), runner or Here()
    lease = runner.lease if lease is None else lease
    _check_times(timeout, lease)
    line = runner.prepare(command)
    resolved = resolve(platform, request)
    if platform.read_only:
        if resolved.specs:
            raise ReadOnlyError(str(platform.directory))
        say("the platform cannot be written: this run leaves no record")
    found, packages = runner.describe(line)
    run_id = runs.new_id()
    name = request.name or run_id
    directory = runner.platform_directory or str(platform.directory)
    started: list[float] = []
    outcome: Outcome | None = None

    def on_start() -> None:
        interruptible.raising = not runner.takes_signals
        started.append(time.monotonic())
        record.update(state=RunState.RUNNING, variables=secretless(given, request.env))

    with Interruptible() as interruptible:
        record = RunRecord.begin(
            platform, run_id, name=name, command=line, directory=runner.directory, resolved=resolved, environment=found, packages=packages
        )
        try:
            with supplied(platform, resolved, record, lease=lease, timeout=timeout, say=say, progress=progress) as supply:
                facts = Facts(run_id, name, directory, supply.served, resolved.features)
                given = variables.variables(facts, deepgnn=request.deepgnn) | variables.filled(request.env, variables.words(facts))
                outcome = runner.run(line, given, facts, on_start)
                interruptible.raising = False
                ended = time.monotonic()
                record.finish(_state_of(outcome), exit_code=outcome.end.exit_code, signal=outcome.end.signal)
        except Interrupted as exc:
            if outcome is None:
                say(f"stopped by {signal.Signals(exc.number).name}" + ("" if started else " before the job had started"))
                outcome, ended = Outcome(End(128 + exc.number, exc.number), stopped=True), time.monotonic()
                record.finish(RunState.STOPPED, exit_code=outcome.end.exit_code, signal=exc.number)
        except BaseException as exc:
            if outcome is None:
                record.update(environment=found | {"failed_with": str(exc) or type(exc).__name__})
                record.finish(RunState.FAILED)
            raise
    return RunResult(
        run_id,
        name,
        _state_of(outcome).value,
        outcome.end.exit_code,
        outcome.end.signal,
        resolved.graphs,
        {features.name: features.plan for features in resolved.features},
        tuple(served.service for served in resolved.served),
        outcome.message,
        ended - (started or [ended])[0],
        (started or [ended])[0] - begun,
    )


def _check_times(timeout: str, lease: str | None) -> None:
    parse_duration_us(timeout)
    if lease is not None and parse_duration_us(lease) < _LEASE_US_MIN:
        raise InputError(f"--lease {lease}: a lease of a job lasts a second or more; it is renewed three times in its length")


def _state_of(outcome: Outcome) -> RunState:
    from fondaco.catalog.rows import RunState

    if outcome.stopped:
        return RunState.STOPPED
    return RunState.SUCCEEDED if outcome.end.exit_code == 0 else RunState.FAILED

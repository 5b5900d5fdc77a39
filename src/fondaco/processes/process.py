"""Process: one program that is kept running: started, watched until it is ready and for as long as it runs, started again when it ends.

A process that ends, or that was ready and no longer answers, is started again after a pause that doubles from 0.2 s to 30 s and begins
anew once it ran for a minute. It is never given up. Only a first start that ends with the exit code of a user's mistake, where the
program has one, is not repeated: the same again would end the same. All of it runs on one event loop, in the main thread (see `launch`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from fondaco.core.errors import FondacoError
from fondaco.core.runfile import ProcessInfo, ProcessState
from fondaco.processes.probes import Probe

USER_MISTAKE: Final = 2  # exit code of our programs for what the same call would meet again
_CUT_OFF_S: Final = 2.0  # how long the pipe of a process that ended may still bring lines


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the supervisor waits for what, in seconds."""

    start: float = 180.0  # until a process is ready; the kernels may have to be compiled first
    hang: float | None = 30.0  # without an answer before a process that was ready is killed; None: never for that
    drain: float = 15.0  # between SIGTERM and SIGKILL
    pause_first: float = 0.2  # before it is started again
    pause_longest: float = 30.0
    settled: float = 60.0  # a process that ran for so long begins again with the first pause
    probe_first: float = 0.1  # between the first two questions while it starts; the pause grows to `probe_every`
    probe_every: float = 0.1
    watch_every: float = 2.0  # while it runs
    misses: int | None = None  # after so many questions in a row without an answer it is not called ready; None: it is until it is killed


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run, and how to ask it.

    Attributes:
        argv: program and arguments; see `launch.command` for a module of ours.
        env: its variables; None: ours, and PYTHONUNBUFFERED.
        mistake: the exit code by which it says at its first start that the same start would end the same; None: it has none.
        obstacle: asked before each start: what is in its way, in words; then it is not started, and tried again after the pause.
        before_exec: called in the child before it becomes the program; only where the supervisor has no threads.
        after_end: called with its pid when it has ended, and before it is started again: what it may have left running is ended here.
    """

    name: str
    argv: tuple[str, ...]
    probe: Probe
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    mistake: int | None = USER_MISTAKE
    obstacle: Callable[[], str | None] | None = None
    before_exec: Callable[[], None] | None = None
    after_end: Callable[[int], None] | None = None


class Sink(Protocol):
    """Where goes what a process says, and what is said about it."""

    async def take(self, stream: asyncio.StreamReader) -> None:
        """Take its stdout and stderr until they end."""
        ...

    def say(self, what: str) -> None:
        """A remark of the supervisor."""
        ...


class StartFailedError(FondacoError):
    """A process ended at its first start by a mistake that the same start would meet again; it said itself which."""

    blame = "user"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"the {self.name} process could not start; its message is above"


class KeptProcess:
    """One process that is kept running. `keep` runs until `stop`; `changed` is called whenever `info` differs from before, or the
    reason why it is not ready."""

    def __init__(self, spec: ProcessSpec, patience: Patience, sink: Sink, changed: Callable[[], None]) -> None:
        self.spec = spec
        self.ready = asyncio.Event()  # set when it was ready for the first time
        self.failures = 0  # ends in a row that were not meant
        self._patience = patience
        self._sink = sink
        self._changed = changed
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()  # ends a pause
        self._running: asyncio.subprocess.Process | None = None
        self._gone = asyncio.Event()  # set when the one that ran last has ended
        self._started_at = 0.0
        self._info = ProcessInfo(spec.name, ProcessState.STOPPED, None, 0, None)

    @property
    def info(self) -> ProcessInfo:
        """How it stands now."""
        return self._info

    async def keep(self) -> None:
        """Start it, and again whenever it ends, until `stop` is called.

        Raises:
            StartFailedError: its first start ended with the exit code of a mistake.
        """
        while not self._stopping.is_set():
            end = await self._run_once()
            if self._stopping.is_set():
                break
            if end.code is not None and end.code == self.spec.mistake and not self.ready.is_set():
                raise StartFailedError(self.spec.name)
            await self._pause(end)
        self._set(ProcessState.STOPPED, pid=None)

    async def stop(self) -> None:
        """End it: SIGTERM, then after the time to drain SIGKILL to its whole group. Returns when it is gone."""
        self._stopping.set()
        self._hurry.set()
        process = self._running
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            process.send_signal(signal.SIGCONT)  # one that was stopped could not obey
        try:
            async with asyncio.timeout(self._patience.drain):
                await self._gone.wait()
        except TimeoutError:
            self._say(f"did not end within {self._patience.drain:g} s of SIGTERM: killed")
            self._kill(process)
            await self._gone.wait()

    def kill(self) -> None:
        """End it at once, and all that it started."""
        self._stopping.set()
        self._hurry.set()
        if self._running is not None:
            self._kill(self._running)

    def anew(self) -> None:
        """Forget that it failed before: begin again with the first pause, and end the one that is."""
        self.failures = 0
        self._hurry.set()

    # -- one run --------------------------------------------------------------------------------------------------------------------

    async def _run_once(self) -> _End:
        spec = self.spec
        if spec.obstacle is not None and (obstacle := spec.obstacle()) is not None:
            return _End(None, 0.0, obstacle)
        try:
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"} if spec.env is None else spec.env,
                cwd=spec.cwd,
                preexec_fn=spec.before_exec,
                process_group=0,  # Ctrl-C in a terminal reaches the supervisor only, which stops the others in order
            )
        except (OSError, subprocess.SubprocessError) as exc:
            return _End(None, 0.0, _not_started(spec, exc))
        assert process.stdout is not None
        self._running, self._started_at = process, time.monotonic()
        self._gone.clear()
        if self._stopping.is_set():  # `stop` came while it was being started, and saw nothing to end
            self._kill(process)
        self._set(ProcessState.STARTING, pid=process.pid, started_us=time.time_ns() // 1000)
        lines = asyncio.create_task(self._sink.take(process.stdout))
        watch = asyncio.create_task(self._watch(process))
        try:
            code = await _end_of(process)
        finally:
            watch.cancel()
            self._running = None
            self._gone.set()
            if spec.after_end is not None:
                spec.after_end(process.pid)
            with contextlib.suppress(TimeoutError):  # a grandchild may hold the pipe a moment longer
                await asyncio.wait_for(lines, _CUT_OFF_S)
        hung = watch.result() if watch.done() and not watch.cancelled() else None
        return _End(code, time.monotonic() - self._started_at, hung)

    async def _watch(self, process: asyncio.subprocess.Process) -> str:
        """Wait until it is ready, then look whether it answers; kill it if it does not, and say why."""
        patience, probe, pid = self._patience, self.spec.probe, process.pid
        last, pause, why = time.monotonic(), min(patience.probe_first, patience.probe_every), probe.why
        while not await probe.is_ready(pid):
            if probe.why != why:
                why = probe.why
                self._changed()
            if time.monotonic() - last > patience.start:
                self._kill(process)
                return f"was not ready after {patience.start:g} s and was killed" + (f" ({probe.why})" if probe.why else "")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, patience.probe_every)
        self._set(ProcessState.READY, pid=pid)
        if self._info.restarts:
            self._say(f"is ready again (process {pid})")
        self.ready.set()
        last, misses = time.monotonic(), 0
        while True:
            await asyncio.sleep(min(patience.watch_every, patience.probe_every) if misses else patience.watch_every)
            if await probe.is_alive(pid):
                last, misses = time.monotonic(), 0
                if self._info.state is ProcessState.SILENT:
                    self._set(ProcessState.READY)
                continue
            misses += 1
            if patience.hang is not None and time.monotonic() - last > patience.hang:
                self._kill(process)
                return f"did not answer for {patience.hang:g} s and was killed"
            if misses == patience.misses:
                self._set(ProcessState.SILENT)

    async def _pause(self, end: _End) -> None:
        patience = self._patience
        self.failures = 1 if end.seconds > patience.settled else self.failures + 1
        pause = min(patience.pause_first * 2 ** (self.failures - 1), patience.pause_longest)
        again = "" if self.failures < 5 else f"; this was the {self.failures}th time in a row, it is tried for ever"
        self._set(ProcessState.WAITING, pid=None, restarts=self._info.restarts + 1, last_end=str(end))
        self._say(f"{end}; starting it again in {pause:g} s{again}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), pause)
        if not self._stopping.is_set():
            self._hurry.clear()

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def _say(self, what: str) -> None:
        self._sink.say(f"{self.spec.name} {what}")

    def _set(self, state: ProcessState, **changes: object) -> None:
        before = self._info
        values = {name: changes.get(name, getattr(before, name)) for name in ("pid", "restarts", "started_us", "last_end")}
        self._info = ProcessInfo(before.name, state, **values)  # type: ignore[arg-type]  # the names are those of the struct
        self._changed()


@dataclass(frozen=True, slots=True)
class _End:
    """How one run ended: the exit code (negative: the signal; None: it was not even started), after how long, and why if it was us."""

    code: int | None
    seconds: float
    ours: str | None

    def __str__(self) -> str:
        if self.ours is not None:
            return self.ours
        assert self.code is not None
        if self.code < 0:
            try:
                how = f"was ended by {signal.Signals(-self.code).name}"
            except ValueError:
                how = f"was ended by signal {-self.code}"
        else:
            how = f"ended with exit code {self.code}"
        return f"{how} after {self.seconds:.1f} s"


async def _end_of(process: asyncio.subprocess.Process) -> int:
    """Wait for the end of a process and return its exit code. `Process.wait` would also wait for all who have inherited its pipe, as a
    daemon that it has left behind; so the kernel is asked about the process alone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:  # asyncio has taken leave of it already
        pass
    else:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    while process.returncode is None:  # it is about to be told
        await asyncio.sleep(0.001)
    return process.returncode


def _not_started(spec: ProcessSpec, exc: Exception) -> str:
    if isinstance(exc, FileNotFoundError) and spec.cwd is not None and not spec.cwd.is_dir():
        return f"could not be started: its directory {spec.cwd} is gone"
    if isinstance(exc, FileNotFoundError):
        return f"could not be started: there is no program {spec.argv[0]!r}"
    if isinstance(exc, PermissionError):
        return f"could not be started: {spec.argv[0]!r} may not be executed"
    return f"could not be started: {exc}"

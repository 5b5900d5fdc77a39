"""Instance: one process of a service under its keeper: started within its limits, asked, started again, and ended with all it started.

FAILED is said of one that ended five times in a row before it was ever ready, or was not ready in time, or could not be started; it is
tried on all the same, and what makes it ready makes it well. asyncio, in the keeper's only thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from fondaco.core.errors import InputError
from fondaco.core.runfile import ProcessState
from fondaco.processes.probes import CommandProbe, HttpProbe, Probe, RunningProbe, TcpProbe
from fondaco.processes.process import KeptProcess, Patience, ProcessSpec
from fondaco.services.local import ports, tree
from fondaco.services.local.files import KeptInstance
from fondaco.services.local.limits import Limits
from fondaco.services.local.logfile import LogFile
from fondaco.services.local.plan import Plan, machine, read_secret
from fondaco.services.provisioner import Phase

CRASHES: Final = 5  # in a row, before it was ever ready, make a crash loop
_SETTLE_S: Final = 0.3  # one without a readiness check must run for so long
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)  # opened before any fork
_WATCH: Final = (
    5.0  # times `every_s`, and seconds at most beyond it: between two questions once it is ready; idleness costs next to nothing
)


class RunningInstance:
    """One instance, from its start to its end. Begins at once; `end` ends it.

    Args:
        secrets: values by reference. log: where what it says goes. files: how many it may have open.
        say: takes remarks. changed: called when `state` may be another.
    """

    def __init__(
        self, plan: Plan, *, secrets: Mapping[str, str], log: Path, files: int, say: Callable[[str], None], changed: Callable[[], None]
    ) -> None:
        self.plan = plan
        self.ending = False
        self._secrets = secrets
        self._say = say
        self._log = LogFile(log)
        self._limits = Limits(plan.resources, plan.index)
        self._env: dict[str, str] = {}
        self._failed = False
        self._ended_by = ""
        self._limits_words = self._limits.words
        spec = ProcessSpec(
            name=f"instance {plan.index}",
            argv=plan.argv,
            probe=_OwnPort(_probe(plan, self._env, self._enter), plan),
            env=self._env,
            cwd=plan.cwd,
            mistake=None,
            obstacle=self._prepare,
            before_exec=self._enter,
            after_end=self._clean,
        )
        readiness = plan.readiness
        patience = Patience(
            start=readiness.start_s,
            hang=readiness.hang_s,
            drain=plan.grace_s,
            probe_first=0.02,
            probe_every=readiness.every_s,
            watch_every=max(readiness.every_s, min(readiness.every_s * _WATCH, _WATCH)),
            misses=2,
        )
        self._keeper, self._files = os.getpid(), files
        self._process = KeptProcess(spec, patience, self, self._on_change)
        self._changed = changed
        self.task = asyncio.create_task(self._process.keep(), name=spec.name)
        self.task.add_done_callback(lambda task: self._over())

    # -- how it stands ----------------------------------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        return self._process.info.state is ProcessState.READY and not self.ending

    @property
    def pid(self) -> int | None:
        return self._process.info.pid

    def state(self, *, current: bool) -> KeptInstance:
        """What is written down about it."""
        info, probe = self._process.info, self._process.spec.probe
        reason = ""
        if self.ending:
            phase, reason = Phase.STARTING, "it is stopped, to be started as it shall be now"
        elif info.state is ProcessState.READY:
            phase = Phase.READY
        elif info.state is ProcessState.SILENT:
            phase, reason = Phase.DEGRADED, f"does not answer: {probe.why}"
        else:
            was_ready = self._process.ready.is_set()
            phase = Phase.FAILED if self._failed else Phase.DEGRADED if was_ready else Phase.STARTING
            again = f" (start {info.restarts + 1})" if info.restarts else ""
            if info.state is ProcessState.WAITING or self._failed:
                reason = self._last_end(info.last_end or "")
            else:
                reason = f"starts{again}" + (f"; {probe.why}" if probe.why else "")
        where = machine() + (f", process {info.pid}" if info.pid else "") + (f", {self._limits_words}" if self._limits_words else "")
        return KeptInstance(
            self.plan.index, phase, info.pid, info.restarts, reason, where, current, self._process.ready.is_set(), dict(self.plan.ports)
        )

    def _last_end(self, end: str) -> str:
        count = self._process.failures
        loop = "CrashLoop: " if count >= CRASHES else ""
        return f"{loop}{end}" + (f", {count} times in a row" if count > 1 else "") + (f"; {self._ended_by}" if self._ended_by else "")

    def anew(self) -> None:
        """Try again what has failed, at once and as if it had not."""
        if self._failed:
            self._failed = False
            self._process.anew()

    # -- its end ----------------------------------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """SIGTERM, after the grace SIGKILL, and then whatever it has left running."""
        self.ending = True
        self._changed()
        await self._process.stop()
        await asyncio.wait([self.task])

    def _over(self) -> None:
        self._limits.remove()
        self._log.close()
        if not self.task.cancelled() and (error := self.task.exception()) is not None:
            self._say(f"instance {self.plan.index} is not kept any more: {error!r}")
            self._failed = True
        self._changed()

    # -- what KeptProcess calls ---------------------------------------------------------------------------------------------------------

    async def take(self, stream: asyncio.StreamReader) -> None:
        await self._log.take(stream)

    def say(self, what: str) -> None:
        self._say(what)

    def _on_change(self) -> None:
        process = self._process
        if process.info.state is ProcessState.READY:
            self._failed, self._ended_by = False, ""
        elif process.info.state is ProcessState.WAITING and not process.ready.is_set():
            end = process.info.last_end or ""
            self._failed = process.failures >= CRASHES or not end.startswith(("ended", "was ended"))
        self._changed()

    def _prepare(self) -> str | None:
        """Fill in what is read at each start, and say what is in its way."""
        try:
            values = {name: read_secret(reference, self._secrets, path=f"secrets.{name}") for name, reference in self.plan.secrets.items()}
        except InputError as exc:
            return f"could not be started: {exc}"
        self._env.clear()
        self._env.update(self.plan.env | values)
        for name, port in self.plan.ports.items():
            if (obstacle := ports.obstacle(self.plan.host, port)) is not None:
                return f"could not be started: {obstacle} (port {name!r})"
        try:
            self.plan.cwd.mkdir(exist_ok=True)  # not its parents: a service whose directory was removed is over
        except OSError as exc:
            return f"could not be started: {self.plan.cwd} cannot be made: {exc}"
        return None

    def _enter(self) -> None:
        """In the child: die with the keeper, within the limits, with signals as a program expects them."""
        _LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != self._keeper:  # it ended before the kernel knew
            os._exit(1)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._files, hard))
        self._limits.enter()

    def _clean(self, pid: int) -> None:
        """Its first process has ended: end what that has left behind, in whatever session."""
        self._ended_by = self._limits.broken()
        beginning, root = self.plan.env[tree.MARKER], os.getpid()

        def left() -> list[tree.Seen]:
            below = tree.descendants(root, tree.see_all())
            return [one for one in below if one.group == pid or (tree.variable(one.pid, tree.MARKER) or "") == beginning]

        count = tree.end_all(left)
        if count:
            self._say(f"instance {self.plan.index} has left {count} processes running; they were killed")


class _OwnPort:
    """A probe that believes an answer only if no stranger gave it: one who took the port between our look and the program's start."""

    def __init__(self, probe: Probe, plan: Plan) -> None:
        self._probe, self._plan = probe, plan
        self._asks_port = bool(plan.readiness.http is not None or plan.readiness.tcp)
        self.why = ""

    async def is_ready(self, pid: int) -> bool:
        answer = await self._probe.is_ready(pid)
        self.why = self._probe.why
        if answer and self._asks_port:
            found = tree.listener(self._plan.asked_port, likely=pid)
            if found is not None and not self._is_ours(found[0], pid):
                self.why = f"port {self._plan.asked_port} is answered by process {found[0]} ({found[1]}), which is none of this instance"
                return False
        return answer

    async def is_alive(self, pid: int) -> bool:
        answer = await self._probe.is_alive(pid)
        self.why = self._probe.why
        return answer

    def _is_ours(self, found: int, pid: int) -> bool:
        if found == pid or tree.variable(found, tree.MARKER) == self._plan.env[tree.MARKER]:
            return True
        return any(one.pid == found for one in tree.descendants(os.getpid(), tree.see_all()))


def _probe(plan: Plan, env: Mapping[str, str], before_exec: Callable[[], None]) -> Probe:
    readiness = plan.readiness
    if readiness.http is not None:
        return HttpProbe(
            plan.host,
            plan.asked_port,
            ready=readiness.http,
            alive=readiness.http,
            statuses=range(200, 400),
            timeout_s=readiness.timeout_s,
        )
    if readiness.tcp:
        return TcpProbe(plan.host, plan.asked_port, readiness.timeout_s)
    if readiness.command:
        return CommandProbe(readiness.command, env, plan.cwd, readiness.timeout_s, before_exec)
    return RunningProbe(_SETTLE_S)

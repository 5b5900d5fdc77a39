"""Supervisor: what `fondaco up` is: three processes of one platform directory, kept running, and stopped in order.

One supervisor per directory, by a lock that dies with it. It says on stdout what listens where once everything is ready, and on stderr,
line by line, what the processes say. SIGTERM, SIGINT and SIGHUP stop the servers, which take no new work and finish what they have, then
the tailer, each within a bound; a second signal kills at once. No process outlives the supervisor (see `launch`).
It reads no row and opens no store: whatever happens in the processes, it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from fondaco.core.errors import FondacoError, LockedError, StateError
from fondaco.core.files import FileLock, os_errors
from fondaco.core.runfile import LOCK_FILE, RunFile, find_run_file, remove_run_file, run_directory, write_run_file
from fondaco.processes.lines import LineSink, LineWriter
from fondaco.processes.process import KeptProcess, Patience, ProcessSpec

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Keeps the processes of one platform directory running. Hold the directory (`held`), then `run`.

    Args:
        on_ready: called once, when every process was ready.
    """

    def __init__(self, directory: Path, *, on_ready: Callable[[RunFile], None], patience: Patience | None = None) -> None:
        self._directory = directory
        self._on_ready = on_ready
        self._patience = patience or Patience()
        self._data = self._control = ""
        self._started_us = time.time_ns() // 1000
        self._stages: list[list[KeptProcess]] = []
        self._writer: LineWriter | None = None
        self._signals = 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory against every other supervisor.

        Raises:
            StateError: one is at work; names it.
        """
        with os_errors(self._directory):
            run_directory(self._directory).mkdir(exist_ok=True)
        lock = FileLock(run_directory(self._directory) / LOCK_FILE)
        try:
            lock.acquire()
        except LockedError as exc:
            raise StateError(_is_up(self._directory, exc.pid)) from None
        try:
            yield
        finally:
            lock.release()

    def run(self, stages: Sequence[Sequence[ProcessSpec]], *, data: str, control: str) -> None:
        """Run until a signal has stopped them all; from the main thread, with the directory held.

        Args:
            stages: the processes, in the order in which they are stopped: all of one stage together, and then the next.
            data, control: the addresses that others are told.
        Raises:
            StartFailedError: a process cannot start as asked.
        """
        self._data, self._control = data, control
        self._writer = writer = LineWriter(sys.stderr.fileno())
        self._stages = [
            [KeptProcess(spec, self._patience, LineSink(writer, spec.name, "up"), self._changed) for spec in stage] for stage in stages
        ]
        try:
            asyncio.run(self._run())
        finally:
            writer.close()
            remove_run_file(self._directory)

    async def _run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number, stop)
        keepers = [asyncio.create_task(process.keep()) for process in self._processes]
        ready = asyncio.create_task(self._announce())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*keepers, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            stopped.cancel()
            for stage in self._stages:
                await asyncio.gather(*(process.stop() for process in stage))
            outcomes = await asyncio.gather(*keepers, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _announce(self) -> None:
        for process in self._processes:
            await process.ready.wait()
        with contextlib.suppress(OSError):  # whoever read our stdout has left
            self._on_ready(self._run_file())

    @property
    def _processes(self) -> list[KeptProcess]:
        return [process for stage in reversed(self._stages) for process in stage]  # the last to be stopped is the first to be started

    def _on_signal(self, number: signal.Signals, stop: asyncio.Event) -> None:
        assert self._writer is not None
        self._signals += 1
        if self._signals == 1:
            self._writer.say("up", f"{number.name}: stopping; once more kills at once")
            stop.set()
        else:
            self._writer.say("up", f"{number.name} again: killing")
            for process in self._processes:
                process.kill()

    def _run_file(self) -> RunFile:
        processes = tuple(process.info for process in self._processes)
        return RunFile(os.getpid(), str(self._directory), self._data, self._control, self._started_us, processes)

    def _changed(self) -> None:
        assert self._writer is not None
        try:
            write_run_file(self._directory, self._run_file())
        except (FondacoError, OSError) as exc:  # a full disk must not stop the processes; the file is for others to look at
            self._writer.say("up", f"run/up.json could not be written: {exc}")


def _is_up(directory: Path, pid: int | None) -> str:
    run = find_run_file(directory)
    where = f", data plane {run.data}, control API {run.control}" if run is not None and run.pid == pid else ""
    who = f"process {pid}" if pid else "another process"
    remedy = f"stop it (kill {pid})" if pid else "stop it"
    return f"{directory} is up already: {who}{where}; use that one, or {remedy} first"

"""Run file: `run/up.json` in a platform's directory, where others find what `fondaco up` started: addresses, pids, states, restarts.

Replaced as a whole at each change, so a reader never sees half of it; removed at the end. Whether it is true is decided by the lock
`run/up.lock`, which dies with its holder: after `kill -9` the file stays and the lock is free.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

import msgspec

from fondaco.core.files import os_errors

RUN_DIRECTORY = "run"
RUN_FILE = "up.json"
LOCK_FILE = "up.lock"


class ProcessState(StrEnum):
    """Where a supervised process stands."""

    STARTING = "starting"  # runs, and does not say yet that it is ready
    READY = "ready"
    SILENT = "silent"  # was ready, runs, and does not answer now
    WAITING = "waiting"  # it ended and is started again after a pause
    STOPPED = "stopped"  # ended, and meant to


class ProcessInfo(msgspec.Struct, frozen=True):
    """One supervised process. `pid` is None while it does not run; `restarts` counts since `fondaco up` began."""

    name: str
    state: ProcessState
    pid: int | None
    restarts: int
    started_us: int | None
    last_end: str | None = None  # how it ended last, in words


class RunFile(msgspec.Struct, frozen=True):
    """The whole file."""

    pid: int
    directory: str
    data: str
    control: str
    started_us: int
    processes: tuple[ProcessInfo, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether every process is."""
        return bool(self.processes) and all(process.state is ProcessState.READY for process in self.processes)


def run_directory(directory: Path) -> Path:
    """The folder for what lives as long as the processes do."""
    return directory / RUN_DIRECTORY


def write_run_file(directory: Path, run: RunFile) -> None:
    """Replace the file. Nothing is synced to disk: after a power loss nothing that it names runs."""
    path = run_directory(directory) / RUN_FILE
    temporary = path.with_suffix(".tmp")
    with os_errors(path):
        temporary.write_bytes(msgspec.json.encode(run) + b"\n")
        os.replace(temporary, path)


def find_run_file(directory: Path) -> RunFile | None:
    """The file, or None if there is none that can be read."""
    try:
        return msgspec.json.decode((run_directory(directory) / RUN_FILE).read_bytes(), type=RunFile)
    except (OSError, msgspec.MsgspecError):
        return None


def remove_run_file(directory: Path) -> None:
    """Remove the file; absent is fine."""
    (run_directory(directory) / RUN_FILE).unlink(missing_ok=True)

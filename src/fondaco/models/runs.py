"""Runs: the record that each job leaves: what ran, on which versions and packages, and how it ended.

A platform that cannot be written keeps no records, and a catalog that does not answer for a moment loses a heartbeat, not the job: only
`begin` raises. The names of a run's packages lie beside the platform, one file for all runs that had the same, named by the digest; so two
runs can be compared line by line. Any thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fondaco.catalog.rows import RunRow, RunState
from fondaco.core.errors import FondacoError
from fondaco.core.files import os_errors, write_atomically
from fondaco.models.environment import digest_of
from fondaco.models.request import Resolved, RunPlatform

BEAT_S: Final = 10.0
LOST_US: Final = 60_000_000  # without a heartbeat: six of them missed
PACKAGES_DIRECTORY: Final = Path("runs", "packages")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The record of one run, as its launcher writes it."""

    platform: RunPlatform
    run_id: str
    kept: bool  # False: the platform cannot be written

    @classmethod
    def begin(
        cls,
        platform: RunPlatform,
        run_id: str,
        *,
        name: str,
        command: Sequence[str],
        directory: str,
        resolved: Resolved,
        environment: Mapping[str, str],
        packages: Sequence[str] = (),
    ) -> RunRecord:
        """Enter a run that is being prepared."""
        from fondaco.catalog import runs

        if platform.read_only:
            return cls(platform, run_id, kept=False)
        keep_packages(platform.directory, packages)
        with platform.catalog.write() as connection:
            runs.begin(
                connection,
                run_id,
                name=name,
                command=command,
                directory=directory,
                holder=run_id,
                pid=os.getpid(),
                host=socket.gethostname(),
                now_us=platform.clock.now_us(),
                graphs=resolved.graphs,
                features={features.name: features.plan for features in resolved.features},
                services=[served.service for served in resolved.served],
                environment=environment,
            )
        return cls(platform, run_id, kept=True)

    def update(self, **values: object) -> None:
        """Change what is known of it."""
        from fondaco.catalog import runs

        if self.kept:
            with self._tolerant("noted"), self.platform.catalog.write() as connection:
                runs.update(connection, self.run_id, **values)

    def beat(self) -> None:
        """Say that it is still there."""
        from fondaco.catalog import runs

        if self.kept:
            with self._tolerant("kept alive"), self.platform.catalog.write(quiet=True) as connection:
                runs.heartbeat(connection, self.run_id, now_us=self.platform.clock.now_us())

    def finish(self, state: RunState, *, exit_code: int | None = None, signal: int | None = None) -> None:
        """Note how it ended."""
        from fondaco.catalog import runs

        if self.kept:
            with self._tolerant("finished"), self.platform.catalog.write() as connection:
                runs.finish(connection, self.run_id, state, now_us=self.platform.clock.now_us(), exit_code=exit_code, signal=signal)

    @contextlib.contextmanager
    def _tolerant(self, what: str) -> Iterator[None]:
        try:
            yield
        except FondacoError as exc:
            _LOGGER.warning("run %s could not be %s in the catalog: %s", self.run_id, what, exc)


def all_runs(platform: RunPlatform, limit: int | None = None) -> list[RunRow]:
    """The runs there were, newest first. Those not heard of for a minute are LOST, and noted as such where the platform can be written."""
    from fondaco.catalog import runs

    mark_lost(platform)
    with platform.catalog.read() as connection:
        return runs.all_of(connection, limit)


def get_run(platform: RunPlatform, run: str) -> RunRow:
    """The run of this id, or the newest one of this name.

    Raises:
        RunNotFoundError: there is none; suggests the nearest.
    """
    from fondaco.catalog import runs

    mark_lost(platform)
    with platform.catalog.read() as connection:
        return runs.get(connection, run)


def mark_lost(platform: RunPlatform) -> list[RunRow]:
    """Mark as LOST the runs that nobody says anything of any more."""
    from fondaco.catalog import runs

    if platform.read_only:
        return []
    now_us = platform.clock.now_us()
    with platform.catalog.read() as connection:
        silent = any(row.state in runs.AT_WORK and row.heartbeat_us < now_us - LOST_US for row in runs.all_of(connection))
    if not silent:
        return []
    with platform.catalog.write() as connection:
        return runs.lost(connection, heard_before_us=now_us - LOST_US, now_us=now_us)


def keep_packages(directory: Path, packages: Sequence[str]) -> None:
    """Write the names of packages beside the platform, unless they are there."""
    path = directory / PACKAGES_DIRECTORY / f"{digest_of(packages)}.txt"
    if packages and not path.exists():
        with os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(f"{line}\n" for line in packages).encode())


def packages_of(directory: Path, digest: str) -> list[str]:
    """The packages of a digest, "name==version"; empty if their file is not here."""
    try:
        return (directory / PACKAGES_DIRECTORY / f"{digest}.txt").read_text().splitlines()
    except FileNotFoundError:
        return []


def secretless(variables: Mapping[str, str], asked: Mapping[str, str]) -> dict[str, str]:
    """What of a job's variables is recorded: ours with their values; of those asked for with `--env`, values only where they are made of
    words in braces, for another may be a secret."""
    shown = {name: variables[name] if "{" in text else "" for name, text in asked.items()}
    return {name: value for name, value in variables.items() if name not in asked} | shown

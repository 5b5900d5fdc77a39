"""Here: jobs on this machine, in our place, plain or under torchrun."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from fondaco.core.errors import InputError, MissingExtraError
from fondaco.models import environment
from fondaco.models.guard import ENDING
from fondaco.models.job import NOT_EXECUTABLE, NOT_FOUND, CommandError, Job
from fondaco.models.runner import Outcome
from fondaco.models.variables import Facts

_NPROC_WORDS: Final = ("auto", "cpu", "gpu")
# Who asks and whom it trusts, not where the graph is.
_KEPT: Final = frozenset({"FONDACO_GRAPH_TOKEN", "FONDACO_GRAPH_TOKEN_FILE", "FONDACO_GRAPH_CA"})


class Here:
    """Runs the command in our place: its directory, terminal, input and output are ours."""

    lease: Final = None
    takes_signals: Final = True
    platform_directory: Final = None

    def __init__(self, *, nproc: int | str | None = None, directory: str | os.PathLike[str] | None = None) -> None:
        """
        Args:
            nproc: run it under torchrun with so many processes; also "gpu", "cpu", "auto". directory: where it runs; None: here.
        """
        self.directory = str(Path(os.getcwd() if directory is None else directory).absolute())
        self._nproc = nproc

    def prepare(self, command: Sequence[str]) -> list[str]:
        """The command as it is run.

        Raises:
            as `check_command` and `under_torchrun`.
        """
        line = [os.fspath(word) for word in command]
        check_command(line, Path(self.directory))
        return line if self._nproc is None else under_torchrun(line, self._nproc)

    def describe(self, line: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
        """What it runs on, and the packages."""
        found = environment.describe(line, Path(self.directory))
        return found.to_dict(), found.packages

    def run(self, line: Sequence[str], given: Mapping[str, str], facts: Facts, on_start: Callable[[], None]) -> Outcome:
        """Run it to its end; signals go to it."""
        with Job(line, {**without_stale(os.environ, facts), **given}, run_id=facts.run_id, directory=self.directory) as job:
            on_start()
            end = job.wait()
        return Outcome(end, stopped=job.signalled in ENDING or end.signal == signal.SIGINT)


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

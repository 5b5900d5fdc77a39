"""Runner: where a job runs, and how: on this machine (`here`), as a TrainJob of Kubeflow (`fondaco.adapters.kubeflow`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fondaco.models.job import End
from fondaco.models.variables import Facts


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended, and whether because somebody wanted it to. `message`: what else is known, in words."""

    end: End
    stopped: bool = False
    message: str = ""


class Runner(Protocol):
    """Runs one job. Any errors of ours may be raised by each method."""

    @property
    def directory(self) -> str:
        """Where the job runs, for its record."""
        ...

    @property
    def platform_directory(self) -> str | None:
        """The platform's directory as the job sees it; None: as we do."""
        ...

    @property
    def lease(self) -> str | None:
        """How long services are kept after this process was killed, if nobody says; None: as configured, 60 seconds."""
        ...

    @property
    def takes_signals(self) -> bool:
        """Whether the job gets signals itself, while it runs; else they raise `Interrupted` in `run`, which ends the job on its way out."""
        ...

    def prepare(self, command: Sequence[str]) -> list[str]:
        """The command as it is run. Finds what cannot work before anything is started for it."""
        ...

    def describe(self, line: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
        """What the job runs on, for its record, and the packages there, "name==version", as far as they are known here."""
        ...

    def run(self, line: Sequence[str], given: Mapping[str, str], facts: Facts, on_start: Callable[[], None]) -> Outcome:
        """Run the job to its end, with the variables `given`; nothing of it is left, however this returns. `on_start` is called once it
        has been started."""
        ...

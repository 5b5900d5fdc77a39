"""`fondaco quickstart`: the main job, on the flights that left New York's airports in 2013.

`data` reads the tables, `definitions` holds the features, `model` the model and its split by time, `job` the steps, `report` the figures.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from fondaco.cli._common import json_option, print_json


@contextlib.contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """Tell on stderr what is being done: a line a step with the seconds since the start, and on a terminal a spinner under them."""
    from rich.console import Console

    console = Console(stderr=True)
    begun = time.perf_counter()

    with console.status("starting") as status:

        def say(step: str) -> None:
            console.print(f"[dim]{time.perf_counter() - begun:6.1f} s[/dim]  {step}", highlight=False, soft_wrap=True)
            status.update(step.strip())

        yield say


@click.command("quickstart")
@click.option(
    "--data", "directory", default="quickstart-data", show_default=True, help="directory of the platform; made if it is not there"
)
@json_option
def command(directory: str, as_json: bool) -> None:
    """Run the main job on real data: features, training set, model, push, reads, one prediction.

    Run it again: a new version of each store is pushed and becomes current, and the one before is kept.
    """
    from fondaco.cli.quickstart.job import run
    from fondaco.cli.quickstart.report import print_report

    with _steps() as say:
        report = run(Path(directory), say)
    if as_json:
        print_json(report)
    else:
        print_report(report)

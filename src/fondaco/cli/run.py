"""`fondaco run ...`: the records that jobs have left: what ran, on which versions and packages, and how it ended."""

from __future__ import annotations

import shlex

import click

import fondaco
from fondaco.cli._common import SuggestingGroup, directory_option, json_option, print_json, print_table
from fondaco.core.clock import from_us
from fondaco.core.units import format_duration


@click.group("run", cls=SuggestingGroup)
def command() -> None:
    """List and show the runs of jobs that `fondaco train` has started."""


@command.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="how many, newest first")
@directory_option
@json_option
def list_runs(limit: int, directory: str, as_json: bool) -> None:
    """List runs, newest first."""
    from fondaco.models.runs import all_runs

    with fondaco.open(directory, create=False) as platform:
        found = all_runs(platform, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            run.id,
            run.name if run.name != run.id else "",
            run.state.value,
            run.exit_code,
            from_us(run.started_us).isoformat(" ", "seconds"),
            _lasted(run.started_us, run.ended_us),
            ", ".join(f"{graph} v{version}" for graph, version in run.graphs.items()),
            shlex.join(run.command),
        )
        for run in found
    ]
    print_table(("run", "name", "state", "exit", "started", "lasted", "graphs", "command"), rows)


@command.command("show")
@click.argument("name", metavar="RUN")
@click.option("--packages", is_flag=True, help="also what was installed")
@directory_option
@json_option
def show(name: str, packages: bool, directory: str, as_json: bool) -> None:
    """Show all that is recorded of one RUN, or of the newest one of that name."""
    from fondaco.models.runs import get_run, packages_of

    with fondaco.open(directory, create=False) as platform:
        run = get_run(platform, name)
        installed = packages_of(platform.directory, run.environment.get("packages", "")) if packages else []
    if as_json:
        print_json({"run": run, "packages": installed} if packages else run)
        return
    ended = "" if run.exit_code is None else f", exit code {run.exit_code}"
    click.echo(f"{run.id}{'' if run.name == run.id else ' ' + run.name}: {run.state.value}{ended}, {_lasted(run.started_us, run.ended_us)}")
    click.echo(f"command    {shlex.join(run.command)}")
    click.echo(f"where      {run.host}:{run.directory}, started by process {run.pid}")
    click.echo(f"started    {from_us(run.started_us).isoformat(' ', 'seconds')}")
    for title, values in (("graph", run.graphs), ("features", run.features), ("", run.environment), ("variable", run.variables)):
        for name, value in values.items():
            click.echo(f"{title or name:<10} {f'{name} ' if title else ''}{value if value != '' else '(not recorded)'}")
    for service in run.services:
        click.echo(f"service    {service}")
    for line in installed:
        click.echo(f"package    {line}")


def _lasted(started_us: int, ended_us: int | None) -> str:
    return "" if ended_us is None else format_duration((ended_us - started_us) // 100_000 * 100_000)

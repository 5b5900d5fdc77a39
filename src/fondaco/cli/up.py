"""`fondaco up`: the servers of a platform directory, kept running until Ctrl-C."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from fondaco.cli._common import directory_option, json_option

if TYPE_CHECKING:
    from fondaco.core.runfile import RunFile


@click.command("up")
@click.option("--host", help="address to listen on [default: as configured, 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="of the data plane; 0: any free one [default: as configured, 7071]")
@click.option("--control-port", type=click.IntRange(0, 65535), help="of the control API; 0: any free one [default: as configured, 7070]")
@directory_option
@json_option
def command(host: str | None, port: int | None, control_port: int | None, directory: str, as_json: bool) -> None:
    """Run the servers of a platform: the data plane, the control API, and the tailer of real-time writes.

    Each is a process of its own and is started again when it ends. What they say comes on stderr, each line with the name of who said it.
    Ctrl-C stops all of them in order.
    """
    from fondaco.control.up import up

    up(Path(directory), host=host, port=port, control_port=control_port, on_ready=_print_json if as_json else _print)


def _print_json(run: RunFile) -> None:
    click.echo(msgspec.json.encode(run).decode())
    sys.stdout.flush()


def _print(run: RunFile) -> None:
    width = max(len(run.data), len(run.control))
    click.echo(f"{run.directory} is up")
    click.echo(f"  data plane   {run.data:{width}}  rows: read and write")
    click.echo(f"  control API  {run.control:{width}}  stores, pushes, tokens; /metrics")
    for process in run.processes:
        click.echo(f"  process {process.pid}: {process.name}")
    click.echo(f"try: curl {run.data}/v1/stores")
    click.echo("Ctrl-C stops it")
    sys.stdout.flush()

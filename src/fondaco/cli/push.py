"""`fondaco push STORE INPUT`: a file or folder of data becomes a new version."""

from __future__ import annotations

import click

import fondaco
from fondaco.cli._common import directory_option, json_option, print_json


@click.command("push")
@click.argument("store")
@click.argument("inputs", nargs=-1, required=True, type=click.Path())
@click.option("--push-id", help="makes the push repeatable: the same id again does nothing and prints the same report")
@click.option("--as-of", help="the moment the data describes, ISO 8601 with a zone [default: now]")
@click.option("--no-swap", is_flag=True, help="leave the new version READY and the current one current")
@click.option("--on-duplicate", type=click.Choice(["fail", "keep_first", "keep_last"]), default="fail", show_default=True)
@directory_option
@json_option
def command(
    store: str,
    inputs: tuple[str, ...],
    push_id: str | None,
    as_of: str | None,
    no_swap: bool,
    on_duplicate: str,
    directory: str,
    as_json: bool,
) -> None:
    """Push INPUTS (Parquet, CSV, Arrow, Avro; files, folders or patterns) into STORE as a new version."""
    with fondaco.open(directory, create=False) as platform:
        report = platform.store(store).push(
            inputs[0] if len(inputs) == 1 else list(inputs),
            push_id=push_id,
            as_of=as_of,
            swap=not no_swap,
            on_duplicate=on_duplicate,  # type: ignore[arg-type]  # click's Choice has checked it
        )
    if as_json:
        print_json(report)
    else:
        click.echo(str(report))

"""The command line: `fondaco NOUN ...`, one module per noun, loaded when it is named.

Results go to stdout (`--json` for programs), talk goes to stderr. A mistake of the user prints one message and ends with exit code 2;
a failure of the system with 1; Ctrl-C with 130, and leaves whatever was being written as it was before. Nothing here imports numba,
DuckDB or SQLAlchemy at the top: `fondaco --help` answers in a tenth of a second.
"""

from __future__ import annotations

import importlib
import sys

import click

from fondaco.cli._common import SuggestingGroup
from fondaco.core.errors import FondacoError
from fondaco.core.version import VERSION

_NOUNS = {
    "quickstart": "Run the main job on real data: from raw flights to an online prediction.",
    "store": "Create, list and steer stores: versions, swap, rollback, pushes.",
    "push": "Push a file or folder of data into a store as a new version.",
    "graph": "Build, list, serve and steer graphs: versions, swap, rollback, samples.",
    "train": "Run a job with the data services that it needs; it finds them in its environment.",
    "run": "The records that jobs have left: list, show.",
    "service": "Ensure, list, scale and remove data services: sets of processes that feed jobs.",
    "up": "Run the servers of a platform: data plane, control API, tailer, reaper of services.",
    "token": "Make, list and revoke the tokens that callers show.",
    "quota": "Set and list how much of a store a caller may use.",
    "cluster": "Nodes that serve, and where each store is: assign, move, drain, status.",
}


class _Nouns(SuggestingGroup):
    """A group whose commands are imported only when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _NOUNS:
            return None
        command: click.Command = importlib.import_module(f"fondaco.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Nouns"):
            formatter.write_dl(list(_NOUNS.items()))


@click.command(cls=_Nouns, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, message="fondaco %(version)s")
def cli() -> None:
    """Fondaco: derived data, features, graphs and models in one directory."""


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped; what was not finished was taken back, what was there before is as it was", err=True)
        sys.exit(130)
    except FondacoError as exc:
        click.echo(f"fondaco: {exc}", err=True)
        sys.exit(2 if exc.blame == "user" else 1)
    except BrokenPipeError:  # the reader of our output left, as `head` does
        sys.stderr.close()
        sys.exit(1)

"""What the nouns share: the directory option, and printing a result as a table or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click
import msgspec

from fondaco.core.errors import near_name

Command = TypeVar("Command", bound=Callable[..., Any])


class SuggestingGroup(click.Group):
    """A group that answers a misspelt command with the near name."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            near = near_name(args[0], self.list_commands(ctx))
            raise click.UsageError(f"{exc.message} Did you mean {near!r}?" if near else exc.message, ctx) from None


def directory_option(command: Command) -> Command:
    """`--dir`: the platform's directory; `FONDACO_DIR`, else the current one."""
    return click.option(
        "--dir",
        "directory",
        envvar="FONDACO_DIR",
        default=".",
        show_default=True,
        help="the platform's directory [env: FONDACO_DIR]",
    )(command)


def json_option(command: Command) -> Command:
    """`--json`: the result as one JSON document on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="print the result as JSON")(command)


def print_json(value: Any) -> None:
    """One JSON document on stdout; dataclasses, structs and datetimes included."""
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """A table on stdout, as wide as the terminal (or as its content, when piped)."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*headers, title=title, box=None, header_style="bold", title_justify="left", pad_edge=False)
    for row in rows:
        table.add_row(
            *("" if cell is None else f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell) for cell in row)
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)
    console.print(table)


def plain(value: Any) -> Any:
    """A row's value as JSON can carry it: arrays become lists, bytes hexadecimal."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, bytes):
        return value.hex()
    return value
